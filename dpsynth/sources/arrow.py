"""Arrow columns as cells, and tables as streams of Arrow batches: what every source but pandas is read through."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from dpsynth.privacy.errors import SchemaError
from dpsynth.privacy.source import BoolArray, Cells, IntArray, Numbers, Strings
from dpsynth.sources.layout import Layout
from dpsynth.values import numbered

SourceType = Literal["number", "integer", "boolean", "string", "datetime", "timedelta"]

# Rows that are held as Arrow at a time.
BATCH = 2**18
# Whole numbers that float64 tells apart.
EXACT = 2**53


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceColumn:
    """What the source itself says of a column: its type, and whether that type is a declaration.

    type: "integer" only where a typed source says so (Parquet, SQL); a data frame's int64 is a "number" like its float64,
    because which of the two it is depends on the rows.
    """

    name: str
    type: SourceType


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Feed:
    """A table as a stream of batches of one schema.

    schema: names and types of the columns.  declared: columns that a typed source declares as whole numbers.
    what: the source in words, for messages; nothing private.
    """

    schema: pa.Schema
    batches: Iterator[pa.RecordBatch]
    layout: Layout
    what: str
    declared: frozenset[str] = frozenset()

    def __repr__(self) -> str:
        return f"Feed({self.what}, private rows)"

    @property
    def columns(self) -> tuple[SourceColumn, ...]:
        """What is public about the columns, by the schema alone. Raises SchemaError for one that cannot be worked with."""
        types = [source_type(field.name, field.type) for field in self.schema]
        integers = [t == "number" and n in self.declared for n, t in zip(self.schema.names, types, strict=True)]
        return tuple(
            SourceColumn(name=name, type="integer" if whole else t)
            for name, t, whole in zip(self.schema.names, types, integers, strict=True)
        )


def source_type(name: str, dtype: pa.DataType) -> SourceType:
    """The type of a column, from its Arrow type alone."""
    if isinstance(dtype, pa.BaseExtensionType):
        dtype = dtype.storage_type
    if pa.types.is_dictionary(dtype):
        source_type(name, dtype.value_type)
        return "string"
    if pa.types.is_boolean(dtype):
        return "boolean"
    if pa.types.is_integer(dtype) or pa.types.is_floating(dtype) or pa.types.is_decimal(dtype):
        return "number"
    if pa.types.is_timestamp(dtype) or pa.types.is_date(dtype):
        return "datetime"
    if pa.types.is_duration(dtype):
        return "timedelta"
    if _is_string(dtype) or pa.types.is_null(dtype) or pa.types.is_time(dtype):
        return "string"
    raise SchemaError(f"column {name!r} holds nested or binary values ({dtype}); flatten or drop it")


def is_text(dtype: pa.DataType) -> bool:
    """Whether a column holds strings and nothing else."""
    return _is_string(dtype.value_type if pa.types.is_dictionary(dtype) else dtype)


def _is_string(dtype: pa.DataType) -> bool:
    return bool(pa.types.is_string(dtype) or pa.types.is_large_string(dtype) or pa.types.is_string_view(dtype))


def cells(name: str, column: pa.ChunkedArray) -> Cells:
    """The cells of a column, by its type alone. Raises SchemaError for nested and binary values."""
    kind = source_type(name, column.type)
    if isinstance(column.type, pa.BaseExtensionType):
        column = column.cast(column.type.storage_type)
    if kind == "number":
        if pa.types.is_decimal(column.type):
            column = column.cast(pa.float64())
        numbers = column.to_numpy().astype(np.float64)
        return Numbers(np.where(np.isfinite(numbers), numbers, np.nan))
    if kind in ("datetime", "timedelta"):
        return Numbers(microseconds(column.to_numpy(), f"{'datetime' if kind == 'datetime' else 'timedelta'}64[us]"))
    return _strings(column)


def exact_keys(column: pa.ChunkedArray) -> tuple[IntArray, BoolArray] | None:
    """(a whole number for each cell, whether it is missing) where cells that differ may be equal as float64; else None.

    For the column that names the privacy unit: two units that were taken for one would share one bound.
    """
    if not pa.types.is_integer(column.type):
        return None
    missing = column.is_null().to_numpy().astype(bool)
    whole = column.fill_null(0).to_numpy()
    return (whole.view(np.int64) if whole.dtype == np.uint64 else whole.astype(np.int64)), missing


def microseconds(values: npt.NDArray[Any], unit: str) -> npt.NDArray[np.float64]:
    """Times of any resolution as microseconds, missing as NaN."""
    micro = values.astype(unit)
    return np.where(np.isnat(micro), np.nan, micro.astype(np.int64).astype(np.float64))


def merged(codes: npt.NDArray[Any], uniques: list[str]) -> Strings:
    """Cells from codes (-1 = missing) of values that may read the same (1 and "1"): one cell value each."""
    again, labels = numbered(uniques)
    final = np.append(again.astype(np.int32), np.int32(-1))[codes]  # code -1, missing, takes the last
    return Strings(final.astype(np.int32), np.array(labels, dtype=object))


def _strings(column: pa.ChunkedArray) -> Strings:
    codes: list[IntArray] = [np.zeros(0, np.int64)]
    texts: list[str] = []
    for chunk in column.chunks if not pa.types.is_null(column.type) else ():
        encoded = chunk if pa.types.is_dictionary(column.type) else _viewless(chunk).dictionary_encode()
        # A cell is missing where its index is, and where the dictionary's value is.
        values = encoded.dictionary.to_pylist()
        indices = encoded.indices.fill_null(len(values)).to_numpy(zero_copy_only=False)
        used, places = np.unique(indices, return_inverse=True)
        numbers = np.full(len(used), -1, np.int64)
        for i, index in enumerate(used.tolist()):
            if index < len(values) and values[index] is not None:
                numbers[i] = len(texts)
                texts.append(str(values[index]))
        codes.append(numbers[places])
    if pa.types.is_null(column.type):
        codes.append(np.full(len(column), -1, np.int64))
    return merged(np.concatenate(codes), texts)


def _viewless(chunk: pa.Array) -> pa.Array:
    return chunk.cast(pa.large_string()) if pa.types.is_string_view(chunk.type) else chunk


def table_of(batches: list[pa.RecordBatch], schema: pa.Schema) -> pa.Table:
    """Batches that differ in the width of their types as one table of `schema`."""
    return pa.Table.from_batches([b if b.schema.equals(schema) else _conformed(b, schema) for b in batches], schema)


def _conformed(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays([batch.column(f.name).cast(f.type) for f in schema], schema=schema)


def gathered(batches: Iterator[pa.RecordBatch], schema: pa.Schema) -> Iterator[pa.Table]:
    """The same rows in tables of `BATCH` rows, but for the last one."""
    waiting: list[pa.RecordBatch] = []
    rows = 0
    for batch in batches:
        start = 0
        while start < batch.num_rows:
            part = batch.slice(start, BATCH - rows)
            waiting.append(part)
            start, rows = start + part.num_rows, rows + part.num_rows
            if rows == BATCH:
                yield table_of(waiting, schema)
                waiting, rows = [], 0
    if waiting:
        yield table_of(waiting, schema)


def feed_of_frame(data: Any, frame: Literal["polars", "pyarrow"], what: str) -> Feed:
    """A feed of anything that hands out an Arrow stream; samples come back as `frame`."""
    reader = pa.RecordBatchReader.from_stream(data)
    return Feed(schema=reader.schema, batches=iter(reader), layout=Layout.of_arrow(frame, reader.schema), what=what)
