"""What dpsynth made is known again, and learning from it must be asked for."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

import dpsynth
from dpsynth.sources import read
from dpsynth.sources.lineage import made_by
from tests.conftest import mixed_table


@pytest.fixture(scope="module")
def released(synth: dpsynth.Synthesizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("lineage") / "release"
    dpsynth.release(synth, out)
    return out


def test_frames_of_every_kind_carry_the_run_that_made_them(synth: dpsynth.Synthesizer) -> None:
    frames = [synth.sample(50), synth.sample_typed(50), *synth.chunks(50, rows=20)]
    frames += [synth.sample(50, frame=kind) for kind in ("pandas", "polars", "pyarrow")]
    frames += [synth.sample(50).head(10), ds.dataset(synth.sample(50, frame="pyarrow"))]
    frames += [pa.Table.from_pandas(synth.sample(50))]
    assert [made_by(frame) for frame in frames] == [synth.privacy.run] * len(frames)
    table = mixed_table(20)
    assert not any(map(made_by, (table, pl.from_pandas(table[["age"]]), pa.Table.from_pandas(table[["age"]]), "a.csv")))
    # A lazy frame is not resolved for this, and a URL is no path.
    assert made_by(pl.LazyFrame({"a": [1]})) is None and made_by("sqlite:///x.db#t") is None


def test_files_and_folders_carry_it_too(synth: dpsynth.Synthesizer, released: Path, tmp_path: Path) -> None:
    synth.write(tmp_path / "t.parquet", 50)
    synth.write(tmp_path / "folder", 50)
    synth.sample(50).to_parquet(tmp_path / "pandas.parquet")
    pq.write_table(synth.sample(50, frame="pyarrow"), tmp_path / "arrow.parquet")
    places = [tmp_path / name for name in ("t.parquet", "folder", "pandas.parquet", "arrow.parquet")]
    places += [released, released / "data.csv", released / "data.parquet"]
    assert [made_by(place) for place in places] == [synth.privacy.run] * len(places)
    assert made_by(pd.read_parquet(released / "data.parquet")) == synth.privacy.run
    mixed_table(20).to_parquet(tmp_path / "real.parquet")
    assert made_by(tmp_path / "real.parquet") is None and made_by(tmp_path / "nowhere.parquet") is None


@pytest.mark.slow
def test_a_ledger_knows_the_rows_of_a_release_again_without_any_mark(
    synth: dpsynth.Synthesizer, tmp_path: Path
) -> None:
    ledger = dpsynth.Ledger(tmp_path / "known.db")
    table = mixed_table(600)[["age", "city", "joined", "member"]]
    fitted = dpsynth.fit(table, epsilon=2.0, ledger=ledger, progress=False)
    dpsynth.release(fitted, tmp_path / "out", ledger=ledger, accept_inconclusive=True, recipient="A")
    copied = tmp_path / "elsewhere.csv"
    copied.write_bytes((tmp_path / "out/data.csv").read_bytes())
    shuffled = pd.read_csv(copied).sample(frac=1, random_state=0)
    booked = len(ledger.entries())
    assert made_by(copied) is None and made_by(shuffled) is None
    for data in (copied, shuffled):
        with pytest.raises(dpsynth.SchemaError, match="allow_synthetic"):
            dpsynth.fit(data, epsilon=1.0, ledger=ledger, progress=False)
    assert len(ledger.entries()) == booked
    again = dpsynth.fit(shuffled, epsilon=1.0, ledger=ledger, dataset="b", allow_synthetic=True, progress=False)
    assert f"the rows are synthetic themselves: made by {fitted.privacy.run}" in again.privacy.public
    # Real rows are none of a release, and another ledger does not know.
    assert ledger.released(ledger.fingerprint(read(table).contents)) is None
    dpsynth.fit(shuffled, epsilon=1.0, ledger=dpsynth.Ledger(tmp_path / "other.db"), progress=False)


def test_a_fit_on_it_is_refused_or_says_so(synth: dpsynth.Synthesizer, released: Path, tmp_path: Path) -> None:
    ledger = dpsynth.Ledger(tmp_path / "lineage.db")
    names = ["age", "group"]
    frames = [synth.sample(500)[names], synth.sample(500, frame="polars"), synth.sample(500, frame="pyarrow")]
    for data in (*frames, released / "data.csv", str(released / "data.parquet")):
        with pytest.raises(dpsynth.SchemaError, match="allow_synthetic"):
            dpsynth.fit(data, epsilon=1.0, ledger=ledger, progress=False)
    assert ledger.entries() == []  # nothing was read or booked
    again = dpsynth.fit(frames[0], epsilon=8.0, ledger=ledger, allow_synthetic=True, progress=False)
    assert f"the rows are synthetic themselves: made by {synth.privacy.run}" in again.privacy.public
    (run,) = ledger.spent(again.privacy.dataset).runs
    assert run.label == f"fit on synthetic rows of {synth.privacy.run}"
    dpsynth.release(again, tmp_path / "out", accept_inconclusive=True)
    assert f"made by {synth.privacy.run}" in (tmp_path / "out/README.md").read_text()
