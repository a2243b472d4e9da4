"""Queries to what is shareable do not tell whether an outlier was in the data; the same queries to the owner's report do.

The attack of "ReconSyn" (Ganev, De Cristofaro, "The Inadequacy of Similarity-based Privacy Metrics", 2023): whoever may ask a quality
metric about tables of their own making adds the record in question to one, and watches whether the metric gets better.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
from scipy.stats import beta

import dpsynth
from dpsynth import Column, Schema
from dpsynth.gate import judge
from dpsynth.privacy.audit import Recorder
from tests.conftest import witnessed

Figures = npt.NDArray[np.float64]
ROWS, EPSILON = 150, 0.5
SCHEMA = Schema(
    [
        Column("kind", "categorical", categories=("a", "b", "rare"), nullable=False, sensitive=True),
        Column("x", "numeric", bounds=(0, 9), integer=True, nullable=False),
    ]
)
OUTLIER = pd.DataFrame({"kind": ["rare"], "x": [9]})


def others(n: int, seed: int) -> pd.DataFrame:
    """Rows as the attacker knows them to be: none is like the outlier."""
    rng = np.random.default_rng(seed)
    return pd.DataFrame({"kind": rng.choice(["a", "b"], n), "x": rng.integers(0, 7, n)})


def world(seed: int, inside: bool) -> pd.DataFrame:
    return pd.concat([others(ROWS, seed), OUTLIER], ignore_index=True) if inside else others(ROWS, seed)


def answers(figures: Callable[[pd.DataFrame], Figures], queries: int) -> Figures:
    """What an oracle says of tables of the attacker's own, and by how much better it says they are with the outlier in them."""
    pairs = [
        (q, pd.concat([q, OUTLIER], ignore_index=True)) for q in (others(ROWS, 10_000 + i) for i in range(queries // 2))
    ]
    plain, with_outlier = (np.mean([figures(pair[side]) for pair in pairs], axis=0) for side in (0, 1))
    return np.concatenate([plain, with_outlier - plain])


def shareable(synth: dpsynth.Synthesizer, queries: int) -> Figures:
    """Every figure of the bundle, and of the gate's verdicts on the attacker's tables."""
    table, reference = synth.measured()

    def verdict(query: pd.DataFrame) -> Figures:
        checks = judge(synth, query, reference).checks
        return np.array(
            [(c.value, c.low, c.high, c.threshold, c.verdict == "pass") for c in checks], np.float64
        ).ravel()

    own = judge(synth, table, reference)
    distances = [(c.tv1, c.tv2, c.noise) for c in own.columns]
    histograms = np.concatenate([synth.one_way(name) for name in synth.schema.names])
    rows = [(table["kind"] == "rare").sum(), (table["x"] > 6).sum(), len(table), synth.privacy.units]
    return np.concatenate([answers(verdict, queries), verdict(table), np.ravel(distances), histograms, rows])


def internal(real: pd.DataFrame, queries: int) -> Figures:
    """Every figure of the owner's report on the attacker's tables."""

    def exact(query: pd.DataFrame) -> Figures:
        report = dpsynth.evaluate(real, query, schema=SCHEMA, learners=False)
        scores = report.synthetic
        return np.array([scores.tv1, scores.tv2, scores.mean, scores.sd, *(c.tv1 for c in report.columns)])

    return answers(exact, queries)


def advantage(inside: list[Figures], outside: list[Figures]) -> float:
    """Lower confidence bound (1 - 1e-4) on true minus false positives of the best rule "figure i is above (below) t".

    The rule is chosen on the first half of the worlds and tried on the second.
    """
    half = len(inside) // 2
    learn, test = ([np.array(side[part]) for side in (inside, outside)] for part in (slice(half), slice(half, None)))
    _, figure, cut, sign = max(
        (abs(gain), figure, cut, np.sign(gain))
        for figure in range(learn[0].shape[1])
        for cut in np.unique(np.concatenate([side[:, figure] for side in learn]))
        for gain in [(learn[0][:, figure] >= cut).mean() - (learn[1][:, figure] >= cut).mean()]
    )
    said = [(side[:, figure] >= cut) if sign > 0 else (side[:, figure] < cut) for side in test]
    hits, alarms, n = int(said[0].sum()), int(said[1].sum()), half
    least = float(beta.ppf(5e-5, hits, n - hits + 1)) if hits else 0.0
    most = float(beta.ppf(1 - 5e-5, alarms + 1, n - alarms)) if alarms < n else 1.0
    return least - most


@pytest.mark.statistical
def test_an_outlier_shows_in_the_owners_report_and_in_nothing_that_is_shared(tmp_path: Path) -> None:
    """Fresh fits with and without the outlier. What epsilon allows: (e^epsilon - 1 + 2 delta) / (e^epsilon + 1)."""
    worlds, ledger = 50, dpsynth.Ledger(tmp_path / "l.db")
    allowed = (np.exp(EPSILON) - 1 + 2e-6) / (np.exp(EPSILON) + 1)
    tables = [[world(seed, inside) for seed in range(worlds)] for inside in (True, False)]
    fit = partial(dpsynth.fit, epsilon=EPSILON, schema=SCHEMA, ledger=ledger, progress=False)
    shared = [
        [shareable(fit(table, dataset=f"{k} {i}"), 20) for i, table in enumerate(side)] for k, side in enumerate(tables)
    ]
    assert advantage(*shared) <= allowed
    exact = [[internal(table, 4) for table in side] for side in tables]
    assert advantage(*exact) > allowed, "the attack has no power"


def test_a_thousand_queries_see_no_more_than_the_noisy_answers(tmp_path: Path) -> None:
    """With and without the outlier, given the same noisy answers: everything shareable is equal, to the last byte.

    So whatever is asked, and however often, what an attacker learns is what the noisy answers tell: epsilon.
    """
    recorder = Recorder()

    def run(inside: bool, witness: Any) -> dpsynth.Synthesizer:
        return witnessed(world(1, inside), tmp_path / f"{inside}.db", witness, seed=3, schema=SCHEMA)

    first = run(True, recorder)
    replayed = recorder.replay()
    both = [first, run(False, replayed)]
    assert all(c.holds for c in replayed.comparisons)
    assert any(c.distance > 0 for c in replayed.comparisons), "the runs saw different rows"
    assert np.array_equal(*(shareable(synth, 1000) for synth in both))
    for i, synth in enumerate(both):
        dpsynth.release(synth, tmp_path / f"out{i}", accept_inconclusive=True)
    for path in (tmp_path / "out0").iterdir():
        if path.name != "manifest.json":  # hashes of the others
            one, other = (_without_ids(tmp_path / f"out{i}" / path.name, synth) for i, synth in enumerate(both))
            assert one == other, path.name


def _without_ids(path: Path, synth: dpsynth.Synthesizer) -> bytes:
    """A file without what every run has of its own: ids drawn at random, times, and the hashes of files that hold them."""
    if path.suffix == ".parquet":  # holds the run's id in several codings
        return pd.read_parquet(path).to_csv().encode()
    raw = path.read_bytes()
    for own in (synth.privacy.run, synth.privacy.dataset, synth.privacy.ledger_head, synth.privacy.created):
        raw = raw.replace(own.encode(), b"-")
    return re.sub(rb'"sha256": "\w+"', b"", raw)
