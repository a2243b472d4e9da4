"""Databases that are unreachable, locked, full, read-only, damaged or of another version: one plain line, and nothing lost."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import sqlalchemy
from sqlalchemy import event

from dpsynth.privacy.accounting import Cost
from dpsynth.privacy.errors import LedgerError
from dpsynth.privacy.ledger import DatasetRecord, Ledger, database
from tests import postgres

CENT = Cost(mu_squared=1e-6)


def opened(ledger: Ledger) -> DatasetRecord:
    return ledger.dataset(name="people", fingerprint="f" * 64, unit="row")


def reserve(ledger: Ledger, record: DatasetRecord) -> str:
    return ledger.reserve(dataset=record, cost=CENT, delta=1e-6, label="r").id


def told(error: pytest.ExceptionInfo[LedgerError], *words: str) -> None:
    text = str(error.value)
    assert all(word in text for word in words), text
    assert "\n" not in text and "SELECT" not in text and "sqlalche.me" not in text and len(text) < 300
    assert error.value.__cause__ is None and (error.value.__suppress_context__ or error.value.__context__ is None)


def holds(ledger: Ledger, runs: int) -> bool:
    spent = ledger.spent(ledger.datasets()[0].id)
    return len(spent.runs) == runs and spent.cost.mu_squared == pytest.approx(runs * 1e-6) and ledger.verify() == []


@pytest.mark.parametrize(
    "url, words",
    [
        ("/nowhere/at/all/budget.db", ["does the folder exist"]),
        ("sqlite:////proc/budget.db", ["cannot be"]),
        ("magic://x", ["SQLite file or a PostgreSQL"]),
        ("mysql+pymysql://host/x", ["SQLite file or a PostgreSQL"]),
        ("sqlite://", ["in memory"]),
        ("sqlite:///:memory:", ["in memory"]),
        ("://", ["URL"]),
        ("postgresql+psycopg://me:hidden@127.0.0.1:1/x?connect_timeout=2", ["127.0.0.1/x", "cannot be reached"]),
        (
            "postgresql://me:hidden@no-such-host.invalid/x?connect_timeout=2",
            ["no-such-host.invalid/x", "cannot be reached"],
        ),
    ],
)
def test_a_place_that_cannot_hold_a_ledger_is_told(url: str, words: list[str]) -> None:
    with pytest.raises(LedgerError) as error:
        Ledger(url)
    told(error, *words)
    assert "hidden" not in str(error.value)


def test_a_missing_driver_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(LedgerError, match=r"dpsynth\[postgres\]"):
        Ledger("postgresql://host/x")


def test_a_locked_file_is_waited_for_then_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "LOCK_TIMEOUT", 0.2)
    ledger = Ledger(tmp_path / "budget.db")
    record = opened(ledger)
    reserve(ledger, record)
    other = sqlite3.connect(tmp_path / "budget.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(LedgerError) as error:
        reserve(ledger, record)
    told(error, "locked", "try again")
    assert holds(ledger, 1)  # who only reads waits for nobody
    other.execute("ROLLBACK")
    other.close()
    reserve(ledger, record)
    assert holds(ledger, 2)


def test_a_locked_server_is_waited_for_then_told(
    postgres_server: postgres.Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import psycopg

    monkeypatch.setattr(database, "LOCK_TIMEOUT", 0.3)
    monkeypatch.setenv("DPSYNTH_LEDGER_KEY", "ab" * 32)
    postgres_server.run("CREATE DATABASE locked")
    ledger = Ledger(postgres_server.url("locked"))
    record = opened(ledger)
    with psycopg.connect(host=str(postgres_server.folder), user=postgres.USER, dbname="locked") as other:
        other.execute("SELECT pg_advisory_xact_lock(%s)", (database._ADVISORY_LOCK,))
        with pytest.raises(LedgerError) as error:
            reserve(ledger, record)
        told(error, "locked", "try again")
        assert holds(ledger, 0)
    reserve(ledger, record)
    assert holds(ledger, 1)


def test_other_faults_of_a_server_are_told(postgres_server: postgres.Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DPSYNTH_LEDGER_KEY", "ab" * 32)
    with pytest.raises(LedgerError) as error:
        Ledger(postgres_server.url("nobody_made_this"))
    told(error, "no such database")
    postgres_server.run("CREATE DATABASE faults")
    ledger = Ledger(postgres_server.url("faults"))
    record = opened(ledger)
    reserve(ledger, record)
    postgres_server.run("ALTER DATABASE faults SET default_transaction_read_only = on")
    fresh = Ledger(postgres_server.url("faults"))
    with pytest.raises(LedgerError) as error:
        reserve(fresh, record)
    told(error, "read-only")
    postgres_server.run("ALTER DATABASE faults SET default_transaction_read_only = off")
    end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'faults'"
    postgres_server.run(end)
    reserve(ledger, record)  # a connection that the server closed is opened anew
    assert holds(ledger, 2)
    postgres_server.run(f"REVOKE CONNECT ON DATABASE faults FROM PUBLIC; CREATE ROLE guest LOGIN; {end}")
    with pytest.raises(LedgerError):
        Ledger(postgres_server.url("faults").replace(f"//{postgres.USER}@", "//guest@"))


@contextmanager
def limited_to(pages: int) -> Iterator[None]:
    """SQLite files that may not grow, as on a full disk."""

    def limit(connection: sqlite3.Connection, _: object) -> None:
        connection.execute(f"PRAGMA max_page_count = {pages}")

    event.listen(sqlalchemy.Engine, "connect", limit)
    try:
        yield
    finally:
        event.remove(sqlalchemy.Engine, "connect", limit)


def test_a_full_disk_is_told_and_nothing_is_lost(tmp_path: Path) -> None:
    record = opened(Ledger(tmp_path / "budget.db"))
    told_of = 0
    with limited_to(40):
        ledger = Ledger(tmp_path / "budget.db")
        with pytest.raises(LedgerError) as error:
            for _ in range(1000):
                reserve(ledger, record)
                told_of += 1
        told(error, "disk is full", "nothing was booked")
        assert 0 < told_of < 1000 and holds(ledger, told_of)
    reserve(Ledger(tmp_path / "budget.db"), record)
    assert holds(Ledger(tmp_path / "budget.db"), told_of + 1)


FULL = """
import resource, signal, sys
from dpsynth.privacy.ledger import Ledger
from dpsynth.privacy.accounting import Cost
from dpsynth.privacy.errors import LedgerError
ledger = Ledger(sys.argv[1])
record = ledger.dataset(name="people", fingerprint="f" * 64, unit="row")
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
try:
    while True:
        print(ledger.reserve(dataset=record, cost=Cost(mu_squared=1e-6), delta=1e-6, label="r").id, flush=True)
