"""The ledger's API."""

from __future__ import annotations

import re
import secrets
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from dpsynth.privacy.accounting import Cost, Filter, Rule, cost_of, planned_epsilon, require_budget
from dpsynth.privacy.errors import LedgerError, PrivacyError
from dpsynth.privacy.events import Event, from_json, to_json
from dpsynth.privacy.ledger.book import WHOLE, Book
from dpsynth.privacy.ledger.database import Database
from dpsynth.privacy.ledger.fingerprint import Contents
from dpsynth.privacy.ledger.journal import Journal, entry_fits, entry_of, is_used, key_fits
from dpsynth.privacy.ledger.key import Keys, load_key
from dpsynth.privacy.ledger.values import DatasetRecord, Entry, Reservation, Run, Spent, SubBudget
from dpsynth.privacy.ledger.verify import problems_in

# Two tables are taken for one data set that grew where they share this part of their column names.
ALIKE = 0.8
_ROUNDING = 1e-9
_NAME = re.compile(r"[^/\x00-\x1f]{1,200}")


class Ledger:
    """A ledger in a SQLite file (default) or in PostgreSQL.

    url: "sqlite:///path", a bare path, "postgresql+psycopg://user@host/database", or None for $DPSYNTH_LEDGER, else the user's
    own. The key that protects it: see `key`.
    Guarantee: what `reserve` returned is on disk, and the sum of all that was reserved is never above a cap, whatever
    processes crash or race. Without the key nothing can be changed unnoticed by `verify`; a whole ledger put back as it once was
    is noticed by whoever has a later certificate (`contains`).
    Raises LedgerError, here and in every method, where the database or its key cannot be used, or something in it was changed.
    """

    def __init__(self, url: str | Path | None = None) -> None:
        self._database = Database(url)
        with self._database.read() as connection:
            in_use = is_used(connection, self._database.tables)
        self._keys = Keys(load_key(self._database.key_path, in_use=in_use))
        with self._database.read() as connection:
            if not key_fits(connection, self._database.tables, self._keys):
                raise LedgerError(
                    f"the key does not fit the ledger {self._database.place}; use the key it was made with "
                    f"({self._database.key_path} or $DPSYNTH_LEDGER_KEY)"
                )

    def __repr__(self) -> str:
        return f"Ledger({self._database.place})"

    # -- data sets -----------------------------------------------------------------------------------------------------

    def fingerprint(self, contents: Contents) -> str:
        """Keyed fingerprint of a table, the same for every order of rows."""
        return self._keys.fingerprint(contents.to_bytes())

    def dataset(self, *, name: str | None, fingerprint: str, unit: str, columns: Iterable[str] = ()) -> DatasetRecord:
        """The data set of this name or, failing that, of this fingerprint; registered when new.

        name: may end in "/" and the label of a sub-budget; a data set's id serves as its name.  columns: names of its columns.
        A known fingerprint under another name stays the data set it is: renaming resets nothing. Warns (UserWarning) where rows
        without a name are new, but look by their columns like a data set that grew or shrank.
        """
        name, label = _split(name)
        with self._reading() as journal:
            found = self._located(journal, name, fingerprint)
            book = journal.book(found) if found is not None else None
            complete = (
                book is not None and (name is None or _called(book, name)) and journal.find("fingerprint", fingerprint)
            )
        if book is None or not complete:
            self._require_sub_budget(book, name, label)
            book = self._register(name, fingerprint, self._keys.columns(columns))
        book.require_sub_budget(label)
        return _record(book, unit=unit, sub_budget=label)

    def set_cap(
        self, name: str, *, epsilon: float, delta: float, rule: Rule = "gdp", unit: str | None = None
    ) -> DatasetRecord:
        """Cap what may ever be spent on a data set; registers the name when new.

        rule: of the filter (see `accounting.cost`); it stays once runs are booked under the cap.  unit: the privacy unit that the
        cap counts in; default: that of the runs so far, or of the first to come.
        """
        return self._limit(name, WHOLE, Filter(epsilon=epsilon, delta=delta, rule=rule), unit)

    def set_sub_budget(
        self, dataset: str, label: str, *, epsilon: float, delta: float, rule: Rule = "gdp", unit: str | None = None
    ) -> DatasetRecord:
        """Cap what may be spent for one purpose or team, as a part of the data set's budget.

        Runs under the name "dataset/label" use it; they are refused where it, or the data set's cap, would be passed.
        """
        if not _NAME.fullmatch(label):
            raise LedgerError("a sub-budget's label is a text of 1 to 200 characters without '/'")
        return self._limit(dataset, label, Filter(epsilon=epsilon, delta=delta, rule=rule), unit)

    def datasets(self) -> list[DatasetRecord]:
        """All data sets, in order of registration; one that was used under several units stands once for each."""
        with self._reading() as journal:
            books = journal.books()
        return [_record(book, unit=unit) for book in books for unit in book.units or (book.unit,)]

    # -- spending ------------------------------------------------------------------------------------------------------

    def reserve(
        self, *, dataset: DatasetRecord, cost: Cost, delta: float, label: str, plan: Sequence[Event] = ()
    ) -> Reservation:
        """Book a run's cost, at once and for good.

        dataset: from `dataset`; its unit and sub-budget are the run's.  delta: at which the run's epsilon is given.
        plan: events that bound the run as a whole but for a chance of cost.delta (`budget.Reserve.as_events`), where they were all
        fixed beforehand and cost less together than one by one; empty where the cost says all.
        Raises BudgetExceeded where a cap would be passed, LedgerError where the cap counts in another unit.
        """
        require_budget(1.0, delta)
        if not covers(cost, cost_of(plan)):
            raise PrivacyError("a run's plan costs more than it reserves")
        unit, sub_budget = dataset.unit or "row", dataset.sub_budget
        run = f"run_{secrets.token_hex(8)}"
        with self._writing() as journal:
            book = journal.book(dataset.id)
            refused = book.refusal(unit, sub_budget, cost, plan)
            if refused is None:
                body = {"label": label, "unit": unit, "sub_budget": sub_budget, "cost": cost.to_json(), "delta": delta}
                planned = {"plan": [to_json(event) for event in plan]} if plan else {}
                total = book.account(unit).plus(cost, delta)
                journal.append(dataset.id, run, "reserve", body | planned | {"total": total.to_json()}, book)
        if refused is not None:  # what is left is worked out after the lock is given back
            raise refused.error(cost, delta, plan)
        return Reservation(id=run, dataset=dataset.id, cost=cost, delta=delta)

    def require_room(self, name: str | None, unit: str, cost: Cost, delta: float, plan: Sequence[Event] = ()) -> None:
        """Raise as `reserve` would for a run of this cost on the data set of this name; books nothing.

        For what is spent in several runs and is of no use before the last. What has no name yet has no cap.
        """
        name, sub_budget = _split(name)
        with self._reading() as journal:
            found = self._named(journal, name) if name is not None else None
            refused = journal.book(found).refusal(unit, sub_budget, cost, plan) if found is not None else None
        if refused is not None:
            raise refused.error(cost, delta, plan)

    def commit(self, reservation: Reservation, events: Sequence[Event]) -> str:
        """Book what a run did with its reservation; returns the chain's head. What was reserved stays charged."""
        did = cost_of(events)
        with self._writing() as journal:
            entries = self._of_run(journal, reservation.id)
            if any(e.kind == "commit" for e in entries):
                raise LedgerError(f"run {reservation.id} is committed already")
            reserved = next((Cost.from_json(e.body["cost"]) for e in entries if e.kind == "reserve"), None)
            if reserved is None:
                raise LedgerError("this ledger has no such run; open the ledger that the fit used")
            if not covers(reserved, did):
                raise PrivacyError("a run's events cost more than it had reserved")
            return journal.append(
                entries[0].dataset, reservation.id, "commit", {"events": [to_json(e) for e in events]}
            )

    def note(self, run: str, kind: Literal["release", "gate"], body: dict[str, Any]) -> str:
        """Book something that costs nothing: a release, its recipient, a verdict. Returns the chain's head."""
        with self._writing() as journal:
            entries = self._of_run(journal, run)
            if not entries:
                raise LedgerError("this ledger has no such run; open the ledger that the fit used")
            return journal.append(entries[0].dataset, run, kind, body)

    def released(self, fingerprint: str) -> str | None:
        """The run of which a release booked rows of this fingerprint; None where none did. Such rows are synthetic."""
        with self._reading() as journal:
            notes = (entry_of(row) for row in journal.entries("kind", "release"))
            return next((note.run for note in notes if note.body.get("rows") == fingerprint), None)

    def spent(self, dataset: str, unit: str | None = None) -> Spent:
        """What all runs on a data set (by id) under one unit cost together. unit: default: the cap's, or the first run's."""
        with self._reading() as journal:
            book = journal.book(dataset)
            entries = [entry_of(row) for row in journal.entries("dataset", dataset)]
        unit = unit or book.unit or next(iter(book.units), None)
        account, cap = book.account(unit), book.caps.get(WHOLE) if book.unit in (None, unit) else None
        delta = cap.delta if cap is not None else account.delta
        committed = {e.run for e in entries if e.kind == "commit"}
        reserved = [e for e in entries if e.kind == "reserve" and e.body["unit"] == unit]
        epsilon = cap.spent(account.cost) if cap is not None else account.cost.epsilon(delta)
        if len(reserved) == 1:
            epsilon = min(epsilon, planned_epsilon(account.cost, reserved[0].plan, delta))
        return Spent(
            cost=account.cost,
            epsilon=epsilon,
            delta=delta,
            unit=unit,
            cap=cap,
            runs=tuple(_run(e, committed) for e in reserved),
            sub_budgets=_sub_budgets(book, unit, first=len(reserved) == 1),
        )

    def entries(self, dataset: str | None = None) -> list[Entry]:
        """The chain's entries, in order; of one data set (by id), or all."""
        with self._reading() as journal:
            return [entry_of(row) for row in journal.entries("dataset", dataset)]

    def events(self, run: str) -> tuple[Event, ...]:
        """The events of a committed run. Raises LedgerError where there is none."""
        with self._reading() as journal:
            entries = self._of_run(journal, run)
        for entry in entries:
            if entry.kind == "commit":
                return tuple(from_json(e) for e in entry.body["events"])
        raise LedgerError("this ledger has no committed run of that id")

    # -- the chain -----------------------------------------------------------------------------------------------------

    def head(self) -> str:
        """MAC of the last entry; certificates carry it."""
        with self._reading() as journal:
            return journal.head

    def contains(self, head: str) -> bool:
        """Whether the head that a certificate carries is an entry of this chain. If not, the ledger was replaced by an older copy."""
        with self._reading() as journal:
            return any(entry_fits(self._keys, row) for row in journal.entries("mac", head))

    def verify(self, head: str | None = None) -> list[str]:
        """What is wrong with the ledger, by place; empty when all is as it was written.

        Reads every entry, and compares the sums, caps, names and fingerprints beside them. head: from a certificate; that it is in
        the chain shows that the ledger was not replaced by a copy from before.
        """
        with self._database.read() as connection:
            return problems_in(connection, self._database.tables, self._keys, head)

    # -- inside --------------------------------------------------------------------------------------------------------

    @contextmanager
    def _reading(self) -> Iterator[Journal]:
        with self._database.read() as connection:
            yield Journal(connection, self._database.tables, self._keys)

    @contextmanager
    def _writing(self) -> Iterator[Journal]:
        with self._database.write() as connection:
            yield Journal(connection, self._database.tables, self._keys)

    def _of_run(self, journal: Journal, run: str) -> list[Entry]:
        """A run's entries, in order. Their MACs are checked: what a run had reserved is read from here."""
        rows = journal.entries("run", run)
        if not all(entry_fits(self._keys, row) for row in rows):
            raise LedgerError(f"entries of run {run} were changed; see: dpsynth budget verify")
        return [entry_of(row) for row in rows]

    def _located(self, journal: Journal, name: str | None, fingerprint: str) -> str | None:
        """The data set of a name or a fingerprint. Raises LedgerError where the two are of different ones."""
        by_name = self._named(journal, name) if name is not None else None
        by_print = journal.find("fingerprint", fingerprint)
        if by_name is not None and by_print is not None and by_name != by_print:
            booked = journal.book(by_print)
            raise LedgerError(
                f"these rows are booked as another data set than {name!r}: pass dataset={booked.name or booked.id!r}, or none"
            )
        return by_name or by_print

    def _named(self, journal: Journal, name: str) -> str | None:
        found = journal.find("name", name)
        if found is None and any(book.id == name for book in journal.books()):
            return name
        return found

    def _require_sub_budget(self, book: Book | None, name: str | None, label: str | None) -> None:
        """Before anything is registered."""
        if label is not None and book is None:
            raise LedgerError(f"there is no data set {name!r}, so no sub-budget {label!r} of it; set its cap first")
        if book is not None:
            book.require_sub_budget(label)

    def _register(self, name: str | None, fingerprint: str | None, columns: frozenset[str]) -> Book:
        """The data set with this name and fingerprint among its own, made where there is none."""
        alike: Book | None = None
        with self._writing() as journal:
            found = self._located(journal, name, fingerprint) if fingerprint is not None else None
            found = found or (self._named(journal, name) if name is not None else None)
            new = Book(id=f"ds_{secrets.token_hex(8)}", opened=0)
            book = journal.book(found) if found is not None else new
            named = name if name is not None and not _called(book, name) else None
            seen = fingerprint is None or journal.find("fingerprint", fingerprint) is not None
            if found is None and name is None:
                alike = _most_alike(journal, columns)
            if found is None or named is not None or not seen:
                body = {"name": named, "fingerprint": None if seen else fingerprint, "columns": sorted(columns)}
                journal.append(book.id, "", "register", body, book)
                book = journal.book(book.id)
        if alike is not None:
            warnings.warn(
                f"these rows are new to the ledger, but their columns are those of {alike.title}: if it is the same data, with rows "
                f"or columns added or dropped, pass dataset={alike.name or alike.id!r} so that the runs add up; if not, pass a new name",
                UserWarning,
                stacklevel=5,
            )
        return book

    def _limit(self, name: str, label: str, cap: Filter, unit: str | None) -> DatasetRecord:
        if _split(name)[1] is not None:
            raise LedgerError("a cap is a data set's; set a part of it with set_sub_budget")
        book = self._register(name, None, frozenset())
        with self._writing() as journal:
            book = journal.book(book.id)
            body = {"label": label, "epsilon": cap.epsilon, "delta": cap.delta, "rule": cap.rule}
            counts_in = _cap_unit(book, unit)
            _require_rule(book, label, cap, counts_in)
            journal.append(book.id, "", "cap", body | {"unit": counts_in}, book)
            book = journal.book(book.id)
        return _record(book, unit=book.unit, sub_budget=label or None)


