"""The accountant against published figures and high-precision arithmetic; the statement built on it."""

from __future__ import annotations

import math
from pathlib import Path

import mpmath
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dpsynth.privacy.accounting import Cost, cost_of, gaussian_delta, gaussian_epsilon, gaussian_mu
from dpsynth.privacy.errors import PrivacyError
from dpsynth.privacy.events import Event, Gaussian, StabilityHistogram, from_json, to_json
from dpsynth.privacy.statement import PrivacyStatement

EVENTS: tuple[Event, ...] = (
    Gaussian(stage="one-way", label="age", sensitivity=1.0, sigma=10.0),
    Gaussian(stage="pairs", label="age x sex", sensitivity=60.0, sigma=300.0),
    StabilityHistogram(stage="vocabulary", label="city", sensitivity=1.0, sigma=20.0, threshold=110.0, delta=1e-8),
)


def exact_delta(mu: float, epsilon: float) -> mpmath.mpf:
    with mpmath.workdps(60):
        m, e = mpmath.mpf(mu), mpmath.mpf(epsilon)
        return mpmath.ncdf(-e / m + m / 2) - mpmath.exp(e) * mpmath.ncdf(-e / m - m / 2)


@pytest.mark.parametrize("mu", [1e-3, 0.05, 0.2367, 1.0, 5.0, 30.0])
@pytest.mark.parametrize("epsilon", [0.0, 1e-3, 0.1, 1.0, 4.0, 40.0, 500.0])
def test_delta_agrees_with_sixty_digits(mu: float, epsilon: float) -> None:
    exact = float(exact_delta(mu, epsilon))
    assert gaussian_delta(mu, epsilon) == pytest.approx(exact, rel=1e-6, abs=1e-300)


def test_published_figures() -> None:
    # Full-batch Gaussian, sigma 10, 100 steps, delta 1e-6 (analytic Gaussian); mu at epsilon 1, delta 1e-6.
    assert gaussian_epsilon(1.0, 1e-6) == pytest.approx(4.886554, abs=1e-6)
    assert gaussian_mu(1.0, 1e-6) == pytest.approx(0.2367, abs=2e-4)


@given(st.floats(1e-3, 50), st.floats(1e-12, 0.4))
def test_epsilon_and_mu_are_inverse_and_round_to_the_safe_side(epsilon: float, delta: float) -> None:
    mu = gaussian_mu(epsilon, delta)
    assert gaussian_delta(mu, epsilon) <= delta
    assert gaussian_epsilon(mu, delta) == pytest.approx(epsilon, rel=1e-6)


@given(st.lists(st.floats(0.01, 2), min_size=1, max_size=8), st.randoms(use_true_random=False))
def test_composition_is_monotone_and_free_of_order(mus: list[float], random: object) -> None:
    events = [Gaussian(stage="s", label="l", sensitivity=m, sigma=1.0) for m in mus]
    shuffled = list(events)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert cost_of(events).epsilon(1e-6) == pytest.approx(cost_of(shuffled).epsilon(1e-6), rel=1e-9)
    assert cost_of(events[:-1]).epsilon(1e-6) <= cost_of(events).epsilon(1e-6)


def test_a_delta_that_stability_used_up_leaves_no_guarantee() -> None:
    assert Cost(mu_squared=0.01, delta=1e-6).epsilon(1e-6) == math.inf
    assert Cost(mu_squared=0.01, delta=1e-7).epsilon(1e-6) > Cost(mu_squared=0.01).epsilon(1e-6)


def test_discrete_noise_on_a_grid_is_no_worse_than_what_is_booked() -> None:
    """Brute force: the hockey-stick divergence of round(N(0, s^2)) from its shift by 1 stays below the booked curve."""
    from scipy.stats import norm

    for sigma in (0.5, 1.0, 5.0):
        k = range(-200, 201)
        p = [norm.cdf((i + 0.5) / sigma) - norm.cdf((i - 0.5) / sigma) for i in k]
        q = [norm.cdf((i - 0.5) / sigma) - norm.cdf((i - 1.5) / sigma) for i in k]
        for epsilon in (0.0, 0.1, 1.0, 3.0):
            attained = sum(max(a - math.exp(epsilon) * b, 0.0) for a, b in zip(p, q, strict=True))
            assert attained <= gaussian_delta(1 / sigma, epsilon) + 1e-12


@pytest.mark.parametrize("bad", [{"sigma": 0.0}, {"sensitivity": -1.0}, {"sigma": math.inf}])
def test_events_that_are_none_are_refused(bad: dict[str, float]) -> None:
    with pytest.raises(PrivacyError):
        Gaussian(**({"stage": "s", "label": "l", "sensitivity": 1.0, "sigma": 1.0} | bad))  # type: ignore[arg-type]


def test_events_survive_json_and_unknown_ones_are_refused() -> None:
    assert tuple(from_json(to_json(e)) for e in EVENTS) == EVENTS
    for harm in ({"kind": "laplace"}, {"extra": 1}):
        with pytest.raises(PrivacyError):
            from_json(to_json(EVENTS[0]) | harm)


def statement(**changes: object) -> PrivacyStatement:
    body = {
        "epsilon": cost_of(EVENTS).epsilon(1e-6),
        "delta": 1e-6,
        "unit": "person",
        "max_rows_per_unit": 5,
        "neighbours": "add or remove one unit",
        "events": EVENTS,
        "public": ("names of the columns",),
        "dataset": "ds_1",
        "run": "run_1",
        "ledger_head": "00",
        "insecure": False,
        "mechanism": {"noise": "rounded Gaussian"},
        "version": "0",
        "created": "2026-01-01T00:00:00+00:00",
    }
    return PrivacyStatement(**(body | changes))  # type: ignore[arg-type]


def test_a_statement_survives_json_and_adds_up(tmp_path: Path) -> None:
    mine = statement()
    assert PrivacyStatement.from_json(mine.to_json()) == mine
    assert mine.recomputed_epsilon == pytest.approx(mine.epsilon)
    assert sum(mine.spent_by_stage().values()) == pytest.approx(1.0)
    mine.save(tmp_path / "p.json")
    assert "one person, at most 5 rows" in mine.sentence()


def test_a_statement_that_claims_less_than_its_events_cost_is_refused() -> None:
    with pytest.raises(PrivacyError, match="cost more"):
        PrivacyStatement.from_json(statement(epsilon=statement().epsilon * 0.99).to_json())
    with pytest.raises(PrivacyError, match="epsilon must be a finite number"):
        PrivacyStatement.from_json(statement(epsilon=math.nan).to_json())
    for harm in ({"format": "x"}, {"colour": "red"}):
        with pytest.raises(PrivacyError):
            PrivacyStatement.from_json(statement().to_json() | harm)


def test_a_statement_escapes_what_users_named() -> None:
    assert "<script>" not in statement(unit="<script>alert(1)</script>")._repr_html_()


def test_attack_advantage_is_the_total_variation_of_the_two_worlds() -> None:
    mu = math.sqrt(cost_of(EVENTS).mu_squared)
    assert statement().attack_advantage == pytest.approx(gaussian_delta(mu, 0.0) + 1e-8)
