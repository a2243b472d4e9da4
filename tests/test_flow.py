"""fit -> sample -> save -> load, on every kind of column and every kind of table."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import dpsynth
from dpsynth import Column, Schema
from tests.conftest import mixed_table


def test_the_output_has_the_inputs_columns_order_and_dtypes(table: pd.DataFrame, synth: dpsynth.Synthesizer) -> None:
    out = synth.sample(500)
    assert list(out.columns) == list(table.columns) and len(out) == 500
    for name in table.columns:
        assert out[name].dtype == table[name].dtype, name
    assert (out["age"] == out["age"].astype(int)).all()
    assert ((out["income"].dropna() * 100).round(6) % 1 == 0).all()
    assert (out["joined"] == out["joined"].dt.normalize()).all()
    assert (out["stay"] % pd.Timedelta("1h") == pd.Timedelta(0)).all()


def test_missing_cells_come_in_the_right_share(table: pd.DataFrame, synth: dpsynth.Synthesizer) -> None:
    out = synth.sample(20_000, seed=1)
    for name in table.columns:
        assert out[name].isna().mean() == pytest.approx(table[name].isna().mean(), abs=0.03), name
    assert out["city"].dropna().isin(["Lima", "Oslo"]).all()


def test_one_way_shapes_and_dependence_are_learned(table: pd.DataFrame, synth: dpsynth.Synthesizer) -> None:
    out = synth.sample(20_000, seed=2)
    assert out["age"].between(18, 89).all()
    assert out["age"].mean() == pytest.approx(table["age"].mean(), abs=1.5)
    assert out["score"].std() == pytest.approx(table["score"].std(), rel=0.15)
    assert (out["income"] == 0).mean() == pytest.approx((table["income"] == 0).mean(), abs=0.03)
    assert out["age"].corr(out["score"]) > 0.7 * table["age"].corr(table["score"])
    assert out.groupby("group")["age"].mean().diff().abs().iloc[-1] > 5
    assert abs(out["age"].corr(out["income"])) < 0.1


def test_n_rows_is_close_but_not_exact_by_design(synth: dpsynth.Synthesizer) -> None:
    assert synth.n_rows == pytest.approx(4000, abs=200)
    assert len(synth.sample()) == synth.n_rows
    assert len(synth.sample(0)) == 0


def test_sampling_is_repeatable_by_seed_and_by_default_the_table_that_the_gate_measured(
    synth: dpsynth.Synthesizer,
) -> None:
    pd.testing.assert_frame_equal(synth.sample(50, seed=4), synth.sample(50, seed=4))
    pd.testing.assert_frame_equal(synth.sample(), synth.sample())
    assert not synth.sample(50).equals(synth.sample(50))


def test_where_conditions_exactly_and_follows_the_model(table: pd.DataFrame, synth: dpsynth.Synthesizer) -> None:
    old = synth.sample(4000, where={"group": "old"}, seed=0)
    young = synth.sample(4000, where={"group": "young"}, seed=0)
    assert set(old["group"]) == {"old"} and set(young["group"]) == {"young"}
    assert old["age"].mean() > young["age"].mean() + 5
    assert set(synth.sample(50, where={"age": 40})["age"]) == {40}
    assert synth.sample(50, where={"city": None})["city"].isna().all()
    both = synth.sample(50, where={"member": True, "level": "mid"})
    assert both["member"].all() and set(both["level"]) == {"mid"}


@pytest.mark.parametrize(
    "where",
    [{"age": -5}, {"age": 200}, {"age": 40.5}, {"stay": "400d"}, {"group": "middle"}],
    ids=["below", "above", "not whole", "too long", "no such label"],
)
def test_a_value_that_the_schema_does_not_allow_is_no_condition(
    synth: dpsynth.Synthesizer, where: dict[str, object]
) -> None:
    with pytest.raises(dpsynth.SchemaError, match="no such value"):
        synth.sample(5, where=where)


def test_balance_makes_labels_equally_frequent_and_rows_still_fit_them(synth: dpsynth.Synthesizer) -> None:
    drawn = synth.sample(6000, balance="group", seed=0)
    assert set(drawn["group"]) == {"old", "young"}
    assert (drawn["group"] == "young").mean() == pytest.approx(0.5, abs=0.03)
    ages = drawn.groupby("group")["age"].mean()
    apart = [synth.sample(4000, where={"group": g}, seed=0)["age"].mean() for g in ("old", "young")]
    assert ages.tolist() == pytest.approx(apart, abs=1.5)
    assert not synth.sample(6000, balance="city", seed=0)["city"].isna().any(), "what is missing is no label"
    only = synth.sample(2000, where={"member": True}, balance="group", seed=0)
    assert only["member"].all() and (only["group"] == "young").mean() == pytest.approx(0.5, abs=0.03)


def test_balance_is_of_what_the_model_draws_however_far_that_is_from_what_was_measured() -> None:
    rng = np.random.default_rng(0)
    labels = [f"l{i}" for i in range(10)]
    drawn = rng.choice(labels, 3000, p=[0.01] + [0.11] * 9).astype(object)
    table = pd.DataFrame(
        {"label": drawn, "other": np.where(rng.random(3000) < 0.5, drawn, "l3"), "x": rng.normal(size=3000)}
    )
    schema = dpsynth.Schema([dpsynth.Column("label", "categorical", categories=labels, nullable=False)])
    synth = dpsynth.fit(table, epsilon=0.3, schema=schema, progress=False)
    found = synth.sample(20_000, balance="label", seed=0)["label"].value_counts()
    assert len(found) >= 9 and ((found - 20_000 / len(found)).abs() < 20_000 / len(found) * 0.2).all()


def test_balance_leaves_out_what_other_conditions_rule_out() -> None:
    rng = np.random.default_rng(0)
    land = rng.choice(["fr", "de", "it"], 4000)
    town = np.char.add(land, rng.choice(["1", "2", "3"], 4000))
    table = pd.DataFrame({"land": land.astype(object), "town": town.astype(object)})
    towns = [f"{x}{i}" for x in ("fr", "de", "it") for i in range(1, 4)]
    schema = dpsynth.Schema(
        [dpsynth.Column("land", "categorical", categories=["fr", "de", "it"], nullable=False),
         dpsynth.Column("town", "categorical", categories=towns, nullable=False)],
        constraints=[dpsynth.Impossible({"land": ["fr"], "town": [t for t in towns if t[:2] != "fr"]})],
    )  # fmt: skip
    synth = dpsynth.fit(table, epsilon=4.0, schema=schema, progress=False)
    found = synth.sample(3000, where={"land": "fr"}, balance="town", seed=0)["town"].value_counts()
    assert set(found.index) == {"fr1", "fr2", "fr3"} and (abs(found - 1000) < 150).all()


def test_balance_raises_a_label_of_one_in_a_hundred_to_its_share_where_rare_ones_are_merged() -> None:
    rng = np.random.default_rng(0)
    labels = [f"l{i:02d}" for i in range(20)]
    shares = np.array([0.01] * 10 + [0.09] * 10)
    rare = pd.DataFrame({"label": rng.choice(labels, 10_000, p=shares).astype(object), "x": rng.normal(size=10_000)})
    schema = dpsynth.Schema([dpsynth.Column("label", "categorical", categories=labels)])
    synth = dpsynth.fit(rare, epsilon=4.0, schema=schema)
    found = synth.sample(20_000, balance="label", seed=0)["label"].value_counts(normalize=True)
    assert found.reindex(labels).between(0.05 * 0.8, 0.05 * 1.2).all()


@pytest.mark.parametrize("column", ["nowhere", "age", "group"])
def test_balance_refuses_what_has_no_labels_or_is_fixed(synth: dpsynth.Synthesizer, column: str) -> None:
    with pytest.raises(dpsynth.SchemaError, match="balance"):
        synth.sample(5, where={"group": "old"}, balance=column)


@pytest.mark.parametrize("where", [{"city": "Paris"}, {"nowhere": 1}, {"age": "forty"}, {"joined": "not a date"}])
def test_where_refuses_what_the_model_cannot_tell(synth: dpsynth.Synthesizer, where: dict[str, object]) -> None:
    with pytest.raises(dpsynth.SchemaError):
        synth.sample(5, where=where)


def test_a_saved_model_is_the_same_model(synth: dpsynth.Synthesizer, tmp_path: Path) -> None:
    synth.save(tmp_path / "model")
    assert sorted(p.name for p in (tmp_path / "model").iterdir()) == ["model.json", "model.safetensors"]
    again = dpsynth.load(tmp_path / "model")
    pd.testing.assert_frame_equal(again.sample_typed(200, seed=1), synth.sample_typed(200, seed=1))
    assert again.privacy == synth.privacy and again.gate == synth.gate and again.schema == synth.schema
    assert again.sample(3)["age"].dtype == np.int64


@pytest.mark.parametrize("harm", ["no file", "cut json", "other format", "understated epsilon", "cut weights"])
def test_a_damaged_model_is_refused(synth: dpsynth.Synthesizer, tmp_path: Path, harm: str) -> None:
    folder = tmp_path / "model"
    synth.save(folder)
    text = (folder / "model.json").read_text()
    if harm == "no file":
        (folder / "model.json").unlink()
    elif harm == "cut json":
        (folder / "model.json").write_text(text[:-20])
    elif harm == "cut weights":
        (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:-9])
    else:
        body = json.loads(text)
        body["format" if harm == "other format" else "privacy"] = (
            "x" if harm == "other format" else body["privacy"] | {"epsilon": 0.1}
        )
        (folder / "model.json").write_text(json.dumps(body))
    with pytest.raises(dpsynth.DpsynthError):
        dpsynth.load(folder)


def test_a_declared_schema_saves_budget_and_is_listed_as_public() -> None:
    schema = Schema(
        [
            Column("age", "numeric", bounds=(18, 90), integer=True, nullable=False),
            Column("city", "categorical", categories=["Lima", "Oslo", "Rome"], nullable=True),
        ]
    )
    table = mixed_table(1000)[["age", "city"]]
    synth = dpsynth.fit(table, epsilon=1.0, schema=schema, progress=False)
    assert set(synth.privacy.spent_by_stage()) == {"one-way", "selection", "pairs", "gate"}
    assert "age: kind, bounds, integer, nullable (declared)" in synth.privacy.public
    assert synth.schema["age"].bounds == (18, 90) and synth.schema["city"].categories == ("Lima", "Oslo", "Rome")
    assert not synth.sample(2000)["age"].isna().any()


@pytest.mark.parametrize(
    ("column", "named"),
    [
        (Column("x"), ()),
        (Column("x", nullable=False), ("nullable",)),
        (Column("x", nullable=True), ("nullable",)),
        (Column("x", "numeric", decimals=0), ("kind", "decimals")),
        (Column("x", "numeric", integer=False), ("kind", "integer")),
        (Column("x", "text", sensitive=False), ("kind",)),
        (Column("x", role="target", sensitive=True), ("role", "sensitive")),
    ],
)
def test_every_declared_fact_is_named_and_no_other(column: Column, named: tuple[str, ...]) -> None:
    assert column.declared == named


def test_declared_identifiers_ids_and_types_are_kept_from_the_model() -> None:
    table = mixed_table(500)[["age", "city"]]
    table["ssn"] = [f"536-22-{i:04d}" for i in range(500)]
    table["key"] = np.arange(500)
    schema = Schema(
        [Column("ssn", role="identifier", entity="US_SSN"), Column("key", "id"), Column("city", "categorical")]
    )
    out = dpsynth.fit(table, epsilon=3.0, schema=schema, progress=False).sample(50)
    assert list(out.columns) == list(table.columns)
    assert out["ssn"].str.match(r"9\d\d-[1-4]\d-\d{4}").all() and not set(out["ssn"]) & set(table["ssn"])
    assert out["key"].is_unique


def test_values_that_a_pandas_categorical_has_not_are_kept_as_strings(tmp_path: Path) -> None:
    """Fakes and written texts are new ones: in the input's own categories they would all be missing."""
    frame = pd.DataFrame(
        {"ssn": [f"{100 + i}-22-{3000 + i}" for i in range(300)], "city": ["Lima", "Oslo", "Rome"] * 100}
    )
    frame = frame.astype("category")
    schema = Schema([Column("ssn", role="identifier", entity="US_SSN"), Column("city", "categorical")])
    made = dpsynth.fit(frame, epsilon=5.0, schema=schema, ledger=tmp_path / "l.db", progress=False).sample(50, seed=0)
    assert made["ssn"].notna().all() and not set(made["ssn"]) & set(frame["ssn"])
    assert made["city"].dtype == pd.CategoricalDtype(["Lima", "Oslo", "Rome"])


