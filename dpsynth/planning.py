"""What a run would spend, before anything is spent.

The lines of a plan are those of the ledger: queries, which share the allowance of one Gaussian mechanism by `Split`, and trainings, which
are reserved as they are planned.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import NormalDist
from typing import TYPE_CHECKING, Any, Literal

from dpsynth.constraints import Determines
from dpsynth.encode.from_counts import MAX_LABELS
from dpsynth.encode.grid import groups_worth, intervals_worth
from dpsynth.models.named import UNTRAINED, generator_of
from dpsynth.models.protocol import Generator, TextGenerator, reserve_of
from dpsynth.privacy.accounting import Cost, gaussian_epsilon, pure_of_mu
from dpsynth.privacy.budget import Reserve, budget_of
from dpsynth.privacy.errors import PrivacyError, SchemaError
from dpsynth.privacy.events import AboveThreshold, SubsampledGaussian
from dpsynth.privacy.meaning import budget_warnings
from dpsynth.schema import Column, Schema
from dpsynth.split import (
    COUNTED_PART,
    GATE_PARTS,
    Split,
    Watching,
    pairs_looked_at,
    resolutions_looked_at,
    text_part,
    watched,
)

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table

STAGES = {
    "identifiers": "which columns hold direct identifiers (noisy votes of the PII detector)",
    "schema": "kinds, decimals and ranges that were not declared",
    "vocabulary": "categories and frequent values that enough units hold",
    "rare-values": "further categories, where the first look left many rows without one",
    "mappings": "which value goes with which, where one column is said to determine another but not how",
    "one-way": "the histogram of each column",
    "selection": "which pairs of columns depend on each other",
    "pairs": "the tables of the selected pairs",
    "text": "words and embeddings of texts, for the language model that writes them",
    "gate": "how far the model is from the rows, for the fidelity gate",
}
Phase = Literal["schema", "selection", "measurement", "training", "gate", "reserve"]
# What each stage is for, but for trainings, whose names are their own. None is held back: a run spends all it reserved.
PHASES: dict[str, Phase] = {
    "identifiers": "schema",
    "schema": "schema",
    "vocabulary": "schema",
    "rare-values": "schema",
    "mappings": "schema",
    "one-way": "measurement",
    "selection": "selection",
    "pairs": "measurement",
    "text": "measurement",
    "gate": "gate",
}
# A column of numbers with at most this many whole values has a cell for each (as in `learn`).
WHOLE = 512
# A count column whose noise is more than this share of all units tells little.
LITTLE = 0.05
_SHOWN = 12
_LINES = ("numeric", "datetime", "timedelta")


Watched = Literal["pair", "groups", "candidates"]


@dataclass(frozen=True, kw_only=True, slots=True)
class WatchPlan:
    """What the gate watches by itself: the dependence of a pair of columns, or the counts of the groups that columns make; and the
    first look at its candidates, if it has several.

    sigma: noise sd of the pair's distance, of one group's count, or of the distance by which a candidate passes, in units.
    """

    what: Watched
    columns: tuple[str, ...]
    sigma: float


@dataclass(frozen=True, kw_only=True, slots=True)
class PlanLine:
    """One stage: its share of mu^2, its queries, and the noise of one query (sd, in units).

    Of a training the queries are its steps, and the noise is that of a step's sum of gradients, in clipping norms.
    In the stage "one-way", labels whose values were looked for have `COUNTED_PART` of a query's share, and so more noise than this; with
    what they were counted before it is less again (see `CellPlan`).
    """

    stage: str
    phase: Phase
    share: float
    queries: int
    sigma: float
    detail: str


@dataclass(frozen=True, kw_only=True, slots=True)
class CellPlan:
    """What one table of counts would hold: a column's histogram or the table of a pair of columns.

    cells: how many cells it has; None where the values are not declared.  expected: units in a cell on average, with a public
    number of units.  sigma: noise sd of a cell, in units.  seen_from: units that must hold a value that was not declared, so
    that it shows at all.
    """

    columns: tuple[str, ...]
    cells: int | None
    expected: float | None
    sigma: float
    seen_from: float | None = None

    @property
    def drowns(self) -> bool:
        """Whether the noise of a cell is larger than what an average cell holds."""
        return self.expected is not None and self.sigma > self.expected


@dataclass(frozen=True, kw_only=True, slots=True)
class BudgetPlan:
    """What a run of `fit` would spend where, and what it would get for it.

    columns: the histograms.  pairs: the tables that would drown if they were chosen, the worst first (they are named only where
    n_rows is).  watched: by the gate, each by itself; beside the distances of all columns and pairs.
    """

    epsilon: float
    delta: float
    cost: Cost
    n_rows: int | None
    lines: tuple[PlanLine, ...]
    columns: tuple[CellPlan, ...] = field(default=())
    pairs: tuple[CellPlan, ...] = field(default=())
    watched: tuple[WatchPlan, ...] = field(default=())
    warnings: tuple[str, ...] = field(default=())

    @property
    def mu(self) -> float:
        """Gaussian-DP parameter of the whole run."""
        return math.sqrt(self.cost.mu_squared)

    @property
    def phases(self) -> dict[Phase, float]:
        """Share of mu^2 by what it is for, in order of first use; sums to 1."""
        out: dict[Phase, float] = {}
        for line in self.lines:
            out[line.phase] = out.get(line.phase, 0.0) + line.share
        return out

    def to_json(self) -> dict[str, Any]:
        tables = {
            name: [asdict(c) | {"drowns": c.drowns} for c in getattr(self, name)] for name in ("columns", "pairs")
        }
        return asdict(self) | {"mu": self.mu, "phases": self.phases} | tables

    def __rich__(self) -> Group:
        from rich.console import Group
        from rich.text import Text

        shown = [
            self._stages(),
            *([self._cells()] if self.n_rows else []),
            *([self._watched()] if self.watched else []),
        ]
        return Group(*shown, *(Text.assemble(("! ", "bold yellow"), text) for text in self.warnings))

    def _stages(self) -> Table:
        table = _table(f"Budget plan: epsilon {self.epsilon:g}, delta {self.delta:g} (mu {self.mu:.4f})")
        for name in ("stage", "share", "queries", "noise sd", *(["of rows"] if self.n_rows else []), "buys"):
            number = name not in ("stage", "buys")
            table.add_column(name, justify="right" if number else "left", no_wrap=name == "stage")
        for line in self.lines:
            of_rows = "" if line.phase == "training" or not self.n_rows else f"{line.sigma / self.n_rows:.2%}"
            noise = [f"±\xa0{line.sigma:.1f}", *([of_rows] if self.n_rows else [])]
            table.add_row(line.stage, f"{line.share:.0%}", str(line.queries), *noise, line.detail)
        phases = ", ".join(f"{phase} {share:.0%}" for phase, share in self.phases.items())
        table.caption = f"by purpose: {phases}; delta kept for values found in the rows: {self.cost.delta:.1g}"
        return table

    def _watched(self) -> Table:
        from rich.markup import escape

        table = _table("What the gate watches by itself")
        for name in ("what", "of", "noise sd", *(["of rows"] if self.n_rows else [])):
            table.add_column(name, justify="left" if name in ("what", "of") else "right", overflow="fold")
        for entry in self.watched[:_SHOWN]:
            noise = [f"±\xa0{entry.sigma:.1f}"] + ([f"{entry.sigma / self.n_rows:.2%}"] if self.n_rows else [])
            what = {"pair": "dependence", "groups": "groups", "candidates": "first look at candidates"}[entry.what]
            table.add_row(what, escape(" x ".join(entry.columns) or "all pairs, on average"), *noise)
        left_out = len(self.watched) - _SHOWN
        table.caption = f"{left_out} more: see --json" if left_out > 0 else None
        return table

    def _cells(self) -> Table:
        from rich.markup import escape

        table = _table(f"What noise leaves of {self.n_rows:,} units")
        for name in ("column or pair", "cells", "units each", "noise sd", "so"):
            table.add_column(name, justify="left" if name in ("column or pair", "so") else "right", overflow="fold")
        shown = sorted(self.columns, key=lambda c: -c.sigma / c.expected if c.expected else 0.0)[:_SHOWN]
        for cell in (*shown, *self.pairs[:_SHOWN]):
            table.add_row(
                escape(" x ".join(cell.columns)),
                str(cell.cells or "?"),
                f"{cell.expected:,.1f}" if cell.expected is not None else "?",
                f"±\xa0{cell.sigma:.1f}",
                _verdict(cell),
            )
        left_out = len(self.columns) - len(shown) + max(len(self.pairs) - _SHOWN, 0)
        table.caption = f"{left_out} more: see --json" if left_out else None
        return table


def _table(title: str) -> Table:
    from rich.table import Table

    return Table(title=title, caption_justify="left")


def _verdict(cell: CellPlan) -> str:
    if cell.seen_from is not None:
        return f"a value shows from {cell.seen_from:,.0f} units on"
    if cell.drowns:
        return "[red]drowns[/]"
    return "[yellow]faint[/]" if cell.expected is not None and cell.sigma > 0.25 * cell.expected else "[green]clear[/]"


def plan(
    schema: Schema | str | Path,
    *,
    epsilon: float,
    delta: float = 1e-6,
    n_rows: int | None = None,
    model: str | Generator = "auto",
    gate: Watching | None = None,
    split: Split | None = None,
) -> BudgetPlan:
    """The split that `fit` would use for a table of this schema (or that in a JSON file); touches no data.

    n_rows: the number of units, if it is *public*, to set the noise in proportion to what a cell holds.  model, gate: those of the fit.
    Columns without a kind are planned for as if all about them had to be learned, and as if none held texts.
    Raises SchemaError where there is nothing to model, PrivacyError where delta is not below 1 / n_rows, ModelError for a model that there
    is not, or whose training such a budget does not pay.

    >>> schema = dpsynth.Schema([dpsynth.Column("age", "numeric", bounds=(0, 110)), dpsynth.Column("city")])
    >>> plan = dpsynth.plan(schema, epsilon=1.0, n_rows=20_000)
    >>> round(sum(line.share for line in plan.lines), 9)
    1.0
    """
    schema, cost = Schema.of(schema), budget_of(epsilon, delta)
    _require_sound(delta, n_rows)
    reserve, written = Reserve(adaptive=cost), False
    if model not in UNTRAINED:
        generator = generator_of(model)
        reserve, written = reserve_of(generator, epsilon, delta), isinstance(generator, TextGenerator)
    queries = _queries(schema, written=written)
    if not queries["one-way"]:
        raise SchemaError("the schema has no column to model")
    lines = (*_of_queries(schema, queries, split or Split.of(cost), reserve, cost), *_of_trainings(reserve, cost))
    columns = tuple(_column_cells(schema, lines, cost, n_rows))
    pairs = tuple(_drowned_pairs(schema, columns, lines, n_rows))
    for_gate = math.fsum(line.share for line in lines if line.stage == "gate") * cost.mu_squared
    watches, unwatched = _watch_plan(schema, gate, for_gate)
    return BudgetPlan(
        epsilon=epsilon,
        delta=delta,
        cost=cost,
        n_rows=n_rows,
        lines=lines,
        columns=columns,
        pairs=pairs,
        watched=watches,
        warnings=(*unwatched, *_warnings(lines, columns, pairs, (epsilon, delta), cost, n_rows)),
    )


def _of_queries(
    schema: Schema, queries: dict[str, int], split: Split, reserve: Reserve, cost: Cost
) -> Iterator[PlanLine]:
    """What shares the allowance for queries. cost: of the whole run."""
    shares = {stage: getattr(split, stage.replace("-", "_")) for stage in STAGES if stage not in ("pairs", "text")}
    shares = {stage: share for stage, share in shares.items() if queries[stage]}
    if "vocabulary" in shares:
        worded = sum(c.kind in (None, "categorical", "text") for c in _worded(schema))
        shares["vocabulary"] = split.vocabulary_of(worded, queries["vocabulary"] - worded)
    asked: dict[str, float] = dict(queries)
    if queries["pairs"]:
        asked["one-way"] -= (1 - COUNTED_PART) * len(_labels_looked_for(schema))
        shares["one-way"] *= asked["one-way"] / queries["one-way"]
    rest = "pairs" if queries["pairs"] else "one-way"
    left = 1 - math.fsum(shares.values())
    if queries["text"]:
        texts = sum(c.kind == "text" for c in _modelled(schema))
        shares["text"] = text_part(texts, queries["one-way"] - texts) * left
    shares[rest] = shares.get(rest, 0.0) + left - shares.get("text", 0.0)
    allowance = reserve.adaptive.mu_squared
    for stage, detail in STAGES.items():
        if stage in shares:
            yield PlanLine(
                stage=stage,
                phase=PHASES[stage],
                share=shares[stage] * allowance / cost.mu_squared,
                queries=queries[stage],
                sigma=math.sqrt(asked[stage] / (shares[stage] * allowance)),
                detail=detail,
            )


def _of_trainings(reserve: Reserve, cost: Cost) -> Iterator[PlanLine]:
    """What is planned beside the queries. All trainings of a run have one rate and noise, so that each weighs by its steps."""
    trainings = [event for event in reserve.planned if isinstance(event, SubsampledGaussian)]
    share = 1 - reserve.adaptive.mu_squared / cost.mu_squared
    for event in trainings:
        yield PlanLine(
            stage=event.stage,
            phase="training",
            share=share * event.steps / sum(e.steps for e in trainings),
            queries=event.steps,
            sigma=event.noise_multiplier,
            detail=f"{event.label}: steps, each on about one unit in {1 / event.sampling_rate:,.0f}",
        )


def _require_sound(delta: float, n_rows: int | None) -> None:
    if n_rows is None:
        return
    if isinstance(n_rows, bool) or not isinstance(n_rows, int) or n_rows < 1:
        raise SchemaError("n_rows must be a whole number of units, 1 or more")
    if "large delta" in (found := budget_warnings(1.0, delta, n_rows)):
        raise PrivacyError(found["large delta"])


def _modelled(schema: Schema) -> list[Column]:
    made = {m.result for m in schema.made}
    return [c for c in _looked_at(schema) if c.name not in made]


def _looked_at(schema: Schema) -> list[Column]:
    """Columns of which something is to be learned: those that are modelled, and dependents whose mapping is to be bought."""
    made = {m.result for m in schema.made} - {m.result for m in _unmapped(schema)}
    return [c for c in schema.columns if c.role != "identifier" and c.kind != "id" and c.name not in made]


def _unmapped(schema: Schema) -> list[Determines]:
    return [m for m in schema.made if isinstance(m, Determines) and not m.pairs]


def _worded(schema: Schema) -> list[Column]:
    """Columns whose frequent values are looked for."""
    return [c for c in _looked_at(schema) if c.categories is None and c.kind != "boolean"]


def _labels_looked_for(schema: Schema) -> set[str]:
    """Columns of labels whose values are looked for, and so counted, before the one-way stage; those of no kind may be such."""
    worded = {c.name for c in _worded(schema) if c.kind in (None, "categorical", "text")}
    return worded & {c.name for c in _modelled(schema)}


def _queries(schema: Schema, *, written: bool) -> dict[str, int]:
    """How many queries each stage asks. written: whether texts are. A vector of scores that shares one noise scale counts once for each score."""
    looked_at = _looked_at(schema)
    d = len(_modelled(schema))
    strings = [c for c in looked_at if c.kind in (None, "text")]
    return {
        "identifiers": 2 * len(strings),
        "schema": sum(_unknowns(c) for c in looked_at),
        "vocabulary": len(_worded(schema)),
        "rare-values": sum(c.kind is None for c in looked_at),
        "mappings": len(_unmapped(schema)),
        "one-way": d,
        "selection": len(pairs_looked_at(d)) * len(resolutions_looked_at(d)),
        "pairs": max(d - 1, 0),
        "text": 4 * written * sum(c.kind == "text" for c in _modelled(schema)),
        "gate": 2 * d if d > 1 else 0,
    }


def _unknowns(column: Column) -> int:
    """Histograms that learning this column's form takes: its kind, its step, its range."""
    if column.kind in ("categorical", "boolean", "text"):
        return 0
    step_known = column.integer or column.decimals is not None
    return int(column.kind is None) + int(not step_known) + int(column.bounds is None)


