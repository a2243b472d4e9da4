"""The budget report: what the ledger's data sets have cost, who holds what of it, and what that lets them learn. Made of the
ledger alone; it holds no row and no number that was computed from rows."""

from __future__ import annotations

from datetime import UTC, datetime

from markupsafe import Markup

from dpsynth.privacy.accounting import gaussian_mu
from dpsynth.privacy.meaning import meaning_of_cost
from dpsynth.privacy.statement import shares_by_stage
from dpsynth.report import page, plots
from dpsynth.report.spending import DatasetView, RunView, Spending, event_rows

# A bar of more parts than this cannot be read: the oldest runs are drawn as one.
MAX_PARTS = 7


def render(spent: Spending) -> str:
    """HTML of all data sets, or those that were asked for."""
    return page.render(
        "budget.html.j2",
        title="Privacy budget",
        spent=spent,
        made=_now(),
        views=[
            {"data": view, "timeline": _timeline(view), "bar": _bar(view), "stages": _stages(view)}
            for view in spent.datasets
        ],
    )


def render_run(view: DatasetView, run: RunView) -> str:
    """HTML of one run: its guarantee and every query."""
    return page.render(
        "run.html.j2",
        title=f"Run {run.id}",
        data=view,
        run=run,
        made=_now(),
        meaning=meaning_of_cost(run.cost, run.delta),
        bar=plots.stacked_bar(shares_by_stage(run.events)) if run.events else None,
        releases=[r for r in view.releases if r.run == run.id],
        rows=event_rows(run.events),
    )


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _timeline(view: DatasetView) -> Markup:
    return plots.staircase(
        [(run.created[:10], run.so_far) for run in view.runs], view.cap.epsilon if view.cap else None
    )


def _bar(view: DatasetView) -> Markup | None:
    """How much of the cap each run takes: in mu^2, in which runs add up."""
    spare = view.cap.delta - view.total.cost.delta if view.cap else 0.0
    if view.cap is None or view.cap.rule != "gdp" or not spare > 0 or not view.runs:
        return None
    whole = max(gaussian_mu(view.cap.epsilon, spare) ** 2, view.total.cost.mu_squared)
    parts: dict[str, float] = {}
    for i, run in enumerate(view.runs):
        name = "earlier runs" if i < len(view.runs) - MAX_PARTS else f"run {i + 1} ({run.created[:10]})"
        parts[name] = parts.get(name, 0.0) + run.cost.mu_squared / whole
    return plots.stacked_bar(parts | {"left": max(1 - sum(parts.values()), 0.0)}, rest="left")


def _stages(view: DatasetView) -> Markup | None:
    return plots.stacked_bar(view.stages) if view.stages else None
