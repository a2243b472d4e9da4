"""What the entries of one data set add up to, and whether its caps grant one more run.

The same code books a run and recomputes the books from the chain, so that the two cannot drift apart.

Units. A cost says what *one unit* may lose: a cost per row says little about a person with many rows, and costs under different
units do not add up. So each unit has accounts of its own, and a cap counts in one unit: the one it was set for, or that of the
first run under it. A run under another unit is refused while there is a cap.

Sub-budgets. Each is a filter of its own over the runs that use it; those runs also count towards the data set's cap. A run is
granted where both filters grant it.

The first run. What a run planned beforehand costs as a whole (`planned_epsilon`) is less than the sum of what its parts cost, and
parts are what filters add up. A data set's first run is asked for before any answer is known, so whether to grant it by its plan or
by the filter depends on no row: it is granted where either does. Where the filter would not have granted it, its sum is past the cap,
and nothing more is.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from dpsynth.privacy.accounting import Cost, Filter, planned_epsilon
from dpsynth.privacy.errors import BudgetExceeded, LedgerError
from dpsynth.privacy.events import Event

# Label of what holds for a data set as a whole; every other label is a sub-budget's.
WHOLE = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Account:
    """Sum of the runs under one unit and label. delta: sum of the deltas at which the runs' guarantees are given."""

    cost: Cost = Cost()
    delta: float = 0.0
    runs: int = 0

    def plus(self, cost: Cost, delta: float) -> Account:
        return Account(cost=self.cost + cost, delta=self.delta + delta, runs=self.runs + 1)

    def to_json(self) -> dict[str, Any]:
        return {"cost": self.cost.to_json(), "delta": self.delta, "runs": self.runs}

    @classmethod
    def from_json(cls, obj: Mapping[str, Any]) -> Account:
        return cls(cost=Cost.from_json(obj["cost"]), delta=obj["delta"], runs=obj["runs"])


