"""Fidelity figures against ones worked out by hand, between their ceiling and floor; adapters; plan; sources."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import dpsynth
from dpsynth import Column, Schema
from dpsynth.fidelity import Scores, evaluate
from dpsynth.fidelity.metrics import all_metrics
from dpsynth.sources import read
from dpsynth.split import COUNTED_PART
from tests.conftest import mixed_table, run_alone


def test_a_table_is_equal_to_itself_and_a_holdout_is_the_ceiling(table: pd.DataFrame) -> None:
    report = evaluate(table, table, mixed_table(2000, seed=9))
    assert report.synthetic.tv1 == report.synthetic.tv2 == report.synthetic.association == 0
    assert 0 < report.ceiling.tv2 < report.floor.tv2 + report.ceiling.tv2
    assert report.floor.tv1 == 0 and report.floor.association > report.ceiling.association
    assert report.ceiling_of == "holdout" and "halves" in evaluate(table, table).ceiling_of


def test_figures_by_hand() -> None:
    real = pd.DataFrame({"a": ["x"] * 60 + ["y"] * 40, "b": ["p"] * 50 + ["q"] * 50, "n": [0.0, 1.0] * 50})
    other = pd.DataFrame({"a": ["x"] * 70 + ["z"] * 30, "b": ["p", "q"] * 50, "n": [0.0, 3.0] * 50})
    report = evaluate(real, other)
    by_name = {c.name: c for c in report.columns}
    assert by_name["a"].tv1 == pytest.approx(0.4) and by_name["b"].tv1 == 0
    assert by_name["n"].means == (0.5, 1.5) and by_name["n"].sds == (0.5, 1.5)
    assert report.synthetic.mean == pytest.approx(2.0) and report.synthetic.sd == pytest.approx(2.0)
    (pair,) = [p for p in report.pairs if {p.first, p.second} == {"a", "b"}]
    # phi of [[50, 10], [0, 40]]
    assert pair.real == pytest.approx((50 * 40) / np.sqrt(60 * 40 * 50 * 50), abs=1e-9)


def learnable(n: int, seed: int, tell: float = 1.0) -> pd.DataFrame:
    """Whether somebody pays depends on x and, among women, not at all. tell: the share of rows in which x says so."""
    rng = np.random.default_rng(seed)
    x, sex = rng.normal(size=n), np.where(rng.random(n) < 0.3, "f", "m")
    says = (rng.random(n) < tell) & (sex == "m")
    return pd.DataFrame({"x": x, "sex": sex, "pays": np.where(says, x > 0, rng.random(n) < 0.5)})


PAYS = Schema([Column("sex", sensitive=True), Column("pays", role="target")])


def test_classifiers_tell_tables_apart_and_learn_from_one_for_the_other() -> None:
    real, holdout = learnable(3000, 0), learnable(3000, 1)
    good = evaluate(real, learnable(3000, 2), holdout, PAYS)
    assert good.target == ("pays", "AUC")
    for scores in (good.synthetic, good.ceiling):
        assert scores.detector == pytest.approx(0.5, abs=0.06)
        assert scores.utility is not None and scores.utility > 0.75
    assert good.floor.utility == pytest.approx(0.5, abs=0.1) and (good.floor.detector or 0) > 0.6
    poor = evaluate(real, learnable(3000, 3, tell=0.0).assign(x=lambda t: t["x"] + 2), holdout, PAYS)
    assert (poor.synthetic.detector or 0) > 0.85 and (poor.synthetic.utility or 1) < 0.65
    bare = evaluate(real, real, holdout, PAYS, learners=False)
    assert bare.synthetic.detector is None and bare.synthetic.utility is None and bare.target is None


def test_subgroups_stand_by_themselves() -> None:
    synthetic = learnable(3000, 2)
    synthetic = synthetic[(synthetic["sex"] == "m") | (np.arange(3000) % 2 == 0)]
    report = evaluate(learnable(3000, 0), synthetic, learnable(3000, 1), PAYS)
    groups = {g.name: g for g in report.groups}
    assert set(groups) == {"m", "f"}
    real, made = groups["f"].shares
    assert real == pytest.approx(0.3, abs=0.03) and made == pytest.approx(0.15 / 0.85, abs=0.03)
    men, women = groups["m"].utility, groups["f"].utility
    assert men is not None and women is not None and min(men) > 0.9 and max(women) < 0.6
    assert json.dumps(report.to_json())


def test_deciles_and_triples_by_hand() -> None:
    real = pd.DataFrame({"n": np.arange(1000.0), "a": ["x", "y"] * 500, "b": ["p", "p", "q", "q"] * 250})
    report = evaluate(real, real.assign(n=real["n"] + 288.675), real)
    assert report.synthetic.quantiles == pytest.approx(1.0, rel=1e-3)  # one standard deviation of 0..999
    # b is a XOR c: pairs are independent of each other, the triple is not.
    rng = np.random.default_rng(0)
    a, c = rng.integers(0, 2, (2, 4000))
    odd = pd.DataFrame({"a": a.astype(str), "b": (a ^ c).astype(str), "c": c.astype(str)})
    floor = evaluate(odd, odd, odd).floor
    assert floor.tv2 < 0.05 and floor.tv3 == pytest.approx(0.5, abs=0.05)


def test_each_metric_says_its_direction_and_what_a_unit_could_move() -> None:
    names = [m.name for m in all_metrics(("pays", "AUC"))]
    assert names == [f.name for f in fields(Scores)]
    assert {m.sensitivity for m in all_metrics(None)} == {"1/n", "internal only"}
    detector = next(m for m in all_metrics(None) if m.name == "detector")
    assert detector.badness(0.5) == 0 and detector.badness(0.9) == detector.badness(0.1)


def test_missing_cells_dates_and_odd_columns_are_compared() -> None:
    table = mixed_table(500)
    table["nothing"], table["same"] = np.nan, 1
    worse = table.copy()
    worse.loc[:249, "income"] = np.nan
    report = evaluate(table, worse)
    assert {c.name for c in report.columns} == set(table.columns)
    assert next(c for c in report.columns if c.name == "income").missing[1] > 0.5


def test_ids_and_identifiers_are_skipped_and_missing_columns_told() -> None:
    table = mixed_table(300)
    table["key"] = [f"k{i}" for i in range(300)]
    report = evaluate(table, table, schema=Schema([Column("age", role="identifier")]))
    assert set(report.skipped) == {"key", "age"}
    with pytest.raises(dpsynth.SchemaError, match="'city'"):
        evaluate(table, table.drop(columns="city"))


def test_files_are_compared_by_path(tmp_path: Path, table: pd.DataFrame) -> None:
    table.to_csv(tmp_path / "a.csv", index=False)
    report = evaluate(tmp_path / "a.csv", tmp_path / "a.csv")
    assert report.synthetic.tv2 == 0
    assert next(c for c in report.columns if c.name == "age").means is not None


def test_the_internal_report_is_marked_and_escaped(tmp_path: Path, table: pd.DataFrame) -> None:
    odd = table.rename(columns={"city": "<script>alert(1)</script>"})
    evaluate(odd, odd).to_html(tmp_path / "r.html")
    html = (tmp_path / "r.html").read_text()
    assert "CONTAINS PRIVATE INFORMATION" in html and "<script>" not in html
    assert json.dumps(evaluate(odd, odd).to_json())


@pytest.mark.slow
def test_fifty_thousand_rows_take_seconds_and_less_than_a_gigabyte() -> None:
    """With a target, sensitive columns and SDMetrics' report."""
    script = """
import pandas as pd
from dpsynth import Column, Schema, evaluate
from tests.conftest import mixed_table, run_alone

def big(seed):
    more = mixed_table(50_000, seed=seed + 3).iloc[:, :5].add_suffix("2")
    return pd.concat([mixed_table(50_000, seed), more], axis=1)

schema = Schema([Column("group", sensitive=True), Column("level", sensitive=True), Column("member", role="target")])
evaluate(big(0), big(1), big(2), schema, sdmetrics=True)
"""
    _, seconds, megabytes = run_alone(script)
    assert seconds < 30 and megabytes < 1000


