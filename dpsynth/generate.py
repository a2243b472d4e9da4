"""From a model to a table: codes, values, fakes, surrogate ids, dtypes. Post-processing: free."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from dpsynth.console import SILENT
from dpsynth.constraints import Determines
from dpsynth.encode.cells import LabelCells
from dpsynth.encode.codec import Codec
from dpsynth.enforce import Conditions, cells_of
from dpsynth.learn import ColumnFacts, Domain
from dpsynth.models.protocol import Steps, TableModel, TextModel
from dpsynth.privacy.errors import ModelError, SchemaError
from dpsynth.privacy.source import ROWS_PER_UNIT, FloatArray, IntArray
from dpsynth.schema import Column
from dpsynth.values import LINES, Own, as_label, off_the_line

# Stands in a column of texts for one that is still to be written. It is put in by code, where no value is, not by value.
TO_WRITE = "\ud800 to write"
# How often rows that no value within their codes lets obey the constraints are replaced.
_REPLACED = 10
# Rows drawn to see how frequent labels come out that are to be equally frequent: for each code, at least and at most; and how often.
_SEEN, _SEEN_LEAST, _SEEN_MOST, _LOOKS = 400, 10_000, 200_000, 3


def texts_of(domain: Domain) -> list[str]:
    """Columns some of whose texts are to be written, for they are no frequent ones."""
    return [
        fact.column.name
        for fact in domain.facts
        if fact.treatment == "scrubbed text"
        and fact.codec is not None
        and isinstance(fact.codec.cells, LabelCells)
        and fact.codec.shares[fact.codec.cells.other] > 0
    ]


def draw(
    domain: Domain, model: TableModel, n: int, evidence: Mapping[str, FloatArray], rng: np.random.Generator
) -> tuple[IntArray, IntArray]:
    """(codes that the constraints allow, unit number of each row). With a unit, rows are drawn in proportion to the rows that
    units hold.

    The model is one of rows weighing 1/k; tilting it by k gives the distribution of rows, and k of a kind make a unit. Rows
    of a unit are drawn independently of each other: what binds them is not modelled.
    """
    codec = domain.rows_codec
    if codec is None:
        return domain.rules.draw(model, n, evidence, rng), np.arange(n)
    rows = np.append(
        np.arange(1, codec.cells.size, dtype=np.float64), 0.0
    )  # cell i holds i + 1 rows; the last is "missing"
    tilted = codec.tilted(rows)
    held = np.bincount(codec.groups, weights=codec.shares * rows, minlength=codec.size)
    mean_rows: FloatArray = held / np.maximum(codec.group_shares, 1e-300)
    codes = domain.rules.draw(model, n, {**evidence, ROWS_PER_UNIT: mean_rows}, rng)
    k = tilted.refine(codes[:, -1], rng) + 1
    order = np.argsort(k, kind="stable")
    sorted_k = k[order]
    # The first k rows of a kind make a unit, then the next k, ...; units are then put in random order.
    within = np.arange(n) - np.searchsorted(sorted_k, sorted_k, side="left")
    unit = np.cumsum(within % sorted_k == 0) - 1
    shuffled = rng.permutation(int(unit.max(initial=-1)) + 1)[unit]
    final = order[np.argsort(shuffled, kind="stable")]
    return codes[final], np.sort(shuffled)


@dataclass(frozen=True, slots=True, eq=False)
class Drawn:
    """Codes and unit numbers as `draw` gave them, packed, and the generator as that left it: the rest of the table follows from these."""

    codes: npt.NDArray[np.integer[Any]]
    unit_ids: npt.NDArray[np.integer[Any]]
    rng: np.random.Generator

    @classmethod
    def of(cls, codes: IntArray, unit_ids: IntArray, rng: np.random.Generator) -> Drawn:
        small, ids = (a.astype(np.min_scalar_type(int(a.max(initial=0)))) for a in (codes, unit_ids))
        return cls(small, ids, copy.deepcopy(rng))

    @property
    def nbytes(self) -> int:
        return self.codes.nbytes + self.unit_ids.nbytes

    def unpacked(self) -> tuple[IntArray, IntArray, np.random.Generator]:
        """What `of` was given; each time the same."""
        return self.codes.astype(np.int64), self.unit_ids.astype(np.int64), copy.deepcopy(self.rng)


def unit_weights(domain: Domain, unit_ids: IntArray) -> FloatArray:
    """Units that each row stands for: one over the rows of its unit, scaled to the noisy number of units."""
    weights = 1 / np.bincount(unit_ids)[unit_ids]
    scaled: FloatArray = weights * (domain.n_units / max(weights.sum(), 1e-300))
    return scaled


def values_of(
    domain: Domain,
    model: TableModel,
    codes: IntArray,
    conditions: Conditions,
    rng: np.random.Generator,
    *,
    writers: Sequence[TextModel] = (),
    progress: Steps = SILENT,
    counted: Callable[[str, str, int], None] = lambda column, stage, left: None,
) -> dict[str, Own]:
    """Values of every column that is modelled or follows from those that are, in rows that obey the constraints.

    writers: of text columns; texts of others that are not among the frequent ones are missing.  progress: of their writing.
    counted: told after each stage of their writing how many texts of a column it left.
    codes: shape (n, codecs), as `draw` makes them. Raises ModelError where the model has no row that obeys.
    """
    values, good = _drawn(domain, codes, conditions, rng)
    for _ in range(_REPLACED):
        lacking = np.flatnonzero(~good)
        if not len(lacking):
            break
        spare, _ = draw(domain, model, 2 * len(lacking) + 64, conditions.evidence, rng)
        others, fit = _drawn(domain, spare, conditions, rng)
        taken = np.flatnonzero(fit)[: len(lacking)]
        for name, column in values.items():
            column[lacking[: len(taken)]] = others[name][taken]
        good[lacking[: len(taken)]] = True
    if not good.all():
        raise ModelError("the constraints leave no row possible under the model; do they hold in the table?")
    domain.rules.complete(values)
    _write(domain, values, writers, rng, progress, counted)
    return values


def _write(
    domain: Domain,
    values: dict[str, Own],
    writers: Sequence[TextModel],
    rng: np.random.Generator,
    progress: Steps,
    counted: Callable[[str, str, int], None],
) -> None:
    """Put texts where they are to be written, and fakes in the place of identifiers."""
    by_column = {w.column: w for w in writers}
    for name in [f.column.name for f in domain.facts if f.treatment == "scrubbed text" and f.column.name in values]:
        from dpsynth.privacy.pii import fill_placeholders

        texts, writer = values[name], by_column.get(name)
        places = np.flatnonzero(texts == TO_WRITE)
        texts[places] = None
        if writer is not None:
            labels = [values[c][places] for c in writer.conditions]
            texts[places] = writer.write(labels, len(places), rng, progress=progress, counted=partial(counted, name))
        values[name] = np.array(fill_placeholders(list(texts), rng), dtype=object)


def _drawn(
    domain: Domain, codes: IntArray, conditions: Conditions, rng: np.random.Generator
) -> tuple[dict[str, Own], npt.NDArray[np.bool_]]:
    """(values within the codes, whether each row obeys)."""
    values: dict[str, Own] = {}
    for place, fact in enumerate(f for f in domain.facts if f.codec is not None):
        name = fact.column.name
        if name in conditions.fixed:
            kind = np.float64 if fact.column.kind in LINES else object
            values[name] = np.full(len(codes), conditions.fixed[name], dtype=kind)
        else:
            values[name] = _values(domain, fact, codes[:, place], conditions, rng)
        if name in conditions.unseen:
            labels, share = conditions.unseen[name]
            some = rng.permutation(len(codes))[: round(share * len(codes))]
            values[name][some] = np.resize(np.array(labels, object), len(some))
    return values, domain.rules.obey(values, codes, conditions, rng)


def table_of(
    facts: Sequence[ColumnFacts], values: Mapping[str, Own], unit_ids: IntArray, rng: np.random.Generator
) -> pd.DataFrame:
    """The synthetic table from `values_of`; ids and fakes made afresh."""
    n = len(unit_ids)
    fakes = _fakes(facts, values, unit_ids, rng)
    out: dict[str, pd.Series[Any]] = {}
    for fact in facts:
        name = fact.column.name
        if name in values:
            out[name] = column_of(fact.column, values[name])
        elif fact.treatment == "unit id":
            out[name] = pd.Series(unit_ids + 1)
        elif fact.treatment == "id":
            out[name] = made_up_ids(name, 0, n)
        else:
            out[name] = pd.Series(fakes[name], dtype=object)
    return pd.DataFrame(out)


def made_up_ids(name: str, before: int, n: int) -> pd.Series[Any]:
    """`n` ids of a column, numbered on from `before`."""
    return pd.Series([f"{name}-{i:07d}" for i in range(before + 1, before + n + 1)], dtype=object)


def _fakes(
    facts: Sequence[ColumnFacts], values: Mapping[str, Own], unit_ids: IntArray, rng: np.random.Generator
) -> dict[str, list[str]]:
    """Identifiers from reserved ranges: one person for each unit, the same in all of the unit's rows, of the country of its first."""
    entities = {f.column.name: f.column.entity or "ID" for f in facts if f.treatment == "fake"}
    if not entities:
        return {}
    from dpsynth.privacy.pii import fake_columns, names_country

    people = int(unit_ids.max(initial=-1)) + 1
    country = next((values[name] for name in values if names_country(name)), None)
    firsts = np.searchsorted(unit_ids, np.arange(people))
    made = fake_columns(entities, people, rng, None if country is None else country[firsts].tolist())
    return {name: [values[i] for i in unit_ids] for name, values in made.items()}


