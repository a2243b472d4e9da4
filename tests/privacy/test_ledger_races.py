"""Many processes at once, and processes killed at any moment: a cap is never passed, and what was acknowledged is there."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dpsynth.privacy.accounting import Cost, Filter
from dpsynth.privacy.ledger import Ledger

ONE = 1e-4
RACE = """
import sys
from dpsynth.privacy.ledger import Ledger
from dpsynth.privacy.accounting import Cost
from dpsynth.privacy.errors import BudgetExceeded
ledger = Ledger(sys.argv[1]); granted = 0
record = ledger.dataset(name="race", fingerprint="f" * 64, unit="row")
for _ in range(int(sys.argv[2])):
    try:
        ledger.reserve(dataset=record, cost=Cost(mu_squared=1e-4), delta=1e-6, label="r"); granted += 1
    except BudgetExceeded:
        pass
print(granted)
"""


def race(url: str, processes: int, requests: int, cap: Filter) -> int:
    """How many of all requests were granted."""
    command = [sys.executable, "-c", RACE, url, str(requests // processes)]
    racers = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(processes)]
    granted = [int(r.communicate()[0]) for r in racers]
    (record,) = Ledger(url).datasets()
    spent = Ledger(url).spent(record.id)
    assert len(spent.runs) == sum(granted) and cap.grants(spent.cost)
    assert spent.cost == sum((Cost(mu_squared=ONE) for _ in range(sum(granted))), Cost())
    assert Ledger(url).verify() == []
    return sum(granted)


def one_by_one(cap: Filter, requests: int) -> int:
    """How many of them a filter grants that gets them in a row."""
    spent, granted = Cost(), 0
    for _ in range(requests):
        if cap.grants(spent + Cost(mu_squared=ONE)):
            spent, granted = spent + Cost(mu_squared=ONE), granted + 1
    return granted


def capped(url: str, room: int) -> Filter:
    """A cap with room for so many requests."""
    any_cap = Filter(epsilon=1.0, delta=1e-5)
    cap = Filter(epsilon=any_cap.spent(Cost(mu_squared=ONE * (room + 0.5))), delta=1e-5)
    Ledger(url).set_cap("race", epsilon=cap.epsilon, delta=cap.delta)
    return cap


def test_processes_racing_for_one_cap_never_pass_it(ledger_url: str) -> None:
    cap = capped(ledger_url, 50)
    assert race(ledger_url, 4, 80, cap) == one_by_one(cap, 80) == 50


@pytest.mark.slow
def test_eight_processes_and_ten_thousand_requests(ledger_url: str) -> None:
    cap = capped(ledger_url, 6000)
    began = time.perf_counter()
    assert race(ledger_url, 8, 10_000, cap) == one_by_one(cap, 10_000) == 6000
    print(f"{10_000 / (time.perf_counter() - began):.0f} requests a second: {ledger_url.partition(':')[0]}")


def test_processes_that_open_a_new_ledger_at_once_share_one_key(ledger_url: str) -> None:
    command = [sys.executable, "-c", RACE, ledger_url, "3"]
    openers = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) for _ in range(6)]
    told = [o.communicate() for o in openers]
    assert [int(out) for out, _ in told] == [3] * 6, told
    (record,) = Ledger(ledger_url).datasets()
    assert len(Ledger(ledger_url).spent(record.id).runs) == 18 and Ledger(ledger_url).verify() == []


def test_a_request_takes_no_longer_in_a_long_ledger(tmp_path: Path) -> None:
    """What is read does not grow with the number of entries."""
    from sqlalchemy import event

    ledger = Ledger(tmp_path / "budget.db")
    record = ledger.dataset(name="p", fingerprint="f" * 64, unit="row")
    for _ in range(300):
        ledger.reserve(dataset=record, cost=Cost(mu_squared=ONE), delta=1e-6, label="r")
    statements: list[str] = []

    @event.listens_for(ledger._database._engine, "after_cursor_execute")
    def count(_c: object, _cursor: object, statement: str, *_: object) -> None:
        statements.append(statement)

    ledger.reserve(dataset=record, cost=Cost(mu_squared=ONE), delta=1e-6, label="r")
    assert len(statements) <= 8
    (scan,) = [s for s in statements if "FROM dpsynth_entries" in s]
    assert "LIMIT" in scan


# Forks a child that reserves and commits in a loop, kills it at a random moment, then looks for what it was told; so often.
KILLS = """
import os, random, select, signal, sys, time
from dpsynth.privacy.ledger import Ledger
from dpsynth.privacy.events import Gaussian
from dpsynth.privacy.accounting import cost_of

url, kills = sys.argv[1], int(sys.argv[2])
event = Gaussian(stage="s", label="l", sensitivity=1.0, sigma=100.0)

def child(pipe):
    ledger = Ledger(url)
    record = ledger.dataset(name="k", fingerprint="f" * 64, unit="row")
    while True:
        run = ledger.reserve(dataset=record, cost=cost_of([event]), delta=1e-6, label="r")
        os.write(pipe, f"reserved {run.id}\\n".encode())
        ledger.commit(run, [event])
        os.write(pipe, f"committed {run.id}\\n".encode())

told = set()
for kill in range(kills):
    reader, writer = os.pipe()
    process = os.fork()
    if process == 0:
        os.close(reader)
        child(writer)
    os.close(writer)
    if kill % 2:
        select.select([reader], [], [], 10)  # until it is under way
    time.sleep(random.uniform(0, 0.05))
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)
    with os.fdopen(reader) as lines:
        told |= {tuple(line.split()) for line in lines if line.endswith("\\n")}
    ledger = Ledger(url)
    problems = ledger.verify()
    assert problems == [], problems
    runs = {r.id: r.state for d in ledger.datasets() for r in ledger.spent(d.id).runs}
    assert {run for _, run in told} <= set(runs), "an acknowledged reservation is lost"
    assert all(runs[run] == "committed" for what, run in told if what == "committed"), "an acknowledged commit is lost"
    assert len(told) == len(set(told))
print(len({run for _, run in told}))
"""


def killed(url: str, kills: int) -> int:
    done = subprocess.run([sys.executable, "-c", KILLS, url, str(kills)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


def test_a_killed_process_loses_nothing_that_it_was_told(ledger_url: str) -> None:
    assert killed(ledger_url, 6) > 0


@pytest.mark.slow
def test_two_hundred_kills_lose_nothing(ledger_url: str) -> None:
    acknowledged = killed(ledger_url, 200)
    print(f"200 kills, {acknowledged} acknowledged reservations: {ledger_url.partition(':')[0]}")
    assert acknowledged > 100


def test_a_forked_process_uses_a_connection_of_its_own(ledger_url: str) -> None:
    code = """
import os, sys
from dpsynth.privacy.ledger import Ledger
from dpsynth.privacy.accounting import Cost
ledger = Ledger(sys.argv[1])
record = ledger.dataset(name="f", fingerprint="f" * 64, unit="row")
children = [os.fork() for _ in range(2)]
for _ in range(5):
    ledger.reserve(dataset=record, cost=Cost(mu_squared=1e-4), delta=1e-6, label="r")
if all(children):
    assert all(os.waitpid(c, 0)[1] == 0 for c in children if c)
    ledger.reserve(dataset=record, cost=Cost(mu_squared=1e-4), delta=1e-6, label="r")
    print(len(ledger.spent(record.id).runs), ledger.verify())
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, ledger_url], capture_output=True, text=True, env=dict(os.environ)
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[-2:] == ["21", "[]"]
