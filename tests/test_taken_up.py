"""A fit that was killed is taken up from its folder: at the same epsilon, and with no answer drawn twice."""

from __future__ import annotations

import json
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

import dpsynth
from dpsynth import synthesize
from dpsynth.cli import app
from dpsynth.models import CTGAN, Language, Marginals
from dpsynth.privacy.accounting import Cost
from dpsynth.privacy.dpsgd.trainer import PrivateTrainer
from dpsynth.privacy.errors import LedgerError, ModelError, PrivacyError
from dpsynth.privacy.events import Gaussian
from dpsynth.privacy.ledger import Ledger, RunFolder
from dpsynth.privacy.noise import Noise

SMALL = CTGAN(
    warm_up_rows=400, warm_up_steps=3, generator_width=8, critic_warm_up_steps=2, critic_width=8, steps=14, fakes=50,
    marginals=Marginals(iterations=20),
)  # fmt: skip
GATE = dpsynth.Gate(candidates=2)


class Crash(Exception):
    pass


def people(n: int = 400) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    age = rng.integers(18, 60, n)
    return pd.DataFrame({"age": age, "old": np.where(age > 40, "yes", "no"), "pay": np.round(age * 1.5, 1)})


def fitted(folder: Path | None, data: pd.DataFrame | None = None, **kwargs: Any) -> dpsynth.Synthesizer:
    settings = {"epsilon": 5.0, "model": SMALL, "gate": GATE, "progress": False, "device": "cpu", "patterns_only": True}
    return dpsynth.fit(people() if data is None else data, checkpoint=folder, **(settings | kwargs))


def crashing(patch: pytest.MonkeyPatch, target: Any, name: str, when: Callable[..., bool]) -> None:
    """Let a method raise Crash, before it does anything, where `when` says so."""
    whole = getattr(target, name)

    def method(*args: Any, **kwargs: Any) -> Any:
        if when(*args, **kwargs):
            raise Crash
        return whole(*args, **kwargs)

    patch.setattr(target, name, method)


def at_stage(stage: str) -> Callable[..., bool]:
    def when(folder: RunFolder, body: dict[str, Any], book: int | None = None) -> bool:
        return any(event["stage"] == stage for event in body.get("events", ()))

    return when


def lines(folder: Path) -> list[str]:
    return (folder / "answers.jsonl").read_text().splitlines()


def runs(ledger: Ledger) -> list[Any]:
    return [run for record in ledger.datasets() for run in ledger.spent(record.id).runs]


def begun(folder: Path, stage: str = "one-way") -> None:
    """A fit that ended when its answers to a stage were drawn but not booked."""
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Crash):
        crashing(patch, RunFolder, "_append", at_stage(stage))
        fitted(folder)


def test_a_fit_that_ends_in_every_stage_costs_what_one_costs(tmp_path: Path) -> None:
    folder, ledger, held = tmp_path / "run", Ledger(), list[str]()
    for stage in ("identifiers", "schema", "vocabulary", "one-way"):
        begun(folder, stage)
        assert lines(folder)[: len(held)] == held
        held = lines(folder)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Crash):
        crashing(patch, PrivateTrainer, "_take", lambda trainer, step: step == 8)
        fitted(folder)
    assert len(lines(folder)) > len(held) and (folder / "DP-SGD.safetensors").exists()
    models: list[dict[str, Any]] = []

    def caught(whole: Any) -> Any:
        def gate(table: Any, domain: Any, model: Any, settings: Any) -> Any:
            models.append(model.state()[0])
            return whole(table, domain, model, settings)

        return gate

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Crash):
        patch.setattr(synthesize, "_gate", caught(synthesize._gate))
        crashing(patch, Ledger, "commit", lambda *_: True)
        fitted(folder)
    with (
        pytest.MonkeyPatch.context() as patch
    ):  # all is bought: the rest is done without noise, and gives the same model
        patch.setattr(synthesize, "_gate", caught(synthesize._gate))
        crashing(patch, Noise, "bits", lambda *_: True)
        synth = fitted(folder)
    assert models[0].keys() == models[1].keys()
    assert all(np.array_equal(models[0][name], models[1][name]) for name in models[0])
    (run,) = runs(ledger)
    assert run.id == synth.privacy.run and run.state == "committed" and synth.privacy.epsilon == 5.0
    assert run.epsilon == pytest.approx(5.0, rel=0.05) and ledger.verify() == []
    assert ledger.events(run.id) == synth.privacy.events
    entries = ledger.entries()
    assert [e.body["number"] for e in entries if e.kind == "answers"] == list(range(1, len(lines(folder))))
    steps = [i for e in entries if e.kind == "steps" for i in range(e.body["first"], e.body["last"] + 1)]
    assert steps == list(range(1, 15))  # each once; those after the last checkpoint are not taken again
    assert (folder.stat().st_mode & 0o777, (folder / "answers.jsonl").stat().st_mode & 0o777) == (0o700, 0o600)
    with pytest.raises(LedgerError, match="is finished"):
        fitted(folder)


