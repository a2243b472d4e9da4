"""Cells as numbers: what a string reads as, and how finely a number is written. Each cell on its own."""

from __future__ import annotations

import re
from typing import Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from dpsynth.privacy.source import Cells, FloatArray, Numbers

Scale = Literal["number", "datetime", "timedelta"]

MAX_DECIMALS = 6
DAY, HOUR, MINUTE, SECOND, MILLISECOND = 86_400_000_000, 3_600_000_000, 60_000_000, 1_000_000, 1_000
# Resolutions of time, coarse to fine, in microseconds.
TIME_STEPS = (DAY, HOUR, MINUTE, SECOND, MILLISECOND, 1)

# A canonical number: no leading zeros (a code such as 007 is a label), no thousands separators.
_NUMBER = re.compile(r"\s*[-+]?(?:(?:0|[1-9]\d*)(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d{1,3})?\s*")
_DATE = re.compile(r"\s*[12]\d{3}-\d\d-\d\d(?:[ T]\d\d:\d\d(?::\d\d(?:\.\d{1,9})?)?Z?)?\s*")


def numbers(cells: Cells, scale: Scale) -> FloatArray:
    """float64 of shape (rows,): the cells' values on a number line, NaN where there is none."""
    if isinstance(cells, Numbers):
        return cells.data
    if not len(cells.uniques):
        return np.full(len(cells), np.nan)
    read = _read_dates(cells.uniques) if scale == "datetime" else _read_numbers(cells.uniques)
    return np.append(read, np.nan)[cells.codes]


def _read_numbers(texts: npt.NDArray[np.object_]) -> FloatArray:
    fits = np.array([looks_numeric(t) for t in texts])
    out = np.full(len(texts), np.nan)
    out[fits] = [float(t) for t in texts[fits]]
    return np.where(np.isfinite(out), out, np.nan)


def _read_dates(texts: npt.NDArray[np.object_]) -> FloatArray:
    fits = np.array([looks_dated(t) for t in texts])
    out = np.full(len(texts), np.nan)
    if fits.any():
        parsed = pd.to_datetime(pd.Series(texts[fits]), errors="coerce", utc=True, format="ISO8601")
        micro = parsed.dt.tz_localize(None).to_numpy().astype("datetime64[us]")
        out[fits] = np.where(np.isnat(micro), np.nan, micro.astype(np.int64).astype(np.float64))
    return out


def looks_numeric(text: str) -> bool:
    return bool(_NUMBER.fullmatch(text))


def looks_dated(text: str) -> bool:
    return bool(_DATE.fullmatch(text))


def decimals_of(values: FloatArray) -> npt.NDArray[np.int64]:
    """Decimals that each value needs, 0..MAX_DECIMALS, MAX_DECIMALS + 1 where more. NaN gives 0."""
    known = np.nan_to_num(values)
    out = np.full(len(known), MAX_DECIMALS + 1, np.int64)
    for decimals in range(MAX_DECIMALS, -1, -1):
        scaled = known * 10.0**decimals
        out[np.abs(scaled - np.rint(scaled)) <= 1e-9 * np.maximum(np.abs(scaled), 1.0)] = decimals
    return out


def time_step_of(values: FloatArray) -> npt.NDArray[np.int64]:
    """Index into TIME_STEPS of the coarsest step that each value is a multiple of. NaN gives 0."""
    known = np.nan_to_num(values)
    out = np.full(len(known), len(TIME_STEPS) - 1, np.int64)
    for i in range(len(TIME_STEPS) - 1, -1, -1):
        out[known % TIME_STEPS[i] == 0] = i
    return out
