"""A Spark DataFrame behind the counting protocol: rows stay in the cluster, and sums alone reach the driver.

The executors run the code that every other source runs (`arrow.cells`, `row_hashes`, `Coding.encode`, `contingency`) and hand out
partial sums; Spark adds these up, and the driver, where the noise is drawn, collects the totals. What it collects are cells of
the tables that were asked for, the different values of a column with their counts, and the parts of the fingerprint.

A snapshot is taken at the start, in the executors' own storage, cut off from where it came from (`localCheckpoint`, on disk): the
source is read once, and an executor that is lost with its part of the snapshot is an error, never other rows.
"""

from __future__ import annotations

import base64
import math
import pickle
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from dpsynth.encode.questions import IdentifierIn
from dpsynth.privacy import errors
from dpsynth.privacy.errors import DpsynthError, ModelError, PrivacyError, SchemaError
from dpsynth.privacy.ledger.fingerprint import Contents, Moments, row_hashes
from dpsynth.privacy.source import (
    ROWS_PER_UNIT,
    Cells,
    Coding,
    Encoding,
    IntArray,
    Numbers,
    Rewrite,
    Strings,
    Vectors,
    contingency,
    in_order,
    narrowest,
    summed,
    tally,
    text_weights,
    unit_keys,
    unit_scale,
)
from dpsynth.sources import arrow
from dpsynth.sources.arrow import SourceColumn, gathered, source_type
from dpsynth.sources.layout import PLAIN, Layout
from dpsynth.sources.rows import check_names, check_unit_type, checked_bound, moments_of

NO_ROWS = (
    "this model trains on rows one by one (DP-SGD), and a Spark DataFrame does not hand them out; use model='marginals', 'aim' or "
    "'mst', or write the table to Parquet and fit on its path"
)
# Columns of a snapshot beside the table's own, which are c0, c1, ...: doubles and strings alone.
_HASH, _CONTENT, _UNIT, _KEPT = "hash", "content", "unit", "kept"
_SUMS = "query int, place bigint, total bigint"
_WORDS = 8  # halves of the four lanes of a fingerprint; their sums stay below 2^63
_SIGN = np.uint64(2**63)
# How an executor says what went wrong: the name of an error and its message, which holds nothing private.
_SAID = re.compile(r"dpsynth says (\w+) ([\w+/=]*)\.")
_MISSING = re.compile(r"No module named '(\w+)")

Tables = Iterator[pa.Table]
Work = Callable[[Tables], Iterator[pa.RecordBatch]]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class SparkRows:
    """A snapshot of a Spark DataFrame, in the cluster. Made by `hold_frame`."""

    columns: tuple[SourceColumn, ...]
    contents: Contents
    unit: str | None
    frame: Any
    layout: Layout = PLAIN

    def __repr__(self) -> str:
        return f"SparkRows({len(self.columns)} columns, private)"

    def source(self, unit: str | None, max_rows: int | None) -> SparkSource:
        """The rows behind the counting protocol, bounded per unit: the rows that stay are those that stay in memory."""
        bound = checked_bound([c.name for c in self.columns], unit, max_rows)
        if unit != self.unit:
            raise SchemaError("the unit must be known when the table is read")
        frame = self.frame
        if unit is not None:
            with _jobs():
                frame = _bounded(frame, bound)
        places = {c.name: f"c{i}" for i, c in enumerate(self.columns) if c.name != unit}
        texts = frozenset(c.name for c in self.columns if _is_text(c))
        return SparkSource(frame, places, texts, unit=unit, max_rows=bound)


def hold_frame(frame: Any, unit: str | None) -> SparkRows:
    """A snapshot of a Spark DataFrame, for a fit. Whole numbers are not taken as declared: Spark may have inferred them from rows.

    Raises SchemaError where the table cannot be worked with or read; the message names the column and the rule, never a value.
    """
    if not hasattr(frame, "toArrow"):
        raise SchemaError("Spark DataFrames need pyspark 4; run: pip install 'dpsynth[spark]'")
    check_names(frame.columns)
    with _jobs():
        schema = frame.limit(0).toArrow().schema
    columns = tuple(SourceColumn(name=field.name, type=source_type(field.name, field.type)) for field in schema)
    if unit is not None:
        checked_bound(schema.names, unit, 1)
        check_unit_type(schema, unit)
    ours = {f"c{i}": "string" if _is_text(c) else "double" for i, c in enumerate(columns) if c.name != unit}
    ours |= {_HASH: "bigint", _CONTENT: "bigint"}
    if unit is not None:
        ours[_UNIT] = "string" if _is_text(columns[schema.names.index(unit)]) else "bigint"
    with _jobs():
        held = _checkpoint(
            frame.toDF(*[f"c{i}" for i in range(len(columns))]).mapInArrow(
                _told(_read_out, (columns, moments_of(columns), unit)), _ddl(ours)
            )
        )
        contents = _contents(held)
    if contents.rows == 0:
        raise SchemaError("the table has no rows")
    return SparkRows(columns=columns, contents=contents, unit=unit, frame=held.drop(_CONTENT))


