"""Declared constraints: what is refused, what is free, and that no synthetic row ever breaks one."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import dpsynth
from dpsynth import Column, Determines, Impossible, Ordered, Schema, Total
from dpsynth.encode.cells import LabelCells, LineCells
from dpsynth.encode.codec import Codec
from dpsynth.enforce import NO_CONDITIONS, Conditions, Rules, own_cells, representatives
from dpsynth.generate import draw, table_of, values_of
from dpsynth.learn import ColumnFacts, Domain
from dpsynth.mapping import learned
from dpsynth.privacy.audit import Recorder
from dpsynth.privacy.budget import Account, budget_of
from dpsynth.privacy.noise import Noise
from dpsynth.privacy.table import PrivateTable
from dpsynth.sources import read
from tests.conftest import witnessed

LEVELS = {"none": 1, "school": 3, "college": 7, "phd": 9}
START = pd.Timestamp("2020-01-01")

SCHEMA = Schema(
    [
        Column("education"),
        Column("years"),
        Column("zip", "categorical"),
        Column("city", "categorical"),
        Column("sex", "categorical", categories=["F", "M"], nullable=False),
        Column("age", "numeric", bounds=(0, 89), integer=True, nullable=False),
        Column("age group"),
        Column("pregnant", "boolean", nullable=False),
        Column("admitted", "datetime", bounds=("2020-01-01", "2020-12-31")),
        Column("left", "datetime", bounds=("2020-01-01", "2021-03-31")),
        Column("labour", "numeric", bounds=(0, 50), integer=True),
        Column("material", "numeric", bounds=(0, 20), integer=True),
        Column("cost", "numeric"),
    ],
    constraints=[
        Determines("education", "years", mapping=LEVELS),
        Determines("zip", "city"),
        Determines("age", "age group", mapping={(0, 17): "child", (18, 64): "adult", (65, None): "old"}),
        Impossible({"sex": "M", "pregnant": True}),
        Impossible({"age group": "child", "education": "phd"}),
        Impossible({"age": [(None, 14), (51, None)], "pregnant": True}),
        Ordered("admitted", "left"),
        Total("cost", ("labour", "material")),
    ],
)


FEW = Schema(
    [SCHEMA[name] for name in ("sex", "pregnant", "admitted", "left")],
    constraints=[Impossible({"sex": "M", "pregnant": True}), Ordered("admitted", "left")],
)

MAPPED = Schema([SCHEMA["zip"], SCHEMA["city"]], [Determines("zip", "city")])


def people(n: int = 3000, seed: int = 0) -> pd.DataFrame:
    """Rows that obey SCHEMA."""
    rng = np.random.default_rng(seed)
    age = rng.integers(0, 90, n)
    education = rng.choice(list(LEVELS), n, p=[0.4, 0.3, 0.2, 0.1])
    education[(age < 18) & (education == "phd")] = "none"
    sex = rng.choice(["F", "M"], n)
    zips = rng.integers(0, 30, n)
    admitted = rng.integers(0, 366, n)
    left = np.minimum(admitted + rng.integers(0, 60, n), 450)
    labour, material = rng.integers(0, 51, n), rng.integers(0, 21, n)
    return pd.DataFrame(
        {
            "education": education,
            "years": pd.Series(education).map(LEVELS),
            "zip": [f"z{z:02d}" for z in zips],
            "city": [f"C{z // 5}" for z in zips],
            "sex": sex,
            "age": age,
            "age group": np.select([age < 18, age < 65], ["child", "adult"], "old"),
            "pregnant": (sex == "F") & (age > 14) & (age < 51) & (rng.random(n) < 0.3),
            "admitted": START + pd.to_timedelta(admitted, unit="D"),
            "left": START + pd.to_timedelta(left, unit="D"),
            "labour": labour,
            "material": material,
            "cost": labour + material,
        }
    )


def broken(table: pd.DataFrame) -> dict[str, int]:
    """Rows of a table that break each constraint, in pandas' own words."""
    group = np.select([table["age"] < 18, table["age"] < 65], ["child", "adult"], "old")
    return {
        "years": int((table["education"].map(LEVELS) != table["years"]).sum()),
        "city": int((table.groupby("zip")["city"].nunique() > 1).sum()),
        "age group": int((table["age group"] != group).sum()),
        "men": int(((table["sex"] == "M") & table["pregnant"]).sum()),
        "children": int(((table["age group"] == "child") & (table["education"] == "phd")).sum()),
        "ages": int((table["pregnant"] & ~table["age"].between(15, 50)).sum()),
        "order": int((table["admitted"] > table["left"]).sum()),
        "cost": int((table["cost"] != table["labour"] + table["material"]).sum()),
    }


