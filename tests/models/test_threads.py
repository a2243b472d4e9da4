"""Parts of a work side by side: in order, one torch thread each, and no part begins after one has failed."""

from __future__ import annotations

import threading
import time

import pytest
import torch

from dpsynth.models.threads import one_thread, side_by_side


@pytest.fixture(autouse=True)
def _four_threads() -> object:
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


def test_results_come_in_order_each_from_one_torch_thread() -> None:
    together, done = threading.Barrier(3, timeout=20), []

    def of(part: int) -> tuple[int, int]:
        if part < 3:
            together.wait()  # ends where three parts are at work at the same time, and only there
        time.sleep(0.01 * (5 - part))
        return part * part, torch.get_num_threads()

    assert side_by_side(of, range(5), most=3, done=done.append) == [(i * i, 1) for i in range(5)]
    assert done == list(range(5)) and torch.get_num_threads() == 4
    assert side_by_side(of, [], most=3) == []


def test_no_more_of_them_than_asked_and_one_where_torch_has_one() -> None:
    def at_once(most: int) -> int:
        lock, now, seen = threading.Lock(), [0], [0]

        def of(part: int) -> None:
            with lock:
                now[0] += 1
                seen[0] = max(seen[0], now[0])
            time.sleep(0.02)
            with lock:
                now[0] -= 1

        side_by_side(of, range(8), most=most)
        return seen[0]

    assert at_once(2) == 2 and at_once(100) == 4
    with one_thread():
        assert at_once(100) == 1


def test_after_an_error_no_part_begins_and_the_threads_are_as_before() -> None:
    begun = []

    def of(part: int) -> None:
        begun.append(part)
        if part == 0:
            raise ValueError("broken")
        time.sleep(0.05)

    with pytest.raises(ValueError, match="broken"):
        side_by_side(of, range(50), most=2)
    assert len(begun) < 10 and torch.get_num_threads() == 4
