"""Rows on disk answer as rows in memory do, in every cut into chunks and every order."""

from __future__ import annotations

import gc
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import csr_array

from dpsynth.encode.cells import LabelCells, LineCells
from dpsynth.privacy import spill as spills
from dpsynth.privacy.errors import PrivacyError
from dpsynth.privacy.ledger.fingerprint import row_hashes
from dpsynth.privacy.source import ROWS_PER_UNIT, Cells, IntArray, MemorySource, Numbers, Strings
from dpsynth.privacy.spill import Spill, SpilledSource, Store

COLOURS = LabelCells("colour", ("red", "green"))
SIZES = LineCells("size", "number", (1.0, 2.0), (), 1.0)
KEPT = LineCells(ROWS_PER_UNIT, "number", (1.0, 2.0, 3.0), (), 1.0)
WORDS = ["red", "green", "blue"]

Row = tuple[int, float, float]  # a colour (-1 = missing), a size, a unit (NaN = missing)
rows = st.lists(
    st.tuples(
        st.integers(-1, 2),
        st.sampled_from([1.0, 2.0, 2.5, 1e300, -7.0, float("nan")]),
        st.sampled_from([0.0, 1.0, 2.0, 5e17, float("nan")]),
    ),
    min_size=1,
    max_size=40,
)


def cells(table: list[Row]) -> dict[str, Cells]:
    """Strings numbered by their first occurrence, as readers do."""
    seen = list(dict.fromkeys(c for c, _, _ in table if c >= 0))
    codes = [seen.index(c) if c >= 0 else -1 for c, _, _ in table]
    return {
        "colour": Strings(np.array(codes, np.int32), np.array([WORDS[c] for c in seen], object)),
        "size": Numbers(np.array([s for _, s, _ in table])),
        "who": Numbers(np.array([u for _, _, u in table])),
    }


def in_memory(table: list[Row], max_rows: int | None) -> MemorySource:
    columns = cells(table)
    hashes = row_hashes(columns, {}).rows
    if max_rows is None:
        return MemorySource(columns, row_hashes=hashes)
    who = columns.pop("who")
    assert isinstance(who, Numbers)
    units = np.unique(who.data, return_inverse=True)[1]
    return MemorySource(columns, row_hashes=hashes, unit="who", units=units, max_rows=max_rows)


def on_disk(table: list[Row], cuts: list[int], max_rows: int | None) -> SpilledSource:
    spill, unit = Spill(), None if max_rows is None else "who"
    ends = sorted({c % (len(table) + 1) for c in cuts} | {len(table)})
    for start, end in zip([0, *ends], ends, strict=False):
        part = cells(table[start:end])
        spill.append(part, row_hashes(part, {}), unit=unit)
    return SpilledSource(spill, unit=unit, max_rows=max_rows or 1)


@given(
    rows, st.lists(st.integers(0, 40), max_size=4), st.sampled_from([None, 1, 2, 3]), st.randoms(use_true_random=False)
)
def test_counts_are_those_in_memory(table: list[Row], cuts: list[int], max_rows: int | None, random: object) -> None:
    shuffled = list(table)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    memory, disk = in_memory(table, max_rows), on_disk(shuffled, cuts, max_rows)
    assert disk.scale == memory.scale and set(disk.names) == set(memory.names)
    queries = [[COLOURS], [SIZES], [COLOURS, SIZES], [SIZES, COLOURS], []]
    queries += [[KEPT], [KEPT, SIZES]] if max_rows else []
    for a, b in zip(memory.count(queries), disk.count(queries), strict=True):
        assert np.array_equal(a, b)
    for column in ("colour", "size"):
        for a, b in zip(memory.count_values(column), disk.count_values(column), strict=True):
            assert np.array_equal(a, b)  # in the same order, too: noise is drawn along it
        assert memory.count_distinct(column) == disk.count_distinct(column)


def rows_by_unit(codes: IntArray, units: IntArray) -> list[list[tuple[int, ...]]]:
    return sorted(sorted(map(tuple, codes[units == u].tolist())) for u in np.unique(units))


class Letters:
    """How often a colour's name has the letters e, r and u; `green` is too long to count."""

    column, width, norm = "colour", 3, 2

    def encode(self, texts: Sequence[str]) -> csr_array:
        return csr_array(np.array([[t.count(c) for c in "eru"] for t in texts], np.int64).reshape(len(texts), 3))


