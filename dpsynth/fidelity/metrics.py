"""The metrics: each with its name, its direction, and what one unit could move.

All of them are internal: they are exact. `sensitivity` says which of them a gate may buy under DP in count form (see `gate`), and
which nothing bounds: a mean of unbounded numbers, what a classifier makes of the rows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from dpsynth.fidelity.comparison import Comparison, mean
from dpsynth.fidelity.learners import Task, detector
from dpsynth.fidelity.results import Scores

Direction = Literal["lower", "higher", "half"]
INTERNAL = "internal only"


@dataclass(frozen=True, slots=True)
class Metric:
    """name: its field in `Scores`.  label: for reading.  direction: which values are better (half: 0.5).

    sensitivity: by how much one unit of n moves it at most, or "internal only".  of_dependence: whether shuffled columns are a
    floor for it.  compute: its value from two tables; None where it takes a third (see `learners.Task`).
    """

    name: str
    label: str
    direction: Direction
    sensitivity: str
    of_dependence: bool
    compute: Callable[[Comparison], float] | None

    def badness(self, value: float) -> float:
        """0 is best."""
        return value if self.direction == "lower" else 1 - value if self.direction == "higher" else abs(value - 0.5)


def _means(c: Comparison, which: int) -> float:
    moments = [m for m in map(c.moments, c.names) if m is not None and m[1][0] > 0]
    return mean(abs(m[which][0] - m[which][1]) / m[1][0] for m in moments)


METRICS = (
    Metric("tv1", "columns: mean 1-way TVD", "lower", "1/n", False, lambda c: mean(c.tv1.values())),
    Metric("tv2", "pairs: mean 2-way TVD", "lower", "1/n", True, lambda c: mean(c.tv2.values())),
    Metric("tv3", "triples: mean 3-way TVD", "lower", "1/n", True, Comparison.triples),
    Metric("mean", "means, in standard deviations", "lower", INTERNAL, False, lambda c: _means(c, 0)),
    Metric("sd", "standard deviations, relative", "lower", INTERNAL, False, lambda c: _means(c, 1)),
    Metric(
        "quantiles",
        "deciles, in standard deviations",
        "lower",
        INTERNAL,
        False,
        lambda c: mean(d for d in map(c.deciles, c.names) if d is not None),
    ),
    Metric(
        "missing",
        "missing shares",
        "lower",
        "1/n",
        False,
        lambda c: mean(abs(r - s) for r, s in map(c.missing, c.names)),
    ),
    Metric(
        "association",
        "correlations and associations",
        "lower",
        INTERNAL,
        True,
        lambda c: mean(abs(r - s) for r, s in c.association.values()),
    ),
)
DETECTOR = Metric("detector", "telling them apart: AUC (0.5: cannot)", "half", INTERNAL, True, detector)


def all_metrics(target: tuple[str, str] | None) -> tuple[Metric, ...]:
    """Also those that classifiers make. target: column that is learned, and the measure of how well."""
    if target is None:
        return (*METRICS, DETECTOR)
    label = f"learning {target[0]}, tested on real rows: {target[1]}"
    return (*METRICS, DETECTOR, Metric("utility", label, "higher", INTERNAL, True, None))


def scores(compared: Comparison, *, learners: bool, task: Task | None) -> Scores:
    """All metrics of one comparison. task: what to learn from the other table."""
    values = {metric.name: metric.compute(compared) for metric in METRICS if metric.compute is not None}
    return Scores(
        **values,
        detector=detector(compared) if learners else None,
        utility=None if task is None else task.score(task.learned(compared.other), np.arange(len(task.test))),
    )
