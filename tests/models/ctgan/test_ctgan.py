"""CTGAN from rows to a saved model, in the flow that users call."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from safetensors import safe_open

import dpsynth
from dpsynth import Column, Schema
from dpsynth.models import CTGAN, Marginals
from dpsynth.models.ctgan.generator import misfit, own_tables
from dpsynth.models.protocol import Training
from dpsynth.privacy.accounting import gaussian_epsilon
from dpsynth.privacy.events import SubsampledGaussian, leaves

SMALL = {"warm_up_rows": 8000, "warm_up_steps": 200, "generator_width": 48, "critic_warm_up_steps": 50, "steps": 8}


def people(n: int = 3000, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    age = rng.integers(18, 80, n)
    return pd.DataFrame(
        {
            "age": age,
            "old": np.where(age > 50, "yes", "no"),
            "score": np.round(age + rng.normal(0, 5, n), 1),
            "town": rng.choice(["Lima", "Oslo", "Rome"], n, p=[0.6, 0.3, 0.1]),
        }
    )


SCHEMA = Schema(
    [
        Column("age", "numeric", bounds=(18, 80), integer=True, nullable=False),
        Column("old", "categorical", categories=["yes", "no"], nullable=False),
        Column("score", "numeric", bounds=(0, 110), decimals=1, nullable=False),
        Column("town", "categorical", categories=["Lima", "Oslo", "Rome"], nullable=False),
    ]
)


def fitted(model: Any = None, **kwargs: Any) -> dpsynth.Synthesizer:
    settings = {"epsilon": 3.0, "schema": SCHEMA, "progress": False, "device": "cpu"} | kwargs
    return dpsynth.fit(people(), model=model or CTGAN(**SMALL), **settings)


@pytest.fixture(scope="module")
def synth(tmp_path_factory: pytest.TempPathFactory) -> dpsynth.Synthesizer:
    return fitted(ledger=f"sqlite:///{tmp_path_factory.mktemp('ledger')}/budget.db")


def test_columns_and_dependence_are_learned(synth: dpsynth.Synthesizer) -> None:
    real, out = people(), synth.sample(10_000, seed=1)
    assert list(out.columns) == list(real.columns) and (out.dtypes == real.dtypes).all()
    assert out["age"].mean() == pytest.approx(real["age"].mean(), abs=2)
    assert ((out["age"] > 50) == (out["old"] == "yes")).mean() > 0.85
    assert out["age"].corr(out["score"]) > 0.8
    assert (out["town"] == "Lima").mean() == pytest.approx(0.6, abs=0.04)


def test_conditions_are_exact_and_the_rest_follows(synth: dpsynth.Synthesizer) -> None:
    out = synth.sample(2000, where={"old": "yes", "town": "Rome"}, seed=2)
    assert (out["old"] == "yes").all() and (out["town"] == "Rome").all()
    assert out["age"].mean() > 55


def test_every_stage_is_paid_for_within_epsilon(synth: dpsynth.Synthesizer) -> None:
    privacy = synth.privacy
    stages = dict.fromkeys(leaf.stage for event in privacy.events for leaf in leaves(event))
    assert list(stages) == ["vocabulary", "one-way", "selection", "pairs", "critic", "gate"]
    (training,) = [e for e in privacy.events if isinstance(e, SubsampledGaussian)]
    assert training.steps == 8 and training.sampling_rate == 0.1
    assert 2.9 < privacy.recomputed_epsilon <= 3.0
    assert "clipping" in privacy.mechanism["floating_point"] and "Poisson" in privacy.mechanism["noise"]


def test_saved_is_an_allow_list_and_loads_the_same_model(synth: dpsynth.Synthesizer, tmp_path: Path) -> None:
    synth.save(tmp_path / "model")
    with safe_open(tmp_path / "model/model.safetensors", "np") as file:
        names = set(file.keys())
    tables = len(json.loads((tmp_path / "model/model.json").read_text())["model"]["tables"])
    networks = {"generator": synth.model.generator, "critic": synth.model.critic}  # type: ignore[attr-defined]
    expected = {f"{network}.{p}" for network, module in networks.items() for p, _ in module.named_parameters()}
    expected |= {f"shares.{a}" for a in range(4)} | {"theta"}
    expected |= {f"{kind}.{i}" for kind in ("measured", "sigma") for i in range(tables)}
    assert names == expected
    assert sorted(p.name for p in (tmp_path / "model").iterdir()) == ["model.json", "model.safetensors"]
    loaded = dpsynth.load(tmp_path / "model")
    pd.testing.assert_frame_equal(loaded.sample_typed(300, seed=5), synth.sample_typed(300, seed=5))
    assert loaded.tree == synth.tree


@pytest.mark.parametrize("harm", ["missing", "shape", "theta"])
def test_an_altered_model_is_refused(synth: dpsynth.Synthesizer, harm: str) -> None:
    arrays, body = synth.model.state()
    if harm == "missing":
        del arrays["critic.head.weight"]
    elif harm == "shape":
        arrays["generator.start"] = np.zeros(3)
    else:
        arrays["theta"] = np.zeros(2)
    with pytest.raises(dpsynth.ModelError, match="altered"):
        type(synth.model).from_state(arrays, body)  # type: ignore[attr-defined]


def test_it_is_released_like_any_model(synth: dpsynth.Synthesizer, tmp_path: Path) -> None:
    dpsynth.release(synth, tmp_path / "out", accept_inconclusive=True)
    assert dpsynth.verify(tmp_path / "out").ok


def test_all_of_epsilon_may_go_into_the_warm_up() -> None:
    privacy = fitted(CTGAN(training_share=0.0, **SMALL)).privacy
    assert not any(isinstance(e, SubsampledGaussian) for e in privacy.events)
    assert privacy.recomputed_epsilon == pytest.approx(3.0, rel=0.01)


def test_without_the_marginals_model_no_pair_is_asked() -> None:
    synth = fitted(CTGAN(training_share=0.5, warm_up="columns", **SMALL))
    stages = {leaf.stage for event in synth.privacy.events for leaf in leaves(event)}
    assert stages == {"vocabulary", "one-way", "critic", "gate"}
    assert synth.tree == [] and len(synth.sample(100)) == 100


def test_a_table_of_one_column_will_do() -> None:
    synth = dpsynth.fit(
        people()[["town"]], epsilon=3.0, schema=Schema([SCHEMA["town"]]), model=CTGAN(**SMALL), progress=False
    )
    assert (synth.sample(4000)["town"] == "Lima").mean() == pytest.approx(0.6, abs=0.05)


def test_a_unit_of_several_rows_is_one_unit_of_the_training() -> None:
    rows = people(1200).assign(who=np.arange(1200) // 3)
    synth = dpsynth.fit(
        rows, epsilon=3.0, schema=Schema([*SCHEMA.columns]), unit="who", max_rows_per_unit=4,
        model=CTGAN(**SMALL), progress=False,
    )  # fmt: skip
    out = synth.sample(600)
    assert out.groupby("who").size().max() <= 4
    assert synth.privacy.units is not None and synth.privacy.units == pytest.approx(400, abs=60)


class Shown:
    """Progress that is written down."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def stage(self, name: str, total: int | None = None) -> None:
        self.seen.append(name)

    def advance(self, n: int = 1) -> None:
        pass

    def note(self, text: str) -> None:
        self.seen.append(text)


