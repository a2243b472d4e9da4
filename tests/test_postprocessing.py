"""Everything that leaves is made from noisy answers alone: with the same answers, two tables of other sizes leave the same.

The second run is given the first run's noisy answers (see `privacy.audit`), on a table with fewer, other rows. Had any rate,
count, size, step, delta or file taken something from the rows past those answers, it would differ.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import dpsynth
from dpsynth.privacy.audit import Recorder, Replay
from dpsynth.privacy.noise import Noise
from dpsynth.sources import read
from dpsynth.synthesize import fit_rows
from tests.conftest import mixed_table, replay_settings

# What names a run and its moment; random or of the clock, never of the rows.
OWN = ("dataset", "run", "ledger_head", "created")


class Log:
    """Progress as it was shown."""

    def __init__(self) -> None:
        self.shown: list[Any] = []

    def stage(self, name: str, total: int | None = None) -> None:
        self.shown.append((name, total))

    def advance(self, n: int = 1) -> None:
        self.shown.append(n)


def left_by(
    table: pd.DataFrame, witness: Recorder | Replay, folder: Path, unit: str | None, caplog: pytest.LogCaptureFixture
) -> dict[str, Any]:
    """Everything a run leaves, but for its own name and moment."""
    folder.mkdir()
    ledger, log = dpsynth.Ledger(folder / "ledger.db"), Log()
    caplog.clear()
    with caplog.at_level(logging.DEBUG):
        synth = fit_rows(
            read(table),
            replay_settings(3),
            unit=unit,
            max_rows=4 if unit else None,
            ledger=ledger,
            dataset="people",
            noise=Noise(insecure_seed=3),
            progress=log,
            witness=witness,
        )
    synth.save(folder / "model")
    release = dpsynth.release(synth, folder / "release", accept_inconclusive=True)
    entries = [e for e in ledger.entries() if e.kind in ("reserve", "commit")]
    return {
        "statement": without_names(synth.privacy.to_json()),
        "model": without_names(json.loads((folder / "model/model.json").read_text(encoding="utf-8"))),
        "parameters": (folder / "model/model.safetensors").read_bytes(),
        "rows": release.rows,
        "data": (folder / "release/data.csv").read_bytes(),
        "gate": (folder / "release/gate.json").read_bytes(),
        "schema": (folder / "release/schema.json").read_bytes(),
        "sample": synth.sample(100, seed=5).to_json(),
        "ledger": [without_names(e.body) for e in entries],
        "ledger size": (folder / "ledger.db").stat().st_size,
        "progress": log.shown,
        "log": [record.getMessage() for record in caplog.records if record.name.startswith("dpsynth")],
    }


def without_names(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: without_names(v) for k, v in value.items() if k not in OWN}
    return [without_names(v) for v in value] if isinstance(value, list) else value


@pytest.mark.parametrize("unit", [None, "who"])
def test_with_the_same_noisy_answers_a_table_of_another_size_leaves_the_same(
    unit: str | None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    table = mixed_table(1500, seed=1)
    table["who"] = np.arange(len(table)) // 3 if unit else 0
    other = mixed_table(1100, seed=2)
    other["who"] = np.arange(len(other)) // 2 if unit else 0
    recorder = Recorder()
    first = left_by(table, recorder, tmp_path / "first", unit, caplog)
    replay = recorder.replay()
    second = left_by(other, replay, tmp_path / "second", unit, caplog)
    assert len(replay.comparisons) > 40 and not all(c.holds for c in replay.comparisons), "the tables do differ"
    for name, value in first.items():
        assert second[name] == value, name
