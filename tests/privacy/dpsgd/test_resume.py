"""A training that was cut off: steps are never free and never taken twice, whatever crashed."""

from __future__ import annotations

import contextlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from torch import nn

from dpsynth.privacy.accounting import Cost
from dpsynth.privacy.budget import Account, Reserve
from dpsynth.privacy.dpsgd.checkpoint import Checkpoint
from dpsynth.privacy.dpsgd.trainer import PrivateTrainer
from dpsynth.privacy.errors import LedgerError, ModelError, PrivacyError
from dpsynth.privacy.events import Gaussian
from dpsynth.privacy.ledger import Ledger, LedgerSteps, Reservation
from tests.privacy.dpsgd.tables import ENCODINGS, PLAN, Line, table, trainer, weights

PLAN10 = replace(PLAN, steps=10)
RESERVE = Reserve(adaptive=Cost(mu_squared=0.1), planned=(PLAN10.event,))
QUERY = Gaussian(stage="schema", label="ranges", sensitivity=0.1, sigma=1.0)


class Crash(Exception):
    pass


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path / "budget.db")


@pytest.fixture
def run(ledger: Ledger) -> Reservation:
    record = ledger.dataset(name="people", fingerprint="f" * 64, unit="row")
    return ledger.reserve(dataset=record, cost=RESERVE.cost, delta=1e-6, label="fit")


def begun(
    ledger: Ledger, run: Reservation, path: Path, *, fresh: bool = True, every: int = 3, seed: int | None = 3
) -> PrivateTrainer:
    """A training of the run; its account has had one query before."""
    steps = LedgerSteps(ledger, run.id, PLAN10.label)
    account = Account(RESERVE)
    for event in (QUERY,) if fresh else steps.events_before():
        account.charge(event)
    rows = table(account=account, seed=seed).training_rows(ENCODINGS)
    torch.manual_seed(0)
    model = Line()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    return trainer(
        rows, PLAN10, model=model, optimizer=optimizer, journal=steps, checkpoint=path, every=every, average=0.9,
    )  # fmt: skip


def crash_after(trained: PrivateTrainer, step: int) -> None:
    def crash(done: int) -> None:
        if done == step:
            raise Crash

    with pytest.raises(Crash):
        trained.run(crash)


def booked(ledger: Ledger) -> list[tuple[int, int]]:
    return [(e.body["first"], e.body["last"]) for e in ledger.entries() if e.kind == "steps"]


def test_steps_are_booked_before_they_are_taken(ledger: Ledger, run: Reservation, tmp_path: Path) -> None:
    trained = begun(ledger, run, tmp_path / "t.safetensors")
    assert booked(ledger) == []
    seen: list[int] = []

    def last_booked(step: int) -> None:
        seen.append(booked(ledger)[-1][1])
        assert seen[-1] >= step

    trained.run(last_booked)
    assert booked(ledger) == [(1, 3), (4, 6), (7, 9), (10, 10)]
    assert trained._rows._account.events == (QUERY, PLAN10.event)
    ledger.commit(run, trained._rows._account.events)
    assert ledger.verify() == []


def test_a_training_goes_on_at_the_journals_step_from_the_checkpoints_weights(
    ledger: Ledger, run: Reservation, tmp_path: Path
) -> None:
    path = tmp_path / "t.safetensors"
    first = begun(ledger, run, path)
    at_checkpoint: dict[int, torch.Tensor] = {}

    def watch(step: int) -> None:
        at_checkpoint[step] = weights(first)
        if step == 5:
            raise Crash

    with pytest.raises(Crash):
        first.run(watch)
    again = begun(ledger, run, path, fresh=False, seed=9)
    steps = again.steps()
    taken = [next(steps)]
    assert taken == [7]  # 4 to 6 were booked: they are spent, though their results were lost
    saved = Checkpoint.load(path)
    assert saved.body["step"] == 3 and torch.equal(saved.tensors["model/line.weight"].flatten(), at_checkpoint[3][:1])
    taken += list(steps)
    assert taken == [7, 8, 9, 10]
    assert booked(ledger) == [(1, 3), (4, 6), (7, 9), (10, 10)]
    assert again._rows._account.events == (QUERY, PLAN10.event)
    ledger.commit(run, again._rows._account.events)


