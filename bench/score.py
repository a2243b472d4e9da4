"""How far a synthetic table is from real rows: the measures of the tabular benchmark.

tv1, tv2, tv3   total variation distance (0 = the same, 1 = disjoint) of all columns' tables, all pairs', 64 fixed random
                triples', averaged; numbers in 20 equal-width bins over the code book's bounds
tv1q, tv2q      the same with numbers in the 20 quantile bins of the train rows, which see spikes and skew
quality         SDMetrics QualityReport, overall, with its two parts
auc             gradient boosting learns the target on the synthetic rows, tested on the holdout
invalid         share of cells outside the code book: unknown category, out of bounds, missing where it cannot be
copies          share of synthetic rows that equal a train row, and a holdout row (what chance alone gives)
accuracy        MOSTLY AI's: mean of univariate and bivariate 1 - TVD, in 10 bins made from the train rows: deciles of
                numbers, the ten most frequent labels of the others

Distances end in _train or _holdout, for the rows that they are to. Reads real rows: for owners and public data.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd
from books import Book, Field

BINS, TRIPLES, ACCURACY_BINS = 20, 64, 10
ACCURACY_CODES = 64  # more than ten: the bins of a column with many ties can be a few more

Coded = tuple[list[npt.NDArray[np.int64]], list[int]]  # for each column its codes, and how many there are
Ways = Sequence[tuple[int, ...]]


def score(
    train: pd.DataFrame, holdout: pd.DataFrame, synthetic: pd.DataFrame, book: Book, *, heavy: bool = True
) -> dict[str, float]:
    """All measures by name.  heavy: also those that take long (quality, auc)."""
    real = {"train": tidy(train, book)[0], "holdout": tidy(holdout, book)[0]}
    made, invalid = tidy(synthetic, book)
    out: dict[str, float] = {"rows": len(synthetic), "invalid": invalid}
    d = len(book.fields)
    ones, twos = [(a,) for a in range(d)], list(itertools.combinations(range(d), 2))
    threes = list(itertools.combinations(range(d), 3))
    chosen = np.random.default_rng(0).choice(len(threes), min(TRIPLES, len(threes)), replace=False) if threes else []
    for suffix, edges in (("", _even(book)), ("q", _quantiles(real["train"], book))):
        for part, rows in real.items():
            coded = _codes(made, book, edges), _codes(rows, book, edges)
            out[f"tv1{suffix}_{part}"] = _distance(*coded, ones)
            out[f"tv2{suffix}_{part}"] = _distance(*coded, twos)
            if not suffix:
                out[f"tv3_{part}"] = _distance(*coded, [threes[i] for i in chosen])
    uni, bi = _accuracy(train, synthetic, book)
    out |= {"accuracy": (uni + bi) / 2, "accuracy_univariate": uni, "accuracy_bivariate": bi}
    hashes = {part: pd.util.hash_pandas_object(rows.astype(str), index=False) for part, rows in real.items()}
    own = pd.util.hash_pandas_object(made.astype(str), index=False)
    out |= {f"copies_{part}": float(own.isin(set(h)).mean()) for part, h in hashes.items()}
    if heavy:
        if book.target is not None:
            out["auc"] = _auc(made, real["holdout"], book)
        out["quality"], out["quality_shapes"], out["quality_pairs"] = _quality(real["train"], made, book)
    return out


def tidy(table: pd.DataFrame, book: Book) -> tuple[pd.DataFrame, float]:
    """(numbers as floats within bounds, labels as known strings or None; share of cells that had to be mended)."""
    columns, wrong = {}, 0
    for field in book.fields:
        column = table[field.name]
        if field.kind == "numeric":
            values = pd.to_numeric(column, errors="coerce").astype(float)
            bad = (values < field.lower) | (values > field.upper) | (values.isna() & (not field.nullable))
            columns[field.name] = values.clip(field.lower, field.upper)
        else:
            labels = _labels(column)
            missing = labels.isna()
            bad = (~missing & ~labels.isin(field.categories)) | (missing & (not field.nullable))
            columns[field.name] = labels.where(~bad, None)
        wrong += int(bad.sum())
    return pd.DataFrame(columns), wrong / max(len(table) * len(book.fields), 1)


def _labels(column: pd.Series) -> pd.Series:
    """Labels as strings, 1.0 as "1"; however missing is written, it becomes None."""
    column = column.astype(object)
    missing = column.isna() | column.isin(["nan", "None", "NaN", "<NA>", "_NA_"])
    text = column.map(lambda v: str(int(v)) if isinstance(v, float) and v == v and v == int(v) else str(v))
    return text.where(~missing, None)


def _even(book: Book) -> dict[str, npt.NDArray[np.float64]]:
    return {f.name: np.linspace(f.lower, f.upper, BINS + 1)[1:-1] for f in book.fields if f.kind == "numeric"}


def _quantiles(rows: pd.DataFrame, book: Book) -> dict[str, npt.NDArray[np.float64]]:
    inner = np.linspace(0, 1, BINS + 1)[1:-1]
    return {f.name: np.unique(np.nanquantile(rows[f.name], inner)) for f in book.fields if f.kind == "numeric"}


def _codes(rows: pd.DataFrame, book: Book, edges: Mapping[str, npt.NDArray[np.float64]]) -> Coded:
    """Each column's bins or categories; the last code is missing or other."""
    codes, sizes = [], []
    for field in book.fields:
        column = rows[field.name]
        if field.kind == "numeric":
            last = len(edges[field.name]) + 1
            place = np.searchsorted(edges[field.name], column.to_numpy(), side="right")
            codes.append(np.where(column.isna(), last, place).astype(np.int64))
        else:
            last = len(field.categories)
            place = column.map({label: i for i, label in enumerate(field.categories)}).fillna(last)
            codes.append(place.to_numpy().astype(np.int64))
        sizes.append(last + 1)
    return codes, sizes