def test_progress_tells_epsilon_so_far(monkeypatch: pytest.MonkeyPatch) -> None:
    from contextlib import contextmanager

    shown = Shown()
    monkeypatch.setattr("dpsynth.synthesize.make_progress", contextmanager(lambda enabled: iter([shown])))
    fitted()
    told = [float(t.split()[1]) for t in shown.seen if t.startswith("epsilon")]
    assert len(told) == 4 and told == sorted(told) and told[0] < told[-1] <= 3.0
    spent_before = gaussian_epsilon((0.85 * 0.9 * _mu_squared()) ** 0.5, 1e-6)
    assert told[-1] > 0.95 * spent_before
    assert not any("loss" in t for t in shown.seen)


def _mu_squared() -> float:
    from dpsynth.privacy.budget import budget_of

    return budget_of(3.0, 1e-6).mu_squared


def test_the_reserve_is_as_private_as_asked() -> None:
    for epsilon in (0.5, 1.0, 8.0):
        reserve = CTGAN().reserve(epsilon, 1e-6)
        assert 0.99 * epsilon < reserve.epsilon(1e-6) <= epsilon
    assert isinstance(CTGAN(), Training) and not isinstance(Marginals(), Training)


def test_a_run_that_reserved_no_training_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from dpsynth.privacy.budget import Reserve, budget_of

    monkeypatch.setattr(CTGAN, "reserve", lambda self, epsilon, delta: Reserve(adaptive=budget_of(epsilon, delta)))
    with pytest.raises(dpsynth.PrivacyError, match="not among what the run reserved"):
        fitted()


@pytest.mark.parametrize(
    "wrong",
    [
        {"training_share": 1.0},
        {"sampling_rate": 0.0},
        {"steps": 0},
        {"clipping_norm": 0.0},
        {"loss": "hinge"},
        {"warm_up": "rows"},
        {"warm_up_steps": -1},
    ],
)
def test_settings_that_make_no_sense_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(dpsynth.ModelError):
        CTGAN(**wrong)


def test_the_misfit_tells_rows_that_fit_from_rows_that_do_not() -> None:
    rng = np.random.default_rng(0)
    rows = np.stack([a := rng.integers(3, size=6000), (a + rng.integers(2, size=6000)) % 4], axis=1)
    dual = own_tables(rows, [3, 4], [(0, 1)], 5000.0)
    even = np.zeros(6000)
    assert misfit(dual, rows, even) < 0.1 < 5 < misfit(dual, rng.permuted(rows, axis=0), even)
    assert misfit(dual, rows, 2.0 * (rows[:, 0] == 0)) > 5


@pytest.mark.slow
def test_the_named_model_runs_from_the_command_line(tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from dpsynth.cli import app

    people(2000).to_parquet(tmp_path / "people.parquet")
    SCHEMA.save(tmp_path / "schema.json")
    args = ["fit", str(tmp_path / "people.parquet"), "--out", str(tmp_path / "model"), "--epsilon", "2"]
    done = CliRunner().invoke(app, [*args, "--schema", str(tmp_path / "schema.json"), "--model", "ctgan", "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads((tmp_path / "model/model.json").read_text())["model"]["family"] == "ctgan"
