"""Privacy curves of single mechanisms: for each a dominating pair, as hockey-stick divergences in both directions.

A mechanism is dominated by a pair (P, Q) if, for every neighbour and every epsilon, its own divergence is at most

    H(epsilon) = sup over events A of  P(A) - e^epsilon Q(A).

`removed` is that curve where P is the table with the unit, `added` where P is the one without. They are tied by
added(e) = 1 - e^e + e^e removed(-e). Composing dominating pairs gives a dominating pair of the composition, also where
queries are chosen by earlier answers (Zhu, Dong, Wang, "Optimal Accounting of Differential Privacy via
Characteristic Function", 2022). The curve need not belong to one neighbour: a supremum of curves is one as well.

All functions take and return float64 arrays; epsilon may be any real number.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import assert_never

import numpy as np
import numpy.typing as npt

from dpsynth.privacy.errors import PrivacyError
from dpsynth.privacy.events import (
    AboveThreshold,
    DiscreteGaussian,
    DiscreteLaplace,
    ExponentialMechanism,
    Gaussian,
    Laplace,
    Leaf,
    StabilityHistogram,
    SubsampledGaussian,
)

FloatArray = npt.NDArray[np.float64]
Curve = Callable[[FloatArray], FloatArray]

# Sums over the support of a discrete Gaussian reach this many sd out: what lies beyond has a chance below 1e-44.
_REACH = 14
_MAX_SUPPORT = 2**22


@dataclass(frozen=True, slots=True)
class Pair:
    """A dominating pair, by its two curves."""

    removed: Curve
    added: Curve


def pair_of(event: Leaf) -> Pair:
    """The dominating pair of one mechanism (of one step, where it has several; without its own failure probability)."""
    match event:
        case Gaussian() | StabilityHistogram():
            return _symmetric(gaussian_curve(math.sqrt(event.mu_squared)))
        case Laplace():
            return _symmetric(_laplace(event.epsilon))
        case ExponentialMechanism():
            return _symmetric(_bounded_range(event.epsilon))
        case AboveThreshold():
            return _symmetric(_pure(event.epsilon))
        case DiscreteGaussian():
            return _symmetric(_discrete_gaussian(event))
        case DiscreteLaplace():
            return _symmetric(_discrete_laplace(event))
        case SubsampledGaussian():
            return _subsampled(event)
        case _:
            assert_never(event)


def _symmetric(curve: Curve) -> Pair:
    return Pair(curve, curve)


def gaussian_curve(mu: float) -> Curve:
    """Phi(mu/2 - e/mu) - e^e Phi(-mu/2 - e/mu), from its logarithms, so that it does not underflow."""
    from scipy.special import log_ndtr

    def curve(epsilon: FloatArray) -> FloatArray:
        log_p = log_ndtr(mu / 2 - epsilon / mu)
        return _difference(log_p, epsilon + log_ndtr(-mu / 2 - epsilon / mu))

    return curve


def _difference(log_p: FloatArray, log_q: FloatArray) -> FloatArray:
    """e^log_p - e^log_q, at least 0."""
    out: FloatArray = np.exp(log_p) * -np.expm1(np.minimum(log_q - log_p, 0.0))
    return out


def _laplace(epsilon: float) -> Curve:
    """N(0) against a shift by the sensitivity: 1 - e^((e - epsilon)/2) for |e| <= epsilon."""
    return lambda e: np.where(
        e < -epsilon, -np.expm1(np.minimum(e, 0.0)), np.maximum(-np.expm1((np.minimum(e, epsilon) - epsilon) / 2), 0.0)
    )


def _bounded_range(epsilon: float) -> Curve:
    """All mechanisms whose privacy loss lies in an interval of length epsilon: (1 - e^((e - epsilon)/2))^2 / (1 - e^-epsilon).

    Proof. Loss in [t - epsilon, t] for some t in [0, epsilon]. Of all such pairs the one with both ends alone, t having
    probability a(t) = (1 - e^(t - epsilon)) / (1 - e^-epsilon) under P, has the largest divergence at each e (Dong,
    Durfee, Rogers 2020): a(t) (1 - e^(e - t)). The supremum over t is at t = (e + epsilon) / 2, and gives the formula for
    |e| <= epsilon. No single t dominates: the midpoint's pair understates epsilon.
    """
    scale = -math.expm1(-epsilon)

    def curve(e: FloatArray) -> FloatArray:
        inside = np.expm1((np.clip(e, -epsilon, epsilon) - epsilon) / 2) ** 2 / scale
        return np.where(e < -epsilon, -np.expm1(np.minimum(e, 0.0)), np.where(e >= epsilon, 0.0, inside))

    return curve


def _pure(epsilon: float) -> Curve:
    """All mechanisms that are epsilon-DP: randomized response dominates them (Kairouz, Oh, Viswanath 2015, thm. 3.1).

    It says the truth with probability p = e^epsilon / (1 + e^epsilon): p - e^e (1 - p) for |e| <= epsilon.
    """
    true, false = 1 / (1 + math.exp(-epsilon)), 1 / (1 + math.exp(epsilon))

    def curve(e: FloatArray) -> FloatArray:
        inside = np.maximum(true - np.exp(np.clip(e, -epsilon, epsilon)) * false, 0.0)
        return np.where(e < -epsilon, -np.expm1(np.minimum(e, 0.0)), np.where(e >= epsilon, 0.0, inside))

    return curve


def _discrete_gaussian(event: DiscreteGaussian) -> Curve:
    """A cell that moves by the whole sensitivity. Smaller shifts are dominated: the noise is log-concave, so the worst event
    is a half-line, and its probability grows with the shift."""
    shift, sigma = int(event.sensitivity), event.sigma
    reach = math.ceil(_REACH * sigma) + shift
    if reach > _MAX_SUPPORT:
        raise PrivacyError(f"{event.stage}/{event.label}: sigma is too large for an exact curve; use Gaussian noise")
    x = np.arange(-reach, reach + 1)
    weights = np.exp(-(x.astype(np.float64) ** 2) / (2 * sigma**2))
    below: FloatArray = np.concatenate([[0.0], np.cumsum(weights)]) / weights.sum()

    def curve(e: FloatArray) -> FloatArray:
        # Losses fall with x: (shift^2 - 2 shift x) / (2 sigma^2) > e for x below this.
        last = np.ceil(shift / 2 - e * sigma**2 / shift)
        index = np.clip(last + reach, 0, 2 * reach + 1).astype(np.int64)
        moved = np.clip(last + reach - shift, 0, 2 * reach + 1).astype(np.int64)
        return _positive(below[index], e, below[moved])

    return curve


def _positive(p: FloatArray, e: FloatArray, q: FloatArray) -> FloatArray:
    """max(p - e^e q, 0), also where e^e is beyond floats and q is 0."""
    out: FloatArray = np.maximum(p - np.where(q > 0, np.exp(np.minimum(e, 700.0)), 0.0) * q, 0.0)
    return out


def _discrete_laplace(event: DiscreteLaplace) -> Curve:
    shift, step = int(event.sensitivity), 1 / event.scale

    def below(x: FloatArray) -> FloatArray:
        """P(noise < x), whole x."""
        return np.where(
            x <= 0, np.exp(step * np.minimum(x - 1, 0)), 1 + math.exp(-step) - np.exp(-step * np.maximum(x, 0))
        ) / (1 + math.exp(-step))

    def curve(e: FloatArray) -> FloatArray:
        # Loss at x: step * (|x - shift| - |x|), constant outside 0..shift and falling by 2 steps a cell inside.
        last = np.clip(np.ceil((shift - e / step) / 2), 1, shift)
        inside = _positive(below(last), e, below(last - shift))
        return np.where(e >= event.epsilon, 0.0, np.where(e < -event.epsilon, -np.expm1(np.minimum(e, 0.0)), inside))

    return curve


def _subsampled(event: SubsampledGaussian) -> Pair:
    """One step of a Poisson-subsampled Gaussian: (1 - q) N(0, s^2) + q N(1, s^2) against N(0, s^2).

    Written by the unsampled curve G (Balle, Barthe, Gaboardi 2018, thm. 8, where it is an equality for this pair):
    removed(e) = q G(log(1 + (e^e - 1) / q)).

    Cut samples. Given the sample S of the others, the two tables' sums differ by at most one clipped gradient where S
    leaves room, and by at most two (the unit's, and that of the one it pushed out) where S is full; S is drawn alike in
    both. The divergence is jointly convex, so it is at most the mean over S: (1 - f) curve(1) + f curve(2), f being the
    chance of a full sample, which grows with the number of units, of which units_at_most is a public bound.
    """
    pair = _sampled_pair(event.sampling_rate, 1 / event.noise_multiplier)
    if event.max_batch is None or event.units_at_most is None:
        return pair
    full = chance_of_full_batch(event)
    doubled = _sampled_pair(event.sampling_rate, 2 / event.noise_multiplier)
    return Pair(
        lambda e: (1 - full) * pair.removed(e) + full * doubled.removed(e),
        lambda e: (1 - full) * pair.added(e) + full * doubled.added(e),
    )


def chance_of_full_batch(event: SubsampledGaussian) -> float:
    """Bound on the chance that a step's sample of the other units fills max_batch already."""
    from scipy.stats import binom

    if event.max_batch is None or event.units_at_most is None:
        return 0.0
    return float(binom.sf(event.max_batch - 1, event.units_at_most, event.sampling_rate))


def _sampled_pair(q: float, mu: float) -> Pair:
    gaussian = gaussian_curve(mu)
    if q == 1.0:
        return _symmetric(gaussian)
    least = math.log1p(-q)

    def removed(e: FloatArray) -> FloatArray:
        # Below log(1 - q), the least loss there is, the curve is 1 - e^e.
        inner = np.log1p(np.expm1(np.clip(e, least + 1e-300, 700.0)) / q, where=e > least, out=np.full_like(e, -np.inf))
        return np.where(e > least, q * gaussian(np.where(e > least, inner, 0.0)), -np.expm1(np.minimum(e, 0.0)))

    def added(e: FloatArray) -> FloatArray:
        inside = e < -least
        # q e^(e + t) G(-t) with t = log((e^-e - (1 - q)) / q): the same identity, read from the other side.
        t = np.log1p(np.expm1(np.where(inside, -e, 0.0)) / q)
        log_factor = np.log(q) + e + t
        return np.where(inside, np.exp(np.where(inside, log_factor, 0.0)) * gaussian(-t), 0.0)

    return Pair(removed, added)
