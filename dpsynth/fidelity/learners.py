"""What a classifier makes of two tables: whether it can tell them apart, and what it learns from one for the other.

Gradient-boosted trees on at most `ROWS` rows of each, so that the time is the same for every table.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from dpsynth.fidelity.coded import Coded
from dpsynth.fidelity.comparison import Comparison
from dpsynth.privacy.source import FloatArray, IntArray

ROWS = 10_000
TREES = 60


def features(table: Coded, without: str | None = None) -> FloatArray:
    """Numbers as they are, labels as codes; shape (rows, columns)."""
    columns = [name for name in table.sizes if name != without]
    return np.stack([table.values[n] if n in table.values else table.codes[n].astype(np.float64) for n in columns], 1)


def detector(compared: Comparison) -> float:
    """AUC of telling the two tables apart, on rows that were not learned from; 0.5 where that cannot be done."""
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.metrics import roc_auc_score

    n = min(len(compared.base), len(compared.other), ROWS)
    if n < 20 or not compared.names:
        return 0.5
    rng = np.random.default_rng(0)
    x = np.concatenate([features(_some(side, n, rng)) for side in (compared.base, compared.other)])
    y = np.repeat([0, 1], n)
    order = rng.permutation(2 * n)
    learn, test = order[:n], order[n:]
    model = HistGradientBoostingClassifier(max_iter=TREES, early_stopping=False, random_state=0)
    model.fit(_without_gaps(x[learn]), y[learn])
    return float(roc_auc_score(y[test], model.predict_proba(x[test])[:, 1]))


@dataclass(frozen=True, slots=True, eq=False)
class Task:
    """Learning one column from the others, tested on real rows. measure: AUC of two labels, accuracy of more, R2 of numbers."""

    target: str
    test: Coded

    @property
    def numeric(self) -> bool:
        return self.target in self.test.values

    @property
    def measure(self) -> str:
        if self.numeric:
            return "R2"
        return "AUC" if len(np.unique(self.test.codes[self.target])) == 2 else "accuracy"

    def learned(self, table: Coded) -> Any:
        """A model of the target that has seen this table alone; None where the target does not vary in it."""
        from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

        table = _some(table, ROWS, np.random.default_rng(1))
        x, y = features(table, self.target), self._answers(table)
        known = ~np.isnan(y)
        if len(np.unique(y[known])) < 2:
            return None
        kind = HistGradientBoostingRegressor if self.numeric else HistGradientBoostingClassifier
        return kind(max_iter=TREES, early_stopping=False, random_state=0).fit(_without_gaps(x[known]), y[known])

    def score(self, model: Any, rows: IntArray) -> float:
        """How well a model does on some of the test rows."""
        from sklearn.metrics import accuracy_score, r2_score, roc_auc_score

        table = self.test.take(rows)
        x, y = features(table, self.target), self._answers(table)
        x, y = x[~np.isnan(y)], y[~np.isnan(y)]
        if self.numeric:
            return float(r2_score(y, model.predict(x))) if model is not None else 0.0
        if self.measure == "AUC":
            if model is None or len(np.unique(y)) < 2:
                return 0.5
            high = float(np.unique(self.test.codes[self.target]).max())
            place = np.flatnonzero(model.classes_ == high)
            return float(roc_auc_score(y == high, model.predict_proba(x)[:, place[0]])) if len(place) else 0.5
        return float(accuracy_score(y, model.predict(x))) if model is not None else 0.0

    def _answers(self, table: Coded) -> FloatArray:
        return table.values[self.target] if self.numeric else table.codes[self.target].astype(np.float64)


def _without_gaps(x: FloatArray) -> FloatArray:
    """A column in which nothing is known cannot be cut; it becomes a constant."""
    return np.where(np.isnan(x).all(axis=0), 0.0, x)


def _some(table: Coded, most: int, rng: np.random.Generator) -> Coded:
    return table if len(table) <= most else table.take(np.sort(rng.choice(len(table), most, replace=False)))
