"""The critic's DP-SGD: it finds what the tables miss, spends what was planned, and survives what may happen on the way."""

from __future__ import annotations

import signal
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dpsynth.models.ctgan.field import critic_logs
from dpsynth.models.ctgan.networks import Critic
from dpsynth.models.ctgan.training import CriticTraining, weights_of
from dpsynth.models.protocol import with_units
from dpsynth.privacy.accounting import Cost
from dpsynth.privacy.budget import Account, Reserve
from dpsynth.privacy.dpsgd.plan import Training
from dpsynth.privacy.errors import ModelError, PrivacyError
from dpsynth.privacy.ledger import Ledger, LedgerSteps, Reservation
from dpsynth.privacy.noise import Noise
from dpsynth.privacy.source import Cells, MemorySource, Numbers
from dpsynth.privacy.table import PrivateTable

PLAN = Training(sampling_rate=0.2, steps=60, noise_multiplier=0.5, expected_batch=1000, stage="critic", label="DP-SGD")
NAMES = ("a", "b", "c")


@dataclass(frozen=True)
class Whole:
    """A column that holds its codes already."""

    column: str

    def encode(self, cells: Cells) -> Any:
        assert isinstance(cells, Numbers)
        return cells.data.astype(np.int64)


def parity(n: int, seed: int = 0) -> np.ndarray:
    """c = a xor b, nine times out of ten: all columns and pairs are even."""
    rng = np.random.default_rng(seed)
    a, b = rng.integers(2, size=(2, n))
    return np.stack([a, b, np.where(rng.random(n) < 0.9, a ^ b, 1 - (a ^ b))], axis=1)


def handle(rows: np.ndarray, plan: Training, account: Account | None = None) -> Any:
    source = MemorySource(
        {name: Numbers(rows[:, i].astype(float)) for i, name in enumerate(NAMES)},
        row_hashes=np.arange(len(rows), dtype=np.uint64),
    )
    account = account or Account(Reserve(adaptive=Cost(), planned=(plan.event,)))
    table = PrivateTable(source, account=account, noise=Noise(insecure_seed=1))
    return table.training_rows({name: Whole(name) for name in NAMES})


def training(plan: Training = PLAN, **kwargs: Any) -> tuple[CriticTraining, Critic]:
    torch.manual_seed(0)
    pool = torch.randint(2, (4000, 3))
    made = CriticTraining(plan=plan, columns=NAMES, pool=pool, loss="logistic", rate=0.02, fakes=1000, **kwargs)
    critic = Critic((2, 2, 2), 16, 2)
    return made, critic


def run(made: CriticTraining, critic: Critic, rows: Any, stop: int | None = None, **kwargs: Any) -> dict[str, Any]:
    weights: dict[str, Any] = {}
    for step, trainer in made.steps(critic, rows, **kwargs):
        weights = dict(weights_of(trainer))
        if step == stop:
            break
    return weights


def contrast(critic: Critic) -> float:
    """Mean score of rows that obey the parity, less that of the others."""
    cells = np.stack(np.unravel_index(np.arange(8), (2, 2, 2)), axis=1)
    scores = critic_logs(critic, cells, "logistic", 10.0)
    obeys = (cells[:, 0] ^ cells[:, 1]) == cells[:, 2]
    return float(scores[obeys].mean() - scores[~obeys].mean())


def test_it_finds_what_no_pair_shows() -> None:
    made, critic = training()
    critic.load_state_dict(run(made, critic, handle(parity(5000), PLAN)), strict=False)
    assert contrast(critic) > 1.0  # log(0.9 / 0.1) - log(0.5 / 0.5) and its like would be 4.4


def test_it_finds_nothing_where_both_sides_are_alike() -> None:
    made, critic = training()
    even = np.random.default_rng(7).integers(2, size=(5000, 3))
    run(made, critic, handle(even, PLAN))
    assert abs(contrast(critic)) < 0.3


def test_it_charges_the_plan_and_cannot_be_run_twice() -> None:
    made, critic = training()
    account = Account(Reserve(adaptive=Cost(), planned=(PLAN.event,)))
    rows = handle(parity(500), PLAN, account)
    run(made, critic, rows)
    assert account.events == (PLAN.event,) and account.planned == ()
    with pytest.raises(PrivacyError, match="must be planned"):
        run(made, critic, rows)


