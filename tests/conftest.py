"""Shared fixtures: a small mixed table, a ledger of its own for each test, and one fitted model for those that only read it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import dpsynth
from dpsynth.console import Progress, SilentProgress
from dpsynth.models.named import generator_of
from dpsynth.privacy.noise import Noise
from dpsynth.privacy.table import Witness
from dpsynth.sources import read
from dpsynth.split import Split
from dpsynth.synthesize import Settings, _public_randomness, fit_rows
from tests import postgres

# Tests run side by side, and so do the programs that they start: threads of each would only wait for each other's cores.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(autouse=True)
def own_ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No test touches the user's ledger."""
    path = tmp_path / "ledger.db"
    monkeypatch.setenv("DPSYNTH_LEDGER", str(path))
    return path


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[postgres.Server]:
    """Skips the test where no server can be started."""
    if (reason := postgres.why_not()) is not None:
        pytest.skip(reason)
    with postgres.serving() as server:
        yield server


def mixed_table(n: int = 4000, seed: int = 0) -> pd.DataFrame:
    """Every kind of column, with dependence, missing values and a heavy zero."""
    rng = np.random.default_rng(seed)
    age = rng.integers(18, 90, n)
    group = np.where(rng.random(n) < age / 120, "old", "young")
    income = np.where(rng.random(n) < 0.3, 0.0, np.round(rng.lognormal(7, 0.6, n), 2))
    score = age * 0.5 + rng.normal(0, 4, n)
    return pd.DataFrame(
        {
            "age": age,
            "group": group,
            "income": np.where(rng.random(n) < 0.1, np.nan, income),
            "score": score,
            "member": rng.random(n) < 0.4,
            "joined": pd.Timestamp("2015-01-01") + pd.to_timedelta(rng.integers(0, 3000, n), unit="D"),
            "stay": pd.to_timedelta(rng.integers(1, 40, n), unit="h"),
            "level": pd.Categorical(
                rng.choice(["low", "mid", "high"], n), categories=["low", "mid", "high"], ordered=True
            ),
            "visits": pd.array(np.where(rng.random(n) < 0.2, None, rng.poisson(3, n)), dtype="Int64"),
            "city": pd.Series(rng.choice(["Lima", "Oslo", None], n, p=[0.5, 0.4, 0.1]), dtype=object),
        }
    )


# Not ru_maxrss: that begins at the peak of the process which started this one.
OWN_COST = """
import re as _re, time as _time
_peak = _re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read()).group(1)
print(_time.process_time(), int(_peak) / 1024)
"""


def run_alone(script: str) -> tuple[str, float, float]:
    """(what a script prints, its CPU seconds, the MB it held at most), in a process of its own; imports are in both."""
    root = Path(__file__).parent.parent
    done = subprocess.run([sys.executable, "-c", script + OWN_COST], cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    *printed, cost = done.stdout.splitlines()
    seconds, megabytes = map(float, cost.split())
    return "\n".join(printed), seconds, megabytes


def replay_settings(seed: int) -> Settings:
    """Settings of a run whose public randomness is fixed, for neighbour replays."""
    with pytest.warns(UserWarning, match="NOT PRIVATE"):
        public_seed, key = _public_randomness(seed)
    return Settings(
        epsilon=2.0,
        delta=1e-5,
        schema=None,
        generator=generator_of("auto"),
        gate=dpsynth.Gate(),
        split=Split(),
        device="cpu",
        seed=public_seed,
        key=key,
    )


def witnessed(
    table: pd.DataFrame,
    path: Path,
    witness: Witness | None = None,
    *,
    seed: int = 5,
    unit: str | None = None,
    progress: Progress | None = None,
    **settings: Any,
) -> dpsynth.Synthesizer:
    """One run of the flow under a test's randomness, with a witness at the door. path: of its ledger.  settings: see `replay_settings`."""
    return fit_rows(
        read(table),
        replace(replay_settings(seed), **settings),
        unit=unit,
        max_rows=4 if unit else None,
        ledger=dpsynth.Ledger(path),
        dataset=None,
        noise=Noise(insecure_seed=seed),
        progress=progress or SilentProgress(),
        witness=witness,
    )


@pytest.fixture(scope="session")
def table() -> pd.DataFrame:
    return mixed_table()


@pytest.fixture(scope="session")
def synth(table: pd.DataFrame, tmp_path_factory: pytest.TempPathFactory) -> dpsynth.Synthesizer:
    """A model of the mixed table at epsilon 5. Shared: do not change it."""
    ledger = dpsynth.Ledger(tmp_path_factory.mktemp("ledger") / "shared.db")
    return dpsynth.fit(table, epsilon=5.0, ledger=ledger, progress=False)