def test_units_bound_weigh_and_come_out_as_surrogates() -> None:
    rng = np.random.default_rng(0)
    rows = np.repeat(np.arange(3000) + 70_000, rng.choice([1, 2, 5], 3000, p=[0.3, 0.3, 0.4]))
    table = pd.DataFrame({"person": rows, "x": rng.integers(0, 6, len(rows)), "y": rng.integers(0, 2, len(rows))})
    synth = dpsynth.fit(table, epsilon=3.0, unit="person", max_rows_per_unit=5, progress=False)
    out = synth.sample()
    assert len(out) == pytest.approx(len(table), rel=0.05)
    assert not set(out["person"]) & set(table["person"])
    sizes = out["person"].value_counts()
    assert sizes.max() <= 5
    assert len(sizes) == pytest.approx(3000, rel=0.05)
    shares = sizes.value_counts(normalize=True)
    assert [shares.get(k, 0) for k in (1, 2, 5)] == pytest.approx([0.3, 0.3, 0.4], abs=0.04)
    assert synth.privacy.unit == "person" and synth.privacy.max_rows_per_unit == 5


def test_a_unit_with_more_rows_than_allowed_counts_as_if_it_had_fewer() -> None:
    table = pd.DataFrame({"person": [1] * 5000 + list(range(2, 1002)), "x": ["a"] * 5000 + ["b"] * 1000})
    synth = dpsynth.fit(table, epsilon=5.0, unit="person", max_rows_per_unit=3, progress=False)
    assert synth.n_rows < 1200
    assert (synth.sample(1000)["x"] == "b").mean() > 0.9


