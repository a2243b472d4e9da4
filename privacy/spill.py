"""Private rows on disk behind the counting protocol: memory does not grow with rows.

A `Spill` takes a table chunk by chunk and keeps each column in a file of its own. The files have no name: nobody can open them,
and the system frees them when the process ends, however it ends. Memory holds one chunk, the different strings of each column,
and the tables that are counted. Each coding is applied once; its codes, often a byte a row, are what the counting reads.

`SpilledSource` answers exactly as `MemorySource` does for the same rows, in every order and in every cut into chunks: counts are sums of
integers, and which rows of a unit stay depends on the rows' hashes alone. The sensitivities are those proved there.
"""

from __future__ import annotations

import math
import mmap
import os
import tempfile
import weakref
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from dpsynth.privacy.errors import PrivacyError
from dpsynth.privacy.ledger.fingerprint import Contents
from dpsynth.privacy.source import (
    ROWS_PER_UNIT,
    BoolArray,
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
    kept_rows,
    narrowest,
    summed,
    tally,
    text_weights,
    unit_keys,
    unit_scale,
)

if TYPE_CHECKING:
    from scipy.sparse import csr_array

    from dpsynth.privacy.ledger.fingerprint import RowHashes

# Rows of units that are bounded at a time (a single unit with more is still one part).
_UNIT_ROWS = 2**21


def nameless(size: int = 0) -> int:
    """The descriptor of a new file without a name, in the folder for temporary files; `size` bytes of zeros."""
    descriptor, path = tempfile.mkstemp(prefix="dpsynth-")
    os.unlink(path)
    os.truncate(descriptor, size)
    return descriptor