def _column_cells(schema: Schema, lines: Iterable[PlanLine], cost: Cost, n_rows: int | None) -> Iterator[CellPlan]:
    """The histogram of each column; the one thing that is not known before is how many values an undeclared column has."""
    stages = {line.stage: line for line in lines}
    alone, words = stages["one-way"].sigma, stages.get("vocabulary")
    worded = _labels_looked_for(schema)
    for column in _modelled(schema):
        sigma = alone
        if column.name in worded and words is not None and "pairs" in stages:
            sigma = (COUNTED_PART * alone**-2 + words.sigma**-2) ** -0.5  # both counts together
        cells = _cells(column, alone, n_rows)
        seen_from = None
        if cells is None and words is not None:
            z = -NormalDist().inv_cdf(cost.delta / words.queries)
            seen_from = 1.5 + words.sigma * z
        yield CellPlan(
            columns=(column.name,),
            cells=cells,
            expected=None if cells is None or n_rows is None else n_rows / cells,
            sigma=sigma,
            seen_from=seen_from,
        )


def _cells(column: Column, sigma: float, n_rows: int | None) -> int | None:
    """Values or intervals that the histogram tells apart; None where they are still to be found."""
    missing = int(column.nullable is not False)
    if column.kind == "boolean":
        return 2 + missing
    if column.categories is not None:
        return len(column.categories) + missing
    if column.kind not in _LINES:
        return None
    step = 1.0 if column.integer else None if column.decimals is None else 10.0**-column.decimals
    if column.bounds is not None and step is not None and not isinstance(column.bounds[0], str):
        whole = (float(column.bounds[1]) - float(column.bounds[0])) / step
        if whole <= WHOLE:
            return int(whole) + 1 + missing
    return None if n_rows is None else intervals_worth(n_rows, sigma) + missing