except LedgerError as error:
    print(error, file=sys.stderr)
"""


def test_a_file_system_that_takes_no_more_is_told_and_nothing_is_lost(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", FULL, tmp_path / "budget.db"], capture_output=True, text=True)
    assert "disk" in done.stderr and done.stderr.count("\n") == 1
    assert len(done.stdout.split()) > 0 and holds(Ledger(tmp_path / "budget.db"), len(done.stdout.split()))


def test_a_read_only_file_can_be_read_and_is_told_when_written(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "budget.db")
    record = opened(ledger)
    reserve(ledger, record)
    read_only = Ledger(f"sqlite:///file:{tmp_path / 'budget.db'}?mode=ro&uri=true")
    with pytest.raises(LedgerError) as error:
        reserve(read_only, record)
    told(error, "read-only")
    assert holds(read_only, 1)


@pytest.mark.skipif(os.getuid() == 0, reason="root may write every file")
def test_a_file_without_write_permission_is_told(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "budget.db")
    record = opened(ledger)
    (tmp_path / "budget.db").chmod(0o400)
    with pytest.raises(LedgerError):
        reserve(Ledger(tmp_path / "budget.db"), record)


@pytest.mark.parametrize("what", ["text", "cut", "zeroed page"])
def test_a_damaged_file_is_told(tmp_path: Path, what: str) -> None:
    path = tmp_path / "budget.db"
    ledger = Ledger(path)
    record = opened(ledger)
    for _ in range(50):
        reserve(ledger, record)
    del ledger
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    whole = path.read_bytes()
    harmed = {
        "text": b"Dear diary " * 999,
        "cut": whole[:5000],
        "zeroed page": whole[:4096] + bytes(8192) + whole[12288:],
    }
    path.write_bytes(harmed[what])
    with pytest.raises(LedgerError) as error:
        reserve(Ledger(path), record)
    told(error, "damaged", "backup")


def test_a_ledger_of_another_version_is_told(tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / "budget.db")
    connection.execute("CREATE TABLE dpsynth_seal (id INTEGER PRIMARY KEY, mac TEXT)")
    connection.commit()
    connection.close()
    with pytest.raises(LedgerError) as error:
        Ledger(tmp_path / "budget.db")
    told(error, "another version")


def test_a_key_that_cannot_be_read_or_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "budget.db.key").mkdir()
    with pytest.raises(LedgerError) as error:
        Ledger(tmp_path / "budget.db")
    told(error, "key", "cannot be read")


def test_a_bare_path_and_its_url_are_one_ledger(tmp_path: Path) -> None:
    reserve(Ledger(tmp_path / "budget.db"), opened(Ledger(tmp_path / "budget.db")))
    assert holds(Ledger(f"sqlite:///{tmp_path / 'budget.db'}"), 1)
    assert repr(Ledger(tmp_path / "budget.db")) == f"Ledger({tmp_path / 'budget.db'})"
