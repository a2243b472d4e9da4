"""The budget ledger: what was spent on which data, across runs, processes and days.

A run reserves its whole cost *before* a row is looked at; what was reserved stays spent, whatever becomes of the run.
Every entry is chained to the one before by a keyed MAC, so that an edit, a deletion or a cut tail shows. The key lies beside the
database, not in it. Data sets are recognised by a keyed fingerprint, which without the key says nothing about their rows.

Caps over several runs are a Gaussian-DP filter (see `accountant`): costs add up exactly, not as a sum of epsilons.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from dpsynth.privacy.accounting import Cost, cost_of, require_budget
from dpsynth.privacy.errors import BudgetExceeded, LedgerError, PrivacyError
from dpsynth.privacy.events import Event, from_json, to_json

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine, MetaData, Table

_ROUNDING = 1e-9
GENESIS = "0" * 64


@dataclass(frozen=True, kw_only=True, slots=True)
class DatasetRecord:
    """A data set the ledger knows: random id, name if it has one, and its cap, if set."""

    id: str
    name: str | None
    unit: str
    epsilon_cap: float | None = None
    delta_cap: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Reservation:
    """A run's reserved cost."""

    id: str
    dataset: str
    cost: Cost
    delta: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """One run as the ledger shows it; epsilon at the run's own delta."""

    id: str
    label: str
    state: Literal["reserved", "committed"]
    epsilon: float
    delta: float
    created: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Spent:
    """What a data set's runs cost together: epsilon at `delta`."""

    cost: Cost
    epsilon: float
    delta: float
    runs: tuple[Run, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """One entry of the chain."""

    seq: int
    dataset: str
    run: str
    kind: str
    body: dict[str, Any]
    created: str
    mac: str


class Ledger:
    """A ledger in a SQLite file (default) or any database that SQLAlchemy reaches.

    url: "sqlite:///path", a bare path, "postgresql+psycopg://...", or None for $DPSYNTH_LEDGER, else the user's own.
    Raises LedgerError where the database or its key cannot be used.
    """

    def __init__(self, url: str | Path | None = None) -> None:
        self.url = _resolve(url)
        self._engine = _connect(self.url)
        self._tables = _create(self._engine)
        self._key = self._load_key()

    def __repr__(self) -> str:
        return f"Ledger({len(self.datasets())} data sets)"

    # -- data sets -----------------------------------------------------------------------------------------------------

    def fingerprint(self, row_hashes: npt.NDArray[np.uint64]) -> str:
        """Keyed fingerprint of a table, the same for every order of its rows."""
        return hmac.new(self._key, np.sort(row_hashes).tobytes(), hashlib.sha256).hexdigest()

    def dataset(self, *, name: str | None, fingerprint: str, unit: str) -> DatasetRecord:
        """The data set of this name or, failing that, of this fingerprint; registered when new.

        A known fingerprint under another name stays the data set it is: renaming resets nothing.
        """
        with self._write() as connection:
            by_print = self._find(connection, "prints", fingerprint)
            by_name = self._find(connection, "names", name) if name is not None else None
            if by_print and by_name and by_print != by_name:
                raise LedgerError(f"these rows are booked under another data set than {name!r}; use that name, or none")
            found = by_print or by_name
            if found is None:
                found = self._register(connection, unit)
            if not by_print:
                connection.execute(self._tables["prints"].insert().values(key=fingerprint, dataset=found))
            if name is not None and not by_name:
                connection.execute(self._tables["names"].insert().values(key=name, dataset=found))
            return self._record(connection, found)

    def set_cap(self, name: str, *, epsilon: float, delta: float) -> DatasetRecord:
        """Cap what may ever be spent on a data set; registers the name when new."""
        require_budget(epsilon, delta)
        with self._write() as connection:
            found = self._find(connection, "names", name)
            if found is None:
                found = self._register(connection, "row")
                connection.execute(self._tables["names"].insert().values(key=name, dataset=found))
            datasets = self._tables["datasets"]
            connection.execute(
                datasets.update().where(datasets.c.id == found).values(epsilon_cap=epsilon, delta_cap=delta)
            )
            self._append(connection, found, "", "cap", {"name": name, "epsilon": epsilon, "delta": delta})
            return self._record(connection, found)

    def datasets(self) -> list[DatasetRecord]:
        """All data sets, in order of registration."""
        with self._read() as connection:
            ids = connection.execute(self._tables["datasets"].select().order_by(self._tables["datasets"].c.created))
            return [self._record(connection, row.id) for row in ids]

    # -- spending ------------------------------------------------------------------------------------------------------

    def reserve(self, *, dataset: DatasetRecord, cost: Cost, delta: float, label: str) -> Reservation:
        """Book a run's cost, at once and for good. Raises BudgetExceeded where the data set's cap would be passed."""
        with self._write() as connection:
            record = self._record(connection, dataset.id)
            spent = self._cost(connection, dataset.id)
            if record.epsilon_cap is not None and record.delta_cap is not None:
                _require_room(record, spent, cost)
            run = f"run_{secrets.token_hex(8)}"
            body = {"label": label, "mu_squared": cost.mu_squared, "delta_spent": cost.delta, "delta": delta}
            self._append(connection, dataset.id, run, "reserve", body)
        return Reservation(id=run, dataset=dataset.id, cost=cost, delta=delta)

    def commit(self, reservation: Reservation, events: Sequence[Event]) -> str:
        """Book what a run did with its reservation; returns the chain's head. What was reserved stays charged."""
        did = cost_of(events)
        if did.mu_squared > reservation.cost.mu_squared * (1 + _ROUNDING) or did.delta > reservation.cost.delta * (
            1 + _ROUNDING
        ):
            raise PrivacyError("a run's events cost more than it had reserved")
        with self._write() as connection:
            body = {"events": [to_json(e) for e in events]}
            return self._append(connection, reservation.dataset, reservation.id, "commit", body)

    def note(self, run: str, kind: Literal["release", "gate"], body: dict[str, Any]) -> str:
        """Book something that costs nothing: a release, its recipient, a verdict. Returns the chain's head."""
        with self._write() as connection:
            entries = self._tables["entries"]
            found = connection.execute(entries.select().where(entries.c.run == run)).first()
            if found is None:
                raise LedgerError("this ledger has no such run; open the ledger that the fit used")
            return self._append(connection, found.dataset, run, kind, body)

    def spent(self, dataset: str) -> Spent:
        """What all runs on a data set cost together, at the cap's delta or the sum of the runs' deltas."""
        with self._read() as connection:
            record = self._record(connection, dataset)
            reserved = [e for e in self._entries(connection, dataset) if e.kind == "reserve"]
            committed = {e.run for e in self._entries(connection, dataset) if e.kind == "commit"}
        total = Cost()
        runs = []
        for entry in reserved:
            cost = _cost_in(entry)
            total += cost
            runs.append(
                Run(
                    id=entry.run,
                    label=entry.body["label"],
                    state="committed" if entry.run in committed else "reserved",
                    epsilon=cost.epsilon(entry.body["delta"]),
                    delta=entry.body["delta"],
                    created=entry.created,
                )
            )
        delta = max([record.delta_cap or 0.0, sum(r.delta for r in runs)])
        return Spent(cost=total, epsilon=total.epsilon(delta), delta=delta, runs=tuple(runs))

    def entries(self, dataset: str | None = None) -> list[Entry]:
        """The chain's entries, in order; of one data set, or all."""
        with self._read() as connection:
            return self._entries(connection, dataset)

    def events(self, run: str) -> tuple[Event, ...]:
        """The events of a committed run. Raises LedgerError where there is none."""
        for entry in self.entries():
            if entry.run == run and entry.kind == "commit":
                return tuple(from_json(e) for e in entry.body["events"])
        raise LedgerError("this ledger has no committed run of that id")

    # -- the chain -----------------------------------------------------------------------------------------------------

    def head(self) -> str:
        """MAC of the last entry."""
        with self._read() as connection:
            return self._head(connection)[1]

    def verify(self) -> list[str]:
        """What is wrong with the chain, by place; empty when all is as it was written."""
        problems = []
        previous, count = GENESIS, 0
        with self._read() as connection:
            entries = self._tables["entries"]
            for row in connection.execute(entries.select().order_by(entries.c.seq)):
                count += 1
                if row.seq != count:
                    problems.append(f"entry {count}: missing (the next found is {row.seq})")
                    count = row.seq
                if row.prev != previous:
                    problems.append(f"entry {row.seq}: does not follow the entry before it")
                if not hmac.compare_digest(
                    row.mac, self._mac(row.seq, row.dataset, row.run, row.kind, row.body, row.created, row.prev)
                ):
                    problems.append(f"entry {row.seq}: was changed after it was written")
                previous = row.mac
            sealed = connection.execute(self._tables["seal"].select()).first()
        expected = self._sign(f"{count}|{previous}")
        if (sealed is None and count) or (sealed is not None and not hmac.compare_digest(sealed.mac, expected)):
            problems.append(f"after entry {count}: entries were cut off or added without the key")
        return problems

    def _append(self, connection: Connection, dataset: str, run: str, kind: str, body: dict[str, Any]) -> str:
        count, previous = self._head(connection)
        text, created = json.dumps(body, sort_keys=True), datetime.now(UTC).isoformat()
        mac = self._mac(count + 1, dataset, run, kind, text, created, previous)
        connection.execute(
            self._tables["entries"]
            .insert()
            .values(
                seq=count + 1, dataset=dataset, run=run, kind=kind, body=text, created=created, prev=previous, mac=mac
            )
        )
        seal = self._tables["seal"]
        signed = self._sign(f"{count + 1}|{mac}")
        if connection.execute(seal.update().where(seal.c.id == 1).values(mac=signed)).rowcount == 0:
            connection.execute(seal.insert().values(id=1, mac=signed))
        return mac

    def _head(self, connection: Connection) -> tuple[int, str]:
        entries = self._tables["entries"]
        last = connection.execute(entries.select().order_by(entries.c.seq.desc()).limit(1)).first()
        return (last.seq, last.mac) if last is not None else (0, GENESIS)

    def _mac(self, *parts: Any) -> str:
        return self._sign(json.dumps(parts))

    def _sign(self, text: str) -> str:
        return hmac.new(self._key, text.encode(), hashlib.sha256).hexdigest()

    # -- database ------------------------------------------------------------------------------------------------------

    @contextmanager
    def _read(self) -> Iterator[Connection]:
        from sqlalchemy.exc import SQLAlchemyError

        try:
            with self._engine.connect() as connection:
                yield connection
        except SQLAlchemyError as error:
            raise LedgerError(f"the ledger cannot be read ({type(error).__name__}); is it reachable?") from None

    @contextmanager
    def _write(self) -> Iterator[Connection]:
        """One transaction, begun with the write lock, so that no two runs see the same budget left."""
        from sqlalchemy import text
        from sqlalchemy.exc import SQLAlchemyError

        try:
            with self._engine.begin() as connection:
                if self._engine.dialect.name == "postgresql":
                    connection.execute(text("LOCK TABLE dpsynth_seal IN EXCLUSIVE MODE"))
                yield connection
        except SQLAlchemyError as error:
            raise LedgerError(
                f"the ledger cannot be written ({type(error).__name__}): is it writable, unlocked, with space left?"
            ) from None

    def _register(self, connection: Connection, unit: str) -> str:
        new = f"ds_{secrets.token_hex(8)}"
        created = datetime.now(UTC).isoformat()
        connection.execute(self._tables["datasets"].insert().values(id=new, unit=unit, created=created))
        return new

    def _find(self, connection: Connection, table: str, key: str) -> str | None:
        rows = self._tables[table]
        found = connection.execute(rows.select().where(rows.c.key == key)).first()
        return None if found is None else str(found.dataset)

    def _record(self, connection: Connection, dataset: str) -> DatasetRecord:
        datasets, names = self._tables["datasets"], self._tables["names"]
        row = connection.execute(datasets.select().where(datasets.c.id == dataset)).first()
        if row is None:
            raise LedgerError("this ledger has no such data set")
        name = connection.execute(names.select().where(names.c.dataset == dataset)).first()
        return DatasetRecord(
            id=row.id,
            name=name.key if name is not None else None,
            unit=row.unit,
            epsilon_cap=row.epsilon_cap,
            delta_cap=row.delta_cap,
        )

    def _cost(self, connection: Connection, dataset: str) -> Cost:
        total = Cost()
        for entry in self._entries(connection, dataset):
            if entry.kind == "reserve":
                total += _cost_in(entry)
        return total

    def _entries(self, connection: Connection, dataset: str | None) -> list[Entry]:
        entries = self._tables["entries"]
        query = entries.select().order_by(entries.c.seq)
        if dataset is not None:
            query = query.where(entries.c.dataset == dataset)
        return [
            Entry(
                seq=r.seq,
                dataset=r.dataset,
                run=r.run,
                kind=r.kind,
                body=json.loads(r.body),
                created=r.created,
                mac=r.mac,
            )
            for r in connection.execute(query)
        ]

    @cached_property
    def _key_path(self) -> Path:
        database = self._engine.url.database
        if self._engine.dialect.name == "sqlite" and database:
            return Path(f"{database}.key")
        return _data_dir() / "ledger.key"

    def _load_key(self) -> bytes:
        if os.environ.get("DPSYNTH_LEDGER_KEY"):
            return bytes.fromhex(os.environ["DPSYNTH_LEDGER_KEY"])
        try:
            return self._key_path.read_bytes()
        except FileNotFoundError:
            if self._head_without_key():
                raise LedgerError(f"the ledger's key {self._key_path} is missing; put it back from a backup") from None
        return self._new_key()

    def _head_without_key(self) -> bool:
        with self._read() as connection:
            return self._head(connection)[0] > 0

    def _new_key(self) -> bytes:
        key = secrets.token_bytes(32)
        try:
            # Only the process that creates the file writes it; another that comes at the same moment reads it.
            handle = os.open(self._key_path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            return self._key_path.read_bytes()
        except OSError as error:
            raise LedgerError(f"the ledger's key cannot be written: {error.strerror}") from None
        with os.fdopen(handle, "wb") as file:
            file.write(key)
            file.flush()
            os.fsync(file.fileno())
        return key


def _cost_in(entry: Entry) -> Cost:
    return Cost(mu_squared=entry.body["mu_squared"], delta=entry.body["delta_spent"])


def _require_room(record: DatasetRecord, spent: Cost, cost: Cost) -> None:
    """Raise BudgetExceeded unless spent + cost stays within the data set's cap."""
    cap_epsilon, cap_delta = float(record.epsilon_cap or 0), float(record.delta_cap or 0)
    if (spent + cost).epsilon(cap_delta) <= cap_epsilon * (1 + _ROUNDING):
        return
    asked, gone = cost.epsilon(cap_delta), spent.epsilon(cap_delta)
    left = max(cap_epsilon - gone, 0.0)
    raise BudgetExceeded(
        f"data set {record.name or record.id!r}: asked for epsilon {asked:.4g}, {gone:.4g} of {cap_epsilon:g} is spent "
        f"(at delta {cap_delta:g}), about {left:.4g} is left; ask for less or raise the cap",
        asked=asked,
        spent=gone,
        left=left,
    )


def _data_dir() -> Path:
    from platformdirs import user_data_dir

    folder = Path(user_data_dir("dpsynth"))
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise LedgerError(f"no ledger can be made in {folder}: {error.strerror}; set $DPSYNTH_LEDGER") from None
    return folder


def _resolve(url: str | Path | None) -> str:
    chosen = str(url) if url is not None else os.environ.get("DPSYNTH_LEDGER") or f"{_data_dir() / 'ledger.db'}"
    return chosen if "://" in chosen else f"sqlite:///{chosen}"


def _connect(url: str) -> Engine:
    from sqlalchemy import create_engine, event
    from sqlalchemy.exc import SQLAlchemyError

    try:
        engine = create_engine(url)
    except (SQLAlchemyError, ImportError) as error:
        raise LedgerError(
            f"the ledger's URL cannot be used ({type(error).__name__}); e.g. sqlite:///budget.db"
        ) from None
    if engine.dialect.name == "sqlite":

        @event.listens_for(engine, "connect")
        def _prepare(connection: Any, _: Any) -> None:
            connection.isolation_level = None  # SQLAlchemy's own BEGIN below, not the driver's late one
            connection.execute("PRAGMA busy_timeout = 30000")
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")

        @event.listens_for(engine, "begin")
        def _begin(connection: Any) -> None:
            connection.exec_driver_sql("BEGIN IMMEDIATE")

    return engine


def _create(engine: Engine) -> dict[str, Table]:
    from sqlalchemy import Column, Float, Integer, MetaData, String, Table, Text
    from sqlalchemy.exc import SQLAlchemyError

    meta: MetaData = MetaData()
    tables = {
        "datasets": Table(
            "dpsynth_datasets",
            meta,
            Column("id", String(40), primary_key=True),
            Column("unit", Text, nullable=False),
            Column("epsilon_cap", Float),
            Column("delta_cap", Float),
            Column("created", String(40), nullable=False),
        ),
        "entries": Table(
            "dpsynth_entries",
            meta,
            Column("seq", Integer, primary_key=True, autoincrement=False),
            *(
                Column(name, Text, nullable=False)
                for name in ("dataset", "run", "kind", "body", "created", "prev", "mac")
            ),
        ),
        "seal": Table(
            "dpsynth_seal", meta, Column("id", Integer, primary_key=True), Column("mac", Text, nullable=False)
        ),
    } | {
        name: Table(
            f"dpsynth_{name}",
            meta,
            Column("key", String(400), primary_key=True),
            Column("dataset", Text, nullable=False),
        )
        for name in ("names", "prints")
    }
    try:
        meta.create_all(engine)
    except SQLAlchemyError:
        place = engine.url.database or engine.url.host or "there"
        raise LedgerError(f"no ledger can be opened at {place}: does the folder exist, and is it writable?") from None
    return tables