def _split(name: str | None) -> tuple[str | None, str | None]:
    """(name, label of the sub-budget) of "name" or "name/label"."""
    if name is None:
        return None, None
    parts = name.split("/")
    if len(parts) > 2 or not all(_NAME.fullmatch(part) for part in parts):
        raise LedgerError(
            "a data set's name is a text of 1 to 200 characters; one '/' sets off the label of a sub-budget"
        )
    return parts[0], parts[1] if len(parts) == 2 else None


def _called(book: Book, name: str) -> bool:
    return name in (book.id, *book.names)


def _record(book: Book, *, unit: str | None, sub_budget: str | None = None) -> DatasetRecord:
    return DatasetRecord(
        id=book.id, name=book.name, unit=unit, cap=book.caps.get(sub_budget or WHOLE), sub_budget=sub_budget
    )


def _run(entry: Entry, committed: set[str]) -> Run:
    cost = Cost.from_json(entry.body["cost"])
    return Run(
        id=entry.run,
        label=entry.body["label"],
        cost=cost,
        state="committed" if entry.run in committed else "reserved",
        epsilon=entry.epsilon,
        delta=entry.body["delta"],
        created=entry.created,
        sub_budget=entry.body["sub_budget"],
    )


def _sub_budgets(book: Book, unit: str | None, *, first: bool) -> tuple[SubBudget, ...]:
    """first: whether one run is all there was, which is not added to others."""
    costs = {label: book.account(unit, label).cost for label in book.caps if label != WHOLE}
    caps = book.caps
    return tuple(
        SubBudget(
            label=label,
            cap=caps[label],
            cost=cost,
            epsilon=cost.epsilon(caps[label].delta) if first else caps[label].spent(cost),
        )
        for label, cost in costs.items()
    )


