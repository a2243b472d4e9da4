"""From a model to a table: codes, values, fakes, surrogate ids, dtypes. Post-processing: free."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from dpsynth.encode.cells import LabelCells
from dpsynth.encode.codec import Codec, draw_conditional
from dpsynth.learn import ColumnFacts, Domain
from dpsynth.models.protocol import TableModel
from dpsynth.privacy.errors import SchemaError
from dpsynth.privacy.source import ROWS_PER_UNIT, FloatArray, IntArray, Numbers, Strings
from dpsynth.schema import Column


def draw(
    domain: Domain, model: TableModel, n: int, evidence: Mapping[str, FloatArray], rng: np.random.Generator
) -> tuple[IntArray, IntArray]:
    """(codes, unit number of each row). With a unit, rows are drawn in proportion to the rows that units hold.

    The model is one of rows weighing 1/k; tilting it by k gives the distribution of rows, and k of a kind make a unit. Rows
    of a unit are drawn independently of each other: what binds them is not modelled.
    """
    codec = domain.rows_codec
    if codec is None:
        return model.sample(n, rng=rng, evidence=evidence), np.arange(n)
    rows = np.append(
        np.arange(1, codec.cells.size, dtype=np.float64), 0.0
    )  # cell i holds i + 1 rows; the last is "missing"
    tilted = codec.tilted(rows)
    held = np.bincount(codec.groups, weights=codec.shares * rows, minlength=codec.size)
    mean_rows: FloatArray = held / np.maximum(codec.group_shares, 1e-300)
    codes = model.sample(n, rng=rng, evidence={**evidence, ROWS_PER_UNIT: mean_rows})
    k = tilted.refine(codes[:, -1], rng) + 1
    order = np.argsort(k, kind="stable")
    sorted_k = k[order]
    # The first k rows of a kind make a unit, then the next k, ...; units are then put in random order.
    within = np.arange(n) - np.searchsorted(sorted_k, sorted_k, side="left")
    unit = np.cumsum(within % sorted_k == 0) - 1
    shuffled = rng.permutation(int(unit.max(initial=-1)) + 1)[unit]
    final = order[np.argsort(shuffled, kind="stable")]
    return codes[final], np.sort(shuffled)


def unit_weights(domain: Domain, unit_ids: IntArray) -> FloatArray:
    """Units that each row stands for: one over the rows of its unit, scaled to the noisy number of units."""
    weights = 1 / np.bincount(unit_ids)[unit_ids]
    scaled: FloatArray = weights * (domain.n_units / max(weights.sum(), 1e-300))
    return scaled


def table_of(
    facts: Sequence[ColumnFacts],
    codes: IntArray,
    unit_ids: IntArray,
    fixed: Mapping[str, Any],
    rng: np.random.Generator,
) -> pd.DataFrame:
    """The synthetic table: `codes` of shape (n, modelled columns) in the order of `facts`; ids and fakes made afresh.

    fixed: values that conditions give to columns, in place of what would be drawn within their group.
    """
    n = len(codes)
    fakes = _fakes(facts, unit_ids, rng)
    out: dict[str, pd.Series[Any]] = {}
    place = 0
    for fact in facts:
        name = fact.column.name
        if fact.codec is not None:
            values = _values(fact, fact.codec, codes[:, place], rng)
            out[name] = column_of(fact.column, values)
            place += 1
        elif fact.treatment == "unit id":
            out[name] = pd.Series(unit_ids + 1)
        elif fact.treatment == "id":
            out[name] = pd.Series([f"{name}-{i:07d}" for i in range(1, n + 1)], dtype=object)
        else:
            out[name] = pd.Series(fakes[name], dtype=object)
        if name in fixed:
            out[name] = column_of(fact.column, np.full(n, fixed[name], dtype=values.dtype))
    return pd.DataFrame(out)


def _fakes(facts: Sequence[ColumnFacts], unit_ids: IntArray, rng: np.random.Generator) -> dict[str, list[str]]:
    """Identifiers from reserved ranges: one person for each unit, the same in all of the unit's rows."""
    entities = {f.column.name: f.column.entity or "ID" for f in facts if f.treatment == "fake"}
    if not entities:
        return {}
    from dpsynth.privacy.pii import fake_columns

    people = int(unit_ids.max(initial=-1)) + 1
    made = fake_columns(entities, people, rng)
    return {name: [values[i] for i in unit_ids] for name, values in made.items()}


