"""Beyond the junction tree: the tilt against brute force, Gibbs sweeps against the joint, state, conditions."""

from __future__ import annotations

import itertools
import math
import time

import numpy as np
import pytest
import torch

from dpsynth.models.marginals.field import MarkovField
from dpsynth.models.marginals.inference import Table, fit_potentials
from dpsynth.models.marginals.junction_tree import build
from dpsynth.models.marginals.tilt import (
    ITERATIONS,
    Conditionals,
    Dual,
    Factor,
    effective_size,
    factor_of,
    fit_tilt,
    resample,
    systematic,
)
from dpsynth.models.marginals.tilted import Draws, TiltedField
from dpsynth.privacy.errors import ModelError

SIZES = (2, 3, 4, 3)
N = 50_000
PAIRS = list(itertools.combinations(range(4), 2))


def joint_of_truth() -> np.ndarray:
    """A joint whose dependence no tree of pairs holds: all six pairs interact."""
    rng = np.random.default_rng(0)
    logs = np.zeros(SIZES)
    for a, b in PAIRS:
        shape = [SIZES[c] if c in (a, b) else 1 for c in range(4)]
        logs = logs + rng.normal(0, 0.7, shape)
    p = np.exp(logs)
    return p / p.sum()


def marginal(p: np.ndarray, keep: tuple[int, ...]) -> np.ndarray:
    return p.sum(axis=tuple(a for a in range(4) if a not in keep))


def table(p: np.ndarray, keep: tuple[int, ...], sigma: float = 5.0) -> Table:
    return Table(keep, torch.from_numpy(N * marginal(p, keep)), torch.full((1,), sigma, dtype=torch.float64))


@pytest.fixture(scope="module")
def tilted() -> TiltedField:
    """A chain in the tree, the three other pairs beside it."""
    p = joint_of_truth()
    chain = [(0, 1), (1, 2), (2, 3)]
    of_tree = [table(p, query) for query in [*((a,) for a in range(4)), *chain]]
    base = [np.log(marginal(p, (a,))) for a in range(4)]
    tree = build(SIZES, chain)
    potentials, thetas = fit_potentials(
        tree, [torch.from_numpy(b) for b in base], of_tree, n_units=N, regularisation=0.01, iterations=300
    )
    field = MarkovField(list("abcd"), chain, tree, potentials)
    own = [factor_of(t, theta, SIZES) for t, theta in zip(of_tree, thetas, strict=True)]
    rng = np.random.default_rng(1)
    further = [table(p, query) for query in PAIRS if query not in chain]
    dual = Dual.start([*of_tree, *further], SIZES, N, 0.01)
    return TiltedField(field, base, own, fit_tilt(dual, field.sample(50_000, rng=rng, evidence={}), base, own, rng))


def shares(rows: np.ndarray) -> np.ndarray:
    counts = np.bincount(np.ravel_multi_index(list(rows.T), SIZES), minlength=math.prod(SIZES))
    return counts.reshape(SIZES) / len(rows)


def test_a_tilted_tree_meets_tables_that_the_tree_cannot_hold(tilted: TiltedField) -> None:
    p, n = joint_of_truth(), 60_000
    rows = tilted.sample(n, rng=np.random.default_rng(2), evidence={})
    alone = tilted.field.sample(n, rng=np.random.default_rng(2), evidence={})
    for pair in [(0, 2), (0, 3), (1, 3)]:
        error, before = (np.abs(marginal(shares(drawn), pair) - marginal(p, pair)).sum() / 2 for drawn in (rows, alone))
        assert error < 0.006 and before > 5 * error
    assert np.abs(shares(rows) - p).sum() / 2 < 0.02  # six pairs make this joint: it is met as a whole


def test_a_tilt_that_is_out_of_time_makes_one_short_round_that_helps(tilted: TiltedField) -> None:
    p, told = joint_of_truth(), []
    start = Dual.start(tilted.dual.tables, SIZES, N, 0.01)
    rng = np.random.default_rng(1)
    rows = tilted.field.sample(50_000, rng=rng, evidence={})
    began = time.monotonic()
    dual = fit_tilt(start, rows, tilted.base, tilted.own, rng, until=began, advance=told.append)
    assert sum(told) == ITERATIONS
    short = TiltedField(tilted.field, tilted.base, tilted.own, dual)
    drawn = short.sample(20_000, rng=np.random.default_rng(2), evidence={})
    alone = tilted.field.sample(20_000, rng=np.random.default_rng(2), evidence={})
    for pair in [(0, 2), (0, 3), (1, 3)]:
        after, before = (np.abs(marginal(shares(some), pair) - marginal(p, pair)).sum() for some in (drawn, alone))
        assert after < before / 2


def test_conditions_are_met_and_the_rest_follows(tilted: TiltedField) -> None:
    p = joint_of_truth()
    only = tilted.sample(40_000, rng=np.random.default_rng(3), evidence={"d": np.array([0.0, 1.0, 0.0])})
    assert set(only[:, 3]) == {1}
    expected = p[..., 1] / p[..., 1].sum()
    assert np.abs(shares(only)[..., 1] - expected).sum() / 2 < 0.03
    mild = tilted.sample(40_000, rng=np.random.default_rng(3), evidence={"a": np.array([1.0, 3.0])})
    expected = marginal(p, (0,)) * [1, 3]
    assert marginal(shares(mild), (0,)) == pytest.approx(expected / expected.sum(), abs=0.01)
    with pytest.raises(ModelError, match="no row possible"):
        tilted.sample(5, rng=np.random.default_rng(0), evidence={"a": np.zeros(2)})
    assert tilted.sample(0, rng=np.random.default_rng(0), evidence={}).shape == (0, 4)