@pytest.mark.parametrize("model", ["mst", "aim", "marginals", "auto"])
def test_models_by_name(model: str) -> None:
    synth = dpsynth.fit(mixed_table(800)[["age", "score", "group"]], epsilon=3.0, model=model, progress=False)
    assert synth.tree


@pytest.mark.parametrize("frame", ["polars", "pyarrow"])
def test_other_frames_come_back_as_they_went_in(frame: str) -> None:
    import polars
    import pyarrow

    pandas = mixed_table(600)[["age", "income", "city", "joined"]]
    table = polars.from_pandas(pandas) if frame == "polars" else pyarrow.Table.from_pandas(pandas, preserve_index=False)
    out = dpsynth.fit(table, epsilon=3.0, progress=False).sample(20)
    assert type(out) is type(table) and out.shape == (20, 4)


@pytest.mark.slow
def test_files_are_read_by_path_and_csv_types_are_learned(tmp_path: Path) -> None:
    table = mixed_table(3000)[["age", "income", "joined", "city", "group"]]
    table["code"] = np.where(table["age"] < 50, "007", "042")
    table.to_csv(tmp_path / "t.csv", index=False)
    table.to_parquet(tmp_path / "t.parquet")
    from_csv = dpsynth.fit(tmp_path / "t.csv", epsilon=5.0, progress=False)
    kinds = {c.name: c.kind for c in from_csv.schema.columns}
    assert kinds == {"age": "numeric", "income": "numeric", "joined": "datetime", "city": "categorical",
                     "group": "categorical", "code": "categorical"}  # fmt: skip
    out = from_csv.sample(100)
    assert out["age"].dtype == np.int64 and set(out["code"]) == {"007", "042"}
    from_parquet = dpsynth.fit(str(tmp_path / "t.parquet"), epsilon=5.0, progress=False)
    assert "age: whole numbers, by the file's type" in from_parquet.privacy.public
    assert from_parquet.sample(10)["age"].dtype == np.int64