@pytest.fixture(scope="module")
def synth(tmp_path_factory: pytest.TempPathFactory) -> dpsynth.Synthesizer:
    ledger = dpsynth.Ledger(tmp_path_factory.mktemp("ledger") / "l.db")
    return dpsynth.fit(people(), epsilon=3.0, schema=SCHEMA, ledger=ledger, progress=False, insecure_seed=0)


# -- what is said ------------------------------------------------------------------------------------------------------


def test_a_schema_with_constraints_is_the_same_after_json(tmp_path: Path) -> None:
    SCHEMA.save(tmp_path / "schema.json")
    again = Schema.load(tmp_path / "schema.json")
    assert again == SCHEMA and again.constraints == SCHEMA.constraints
    assert json.loads((tmp_path / "schema.json").read_text())["constraints"][0] == {
        "kind": "determines", "column": "education", "dependent": "years", "mapping": LEVELS
    }  # fmt: skip
    assert "constraints" not in Schema([Column("a")]).to_json()


def test_facts_follow_from_a_mapping() -> None:
    assert SCHEMA["education"].categories == tuple(LEVELS)
    assert (SCHEMA["years"].kind, SCHEMA["years"].bounds, SCHEMA["years"].integer) == ("numeric", (1, 9), True)
    assert SCHEMA["age group"].categories == ("child", "adult", "old")
    coded = Schema([Column("a"), Column("b")], [Determines("a", "b", mapping={10: "x", 20: "y"})])
    assert coded["a"].categories == (10, 20), "numbers with gaps are codes"


CAT = [
    Column("a", "categorical", categories=["x", "y"], nullable=False),
    Column("b", "categorical", categories=["u", "v"]),
]
NUM = [Column(c, "numeric", bounds=(0, 9), integer=True, nullable=False) for c in "pqr"]
BAD: dict[str, tuple[list[Any], str]] = {
    "unknown column": ([Ordered("p", "nowhere")], "p <= nowhere.*'nowhere'"),
    "twice the same": ([Ordered("p", "p")], "p <= p.*twice"),
    "not a constraint": (["p <= q"], "Determines, Total"),
    "a circle of dependences": ([Determines("a", "b"), Determines("b", "a")], "'a', 'b'.*follows"),
    "a circle of orders": ([Ordered("p", "q"), Ordered("q", "r"), Ordered("r", "p")], "'p', 'q', 'r'.*circle"),
    "made twice": ([Determines("a", "b"), Determines("p", "b")], "'b' follows from two"),
    "a mapping without a value": ([Determines("a", "b", mapping={"x": "u"})], "a determines b.*lacks 'y' of 'a'"),
    "a mapping without a number": ([Determines("p", "b", mapping={(0, 8): "u"})], "p determines b.*lacks 9 of 'p'"),
    "a mapping to what is no value": ([Determines("a", "b", mapping={"x": "u", "y": "w"})], "'w' is not a value of 'b'"),
    "a mapping from what is no value": ([Determines("a", "b", mapping={"x": "u", "y": "v", "z": "v"})], "'z' is not.*'a'"),
    "order of labels": ([Ordered("a", "p")], "'a' is categorical"),
    "bounds that leave nothing": ([Ordered("s", "p")], "s <= p.*leave no value"),
    "a value that is none": ([Impossible({"a": "z", "b": "u"})], "'z' is not a value of 'a'"),
    "a word for a number": ([Impossible({"p": "z"})], "'z' is no numeric value of 'p'"),
    "a range of labels": ([Impossible({"a": [("x", "y")]})], "'a' is categorical and has no ranges"),
    "a range that ends before it begins": ([Impossible({"p": (5, 2)})], "range of 'p'"),
    "nothing left of one column": ([Impossible({"a": ["x", "y"]})], "'a'.*no declared value"),
    "nothing left together": (
        [Impossible({"a": "x", "b": ["u", None]}), Impossible({"a": "x", "b": "v"}), Impossible({"a": "y"})], "'a', 'b'"
    ),
    "nothing left by a mapping": (
        [Determines("a", "c", mapping={"x": "1", "y": "2"}), Impossible({"c": ["1", "2"]})], "'a'.*no declared value"
    ),
    "a sum beyond the bounds": ([Total("p", ("q", "r"))], "p = q \\+ r.*pass the bounds of 'p'"),
    "a sum of words": ([Total("p", ("q", "a"))], "do not add up"),
    "order of what is made": ([Total("t", ("p", "q")), Ordered("r", "t")], "'t' is made"),
    "a learned mapping from what is made": ([Determines("a", "b", mapping={"x": "u", "y": "v"}), Determines("b", "c")], "'b' is made"),
    "an identifier": ([Determines("a", "name")], "'name' is an identifier"),
}  # fmt: skip


