"""A Spark DataFrame gives the counts of the data frame, in every partitioning, and lets no row out of its executors."""

from __future__ import annotations

import os
import pickle
import shutil
import sys
import threading
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from scipy.sparse import csr_array

import dpsynth
from dpsynth.encode.cells import LineCells
from dpsynth.encode.questions import FormOf, IdentifierIn, RangeOf, StepOf
from dpsynth.privacy.errors import ModelError, PIIError, PrivacyError, SchemaError
from dpsynth.privacy.pii import CELL_CLASSES, load_detector
from dpsynth.privacy.source import ROWS_PER_UNIT, Coding, CountingSource
from dpsynth.sources import hold, spark
from tests.sources.test_every_source import PAIRS, arrow, people

pyspark = pytest.importorskip("pyspark", reason="the spark extra is not installed")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("java") is None, reason="Spark needs Java, which is not installed"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:pyspark.*", "ignore::FutureWarning:pyspark.*"),
]

SECRET = "maria-4711"
KEY = "0123456789abcdef"
KEPT = [[LineCells(ROWS_PER_UNIT, "number", (1.0, 2.0, 3.0), (), 1.0)]]


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """One Spark for all tests: two threads of one process, which starts in some seconds."""
    os.environ["PYSPARK_PYTHON"] = sys.executable
    made = (
        pyspark.sql.SparkSession.builder.master("local[2]")
        .appName("dpsynth tests")
        .config("spark.ui.enabled", "false")
        # Small tables: what makes Spark quick on large ones takes longer here than the work.
        .config("spark.driver.extraJavaOptions", "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC")
        .config("spark.sql.codegen.wholeStage", "false")
        .config("spark.sql.adaptive.enabled", "false")
        .config("spark.sql.shuffle.partitions", "2")
        .config("spark.ui.showConsoleProgress", "false")
        .config("spark.sql.session.timeZone", "UTC")
        .config("spark.driver.memory", "1g")
        .config("spark.local.dir", str(tmp_path_factory.mktemp("spark")))
        .config("spark.sql.warehouse.dir", str(tmp_path_factory.mktemp("warehouse")))
        .config("spark.log.level", "OFF")
        .getOrCreate()
    )
    yield made
    made.stop()


def frame(session: Any, table: pd.DataFrame, parts: int, seed: int = 0) -> Any:
    return session.createDataFrame(arrow(table.sample(frac=1, random_state=seed))).repartition(parts)


def both(
    session: Any, table: pd.DataFrame, parts: int, unit: str | None = None
) -> tuple[CountingSource, CountingSource]:
    max_rows = 2 if unit else None
    held = hold(frame(session, table, parts), unit)
    assert held.contents == hold(table, unit).contents  # one data set to the ledger
    return hold(table, unit).source(unit, max_rows), held.source(unit, max_rows)


def same(expected: Sequence[np.ndarray], got: Sequence[np.ndarray]) -> None:
    for a, b in zip(expected, got, strict=True):
        assert a.dtype == b.dtype and a.tolist() == b.tolist()


@dataclass(frozen=True)
class Letters:
    """Counts of a few letters in a text."""

    column: str
    width: int = 4
    norm: int = 3

    def encode(self, texts: Sequence[str]) -> csr_array[Any]:
        return csr_array(np.array([[t.count(c) for c in "UlmK"] for t in texts], np.int64).reshape(-1, 4))


@pytest.mark.parametrize(("parts", "unit"), [(5, None), (12, "person")])
def test_every_query_gives_the_counts_of_the_data_frame(session: Any, parts: int, unit: str | None) -> None:
    memory, cluster = both(session, people(240, parts), parts, unit)
    assert (memory.names, memory.unit, memory.max_rows, memory.scale) == (
        cluster.names,
        cluster.unit,
        cluster.max_rows,
        cluster.scale,
    )
    alone: list[Coding] = [FormOf("city"), StepOf("income", "number"), RangeOf("since", "datetime")]
    asked: list[Sequence[Coding]] = [*PAIRS, [], *([c] for c in alone)]
    asked += KEPT if unit else []
    same(memory.count(asked), cluster.count(asked))
    for column in ("city", "member", "income", "since"):
        same(memory.count_values(column), cluster.count_values(column))
        assert memory.count_distinct(column) == cluster.count_distinct(column)
    groupings: list[list[Coding]] = [[], [*PAIRS[1]], [*PAIRS[1], *PAIRS[2]]]
    for groups in groupings:
        assert (memory.sum_vectors(groups, Letters("city")) == cluster.sum_vectors(groups, Letters("city"))).all()
    for source in (memory, cluster):
        source.rewrite("city", lambda texts: [t.upper()[:2] for t in texts])
    same(memory.count_values("city"), cluster.count_values("city"))
    same(memory.count(PAIRS), cluster.count(PAIRS))


