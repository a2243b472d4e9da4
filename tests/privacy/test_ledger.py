"""The ledger: reserved before, spent for good, added up as costs, capped by filters; a name or its lack resets nothing."""

from __future__ import annotations

import math
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dpsynth.privacy.accounting import ORDERS, Cost, Filter, cost_of
from dpsynth.privacy.budget import Reserve, budget_of
from dpsynth.privacy.errors import BudgetExceeded, LedgerError, PrivacyError
from dpsynth.privacy.events import Gaussian, SubsampledGaussian
from dpsynth.privacy.ledger import Ledger
from dpsynth.privacy.ledger.fingerprint import Contents

DELTA = 1e-6


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path / "budget.db")


def hashes(n: int = 10) -> np.ndarray:
    return np.arange(n, dtype=np.uint64) * np.uint64(7919)


def spend(
    ledger: Ledger,
    name: str | None = "people",
    epsilon: float = 1.0,
    rows: int = 10,
    unit: str = "row",
    delta: float = DELTA,
) -> str:
    record = ledger.dataset(name=name, fingerprint=ledger.fingerprint(Contents.of(hashes(rows))), unit=unit)
    return ledger.reserve(dataset=record, cost=budget_of(epsilon, delta), delta=delta, label="fit").id


def total(ledger: Ledger) -> Cost:
    return ledger.spent(ledger.datasets()[0].id).cost


# -- adding up ---------------------------------------------------------------------------------------------------------


def test_runs_on_one_data_set_compose_exactly(ledger_url: str) -> None:
    ledger = Ledger(ledger_url)
    for _ in range(4):
        spend(ledger)
    (record,) = ledger.datasets()
    spent = ledger.spent(record.id)
    one = budget_of(1.0, DELTA)
    assert spent.cost.mu_squared == pytest.approx(4 * one.mu_squared) and len(spent.runs) == 4
    assert spent.delta == pytest.approx(4 * DELTA) and spent.epsilon == spent.cost.epsilon(spent.delta)
    assert 1.0 < spent.epsilon < 4.0  # less than the sum
    assert all(r.state == "reserved" and r.epsilon == pytest.approx(1.0) for r in spent.runs)
    assert [e.kind for e in ledger.entries()] == ["register"] + 4 * ["reserve"]
    assert ledger.verify() == [] and Ledger(ledger_url).head() == ledger.head()


def test_the_running_total_stands_in_the_entries(ledger: Ledger) -> None:
    spend(ledger)
    spend(ledger, epsilon=0.5)
    last = ledger.entries()[-1].body
    assert Cost.from_json(last["total"]["cost"]) == total(ledger) == budget_of(1.0, DELTA) + budget_of(0.5, DELTA)
    assert last["total"]["runs"] == 2


def test_a_cost_with_renyi_divergences_comes_back_as_it_was(ledger: Ledger) -> None:
    cost = Cost(mu_squared=0.2, delta=1e-9, rdp=tuple(0.03 * order for order in ORDERS))
    record = ledger.dataset(name="p", fingerprint="a", unit="row")
    ledger.reserve(dataset=record, cost=cost, delta=DELTA, label="dp-sgd")
    ledger.reserve(dataset=record, cost=Cost(mu_squared=0.1), delta=DELTA, label="fit")
    assert total(ledger) == cost + Cost(mu_squared=0.1) and ledger.verify() == []
    assert ledger.spent(record.id).runs[0].cost == cost


