"""A run's reserved budget and the filter that spends it.

`Account` holds what the ledger reserved and refuses any event that would pass it. A reservation has two parts: an allowance for
Gaussian queries, which a Gaussian-DP filter spends however adaptively they are chosen, and events planned beforehand, such as the
steps of a training, each of which may happen once, at any time.

Together they are as private as the plan [one Gaussian of the whole allowance, each planned event], which is accounted as a whole.
Proof. Queries under a Gaussian-DP filter of mu^2 can be simulated from a Brownian motion that drifts by 0 or 1 and is watched up to
time mu^2 at most (Smith, Thakurta 2022), a planned event from one draw of its dominating pair, whatever came before (Blackwell). Motion
and draws are independent and fixed beforehand. When a planned event happens, the motion is stopped at a time that depends on the past
alone, and goes on afterwards as a new one (strong Markov property). So the whole run is post-processing of one Gaussian of parameter
mu and one draw of each pair.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from dpsynth.privacy.accounting import Cost, cost_of, gaussian_mu, planned_epsilon, require_budget
from dpsynth.privacy.errors import PrivacyError
from dpsynth.privacy.events import Event, Gaussian, Leaf, SubsampledGaussian, leaves

# Share of delta that pays for releasing values found in the rows (stability histograms); the rest goes to the Gaussians,
# whose noise it hardly moves (at epsilon 1, 10% of delta is 0.5% of sigma).
STABILITY_SHARE = 0.1
_ROUNDING = 1e-9


def budget_of(epsilon: float, delta: float) -> Cost:
    """The largest cost that is (epsilon, delta)-DP, a tenth of delta being kept for stability histograms."""
    require_budget(epsilon, delta)
    spare = STABILITY_SHARE * delta
    return Cost(mu_squared=gaussian_mu(epsilon, delta - spare) ** 2, delta=spare)


def delta_of(cost: Cost) -> float:
    """The delta for which `budget_of` gave a cost."""
    return cost.delta / STABILITY_SHARE


@dataclass(frozen=True, kw_only=True, slots=True)
class Reserve:
    """What a run sets aside. adaptive: for Gaussian queries and stability histograms.  planned: events fixed beforehand."""

    adaptive: Cost
    planned: tuple[Event, ...] = ()

    @property
    def cost(self) -> Cost:
        """What the ledger books: a value that adds up with other runs', so a little above what the plan as a whole costs."""
        return self.adaptive + cost_of(self.planned)

    @property
    def as_events(self) -> list[Event]:
        """The plan that bounds the run, but for a chance of adaptive.delta."""
        mu = math.sqrt(self.adaptive.mu_squared)
        allowance = [Gaussian(stage="", label="allowance", sensitivity=mu, sigma=1.0)] if mu > 0 else []
        return [*allowance, *self.planned]

    @property
    def plan(self) -> list[Event]:
        """`as_events` for the ledger; empty where queries alone are planned, for then the cost says all."""
        return self.as_events if self.planned else []

    def epsilon(self, delta: float) -> float:
        """Epsilon of the whole run at delta."""
        return planned_epsilon(self.cost, self.plan, delta)


class Account:
    """What one run may spend, and what it has spent, in order. `reserved`, `spent` and `left` are of the adaptive part."""

    def __init__(self, reserved: Cost | Reserve) -> None:
        reserve = reserved if isinstance(reserved, Reserve) else Reserve(adaptive=reserved)
        self.reserved = reserve.adaptive
        self.spent = Cost()
        self._planned = list(reserve.planned)
        self._events: list[Event] = []

    def __repr__(self) -> str:
        share = self.spent.mu_squared / self.reserved.mu_squared if self.reserved.mu_squared else 1.0
        return f"Account({len(self._events)} events, {share:.0%} spent, {len(self._planned)} planned)"

    @property
    def events(self) -> tuple[Event, ...]:
        return tuple(self._events)

    @property
    def planned(self) -> tuple[Event, ...]:
        """Planned events that have not happened yet."""
        return tuple(self._planned)

    @property
    def left(self) -> Cost:
        """What may still be spent."""
        return Cost(
            mu_squared=max(self.reserved.mu_squared - self.spent.mu_squared, 0.0),
            delta=max(self.reserved.delta - self.spent.delta, 0.0),
        )

    def charge(self, event: Event) -> None:
        """Book an event *before* its query touches the rows; refuse what would pass the reservation."""
        if event in self._planned:
            self._planned.remove(event)
            self._events.append(event)
            return
        if any(isinstance(leaf, SubsampledGaussian) for leaf in leaves(event)):
            # Its Renyi divergences are not those of a Gaussian: an allowance for Gaussians does not cover it.
            raise PrivacyError(
                "a training must be planned: reserve its event before the run (see Reserve), and train once"
            )
        total = self.spent + cost_of([event])
        slack = 1 + _ROUNDING
        if total.mu_squared > self.reserved.mu_squared * slack or total.delta > self.reserved.delta * slack:
            name = f"{event.stage}/{event.label}" if isinstance(event, Leaf) else event.kind
            raise PrivacyError(f"{name} would pass the budget reserved for this run")
        self.spent = total
        self._events.append(event)
