"""The plan: what a fit would spend, held against what one does spend, and whether it warns where it should."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

import dpsynth
from dpsynth import Column, Schema
from dpsynth.models import CTGAN, Language
from dpsynth.models.language.tuning import Tuning
from dpsynth.planning import PHASES, STAGES, BudgetPlan
from dpsynth.privacy.events import Gaussian, StabilityHistogram, SubsampledGaussian
from dpsynth.split import COUNTED_PART

WIDE = Schema(
    [
        Column("age", "numeric", bounds=(0, 110), integer=True),
        Column("region", "categorical", categories=("north", "south"), nullable=False),
        Column("code", "categorical", categories=tuple(f"c{i:02d}" for i in range(60))),
        Column("city", "categorical"),
        Column("income", "numeric"),
        Column("member", "boolean"),
        Column("mail", role="identifier"),
    ]
)


def cells(plan: BudgetPlan) -> dict[str, int | None]:
    return {c.columns[0]: c.cells for c in plan.columns}


def shown(plan: BudgetPlan, width: int) -> str:
    console = Console(file=io.StringIO(), width=width)
    console.print(plan)
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_a_plan_is_what_a_fit_does() -> None:
    """Power: noise of every histogram and the threshold of every vocabulary, as the run then drew and used them."""
    rng = np.random.default_rng(0)
    table = pd.DataFrame({name: rng.choice(["a", "b", "c"], 2000) for name in ("one", "two", "three")})
    table["four"] = rng.random(2000) < 0.5
    schema = Schema([*(Column(n, "categorical") for n in ("one", "two", "three")), Column("four", "boolean")])
    plan = dpsynth.plan(schema, epsilon=2.0, delta=1e-6, n_rows=2000)
    events = dpsynth.fit(table, schema=schema, epsilon=2.0, delta=1e-6, progress=False).privacy.events
    sigmas = {line.stage: line.sigma for line in plan.lines}
    one_way = [e for e in events if isinstance(e, Gaussian) and e.stage == "one-way"]
    words = [e for e in events if isinstance(e, StabilityHistogram)]
    noise = {e.label: e.sigma / e.sensitivity for e in one_way}
    assert noise["four"] == pytest.approx(sigmas["one-way"]) and len(noise) == 4
    for name in ("one", "two", "three"):  # counted already when their values were found
        assert noise[name] == pytest.approx(sigmas["one-way"] / COUNTED_PART**0.5)
        together = next(c.sigma for c in plan.columns if c.columns == (name,))
        assert together == pytest.approx((noise[name] ** -2 + sigmas["vocabulary"] ** -2) ** -0.5)
    assert len(words) == 3 and all(e.sigma / e.sensitivity == pytest.approx(sigmas["vocabulary"]) for e in words)
    planned = {c.columns[0]: c.seen_from for c in plan.columns}
    for event in words:
        assert event.threshold / event.sensitivity == pytest.approx(planned["one"], abs=1.0)
    assert planned["four"] is None


def test_a_plan_shows_the_training_that_a_fit_reserves() -> None:
    """Power: noise of the training and of every histogram beside it, as the run then booked them."""
    rng = np.random.default_rng(0)
    table = pd.DataFrame({name: rng.choice(["a", "b"], 500) for name in ("one", "two")})
    schema = Schema([Column(name, "categorical", categories=("a", "b"), nullable=False) for name in table])
    small = {"warm_up_rows": 2000, "warm_up_steps": 20, "critic_warm_up_steps": 10, "generator_width": 16}
    model = CTGAN(steps=4, training_share=0.4, **small)  # type: ignore[arg-type]
    plan = dpsynth.plan(schema, epsilon=2.0, n_rows=500, model=model)
    events = dpsynth.fit(table, schema=schema, epsilon=2.0, delta=1e-6, model=model, progress=False).privacy.events
    lines = {line.stage: line for line in plan.lines}
    (trained,) = (e for e in events if isinstance(e, SubsampledGaussian))
    (line,) = (line for line in plan.lines if line.phase == "training")
    assert (line.stage, line.queries, line.sigma) == ("critic", 4, trained.noise_multiplier)
    assert line.share == pytest.approx(0.4) and sum(plan.phases.values()) == pytest.approx(1.0)
    counted = [e.sigma / e.sensitivity for e in events if isinstance(e, Gaussian) and e.stage == "one-way"]
    assert counted == pytest.approx([lines["one-way"].sigma] * 2)
    text = shown(plan, 100)
    assert "training 40%" in text and "one unit in 10" in text
    with pytest.raises(dpsynth.PrivacyError, match="nothing can be learned"):
        dpsynth.plan(schema, epsilon=0.001, model=CTGAN(steps=10_000, sampling_rate=1.0))
    with pytest.raises(dpsynth.ModelError, match="must be one of"):
        dpsynth.plan(schema, epsilon=1.0, model="gan")


def test_a_plan_of_queries_alone_loads_nothing_that_learns() -> None:
    asked = "import sys, dpsynth; dpsynth.plan(dpsynth.Schema([dpsynth.Column('a')]), epsilon=1); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_texts_have_a_share_where_a_model_writes_them() -> None:
    schema = Schema([Column("label", "categorical", categories=("a", "b"), nullable=False), Column("note", "text")])
    plain, written, tuned = (
        dpsynth.plan(schema, epsilon=2.0, model=model)
        for model in ("auto", "language", Language(route="tuned", tuning=Tuning(share=0.3, steps=50)))
    )
    stages = [{line.stage: line for line in plan.lines} for plan in (plain, written, tuned)]
    assert "text" not in stages[0] and stages[1]["text"].share > stages[1]["pairs"].share
    assert stages[2]["text"].share == pytest.approx(0.7 * stages[1]["text"].share)
    assert stages[2]["text-training"].share == pytest.approx(0.3) and stages[2]["text-training"].queries == 50
    for plan in (plain, written, tuned):
        assert sum(line.share for line in plan.lines) == pytest.approx(1.0)


def test_phases_say_what_the_budget_is_for() -> None:
    plan = dpsynth.plan(WIDE, epsilon=1.0)
    assert PHASES.keys() == STAGES.keys()
    assert list(plan.phases) == ["schema", "measurement", "selection", "gate"]
    assert sum(plan.phases.values()) == pytest.approx(1.0)
    # One column of strings, two of numbers; no votes on identifiers.
    assert plan.phases["schema"] == pytest.approx(0.09 + 0.04)
    assert plan.phases["gate"] == pytest.approx(0.05)


def test_cells_are_those_that_a_column_can_have() -> None:
    plan = dpsynth.plan(WIDE, epsilon=1.0, n_rows=2000)
    found = cells(plan)
    assert found["age"] == 112 and found["region"] == 2 and found["code"] == 61 and found["member"] == 3
    assert found["city"] is None and found["income"] is not None and "mail" not in found
    by_name = {c.columns[0]: c for c in plan.columns}
    assert by_name["region"].expected == pytest.approx(1000.0) and not by_name["region"].drowns
    assert by_name["city"].seen_from is not None and by_name["city"].seen_from > by_name["city"].sigma
    assert cells(dpsynth.plan(WIDE, epsilon=1.0))["income"] is None and dpsynth.plan(WIDE, epsilon=1.0).pairs == ()


def test_what_drowns_is_named_and_what_does_not_is_not() -> None:
    poor = dpsynth.plan(WIDE, epsilon=0.3, n_rows=2000)
    drowned = {c.columns[0] for c in poor.columns if c.drowns}
    assert {"age", "code"} <= drowned and "region" not in drowned
    told = next(w for w in poor.warnings if "Single values drown" in w)
    assert "age" in told and "code" in told and "region" not in told
    pairs = {c.columns for c in poor.pairs}
    assert ("age", "code") in pairs and ("region", "member") not in pairs
    assert [c.cells for c in poor.pairs] == sorted((c.cells for c in poor.pairs), reverse=True)
    rich = dpsynth.plan(WIDE, epsilon=3.0, n_rows=900_000)
    assert rich.warnings == () and rich.pairs == () and not any(c.drowns for c in rich.columns)


def test_too_small_an_epsilon_says_how_much_would_do() -> None:
    warned = dpsynth.plan(WIDE, epsilon=0.05, n_rows=2000).warnings
    told = re.search(r"takes epsilon ([\d.]+), or ([\d,]+) units", " ".join(warned))
    assert told is not None
    enough, rows = float(told[1]), int(told[2].replace(",", ""))
    line = {p.stage: p for p in dpsynth.plan(WIDE, epsilon=enough, n_rows=2000).lines}["one-way"]
    assert line.sigma == pytest.approx(0.05 * 2000, rel=0.1)
    assert not any("expect little" in w for w in dpsynth.plan(WIDE, epsilon=0.05, n_rows=rows + 1).warnings)


def test_a_delta_that_gives_a_unit_away_is_refused_against_a_public_count() -> None:
    for delta in (1e-3, 2e-3):
        with pytest.raises(dpsynth.PrivacyError, match="Choose a delta well below 1e-3"):
            dpsynth.plan(WIDE, epsilon=1.0, delta=delta, n_rows=1000)
    dpsynth.plan(WIDE, epsilon=1.0, delta=9e-4, n_rows=1000)
    dpsynth.plan(WIDE, epsilon=1.0, delta=1e-3)  # without a public count there is nothing to hold it against
    for wrong in (0, -5, True, 10.5):
        with pytest.raises(dpsynth.SchemaError, match="n_rows"):
            dpsynth.plan(WIDE, epsilon=1.0, n_rows=wrong)  # type: ignore[arg-type]


def test_json_holds_all_of_it() -> None:
    body = json.loads(json.dumps(dpsynth.plan(WIDE, epsilon=0.3, n_rows=2000).to_json()))
    assert {line["phase"] for line in body["lines"]} <= {"schema", "selection", "measurement", "gate"}
    assert body["columns"][0]["drowns"] is True and body["pairs"][0]["columns"] and body["phases"]["gate"] == 0.05


@pytest.mark.parametrize("width", [80, 120])
def test_no_word_of_a_plan_is_cut(width: int) -> None:
    odd = Schema([*WIDE.columns, Column("[bold]odd[/] name", "boolean")])
    plan = dpsynth.plan(odd, epsilon=0.3, n_rows=2000)
    text = shown(plan, width)
    assert "…" not in text and max(map(len, text.splitlines())) <= width
    for word in ("vocabulary", "selection", "drowns"):
        assert word in text
    assert "[bold]odd[/] name" in text and "declared" in text
    assert "What noise leaves" not in shown(replace(plan, n_rows=None), width)