def _values(
    domain: Domain, fact: ColumnFacts, codes: IntArray, conditions: Conditions, rng: np.random.Generator
) -> Own:
    """Values of one modelled column."""
    if fact.treatment == "scrubbed text" and fact.codec is not None:
        fine = fact.codec.refine(codes, rng)
        texts: Own = fact.codec.values(fine, rng)
        if isinstance(fact.codec.cells, LabelCells):
            texts[fine == fact.codec.cells.other] = TO_WRITE
        return texts
    return domain.rules.drawn(fact.column.name, codes, conditions, rng)


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


def conditions_of(
    domain: Domain, where: Mapping[str, Any], balance: str | None = None, leaves: Collection[str] = ()
) -> Conditions:
    """What `where` and `balance` ask of the model and of the values within its codes.

    leaves: labels of the column to balance that are to be had even where noise hides them, for they stand in a public taxonomy.

    Raises SchemaError for a column that is not modelled, a value that the model cannot tell from others, values that
    contradict a constraint, and a column to balance that has no labels.
    """
    fixed: dict[str, Any] = {}
    kept: dict[str, npt.NDArray[np.bool_]] = {}
    evidence: dict[str, FloatArray] = {}
    facts = {f.column.name: f for f in domain.facts}
    follows = {m.result for m in domain.rules.making if isinstance(m, Determines)}
    for name, value in where.items():
        if name not in facts:
            raise SchemaError(f"there is no column {name!r}")
        column, codec = facts[name].column, facts[name].codec
        if name in follows:
            wanted = _in_own_terms(column, value)
            root, mask = domain.rules.cells_where(name, lambda cells, wanted=wanted: _equal(cells, wanted))
            kept[root] = mask & kept.get(root, True)
        elif codec is None:
            raise SchemaError(f"column {name!r} is not modelled ({facts[name].treatment})")
        else:
            evidence[name], fixed[name] = condition(codec, column, value)
    for root, mask in kept.items():
        codec = domain.rules.codecs[root]
        if not (codec.within @ mask).any():
            raise SchemaError(
                f"where: no value of column {root!r} goes with what is asked of the columns that follow from it"
            )
        if root in fixed:
            if not mask[codec.cells.encode(cells_of(fixed[root]))[0]]:
                raise SchemaError(f"where: the value of column {root!r} does not go with what is asked of others")
        else:
            evidence[root] = codec.within @ mask
    unseen: tuple[tuple[str, ...], float] = (), 0.0
    weights = {root: mask.astype(np.float64) for root, mask in kept.items() if root not in fixed}
    if balance is not None:
        if balance in follows or balance not in facts or not isinstance(codec := facts[balance].codec, Codec):
            raise SchemaError(f"balance: column {balance!r} is not modelled")
        if balance in fixed or balance in weights:
            raise SchemaError(f"balance: column {balance!r} is fixed by where")
        weights[balance] = _evening(codec)
        unseen = _unseen(codec, leaves)
        evidence[balance] = codec.within @ weights[balance]
    if (broken := domain.rules.contradicts(fixed)) is not None:
        raise SchemaError(f"where: the values do not obey the constraint {broken}")
    hidden = {balance: unseen} if balance is not None and unseen[0] else {}
    return domain.rules.with_evidence(Conditions(fixed=fixed, kept=weights, evidence=evidence, unseen=hidden))


