"""Tables in databases as streams of Arrow batches: DuckDB, and whatever SQLAlchemy can reach."""

from __future__ import annotations

import decimal
import itertools
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from dpsynth.privacy.errors import DpsynthError, SchemaError
from dpsynth.sources import extras
from dpsynth.sources.arrow import BATCH, Feed
from dpsynth.sources.layout import PLAIN


@dataclass(frozen=True, slots=True)
class SQL:
    """A table, or the rows of a query, in any database that SQLAlchemy reaches.

    url: such as "postgresql+psycopg://user@host/db"; may hold a password, which is never shown.
    A table's types are the database's own. A query's columns have none: every cell is taken as a string, and its type learned
    under DP, because what a driver hands out may depend on the rows.
    """

    url: str = field(repr=False)
    table: str | None = field(default=None, kw_only=True)
    schema: str | None = field(default=None, kw_only=True)
    query: str | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        _require_one("SQL", self.table, self.query)

    @classmethod
    def named(cls, text: str) -> SQL:
        """The table that "URL#table" names. Raises SchemaError where no table is named."""
        url, mark, table = text.rpartition("#")
        if not mark or "://" not in url:
            raise SchemaError("a database needs the name of a table: 'URL#table', or dpsynth.SQL(url, table=...)")
        return cls(url, table=table)


@dataclass(frozen=True, slots=True)
class DuckDB:
    """A table, or the rows of a query, in a DuckDB database file, which is opened for reading."""

    path: str | Path
    table: str | None = field(default=None, kw_only=True)
    query: str | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        _require_one("DuckDB", self.table, self.query)


def _require_one(name: str, table: str | None, query: str | None) -> None:
    if (table is None) == (query is None):
        raise SchemaError(f"dpsynth.{name} needs one of table= and query=")


def database_feed(place: SQL | DuckDB) -> Feed:
    """The rows that a database holds at one moment: they are read by one statement."""
    return _duckdb_feed(place) if isinstance(place, DuckDB) else _sql_feed(place)


def feed_of_relation(relation: Any) -> Feed:
    """A DuckDB relation. Its types may have been inferred from a file's rows, so that no integer is a declaration."""
    reader = relation.to_arrow_reader(BATCH)
    return Feed(schema=reader.schema, batches=iter(reader), layout=PLAIN, what="the DuckDB relation")


def _duckdb_feed(place: DuckDB) -> Feed:
    duckdb = extras.load("duckdb")
    path = Path(place.path)
    if not path.exists():
        raise SchemaError(f"there is no file {path}")
    try:
        connection = duckdb.connect(str(path), read_only=True)
        relation = connection.table(place.table) if place.table is not None else connection.sql(place.query)
        reader = relation.to_arrow_reader(BATCH)
    except duckdb.Error as error:
        raise SchemaError(f"the DuckDB file {path.name} cannot be read ({type(error).__name__})") from None
    integers = frozenset(f.name for f in reader.schema if pa.types.is_integer(f.type)) if place.table else frozenset()

    def batches() -> Iterator[pa.RecordBatch]:
        with connection:  # closed when the rows are read, or reading is given up
            yield from reader

    what = f"the DuckDB file {path.name}"
    return Feed(schema=reader.schema, batches=batches(), layout=PLAIN, declared=integers, what=what)


def _sql_feed(place: SQL) -> Feed:
    import sqlalchemy

    try:
        url = sqlalchemy.make_url(place.url)
        what = f"the database {url.render_as_string(hide_password=True)}"
        engine = sqlalchemy.create_engine(url, poolclass=sqlalchemy.NullPool)  # what is done with is closed
    except ImportError as error:
        if "psycopg" in str(error):
            extras.load("psycopg")
        raise SchemaError(f"the driver of this database is not installed ({url.drivername})") from None
    except sqlalchemy.exc.SQLAlchemyError:
        raise SchemaError("the URL of the database is not one that SQLAlchemy knows") from None
    try:
        statement, schema = _asked(engine, place)
    except sqlalchemy.exc.SQLAlchemyError as error:  # its message may hold the statement
        raise SchemaError(f"{what} cannot be read ({type(error).__name__})") from None
    integers = frozenset(f.name for f in schema if pa.types.is_integer(f.type))
    return Feed(
        schema=schema,
        batches=_sql_batches(engine, statement, schema, what),
        layout=PLAIN,
        declared=integers,
        what=what,
    )


def _asked(engine: Any, place: SQL) -> tuple[Any, pa.Schema]:
    """(statement, schema): that of a table by the database's catalogue, that of a query by its columns' names."""
    import sqlalchemy

    if place.table is not None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", sqlalchemy.exc.SAWarning)  # a type that it does not know is refused below
            table = sqlalchemy.Table(place.table, sqlalchemy.MetaData(), schema=place.schema, autoload_with=engine)
        return sqlalchemy.select(table), pa.schema([(c.name, _arrow_type(c)) for c in table.columns])
    statement = sqlalchemy.text(place.query or "")
    with engine.connect() as connection:
        names = list(connection.execution_options(stream_results=True).execute(statement).keys())
    return statement, pa.schema([(name, pa.string()) for name in names])


def _arrow_type(column: Any) -> pa.DataType:
    from sqlalchemy import types
    from sqlalchemy.dialects.postgresql import INTERVAL

    for kind, dtype in (
        (types.Boolean, pa.bool_()),
        (types.Integer, pa.int64()),
        (types.Numeric, pa.float64()),
        (types.Float, pa.float64()),  # from SQLAlchemy 2.1 no longer a Numeric
        (types.DateTime, pa.timestamp("us", tz="UTC" if getattr(column.type, "timezone", False) else None)),
        (types.Date, pa.date32()),
        ((types.Interval, INTERVAL), pa.duration("us")),
        (types.Time, pa.string()),
        (types.Uuid, pa.string()),
        (types.String, pa.string()),  # Text and Enum are some
    ):
        if isinstance(column.type, kind):
            return dtype
    raise SchemaError(
        f"column {column.name!r} holds nested or binary values, or others that no column can have ({column.type}); cast it in a query, or drop it"
    )


def _sql_batches(engine: Any, statement: Any, schema: pa.Schema, what: str) -> Iterator[pa.RecordBatch]:
    import sqlalchemy

    try:
        with engine.connect() as connection:
            options = connection.execution_options(stream_results=True, yield_per=10_000)
            with options.execute(statement) as rows:
                while part := list(itertools.islice(rows, 10_000)):
                    columns = zip(*part, strict=True)
                    arrays = [_array(f, cells, what) for f, cells in zip(schema, columns, strict=True)]
                    yield pa.RecordBatch.from_arrays(arrays, schema=schema)
    except DpsynthError:
        raise
    except (sqlalchemy.exc.SQLAlchemyError, OSError) as error:  # its message may hold the statement
        raise SchemaError(f"{what} failed while its rows were read ({type(error).__name__}); run it again") from None


def _array(field: pa.Field, cells: tuple[Any, ...], what: str) -> pa.Array:
    """Cells as the database's type. Some databases (SQLite) hold anything in any column."""
    try:
        if pa.types.is_string(field.type):
            if any(isinstance(cell, bytes | list | dict | tuple) for cell in cells):
                raise TypeError
            return pa.array([None if cell is None else str(cell) for cell in cells], field.type)
        plain = [float(cell) if isinstance(cell, decimal.Decimal) else cell for cell in cells]
        return pa.array(plain, field.type)
    except (pa.ArrowException, TypeError, ValueError, OverflowError):  # their messages quote the value
        raise SchemaError(
            f"column {field.name!r} of {what} holds what is not of its type; cast it in a query"
        ) from None
