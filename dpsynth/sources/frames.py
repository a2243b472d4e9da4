"""pandas columns as cells. Types from dtypes alone."""

from __future__ import annotations

import re
from collections.abc import Hashable
from typing import Any

import numpy as np
import pandas as pd

from dpsynth.privacy.errors import SchemaError
from dpsynth.privacy.source import BoolArray, Cells, IntArray, Numbers, Strings
from dpsynth.sources.arrow import SourceType, microseconds
from dpsynth.values import numbered

# Halves of a character, which no file of UTF-8 can hold.
_LONE = re.compile("[\ud800-\udfff]")


def cells(name: str, column: pd.Series[Any]) -> tuple[SourceType, Cells]:
    """A column's type, from its dtype alone, and its cells."""
    dtype = column.dtype
    if isinstance(dtype, pd.CategoricalDtype):
        return "string", _strings(name, column.astype(object))
    if pd.api.types.is_bool_dtype(dtype):
        return "boolean", _strings(name, column.astype(object))
    if pd.api.types.is_datetime64_any_dtype(dtype):
        naive = column.dt.tz_convert("UTC").dt.tz_localize(None) if getattr(dtype, "tz", None) else column
        return "datetime", Numbers(microseconds(naive.to_numpy(), "datetime64[us]"))
    if pd.api.types.is_timedelta64_dtype(dtype):
        return "timedelta", Numbers(microseconds(column.to_numpy(), "timedelta64[us]"))
    if pd.api.types.is_complex_dtype(dtype):
        raise SchemaError(f"column {name!r}: complex numbers cannot be modelled; split them into two columns")
    if pd.api.types.is_numeric_dtype(dtype):
        numbers = column.to_numpy(dtype=np.float64, na_value=np.nan)
        return "number", Numbers(np.where(np.isfinite(numbers), numbers, np.nan))
    return "string", _strings(name, column.astype(object))


def _strings(name: str, column: pd.Series[Any]) -> Strings:
    """Cells as strings; missing is None, NaN, NaT or pd.NA. Nested values are refused for every row alike."""
    kind = pd.api.types.infer_dtype(column, skipna=True)
    if kind == "string":
        texts = [_whole(str.__str__(cell)) if isinstance(cell, str) else None for cell in column]
    else:  # to pandas 1, 1.0 and True are one value, that of the first row: a cell would read as another row says
        texts = [_text(name, cell) for cell in column]
    codes, uniques = numbered(texts)
    return Strings(codes.astype(np.int32), np.array(uniques, dtype=object))


def _text(name: str, cell: Any) -> str | None:
    """A cell as a string, whatever the others are; None = missing."""
    if isinstance(cell, str):
        return _whole(str.__str__(cell))
    nested = isinstance(cell, dict | list | set | tuple | bytes | np.ndarray) or not isinstance(cell, Hashable)
    if nested:
        raise SchemaError(f"column {name!r} holds nested or binary values; flatten or drop it")
    return None if pd.isna(cell) else _whole(str(cell))


def _whole(text: str) -> str:
    """The text as files can hold it."""
    return text if text.isascii() else _LONE.sub("\ufffd", text)


def exact_keys(column: pd.Series[Any]) -> tuple[IntArray, BoolArray] | None:
    """As `arrow.exact_keys`, for a pandas column."""
    if not pd.api.types.is_integer_dtype(column.dtype):
        return None
    missing = column.isna().to_numpy(dtype=bool)
    unsigned = pd.api.types.is_unsigned_integer_dtype(column.dtype)
    whole = column.fillna(0).to_numpy(dtype=np.uint64 if unsigned else np.int64)
    return whole.view(np.int64), missing
