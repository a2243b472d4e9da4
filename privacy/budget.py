"""A run's reserved budget and the filter that spends it.

`Account` is a Gaussian-DP filter: it holds what the ledger reserved and refuses any event that would pass it, so the
guarantee holds however adaptively the events were chosen.
"""

from __future__ import annotations

import math

from dpsynth.privacy.accounting import Cost, gaussian_mu, require_budget
from dpsynth.privacy.errors import PrivacyError
from dpsynth.privacy.events import Event

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
        self._events: list[Event] = []
        self._mu_squared = 0.0
        self._delta = 0.0

    def __repr__(self) -> str:
        return f"Account({len(self._events)} events, {self._mu_squared / self.reserved.mu_squared:.0%} spent)"

    @property
    def events(self) -> tuple[Event, ...]:
        return tuple(self._events)

    @property
    def left(self) -> Cost:
        """What may still be spent."""
        return Cost(
            mu_squared=max(self.reserved.mu_squared - self._mu_squared, 0.0),
            delta=max(self.reserved.delta - self._delta, 0.0),
        )

    def charge(self, event: Event) -> None:
        """Book an event *before* its query touches the rows; refuse what would pass the reservation."""
        mu_squared = math.fsum([self._mu_squared, event.mu_squared])
        delta = math.fsum([self._delta, event.delta])
        slack = 1 + _ROUNDING
        if mu_squared > self.reserved.mu_squared * slack or delta > self.reserved.delta * slack:
            raise PrivacyError(f"{event.stage}/{event.label} would pass the budget reserved for this run")
        self._mu_squared, self._delta = mu_squared, delta
        self._events.append(event)
