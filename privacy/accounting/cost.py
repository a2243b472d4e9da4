"""What events cost, as a value that adds up, and the filters that hold a sum of costs under a cap.

A `Cost` carries two bounds side by side: a Gaussian-DP parameter, exact for Gaussian events, and the Renyi divergences
at fixed orders. Both add up under adaptive composition, so the running total of any number of runs is one small value.

Filters. Where each request may depend on the answers to earlier ones, the rule that grants it must be fixed beforehand. Half of the
cap's delta is for what may fail (the sum of the additive deltas), the other half for the rule:

    gdp   the sum of mu^2 may not pass the mu^2 of the cap (Smith, Thakurta, "Fully Adaptive Composition for Gaussian
          Differential Privacy", 2022). Exact for Gaussian events.
    rdp   at one of the orders at least, the sum stays below what the cap allows there. For one order fixed beforehand this
          is the filter of Feldman, Zrnic ("Individual Privacy Accounting via a Renyi Filter", 2021). Which order holds
          out may depend on the answers, so each order gets a share of delta of its own, and the failure probabilities
          add up (union bound): half for the order that suits Gaussian noise best, the rest evenly.

Were the mu^2 allowed to grow with the delta that is left, one could ask for more of it where an answer was telling, and spend delta
where it was not: the two branches together would fail almost twice as often as the cap says.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, get_args

from dpsynth.privacy.accounting.gaussian import gaussian_epsilon, require_budget
from dpsynth.privacy.errors import PrivacyError

# Orders at which Renyi divergences are kept: fixed for good, so that sums stored in a ledger stay comparable.
ORDERS = (
    *(1.1, 1.25, 1.5, 1.75, 2.0, 2.25, 2.5, 2.75, 3.0, 3.5, 4.0, 4.5, 5.0, 5.5, 6.0, 6.5, 7.0, 8.0, 9.0, 10.0, 11.0),
    *(12.0, 13.0, 14.0, 15.0, 16.0, 18.0, 20.0, 22.0, 24.0, 26.0, 28.0, 30.0, 32.0, 36.0, 40.0, 44.0, 48.0, 56.0, 64.0),
    *(72.0, 80.0, 96.0, 112.0, 128.0, 160.0, 192.0, 256.0, 512.0, 1024.0),
)
Rule = Literal["gdp", "rdp"]
# Of a cap's delta, what additive deltas may add up to.
ADDITIVE_SHARE = 0.5
# Sums of many costs may pass a cap by their last digits alone.
_ROUNDING = 1e-9


@dataclass(frozen=True, kw_only=True, slots=True)
class Cost:
    """What a set of events costs, under add/remove of one unit.

    mu_squared: squared Gaussian-DP parameter that bounds all of them together, but for a chance of `delta`.
    delta: additive failure probability.
    rdp: Renyi divergence at each of ORDERS, all events together; None where all are Gaussian: then it is order * mu^2 / 2.
    """

    mu_squared: float = 0.0
    delta: float = 0.0
    rdp: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        values = (self.mu_squared, self.delta, *(self.rdp or ()))
        if any(not v >= 0 for v in values) or (self.rdp is not None and len(self.rdp) != len(ORDERS)):
            raise PrivacyError("a cost is made of numbers that are not negative, one for each order")

    def __add__(self, other: Cost) -> Cost:
        both = None if self.rdp is None and other.rdp is None else zip(self.renyi, other.renyi, strict=True)
        return Cost(
            mu_squared=self.mu_squared + other.mu_squared,
            delta=self.delta + other.delta,
            rdp=tuple(a + b for a, b in both) if both is not None else None,
        )

    @property
    def renyi(self) -> tuple[float, ...]:
        """Renyi divergence at each of ORDERS."""
        return self.rdp if self.rdp is not None else tuple(order * self.mu_squared / 2 for order in ORDERS)

    def epsilon(self, delta: float) -> float:
        """Smallest epsilon at which this cost is known to be (epsilon, delta)-DP; inf where delta does not cover it."""
        left = delta - self.delta
        exact = gaussian_epsilon(math.sqrt(self.mu_squared), left)
        return exact if self.rdp is None else min(exact, renyi_epsilon(self.rdp, left))

    def to_json(self) -> dict[str, Any]:
        out: dict[str, Any] = {"mu_squared": self.mu_squared, "delta": self.delta}
        return out if self.rdp is None else out | {"rdp": list(self.rdp)}

    @classmethod
    def from_json(cls, obj: dict[str, Any]) -> Cost:
        """Inverse of `to_json`. Raises PrivacyError where the object is no cost."""
        try:
            rdp = tuple(map(float, obj["rdp"])) if "rdp" in obj else None
            return cls(mu_squared=float(obj["mu_squared"]), delta=float(obj["delta"]), rdp=rdp)
        except (KeyError, TypeError, ValueError):
            raise PrivacyError("not a cost: mu_squared and delta are numbers, rdp a list of them") from None


def renyi_epsilon(rdp: tuple[float, ...], delta: float) -> float:
    """Smallest epsilon that the divergences at ORDERS prove at `delta` (Canonne, Kamath, Steinke 2020, prop. 12)."""
    if delta <= 0:
        return math.inf
    return min(max(value + _conversion(order, delta), 0.0) for order, value in zip(ORDERS, rdp, strict=True))


def _conversion(order: float, delta: float) -> float:
    """What turning a Renyi divergence of this order into epsilon adds."""
    return math.log1p(-1 / order) - (math.log(delta) + math.log(order)) / (order - 1)


@dataclass(frozen=True, kw_only=True)
class Filter:
    """A cap of (epsilon, delta) on adaptively chosen costs; see the module's docstring. The rule is fixed with the cap."""

    epsilon: float
    delta: float
    rule: Rule = "gdp"

    def __post_init__(self) -> None:
        require_budget(self.epsilon, self.delta)
        if self.rule not in get_args(Rule):
            raise PrivacyError(f"a filter's rule is one of {', '.join(get_args(Rule))}")

    def grants(self, total: Cost) -> bool:
        """Whether a sum of costs stays within the cap."""
        return self.holds(self.spent(total))

    def holds(self, epsilon: float) -> bool:
        """Whether an epsilon at the cap's delta is within the cap."""
        return epsilon <= self.epsilon * (1 + _ROUNDING)

    def spent(self, total: Cost) -> float:
        """Epsilon that a sum of costs takes of the cap, by the filter's rule; inf where its additive deltas are too many."""
        if total.delta > ADDITIVE_SHARE * self.delta * (1 + _ROUNDING):
            return math.inf
        if not any(total.renyi):
            return 0.0
        delta = (1 - ADDITIVE_SHARE) * self.delta
        if self.rule == "gdp":
            return gaussian_epsilon(math.sqrt(total.mu_squared), delta)
        return min(
            max(value + _conversion(order, share * delta), 0.0)
            for order, value, share in zip(ORDERS, total.renyi, self.shares, strict=True)
        )

    @cached_property
    def shares(self) -> tuple[float, ...]:
        """Share of delta of each order, adding up to 1; it depends on the cap alone."""
        rest_of_delta = (1 - ADDITIVE_SHARE) * self.delta
        room = [(self.epsilon - _conversion(order, rest_of_delta / 2)) / order for order in ORDERS]
        favourite = room.index(max(room))
        rest = 0.5 / (len(ORDERS) - 1)
        return tuple(0.5 if i == favourite else rest for i in range(len(ORDERS)))
