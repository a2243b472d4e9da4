"""Tables in bins and in numbers, so that they can be compared. The bins are those of the real table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dpsynth.encode.parse import numbers
from dpsynth.privacy.errors import SchemaError
from dpsynth.privacy.source import Cells, FloatArray, IntArray, Numbers, Strings
from dpsynth.schema import Schema

BINS, LABELS = 10, 40


@dataclass(frozen=True, slots=True, eq=False)
class Coded:
    """One table. codes: by column, in 0..sizes[column]-1, the last being missing.  values: of number lines, NaN = missing."""

    codes: Mapping[str, IntArray]
    values: Mapping[str, FloatArray]
    sizes: Mapping[str, int]

    def __len__(self) -> int:
        return len(next(iter(self.codes.values())))

    def take(self, rows: IntArray) -> Coded:
        return Coded(
            {name: c[rows] for name, c in self.codes.items()},
            {name: v[rows] for name, v in self.values.items()},
            self.sizes,
        )

    def joint(self, names: Sequence[str]) -> IntArray:
        """One code for each row from those of several columns, in C order."""
        out = np.zeros(len(self), np.int64)
        for name in names:
            out = out * self.sizes[name] + self.codes[name]
        return out

    def shuffled(self, rng: np.random.Generator) -> Coded:
        """Each column in an order of its own."""
        orders = {name: rng.permutation(len(codes)) for name, codes in self.codes.items()}
        return Coded(
            {name: c[orders[name]] for name, c in self.codes.items()},
            {name: v[orders[name]] for name, v in self.values.items()},
            self.sizes,
        )


def coded(bins: Mapping[str, Bins], cells: Mapping[str, Cells]) -> Coded:
    return Coded(
        {name: b.code(cells[name]) for name, b in bins.items()},
        {name: b.values(cells[name]) for name, b in bins.items() if b.edges is not None},
        {name: b.size for name, b in bins.items()},
    )


@dataclass(frozen=True, slots=True, eq=False)
class Bins:
    """How a column is cut for comparison: quantile edges of a number line, or the most frequent labels."""

    edges: FloatArray | None
    labels: dict[str, int]
    scale: Any

    @classmethod
    def of(cls, cells: Cells) -> Bins:
        scale = _scale(cells)
        if scale is not None:
            values = numbers(cells, scale)
            known = values[~np.isnan(values)]
            edges = np.unique(np.quantile(known, np.linspace(0, 1, BINS + 1)[1:-1])) if len(known) else np.zeros(0)
            return cls(edges, {}, scale)
        strings = as_strings(cells)
        counts = np.bincount(strings.codes[strings.codes >= 0], minlength=len(strings.uniques))
        top = np.argsort(-counts, kind="stable")[:LABELS]
        return cls(None, {str(strings.uniques[i]): k for k, i in enumerate(top)}, None)

    @classmethod
    def of_presence(cls) -> Bins:
        """A column of texts: there or not."""
        return cls(None, {}, None)

    @property
    def names(self) -> list[str]:
        """What each code stands for."""
        if self.edges is None:
            return [*self.labels, "(other)", "(missing)"]
        ends = [f"{edge:.6g}" for edge in self.edges]
        spans = [f"{a} to {b}" for a, b in zip(ends, ends[1:], strict=False)]
        return [*([f"below {ends[0]}", *spans, f"{ends[-1]} and above"] if ends else ["any"]), "(missing)"]

    @property
    def size(self) -> int:
        return (len(self.edges) + 1 if self.edges is not None else len(self.labels) + 1) + 1

    def code(self, cells: Cells) -> IntArray:
        if self.edges is not None:
            values = numbers(cells, self.scale)
            return np.where(np.isnan(values), self.size - 1, np.searchsorted(self.edges, values, side="right"))
        strings = as_strings(cells)
        per_label = [self.labels.get(str(u), len(self.labels)) for u in strings.uniques]
        return np.append(np.array(per_label, np.int64), self.size - 1)[strings.codes]

    def values(self, cells: Cells) -> FloatArray:
        return numbers(cells, self.scale)


def _scale(cells: Cells) -> Any:
    """The number line that a column lies on; None for labels. Strings of a CSV file are read where nearly all are numbers."""
    if isinstance(cells, Numbers):
        return "number"
    known = (cells.codes >= 0).sum()
    for scale in ("number", "datetime"):
        if known and (~np.isnan(numbers(cells, scale))).sum() >= 0.95 * known:
            return scale
    return None


def as_strings(cells: Cells) -> Strings:
    if isinstance(cells, Strings):
        return cells
    uniques, codes = np.unique(cells.data, return_inverse=True)
    labels = np.array([f"{u:g}" for u in uniques], dtype=object)
    return Strings(np.where(np.isnan(cells.data), -1, codes).astype(np.int32), labels)


@dataclass(frozen=True, slots=True)
class Comparable:
    """The columns of a table. names: to compare in bins.  texts: to compare as texts.  skipped: ids and identifiers."""

    names: tuple[str, ...]
    texts: tuple[str, ...]
    skipped: tuple[str, ...]

    def bins(self, cells: Mapping[str, Cells]) -> dict[str, Bins]:
        """Bins of the real table's columns. Where there are only texts, all that can be compared so is whether there is one."""
        if self.names:
            return {name: Bins.of(cells[name]) for name in self.names}
        return {name: Bins.of_presence() for name in self.texts}


def comparable(tables: Mapping[str, Mapping[str, Cells]], schema: Schema | None) -> Comparable:
    """What to do with each column: texts are what is declared so, else labels of several words that hardly ever repeat."""
    names: list[str] = []
    texts: list[str] = []
    skipped: list[str] = []
    for name, cells in tables["real"].items():
        for which, table in tables.items():
            if name not in table:
                raise SchemaError(f"column {name!r} is missing in the {which} table")
        declared = schema[name] if schema is not None and name in schema else None
        is_id = declared is not None and (declared.kind == "id" or declared.role == "identifier")
        unique = isinstance(cells, Strings) and len(cells.uniques) > max(50, 0.5 * len(cells)) and _scale(cells) is None
        is_text = declared.kind == "text" if declared is not None else unique and _wordy(cells)
        (skipped if is_id else texts if is_text else skipped if unique else names).append(name)
    if not names and not texts:
        raise SchemaError("no column can be compared: all hold identifiers")
    return Comparable(tuple(names), tuple(texts), tuple(skipped))


def _wordy(cells: Cells) -> bool:
    """Whether most different labels are of three words or more."""
    return isinstance(cells, Strings) and float(np.median([len(str(u).split()) for u in cells.uniques])) >= 3
