"""Fidelity by subgroup: of every sensitive column, and of each two of them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from dpsynth.fidelity.coded import Bins, Coded
from dpsynth.fidelity.comparison import mean, shares, tv
from dpsynth.fidelity.learners import Task
from dpsynth.fidelity.results import GroupScore
from dpsynth.privacy.source import IntArray

# Groups with fewer real rows say nothing by their figures.
LEAST_ROWS = 50


def group_scores(
    tables: Mapping[str, Coded], bins: Mapping[str, Bins], sensitive: Sequence[str], task: Task | None
) -> Iterator[GroupScore]:
    """tables: real, synthetic, and base and other, which make the ceiling."""
    models = None if task is None else [task.learned(tables[which]) for which in ("base", "synthetic")]
    for names in [*((name,) for name in sensitive), *itertools.combinations(sensitive, 2)]:
        group = {which: table.joint(names) for which, table in tables.items()}
        counts = np.bincount(group["real"])
        labels = list(itertools.product(*(bins[name].names for name in names)))
        tested = None if task is None else task.test.joint(names)
        for g in np.flatnonzero(counts >= LEAST_ROWS):
            rows = {which: np.flatnonzero(codes == g) for which, codes in group.items()}
            utility = None
            if task is not None and tested is not None and models is not None:
                those = np.flatnonzero(tested == g)
                if len(those) >= LEAST_ROWS:
                    utility = (task.score(models[0], those), task.score(models[1], those))
            yield GroupScore(
                columns=tuple(names),
                name=" and ".join(labels[g]),
                shares=(counts[g] / len(tables["real"]), len(rows["synthetic"]) / max(len(tables["synthetic"]), 1)),
                tv1=_within(tables, rows, ("real", "synthetic"), names),
                ceiling=_within(tables, rows, ("base", "other"), names),
                utility=utility,
            )


def _within(
    tables: Mapping[str, Coded], rows: Mapping[str, IntArray], sides: tuple[str, str], names: Sequence[str]
) -> float:
    """Mean 1-way TVD between two tables within a group; 1 where one of them lacks it."""
    if not all(len(rows[side]) for side in sides):
        return 1.0
    return mean(
        tv(*(shares(tables[side].codes[name][rows[side]], size) for side in sides))
        for name, size in tables["real"].sizes.items()
        if name not in names
    )
