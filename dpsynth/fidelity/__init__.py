"""How close is a synthetic table to the real one? For the owner: it reads real rows, books nothing, and stays inside.

Every figure stands between its ceiling (what another real sample reaches: a holdout, or two halves of the real table) and
its floor (the real columns, each shuffled by itself: perfect columns, no dependence), so that a number means something.
What may leave is the gate's report, which is made of DP measurements (see `gate`).

    metrics.py      the metrics, each with its direction and whether it could ever leave
    coded.py        tables in bins and numbers, so that they can be compared
    comparison.py   two coded tables beside each other
    learners.py     what a classifier makes of them: telling them apart, and learning from one for the other
    groups.py       the same for subgroups
    texts.py        figures of two sets of texts, or of their embeddings
    written.py      a column of texts beside the real one
    decay.py        what is left after generations of models that learned from each other (see `dpsynth.generations`)
    results.py      what comes out
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from dpsynth.fidelity.coded import Bins, Coded, as_strings, coded, comparable
from dpsynth.fidelity.comparison import Comparison, column_scores, pair_scores
from dpsynth.fidelity.groups import group_scores
from dpsynth.fidelity.learners import Task
from dpsynth.fidelity.metrics import scores
from dpsynth.fidelity.results import (
    Collapse,
    ColumnScore,
    Decay,
    FidelityReport,
    GroupScore,
    LearnedFromTexts,
    PairScore,
    Scores,
    TextFigures,
    TextScore,
)
from dpsynth.fidelity.written import MOST_LABELS, text_score
from dpsynth.privacy.source import Cells
from dpsynth.schema import Schema
from dpsynth.sources import read

__all__ = [
    "Collapse",
    "ColumnScore",
    "Decay",
    "FidelityReport",
    "GroupScore",
    "LearnedFromTexts",
    "PairScore",
    "Scores",
    "TextFigures",
    "TextScore",
    "evaluate",
]

# Columns of labels that are learned from a column of texts, where no target is declared.
MOST_LEARNED = 3


def evaluate(
    real: Any,
    synthetic: Any,
    holdout: Any = None,
    schema: Schema | str | Path | None = None,
    *,
    sdmetrics: bool = False,
    learners: bool = True,
    texts: bool = True,
    canaries: Sequence[str] | None = None,
) -> FidelityReport:
    """Compare a synthetic table with the real one. For the owner's eyes: reads real rows and books nothing.

    real, synthetic, holdout: anything that `fit` reads, with the same columns.  holdout: real rows that were not learned from.
    schema: columns of kind id and identifiers are skipped; its target is learned from synthetic rows and tested on real ones;
    the groups of its sensitive columns are looked at.  sdmetrics: add SDMetrics' quality score.
    learners: also train classifiers: that tell the tables apart, and that learn the target.
    texts: also compare columns of texts, at most 1,500 of each side by their embeddings.  canaries: texts that were planted in the
    real table; how many of them stand in a synthetic text is told.
    Raises SchemaError where columns are missing.
    """
    cells = {"real": read(real).cells, "synthetic": read(synthetic).cells}
    if holdout is not None:
        cells["other"] = read(holdout).cells
    schema = None if schema is None else Schema.of(schema)
    columns = comparable(cells, schema)
    bins = columns.bins(cells["real"])
    names = list(bins)
    tables = {which: coded(bins, c) for which, c in cells.items()}
    rng = np.random.default_rng(0)
    tables["base"] = tables["real"]
    if holdout is None:
        order = rng.permutation(len(tables["real"]))
        half = len(order) // 2
        tables["base"], tables["other"] = (tables["real"].take(rows) for rows in (order[:half], order[half:]))
    # Nothing that is tested on these rows has seen them, but for a model without a holdout: then its table has, in part.
    task = _task(schema, tables["other"], names) if learners else None
    compared = {
        "synthetic": Comparison(tables["real"], tables["synthetic"]),
        "ceiling": Comparison(tables["base"], tables["other"]),
        "floor": Comparison(tables["real"], tables["real"].shuffled(rng)),
    }
    found = {
        which: scores(c, learners=learners, task=task if which != "ceiling" else None) for which, c in compared.items()
    }
    if task is not None:  # the best that can be learned: from real rows
        best = task.score(task.learned(tables["base"]), np.arange(len(task.test)))
        found["ceiling"] = replace(found["ceiling"], utility=best)
    sensitive = [c.name for c in schema.columns if c.sensitive and c.name in names] if schema is not None else []
    return FidelityReport(
        synthetic=found["synthetic"],
        ceiling=found["ceiling"],
        floor=found["floor"],
        columns=column_scores(compared["synthetic"], compared["ceiling"]),
        pairs=pair_scores(compared["synthetic"], compared["ceiling"]),
        ceiling_of="holdout" if holdout is not None else "two halves of the real table",
        skipped=columns.skipped,
        texts=_texts(columns.texts, cells, bins, schema, canaries, learners) if texts else (),
        groups=tuple(group_scores(tables, bins, sensitive, task)),
        target=None if task is None else (task.target, task.measure),
        quality=_quality(real, synthetic, names) if sdmetrics else None,
    )


def _texts(
    columns: Sequence[str],
    cells: Mapping[str, Mapping[str, Cells]],
    bins: Mapping[str, Bins],
    schema: Schema | None,
    canaries: Sequence[str] | None,
    learners: bool,
) -> tuple[TextScore, ...]:
    """Each column of texts, and what they say of the columns of labels: the targets among them where some are declared."""
    labels = [
        name
        for name, b in bins.items()
        if b.edges is None and name not in columns and len(as_strings(cells["real"][name]).uniques) <= MOST_LABELS
    ]
    targets = {c.name for c in schema.columns if c.role == "target"} if schema is not None else set()
    chosen = [name for name in labels if name in targets] or labels[:MOST_LEARNED]
    scored = (text_score(name, cells, chosen, canaries, learners) for name in columns)
    return tuple(score for score in scored if score is not None)


def _task(schema: Schema | None, test: Coded, names: list[str]) -> Task | None:
    """The first target of the schema that varies in the test rows."""
    for column in schema.columns if schema is not None else ():
        known = column.role == "target" and column.name in names and len(names) > 1
        if known and len(np.unique(test.codes[column.name])) > 1:
            return Task(column.name, test)
    return None


def _quality(real: Any, synthetic: Any, names: list[str]) -> float:
    from dpsynth.adapters.sdv_quality import quality

    return quality(real, synthetic, names)