def test_a_first_run_is_granted_and_shown_as_its_plan_and_later_ones_as_they_add_up(ledger_url: str) -> None:
    """A cap of just what was asked for lets a planned training pass, whose parts add up to more; and nothing after it."""
    training = SubsampledGaussian(stage="t", label="t", sampling_rate=0.1, noise_multiplier=1.0, steps=50)
    reserve = Reserve(adaptive=Cost(mu_squared=0.5, delta=1e-7), planned=(training,))
    epsilon = reserve.epsilon(DELTA)
    assert reserve.cost.epsilon(DELTA) > 1.02 * epsilon
    asked = {"cost": reserve.cost, "delta": DELTA, "label": "fit"}
    ledger = Ledger(ledger_url)
    ledger.set_cap("people", epsilon=epsilon, delta=DELTA)
    people = ledger.dataset(name="people", fingerprint="f" * 64, unit="row")
    with pytest.raises(BudgetExceeded):
        ledger.reserve(dataset=people, **asked)
    ledger.require_room("people", "row", reserve.cost, DELTA, reserve.plan)
    ledger.reserve(dataset=people, plan=reserve.plan, **asked)
    spent = ledger.spent(people.id)
    assert spent.epsilon == spent.runs[0].epsilon == pytest.approx(epsilon)
    with pytest.raises(BudgetExceeded):
        ledger.reserve(dataset=people, cost=Cost(mu_squared=1e-9), delta=DELTA, label="fit")
    assert ledger.verify() == []

    ledger.set_cap("people", epsilon=10 * epsilon, delta=DELTA)
    ledger.reserve(dataset=people, plan=reserve.plan, **asked)
    spent = ledger.spent(people.id)
    assert spent.cap is not None and spent.epsilon == spent.cap.spent(reserve.cost + reserve.cost) > 1.5 * epsilon
    assert [run.epsilon for run in spent.runs] == pytest.approx([epsilon, epsilon])

    ledger.set_cap("others", epsilon=epsilon, delta=DELTA)  # one run before it, however small: the plan counts no more
    others = ledger.dataset(name="others", fingerprint="e" * 64, unit="row")
    ledger.reserve(dataset=others, cost=Cost(mu_squared=1e-9), delta=DELTA, label="fit")
    with pytest.raises(BudgetExceeded):
        ledger.reserve(dataset=others, plan=reserve.plan, **asked)


def test_a_plan_may_not_cost_more_than_is_reserved(ledger: Ledger) -> None:
    people = ledger.dataset(name="people", fingerprint="f" * 64, unit="row")
    with pytest.raises(PrivacyError, match="more than it reserves"):
        ledger.reserve(
            dataset=people,
            cost=Cost(mu_squared=0.01),
            plan=[Gaussian(stage="s", label="l", sensitivity=1.0, sigma=5.0)],
            delta=DELTA,
            label="fit",
        )
    assert [e.kind for e in ledger.entries()] == ["register"]


def test_events_must_fit_their_reservation(ledger_url: str) -> None:
    ledger = Ledger(ledger_url)
    record = ledger.dataset(name="p", fingerprint=ledger.fingerprint(Contents.of(hashes())), unit="row")
    reservation = ledger.reserve(dataset=record, cost=Cost(mu_squared=0.01), delta=DELTA, label="fit")
    event = Gaussian(stage="s", label="l", sensitivity=1.0, sigma=10.0)
    with pytest.raises(PrivacyError, match="more than it had reserved"):
        ledger.commit(reservation, [event, event])
    head = ledger.commit(reservation, [event])
    assert ledger.head() == head and ledger.events(reservation.id) == (event,)
    assert ledger.spent(record.id).runs[0].state == "committed" and total(ledger) == Cost(mu_squared=0.01)
    with pytest.raises(LedgerError, match="committed already"):
        ledger.commit(reservation, [event])
    ledger.note(reservation.id, "release", {"recipient": "team"})
    with pytest.raises(LedgerError, match="no such run"):
        ledger.note("run_unknown", "release", {})
    with pytest.raises(LedgerError, match="no committed run"):
        ledger.events("run_unknown")
    assert ledger.verify() == [] and ledger.contains(head)


def test_what_a_run_reserved_is_read_from_the_ledger_not_from_the_caller(ledger: Ledger) -> None:
    record = ledger.dataset(name="p", fingerprint="a", unit="row")
    reservation = ledger.reserve(dataset=record, cost=Cost(mu_squared=0.01), delta=DELTA, label="fit")
    more = type(reservation)(id=reservation.id, dataset=record.id, cost=Cost(mu_squared=9.0), delta=DELTA)
    with pytest.raises(PrivacyError, match="more than it had reserved"):
        ledger.commit(more, [Gaussian(stage="s", label="l", sensitivity=1.0, sigma=1.0)])


# -- names -------------------------------------------------------------------------------------------------------------


