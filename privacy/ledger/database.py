"""Where the ledger is kept: a SQLite file, or PostgreSQL for a team. Tables, locks, time-outs, and errors in plain words.

One writer at a time. A writing transaction takes the lock before it reads (SQLite: BEGIN IMMEDIATE; PostgreSQL: an advisory
lock), so that no two runs see the same budget left. Readers see one moment's state and wait for nobody. What was committed is on
disk (SQLite: WAL with synchronous=FULL; PostgreSQL: synchronous_commit).
"""

from __future__ import annotations

import os
import sqlite3
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dpsynth.privacy.errors import LedgerError

if TYPE_CHECKING:
    from sqlalchemy import URL, Connection, Engine, Table

# Seconds to wait for another writer, and for a server to answer.
LOCK_TIMEOUT, CONNECT_TIMEOUT = 30.0, 10
# The advisory lock of all ledgers of one PostgreSQL database: "dpsynth" in ASCII.
_ADVISORY_LOCK = 0x6470_7379_6E74_68
_WRITES = "dpsynth_writes"


class Database:
    """The ledger's tables behind two kinds of transactions. Raises LedgerError for whatever goes wrong with the database."""

    def __init__(self, url: str | Path | None) -> None:
        self.url = _resolve(url)
        self._engine = _engine(self.url)
        self._owner = [os.getpid()]
        weakref.finalize(self, _close, self._engine, self._owner)
        self.tables = _tables()
        self._create()

    @property
    def place(self) -> str:
        """The database in messages: never with a password."""
        file = self.file
        return str(file) if file is not None else f"{self.url.host or 'localhost'}/{self.url.database or ''}"

    @property
    def file(self) -> Path | None:
        """The SQLite file; None on a server."""
        if self._engine.dialect.name != "sqlite":
            return None
        return Path(str(self.url.database).removeprefix("file:"))

    @property
    def key_path(self) -> Path:
        return Path(f"{self.file}.key") if self.file is not None else data_dir() / "ledger.key"

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A transaction that sees one moment's state and takes no lock that a writer would wait for."""
        options = {"isolation_level": "REPEATABLE READ"} if self._engine.dialect.name == "postgresql" else {}
        with self._explained("read"), self._own_engine().connect().execution_options(**options) as connection:
            yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """A transaction that begins with the write lock and ends on disk, or changes nothing."""
        from sqlalchemy import text

        with (
            self._explained("written"),
            self._own_engine().connect().execution_options(**{_WRITES: True}) as connection,
            connection.begin(),
        ):
            if self._engine.dialect.name == "postgresql":
                connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _ADVISORY_LOCK})
            yield connection

    def _own_engine(self) -> Engine:
        """The engine; after a fork without the parent's connections, which two processes must not share."""
        if self._owner[0] != os.getpid():
            _close(self._engine, self._owner)
            self._owner[0] = os.getpid()
        return self._engine

    @contextmanager
    def _explained(self, what: str) -> Iterator[None]:
        from sqlalchemy.exc import SQLAlchemyError

        try:
            yield
        except (SQLAlchemyError, sqlite3.Error) as error:
            raise LedgerError(f"the ledger {self.place} cannot be {what}: {_explain(error)}") from None

    def _create(self) -> None:
        """Make the tables where they are missing; of two processes that come at once, one does."""
        if self._missing():
            with self.write() as connection:
                for table in self.tables.values():
                    table.create(connection, checkfirst=True)

    def _missing(self) -> bool:
        from sqlalchemy import inspect

        with self.read() as connection:
            inspector = inspect(connection)
            there = set(inspector.get_table_names())
            for table in self.tables.values():
                if table.name in there and {c["name"] for c in inspector.get_columns(table.name)} != set(
                    table.columns.keys()
                ):
                    raise LedgerError(
                        f"the ledger {self.place} was made by another version of dpsynth; use that version"
                    )
        return not {t.name for t in self.tables.values()} <= there


def _close(engine: Engine, owner: list[int]) -> None:
    """Close the connections, or, where another process opened them, forget them."""
    engine.dispose(close=owner[0] == os.getpid())


def data_dir() -> Path:
    """The user's own folder for ledgers and keys."""
    from platformdirs import user_data_dir

    folder = Path(user_data_dir("dpsynth"))
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise LedgerError(f"no ledger can be made in {folder}: {error.strerror}; set $DPSYNTH_LEDGER") from None
    return folder


def _resolve(url: str | Path | None) -> URL:
    from sqlalchemy import URL, make_url
    from sqlalchemy.exc import SQLAlchemyError

    chosen = str(url) if url is not None else os.environ.get("DPSYNTH_LEDGER") or str(data_dir() / "ledger.db")
    if "://" not in chosen:
        return URL.create("sqlite", database=chosen)
    try:
        made = make_url(chosen)
    except (SQLAlchemyError, ValueError):
        raise LedgerError("the ledger's URL cannot be read; e.g. sqlite:///budget.db") from None
    if made.drivername in ("postgresql", "postgres"):
        made = made.set(drivername="postgresql+psycopg")
    if made.get_backend_name() not in ("sqlite", "postgresql"):
        raise LedgerError("a ledger is a SQLite file or a PostgreSQL database; e.g. sqlite:///budget.db")
    if made.get_backend_name() == "sqlite" and made.database in (None, "", ":memory:"):
        raise LedgerError("a ledger in memory forgets what was spent; name a file, e.g. sqlite:///budget.db")
    return made