def test_what_is_taken_up_is_what_was_left(ledger: Ledger, run: Reservation, tmp_path: Path) -> None:
    """Weights, optimizer and average: with no noise to speak of and every unit in every batch, the same as without a crash."""
    path = tmp_path / "t.safetensors"
    whole = begun(ledger, run, path)
    quiet = {"sampling_rate": 1.0, "noise_multiplier": 1e-6}
    plan = replace(PLAN10, **quiet)  # type: ignore[arg-type]
    results = []
    for crash in (None, 7):
        reserve = Reserve(adaptive=Cost(mu_squared=0.1), planned=(plan.event,))
        journal = Steps(crash)
        trained = None
        while trained is None or trained.step < 10:
            torch.manual_seed(0)
            model = Line()
            trained = trainer(
                table(account=Account(reserve)).training_rows(ENCODINGS), plan, model=model, journal=journal, every=3,
                optimizer=torch.optim.Adam(model.parameters(), lr=0.1), checkpoint=tmp_path / f"{crash}.st", average=0.9,
                schedule=lambda step: 1 / step,
            )  # fmt: skip
            with contextlib.suppress(Crash):
                trained.run()
        with trained.averaged():
            results.append((weights(trained), trained))
        results.append((weights(trained), trained))
    assert torch.allclose(results[0][0], results[2][0], atol=1e-5) and torch.allclose(
        results[1][0], results[3][0], atol=1e-5
    )
    assert not torch.allclose(results[0][0], results[1][0], atol=1e-3)
    assert whole.step == 0


class Steps:
    """A journal in memory, which once fails to book the steps from `crash`."""

    run = "run"

    def __init__(self, crash: int | None = None) -> None:
        self.booked, self._crash = 0, crash

    def begin(self, event: object, before: object) -> int:
        return self.booked

    def book(self, first: int, last: int) -> None:
        if first == self._crash:
            self._crash = None
            raise Crash
        self.booked = last

    def sign(self, digest: str) -> str:
        return digest

    def fits(self, mac: str, digest: str) -> bool:
        return mac == digest


def test_without_its_checkpoint_a_training_starts_as_a_new_run_or_not_at_all(
    ledger: Ledger, run: Reservation, tmp_path: Path
) -> None:
    path = tmp_path / "t.safetensors"
    crash_after(begun(ledger, run, path), 2)
    path.unlink()
    with pytest.raises(PrivacyError, match="charged anew"):
        begun(ledger, run, path, fresh=False).run()
    assert booked(ledger) == [(1, 3)]
    record = ledger.dataset(name="people", fingerprint="f" * 64, unit="row")
    second = ledger.reserve(dataset=record, cost=RESERVE.cost, delta=1e-6, label="fit")
    begun(ledger, second, path).run()
    spent = ledger.spent(record.id)
    assert spent.cost.mu_squared == pytest.approx(2 * RESERVE.cost.mu_squared)  # the crashed run stays spent


def test_an_older_checkpoint_gives_no_free_steps(ledger: Ledger, run: Reservation, tmp_path: Path) -> None:
    path, old = tmp_path / "t.safetensors", tmp_path / "old.safetensors"
    crash_after(begun(ledger, run, path), 4)
    old.write_bytes(path.read_bytes())  # after step 3
    begun(ledger, run, path, fresh=False).run()
    assert booked(ledger)[-1] == (10, 10)
    path.write_bytes(old.read_bytes())
    assert list(begun(ledger, run, path, fresh=False).steps()) == []  # all are spent


def test_two_processes_cannot_take_the_same_steps(ledger: Ledger, run: Reservation, tmp_path: Path) -> None:
    path = tmp_path / "t.safetensors"
    one = begun(ledger, run, path).steps()
    assert [next(one) for _ in range(4)] == [1, 2, 3, 4]
    two = begun(ledger, run, path, fresh=False).steps()
    assert next(two) == 7
    assert [next(one), next(one)] == [5, 6]
    with pytest.raises(PrivacyError, match="another process"):
        next(one)


