"""Synthetic rows to every place, in chunks: typed alike in each chunk, whole or not at all."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import sqlalchemy

import dpsynth
from dpsynth import Column, Schema
from dpsynth.generate import made_up_ids
from dpsynth.outputs import require_file, why_not
from dpsynth.sources import read


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> dpsynth.Synthesizer:
    """Persons of up to three rows, with ids, categories that are no strings, and cells that are seldom missing."""
    rng = np.random.default_rng(0)
    n = 6000
    table = pd.DataFrame(
        {
            "person": rng.integers(0, 3000, n),
            "case": [f"c{i}" for i in range(n)],
            "age": rng.integers(0, 90, n).astype(float),
            "stage": rng.integers(1, 4, n),
            "well": rng.random(n) < 0.5,
            "seen": pd.Timestamp("2020-01-01") + pd.to_timedelta(rng.integers(0, 900, n), "D"),
        }
    )
    table.loc[rng.random(n) < 0.1, "age"] = np.nan
    schema = Schema(
        [
            Column("case", "id"),
            Column("age", "numeric", bounds=(0, 90), integer=True, nullable=True),
            Column("stage", "categorical", categories=(1, 2, 3)),
            Column("well", "boolean"),
        ]
    )
    with pytest.warns(UserWarning, match="NOT PRIVATE"):
        return dpsynth.fit(
            table,
            epsilon=5.0,
            schema=schema,
            unit="person",
            max_rows_per_unit=3,
            ledger=f"sqlite:///{tmp_path_factory.mktemp('ledger')}/l.db",
            progress=False,
            patterns_only=True,
            insecure_seed=3,
        )


def test_chunks_number_units_and_ids_on(people: dpsynth.Synthesizer) -> None:
    chunks = list(people.chunks(700, seed=1, rows=200))
    assert [len(c) for c in chunks] == [200, 200, 200, 100]
    whole = pd.concat(chunks, ignore_index=True)
    assert whole["case"].tolist() == made_up_ids("case", 0, 700).tolist()
    assert all(a["person"].max() < b["person"].min() for a, b in zip(chunks, chunks[1:], strict=False))
    assert whole.groupby("person").size().max() <= 3
    for again, chunk in zip(people.chunks(700, seed=1, rows=200), chunks, strict=True):
        pd.testing.assert_frame_equal(again, chunk)
    assert not chunks[0]["age"].equals(chunks[1]["age"])
    (only,) = people.chunks(150, seed=4, rows=200)
    pd.testing.assert_frame_equal(only, people.sample_typed(150, seed=4))


def as_read(path: Path) -> pd.DataFrame:
    return pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_csv(path, parse_dates=["seen"])


@pytest.mark.parametrize("name", ["t.parquet", "t.csv", "t.csv.gz"])
def test_files_hold_the_chunks(people: dpsynth.Synthesizer, name: str, tmp_path: Path) -> None:
    expected = pd.concat(list(people.chunks(500, seed=2, rows=150)), ignore_index=True)
    for _ in range(2):  # a file that is there is replaced
        people.write(tmp_path / "deep" / name, 500, seed=2, rows=150)
    assert [p.name for p in (tmp_path / "deep").iterdir()] == [name]
    pd.testing.assert_frame_equal(as_read(tmp_path / "deep" / name), expected, check_dtype=False)


def test_parquet_has_one_type_whatever_a_chunk_misses(people: dpsynth.Synthesizer, tmp_path: Path) -> None:
    chunks = list(people.chunks(60, seed=2, rows=6))
    assert {c["age"].isna().any() for c in chunks} == {True, False}, "the chunks do not differ"
    people.write(tmp_path / "t.parquet", 60, seed=2, rows=6)
    file = pq.ParquetFile(tmp_path / "t.parquet")
    assert file.num_row_groups == 10
    types = {f.name: f.type for f in file.schema_arrow}
    assert types == {"person": pa.int64(), "case": pa.string(), "age": pa.int64(), "stage": pa.int64()} | {
        "well": pa.bool_(),
        "seen": pa.timestamp("us"),
    }


def test_a_folder_is_a_hugging_face_data_set(people: dpsynth.Synthesizer, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets", reason="the huggingface extra is not installed")
    people.write(tmp_path / "set", 100, seed=2, rows=30)
    loaded = datasets.load_dataset(str(tmp_path / "set"), split="train", cache_dir=str(tmp_path / "cache"))
    assert loaded.num_rows == 100 and loaded.column_names == [f.column.name for f in people.domain.facts]
    with pytest.raises(dpsynth.SchemaError, match="there already"):
        people.write(tmp_path / "set", 100)


def test_a_database_gets_a_table(people: dpsynth.Synthesizer, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 't.db'}"
    people.write(f"{url}#people", 100, seed=2, rows=30)
    assert len(read(dpsynth.SQL(url, table="people")).cells["age"]) == 100
    with pytest.raises(dpsynth.SchemaError, match="there already"):
        people.write(dpsynth.SQL(url, table="people"), 100)
    with pytest.raises(dpsynth.SchemaError, match="URL#table"):
        people.write(url, 100)
    with pytest.raises(dpsynth.SchemaError, match="query"):
        people.write(dpsynth.SQL(url, query="select 1"), 100)


@pytest.mark.parametrize("name", ["t.parquet", "t.csv", "folder", "database"])
def test_what_fails_midway_leaves_nothing(
    people: dpsynth.Synthesizer, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(self: dpsynth.Synthesizer, *args: Any, **kwargs: Any) -> Iterator[pd.DataFrame]:
        yield self.sample_typed(30)
        raise KeyboardInterrupt

    monkeypatch.setattr(dpsynth.Synthesizer, "chunks", fails)
    url = f"sqlite:///{tmp_path / 'other' / 't.db'}"
    (tmp_path / "other").mkdir()
    (tmp_path / "out").mkdir()
    with pytest.raises(KeyboardInterrupt):
        people.write(f"{url}#people" if name == "database" else tmp_path / "out" / name, 100)
    assert not list((tmp_path / "out").iterdir())
    engine = sqlalchemy.create_engine(url)
    assert not sqlalchemy.inspect(engine).has_table("people")
    engine.dispose()


@pytest.mark.parametrize("to", ["t.xlsx", "nobody://host/db#t"])
def test_places_that_are_not_known(people: dpsynth.Synthesizer, to: str, tmp_path: Path) -> None:
    with pytest.raises(dpsynth.SchemaError, match="neither|URL"):
        people.write(to if "#" in to else tmp_path / to, 10)


def test_what_shows_beforehand_is_told_before_a_row_is_drawn(
    people: dpsynth.Synthesizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dpsynth.synthesizer.values_of", lambda *_, **__: pytest.fail("a row is drawn"))
    (tmp_path / "taken.csv").mkdir()
    (tmp_path / "file").touch()
    for to, says in (("taken.csv", "is a folder"), ("file/t.csv", "cannot be written"), ("t.xlsx", "neither")):
        with pytest.raises(dpsynth.SchemaError, match=says):
            people.write(tmp_path / to, 10)
    for frame in ("spark", 7):
        with pytest.raises(dpsynth.SchemaError, match="frame must be"):
            people.sample(10, frame=frame)


def test_who_may_not_write_is_told_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "there.csv").touch()
    require_file(tmp_path / "there.csv")
    require_file(tmp_path / "new.csv")
    assert why_not(tmp_path / "new" / "folder") is None
    monkeypatch.setattr("dpsynth.outputs.os.access", lambda *_: False)  # a test that root runs may write anywhere
    for name, says in (("there.csv", "it is there"), ("new.csv", "the folder .* may not be written to")):
        with pytest.raises(dpsynth.SchemaError, match=f"{name} cannot be written: {says}"):
            require_file(tmp_path / name)
    assert "may not be written to" in str(why_not(tmp_path / "new" / "folder"))


def test_frames_on_request(people: dpsynth.Synthesizer) -> None:
    polars = pytest.importorskip("polars", reason="the polars extra is not installed")
    expected = people.sample(20, seed=1, frame="pandas")
    assert isinstance(people.sample(20, seed=1, frame="pyarrow"), pa.Table)
    frame = people.sample(20, seed=1, frame="polars")
    assert isinstance(frame, polars.DataFrame) and frame["stage"].to_list() == expected["stage"].tolist()
    with pytest.raises(dpsynth.SchemaError, match="frame must be"):
        people.sample(20, frame="spark")  # type: ignore[arg-type]


def test_a_written_file_is_known_as_synthetic(people: dpsynth.Synthesizer, tmp_path: Path) -> None:
    people.write(tmp_path / "t.parquet", 100)
    people.write(tmp_path / "set", 100)
    people.sample_typed(50).to_parquet(tmp_path / "by pandas.parquet")
    for data in (tmp_path / "t.parquet", tmp_path / "set", str(tmp_path / "by pandas.parquet")):
        with pytest.raises(dpsynth.SchemaError, match="made by dpsynth"):
            dpsynth.fit(data, epsilon=1.0, progress=False)
