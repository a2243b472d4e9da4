"""Where private rows live, and the counting protocol through which alone they are asked.

A `CountingSource` answers exact, unit-bounded integer counts; it never leaves `PrivateTable`, which adds the noise. Rows
are described by *codings*: small values that say how the cells of one column become codes 0..size-1. The protocol
asks nothing else, so a database or a cluster can implement it: sums of integers are the same in every partitioning.

Bounding. With a privacy unit, each unit keeps at most `max_rows` rows (the choice depends on the unit's own rows only)
and its k kept rows weigh floor(scale / k) each: a unit's rows add up to at most `scale` over all cells of any count
array. Adding or removing a unit therefore moves a count array by at most `scale` in L1, hence in L2. Without a unit, every row
weighs 1 and scale is 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from dpsynth.privacy.errors import PrivacyError

if TYPE_CHECKING:
    from scipy.sparse import csr_array

IntArray = npt.NDArray[np.int64]
Codes = npt.NDArray[np.integer[Any]]  # of the smallest type that holds them: those of all columns are kept
FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]

# Texts whose vectors are held at a time.
TEXTS_AT_A_TIME = 2**12

# The name under which codings see how many rows the row's unit holds (after bounding). Not a column of the table.
ROWS_PER_UNIT = "\x00rows per unit"


@dataclass(frozen=True, slots=True, eq=False)
class Numbers:
    """Cells of a numeric column: float64, NaN = missing (also for infinite values). Dates are microseconds since 1970."""

    data: FloatArray

    def __post_init__(self) -> None:
        # No zero has a sign: which of two equal ones a sort puts first would be told by the others.
        object.__setattr__(self, "data", self.data + 0.0)

    def __repr__(self) -> str:
        return "Numbers(private)"

    def __len__(self) -> int:
        return len(self.data)


@dataclass(frozen=True, slots=True, eq=False)
class Strings:
    """Cells of a column of strings: `uniques[codes[i]]` is the cell of row i, code -1 = missing."""

    codes: npt.NDArray[np.int32]
    uniques: npt.NDArray[np.object_]

    def __repr__(self) -> str:
        return "Strings(private)"

    def __len__(self) -> int:
        return len(self.codes)


Cells = Numbers | Strings

# Strings to strings, one for one.
Rewrite = Callable[[Sequence[str]], Sequence[str]]


class Coding(Protocol):
    """How the cells of one column become codes: a function of each cell alone, never of the other rows."""

    @property
    def column(self) -> str: ...

    @property
    def size(self) -> int:
        """Number of codes."""

    def encode(self, cells: Cells) -> IntArray:
        """Codes in [0, size), one for each cell."""


class Encoding(Protocol):
    """How the cells of one column become numbers that a model learns from: a function of each cell alone.

    A `Coding` is one; texts as token ids are another.
    """

    @property
    def column(self) -> str: ...

    def encode(self, cells: Cells) -> npt.NDArray[Any]:
        """One entry for each cell, of a type and shape that do not depend on the cells, shape (cells, ...)."""


class Vectors(Protocol):
    """How the texts of one column become vectors of whole numbers: a function of each text alone, bit for bit.

    A batch in which a text's numbers depend in their last bits on the texts beside it breaks that: rounding makes whole steps of them.
    """

    @property
    def column(self) -> str: ...

    @property
    def width(self) -> int:
        """Length of each vector."""

    @property
    def norm(self) -> int:
        """Bound on each vector's L2 norm. A text whose vector is longer counts for nothing."""

    def encode(self, texts: Sequence[str]) -> csr_array[Any]:
        """int64, shape (texts, width)."""


class CountingSource(Protocol):
    """Exact, unit-bounded integer counts of private rows. Implemented in memory here, on disk in `spill`, by a cluster elsewhere."""

    @property
    def names(self) -> tuple[str, ...]:
        """Column names (public)."""

    @property
    def unit(self) -> str | None:
        """The column that names the privacy unit; None where each row is one."""

    @property
    def max_rows(self) -> int:
        """Rows that a unit may contribute."""

    @property
    def scale(self) -> int:
        """Bound on a unit's total weight in any count array."""

    def count(self, queries: Sequence[Sequence[Coding]]) -> list[IntArray]:
        """For each set of codings its contingency table, flat in C order, in weighted integer counts."""

    def sum_vectors(self, groups: Sequence[Coding], vectors: Vectors) -> IntArray:
        """Weighted sum of the vectors of each group's rows, shape (cells of the groups' table, width); missing texts count for nothing."""

    def count_values(self, column: str) -> tuple[npt.NDArray[np.object_], IntArray]:
        """The values that occur in a column (missing excluded) and their weighted counts."""

    def count_distinct(self, column: str) -> int:
        """How many different values occur; one unit moves it by at most `max_rows`."""

    def rewrite(self, column: str, function: Rewrite) -> None:
        """Replace each string of a column by a function of that string alone (scrubbing): free, row by row."""

    def stream(self, codings: Sequence[Coding]) -> Iterator[tuple[IntArray, IntArray]]:
        """Encoded rows in chunks: codes of shape (rows, codings) and the unit number of each row."""

    def encoded(self, encodings: Mapping[str, Encoding]) -> tuple[dict[str, npt.NDArray[Any]], IntArray]:
        """Columns encoded for a training, by name, and the unit number of each row, at least 0."""