def test_sdmetrics_quality_beside_ours(table: pd.DataFrame, synth: dpsynth.Synthesizer) -> None:
    names = ["age", "score", "group"]
    quality = evaluate(table[names], synth.sample(2000)[names], sdmetrics=True).quality
    assert quality is not None and 0.7 < quality <= 1


# -- SDV metadata ------------------------------------------------------------------------------------------------------

METADATA = {
    "METADATA_SPEC_VERSION": "V2",
    "tables": {
        "t": {
            "columns": {
                "age": {"sdtype": "numerical", "range_min": 0, "range_max": 110, "decimal_places": 0},
                "city": {"sdtype": "categorical", "range_values": ["Lima", "Oslo"], "range_is_nullable": True},
                "email": {"sdtype": "email", "pii": True},
                "joined": {"sdtype": "datetime", "range_min": "2020-01-01", "range_max": "2024-12-31"},
                "key": {"sdtype": "id"},
            }
        }
    },
}


def test_sdv_metadata_becomes_a_schema_with_or_without_its_ranges(tmp_path: Path) -> None:
    path = tmp_path / "m.json"
    path.write_text(json.dumps(METADATA))
    declared = Schema.from_sdv(path, ranges="declared")
    assert declared["age"] == Column("age", "numeric", bounds=(0, 110), integer=True)
    assert declared["city"].categories == ("Lima", "Oslo") and declared["city"].nullable is True
    assert declared["email"].role == "identifier" and declared["email"].entity == "EMAIL_ADDRESS"
    assert declared["joined"].bounds == ("2020-01-01", "2024-12-31") and declared["key"].kind == "id"
    ignored = Schema.from_sdv(METADATA, ranges="ignore")
    assert ignored["age"] == Column("age", "numeric") and ignored["city"].categories is None


