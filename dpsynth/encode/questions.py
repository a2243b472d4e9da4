"""Codings that ask what a column is, before its cells are known: one cell, one vote.

Every grid here is fixed beforehand, the same for all tables: nothing of it is read from the rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
import pandas as pd

from dpsynth.encode.parse import (
    MAX_DECIMALS,
    TIME_STEPS,
    Scale,
    decimals_of,
    looks_dated,
    looks_numeric,
    numbers,
    time_step_of,
)
from dpsynth.privacy.source import BoolArray, Cells, FloatArray, IntArray, Numbers, Strings

TEXT_WORDS, TEXT_LENGTH = 6, 64


@dataclass(frozen=True, slots=True)
class FormOf:
    """What a cell of a string column reads as: missing, a number, a date, a short label, or text."""

    column: str
    MISSING, NUMBER, DATE, LABEL, TEXT = range(5)

    @property
    def size(self) -> int:
        return 5

    def encode(self, cells: Cells) -> IntArray:
        if isinstance(cells, Numbers):
            return np.where(np.isnan(cells.data), self.MISSING, self.NUMBER).astype(np.int64)
        return np.append(np.array([self._form(t) for t in cells.uniques], np.int64), self.MISSING)[cells.codes]

    def _form(self, text: str) -> int:
        if not text.strip():
            return self.MISSING
        if looks_numeric(text):
            return self.NUMBER
        if looks_dated(text):
            return self.DATE
        return self.TEXT if len(text) > TEXT_LENGTH or len(text.split()) >= TEXT_WORDS else self.LABEL


@dataclass(frozen=True, slots=True)
class StepOf:
    """How finely a cell is written: decimals of a number, resolution of a time. The last code is missing."""

    column: str
    scale: Scale

    @property
    def size(self) -> int:
        return (MAX_DECIMALS + 2 if self.scale == "number" else len(TIME_STEPS)) + 1

    def encode(self, cells: Cells) -> IntArray:
        values = numbers(cells, self.scale)
        steps = decimals_of(values) if self.scale == "number" else time_step_of(values)
        return np.where(np.isnan(values), self.size - 1, steps)


@dataclass(frozen=True)
class RangeOf:
    """Where on the number line a cell lies: powers of 4 either side of 0, or quarters of a year. Last code: missing.

    `edges` has size entries: bucket i holds edges[i] <= value < edges[i + 1].
    """

    column: str
    scale: Scale

    @cached_property
    def edges(self) -> FloatArray:
        if self.scale == "datetime":
            quarters = pd.date_range("1800-01-01", "2200-01-01", freq="QS").to_numpy().astype("datetime64[us]")
            return quarters.astype(np.int64).astype(np.float64)
        smallest, largest = (-10, 31) if self.scale == "number" else (0, 28)
        steps = 4.0 ** np.arange(smallest, largest + 1, dtype=np.float64)
        return np.concatenate([-steps[::-1], [0.0], np.nextafter([0.0], 1.0), steps])

    @property
    def size(self) -> int:
        return len(self.edges)

    @property
    def likely(self) -> BoolArray:
        """Buckets where most tables' values lie, shape (size - 1,): 0.001 to 1,000,000, a second to 30 years, 1900 to 2030."""
        starts = np.abs(self.edges[:-1] + self.edges[1:]) / 2
        if self.scale == "datetime":
            return (self.edges[:-1] >= -2.21e15) & (self.edges[1:] <= 1.9e15)
        first, last = (1e-3, 1.1e6) if self.scale == "number" else (1e6, 1e15)
        return (starts >= first) & (starts <= last)

    def encode(self, cells: Cells) -> IntArray:
        values = numbers(cells, self.scale)
        bucket = np.searchsorted(self.edges, values, side="right") - 1
        return np.where(np.isnan(values), self.size - 1, np.clip(bucket, 0, self.size - 2)).astype(np.int64)


class Classifier(Protocol):
    """What finds identifiers in cells; see `dpsynth.privacy.pii`."""

    def classify(self, cells: Sequence[str], header: str) -> IntArray: ...


@dataclass(frozen=True, eq=False, slots=True)
class IdentifierIn:
    """Which kind of identifier a cell holds, by a detector that looks at a part of the different cells.

    Whole numbers are looked at as they are written, without a decimal point; other numbers are no identifiers.
    Whether a cell is looked at depends on a keyed hash of the cell alone, so one row's vote never depends on another's.
    Codes: the detector's classes, then "not looked at", then missing.
    """

    column: str
    detector: Classifier
    classes: int
    rate: float
    key: str

    @property
    def size(self) -> int:
        return self.classes + 2

    def encode(self, cells: Cells) -> IntArray:
        if isinstance(cells, Numbers):
            cells = _written(cells)
        if not len(cells.uniques):
            return np.full(len(cells), self.size - 1, np.int64)
        looked = pd.util.hash_array(cells.uniques, hash_key=self.key, categorize=False) < self.rate * 2.0**64
        votes = np.full(len(cells.uniques), self.classes, np.int64)
        if looked.any():
            votes[looked] = self.detector.classify(list(cells.uniques[looked]), self.column)
        return np.append(votes, self.size - 1)[cells.codes]


def _written(cells: Numbers) -> Strings:
    """Whole numbers as strings of digits; other numbers as "0.5", whichever they are."""
    values, codes = np.unique(cells.data, return_inverse=True)
    whole = (np.abs(values) < 2.0**63) & (values == np.floor(values))
    texts = np.array([str(int(v)) if ok else "0.5" for v, ok in zip(values, whole, strict=True)], dtype=object)
    return Strings(np.where(np.isnan(cells.data), -1, codes).astype(np.int32), texts)
