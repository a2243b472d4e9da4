"""A table as read: private cells by column, and what is public about the columns."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd
import pyarrow as pa

from dpsynth.privacy.errors import DpsynthError, SchemaError
from dpsynth.privacy.ledger.fingerprint import Contents, Moments, RowHashes, row_hashes
from dpsynth.privacy.source import BoolArray, Cells, CountingSource, IntArray, MemorySource, Numbers, unit_keys
from dpsynth.privacy.spill import Spill, SpilledSource
from dpsynth.sources import arrow, frames
from dpsynth.sources.arrow import Feed, SourceColumn, feed_of_frame, gathered
from dpsynth.sources.databases import SQL, DuckDB, database_feed, feed_of_relation
from dpsynth.sources.files import feed_of_path
from dpsynth.sources.hugging_face import feed_of_dataset
from dpsynth.sources.layout import Layout

# Cells that a fit holds in memory, 8 bytes each; a table with more is held on disk. The answers are the same.
IN_MEMORY = 2**25

Keys = tuple[IntArray, BoolArray]


class Snapshot(Protocol):
    """A table as read for a fit: nothing of it changes any more."""

    @property
    def columns(self) -> tuple[SourceColumn, ...]:
        """What is public about the columns."""

    @property
    def layout(self) -> Layout: ...

    @property
    def contents(self) -> Contents:
        """What the ledger knows the rows by."""

    def source(self, unit: str | None, max_rows: int | None) -> CountingSource:
        """The rows behind the counting protocol, bounded per unit. Rows without a unit count as one unit together."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Rows:
    """A table in memory.

    exact: (number, missing) of each cell of the columns of whole numbers that float64 does not tell apart.
    """

    columns: tuple[SourceColumn, ...]
    cells: Mapping[str, Cells]
    hashes: RowHashes
    layout: Layout
    exact: Mapping[str, Keys]

    def __repr__(self) -> str:
        return f"Rows({len(self.columns)} columns, private)"

    @property
    def contents(self) -> Contents:
        """What the ledger knows the rows by."""
        return Contents.of(self.hashes.content)

    def source(self, unit: str | None, max_rows: int | None) -> CountingSource:
        """The rows behind the counting protocol, bounded per unit. Rows without a unit count as one unit together."""
        bound = checked_bound(list(self.cells), unit, max_rows)
        if unit is None:
            return MemorySource(self.cells, row_hashes=self.hashes.rows)
        columns = {name: cells for name, cells in self.cells.items() if name != unit}
        keys, missing = self.exact[unit] if unit in self.exact else unit_keys(self.cells[unit])
        numbers = pd.factorize(keys)[0].astype(np.int64) + 1
        numbers[missing] = 0
        units = pd.factorize(numbers)[0].astype(np.int64)
        return MemorySource(columns, row_hashes=self.hashes.rows, unit=unit, units=units, max_rows=bound)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class HeldRows:
    """A table on disk, in files without a name that go with the process; memory does not grow with its rows.

    unit: the column that the snapshot was taken for.
    """

    columns: tuple[SourceColumn, ...]
    layout: Layout
    spill: Spill
    unit: str | None

    def __repr__(self) -> str:
        return f"HeldRows({len(self.columns)} columns, private)"

    @property
    def contents(self) -> Contents:
        """What the ledger knows the rows by."""
        return self.spill.contents

    def source(self, unit: str | None, max_rows: int | None) -> CountingSource:
        """The rows behind the counting protocol, bounded per unit."""
        bound = checked_bound([c.name for c in self.columns], unit, max_rows)
        if unit != self.unit:
            raise SchemaError("the unit must be known when the table is read")
        return SpilledSource(self.spill, unit=unit, max_rows=bound)


def read(data: Any) -> Rows:
    """A table in memory, from anything that a fit takes: see `hold`.

    Raises SchemaError where the table cannot be worked with; the message names the column and the rule, never a value.
    """
    if isinstance(data, pd.DataFrame):
        return _of_pandas(data)
    feed = _feed(data)
    return _in_memory(feed, list(_read_out(feed)))


