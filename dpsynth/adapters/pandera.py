"""pandera's DataFrameSchema or DataFrameModel -> Schema.

pandera writes the same checks whether a person declared them or `infer_schema` read them off the rows, so the caller must say which:
a range that was read off is as private as the row that made it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from dpsynth.privacy.errors import SchemaError
from dpsynth.schema import Column, Kind, Schema

_WHOLE, _NUMBER = ("int", "uint"), ("float", "decimal")
_KINDS: dict[str, Kind] = {
    **dict.fromkeys((*_WHOLE, *_NUMBER), "numeric"),
    "bool": "boolean",
    "date": "datetime",
    "timestamp": "datetime",
    "timedelta": "timedelta",
    "duration": "timedelta",
    "categor": "categorical",
    "enum": "categorical",
}


def read(model: Any, *, ranges: Literal["declared", "ignore"]) -> Schema:
    """A schema from a pandera DataFrameSchema or DataFrameModel (of pandas or polars). Checks that are code are not looked at.

    ranges: "declared" takes ranges, categories, nullability and that numbers are whole as public; "ignore" leaves them to be
    learned under DP.
    Raises SchemaError for anything else, and for columns that are named by a pattern.
    """
    if ranges not in ("declared", "ignore"):
        raise SchemaError("ranges must be 'declared' (they are public knowledge) or 'ignore' (they were read off rows)")
    if hasattr(model, "to_schema"):
        model = model.to_schema()
    columns = getattr(model, "columns", None)
    if not isinstance(columns, Mapping) or not columns or not all(hasattr(c, "checks") for c in columns.values()):
        raise SchemaError("pass a pandera DataFrameSchema or DataFrameModel with columns")
    return Schema(_column(name, column, ranges == "declared") for name, column in columns.items())


def _column(name: Any, column: Any, declared: bool) -> Column:
    if getattr(column, "regex", False):
        raise SchemaError(f"column {name!r} is named by a pattern; name each column")
    dtype = "" if column.dtype is None else str(column.dtype).lower()
    kind = next((kind for start, kind in _KINDS.items() if dtype.startswith(start)), None)
    if not declared:
        return Column(name, kind)
    checks = {check.name: check.statistics or {} for check in column.checks}
    values = checks.get("isin", {}).get("allowed_values") or _categories(column.dtype)
    nullable = bool(column.nullable) or not getattr(column, "required", True)
    if values is not None and kind in (None, "categorical", "numeric"):
        return Column(name, "categorical", categories=tuple(values), nullable=nullable)
    integer = kind == "numeric" and dtype.startswith(_WHOLE)
    bounds = _bounds(checks, integer) if kind in ("numeric", "datetime", "timedelta") else None
    return Column(name, kind, bounds=bounds, integer=True if integer else None, nullable=nullable)


def _categories(dtype: Any) -> list[Any] | None:
    found = getattr(dtype, "categories", None)
    return list(found) if found is not None and len(found) else None


def _bounds(checks: Mapping[str, Mapping[str, Any]], integer: bool) -> tuple[Any, Any] | None:
    """The lowest and the highest value, where checks say both. An open end counts as closed, but for whole numbers."""
    step = 1 if integer else 0
    lows, highs = [], []
    for name, found in checks.items():
        low, high = found.get("min_value"), found.get("max_value")
        if low is not None and name in ("in_range", "greater_than_or_equal_to", "greater_than"):
            closed = found.get("include_min", name != "greater_than")
            lows.append(_plain(low if closed or not step else low + step))
        if high is not None and name in ("in_range", "less_than_or_equal_to", "less_than"):
            closed = found.get("include_max", name != "less_than")
            highs.append(_plain(high if closed or not step else high - step))
    return (max(lows), min(highs)) if lows and highs else None


def _plain(value: Any) -> Any:
    """A bound in a schema's terms: numbers, ISO dates, seconds."""
    if hasattr(value, "total_seconds"):
        return float(value.total_seconds())
    return str(value.isoformat()) if hasattr(value, "isoformat") else value