@pytest.mark.parametrize(("constraints", "says"), BAD.values(), ids=BAD.keys())
def test_bad_declarations_are_refused_by_name(constraints: list[Any], says: str) -> None:
    more = [
        Column("s", "numeric", bounds=(20, 30), nullable=False),
        Column("t"),
        Column("c"),
        Column("name", role="identifier"),
    ]
    with pytest.raises(dpsynth.SchemaError, match=says):
        Schema([*CAT, *NUM, *more], constraints)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Determines("a", "b", mapping={}),
        lambda: Determines("a", "b", mapping=3),  # type: ignore[arg-type]
        lambda: Determines("a", "b", mapping=[("x", 1), ("x", 2)]),
        lambda: Impossible({}),
        lambda: Impossible(dict.fromkeys("abcd", "x")),
        lambda: Impossible({"a": []}),
        lambda: Impossible({"a": [(1, 2, 3)]}),
        lambda: Impossible({"a": float("inf")}),
        lambda: Total("t", ("a",)),
        lambda: Schema.from_json({"columns": [{"name": "a"}], "constraints": "a > b"}),
        lambda: Schema.from_json({"columns": [{"name": "a"}], "constraints": [{"kind": "magic"}]}),
        lambda: Schema.from_json({"columns": [{"name": "a"}], "constraints": [{"kind": "ordered", "low": "a"}]}),
    ],
)
def test_constraints_that_contradict_themselves(make: Any) -> None:
    with pytest.raises(dpsynth.SchemaError):
        make()


@pytest.mark.parametrize(
    ("schema", "settings", "says"),
    [
        (
            Schema([Column("sex"), Column("zip")], [Determines("zip", "sex")]),
            {},
            "'zip' holds strings; declare its kind",
        ),
        (
            Schema([Column("age"), Column("admitted")], [Ordered("age", "admitted")]),
            {},
            "a numeric column.*a datetime one",
        ),
        (
            Schema([Column("age"), Column("cost")], [Ordered("age", "cost")]),
            {"unit": "age", "max_rows_per_unit": 2},
            "'age' names the privacy unit",
        ),
    ],
    ids=["no kind", "kinds of the file", "unit"],
)
def test_what_the_table_tells_is_refused_before_anything_is_spent(
    schema: Schema, settings: dict[str, Any], says: str, own_ledger: Path
) -> None:
    with pytest.raises(dpsynth.SchemaError, match=says):
        dpsynth.fit(people(200), epsilon=1.0, schema=schema, progress=False, **settings)
    assert all(e.kind != "reserve" for e in dpsynth.Ledger(own_ledger).entries())


def test_values_of_a_column_whose_kind_the_table_tells_are_judged_with_the_table() -> None:
    said = [Impossible({"admitted": ("2021-01-01", None)}), Impossible({"left": "yesterday"})]
    with pytest.raises(dpsynth.SchemaError, match="'yesterday' is no datetime value of 'left'"):
        dpsynth.fit(people(50), epsilon=1.0, schema=Schema([Column("admitted"), Column("left")], said), progress=False)


def test_a_mapping_of_many_values_is_checked_at_once() -> None:
    mapping = {f"{i:05d}": f"c{i % 3000}" for i in range(20_000)}
    start = time.process_time()
    Schema([Column("a", "categorical", categories=list(mapping)), Column("b")], [Determines("a", "b", mapping=mapping)])
    assert time.process_time() - start < 2


def test_each_constraint_finds_the_rows_that_break_it() -> None:
    table, rng = people(400), np.random.default_rng(0)
    for name in ("years", "sex", "pregnant", "admitted", "labour", "education", "age"):
        table[name] = rng.permutation(table[name])
    cells = {name: own_cells(c, SCHEMA[name]) for name, c in read(table).cells.items()}
    columns = {c.name: c for c in SCHEMA.columns}
    found = [int(c.violated(cells, columns).sum()) for c in SCHEMA.constraints]
    expected = broken(table)
    expected["city"] = 0  # its rows were left alone
    assert found == list(expected.values()) and sum(found) > 300


# -- what is released --------------------------------------------------------------------------------------------------


def test_no_synthetic_row_breaks_a_constraint(synth: dpsynth.Synthesizer) -> None:
    assert set(broken(people()).values()) == {0}
    for n, seed in ((20_000, 1), (1, 2), (None, None)):
        out = synth.sample(n, seed=seed)
        assert set(broken(out).values()) == {0}
        assert list(out.columns) == list(people(5).columns) and (out.dtypes == people(5).dtypes).all()
    assert not out["pregnant"].all() and out["pregnant"].any()


def test_what_is_made_costs_nothing_and_is_named_as_public(synth: dpsynth.Synthesizer) -> None:
    def labels(events: Any) -> list[str]:
        return [e.label for e in events] + [i for e in events for i in labels(getattr(e, "events", ()))]

    asked = " | ".join(labels(synth.privacy.events))
    assert "education" in asked and not any(made in asked for made in ("years", "age group", "cost"))
    assert synth.privacy.spent_by_stage()["mappings"] == pytest.approx(0.05)
    assert {"zip determines city (declared)", "cost = labour + material (declared)"} <= set(synth.privacy.public)
    assert [f.treatment for f in synth.facts.values()].count("determined") == 4
    assert any("sex M with pregnant True" in note for note in synth.notes)


