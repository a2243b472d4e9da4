"""A source that cannot be read says so by name and rule, never by a value, before anything is reserved or written."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import sqlalchemy

import dpsynth
from dpsynth.privacy.accounting import Cost
from dpsynth.privacy.source import Strings
from dpsynth.sources import SQL, DuckDB, databases, rows
from dpsynth.sources.rows import read
from tests import postgres

SECRET = "maria-4711"
GOOD = pd.DataFrame({"a": range(1000), "b": [SECRET, "x"] * 500})


def parquet(folder: Path, name: str = "t.parquet", table: Any = GOOD) -> Path:
    pq.write_table(
        table if isinstance(table, pa.Table) else pa.Table.from_pandas(table), folder / name, row_group_size=100
    )
    return folder / name


def truncated(folder: Path) -> Path:
    path = parquet(folder)
    path.write_bytes(path.read_bytes()[:-200])
    return path


def damaged_inside(folder: Path) -> Path:
    """The footer is whole; the pages are not."""
    path = parquet(folder)
    content = bytearray(path.read_bytes())
    content[200:3000] = b"\xff" * 2800
    path.write_bytes(content)
    return path


def text(folder: Path, content: bytes, name: str = "t.csv") -> Path:
    (folder / name).write_bytes(content)
    return folder / name


def not_utf8(folder: Path) -> Path:
    return text(folder, b"a,b\n" + b"1,x\n" * 50_000 + "2,M\u00fcller maria-4711\n".encode("latin-1"))


def not_utf8_in_parquet(folder: Path) -> Path:
    strings = pa.array([b"x", "M\u00fcller maria-4711".encode("latin-1")]).view(pa.string())
    return parquet(folder, table=pa.table({"b": strings}))


def folder_of(*tables: Any) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        for i, table in enumerate(tables):
            parquet(folder, f"part-{i}.parquet", table)
        return folder

    return make


def both_kinds(folder: Path) -> Path:
    parquet(folder)
    text(folder, b"a,b\n1,x\n")
    return folder


def sqlite(folder: Path, *statements: str) -> str:
    engine = sqlalchemy.create_engine(f"sqlite:///{folder / 't.db'}")
    with engine.begin() as connection:
        for statement in statements:
            connection.execute(sqlalchemy.text(statement))
    engine.dispose()
    return f"sqlite:///{folder / 't.db'}"


BAD: dict[str, tuple[Callable[[Path], Any], str]] = {
    "truncated Parquet": (truncated, "t.parquet cannot be read"),
    "damaged Parquet": (damaged_inside, "t.parquet cannot be read"),
    "no Parquet at all": (lambda f: text(f, b"maria-4711", "t.parquet"), "t.parquet cannot be read"),
    "Latin-1 in CSV": (not_utf8, "t.csv cannot be read.*UTF-8"),
    "Latin-1 in Parquet": (not_utf8_in_parquet, "'b'.*UTF-8"),
    "a row too long": (
        lambda f: text(f, b"a,b\n" + b"1,x\n" * 9 + b"1,maria-4711,3\n"),
        "row of 3 cells under a header of 2",
    ),
    "a row too short": (lambda f: text(f, b"a,b\n1,x\nmaria-4711\n"), "row of 1 cells under a header of 2"),
    "an empty file": (lambda f: text(f, b""), "empty"),
    "a header alone": (lambda f: text(f, b"a,b\n"), "no rows"),
    "a quote that never ends": (
        lambda f: text(f, b'a,b\n1,"maria-4711\n' + b"2,x\n" * 9),
        "t.csv ends inside a quoted cell",
    ),
    "truncated gzip": (lambda f: text(f, b"\x1f\x8b\x08\x00maria-4711", "t.csv.gz"), "t.csv.gz cannot be read"),
    "an empty folder": (lambda f: f, "holds neither"),
    "CSV and Parquet in a folder": (both_kinds, "both CSV and Parquet"),
    "a column less": (folder_of(GOOD, GOOD[["a"]]), r"part-1.parquet has no column 'b'"),
    "a column more": (folder_of(GOOD[["a"]], GOOD), r"part-1.parquet has a column 'b'"),
    "another type": (folder_of(GOOD, GOOD.assign(a=SECRET)), r"column 'a' is \w+ in part-1.parquet, and int64"),
    "integers and floats": (folder_of(GOOD, GOOD.assign(a=0.5)), r"column 'a' is double in part-1.parquet"),
    "nested values": (lambda f: parquet(f, table=pa.table({"b": [[SECRET]]})), "'b'.*nested"),
    "binary values": (lambda f: parquet(f, table=pa.table({"b": [SECRET.encode()]})), "'b'.*binary"),
    "no such table": (lambda f: f"{sqlite(f, 'create table t (a int)')}#nobody", "NoSuchTableError"),
    "no such database": (lambda f: SQL(f"sqlite:///{f}/nowhere/t.db", table="t"), "OperationalError"),
    "no such DuckDB file": (lambda f: DuckDB(f / "nowhere.duckdb", table="t"), "no file"),
    "a DuckDB file that is none": (lambda f: DuckDB(text(f, SECRET.encode() * 999, "t.duckdb"), table="t"), "t.duckdb"),
    "a query that fails": (lambda f: SQL(sqlite(f), query="selct 'maria-4711'"), "cannot be read"),
    "a database without a table": (lambda f: sqlite(f), "URL#table"),
    "a DuckDB file without a table": (lambda f: str(f / "t.duckdb"), "file.duckdb#table"),
    "no URL": (lambda f: SQL("maria-4711", table="t"), "URL"),
    "a database that is not known": (lambda f: SQL("nobody://maria:4711@host/db", table="t"), "URL"),
    "a cell that is not of its column's type": (
        lambda f: sqlite(f, "create table t (a integer)", "insert into t values (1), ('maria-4711')") + "#t",
        "column 'a'.*not of its type",
    ),
    "blobs": (lambda f: f"{sqlite(f, 'create table t (a blob)')}#t", "'a'.*binary"),
}


def spent_nothing(ledger: Path) -> bool:
    return not ledger.exists() or all(e.kind != "reserve" for e in dpsynth.Ledger(ledger).entries())


@pytest.mark.parametrize("make, says", BAD.values(), ids=BAD.keys())
@pytest.mark.parametrize("limit", [2**25, 0], ids=["in memory", "on disk"])
def test_it_is_refused_before_anything_is_spent(
    make: Callable[[Path], Any],
    says: str,
    limit: int,
    tmp_path: Path,
    own_ledger: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(rows, "IN_MEMORY", limit)
    monkeypatch.setattr("dpsynth.sources.arrow.BATCH", 128)
    (tmp_path / "data").mkdir()
    data = make(tmp_path / "data")
    before = {p: p.stat().st_size for p in tmp_path.rglob("*")}
    with pytest.raises(dpsynth.SchemaError, match=says) as caught:
        dpsynth.fit(data, epsilon=1.0, progress=False)
    assert SECRET not in str(caught.value) and "4711" not in str(caught.value) and "ller" not in str(caught.value)
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    assert spent_nothing(own_ledger)
    assert {p: p.stat().st_size for p in tmp_path.rglob("*") if p != own_ledger} == before, "something was half-written"


@pytest.mark.parametrize("limit", [2**25, 0], ids=["in memory", "on disk"])
def test_a_connection_that_is_lost_midway(
    limit: int, tmp_path: Path, own_ledger: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = sqlite(tmp_path, "create table t (a integer, b varchar)")
    engine = sqlalchemy.create_engine(url)
    pd.DataFrame({"a": range(30_000), "b": SECRET}).to_sql("t", engine, if_exists="append", index=False)
    engine.dispose()
    fetched = []
    real = sqlalchemy.engine.cursor.BufferedRowCursorFetchStrategy.fetchone

    def fails(self: Any, result: Any, cursor: Any, *args: Any, **kwargs: Any) -> Any:
        fetched.append(1)
        if len(fetched) > 15_000:
            raise sqlalchemy.exc.OperationalError("select maria-4711", {}, Exception("server closed the connection"))
        return real(self, result, cursor, *args, **kwargs)

    monkeypatch.setattr(rows, "IN_MEMORY", limit)
    monkeypatch.setattr(sqlalchemy.engine.cursor.BufferedRowCursorFetchStrategy, "fetchone", fails)
    with pytest.raises(dpsynth.SchemaError, match="failed while its rows were read") as caught:
        dpsynth.fit(f"{url}#t", epsilon=1.0, progress=False)
    assert SECRET not in str(caught.value) and len(fetched) > 15_000 and spent_nothing(own_ledger)


@pytest.mark.parametrize("limit", [2**25, 0], ids=["in memory", "on disk"])
def test_a_server_that_ends_the_connection_midway(
    limit: int, postgres_server: postgres.Server, own_ledger: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was spent before stays spent, and the fit that failed costs nothing: rows are read before anything is reserved."""
    url = postgres_server.database()
    engine = sqlalchemy.create_engine(url)
    pd.DataFrame({"a": range(30_000), "b": SECRET}).to_sql("t", engine, index=False, chunksize=10_000, method="multi")
    engine.dispose()
    ledger = dpsynth.Ledger(own_ledger)
    record = ledger.dataset(name="people", fingerprint="f" * 64, unit="row")
    ledger.reserve(dataset=record, cost=Cost(mu_squared=0.01), delta=1e-6, label="before")
    array, seen = databases._array, []

    def ending(field: pa.Field, cells: tuple[Any, ...], what: str) -> pa.Array:
        if not seen:
            postgres_server.run(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'")
        seen.append(len(cells))
        return array(field, cells, what)

    name = sqlalchemy.make_url(url).database
    monkeypatch.setattr(rows, "IN_MEMORY", limit)
    monkeypatch.setattr(databases, "_array", ending)
    with pytest.raises(dpsynth.SchemaError, match=f"{name}.* failed while its rows were read.*run it again") as caught:
        dpsynth.fit(f"{url}#t", epsilon=1.0, dataset="people", progress=False)
    assert SECRET not in str(caught.value) and caught.value.__suppress_context__
    assert 10_000 <= sum(seen) < 60_000
    assert [run.state for run in dpsynth.Ledger(own_ledger).spent(record.id).runs] == ["reserved"]


@pytest.mark.parametrize("limit", [2**25, 0], ids=["in memory", "on disk"])
def test_a_server_is_left_alone_when_the_rows_were_read(
    limit: int, postgres_server: postgres.Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rows, "IN_MEMORY", limit)
    url = postgres_server.database()
    engine = sqlalchemy.create_engine(url)
    GOOD.to_sql("t", engine, index=False, method="multi")
    engine.dispose()
    held = rows.hold(f"{url}#t")
    # Refused while a transaction on it is open.
    postgres_server.run("SET lock_timeout = '2s'; DROP TABLE t", str(sqlalchemy.make_url(url).database))
    values, times = held.source(None, None).count_values("b")
    assert sorted(values) == sorted([SECRET, "x"]) and list(times) == [500, 500]


@pytest.mark.parametrize("kind", ["jsonb", "integer[]", "bytea", "inet", "point"])
def test_a_type_of_a_server_that_no_column_can_have(kind: str, postgres_server: postgres.Server) -> None:
    url = postgres_server.database()
    postgres_server.run(f"create table t (a integer, b {kind})", str(sqlalchemy.make_url(url).database))
    with pytest.raises(dpsynth.SchemaError, match="column 'b' holds"):
        rows.read(f"{url}#t")


def test_a_full_disk_is_told_before_anything_is_spent(
    tmp_path: Path, own_ledger: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(rows, "IN_MEMORY", 0)
    monkeypatch.setattr("os.pwrite", full)
    with pytest.raises(dpsynth.SchemaError, match="temporary files: No space left"):
        dpsynth.fit(parquet(tmp_path), epsilon=1.0, progress=False)
    assert spent_nothing(own_ledger)


def test_a_password_is_never_shown() -> None:
    place = SQL("postgresql+psycopg://maria:4711@127.0.0.1:1/db", table="t")
    pytest.importorskip("psycopg")
    with pytest.raises(dpsynth.SchemaError, match="OperationalError") as caught:
        dpsynth.fit(place, epsilon=1.0, progress=False)
    assert "4711" not in str(caught.value) + repr(place)


@pytest.mark.parametrize("place", [SQL, DuckDB])
def test_a_table_or_a_query(place: Any) -> None:
    for settings in ({}, {"table": "t", "query": "select 1"}):
        with pytest.raises(dpsynth.SchemaError, match="one of table= and query="):
            place("x", **settings)


def test_a_file_that_holds_only_missing_cells_fits_any_type(tmp_path: Path) -> None:
    folder_of(GOOD.assign(b=None), GOOD, GOOD.astype({"a": "int16"}))(tmp_path)
    read = rows.read(tmp_path)
    assert [c.type for c in read.columns] == ["integer", "string"] and len(read.cells["a"]) == 3000


def test_a_spark_of_before_says_what_installs_a_newer_one() -> None:
    old = type("DataFrame", (), {"mapInArrow": None, "__module__": "pyspark.sql.dataframe"})
    with pytest.raises(dpsynth.SchemaError, match=r"pip install 'dpsynth\[spark\]'"):
        dpsynth.fit(old(), epsilon=1.0, progress=False)


@pytest.mark.parametrize(
    "package, data",
    [
        ("duckdb", "dpsynth.DuckDB(__file__, table='t')"),
        ("psycopg", "dpsynth.SQL('postgresql+psycopg://host/db', table='t')"),
    ],
)
def test_a_missing_package_says_what_installs_it(package: str, data: str, tmp_path: Path) -> None:
    code = f"""
import sys
sys.modules[{package!r}] = None  # as if it were not installed
import dpsynth
try:
    dpsynth.fit({data}, epsilon=1.0, progress=False)
except dpsynth.SchemaError as error:
    print(error)
"""
    (tmp_path / "ask.py").write_text(code, encoding="utf-8")
    done = subprocess.run([sys.executable, tmp_path / "ask.py"], capture_output=True, text=True, check=True)
    extra = {"duckdb": "duckdb", "psycopg": "postgres"}[package]
    assert done.stdout.strip() == f"{package} is not installed; run: pip install 'dpsynth[{extra}]'"


# -- texts that libraries take for one ---------------------------------------------------------------------------------

ALIKE = {
    "half a character": [f"row {i} says {i * 7919}\ud83d" for i in range(100)],
    "a zero": [f"the same\x00row {i} says {i * 7919}" for i in range(100)],
    "zeros alone": ["\x00" * (i + 1) for i in range(100)],
    "both, and other cells": [*(f"\x00{i}\udc80" for i in range(96)), None, "", "plain", 7],
}


@pytest.mark.parametrize("case", ALIKE)
def test_texts_of_many_rows_are_never_taken_for_one(case: str) -> None:
    """Were they, the secrets of many rows would be one frequent value, and that of the first of them released."""
    texts = ALIKE[case]
    cells = read(pd.DataFrame({"t": pd.Series(texts, dtype=object)})).cells["t"]
    assert isinstance(cells, Strings)
    held = [None if code < 0 else str(cells.uniques[code]) for code in cells.codes]
    wanted = [None if text is None else re.sub("[\ud800-\udfff]", "\ufffd", str(text)) for text in texts]
    assert held == wanted and len(cells.uniques) == len(set(wanted) - {None})
    if case == "a zero":
        arrow = read(pa.table({"t": texts})).cells["t"]
        assert isinstance(arrow, Strings) and [arrow.uniques[code] for code in arrow.codes] == texts


@pytest.mark.parametrize("case", ["half a character", "a zero"])
def test_no_text_of_one_row_is_released_for_its_zero_or_half_character(case: str, tmp_path: Path) -> None:
    schema = dpsynth.Schema([dpsynth.Column("t", "text")])
    synth = dpsynth.fit(
        pd.DataFrame({"t": ALIKE[case]}), epsilon=5.0, schema=schema, model="marginals", patterns_only=True, progress=False,
        ledger=tmp_path / "l.db",
    )  # fmt: skip
    assert synth.sample(50, seed=1)["t"].isna().all()
