"""Filters against adversaries: whoever chooses each request by the answers so far gets no further than the cap."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import scipy.integrate
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from dpsynth.privacy.accounting import ORDERS, Cost, Filter, Rule, cost_of, gaussian_mu
from dpsynth.privacy.errors import PrivacyError
from dpsynth.privacy.events import DiscreteLaplace, Event, ExponentialMechanism, Gaussian

FOR = {"stage": "s", "label": "l"}
Strategy = Callable[[tuple[int, ...]], float]


def response(epsilon: float) -> Event:
    """Randomised response: the answer is the unit's bit, or with chance 1 / (1 + e^epsilon) the other one."""
    return DiscreteLaplace(**FOR, sensitivity=1, scale=1 / epsilon)


def played_out(cap: Filter, strategy: Strategy, depth: int) -> list[tuple[float, float]]:
    """(P, Q) of every transcript of an adversary who asks randomised responses until the filter refuses. By enumeration."""
    done: list[tuple[float, float]] = []
    costs: dict[float, Cost] = {}

    def play(answers: tuple[int, ...], spent: Cost, p: float, q: float) -> None:
        epsilon = strategy(answers)
        cost = costs.setdefault(epsilon, cost_of([response(epsilon)]))
        if len(answers) == depth or not cap.grants(spent + cost):
            done.append((p, q))
            return
        truth = math.exp(epsilon) / (1 + math.exp(epsilon))
        play((*answers, 1), spent + cost, p * truth, q * (1 - truth))
        play((*answers, 0), spent + cost, p * (1 - truth), q * truth)

    play((), Cost(), 1.0, 1.0)
    return done


STRATEGIES: dict[str, Strategy] = {
    "steady": lambda answers: 0.4,
    # Asks louder while the answers agree, and softly once they do not: stops at a moment of its own choosing.
    "lucky": lambda answers: 0.9 if sum(answers) == len(answers) else 0.15,
    "chasing": lambda answers: (0.15, 0.4, 0.9, 1.4)[min(abs(2 * sum(answers) - len(answers)), 3)],
    "greedy": lambda answers: 1.4 if not answers else (0.15 if answers[0] else 0.9),
}


@pytest.mark.parametrize("rule", ["gdp", "rdp"])
@pytest.mark.parametrize("name", list(STRATEGIES))
@pytest.mark.parametrize("cap", [(1.5, 0.05), (3.0, 1e-2), (5.0, 1e-3)])
def test_an_adaptive_adversary_stays_within_the_cap(name: str, rule: Rule, cap: tuple[float, float]) -> None:
    epsilon, delta = cap
    transcripts = played_out(Filter(epsilon=epsilon, delta=delta, rule=rule), STRATEGIES[name], depth=12)
    assert math.fsum(p for p, _ in transcripts) == pytest.approx(1.0)
    for first, second in ((0, 1), (1, 0)):
        reached = math.fsum(max(t[first] - math.exp(epsilon) * t[second], 0.0) for t in transcripts)
        assert reached <= delta


def test_the_enumeration_has_power() -> None:
    """The same adversary against a filter of twice the epsilon does pass the smaller cap."""
    transcripts = played_out(Filter(epsilon=6.0, delta=0.05, rule="rdp"), STRATEGIES["chasing"], depth=12)
    assert math.fsum(max(p - math.exp(1.5) * q, 0.0) for p, q in transcripts) > 0.05


EVENTS = st.one_of(
    st.builds(lambda s: Gaussian(**FOR, sensitivity=1.0, sigma=s), st.floats(1, 100)),
    st.builds(lambda e: ExponentialMechanism(**FOR, sensitivity=1.0, epsilon=round(e, 2)), st.floats(0.01, 1)),
    st.builds(lambda e: response(round(e, 2)), st.floats(0.01, 1)),
)


@given(st.lists(EVENTS, max_size=40), st.floats(0.1, 8), st.floats(1e-9, 1e-3), st.sampled_from(["gdp", "rdp"]))
@settings(max_examples=60, deadline=None)
def test_what_was_granted_never_passes_the_cap(events: list[Event], epsilon: float, delta: float, rule: Rule) -> None:
    cap, total = Filter(epsilon=epsilon, delta=delta, rule=rule), Cost()
    for event in events:
        if cap.grants(total + cost_of([event])):
            total += cost_of([event])
    assert cap.spent(total) <= epsilon * (1 + 1e-9)
    # By the better of both bounds, too, of which the filter's is one.
    assert total.epsilon(delta) <= epsilon * (1 + 1e-9)
    if rule == "rdp" and total != Cost():
        assert any(  # some order holds with its own share of delta
            total.renyi[i]
            + math.log1p(-1 / order)
            - (math.log(cap.shares[i] * delta / 2) + math.log(order)) / (order - 1)
            <= epsilon * (1 + 1e-9)
            for i, order in enumerate(ORDERS)
        )