def test_without_its_folder_a_fit_is_charged_again(tmp_path: Path) -> None:
    begun(tmp_path / "run", "schema")
    shutil.rmtree(tmp_path / "run")
    begun(tmp_path / "run", "schema")
    assert len(runs(Ledger())) == 2


def test_other_rows_settings_or_ledgers_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    begun(folder)
    other = people()
    other.loc[0, "age"] += 1
    with pytest.raises(LedgerError, match="other rows"), pytest.warns(UserWarning, match="new to the ledger"):
        fitted(folder, other)
    for wrong in ({"gate": "auto"}, {"epsilon": 4.0}, {"model": Marginals()}):
        with pytest.raises(LedgerError, match="other settings"):
            fitted(folder, **wrong)
    with pytest.raises(LedgerError, match="other noise"), pytest.warns(UserWarning, match="NOT PRIVATE"):
        fitted(folder, insecure_seed=1)
    with pytest.raises(LedgerError, match="of another ledger"):
        fitted(folder, ledger=Ledger(tmp_path / "other.db"))
    with pytest.raises(ModelError, match="checkpoint"):
        fitted(tmp_path / "texts", model=Language())
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes").touch()
    with pytest.raises(LedgerError, match="folder of its own"):
        fitted(tmp_path / "full")
    assert len(runs(Ledger())) == 1


def test_a_folder_that_was_altered_or_put_back_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    begun(folder)
    path = folder / "answers.jsonl"
    whole = path.read_bytes()
    body, mac = json.loads(lines(folder)[2])
    body["answers"][0][0] += 1
    changed = "\n".join([*lines(folder)[:2], json.dumps([body, mac]), *lines(folder)[3:], ""]).encode()
    swapped = b"\n".join([*whole.split(b"\n")[:1], *whole.split(b"\n")[2:]])
    for wrong, said in (
        (changed, "was changed"),
        (swapped, "was changed"),
        (whole[: whole.rstrip().rindex(b"\n") + 1], "may have been seen"),  # an older copy
        (whole[:-9], "may have been seen"),  # cut while it was written
    ):
        path.write_bytes(wrong)
        with pytest.raises(LedgerError, match=said):
            fitted(folder)
    path.write_bytes(whole + b'[{"number": 9')  # an end that was never booked: nothing of an answer
    assert len(RunFolder(folder, Ledger())._calls) == len(whole.splitlines()) - 1


def test_an_answer_that_was_taken_out_of_the_ledger_is_not_drawn_again(tmp_path: Path) -> None:
    ledger, folder = Ledger(tmp_path / "l.db"), tmp_path / "run"
    record = ledger.dataset(name=None, fingerprint="f" * 64, unit="row")
    cost, asked = Cost(mu_squared=0.25), [Gaussian(stage="s", label="l", sensitivity=1.0, sigma=2.0)]
    begun = RunFolder(folder, ledger)
    begun.begin(ledger.reserve(dataset=record, cost=cost, delta=1e-6, label="fit"), {"rows": 1}, {})
    begun.once(asked, lambda: [[1]])
    ledger.dataset(name="other", fingerprint="e" * 64, unit="row")  # so that the last entry stays
    with sqlite3.connect(tmp_path / "l.db") as database:
        assert database.execute("DELETE FROM dpsynth_entries WHERE kind = 'answers'").rowcount == 1
    (folder / "answers.jsonl").write_text(lines(folder)[0] + "\n")
    with pytest.raises(LedgerError, match="not as it was written"):
        RunFolder(folder, Ledger(tmp_path / "l.db")).taken_up({"rows": 1}, cost)