@given(
    rows, st.lists(st.integers(0, 40), max_size=4), st.sampled_from([None, 1, 2, 3]), st.randoms(use_true_random=False)
)
def test_sums_are_those_in_memory(table: list[Row], cuts: list[int], max_rows: int | None, random: object) -> None:
    shuffled = list(table)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    memory, disk = in_memory(table, max_rows), on_disk(shuffled, cuts, max_rows)
    for groups in ([], [SIZES], [SIZES, KEPT] if max_rows else [SIZES, COLOURS]):
        assert np.array_equal(memory.sum_vectors(groups, Letters()), disk.sum_vectors(groups, Letters()))


@given(rows, st.lists(st.integers(0, 40), max_size=4), st.sampled_from([None, 1, 2]))
def test_encoded_rows_and_their_units_are_those_in_memory(
    table: list[Row], cuts: list[int], max_rows: int | None
) -> None:
    def both(source: MemorySource | SpilledSource) -> list[list[list[tuple[int, ...]]]]:
        streamed = list(source.stream([COLOURS, SIZES]))
        arrays, units = source.encoded({"c": COLOURS, "s": SIZES})
        return [
            rows_by_unit(np.concatenate([c for c, _ in streamed]), np.concatenate([u for _, u in streamed])),
            rows_by_unit(np.stack([arrays["c"], arrays["s"]], axis=1), units),
        ]

    expected = both(in_memory(table, max_rows))
    assert both(on_disk(table, cuts, max_rows)) == expected and expected[0] == expected[1]


def test_units_meet_in_their_part_however_many_parts_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(3)
    table = [
        (int(c), float(s), float(u))
        for c, s, u in zip(rng.integers(-1, 3, 500), rng.integers(1, 4, 500), rng.integers(0, 90, 500), strict=True)
    ]
    monkeypatch.setattr(spills, "_UNIT_ROWS", 40)
    memory, disk = in_memory(table, 2), on_disk(table, [100, 333], 2)
    for a, b in zip(memory.count([[COLOURS, SIZES]]), disk.count([[COLOURS, SIZES]]), strict=True):
        assert np.array_equal(a, b)
    assert len(np.unique(disk.encoded({"c": COLOURS})[1])) == len({u for _, _, u in table})


def test_a_rewrite_is_seen_by_what_is_counted_after_it() -> None:
    table: list[Row] = [(0, 1.0, 1.0), (1, 1.0, 2.0), (2, 2.0, 2.0), (-1, 2.0, 3.0)] * 3
    memory, disk = in_memory(table, None), on_disk(table, [5], None)
    for source in (memory, disk):
        assert source.count([[COLOURS]])[0].tolist() == [3, 3, 3, 3]
        source.rewrite("colour", lambda texts: ["red" if t == "blue" else t for t in texts])
        assert source.count([[COLOURS]])[0].tolist() == [6, 3, 0, 3]
        with pytest.raises(PrivacyError, match="'size'"):
            source.rewrite("size", lambda texts: texts)


@given(
    st.lists(
        st.one_of(
            st.lists(st.floats(), max_size=9).map(lambda v: np.array(v, np.float64)),
            st.lists(st.integers(-(2**63), 2**63 - 1), max_size=9).map(lambda v: np.array(v, np.int64)),
        ),
        max_size=5,
    )
)
def test_a_store_gives_back_what_it_was_given(chunks: list[np.ndarray]) -> None:
    store = Store()
    for chunk in chunks:
        store.append(chunk)
    for i, chunk in enumerate(chunks):
        assert np.array_equal(store.chunk(i).astype(chunk.dtype), chunk, equal_nan=chunk.dtype.kind == "f")
    assert len(store) == sum(map(len, chunks))


def test_nothing_on_disk_has_a_name_and_nothing_stays_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    gc.collect()
    before = len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").exists() else 0
    source = on_disk([(0, 1.5, 1.0), (1, 2.5, 2.0)] * 50, [30], 2)
    source.count([[COLOURS, SIZES]])
    arrays, _ = source.encoded({"s": SIZES})
    assert arrays["s"].shape == (4,) and not list(tmp_path.iterdir())
    del source, arrays, _
    gc.collect()
    after = len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").exists() else 0
    assert after <= before