def test_a_mapping_that_was_not_declared_is_bought(synth: dpsynth.Synthesizer) -> None:
    mapping = dict(next(c for c in synth.schema.constraints if c.columns == ("zip", "city")).pairs)
    right = [mapping[f"z{z:02d}"] == f"C{z // 5}" for z in range(30) if f"z{z:02d}" in mapping]
    assert len(right) >= 25 and np.mean(right) > 0.9


def test_the_saved_model_and_the_released_schema_hold_the_constraints(
    synth: dpsynth.Synthesizer, tmp_path: Path
) -> None:
    synth.save(tmp_path / "model")
    again = dpsynth.load(tmp_path / "model")
    assert again.schema == synth.schema
    pd.testing.assert_frame_equal(again.sample_typed(500, seed=1), synth.sample_typed(500, seed=1))
    synth.schema.save(tmp_path / "schema.json")
    assert Schema.load(tmp_path / "schema.json").constraints == synth.schema.constraints


def test_the_gate_fails_a_table_that_breaks_a_constraint(synth: dpsynth.Synthesizer) -> None:
    from dpsynth.gate import judge

    table = synth.sample_typed()
    (check,) = [c for c in judge(synth, table).checks if c.name == "declared constraints"]
    assert check.verdict == "pass" and check.value == 0
    table.loc[3, "left"] = table.loc[3, "admitted"] - pd.Timedelta("1D")
    table.loc[[4, 5], "cost"] += 1
    report = judge(synth, table)
    (check,) = [c for c in report.checks if c.name == "declared constraints"]
    assert (check.verdict, check.value, report.verdict) == ("fail", 3, "fail")
    assert check.detail == "rows that break one: 1 of admitted <= left, 2 of cost = labour + material"


def held(synth: dpsynth.Synthesizer, name: str, share: float) -> Any:
    """A value that the model has: the quantile of a sample."""
    return synth.sample(500, seed=0)[name].quantile(share, interpolation="nearest")


WHERES: list[dict[str, Any]] = [
    {"years": 7},
    {"age group": "old", "sex": "F"},
    {"pregnant": True},
    {"admitted": 0.7},
    {"left": 0.2, "years": 1},
    {"city": "C3"},
    {"age": 16, "age group": "child"},
]


@pytest.mark.parametrize("where", WHERES, ids=str)
def test_conditions_are_met_and_constraints_kept(synth: dpsynth.Synthesizer, where: dict[str, Any]) -> None:
    where = {n: held(synth, n, v) if n in ("admitted", "left") else v for n, v in where.items()}
    out = synth.sample(2000, where=where, seed=3)
    assert set(broken(out).values()) == {0} and len(out) == 2000
    for name, value in where.items():
        assert (out[name] == value).all()


@pytest.mark.parametrize(
    ("where", "says"),
    [
        ({"sex": "M", "pregnant": True}, "sex M with pregnant True"),
        ({"admitted": 0.9, "left": 0.1}, "admitted <= left"),
        ({"years": 3, "education": "phd"}, "'education'"),
        ({"years": 4}, "no value"),
        ({"cost": 5}, "'cost' is not modelled"),
        ({"pregnant": True, "age": 70}, "age"),
    ],
)
def test_conditions_that_contradict_constraints_are_refused(
    synth: dpsynth.Synthesizer, where: dict[str, Any], says: str
) -> None:
    where = {n: held(synth, n, v) if n in ("admitted", "left") else v for n, v in where.items()}
    with pytest.raises(dpsynth.SchemaError, match=says):
        synth.sample(5, where=where)


def test_rows_that_break_a_constraint_are_counted_like_others() -> None:
    table = people(2000)[list(FEW.names)]
    table.loc[:400, "pregnant"] = True  # men among them
    table.loc[:50, "left"] = START
    synth = dpsynth.fit(table, epsilon=3.0, schema=FEW, progress=False, insecure_seed=0)
    assert synth.n_rows == pytest.approx(2000, abs=100)
    out = synth.sample()
    assert (out["admitted"] <= out["left"]).all() and not ((out["sex"] == "M") & out["pregnant"]).any()


