"""The journal of a training's steps: a step is booked before its gradient is used, and no step twice.

What the run reserved covers all steps of the plan. The journal sees to it that no more than these are ever taken, whatever crashes or
is started again: steps are booked in blocks, each once and in order, and a block that was booked counts as taken.
"""

from __future__ import annotations

from collections.abc import Sequence

from dpsynth.privacy.accounting import Cost, cost_of
from dpsynth.privacy.errors import LedgerError, PrivacyError
from dpsynth.privacy.events import Event, SubsampledGaussian, from_json, to_json
from dpsynth.privacy.ledger.journal import Journal
from dpsynth.privacy.ledger.ledger import Ledger, covers
from dpsynth.privacy.ledger.values import Entry


class LedgerSteps:
    """The journal of one training of a run, by the training's label.

    Guarantee: what `book` returned from is on disk; each step is booked at most once, and none beyond the event's.
    """

    def __init__(self, ledger: Ledger, run: str, label: str) -> None:
        self._ledger, self.run, self._label = ledger, run, label

    def __repr__(self) -> str:
        return f"LedgerSteps(run {self.run}, {self._label})"

    def begin(self, event: SubsampledGaussian, before: Sequence[Event]) -> int:
        """Book that the training begins; returns how many steps are booked already: 0, or more where it began earlier.

        before: the run's events so far, so that a run that is taken up again can be charged with them. Raises PrivacyError where
        another plan was begun under this label, or the run had not reserved as much.
        """
        with self._ledger._writing() as journal:
            entries = self._entries(journal)
            begun = self._begun(entries)
            if begun is not None:
                if from_json(begun.body["event"]) != event:
                    raise PrivacyError(f"run {self.run} began another training as {self._label!r}; take up that plan")
                return self._booked(entries)
            if not covers(_reserved(entries), cost_of([*before, event])):
                raise PrivacyError("the training and what was asked before cost more than the run had reserved")
            body = {"label": self._label, "event": to_json(event), "before": [to_json(e) for e in before]}
            journal.append(entries[0].dataset, self.run, "training", body)
        return 0

    def book(self, first: int, last: int) -> None:
        """Book steps first to last, counted from 1. Raises PrivacyError unless they are the next ones of the plan."""
        with self._ledger._writing() as journal:
            entries = self._entries(journal)
            begun = self._begun(entries)
            if begun is None or first != self._booked(entries) + 1 or not first <= last <= begun.body["event"]["steps"]:
                raise PrivacyError(
                    f"steps {first} to {last} of run {self.run} are not the next of its plan; is another process training it?"
                )
            body = {"label": self._label, "first": first, "last": last}
            journal.append(entries[0].dataset, self.run, "steps", body)

    def sign(self, digest: str) -> str:
        """MAC of the digest of this training's checkpoint."""
        return self._ledger._keys.sign("checkpoint", self.run, self._label, digest)

    def fits(self, mac: str, digest: str) -> bool:
        """Whether `mac` is that of the checkpoint with this digest."""
        return self._ledger._keys.fits(mac, "checkpoint", self.run, self._label, digest)

    def events_before(self) -> tuple[Event, ...]:
        """The run's events before its training began, to charge them to the account of a run that is taken up again."""
        with self._ledger._reading() as journal:
            begun = self._begun(self._entries(journal))
        if begun is None:
            raise LedgerError(f"run {self.run} has not begun a training {self._label!r}")
        return tuple(from_json(e) for e in begun.body["before"])

    def _entries(self, journal: Journal) -> list[Entry]:
        entries = self._ledger._of_run(journal, self.run)
        if not entries:
            raise LedgerError("this ledger has no such run; open the ledger that the fit used")
        if any(e.kind == "commit" for e in entries):
            raise LedgerError(f"run {self.run} is committed; a new training needs a new run")
        return entries

    def _begun(self, entries: list[Entry]) -> Entry | None:
        return next((e for e in entries if e.kind == "training" and e.body["label"] == self._label), None)

    def _booked(self, entries: list[Entry]) -> int:
        return max(
            (int(e.body["last"]) for e in entries if e.kind == "steps" and e.body["label"] == self._label), default=0
        )


def _reserved(entries: list[Entry]) -> Cost:
    return next(Cost.from_json(e.body["cost"]) for e in entries if e.kind == "reserve")