def _engine(url: URL) -> Engine:
    from sqlalchemy import create_engine, event
    from sqlalchemy.exc import SQLAlchemyError

    postgresql = url.get_backend_name() == "postgresql"
    waits = {"connect_timeout": CONNECT_TIMEOUT} if postgresql and "connect_timeout" not in url.query else {}
    try:
        engine = create_engine(url, connect_args=waits, pool_pre_ping=postgresql)
    except ImportError:
        raise LedgerError("the ledger's URL needs a driver that is missing: pip install 'dpsynth[postgres]'") from None
    except (SQLAlchemyError, ValueError, TypeError):
        raise LedgerError("the ledger's URL cannot be used; e.g. sqlite:///budget.db") from None
    if postgresql:
        event.listen(engine, "connect", _prepare_postgresql)
    else:
        event.listen(engine, "connect", _prepare_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
    return engine


def _prepare_sqlite(connection: Any, _: Any) -> None:
    connection.isolation_level = None  # transactions are begun below, not by the driver, which would begin them late
    connection.execute(f"PRAGMA busy_timeout = {int(LOCK_TIMEOUT * 1000)}")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")


def _begin_sqlite(connection: Connection) -> None:
    writes = connection.get_execution_options().get(_WRITES, False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _prepare_postgresql(connection: Any, _: Any) -> None:
    with connection.cursor() as cursor:
        cursor.execute(f"SET lock_timeout = {int(LOCK_TIMEOUT * 1000)}")
        cursor.execute("SET synchronous_commit = 'on'")
    connection.commit()


# What can be wrong, by SQLite's primary result code and by PostgreSQL's SQLSTATE, and what to do about it.
_LOCKED = f"another process has kept it locked for {LOCK_TIMEOUT:g} seconds; nothing was booked, try again"
_FULL = "the disk is full; nothing was booked, free some space and try again"
_READ_ONLY = "it is read-only; nothing was booked, make it and its folder writable"
_DAMAGED = "it is damaged, or no ledger; nothing was booked, restore it from a backup"
_NO_FILE = "it cannot be opened; does the folder exist, and may you write there?"
_SQLITE = {5: _LOCKED, 6: _LOCKED, 8: _READ_ONLY, 10: "the disk fails, or is full; nothing was booked", 11: _DAMAGED,
           13: _FULL, 14: _NO_FILE, 23: "you may not write it", 26: _DAMAGED, 3: _NO_FILE}  # fmt: skip
_POSTGRESQL = {
    "55P03": _LOCKED, "57014": _LOCKED, "40P01": _LOCKED, "53100": _FULL, "25006": _READ_ONLY,
    "42501": "the user lacks the right to; ask the owner of the database for it",
    "28P01": "user or password is wrong", "28000": "the server refuses this user",
    "3D000": "there is no such database; create it first",
    "53300": "the server has too many connections; nothing was booked, try again",
    "XX001": _DAMAGED, "XX002": _DAMAGED,
}  # fmt: skip
_UNREACHABLE = "the server cannot be reached, or went away; a run that was being booked may count as spent"


def _explain(error: Exception) -> str:
    """What went wrong, without the statement, its values or the driver's own text."""
    cause = getattr(error, "orig", None) or error
    code, state = getattr(cause, "sqlite_errorcode", None), getattr(cause, "sqlstate", None)
    if code is not None and code & 0xFF in _SQLITE:
        return _SQLITE[code & 0xFF]
    if state is not None and state in _POSTGRESQL:
        return _POSTGRESQL[state]
    if not isinstance(cause, sqlite3.Error) and type(cause).__name__ in ("OperationalError", "InterfaceError"):
        # While connecting, psycopg has no SQLSTATE: its text alone tells these apart.
        said = str(cause)
        hints = {"password": "28P01", "does not exist": "3D000", "too many": "53300"}
        return next((_POSTGRESQL[s] for word, s in hints.items() if word in said), _UNREACHABLE)
    return f"{type(cause).__name__}; nothing was booked"


def _tables() -> dict[str, Table]:
    from sqlalchemy import Column, Index, Integer, MetaData, String, Table, Text

    meta = MetaData()

    def text(name: str) -> Column[str]:
        return Column(name, Text, nullable=False)

    names = ("dataset", "run", "kind", "body", "created", "prev", "mac")
    seq: Column[int] = Column("seq", Integer, primary_key=True, autoincrement=False)
    entries = Table("dpsynth_entries", meta, seq, *(text(name) for name in names))
    for name in ("dataset", "run", "mac"):
        Index(f"dpsynth_entries_{name}", entries.c[name])
    # What the entries add up to, one row for each data set; see `book`.
    datasets = Table("dpsynth_datasets", meta, Column("id", String(40), primary_key=True), text("body"), text("mac"))
    # Which names and fingerprints belong to which data set.
    kind, key = Column("kind", String(20), primary_key=True), Column("key", String(400), primary_key=True)
    known = Table("dpsynth_known", meta, kind, key, text("dataset"), text("columns"), text("mac"))
    length: Column[int] = Column("length", Integer, nullable=False)
    one: Column[int] = Column("id", Integer, primary_key=True, autoincrement=False)
    seal = Table("dpsynth_seal", meta, one, length, text("head"), text("datasets"), text("known"), text("mac"))
    return {"entries": entries, "datasets": datasets, "known": known, "seal": seal}
