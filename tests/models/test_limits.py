"""Limits of time and memory: work is planned by them, stops in time, and leaves a model of what was measured."""

from __future__ import annotations

import math
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import dpsynth
from dpsynth.models import Marginals
from dpsynth.models.marginals.limits import CELL_BYTES, LEAST_CELLS, LOADED, PLACE_BYTES, Clock, Limits
from dpsynth.models.marginals.minimise import LEAST_SWEEPS, minimise
from dpsynth.models.marginals.tilt import SWEEPS, WORK
from dpsynth.models.marginals.tilted import AT_ONCE, TOUCHES, Draws, TiltedField
from dpsynth.privacy.errors import ModelError
from tests.conftest import witnessed
from tests.models.test_adaptive import SCHEMA, planted


def test_without_limits_all_that_is_wanted_is_granted() -> None:
    free = Limits()
    assert free.cells(12_345) == 12_345 and free.places(WORK) == WORK and Draws.within(free, 50) == Draws()


def test_memory_bounds_cells_and_places_by_the_formula() -> None:
    limits = Limits(memory=LOADED + 40e6)
    assert limits.cells(10**9) * CELL_BYTES == pytest.approx(20e6, rel=1e-4)
    assert limits.places(10**9) * PLACE_BYTES == pytest.approx(20e6, rel=1e-4)
    assert Limits(memory=1.0).places(WORK) == 0 and Limits(memory=1.0).cells(10**6) == LEAST_CELLS
    assert Limits(memory=1.0).cells(10) == 10
    draws = Draws.within(limits, 30)
    assert draws.places <= limits.places(WORK) and draws.at_once < AT_ONCE and draws.touches == TOUCHES


def test_time_plans_smaller_structures_and_shorter_draws() -> None:
    one, ten = Limits(seconds=1.0), Limits(seconds=10.0)
    assert one.cells(10**9) * 10 == pytest.approx(ten.cells(10**9), rel=1e-3)
    assert one.places(10**9) * 10 == pytest.approx(ten.places(10**9), rel=1e-3)
    assert 1 <= Draws.within(Limits(seconds=0.1), 100).touches < TOUCHES


def test_the_clock_stands_still_while_rows_are_counted() -> None:
    clock = Clock(10.0)
    with clock:
        time.sleep(0.02)
        assert clock.until() - time.monotonic() < 10.0
    left = clock.left
    assert left <= 9.98
    time.sleep(0.05)
    assert clock.left == left
    assert Clock().left == math.inf and Clock().until(0.5) == math.inf
    late = Clock(1e-9)
    with late:
        time.sleep(0.001)
    assert late.left < 0 and late.until() <= time.monotonic()


def valley(pause: float = 0.0, seen: list[float] | None = None):  # type: ignore[no-untyped-def]
    """A badly scaled objective, which takes L-BFGS many steps."""

    def objective(at: torch.Tensor) -> tuple[float, torch.Tensor]:
        time.sleep(pause)
        weight = at.clone().requires_grad_()
        scale = torch.logspace(0, 5, len(weight), dtype=torch.float64)
        value = (scale * (weight - 1) ** 2).sum() + ((weight[1:] - weight[:-1] ** 2) ** 4).sum()
        value.backward()
        if seen is not None:
            seen.append(float(value.detach()))
        return float(value.detach()), weight.grad

    return objective


def test_a_search_stops_in_time_with_the_best_it_saw_and_tells_of_every_step() -> None:
    start, seen, told = torch.zeros(60, dtype=torch.float64), [], []
    found = minimise(valley(0.002, seen), start, 10_000, until=time.monotonic() + 0.15, advance=told.append)
    assert LEAST_SWEEPS <= len(seen) < 150 and sum(told) == 10_000
    assert valley()(found)[0] == min(seen)
    short: list[float] = []
    minimise(valley(seen=short), start, 10_000, until=time.monotonic() - 1)
    assert len(short) == LEAST_SWEEPS and min(short) < short[0]
    assert not start.any()


def test_a_search_ends_at_the_minimum() -> None:
    random = torch.Generator().manual_seed(0)
    axes = torch.linalg.qr(torch.randn(40, 40, generator=random, dtype=torch.float64)).Q
    curvature = axes @ torch.diag(torch.logspace(-2, 2, 40, dtype=torch.float64)) @ axes.T
    lowest = torch.randn(40, generator=random, dtype=torch.float64)

    def objective(at: torch.Tensor) -> tuple[float, torch.Tensor]:
        pull = curvature @ (at - lowest)
        return float((at - lowest) @ pull) / 2, pull

    found = minimise(objective, torch.zeros(40, dtype=torch.float64), 1000)
    assert torch.allclose(found, lowest, atol=1e-4)


def fitted(model: Marginals, path: Path, n: int = 6000) -> dpsynth.Synthesizer:
    return dpsynth.fit(planted(n), epsilon=2.0, schema=SCHEMA, model=model, ledger=str(path), progress=False)