def test_learning_from_synthetic_data_must_be_asked_for(synth: dpsynth.Synthesizer, tmp_path: Path) -> None:
    out = synth.sample(500)
    for data in (out, synth.sample_typed(500)):
        with pytest.raises(dpsynth.SchemaError, match="allow_synthetic"):
            dpsynth.fit(data, epsilon=1.0, progress=False)
    out.to_parquet(tmp_path / "again.parquet")
    with pytest.raises(dpsynth.SchemaError, match="allow_synthetic"):
        dpsynth.fit(pd.read_parquet(tmp_path / "again.parquet"), epsilon=1.0, progress=False)
    dpsynth.fit(out, epsilon=1.0, allow_synthetic=True, progress=False)


def test_a_failure_before_the_reservation_costs_nothing_and_one_after_it_stays_spent(
    own_ledger: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = mixed_table(300)
    with pytest.raises(dpsynth.SchemaError):
        dpsynth.fit(table, epsilon=1.0, unit="nobody", max_rows_per_unit=1, progress=False)
    with pytest.raises(dpsynth.SchemaError):
        dpsynth.fit(table, epsilon=1.0, schema=Schema([Column("nowhere")]), progress=False)
    ledger = dpsynth.Ledger(own_ledger)
    assert [e for e in ledger.entries() if e.kind == "reserve"] == []

    def crash(*_: object, **__: object) -> None:
        raise RuntimeError("power cut")

    monkeypatch.setattr("dpsynth.synthesize.learn", crash)
    with pytest.raises(RuntimeError):
        dpsynth.fit(table, epsilon=1.0, dataset="t", progress=False)
    (record,) = [d for d in ledger.datasets() if d.name == "t"]
    spent = ledger.spent(record.id)
    assert spent.epsilon == pytest.approx(1.0) and spent.runs[0].state == "reserved"


def test_a_cap_refuses_the_fit_that_would_pass_it(own_ledger: Path) -> None:
    table = mixed_table(300)[["age", "group"]]
    ledger = dpsynth.Ledger(own_ledger)
    ledger.set_cap("people", epsilon=1.5, delta=1e-5)
    dpsynth.fit(table, epsilon=1.0, ledger=ledger, dataset="people", progress=False)
    with pytest.raises(dpsynth.BudgetExceeded) as refused:
        dpsynth.fit(table.sample(frac=1, random_state=0), epsilon=2.0, ledger=ledger, progress=False)
    assert refused.value.asked > refused.value.left > 0
