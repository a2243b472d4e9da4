"""Threads of the CPU: one for an operation, and several parts of a work side by side.

Torch shares each operation among its threads, which wait for each other. Where operations are small, or another program wants the CPU,
they wait more than they work: whole parts beside each other, in one thread each, do not wait.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import torch

# Parts side by side, at most.
LANES = 8

Part = TypeVar("Part")
Result = TypeVar("Result")


@contextmanager
def one_thread() -> Iterator[None]:
    """Torch on one CPU thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def side_by_side(
    of: Callable[[Part], Result],
    parts: Sequence[Part],
    *,
    most: int = LANES,
    done: Callable[[Part], None] = lambda part: None,
) -> list[Result]:
    """`of` each part, in their order: as many at a time as torch has threads, but `most`, each in one thread.

    What `of` does must not depend on the other parts; then the results do not depend on the threads. done: called, in this thread, with
    each part that is finished, in order.
    """
    out = []
    lanes = max(min(torch.get_num_threads(), most), 1)
    with one_thread(), ThreadPoolExecutor(lanes, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        try:
            for part, result in zip(parts, pool.map(of, parts), strict=True):
                out.append(result)
                done(part)
        except BaseException:
            pool.shutdown(cancel_futures=True)  # else an error, or Ctrl-C, waits for all the others
            raise
    return out
