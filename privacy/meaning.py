"""What a guarantee means for somebody who attacks it: in figures, in words, and in warnings.

Every figure is a bound on *any* attack, by whoever knows all rows but one unit's, has the release and this code. Sources of the
figures: `accounting.profile`; (epsilon, delta) at several deltas, because one pair alone hides the curve.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from dpsynth.privacy.accounting import Cost, GaussianProfile, Profile, profile_of
from dpsynth.privacy.events import Event

DELTAS = (1e-5, 1e-6, 1e-7, 1e-9)
FALSE_POSITIVES = 0.01
# Above this epsilon the bound is so loose that it is said wherever the number is shown.
LARGE_EPSILON = 10.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Meaning:
    """The figures of one guarantee.

    epsilon_at: (delta, epsilon) from the largest delta to the least; epsilon is inf where a chance of failure alone exceeds delta.
    advantage: most that an attack's true-positive rate exceeds its false-positive rate.
    false_negatives: least share of the units in the data that an attack misses, at 1% false positives.
    """

    epsilon_at: tuple[tuple[float, float], ...]
    advantage: float
    false_negatives: float

    def to_json(self) -> dict[str, Any]:
        """As JSON; an epsilon of infinity is null."""
        return {
            "epsilon_at": [{"delta": d, "epsilon": finite(e)} for d, e in self.epsilon_at],
            "advantage": self.advantage,
            "false_negatives_at_1_percent_false_positives": self.false_negatives,
        }

    @property
    def gains(self) -> str:
        """The advantage for reading, rounded up."""
        return f"{math.ceil(1000 * min(self.advantage, 1.0) - 1e-9) / 10:.1f}%"

    @property
    def misses(self) -> str:
        """The false-negative rate for reading, rounded down."""
        return f"{math.floor(1000 * self.false_negatives + 1e-9) / 10:.1f}%"

    def words(self) -> tuple[str, ...]:
        """The same for a reader who knows no Greek."""
        right = math.ceil(500 * (1 + min(self.advantage, 1.0))) / 10
        return (
            "Who guesses by a coin whether somebody is in the data is right 50 times in 100; with the best attack there can "
            f"be, at most {right:g} times.",
            "An attack that raises a false alarm for 1 in 100 of those who are not in the data misses at least "
            f"{self.misses} of those who are.",
        )


def meaning_of_events(events: Iterable[Event], delta: float) -> Meaning:
    """What the queries of one run mean together, also at `delta`."""
    return _meaning(profile(tuple(events)), delta)


def meaning_of_cost(cost: Cost, delta: float) -> Meaning:
    """What a cost means that may be the sum of many runs', each chosen after seeing the ones before."""
    bound = GaussianProfile(math.sqrt(cost.mu_squared), cost.delta)
    found = _meaning(bound, delta)
    at = tuple((d, min(e, cost.epsilon(d))) for d, e in found.epsilon_at)
    return Meaning(epsilon_at=at, advantage=found.advantage, false_negatives=found.false_negatives)


@lru_cache(maxsize=16)
def profile(events: tuple[Event, ...]) -> Profile:
    """`profile_of`, remembered: one statement is asked for many of its figures."""
    return profile_of(events)


def _meaning(profile: Profile, delta: float) -> Meaning:
    return Meaning(
        epsilon_at=tuple((d, profile.epsilon(d)) for d in sorted({*DELTAS, delta}, reverse=True)),
        advantage=min(profile.advantage, 1.0),
        false_negatives=profile.false_negatives(FALSE_POSITIVES),
    )


def finite(value: float) -> float | None:
    """The value for JSON, which has no infinity."""
    return value if math.isfinite(value) else None


def budget_warnings(epsilon: float, delta: float, units: float | None) -> dict[str, str]:
    """What a reader must know of an (epsilon, delta) that promises little, by name; empty where there is nothing.

    units: a *public or noisy* number of units; never the exact private one.
    """
    out = {}
    if epsilon > LARGE_EPSILON:
        factor = f"{math.exp(epsilon):,.0f}" if epsilon < 20 else f"e^{epsilon:g}"
        out["large epsilon"] = (
            f"epsilon {epsilon:g} is above 10 and bounds very little: what is released may raise an attacker's odds that one "
            f"unit is in the data by a factor of {factor}. About 1 is strong."
        )
    if units is not None and delta * max(units, 1.0) >= 1:
        out["large delta"] = (
            f"delta {delta:g} is not below 1 over the number of units (about {max(units, 1.0):,.0f}): handing out some units' "
            f"rows as they are would meet it. Choose a delta well below {_one_digit(1 / max(units, 1.0))}."
        )
    return out


def _one_digit(value: float) -> str:
    return f"{value:.0e}".replace("e-0", "e-")
