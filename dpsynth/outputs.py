"""Synthetic rows into files, folders and databases, in chunks: memory does not grow with rows.

Everything written has the types learned under DP, never the input's dtypes. A file or folder appears whole or not at all, and
a table in a database is dropped again where writing it fails.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

import pandas as pd

from dpsynth.learn import ColumnFacts
from dpsynth.privacy.errors import SchemaError
from dpsynth.sources import SQL, extras

Frame = Literal["pandas", "polars", "pyarrow"]
# Rows of a partition that an executor draws.
SPREAD_ROWS = 2**18

_CARD = """---
configs:
- config_name: default
  data_files: data/*.parquet
tags:
- synthetic
- differential-privacy
---

Synthetic rows, made by dpsynth (run {run}). Nothing in this folder proves that; `dpsynth release` writes a folder that does.
"""


def require_frame(frame: Any) -> None:
    """Raise SchemaError for a kind of frame that is not known, or not installed, before rows are drawn for it."""
    if not isinstance(frame, str) or frame not in get_args(Frame):
        raise SchemaError("frame must be 'pandas', 'polars', 'pyarrow' or a SparkSession")
    if frame == "polars":
        extras.load("polars")


def as_frame(table: pd.DataFrame, frame: Frame) -> Any:
    """A table as a kind of frame that `require_frame` lets pass."""
    if frame == "pandas":
        return table
    import pyarrow as pa

    arrow = pa.Table.from_pandas(table, preserve_index=False).replace_schema_metadata(None)
    return arrow if frame == "pyarrow" else extras.load("polars").from_arrow(arrow)


def is_session(frame: Any) -> bool:
    return type(frame).__module__.split(".")[0] == "pyspark" and hasattr(frame, "range")


def spread(
    session: Any,
    draw: Callable[[int], pd.DataFrame],
    facts: Iterable[ColumnFacts],
    parts: int,
    marks: dict[str, str],
) -> Any:
    """A Spark DataFrame of so many partitions, of which executors draw each by its number: the driver holds no row."""
    from dpsynth.sources.spark import drawn_frame

    schema = _schema(facts, marks)
    return drawn_frame(session, partial(_drawn, draw, schema), schema, parts)


def _drawn(draw: Callable[[int], pd.DataFrame], schema: Any, part: int) -> Any:
    return _arrow(draw(part), schema)


def why_not(path: Path) -> str | None:
    """Why nothing can be written at `path`, as far as that shows beforehand; None: it can. Folders that are missing can be made."""
    above = path.absolute().parent
    try:
        while not above.exists():
            above = above.parent
    except OSError as error:  # what may not be looked at
        return error.strerror or type(error).__name__
    if not above.is_dir():
        return f"{above.name} is not a folder"
    return None if os.access(above, os.W_OK | os.X_OK) else f"the folder {above} may not be written to"


def require_file(path: Path) -> None:
    """Raise SchemaError where no file can be written, before rows are drawn for it. Its folder must be there."""
    _refuse_folder(path)
    if not path.parent.is_dir():
        raise SchemaError(f"{path.name} cannot be written: there is no folder {path.parent}")
    if path.exists():  # it is written over, whatever may be made in its folder
        why = None if os.access(path, os.W_OK) else "it is there, and may not be written to"
    else:
        why = why_not(path)
    if why is not None:
        raise SchemaError(f"{path.name} cannot be written: {why}")


def _refuse_folder(path: Path) -> None:
    if path.is_dir():
        raise SchemaError(f"{path.name} is a folder; name a file")


def write(tables: Iterable[pd.DataFrame], facts: Iterable[ColumnFacts], to: Any, marks: dict[str, str]) -> None:
    """Chunks of a synthetic table to one place.

    to: path of a .parquet or .csv file (also .csv.gz), path of a new folder (Parquet files and a card, as Hugging Face's `load_dataset`
    reads it), `SQL` with a table, or "URL#table".  marks: metadata of each Parquet file.
    Raises SchemaError where the place cannot be written to, or holds something already that is no single file; as far as that shows
    beforehand, before the first chunk is drawn.
    """
    schema = _schema(facts, marks)
    if isinstance(to, str) and "://" in to:
        to = SQL.named(to)
    if isinstance(to, SQL):
        _write_sql(tables, to)
        return
    path = Path(to)
    name = path.name.lower()
    writer: Callable[[Iterable[pd.DataFrame], Path, Any], None]
    if name.endswith(".parquet"):
        writer = _write_parquet
    elif name.endswith((".csv", ".csv.gz")):
        writer = _write_csv
    elif not path.suffix:
        if path.exists():
            raise SchemaError(f"{path.name} is there already; name a new folder")
        writer = _write_folder
    else:
        raise SchemaError(f"the file {path.name} is neither .csv (also .gz) nor .parquet")
    _refuse_folder(path)
    with _whole_or_not_at_all(path) as place:
        writer(tables, place, schema)


@contextmanager
def _whole_or_not_at_all(path: Path) -> Iterator[Path]:
    """A place beside `path` that takes its name when everything is written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".dpsynth-", dir=path.parent) as folder:
            place = Path(folder) / path.name
            yield place
            place.replace(path)
    except OSError as error:
        raise SchemaError(f"{path.name} cannot be written: {error.strerror}") from None


def _schema(facts: Iterable[ColumnFacts], marks: dict[str, str]) -> Any:
    """Arrow types by the columns' learned or declared facts: the same in every chunk."""
    import pyarrow as pa

    fields = [(f.column.name, _arrow_type(f)) for f in facts]
    return pa.schema(fields, metadata=marks)


def _arrow_type(fact: ColumnFacts) -> Any:
    import pyarrow as pa

    column = fact.column
    if fact.treatment == "unit id":
        return pa.int64()
    if fact.treatment in ("id", "fake"):
        return pa.string()
    if column.kind == "numeric":
        return pa.int64() if column.integer else pa.float64()
    if column.categories is not None and column.kind != "boolean":
        return pa.array(list(column.categories)).type if column.categories else pa.string()
    types = {"boolean": pa.bool_(), "datetime": pa.timestamp("us"), "timedelta": pa.duration("us")}
    return types.get(column.kind or "", pa.string())


def _arrow(table: pd.DataFrame, schema: Any) -> Any:
    import pyarrow as pa

    return pa.Table.from_pandas(table, schema=schema, preserve_index=False).replace_schema_metadata(schema.metadata)


def _write_parquet(tables: Iterable[pd.DataFrame], path: Path, schema: Any) -> None:
    import pyarrow.parquet as pq

    with pq.ParquetWriter(path, schema) as writer:
        for table in tables:
            writer.write_table(_arrow(table, schema))


def _write_csv(tables: Iterable[pd.DataFrame], path: Path, schema: Any) -> None:
    for i, table in enumerate(tables):
        table.to_csv(path, index=False, mode="a" if i else "w", header=not i)


def _write_folder(tables: Iterable[pd.DataFrame], path: Path, schema: Any) -> None:
    import pyarrow.parquet as pq

    (path / "data").mkdir(parents=True)
    for i, table in enumerate(tables):
        pq.write_table(_arrow(table, schema), path / "data" / f"train-{i:05d}.parquet")
    run = next(iter(schema.metadata.values()), b"").decode()
    (path / "README.md").write_text(_CARD.format(run=run), encoding="utf-8")


def _write_sql(tables: Iterable[pd.DataFrame], place: SQL) -> None:
    import sqlalchemy

    if place.table is None:
        raise SchemaError("rows are written to a table, not to a query")
    try:
        engine = sqlalchemy.create_engine(place.url)
    except (sqlalchemy.exc.SQLAlchemyError, ImportError):
        raise SchemaError(
            "the URL of the database is not one that SQLAlchemy knows, or its driver is missing"
        ) from None
    begun = False
    try:
        if sqlalchemy.inspect(engine).has_table(place.table, schema=place.schema):
            raise SchemaError(f"the table {place.table!r} is there already; name a new one")
        begun = True
        with engine.begin() as connection:
            for table in tables:
                table.to_sql(
                    place.table, connection, schema=place.schema, index=False, if_exists="append", chunksize=10_000
                )
    except BaseException as error:
        if begun:
            _drop(engine, place)
        if isinstance(error, sqlalchemy.exc.SQLAlchemyError):
            raise SchemaError(f"the table {place.table!r} cannot be written ({type(error).__name__})") from None
        raise
    finally:
        engine.dispose()


def _drop(engine: Any, place: SQL) -> None:
    """Take away what a failed write may have left; some databases create tables outside of transactions."""
    import sqlalchemy

    try:
        with engine.begin() as connection:
            half = sqlalchemy.Table(place.table or "", sqlalchemy.MetaData(), schema=place.schema)
            half.drop(connection, checkfirst=True)
    except sqlalchemy.exc.SQLAlchemyError:  # the database is gone, and its transaction with it
        return
