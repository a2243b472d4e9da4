"""Public values, as they stand in declared constraints, and the same in the codec's terms."""

from __future__ import annotations

import math
from collections.abc import Iterable
from datetime import UTC, date, datetime, timedelta
from typing import Any

import numpy as np
import numpy.typing as npt

from dpsynth.column import Column, Kind
from dpsynth.privacy.errors import SchemaError
from dpsynth.privacy.source import BoolArray, FloatArray, IntArray

# A public value as it stands in JSON; None = missing. Dates are ISO strings, timedeltas seconds, as in a column's bounds.
Value = str | int | float | bool | None
# From one value to another, both included; None = no end.
Range = tuple[Value, Value]
Item = Value | Range
# Cells of a column in the codec's terms: labels (None = missing) or places on a number line (NaN = missing).
Own = npt.NDArray[np.object_] | FloatArray

LINES = ("numeric", "datetime", "timedelta")


def own(value: Value, kind: Kind | None) -> str | float | None:
    """A public value in the codec's terms: its place on a number line, or its label; None for missing."""
    if value is None:
        return None
    return place(value, kind) if kind in LINES else as_label(value)


def place(value: Value, kind: Kind | None) -> float:
    """Where on the number line of its kind a value lies; dates and timedeltas in microseconds."""
    if kind == "datetime":
        moment = datetime.fromisoformat(str(value))
        moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment
        return float((moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1))
    number = float(value)  # type: ignore[arg-type]  # a number: `constraints` refuses others
    return number * 1e6 if kind == "timedelta" else number


def span(item: Item, kind: Kind | None) -> tuple[float, float]:
    """Both ends of a value or range, included; infinite where a range has no end."""
    low, high = item if isinstance(item, tuple) else (item, item)
    return -math.inf if low is None else place(low, kind), math.inf if high is None else place(high, kind)


def as_label(value: object) -> str:
    """How a value reads as a label: whole numbers without a point."""
    if isinstance(value, float) and math.isfinite(value) and value == int(value):
        return str(int(value))
    return str(value)


def matching(cells: Own, items: Iterable[Item], kind: Kind | None) -> BoolArray:
    """Cells that are one of the values or within one of the ranges, shape (cells,)."""
    out = np.zeros(len(cells), bool)
    labels = cells.dtype == object
    missing = np.array([c is None for c in cells], bool) if labels else np.isnan(cells.astype(np.float64))
    for item in items:
        if item is None:
            out |= missing
        elif isinstance(item, tuple):
            low, high = span(item, kind)
            places = cells.astype(np.float64)
            out |= (places >= low) & (places <= high)  # never where missing
        else:
            out |= np.asarray(cells == own(item, "categorical" if labels else kind), bool)
    return out


def off_the_line(column: Column, values: FloatArray) -> BoolArray:
    """Which values of a number line are out of the column's bounds, or not whole where they are to be; missing ones never are."""
    wrong = np.zeros(len(values), bool)
    if column.bounds is not None:
        low, high = span((column.bounds[0], column.bounds[1]), column.kind)
        slack = 1e-9 * max(abs(low), abs(high), 1.0)
        wrong |= (values < low - slack) | (values > high + slack)
    if column.integer:
        wrong |= np.abs(values - np.rint(values)) > 1e-9 * np.maximum(np.abs(values), 1.0)
    return wrong


def numbered(texts: Iterable[str | None]) -> tuple[IntArray, list[str]]:
    """(number of each text by first occurrence, -1 = missing; the texts).

    pandas numbers texts by their bytes up to a zero, and all that hold half a character alike: secrets of many rows would be one frequent value.
    """
    places: dict[str, int] = {}
    codes = [-1 if text is None else places.setdefault(text, len(places)) for text in texts]
    return np.array(codes, np.int64), list(places)


def coded(cells: Own) -> tuple[IntArray, Own]:
    """(code of each cell, cell of each code); missing is a value like any other."""
    import pandas as pd

    if cells.dtype != object:
        codes, uniques = pd.factorize(cells, use_na_sentinel=False)
        return codes.astype(np.int64), np.asarray(uniques)
    places: dict[Any, int] = {}
    own = [None if cell is None or cell != cell else cell for cell in cells]
    numbers = [places.setdefault(cell, len(places)) for cell in own]
    return np.array(numbers, np.int64), np.array([*places, None], dtype=object)[:-1]


def same(a: Own, b: Own) -> BoolArray:
    if a.dtype == object:
        return np.asarray(a == b, bool)
    return np.isclose(a.astype(np.float64), b.astype(np.float64), rtol=1e-9, atol=1e-9, equal_nan=True)


def public(value: Any) -> Value:
    """A value as it stands in JSON."""
    value = value.item() if isinstance(value, np.generic) else value
    if value is None or type(value).__name__ in ("NAType", "NaTType") or value != value:
        return None
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, str | int) or (isinstance(value, float) and math.isfinite(value)):
        return value
    raise SchemaError("values of a constraint are strings, finite numbers, truth values, dates, timedeltas or None")


def item_of(value: Any) -> Item:
    if not isinstance(value, tuple | list):
        return public(value)
    if len(value) != 2:
        raise SchemaError("a range in a constraint is a pair (low, high); None stands for no end")
    return (public(value[0]), public(value[1]))


def items_of(values: Any) -> tuple[Item, ...]:
    """Values and ranges of one column; a tuple of two is a range, a list holds several items."""
    pair = isinstance(values, tuple) and len(values) == 2 and not any(isinstance(v, tuple | list) for v in values)
    if pair or isinstance(values, str) or not isinstance(values, Iterable):
        values = [values]
    items = tuple(item_of(value) for value in values)
    if not items:
        raise SchemaError("a constraint names at least one value of each of its columns")
    return items


def said(item: Item) -> str:
    if isinstance(item, tuple):
        low, high = item
        return f"from {low}" if high is None else f"up to {high}" if low is None else f"{low} to {high}"
    return "missing" if item is None else str(item)


def is_number(value: Item) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