def test_journals_take_no_other_plan_and_no_more_steps(ledger: Ledger, run: Reservation) -> None:
    steps = LedgerSteps(ledger, run.id, "DP-SGD")
    with pytest.raises(PrivacyError, match="not the next"):
        steps.book(1, 3)
    with pytest.raises(PrivacyError, match="more than the run had reserved"):
        steps.begin(replace(PLAN10, steps=11).event, ())
    with pytest.raises(PrivacyError, match="more than the run had reserved"):
        steps.begin(PLAN10.event, [replace(QUERY, sensitivity=0.4)])
    assert steps.begin(PLAN10.event, [QUERY]) == 0
    assert steps.events_before() == (QUERY,)
    with pytest.raises(PrivacyError, match="another training"):
        steps.begin(replace(PLAN10, steps=9).event, ())
    steps.book(1, 4)
    for first, last in ((1, 4), (4, 5), (6, 7), (5, 11), (5, 4)):
        with pytest.raises(PrivacyError, match="not the next"):
            steps.book(first, last)
    assert LedgerSteps(ledger, run.id, "DP-SGD").begin(PLAN10.event, ()) == 4
    ledger.commit(run, [QUERY, PLAN10.event])
    with pytest.raises(LedgerError, match="committed"):
        steps.book(5, 6)
    with pytest.raises(LedgerError, match="no such run"):
        LedgerSteps(ledger, "run_0", "DP-SGD").begin(PLAN10.event, ())
    assert ledger.verify() == []


def test_a_checkpoint_is_of_its_run_and_plan_and_holds_nothing_private(
    ledger: Ledger, run: Reservation, tmp_path: Path
) -> None:
    path = tmp_path / "t.safetensors"
    trained = begun(ledger, run, path)
    crash_after(trained, 3 + 1)
    with safe_open(path, "pt") as file:
        names = set(file.keys())
        body = json.loads(file.metadata()["dpsynth"])
    parts = ("line.weight", "line.bias")
    assert names == {f"{kind}/{p}" for kind in ("model", "average") for p in parts} | {
        f"optimizer/{i}/{key}" for i in (0, 1) for key in ("step", "exp_avg", "exp_avg_sq")
    }
    assert set(body) == {"format", "run", "plan", "step", "optimizers", "mac"}
    assert all(p.grad is None and not hasattr(p, "grad_sample") for p in trained._model.parameters())
    old = tmp_path / "old.safetensors"
    old.write_bytes(path.read_bytes())
    Checkpoint(Checkpoint.load(path).body | {"run": "run_1"}, Checkpoint.load(path).tensors).save(path)
    with pytest.raises(PrivacyError, match="another run or plan"):
        begun(ledger, run, path, fresh=False).run()
    kept = Checkpoint.load(old)
    kept.tensors["model/line.bias"] += 1
    kept.save(path)
    with pytest.raises(PrivacyError, match="was changed"):
        begun(ledger, run, path, fresh=False).run()
    path.write_bytes(b"no tensors")
    with pytest.raises(ModelError, match="no checkpoint"):
        begun(ledger, run, path, fresh=False).run()
    with pytest.raises(PrivacyError, match="both or none"):
        trainer(table().training_rows(ENCODINGS), checkpoint=path)


def test_what_learns_beside_the_training_is_saved_along(tmp_path: Path) -> None:
    def made() -> tuple[nn.Linear, torch.optim.Adam]:
        torch.manual_seed(1)
        generator = nn.Linear(2, 2)
        return generator, torch.optim.Adam(generator.parameters(), lr=0.01)

    journal, path, reserve = Steps(), tmp_path / "gan.st", Reserve(adaptive=Cost(), planned=(PLAN10.event,))
    states = []
    for crash in (6, None):
        generator, optimizer = made()
        rows = table(account=Account(reserve)).training_rows(ENCODINGS)
        trained = trainer(
            rows, PLAN10, journal=journal, checkpoint=path, every=5, also={"g": generator, "o": optimizer}
        )
        for step in trained.steps():
            if crash is None:
                break
            optimizer.zero_grad()
            generator(torch.ones(2)).sum().backward()
            optimizer.step()
            states.append([p.detach().clone() for p in generator.parameters()])
            if step == crash:
                break
    kept = Checkpoint.load(path)
    # Saved with the caller's own update after step 5.
    assert all(torch.equal(a, b) for a, b in zip(generator.parameters(), states[4], strict=True))
    assert {n for n in kept.tensors if n.startswith("also/g/")} == {"also/g/weight", "also/g/bias"}
    assert np.isclose(float(kept.tensors["also/o/0/step"]), 5)
