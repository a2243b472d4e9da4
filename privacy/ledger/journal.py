"""The chain of entries, and what they add up to, within one transaction.

Each entry's MAC covers its number, its content and the MAC before it. Beside the chain stand, for speed, the books (one row for
each data set) and what the ledger recognises data sets by (names, fingerprints): each row with a MAC of its own. One sealed row
binds all of it together: the number of entries, the last MAC, and a digest of the MACs of each table. So a request reads

    the seal, the last entry, its own data set's row, and one MAC for each data set

but no other entry, and still sees when a row was changed, forgotten, or put back as it once was. What it cannot see, a changed entry
further back, `verify` does.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NoReturn

from dpsynth.privacy.errors import LedgerError, PrivacyError
from dpsynth.privacy.ledger.book import Book
from dpsynth.privacy.ledger.key import Keys
from dpsynth.privacy.ledger.values import Entry

if TYPE_CHECKING:
    from sqlalchemy import Connection, Row, Table

GENESIS = "0" * 64


class Journal:
    """The ledger as one transaction sees it. Raises LedgerError where it meets something that was changed without the key."""

    def __init__(self, connection: Connection, tables: Mapping[str, Table], keys: Keys) -> None:
        self._connection, self._tables, self._keys = connection, tables, keys
        self._sealed: tuple[int, str, str, str] | None = None
        self._macs: dict[str, str] = {}

    # -- reading -------------------------------------------------------------------------------------------------------

    @property
    def head(self) -> str:
        """MAC of the last entry."""
        return self._seal()[1]

    def book(self, dataset: str) -> Book:
        """A data set's book. Raises LedgerError where there is none."""
        table = self._tables["datasets"]
        row = self._connection.execute(table.select().where(table.c.id == dataset)).first()
        self._seal()
        if dataset not in self._macs:
            raise LedgerError("this ledger has no such data set")
        if row is None or row.mac != self._macs[dataset] or not _book_fits(self._keys, row):
            _tampered(f"the row of data set {dataset}")
        return _parsed(row)

    def books(self) -> list[Book]:
        """All books, in order of registration."""
        self._seal()
        rows = self._connection.execute(self._tables["datasets"].select()).all()
        for row in rows:
            if row.mac != self._macs.get(row.id) or not _book_fits(self._keys, row):
                _tampered(f"the row of data set {row.id}")
        return sorted(map(_parsed, rows), key=lambda b: b.opened)

    def find(self, kind: str, key: str) -> str | None:
        """The data set of a name or fingerprint; None where the ledger has never had it."""
        table = self._tables["known"]
        row = self._connection.execute(table.select().where(table.c.kind == kind, table.c.key == key)).first()
        if row is None:
            self.known()  # that it is not there must be true, too
            return None
        if not known_fits(self._keys, row):
            _tampered("a name or fingerprint")
        return str(row.dataset)

    def known(self) -> list[tuple[str, frozenset[str]]]:
        """(data set, hashed column names) of each fingerprint. Reads them all, so it is for what is new."""
        rows = self._connection.execute(self._tables["known"].select()).all()
        if known_digest(rows) != self._seal()[3] or not all(known_fits(self._keys, row) for row in rows):
            _tampered("the list of names and fingerprints")
        return [(row.dataset, frozenset(json.loads(row.columns))) for row in rows if row.kind == "fingerprint"]

    def entries(self, column: str = "", value: str | None = None) -> Sequence[Row[Any]]:
        """Entries in order; all, or those with a value in a column."""
        table = self._tables["entries"]
        query = table.select().order_by(table.c.seq)
        return self._connection.execute(query if value is None else query.where(table.c[column] == value)).all()

    # -- writing -------------------------------------------------------------------------------------------------------

    def append(self, dataset: str, run: str, kind: str, body: Mapping[str, Any], book: Book | None = None) -> str:
        """Add an entry, bring the data set's book (as it was before) up to date, and seal; returns the entry's MAC."""
        count, previous, datasets, known = self._seal()
        seq, text, created = count + 1, json.dumps(body, sort_keys=True), datetime.now(UTC).isoformat()
        mac = self._keys.sign("entry", seq, dataset, run, kind, text, created, previous)
        self._connection.execute(
            self._tables["entries"]
            .insert()
            .values(seq=seq, dataset=dataset, run=run, kind=kind, body=text, created=created, prev=previous, mac=mac)
        )
        if book is not None:
            self._write_book(replace(book, opened=book.opened or seq).after(kind, body))
            datasets = digest(self._macs.items())
        if kind == "register":
            known = self._write_known(dataset, body)
        self._write_seal(seq, mac, datasets, known)
        return mac

    def _write_book(self, book: Book) -> None:
        table, text = self._tables["datasets"], book.to_json()
        mac = self._keys.sign("book", book.id, text)
        if book.id in self._macs:
            self._connection.execute(table.update().where(table.c.id == book.id).values(body=text, mac=mac))
        else:
            self._connection.execute(table.insert().values(id=book.id, body=text, mac=mac))
        self._macs[book.id] = mac

    def _write_known(self, dataset: str, body: Mapping[str, Any]) -> str:
        table = self._tables["known"]
        for kind in ("name", "fingerprint"):
            if body[kind] is not None:
                columns = json.dumps(body["columns"] if kind == "fingerprint" else [])
                mac = self._keys.sign("known", kind, body[kind], dataset, columns)
                values = {"kind": kind, "key": body[kind], "dataset": dataset, "columns": columns, "mac": mac}
                self._connection.execute(table.insert().values(values))
        return known_digest(self._connection.execute(table.select()).all())

    def _write_seal(self, count: int, head: str, datasets: str, known: str) -> None:
        table = self._tables["seal"]
        mac = self._keys.sign("seal", count, head, datasets, known)
        values = {"length": count, "head": head, "datasets": datasets, "known": known, "mac": mac}
        if count == 1:
            self._connection.execute(table.insert().values(id=1, **values))
        else:
            self._connection.execute(table.update().where(table.c.id == 1).values(values))
        self._sealed = (count, head, datasets, known)

    # -- the seal ------------------------------------------------------------------------------------------------------

    def _seal(self) -> tuple[int, str, str, str]:
        """(entries, last MAC, digest of the books, digest of names and fingerprints), checked against what is there."""
        if self._sealed is None:
            self._macs = {
                r.id: r.mac for r in self._connection.execute(_columns(self._tables["datasets"], "id", "mac"))
            }
            entries = self._tables["entries"]
            last = self._connection.execute(
                _columns(entries, "seq", "mac").order_by(entries.c.seq.desc()).limit(1)
            ).first()
            row = self._connection.execute(self._tables["seal"].select()).first()
            if row is None:
                if last is not None or self._macs:
                    _tampered("the seal")
                self._sealed = (0, GENESIS, digest(()), digest(()))
            elif not seal_fits(self._keys, row):
                _tampered("the seal")
            elif last is None or (last.seq, last.mac) != (row.length, row.head):
                _tampered(f"what follows entry {last.seq if last is not None else 0}")
            elif row.datasets != digest(self._macs.items()):
                _tampered("the list of data sets")
            else:
                self._sealed = (row.length, row.head, row.datasets, row.known)
        assert self._sealed is not None
        return self._sealed


