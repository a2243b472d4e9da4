"""A privacy guarantee as a curve, and what it means for an attacker.

A `Profile` gives delta for every epsilon. By the Neyman-Pearson view (Wasserman, Zhou 2010; Kairouz, Oh, Viswanath 2015)
the same curve bounds every test of "was this unit in the data?": at false-positive rate a, the false-negative rate is at
least max over epsilon of 1 - delta - e^epsilon a and e^-epsilon (1 - delta - a).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import Protocol

from dpsynth.privacy.accounting.gaussian import gaussian_delta, gaussian_epsilon


class Profile(Protocol):
    """A bound on what anyone can learn about one unit, as the curve delta(epsilon)."""

    @property
    def method(self) -> str:
        """How the curve was computed, for the statement."""

    def epsilon(self, delta: float) -> float:
        """Smallest epsilon at this delta; inf where there is none."""

    def delta(self, epsilon: float) -> float:
        """Smallest delta at this epsilon >= 0."""

    @property
    def advantage(self) -> float:
        """Bound on true-positive rate minus false-positive rate of any membership attack: delta at epsilon 0."""

    def false_negatives(self, false_positives: float) -> float:
        """Least false-negative rate of any membership attack at this false-positive rate."""


@dataclass(frozen=True, slots=True)
class GaussianProfile:
    """The curve of a mu-Gaussian-DP mechanism that fails with a chance of `failure` (both 0: nothing was asked)."""

    mu: float
    failure: float = 0.0

    @property
    def method(self) -> str:
        return "exact Gaussian"

    def epsilon(self, delta: float) -> float:
        return gaussian_epsilon(self.mu, delta - self.failure)

    def delta(self, epsilon: float) -> float:
        return min(gaussian_delta(self.mu, epsilon) + self.failure, 1.0)

    @property
    def advantage(self) -> float:
        return self.delta(0.0)

    def false_negatives(self, false_positives: float) -> float:
        """Phi(Phi^-1(1 - a) - mu) of a Gaussian (Dong, Roth, Su, eq. 6), less the chance of failure."""
        if not 0 < false_positives < 1:
            return 1.0 if false_positives <= 0 else 0.0
        normal = NormalDist()
        return max(normal.cdf(normal.inv_cdf(1 - false_positives) - self.mu) - self.failure, 0.0)


class HasDelta(Protocol):
    """Anything with a privacy curve."""

    def delta(self, epsilon: float) -> float: ...


def false_negatives(profile: HasDelta, false_positives: float, upper: float = 50.0) -> float:
    """The least false-negative rate that a curve allows, from its supporting lines; see the module's docstring."""
    best = 0.0
    for step in range(2001):
        epsilon = upper * (step / 2000) ** 2
        left = 1 - profile.delta(epsilon)
        best = max(best, left - math.exp(epsilon) * false_positives, math.exp(-epsilon) * (left - false_positives))
    return best
