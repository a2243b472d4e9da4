"""A run's folder: what a fit has bought so far, so that one that was killed goes on under the same reservation.

answers.jsonl        what the run is of, then one line for each call to `PrivateTable`: its events and their noisy answers
LABEL.safetensors    the checkpoint of a training (see `dpsgd.checkpoint`)

Whatever the process and the folder go through, no question is answered twice. A call goes

    charge - count and draw, in memory - book "answers k", with the line's MAC, in the ledger - write the line - return

and each arrow is on disk before the next. Where the run is taken up, the ledger has booked m calls, and of three cases

    the folder holds just these m    they are given again, in order, for the same events and no others, and m + 1 is the next to be drawn
    it holds fewer                   lines were cut off, an older copy was put back, or the process ended while line m was written. Parts
                                     of the answer may have been seen, so it is not drawn again: the run is refused, and stays charged
    it holds more, or others         the folder or the ledger was changed: refused

Proof. Let an answer to call k be drawn twice. The second draw found fewer than k calls booked, so the first was not booked, so nothing of
it was written or returned: it existed in the memory of a process that ended, and is independent of all that anyone can see. Of each
call at most one draw leaves memory, then, and the account charged for it: the run costs what it costs without a crash. Its training
books steps the same way (`training`). A last line without an end is taken as not written; as it is booked before it is written, that is
the second case.

What one sees who has the folder: noisy answers that were paid for, the noisy state of a training, table and settings by name, a keyed
fingerprint of the rows, and which cells the detector looks at. All of it but the last two follows from DP answers or is public; no row is
in it and no noise can be computed from it. Still it is for its owner alone (0700, files 0600): as long as the run goes on, less has been
released than bought. Who can write to it but has no key of the ledger can spoil the run and no more: each line's MAC covers the line
before it and the run. Nothing is pickled.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from dpsynth.privacy.accounting import Cost
from dpsynth.privacy.durable import to_disk
from dpsynth.privacy.errors import LedgerError, PrivacyError
from dpsynth.privacy.events import Event, to_json
from dpsynth.privacy.ledger.journal import Journal
from dpsynth.privacy.ledger.ledger import Ledger
from dpsynth.privacy.ledger.training import LedgerSteps
from dpsynth.privacy.ledger.values import Entry, Reservation

if TYPE_CHECKING:
    from dpsynth.privacy.dpsgd.trainer import StepJournal

FORMAT = "dpsynth-fit/1"
ANSWERS = "answers.jsonl"
_ANEW = "start a new run in a new folder, which is charged anew"


class RunFolder:
    """What one run has bought, in a folder.

    path: of a folder; made where there is none.  ledger: the one that the run is booked in.
    Guarantee: see the module. Raises LedgerError where the folder cannot be used, or is not as it was written.
    """

    def __init__(self, path: str | Path, ledger: Ledger) -> None:
        self._folder, self._ledger = Path(path), ledger
        self._path = self._folder / ANSWERS
        self._head: dict[str, Any] = {}
        self._calls: list[dict[str, Any]] = []
        self._macs: list[str] = []
        self._given = 0
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            data = self._path.read_bytes() if self._path.exists() else b""
            if not self._path.exists() and any(self._folder.iterdir()):
                raise LedgerError(f"{self._folder} holds other files; a checkpoint needs a folder of its own")
        except OSError as error:
            self._unusable(error)
        whole, _, _ = data.rpartition(b"\n")
        for line in whole.split(b"\n") if whole else ():
            self._read(line)
        self._length = len(whole) + 1 if whole else 0

    def __repr__(self) -> str:
        return f"RunFolder({self._folder}, {len(self._calls)} calls)"

    @property
    def run(self) -> str | None:
        """The run that the folder holds; None where none has begun."""
        return self._head.get("run")

    @property
    def own(self) -> dict[str, Any]:
        """What the run drew for itself, as `begin` got it."""
        return dict(self._head["own"])

    def begin(self, reservation: Reservation, about: Mapping[str, Any], own: Mapping[str, Any]) -> None:
        """Keep a run that was just reserved. about: what must be the same to go on.  own: what it drew; both JSON objects."""
        self._head = {"format": FORMAT, "run": reservation.id, "about": _plain(about), "own": _plain(own)}
        self._append(self._head)

    def taken_up(self, about: Mapping[str, Any], cost: Cost) -> Reservation:
        """The run's reservation. Raises LedgerError where the run is finished, is about something else, or lacks answers, and where the
        ledger is not whole: an answer that was taken out of it would be drawn again."""
        if self._ledger.verify():
            raise LedgerError("the ledger is not as it was written; see: dpsynth budget verify")
        now = _plain(about)
        for name in about:
            if self._head["about"].get(name) != now[name]:
                raise LedgerError(
                    f"the fit in {self._folder} is of other {name}; give it what it began with, or {_ANEW}"
                )
        with self._ledger._reading() as journal:
            entries = self._entries(journal)
            booked = _booked(entries)
        reserve = entries[0]
        if Cost.from_json(reserve.body["cost"]) != cost:
            raise LedgerError(f"the fit in {self._folder} reserved another cost; {_ANEW}")
        if booked[: len(self._calls)] != self._macs[1:]:
            raise LedgerError(f"the answers in {self._folder} are not those that run {self.run} booked; {_ANEW}")
        if len(booked) > len(self._calls):
            raise LedgerError(
                f"answers of run {self.run} were booked that {self._folder} does not hold whole: they may have been seen, and are not "
                f"drawn again; {_ANEW}"
            )
        return Reservation(id=entries[0].run, dataset=reserve.dataset, cost=cost, delta=reserve.body["delta"])

    def once(self, events: Sequence[Event], draw: Callable[[], list[list[Any]]]) -> list[list[Any]]:
        """The answers to a call's events: those that are stored, or those that are drawn now, once they are stored."""
        asked, number = _plain([to_json(event) for event in events]), self._given + 1
        if number <= len(self._calls):
            stored = self._calls[number - 1]
            if stored["events"] != asked:
                raise LedgerError(
                    f"call {number} of run {self.run} asks something else than when it was first made; {_ANEW}"
                )
            self._given = number
            return list(stored["answers"])
        answers = draw()
        call = {"number": number, "events": asked, "answers": _plain(answers)}
        self._append(call, book=number)
        self._calls.append(call)
        self._given = number
        return answers

    def training(self, label: str) -> tuple[StepJournal, Path]:
        """(journal of a training's steps, path of its checkpoint)."""
        assert self.run is not None
        return LedgerSteps(self._ledger, self.run, label), self._folder / f"{label}.safetensors"

    # -- inside --------------------------------------------------------------------------------------------------------

    def _read(self, line: bytes) -> None:
        """Check a line and keep what it says."""
        try:
            body, mac = json.loads(line)
            fits = self._ledger._keys.fits(mac, *self._signed(body))
        except (ValueError, TypeError, AttributeError):
            fits = False
        if not fits:
            raise LedgerError(
                f"{self._path} was changed (line {len(self._macs) + 1}), or is of another ledger; put it back, or {_ANEW}"
            )
        if not self._macs and body.get("format") != FORMAT:
            raise LedgerError(f"{self._path} is of another version of dpsynth; {_ANEW}")
        if self._macs:
            self._calls.append(body)
        else:
            self._head = body
        self._macs.append(mac)

    def _signed(self, body: Any) -> tuple[Any, ...]:
        run = self._head["run"] if self._head else body["run"]
        return "answers", run, len(self._macs), _text(body), self._macs[-1] if self._macs else ""

    def _append(self, body: dict[str, Any], book: int | None = None) -> None:
        """Write a line, on disk; a call is booked before."""
        mac = self._ledger._keys.sign(*self._signed(body))
        line = f"[{_text(body)}, {json.dumps(mac)}]\n".encode()
        if book is not None:
            self._book(book, mac)
        try:
            handle = os.open(self._path, os.O_WRONLY | os.O_CREAT, 0o600)
            with os.fdopen(handle, "wb") as file:
                file.truncate(self._length)  # a line without an end
                file.seek(self._length)
                file.write(line)
                file.flush()
                os.fsync(file.fileno())
            to_disk(self._folder)
        except OSError as error:
            self._unusable(error)
        self._length += len(line)
        self._macs.append(mac)

    def _book(self, number: int, mac: str) -> None:
        with self._ledger._writing() as journal:
            entries = self._entries(journal)
            if _booked(entries) != self._macs[1:]:
                raise PrivacyError(f"call {number} of run {self.run} is not the next; is another process taking it up?")
            journal.append(entries[0].dataset, entries[0].run, "answers", {"number": number, "mac": mac})

    def _entries(self, journal: Journal) -> list[Entry]:
        entries = self._ledger._of_run(journal, str(self.run))
        if not any(e.kind == "reserve" for e in entries):
            raise LedgerError("this ledger has no such run; open the ledger that the fit used")
        if any(e.kind == "commit" for e in entries):
            raise LedgerError(f"the fit in {self._folder} is finished (run {self.run}); {_ANEW}")
        return entries

    def _unusable(self, error: OSError) -> NoReturn:
        raise LedgerError(f"the checkpoint's folder {self._folder} cannot be used: {error.strerror}") from None


def _booked(entries: Sequence[Entry]) -> list[str]:
    """MACs of the calls that are booked, in order."""
    return [str(e.body["mac"]) for e in entries if e.kind == "answers"]


def _text(body: Any) -> str:
    return json.dumps(body, sort_keys=True, allow_nan=False)


def _plain(value: Any) -> Any:
    """As it reads once it was written."""
    return json.loads(_text(value))
