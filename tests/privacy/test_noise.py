"""The source of noise: words nobody can repeat, in any process or thread, and nothing accepted that is no scale."""

from __future__ import annotations

import copy
import math
import os
import pickle
import threading
from collections.abc import Callable

import numpy as np
import pytest

from dpsynth.privacy import noise as module
from dpsynth.privacy.errors import PrivacyError
from dpsynth.privacy.noise import Noise


def in_child(work: Callable[[], np.ndarray]) -> bytes:
    """What `work` returns in a forked process, at most 64 KiB."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(write, work().tobytes())
        os._exit(0)
    os.waitpid(child, 0)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        return pipe.read()


def test_the_words_are_those_of_chacha20_as_published() -> None:
    key_stream = Noise(insecure_seed=0).bits(8).astype("<u8").tobytes()
    assert key_stream.hex().startswith(
        "76b8e0ada0f13d90405d6ae55386bd28bdd219b8a08ded1aa836efcc8b770dc7"
    )  # RFC 8439, A.1


def test_two_sources_differ_and_equal_seeds_agree() -> None:
    assert not np.array_equal(Noise().bits(4), Noise().bits(4))
    assert np.array_equal(Noise(insecure_seed=3).bits(4), Noise(insecure_seed=3).bits(4))
    assert not np.array_equal(Noise(insecure_seed=3).bits(4), Noise(insecure_seed=4).bits(4))
    draws = [Noise(insecure_seed=3).discrete_gaussian(7.0, 50_000) for _ in range(2)]
    assert np.array_equal(*draws)


def test_words_do_not_repeat_and_none_may_be_asked_for() -> None:
    noise = Noise(insecure_seed=1)
    assert len(np.unique(np.concatenate([noise.bits(n) for n in (1000, 0, 1, 7, 5000)]))) == 6008
    assert Noise().bits(0).shape == (0,)


def test_forked_processes_draw_from_keys_of_their_own() -> None:
    noise = Noise()
    noise.bits(1)
    streams = {in_child(lambda: noise.bits(4)), in_child(lambda: noise.bits(4)), noise.bits(4).tobytes()}
    assert len(streams) == 3


def test_a_process_that_is_given_the_id_of_its_ancestor_is_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    noise, pid = Noise(), os.getpid()
    noise.bits(1)
    monkeypatch.setattr(os, "getpid", lambda: pid)
    assert in_child(lambda: noise.bits(4)) != noise.bits(4).tobytes()


def test_threads_never_share_a_word() -> None:
    noise, drawn = Noise(), []
    threads = [threading.Thread(target=lambda: drawn.extend(noise.bits(20_000)[:50])) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(drawn) == len(set(drawn)) == 400


def test_a_stream_is_renewed_before_its_counter_can_wrap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "STREAM_WORDS", 100)
    for noise in (Noise(), Noise(insecure_seed=2)):
        assert len(np.unique(np.concatenate([noise.bits(60) for _ in range(20)]))) == 1200
    with pytest.raises(PrivacyError, match="smaller pieces"):
        Noise().bits(101)


def test_a_source_is_never_copied_and_says_when_it_is_insecure() -> None:
    for duplicate in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(PrivacyError, match="never copied"):
            duplicate(Noise())
    assert "INSECURE" in repr(Noise(insecure_seed=1)) and "INSECURE" not in repr(Noise())
    assert Noise(insecure_seed=0).insecure and not Noise().insecure


@pytest.mark.parametrize("sigma", [0.0, -1.0, math.nan, math.inf, -math.inf, 2.0**-41, 2.0**41])
def test_a_scale_that_is_no_scale_is_refused(sigma: float) -> None:
    noise = Noise()
    draws: list[Callable[[], object]] = [
        lambda: noise.rounded_gaussian(sigma, 1),
        lambda: noise.discrete_gaussian(sigma, 1),
        lambda: noise.discrete_laplace(sigma, 1),
        lambda: noise.gradient_gaussian(sigma * 2.0**-10, 1, 2.0**-10),
    ]
    for draw in draws:
        with pytest.raises(PrivacyError, match="between 2\\^-40 and 2\\^40"):
            draw()


@pytest.mark.parametrize("size", [-1, 1.5, "3"])
def test_a_size_that_is_no_size_is_refused(size: int) -> None:
    for draw in (Noise().rounded_gaussian, Noise().discrete_gaussian, Noise().discrete_laplace):
        with pytest.raises(PrivacyError, match="number of draws"):
            draw(2.0, size)
    with pytest.raises(PrivacyError, match="number of draws"):
        Noise().coins(0.5, size)


@pytest.mark.parametrize("grid", [0.0, -0.5, 0.3, 3.0, math.nan, math.inf])
def test_a_grid_that_is_no_power_of_two_is_refused(grid: float) -> None:
    with pytest.raises(PrivacyError, match="power of two"):
        Noise().gradient_gaussian(1.0, 1, grid)


@pytest.mark.parametrize("rate", [-0.1, 1.0000001, math.nan, math.inf])
def test_a_rate_that_is_no_rate_is_refused(rate: float) -> None:
    with pytest.raises(PrivacyError, match="between 0 and 1"):
        Noise().coins(rate, 1)


@pytest.mark.parametrize(
    "scores", [[1, 2], np.array([]), np.array([1.0]), np.zeros((2, 2), np.int64), np.zeros(2, np.int32)]
)
def test_scores_that_are_not_whole_numbers_on_a_grid_are_refused(scores: np.ndarray) -> None:
    with pytest.raises(PrivacyError, match="fixed grid"):
        Noise().noisy_max(scores, 1.0, 1.0)


@pytest.mark.parametrize(
    "epsilon, sensitivity", [(0.0, 1.0), (-1.0, 1.0), (1.0, 0.0), (math.nan, 1.0), (1.0, math.inf), (1e300, 1e-300)]
)
def test_a_choice_without_a_guarantee_is_refused(epsilon: float, sensitivity: float) -> None:
    with pytest.raises(PrivacyError, match="epsilon"):
        Noise().noisy_max(np.array([1, 2]), epsilon, sensitivity)