def unit_scale(max_rows: int) -> int:
    """A scale that every k <= max_rows divides where that is small; else one that makes the rounding of 1/k negligible."""
    return math.lcm(*range(1, max_rows + 1)) if max_rows <= 10 else 2**20


class MemorySource:
    """Rows held in memory, column by column.

    columns: name -> cells, all of one length.  units: for each row the number of its unit, or None where a row is a unit.
    row_hashes: a 64-bit hash of each row, by which a unit with too many rows keeps the same ones in every order of rows.
    """

    def __init__(
        self,
        columns: Mapping[str, Cells],
        *,
        row_hashes: npt.NDArray[np.uint64],
        unit: str | None = None,
        units: IntArray | None = None,
        max_rows: int = 1,
    ) -> None:
        self.unit, self.max_rows = unit, max_rows
        self.scale = 1 if units is None else unit_scale(max_rows)
        self._columns = dict(columns)
        self._encoded: dict[Coding, Codes] = {}
        n = len(row_hashes)
        self._units = np.arange(n) if units is None else units
        self._weights: IntArray | None = None
        if units is not None:
            kept = kept_rows(units, row_hashes, max_rows)
            self._columns = {name: _take(cells, kept) for name, cells in self._columns.items()}
            self._units = units[kept]
            rows_per_unit = np.bincount(self._units)[self._units]
            self._weights = self.scale // rows_per_unit
            self._columns[ROWS_PER_UNIT] = Numbers(rows_per_unit.astype(np.float64))

    def __repr__(self) -> str:
        return f"MemorySource({len(self.names)} columns, private rows)"

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(name for name in self._columns if name != ROWS_PER_UNIT)

    def count(self, queries: Sequence[Sequence[Coding]]) -> list[IntArray]:
        return contingency(queries, self._codes, len(self._units), self._weights)

    def sum_vectors(self, groups: Sequence[Coding], vectors: Vectors) -> IntArray:
        cells = self._columns[vectors.column]
        if not isinstance(cells, Strings):
            raise PrivacyError(f"column {vectors.column!r} holds no strings")
        size = math.prod(c.size for c in groups)
        held = text_weights(groups, self._codes, cells.codes, (size, len(cells.uniques)), self._weights)
        return summed(held, cells.uniques, vectors)

    def count_values(self, column: str) -> tuple[npt.NDArray[np.object_], IntArray]:
        cells = self._columns[column]
        if isinstance(cells, Strings):
            present = cells.codes >= 0
            totals = tally(cells.codes[present].astype(np.int64), len(cells.uniques), self._weights_of(present))
            return in_order(cells.uniques, totals)
        present = ~np.isnan(cells.data)
        values, inverse = np.unique(cells.data[present], return_inverse=True)
        return values.astype(object), tally(inverse, len(values), self._weights_of(present))

    def count_distinct(self, column: str) -> int:
        return len(self.count_values(column)[0])

    def rewrite(self, column: str, function: Rewrite) -> None:
        cells = self._columns[column]
        if not isinstance(cells, Strings):
            raise PrivacyError(f"column {column!r} holds no strings to rewrite")
        texts = np.array(function(list(cells.uniques)), dtype=object)
        uniques, inverse = np.unique(texts, return_inverse=True)
        codes = np.append(inverse, -1)[cells.codes].astype(np.int32)
        self._columns[column] = Strings(codes, uniques)
        self._encoded = {coding: codes for coding, codes in self._encoded.items() if coding.column != column}

    def stream(self, codings: Sequence[Coding]) -> Iterator[tuple[IntArray, IntArray]]:
        for start in range(0, len(self._units), 2**16):
            rows = slice(start, start + 2**16)
            chunk = [self._codes(c)[rows].astype(np.int64) for c in codings]
            units = self._units[rows]
            yield np.stack(chunk, axis=1) if chunk else np.zeros((len(units), 0), np.int64), units

    def encoded(self, encodings: Mapping[str, Encoding]) -> tuple[dict[str, npt.NDArray[Any]], IntArray]:
        return {name: e.encode(self._columns[e.column]) for name, e in encodings.items()}, self._units

    def _weights_of(self, rows: BoolArray) -> IntArray | None:
        return None if self._weights is None else self._weights[rows]

    def _codes(self, coding: Coding) -> Codes:
        if coding not in self._encoded:
            codes = coding.encode(self._columns[coding.column])
            self._encoded[coding] = codes.astype(narrowest(coding.size))
        return self._encoded[coding]


