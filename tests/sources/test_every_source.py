"""The same rows through every source, in any order and in any cut: the same counts, hence the same model under one seed."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.dataset as pads
import pyarrow.parquet as pq
import pytest
import sqlalchemy

import dpsynth
from dpsynth.encode.cells import LabelCells, LineCells
from dpsynth.privacy.source import ROWS_PER_UNIT, Numbers, Strings
from dpsynth.sources import SQL, DuckDB, HeldRows, hold, read, rows
from tests import postgres

duckdb = pytest.importorskip("duckdb", reason="the duckdb extra is not installed")
datasets = pytest.importorskip("datasets", reason="the huggingface extra is not installed")
polars = pytest.importorskip("polars", reason="the polars extra is not installed")

DAY = 86_400_000_000.0
CODINGS = (
    LabelCells("city", ("Ulm", "Köln", 'a "quoted", one')),
    LabelCells("member", ("True", "False")),
    LineCells("age", "number", (0.0, 40.0), (0.0, 20.0, 60.0, 100.0), 1.0),
    LineCells("income", "number", (), (0.0, 1000.0, 2500.5, 90_000.0), None),
    LineCells("since", "datetime", (), (0.0, 10_000 * DAY, 19_000 * DAY), DAY),
)
PAIRS = [[a] for a in CODINGS] + [[a, b] for i, a in enumerate(CODINGS) for b in CODINGS[:i]]


def people(n: int, seed: int) -> pd.DataFrame:
    """Rows with missing cells in every column but the unit's; units with one to many rows, and ids that float64 blurs."""
    rng = np.random.default_rng(seed)
    big = 2**53
    table = pd.DataFrame(
        {
            "person": big + rng.integers(0, max(n // 3, 1), n),
            "city": rng.choice(["Ulm", "Köln", 'a "quoted", one', "Ur\nlaub"], n),
            "member": pd.array(rng.random(n) < 0.5, dtype="boolean"),
            "age": pd.array(rng.integers(0, 100, n), dtype="Int64"),
            "income": rng.lognormal(7, 1, n),
            "since": pd.Timestamp("1970-01-01") + pd.to_timedelta(rng.integers(0, 19_000, n), "D"),
        }
    )
    for column in table.columns[1:]:
        table.loc[rng.random(n) < 0.1, column] = None
    return table


def arrow(table: pd.DataFrame) -> pa.Table:
    schema = pa.schema(
        [
            ("person", pa.int64()),
            ("city", pa.string()),
            ("member", pa.bool_()),
            ("age", pa.int64()),
            ("income", pa.float64()),
            ("since", pa.timestamp("us")),
        ]
    )
    return pa.Table.from_pandas(table, schema=schema, preserve_index=False)


def parts(table: pd.DataFrame, n: int = 3) -> Iterator[pd.DataFrame]:
    for places in np.array_split(np.arange(len(table)), n):
        yield table.iloc[places]


def a_parquet_file(table: pd.DataFrame, folder: Path) -> Path:
    pq.write_table(arrow(table), folder / "t.parquet", row_group_size=37)
    return folder / "t.parquet"


def a_folder_of_parquet(table: pd.DataFrame, folder: Path) -> Path:
    (folder / "many" / "z").mkdir(parents=True)
    for i, part in enumerate(parts(table)):
        where = folder / "many" / ("z" if i else ".") / f"part-{i}.parquet"
        pq.write_table(arrow(part).select(table.columns[:: -1 if i else 1]), where)
    (folder / "many" / "_SUCCESS.parquet").write_bytes(b"")
    return folder / "many"


def a_csv_file(table: pd.DataFrame, folder: Path) -> Path:
    table.to_csv(folder / "t.csv", index=False)
    return folder / "t.csv"


def a_folder_of_csv(table: pd.DataFrame, folder: Path) -> Path:
    (folder / "texts").mkdir()
    for i, part in enumerate(parts(table)):
        part.to_csv(folder / "texts" / f"part-{i}.csv{'.gz' if i else ''}", index=False)
    return folder / "texts"


def a_duckdb_file(table: pd.DataFrame, folder: Path) -> DuckDB:
    rows = arrow(table)  # DuckDB finds it by its name
    with duckdb.connect(str(folder / "t.duckdb")) as connection:
        connection.register("rows_", rows)
        connection.sql("create table people as select * from rows_")
    return DuckDB(folder / "t.duckdb", table="people")


def a_duckdb_relation(table: pd.DataFrame, folder: Path) -> Any:
    pq.write_table(arrow(table), folder / "relation.parquet")
    return duckdb.connect().read_parquet(str(folder / "relation.parquet"))


def a_database(table: pd.DataFrame, folder: Path) -> SQL:
    return filled(f"sqlite:///{folder / 't.db'}", table)


def filled(url: str, table: pd.DataFrame) -> SQL:
    """A database with the table `people`."""
    engine = sqlalchemy.create_engine(url)
    types = {"person": sqlalchemy.BigInteger(), "member": sqlalchemy.Boolean(), "age": sqlalchemy.Integer()}
    table.to_sql("people", engine, index=False, dtype=types)  # type: ignore[arg-type]
    engine.dispose()
    return SQL(url, table="people")


def a_hugging_face_dataset(table: pd.DataFrame, folder: Path) -> Any:
    return datasets.Dataset(arrow(table)).shuffle(seed=1)


SOURCES: dict[str, Callable[[pd.DataFrame, Path], Any]] = {
    "polars": lambda table, _: polars.from_arrow(arrow(table)),
    "polars, lazy": lambda table, _: polars.from_arrow(arrow(table)).lazy(),
    "pyarrow": lambda table, _: arrow(table),
    "pyarrow in chunks": lambda table, _: pa.concat_tables([arrow(p) for p in parts(table)]),
    "pyarrow dictionaries": lambda table, _: arrow(table).set_column(
        1, "city", arrow(table)["city"].dictionary_encode()
    ),
    "pyarrow dataset": lambda table, _: pads.dataset(arrow(table)),
    "Parquet": a_parquet_file,
    "a folder of Parquet": a_folder_of_parquet,
    "CSV": a_csv_file,
    "a folder of CSV": a_folder_of_csv,
    "DuckDB file": a_duckdb_file,
    "DuckDB relation": a_duckdb_relation,
    "DuckDB query": lambda t, f: DuckDB(a_duckdb_file(t, f).path, query="select * from people order by income"),
    "SQL table": a_database,
    "text that names a table": lambda t, f: f"{a_database(t, f).url}#people",
    "Hugging Face": a_hugging_face_dataset,
}


def counts(data: Any, unit: str | None, max_rows: int | None) -> list[np.ndarray]:
    source = hold(data, unit).source(unit, max_rows)
    kept = [[LineCells(ROWS_PER_UNIT, "number", (1.0, 2.0, 3.0), (), 1.0)]] if unit else []
    return source.count([*PAIRS, *kept])


@pytest.mark.parametrize("make", SOURCES.values(), ids=SOURCES.keys())
@pytest.mark.parametrize("small", [True, False], ids=["in memory", "on disk"])
@pytest.mark.parametrize("seed", [0, *(pytest.param(s, marks=pytest.mark.slow) for s in (1, 2))])
def test_counts_are_those_of_the_data_frame(
    make: Callable[[pd.DataFrame, Path], Any], small: bool, seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = people(int(np.random.default_rng(seed).integers(50, 200)), seed)
    shuffled = table.sample(frac=1, random_state=seed)
    with monkeypatch.context() as patched:
        patched.setattr(rows, "IN_MEMORY", 2**25 if small else 0)
        patched.setattr("dpsynth.sources.arrow.BATCH", 64)
        counted_alike(table, make(shuffled, tmp_path), small)


def counted_alike(table: pd.DataFrame, data: Any, small: bool) -> None:
    for unit, max_rows in ((None, None), ("person", 2)):
        for expected, got in zip(counts(table, unit, max_rows), counts(data, unit, max_rows), strict=True):
            assert np.array_equal(expected, got)
    held, whole = hold(data, "person"), read(table)
    assert isinstance(held, HeldRows) is not small
    assert held.contents == whole.contents  # one data set to the ledger


@pytest.mark.parametrize("small", [True, False], ids=["in memory", "on disk"])
def test_counts_of_a_server_are_those_of_the_data_frame(
    small: bool, postgres_server: postgres.Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = people(150, 3)
    monkeypatch.setattr(rows, "IN_MEMORY", 2**25 if small else 0)
    monkeypatch.setattr("dpsynth.sources.arrow.BATCH", 64)
    place = filled(postgres_server.database(), table.sample(frac=1, random_state=3))
    for data in (place, f"{place.url}#people"):
        counted_alike(table, data, small)


def test_types_of_a_server_are_its_catalogues(postgres_server: postgres.Server) -> None:
    url = postgres_server.database()
    types = {
        "a": ("smallint", "'7'", "integer"),
        "b": ("bigint", f"'{2**60}'", "integer"),
        "c": ("numeric(30, 2)", "'12.25'", "number"),
        "d": ("real", "'0.5'", "number"),
        "e": ("boolean", "'t'", "boolean"),
        "f": ("timestamptz", "'2020-01-01 01:00+01'", "datetime"),
        "g": ("date", "'2020-01-01'", "datetime"),
        "h": ("interval", "'1 day 2 hours'", "timedelta"),
        "i": ("time", "'12:30'", "string"),
        "j": ("uuid", "'00000000-0000-0000-0000-000000000001'", "string"),
        "k": ("char(3)", "'x'", "string"),
        "l": ("mood", "'glad'", "string"),
    }
    said = ", ".join(f"{name} {kind}" for name, (kind, _, _) in types.items())
    cells = ", ".join(cell for _, cell, _ in types.values())
    missing = ", ".join("null" for _ in types)
    postgres_server.run("create type mood as enum ('glad', 'sad')", url_database(url))
    postgres_server.run(f"create table t ({said}); insert into t values ({cells}), ({missing})", url_database(url))
    found = read(f"{url}#t")
    assert {c.name: c.type for c in found.columns} == {name: kind for name, (_, _, kind) in types.items()}
    source = found.source(None, None)
    for name, cell in {"f": 18262 * DAY, "g": 18262 * DAY, "h": DAY * 26 / 24, "c": 12.25}.items():
        coding = LineCells(name, "datetime" if name in "fg" else "number", (cell,), (), None)
        assert source.count([[coding]])[0][0] == 1, name


def url_database(url: str) -> str:
    return str(sqlalchemy.make_url(url).database)


def test_a_query_has_no_types_but_the_same_rows(tmp_path: Path) -> None:
    table = people(80, 1).drop(columns=["member", "since"])
    place = a_database(table, tmp_path)
    read_in = read(SQL(place.url, query="select * from people"))
    assert {c.type for c in read_in.columns} == {"string"}
    pairs = [q for q in PAIRS if {c.column for c in q} <= set(table.columns)]
    for a, b in zip(read_in.source(None, None).count(pairs), read(table).source(None, None).count(pairs), strict=True):
        assert np.array_equal(a, b)


def test_types_are_the_schemas_whatever_the_rows_hold(tmp_path: Path) -> None:
    """One missing cell must not change what is said in public of a column."""
    table = people(60, 2)
    for part in (table, table.dropna()):
        kinds = {c.name: c.type for c in read(a_parquet_file(part, tmp_path)).columns}
        assert kinds == {"person": "integer", "city": "string", "member": "boolean", "age": "integer"} | {
            "income": "number",
            "since": "datetime",
        }
        assert {c.type for c in read(a_csv_file(part, tmp_path)).columns} == {"string"}
    engine = sqlalchemy.create_engine(f"sqlite:///{tmp_path / 'typed.db'}")
    with engine.begin() as connection:
        connection.execute(
            sqlalchemy.text("create table t (a integer, b numeric(8, 2), c varchar(9), d boolean, e datetime)")
        )
        connection.execute(
            sqlalchemy.text(
                "insert into t values (1, 2.5, 'x', 1, '2020-01-01 00:00:00'), (null, null, null, null, null)"
            )
        )
    engine.dispose()
    kinds = {c.name: c.type for c in read(SQL(f"sqlite:///{tmp_path / 'typed.db'}", table="t")).columns}
    assert kinds == {"a": "integer", "b": "number", "c": "string", "d": "boolean", "e": "datetime"}


def test_ids_that_float64_blurs_are_units_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    ids = 2**60 + np.arange(40)
    table = pd.DataFrame({"person": ids, "x": np.arange(40.0)})
    coding = [[LineCells("x", "number", (), (0.0, 100.0), 1.0)]]
    for limit in (2**25, 0):
        monkeypatch.setattr(rows, "IN_MEMORY", limit)
        for data in (table, pa.Table.from_pandas(table), table.assign(person=table["person"].astype("uint64"))):
            assert hold(data, "person").source("person", 1).count(coding)[0].tolist() == [40, 0]


def test_rows_without_a_unit_are_one_unit(monkeypatch: pytest.MonkeyPatch) -> None:
    table = pd.DataFrame({"person": [1.0, 2.0, None, None, None], "x": [1.0] * 5})
    coding = [[LineCells("x", "number", (1.0,), (), 1.0)]]
    for limit in (2**25, 0):
        monkeypatch.setattr(rows, "IN_MEMORY", limit)
        for data in (table, pa.Table.from_pandas(table)):
            assert hold(data, "person").source("person", 1).count(coding)[0].tolist() == [3, 0]


@pytest.mark.slow
@pytest.mark.parametrize("unit", [None, "person"])
def test_the_model_is_the_same_from_memory_and_from_disk(
    unit: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = people(400, 5)
    table["person"] -= 2**53
    samples = []
    for name, (data, limit) in {
        "memory": (a_parquet_file(table, tmp_path), 2**25),
        "disk": (a_folder_of_parquet(table.sample(frac=1, random_state=1), tmp_path), 0),
        "database": (a_duckdb_file(table.sample(frac=1, random_state=2), tmp_path), 2**25),
    }.items():
        monkeypatch.setattr(rows, "IN_MEMORY", limit)
        assert isinstance(hold(data, unit), HeldRows) is (name == "disk")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            synth = dpsynth.fit(
                data,
                epsilon=2.0,
                unit=unit,
                max_rows_per_unit=2 if unit else None,
                ledger=f"sqlite:///{tmp_path / name}.db",
                progress=False,
                patterns_only=True,
                insecure_seed=7,
            )
        samples.append(synth.sample_typed(50, seed=1))
    for other in samples[1:]:
        pd.testing.assert_frame_equal(samples[0], other)


@pytest.mark.parametrize("first", [1, 1.0, True, "1", Decimal("1.0")])
def test_a_cell_of_mixed_types_reads_the_same_whatever_stands_before_it(first: object) -> None:
    """To pandas 1, 1.0 and True are one value; one row would rename those of all others."""
    values = [1, 1.0, True, None, Decimal("1.00"), "1", np.int64(1), np.nan]
    cells = read(pd.DataFrame({"x": pd.Series([first, *values], dtype=object)})).cells["x"]
    assert isinstance(cells, Strings)
    texts = [None if code < 0 else cells.uniques[code] for code in cells.codes]
    assert texts == [str(first), "1", "1.0", "True", None, "1.00", "1", "1", None]
    assert len(set(cells.uniques)) == len(cells.uniques)


def test_a_zero_has_no_sign() -> None:
    """A sort puts one of two equal zeros first, which depends on all rows."""
    numbers = np.zeros(1500)
    numbers[1211] = -0.0
    cells = read(pd.DataFrame({"x": numbers})).cells["x"]
    assert isinstance(cells, Numbers) and not np.signbit(cells.data).any()
