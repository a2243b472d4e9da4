"""What was spent: one frozen value for each query that touched private rows, and how such values combine.

Every event states its sensitivity under *add or remove one privacy unit*. Events form a tree: mechanisms are its leaves,
`Composition` and `Parallel` its inner nodes. What a tree costs is the accountant's to say (see `accounting`).

`stage` and `label` say what an event was for; they are public. The scale of the noise stands in each event, as it was drawn.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar

from dpsynth.privacy.errors import PrivacyError


@dataclass(frozen=True, kw_only=True, slots=True)
class _Leaf:
    """What all mechanisms have in common."""

    kind: ClassVar[str]
    stage: str
    label: str

    def _require(self, holds: bool, rule: str) -> None:
        if not holds:
            raise PrivacyError(f"{self.stage}/{self.label}: {rule}")

    def _require_positive(self, *names: str) -> None:
        for name in names:
            value = getattr(self, name)
            self._require(math.isfinite(value) and value > 0, f"{name} must be positive and finite")


@dataclass(frozen=True, kw_only=True, slots=True)
class Gaussian(_Leaf):
    """A vector-valued query answered with (rounded) Gaussian noise.

    sensitivity: L2 sensitivity under add/remove of one unit.  sigma: standard deviation of the noise, same scale.
    """

    kind: ClassVar[str] = "gaussian"
    sensitivity: float
    sigma: float

    def __post_init__(self) -> None:
        self._require_positive("sensitivity", "sigma")

    @property
    def mu_squared(self) -> float:
        """Squared Gaussian-DP parameter: (sensitivity / sigma)^2; those of a run add up."""
        return (self.sensitivity / self.sigma) ** 2

    @property
    def delta(self) -> float:
        return 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class StabilityHistogram(_Leaf):
    """Noisy counts of the values that occur, of which those above a threshold are released.

    delta: bound on the probability that any value which one unit alone holds passes the threshold.
    """

    kind: ClassVar[str] = "stability-histogram"
    sensitivity: float
    sigma: float
    threshold: float
    delta: float

    def __post_init__(self) -> None:
        self._require_positive("sensitivity", "sigma")
        self._require(0 < self.delta < 1, "delta must lie between 0 and 1")

    @property
    def mu_squared(self) -> float:
        """Squared Gaussian-DP parameter of the noisy counts."""
        return (self.sensitivity / self.sigma) ** 2


@dataclass(frozen=True, kw_only=True, slots=True)
class DiscreteGaussian(_Leaf):
    """One integer count, or a histogram of which a unit moves a single cell, with discrete Gaussian noise.

    sensitivity: by how much, at most, one unit moves that cell; a whole number.  sigma: the noise's parameter
    (Canonne, Kamath, Steinke, "The Discrete Gaussian for Differential Privacy", 2020).
    """

    kind: ClassVar[str] = "discrete-gaussian"
    sensitivity: int
    sigma: float

    def __post_init__(self) -> None:
        self._require_positive("sensitivity", "sigma")
        self._require(self.sensitivity == int(self.sensitivity), "sensitivity must be a whole number")


@dataclass(frozen=True, kw_only=True, slots=True)
class Laplace(_Leaf):
    """A query answered with Laplace noise.  sensitivity: L1.  scale: the noise's mean absolute value."""

    kind: ClassVar[str] = "laplace"
    sensitivity: float
    scale: float

    def __post_init__(self) -> None:
        self._require_positive("sensitivity", "scale")

    @property
    def epsilon(self) -> float:
        """Pure-DP parameter."""
        return self.sensitivity / self.scale


@dataclass(frozen=True, kw_only=True, slots=True)
class DiscreteLaplace(_Leaf):
    """One integer count, or a histogram of which a unit moves a single cell, with discrete Laplace (geometric) noise."""

    kind: ClassVar[str] = "discrete-laplace"
    sensitivity: int
    scale: float

    def __post_init__(self) -> None:
        self._require_positive("sensitivity", "scale")
        self._require(self.sensitivity == int(self.sensitivity), "sensitivity must be a whole number")

    @property
    def epsilon(self) -> float:
        """Pure-DP parameter."""
        return self.sensitivity / self.scale


@dataclass(frozen=True, kw_only=True, slots=True)
class ExponentialMechanism(_Leaf):
    """A choice with probabilities in proportion to exp(epsilon * score / (2 * sensitivity)), or its Gumbel noisy max.

    Its privacy loss has a range of at most epsilon (Dong, Durfee, Rogers, "Optimal Differential Privacy Composition for
    Exponential Mechanisms", 2020).  monotone: one unit moves all scores in one direction, which is proved where it is
    said; then the factor 2 was left out of the exponent.
    """

    kind: ClassVar[str] = "exponential"
    sensitivity: float
    epsilon: float
    monotone: bool = False

    def __post_init__(self) -> None:
        self._require_positive("sensitivity", "epsilon")