def drawn_frame(session: Any, draw: Callable[[int], pa.Table], schema: pa.Schema, parts: int) -> Any:
    """A Spark DataFrame of synthetic rows: partition i is draw(i), made by an executor whenever it is asked for, always the same.

    schema: of what is drawn; its metadata become those of the first column, for Spark's tables have none.
    """
    from pyspark.sql.pandas.types import from_arrow_schema

    made = from_arrow_schema(schema, prefer_timestamp_ntz=True)
    if made.fields:
        made.fields[0].metadata = {k.decode(): v.decode() for k, v in (schema.metadata or {}).items()}
    numbers = session.range(0, parts, 1, max(parts, 1))
    return numbers.mapInArrow(_told(_drawn, draw), made)


class SparkSource:
    """The counting protocol over a snapshot in the cluster. See `MemorySource`.

    frame: columns `places` (by name), doubles and strings; with a unit also how many rows the row's unit keeps.
    """

    def __init__(
        self, frame: Any, places: Mapping[str, str], texts: frozenset[str], *, unit: str | None, max_rows: int
    ) -> None:
        self.unit, self.max_rows = unit, max_rows
        self.scale = 1 if unit is None else unit_scale(max_rows)
        self._frame, self._places, self._texts = frame, dict(places), texts

    def __repr__(self) -> str:
        return f"SparkSource({len(self.names)} columns, private rows)"

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._places)

    def count(self, queries: Sequence[Sequence[Coding]]) -> list[IntArray]:
        voted = {i: q[0] for i, q in enumerate(queries) if len(q) == 1 and isinstance(q[0], IdentifierIn)}
        marked: dict[int, list[Coding]] = {i: [replace(coding, detector=_Mark())] for i, coding in voted.items()}
        out = self._count([marked.get(i, list(query)) for i, query in enumerate(queries)])
        for i, coding in voted.items():
            looked_at, out[i][0] = out[i][0], 0
            if looked_at:
                out[i] += self._votes(coding, marked[i][0])
        return out

    def _count(self, queries: list[list[Coding]]) -> list[IntArray]:
        sizes = [math.prod(c.size for c in query) for query in queries]
        return self._sums(_counted, queries, {c.column for query in queries for c in query}, sizes)

    def _votes(self, coding: IdentifierIn, marked: Coding) -> IntArray:
        """What the PII detector says of the cells that it looks at: a few thousand different ones of the whole column.

        It also judges the cells that it is given together (is this a language it reads?), so that all of them go through it in one
        task: what it says is the same in every partitioning.
        """
        with _jobs():
            values = self._values(coding.column, marked).repartition(1)
            return _totals(values.mapInArrow(_told(_voted, coding), _SUMS), [coding.size])[0]

    def sum_vectors(self, groups: Sequence[Coding], vectors: Vectors) -> IntArray:
        self._require_strings(vectors.column)
        shape = math.prod(c.size for c in groups), vectors.width
        columns = {c.column for c in groups} | {vectors.column}
        (total,) = self._sums(_summed, (list(groups), vectors), columns, [math.prod(shape)])
        return total.reshape(shape)

    def count_values(self, column: str) -> tuple[npt.NDArray[np.object_], IntArray]:
        with _jobs():
            found = self._values(column).toArrow()
        totals = found["total"].to_numpy().astype(np.int64)
        if column in self._texts:
            return in_order(np.array(found["value"].to_pylist(), dtype=object), totals)
        values = found["value"].to_numpy()
        order = np.argsort(values)
        return values[order].astype(object), totals[order]

    def count_distinct(self, column: str) -> int:
        with _jobs():
            return int(self._values(column).count())

    def rewrite(self, column: str, function: Rewrite) -> None:
        self._require_strings(column)
        with _jobs():
            payload = self._places[column], function
            self._frame = _checkpoint(self._frame.mapInArrow(_told(_rewritten, payload), self._frame.schema))

    def stream(self, codings: Sequence[Coding]) -> Iterator[tuple[IntArray, IntArray]]:
        raise ModelError(NO_ROWS)

    def encoded(self, encodings: Mapping[str, Encoding]) -> tuple[dict[str, npt.NDArray[Any]], IntArray]:
        raise ModelError(NO_ROWS)

    def _require_strings(self, column: str) -> None:
        if column not in self._texts or column not in self._places:
            raise PrivacyError(f"column {column!r} holds no strings")

    def _sums(self, work: Callable[..., Any], asked: Any, columns: set[str], sizes: Sequence[int]) -> list[IntArray]:
        """What the executors' partial sums add up to: for each query an array of its size."""
        with _jobs():
            frame, places = self._needed(columns)
            return _totals(frame.mapInArrow(_told(work, (places, self.scale, asked)), _SUMS), sizes)

    def _values(self, column: str, marked: Coding | None = None) -> Any:
        """The different values of a column (of those that are marked) and their weighted counts, in the cluster."""
        from pyspark.sql import functions

        frame, places = self._needed({column})
        kind = "string" if column in self._texts else "double"
        work = _told(_valued, (places, self.scale, column, marked))
        found = frame.mapInArrow(work, f"value {kind}, total bigint")
        return found.groupBy("value").agg(functions.sum("total").alias("total"))

    def _needed(self, columns: set[str]) -> tuple[Any, dict[str, str]]:
        """(the frame with these columns and what weighs the rows, where each column is in it)."""
        places = {name: place for name, place in self._places.items() if name in columns}
        if self.unit is not None:
            places[ROWS_PER_UNIT] = _KEPT
        # A frame without columns has no rows to count.
        return self._frame.select(*(places.values() or self._frame.columns[:1])), places


