"""Who can write the database but has no key changes nothing unnoticed: by `verify`, and by the next request where it matters."""

from __future__ import annotations

import hashlib
import json
import shutil
import sqlite3
import stat
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from dpsynth.privacy.budget import budget_of
from dpsynth.privacy.errors import BudgetExceeded, LedgerError
from dpsynth.privacy.ledger import Ledger
from dpsynth.privacy.ledger.fingerprint import Contents

DELTA = 1e-6


def spend(ledger: Ledger, name: str | None = "people", epsilon: float = 1.0, rows: int = 10) -> str:
    record = ledger.dataset(
        name=name, fingerprint=ledger.fingerprint(Contents.of(np.arange(rows, dtype=np.uint64))), unit="row"
    )
    return ledger.reserve(dataset=record, cost=budget_of(epsilon, DELTA), delta=DELTA, label="fit").id


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A ledger of seven entries: people is registered (1), capped (2), gets a fingerprint (3) and two runs (4, 5); others is
    registered (6) and has a run (7)."""
    path = tmp_path / "budget.db"
    ledger = Ledger(path)
    ledger.set_cap("people", epsilon=2.0, delta=1e-5)
    spend(ledger)
    spend(ledger)
    spend(ledger, "others", rows=20)
    assert [e.kind for e in ledger.entries()] == [
        "register",
        "cap",
        "register",
        "reserve",
        "reserve",
        "register",
        "reserve",
    ]
    assert ledger.verify() == []
    return path


def tamper(path: Path, *statements: str) -> None:
    connection = sqlite3.connect(path)
    for statement in statements:
        connection.execute(statement)
    connection.commit()
    connection.close()


def rows(path: Path, query: str) -> list[tuple[str, ...]]:
    connection = sqlite3.connect(path)
    found = connection.execute(query).fetchall()
    connection.close()
    return found


SWAP = [
    "UPDATE dpsynth_entries SET seq = 99 WHERE seq = 4",
    "UPDATE dpsynth_entries SET seq = 4 WHERE seq = 5",
    "UPDATE dpsynth_entries SET seq = 5 WHERE seq = 99",
]


@pytest.mark.parametrize(
    "statements, place",
    [
        (["UPDATE dpsynth_entries SET body = replace(body, '0.', '0.0') WHERE seq = 4"], "entry 4: was changed"),
        (["UPDATE dpsynth_entries SET created = 'yesterday' WHERE seq = 4"], "entry 4: was changed"),
        (["UPDATE dpsynth_entries SET body = 'x' WHERE seq = 4"], "entry 4: was changed"),
        (["DELETE FROM dpsynth_entries WHERE seq = 4"], "entry 4: missing"),
        (["DELETE FROM dpsynth_entries WHERE seq = 7"], "after entry 6: 1 entries were cut off"),
        (["DELETE FROM dpsynth_entries WHERE seq > 4"], "after entry 4: 3 entries were cut off"),
        (["DELETE FROM dpsynth_entries"], "after entry 0: 7 entries were cut off"),
        (SWAP, "entry 4: does not follow"),
        (["INSERT INTO dpsynth_entries SELECT 8, dataset, run, kind, body, created, prev, mac FROM dpsynth_entries "
          "WHERE seq = 7"], "entry 8: was changed"),
        (["UPDATE dpsynth_seal SET mac = 'x'"], "after entry 7: the seal was changed"),
        (["UPDATE dpsynth_seal SET length = 6"], "after entry 7: the seal was changed"),
        (["DELETE FROM dpsynth_seal"], "after entry 7: the seal is missing"),
        (["UPDATE dpsynth_datasets SET body = replace(body, '\"epsilon\": 2.0', '\"epsilon\": 9.0')"],
         "data set 'people' (table dpsynth_datasets): the cap is not what its entries say"),
        (["UPDATE dpsynth_datasets SET body = replace(body, '\"runs\": 2', '\"runs\": 0')"],
         "data set 'people' (table dpsynth_datasets): the running total is not what its entries say"),
        (["UPDATE dpsynth_datasets SET mac = 'x'"], "data set 'others' (table dpsynth_datasets): its row was changed"),
        (["DELETE FROM dpsynth_datasets WHERE body LIKE '%people%'"],
         "data set 'people' (table dpsynth_datasets): its row is missing"),
        (["INSERT INTO dpsynth_datasets SELECT 'ds_new', body, mac FROM dpsynth_datasets LIMIT 1"],
         "data set 'ds_new' (table dpsynth_datasets): no entry"),
        (["DELETE FROM dpsynth_known WHERE kind = 'fingerprint'"],
         "data set 'people' (table dpsynth_known): its fingerprint of entry 3 is missing"),
        (["DELETE FROM dpsynth_known WHERE key = 'people'"],
         "data set 'people' (table dpsynth_known): its name of entry 1 is missing"),
        (["UPDATE dpsynth_known SET key = 'nobody' WHERE key = 'people'"], "table dpsynth_known: a name of which no entry"),
        (["UPDATE dpsynth_known SET dataset = (SELECT dataset FROM dpsynth_known WHERE key = 'others')"],
         "data set 'people' (table dpsynth_known): its fingerprint of entry 3 was changed"),
    ],
)  # fmt: skip
def test_verify_names_the_place(path: Path, statements: list[str], place: str) -> None:
    tamper(path, *statements)
    problems = Ledger(path).verify()
    assert any(p.startswith(place) for p in problems), problems


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE dpsynth_datasets SET body = replace(body, '\"epsilon\": 2.0', '\"epsilon\": 9.0')",
        "UPDATE dpsynth_datasets SET body = replace(body, '\"runs\": 2', '\"runs\": 0')",
        "DELETE FROM dpsynth_datasets WHERE body LIKE '%people%'",
        "DELETE FROM dpsynth_datasets",
        "DELETE FROM dpsynth_known WHERE kind = 'fingerprint'",
        "DELETE FROM dpsynth_known WHERE kind = 'name'",
        "DELETE FROM dpsynth_known",
        "UPDATE dpsynth_known SET dataset = (SELECT dataset FROM dpsynth_known WHERE key = 'others')",
        "UPDATE dpsynth_known SET key = 'x' || key",
        "DELETE FROM dpsynth_entries WHERE seq = 7",
        "DELETE FROM dpsynth_entries",
        "DELETE FROM dpsynth_seal",
        "UPDATE dpsynth_seal SET length = 5",
    ],
)
@pytest.mark.parametrize("name", ["people", None])
def test_the_next_run_on_that_data_set_is_refused(path: Path, statement: str, name: str | None) -> None:
    tamper(path, statement)
    # A name is looked for, or else the fingerprint: what was not asked for may be gone, as long as the run is booked rightly.
    harmless = name is None and "kind = 'name'" in statement
    if harmless:
        with pytest.raises(BudgetExceeded):
            spend(Ledger(path), name, epsilon=3.0)
    else:
        with pytest.raises(LedgerError, match="changed by something other than dpsynth"):
            spend(Ledger(path), name, epsilon=0.01)
    assert Ledger(path).verify() != []


@pytest.mark.parametrize("tables", [("dpsynth_datasets",), ("dpsynth_seal",), ("dpsynth_datasets", "dpsynth_seal")])
def test_a_row_that_is_put_back_as_it_once_was_is_noticed(path: Path, tables: tuple[str, ...]) -> None:
    kept = {table: rows(path, f"SELECT * FROM {table}") for table in tables}
    spend(Ledger(path), epsilon=0.2)
    connection = sqlite3.connect(path)
    for table, old in kept.items():
        connection.execute(f"DELETE FROM {table}")
        connection.executemany(f"INSERT INTO {table} VALUES ({', '.join('?' * len(old[0]))})", old)
    connection.commit()
    connection.close()
    with pytest.raises(LedgerError, match="changed by something other"):
        spend(Ledger(path), epsilon=0.01)
    assert Ledger(path).verify() != []


def test_recomputed_plain_hashes_do_not_pass(path: Path) -> None:
    """The chain written anew with half the cost, every MAC replaced by a hash without the key."""
    connection = sqlite3.connect(path)
    previous = "0" * 64
    for seq, body in connection.execute("SELECT seq, body FROM dpsynth_entries ORDER BY seq").fetchall():
        less = json.dumps(json.loads(body) | ({"cost": {"mu_squared": 0.0, "delta": 0.0}} if "cost" in body else {}))
        mac = hashlib.sha256(f"{seq}{less}{previous}".encode()).hexdigest()
        connection.execute("UPDATE dpsynth_entries SET body=?, prev=?, mac=? WHERE seq=?", (less, previous, mac, seq))
        previous = mac
    connection.commit()
    problems = Ledger(path).verify()
    assert [p for p in problems if "was changed after it was written" in p] == [
        f"entry {i}: was changed after it was written" for i in range(1, 8)
    ]
    connection.execute("UPDATE dpsynth_seal SET head=?, mac=?", (previous, previous))
    connection.commit()
    connection.close()
    with pytest.raises(LedgerError, match="key does not fit"):
        Ledger(path)


def test_an_older_copy_of_the_file_is_noticed_by_a_certificates_head(path: Path, tmp_path: Path) -> None:
    ledger = Ledger(path)
    shutil.copy(path, tmp_path / "old.db")
    first = ledger.head()
    spend(ledger, epsilon=0.2)
    certificate = ledger.head()
    assert ledger.contains(certificate) and ledger.contains(first) and ledger.verify(certificate) == []
    del ledger
    for suffix in ("-wal", "-shm"):
        Path(f"{path}{suffix}").unlink(missing_ok=True)
    shutil.copy(tmp_path / "old.db", path)
    back = Ledger(path)
    assert back.verify() == [] and back.verify(first) == []  # in itself it is whole: it lacks what came after
    assert not back.contains(certificate)
    (problem,) = back.verify(certificate)
    assert problem.startswith("after entry 7: the certificate's entry") and "older copy" in problem


def test_an_emptied_database_is_noticed_by_a_certificates_head(path: Path) -> None:
    head = Ledger(path).head()
    tamper(path, *(f"DELETE FROM dpsynth_{t}" for t in ("entries", "datasets", "known", "seal")))
    assert Ledger(path).verify() == [] and Ledger(path).verify(head) != []


def test_a_head_copied_into_a_forged_entry_does_not_count(path: Path) -> None:
    tamper(path, "UPDATE dpsynth_entries SET mac = 'f00' WHERE seq = 2")
    ledger = Ledger(path)
    assert not ledger.contains("f00") and any("certificate" in p for p in ledger.verify("f00"))


# -- the key -----------------------------------------------------------------------------------------------------------


def test_the_key_lies_beside_readable_by_its_owner_alone(path: Path) -> None:
    key = Path(f"{path}.key")
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    for file in path.parent.glob("budget.db*"):
        assert file == key or (
            key.read_bytes() not in file.read_bytes() and key.read_bytes().hex() not in str(file.read_bytes())
        )


def lose(key: Path) -> None:
    key.unlink()


def cut(key: Path) -> None:
    key.write_bytes(key.read_bytes()[:16])


def replace(key: Path) -> None:
    key.write_bytes(bytes(32))


@pytest.mark.parametrize("harm, says", [(lose, "is missing"), (cut, "damaged"), (replace, "does not fit")])
def test_a_lost_damaged_or_wrong_key_is_told(path: Path, harm: Callable[[Path], None], says: str) -> None:
    key = Path(f"{path}.key")
    good = key.read_bytes()
    harm(key)
    with pytest.raises(LedgerError, match=says):
        Ledger(path)
    key.write_bytes(good)
    assert Ledger(path).verify() == []


def test_the_key_can_come_from_the_environment(ledger_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DPSYNTH_LEDGER_KEY", "0f" * 32)
    spend(Ledger(ledger_url))
    assert Ledger(ledger_url).verify() == []
    for wrong, says in (("1f" * 32, "does not fit"), ("short", "64 hexadecimal"), ("0f" * 16, "64 hexadecimal")):
        monkeypatch.setenv("DPSYNTH_LEDGER_KEY", wrong)
        with pytest.raises(LedgerError, match=says):
            Ledger(ledger_url)
    monkeypatch.delenv("DPSYNTH_LEDGER_KEY")
    with pytest.raises(LedgerError, match="is missing"):
        Ledger(ledger_url)
