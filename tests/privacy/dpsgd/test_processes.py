"""Two processes make the same sums as one, with one sample and one noise for each step, and the same model on both."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dpsynth.privacy.dpsgd.trainer import PrivateTrainer
from tests.privacy.dpsgd.tables import PLAN, handle, trainer, weights

ROOT = Path(__file__).parents[3]
TRAINING = replace(PLAN, steps=6, sampling_rate=0.5, noise_multiplier=0.5)
SEED = 4


class Sums:
    """A witness that keeps exact and noisy sums; the first process' alone is asked."""

    def __init__(self) -> None:
        self.exact: list[list[int]] = []
        self.noisy: list[list[int]] = []

    def answer(self, label: str, exact: np.ndarray, sensitivity: float, noisy: np.ndarray) -> np.ndarray:
        self.exact.append(exact.tolist())
        self.noisy.append(noisy.tolist())
        return noisy

    def vocabulary(self, *args: object) -> object:
        raise AssertionError


def trained(seed: int, **kwargs: object) -> tuple[PrivateTrainer, Sums]:
    witness = Sums()
    units = np.repeat(np.arange(60), 2)
    rows = handle(plan=TRAINING, n=120, seed=seed, witness=witness, units=units, max_rows=2)
    made = trainer(rows, TRAINING, micro_batch=8, **kwargs)
    made.run()
    return made, witness


def main(folder: str) -> None:
    """What each process does: only the first one's seed may matter."""
    import torch
    from torch import distributed

    distributed.init_process_group("gloo")
    rank = distributed.get_rank()
    made, witness = trained(SEED if rank == 0 else 77)
    result = {"weights": weights(made).tolist(), "exact": witness.exact, "noisy": witness.noisy}
    Path(folder, f"{rank}.json").write_text(json.dumps(result))
    torch.manual_seed(0)
    broken = handle(plan=TRAINING, seed=SEED if rank == 0 else 77)
    if rank == 0:
        broken._account._planned.clear()
        broken._account.charge = lambda event: None  # type: ignore[method-assign]
        broken._sample = failing  # type: ignore[method-assign]
    try:
        trainer(broken, TRAINING).run()
    except Exception as error:
        Path(folder, f"{rank}.error").write_text(f"{type(error).__name__}: {error}")
    distributed.barrier()  # nobody leaves while another still speaks to it
    distributed.destroy_process_group()


def failing(plan: object) -> None:
    raise OSError("no entropy")


@pytest.mark.slow
def test_two_processes_are_one_training(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [*command, "-m", "tests.privacy.dpsgd.test_processes", str(tmp_path)],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    assert first["weights"] == second["weights"] and second["exact"] == []
    alone, witness = trained(SEED)
    exact, one = np.array(first["exact"]), np.array(witness.exact)
    assert exact.shape == (6, 2) and np.abs(exact - one).max() <= 2**30 * PLAN.clipping_norm * 1e-6
    noise = np.array(first["noisy"]) - exact
    assert np.array_equal(noise, np.array(witness.noisy) - one)  # one noise, drawn once
    assert np.allclose(first["weights"], weights(alone).tolist(), rtol=1e-5)
    # A failure of the first process ends the others, too.
    assert (tmp_path / "0.error").read_text() == "OSError: no entropy"
    assert "first process of the training failed" in (tmp_path / "1.error").read_text()


if __name__ == "__main__":
    main(sys.argv[1])
    # All is written. On a busy machine the interpreter's own way out races with torch's native threads, and one that is still there
    # aborts the process (SIGABRT, "terminate called without an active exception"); what is tested here has ended before.
    os._exit(0)