def test_constraints_hold_for_units_with_several_rows() -> None:
    table = people(3000)[list(FEW.names)].assign(person=np.arange(3000) // 3)
    synth = dpsynth.fit(table, epsilon=4.0, schema=FEW, unit="person", max_rows_per_unit=3, progress=False)
    out = synth.sample()
    assert (out["admitted"] <= out["left"]).all() and not ((out["sex"] == "M") & out["pregnant"]).any()
    assert out["person"].value_counts().max() <= 3


def test_a_date_is_the_sum_of_a_date_and_a_time() -> None:
    rng = np.random.default_rng(0)
    start = START + pd.to_timedelta(rng.integers(0, 300, 1500), unit="D")
    stay = pd.Series(pd.to_timedelta(rng.integers(0, 40, 1500), unit="h")).where(rng.random(1500) < 0.8)
    table = pd.DataFrame({"start": start, "stay": stay, "end": start + stay})
    schema = Schema([Column(c) for c in table], [Total("end", ("start", "stay"))])
    out = dpsynth.fit(table, epsilon=3.0, schema=schema, progress=False, insecure_seed=0).sample(3000)
    assert out["end"].dtype == table["end"].dtype and out["end"].isna().mean() == pytest.approx(0.2, abs=0.06)
    pd.testing.assert_series_equal(out["end"], (out["start"] + out["stay"]).rename("end"))


def errors(schema: Schema, table: pd.DataFrame) -> tuple[float, float]:
    """Mean 1-way and 2-way distance of two fits from the rows, over the columns that every fit models."""
    shown = ["sex", "age", "pregnant", "education", "admitted", "left"]
    bins = {
        c: pd.qcut(table[c], 12, labels=False, duplicates="drop", retbins=True)[1] for c in ("age", "admitted", "left")
    }

    def coded(frame: pd.DataFrame) -> pd.DataFrame:
        cut = {c: np.clip(np.searchsorted(b[1:-1], frame[c].to_numpy()), 0, 11) for c, b in bins.items()}
        return frame[shown].assign(**cut).astype(str)

    def distance(a: pd.DataFrame, b: pd.DataFrame, columns: tuple[str, ...]) -> float:
        x, y = (f.groupby(list(columns)).size() / len(f) for f in (a, b))
        return float(x.sub(y, fill_value=0).abs().sum() / 2)

    real, found = coded(table), []
    for seed in range(2):
        synth = dpsynth.fit(table, epsilon=1.0, schema=schema, progress=False, insecure_seed=seed)
        out = coded(synth.sample(20_000, seed=seed))
        found.append([np.mean([distance(real, out, q) for q in itertools.combinations(shown, k)]) for k in (1, 2)])
    one, two = np.mean(found, axis=0)
    return float(one), float(two)


@pytest.mark.slow
def test_constraints_that_hold_do_not_make_the_table_worse() -> None:
    """What a rule settles needs no budget, and what cannot be gets no rows: pairs are as near to the rows', or nearer."""
    table = people(3000)
    labels = {"education": list(LEVELS), "city": [f"C{i}" for i in range(6)]}
    columns = [
        replace(c, kind="categorical", categories=labels[c.name]) if c.name in labels else c for c in SCHEMA.columns
    ]
    without, kept = errors(Schema(columns), table), errors(Schema(columns, SCHEMA.constraints), table)
    assert kept[0] < without[0] + 0.015 and kept[1] < 1.05 * without[1]


# -- against brute force -----------------------------------------------------------------------------------------------


class Apart:
    """A model that knows no constraint: each column drawn on its own."""

    pairs = ()

    def __init__(self, codecs: Mapping[str, Codec]) -> None:
        self.codecs = codecs

    def sample(self, n: int, *, rng: np.random.Generator, evidence: Mapping[str, np.ndarray]) -> np.ndarray:
        columns = []
        for name, codec in self.codecs.items():
            p = codec.group_shares * evidence.get(name, 1.0)
            columns.append(rng.choice(codec.size, n, p=p / p.sum()))
        return np.stack(columns, axis=1)

    def state(self) -> Any:
        raise NotImplementedError


def whole(name: str, size: int, groups: list[int], seed: int, *, missing: float = 0.0) -> Codec:
    """A column of whole numbers 0 .. size - 1 in groups."""
    cells = LineCells(name, "number", tuple(map(float, range(size))), (), 1.0)
    shares = np.random.default_rng(seed).dirichlet(np.ones(size)) * (1 - missing)
    return Codec(cells, np.append(shares, missing), np.array([*groups, max(groups) + (missing > 0)], np.int64))


def numeric(*names: str) -> dict[str, Column]:
    return {name: Column(name, "numeric") for name in names}


def drawn(rules: Rules, model: Any, n: int, conditions: Conditions = NO_CONDITIONS) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    conditions = rules.with_evidence(conditions)
    codes = rules.draw(model, n, conditions.evidence, rng)
    values: dict[str, Any] = {
        name: np.full(n, conditions.fixed[name])
        if name in conditions.fixed
        else rules.drawn(name, codes[:, i], conditions, rng)
        for i, name in enumerate(rules.codecs)
    }
    assert rules.obey(values, codes, conditions, rng).all()
    rules.complete(values)
    return values


def expected(rules: Rules, obeys: Any, fixed: tuple[float, float] | None = None) -> np.ndarray:
    """P(x, y): codes by the model where they can obey, values within them given that they do."""
    a, b = rules.codecs.values()
    p = np.zeros((a.cells.size - 1, b.cells.size - 1))
    ok = np.array([[obeys(x, y) for y in range(p.shape[1])] for x in range(p.shape[0])])
    for g, h in itertools.product(range(a.size), range(b.size)):
        within = np.outer(a.within[g][:-1], b.within[h][:-1]) * ok
        if within.sum() > 0:
            p += a.group_shares[g] * b.group_shares[h] * within / within.sum()
    return p / p.sum()


def pair_rules(constraint: Any) -> Rules:
    codecs = {"x": whole("x", 8, [0, 0, 0, 1, 1, 2, 2, 2], 1), "y": whole("y", 6, [0, 0, 1, 1, 1, 2], 2)}
    return Rules(constraints=(constraint,), columns=numeric("x", "y"), codecs=codecs)


@pytest.mark.parametrize("strict", [False, True])
def test_an_order_is_kept_in_the_models_own_shares(strict: bool) -> None:
    rules = pair_rules(Ordered("x", "y", strict=strict))
    p = expected(rules, (lambda x, y: x < y) if strict else (lambda x, y: x <= y))
    values = drawn(rules, Apart(rules.codecs), 40_000)
    counted = np.zeros_like(p)
    np.add.at(counted, (values["x"].astype(int), values["y"].astype(int)), 1 / 40_000)
    assert counted[p == 0].sum() == 0 and np.abs(counted - p).sum() / 2 < 0.02


@pytest.mark.parametrize(("name", "value"), [("x", 1.0), ("x", 4.0), ("y", 3.0), ("y", 5.0)])
def test_a_condition_beside_an_order_is_exact(name: str, value: float) -> None:
    rules = pair_rules(Ordered("x", "y"))
    p = expected(rules, lambda x, y: x <= y)
    p = p[int(value)] if name == "x" else p[:, int(value)]
    codec = rules.codecs[name]
    weights = np.zeros(codec.size)
    group = codec.groups[int(value)]
    weights[group] = codec.shares[int(value)] / codec.group_shares[group]
    values = drawn(
        rules, Apart(rules.codecs), 30_000, Conditions(fixed={name: value}, kept={}, evidence={name: weights})
    )
    other = values["y" if name == "x" else "x"].astype(int)
    assert np.abs(np.bincount(other, minlength=len(p)) / 30_000 - p / p.sum()).sum() / 2 < 0.02


def test_impossible_combinations_are_told_by_codes() -> None:
    """After `aligned`, no code holds values of which a combination names some and not others."""
    rules = pair_rules(Impossible({"x": [1, (4, 6)], "y": [(None, 1), 4]}))
    rules = replace(rules, codecs=rules.aligned())
    x, y = (codec.groups[:-1] for codec in rules.codecs.values())
    (zero,) = rules.zeros
    bad = np.array([[a in (1, 4, 5, 6) and b in (0, 1, 4) for b in range(6)] for a in range(8)])
    assert ((zero.log_weights[np.ix_(x, y)] < -1) == bad).all()
    values = drawn(rules, Apart(rules.codecs), 20_000)
    p = np.outer(rules.codecs["x"].shares[:-1], rules.codecs["y"].shares[:-1]) * ~bad
    counted = np.zeros_like(p)
    np.add.at(counted, (values["x"].astype(int), values["y"].astype(int)), 1 / 20_000)
    assert np.abs(counted - p / p.sum()).sum() / 2 < 0.02 and counted[bad].sum() == 0


def test_codes_that_hardly_ever_obey_are_drawn_from_a_list() -> None:
    codecs = {"x": whole("x", 4000, [0] * 4000, 1), "y": whole("y", 2, [0, 0], 2)}
    rules = Rules(constraints=(Ordered("x", "y"),), columns=numeric("x", "y"), codecs=codecs)
    values = drawn(rules, Apart(codecs), 3000)
    assert (values["x"] <= values["y"]).all()
    pairs = {(x, y): codecs["x"].shares[x] * codecs["y"].shares[y] for x, y in ((0, 0), (0, 1), (1, 1))}
    for (x, y), weight in pairs.items():
        share = np.mean((values["x"] == x) & (values["y"] == y))
        assert share == pytest.approx(weight / sum(pairs.values()), abs=0.05)


def test_a_model_without_a_row_that_obeys_says_so() -> None:
    rules = pair_rules(Impossible({"x": [(0, 7)]}))
    rules = replace(rules, codecs=rules.aligned())
    with pytest.raises(dpsynth.ModelError, match="no row possible"):
        drawn(rules, Apart(rules.codecs), 100)


@st.composite
def coded_columns(pick: st.DrawFn) -> tuple[dict[str, Codec], dict[str, Column]]:
    codecs: dict[str, Codec] = {}
    columns: dict[str, Column] = {}
    for name in "abcd":
        size = pick(st.integers(2, 7))
        groups = [0, *itertools.accumulate(pick(st.lists(st.integers(0, 1), min_size=size - 1, max_size=size - 1)))]
        missing = pick(st.sampled_from([0.0, 0.2]))
        if pick(st.booleans()):
            codecs[name] = whole(name, size, groups, pick(st.integers(0, 99)), missing=missing)
            columns[name] = Column(name, "numeric", integer=True)
        else:
            labels = tuple(f"{name}{i}" for i in range(size))
            shares = np.append(np.random.default_rng(size).dirichlet(np.ones(size + 1)), missing)
            other = groups[-1] + 1
            codecs[name] = Codec(LabelCells(name, labels), shares / shares.sum(), np.array([*groups, other, other + 1]))
            columns[name] = Column(name, "categorical")
    return codecs, columns


@st.composite
def rule_sets(pick: st.DrawFn) -> Rules:
    codecs, columns = pick(coded_columns())
    constraints: list[Any] = []
    for _ in range(pick(st.integers(0, 3))):
        where: dict[str, Any] = {}
        for name in pick(st.lists(st.sampled_from("abcd"), min_size=1, max_size=3, unique=True)):
            number = columns[name].kind == "numeric"
            value = st.integers(0, 6) if number else st.sampled_from([*codecs[name].cells.labels, None])  # type: ignore[union-attr]
            item = st.one_of(value, st.tuples(st.integers(0, 3), st.integers(3, 6))) if number else value
            where[name] = pick(st.lists(item, min_size=1, max_size=2))
        constraints.append(Impossible(where))
    lines = [name for name in "abcd" if columns[name].kind == "numeric"]
    constraints += [Ordered(*pair) for pair in itertools.pairwise(lines) if pick(st.booleans())]
    columns["m"] = Column("m", "categorical")
    cells = codecs["a"].cells
    keys = list(range(7)) if isinstance(cells, LineCells) else list(cells.labels)
    mapping = [(key, pick(st.sampled_from(["u", "v", None]))) for key in keys]
    constraints.append(Determines("a", "m", mapping=mapping))
    if pick(st.booleans()):
        constraints.append(Impossible({"m": pick(st.sampled_from(["u", None])), pick(st.sampled_from("bcd")): None}))
    if len(lines) > 1:
        columns["t"] = Column("t", "numeric", integer=True)
        constraints.append(Total("t", lines[:2]))
    rules = Rules(constraints=tuple(constraints), columns=columns, codecs=codecs)
    return replace(rules, codecs=rules.aligned())


def mass_that_obeys(rules: Rules) -> float:
    """Share of the rows of `Apart` that obey, by listing every combination of cells."""
    codecs = list(rules.codecs.values())
    grid = np.stack(np.meshgrid(*(np.arange(c.cells.size) for c in codecs), indexing="ij"), -1).reshape(-1, len(codecs))
    weight = np.prod([c.shares[grid[:, i]] for i, c in enumerate(codecs)], axis=0)
    for i, c in enumerate(codecs):
        if isinstance(c.cells, LabelCells):
            weight[grid[:, i] == c.cells.other] = 0
    cells = {c.column: representatives(c.cells)[grid[:, i]] for i, c in enumerate(codecs)}
    rules.complete(cells)
    bad = [c.violated(cells, rules.columns) for c in rules.constraints]
    return float(weight[~np.logical_or.reduce(bad)].sum())


@settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))
@given(rule_sets(), st.integers(0, 9))
def test_whatever_is_declared_no_row_breaks_it(rules: Rules, seed: int) -> None:
    facts = tuple(
        ColumnFacts(column=column, treatment="modelled", reason="", codec=rules.codecs.get(name))
        for name, column in rules.columns.items()
    )
    domain = Domain(facts=facts, histograms={}, rows_codec=None, n_units=1.0, n_rows=1, rules=rules)
    model, rng = Apart(rules.codecs), np.random.default_rng(seed)
    try:
        codes, _ = draw(domain, model, 200, {}, rng)
        values = values_of(domain, model, codes, NO_CONDITIONS, rng)
    except dpsynth.ModelError:
        assert mass_that_obeys(rules) < 0.02
        return
    cells = {
        n: own_cells(c, rules.columns[n]) for n, c in read(table_of(facts, values, codes[:, 0], rng)).cells.items()
    }
    for constraint in rules.constraints:
        assert not constraint.violated(values, rules.columns).any(), str(constraint)
        assert not constraint.violated(cells, rules.columns).any(), str(constraint)


