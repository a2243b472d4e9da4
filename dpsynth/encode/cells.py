"""The fine cells of a column: what is told apart at all.

A categorical column has a cell for each label, one for every other label, and one for missing. A number line has atoms
(single values that many rows hold, such as 0 or 40 hours a week), intervals between them, and missing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from dpsynth.encode.parse import Scale, numbers
from dpsynth.privacy.source import Cells, FloatArray, IntArray, Numbers
from dpsynth.values import as_label


@dataclass(frozen=True)
class LabelCells:
    """Cells of a categorical column: `labels`, then any other label, then missing."""

    column: str
    labels: tuple[str, ...]

    @property
    def size(self) -> int:
        return len(self.labels) + 2

    @property
    def other(self) -> int:
        return len(self.labels)

    @property
    def missing(self) -> int:
        return len(self.labels) + 1

    def encode(self, cells: Cells) -> IntArray:
        index = {label: i for i, label in enumerate(self.labels)}
        if isinstance(cells, Numbers):  # categories declared for a numeric column
            texts = [None if v != v else as_label(v) for v in cells.data.tolist()]
            return np.array([self.missing if t is None else index.get(t, self.other) for t in texts], np.int64)
        per_unique = np.array([index.get(t, self.other) for t in cells.uniques], np.int64)
        return np.append(per_unique, self.missing)[cells.codes]

    def describe(self) -> tuple[str, ...]:
        return (*self.labels, "(other)", "(missing)")

    def to_json(self) -> dict[str, Any]:
        return {"kind": "labels", "column": self.column, "labels": list(self.labels)}


def places_of(cells: Sequence[LabelCells], values: Sequence[npt.NDArray[Any]], n: int) -> IntArray:
    """Place of each of n rows in the table of some columns of labels, flat in C order. values: labels by column, None = missing."""
    places = np.zeros(n, np.int64)
    for column, labels in zip(cells, values, strict=True):
        index: dict[Any, int] = {None: column.missing} | {label: i for i, label in enumerate(column.labels)}
        places = places * column.size + np.array([index.get(v, column.other) for v in labels], np.int64).reshape(n)
    return places


@dataclass(frozen=True)
class LineCells:
    """Cells of a number line: atoms and the intervals between `edges`, in order of their place, then missing.

    atoms: sorted single values.  edges: sorted; interval i is [edges[i], edges[i + 1]); values outside go to the first or last.
    step: values are multiples of it (1 for integers, 0.01 for cents, a day in microseconds); None = any number.
    """

    column: str
    scale: Scale
    atoms: tuple[float, ...]
    edges: tuple[float, ...]
    step: float | None

    @property
    def size(self) -> int:
        return len(self.low) + 1

    @property
    def missing(self) -> int:
        return len(self.low)

    @cached_property
    def _order(self) -> IntArray:
        starts = np.concatenate([np.array(self.atoms), np.array(self.edges[:-1])])
        # An atom at an interval's start goes before it.
        return np.lexsort((np.arange(len(starts)) >= len(self.atoms), starts))

    @cached_property
    def low(self) -> FloatArray:
        """Lower end of each cell, missing excluded; equal to `high` for atoms."""
        return self._ordered(self.edges[:-1])

    @cached_property
    def high(self) -> FloatArray:
        return self._ordered(self.edges[1:])

    def _ordered(self, ends: tuple[float, ...]) -> FloatArray:
        values: FloatArray = np.take(np.array([*self.atoms, *ends], np.float64), self._order)
        return values

    def encode(self, cells: Cells) -> IntArray:
        values = numbers(cells, self.scale)
        place = np.empty(len(self._order), np.int64)
        place[self._order] = np.arange(len(self._order))
        out = np.full(len(values), self.missing, np.int64)
        known = ~np.isnan(values)
        x = values[known]
        if len(self.edges) > 1:
            interval = np.clip(np.searchsorted(self.edges, x, side="right") - 1, 0, len(self.edges) - 2)
            code = place[len(self.atoms) + interval]
        elif self.atoms:
            middles = (np.array(self.atoms[:-1]) + np.array(self.atoms[1:])) / 2
            code = place[np.searchsorted(middles, x)]
        else:
            code = np.full(len(x), self.missing)
        if self.atoms:
            at = np.clip(np.searchsorted(self.atoms, x), 0, len(self.atoms) - 1)
            code = np.where(np.array(self.atoms)[at] == x, place[at], code)
        out[known] = code
        return out

    def values(self, codes: IntArray, uniform: FloatArray) -> FloatArray:
        """A value in each cell: `uniform` in [0, 1) says where in the interval; NaN for missing."""
        low, high = np.append(self.low, np.nan)[codes], np.append(self.high, np.nan)[codes]
        if self.step is None:
            anywhere: FloatArray = low + uniform * (high - low)
            return anywhere
        steps = np.maximum(np.rint((high - low) / self.step), 1.0)
        exact: FloatArray = low + np.floor(uniform * steps) * self.step
        return exact if self.step >= 1 else np.round(exact, round(-math.log10(self.step)))

    @cached_property
    def top(self) -> FloatArray:
        """The highest value in each cell, missing excluded."""
        if self.step is None:
            return np.where(self.high > self.low, np.nextafter(self.high, -np.inf), self.low)
        return self.values(np.arange(len(self.low)), np.full(len(self.low), 1 - 1e-9))

    def describe(self) -> tuple[str, ...]:
        ends = [f"{lo:g}" if lo == hi else f"{lo:g} to {hi:g}" for lo, hi in zip(self.low, self.high, strict=True)]
        return (*ends, "(missing)")

    def to_json(self) -> dict[str, Any]:
        return {
            "kind": "line",
            "column": self.column,
            "scale": self.scale,
            "atoms": list(self.atoms),
            "edges": list(self.edges),
            "step": self.step,
        }


FineCells = LabelCells | LineCells


def cells_from_json(obj: dict[str, Any]) -> FineCells:
    """Inverse of `to_json`."""
    if obj["kind"] == "labels":
        return LabelCells(obj["column"], tuple(obj["labels"]))
    return LineCells(obj["column"], obj["scale"], tuple(obj["atoms"]), tuple(obj["edges"]), obj["step"])
