"""The door: bounded counts, noise as booked, stability histograms, and a filter that cannot be passed."""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_array

from dpsynth.encode.cells import LabelCells, LineCells
from dpsynth.privacy.accounting import Cost, cost_of
from dpsynth.privacy.budget import Account, budget_of
from dpsynth.privacy.errors import PrivacyError
from dpsynth.privacy.events import Gaussian
from dpsynth.privacy.noise import Noise
from dpsynth.privacy.source import MemorySource, Numbers, Strings, summed, unit_scale
from dpsynth.privacy.table import PrivateTable

COLOURS = LabelCells("colour", ("red", "blue"))
SIZES = LineCells("size", "number", (1.0, 2.0, 3.0), (), 1.0)


def source(colours: list[int], sizes: list[float], units: list[int] | None = None, max_rows: int = 1) -> MemorySource:
    cells = {
        "colour": Strings(np.array(colours, np.int32), np.array(["red", "blue", "green"], object)),
        "size": Numbers(np.array(sizes, float)),
    }
    hashes = np.array([hash((c, s)) % 2**63 for c, s in zip(colours, sizes, strict=True)], np.uint64)
    if units is None:
        return MemorySource(cells, row_hashes=hashes)
    return MemorySource(cells, row_hashes=hashes, unit="who", units=np.array(units), max_rows=max_rows)


rows = st.lists(
    st.tuples(st.integers(-1, 2), st.sampled_from([1.0, 2.0, 3.0, math.nan]), st.integers(0, 6)), min_size=1
)


@given(rows)
def test_counts_equal_a_count_by_hand(table: list[tuple[int, float, int]]) -> None:
    colours, sizes, _ = zip(*table, strict=True)
    (counted,) = source(list(colours), list(sizes)).count([[COLOURS, SIZES]])
    by_hand = np.zeros((4, 4), int)
    for colour, size in zip(colours, sizes, strict=True):
        a = {0: 0, 1: 1, 2: COLOURS.other, -1: COLOURS.missing}[colour]
        b = SIZES.missing if math.isnan(size) else int(size) - 1
        by_hand[a, b] += 1
    assert np.array_equal(counted.reshape(4, 4), by_hand)


@settings(max_examples=60)
@given(rows, st.integers(1, 12))
def test_one_unit_moves_any_count_by_at_most_the_scale(table: list[tuple[int, float, int]], max_rows: int) -> None:
    colours, sizes, units = map(list, zip(*table, strict=True))
    gone = units[0]
    rest = [row for row in table if row[2] != gone]
    if not rest:
        return
    whole = source(colours, sizes, units, max_rows)
    without = source(*map(list, zip(*rest, strict=True)), max_rows)  # type: ignore[arg-type]
    for query in ([COLOURS], [SIZES], [COLOURS, SIZES]):
        moved = whole.count([query])[0] - without.count([query])[0]
        assert np.abs(moved).sum() <= whole.scale == unit_scale(max_rows)
    assert abs(whole.count_distinct("colour") - without.count_distinct("colour")) <= max_rows


@given(rows, st.randoms(use_true_random=False))
def test_the_order_of_rows_does_not_change_a_bounded_count(table: list[tuple[int, float, int]], random: object) -> None:
    shuffled = list(table)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    counts = [
        source(*map(list, zip(*t, strict=True)), 2).count([[COLOURS, SIZES]])[0]  # type: ignore[arg-type]
        for t in (table, shuffled)
    ]
    assert np.array_equal(*counts)


def private(src: MemorySource, mu_squared: float = 1.0, delta: float = 1e-3) -> PrivateTable:
    return PrivateTable(src, account=Account(Cost(mu_squared=mu_squared, delta=delta)), noise=Noise(insecure_seed=5))


def test_noise_of_counts_is_what_is_booked() -> None:
    src = source([0, 1] * 50, [1.0, 2.0] * 50)
    exact = src.count([[COLOURS]])[0]
    draws = []
    for seed in range(2000):
        table = PrivateTable(src, account=Account(Cost(mu_squared=1.0)), noise=Noise(insecure_seed=seed))
        (m,) = table.counts([[COLOURS]], mu_squared=0.04, stage="s", labels=["l"])
        draws.append(m.values - exact)
    sd = float(np.std(np.concatenate(draws)))
    (event,) = table.account.events
    assert isinstance(event, Gaussian) and event.sigma == pytest.approx(5.0) and event.mu_squared == pytest.approx(0.04)
    assert sd == pytest.approx(math.sqrt(25 + 1 / 12), rel=0.05)