def test_a_name_or_its_lack_does_not_reset_a_data_set(ledger: Ledger) -> None:
    spend(ledger, "people")
    spend(ledger, None)
    spend(ledger, "people-copy")
    assert len(ledger.datasets()) == 1
    spend(ledger, "others", rows=20)
    with pytest.raises(LedgerError, match="dataset='people'"):
        spend(ledger, "others", rows=10)
    spend(ledger, "people", rows=30)  # data that grew, under its name
    spend(ledger, None, rows=30)
    assert len(ledger.datasets()) == 2 and len(ledger.spent(ledger.datasets()[0].id).runs) == 5


def test_an_id_serves_as_a_name(ledger: Ledger) -> None:
    spend(ledger, None)
    (record,) = ledger.datasets()
    assert record.name is None
    spend(ledger, record.id, rows=11)
    ledger.set_cap(record.id, epsilon=1.5, delta=1e-5)
    (record,) = ledger.datasets()
    assert len(ledger.spent(record.id).runs) == 2 and record.cap == Filter(epsilon=1.5, delta=1e-5)


@pytest.mark.parametrize("name", ["", "a/b/c", "/a", "a/", "a\nb", "x" * 201])
def test_names_that_cannot_be(ledger: Ledger, name: str) -> None:
    with pytest.raises(LedgerError, match="name"):
        spend(ledger, name)
    assert ledger.entries() == []


def test_the_order_of_rows_does_not_change_the_fingerprint_but_the_key_does(ledger: Ledger, tmp_path: Path) -> None:
    assert ledger.fingerprint(Contents.of(hashes())) == ledger.fingerprint(Contents.of(hashes()[::-1]))
    assert ledger.fingerprint(Contents.of(hashes())) != ledger.fingerprint(Contents.of(hashes(11)))
    assert ledger.fingerprint(Contents.of(hashes())) != Ledger(tmp_path / "other.db").fingerprint(Contents.of(hashes()))
    assert len(ledger.fingerprint(Contents.of(hashes(1)))) == len(ledger.fingerprint(Contents.of(hashes(10_000))))


def test_new_rows_with_known_columns_and_no_name_warn(ledger: Ledger, tmp_path: Path) -> None:
    columns = [f"column {i}" for i in range(10)]

    def open_(fingerprint: str, columns: list[str], name: str | None = None) -> None:
        ledger.dataset(name=name, fingerprint=fingerprint, unit="row", columns=columns)

    open_("a", columns, "people")
    with pytest.warns(UserWarning, match="dataset='people'"):
        open_("b", columns)
    with pytest.warns(UserWarning, match="columns are those of"):
        open_("c", columns[:-2])  # 8 of 10
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        open_("d", columns[:5])
        open_("e", columns, "something else")
        open_("b", columns)  # known by now
    assert all(c.encode() not in (tmp_path / "budget.db").read_bytes() for c in columns)


# -- caps --------------------------------------------------------------------------------------------------------------


def test_a_cap_refuses_and_says_what_was_asked_spent_and_left(ledger_url: str) -> None:
    ledger = Ledger(ledger_url)
    ledger.set_cap("people", epsilon=1.5, delta=1e-5)
    spend(ledger)
    before = ledger.head()
    with pytest.raises(BudgetExceeded, match="people") as refused:
        spend(ledger, epsilon=1.4)
    error = refused.value
    assert error.asked == pytest.approx(1.4) and error.asked > error.left > 0
    assert error.spent == pytest.approx(Filter(epsilon=1.5, delta=1e-5).spent(budget_of(1.0, DELTA)))
    assert ledger.head() == before  # a refusal leaves nothing
    with pytest.raises(BudgetExceeded):
        spend(ledger, epsilon=error.left * 1.001)
    spend(ledger, epsilon=error.left)
    with pytest.raises(BudgetExceeded) as refused:
        spend(ledger, epsilon=0.01)
    assert refused.value.left < 1e-3
    with pytest.raises(PrivacyError):
        ledger.set_cap("people", epsilon=-1, delta=1e-5)
    ledger.set_cap("people", epsilon=3.0, delta=1e-5)
    spend(ledger, epsilon=1.0)
    assert ledger.verify() == []


