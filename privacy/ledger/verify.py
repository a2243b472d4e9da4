"""Is the ledger as it was written? Everything is recomputed from the entries, and each place that differs is named."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from dpsynth.privacy.accounting import Cost
from dpsynth.privacy.errors import PrivacyError
from dpsynth.privacy.ledger.book import WHOLE, Book
from dpsynth.privacy.ledger.journal import GENESIS, digest, entry_fits, entry_of, known_digest, known_fits, seal_fits
from dpsynth.privacy.ledger.key import Keys
from dpsynth.privacy.ledger.values import Entry

if TYPE_CHECKING:
    from sqlalchemy import Connection, Row, Table


def problems_in(connection: Connection, tables: Mapping[str, Table], keys: Keys, head: str | None) -> list[str]:
    """What is wrong, by place: entries first, then the tables beside them. head: of a certificate, to be looked for."""
    replay = _Replay(keys)
    entries = tables["entries"]
    for row in connection.execute(entries.select().order_by(entries.c.seq).execution_options(yield_per=1000)):
        replay.read(row)
    books = connection.execute(tables["datasets"].select()).all()
    known = connection.execute(tables["known"].select()).all()
    seal = connection.execute(tables["seal"].select()).first()
    found = [*replay.problems, *replay.end(seal), *replay.compare_books(books), *replay.compare_known(known)]
    if seal is not None and seal_fits(keys, seal):
        if seal.datasets != digest((row.id, row.mac) for row in books):
            found.append("table dpsynth_datasets: a row was changed, removed or put back as it once was")
        if seal.known != known_digest(known):
            found.append("table dpsynth_known: a row was changed, removed or put back as it once was")
    if head is not None and head not in replay.heads:
        found.append(
            f"after entry {replay.count}: the certificate's entry {head[:12]}... is not in this chain; the ledger was replaced by an "
            f"older copy, or the certificate is of another ledger"
        )
    return found


@dataclass
class _Replay:
    """The books again, from the entries alone."""

    keys: Keys
    problems: list[str] = field(default_factory=list)
    books: dict[str, Book] = field(default_factory=dict)
    known: dict[tuple[str, str], tuple[str, str, int]] = field(default_factory=dict)
    heads: set[str] = field(default_factory=lambda: {GENESIS})
    last: str = GENESIS
    count: int = 0

    def read(self, row: Row[Any]) -> None:
        """Check one entry's place and MAC, and book it."""
        if row.seq != self.count + 1:
            self._say(self.count + 1, f"missing (the next found is {row.seq})")
        self.count = row.seq
        if row.prev != self.last:
            self._say(row.seq, "does not follow the entry before it")
        self.last = row.mac
        if not entry_fits(self.keys, row):
            self._say(row.seq, "was changed after it was written")
        else:
            self.heads.add(row.mac)
        try:
            self._book(entry_of(row))
        except (PrivacyError, KeyError, TypeError, ValueError, AttributeError):
            self._say(row.seq, "cannot be booked")

    def _book(self, entry: Entry) -> None:
        book = self.books.get(entry.dataset) or Book(id=entry.dataset, opened=entry.seq)
        body = entry.body
        if entry.kind == "reserve":
            if book.refusal(body["unit"], body["sub_budget"], Cost.from_json(body["cost"]), entry.plan) is not None:
                self._say(entry.seq, f"passes the cap of {book.title}")
            total = book.after(entry.kind, body).account(body["unit"]).to_json()
            if body["total"] != total:
                self._say(entry.seq, f"its running total is not the sum of the entries of {book.title}")
        self.books[entry.dataset] = book.after(entry.kind, body)
        if entry.kind == "register":
            for kind in ("name", "fingerprint"):
                if body[kind] is not None:
                    columns = json.dumps(body["columns"] if kind == "fingerprint" else [])
                    self.known[kind, body[kind]] = (entry.dataset, columns, entry.seq)

    def end(self, seal: Row[Any] | None) -> Iterable[str]:
        """Whether the chain ends where the seal says."""
        if seal is None:
            if self.count:
                yield f"after entry {self.count}: the seal is missing; entries may have been cut off"
        elif not seal_fits(self.keys, seal):
            yield f"after entry {self.count}: the seal was changed; entries may have been cut off or added without the key"
        elif seal.length > self.count:
            yield f"after entry {self.count}: {seal.length - self.count} entries were cut off"
        elif (seal.length, seal.head) != (self.count, self.last):
            yield f"after entry {min(seal.length, self.count)}: entries were added or changed without the key"

    def compare_books(self, rows: Iterable[Row[Any]]) -> Iterable[str]:
        there = {row.id: row for row in rows}
        for dataset, book in self.books.items():
            where = f"{book.title} (table dpsynth_datasets)"
            row = there.pop(dataset, None)
            if row is None:
                yield f"{where}: its row is missing"
                continue
            if not self.keys.fits(row.mac, "book", row.id, row.body):
                yield f"{where}: its row was changed without the key"
            if row.body != book.to_json():
                yield f"{where}: {_difference(row, book)} not what its entries say"
        for dataset in there:
            yield f"data set {dataset!r} (table dpsynth_datasets): no entry tells of it"

    def compare_known(self, rows: Iterable[Row[Any]]) -> Iterable[str]:
        there = {(row.kind, row.key): row for row in rows}
        for (kind, key), (dataset, columns, seq) in self.known.items():
            where = f"{self.books[dataset].title} (table dpsynth_known)"
            row = there.pop((kind, key), None)
            if row is None:
                yield f"{where}: its {kind} of entry {seq} is missing"
            elif (row.dataset, row.columns) != (dataset, columns) or not known_fits(self.keys, row):
                yield f"{where}: its {kind} of entry {seq} was changed"
        for kind, _ in there:
            yield f"table dpsynth_known: a {kind} of which no entry tells"

    def _say(self, seq: int, what: str) -> None:
        self.problems.append(f"entry {seq}: {what}")


def _difference(row: Row[Any], book: Book) -> str:
    """Which part of a stored book differs from the recomputed one."""
    try:
        stored = Book.from_json(row.id, row.body)
    except (PrivacyError, KeyError, TypeError, ValueError, AttributeError):
        return "the row cannot be read, so it is"
    parts = []
    if stored.accounts != book.accounts:
        parts.append("the running total is")
    if stored.caps.get(WHOLE) != book.caps.get(WHOLE) or stored.unit != book.unit:
        parts.append("the cap is")
    if stored.caps != book.caps and not parts:
        parts.append("a sub-budget is")
    if stored.names != book.names:
        parts.append("the name is")
    return ", ".join(parts) or "the row is"