def contingency(
    queries: Sequence[Sequence[Coding]], codes: Callable[[Coding], Codes], n: int, weights: IntArray | None
) -> list[IntArray]:
    """The table of each set of codings over `n` rows, flat in C order. weights: of each row; None = 1 each."""
    out = []
    outer: Sequence[Coding] = ()
    places: Codes = np.zeros(n, np.uint8)
    for query in queries:
        if not query or query[:-1] != outer:  # queries that differ in the last coding alone share what comes before it
            outer = query[:-1]
            size = math.prod(c.size for c in outer)
            places = np.zeros(n, narrowest(size))
            for coding in outer:
                places = _joined(places, coding, codes(coding), size)
        size = math.prod(c.size for c in query)
        out.append(tally(_joined(places, query[-1], codes(query[-1]), size) if query else places, size, weights))
    return out


def _joined(places: Codes, coding: Coding, codes: Codes, size: int) -> Codes:
    """Places in a table that another coding makes longer, to `size` cells at most."""
    joined: Codes = places.astype(narrowest(size)) * coding.size + codes
    return joined


def tally(codes: Codes, size: int, weights: IntArray | None) -> IntArray:
    """Sum of the rows' weights for each code in [0, size). weights: of each row; None = 1 each."""
    if weights is None:
        return np.bincount(codes, minlength=size).astype(np.int64)
    # Sums of integers in float64 are exact below 2^53, far above rows x scale.
    return np.rint(np.bincount(codes, weights=weights, minlength=size)).astype(np.int64)


def text_weights(
    groups: Sequence[Coding],
    codes: Callable[[Coding], Codes],
    texts: npt.NDArray[Any],
    shape: tuple[int, int],
    weights: IntArray | None,
) -> csr_array[Any]:
    """Total weight of the rows of each group that hold each text, int64, shape (groups, texts).

    texts: of each row the number of its text, -1 = missing.  weights: of each row; None = 1 each.
    """
    from scipy.sparse import coo_array

    places = np.zeros(len(texts), np.int64)
    for coding in groups:
        places = places * coding.size + codes(coding)
    present = texts >= 0
    each = np.ones(len(texts), np.int64) if weights is None else weights
    return coo_array((each[present], (places[present], texts[present].astype(np.int64))), shape=shape).tocsr()


def summed(held: csr_array[Any], texts: npt.NDArray[np.object_], vectors: Vectors) -> IntArray:
    """The texts' vectors, bounded, weighted and summed by group: shape (groups, width). Whole numbers throughout, so exact."""
    total = np.zeros((held.shape[0], vectors.width), np.int64)
    columns = held.tocsc()
    for start in range(0, len(texts), TEXTS_AT_A_TIME):
        part = slice(start, start + TEXTS_AT_A_TIME)
        rows: csr_array[Any] = vectors.encode(list(texts[part])).astype(np.int64)
        within = np.flatnonzero(_within(rows, vectors.norm))
        total += (columns[:, part][:, within] @ rows[within]).toarray()
    return total


def _within(rows: csr_array[Any], norm: int) -> BoolArray:
    """Whether each row's L2 norm is at most `norm`, shape (rows,)."""
    rows.sum_duplicates()
    # Larger ones first: the square of 2^32 is 0 in 64 bits, and the least of all integers is below its own magnitude.
    large = (rows.data > norm) | (rows.data < -norm)
    rows.data[large] = 0
    held = np.repeat(np.arange(rows.shape[0]), np.diff(rows.indptr))
    out: BoolArray = rows.multiply(rows).sum(axis=1) <= norm**2
    out[held[large]] = False
    return out


def in_order(values: npt.NDArray[np.object_], totals: IntArray) -> tuple[npt.NDArray[np.object_], IntArray]:
    """The values that occur and their totals, sorted by value: noise falls on the same values in every order of rows."""
    occurring = np.flatnonzero(totals > 0)
    order = occurring[np.argsort(values[occurring], kind="stable")]
    return values[order], totals[order]


def unit_keys(cells: Cells) -> tuple[IntArray, BoolArray]:
    """A whole number for each cell, the same for equal cells alone, and whether the cell is missing."""
    if isinstance(cells, Strings):
        return cells.codes.astype(np.int64), cells.codes < 0
    return (cells.data + 0.0).view(np.int64), np.isnan(cells.data)  # + 0.0: there is but one zero


def narrowest(size: int) -> np.dtype[np.integer[Any]]:
    """The smallest type for codes below `size` and for `size` itself."""
    return np.min_scalar_type(size) if size < 2**32 else np.dtype(np.int64)


def kept_rows(units: IntArray, row_hashes: npt.NDArray[np.uint64], max_rows: int) -> IntArray:
    """Indices of the rows that stay: for each unit the `max_rows` of smallest hash."""
    order = np.lexsort((row_hashes, units))
    sorted_units = units[order]
    first = np.searchsorted(sorted_units, sorted_units, side="left")
    return np.sort(order[np.arange(len(order)) - first < max_rows])


def _take(cells: Cells, rows: IntArray) -> Cells:
    return Numbers(cells.data[rows]) if isinstance(cells, Numbers) else Strings(cells.codes[rows], cells.uniques)