def error(synth: dpsynth.Synthesizer, a: str, b: str) -> float:
    real, made = (pd.crosstab(t[a], t[b], normalize=True) for t in (planted(6000), synth.sample(6000, seed=0)))
    return float(np.abs(real.subtract(made, fill_value=0)).to_numpy().sum()) / 2


@pytest.mark.parametrize("structure", ["dense", "adaptive"])
def test_out_of_time_at_once_all_is_measured_and_the_model_is_of_use(structure: str, tmp_path: Path) -> None:
    """However little time: the budget is spent in full, and strong pairs are in the model."""
    hurried = fitted(Marginals(structure=structure, max_seconds=1e-6), tmp_path / "a.db")  # type: ignore[arg-type]
    patient = fitted(Marginals(structure=structure), tmp_path / "b.db")  # type: ignore[arg-type]
    assert hurried.privacy.recomputed_epsilon == pytest.approx(patient.privacy.recomputed_epsilon, rel=1e-9)
    assert hurried.tree and error(hurried, "a", "b") < 0.3  # independent columns are .81 apart


def test_what_memory_does_not_hold_is_not_measured(tmp_path: Path) -> None:
    small = fitted(Marginals(max_cells=1000, max_memory=1e6), tmp_path / "a.db")
    assert not isinstance(small.model, TiltedField) and small.tree
    room = fitted(Marginals(max_cells=1000), tmp_path / "b.db")
    assert isinstance(room.model, TiltedField) and room.model.draws == Draws()
    limited = fitted(Marginals(max_cells=1000, max_memory=LOADED + 16e6), tmp_path / "c.db")
    assert isinstance(limited.model, TiltedField)
    assert len(limited.model.dual.tables) * limited.model.draws.at_once * PLACE_BYTES <= 16e6
    path = tmp_path / "saved"
    limited.save(path)
    again = dpsynth.load(path)
    assert again.model.draws == limited.model.draws  # type: ignore[attr-defined]
    pd.testing.assert_frame_equal(again.sample(50, seed=1), limited.sample(50, seed=1))


@pytest.mark.slow
def test_arrays_of_a_tilt_stay_within_the_formula(tmp_path: Path) -> None:
    """What numpy holds while rows of a limited model are drawn; torch is not seen."""
    synth = fitted(Marginals(max_cells=1000, max_memory=LOADED + 16e6), tmp_path / "a.db")
    synth.model.sample(10, rng=np.random.default_rng(0), evidence={})  # what loads once
    tracemalloc.start()
    synth.model.sample(200_000, rng=np.random.default_rng(0), evidence={})
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 16e6 + 200_000 * 5 * 8 * 4  # and the rows themselves, joined and shuffled


@pytest.mark.parametrize("limit", [{"max_seconds": 0}, {"max_memory": -1.0}, {"max_seconds": math.nan}, {"rounds": 0}])
def test_limits_are_checked(limit: dict[str, float]) -> None:
    with pytest.raises(ModelError, match="must be"):
        Marginals(**limit)  # type: ignore[arg-type]


class Told:
    """Progress that is written down."""

    def __init__(self) -> None:
        self.stages: list[list[object]] = []

    def stage(self, name: str, total: int | None = None) -> None:
        self.stages.append([name, total, 0])

    def advance(self, n: int = 1) -> None:
        self.stages[-1][2] += n  # type: ignore[operator]

    def note(self, text: str) -> None:
        pass


def test_the_long_stages_tell_how_far_they_are(tmp_path: Path) -> None:
    told = Told()
    generator = Marginals(max_cells=300, iterations=70)
    witnessed(planted(1000), tmp_path / "a.db", progress=told, schema=SCHEMA, generator=generator)
    stages = {str(name): (total, done) for name, total, done in told.stages}
    assert stages["fitting the model"] == (70, 70)
    assert stages["fitting the further pairs"] == (SWEEPS, SWEEPS)


def test_fit_takes_limits_for_the_model_or_refuses_before_a_row_is_looked_at(tmp_path: Path) -> None:
    settings = {"epsilon": 1.0, "schema": SCHEMA, "progress": False, "ledger": str(tmp_path / "a.db")}
    synth = dpsynth.fit(planted(1000), max_seconds=2.0, max_memory=LOADED + 1e6, **settings)  # type: ignore[arg-type]
    assert len(synth.sample(20)) == 20
    for unfit in ({"model": "ctgan", "max_seconds": 5.0}, {"max_memory": -1.0}):
        with pytest.raises(ModelError, match="max_"):
            dpsynth.fit(planted(1000), **(settings | unfit))  # type: ignore[arg-type]
    assert sum(e.kind == "commit" for e in dpsynth.Ledger(tmp_path / "a.db").entries()) == 1