def key_fits(connection: Connection, tables: Mapping[str, Table], keys: Keys) -> bool:
    """Whether the ledger was written with this key, as far as its seal or its first entry can tell; True where it is empty."""
    seal = connection.execute(tables["seal"].select()).first()
    entries = tables["entries"]
    first = connection.execute(entries.select().order_by(entries.c.seq).limit(1)).first()
    if seal is None and first is None:
        return True
    return (seal is not None and seal_fits(keys, seal)) or (first is not None and entry_fits(keys, first))


def is_used(connection: Connection, tables: Mapping[str, Table]) -> bool:
    """Whether anything was ever written, so that there must be a key."""
    return any(connection.execute(tables[name].select().limit(1)).first() is not None for name in ("seal", "entries"))


def seal_fits(keys: Keys, row: Row[Any]) -> bool:
    return keys.fits(row.mac, "seal", row.length, row.head, row.datasets, row.known)


def entry_fits(keys: Keys, row: Row[Any]) -> bool:
    return keys.fits(row.mac, "entry", row.seq, row.dataset, row.run, row.kind, row.body, row.created, row.prev)


def known_fits(keys: Keys, row: Row[Any]) -> bool:
    return keys.fits(row.mac, "known", row.kind, row.key, row.dataset, row.columns)


def _book_fits(keys: Keys, row: Row[Any]) -> bool:
    return keys.fits(row.mac, "book", row.id, row.body)


def known_digest(rows: Iterable[Row[Any]]) -> str:
    return digest((f"{row.kind}:{row.key}", row.mac) for row in rows)


def digest(macs: Iterable[tuple[str, str]]) -> str:
    """Digest of the MACs of a table's rows, by key."""
    return hashlib.sha256(json.dumps(sorted(macs)).encode()).hexdigest()


def entry_of(row: Row[Any]) -> Entry:
    """Raises LedgerError where the body is no JSON object."""
    try:
        body = dict(json.loads(row.body))
    except (ValueError, TypeError):
        _tampered(f"entry {row.seq}")
    return Entry(
        seq=row.seq, dataset=row.dataset, run=row.run, kind=row.kind, body=body, created=row.created, mac=row.mac
    )


def _parsed(row: Row[Any]) -> Book:
    try:
        return Book.from_json(row.id, row.body)
    except (PrivacyError, ValueError, KeyError, TypeError):
        raise LedgerError("the ledger was written by another version of dpsynth; use that version") from None


def _columns(table: Table, *names: str) -> Any:
    from sqlalchemy import select

    return select(*(table.c[name] for name in names))


def _tampered(what: str) -> NoReturn:
    raise LedgerError(
        f"the ledger was changed by something other than dpsynth ({what}), so nothing is booked in it; see: "
        f"dpsynth budget verify, and restore it from a backup"
    )
