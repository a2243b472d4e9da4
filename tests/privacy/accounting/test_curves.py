"""Dominating pairs against brute force: densities summed on fine grids, and random neighbours that must stay below."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import logsumexp
from scipy.stats import laplace, norm

from dpsynth.privacy.accounting import ORDERS
from dpsynth.privacy.accounting.curves import chance_of_full_batch, pair_of
from dpsynth.privacy.accounting.renyi import renyi_of
from dpsynth.privacy.events import (
    AboveThreshold,
    DiscreteGaussian,
    DiscreteLaplace,
    ExponentialMechanism,
    Gaussian,
    Laplace,
    Leaf,
    SubsampledGaussian,
)

Array = npt.NDArray[np.float64]
NAMES = {"stage": "s", "label": "l"}
EPSILONS: Array = np.array([-3.0, -1.0, -0.2, 0.0, 0.05, 0.3, 1.0, 2.5, 6.0])


def hockey_stick(p: Array, q: Array, epsilons: Array = EPSILONS) -> Array:
    """sum of (p - e^epsilon q)+ over cells."""
    return np.array([np.maximum(p - math.exp(e) * q, 0.0).sum() for e in epsilons])


def cells(density: Callable[[Array], Array]) -> Array:
    x = np.linspace(-60, 60, 2_400_001)
    return np.asarray(density(x) * (x[1] - x[0]), np.float64)


def pairs() -> dict[str, tuple[Leaf, Array, Array]]:
    """(event, P = with the unit, Q = without), written down anew."""
    x = np.arange(-400, 401)
    gauss = np.exp(-(x.astype(float) ** 2) / (2 * 3.0**2))
    geometric = np.exp(-np.abs(x) / 2.5)
    mixture = cells(lambda t: 0.9 * norm.pdf(t, 0, 0.8) + 0.1 * norm.pdf(t, 1, 0.8))
    return {
        "gaussian": (
            Gaussian(**NAMES, sensitivity=1.0, sigma=0.7),
            cells(lambda t: norm.pdf(t, 1, 0.7)),
            cells(lambda t: norm.pdf(t, 0, 0.7)),
        ),
        "laplace": (
            Laplace(**NAMES, sensitivity=1.0, scale=1.5),
            cells(lambda t: laplace.pdf(t, 1, 1.5)),
            cells(lambda t: laplace.pdf(t, 0, 1.5)),
        ),
        "discrete gaussian": (
            DiscreteGaussian(**NAMES, sensitivity=2, sigma=3.0),
            np.roll(gauss, 2) / gauss.sum(),
            gauss / gauss.sum(),
        ),
        "discrete laplace": (
            DiscreteLaplace(**NAMES, sensitivity=3, scale=2.5),
            np.roll(geometric, 3) / geometric.sum(),
            geometric / geometric.sum(),
        ),
        "above threshold": (
            AboveThreshold.costing(0.8, sensitivity=3, **NAMES),
            np.array([math.exp(0.8), 1.0]) / (1 + math.exp(0.8)),
            np.array([1.0, math.exp(0.8)]) / (1 + math.exp(0.8)),
        ),
        "subsampled gaussian": (
            SubsampledGaussian(**NAMES, sampling_rate=0.1, noise_multiplier=0.8, steps=1),
            mixture,
            cells(lambda t: norm.pdf(t, 0, 0.8)),
        ),
    }


PAIRS = pairs()


@pytest.mark.parametrize("name", list(PAIRS))
def test_curves_are_those_of_the_densities_in_both_directions(name: str) -> None:
    event, p, q = PAIRS[name]
    pair = pair_of(event)
    np.testing.assert_allclose(pair.removed(EPSILONS), hockey_stick(p, q), atol=2e-6)
    np.testing.assert_allclose(pair.added(EPSILONS), hockey_stick(q, p), atol=2e-6)


@pytest.mark.parametrize("name", list(PAIRS))
def test_renyi_divergences_are_those_of_the_densities(name: str) -> None:
    event, p, q = PAIRS[name]
    found = renyi_of(event)
    for i, order in enumerate(ORDERS):
        if order <= 16:
            held = (p > 0) & (q > 0)
            moments = [
                np.log(np.sum(np.exp(order * np.log(a[held]) - (order - 1) * np.log(b[held])))) / (order - 1)
                for a, b in ((p, q), (q, p))
            ]
            assert found[i] >= max(moments) * (1 - 1e-5), "understated"
            # The discrete Gaussian's is bounded by the continuous one's.
            assert found[i] <= max(moments) * (1.02 if name == "discrete gaussian" else 1 + 1e-4)


@given(st.integers(0, 2**32 - 1), st.floats(0.05, 6.0))
@settings(max_examples=200, deadline=None)
def test_no_exponential_mechanism_passes_the_bounded_range_curve(seed: int, epsilon: float) -> None:
    rng = np.random.default_rng(seed)
    scores = rng.normal(0, 3, rng.integers(2, 9))
    moved = scores + rng.choice([-1.0, 1.0, 0.0, rng.uniform(-1, 1)], len(scores))
    p, q = (np.exp(epsilon * (s - s.max()) / 2) for s in (scores, moved))
    p, q = p / p.sum(), q / q.sum()
    event = ExponentialMechanism(**NAMES, sensitivity=1.0, epsilon=epsilon)
    epsilons = np.linspace(-epsilon, epsilon, 41)
    assert np.all(hockey_stick(p, q, epsilons) <= pair_of(event).removed(epsilons) + 1e-12)
    for order, bound in zip(ORDERS[:40], renyi_of(event)[:40], strict=True):
        moment = float(logsumexp(order * np.log(p) + (1 - order) * np.log(q)))
        assert moment / (order - 1) <= bound + 1e-9


def test_the_bounded_range_curve_is_reached_everywhere() -> None:
    """At each epsilon by the pair of losses t and t - range with t = (epsilon + range) / 2: the bound is tight."""
    width = 0.8
    curve = pair_of(ExponentialMechanism(**NAMES, sensitivity=1.0, epsilon=width)).removed
    for e in np.linspace(-0.79, 0.79, 9):
        t = (e + width) / 2
        a = (1 - math.exp(t - width)) / (1 - math.exp(-width))
        p, q = np.array([a, 1 - a]), np.array([a * math.exp(-t), (1 - a) * math.exp(width - t)])
        assert q.sum() == pytest.approx(1.0)
        assert hockey_stick(p, q, np.array([e]))[0] == pytest.approx(float(curve(np.array([e]))[0]), rel=1e-9)


@given(st.sampled_from(sorted(PAIRS)), st.floats(-8, 8))
def test_the_two_directions_are_tied(name: str, epsilon: float) -> None:
    pair = pair_of(PAIRS[name][0])
    e = np.array([epsilon])
    expected = -np.expm1(e) + np.exp(e) * pair.removed(-e)
    assert float(pair.added(e)[0]) == pytest.approx(float(expected[0]), abs=1e-9)


def cut_sums(values: list[float], rate: float, cap: int, x: Array, sigma: float) -> Array:
    """Density of the noisy sum over a Poisson sample of `values`, cut to `cap` of them at random. By enumeration."""
    out = np.zeros(len(x))
    for picks in itertools.product([0, 1], repeat=len(values)):
        sample = [v for v, pick in zip(values, picks, strict=True) if pick]
        chance = math.prod(rate if pick else 1 - rate for pick in picks)
        kept = list(itertools.combinations(sample, min(cap, len(sample))))
        for subset in kept:
            out += chance / len(kept) * norm.pdf(x, sum(subset), sigma)
    return out * (x[1] - x[0])


@pytest.mark.parametrize("others", [[-1.0] * 5, [1.0, -1.0, 1.0, -1.0, 0.5], [0.0] * 5])
@pytest.mark.parametrize("cap", [1, 2, 4])
def test_cut_batches_stay_below_their_curve(others: list[float], cap: int) -> None:
    x = np.linspace(-25, 25, 20_001)
    p, q = (cut_sums(values, 0.4, cap, x, 1.3) for values in ([*others, 1.0], others))
    event = SubsampledGaussian(
        **NAMES, sampling_rate=0.4, noise_multiplier=1.3, steps=1, max_batch=cap, units_at_most=len(others)
    )
    pair = pair_of(event)
    assert chance_of_full_batch(event) > 0.01
    assert np.all(hockey_stick(p, q) <= pair.removed(EPSILONS) + 1e-9)
    assert np.all(hockey_stick(q, p) <= pair.added(EPSILONS) + 1e-9)
    if cap == 1 and others[0] == -1.0:  # an uncut curve would be passed: cutting does cost
        uncut = SubsampledGaussian(**NAMES, sampling_rate=0.4, noise_multiplier=1.3, steps=1)
        two = pair_of(SubsampledGaussian(**NAMES, sampling_rate=0.4, noise_multiplier=0.65, steps=1))
        assert np.any(pair.removed(EPSILONS) > pair_of(uncut).removed(EPSILONS) + 1e-3)
        assert np.all(pair.removed(EPSILONS) <= two.removed(EPSILONS) + 1e-12)