# -- mappings that are bought ------------------------------------------------------------------------------------------


def open_table(table: pd.DataFrame, epsilon: float) -> PrivateTable:
    return PrivateTable(
        read(table).source(None, None), account=Account(budget_of(epsilon, 1e-6)), noise=Noise(insecure_seed=1)
    )


@pytest.mark.parametrize("at_once", [True, False])
def test_a_mapping_is_found_whole_or_bit_by_bit(at_once: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not at_once:
        monkeypatch.setattr("dpsynth.mapping.MAX_CELLS", 1)
    rng = np.random.default_rng(0)
    code = rng.choice(30, 6000, p=[0.3 / 28] * 28 + [0.3495, 0.3505])
    table = pd.DataFrame({"a": [f"a{c:02d}" for c in code], "b": [f"b{c % 11:02d}" for c in code]})
    by = LabelCells("a", tuple(f"a{c:02d}" for c in range(31)))  # a30 is held by no row
    dependent = LabelCells("b", tuple(f"b{c:02d}" for c in range(11)))
    private = open_table(table, 8.0)
    spent = private.account.left.mu_squared
    found = learned(private, Determines("a", "b"), by, dependent, mu_squared=0.5 * spent)
    assert private.account.left.mu_squared == pytest.approx(0.5 * spent)
    assert {a: b for a, b in found.pairs if a not in ("a30", None)} == {
        f"a{c:02d}": f"b{c % 11:02d}" for c in range(30)
    }
    assert dict(found.pairs)["a30"] in ("b06", "b07"), "what noise hides goes with the most frequent"


def test_numbers_are_mapped_interval_by_interval() -> None:
    x = np.random.default_rng(0).uniform(0, 100, 5000)
    table = pd.DataFrame({"x": x, "y": np.floor(x / 25) * 10})
    by = LineCells("x", "number", (50.0,), (0.0, 25.0, 50.0, 75.0, 100.0), None)
    dependent = LineCells("y", "number", (0.0, 10.0, 20.0, 30.0), (), 10.0)
    found = learned(open_table(table, 5.0), Determines("x", "y"), by, dependent, mu_squared=0.1)
    columns = numeric("x", "y")
    made = found.made({"x": np.array([3.0, 24.999, 25.0, 74.0, 99.0])}, columns)
    assert made.tolist() == [0.0, 0.0, 10.0, 20.0, 30.0]


# -- the promise -------------------------------------------------------------------------------------------------------


def test_neighbours_differ_in_the_noisy_answers_alone(tmp_path: Path) -> None:
    """Every query moves by no more than it says; and with the same answers the output is the same, row for row."""
    table = people(400)[[*MAPPED.names, *FEW.names]]
    table.loc[0] = ["elsewhere", "nowhere", "M", True, START, START - pd.Timedelta("9D")]
    recorder = Recorder()
    schema = Schema([*MAPPED.columns, *FEW.columns], [*MAPPED.constraints, *FEW.constraints])
    first = witnessed(table, tmp_path / "first.db", recorder, schema=schema)
    replay = recorder.replay()
    second = witnessed(table.drop(index=0).reset_index(drop=True), tmp_path / "second.db", replay, schema=schema)
    assert all(c.holds for c in replay.comparisons), [c.label for c in replay.comparisons if not c.holds]
    mapped = [c for c in replay.comparisons if c.label.startswith("mappings/")]
    assert len(replay.comparisons) > 10 and len(mapped) == 1 and max(c.distance for c in replay.comparisons) > 0
    assert first.schema == second.schema
    pd.testing.assert_frame_equal(first.sample(300, seed=1), second.sample(300, seed=1))


def test_a_plan_shows_what_a_mapping_costs_and_what_is_free() -> None:
    plan = dpsynth.plan(SCHEMA, epsilon=1.0, n_rows=3000)
    (line,) = [line for line in plan.lines if line.stage == "mappings"]
    assert (line.queries, line.share, line.phase) == (1, 0.05, "schema")
    planned = {c.columns[0] for c in plan.columns}
    assert planned == set(SCHEMA.names) - {"years", "city", "age group", "cost"}
    bare = dpsynth.plan(Schema(SCHEMA.columns), epsilon=1.0, n_rows=3000)
    assert "mappings" not in {line.stage for line in bare.lines} and len(bare.columns) == 13


def test_a_release_tells_its_constraints(synth: dpsynth.Synthesizer, tmp_path: Path) -> None:
    release = dpsynth.release(synth, tmp_path / "out", accept_inconclusive=True)
    assert [c.verdict for c in release.gate.checks if c.name == "declared constraints"] == ["pass"]
    card = (tmp_path / "out" / "README.md").read_text()
    assert "admitted <= left" in card and "| cost | numeric | determined |" in card
    again = Schema.load(tmp_path / "out" / "schema.json")
    assert again.constraints == synth.schema.constraints
    data = pd.read_parquet(tmp_path / "out" / "data.parquet")
    cells = {name: own_cells(c, again[name]) for name, c in read(data).cells.items()}
    assert not any(c.violated(cells, {c.name: c for c in again.columns}).any() for c in again.constraints)
