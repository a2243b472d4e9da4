"""AboveThreshold: its answer's probabilities, worked out exactly, keep the bound; what is drawn has these probabilities."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from dpsynth.encode.cells import LabelCells
from dpsynth.privacy.accounting import Cost, cost_of, mu_of_pure, pure_of_mu
from dpsynth.privacy.accounting.curves import gaussian_curve, pair_of
from dpsynth.privacy.accounting.total import dominating_mu
from dpsynth.privacy.audit import Recorder
from dpsynth.privacy.budget import Account
from dpsynth.privacy.errors import PrivacyError
from dpsynth.privacy.events import AboveThreshold, from_json, to_json
from dpsynth.privacy.noise import Noise
from dpsynth.privacy.source import MemorySource, Strings
from dpsynth.privacy.table import PrivateTable

Array = npt.NDArray[np.float64]
COLOUR = LabelCells("colour", ("red", "blue"))


def above(epsilon: float, sensitivity: int = 1) -> AboveThreshold:
    return AboveThreshold.costing(epsilon, sensitivity=sensitivity, stage="s", label="l")


def at_most(x: Array, scale: float) -> Array:
    """P(noise <= x) of discrete Laplace noise, whole x."""
    a = math.exp(-1 / scale)
    return np.where(x < 0, a ** np.maximum(-x, 0) / (1 + a), 1 - a ** (np.maximum(x, 0) + 1) / (1 + a))


def answers(scores: npt.NDArray[np.int64], threshold_scale: float, query_scale: float) -> Array:
    """P(answer = 0, 1, ..., None): sums over the noise on the threshold, of which less than 1e-15 is left out."""
    reach = math.ceil(36 * threshold_scale)
    z = np.arange(-reach, reach + 1).astype(float)
    a = math.exp(-1 / threshold_scale)
    chance = (1 - a) / (1 + a) * a ** np.abs(z)
    left, out = chance, []
    for score in scores:
        reached = at_most(z - float(score), query_scale)
        out.append(float((left * reached).sum()))
        left = left * (1 - reached)
    return np.array([*out, float(left.sum())])


def worst(scores: Any, moved: Any, event: AboveThreshold, query_scale: float) -> float:
    p, q = (answers(np.array(s), event.threshold_scale, query_scale) for s in (scores, moved))
    assert p.sum() == pytest.approx(1.0)
    return float(np.abs(np.log(p / q)).max())


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(-12, 12), st.integers(-2, 2)), min_size=1, max_size=6), st.floats(0.2, 3.0))
def test_no_neighbour_changes_an_answers_probability_by_more(table: list[tuple[int, int]], epsilon: float) -> None:
    event = above(epsilon, sensitivity=2)
    assert event.epsilon == pytest.approx(epsilon)
    scores = [s for s, _ in table]
    assert worst(scores, [s + d for s, d in table], event, event.query_scale) <= epsilon * (1 + 1e-9)


def test_the_bound_is_nearly_reached_and_half_the_noise_on_queries_would_pass_it() -> None:
    """Many that just fail on one table and pass on the other, before one that moves the other way."""
    event = above(2.0)
    scores, moved = [*([0] * 400), 6], [*([1] * 400), 5]
    assert 0.9 * event.epsilon < worst(scores, moved, event, event.query_scale) <= event.epsilon * (1 + 1e-9)
    assert worst(scores, moved, event, event.query_scale / 2) > 1.1 * event.epsilon


def table_of(reds: int, blues: int, mu_squared: float, noise: Noise, witness: Any = None) -> PrivateTable:
    codes = np.repeat([0, 1], [reds, blues]).astype(np.int32)
    cells = {"colour": Strings(codes, np.array(["red", "blue"], object))}
    source = MemorySource(cells, row_hashes=np.arange(len(codes)).astype(np.uint64))
    return PrivateTable(source, account=Account(Cost(mu_squared=mu_squared)), noise=noise, witness=witness)


def targets(*reds: float) -> list[list[Array]]:
    """One query; a candidate has so many reds, 40 blues, and none of the other codes."""
    return [[np.pad([r, 40.0], (0, COLOUR.size - 2)) for r in reds]]


@pytest.mark.statistical
def test_what_is_drawn_has_these_probabilities() -> None:
    mu_squared, times, limits = 0.3, 9000, [6.0, 5.0, 2.0]
    noise, seen = Noise(), []
    for _ in range(times):
        table = table_of(30, 40, mu_squared, noise)
        found = table.first_within([[COLOUR]], targets(20, 25, 31), limits, mu_squared=mu_squared, stage="s", label="l")
        seen.append(3 if found is None else found)
    (event,) = table.account.events
    assert isinstance(event, AboveThreshold) and event.epsilon == pytest.approx(pure_of_mu(math.sqrt(mu_squared)))
    expected = answers(np.array([10 - 6, 5 - 5, 1 - 2]), event.threshold_scale, event.query_scale)
    assert min(expected) * times > 20
    assert chisquare(np.bincount(seen, minlength=4), expected * times).pvalue > 1e-5
    # Power: without the second half of the noise on queries these would be others.
    other = answers(np.array([4, 0, -1]), event.threshold_scale, event.query_scale / 2)
    assert chisquare(np.bincount(seen, minlength=4), other * times).pvalue < 1e-5


def test_the_look_is_paid_for_before_it_is_taken_and_costs_the_same_whatever_it_finds() -> None:
    for limit in (-1e6, 1e6):
        table = table_of(30, 40, 0.1, Noise())
        found = table.first_within([[COLOUR]], targets(30, 30), [limit] * 2, mu_squared=0.1, stage="s", label="l")
        assert found == (None if limit < 0 else 0)
        assert table.account.spent.mu_squared == pytest.approx(0.1)
    with pytest.raises(PrivacyError, match="would pass"):
        table.first_within([[COLOUR]], targets(30), [1.0], mu_squared=0.05, stage="s", label="l")


def test_a_neighbours_replay_sees_each_sum_move_by_no_more_than_the_sensitivity() -> None:
    recorder, asked = Recorder(), {"mu_squared": 0.1, "stage": "s", "label": "l"}
    first = table_of(30, 40, 0.1, Noise(insecure_seed=1), recorder)
    found = first.first_within([[COLOUR]], targets(0, 10, 20), [0.0] * 3, **asked)
    replay = recorder.replay()
    second = table_of(31, 40, 0.1, Noise(insecure_seed=2), replay)
    assert second.first_within([[COLOUR]], targets(0, 10, 20), [0.0] * 3, **asked) == found
    assert replay.comparisons and all(c.holds and c.distance == 1 for c in replay.comparisons)


@pytest.mark.parametrize("epsilon", [1e-3, 0.05, 0.7, 3.0])
def test_its_cost_is_that_of_the_gaussian_which_bounds_every_pure_mechanism(epsilon: float) -> None:
    event, mu = above(epsilon), mu_of_pure(epsilon)
    assert pure_of_mu(mu) == pytest.approx(epsilon, rel=1e-9)
    assert cost_of([event]).mu_squared == pytest.approx(mu**2)
    assert dominating_mu(event, 0.0) == pytest.approx(mu, rel=2e-3)  # by bisection, on the curves
    epsilons = np.linspace(-epsilon, epsilon, 201)
    assert np.all(pair_of(event).removed(epsilons) <= gaussian_curve(mu)(epsilons) + 1e-12)
    assert np.any(pair_of(event).removed(epsilons) > gaussian_curve(0.99 * mu)(epsilons))
    assert from_json(to_json(event)) == event
