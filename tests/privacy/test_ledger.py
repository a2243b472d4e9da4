"""The ledger: reserved before, spent for good, chained, and not to be fooled by another name or a second process."""

from __future__ import annotations

import os
import signal
import sqlite3
import stat
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from dpsynth.privacy.accounting import Cost
from dpsynth.privacy.budget import budget_of
from dpsynth.privacy.errors import BudgetExceeded, LedgerError, PrivacyError
from dpsynth.privacy.events import Gaussian
from dpsynth.privacy.ledger import Ledger


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path / "budget.db")


def hashes(n: int = 10) -> np.ndarray:
    return np.arange(n, dtype=np.uint64) * np.uint64(7919)


def spend(ledger: Ledger, name: str | None = "people", epsilon: float = 1.0, rows: int = 10) -> str:
    record = ledger.dataset(name=name, fingerprint=ledger.fingerprint(hashes(rows)), unit="row")
    return ledger.reserve(dataset=record, cost=budget_of(epsilon, 1e-6), delta=1e-6, label="fit").id


def test_runs_on_one_data_set_compose_exactly(ledger: Ledger) -> None:
    for _ in range(4):
        spend(ledger)
    (record,) = ledger.datasets()
    spent = ledger.spent(record.id)
    one = budget_of(1.0, 1e-6)
    assert spent.cost.mu_squared == pytest.approx(4 * one.mu_squared) and len(spent.runs) == 4
    assert 1.0 < spent.epsilon < 4.0  # less than the sum
    assert all(r.state == "reserved" and r.epsilon == pytest.approx(1.0) for r in spent.runs)


def test_a_name_or_its_lack_does_not_reset_a_data_set(ledger: Ledger) -> None:
    spend(ledger, "people")
    spend(ledger, None)
    spend(ledger, "people-copy")
    assert len(ledger.datasets()) == 1
    spend(ledger, "others", rows=20)
    with pytest.raises(LedgerError, match="another data set"):
        spend(ledger, "others", rows=10)


def test_the_order_of_rows_does_not_change_the_fingerprint_but_the_key_does(ledger: Ledger, tmp_path: Path) -> None:
    assert ledger.fingerprint(hashes()) == ledger.fingerprint(hashes()[::-1])
    assert ledger.fingerprint(hashes()) != ledger.fingerprint(hashes(11))
    assert ledger.fingerprint(hashes()) != Ledger(tmp_path / "other.db").fingerprint(hashes())


def test_a_cap_refuses_and_says_what_was_asked_spent_and_left(ledger: Ledger) -> None:
    ledger.set_cap("people", epsilon=1.5, delta=1e-6)
    spend(ledger)
    with pytest.raises(BudgetExceeded, match="people") as refused:
        spend(ledger, epsilon=1.4)
    error = refused.value
    assert error.asked > error.left > 0 and error.spent == pytest.approx(1.0, rel=0.05)
    spend(ledger, epsilon=0.1)
    with pytest.raises(PrivacyError):
        ledger.set_cap("people", epsilon=-1, delta=1e-6)


def test_events_must_fit_their_reservation(ledger: Ledger) -> None:
    record = ledger.dataset(name="p", fingerprint=ledger.fingerprint(hashes()), unit="row")
    reservation = ledger.reserve(dataset=record, cost=Cost(mu_squared=0.01), delta=1e-6, label="fit")
    event = Gaussian(stage="s", label="l", sensitivity=1.0, sigma=10.0)
    with pytest.raises(PrivacyError, match="more than it had reserved"):
        ledger.commit(reservation, [event, event])
    head = ledger.commit(reservation, [event])
    assert ledger.head() == head and ledger.events(reservation.id) == (event,)
    assert ledger.spent(record.id).runs[0].state == "committed"
    ledger.note(reservation.id, "release", {"recipient": "team"})
    with pytest.raises(LedgerError, match="no such run"):
        ledger.note("run_unknown", "release", {})
    assert ledger.verify() == []


def tamper(path: Path, *statements: str) -> None:
    connection = sqlite3.connect(path)
    for statement in statements:
        connection.execute(statement)
    connection.commit()
    connection.close()