def covers(reserved: Cost, did: Cost) -> bool:
    """Whether what was reserved bounds what was done, by each of the bounds that a filter may use."""
    pairs = [(reserved.mu_squared, did.mu_squared), (reserved.delta, did.delta)]
    return all(b <= a * (1 + _ROUNDING) for a, b in [*pairs, *zip(reserved.renyi, did.renyi, strict=True)])


def _cap_unit(book: Book, unit: str | None) -> str | None:
    """The unit that a data set's caps will count in."""
    if unit is None and book.unit is None and len(book.units) > 1:
        raise LedgerError(
            f"{book.title} has runs under units {', '.join(book.units)}; pass unit=, the one the cap counts in"
        )
    return unit or book.unit or next(iter(book.units), None)


def _require_rule(book: Book, label: str, cap: Filter, unit: str | None) -> None:
    """A filter's guarantee needs a rule that was fixed before the runs it grants."""
    old = book.caps.get(label)
    if old is not None and old.rule != cap.rule and book.account(unit, label).runs:
        raise LedgerError(
            f"{book.title}: its cap's rule is {old.rule!r}, and stays so because runs were booked under it"
        )


def _most_alike(journal: Journal, columns: frozenset[str]) -> Book | None:
    """The known data set whose columns are most like these, if they are alike at all."""
    scores = {
        dataset: len(columns & known) / len(columns | known) for dataset, known in journal.known() if columns | known
    }
    best = max(scores, key=lambda d: scores[d], default=None)
    return journal.book(best) if best is not None and scores[best] >= ALIKE else None
