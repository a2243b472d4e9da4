"""A run's reserved budget and the filter that spends it.

`Account` is a Gaussian-DP filter: it holds what the ledger reserved and refuses any event that would pass it, so the
guarantee holds however adaptively the events were chosen. Events that are not Gaussian are charged as the Gaussian that
dominates them.
"""

from __future__ import annotations

from dpsynth.privacy.accounting import Cost, cost_of, gaussian_mu, require_budget
from dpsynth.privacy.errors import PrivacyError
from dpsynth.privacy.events import Event, Leaf

# Share of delta that pays for releasing values found in the rows (stability histograms); the rest goes to the Gaussians,
# whose noise it hardly moves (at epsilon 1, 10% of delta is 0.5% of sigma).
STABILITY_SHARE = 0.1
_ROUNDING = 1e-9


def budget_of(epsilon: float, delta: float) -> Cost:
    """The largest cost that is (epsilon, delta)-DP, a tenth of delta being kept for stability histograms."""
    require_budget(epsilon, delta)
    spare = STABILITY_SHARE * delta
    return Cost(mu_squared=gaussian_mu(epsilon, delta - spare) ** 2, delta=spare)


class Account:
    """What one run may spend, and what it has spent, in order."""

    def __init__(self, reserved: Cost) -> None:
        self.reserved = reserved
        self.spent = Cost()
        self._events: list[Event] = []

    def __repr__(self) -> str:
        return f"Account({len(self._events)} events, {self.spent.mu_squared / self.reserved.mu_squared:.0%} spent)"

    @property
    def events(self) -> tuple[Event, ...]:
        return tuple(self._events)

    @property
    def left(self) -> Cost:
        """What may still be spent."""
        return Cost(
            mu_squared=max(self.reserved.mu_squared - self.spent.mu_squared, 0.0),
            delta=max(self.reserved.delta - self.spent.delta, 0.0),
        )

    def charge(self, event: Event) -> None:
        """Book an event *before* its query touches the rows; refuse what would pass the reservation."""
        total = self.spent + cost_of([event])
        slack = 1 + _ROUNDING
        if total.mu_squared > self.reserved.mu_squared * slack or total.delta > self.reserved.delta * slack:
            name = f"{event.stage}/{event.label}" if isinstance(event, Leaf) else event.kind
            raise PrivacyError(f"{name} would pass the budget reserved for this run")
        self.spent = total
        self._events.append(event)