@pytest.mark.parametrize(
    "statements, place",
    [
        (["UPDATE dpsynth_entries SET body = replace(body, '0.0', '0.1') WHERE seq = 2"], "entry 2: was changed"),
        (["DELETE FROM dpsynth_entries WHERE seq = 2"], "entry 2: missing"),
        (["DELETE FROM dpsynth_entries WHERE seq = 3"], "after entry 2"),
        (["DELETE FROM dpsynth_entries", "DELETE FROM dpsynth_seal"], None),
        (
            [
                "UPDATE dpsynth_entries SET seq = 9 WHERE seq = 1",
                "UPDATE dpsynth_entries SET seq = 1 WHERE seq = 2",
                "UPDATE dpsynth_entries SET seq = 2 WHERE seq = 9",
            ],
            "entry 1",
        ),
        (["UPDATE dpsynth_seal SET mac = 'x'"], "after entry 3"),
        (["DELETE FROM dpsynth_seal"], "after entry 3"),
    ],
)
def test_tampering_shows_and_names_its_place(tmp_path: Path, statements: list[str], place: str | None) -> None:
    path = tmp_path / "budget.db"
    ledger = Ledger(path)
    for _ in range(3):
        spend(ledger)
    assert ledger.verify() == []
    tamper(path, *statements)
    problems = Ledger(path).verify()
    if place is None:  # everything gone, seal and all: only an anchor outside (a certificate's head) can tell
        assert problems == []
    else:
        assert any(p.startswith(place) for p in problems), problems


def test_recomputed_plain_hashes_do_not_pass(tmp_path: Path) -> None:
    import hashlib

    path = tmp_path / "budget.db"
    spend(Ledger(path))
    digest = hashlib.sha256(b"anything").hexdigest()
    tamper(path, f"UPDATE dpsynth_entries SET body = '{{}}', mac = '{digest}'")
    assert any("entry 1: was changed" in p for p in Ledger(path).verify())


def test_the_key_lies_beside_readable_by_its_owner_and_its_loss_is_told(tmp_path: Path) -> None:
    path = tmp_path / "budget.db"
    spend(Ledger(path))
    key = Path(f"{path}.key")
    assert stat.S_IMODE(key.stat().st_mode) == 0o600 and key.read_bytes() not in path.read_bytes()
    key.unlink()
    with pytest.raises(LedgerError, match="key"):
        Ledger(path)


@pytest.mark.parametrize("url", ["/nowhere/at/all/budget.db", "magic://x", "sqlite:////proc/budget.db"])
def test_a_place_that_cannot_hold_a_ledger_is_told(url: str) -> None:
    with pytest.raises(LedgerError):
        Ledger(url)


RACE = """
import sys, numpy as np
from dpsynth.privacy.ledger import Ledger
from dpsynth.privacy.accounting import Cost
from dpsynth.privacy.errors import BudgetExceeded
ledger = Ledger(sys.argv[1]); granted = 0
record = ledger.dataset(name="race", fingerprint=ledger.fingerprint(np.zeros(1, np.uint64)), unit="row")
for _ in range(int(sys.argv[2])):
    try:
        ledger.reserve(dataset=record, cost=Cost(mu_squared=1e-3), delta=1e-6, label="r"); granted += 1
    except BudgetExceeded:
        pass
print(granted)
"""


def test_processes_racing_for_one_cap_never_pass_it(tmp_path: Path) -> None:
    path = str(tmp_path / "budget.db")
    ledger = Ledger(path)
    cap = Cost(mu_squared=0.0505).epsilon(1e-5)  # room for 50 requests of .001
    ledger.set_cap("race", epsilon=cap, delta=1e-5)
    racers = [subprocess.Popen([sys.executable, "-c", RACE, path, "20"], stdout=subprocess.PIPE) for _ in range(4)]
    granted = sum(int(r.communicate()[0]) for r in racers)
    assert granted == 50
    assert ledger.spent(ledger.datasets()[0].id).cost.mu_squared == pytest.approx(0.05)
    assert ledger.verify() == []


KILLED = """
import sys, time, numpy as np
from dpsynth.privacy.ledger import Ledger
from dpsynth.privacy.budget import budget_of
ledger = Ledger(sys.argv[1])
record = ledger.dataset(name="k", fingerprint=ledger.fingerprint(np.zeros(1, np.uint64)), unit="row")
while True:
    run = ledger.reserve(dataset=record, cost=budget_of(0.1, 1e-6), delta=1e-6, label="r")
    print(run.id, flush=True)
"""


def test_a_killed_process_loses_no_reservation_it_was_told_of(tmp_path: Path) -> None:
    path = str(tmp_path / "budget.db")
    ledger = Ledger(path)
    told: list[str] = []
    for pause in (0.0, 0.01, 0.05):
        process = subprocess.Popen([sys.executable, "-c", KILLED, path], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        told.append(process.stdout.readline().strip())
        time.sleep(pause)
        os.kill(process.pid, signal.SIGKILL)
        told += [line.strip() for line in process.stdout if line.endswith("\n")]
        process.wait()
        process.stdout.close()
    booked = {r.id for r in ledger.spent(ledger.datasets()[0].id).runs}
    assert set(told) <= booked and ledger.verify() == []