@dataclass(frozen=True)
class _Mark:
    """In the detector's place: every cell that it would be shown gets code 0."""

    def classify(self, cells: Sequence[str], header: str) -> IntArray:
        return np.zeros(len(cells), np.int64)


# -- at the driver -----------------------------------------------------------------------------------------------------


def _checkpoint(frame: Any) -> Any:
    """The frame, computed once and for all, in files of the executors; never computed again."""
    from pyspark import StorageLevel

    return frame.localCheckpoint(eager=True, storageLevel=StorageLevel.DISK_ONLY)


def _bounded(frame: Any, max_rows: int) -> Any:
    """The rows that stay, and how many stay with each. Rows without a unit (null) are one unit together."""
    from pyspark.sql import Window, functions

    unit = Window.partitionBy(_UNIT)
    # In two steps, so that Spark cuts a unit's rows down before it sends them on.
    kept = frame.withColumn("place", functions.row_number().over(unit.orderBy(_HASH)))
    kept = kept.where(functions.col("place") <= max_rows)
    kept = kept.withColumn(_KEPT, functions.count(functions.lit(1)).over(unit))
    return _checkpoint(kept.drop(_HASH, _UNIT, "place"))


def _contents(frame: Any) -> Contents:
    """The hash of all rows' hashes, from the executors' parts of it: nothing of a row is collected."""
    from pyspark.sql import functions

    parts = [f"part{i}" for i in range(_WORDS + 1)]
    found = frame.select(_CONTENT).mapInArrow(_told(_fingerprinted, parts), _ddl(dict.fromkeys(parts, "bigint")))
    sums = found.agg(*[functions.sum(part).alias(part) for part in parts]).toArrow().to_pylist()[0]
    words = [int(sums[part] or 0) for part in parts]
    lanes = ((words[i] + (words[i + 1] << 32)) % 2**64 for i in range(0, _WORDS, 2))
    return Contents(tuple(lanes), words[-1])


def _totals(partial: Any, sizes: Sequence[int]) -> list[IntArray]:
    from pyspark.sql import functions

    found = partial.groupBy("query", "place").agg(functions.sum("total").alias("total")).toArrow()
    query, place, total = (found[name].to_numpy() for name in ("query", "place", "total"))
    out = [np.zeros(size, np.int64) for size in sizes]
    for i, cells in enumerate(out):
        cells[place[query == i]] = total[query == i]
    return out


