"""Odd tables either work or raise a DpsynthError that names the column and the rule, never a value, before anything is spent."""

from __future__ import annotations

import decimal
import math
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

import dpsynth
from dpsynth import Column, Gate, Schema


def nothing_spent(ledger: Path) -> bool:
    return all(e.kind != "reserve" for e in dpsynth.Ledger(ledger).entries())


GOOD = pd.DataFrame({"a": [1, 2, 3] * 100, "b": ["x", "y", "z"] * 100})

REFUSED: dict[str, tuple[object, str]] = {
    "no columns": (pd.DataFrame(index=range(5)), "no columns"),
    "no rows": (GOOD.iloc[:0], "no rows"),
    "duplicate names": (pd.DataFrame([[1, 2]] * 9, columns=["a", "a"]), "'a'"),
    "names that are no strings": (pd.DataFrame({1: [1, 2]}), "strings"),
    "lists": (GOOD.assign(b=[["secret"]] * 300), "'b'"),
    "dicts": (GOOD.assign(b=[{"k": "secret"}] * 300), "'b'"),
    "bytes": (GOOD.assign(b=[b"secret"] * 300), "'b'"),
    "complex": (GOOD.assign(a=GOOD["a"] * 1j), "'a'"),
    "no such file": ("nowhere/secret.csv", "no file"),
    "a kind of file that is not read": (__file__, "neither"),
    "not a table": ([1, 2, 3], "DataFrame"),
}


@pytest.mark.parametrize("data, says", REFUSED.values(), ids=REFUSED.keys())
def test_tables_that_are_refused(data: object, says: str, own_ledger: Path) -> None:
    with pytest.raises(dpsynth.SchemaError, match=says) as caught:
        dpsynth.fit(data, epsilon=1.0, progress=False)
    assert "secret" not in str(caught.value) or isinstance(data, str)
    assert nothing_spent(own_ledger)


@pytest.mark.parametrize("epsilon", [0, -1, math.nan, math.inf, True, "1"])
def test_an_epsilon_that_is_none_is_refused(epsilon: object, own_ledger: Path) -> None:
    with pytest.raises(dpsynth.PrivacyError, match="epsilon"):
        dpsynth.fit(GOOD, epsilon=epsilon, progress=False)  # type: ignore[arg-type]
    assert not own_ledger.exists()


@pytest.mark.parametrize("delta", [0, -1e-6, 1.0, math.nan])
def test_a_delta_that_is_none_is_refused(delta: float) -> None:
    with pytest.raises(dpsynth.PrivacyError, match="delta"):
        dpsynth.fit(GOOD, epsilon=1.0, delta=delta, progress=False)


@pytest.mark.parametrize(
    "settings, says",
    [
        ({"unit": "nobody", "max_rows_per_unit": 2}, "'nobody'"),
        ({"unit": "a"}, "max_rows_per_unit"),
        ({"unit": "a", "max_rows_per_unit": 0}, "max_rows_per_unit"),
        ({"max_rows_per_unit": 3}, "unit="),
        ({"model": "magic"}, "model must be"),
        ({"device": "abacus"}, "device"),
        ({"schema": Schema([Column("nowhere")])}, "'nowhere'"),
        ({"schema": "nowhere.json"}, "schema file"),
    ],
)
def test_settings_that_are_refused(settings: dict[str, object], says: str, own_ledger: Path) -> None:
    with pytest.raises(dpsynth.DpsynthError, match=says):
        dpsynth.fit(GOOD, epsilon=1.0, progress=False, **settings)  # type: ignore[arg-type]
    assert nothing_spent(own_ledger)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Column("a", "numbers"),  # type: ignore[arg-type]
        lambda: Column("a", "numeric", bounds=(2, 1)),
        lambda: Column("a", "numeric", bounds=(0, math.inf)),
        lambda: Column("a", "numeric", bounds=("a", 1)),
        lambda: Column("a", "categorical", bounds=(0, 1)),
        lambda: Column("a", "categorical", categories=[]),
        lambda: Column("a", "categorical", categories=["x", "x"]),
        lambda: Column("a", "categorical", categories=["1", 1]),
        lambda: Column("a", "text", integer=True),
        lambda: Column("a", "numeric", integer=True, decimals=2),
        lambda: Column("a", role="boss"),  # type: ignore[arg-type]
        lambda: Schema([]),
        lambda: Schema([Column("a"), Column("a")]),
        lambda: Schema([Column("a")], constraints=["a > b"]),
        lambda: Schema.from_json({"columns": [{"name": "a", "colour": 1}]}),
        lambda: Gate(max_tv1=0.0),
    ],
)  # fmt: skip
def test_declarations_that_contradict_themselves(make: object) -> None:
    with pytest.raises(dpsynth.DpsynthError):
        make()  # type: ignore[operator]


