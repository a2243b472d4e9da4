"""Rounded Gaussian noise: the right distribution, drawn exactly, from a source nobody can repeat."""

from __future__ import annotations

import math
import os
import pickle

import mpmath
import numpy as np
import pytest
from scipy import stats
from scipy.special import ndtri

from dpsynth.privacy.errors import PrivacyError
from dpsynth.privacy.noise import NDTRI_ERROR, Noise, _far_tail


def chi_square(draws: np.ndarray, sigma: float) -> float:
    """p-value of the draws against round(N(0, sigma^2)), in cells that expect at least 20."""
    edges = np.unique(np.floor(sigma * ndtri(np.linspace(0, 1, 42)[1:-1]))) + 0.5
    expected = np.diff(stats.norm.cdf(np.concatenate([[-np.inf], edges, [np.inf]]) / sigma)) * len(draws)
    observed = np.histogram(draws, np.concatenate([[-np.inf], edges, [np.inf]]))[0]
    return float(stats.chisquare(observed, expected).pvalue)


@pytest.mark.parametrize("sigma", [0.5, 1.0, 5.0, 100.0, 252_000.0])
def test_noise_has_the_distribution_it_claims_and_the_test_has_power(sigma: float) -> None:
    draws = Noise(insecure_seed=11).rounded_gaussian(sigma, 200_000)
    assert draws.dtype == np.int64
    assert chi_square(draws, sigma) > 1e-4
    for wrong in (2 / 3 * sigma, 3 / 2 * sigma):
        assert chi_square(draws, wrong) < 1e-9


def test_the_error_allowance_of_the_inverse_normal_covers_what_is_measured() -> None:
    p = np.concatenate([np.random.default_rng(0).random(60) / 2, 10.0 ** -np.linspace(0.4, 19, 60)])
    with mpmath.workdps(50):
        exact = np.array([float(_far_tail(mpmath, mpmath.mpf(float(x)))) for x in p])
    assert np.all(np.abs(-ndtri(p) - exact) <= 0.01 * NDTRI_ERROR * (1 + exact))


@pytest.mark.parametrize("magnitude", [0, 1, 1000, 2**40, 2**62 + 12345])
def test_a_draw_that_floats_cannot_settle_is_settled_exactly(magnitude: int) -> None:
    sigma = 100.0
    settled = Noise(insecure_seed=1)._settle(magnitude, sigma)
    with mpmath.workdps(60):
        high, low = (
            float(sigma * _far_tail(mpmath, (mpmath.mpf(magnitude) + end) / mpmath.mpf(2) ** 64))
            for end in (mpmath.mpf(10) ** -12, 1)
        )
    assert math.floor(low + 0.5) <= settled <= math.floor(high + 0.5)


def test_two_sources_differ_and_equal_seeds_agree() -> None:
    assert not np.array_equal(Noise().bits(4), Noise().bits(4))
    assert np.array_equal(Noise(insecure_seed=3).bits(4), Noise(insecure_seed=3).bits(4))
    assert not np.array_equal(Noise(insecure_seed=3).bits(4), Noise(insecure_seed=4).bits(4))


def test_a_forked_process_draws_from_a_key_of_its_own() -> None:
    noise = Noise()
    noise.bits(1)
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(write, noise.bits(4).tobytes())
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(read, 32) != noise.bits(4).tobytes()


def test_a_source_is_never_copied_and_says_when_it_is_insecure() -> None:
    with pytest.raises(PrivacyError, match="never copied"):
        pickle.dumps(Noise())
    assert "INSECURE" in repr(Noise(insecure_seed=1)) and "INSECURE" not in repr(Noise())


@pytest.mark.parametrize("sigma", [0.0, -1.0, math.nan, math.inf])
def test_a_scale_that_is_no_scale_is_refused(sigma: float) -> None:
    with pytest.raises(PrivacyError):
        Noise().rounded_gaussian(sigma, 1)