def test_an_answer_that_was_booked_but_not_written_is_not_drawn_again(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Crash):
        whole = RunFolder._book

        def book(kept: RunFolder, number: int, mac: str) -> None:
            whole(kept, number, mac)
            if number == 2:
                raise Crash

        patch.setattr(RunFolder, "_book", book)
        fitted(folder)
    with pytest.raises(LedgerError, match="not drawn again"):
        fitted(folder)


def test_only_the_same_questions_are_answered_and_by_one_process_at_a_time(tmp_path: Path) -> None:
    from dpsynth.privacy.accounting import Cost
    from dpsynth.privacy.events import Gaussian

    ledger = Ledger()
    record = ledger.dataset(name="people", fingerprint="f" * 64, unit="row")
    cost = Cost(mu_squared=1.0)
    reservation = ledger.reserve(dataset=record, cost=cost, delta=1e-6, label="fit")
    folder = RunFolder(tmp_path / "run", ledger)
    folder.begin(reservation, {"rows": "f"}, {"seed": 1})
    one = Gaussian(stage="schema", label="a", sensitivity=1.0, sigma=3.0)
    other = Gaussian(stage="schema", label="a", sensitivity=1.0, sigma=2.0)
    assert folder.once([one], lambda: [[1, 2]]) == [[1, 2]]
    again, racing = (RunFolder(tmp_path / "run", ledger) for _ in range(2))
    for kept in (again, racing):
        assert kept.taken_up({"rows": "f"}, cost) == reservation and kept.own == {"seed": 1}
    with pytest.raises(LedgerError, match="something else"):
        again.once([other], lambda: [[3, 4]])
    for kept in (again, racing):
        assert kept.once([one], lambda: [[3, 4]]) == [[1, 2]]
    assert again.once([other], lambda: [[5]]) == [[5]]
    with pytest.raises(PrivacyError, match="another process"):
        racing.once([other], lambda: [[6]])
    assert [json.loads(line)[0].get("answers") for line in lines(tmp_path / "run")] == [None, [[1, 2]], [[5]]]
    with pytest.raises(LedgerError, match="another cost"):
        RunFolder(tmp_path / "run", ledger).taken_up({"rows": "f"}, Cost(mu_squared=2.0))


def test_the_command_line_keeps_a_folder_too(tmp_path: Path) -> None:
    people().to_csv(tmp_path / "people.csv", index=False)
    command = [
        "fit",
        str(tmp_path / "people.csv"),
        "--out",
        str(tmp_path / "model"),
        "--epsilon",
        "5",
        "--patterns-only",
    ]
    done = CliRunner().invoke(app, [*command, "--checkpoint", str(tmp_path / "run")])
    assert done.exit_code == 0 and len(lines(tmp_path / "run")) > 5
    shutil.rmtree(tmp_path / "model")
    again = CliRunner().invoke(app, [*command, "--checkpoint", str(tmp_path / "run")])
    assert again.exit_code != 0 and len(runs(Ledger())) == 1


KILLED = """
import os, signal, sys
from pathlib import Path
from dpsynth.privacy.accounting import Cost
from dpsynth.privacy.dpsgd.trainer import PrivateTrainer
from tests.test_taken_up import fitted

whole = PrivateTrainer._noisy

def noisy(trainer, step, total):
    if step == 8:
        os.kill(os.getpid(), signal.SIGKILL)
    return whole(trainer, step, total)

PrivateTrainer._noisy = noisy
fitted(Path(sys.argv[1]))
"""


@pytest.mark.slow
def test_a_fit_whose_process_was_killed_in_its_training_is_taken_up(tmp_path: Path) -> None:
    folder, ledger = tmp_path / "run", Ledger()
    root = Path(__file__).parents[1]
    command = [sys.executable, "-c", KILLED, str(folder)]
    assert subprocess.run(command, cwd=root, capture_output=True).returncode == -signal.SIGKILL
    (before,) = runs(ledger)
    assert before.state == "reserved" and ledger.verify() == []
    synth = fitted(folder)
    (after,) = runs(ledger)
    assert (after.id, after.cost, after.epsilon) == (before.id, before.cost, before.epsilon)
    assert after.state == "committed" and ledger.verify() == [] and synth.privacy.run == before.id
    assert ledger.contains(synth.privacy.ledger_head) and len(synth.sample(50, seed=1)) == 50
    fitted(None)
    assert len(runs(ledger)) == 2