def hold(data: Any, unit: str | None = None) -> Snapshot:
    """A snapshot of a table, for a fit.

    data: pandas, polars or Spark DataFrame, pyarrow Table (or dataset, or stream), DuckDB relation, Hugging Face Dataset, the path of a
    CSV or Parquet file or of a folder of them, `SQL` or `DuckDB`, or the text "URL#table" or "file.duckdb#table".
    unit: the column that names the privacy unit.
    Raises SchemaError where the table cannot be worked with; the message names the column and the rule, never a value.
    """
    if isinstance(data, pd.DataFrame):
        return _of_pandas(data)
    if _is_spark(data):
        from dpsynth.sources.spark import hold_frame

        return hold_frame(data, unit)
    feed = _feed(data)
    check_unit_type(feed.schema, unit)
    tables = _read_out(feed)
    first: list[pa.Table] = []
    for table in tables:
        first.append(table)
        if sum(t.num_rows for t in first) * len(feed.columns) > IN_MEMORY:
            return _on_disk(feed, chain(first, tables), unit)
    return _in_memory(feed, first)


def to_pandas(data: Any) -> pd.DataFrame:
    """The rows as a pandas table, from anything that a fit takes. PRIVATE. Types are the source's own: strings for a CSV file."""
    if isinstance(data, pd.DataFrame):
        return data
    feed = _feed(data)
    tables = list(_read_out(feed))
    table = pa.concat_tables(tables) if tables else feed.schema.empty_table()
    out: pd.DataFrame = table.to_pandas(date_as_object=False)
    return out


def checked_bound(names: list[str], unit: str | None, max_rows: int | None) -> int:
    """How many rows a unit contributes. Raises SchemaError where unit and max_rows_per_unit do not go together."""
    if unit is None:
        if max_rows is not None:
            raise SchemaError("max_rows_per_unit needs unit=, the column that names the privacy unit")
        return 1
    if unit not in names:
        raise SchemaError(f"unit {unit!r} is not a column of the table")
    if max_rows is None or isinstance(max_rows, bool) or not isinstance(max_rows, int) or max_rows < 1:
        raise SchemaError("unit= needs max_rows_per_unit, a whole number of at least 1")
    return max_rows


def check_unit_type(schema: pa.Schema, unit: str | None) -> None:
    """Raises SchemaError for a unit whose cells float64 would blur."""
    if unit in schema.names and pa.types.is_decimal(dtype := schema.field(unit).type) and dtype.precision > 15:
        raise SchemaError(
            f"unit {unit!r} is a decimal number of more than 15 digits; cast it to a string or a whole number"
        )


def _is_spark(data: Any) -> bool:
    return type(data).__module__.split(".")[0] == "pyspark" and hasattr(type(data), "mapInArrow")


def _feed(data: Any) -> Feed:
    """The table as a stream of Arrow batches. Nothing but its schema has been read."""
    module = type(data).__module__.split(".")[0]
    try:
        if isinstance(data, SQL | DuckDB):
            feed = database_feed(data)
        elif isinstance(data, str | Path):
            feed = _feed_of_text(str(data))
        elif module == "polars" and hasattr(data, "lazy"):
            feed = feed_of_frame(data.lazy().collect(), "polars", "the polars DataFrame")
        elif module in ("duckdb", "_duckdb") and hasattr(data, "__arrow_c_stream__"):
            feed = feed_of_relation(data)
        elif _is_spark(data):
            raise SchemaError(
                "this looks at rows, and those of a Spark DataFrame stay in the cluster; take a sample of them: df.sample(0.01).toPandas()"
            )
        elif module == "datasets":
            feed = feed_of_dataset(data)
        elif module == "pyarrow" and hasattr(data, "scanner"):
            feed = feed_of_frame(data.scanner().to_reader(), "pyarrow", "the pyarrow dataset")
        elif module == "pyarrow" and hasattr(data, "__arrow_c_stream__"):
            feed = feed_of_frame(data, "pyarrow", "the pyarrow table")
        else:
            raise SchemaError(
                "data must be a pandas, polars or Spark DataFrame, a pyarrow Table, a DuckDB relation, a Hugging Face Dataset, dpsynth.SQL, "
                "dpsynth.DuckDB, or the path of a CSV or Parquet file or a folder of them"
            )
    except DpsynthError:
        raise
    except Exception as error:  # a reader's own message may quote a row
        raise SchemaError(f"the table cannot be read ({type(error).__name__})") from None
    check_names(feed.schema.names)
    _ = feed.columns  # refuses what cannot be worked with before a row is read
    return feed


