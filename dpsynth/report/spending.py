"""What the ledger's data sets have cost, as values: by data set, run, release and recipient.

A release costs nothing by itself: it is made from answers that the run has paid for, so a run that is released to ten teams is
still one run. What a recipient can learn is the composition of the distinct runs released to them; several recipients who put
theirs together can learn what all their runs tell together. Costs here are what the runs *reserved*: that stays charged, and it
bounds what they did however adaptively their queries were chosen.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from dpsynth.privacy.accounting import Cost, Filter, cost_of, planned_epsilon
from dpsynth.privacy.budget import budget_of
from dpsynth.privacy.errors import LedgerError
from dpsynth.privacy.events import Event, Leaf, from_json, leaves, to_json
from dpsynth.privacy.ledger import DatasetRecord, Entry, Ledger
from dpsynth.privacy.meaning import Meaning, budget_warnings, finite, meaning_of_cost
from dpsynth.privacy.statement import stage_of

NOT_BOOKED = "reserved, never booked"
UNNAMED = "(not named)"
# Delta of the run of which is said how large it may still be: what `fit` takes unless told.
USUAL_DELTA = 1e-6


@dataclass(frozen=True, kw_only=True, slots=True)
class RunView:
    """One run. epsilon: of it alone, at its own delta.  so_far: of the data set up to and with it, at the data set's delta.
    sub_budget: label of the part of the cap that it used, if any."""

    id: str
    label: str
    state: str
    created: str
    cost: Cost
    epsilon: float
    delta: float
    so_far: float
    sub_budget: str | None = None
    events: tuple[Event, ...] = ()

    def to_json(self) -> dict[str, Any]:
        body = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("cost", "events")}
        return body | {"so_far": finite(self.so_far), "cost": self.cost.to_json(), "queries": len(self.events)}


@dataclass(frozen=True, kw_only=True, slots=True)
class ReleaseView:
    """One release of one run, as it was booked."""

    run: str
    recipient: str
    purpose: str | None
    expires: str | None
    verdict: str | None
    created: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Holder:
    """What somebody holds: the distinct runs released to them, and what these tell together (epsilon at `delta`)."""

    name: str
    runs: tuple[str, ...]
    releases: int
    cost: Cost
    delta: float

    @property
    def epsilon(self) -> float:
        return self.cost.epsilon(self.delta)

    @property
    def meaning(self) -> Meaning:
        return meaning_of_cost(self.cost, self.delta)

    def to_json(self) -> dict[str, Any]:
        own = {"name": self.name, "runs": list(self.runs), "releases": self.releases, "delta": self.delta}
        return own | {"epsilon": finite(self.epsilon)} | self.meaning.to_json()


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """A sub-budget: a named part of a data set's cap. left: epsilon of the largest run that it and the
    whole's cap would still let through."""

    label: str
    cap: Filter
    epsilon: float
    left: float

    def to_json(self) -> dict[str, Any]:
        return {"label": self.label, "cap": asdict(self.cap), "epsilon": finite(self.epsilon), "left": self.left}


