"""What noisy answers say of a column: its kind, step, values and bounds. Post-processing: nothing here sees a row."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from dpsynth.encode.cells import LabelCells
from dpsynth.encode.codec import Codec
from dpsynth.encode.grid import SIGNIFICANT
from dpsynth.encode.parse import MAX_DECIMALS, TIME_STEPS, Scale, numbers
from dpsynth.encode.questions import FormOf
from dpsynth.privacy.errors import SchemaError
from dpsynth.privacy.pii import find_leaks
from dpsynth.privacy.source import FloatArray, Strings
from dpsynth.privacy.table import Measurement, Vocabulary
from dpsynth.schema import Column, Kind

# A vote on a column's form counts from so many sd on.
FORM_SEEN = 3.5


def without_identifiers(found: Vocabulary) -> Vocabulary:
    """What was bought, less values that hold a valid identifier, however many units hold them. Post-processing."""
    kept = [i for i, value in enumerate(found.values) if not isinstance(value, str) or not find_leaks([value])]
    return replace(found, values=tuple(found.values[i] for i in kept), counts=found.counts[kept])


def total_of(counted: Measurement) -> tuple[float, float]:
    """(all that was counted, its variance)."""
    return float(counted.values.sum()), counted.sigma**2 * len(counted.values)


def precise_mean(noisy: Sequence[tuple[float, float]]) -> float:
    """The mean of (value, variance) by precision."""
    values, variances = np.array(noisy).T
    return float(np.average(values, weights=1 / variances))


def together(first: Vocabulary | None, second: Vocabulary) -> Vocabulary:
    """Values of either look. Counts of a value that both found are averaged by their precision; sigma is the largest of any."""
    if first is None:
        return second
    weight = second.sigma**-2 / (first.sigma**-2 + second.sigma**-2)
    counts = dict(zip(first.values, first.counts.tolist(), strict=True))
    for value, count in zip(second.values, second.counts.tolist(), strict=True):
        counts[value] = weight * count + (1 - weight) * counts.get(value, count)
    ordered = sorted(counts, key=lambda value: (-counts[value], str(value)))
    noise = [(first.sigma**-2 + second.sigma**-2) ** -0.5]
    noise += [first.sigma] if set(first.values) - set(second.values) else []
    noise += [second.sigma] if set(second.values) - set(first.values) else []
    return Vocabulary(
        values=tuple(ordered),
        counts=np.array([counts[value] for value in ordered], np.float64),
        sigma=max(noise),
        threshold=second.threshold,
    )


def kind_of(form: Measurement) -> Kind | None:
    """The kind that most cells of a string column speak for; None where noise hides what they say."""
    votes = form.values[1:]
    known = float(votes.sum())
    top = int(votes.argmax()) + 1
    if votes.max() <= FORM_SEEN * form.sigma:
        return None
    # Of a line, the others may be a tenth, or what their noise alone may make of them.
    others = max(0.1 * known, 2 * form.sigma * math.sqrt(len(votes) - 1))
    if top in (FormOf.NUMBER, FormOf.DATE) and known - votes.max() <= others:
        return "numeric" if top == FormOf.NUMBER else "datetime"
    return "text" if votes[FormOf.TEXT - 1] >= 0.5 * known else "categorical"


def step_of(measured: Measurement, scale: Scale) -> float | None:
    """The coarsest step that all cells are multiples of, as far as the noise lets one see; None = no step.

    Cells that need a finer step count when they stand above the noise, or when they are the greater part.
    """
    counts = measured.values[:-1]
    total = max(float(counts.sum()), 0.0)
    finer = np.append(np.cumsum(counts[::-1])[::-1][1:], 0.0)
    noise = SIGNIFICANT * measured.sigma * np.sqrt(np.arange(len(counts))[::-1] + 1)
    first = int(np.argmax((finer <= np.maximum(noise, 0.002 * total)) & (finer <= 0.5 * total)))
    if scale != "number":
        return float(TIME_STEPS[first])
    return None if first > MAX_DECIMALS else 10.0**-first


def declared_range(column: Column, step: float | None) -> tuple[FloatArray, FloatArray]:
    """Edges and (even) counts over declared bounds; the upper edge lies one step above the highest value."""
    if column.bounds is None:
        raise SchemaError(f"column {column.name!r} has no declared bounds")
    if column.kind == "datetime":
        low, high = (
            pd.Timestamp(str(b)).to_datetime64().astype("datetime64[us]").astype(np.int64) for b in column.bounds
        )
    else:
        factor = 1e6 if column.kind == "timedelta" else 1.0
        low, high = (float(b) * factor for b in column.bounds)
    top = float(high) + step if step else np.nextafter(float(high), math.inf)
    return np.array([float(low), top]), np.ones(1)


def as_numbers(values: Sequence[object], scale: Scale) -> list[float]:
    """Frequent values on the number line; those of a CSV file are still strings."""
    if not values or not isinstance(values[0], str):
        return [float(v) for v in values]  # type: ignore[arg-type]  # values of a numeric column
    texts = np.array(values, dtype=object)
    read = numbers(Strings(np.arange(len(texts), dtype=np.int32), texts), scale)
    return [float(v) for v in read if not math.isnan(v)]


def filled_in(column: Column, codec: Codec, step: float | None, *, written: bool) -> Column:
    """The column with every fact filled in from its codec. written: whether texts that are not frequent are written, not left empty."""
    cells = codec.cells
    nullable = bool(codec.shares[cells.missing] > 0)
    if isinstance(cells, LabelCells):
        if column.kind == "boolean":
            return replace(column, nullable=nullable)
        if column.kind == "text":
            nullable |= not written and bool(codec.shares[cells.other] > 0)  # whatever is declared of the rows
            return replace(column, nullable=nullable or column.nullable is not False)
        return replace(column, nullable=nullable, categories=column.categories or cells.labels or None)
    held = np.flatnonzero(codec.shares[:-1] > 0)
    bounds: Any = column.bounds
    if bounds is None and len(held):
        low, high = float(cells.low[held[0]]), float(cells.high[held].max())
        is_interval = cells.high[held[-1]] > cells.low[held[-1]]
        bounds = _bounds(low, high - step if is_interval and step else high, cells.scale)
    if column.kind != "numeric":
        return replace(column, nullable=nullable, bounds=bounds)
    whole = step is not None and step >= 1
    decimals = None if step is None or whole else round(-math.log10(step))
    return replace(column, nullable=nullable, bounds=bounds, integer=whole, decimals=decimals)


def _bounds(low: float, high: float, scale: Scale) -> tuple[Any, Any]:
    if scale == "datetime":
        return tuple(str(np.datetime64(int(v), "us")) for v in (low, high))  # type: ignore[return-value]  # two of them
    return (low / 1e6, high / 1e6) if scale == "timedelta" else (low, high)