def fitted(table: pd.DataFrame, **settings: object) -> pd.DataFrame:
    synth = dpsynth.fit(table, epsilon=5.0, progress=False, **settings)  # type: ignore[arg-type]
    out = synth.sample(200)
    assert list(out.columns) == list(table.columns)
    assert len(out) == 200
    return out


@pytest.mark.parametrize(
    ("cells", "kind", "holds"),
    [
        (pd.to_datetime(["2020-01-01"] * 4), "numeric", "dates or times"),
        (pd.to_datetime(["2020-01-01"] * 4), "categorical", "dates or times"),
        (pd.to_timedelta([1, 2, 3, 4], unit="h"), "datetime", "durations"),
        ([1, 2, 3, 4], "datetime", "numbers"),
        ([1.5, 2.0, 3.0, 4.0], "text", "numbers"),
        ([True, False, True, True], "numeric", "truth values"),
    ],
)
def test_a_kind_that_the_columns_type_rules_out_is_refused_before_anything_is_spent(
    cells: object, kind: dpsynth.schema.Kind, holds: str, own_ledger: Path
) -> None:
    table = pd.DataFrame({"x": cells, "y": [1, 2, 3, 4]})
    with pytest.raises(dpsynth.SchemaError, match=f"'x' is {kind}, but the table holds {holds}"):
        dpsynth.fit(table, epsilon=1.0, schema=Schema([Column("x", kind)]), progress=False)
    assert nothing_spent(own_ledger)


@pytest.mark.parametrize("frame", ["pandas", "nullable", "arrow", "polars"])
def test_truth_values_that_are_declared_categories_come_back_as_truth_values(frame: str) -> None:
    table = pd.DataFrame({"x": [True, False, False] * 400, "y": [1.0, 2.0, 3.0] * 400})
    made: dict[str, Any] = {
        "pandas": lambda: table,
        "nullable": lambda: table.convert_dtypes(),
        "arrow": lambda: pa.Table.from_pandas(table),
        "polars": lambda: pytest.importorskip("polars").from_pandas(table),
    }
    schema = Schema([Column("x", "categorical")])
    synth = dpsynth.fit(made[frame](), epsilon=8.0, schema=schema, progress=False)
    drawn = synth.sample(600, seed=0)
    cells = drawn["x"].to_list() if frame == "polars" else list(pd.Series(drawn["x"]))
    assert {bool(c) for c in cells} == {True, False} and sum(map(bool, cells)) == pytest.approx(200, abs=30)


def test_all_null_and_constant_columns() -> None:
    day = pd.Timestamp("2020-01-01")
    table = GOOD.assign(n=np.nan, o=None, c=7, s="same", d=day, f=0.1)
    out = fitted(pd.concat([table] * 10, ignore_index=True))
    assert out["n"].isna().all() and out["o"].isna().all()
    # Of a constant column noise may leave a stray row elsewhere; at 3,000 rows, hardly ever more than one of 200.
    for name, value in {"c": 7, "s": "same", "d": day, "f": 0.1}.items():
        assert (out[name] == value).mean() > 0.97, name


def test_infinite_values_count_as_missing() -> None:
    rng = np.random.default_rng(0)
    values = np.where(rng.random(3000) < 0.2, np.inf, rng.normal(0, 1, 3000))
    out = fitted(pd.DataFrame({"x": values, "y": values > 0}))
    assert np.isfinite(out["x"].dropna()).all() and out["x"].isna().mean() == pytest.approx(0.2, abs=0.1)


def test_mixed_types_in_a_column_become_labels() -> None:
    table = pd.DataFrame({"m": [1, "one", 2.5, None, True] * 400, "k": range(2000)})
    assert set(fitted(table)["m"].dropna()) <= {"1", "one", "2.5", "True"}


