"""The same data under another name, in another order or saved again keep their budget; other data have another fingerprint."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import dpsynth
from dpsynth.privacy.accounting import Cost
from dpsynth.privacy.errors import BudgetExceeded
from dpsynth.privacy.ledger import Ledger
from dpsynth.privacy.ledger.fingerprint import _LANES, Contents
from dpsynth.sources import read
from tests.conftest import mixed_table


@pytest.fixture(scope="module")
def ledger(tmp_path_factory: pytest.TempPathFactory) -> Ledger:
    return Ledger(tmp_path_factory.mktemp("prints") / "budget.db")


def fingerprint(ledger: Ledger, data: Any) -> str:
    return ledger.fingerprint(read(data).contents)


def everything(n: int = 400) -> pd.DataFrame:
    """Every kind of cell that has tripped a re-saving."""
    table = mixed_table(n)
    rng = np.random.default_rng(1)
    table["price"] = (rng.lognormal(3, 2, n)).astype(np.float32)
    table["tiny"] = rng.normal(size=n) * 1e-9
    table["big"] = rng.integers(10**11, 10**12, n)
    table["code"] = [f"{i:05d}" for i in rng.integers(0, 10**5, n)]
    table["text"] = [f"line {i}, with 'quotes' and ünïcode" for i in rng.integers(0, 50, n)]
    table["answer"] = rng.choice(["yes", "no", "NA", "", "None"], n)
    table["moment"] = pd.Timestamp("1969-12-31 23:59:59.25") + pd.to_timedelta(rng.integers(0, 10**15, n), unit="us")
    table["zoned"] = table["moment"].dt.tz_localize("UTC").dt.tz_convert("Asia/Kolkata")
    table["edge"] = rng.choice([0.0, -0.0, np.inf, np.nan, 1.0], n)
    return table


def as_csv(table: pd.DataFrame, folder: Path) -> Any:
    table.to_csv(folder / "t.csv", index=False)
    return folder / "t.csv"


def as_csv_read_by_pandas(table: pd.DataFrame, folder: Path) -> Any:
    table.to_csv(folder / "t.csv", index=False)
    return pd.read_csv(folder / "t.csv")


def as_tsv_gz(table: pd.DataFrame, folder: Path) -> Any:
    table.to_csv(folder / "t.tsv.gz", index=False, sep="\t")
    return folder / "t.tsv.gz"


def as_parquet(table: pd.DataFrame, folder: Path) -> Any:
    table.to_parquet(folder / "t.parquet", index=False)
    return folder / "t.parquet"


def as_csv_and_then_parquet(table: pd.DataFrame, folder: Path) -> Any:
    return as_parquet(as_csv_read_by_pandas(table, folder), folder)


def as_arrow(table: pd.DataFrame, folder: Path) -> Any:
    import pyarrow

    return pyarrow.Table.from_pandas(table, preserve_index=False)


def as_polars(table: pd.DataFrame, folder: Path) -> Any:
    import polars

    return polars.from_pandas(table)


def as_polars_csv(table: pd.DataFrame, folder: Path) -> Any:
    import polars

    polars.from_pandas(table.drop(columns=["stay"])).write_csv(folder / "p.csv")
    return folder / "p.csv"


def as_strings(table: pd.DataFrame, folder: Path) -> Any:
    return table.astype(str).where(table.notna(), None)


def as_objects(table: pd.DataFrame, folder: Path) -> Any:
    return table.astype(object)


def as_nullable(table: pd.DataFrame, folder: Path) -> Any:
    return table.astype({"age": "Int64", "income": "Float64", "member": "boolean", "city": "string", "big": "Int64"})


def as_floats(table: pd.DataFrame, folder: Path) -> Any:
    return table.astype(dict.fromkeys(("age", "member", "big", "visits"), float))


def as_categories(table: pd.DataFrame, folder: Path) -> Any:
    return table.astype(dict.fromkeys(("age", "group", "text", "joined", "code"), "category"))


def shuffled(table: pd.DataFrame, folder: Path) -> Any:
    return table.sample(frac=1, random_state=0)[list(table.columns[::-1])]


def renamed_columns(table: pd.DataFrame, folder: Path) -> Any:
    return table.rename(columns=lambda c: f"x_{c}")


SAVED: list[Callable[[pd.DataFrame, Path], Any]] = [
    as_csv, as_csv_read_by_pandas, as_tsv_gz, as_parquet, as_csv_and_then_parquet, as_arrow, as_polars, as_polars_csv, as_strings,
    as_objects, as_nullable, as_floats, as_categories, shuffled, renamed_columns,
]  # fmt: skip


@pytest.mark.parametrize("saved", SAVED)
def test_the_same_table_is_known_again(ledger: Ledger, saved: Callable[..., Any], tmp_path: Path) -> None:
    table = everything().drop(columns=["stay"] if saved is as_polars_csv else [])
    again = saved(everything(), tmp_path)
    assert fingerprint(ledger, again) == fingerprint(ledger, table)


@pytest.mark.parametrize("saved", SAVED)
def test_each_column_alone_is_known_again(ledger: Ledger, saved: Callable[..., Any], tmp_path: Path) -> None:
    """Where a column is not, this names it."""
    table = everything()
    if saved is as_polars_csv:
        table = table.drop(columns=["stay"])
    before, after = read(table), read(saved(everything(), tmp_path))
    renamed = dict(zip(sorted(before.cells), sorted(after.cells), strict=True))
    from dpsynth.privacy.ledger.fingerprint import row_hashes

    def alone(rows: Any, name: str) -> list[int]:
        types = {c.name: c.type for c in rows.columns}
        moments = {name: types[name]} if types[name] in ("datetime", "timedelta") else {}
        return sorted(row_hashes({name: rows.cells[name]}, moments).content.tolist())

    assert [n for n, m in renamed.items() if alone(before, n) != alone(after, m)] == []


def change(table: pd.DataFrame, column: str, value: Any) -> pd.DataFrame:
    changed = table.copy()
    changed.loc[0, column] = value
    return changed


@pytest.mark.parametrize(
    "other",
    [
        lambda t: change(t, "age", 7),
        lambda t: change(t, "city", "Rome"),
        lambda t: change(t, "joined", pd.Timestamp("1999-09-09")),
        lambda t: change(t, "score", np.nan),
        lambda t: t.iloc[1:],
        lambda t: pd.concat([t, t.iloc[:1]]),
        lambda t: t.drop(columns=["age"]),
        lambda t: t.assign(age=t["age"].to_numpy()[::-1]),  # the same columns, but not the same rows
    ],
)
def test_other_data_have_another_fingerprint(ledger: Ledger, other: Callable[[pd.DataFrame], pd.DataFrame]) -> None:
    assert fingerprint(ledger, other(mixed_table(300))) != fingerprint(ledger, mixed_table(300))


@settings(max_examples=100, deadline=None)
@given(
    values=st.lists(
        st.one_of(
            st.integers(-(2**53), 2**53),
            st.floats(allow_nan=False, allow_infinity=False),
            st.floats(width=32, allow_nan=False),
        ),
        min_size=1,
    )
)
def test_numbers_are_known_by_value(values: list[float]) -> None:
    numbers = read(pd.DataFrame({"a": np.array(values, dtype=float)}))
    texts = read(pd.DataFrame({"a": [repr(v) for v in values]}))
    assert (numbers.hashes.content == texts.hashes.content).all()


@settings(max_examples=100, deadline=None)
@given(values=st.lists(st.datetimes(min_value=pd.Timestamp("1700-01-01").to_pydatetime(), max_value=pd.Timestamp("2200-01-01").to_pydatetime()), min_size=1))  # fmt: skip
def test_moments_are_known_by_value(values: list[Any]) -> None:
    moments = read(pd.DataFrame({"a": pd.Series(values, dtype="datetime64[us]")}))
    for texts in ([str(v) for v in values], [v.isoformat() for v in values], [f"{v.isoformat()}Z" for v in values]):
        assert (moments.hashes.content == read(pd.DataFrame({"a": texts})).hashes.content).all()


def test_hashes_stay_as_they_are() -> None:
    """A ledger outlives versions: a change here would reset every budget."""
    table = pd.DataFrame({"n": [1.5, np.nan], "s": ["Lima", None], "d": pd.to_datetime(["2020-01-02", None])})
    hashes = read(table).hashes
    assert hashes.content.tolist() == [9553856754120439206, 64646023444320627]
    assert Contents.of(hashes.content) == Contents(
        (7121579956570099156, 14058081567503155915, 103613491079753456, 14765091449829655977), 2
    )
    assert "private" in repr(hashes) and "9553856754120439206" not in repr(hashes)


@given(hashes=st.lists(st.integers(0, 2**64 - 1), max_size=30), cut=st.integers(0, 30), seed=st.integers(0, 9))
def test_contents_add_up_in_every_order_and_cut(hashes: list[int], cut: int, seed: int) -> None:
    whole = np.array(hashes, np.uint64)
    again = np.random.default_rng(seed).permutation(whole)
    parts = Contents.of(again[cut:]) + Contents.of(again[:cut]) + Contents()
    assert parts == Contents.of(whole) and parts.rows == len(hashes)
    lanes = [sum(_mixed_by_hand(h + c) for h in hashes) % 2**64 for c in map(int, _LANES)]
    assert list(parts.lanes) == lanes


def _mixed_by_hand(x: int) -> int:
    x %= 2**64
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB % 2**64
    return x ^ (x >> 31)


@given(st.lists(st.integers(0, 5), min_size=1, max_size=6), st.lists(st.integers(0, 5), min_size=1, max_size=6))
def test_contents_are_equal_for_the_same_multiset_alone(a: list[int], b: list[int]) -> None:
    one, other = (Contents.of(np.array(x, np.uint64)) for x in (a, b))
    assert (one == other) == (sorted(a) == sorted(b))
    assert all((x == y) == (sorted(a) == sorted(b)) for x, y in zip(one.lanes, other.lanes, strict=True))
    assert str(one.lanes[0]) not in repr(one)


def test_a_row_alone_decides_its_hash() -> None:
    """Which rows a unit keeps depends on these hashes, so they must not depend on other rows."""
    table = everything(200)
    whole = read(table).hashes.rows
    part = read(table.iloc[50:60]).hashes.rows
    assert (whole[50:60] == part).all()


# -- through fit -------------------------------------------------------------------------------------------------------


def test_no_way_of_handing_it_over_resets_the_budget(tmp_path: Path) -> None:
    """Cap a data set, spend it, and try every disguise: under its name, without, and under a new one."""
    table = everything(120)[["age", "group", "joined", "price"]]
    ledger = dpsynth.Ledger(tmp_path / "budget.db")
    ledger.set_cap("people", epsilon=1.2, delta=1e-5)
    dpsynth.fit(table, epsilon=1.0, dataset="people", ledger=ledger, progress=False)
    disguises = [as_csv, as_csv_and_then_parquet, as_polars, as_strings, shuffled, renamed_columns]
    for disguise in disguises:
        for name in ("people", None, f"not people: {disguise.__name__}"):
            data = disguise(table, tmp_path)
            with pytest.raises(BudgetExceeded, match="'people'"):
                dpsynth.fit(data, epsilon=1.0, dataset=name, ledger=ledger, progress=False)
    (record,) = ledger.datasets()
    assert len(ledger.spent(record.id).runs) == 1 and ledger.verify() == []


def test_another_unit_is_refused_under_a_cap_and_booked_apart_without(tmp_path: Path) -> None:
    table = mixed_table(300)[["age", "group"]].assign(person=np.arange(300) // 2)
    ledger = dpsynth.Ledger(tmp_path / "budget.db")
    by_person: dict[str, Any] = {"unit": "person", "max_rows_per_unit": 2, "ledger": ledger, "progress": False}
    dpsynth.fit(table, epsilon=1.0, ledger=ledger, dataset="people", progress=False)
    statement = dpsynth.fit(table, epsilon=1.0, **by_person).privacy
    assert statement.history is not None and statement.history.runs == 1  # under this unit
    assert {r.unit: len(ledger.spent(r.id, r.unit).runs) for r in ledger.datasets()} == {"row": 1, "person": 1}
    ledger.set_cap("people", epsilon=9.0, delta=1e-5, unit="person")
    dpsynth.fit(table, epsilon=1.0, **by_person)
    head = ledger.head()
    with pytest.raises(dpsynth.LedgerError, match="do not add up"):
        dpsynth.fit(table, epsilon=1.0, ledger=ledger, progress=False)
    assert ledger.head() == head


def test_a_sub_budget_is_named_after_a_slash(tmp_path: Path) -> None:
    table = mixed_table(200)[["age", "group"]]
    ledger = dpsynth.Ledger(tmp_path / "budget.db")
    ledger.set_cap("people", epsilon=5.0, delta=1e-5)
    ledger.set_sub_budget("people", "marketing", epsilon=1.2, delta=1e-5)
    dpsynth.fit(table, epsilon=1.0, dataset="people/marketing", ledger=ledger, progress=False)
    with pytest.raises(BudgetExceeded, match="sub-budget 'marketing'"):
        dpsynth.fit(table, epsilon=1.0, dataset="people/marketing", ledger=ledger, progress=False)
    dpsynth.fit(table, epsilon=1.0, dataset="people", ledger=ledger, progress=False)


def test_rows_added_to_a_known_table_warn_where_it_is_not_named(tmp_path: Path) -> None:
    table = mixed_table(300)[["age", "group", "score"]]
    ledger = dpsynth.Ledger(tmp_path / "budget.db")
    dpsynth.fit(table, epsilon=1.0, dataset="people", ledger=ledger, progress=False)
    with pytest.warns(UserWarning, match="dataset='people'") as caught:
        dpsynth.fit(table.iloc[:-1], epsilon=1.0, ledger=ledger, progress=False)
    assert Path(caught[0].filename).name == Path(__file__).name  # it points at the caller
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        dpsynth.fit(table.iloc[:-2], epsilon=1.0, ledger=ledger, dataset="people", progress=False)


def test_nothing_in_the_ledger_depends_on_the_number_of_rows(tmp_path: Path) -> None:
    sizes = []
    for n in (10, 30_000):
        folder = tmp_path / str(n)
        folder.mkdir()
        ledger = Ledger(folder / "budget.db")
        rows = read(mixed_table(n))
        columns = [c.name for c in rows.columns]
        record = ledger.dataset(name="p", fingerprint=ledger.fingerprint(rows.contents), unit="row", columns=columns)
        ledger.reserve(dataset=record, cost=Cost(mu_squared=0.1), delta=1e-6, label="fit")
        sizes.append(
            [len(str(e.body)) for e in ledger.entries()] + [f.stat().st_size for f in sorted(folder.iterdir())]
        )
    assert sizes[0] == sizes[1] and len(sizes[0]) >= 4