def evened(domain: Domain, model: TableModel, conditions: Conditions, column: str) -> Conditions:
    """Conditions under which the rows that the model draws have the labels of `column` equally often, as `conditions_of` asked.

    A model's share of a rare label is seldom the one that was measured, and other conditions move it: what it draws tells, and is free.
    Labels that the other conditions rule out stay out.
    """
    codec = domain.rules.codecs[column]
    place = list(domain.rules.codecs).index(column)
    live = np.bincount(codec.groups[conditions.kept[column] > 0], minlength=codec.size)
    wanted = live / live.sum()
    n = int(np.clip(_SEEN * codec.size, _SEEN_LEAST, _SEEN_MOST))
    weights, rng = conditions.evidence[column], np.random.default_rng(0)
    for look in range(1, _LOOKS + 1):
        codes, _ = draw(domain, model, n, {**conditions.evidence, column: weights}, rng)
        share = np.bincount(codes[:, place], minlength=codec.size) / n
        # The first look says most; what later ones add is averaged, for each sees its own chance. What is never seen, though it was
        # raised once, is ruled out by the other conditions.
        raised = (wanted / np.maximum(share, 1 / n)) ** (1 / look)
        weights = weights * np.where((share > 0) | (look == 1), raised, 1.0)
        weights = weights / weights.max()
    return replace(conditions, evidence={**conditions.evidence, column: weights})


