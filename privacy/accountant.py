"""From events to (epsilon, delta) and back, exactly.

Every event is a Gaussian mechanism (rounding its output is post-processing), so an adaptively chosen run with
sum of (sensitivity/sigma)^2 <= mu^2 is mu-Gaussian-DP: composition of Gaussians is exact (Dong, Roth, Su, "Gaussian
Differential Privacy", cor. 3.3) and holds as a filter, that is for adaptively chosen scales under a fixed cap (Smith,
Thakurta, "Fully Adaptive Composition for Gaussian Differential Privacy", 2022). mu-GDP is equivalent to the curve

    delta(epsilon) = Phi(-epsilon/mu + mu/2) - e^epsilon Phi(-epsilon/mu - mu/2)        (cor. 2.13; Balle, Wang 2018)

Stability histograms add their own delta (the event that an unstable value is released), which is taken off first.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from dpsynth.privacy.errors import PrivacyError
from dpsynth.privacy.events import Event


@dataclass(frozen=True, kw_only=True, slots=True)
class Cost:
    """What a set of events costs: squared Gaussian-DP parameter and additive failure probability."""

    mu_squared: float = 0.0
    delta: float = 0.0

    def __add__(self, other: Cost) -> Cost:
        return Cost(mu_squared=self.mu_squared + other.mu_squared, delta=self.delta + other.delta)

    def epsilon(self, delta: float) -> float:
        """Smallest epsilon at which this cost is (epsilon, delta)-DP; inf where delta does not cover `self.delta`."""
        return gaussian_epsilon(math.sqrt(self.mu_squared), delta - self.delta)


def cost_of(events: Iterable[Event]) -> Cost:
    """Total cost of events, chosen beforehand or adaptively."""
    spent = list(events)
    return Cost(mu_squared=math.fsum(e.mu_squared for e in spent), delta=math.fsum(e.delta for e in spent))


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


def require_budget(epsilon: float, delta: float) -> None:
    """Refuse an epsilon that is not finite and positive, or a delta outside (0, 1)."""
    for name, value in (("epsilon", epsilon), ("delta", delta)):
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value <= 0:
            raise PrivacyError(f"{name} must be a finite number above 0")
    if delta >= 1:
        raise PrivacyError("delta must be below 1; it is usually far below one over the number of units")