@dataclass(frozen=True, kw_only=True, slots=True)
class Book:
    """One data set: its names, caps by label, the unit they count in, and accounts by (unit, label).

    opened: number of the data set's first entry.
    """

    id: str
    opened: int
    names: tuple[str, ...] = ()
    unit: str | None = None
    caps: Mapping[str, Filter] = field(default_factory=dict)
    accounts: Mapping[tuple[str, str], Account] = field(default_factory=dict)

    @property
    def name(self) -> str | None:
        return self.names[0] if self.names else None

    @property
    def title(self) -> str:
        """How messages call it."""
        return f"data set {(self.name or self.id)!r}"

    @property
    def units(self) -> tuple[str, ...]:
        """Units of its runs, in order of their first."""
        return tuple(dict.fromkeys(unit for unit, _ in self.accounts))

    def account(self, unit: str | None, label: str = WHOLE) -> Account:
        return self.accounts.get((unit or "", label), Account())

    def after(self, kind: str, body: Mapping[str, Any]) -> Book:
        """The book once an entry is in it."""
        if kind == "register" and body["name"] is not None:
            return replace(self, names=(*self.names, body["name"]))
        if kind == "cap":
            cap = Filter(epsilon=body["epsilon"], delta=body["delta"], rule=body["rule"])
            return replace(self, unit=body["unit"], caps={**self.caps, body["label"]: cap})
        if kind == "reserve":
            unit, cost, delta = body["unit"], Cost.from_json(body["cost"]), body["delta"]
            labels = dict.fromkeys((WHOLE, body["sub_budget"] or WHOLE))
            added = {(unit, label): self.account(unit, label).plus(cost, delta) for label in labels}
            return replace(self, unit=self.unit or (unit if self.caps else None), accounts={**self.accounts, **added})
        return self

    def require_unit(self, unit: str) -> None:
        """Refuse a run whose cost does not add up with what the caps count."""
        if self.caps and self.unit not in (None, unit):
            raise LedgerError(
                f"{self.title}: its cap counts in units of {self.unit!r}, this run in units of {unit!r}; such costs do not add "
                f"up, so the run is refused: use the cap's unit, or set the cap anew for {unit!r}"
            )

    def require_sub_budget(self, label: str | None) -> None:
        if label is not None and label not in self.caps:
            raise LedgerError(
                f"{self.title} has no sub-budget {label!r}; set one with: dpsynth budget set {self.name or self.id}/{label}"
            )

    def refusal(self, unit: str, label: str | None, cost: Cost, plan: Sequence[Event] = ()) -> Refusal | None:
        """The first cap that a run would pass; None where all grant it. Raises LedgerError where a cap cannot tell."""
        self.require_unit(unit)
        self.require_sub_budget(label)
        for each in dict.fromkeys((label or WHOLE, WHOLE)):
            cap, spent = self.caps.get(each), self.account(unit, each).cost
            if cap is not None and not cap.grants(spent + cost) and not self._grants_first(cap, cost, plan):
                title = self.title if each == WHOLE else f"sub-budget {each!r} of {self.title}"
                return Refusal(title=title, cap=cap, spent=spent, first=not self.accounts)
        return None

    def _grants_first(self, cap: Filter, cost: Cost, plan: Sequence[Event]) -> bool:
        """Nothing depends on an answer yet: what a first run costs by itself is all there is."""
        return not self.accounts and cap.holds(planned_epsilon(cost, plan, cap.delta))

    def to_json(self) -> str:
        return json.dumps(
            {
                "opened": self.opened,
                "names": self.names,
                "unit": self.unit,
                "caps": {k: {"epsilon": c.epsilon, "delta": c.delta, "rule": c.rule} for k, c in self.caps.items()},
                "accounts": [[unit, label, a.to_json()] for (unit, label), a in self.accounts.items()],
            },
            sort_keys=True,
        )

    @classmethod
    def from_json(cls, dataset: str, text: str) -> Book:
        body = json.loads(text)
        return cls(
            id=dataset,
            opened=body["opened"],
            names=tuple(body["names"]),
            unit=body["unit"],
            caps={label: Filter(**cap) for label, cap in body["caps"].items()},
            accounts={(unit, label): Account.from_json(a) for unit, label, a in body["accounts"]},
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Refusal:
    """A cap that a run would pass."""

    title: str
    cap: Filter
    spent: Cost
    first: bool  # whether there was no run before

    def error(self, cost: Cost, delta: float, plan: Sequence[Event] = ()) -> BudgetExceeded:
        """asked and left: epsilon at the run's delta, so that the two can be compared. spent: by the cap's filter."""
        asked, gone, left = planned_epsilon(cost, plan, delta), self.cap.spent(self.spent), self.left(cost, delta)
        return BudgetExceeded(
            f"{self.title}: asked for epsilon {asked:.4g} (at delta {delta:g}), {gone:.4g} of {self.cap.epsilon:g} is spent (at "
            f"delta {self.cap.delta:g}), at most epsilon {left:.4g} would still fit (at delta {delta:g}); ask for less or raise "
            f"the cap",
            asked=asked,
            spent=gone,
            left=left,
        )

    def left(self, cost: Cost, delta: float) -> float:
        """Largest epsilon, at the run's delta, of a Gaussian run with the same additive delta that would still be granted."""

        def run(mu_squared: float) -> Cost:
            return Cost(mu_squared=mu_squared, delta=cost.delta)

        def granted(mu_squared: float) -> bool:
            one = run(mu_squared)
            return self.cap.grants(self.spent + one) or (self.first and self.cap.holds(one.epsilon(self.cap.delta)))

        low, high = 0.0, 1.0
        if not granted(low):
            return 0.0
        while granted(high):
            high *= 2
        while high - low > 1e-12 * high:
            middle = (low + high) / 2
            low, high = (middle, high) if granted(middle) else (low, middle)
            if high < 1e-30:
                return 0.0
        # Asked for as an epsilon, it comes back as a cost by another bisection: its last digits are left out.
        left = run(low).epsilon(delta) * (1 - 1e-9)
        return left if math.isfinite(left) else 0.0