def _ddl(columns: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {kind}" for name, kind in columns.items())


def _is_text(column: SourceColumn) -> bool:
    return column.type in ("string", "boolean")


@contextmanager
def _jobs() -> Iterator[None]:
    """Spark at work: whatever goes wrong is said without a word of Spark's own messages, which quote rows."""
    try:
        yield
    except DpsynthError:
        raise
    except Exception as error:
        raise _said(error) from None


def _said(error: Exception) -> DpsynthError:
    """What an executor said, or else that a job failed."""
    try:
        text = str(error)
    except Exception:  # the message is fetched from a JVM that may be gone
        text = ""
    if found := _SAID.search(text):
        kind, message = found.groups()
        return _KINDS.get(kind, SchemaError)(base64.b64decode(message).decode())
    if missing := _MISSING.search(text):
        return SchemaError(
            f"the Python of Spark's executors has no {missing[1]}; install the same dpsynth there, or set PYSPARK_PYTHON to a Python that "
            "has it before Spark starts"
        )
    return SchemaError(
        f"a Spark job on the rows failed ({type(error).__name__}): an executor may be lost, out of memory or disk, or the source cannot be "
        "read. Spark's own log has the reason (it may quote rows)"
    )


_KINDS = {kind.__name__: kind for kind in (SchemaError, PrivacyError, ModelError, errors.PIIError)}


# -- in the executors --------------------------------------------------------------------------------------------------


def _told(work: Callable[..., Iterator[pa.RecordBatch]], asked: Any) -> Callable[..., Iterator[pa.RecordBatch]]:
    """What an executor runs: `work(tables, asked)`, whose failures say nothing of the rows, in Spark's log either.

    asked: shipped as bytes, so that it is made anew where its failure can be told (a detector loads its models then).
    """
    from pyspark import cloudpickle

    try:
        shipped = cloudpickle.dumps(asked)
    except Exception as error:
        raise ModelError(f"Spark cannot send this to its executors ({type(error).__name__}); {NO_ROWS}") from None

    def run(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        try:
            yield from work(_tables(batches), pickle.loads(shipped))
        except DpsynthError as error:
            told = error
        except Exception as error:
            told = SchemaError(f"a Spark executor failed on the rows ({type(error).__name__})")
        else:
            return
        message = base64.b64encode(str(told).encode()).decode()
        raise RuntimeError(f"dpsynth says {type(told).__name__} {message}.") from None

    return run


def _tables(batches: Iterator[pa.RecordBatch]) -> Tables:
    first = next(batches, None)
    if first is not None:
        yield from gathered(chain([first], batches), first.schema)


def _read_out(
    tables: Tables, asked: tuple[tuple[SourceColumn, ...], Mapping[str, Moments], str | None]
) -> Iterator[pa.RecordBatch]:
    """A part of the source as cells, with the rows' hashes and their unit."""
    columns, moments, unit = asked
    for table in tables:
        cells = {c.name: arrow.cells(c.name, table.column(i)) for i, c in enumerate(columns)}
        hashes = row_hashes(cells, moments)
        out = {f"c{i}": _column(cells[c.name]) for i, c in enumerate(columns) if c.name != unit}
        # In signed numbers of the same order.
        out[_HASH] = pa.array((hashes.rows ^ _SIGN).view(np.int64))
        out[_CONTENT] = pa.array(hashes.content.view(np.int64))
        if unit is not None:
            exact = arrow.exact_keys(table.column([c.name for c in columns].index(unit)))
            out[_UNIT] = _units(cells[unit], exact)
        yield pa.RecordBatch.from_pydict(out)


def _units(cells: Cells, exact: tuple[IntArray, npt.NDArray[np.bool_]] | None) -> pa.Array:
    if isinstance(cells, Strings):
        return _column(cells)
    keys, missing = exact or unit_keys(cells)
    return pa.array(keys, mask=missing)


def _column(cells: Cells) -> pa.Array:
    if isinstance(cells, Numbers):
        return pa.array(cells.data)
    codes = pa.array(cells.codes, mask=cells.codes < 0)
    return pa.DictionaryArray.from_arrays(codes, pa.array(cells.uniques, pa.string())).dictionary_decode()


def _fingerprinted(tables: Tables, parts: list[str]) -> Iterator[pa.RecordBatch]:
    total = Contents()
    for table in tables:
        total += Contents.of(table.column(0).to_numpy().view(np.uint64))
    words = [half for lane in total.lanes for half in (lane % 2**32, lane >> 32)]
    yield pa.RecordBatch.from_pydict({part: [n] for part, n in zip(parts, [*words, total.rows], strict=True)})


class _Part:
    """Rows of an executor: cells by name, codes (each made once) and weights."""

    def __init__(self, table: pa.Table, places: Mapping[str, str], scale: int) -> None:
        self.size = table.num_rows
        self.cells = {name: arrow.cells(name, table.column(place)) for name, place in places.items()}
        kept = self.cells.get(ROWS_PER_UNIT)
        self.weights = scale // kept.data.astype(np.int64) if isinstance(kept, Numbers) else None
        self._codes: dict[Coding, Any] = {}

    def codes(self, coding: Coding) -> Any:
        if coding not in self._codes:
            self._codes[coding] = coding.encode(self.cells[coding.column]).astype(narrowest(coding.size))
        return self._codes[coding]


def _counted(tables: Tables, asked: tuple[Mapping[str, str], int, list[list[Coding]]]) -> Iterator[pa.RecordBatch]:
    places, scale, queries = asked
    totals = [np.zeros(math.prod(c.size for c in query), np.int64) for query in queries]
    for table in tables:
        part = _Part(table, places, scale)
        for total, counts in zip(totals, contingency(queries, part.codes, part.size, part.weights), strict=True):
            total += counts
    for i, total in enumerate(totals):
        yield _sparse(i, total)


def _summed(
    tables: Tables, asked: tuple[Mapping[str, str], int, tuple[list[Coding], Vectors]]
) -> Iterator[pa.RecordBatch]:
    places, scale, (groups, vectors) = asked
    size = math.prod(c.size for c in groups)
    total = np.zeros((size, vectors.width), np.int64)
    for table in tables:
        part = _Part(table, places, scale)
        cells = part.cells[vectors.column]
        assert isinstance(cells, Strings)
        held = text_weights(groups, part.codes, cells.codes, (size, len(cells.uniques)), part.weights)
        total += summed(held, cells.uniques, vectors)
    yield _sparse(0, total.ravel())


def _valued(tables: Tables, asked: tuple[Mapping[str, str], int, str, Coding | None]) -> Iterator[pa.RecordBatch]:
    """Values that occur, those of code 0 of `marked` alone where it is given, and their weighted counts."""
    places, scale, column, marked = asked
    for table in tables:
        part = _Part(table, places, scale)
        cells = part.cells[column]
        present = cells.codes >= 0 if isinstance(cells, Strings) else ~np.isnan(cells.data)
        if marked is not None:
            present &= part.codes(marked) == 0
        found = cells.codes[present] if isinstance(cells, Strings) else cells.data[present]
        values, inverse = np.unique(found, return_inverse=True)
        totals = tally(inverse, len(values), None if part.weights is None else part.weights[present])
        shown = pa.array(cells.uniques[values], pa.string()) if isinstance(cells, Strings) else pa.array(values)
        yield pa.RecordBatch.from_pydict({"value": shown, "total": pa.array(totals)})


def _voted(tables: Tables, coding: Coding) -> Iterator[pa.RecordBatch]:
    """Votes on different values, all of them in one task."""
    everything = list(tables)
    if everything:
        table = pa.concat_tables(everything)
        codes = coding.encode(arrow.cells(coding.column, table["value"]))
        yield _sparse(0, tally(codes, coding.size, table["total"].to_numpy()))


def _rewritten(tables: Tables, asked: tuple[str, Rewrite]) -> Iterator[pa.RecordBatch]:
    place, function = asked
    for table in tables:
        cells = arrow.cells(place, table[place])
        assert isinstance(cells, Strings)
        again = Strings(cells.codes, np.array(function(list(cells.uniques)), dtype=object))
        table = table.set_column(table.column_names.index(place), place, _column(again))
        yield from table.to_batches()


def _drawn(tables: Tables, draw: Callable[[int], pa.Table]) -> Iterator[pa.RecordBatch]:
    for table in tables:
        for part in table.column(0).to_pylist():
            yield from draw(part).to_batches(max_chunksize=10_000)


def _sparse(query: int, total: IntArray) -> pa.RecordBatch:
    places = np.flatnonzero(total)
    columns = {"query": np.full(len(places), query, np.int32), "place": places, "total": total[places]}
    return pa.RecordBatch.from_pydict({name: pa.array(values) for name, values in columns.items()})
