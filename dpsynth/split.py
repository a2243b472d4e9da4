"""The split of a budget, before anything is spent.

A run is one Gaussian mechanism of parameter mu (see `privacy.accounting`); its stages share mu^2. A stage that has
nothing to ask leaves its share to the measurement of pairs, which takes what remains, so a run always spends all of it.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Any

from dpsynth.privacy.accounting import Cost
from dpsynth.privacy.budget import budget_of
from dpsynth.privacy.errors import PrivacyError, SchemaError
from dpsynth.schema import Column, Schema

if TYPE_CHECKING:
    from rich.table import Table

STAGES = {
    "identifiers": "which columns hold direct identifiers (noisy votes of the PII detector)",
    "schema": "kinds, decimals and ranges that were not declared",
    "vocabulary": "categories and frequent values that enough units hold",
    "one-way": "the histogram of each column",
    "selection": "which pairs of columns depend on each other",
    "pairs": "the tables of the selected pairs",
    "gate": "how far the model is from the rows, for the fidelity gate",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Split:
    """Shares of mu^2 by stage; `pairs` takes what is left."""

    identifiers: float = 0.03
    schema: float = 0.12
    vocabulary: float = 0.12
    one_way: float = 0.15
    selection: float = 0.03
    gate: float = 0.05

    def __post_init__(self) -> None:
        shares = [getattr(self, f.name) for f in fields(self)]
        if any(not 0 < s < 1 for s in shares) or sum(shares) >= 1:
            raise PrivacyError("each share of the split must be above 0, and all together below 1")


@dataclass(frozen=True, kw_only=True, slots=True)
class PlanLine:
    """One stage: its share of mu^2, its queries, and the noise of one query (sd, in units)."""

    stage: str
    share: float
    queries: int
    sigma: float
    detail: str


@dataclass(frozen=True, kw_only=True, slots=True)
class BudgetPlan:
    """What a run of `fit` would spend where, and what it would get for it."""

    epsilon: float
    delta: float
    cost: Cost
    n_rows: int | None
    lines: tuple[PlanLine, ...]
    warnings: tuple[str, ...] = field(default=())

    @property
    def mu(self) -> float:
        """Gaussian-DP parameter of the whole run."""
        return math.sqrt(self.cost.mu_squared)

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"mu": self.mu}

    def __rich__(self) -> Table:
        from rich.table import Table

        table = Table(title=f"Budget plan: epsilon {self.epsilon:g}, delta {self.delta:g} (mu {self.mu:.4f})")
        for name, justify in (("stage", "left"), ("share", "right"), ("queries", "right"), ("noise sd", "right")):
            table.add_column(name, justify=justify)  # type: ignore[arg-type]  # rich wants the literal
        if self.n_rows:
            table.add_column("of the rows", justify="right")
        table.add_column("buys")
        for line in self.lines:
            noise = [f"± {line.sigma:.1f}"] + ([f"{line.sigma / self.n_rows:.2%}"] if self.n_rows else [])
            table.add_row(line.stage, f"{line.share:.0%}", str(line.queries), *noise, line.detail)
        table.caption = "\n".join(self.warnings) or None
        return table


def plan(
    schema: Schema, *, epsilon: float, delta: float = 1e-6, n_rows: int | None = None, split: Split | None = None
) -> BudgetPlan:
    """The split that `fit` would use for a table of this schema; touches no data.

    n_rows: the number of units, if it is public, to set the noise in proportion.
    Columns without a kind are planned for as if all about them had to be learned.
    """
    split = split or Split()
    cost = budget_of(epsilon, delta)
    queries = _queries(schema)
    if not queries["one-way"]:
        raise SchemaError("the schema has no column to model")
    shares = {stage: getattr(split, stage.replace("-", "_")) for stage in STAGES if stage != "pairs"}
    shares = {stage: share for stage, share in shares.items() if queries[stage]}
    rest = "pairs" if queries["pairs"] else "one-way"
    shares[rest] = shares.get(rest, 0.0) + 1 - math.fsum(shares.values())
    lines = tuple(
        PlanLine(
            stage=stage,
            share=shares[stage],
            queries=queries[stage],
            sigma=math.sqrt(queries[stage] / (shares[stage] * cost.mu_squared)),
            detail=detail,
        )
        for stage, detail in STAGES.items()
        if stage in shares
    )
    return BudgetPlan(
        epsilon=epsilon, delta=delta, cost=cost, n_rows=n_rows, lines=lines, warnings=_warnings(lines, epsilon, n_rows)
    )


def _queries(schema: Schema) -> dict[str, int]:
    """How many queries each stage asks. A vector of scores that shares one noise scale counts once for each score."""
    modelled = [c for c in schema.columns if c.role != "identifier" and c.kind != "id"]
    d = len(modelled)
    strings = [c for c in modelled if c.kind in (None, "text")]
    return {
        "identifiers": 2 * len(strings),
        "schema": sum(_unknowns(c) for c in modelled),
        "vocabulary": sum(c.categories is None and c.kind != "boolean" for c in modelled),
        "one-way": d,
        "selection": d * (d - 1) // 2,
        "pairs": max(d - 1, 0),
        "gate": 2 * d if d > 1 else 0,
    }


def _unknowns(column: Column) -> int:
    """Histograms that learning this column's form takes: its kind, its step, its range."""
    if column.kind in ("categorical", "boolean", "text"):
        return 0
    step_known = column.integer or column.decimals is not None
    return int(column.kind is None) + int(not step_known) + int(column.bounds is None)


def _warnings(lines: tuple[PlanLine, ...], epsilon: float, n_rows: int | None) -> tuple[str, ...]:
    out = []
    if epsilon > 10:
        out.append("epsilon above 10 bounds very little: an attacker's odds may grow by more than 22,000.")
    one_way = next(line for line in lines if line.stage == "one-way")
    if n_rows is not None and one_way.sigma > 0.05 * n_rows:
        out.append(f"Each count of a column carries noise of ± {one_way.sigma:.0f} on {n_rows:,} units: expect little.")
    return tuple(out)
