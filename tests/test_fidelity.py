"""Fidelity figures against ones worked out by hand, between their ceiling and floor; adapters; plan; sources."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import dpsynth
from dpsynth import Column, Schema
from dpsynth.fidelity import evaluate
from dpsynth.sources import read
from tests.conftest import mixed_table


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
def test_fifty_thousand_rows_take_seconds() -> None:
    import time

    big = pd.concat([mixed_table(50_000), mixed_table(50_000, seed=3).iloc[:, :5].add_suffix("2")], axis=1)
    start = time.process_time()
    evaluate(big, big, big)
    assert time.process_time() - start < 20


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
    spent = sum(line.queries / line.sigma**2 for line in plan.lines)
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
    assert dpsynth.scrub(["write to maria@mailbox.org"]) == ["write to <EMAIL_ADDRESS>"]
