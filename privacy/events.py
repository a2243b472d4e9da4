"""What was spent: one frozen value for each query that touched private rows.

Every event states its sensitivity under *add or remove one privacy unit*. Both kinds here are Gaussian at heart, so a
whole run is one Gaussian mechanism (see `accountant`); a stability histogram adds the probability that a value held by
one unit alone passes its threshold.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar

from dpsynth.privacy.errors import PrivacyError


@dataclass(frozen=True, kw_only=True, slots=True)
class Gaussian:
    """A vector-valued query answered with (rounded) Gaussian noise.

    sensitivity: L2 sensitivity under add/remove of one unit.  sigma: standard deviation of the noise, same scale.
    """

    kind: ClassVar[str] = "gaussian"
    stage: str
    label: str
    sensitivity: float
    sigma: float

    def __post_init__(self) -> None:
        if not (self.sensitivity > 0 and self.sigma > 0 and math.isfinite(self.sensitivity + self.sigma)):
            raise PrivacyError(f"{self.stage}/{self.label}: sensitivity and sigma must be positive and finite")

    @property
    def mu_squared(self) -> float:
        """Gaussian-DP cost: (sensitivity / sigma)^2; costs of a run add up."""
        return (self.sensitivity / self.sigma) ** 2

    @property
    def delta(self) -> float:
        return 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class StabilityHistogram:
    """Noisy counts of the values that occur, of which those above a threshold are released.

    delta: bound on the probability that any value which one unit alone holds passes the threshold.
    """

    kind: ClassVar[str] = "stability-histogram"
    stage: str
    label: str
    sensitivity: float
    sigma: float
    threshold: float
    delta: float = field(default=0.0)

    def __post_init__(self) -> None:
        if not (self.sensitivity > 0 and self.sigma > 0 and 0 < self.delta < 1):
            raise PrivacyError(f"{self.stage}/{self.label}: sensitivity and sigma must be positive, 0 < delta < 1")

    @property
    def mu_squared(self) -> float:
        return (self.sensitivity / self.sigma) ** 2


Event = Gaussian | StabilityHistogram


def to_json(event: Event) -> dict[str, Any]:
    """The event as a flat JSON object, with its kind."""
    return {"kind": event.kind, **asdict(event)}


def from_json(obj: dict[str, Any]) -> Event:
    """Inverse of `to_json`; unknown kinds and fields are refused."""
    kinds: dict[str, type[Gaussian] | type[StabilityHistogram]] = {
        Gaussian.kind: Gaussian,
        StabilityHistogram.kind: StabilityHistogram,
    }
    body = {k: v for k, v in obj.items() if k != "kind"}
    if obj.get("kind") not in kinds:
        raise PrivacyError("an event of an unknown kind cannot be accounted for")
    try:
        return kinds[obj["kind"]](**body)
    except TypeError as error:
        raise PrivacyError("an event with unknown or missing fields cannot be accounted for") from error