@pytest.mark.slow
def test_strings_that_hardly_repeat(own_ledger: Path) -> None:
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"u": [f"u{x:x}" for x in rng.integers(0, 2**60, 20_000)], "k": rng.integers(0, 3, 20_000)})
    out = fitted(table)
    assert not set(out["u"].dropna()) & set(table["u"])
    assert out["k"].isin([0, 1, 2]).all()


@pytest.mark.slow
def test_a_million_distinct_strings() -> None:
    table = pd.DataFrame({"u": [f"value number {i}" for i in range(1_000_000)], "k": np.arange(1_000_000) % 5})
    out = fitted(table, delta=1e-8)  # the usual 1e-6 is one over so many rows, and is warned of
    assert not set(out["u"].dropna()) & set(table["u"])


def test_one_row_and_one_column() -> None:
    assert fitted(pd.DataFrame({"a": [5]})).shape == (200, 1)
    assert fitted(pd.DataFrame({"a": ["x"], "b": [1.5]})).shape == (200, 2)


def test_tiny_and_huge_epsilon() -> None:
    table = GOOD.assign(c=np.arange(300) / 7)
    for epsilon in (1e-4, 1e-2, 100.0):
        with pytest.warns(UserWarning, match="above 10") if epsilon > 10 else nullcontext():
            synth = dpsynth.fit(table, epsilon=epsilon, progress=False)
        assert synth.privacy.recomputed_epsilon == pytest.approx(epsilon, rel=1e-6)
        assert synth.sample(50).shape == (50, 3)


@pytest.mark.slow
def test_odd_numbers_and_dtypes() -> None:
    rng = np.random.default_rng(0)
    n = 2000
    table = pd.DataFrame(
        {
            "huge": rng.normal(0, 1, n) * 1e300,
            "tiny": rng.normal(0, 1, n) * 1e-300,
            "big int": rng.integers(2**60, 2**61, n),
            "u8": rng.integers(0, 256, n).astype(np.uint8),
            "f32": rng.normal(0, 1, n).astype(np.float32),
            "far": pd.Timestamp("1700-01-01") + pd.to_timedelta(rng.integers(0, 100_000, n), unit="D"),
            "zone": pd.Timestamp("2020-01-01", tz="Asia/Tokyo") + pd.to_timedelta(rng.integers(0, 10**6, n), unit="s"),
            "money": [decimal.Decimal(int(x)) / 100 for x in rng.integers(0, 900, n)],
            "bool": pd.array(rng.choice([True, False, None], n), dtype="boolean"),
            "str": pd.Series(rng.choice(["a", "b"], n), dtype="string"),
            "period": pd.period_range("2020-01", periods=n, freq="D"),
            "int cat": pd.Categorical(rng.choice([10, 20], n)),
        }
    )
    out = fitted(table)
    for name in ("big int", "u8", "f32", "zone", "bool", "str"):
        assert out[name].dtype == table[name].dtype, name
    assert set(out["int cat"].dropna()) <= {10, 20}


def test_column_names_that_are_odd() -> None:
    names = ["", " ", "a|b", "<script>", "名前", "a\nb", "rows per unit", "select *"]
    table = pd.DataFrame({name: np.arange(600) % (i + 2) for i, name in enumerate(names)})
    assert list(fitted(table).columns) == names


def test_missing_unit_ids_count_as_one_unit() -> None:
    table = pd.DataFrame({"p": [None] * 900 + [f"p{i}" for i in range(600)], "x": ["many"] * 900 + ["one"] * 600})
    out = fitted(table, unit="p", max_rows_per_unit=2)
    assert (out["x"] == "one").mean() > 0.9


@pytest.mark.slow
def test_a_table_of_identifiers_alone_is_refused() -> None:
    table = pd.DataFrame({"email": [f"maria.gonzalez{i}@mailbox.org" for i in range(2000)]})
    with pytest.raises(dpsynth.SchemaError, match="identifiers"):
        dpsynth.fit(table, epsilon=3.0, progress=False)


