"""The Gaussian mechanism, exactly.

A mechanism is mu-Gaussian-DP if telling two neighbours apart from its output is no easier than telling N(0, 1) from
N(mu, 1) (Dong, Roth, Su, "Gaussian Differential Privacy"). A Gaussian answer of noise sd sigma to a query of L2
sensitivity s is (s / sigma)-GDP, several of them together are sqrt(sum of squares)-GDP (cor. 3.3), and mu-GDP is the curve

    delta(epsilon) = Phi(-epsilon/mu + mu/2) - e^epsilon Phi(-epsilon/mu - mu/2)        (cor. 2.13; Balle, Wang 2018)
"""

from __future__ import annotations

import math
from statistics import NormalDist

from dpsynth.privacy.errors import PrivacyError


def _log_phi(x: float) -> float:
    """log of the standard normal distribution function, without underflow."""
    if x > -30:
        return math.log(0.5 * math.erfc(-x / math.sqrt(2)))
    # Mills ratio, enough terms for x <= -30: relative error below 1e-8 of a quantity that is itself below 1e-197.
    return -0.5 * x * x - math.log(-x) - 0.5 * math.log(2 * math.pi) + math.log1p(-1 / (x * x) + 3 / x**4)


def gaussian_delta(mu: float, epsilon: float) -> float:
    """delta of a mu-GDP mechanism at epsilon >= 0."""
    if mu == 0:
        return 0.0
    a, b = _log_phi(-epsilon / mu + mu / 2), _log_phi(-epsilon / mu - mu / 2) + epsilon
    return math.exp(a) * -math.expm1(min(b - a, 0.0))


def gaussian_epsilon(mu: float, delta: float) -> float:
    """Smallest epsilon (rounded up by at most 1e-12 relative) at which mu-GDP is (epsilon, delta)-DP."""
    if mu == 0:
        return 0.0 if delta >= 0 else math.inf
    if delta <= 0:
        return math.inf
    if gaussian_delta(mu, 0.0) <= delta:
        return 0.0
    low, high = 0.0, 1.0
    while gaussian_delta(mu, high) > delta:
        high *= 2
    while high - low > 1e-12 * high:
        middle = (low + high) / 2
        low, high = (middle, high) if gaussian_delta(mu, middle) > delta else (low, middle)
    return high


def gaussian_mu(epsilon: float, delta: float) -> float:
    """Largest mu (rounded down) at which mu-GDP is (epsilon, delta)-DP."""
    require_budget(epsilon, delta)
    low, high = 0.0, 1.0
    while gaussian_delta(high, epsilon) <= delta:
        high *= 2
    while high - low > 1e-14 * high:
        middle = (low + high) / 2
        if middle in (low, high):
            break
        low, high = (middle, high) if gaussian_delta(middle, epsilon) <= delta else (low, middle)
    return low


def mu_of_pure(epsilon: float) -> float:
    """The least mu at which every epsilon-DP mechanism is mu-GDP: -2 Phi^-1(1 / (1 + e^epsilon)).

    Proof. Of an epsilon-DP mechanism, an attack with false positives x has false negatives of at least
    f(x) = max(1 - e^epsilon x, e^-epsilon (1 - x)): two straight lines from (0, 1) and (1, 0) to the point where x = f(x) =
    1 / (1 + e^epsilon). A mu-GDP mechanism's curve ends in the same points, is convex, and crosses the diagonal at Phi(-mu/2).
    So it lies below f everywhere as soon as it does on the diagonal.
    """
    return -2 * NormalDist().inv_cdf(1 / (1 + math.exp(epsilon)))


def pure_of_mu(mu: float) -> float:
    """Largest epsilon at which every epsilon-DP mechanism is mu-GDP; inverse of `mu_of_pure`."""
    return _log_phi(mu / 2) - _log_phi(-mu / 2)


def require_budget(epsilon: float, delta: float) -> None:
    """Refuse an epsilon that is not finite and positive, or a delta outside (0, 1)."""
    for name, value in (("epsilon", epsilon), ("delta", delta)):
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value <= 0:
            raise PrivacyError(f"{name} must be a finite number above 0")
    if delta >= 1:
        raise PrivacyError("delta must be below 1; it is usually far below one over the number of units")
