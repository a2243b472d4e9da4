"""Reports as Rich tables."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table

    from dpsynth.fidelity import Collapse, Decay, FidelityReport, TextScore
    from dpsynth.fidelity.metrics import Metric
    from dpsynth.gate import GateReport
    from dpsynth.privacy.statement import PrivacyStatement


def fidelity_tables(report: FidelityReport, pairs: int = 12) -> Group:
    """Summary between ceiling and floor, the strongest associations, the columns that are furthest off, the texts."""
    from rich.console import Group

    tables = [_summary(report), *([_associations(report, pairs)] if report.pairs else []), _columns(report)]
    tables += [_groups(report)] if report.groups else []
    tables += [text_table(score) for score in report.texts]
    return Group(*tables, *([collapse_table(report.generations)] if report.generations is not None else []))


def collapse_table(found: Collapse) -> Table:
    """What is left of the real table, by generation."""
    from rich.table import Table

    table = Table(
        title="What is left when models learn from their own output",
        caption=f"{found.fits} of the fits read real rows: epsilon {found.total[0]:.4g} at delta {found.total[1]:g} in all",
    )
    for name in ("rows", "variance", "tails", "rare groups", "dependence", "pairs: TVD"):
        table.add_column(name, justify="left" if name == "rows" else "right", no_wrap=name == "rows")

    def row(name: str, decay: Decay) -> None:
        shares = (decay.variance, decay.tails, decay.rare, decay.dependence)
        table.add_row(name, *("" if s is None else f"{s:.0%}" for s in shares), f"{decay.tv2:.3f}")

    row("real, drawn anew", found.ceiling)
    for i, decay in enumerate(found.alone):
        row(f"generation {i + 1}", decay)
    for i, decay in enumerate(found.mixed[1:]):
        row(f"{i + 2} with real rows", decay)
    return table


def summary(report: FidelityReport) -> list[tuple[Metric, float, float, float]]:
    """(metric, synthetic, ceiling, floor) of each metric that was computed."""
    from dpsynth.fidelity.metrics import all_metrics

    out = []
    for metric in all_metrics(report.target):
        own, best, worst = (getattr(s, metric.name) for s in (report.synthetic, report.ceiling, report.floor))
        if None not in (own, best, worst):
            out.append((metric, float(own), float(best), float(worst)))
    return out


# Field of `TextFigures`, what it is called, whether it is a share of the texts.
TEXT_FIGURES = (
    ("frechet", "Fréchet distance of the embeddings (0 = equal)", False),
    ("mauve", "MAUVE (1 = equal)", False),
    ("precision", "lie among real ones (precision)", True),
    ("recall", "real ones that lie among these (recall)", True),
    ("lengths", "numbers of words (0 = equal)", False),
    ("words", "how often each word occurs (0 = equal)", False),
    ("repeated", "hold eight words in a row of a real one", True),
    ("nearly_copied", "are a real one, but for a word or two", True),
)


def text_lines(score: TextScore) -> list[tuple[str, str, str]]:
    """(what, synthetic, ceiling) of each figure of a column of texts."""
    out = []
    for name, said, share in TEXT_FIGURES:
        own, best = getattr(score.synthetic, name), getattr(score.ceiling, name)
        if own is not None:
            out.append((said, f"{own:.1%}", f"{best:.1%}") if share else (said, f"{own:.3f}", f"{best:.3f}"))
    for learned in score.learned:
        out.append((f"{learned.label}, learned from them: accuracy", f"{learned.synthetic:.3f}", f"{learned.real:.3f}"))
        out.append(
            (
                f"{learned.label}, as a classifier of real texts says it",
                f"{learned.agreement:.1%}",
                f"{learned.real:.1%}",
            )
        )
    if score.canaries is not None:
        out.append((f"canaries that stand in a text, of {score.canaries[1]:,} planted", f"{score.canaries[0]:,}", ""))
    return out


def text_table(score: TextScore) -> Table:
    """A column of texts beside other real ones."""
    from rich.table import Table

    table = Table(
        title=f"Texts of {score.column}", caption=f"{score.compared:,} texts of each side. PRIVATE: keep inside."
    )
    for name in ("figure", "synthetic", "ceiling"):
        table.add_column(name, justify="left" if name == "figure" else "right", overflow="fold")
    for line in text_lines(score):
        table.add_row(*line)
    return table


def _groups(report: FidelityReport) -> Table:
    from rich.table import Table

    table = Table(title="Subgroups of the sensitive columns (real → synthetic), the smallest first")
    for name in ("group", "share", "TVD within (ceiling)", "learned for it from real → synthetic rows"):
        table.add_column(name, justify="left" if name == "group" else "right", overflow="fold")
    for g in sorted(report.groups, key=lambda g: g.shares[0])[:12]:
        utility = "" if g.utility is None else _between(f"{v:.3f}" for v in g.utility)
        table.add_row(g.name, _between(f"{v:.1%}" for v in g.shares), f"{g.tv1:.3f} ({g.ceiling:.3f})", utility)
    return table


def _summary(report: FidelityReport) -> Table:
    from rich.table import Table

    table = Table(
        title="Difference from the real table (0 = equal)",
        caption=f"ceiling: {report.ceiling_of}; floor: real columns, each shuffled by itself. PRIVATE: keep inside.",
    )
    table.add_column("metric")
    for name in ("synthetic", "ceiling", "floor"):
        table.add_column(name, justify="right")
    for metric, own, best, worst in summary(report):
        near = metric.badness(own) - metric.badness(best) < 0.02
        between = metric.of_dependence and metric.badness(own) <= (metric.badness(best) + metric.badness(worst)) / 2
        lost = metric.of_dependence and metric.badness(own) >= metric.badness(worst)
        colour = "green" if near or between else "red" if lost else "yellow"
        # Shuffled columns are the real ones, so only dependence has a floor.
        floor = f"{worst:.3f}" if metric.of_dependence else ""
        table.add_row(metric.label, f"[{colour}]{own:.3f}[/]", f"{best:.3f}", floor)
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
