"""A Hugging Face `Dataset` as a stream of Arrow batches."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from dpsynth.privacy.errors import SchemaError
from dpsynth.sources import extras
from dpsynth.sources.arrow import Feed
from dpsynth.sources.layout import PLAIN

_ROWS = 10_000


def feed_of_dataset(dataset: Any) -> Feed:
    """A `Dataset`, or an `IterableDataset` that knows its features. Class labels become their names.

    Raises SchemaError for a dictionary of splits, and for features that are not known before rows are read.
    """
    datasets = extras.load("datasets")
    if isinstance(dataset, dict):
        raise SchemaError("the data set has several splits; pass one of them, such as data['train']")
    if dataset.features is None:
        raise SchemaError("the data set does not say its features; cast it to declared ones first")
    names = {n: f.names for n, f in dataset.features.items() if isinstance(f, datasets.ClassLabel)}
    fields = [f.with_type(pa.string()) if f.name in names else f for f in dataset.features.arrow_schema]
    schema = pa.schema(fields)

    def batches() -> Iterator[pa.RecordBatch]:
        for table in dataset.with_format("arrow").iter(batch_size=_ROWS):
            for batch in pa.table(table).to_batches():
                columns = [_labels(batch.column(f.name), names.get(f.name), f.type) for f in schema]
                yield pa.RecordBatch.from_arrays(columns, schema=schema)

    return Feed(schema=schema, batches=batches(), layout=PLAIN, what="the Hugging Face data set")


def _labels(column: pa.Array, names: list[str] | None, dtype: pa.DataType) -> pa.Array:
    if names is None:
        return column.cast(dtype)
    known = pa.array([*names, None], pa.string())
    codes = column.fill_null(-1).to_numpy(zero_copy_only=False)
    return known.take(pa.array([code if 0 <= code < len(names) else len(names) for code in codes.tolist()]))