def test_votes_of_the_detector_are_those_of_the_whole_column(session: Any) -> None:
    """It judges the cells that it sees together, so they are seen together, and once, however the rows are spread."""
    rng = np.random.default_rng(3)
    mails = [f"p{i}@mailbox.org" if i % 3 else f"number {i}" for i in rng.integers(0, 90, 200)]
    table = pd.DataFrame({"person": rng.integers(0, 70, 200), "mail": mails, "card": 4_111_111_111_111_111.0})
    table.loc[rng.random(200) < 0.1, ["mail", "card"]] = None
    detector = load_detector("patterns")
    assert pickle.loads(pickle.dumps(detector)) is detector
    asked = [
        [IdentifierIn("mail", detector, len(CELL_CLASSES), 0.5, KEY)],
        [IdentifierIn("card", detector, len(CELL_CLASSES), 1.0, KEY)],
    ]
    memory, cluster = (
        hold(t, "person").source("person", 2) for t in (table, session.createDataFrame(table).repartition(6))
    )
    same(memory.count([*asked, []]), cluster.count([*asked, []]))
    alone = IdentifierIn("mail", OnlyTogether(), 1, 1.0, KEY)
    (votes,) = cluster.count([[alone]])
    assert votes[0] > 0 and votes[1] == 0


class OnlyTogether:
    """Fails where it is not shown all cells at once, each once."""

    def classify(self, cells: Sequence[str], header: str) -> np.ndarray:
        if len(cells) != len(set(cells)) or len(cells) < 50:
            raise PIIError("not together")
        return np.zeros(len(cells), np.int64)


@pytest.mark.parametrize(
    "units",
    [
        [f"é{i % 40}" if i % 5 else None for i in range(200)],
        [float(i % 40) - 20.0 if i % 5 else np.nan for i in range(200)],
        [-0.0 if i % 2 else 0.0 for i in range(200)],
        pa.array([2**63 + i % 3 for i in range(200)], pa.uint64()).cast(pa.decimal128(20, 0)).cast(pa.string()),
        [2**60 + i % 50 for i in range(200)],
        [bool(i % 2) for i in range(200)],
    ],
)
def test_units_of_every_type_keep_the_rows_that_they_keep_in_memory(session: Any, units: Any) -> None:
    table = pa.table({"person": units, "x": np.random.default_rng(1).integers(0, 9, 200).astype(float)})
    memory, cluster = (
        hold(t, "person").source("person", 2) for t in (table, session.createDataFrame(table).repartition(4))
    )
    same(memory.count_values("x"), cluster.count_values("x"))
    same(memory.count(KEPT), cluster.count(KEPT))


def test_types_are_the_frames_and_odd_names_do_no_harm(session: Any) -> None:
    n = 30
    days = np.arange(n)
    table = pa.table(
        {
            "a.b": pa.array(days, pa.int8()),
            "`C0`": pa.array(days / 7, pa.float32()),
            "c0": pa.array([f"{i}.25" for i in days]).cast(pa.decimal128(12, 2)),
            "day": pa.array(days, pa.int32()).cast(pa.date32()),
            "moment": pa.array(days * 86_400_000_001, pa.timestamp("us", "Asia/Kolkata")),
            "naive": pa.array(days * 86_400_000_001, pa.timestamp("us")),
            "span": pa.array(days * 1000, pa.duration("us")),
            "ok": pa.array([i % 3 == 0 if i % 4 else None for i in days]),
            "edge": pa.array([np.nan, np.inf, -np.inf, -0.0, 0.0] * 6),
        }
    )
    held, whole = hold(session.createDataFrame(table).repartition(3)), hold(table)
    assert held.columns == whole.columns and held.contents == whole.contents
    assert "private" in repr(held) and "private" in repr(held.source(None, None))
    for name in ("c0", "moment"):
        same(whole.source(None, None).count_values(name), held.source(None, None).count_values(name))