@pytest.mark.parametrize("failing", [0.0, 1e-7, 5e-7])
def test_gaussian_runs_get_the_same_whatever_delta_others_take(failing: float) -> None:
    cap = Filter(epsilon=1.0, delta=1e-6)
    mu = gaussian_mu(1.0, 5e-7)
    assert cap.grants(Cost(mu_squared=mu**2, delta=failing))
    assert not cap.grants(Cost(mu_squared=mu**2 * 1.0001, delta=failing))
    assert not cap.grants(Cost(mu_squared=0.01, delta=failing + 5.1e-7))
    assert cap.grants(Cost()) and cap.spent(Cost()) == 0.0


def largest(granted: Callable[[float], bool], high: float) -> float:
    low = 0.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if granted(middle) else (low, middle)
    return low


@pytest.mark.parametrize(("epsilon", "delta"), [(0.3, 1e-5), (1.0, 1e-6), (8.0, 1e-6)])
def test_asking_for_noise_or_for_delta_by_the_answer_does_not_pass_the_cap(epsilon: float, delta: float) -> None:
    """One Gaussian answer; where it is telling, another of all the mu^2 that is left, else a failure of all the delta that is."""
    cap = Filter(epsilon=epsilon, delta=delta)
    first = 0.7 * gaussian_mu(epsilon, delta / 2) ** 2
    more = largest(lambda mu_squared: cap.grants(Cost(mu_squared=first + mu_squared)), 1.0)
    fails = largest(lambda failing: cap.grants(Cost(mu_squared=first, delta=failing)), delta)
    assert more > 0.4 * first and fails > 0.4 * delta
    mu, then = math.sqrt(first), math.sqrt(more)
    x = np.linspace(mu - 12, mu + 12, 20_001)  # the first answer: around mu with the unit, around 0 without
    left = epsilon - (mu * x - first / 2)  # of epsilon, once it is known
    cdf = scipy.stats.norm.cdf
    on = cdf(then / 2 - left / then) - np.exp(left) * cdf(-then / 2 - left / then)
    off = fails + (1 - fails) * np.maximum(1 - np.exp(left), 0.0)
    for telling in np.linspace(0, mu + 6, 25):
        reached = scipy.integrate.trapezoid(scipy.stats.norm.pdf(x - mu) * np.where(x > telling, on, off), x)
        assert reached <= delta * 1.001


def test_a_renyi_cap_is_little_worse_for_gaussians_and_better_for_many_choices() -> None:
    gaussian, renyi = (Filter(epsilon=2.0, delta=1e-6, rule=rule) for rule in ("gdp", "rdp"))  # type: ignore[arg-type]
    mu = gaussian_mu(2.0, 5e-7)
    assert renyi.grants(Cost(mu_squared=0.8 * mu**2))
    choice = cost_of([ExponentialMechanism(**FOR, sensitivity=1.0, epsilon=0.1)])
    granted = []
    for cap in (gaussian, renyi):
        total, n = choice, 0
        while cap.grants(total):
            total, n = total + choice, n + 1
        granted.append(n)
    assert granted[1] > granted[0] > 10


def test_shares_of_delta_add_up_and_depend_on_the_cap_alone() -> None:
    for epsilon, delta in ((0.1, 1e-9), (1.0, 1e-6), (10.0, 1e-5)):
        assert math.fsum(Filter(epsilon=epsilon, delta=delta, rule="rdp").shares) == pytest.approx(1.0)


def test_costs_add_up_and_round_trip() -> None:
    a, b = Cost(mu_squared=0.1, delta=1e-8), cost_of([response(0.3)])
    assert (a + b).renyi == pytest.approx(np.add(a.renyi, b.renyi).tolist())
    assert a + b == b + a and a + Cost() == a
    for cost in (a, b, a + b):
        assert Cost.from_json(cost.to_json()) == cost
    for bad in (
        {},
        {"mu_squared": -1.0, "delta": 0.0},
        {"mu_squared": 1.0, "delta": 0.0, "rdp": [1.0]},
        {"mu_squared": "x"},
    ):
        with pytest.raises(PrivacyError):
            Cost.from_json(bad)  # type: ignore[arg-type]
    with pytest.raises(PrivacyError, match="rule"):
        Filter(epsilon=1.0, delta=1e-6, rule="pld")  # type: ignore[arg-type]