@pytest.mark.parametrize("bad", ["nowhere.json", 7, {"tables": {"a": {}, "b": {}}}, {"columns": []}])
def test_metadata_that_is_none_is_refused(bad: object) -> None:
    with pytest.raises(dpsynth.SchemaError):
        Schema.from_sdv(bad, ranges="ignore")
    with pytest.raises(dpsynth.SchemaError, match="ranges"):
        Schema.from_sdv(METADATA, ranges="maybe")  # type: ignore[arg-type]


# -- schema, plan, sources ---------------------------------------------------------------------------------------------


def test_a_schema_survives_its_file(tmp_path: Path, synth: dpsynth.Synthesizer) -> None:
    synth.schema.save(tmp_path / "s.json")
    assert Schema.load(tmp_path / "s.json") == synth.schema


def test_a_plan_spends_all_and_no_more_and_says_what_noise_it_buys() -> None:
    schema = Schema([Column("a"), Column("b", "numeric", bounds=(0, 1), decimals=2), Column("c", "id")])
    plan = dpsynth.plan(schema, epsilon=1.0, n_rows=500)
    assert sum(line.share for line in plan.lines) == pytest.approx(1.0)
    # "a" may be labels, which are counted when their values are looked for; what they get of the one-way stage is less.
    asked = {"one-way": 1 + COUNTED_PART}
    spent = sum(asked.get(line.stage, line.queries) / line.sigma**2 for line in plan.lines)
    assert spent == pytest.approx(plan.cost.mu_squared)
    assert plan.cost.epsilon(1e-6) == pytest.approx(1.0)
    assert any("expect little" in w for w in dpsynth.plan(schema, epsilon=0.01, n_rows=500).warnings)
    assert any("above 10" in w for w in dpsynth.plan(schema, epsilon=11.0).warnings)
    with pytest.raises(dpsynth.SchemaError, match="no column"):
        dpsynth.plan(Schema([Column("c", "id")]), epsilon=1.0)


def test_row_hashes_know_rows_whatever_their_order_or_file(tmp_path: Path) -> None:
    table = mixed_table(300).drop(columns=["stay", "level"])
    base = read(table)
    shuffled = read(table.sample(frac=1, random_state=0)[list(table.columns[::-1])])
    assert sorted(base.hashes.rows) == sorted(shuffled.hashes.rows)
    table.to_parquet(tmp_path / "t.parquet")
    assert sorted(read(tmp_path / "t.parquet").hashes.rows) == sorted(base.hashes.rows)
    changed = table.copy()
    changed.loc[0, "age"] += 1
    assert sorted(read(changed).hashes.rows) != sorted(base.hashes.rows)


def test_a_scan_says_what_would_happen_and_a_scrub_does_it() -> None:
    table = mixed_table(200)
    table["name"] = ["Maria Gonzalez", "John Smith"] * 100
    findings = {f.column: f.action for f in dpsynth.scan(table).findings}
    assert findings["name"] == "drop" and findings["city"] == findings["age"] == "keep"
    assert dpsynth.scrub(["write to maria@mailbox.org"]) == ["write to <EMAIL_ADDRESS_1>"]