def test_distances_are_the_l1_distances_with_the_sensitivity_of_their_weights() -> None:
    src = source([0, 0, 1, 2], [1.0, 2.0, 3.0, 1.0])
    table = private(src, mu_squared=1e12)
    weights = np.array([[1, 0], [2, 1]])
    m = table.distances(
        [[COLOURS], [SIZES]],
        [np.array([1.0, 1.0, 1.0, 0.0]), np.zeros(4)],
        weights=weights,
        mu_squared=1e8,
        stage="s",
        label="l",
    )
    assert m.values == pytest.approx([1.0, 6.0], abs=0.01)
    assert table.account.events[0].sensitivity == pytest.approx(math.sqrt(1 + 9))


def test_distances_are_the_same_in_any_batches_with_targets_made_on_the_way_and_sparse_weights(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rng = np.random.default_rng(1)
    colours, sizes = rng.integers(-1, 3, 200).tolist(), rng.integers(1, 4, 200).astype(float).tolist()
    queries = [[COLOURS, SIZES], [COLOURS], [SIZES], [SIZES, COLOURS], [COLOURS, SIZES]]
    targets = [rng.random(math.prod(c.size for c in q)) * 30 for q in queries]
    weights = rng.integers(0, 3, (4, len(queries)))
    answers = []
    for cells in (2**21, 16, 1):
        monkeypatch.setattr("dpsynth.privacy.table.BATCH_CELLS", cells)
        for asked in (weights, csr_array(weights)):
            m = private(source(colours, sizes), mu_squared=1e12).distances(
                queries, (t for t in targets), weights=asked, mu_squared=1e8, stage="s", label="l"
            )
            answers.append(m.values)
    by_hand = [
        np.abs(c - np.rint(t)).sum() for c, t in zip(source(colours, sizes).count(queries), targets, strict=True)
    ]
    assert all(a == pytest.approx(weights @ by_hand, abs=0.01) for a in answers)
    with pytest.raises(ValueError, match="zip"):  # a target short
        private(source(colours, sizes)).distances(
            queries, iter(targets[:-1]), weights=weights, mu_squared=0.1, stage="s", label="l"
        )


@pytest.mark.parametrize("size", [1, 2, 127, 128, 254, 255, 256, 257, 65_535, 65_536, 65_537])
def test_counts_are_right_however_many_codes_there_are(size: int) -> None:
    """Codes are kept in the smallest type that holds them; places in a table of two or three columns need a larger one."""
    rng = np.random.default_rng(size)
    rows = rng.integers(0, size, 300)
    few = rng.integers(0, 3, 300)
    src = MemorySource(
        {"many": Numbers(rows.astype(float)), "few": Numbers(few.astype(float))},
        row_hashes=np.arange(300, dtype=np.uint64),
    )
    many = LineCells("many", "number", tuple(map(float, range(size))), (), 1.0)
    three = LineCells("few", "number", (0.0, 1.0, 2.0), (), 1.0)
    queries = [[many, three], [many], [], [three, many], [three, three], [many, three, three]]
    expected = [[rows, few], [rows], [], [few, rows], [few, few], [rows, few, few]]
    for query, columns, counted in zip(queries, expected, src.count(queries), strict=True):
        shape = [c.size for c in query]
        flat = np.ravel_multi_index(columns, shape) if columns else np.zeros(300, int)
        assert np.array_equal(counted, np.bincount(flat, minlength=math.prod(shape)))
    streamed = np.concatenate([codes for codes, _ in src.stream([many, three])])
    assert np.array_equal(streamed, np.stack([rows, few], axis=1))


def test_a_distance_moves_by_no_more_than_its_sensitivity_whoever_leaves() -> None:
    rng = np.random.default_rng(0)
    table = [(int(rng.integers(0, 3)), float(rng.integers(1, 4)), int(rng.integers(0, 8))) for _ in range(40)]
    target = rng.random(16) * 5
    whole = source(*map(list, zip(*table, strict=True)), 3)  # type: ignore[arg-type]
    for gone in range(8):
        rest = source(*map(list, zip(*[r for r in table if r[2] != gone], strict=True)), 3)  # type: ignore[arg-type]
        a, b = (np.abs(s.count([[COLOURS, SIZES]])[0] - np.rint(target * s.scale)).sum() for s in (whole, rest))
        assert abs(a - b) <= whole.scale


class Pictures:
    """Vectors of the colours; green's is longer than it may be."""

    column, width, norm = "colour", 3, 5

    def encode(self, texts: Sequence[str]) -> csr_array:
        known = {"red": [3, 0, -4], "blue": [0, 2, 1], "green": [5, 1, 0]}
        return csr_array(np.array([known[t] for t in texts], np.int64).reshape(len(texts), 3))


@given(rows)
def test_sums_equal_sums_by_hand_and_a_vector_beyond_its_bound_counts_for_nothing(
    table: list[tuple[int, float, int]],
) -> None:
    colours, sizes, _ = zip(*table, strict=True)
    found = source(list(colours), list(sizes)).sum_vectors([SIZES], Pictures())
    by_hand = np.zeros((4, 3), int)
    for colour, size in zip(colours, sizes, strict=True):
        place = SIZES.missing if math.isnan(size) else int(size) - 1
        by_hand[place] += {0: [3, 0, -4], 1: [0, 2, 1], 2: [0, 0, 0], -1: [0, 0, 0]}[colour]
    assert np.array_equal(found, by_hand)


@settings(max_examples=60)
@given(rows, st.integers(1, 12))
def test_one_unit_moves_all_sums_together_by_at_most_the_scale_times_the_bound(
    table: list[tuple[int, float, int]], max_rows: int
) -> None:
    colours, sizes, units = map(list, zip(*table, strict=True))
    whole = source(colours, sizes, units, max_rows)
    for gone in set(units):
        rest = [row for row in table if row[2] != gone]
        if rest:
            without = source(*map(list, zip(*rest, strict=True)), max_rows)  # type: ignore[arg-type]
            moved = whole.sum_vectors([SIZES], Pictures()) - without.sum_vectors([SIZES], Pictures())
            assert np.linalg.norm(moved) <= whole.scale * Pictures.norm


def test_a_unit_of_one_row_reaches_the_sensitivity_of_sums() -> None:
    both, one = source([0, 1], [1.0, 2.0], [0, 1], 3), source([1], [2.0], [1], 3)
    moved = both.sum_vectors([], Pictures()) - one.sum_vectors([], Pictures())
    assert np.linalg.norm(moved) == both.scale * Pictures.norm


class Crafted:
    """Vectors that are not what they promise."""

    def __init__(self, rows: list[list[int]], norm: int) -> None:
        self.rows, self.norm, self.width = rows, norm, len(rows[0])

    def encode(self, texts: list[str]) -> csr_array:
        return csr_array(np.array([self.rows[int(text)] for text in texts], np.int64))


def test_a_vector_longer_than_its_bound_counts_for_nothing_though_its_square_overflows() -> None:
    rows = [[3, 4], [3, 5], [2**32, 0], [0, -(2**63)], [3_037_000_500, 0], [-(2**32), 1], [0, -5]]
    texts = np.array(list(map(str, range(len(rows)))), object)
    for i, within in enumerate([True, False, False, False, False, False, True]):
        found = summed(csr_array(np.eye(len(rows), dtype=np.int64)[[i]]), texts, Crafted(rows, 5))
        assert found.tolist() == [rows[i] if within else [0, 0]]
    together = summed(csr_array(np.ones((1, len(rows)), np.int64)), texts, Crafted(rows, 5))
    assert together.tolist() == [[3, -1]]


def test_noise_of_sums_is_what_is_booked_in_the_units_of_the_vectors() -> None:
    src = source([0, 1] * 50, [1.0, 2.0] * 50, list(range(100)), 3)
    exact = src.sum_vectors([SIZES], Pictures()) / src.scale
    draws = []
    for seed in range(800):
        table = PrivateTable(src, account=Account(Cost(mu_squared=1.0)), noise=Noise(insecure_seed=seed))
        m = table.sums([SIZES], Pictures(), mu_squared=0.04, stage="s", label="l")
        assert m.values.shape == (4, 3)
        draws.append(m.values - exact)
    (event,) = table.account.events
    assert isinstance(event, Gaussian) and event.mu_squared == pytest.approx(0.04)
    assert event.sensitivity == src.scale * Pictures.norm and m.sigma == pytest.approx(25)
    # 9600 draws: their sd is off by 0.7%; seven times that is a false alarm in 10^11 runs, and 2/3 or 3/2 is far outside.
    assert float(np.std(np.stack(draws))) == pytest.approx(25, rel=0.05)


def test_sums_are_charged_before_the_rows_are_touched_and_need_strings() -> None:
    table = private(source([0, 1], [1.0, 2.0]))
    with pytest.raises(PrivacyError, match="would pass the budget"):
        table.sums([SIZES], Pictures(), mu_squared=2.0, stage="s", label="l")
    numbers = Pictures()
    numbers.column = "size"  # type: ignore[misc]
    with pytest.raises(PrivacyError, match="'size' holds no strings"):
        table.sums([COLOURS], numbers, mu_squared=0.5, stage="s", label="l")


def test_a_value_held_by_one_unit_passes_the_threshold_no_more_often_than_delta() -> None:
    """Power: at a threshold for a delta ten times larger it would pass too often."""
    src = source([0] * 2000 + [2], [1.0] * 2001)
    delta, trials, passed = 0.02, 3000, 0
    for seed in range(trials):
        table = PrivateTable(src, account=Account(Cost(mu_squared=1.0, delta=0.1)), noise=Noise(insecure_seed=seed))
        found = table.vocabulary("colour", mu_squared=0.25, delta=delta, stage="s")
        assert "red" in found.values
        passed += "green" in found.values
    rate = passed / trials
    assert rate <= delta + 3 * math.sqrt(delta / trials)
    assert rate >= delta / 4  # the threshold is not needlessly high either


def test_vocabulary_never_names_a_value_that_does_not_occur_and_orders_by_noisy_count() -> None:
    found = private(source([0] * 500 + [1] * 900, [1.0] * 1400)).vocabulary(
        "colour", mu_squared=0.5, delta=1e-4, stage="s"
    )
    assert found.values == ("blue", "red") and list(found.counts) == sorted(found.counts, reverse=True)


def test_the_filter_refuses_what_would_pass_it_and_books_before_it_looks() -> None:
    table = private(source([0], [1.0]), mu_squared=0.5)
    for _ in range(5):
        table.counts([[COLOURS]], mu_squared=0.1, stage="s", labels=["l"])
    with pytest.raises(PrivacyError, match="budget reserved"):
        table.counts([[COLOURS]], mu_squared=0.001, stage="s", labels=["l"])
    assert cost_of(table.account.events).mu_squared == pytest.approx(0.5)
    broken = source([0], [1.0])
    broken._columns.clear()
    spent = private(broken)
    with pytest.raises(KeyError):
        spent.counts([[COLOURS]], mu_squared=0.1, stage="s", labels=["l"])
    assert len(spent.account.events) == 1


@settings(max_examples=50)
@given(st.lists(st.floats(1e-6, 0.3), min_size=1, max_size=30))
def test_no_sequence_of_requests_passes_the_reservation(requests: list[float]) -> None:
    account = Account(Cost(mu_squared=1.0))
    for request in requests:
        event = Gaussian(stage="s", label="l", sensitivity=1.0, sigma=1 / math.sqrt(request))
        with contextlib.suppress(PrivacyError):
            account.charge(event)
    assert cost_of(account.events).mu_squared <= 1.0 + 1e-8


def test_a_budget_costs_exactly_what_was_asked() -> None:
    for epsilon, delta in itertools.product([0.01, 0.1, 1.0, 10.0], [1e-9, 1e-6, 1e-3]):
        assert budget_of(epsilon, delta).epsilon(delta) == pytest.approx(epsilon, rel=1e-9)


def test_reprs_show_no_private_value() -> None:
    src = source([0, 2], [1.0, 31337.0])
    for thing in (src, src._columns["size"], src._columns["colour"], private(src), private(src).account):
        assert "31337" not in repr(thing) and "green" not in repr(thing)


def test_exact_answers_are_shown_to_insecure_tests_alone() -> None:
    from dpsynth.privacy.audit import Recorder

    with pytest.raises(PrivacyError, match="insecure"):
        PrivateTable(source([0], [1.0]), account=Account(Cost(mu_squared=1.0)), noise=Noise(), witness=Recorder())