def test_empty_batches_are_steps_like_others() -> None:
    plan = replace(PLAN, sampling_rate=1e-6, steps=5)
    made, critic = training(plan)
    weights = run(made, critic, handle(parity(50), plan))
    assert all(bool(torch.isfinite(w).all()) for w in weights.values())


def test_a_loss_that_is_not_finite_is_refused_before_anything_is_charged() -> None:
    made, critic = training()
    with torch.no_grad():
        critic.head.bias.fill_(float("nan"))
    account = Account(Reserve(adaptive=Cost(), planned=(PLAN.event,)))
    with pytest.raises(ModelError, match="not finite"):
        run(made, critic, handle(parity(500), PLAN, account))
    assert account.events == ()


def test_the_count_of_units_moves_the_batch_but_not_the_event() -> None:
    assert with_units(PLAN, 40_000.0).expected_batch == 8000.0
    assert with_units(PLAN, 40_000.0).event == PLAN.event
    assert with_units(PLAN, -3.0).expected_batch == 1.0


# -- killed on the way -------------------------------------------------------------------------------------------------


@pytest.fixture
def reserved(tmp_path: Path) -> tuple[Ledger, Reservation]:
    ledger = Ledger(tmp_path / "budget.db")
    record = ledger.dataset(name="people", fingerprint="f" * 64, unit="row")
    reserve = Reserve(adaptive=Cost(), planned=(PLAN.event,))
    return ledger, ledger.reserve(dataset=record, cost=reserve.cost, delta=1e-6, label="fit")


def taken_up(reserved: tuple[Ledger, Reservation], path: Path, stop: int | None = None) -> tuple[Account, Critic]:
    ledger, reservation = reserved
    account = Account(Reserve(adaptive=Cost(), planned=(PLAN.event,)))
    made, critic = training()
    steps = LedgerSteps(ledger, reservation.id, PLAN.label)
    run(made, critic, handle(parity(2000), PLAN, account), stop, journal=steps, checkpoint=path, every=5)
    return account, critic


def test_a_killed_training_goes_on_at_the_same_price(reserved: tuple[Ledger, Reservation], tmp_path: Path) -> None:
    ledger, reservation = reserved
    path = tmp_path / "critic.safetensors"
    taken_up(reserved, path, stop=23)
    account, critic = taken_up(reserved, path)
    ledger.commit(reservation, account.events)
    assert account.events == (PLAN.event,) and ledger.verify() == []
    steps = [(e.body["first"], e.body["last"]) for e in ledger.entries() if e.kind == "steps"]
    assert [i for first, last in steps for i in range(first, last + 1)] == list(range(1, 61))
    assert contrast(critic) > 0.5


KILLED = """
import os, signal, sys
from pathlib import Path
from dpsynth.privacy.ledger import Ledger, LedgerSteps
from tests.models.ctgan.test_training import PLAN, handle, parity, training

ledger, run, path = Ledger(Path(sys.argv[1])), sys.argv[2], Path(sys.argv[3])
made, critic = training()
steps = made.steps(
    critic, handle(parity(2000), PLAN), journal=LedgerSteps(ledger, run, PLAN.label), checkpoint=path, every=5
)
for step, _ in steps:
    if step == 23:
        os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.slow
def test_so_does_one_whose_process_was_killed(reserved: tuple[Ledger, Reservation], tmp_path: Path) -> None:
    ledger, reservation = reserved
    path = tmp_path / "critic.safetensors"
    command = [sys.executable, "-c", KILLED, str(tmp_path / "budget.db"), reservation.id, str(path)]
    root = Path(__file__).parents[3]
    assert subprocess.run(command, cwd=root, capture_output=True).returncode == -signal.SIGKILL
    before = ledger.spent(reservation.dataset).cost
    account, _ = taken_up(reserved, path)
    ledger.commit(reservation, account.events)
    assert account.events == (PLAN.event,) and ledger.spent(reservation.dataset).cost == before
    steps = [(e.body["first"], e.body["last"]) for e in ledger.entries() if e.kind == "steps"]
    assert [i for first, last in steps for i in range(first, last + 1)] == list(range(1, 61))
    assert ledger.verify() == []


def test_without_its_checkpoint_it_must_be_charged_anew(reserved: tuple[Ledger, Reservation], tmp_path: Path) -> None:
    path = tmp_path / "critic.safetensors"
    taken_up(reserved, path, stop=23)
    path.unlink()
    with pytest.raises(PrivacyError, match="charged anew"):
        taken_up(reserved, path)
