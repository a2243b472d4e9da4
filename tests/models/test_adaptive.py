"""Selection in rounds: it spends what it has, asks for what the model does not explain, and is one DP mechanism."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import dpsynth
from dpsynth.models import Marginals
from dpsynth.models.marginals.adaptive import GROWTH, Rounds
from dpsynth.models.protocol import IMPOSSIBLE
from dpsynth.privacy.audit import Recorder
from dpsynth.privacy.events import Gaussian, leaves
from tests.conftest import witnessed

VALUES = list("qrstuvwxyz")
SCHEMA = dpsynth.Schema([dpsynth.Column(c, "categorical", categories=VALUES, nullable=False) for c in "abcde"])


def copied(rng: np.random.Generator, column: np.ndarray, share: float) -> np.ndarray:
    return np.where(rng.random(len(column)) < share, column, rng.integers(0, 10, len(column)))


def planted(n: int, seed: int = 0) -> pd.DataFrame:
    """A chain a - b - c - d, and e, which follows a as well as d: only the chain and e's two pairs are needed."""
    rng = np.random.default_rng(seed)
    a = rng.integers(0, 10, n)
    b = copied(rng, a, 0.9)
    c = copied(rng, b, 0.9)
    d = copied(rng, c, 0.9)
    e = copied(rng, np.where(rng.random(n) < 0.5, a, 9 - d), 0.9)
    return pd.DataFrame({name: np.array(VALUES)[v] for name, v in zip("abcde", (a, b, c, d, e), strict=True)})


def adaptive(table: pd.DataFrame, epsilon: float = 4.0, **settings: object) -> dpsynth.Synthesizer:
    model = Marginals(structure="adaptive", **settings)  # type: ignore[arg-type]
    return dpsynth.fit(table, epsilon=epsilon, schema=SCHEMA, model=model, progress=False)


def mu_squared(synth: dpsynth.Synthesizer, *stages: str) -> float:
    events = [leaf for event in synth.privacy.events for leaf in leaves(event) if leaf.stage in stages]
    return sum((e.sensitivity / e.sigma) ** 2 for e in events if isinstance(e, Gaussian))


def test_rounds_spend_what_one_shot_spends_all_of_it() -> None:
    table, rounds = planted(500), 4
    synth = adaptive(table, rounds=rounds, iterations=20)
    at_once = dpsynth.fit(table, epsilon=4.0, schema=SCHEMA, model=Marginals(iterations=20), progress=False)
    for stage in ("selection", "pairs"):
        assert mu_squared(synth, stage) == pytest.approx(mu_squared(at_once, stage), rel=1e-9)
    assert synth.privacy.recomputed_epsilon == pytest.approx(at_once.privacy.recomputed_epsilon, rel=1e-9)
    looks = [e for event in synth.privacy.events for e in leaves(event) if e.stage == "selection"]
    assert len(looks) == rounds


def test_shares_grow_and_add_up() -> None:
    plan = Rounds(rounds=3, selecting=0.1, measuring=2.0, weights=[1.0], further_weight=0.5)
    looking, measuring = zip(*plan.shares(), strict=True)
    assert sum(looking) == pytest.approx(0.1) and sum(measuring) == pytest.approx(2.0)
    assert measuring[2] == pytest.approx(GROWTH * measuring[1]) == pytest.approx(GROWTH**2 * measuring[0])


def test_where_room_is_short_it_goes_to_what_others_do_not_explain() -> None:
    """One shot sees a - c and b - d as dependent as they are, and fills the tree with them; the rounds see that the chain explains
    them, and keep room for both pairs of e."""
    table = planted(6000)
    needed = {("a", "b"), ("b", "c"), ("c", "d"), ("a", "e"), ("d", "e")}
    bought = {}
    for structure in ("adaptive", "dense"):
        model = Marginals(structure=structure, further_weight=0.0, max_cells=3000)  # type: ignore[arg-type]
        with pytest.warns(UserWarning, match="NOT PRIVATE"):
            synth = dpsynth.fit(table, epsilon=1.0, schema=SCHEMA, model=model, progress=False, insecure_seed=1)
        bought[structure] = set(synth.tree)
    assert needed <= bought["adaptive"] and not needed <= bought["dense"]


@pytest.mark.slow
def test_pairs_beyond_the_tree_are_met_too() -> None:
    table = planted(20_000)
    synth = adaptive(table, max_cells=40)
    drawn = synth.sample(20_000, seed=0)
    for a, b in (("a", "b"), ("a", "e"), ("d", "e")):
        real, made = (pd.crosstab(t[a], t[b], normalize=True) for t in (table, drawn))
        assert float((real - made).abs().to_numpy().sum()) / 2 < 0.03, (a, b)


@pytest.mark.parametrize("shape", [(1, 3), (400, 1), (1, 1)])
def test_little_tables_work(shape: tuple[int, int]) -> None:
    n, d = shape
    table = planted(n).iloc[:, :d]
    schema = dpsynth.Schema([SCHEMA[name] for name in table.columns])
    model = Marginals(structure="adaptive")
    assert dpsynth.fit(table, epsilon=1.0, schema=schema, model=model, progress=False).sample(5).shape == (5, d)


def test_constraints_hold_in_the_model_itself() -> None:
    table = planted(3000)
    table = table[~((table["a"] == "x") & (table["d"] == "z"))]
    schema = replace(SCHEMA, constraints=(dpsynth.Impossible({"a": "x", "d": "z"}),))
    model = Marginals(structure="adaptive", max_cells=40)
    synth = dpsynth.fit(table, epsilon=2.0, schema=schema, model=model, progress=False)
    codes = synth.model.sample(5000, rng=np.random.default_rng(0), evidence={})
    names = [f.codec.column for f in synth.domain.facts if f.codec is not None]
    (zeros,) = synth.domain.rules.zeros
    held = zeros.log_weights[tuple(codes[:, names.index(c)] for c in zeros.columns)]
    assert (zeros.log_weights == IMPOSSIBLE).any() and not (held == IMPOSSIBLE).any()


def test_neighbours_ask_the_same_queries_and_end_with_the_same_model(tmp_path: Path) -> None:
    """Every round's queries move by no more than they say, and follow from noisy answers alone."""
    table = planted(600)
    recorder = Recorder()
    settings = {"schema": SCHEMA, "generator": Marginals(structure="adaptive", rounds=3)}
    first = witnessed(table, tmp_path / "first.db", recorder, **settings)
    replay = recorder.replay()
    second = witnessed(table.drop(index=0).reset_index(drop=True), tmp_path / "second.db", replay, **settings)
    assert all(c.holds for c in replay.comparisons), [c.label for c in replay.comparisons if not c.holds]
    assert sum(c.label.startswith("selection/") for c in replay.comparisons) == 3
    assert max(c.distance / c.sensitivity for c in replay.comparisons) > 0.9
    pd.testing.assert_frame_equal(first.sample(300, seed=1), second.sample(300, seed=1))