@pytest.mark.parametrize("rule", ["gdp", "rdp"])
def test_a_caps_filter_says_what_is_spent(ledger: Ledger, rule: str) -> None:
    cap = Filter(epsilon=3.0, delta=1e-5, rule=rule)  # type: ignore[arg-type]
    record = ledger.set_cap("people", epsilon=3.0, delta=1e-5, rule=rule)  # type: ignore[arg-type]
    assert record.cap == cap
    spend(ledger)
    one = ledger.spent(record.id)  # by itself: nothing is added up
    assert one.epsilon == one.cost.epsilon(1e-5) < cap.spent(one.cost)
    spend(ledger)
    spent = ledger.spent(record.id)
    assert spent.epsilon == cap.spent(spent.cost) and spent.delta == 1e-5 and spent.cap == cap
    with pytest.raises(LedgerError, match="rule"):
        ledger.set_cap("people", epsilon=4.0, delta=1e-5, rule="gdp" if rule == "rdp" else "rdp")


def test_a_request_with_more_delta_than_the_cap_has_is_refused(ledger: Ledger) -> None:
    ledger.set_cap("people", epsilon=5.0, delta=1e-6)
    with pytest.raises(BudgetExceeded) as refused:
        spend(ledger, epsilon=0.1, delta=1e-4)
    assert refused.value.left == 0


def test_a_cap_on_rows_that_were_booked_without_their_name(ledger: Ledger) -> None:
    ledger.set_cap("people", epsilon=1.0, delta=1e-5)
    spend(ledger, None)
    with pytest.raises(LedgerError, match="dataset='ds_"):
        spend(ledger, "people")


# -- sub-budgets -------------------------------------------------------------------------------------------------------


def test_a_sub_budget_refuses_as_does_the_whole(ledger_url: str) -> None:
    ledger = Ledger(ledger_url)
    ledger.set_cap("people", epsilon=2.0, delta=1e-5)
    for label in ("marketing", "research"):
        ledger.set_sub_budget("people", label, epsilon=1.2, delta=1e-5)
    spend(ledger, "people/marketing", 1.0)
    with pytest.raises(BudgetExceeded, match="sub-budget 'marketing' of data set 'people'"):
        spend(ledger, "people/marketing", 1.0)
    spend(ledger, "people/research", 1.0)
    with pytest.raises(BudgetExceeded, match="^data set 'people'"):
        spend(ledger, "people", 2.0)
    record = ledger.datasets()[0]
    spent = ledger.spent(record.id)
    assert {s.label: s.cost for s in spent.sub_budgets} == dict.fromkeys(
        ("marketing", "research"), budget_of(1.0, DELTA)
    )
    assert spent.cost == budget_of(1.0, DELTA) + budget_of(1.0, DELTA)
    assert [r.sub_budget for r in spent.runs] == ["marketing", "research"] and ledger.verify() == []


def test_a_sub_budget_must_be_known(ledger: Ledger) -> None:
    with pytest.raises(LedgerError, match="no data set 'people'"):
        spend(ledger, "people/marketing")
    ledger.set_cap("people", epsilon=2.0, delta=1e-5)
    with pytest.raises(LedgerError, match="no sub-budget 'marketing'"):
        spend(ledger, "people/marketing")
    with pytest.raises(LedgerError, match="set_sub_budget"):
        ledger.set_cap("people/marketing", epsilon=1.0, delta=1e-5)
    with pytest.raises(LedgerError, match="label"):
        ledger.set_sub_budget("people", "a/b", epsilon=1.0, delta=1e-5)


# -- units -------------------------------------------------------------------------------------------------------------


def test_costs_under_different_units_are_booked_apart_without_a_cap(ledger: Ledger) -> None:
    spend(ledger, unit="row")
    spend(ledger, unit="row")
    spend(ledger, unit="person")
    by_unit = {r.unit: ledger.spent(r.id, r.unit) for r in ledger.datasets()}
    assert {u: len(s.runs) for u, s in by_unit.items()} == {"row": 2, "person": 1}
    assert by_unit["person"].cost == budget_of(1.0, DELTA) and by_unit["person"].unit == "person"
    with pytest.raises(LedgerError, match="pass unit="):
        ledger.set_cap("people", epsilon=3.0, delta=1e-5)
    ledger.set_cap("people", epsilon=3.0, delta=1e-5, unit="person")
    spend(ledger, unit="person")
    with pytest.raises(LedgerError, match="do not add up"):
        spend(ledger, unit="row")
    assert ledger.verify() == []


