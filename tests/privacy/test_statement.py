"""The statement: grouped, complete, and with no figure in it that has to be believed."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from scipy.stats import norm

from dpsynth.privacy.accounting import Cost, cost_of, gaussian_delta
from dpsynth.privacy.errors import PrivacyError
from dpsynth.privacy.events import Event, ExponentialMechanism, Gaussian, Parallel, StabilityHistogram
from dpsynth.privacy.meaning import DELTAS, budget_warnings, meaning_of_cost, meaning_of_events
from dpsynth.privacy.statement import History, PrivacyStatement, Terms

EVENTS: tuple[Event, ...] = (
    Gaussian(stage="one-way", label="age", sensitivity=1.0, sigma=4.0),
    Gaussian(stage="pairs", label="age x sex", sensitivity=1.0, sigma=2.0),
    StabilityHistogram(stage="vocabulary", label="city", sensitivity=1.0, sigma=4.0, threshold=30.0, delta=1e-7),
)
MU = math.sqrt(1 / 16 + 1 / 4 + 1 / 16)


def statement(events: tuple[Event, ...] = EVENTS, **changes: Any) -> PrivacyStatement:
    whole = PrivacyStatement(
        epsilon=4.0,
        delta=1e-6,
        unit="who",
        max_rows_per_unit=4,
        neighbours="add or remove one unit",
        units=5012.4,
        events=events,
        public=("names of the columns", "age: bounds (declared)"),
        dataset="ds_1",
        run="run_1",
        ledger_head="ab" * 32,
        history=History(runs=2, cost=Cost(mu_squared=1.0, delta=2e-7), delta=1e-5, cap=(6.0, 1e-5)),
        insecure=False,
        mechanism={"noise": "rounded Gaussian", "randomness": "ChaCha20"},
        version="0.1.0",
        created="2026-01-01T00:00:00+00:00",
    )
    return replace(whole, **changes)


# -- figures -----------------------------------------------------------------------------------------------------------


def test_the_figures_are_those_of_the_formulas_written_down_anew() -> None:
    found = statement().meaning
    assert [d for d, _ in found.epsilon_at] == sorted(DELTAS, reverse=True)
    for delta, epsilon in found.epsilon_at:
        if delta <= 1e-7:
            assert epsilon == math.inf  # the vocabulary's chance of failure alone
            continue
        tails = norm.cdf(-epsilon / MU + MU / 2), norm.cdf(-epsilon / MU - MU / 2)
        assert tails[0] - math.exp(epsilon) * tails[1] == pytest.approx(delta - 1e-7, rel=1e-5)
    assert found.advantage == pytest.approx(2 * norm.cdf(MU / 2) - 1 + 1e-7, rel=1e-9)
    assert found.false_negatives == pytest.approx(norm.cdf(norm.ppf(0.99) - MU) - 1e-7, rel=1e-9)


def test_no_threshold_on_the_noisy_answer_beats_the_figures() -> None:
    """Power and soundness: the best attack there is on N(0, 1) against N(mu, 1) reaches them, and no other passes them."""
    found = meaning_of_events(EVENTS[:1], 1e-6)
    mu = 0.25
    cuts = [i / 100 for i in range(-400, 400)]
    rates = [(norm.sf(cut), norm.sf(cut - mu)) for cut in cuts]
    assert max(t - f for f, t in rates) == pytest.approx(found.advantage, abs=1e-5)
    assert min(1 - t for f, t in rates if f <= 0.01) == pytest.approx(found.false_negatives, abs=2e-3)
    assert all(1 - t >= found.false_negatives - 1e-9 for f, t in rates if f <= 0.01)


def test_reading_rounds_against_the_promise() -> None:
    found = replace(statement().meaning, advantage=0.12301, false_negatives=0.95699)
    assert (found.gains, found.misses) == ("12.4%", "95.6%")
    first, second = found.words()
    assert "at most 56.2 times" in first and "95.6%" in second
    assert replace(found, advantage=1.0, false_negatives=0.0).gains == "100.0%"


def test_a_cost_means_what_its_events_mean_and_takes_the_better_of_its_two_bounds() -> None:
    events, cost = meaning_of_events(EVENTS, 1e-6), meaning_of_cost(cost_of(EVENTS), 1e-6)
    assert dict(cost.epsilon_at) == pytest.approx(dict(events.epsilon_at))
    assert cost.advantage == pytest.approx(events.advantage)
    choices = cost_of([ExponentialMechanism(stage="s", label="c", sensitivity=1.0, epsilon=0.1)] * 40)
    mixed = meaning_of_cost(choices, 1e-6)
    assert dict(mixed.epsilon_at)[1e-6] == choices.epsilon(1e-6)
    assert mixed.advantage <= gaussian_delta(math.sqrt(choices.mu_squared), 0.0) + choices.delta + 1e-15


def test_the_epsilon_of_a_statement_with_choices_is_recomputed_too() -> None:
    events = (*EVENTS, ExponentialMechanism(stage="selection", label="pairs", sensitivity=1.0, epsilon=0.3))
    whole = statement(events)
    assert statement().recomputed_epsilon < whole.recomputed_epsilon < statement().recomputed_epsilon + 0.3 + 1e-6
    assert PrivacyStatement.from_json(json.loads(json.dumps(whole.to_json()))) == whole


def test_shares_by_stage_add_up_and_branches_cost_the_dearest() -> None:
    shares = statement().spent_by_stage()
    assert list(shares) == ["one-way", "pairs", "vocabulary"] and sum(shares.values()) == pytest.approx(1.0)
    assert shares["pairs"] == pytest.approx(0.25 / MU**2)
    apart = statement((EVENTS[0], Parallel(branches=(EVENTS[0], EVENTS[1])))).spent_by_stage()
    assert apart == pytest.approx({"one-way": 0.2, "one-way + pairs": 0.8})
    assert statement(()).spent_by_stage() == {}


# -- the file ----------------------------------------------------------------------------------------------------------


def test_a_statement_survives_its_file_with_its_terms(tmp_path: Path) -> None:
    whole = statement().under(recipient="Team B", purpose="dashboard", expires="2027-01-01")
    whole.save(tmp_path / "p.json")
    assert PrivacyStatement.load(tmp_path / "p.json") == whole
    assert whole.terms == Terms(recipient="Team B", purpose="dashboard", expires="2027-01-01")
    assert whole.under(contact="c").terms.recipient == "Team B"
    assert PrivacyStatement.from_json(statement(history=None, units=None).to_json()).history is None
    for text in ("{", "[]", '"x"'):
        (tmp_path / "bad.json").write_text(text)
        with pytest.raises(PrivacyError):
            PrivacyStatement.load(tmp_path / "bad.json")
    with pytest.raises(PrivacyError, match="cannot|can be read"):
        PrivacyStatement.load(tmp_path / "nowhere.json")


def test_the_groups_hold_the_fields_of_the_registry() -> None:
    body = statement().to_json()
    assert body["format"] == "dpsynth-privacy/2"
    assert {"epsilon", "delta", "delta_reason", "flavour", "mu", "epsilon_at", "advantage"} < body["guarantee"].keys()
    assert {"unit", "neighbours", "max_rows_per_unit"} < body["unit"].keys()
    assert {*"curator contact recipient purpose expires product created gate".split()} == body["release"].keys()
    assert {"method", "composition", "post_processing", "recomputed_epsilon", "events"} == body["accounting"].keys()
    assert {"deployment", "assumptions", "collection"} == body["trust"].keys()
    assert body["accounting"]["method"] == "exact Gaussian" and body["implementation"]["randomness"] == "ChaCha20"
    assert body["history"]["spent"]["runs"] == 2 and body["history"]["spent"]["cap"]["epsilon"] == 6.0
    at = {row["delta"]: row["epsilon"] for row in body["guarantee"]["epsilon_at"]}
    assert at[1e-9] is None and at[1e-5] < at[1e-6]
    json.dumps(body, allow_nan=False)


def leaves_of(body: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    if isinstance(body, dict):
        return [p for k, v in body.items() for p in leaves_of(v, (*path, k))]
    if isinstance(body, list):
        return [p for i, v in enumerate(body) for p in leaves_of(v, (*path, i))]
    return [path]


def changed(body: dict[str, Any], path: tuple[Any, ...], change: Callable[[Any], Any]) -> dict[str, Any]:
    out = copy.deepcopy(body)
    inner = out
    for step in path[:-1]:
        inner = inner[step]
    inner[path[-1]] = change(inner[path[-1]])
    return out


DERIVED = [
    p
    for p in leaves_of(statement().to_json())
    if (
        p[0] == "guarantee"
        and p[1] in ("mu", "epsilon_at", "advantage", "false_negatives_at_1_percent_false_positives")
    )
    or p[:2] == ("accounting", "recomputed_epsilon")
    or (p[:2] == ("history", "spent") and p[2] in ("epsilon", "epsilon_at", "advantage"))
]


@pytest.mark.parametrize("path", DERIVED, ids=str)
def test_a_figure_that_does_not_follow_from_the_events_is_refused(path: tuple[Any, ...]) -> None:
    body = statement().to_json()
    assert len(DERIVED) > 20
    for change in (lambda v: 0.9 * v if v is not None else 1.0, lambda v: None if v is not None else 0.0, str):
        with pytest.raises(PrivacyError, match="not what follows from its events|missing or unknown"):
            PrivacyStatement.from_json(changed(body, path, change))


def test_claims_that_are_too_good_are_refused() -> None:
    body = statement().to_json()
    lower = changed(body, ("guarantee", "epsilon"), lambda _: 1.0)
    with pytest.raises(PrivacyError, match="cost more than the epsilon"):
        PrivacyStatement.from_json(lower)
    for name, value in (("epsilon", math.nan), ("delta", 1.5), ("delta", 0.0), ("epsilon", "4")):
        with pytest.raises(PrivacyError):
            PrivacyStatement.from_json(changed(body, ("guarantee", name), lambda _, v=value: v))
    cheap = replace(statement(), history=History(runs=1, cost=Cost(mu_squared=0.1, delta=2e-7), delta=1e-5))
    with pytest.raises(PrivacyError, match="history costs less"):
        PrivacyStatement.from_json(cheap.to_json())
    silent = statement(epsilon=12.0).to_json()
    silent["guarantee"]["warnings"] = {}
    with pytest.raises(PrivacyError, match="warnings"):
        PrivacyStatement.from_json(silent)


@pytest.mark.parametrize("group", [g for g in statement().to_json() if g not in ("format", "implementation")])
def test_missing_and_unknown_fields_are_refused(group: str) -> None:
    body = statement().to_json()
    with pytest.raises(PrivacyError):
        PrivacyStatement.from_json({k: v for k, v in body.items() if k != group})
    with pytest.raises(PrivacyError):
        PrivacyStatement.from_json(body | {group: body[group] | {"more": 1}})
    for name in body[group]:
        with pytest.raises(PrivacyError):
            PrivacyStatement.from_json(body | {group: {k: v for k, v in body[group].items() if k != name}})


def test_texts_may_be_worded_otherwise() -> None:
    """A later version may say the same in other words; it may not say other numbers."""
    body = changed(statement().to_json(), ("trust", "deployment"), lambda _: "one owner")
    body["trust"]["assumptions"] = ["fewer words"]
    assert PrivacyStatement.from_json(body) == statement()


# -- warnings ----------------------------------------------------------------------------------------------------------


def test_warnings_name_what_is_weak() -> None:
    assert statement().warnings == {}
    assert "162,755" in statement(epsilon=12.0).warnings["large epsilon"]
    assert "e^300" in budget_warnings(300.0, 1e-6, None)["large epsilon"]
    assert budget_warnings(10.0, 1e-6, None) == {}
    assert list(statement(units=1e6).warnings) == ["large delta"] and statement(units=0.9e6).warnings == {}
    assert "about 1,000,000" in statement(units=1e6).warnings["large delta"]
    assert budget_warnings(1.0, 1e-6, -50.0) == {}  # a noisy count may be below zero
    assert list(statement(insecure=True, epsilon=50.0).warnings) == ["not private", "large epsilon"]
    text = statement(epsilon=12.0)._repr_html_()
    assert "is above 10" in text and "Adding or removing" in text