def test_the_model_is_that_of_the_data_frame_and_sums_alone_reach_the_driver(
    session: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = people(400, 5)
    table["person"] -= 2**53
    classic = type(session.range(1))
    collected: list[pa.Table] = []
    to_arrow = classic.toArrow

    def watched(frame: Any) -> pa.Table:
        collected.append(to_arrow(frame))
        return collected[-1]

    def refused(*_: Any, **__: Any) -> None:
        raise AssertionError("rows were asked for")

    samples = []
    for name, data in {"cluster": frame(session, table, 3), "memory": arrow(table)}.items():
        with monkeypatch.context() as patched, warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            patched.setattr(classic, "toArrow", watched)
            for way in ("collect", "toPandas", "toLocalIterator", "take", "head", "tail", "first", "foreach"):
                patched.setattr(classic, way, refused)
            synth = dpsynth.fit(
                data,
                epsilon=2.0,
                unit="person",
                max_rows_per_unit=2,
                ledger=f"sqlite:///{tmp_path / name}.db",
                progress=False,
                patterns_only=True,
                insecure_seed=7,
            )
        samples.append(synth.sample_typed(50, seed=1))
    assert isinstance(synth.sample(5), pa.Table)
    pd.testing.assert_frame_equal(*samples)
    seen = {tuple(t.column_names) for t in collected if t.num_rows}
    assert seen == {("query", "place", "total"), ("value", "total"), tuple(f"part{i}" for i in range(9))}
    for t in collected:  # a cell of a table, or a value, is collected once, not once a row
        keys = {("query", "place", "total"): ["query", "place"], ("value", "total"): ["value"]}.get(
            tuple(t.column_names)
        )
        assert keys is None or t.select(keys).to_pandas().duplicated().sum() == 0
    assert {t.num_rows for t in collected if t.column_names[0] == "part0"} == {1}


# -- what goes wrong ---------------------------------------------------------------------------------------------------


def of_secrets(session: Any, n: int = 50) -> Any:
    return session.createDataFrame(pa.table({"a": np.arange(n) * 1.0, "b": [SECRET, "x"] * (n // 2)})).repartition(3)


def fit(data: Any, ledger: dpsynth.Ledger, **options: Any) -> None:
    dpsynth.fit(data, epsilon=1.0, ledger=ledger, progress=False, patterns_only=True, **options)


def dying(*_: Any) -> Iterator[pa.RecordBatch]:
    os._exit(3)
    yield


def quoting(tables: Iterator[pa.Table], _: Any) -> Iterator[pa.RecordBatch]:
    raise ValueError(str(next(tables).to_pylist()))
    yield


@pytest.mark.parametrize(("work", "said"), [(dying, "executor may be lost"), (quoting, "ValueError")])
def test_a_failure_before_the_reservation_costs_nothing_and_one_after_it_stays_spent(
    session: Any, work: Any, said: str, monkeypatch: pytest.MonkeyPatch, own_ledger: Path
) -> None:
    ledger = dpsynth.Ledger(own_ledger)
    for stage, runs in (("_read_out", 0), ("_counted", 1)):
        with monkeypatch.context() as patched:
            patched.setattr(spark, stage, work)
            with pytest.raises(SchemaError, match=said) as caught:
                fit(of_secrets(session), ledger)
        assert SECRET not in str(caught.value) and caught.value.__suppress_context__
        assert sum(len(ledger.spent(r.id).runs) for r in ledger.datasets()) == runs


def test_a_source_that_fails_says_no_value(session: Any, own_ledger: Path) -> None:
    bad = of_secrets(session).selectExpr("a", "cast(b as int) as b")
    with pytest.raises(SchemaError, match="a Spark job on the rows failed") as caught:
        fit(bad, dpsynth.Ledger(own_ledger))
    assert SECRET not in str(caught.value)
    for wrong, said in (
        (session.createDataFrame(pa.table({"a": [[1]]})), "nested or binary"),
        (session.createDataFrame(pa.table({"a": [b"x"]})), "nested or binary"),
        (of_secrets(session).where("a < 0"), "no rows"),
        (of_secrets(session).selectExpr("a", "b as a"), "more than once"),
    ):
        with pytest.raises(SchemaError, match=said):
            hold(wrong)
    with pytest.raises(SchemaError, match="unit 'c' is not a column"):
        hold(of_secrets(session), "c")


def test_what_an_executor_says_is_said(session: Any) -> None:
    source = hold(of_secrets(session)).source(None, None)

    def refusing(texts: Sequence[str]) -> Sequence[str]:
        raise PIIError("a text in a language that the detector does not read")

    with pytest.raises(PIIError, match="^a text in a language that the detector does not read$"):
        source.rewrite("b", refusing)
    with pytest.raises(PrivacyError, match="'a' holds no strings"):
        source.rewrite("a", refusing)
    lock = threading.Lock()
    with pytest.raises(ModelError, match="cannot send"):
        source.rewrite("b", lambda texts: texts if lock.locked() else texts)


def test_a_lost_part_of_the_snapshot_is_an_error_and_never_other_rows(session: Any) -> None:
    def other_rows(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            drawn = np.frombuffer(os.urandom(4 * batch.num_rows), np.uint32).astype(float)
            yield pa.RecordBatch.from_pydict({"a": drawn})

    source = hold(of_secrets(session).mapInArrow(other_rows, "a double")).source(None, None)
    same(source.count_values("a"), source.count_values("a"))
    for rdd in session.sparkContext._jsc.getPersistentRDDs().values():
        rdd.unpersist(True)
    with pytest.raises(SchemaError, match="a Spark job on the rows failed"):
        source.count_values("a")


def test_what_needs_rows_says_so_before_anything_is_reserved(session: Any, own_ledger: Path) -> None:
    ledger = dpsynth.Ledger(own_ledger)
    data = of_secrets(session)
    with pytest.raises(ModelError, match="write the table to Parquet"):
        fit(data, ledger, model="ctgan")
    with pytest.raises(ModelError, match="are not written"):
        fit(data, ledger, model="language")
    assert ledger.datasets() == []
    for look in (dpsynth.scan, lambda d: dpsynth.evaluate(d, d)):
        with pytest.raises(SchemaError, match="take a sample"):
            look(data)
    source = hold(data).source(None, None)
    with pytest.raises(ModelError, match="Parquet"):
        source.encoded({})
    with pytest.raises(ModelError, match="Parquet"):
        source.stream([])


def test_what_dpsynth_made_is_known_in_a_frame_that_spark_reads(
    session: Any, synth: dpsynth.Synthesizer, tmp_path: Path, own_ledger: Path
) -> None:
    synth.write(tmp_path / "made.parquet", 20)
    with pytest.raises(SchemaError, match="allow_synthetic"):
        fit(session.read.parquet(str(tmp_path / "made.parquet")), dpsynth.Ledger(own_ledger))


# -- out of a model ----------------------------------------------------------------------------------------------------


def test_executors_draw_the_rows_and_the_driver_holds_none(
    session: Any, synth: dpsynth.Synthesizer, tmp_path: Path, own_ledger: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dpsynth.synthesizer.SPREAD_ROWS", 40)
    with monkeypatch.context() as patched:
        patched.setattr(dpsynth.Synthesizer, "_chunk", None)  # as if the driver could not draw
        drawn = synth.sample(100, frame=session, seed=3)
        unseeded, other = (synth.sample(60, frame=session).toArrow() for _ in range(2))
        old = synth.sample(50, frame=session, where={"group": "old"}).toArrow()
        empty = synth.sample(0, frame=session).toArrow()
    assert drawn.rdd.getNumPartitions() == 3
    here = pa.concat_tables(map(pa.Table.from_pandas, synth.chunks(100, seed=3, rows=40)), promote_options="permissive")
    for _ in range(2):  # drawn anew, the same rows
        there = drawn.toArrow()
        assert there.column_names == list(synth.facts) and there.num_rows == 100
        for name in there.column_names:
            assert there[name].to_pylist() == here[name].to_pylist(), name
    assert unseeded.num_rows == 60 and not unseeded.equals(other)
    assert set(old["group"].to_pylist()) == {"old"} and old.num_rows == 50
    assert (empty.num_rows, empty.column_names) == (0, list(synth.facts))
    with pytest.raises(SchemaError, match="no such value"):
        synth.sample(5, frame=session, where={"group": "nobody"})
    drawn.write.parquet(str(tmp_path / "made"))
    for made in (drawn, session.read.parquet(str(tmp_path / "made"))):
        with pytest.raises(SchemaError, match="allow_synthetic"):
            fit(made, dpsynth.Ledger(own_ledger))
