"""What the ledger takes and gives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from dpsynth.privacy.accounting import Cost, Filter, planned_epsilon
from dpsynth.privacy.events import Event, from_json


@dataclass(frozen=True, kw_only=True, slots=True)
class DatasetRecord:
    """A data set the ledger knows, as one unit sees it.

    id: random.  name: the first it was given, if any.  unit: the privacy unit its runs are booked under; None before the first.
    sub_budget: the part of its budget that a run is to use, if any.  cap: of that part, else of the data set, where there is one.
    """

    id: str
    name: str | None
    unit: str | None
    cap: Filter | None = None
    sub_budget: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Reservation:
    """A run's reserved cost."""

    id: str
    dataset: str
    cost: Cost
    delta: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """One run as the ledger shows it; epsilon at the run's own delta."""

    id: str
    label: str
    cost: Cost
    state: Literal["reserved", "committed"]
    epsilon: float
    delta: float
    created: str
    sub_budget: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class SubBudget:
    """A named part of a data set's budget. epsilon: what its runs take of `cap`, by the cap's filter."""

    label: str
    cap: Filter
    cost: Cost
    epsilon: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Spent:
    """What a data set's runs under one unit cost together.

    epsilon: at `delta`; where there is a cap, by the cap's filter at the cap's delta, else at the sum of the runs' deltas. Of a
    single run: of its plan as a whole.
    """

    cost: Cost
    epsilon: float
    delta: float
    unit: str | None
    cap: Filter | None
    runs: tuple[Run, ...]
    sub_budgets: tuple[SubBudget, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """One entry of the chain."""

    seq: int
    dataset: str
    run: str
    kind: str
    body: dict[str, Any]
    created: str
    mac: str

    @property
    def plan(self) -> tuple[Event, ...]:
        """Of a reservation: what it was granted as, where that is more than its cost says."""
        return tuple(from_json(event) for event in self.body.get("plan", ()))

    @property
    def epsilon(self) -> float:
        """Of a reservation: the run's by itself, at its own delta."""
        return planned_epsilon(Cost.from_json(self.body["cost"]), self.plan, self.body["delta"])
