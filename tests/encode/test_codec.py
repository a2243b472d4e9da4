"""Cells and codecs: what goes in comes out, in bounds, with the right shape."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dpsynth.encode.cells import LabelCells, LineCells, cells_from_json
from dpsynth.encode.codec import Codec, draw_conditional
from dpsynth.encode.from_counts import codec_from
from dpsynth.encode.grid import (
    OVER_INTERVALS,
    OVER_WHOLE,
    decades,
    denoise,
    even_groups,
    expected_shares,
    intervals,
    label_groups,
    line_groups,
    occupied_span,
    pooled,
    sentinels,
)
from dpsynth.encode.parse import TIME_STEPS, decimals_of, looks_dated, looks_numeric, numbers, time_step_of
from dpsynth.encode.questions import FormOf, RangeOf, StepOf
from dpsynth.privacy.source import Numbers, Strings


def strings(*texts: str | None) -> Strings:
    uniques = sorted({t for t in texts if t is not None})
    codes = [uniques.index(t) if t is not None else -1 for t in texts]
    return Strings(np.array(codes, np.int32), np.array(uniques, object))


@pytest.mark.parametrize("text", ["0", "-12", "3.50", "+7", "1e5", " 42 ", "0.001", ".5"])
def test_numbers_are_read(text: str) -> None:
    assert looks_numeric(text) and numbers(strings(text), "number")[0] == float(text)


@pytest.mark.parametrize("text", ["007", "1,000", "12-31", "", ".", "nan", "inf", "1e9999", "0x10", "--1", "e5"])
def test_labels_are_not_read_as_numbers(text: str) -> None:
    assert math.isnan(numbers(strings(text), "number")[0])


@pytest.mark.parametrize("text", ["2024-02-29", "1999-12-31 23:59", "2020-01-01T00:00:00.123Z"])
def test_dates_are_read(text: str) -> None:
    assert looks_dated(text) and not math.isnan(numbers(strings(text), "datetime")[0])


def test_impossible_dates_are_missing() -> None:
    assert math.isnan(numbers(strings("2023-02-30"), "datetime")[0])


@given(st.integers(0, 6), st.integers(-(10**8), 10**8))
def test_decimals_are_counted(decimals: int, whole: int) -> None:
    value = whole / 10**decimals
    text = f"{value:.{decimals}f}".rstrip("0").rstrip(".")
    expected = len(text.split(".")[1]) if "." in text else 0
    assert decimals_of(np.array([value]))[0] == expected


def test_steps_of_time_and_of_missing() -> None:
    assert [TIME_STEPS[i] for i in time_step_of(np.array([86_400e6 * 3, 3_600e6, 60e6, 1e6, 1e3, 1.0]))] == list(
        TIME_STEPS
    )
    assert list(StepOf("x", "number").encode(Numbers(np.array([1.0, 0.25, math.pi, math.nan])))) == [0, 2, 7, 8]


def test_forms() -> None:
    cells = strings("12", "2020-01-01", "blue", "one two three four five six", None)
    assert [FormOf("x").encode(cells)[i] for i in range(5)] == [
        FormOf.NUMBER,
        FormOf.DATE,
        FormOf.LABEL,
        FormOf.TEXT,
        0,
    ]


@given(st.floats(-(2.0**60), 2.0**60))
def test_a_range_bucket_holds_its_value(value: float) -> None:
    grid = RangeOf("x", "number")
    code = grid.encode(Numbers(np.array([value])))[0]
    assert grid.edges[code] <= value < grid.edges[code + 1]


def test_range_puts_zero_apart_and_infinities_nowhere() -> None:
    grid = RangeOf("x", "number")
    zero, small, missing = grid.encode(Numbers(np.array([0.0, 1e-9, math.nan])))
    assert zero != small and missing == grid.size - 1


line = LineCells("x", "number", (0.0, 40.0), (0.0, 10.0, 20.0, 60.0), 1.0)


def test_atoms_stand_apart_from_their_interval() -> None:
    codes = line.encode(Numbers(np.array([0.0, 1.0, 40.0, 39.0, -5.0, 99.0, math.nan])))
    described = [line.describe()[c] for c in codes]
    assert described == ["0", "0 to 10", "40", "20 to 60", "0 to 10", "20 to 60", "(missing)"]


@given(st.lists(st.one_of(st.integers(0, 59).map(float), st.just(math.nan)), min_size=1, max_size=50))
def test_decoding_stays_in_the_cell_and_on_the_grid(values: list[float]) -> None:
    codes = line.encode(Numbers(np.array(values)))
    back = line.values(codes, np.random.default_rng(0).random(len(codes)))
    for value, got, code in zip(values, back, codes, strict=True):
        if math.isnan(value):
            assert math.isnan(got)
        else:
            assert got == int(got) and line.low[code] <= got <= max(line.high[code] - 1, line.low[code])


def test_decimals_survive() -> None:
    cents = LineCells("x", "number", (), (0.0, 1.0, 2.0), 0.01)
    values = cents.values(np.zeros(1000, np.int64), np.random.default_rng(0).random(1000))
    assert np.array_equal(values, np.round(values, 2)) and values.min() >= 0 and values.max() < 1


def test_whole_cells_take_the_nearest_and_json_round_trips() -> None:
    whole = LineCells("x", "number", tuple(map(float, range(5))), (), 1.0)
    assert list(whole.encode(Numbers(np.array([-3.0, 2.2, 9.0])))) == [0, 2, 4]
    for cells in (whole, line, LabelCells("c", ("a", "b"))):
        assert cells_from_json(cells.to_json()) == cells


def test_labels_other_and_missing() -> None:
    cells = LabelCells("c", ("a", "b"))
    assert list(cells.encode(strings("b", "zzz", None))) == [1, cells.other, cells.missing]
    assert list(LabelCells("c", ("1", "2")).encode(Numbers(np.array([2.0, math.nan, 7.0])))) == [1, 3, 2]


def test_a_codec_decodes_within_the_group_in_the_shares_it_holds() -> None:
    codec = Codec(LabelCells("c", ("a", "b", "c")), np.array([0.5, 0.3, 0.1, 0.0, 0.1]), np.array([0, 1, 1, 1, 2]))
    rng = np.random.default_rng(0)
    fine = codec.refine(np.ones(4000, np.int64), rng)
    assert np.bincount(fine, minlength=5)[1:3] == pytest.approx([3000, 1000], abs=2)
    assert codec.group_shares == pytest.approx([0.5, 0.4, 0.1])
    assert list(codec.values(np.array([0, 4]), rng)) == ["a", None]
    again = Codec.from_json(codec.to_json())
    assert np.array_equal(again.groups, codec.groups) and np.array_equal(again.shares, codec.shares)


@given(st.integers(1, 6), st.integers(1, 7), st.integers(0, 300), st.integers(0, 99))
def test_systematic_draws_are_within_one_of_their_expectation(groups: int, width: int, n: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    table = rng.random((groups, width)) * (rng.random((groups, width)) < 0.7) + 1e-12 * (np.arange(width) == 0)
    table /= table.sum(axis=1, keepdims=True)
    given_ = rng.integers(0, groups, n)
    drawn = draw_conditional(table, given_, rng)
    for g in range(groups):
        counts = np.bincount(drawn[given_ == g], minlength=width)
        assert np.all(np.abs(counts - table[g] * (given_ == g).sum()) < 1 + 1e-6)


def test_a_span_finds_a_lone_heavy_cell_and_a_broad_tail_and_ignores_noise() -> None:
    rng = np.random.default_rng(0)
    wide = misses = 0
    for _ in range(200):
        counts = rng.normal(0, 10, 400)
        counts[50:120] += 30
        counts[200] += 500
        first, last = occupied_span(counts, 10.0, growth=OVER_WHOLE) or (0, 0)
        wide += last != 201 or first < 40
        misses += first > 60
    assert wide <= 2 and misses == 0


def test_of_an_empty_histogram_nothing_is_seen() -> None:
    assert occupied_span(np.array([1.0, -2.0, 3.0, 0.5]), 10.0, growth=OVER_INTERVALS) is None


def test_intervals_follow_the_mass_and_keep_the_step() -> None:
    edges = intervals(np.array([0.0, 10.0, 1000.0]), np.array([90.0, 10.0]), 1.0, 20)
    assert edges[0] == 0 and edges[-1] == 1000 and np.all(edges == np.rint(edges)) and np.all(np.diff(edges) >= 1)
    assert (edges < 10).sum() == 10


def test_groups_are_about_even_and_keep_heavy_cells_apart() -> None:
    counts = np.array([1000.0] + [10.0] * 100)
    groups = even_groups(counts, 20)
    assert (groups == groups[0]).sum() == 1 and groups.max() <= 25 and np.all(np.diff(groups) >= 0)
    assert np.array_equal(label_groups(np.array([5.0, 1.0, 3.0, 2.0]), 3), [0, 2, 1, 2])
    assert np.array_equal(label_groups(np.array([5.0, 1.0]), 3), [0, 1])


def test_a_lines_groups_end_at_equal_widths_and_quantiles_and_hold_enough() -> None:
    low = np.arange(100.0)
    even = line_groups(low, low + 1, np.full(100, 10.0), quantiles=1, least=0.0)
    assert np.array_equal(even, np.repeat(np.arange(20), 5))
    tail = np.concatenate([np.full(10, 1000.0), np.full(90, 1.0)])
    coarse = line_groups(low, low + 1, tail, quantiles=1, least=0.0)
    fine = line_groups(low, low + 1, tail, quantiles=8, least=0.0)
    assert len(set(fine[:10])) > len(set(coarse[10:15])) and set(np.diff(fine)) <= {0, 1}
    merged = line_groups(low, low + 1, tail, quantiles=8, least=0.004)
    assert np.bincount(merged, weights=tail).min() >= 0.004 * tail.sum() and merged[-1] < fine[-1]
    spike = np.where(low == 40, 5000.0, 10.0)
    alone = line_groups(low, low + 1, spike, quantiles=4, least=0.0)
    assert (alone == alone[40]).sum() == 1


def test_denoising_keeps_totals_shapes_and_heaps_and_takes_noise_away() -> None:
    rng = np.random.default_rng(0)
    place, sigma = np.arange(256.0), 10.0
    smooth = 4000 * np.exp(-place / 30) / np.exp(-place / 30).sum()
    even = np.full(256, 1 / 256)
    noisy = smooth + rng.normal(0, sigma, 256)
    found = denoise(noisy, even, sigma)
    assert found.min() >= 0 and found.sum() == pytest.approx(noisy.sum())
    assert np.abs(found - smooth).sum() < 0.5 * np.abs(np.maximum(noisy, 0) - smooth).sum()
    heap = smooth + 500.0 * (place == 100)
    found = denoise(heap + rng.normal(0, sigma, 256), even, sigma)
    assert found[100] == pytest.approx(500, abs=40) and found[[98, 99, 101, 102]].max() < 60
    assert denoise(np.array([30.0, 20.0]), np.array([0.5, 0.5]), 1e-9) == pytest.approx([30, 20])
    assert np.all(denoise(np.full(8, -3.0), np.full(8, 0.125), 5.0) == 0) and not len(denoise(place[:0], even[:0], 1.0))


def test_edges_over_decades_lie_close_where_amounts_are() -> None:
    edges = decades(-100.0, 1_000_000.0, 1.0)
    assert 0.0 in edges and edges.min() > -100 and edges.max() < 1_000_000 and np.all(edges == np.rint(edges))
    assert (np.abs(edges) <= 1000).sum() > 30 and 60 < len(edges) < 140


def test_what_is_expected_of_a_cell_follows_the_coarser_histogram_not_its_width() -> None:
    low, high = np.array([0.0, 5.0, 5.0, 10.0]), np.array([5.0, 5.0, 10.0, 1000.0])
    shares = expected_shares(low, high, np.array([0.0, 10.0, 1000.0]), np.array([90.0, 10.0]))
    assert shares == pytest.approx([0.45, 0.0, 0.45, 0.1])


def test_a_codec_from_noise_alone_still_decodes() -> None:
    for cells in (line, LabelCells("c", ("a", "b")), LabelCells("c", ())):
        for nullable in (None, True, False):
            codec = codec_from(
                cells, np.full(cells.size, -5.0), 3.0, total=0.0, quantiles=8, least=0.01, nullable=nullable
            )
            assert codec.shares.sum() == pytest.approx(1.0)
            values = codec.values(
                codec.refine(np.arange(codec.size), np.random.default_rng(0)), np.random.default_rng(0)
            )
            assert len(values) == codec.size


def test_sentinels_are_fixed_numbers_within_the_range_and_on_the_step() -> None:
    assert sentinels(-5.0, 1200.0, 1.0) == [-1.0, 0.0, 9.0, 99.0, 999.0]
    assert sentinels(0.5, 9.0, None) == []
    assert sentinels(-100.0, 0.0, 0.25) == [-99.0, -9.0, -1.0]


def test_a_guessed_atom_that_does_not_stand_out_goes_back_to_its_interval() -> None:
    cells = LineCells("x", "number", (99.0, 999.0), (0.0, 500.0, 1000.0), 1.0)  # [0, 500), 99, [500, 1000), 999
    counts = np.array([900.0, 12.0, 300.0, 400.0, 0.0])
    codec = codec_from(
        cells, counts, 5.0, total=0.0, quantiles=8, least=0.01, nullable=False, trim=False, tentative={99.0, 999.0}
    )
    assert codec.shares[1] == 0 and codec.shares[0] == pytest.approx(912 / 1612)
    assert codec.shares[3] == pytest.approx(400 / 1612)
    bought = codec_from(cells, counts, 5.0, total=0.0, quantiles=8, least=0.01, nullable=False, trim=False)
    assert bought.shares[1] == pytest.approx(12 / 1612)


def test_a_cap_that_does_not_stand_out_leaves_what_lies_beyond_it_empty() -> None:
    cells = LineCells("x", "number", (99.0,), (0.0, 50.0, 99.0, 200.0), 1.0)  # [0, 50), [50, 99), 99, [99, 200)
    counts = np.array([900.0, 300.0, 18.0, 2.0, 0.0])
    codec = codec_from(cells, counts, 5.0, total=0.0, quantiles=8, least=0.01, nullable=False, tentative={99.0})
    assert codec.shares[2] == 0 and codec.shares[3] == 0 and codec.shares[1] == pytest.approx(318 / 1218)


def test_a_run_across_an_atom_ends_at_it_where_nothing_is_seen_beyond() -> None:
    cells = LineCells("x", "number", (99.0,), (0.0, 50.0, 99.0, 200.0), 1.0)
    counts = np.array([900.0, 300.0, 24.0, 10.0, 0.0])  # 24 stands out of noise of 5, and so do 24 and 10 together
    codec = codec_from(cells, counts, 5.0, total=0.0, quantiles=8, least=0.01, nullable=False)
    assert codec.shares[2] > 0 and codec.shares[3] == 0
    seen = codec_from(
        cells, np.array([900.0, 300.0, 24.0, 40.0, 0.0]), 5.0, total=0.0, quantiles=8, least=0.01, nullable=False
    )
    assert seen.shares[3] > 0


def test_labels_may_be_better_known_than_what_is_missing() -> None:
    cells = LabelCells("c", ("a", "b", "c"))
    counts = np.array([900.0, 60.0, 30.0, 40.0, 40.0])  # three labels, others, missing
    known = [
        codec_from(cells, counts, 5.0, other_sigma=s, total=1070.0, quantiles=8, least=0.0, nullable=None)
        for s in (20.0, 5.0)
    ]
    assert known[0].shares[3] == known[0].shares[4] == 0  # two sd: nothing is seen
    assert known[0].shares[:3] == pytest.approx(counts[:3] / 990)  # and none of the labels is pooled
    assert min(known[1].shares[3:]) > 0


def test_labels_that_noise_hides_share_what_is_left_of_the_total() -> None:
    rng = np.random.default_rng(3)
    truth = np.array([9000.0, *[20.0] * 40])
    error = []
    for _ in range(50):
        noisy = truth + rng.normal(0, 200, len(truth))
        weights = pooled(noisy, 200.0, truth.sum())
        assert weights[0] == noisy[0] and (weights >= 0).all()
        standing = noisy[noisy > 600].sum()
        assert weights.sum() == pytest.approx(max(truth.sum(), standing))
        error.append(np.abs(weights[1:] - truth[1:]).sum() / np.abs(np.maximum(noisy[1:], 0) - truth[1:]).sum())
    assert np.mean(error) < 0.3
    assert np.array_equal(pooled(np.array([50.0, 40.0]), 1.0, 90.0), [50.0, 40.0])


def test_light_labels_go_together_and_an_unseen_other_label_has_no_code_of_its_own() -> None:
    assert np.array_equal(label_groups(np.array([60.0, 30.0, 0.5, 0.4]), 64, least=0.01), [0, 1, 2, 2])
    cells = LabelCells("c", ("a", "b"))
    codec = codec_from(
        cells, np.array([60.0, 40.0, 1.0, 0.0]), 2.0, total=100.0, quantiles=8, least=0.01, nullable=False
    )
    assert codec.size == 2 and codec.groups[cells.other] == codec.groups[0] and codec.shares[cells.other] == 0
    seen = codec_from(
        cells, np.array([60.0, 40.0, 30.0, 0.0]), 2.0, total=130.0, quantiles=8, least=0.01, nullable=False
    )
    assert seen.size == 3 and seen.shares[cells.other] > 0


def test_a_group_that_holds_nothing_decodes_to_its_neighbours() -> None:
    cells = LineCells("x", "number", (0.0, 1.0, 2.0, 3.0), (), 1.0)
    codec = codec_from(
        cells,
        np.array([500.0, -3.0, -2.0, 500.0, 0.0]),
        1.0,
        total=1000.0,
        quantiles=4,
        least=0.01,
        nullable=False,
        trim=False,
    )
    assert all(codec.group_shares > 0)
    fine = codec.refine(np.arange(codec.size), np.random.default_rng(0))
    assert set(codec.values(fine, np.random.default_rng(0))) <= {0.0, 3.0}