def _watch_plan(
    schema: Schema, gate: Watching | None, mu_squared: float
) -> tuple[tuple[WatchPlan, ...], tuple[str, ...]]:
    """(what the gate watches and with what noise, warnings of what it cannot). mu_squared: of its slice."""
    pairs, groups, lacking = watched(_modelled(schema), gate)
    plans = []
    if gate is not None and gate.candidates > 1 and mu_squared > 0:
        epsilon = pure_of_mu(math.sqrt(GATE_PARTS["candidates"] * mu_squared))
        look = AboveThreshold.costing(epsilon, sensitivity=1, stage="gate", label="")
        plans.append(WatchPlan(what="candidates", columns=(), sigma=look.sd))
        mu_squared *= 1 - GATE_PARTS["candidates"]
    asked: list[tuple[Watched, list[tuple[str, ...]], float]] = [
        # A pair's distance is taken twice: from the table, and from one without dependence.
        ("pair", [*pairs], 2 * len(pairs) / GATE_PARTS["pairs"]),
        ("groups", groups, len(groups) / GATE_PARTS["groups"]),
    ]
    plans += [
        WatchPlan(what=what, columns=columns, sigma=math.sqrt(queries / mu_squared))
        for what, sets, queries in asked
        for columns in sets
        if mu_squared > 0
    ]
    warned = (f"The gate cannot watch what is not modelled: {_listed(list(lacking))}.",) if lacking else ()
    return tuple(plans), warned