def on_disk(shape: tuple[int, ...], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """A writable array of zeros in a file without a name; the file goes with the array."""
    dtype = np.dtype(dtype)
    size = math.prod(shape) * dtype.itemsize
    if not size:
        return np.zeros(shape, dtype)
    descriptor = nameless(size)
    try:
        return np.frombuffer(mmap.mmap(descriptor, size), dtype).reshape(shape)
    finally:
        os.close(descriptor)


class Store:
    """An array that is appended to in chunks: each in the smallest type that holds it exactly, in a file without a name."""

    def __init__(self) -> None:
        self._file = -1  # opened by the first row
        self._chunks: list[tuple[np.dtype[Any], int, int]] = []
        self._end = 0

    def __repr__(self) -> str:
        return "Store(private)"

    def __len__(self) -> int:
        return sum(size for _, _, size in self._chunks)

    def append(self, values: npt.NDArray[Any]) -> None:
        small = np.ascontiguousarray(_narrowed(values))
        if self._file < 0 and small.size:
            self._file = nameless()
            weakref.finalize(self, os.close, self._file)
        left = small.view(np.uint8).data
        self._chunks.append((small.dtype, self._end, len(small)))
        while left:
            written = os.pwrite(self._file, left, self._end)
            left, self._end = left[written:], self._end + written

    def chunk(self, i: int) -> npt.NDArray[Any]:
        """Chunk i, in a type that may be smaller than it came in."""
        dtype, start, size = self._chunks[i]
        values = np.empty(size, dtype)
        left = values.view(np.uint8).data
        while left:
            got = os.preadv(self._file, [left], start)
            left, start = left[got:], start + got
        return values

    def whole(self, dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        chunks = [self.chunk(i).astype(dtype) for i in range(len(self._chunks))]
        return np.concatenate(chunks) if chunks else np.zeros(0, dtype)


def _narrowed(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    if not values.size:
        return values
    if values.dtype.kind == "f":
        with np.errstate(invalid="ignore", over="ignore"):
            if np.array_equal(whole := np.rint(values), values) and np.abs(values).max() < 2**31:
                return _narrowed(whole.astype(np.int64))
            single = values.astype(np.float32)
        return single if np.array_equal(single, values, equal_nan=True) else values
    low, high = int(values.min()), int(values.max())
    small = np.promote_types(np.min_scalar_type(low), np.min_scalar_type(high))
    return values.astype(small) if small.kind in "iu" else values


class Spill:
    """A table on disk, column by column, in chunks that all columns share."""

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.columns: dict[str, Store] = {}
        self.strings: dict[str, dict[str, int]] = {}  # of the columns of strings: code of each
        self.hashes, self.keys, self.missing = Store(), Store(), Store()
        self.contents = Contents()

    def __repr__(self) -> str:
        return f"Spill({len(self.columns)} columns, private rows)"

    def append(
        self,
        cells: Mapping[str, Cells],
        hashes: RowHashes,
        *,
        unit: str | None,
        keys: tuple[IntArray, BoolArray] | None = None,
    ) -> None:
        """A chunk of rows. keys: whole numbers of the cells of the unit, and which are missing, where cells would blur them."""
        self.sizes.append(len(hashes.rows))
        for name, column in cells.items():
            if isinstance(column, Strings):
                index = self.strings.setdefault(name, {})
                places = np.array([index.setdefault(text, len(index)) for text in column.uniques], np.int32)
                column = Strings(np.append(places, np.int32(-1))[column.codes], column.uniques)
            if name == unit:
                keys = keys or unit_keys(column)
                self.keys.append(keys[0])
                self.missing.append(keys[1].astype(np.uint8))
            stored = column.codes if isinstance(column, Strings) else column.data
            self.columns.setdefault(name, Store()).append(stored)
        if unit is not None:
            self.hashes.append(hashes.rows)
        self.contents += Contents.of(hashes.content)


class SpilledSource:
    """The counting protocol over a spill. See `MemorySource`."""

    def __init__(self, spill: Spill, *, unit: str | None = None, max_rows: int = 1) -> None:
        self.unit, self.max_rows = unit, max_rows
        self.scale = 1 if unit is None else unit_scale(max_rows)
        self._sizes = list(spill.sizes)
        self._starts = [0, *np.cumsum(self._sizes).tolist()]
        self._columns = {name: store for name, store in spill.columns.items() if name != unit}
        self._uniques = {
            name: np.array(list(index), dtype=object) for name, index in spill.strings.items() if name != unit
        }
        self._encoded: dict[Coding, Store] = {}
        # Of each row: how many rows its unit keeps, 0 where it is not kept itself; and its unit's number.
        self._kept: npt.NDArray[Any] | None = None
        self._units: IntArray | None = None
        if unit is not None:
            self._kept, self._units = _bounded(spill, max_rows)

    def __repr__(self) -> str:
        return f"SpilledSource({len(self.names)} columns, private rows)"

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._columns)

    def count(self, queries: Sequence[Sequence[Coding]]) -> list[IntArray]:
        self._encode({c for query in queries for c in query})
        out = [np.zeros(math.prod(c.size for c in query), np.int64) for query in queries]
        for i, size in enumerate(self._sizes):
            codes = {c: self._encoded[c].chunk(i) for query in queries for c in query}
            for total, part in zip(out, contingency(queries, codes.__getitem__, size, self._weights(i)), strict=True):
                total += part
        return out

    def sum_vectors(self, groups: Sequence[Coding], vectors: Vectors) -> IntArray:
        if vectors.column not in self._uniques:
            raise PrivacyError(f"column {vectors.column!r} holds no strings")
        self._encode(set(groups))
        uniques = self._uniques[vectors.column]
        shape = math.prod(c.size for c in groups), len(uniques)
        held: csr_array[Any] | None = None
        for i in range(len(self._sizes)):
            codes = {c: self._encoded[c].chunk(i) for c in groups}
            texts = self._columns[vectors.column].chunk(i)
            part = text_weights(groups, codes.__getitem__, texts, shape, self._weights(i))
            held = part if held is None else held + part
        return np.zeros((shape[0], vectors.width), np.int64) if held is None else summed(held, uniques, vectors)

    def count_values(self, column: str) -> tuple[npt.NDArray[np.object_], IntArray]:
        if column in self._uniques:
            return self._count_strings(column)
        values, totals = np.zeros(0), np.zeros(0, np.int64)
        for i in range(len(self._sizes)):
            data = self._columns[column].chunk(i).astype(np.float64)
            weights = self._weights(i)
            present = ~np.isnan(data)
            found, inverse = np.unique(data[present], return_inverse=True)
            counts = tally(inverse, len(found), None if weights is None else weights[present])
            values, place = np.unique(np.concatenate([values, found]), return_inverse=True)
            totals = tally(place, len(values), np.concatenate([totals, counts]))
        occurring = totals > 0
        return values[occurring].astype(object), totals[occurring]

    def _count_strings(self, column: str) -> tuple[npt.NDArray[np.object_], IntArray]:
        uniques = self._uniques[column]
        totals = np.zeros(len(uniques) + 1, np.int64)  # the last is missing
        for i in range(len(self._sizes)):
            codes = self._columns[column].chunk(i).astype(np.int64)
            totals += tally(np.where(codes < 0, len(uniques), codes), len(totals), self._weights(i))
        return in_order(uniques, totals[:-1])

    def count_distinct(self, column: str) -> int:
        return len(self.count_values(column)[0])

    def rewrite(self, column: str, function: Rewrite) -> None:
        if column not in self._uniques:
            raise PrivacyError(f"column {column!r} holds no strings to rewrite")
        texts = np.array(function(list(self._uniques[column])), dtype=object)
        uniques, inverse = np.unique(texts, return_inverse=True)
        places = np.append(inverse, -1)
        again = Store()
        for i in range(len(self._sizes)):
            again.append(places[self._columns[column].chunk(i)])
        self._columns[column], self._uniques[column] = again, uniques
        self._encoded = {coding: codes for coding, codes in self._encoded.items() if coding.column != column}

    def stream(self, codings: Sequence[Coding]) -> Iterator[tuple[IntArray, IntArray]]:
        self._encode(set(codings))
        for i, size in enumerate(self._sizes):
            rows, units = self._rows(i)
            chunk = [self._encoded[c].chunk(i)[rows].astype(np.int64) for c in codings]
            yield np.stack(chunk, axis=1) if chunk else np.zeros((size, 0), np.int64)[rows], units

    def encoded(self, encodings: Mapping[str, Encoding]) -> tuple[dict[str, npt.NDArray[Any]], IntArray]:
        n = sum(len(self._rows(i)[1]) for i in range(len(self._sizes)))
        units = on_disk((n,), np.int64)
        out: dict[str, npt.NDArray[Any]] = {}
        start = 0
        tables = {name: self._lookup(e) for name, e in encodings.items() if e.column in self._uniques}
        for i in range(len(self._sizes)):
            rows, numbers = self._rows(i)
            end = start + len(numbers)
            units[start:end] = numbers
            for name, encoding in encodings.items():
                values = self._applied(encoding, tables.get(name), i)[rows]
                if name not in out:
                    out[name] = on_disk((n, *values.shape[1:]), values.dtype)
                out[name][start:end] = values
            start = end
        return out, units

    def _rows(self, i: int) -> tuple[slice | BoolArray, IntArray]:
        """Which rows of chunk i are kept, and their units' numbers."""
        start, end = self._starts[i], self._starts[i + 1]
        if self._kept is None or self._units is None:
            return slice(None), np.arange(start, end)
        rows = self._kept[start:end] > 0
        return rows, self._units[start:end][rows]

    def _weights(self, i: int) -> IntArray | None:
        if self._kept is None:
            return None
        kept = self._kept[self._starts[i] : self._starts[i + 1]].astype(np.int64)
        return np.where(kept > 0, self.scale // np.maximum(kept, 1), 0)

    def _encode(self, codings: set[Coding]) -> None:
        for coding in codings - self._encoded.keys():
            store, table = Store(), self._lookup(coding) if coding.column in self._uniques else None
            for i in range(len(self._sizes)):
                store.append(self._applied(coding, table, i).astype(narrowest(coding.size)))
            self._encoded[coding] = store

    def _lookup(self, encoding: Encoding) -> npt.NDArray[Any]:
        """What each string of the column becomes; the last is missing. Each is looked at once."""
        uniques = self._uniques[encoding.column]
        return encoding.encode(Strings(np.append(np.arange(len(uniques)), -1).astype(np.int32), uniques))

    def _applied(self, encoding: Encoding, table: npt.NDArray[Any] | None, i: int) -> npt.NDArray[Any]:
        """The cells of chunk i, encoded."""
        if encoding.column == ROWS_PER_UNIT and self._kept is not None:
            kept = self._kept[self._starts[i] : self._starts[i + 1]]
            return encoding.encode(Numbers(kept.astype(np.float64)))
        chunk = self._columns[encoding.column].chunk(i)
        return encoding.encode(Numbers(chunk.astype(np.float64))) if table is None else table[chunk]


def _bounded(spill: Spill, max_rows: int) -> tuple[npt.NDArray[Any], IntArray]:
    """Of each row the number of rows that its unit keeps (0 = the row goes) and its unit's number, counted from 0.

    Rows are dealt into parts by their unit, so that a unit's rows meet in one part; each part is bounded by itself, in memory.
    """
    n = sum(spill.sizes)
    parts = _dealt(spill, n)
    rows_per_unit, units = on_disk((n,), np.min_scalar_type(max_rows)), on_disk((n,), np.int64)
    first = 0
    for keys, hashes, places in parts:
        _, numbers = np.unique(keys.whole(np.int64), return_inverse=True)
        where = places.whole(np.int64)
        if not len(where):
            continue
        kept = kept_rows(numbers, hashes.whole(np.uint64), max_rows)
        rows_per_unit[where[kept]] = np.bincount(numbers[kept])[numbers[kept]]
        units[where] = first + numbers
        first += int(numbers.max()) + 1
    return rows_per_unit, units


def _dealt(spill: Spill, n: int) -> list[tuple[Store, Store, Store]]:
    """(keys, hashes, places) of the rows, those of a unit in one part; rows without a unit are the last part."""
    number = max(1, math.ceil(n / _UNIT_ROWS))
    parts = [(Store(), Store(), Store()) for _ in range(number + 1)]
    start = 0
    for i, size in enumerate(spill.sizes):
        keys, missing = spill.keys.chunk(i).astype(np.int64), spill.missing.chunk(i) > 0
        hashes, places = spill.hashes.chunk(i), np.arange(start, start + size)
        spread = (keys.view(np.uint64) * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(32)
        part = np.where(missing, number, (spread % np.uint64(number)).astype(np.int64))
        for p, stores in enumerate(parts):
            rows = part == p
            for store, values in zip(stores, (np.where(missing, 0, keys), hashes, places), strict=True):
                store.append(values[rows])
        start += size
    return parts