def _values(
    fact: ColumnFacts, codec: Codec, codes: IntArray, rng: np.random.Generator
) -> npt.NDArray[np.object_] | FloatArray:
    """Values of one modelled column."""
    fine = codec.refine(codes, rng)
    if fact.treatment == "scrubbed text":
        from dpsynth.privacy.pii import fill_placeholders

        return np.array(fill_placeholders(list(codec.values(fine, rng)), rng), dtype=object)
    if isinstance(codec.cells, LabelCells) and codec.cells.labels:
        # "Any other value" has no value to show: such rows get one of the known labels, in proportion.
        rare = np.flatnonzero(fine == codec.cells.other)
        known = np.maximum(codec.shares[: codec.cells.other], 0.0)
        if len(rare) and known.sum() > 0:
            fine[rare] = draw_conditional((known / known.sum())[None, :], np.zeros(len(rare), np.int64), rng)
    return codec.values(fine, rng)


def column_of(column: Column, values: npt.NDArray[Any]) -> pd.Series[Any]:
    """Values in the type that the column's learned or declared facts ask for; the same for every input frame."""
    if column.kind == "numeric":
        numbers = pd.Series(values.astype(np.float64))
        if column.integer:
            return numbers.astype("Int64") if numbers.isna().any() else numbers.astype(np.int64)
        return numbers
    if column.kind in ("datetime", "timedelta"):
        unit = "datetime64[us]" if column.kind == "datetime" else "timedelta64[us]"
        return pd.Series(pd.array(_times(values.astype(np.float64), unit)))
    series = pd.Series(values, dtype=object)
    if column.kind == "boolean":
        truth = series.map({"True": True, "False": False})
        return truth.astype("boolean") if truth.isna().any() else truth.astype(bool)
    if column.categories is not None and not all(isinstance(c, str) for c in column.categories):
        own = {str(c): c for c in column.categories}
        return series.map(lambda label: own.get(label, label), na_action="ignore")
    return series


def _times(micro: FloatArray, unit: str) -> npt.NDArray[Any]:
    known = ~np.isnan(micro)
    out = np.full(len(micro), np.iinfo(np.int64).min, np.int64)  # NaT
    out[known] = np.rint(micro[known]).astype(np.int64)
    return out.view(unit)


def condition(codec: Codec, column: Column, value: Any) -> tuple[FloatArray, Any]:
    """(weight of each code, value in the codec's terms) for the condition that a column equals `value`.

    Raises SchemaError where the model cannot tell that value from any other.
    """
    missing = value is None or value is pd.NA or value is pd.NaT or (isinstance(value, float) and np.isnan(value))
    if isinstance(codec.cells, LabelCells):
        text = None if missing else str(value)
        cells: Strings | Numbers = Strings(np.array([-1 if missing else 0], np.int32), np.array([text], dtype=object))
        own: Any = text
    else:
        own = np.nan if missing else _on_line(column, value)
        cells = Numbers(np.array([own], np.float64))
    fine = int(codec.cells.encode(cells)[0])
    share = codec.shares[fine]
    if share <= 0 or (isinstance(codec.cells, LabelCells) and fine == codec.cells.other):
        raise SchemaError(f"where: column {column.name!r} has no such value in the model; see its schema")
    weights = np.zeros(codec.size)
    group = int(codec.groups[fine])
    weights[group] = share / codec.group_shares[group]
    return weights, own


def _on_line(column: Column, value: Any) -> float:
    try:
        if column.kind == "datetime":
            return float(pd.Timestamp(value).to_datetime64().astype("datetime64[us]").astype(np.int64))
        if column.kind == "timedelta":
            return pd.Timedelta(value).total_seconds() * 1e6
        return float(value)
    except (TypeError, ValueError):
        raise SchemaError(f"where: column {column.name!r} is {column.kind}; give a value of that kind") from None