def test_missing_model_of_the_detector_fails_before_anything_is_spent(
    own_ledger: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dpsynth.privacy.pii import engine

    engine._load.cache_clear()
    monkeypatch.setattr(engine, "MODEL", "no_such_model")
    with pytest.raises(dpsynth.PIIError, match="pip install"):
        dpsynth.fit(GOOD, epsilon=1.0, progress=False)
    engine._load.cache_clear()
    assert nothing_spent(own_ledger)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_numbers_of_a_small_table_keep_their_range_where_noise_hides_each_of_them(seed: int) -> None:
    """Power: the largest of the noisy cells used to be taken for the only value."""
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"age": rng.integers(0, 95, 400), "sex": rng.random(400) < 0.5})
    with pytest.warns(UserWarning, match="NOT PRIVATE"):
        ages = dpsynth.fit(table, epsilon=1.0, insecure_seed=seed, progress=False).sample(1000, seed=1)["age"]
    assert ages.nunique() > 20 and 20 < ages.median() < 130


def test_strings_of_numbers_in_a_small_table_are_numbers_and_what_stays_hidden_is_said() -> None:
    rng = np.random.default_rng(0)
    table = pd.DataFrame(
        {"income": rng.integers(10_000, 90_000, 800).astype(str), "group": rng.choice(["a", "b"], 800)}
    )
    with pytest.warns(UserWarning, match="NOT PRIVATE"):
        synth = dpsynth.fit(table, epsilon=1.0, insecure_seed=1, progress=False, patterns_only=True)
    assert synth.schema["income"].kind == "numeric" and pd.to_numeric(synth.sample(300)["income"]).nunique() > 20
    with pytest.warns(UserWarning, match="nothing could be learned of 'group', 'income'"):
        dpsynth.fit(table[["group", "income"]], epsilon=0.01, progress=False, patterns_only=True)


def test_integers_beyond_float64_and_categories_that_are_no_strings() -> None:
    from dpsynth.sources.layout import Layout

    table = pd.DataFrame({"i": np.array([2**63 - 1]), "u": np.array([2**64 - 1], np.uint64)})
    restored = Layout.of_pandas(table).restore(pd.DataFrame({"i": [2.0**63], "u": [2.0**64]}))
    assert restored["i"][0] > 2**62 and restored["u"][0] > 2**63 and restored.dtypes.equals(table.dtypes)
    for values in ([1, 2, 3], pd.to_datetime(["2020-01-01", "2021-01-01", "2022-01-01"])):
        column = pd.Series(pd.Categorical(values))
        again = Layout.of_pandas(pd.DataFrame({"c": column})).restore(pd.DataFrame({"c": pd.Series(list(values[:2]))}))
        assert again["c"].tolist() == list(values[:2])


def test_wrong_arguments_say_what_is_wanted(own_ledger: Path) -> None:
    for wrong in ({"bounds": ("2020-01-01", "foo")}, {"bounds": 5}):
        with pytest.raises(dpsynth.SchemaError, match="'w'"):
            Column("w", "datetime", **wrong)  # type: ignore[arg-type]
    for columns in (["a"], Column("a")):
        with pytest.raises(dpsynth.SchemaError, match="list of columns"):
            Schema(columns)  # type: ignore[arg-type]
    with pytest.raises(dpsynth.SchemaError, match="path of its JSON"):
        dpsynth.fit(GOOD, epsilon=1.0, schema=5, progress=False)  # type: ignore[arg-type]
    with pytest.raises(dpsynth.SchemaError, match="gate"):
        dpsynth.fit(GOOD, epsilon=1.0, gate="foo", progress=False)  # type: ignore[arg-type]
    with pytest.raises(dpsynth.PIIError, match="strings"):
        dpsynth.scrub([None])  # type: ignore[list-item]
    assert nothing_spent(own_ledger)


def test_wrong_arguments_of_sampling_say_what_is_wanted() -> None:
    synth = dpsynth.fit(GOOD, epsilon=5.0, progress=False)
    wrong: dict[str, Callable[[], object]] = {
        "seed": lambda: synth.sample(3, seed="a"),  # type: ignore[arg-type]
        "seed must be a whole number": lambda: synth.sample(3, seed=1.5),  # type: ignore[arg-type]
        "0 or more": lambda: next(synth.chunks(4, rows=3, seed=-1)),
        "n must be": lambda: next(synth.chunks("5")),  # type: ignore[arg-type]
        "balance": lambda: synth.sample(3, balance=["label"]),  # type: ignore[arg-type]
    }
    for says, ask in wrong.items():
        with pytest.raises(dpsynth.SchemaError, match=says):
            ask()
    assert len(synth.sample(3, seed=np.int64(2))) == 3  # type: ignore[arg-type]