def _feed_of_text(text: str) -> Feed:
    """A path, or "URL#table" or "file.duckdb#table"."""
    place, mark, table = text.rpartition("#")
    if mark and "://" not in place and place.endswith((".duckdb", ".ddb")):
        return database_feed(DuckDB(place, table=table))
    if "://" in text:
        return database_feed(SQL.named(text))
    if text.endswith((".duckdb", ".ddb")):
        raise SchemaError(
            "a DuckDB file needs the name of a table: 'file.duckdb#table', or dpsynth.DuckDB(path, table=...)"
        )
    return feed_of_path(Path(text))


def _read_out(feed: Feed) -> Iterator[pa.Table]:
    """The feed's rows to their end; whatever goes wrong on the way says no more than that it did."""
    try:
        yield from gathered(feed.batches, feed.schema)
    except DpsynthError:
        raise
    except Exception as error:  # a reader's own message may quote a row
        raise SchemaError(
            f"{feed.what} cannot be read to its end ({type(error).__name__}): is it whole, and UTF-8?"
        ) from None


def _in_memory(feed: Feed, tables: list[pa.Table]) -> Rows:
    table = pa.concat_tables(tables) if tables else feed.schema.empty_table()
    if table.num_rows == 0:
        raise SchemaError("the table has no rows")
    columns, cells = feed.columns, {}
    exact: dict[str, Keys] = {}
    for name in table.column_names:
        cells[name] = _cells(feed, name, table.column(name))
        keys = arrow.exact_keys(table.column(name)) if _blurred(cells[name]) else None
        exact |= {name: keys} if keys is not None else {}
    hashes = row_hashes(cells, moments_of(columns))
    return Rows(columns=columns, cells=cells, hashes=hashes, layout=feed.layout, exact=exact)


def _on_disk(feed: Feed, tables: Iterator[pa.Table], unit: str | None) -> HeldRows:
    columns = feed.columns
    if unit is not None:
        checked_bound([c.name for c in columns], unit, 1)
    spill, moments = Spill(), moments_of(columns)
    try:
        for table in tables:
            cells = {name: _cells(feed, name, table.column(name)) for name in table.column_names}
            keys = arrow.exact_keys(table.column(unit)) if unit is not None else None
            spill.append(cells, row_hashes(cells, moments), unit=unit, keys=keys)
    except OSError as error:
        raise SchemaError(f"the rows cannot be held in the folder for temporary files: {error.strerror}") from None
    return HeldRows(columns=columns, layout=feed.layout, spill=spill, unit=unit)


def _cells(feed: Feed, name: str, column: pa.ChunkedArray) -> Cells:
    try:
        return arrow.cells(name, column)
    except (UnicodeDecodeError, pa.ArrowException):  # their messages quote the value
        raise SchemaError(f"column {name!r} of {feed.what} holds what is not of its type, or no UTF-8") from None


def _of_pandas(table: pd.DataFrame) -> Rows:
    if table.shape[1] == 0:
        raise SchemaError("the table has no columns")
    check_names(list(table.columns))
    if len(table) == 0:
        raise SchemaError("the table has no rows")
    columns, cells = [], {}
    exact: dict[str, Keys] = {}
    for name in table.columns:
        kind, cells[name] = frames.cells(name, table[name])
        columns.append(SourceColumn(name=name, type=kind))
        keys = frames.exact_keys(table[name]) if _blurred(cells[name]) else None
        exact |= {name: keys} if keys is not None else {}
    hashes = row_hashes(cells, moments_of(columns))
    return Rows(columns=tuple(columns), cells=cells, hashes=hashes, layout=Layout.of_pandas(table), exact=exact)


def _blurred(cells: Cells) -> bool:
    """Whether cells hold numbers so large that float64 may not tell whole ones apart."""
    return isinstance(cells, Numbers) and bool(np.any(np.abs(cells.data) >= arrow.EXACT))


def moments_of(columns: list[SourceColumn] | tuple[SourceColumn, ...]) -> dict[str, Moments]:
    moments: dict[str, Moments] = {}
    for column in columns:
        if column.type == "datetime" or column.type == "timedelta":
            moments[column.name] = column.type
    return moments


def check_names(names: list[Any]) -> None:
    """Raises SchemaError where columns cannot be told apart by their names."""
    if not names:
        raise SchemaError("the table has no columns")
    if not all(isinstance(name, str) for name in names):
        raise SchemaError("column names must be strings; rename the columns first")
    if len(set(names)) != len(names):
        twice = next(n for n in names if names.count(n) > 1)
        raise SchemaError(f"column name {twice!r} stands more than once; names must be unique")