@dataclass(frozen=True, kw_only=True, slots=True)
class AboveThreshold(_Leaf):
    """Which of several queries is the first to reach its threshold: one answer, and one price, for however many are asked.

    sensitivity: of each query; a whole number.  threshold_scale: of the discrete Laplace noise on the threshold, drawn once;
    query_scale: of that on each query. (Dwork, Roth, "The Algorithmic Foundations of Differential Privacy", 2014, thm. 3.23; the proof
    for whole numbers stands at `PrivateTable.first_within`.)
    """

    kind: ClassVar[str] = "above-threshold"
    sensitivity: int
    threshold_scale: float
    query_scale: float

    def __post_init__(self) -> None:
        self._require_positive("sensitivity", "threshold_scale", "query_scale")
        self._require(self.sensitivity == int(self.sensitivity), "sensitivity must be a whole number")

    @property
    def epsilon(self) -> float:
        """Pure-DP parameter: the threshold moves by the sensitivity at most, the query that reaches it by twice that."""
        return self.sensitivity / self.threshold_scale + 2 * self.sensitivity / self.query_scale

    @property
    def sd(self) -> float:
        """Of the noise in the difference that decides."""
        return math.sqrt(2 * (self.threshold_scale**2 + self.query_scale**2))

    @classmethod
    def costing(cls, epsilon: float, *, sensitivity: int, stage: str, label: str) -> AboveThreshold:
        """With the split of epsilon, 1 to 2^(2/3), that leaves the least noise in the difference that decides."""
        of_threshold = epsilon / (1 + 2 ** (2 / 3))
        return cls(
            stage=stage,
            label=label,
            sensitivity=sensitivity,
            threshold_scale=sensitivity / of_threshold,
            query_scale=2 * sensitivity / (epsilon - of_threshold),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class SubsampledGaussian(_Leaf):
    """`steps` sums over Poisson samples of the units, each with Gaussian noise (DP-SGD).

    sampling_rate: chance of each unit to be in a step's sample; public.  noise_multiplier: noise sd over clipping norm.
    max_batch: where a sample is cut to this many units, then units_at_most: a public bound on how many units there are.
    """

    kind: ClassVar[str] = "subsampled-gaussian"
    sampling_rate: float
    noise_multiplier: float
    steps: int
    max_batch: int | None = None
    units_at_most: int | None = None

    def __post_init__(self) -> None:
        self._require_positive("sampling_rate", "noise_multiplier", "steps")
        self._require(self.sampling_rate <= 1, "sampling_rate must be at most 1")
        self._require(self.steps == int(self.steps), "steps must be a whole number")
        truncated = (self.max_batch is not None, self.units_at_most is not None)
        self._require(len(set(truncated)) == 1, "max_batch and units_at_most come together")
        if self.max_batch is not None:
            self._require_positive("max_batch", "units_at_most")


@dataclass(frozen=True, kw_only=True, slots=True)
class Composition:
    """Events that all see the same units, one after the other; their answers may feed each other's queries."""

    kind: ClassVar[str] = "composition"
    events: tuple[Event, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Parallel:
    """Branches that see disjoint sets of units: each unit is in one of them, by a rule that looks at that unit alone."""

    kind: ClassVar[str] = "parallel"
    branches: tuple[Event, ...]


Leaf = (
    Gaussian
    | StabilityHistogram
    | DiscreteGaussian
    | Laplace
    | DiscreteLaplace
    | ExponentialMechanism
    | AboveThreshold
    | SubsampledGaussian
)
Event = Leaf | Composition | Parallel

_LEAVES: Mapping[str, type[Leaf]] = {
    leaf.kind: leaf
    for leaf in (
        Gaussian,
        StabilityHistogram,
        DiscreteGaussian,
        Laplace,
        DiscreteLaplace,
        ExponentialMechanism,
        AboveThreshold,
        SubsampledGaussian,
    )
}


def leaves(event: Event) -> Iterator[Leaf]:
    """Every mechanism in a tree, in order."""
    if isinstance(event, Composition | Parallel):
        for child in event.events if isinstance(event, Composition) else event.branches:
            yield from leaves(child)
    else:
        yield event


def to_json(event: Event) -> dict[str, Any]:
    """The event as a JSON object, with its kind."""
    if isinstance(event, Composition):
        return {"kind": event.kind, "events": [to_json(e) for e in event.events]}
    if isinstance(event, Parallel):
        return {"kind": event.kind, "branches": [to_json(e) for e in event.branches]}
    return {"kind": event.kind} | {f.name: getattr(event, f.name) for f in fields(event)}


def from_json(obj: dict[str, Any]) -> Event:
    """Inverse of `to_json`; unknown kinds and fields are refused."""
    body = {k: v for k, v in obj.items() if k != "kind"}
    kind = obj.get("kind")
    try:
        if kind == Composition.kind:
            return Composition(events=tuple(from_json(e) for e in body["events"]))
        if kind == Parallel.kind:
            return Parallel(branches=tuple(from_json(e) for e in body["branches"]))
        if not isinstance(kind, str) or kind not in _LEAVES:
            raise PrivacyError("an event of an unknown kind cannot be accounted for")
        return _LEAVES[kind](**body)
    except (KeyError, TypeError, AttributeError) as error:
        raise PrivacyError("an event with unknown or missing fields cannot be accounted for") from error