@dataclass(frozen=True, kw_only=True, slots=True)
class DatasetView:
    """One data set under one privacy unit (costs under different units do not add up; None before the first run).

    total: all its runs, whoever holds them.  epsilon: of them, at total.delta; under a cap by the cap's filter, at the cap's
    delta, else at the sum of the runs' deltas.  left: epsilon of the largest run (at `left_delta`) that the cap would still let
    through; None without a cap.  parts: its sub-budgets.  together: all recipients, if they put what they have together; None
    where nothing was released.  stages: share of the total by stage of the flow.
    """

    id: str
    name: str | None
    unit: str | None
    cap: Filter | None
    epsilon: float
    left: float | None
    left_delta: float
    parts: tuple[Part, ...]
    total: Holder
    runs: tuple[RunView, ...]
    releases: tuple[ReleaseView, ...]
    recipients: tuple[Holder, ...]
    together: Holder | None
    stages: dict[str, float]

    @property
    def title(self) -> str:
        return self.name or self.id

    @property
    def warnings(self) -> tuple[str, ...]:
        """What a reader must know of a total that promises little."""
        return tuple(budget_warnings(self.epsilon, self.total.delta, None).values())

    def to_json(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "name": self.name,
            "unit": self.unit,
            "cap": None if self.cap is None else asdict(self.cap),
            "left": None if self.left is None else {"epsilon": self.left, "delta": self.left_delta},
            **{k: v for k, v in self.total.to_json().items() if k not in ("name", "runs", "releases")},
            "epsilon": finite(self.epsilon),
            "cost": self.total.cost.to_json(),
            "sub_budgets": [p.to_json() for p in self.parts],
            "runs": [r.to_json() for r in self.runs],
            "releases": [asdict(r) for r in self.releases],
            "recipients": [h.to_json() for h in self.recipients],
            "all_recipients_together": None if self.together is None else self.together.to_json(),
            "share_by_stage": self.stages,
            "warnings": list(self.warnings),
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class Spending:
    """The whole ledger, or a part of it. problems: what is wrong with its chain.  overlap: the total if one unit is in all data
    sets at once; None for a single one, and where they count in different units."""

    datasets: tuple[DatasetView, ...]
    overlap: Holder | None
    head: str
    problems: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        return {
            "ledger_head": self.head,
            "problems": list(self.problems),
            "datasets": [d.to_json() for d in self.datasets],
            "if_one_unit_is_in_all": None if self.overlap is None else self.overlap.to_json(),
        }


def spending(ledger: Ledger, dataset: str | None = None) -> Spending:
    """What a ledger shows, of all data sets or one (its name or id). Reads the ledger alone.

    Raises LedgerError where there is no such data set.
    """
    records = ledger.datasets()
    if dataset is not None:
        records = [r for r in records if dataset in (r.id, r.name)]
        if not records:
            raise LedgerError(f"this ledger has no data set {dataset!r}; see: dpsynth budget show")
    views = tuple(_dataset(ledger, record) for record in records)
    return Spending(
        datasets=views,
        overlap=_overlap(views),
        head=ledger.head(),
        problems=tuple(ledger.verify()),
    )


def run_of(views: Iterable[DatasetView], run: str) -> tuple[DatasetView, RunView]:
    """A run and its data set. Raises LedgerError where there is none."""
    for view in views:
        for found in view.runs:
            if found.id == run:
                return view, found
    raise LedgerError(f"this ledger has no run {run!r}; see: dpsynth budget show")


def _dataset(ledger: Ledger, record: DatasetRecord) -> DatasetView:
    spent, entries = ledger.spent(record.id, record.unit), ledger.entries(record.id)
    cap, delta = spent.cap, spent.delta
    runs = tuple(_runs(entries, record.unit, cap, delta))
    by_id = {run.id: run for run in runs}
    releases = tuple(_release(e) for e in entries if e.kind == "release" and e.run in by_id)
    total = _held("all runs", by_id, by_id, len(releases), delta)
    whole = [(cap, total.cost)] if cap is not None else []
    left_delta = USUAL_DELTA if cap is None else min(USUAL_DELTA, cap.delta / 10)
    return DatasetView(
        id=record.id,
        name=record.name,
        unit=record.unit,
        cap=cap,
        epsilon=spent.epsilon,
        left=None if cap is None else _largest_run(whole, left_delta),
        left_delta=left_delta,
        parts=tuple(
            Part(label=p.label, cap=p.cap, epsilon=p.epsilon, left=_largest_run([*whole, (p.cap, p.cost)], left_delta))
            for p in spent.sub_budgets
        ),
        total=total,
        runs=runs,
        releases=releases,
        recipients=tuple(_recipients(releases, by_id, delta)),
        together=_held("all recipients together", (r.run for r in releases), by_id, len(releases), delta)
        if releases
        else None,
        stages=_stages(runs),
    )


def _runs(entries: Sequence[Entry], unit: str | None, cap: Filter | None, delta: float) -> Iterable[RunView]:
    """Runs under one unit, in order, each with its events where it was committed."""
    did = {e.run: tuple(from_json(event) for event in e.body["events"]) for e in entries if e.kind == "commit"}
    so_far = Cost()
    for entry in entries:
        if entry.kind != "reserve" or entry.body["unit"] != unit:
            continue
        cost = Cost.from_json(entry.body["cost"])
        first, so_far = so_far == Cost(), so_far + cost
        in_all = so_far.epsilon(delta) if cap is None else cap.spent(so_far)
        yield RunView(
            id=entry.run,
            label=entry.body["label"],
            state="committed" if entry.run in did else "reserved",
            created=entry.created,
            cost=cost,
            epsilon=entry.epsilon,
            delta=entry.body["delta"],
            so_far=min(in_all, planned_epsilon(cost, entry.plan, delta)) if first else in_all,
            sub_budget=entry.body["sub_budget"],
            events=did.get(entry.run, ()),
        )


def _release(entry: Entry) -> ReleaseView:
    body = entry.body
    return ReleaseView(
        run=entry.run,
        recipient=body.get("recipient") or UNNAMED,
        purpose=body.get("purpose"),
        expires=body.get("expires"),
        verdict=body.get("verdict"),
        created=entry.created,
    )


def _recipients(releases: Sequence[ReleaseView], runs: Mapping[str, RunView], delta: float) -> Iterable[Holder]:
    """Each recipient's view, in order of their first release."""
    for name in dict.fromkeys(r.recipient for r in releases):
        own = [r.run for r in releases if r.recipient == name]
        yield _held(name, own, runs, len(own), delta)


def _held(name: str, ids: Iterable[str], runs: Mapping[str, RunView], releases: int, delta: float) -> Holder:
    """The composition of distinct runs: one that is held twice is held once."""
    distinct = tuple(dict.fromkeys(ids))
    return Holder(
        name=name, runs=distinct, releases=releases, cost=sum((runs[i].cost for i in distinct), Cost()), delta=delta
    )


def _overlap(views: Sequence[DatasetView]) -> Holder | None:
    if len({view.id for view in views}) < 2 or len({view.unit for view in views if view.runs}) != 1:
        return None
    return Holder(
        name="all data sets",
        runs=tuple(run.id for view in views for run in view.runs),
        releases=sum(len(view.releases) for view in views),
        cost=sum((view.total.cost for view in views), Cost()),
        delta=sum(view.total.delta for view in views),
    )


def _stages(runs: Iterable[RunView]) -> dict[str, float]:
    """Share of all runs' mu^2 by stage, in order of first use; what a run reserved and did not book has a line of its own."""
    parts: dict[str, float] = {}
    for run in runs:
        spent = 0.0
        for event in run.events:
            own = cost_of([event]).mu_squared
            stage = stage_of(event)
            parts[stage] = parts.get(stage, 0.0) + own
            spent += own
        if (rest := run.cost.mu_squared - spent) > 1e-6 * run.cost.mu_squared:
            parts[NOT_BOOKED] = parts.get(NOT_BOOKED, 0.0) + rest
    total = sum(parts.values())
    return {stage: part / total for stage, part in parts.items()} if total > 0 else {}


def _largest_run(caps: Sequence[tuple[Filter, Cost]], delta: float) -> float:
    """Epsilon (rounded down) of the largest run at `delta` that every one of these caps, with what is spent of it, would grant."""

    def granted(epsilon: float) -> bool:
        run = budget_of(epsilon, delta)
        first = all(spent == Cost() for _, spent in caps)
        return all(cap.grants(spent + run) or (first and cap.holds(run.epsilon(cap.delta))) for cap, spent in caps)

    low, high = 0.0, 1.0
    while granted(high):
        low, high = high, 2 * high
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if granted(middle) else (low, middle)
    return low


@dataclass(frozen=True, kw_only=True, slots=True)
class EventRow:
    """One line of a run's queries. share: of the run's mu^2; branches that see disjoint units share that of the dearest."""

    stage: str
    label: str
    kind: str
    parameters: str
    share: float


def event_rows(events: Sequence[Event]) -> list[EventRow]:
    """Every query of a run, one line each."""
    total = cost_of(events).mu_squared
    rows = []
    for event in events:
        share = cost_of([event]).mu_squared / total if total > 0 else 0.0
        found = list(leaves(event))
        rows += [
            EventRow(
                stage=leaf.stage,
                label=leaf.label,
                kind=leaf.kind if len(found) == 1 else f"{event.kind} of {leaf.kind}",
                parameters=_parameters(leaf),
                share=share,
            )
            for leaf in found
        ]
    return rows


def _parameters(leaf: Leaf) -> str:
    """The mechanism's own parameters: sensitivity under add/remove of one unit, scale of the noise."""
    own = ((f.name.replace("_", " "), getattr(leaf, f.name)) for f in fields(leaf) if f.name not in ("stage", "label"))
    return ", ".join(f"{name} {value:.5g}" if isinstance(value, float) else f"{name} {value}" for name, value in own)


def run_json(view: DatasetView, run: RunView) -> dict[str, Any]:
    """A run with every query."""
    return {
        "dataset": {"id": view.id, "name": view.name, "unit": view.unit},
        "run": run.to_json() | meaning_of_cost(run.cost, run.delta).to_json(),
        "releases": [asdict(r) for r in view.releases if r.run == run.id],
        "events": [to_json(e) for e in run.events],
    }