def test_a_cap_counts_in_the_unit_of_the_runs_before_it_or_of_the_first_after_it(ledger: Ledger) -> None:
    spend(ledger, "a", unit="person")
    ledger.set_cap("a", epsilon=3.0, delta=1e-5)
    ledger.set_cap("b", epsilon=3.0, delta=1e-5)
    spend(ledger, "b", unit="row", rows=20)
    for name, rows, unit in (("a", 10, "row"), ("b", 20, "person")):
        with pytest.raises(LedgerError, match="counts in units of"):
            spend(ledger, name, unit=unit, rows=rows)
    assert [r.unit for r in ledger.datasets()] == ["person", "row"]


# -- any sequence ------------------------------------------------------------------------------------------------------

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("reserve"), st.sampled_from(["a", "b", "a/x"]), st.floats(1e-4, 0.3), st.booleans()),
        st.tuples(st.just("cap"), st.sampled_from(["a", "b"]), st.floats(0.5, 5.0), st.booleans()),
    ),
    max_size=25,
)


@settings(max_examples=25, deadline=None)
@given(steps=STEPS)
def test_stored_totals_are_the_sums_of_the_entries_whatever_the_order(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, str, float, bool]]
) -> None:
    ledger = Ledger(tmp_path_factory.mktemp("any") / "budget.db")
    ledger.set_sub_budget("a", "x", epsilon=1.0, delta=1e-5)
    granted: dict[str, Cost] = {}
    for kind, name, amount, flag in steps:
        data, _, label = name.partition("/")
        if kind == "cap":
            ledger.set_cap(name, epsilon=amount, delta=1e-5)
            continue
        record = ledger.dataset(name=name, fingerprint=data, unit="row")
        event = Gaussian(stage="s", label="l", sensitivity=math.sqrt(amount), sigma=1.0)
        try:
            reservation = ledger.reserve(dataset=record, cost=cost_of([event]), delta=DELTA, label="r")
        except BudgetExceeded:
            continue
        for account in {data, name}:
            granted[account] = granted.get(account, Cost()) + cost_of([event])
        if flag:
            ledger.commit(reservation, [event])
    assert ledger.verify() == []
    for record in ledger.datasets():
        spent = ledger.spent(record.id)
        assert spent.cost == granted.get(str(record.name), Cost())
        assert sum((r.cost for r in spent.runs), Cost()) == spent.cost
        for sub in spent.sub_budgets:
            assert sub.cost == granted.get(f"{record.name}/{sub.label}", Cost()) and sub.cap.grants(sub.cost)


@settings(max_examples=25, deadline=None)
@given(data=st.data(), rule=st.sampled_from(["gdp", "rdp"]))
def test_requests_that_depend_on_what_is_left_never_pass_the_cap(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, rule: str
) -> None:
    ledger = Ledger(tmp_path_factory.mktemp("greedy") / "budget.db")
    cap = Filter(epsilon=2.0, delta=1e-5, rule=rule)  # type: ignore[arg-type]
    ledger.set_cap("p", epsilon=2.0, delta=1e-5, rule=rule)  # type: ignore[arg-type]
    record = ledger.dataset(name="p", fingerprint="p", unit="row")
    ask = data.draw(st.floats(0.1, 4.0))
    for _ in range(12):
        delta = data.draw(st.sampled_from([1e-7, 1e-6, 5e-6]))
        try:
            ledger.reserve(dataset=record, cost=budget_of(max(ask, 1e-4), delta), delta=delta, label="r")
        except BudgetExceeded as refused:
            ask = refused.left * data.draw(st.sampled_from([0.5, 0.999999, 1.0, 1.01]))
        spent = ledger.spent(record.id)
        assert cap.holds(spent.epsilon) and (len(spent.runs) < 2 or cap.grants(spent.cost))
    assert ledger.verify() == []