def test_a_few_rows_are_as_likely_as_in_a_whole_sample(tilted: TiltedField) -> None:
    # The row that meets the tables best would be that of the fullest cells, time and again.
    draws = [tilted.sample(1, rng=np.random.default_rng(seed), evidence={}) for seed in range(30)]
    drawn, p = shares(np.concatenate(draws)), joint_of_truth()
    assert max(np.abs(marginal(drawn, (a,)) - marginal(p, (a,))).sum() / 2 for a in range(4)) < 0.3


def test_parts_of_a_long_draw_are_the_same_however_many_are_drawn_at_a_time(tilted: TiltedField) -> None:
    field = TiltedField(tilted.field, tilted.base, tilted.own, tilted.dual, Draws(at_once=5000, touches=5))
    before, drawn = torch.get_num_threads(), []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            drawn.append(field.sample(12_000, rng=np.random.default_rng(4), evidence={}))
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert np.array_equal(*drawn) and len(drawn[0]) == 12_000
    assert not np.array_equal(drawn[0][:5000], drawn[0][5000:10_000])
    assert np.abs(shares(drawn[0]) - joint_of_truth()).sum() / 2 < 0.05


def test_a_sweep_leaves_the_distribution_and_reaches_it() -> None:
    p = joint_of_truth()
    codes = tuple(np.arange(s) for s in SIZES)
    rng = np.random.default_rng(0)
    factors = []
    for a, b in PAIRS:  # the same draws as `joint_of_truth`
        factors.append(Factor((a, b), (codes[a], codes[b]), rng.normal(0, 0.7, (SIZES[a], SIZES[b]))))
    sweeps = Conditionals(SIZES, [np.zeros(s) for s in SIZES], factors)
    rows = np.zeros((60_000, 4), np.int64)  # as far off as can be
    for _ in range(12):
        rows = sweeps.sweep(rows, rng, {})
    assert np.abs(shares(rows) - p).sum() / 2 < 0.02
    held = sweeps.sweep(rows, rng, {2: np.log(np.array([1e-300, 1e-300, 1.0, 1e-300]))})
    assert set(held[:, 2]) == {2}


def test_coarse_tables_bind_sums_of_codes_alone() -> None:
    groups = (torch.tensor([0, 0, 1]), torch.tensor([0, 1, 1]))
    coarse = Table((1, 3), torch.ones(2, 2), torch.ones(1), groups)
    theta = torch.tensor([[1.0, 2.0], [3.0, 4.0]], dtype=torch.float64)
    spread = factor_of(coarse, theta, SIZES).over_codes()
    assert np.array_equal(spread, [[1, 2, 2], [1, 2, 2], [3, 4, 4]])
    assert np.array_equal(coarse.over_codes(theta).numpy(), spread)


@pytest.mark.parametrize("columns", [1, 3, 300])
def test_systematic_resampling_goes_along_the_sorted_rows(columns: int) -> None:
    rng = np.random.default_rng(1)
    rows = rng.integers(0, 70_000 if columns == 3 else 300, (200, columns))
    rows[100:150] = rows[:50]
    drawn = rows[systematic(rows, np.zeros(len(rows)), len(rows), rng)].tolist()
    assert drawn == sorted(rows.tolist())


def test_systematic_resampling_is_even() -> None:
    rng = np.random.default_rng(0)
    rows = np.stack([rng.integers(0, 4, 5000), rng.integers(0, 3, 5000)], axis=1)
    logs = np.where(rows[:, 0] == 1, math.log(3.0), 0.0)
    drawn = resample(rows, logs, 2000, rng)
    expected = np.bincount(rows[:, 0], weights=np.exp(logs))
    assert np.abs(np.bincount(drawn[:, 0]) - 2000 * expected / expected.sum()).max() <= 1  # sorted by it first
    assert effective_size(np.zeros(50)) == pytest.approx(50) and effective_size(np.array([0.0, -800.0])) == 1


def test_a_tilted_field_survives_its_state_and_refuses_what_was_altered(tilted: TiltedField) -> None:
    arrays, body = tilted.state()
    again = TiltedField.from_state(arrays, body)
    assert again.pairs == tilted.pairs == tuple(itertools.combinations("abcd", 2))
    draws = [f.sample(500, rng=np.random.default_rng(0), evidence={}) for f in (tilted, again)]
    assert np.array_equal(*draws)
    for name, part in (("tilt.5", slice(1)), ("base.0", slice(1)), ("measured.5", slice(1))):
        with pytest.raises(ModelError, match="altered"):
            TiltedField.from_state(arrays | {name: arrays[name][part]}, body)
    with pytest.raises(ModelError, match="whole"):
        TiltedField.from_state({k: v for k, v in arrays.items() if k != "own.1"}, body)
