"""The gate decides by intervals, within the sensitivities it claims, and has power: good tables pass, each harm fails."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import dpsynth
from dpsynth import Column, Gate, Schema
from dpsynth.gate import GateMeasurement, candidates, first_close, judge
from dpsynth.gate.output import outside
from dpsynth.gate.tables import chance
from dpsynth.privacy.accounting import Cost
from dpsynth.privacy.audit import Recorder
from dpsynth.privacy.budget import Account
from dpsynth.privacy.events import AboveThreshold
from dpsynth.privacy.noise import Noise
from dpsynth.privacy.table import PrivateTable
from dpsynth.sources import read
from tests.conftest import witnessed

BENCH = Path(__file__).parents[2] / "bench"
CATEGORIES = {
    "sex": ("Female", "Male"),
    "origin": ("north", "south", "east"),
    "work": ("private", "public", "self-employed", "none"),
    "income": ("high", "low"),
}
SCHEMA = Schema(
    [
        Column("age", "numeric", bounds=(16, 100), integer=True, nullable=False),
        Column("sex", "categorical", categories=CATEGORIES["sex"], nullable=False, sensitive=True),
        Column("origin", "categorical", categories=CATEGORIES["origin"], nullable=False, sensitive=True),
        Column("work", "categorical", categories=CATEGORIES["work"], nullable=False),
        Column("schooling", "numeric", bounds=(1, 16), integer=True, nullable=False),
        Column("hours", "numeric", bounds=(1, 99), integer=True, nullable=False),
        Column("income", "categorical", categories=CATEGORIES["income"], nullable=False, role="target"),
    ]
)


def census(n: int, seed: int = 0) -> pd.DataFrame:
    """A table like a census: people whose sex, schooling, work, hours and income depend on each other."""
    rng = np.random.default_rng(seed)
    sex = np.where(rng.random(n) < 0.35, "Female", "Male")
    age = np.clip(rng.normal(40, 13, n), 16, 100).astype(int)
    schooling = np.clip(rng.normal(10, 2.5, n) + (age < 22) * -2, 1, 16).astype(int)
    work = np.array(CATEGORIES["work"])[
        np.clip(rng.poisson(np.where(age > 60, 2.2, 0.7)) + (schooling > 12) * (rng.random(n) < 0.5), 0, 3)
    ]
    hours = np.clip(rng.normal(np.where(sex == "Male", 44, 33), 8) - 20 * (work == "none"), 1, 99).astype(int)
    score = 0.35 * (schooling - 10) + 0.06 * (hours - 40) + 1.1 * (sex == "Male") + 0.02 * (age - 40)
    return pd.DataFrame(
        {
            "age": age,
            "sex": sex,
            "origin": rng.choice(CATEGORIES["origin"], n, p=[0.6, 0.3, 0.1]),
            "work": work,
            "schooling": schooling,
            "hours": hours,
            "income": np.where(score + rng.logistic(0, 0.8, n) > 1.6, "high", "low"),
        }
    ).astype(dict.fromkeys(CATEGORIES, object))


@pytest.fixture(scope="module")
def bench() -> Iterator[Any]:
    """The module bench/gate.py; bench/ is a folder of scripts, not a package."""
    import importlib.util

    spec = importlib.util.spec_from_file_location("bench_gate", BENCH / "gate.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["bench_gate"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["bench_gate"]


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> dpsynth.Synthesizer:
    ledger = dpsynth.Ledger(tmp_path_factory.mktemp("ledger") / "small.db")
    return dpsynth.fit(census(6000), epsilon=2.0, schema=SCHEMA, ledger=ledger, progress=False)


@pytest.mark.statistical
def test_power_and_size(bench: Any, tmp_path: Path) -> None:
    """At least 38 of 40 fresh gates decide rightly on each fixed table (they all do, but for a chance far below 1e-4)."""
    rows = census(30_000)
    ledger = dpsynth.Ledger(tmp_path / "power.db")
    synth = dpsynth.fit(rows, epsilon=1.0, schema=SCHEMA, ledger=ledger, progress=False)
    counted = bench.Counted(read(rows).source(None, None))
    harms = {"pair": ("sex", "income"), "group": ("sex", "Female"), "number": "age", "label": "work"}
    for case in bench.cases(synth, **harms):
        verdicts = bench.replays(rows, synth, case, 40, 1.0, counted)
        assert verdicts["pass" if case.name == "default" else "fail"] >= 38, (case.name, verdicts)


@pytest.mark.statistical
def test_few_rows_are_told_apart_from_a_verdict(bench: Any, tmp_path: Path) -> None:
    """With 2,000 rows and epsilon 1 the noise is too large: no harm that rests on it is passed, nothing good is failed."""
    rows, ledger = census(2000), dpsynth.Ledger(tmp_path / "few.db")
    large = dpsynth.fit(census(30_000, 1), epsilon=8.0, schema=SCHEMA, ledger=ledger, progress=False)
    domain = replace(large.domain, n_rows=len(rows), n_units=float(len(rows)))
    good = replace(large, domain=domain)
    counted = bench.Counted(read(rows).source(None, None))
    default = next(iter(bench.cases(good, pair=("sex", "income"), group=("sex", "Female"), number="age", label="work")))
    verdicts = bench.replays(rows, good, default, 40, 1.0, counted)
    assert verdicts["inconclusive"] >= 30 and verdicts["fail"] <= 3, verdicts


def of_columns(synth: dpsynth.Synthesizer, sigma: float) -> dpsynth.Synthesizer:
    """The same with a gate on columns and pairs as a whole, of another noise."""
    return replace(
        synth, gate=replace(synth.gate, gate=Gate(max_tv1=0.2, max_lost=0.9), sigma=sigma, pairs=(), groups=())
    )


def test_an_inconclusive_check_says_how_many_units_would_decide_it(small: dpsynth.Synthesizer) -> None:
    table = small.sample_typed()
    blurred = of_columns(small, sigma=0.5)
    report = judge(blurred, table)
    assert report.verdict == "inconclusive"
    undecided = [c for c in report.checks if c.verdict == "inconclusive"]
    assert undecided and all(c.needed and f"about {c.needed:,} units" in c.detail for c in undecided)
    # The noise in units is the same at every size: with so many times the units, the check would be decided.
    for check in undecided:
        shrunk = (check.high - check.value) * small.gate.units / check.needed
        assert abs(check.threshold - check.value) >= shrunk * (1 - 1e-6)


def test_the_release_says_that_an_inconclusive_verdict_was_accepted(small: dpsynth.Synthesizer, tmp_path: Path) -> None:
    blurred = of_columns(small, sigma=0.5)
    with pytest.raises(dpsynth.GateFailed, match="units would decide it"):
        dpsynth.release(blurred, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    done = dpsynth.release(blurred, tmp_path / "out", accept_inconclusive=True)
    assert done.gate.accepted
    for name in ("README.md", "report.html", "privacy.json", "gate.json"):
        assert "accepted" in (tmp_path / "out" / name).read_text(), name
    assert dpsynth.verify(tmp_path / "out").ok
    sure = dpsynth.release(of_columns(small, sigma=1e-5), tmp_path / "sure", accept_inconclusive=True)
    assert sure.gate.verdict == "pass" and not sure.gate.accepted
    assert "accepted" not in (tmp_path / "sure/privacy.json").read_text()


def test_watched_are_the_target_and_the_sensitive_columns_or_what_the_gate_names(small: dpsynth.Synthesizer) -> None:
    measured = small.gate
    assert [(p.first, p.second) for p in measured.pairs] == [("sex", "origin"), ("sex", "income"), ("origin", "income")]
    assert [g.columns for g in measured.groups] == [("sex",), ("origin",), ("sex", "origin")]
    assert GateMeasurement.from_json(measured.to_json()) == measured
    named = Gate(pairs=(("age", "hours"),), groups=())
    other = dpsynth.fit(census(1500), epsilon=2.0, schema=SCHEMA, gate=named, progress=False).gate
    assert [(p.first, p.second) for p in other.pairs] == [("age", "hours")] and other.groups == ()
    with pytest.raises(dpsynth.SchemaError, match="'nowhere'"):
        dpsynth.fit(census(300), epsilon=1.0, schema=SCHEMA, gate=Gate(groups=("nowhere",)), progress=False)
    with pytest.raises(dpsynth.PrivacyError, match="two columns"):
        Gate(pairs=(("age", "age"),))


@pytest.mark.parametrize("gate", [None, Gate(pairs=(("age", "hours"),), groups=("origin",))])
def test_a_plan_lists_what_a_gate_watches_and_the_noise_it_gets(gate: Gate | None) -> None:
    plan = dpsynth.plan(SCHEMA, epsilon=2.0, gate=gate)
    synth = dpsynth.fit(census(800), epsilon=2.0, schema=SCHEMA, gate=gate or "auto", progress=False)
    measured = synth.gate
    pairs = {(p.first, p.second): 2 * p.sigma * measured.units for p in measured.pairs}
    groups = {g.columns: g.sigma for g in measured.groups}
    for what, found in (("pair", pairs), ("groups", groups)):
        planned = {w.columns: w.sigma for w in plan.watched if w.what == what}
        assert planned == pytest.approx(found, rel=0.02), what  # noise of whole counts is rounded up a little
    assert {"pair", "groups"} == {entry["what"] for entry in plan.to_json()["watched"]}
    lacking = dpsynth.plan(SCHEMA, epsilon=2.0, gate=Gate(groups=("nowhere",)))
    assert any("cannot watch" in w and "nowhere" in w for w in lacking.warnings)


def test_the_first_candidate_that_looks_close_is_measured_and_the_look_is_booked(tmp_path: Path) -> None:
    several, ledger = Gate(candidates=3), dpsynth.Ledger(tmp_path / "l.db")
    synth = dpsynth.fit(census(1500), epsilon=2.0, schema=SCHEMA, gate=several, ledger=ledger, progress=False)
    (look,) = [e for e in synth.privacy.events if isinstance(e, AboveThreshold)]
    assert look in ledger.events(synth.privacy.run) and synth.privacy.recomputed_epsilon <= 2.0
    assert synth.privacy.recomputed_epsilon > 1.9 and "discrete Laplace" in synth.privacy.mechanism["noise"]
    (check,) = [c for c in judge(synth, synth.sample_typed()).checks if c.name == "candidates: first look"]
    assert check.verdict == ("pass" if synth.gate.candidate else "inconclusive")
    # The table that was measured is the one that a release writes, whichever it is.
    assert judge(synth, synth.sample_typed()).checks[1].value == pytest.approx(np.mean(synth.gate.tv2))
    synth.save(tmp_path / "model")
    assert dpsynth.load(tmp_path / "model").gate == synth.gate
    planned = [w for w in dpsynth.plan(SCHEMA, epsilon=2.0, gate=several).watched if w.what == "candidates"]
    assert [w.sigma for w in planned] == pytest.approx([look.sd / look.sensitivity], rel=0.02)
    with pytest.raises(dpsynth.PrivacyError, match="candidates"):
        Gate(candidates=0)


def test_candidates_that_are_far_off_are_passed_over_and_pay_the_same(small: dpsynth.Synthesizer) -> None:
    codes, weights = small.reference()
    apart = codes.max(axis=0) - codes  # mirrored: nothing fits
    spent = []
    for tables, expected in (([apart, codes, apart], 1), ([codes], 0), ([apart, apart], None)):
        table = PrivateTable(
            read(census(6000)).source(None, None), account=Account(Cost(mu_squared=2.0)), noise=Noise()
        )
        drawn = [(c, weights) for c in tables]
        assert first_close(table, small.domain.codecs, drawn, Gate(candidates=3), 1.0) == expected
        spent.append(table.account.spent.mu_squared)
    assert spent == pytest.approx([1.0] * 3)


def test_a_column_that_is_not_modelled_cannot_be_watched_and_is_told() -> None:
    rows = census(1500).assign(key=[f"k{i}" for i in range(1500)])
    schema = Schema([*SCHEMA.columns, Column("key", "id")])
    synth = dpsynth.fit(rows, epsilon=4.0, schema=schema, gate=Gate(groups=("key",)), progress=False)
    (check,) = [c for c in judge(synth, synth.sample_typed()).checks if c.name == "columns to watch"]
    assert check.verdict == "inconclusive" and "key" in check.detail


def test_a_group_is_judged_by_its_count_in_the_very_table(small: dpsynth.Synthesizer) -> None:
    table = small.sample_typed()
    women = table.index[table["sex"] == "Female"]
    poorer = pd.concat([table.drop(women[: len(women) // 2]), table[table["sex"] == "Male"].head(len(women) // 2)])
    report = judge(small, poorer.reset_index(drop=True))
    (check,) = [c for c in report.checks if c.name.startswith("groups of sex:")]
    assert check.verdict == "fail" and check.value == pytest.approx(0.5, abs=0.1) and "Female" in check.detail


@pytest.mark.parametrize(
    ("column", "values", "wrong"),
    [
        (Column("a", "numeric", bounds=(0, 10), integer=True, nullable=False), [0, 10, 11, -1, 2.5, None], 4),
        (Column("a", "numeric", bounds=(0, 10), nullable=True), [2.5, None], 0),
        (Column("a", "categorical", categories=("x", "y"), nullable=False), ["x", "z", None], 2),
        (Column("a", "categorical", categories=(1, 2), nullable=True), [1, 2, 3, None], 1),
        (Column("a", "boolean", nullable=True), [True, False, None], 0),
        (Column("a", "datetime", bounds=("2020-01-01", "2020-12-31")), ["2020-06-01", "2021-01-01", "soon"], 2),
        (Column("a", "text"), ["anything"], 0),
    ],
)
def test_values_outside_a_columns_facts_are_counted(column: Column, values: list[Any], wrong: int) -> None:
    assert outside(column, read(pd.DataFrame({"a": pd.Series(values, dtype=object)})).cells["a"]) == wrong


def test_a_value_outside_the_schema_or_a_column_too_many_fails(small: dpsynth.Synthesizer) -> None:
    table = small.sample_typed()
    old = table.copy()
    old.loc[0, "age"] = 101
    for harmed, said in (
        (old, "1 in age"),
        (table.assign(more=1), "'more'"),
        (table.drop(columns="work"), "'work'"),
    ):
        (check,) = [c for c in judge(small, harmed).checks if c.name == "values outside the schema"]
        assert check.verdict == "fail" and said in check.detail


def test_chance_is_what_two_samples_of_one_table_differ_by() -> None:
    rng = np.random.default_rng(0)
    shares = rng.dirichlet(np.ones(30))
    tvs = [0.5 * np.abs(np.subtract(*rng.multinomial(5000, shares, 2))).sum() / 5000 for _ in range(300)]
    assert chance(rng.multinomial(5000, shares).astype(float)) == pytest.approx(np.mean(tvs), rel=0.05)


def test_no_question_of_the_gate_moves_by_more_than_it_says(tmp_path: Path) -> None:
    """A run on a table without one row, given the same noisy answers: exact answers stay within each sensitivity."""
    rows = census(400)
    recorder = Recorder()

    def run(table: pd.DataFrame, witness: Any, name: str) -> Any:
        return witnessed(table, tmp_path / f"{name}.db", witness, schema=SCHEMA, gate=Gate(candidates=3))

    first = run(rows, recorder, "first")
    replayed = recorder.replay()
    second = run(rows.drop(index=57).reset_index(drop=True), replayed, "second")
    assert second.gate == first.gate
    assert replayed.comparisons and all(c.holds for c in replayed.comparisons)
    asked = {event.label for event in second.privacy.events if event.stage == "gate"}  # type: ignore[union-attr]
    assert {"distances of watched pairs", "groups of sex x origin", candidates.LABEL} <= asked