def _distance(first: Coded, second: Coded, ways: Ways) -> float:
    """Mean total variation distance of the tables of these sets of columns."""
    (one, sizes), (two, _) = first, second
    found = []
    for way in ways:
        shape = [sizes[a] for a in way]
        p, q = (
            np.bincount(np.ravel_multi_index([codes[a] for a in way], shape), minlength=int(np.prod(shape)))
            / len(codes[0])
            for codes in (one, two)
        )
        found.append(0.5 * float(np.abs(p - q).sum()))
    return float(np.mean(found)) if found else 0.0


def _accuracy(train: pd.DataFrame, synthetic: pd.DataFrame, book: Book) -> tuple[float, float]:
    """(univariate, bivariate) accuracy; unlike elsewhere here, cells count as they are, valid or not."""
    coded: tuple[Coded, Coded] = ([], []), ([], [])
    for field in book.fields:
        real, made = (_accuracy_codes(field, train[field.name], rows[field.name]) for rows in (train, synthetic))
        for (codes, sizes), column in zip(coded, (real, made), strict=True):
            codes.append(column)
            sizes.append(ACCURACY_CODES)
    d = len(book.fields)
    pairs = list(itertools.combinations(range(d), 2))
    return 1 - _distance(*coded, [(a,) for a in range(d)]), 1 - _distance(*coded, pairs)


def _accuracy_codes(field: Field, reference: pd.Series, column: pd.Series) -> npt.NDArray[np.int64]:
    """Deciles of the reference or its most frequent labels; the last two codes are other labels and missing."""
    if field.kind == "categorical":
        top = _labels(reference).value_counts().index[:ACCURACY_BINS]
        labels = _labels(column)
        place = labels.map({label: i for i, label in enumerate(top)}).fillna(ACCURACY_CODES - 2)
        return place.where(~labels.isna(), ACCURACY_CODES - 1).to_numpy().astype(np.int64)
    starts = _accuracy_starts(np.sort(pd.to_numeric(reference, errors="coerce").dropna().to_numpy(float)))
    values = pd.to_numeric(column, errors="coerce").to_numpy(float)
    place = np.maximum(np.searchsorted(starts, values, side="right") - 1, 0)
    return np.where(np.isnan(values), ACCURACY_CODES - 1, place).astype(np.int64)


def _accuracy_starts(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Where the bins start: at each value of ten or fewer; else at evenly spaced ranks, ever closer until ten starts differ."""
    distinct = np.unique(values)
    if len(distinct) <= ACCURACY_BINS:
        return distinct
    for ranks in range(ACCURACY_BINS, max(ACCURACY_BINS + 1, min(1000, len(values) + 1))):
        ends = np.unique(values[np.linspace(0, len(values) - 1, ranks).astype(int)])
        if len(ends) > ACCURACY_BINS:
            break
    return ends[:-1]


def _auc(train: pd.DataFrame, holdout: pd.DataFrame, book: Book) -> float:
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.metrics import roc_auc_score

    inputs = [f for f in book.fields if f.name != book.target]

    def numbers(rows: pd.DataFrame) -> pd.DataFrame:
        index = {f.name: {label: i for i, label in enumerate(f.categories)} for f in inputs if f.kind == "categorical"}
        return pd.DataFrame(
            {f.name: rows[f.name].map(index[f.name]) if f.name in index else rows[f.name] for f in inputs}
        )

    answers = [(rows[book.target] == book.positive).astype(int).to_numpy() for rows in (train, holdout)]
    if len(set(answers[0])) < 2:
        return 0.5
    model = HistGradientBoostingClassifier(
        categorical_features=[f.kind == "categorical" for f in inputs], random_state=0, max_iter=100
    ).fit(numbers(train).astype(float), answers[0])
    return float(roc_auc_score(answers[1], model.predict_proba(numbers(holdout).astype(float))[:, 1]))


def _quality(real: pd.DataFrame, made: pd.DataFrame, book: Book) -> tuple[float, float, float]:
    """SDMetrics: (overall, column shapes, column pair trends)."""
    labels = [f.name for f in book.fields if f.kind == "categorical"]
    kinds = {f.name: {"sdtype": "numerical" if f.kind == "numeric" else "categorical"} for f in book.fields}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from sdmetrics.reports.single_table import QualityReport

        report = QualityReport()
        filled = [rows.assign(**{c: rows[c].fillna("NA_") for c in labels}) for rows in (real, made)]
        report.generate(*filled, {"columns": kinds}, verbose=False)
    parts = report.get_properties().set_index("Property")["Score"]
    return float(report.get_score()), float(parts["Column Shapes"]), float(parts["Column Pair Trends"])
