"""Reports as Rich tables."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table

    from dpsynth.fidelity import FidelityReport
    from dpsynth.gate import GateReport
    from dpsynth.privacy.statement import PrivacyStatement

METRICS = {
    "tv1": "columns: mean 1-way TVD",
    "tv2": "pairs: mean 2-way TVD",
    "mean": "means, in standard deviations",
    "sd": "standard deviations, relative",
    "missing": "missing shares",
    "association": "correlations and associations",
}


def fidelity_tables(report: FidelityReport, pairs: int = 12) -> Group:
    """Summary between ceiling and floor, the strongest associations, the columns that are furthest off."""
    from rich.console import Group

    return Group(_summary(report), _associations(report, pairs), _columns(report))


def _summary(report: FidelityReport) -> Table:
    from rich.table import Table

    table = Table(
        title="Difference from the real table (0 = equal)",
        caption=f"ceiling: {report.ceiling_of}; floor: real columns, each shuffled by itself. PRIVATE: keep inside.",
    )
    table.add_column("metric")
    for name in ("synthetic", "ceiling", "floor"):
        table.add_column(name, justify="right")
    for key, label in METRICS.items():
        own, best, worst = (getattr(s, key) for s in (report.synthetic, report.ceiling, report.floor))
        # Shuffled columns are the real ones, so only dependence has a floor.
        has_floor = key in ("tv2", "association")
        near = own - best < 0.02 or (has_floor and own <= (best + worst) / 2)
        colour = "green" if near else "red" if has_floor and own >= worst else "yellow"
        table.add_row(label, f"[{colour}]{own:.3f}[/]", f"{best:.3f}", f"{worst:.3f}" if has_floor else "")
    if report.quality is not None:
        table.add_row("SDMetrics quality (1 = equal)", f"{report.quality:.3f}", "", "")
    return table


def _associations(report: FidelityReport, pairs: int) -> Table:
    from rich.table import Table

    table = Table(title="Strongest associations (Pearson between numbers, Cramér's V otherwise)")
    table.add_column("pair")
    for name in ("real", "synthetic", "ceiling", "independent"):
        table.add_column(name, justify="right")
    for p in report.pairs[:pairs]:
        colour = "green" if abs(p.synthetic - p.real) < 0.1 else "yellow" if abs(p.synthetic - p.real) < 0.25 else "red"
        table.add_row(
            f"{p.first} x {p.second}", f"{p.real:+.2f}", f"[{colour}]{p.synthetic:+.2f}[/]", f"{p.other:+.2f}", "0.00"
        )
    return table


def _columns(report: FidelityReport) -> Table:
    from rich.table import Table

    table = Table(title="Columns furthest from the real ones (real → synthetic)")
    for name in ("column", "TVD (ceiling)", "mean", "sd", "missing"):
        table.add_column(name, justify="left" if name == "column" else "right", overflow="fold")
    for c in sorted(report.columns, key=lambda c: -c.tv1)[:8]:
        moments = [_between(f"{v:.4g}" for v in pair) if pair else "" for pair in (c.means, c.sds)]
        table.add_row(
            c.name, f"{c.tv1:.3f} ({c.ceiling:.3f})", *moments, _between(f"{share:.1%}" for share in c.missing)
        )
    return table


def _between(values: Iterable[str]) -> str:
    return " → ".join(values)


def budget_table(statement: PrivacyStatement) -> Table:
    """Where a run's budget went, stage by stage."""
    from rich.table import Table

    from dpsynth.privacy.statement import stage_of

    title = f"Budget: epsilon {statement.epsilon:g}, delta {statement.delta:g}, unit {statement.unit}"
    table = Table(
        title=title, caption=f"{len(statement.events)} queries; recomputed epsilon {statement.recomputed_epsilon:.6f}"
    )
    for name in ("stage", "queries", "share", ""):
        table.add_column(name, justify="right" if name in ("queries", "share") else "left")
    for stage, share in statement.spent_by_stage().items():
        count = sum(stage_of(e) == stage for e in statement.events)
        table.add_row(stage, str(count), f"{share:.1%}", f"[blue]{'█' * max(round(40 * share), 1)}[/]")
    return table


def gate_table(report: GateReport) -> Table:
    """The gate's checks and verdict."""
    from rich.table import Table

    colour = {"pass": "green", "fail": "red", "inconclusive": "yellow"}
    table = Table(title=f"Fidelity gate: [{colour[report.verdict]}]{report.verdict}[/]")
    for name in ("check", "verdict", "detail"):
        table.add_column(name)
    for check in report.checks:
        table.add_row(check.name, f"[{colour[check.verdict]}]{check.verdict}[/]", check.detail)
    return table
