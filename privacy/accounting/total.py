"""What a set of events costs together."""

from __future__ import annotations

import math
from collections.abc import Iterable

from dpsynth.privacy.accounting.cost import Cost
from dpsynth.privacy.accounting.profile import GaussianProfile, Profile
from dpsynth.privacy.events import Event


def cost_of(events: Iterable[Event]) -> Cost:
    """Total cost of events, chosen beforehand or adaptively."""
    spent = list(events)
    return Cost(mu_squared=math.fsum(e.mu_squared for e in spent), delta=math.fsum(e.delta for e in spent))


def profile_of(events: Iterable[Event]) -> Profile:
    """The privacy curve of events, all together."""
    total = cost_of(events)
    return GaussianProfile(math.sqrt(total.mu_squared), total.delta)