def _unseen(codec: Codec, leaves: Collection[str]) -> tuple[tuple[str, ...], float]:
    """(labels among `leaves` that the model never draws, their share of all that are to be equally frequent)."""
    cells = codec.cells
    assert isinstance(cells, LabelCells)
    shares = codec.shares[: cells.other]
    hidden = tuple(label for label, share in zip(cells.labels, shares, strict=True) if share <= 0 and label in leaves)
    return hidden, len(hidden) / (len(hidden) + np.count_nonzero(shares > 0))


def _evening(codec: Codec) -> FloatArray:
    """How many times as often each cell is to be drawn for labels to be equally frequent: one over its share. Raises SchemaError."""
    cells = codec.cells
    if not isinstance(cells, LabelCells) or not cells.labels:
        raise SchemaError(f"balance: column {codec.column!r} has no labels")
    shares = codec.shares[: cells.other]
    out = np.zeros(cells.size)
    out[: cells.other] = np.where(shares > 0, 1 / np.maximum(shares, 1e-300), 0.0)
    if not out.any():
        raise SchemaError(f"balance: no label of column {codec.column!r} is known to occur")
    evened: FloatArray = out / out.max()
    return evened


def _in_own_terms(column: Column, value: Any) -> Any:
    missing = value is None or value is pd.NA or value is pd.NaT or (isinstance(value, float) and np.isnan(value))
    if column.kind in LINES:
        return np.nan if missing else _on_line(column, value)
    return None if missing else as_label(value)


def _equal(cells: Own, wanted: Any) -> npt.NDArray[np.bool_]:
    if wanted is None:
        return np.array([c is None for c in cells], bool)
    if isinstance(wanted, float):
        return np.isclose(cells.astype(np.float64), wanted, rtol=1e-9, atol=1e-9, equal_nan=True)
    return np.asarray(cells == wanted, bool)


def condition(codec: Codec, column: Column, value: Any) -> tuple[FloatArray, Any]:
    """(weight of each code, value in the codec's terms) for the condition that a column equals `value`.

    Raises SchemaError where the model cannot tell that value from any other.
    """
    own = _in_own_terms(column, value)
    fine = int(codec.cells.encode(cells_of(own))[0])
    share = codec.shares[fine]
    unknown = share <= 0 or (isinstance(codec.cells, LabelCells) and fine == codec.cells.other)
    if unknown or (column.kind in LINES and off_the_line(column, np.array([own])).any()):
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