def _drowned_pairs(
    schema: Schema, columns: Iterable[CellPlan], lines: Iterable[PlanLine], n_rows: int | None
) -> Iterator[CellPlan]:
    """Tables of two columns whose cells hold less than their noise, the worst first. Long columns are grouped before."""
    pairs = next((line for line in lines if line.stage == "pairs"), None)
    if pairs is None or n_rows is None:
        return
    in_order = groups_worth(n_rows, pairs.sigma)
    known = []
    for column in columns:
        name = column.columns[0]
        if column.cells is not None:
            known.append((name, min(column.cells, in_order if schema[name].kind in _LINES else MAX_LABELS)))
    found = [
        CellPlan(columns=(a, b), cells=m * n, expected=n_rows / (m * n), sigma=pairs.sigma)
        for (a, m), (b, n) in itertools.combinations(known, 2)
    ]
    yield from sorted((c for c in found if c.drowns), key=lambda c: (-(c.cells or 0), c.columns))


def _warnings(
    lines: tuple[PlanLine, ...],
    columns: tuple[CellPlan, ...],
    pairs: tuple[CellPlan, ...],
    asked: tuple[float, float],
    cost: Cost,
    n_rows: int | None,
) -> Iterator[str]:
    yield from budget_warnings(*asked, None).values()
    if n_rows is None:
        return
    sigma = next(line.sigma for line in lines if line.stage == "one-way")
    if sigma > LITTLE * n_rows:
        needed = gaussian_epsilon(math.sqrt(cost.mu_squared) * sigma / (LITTLE * n_rows), asked[1] - cost.delta)
        yield (
            f"Each count of a column carries noise of ± {sigma:.0f} on {n_rows:,} units: expect little. "
            f"Noise of {LITTLE:.0%} takes epsilon {needed:.2g}, or {sigma / LITTLE:,.0f} units."
        )
    if drowned := [c.columns[0] for c in columns if c.drowns]:
        yield (
            f"Single values drown in noise: {_listed(drowned)}. Coarse shapes stay; declare fewer categories or coarser "
            "steps, or leave columns out."
        )
    if pairs:
        names = [" x ".join(c.columns) for c in pairs]
        yield f"Tables of pairs that would drown, and tell little if they are chosen: {_listed(names)}."


def _listed(names: list[str], most: int = 6) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
