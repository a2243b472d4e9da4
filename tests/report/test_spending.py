"""The budget as it is shown: nothing counted twice, nothing left out, and readable in 80 columns."""

from __future__ import annotations

import io
import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from dpsynth.privacy.accounting import Cost
from dpsynth.privacy.budget import budget_of
from dpsynth.privacy.errors import BudgetExceeded, LedgerError
from dpsynth.privacy.events import Composition, Event, Gaussian, Parallel, SubsampledGaussian
from dpsynth.privacy.ledger import Ledger
from dpsynth.privacy.ledger.fingerprint import Contents
from dpsynth.report import budget, budget_tables
from dpsynth.report.spending import (
    NOT_BOOKED,
    UNNAMED,
    DatasetView,
    Spending,
    event_rows,
    run_json,
    run_of,
    spending,
)

DELTA = 1e-6


def run(ledger: Ledger, name: str, epsilon: float, commit: bool = True, part: float = 1.0, unit: str = "row") -> str:
    """A run of two stages that spends a part of what it reserves."""
    hashes = np.frombuffer(name.encode().ljust(24)[:16], np.uint64)
    record = ledger.dataset(name=name, fingerprint=ledger.fingerprint(Contents.of(hashes)), unit=unit)
    cost = budget_of(epsilon, DELTA)
    reservation = ledger.reserve(dataset=record, cost=cost, delta=DELTA, label="fit")
    if commit:
        mu_squared = part * cost.mu_squared
        events = [
            Gaussian(stage="one-way", label="age", sensitivity=1.0, sigma=1 / math.sqrt(0.25 * mu_squared)),
            Gaussian(stage="pairs", label="age x sex", sensitivity=1.0, sigma=1 / math.sqrt(0.75 * mu_squared)),
        ]
        ledger.commit(reservation, events)
    return reservation.id


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path / "budget.db")


@pytest.fixture
def busy(ledger: Ledger) -> tuple[Ledger, list[str]]:
    """Three runs on one data set, released to two named teams and one unnamed; another data set with a run that crashed."""
    ledger.set_cap("people", epsilon=4.0, delta=1e-5)
    ledger.set_sub_budget("people", "research", epsilon=3.5, delta=1e-5)
    runs = [run(ledger, "people", 1.0), run(ledger, "people", 0.5), run(ledger, "people/research", 2.0)]
    runs.append(run(ledger, "others", 1.0, commit=False))
    for place, who in ((0, "Team A"), (0, "Team A"), (1, "Team A"), (0, "[bold]Team B"), (1, None)):
        about = {"recipient": who, "purpose": "a dashboard", "expires": "2999-01-01"}
        ledger.note(runs[place], "release", {k: v for k, v in about.items() if v} | {"verdict": "pass"})
    return ledger, runs


def shown(value: Any, width: int) -> str:
    console = Console(file=io.StringIO(), width=width, force_terminal=False, legacy_windows=False)
    console.print(value)
    return console.file.getvalue()  # type: ignore[attr-defined]


def view_date(spent: Spending) -> str:
    return people(spent).runs[0].created[:10]


def people(spent: Spending) -> DatasetView:
    return next(view for view in spent.datasets if view.name == "people")


# -- who holds what ----------------------------------------------------------------------------------------------------


def test_a_recipient_holds_the_composition_of_distinct_runs(busy: tuple[Ledger, list[str]]) -> None:
    ledger, runs = busy
    view = people(spending(ledger))
    cost = {e: budget_of(e, DELTA) for e in (1.0, 0.5, 2.0)}
    held = {h.name: h for h in view.recipients}
    assert list(held) == ["Team A", "[bold]Team B", UNNAMED]
    assert held["Team A"].runs == tuple(runs[:2]) and held["Team A"].releases == 3
    assert held["Team A"].cost == cost[1.0] + cost[0.5]  # the same run twice costs it once
    assert held["[bold]Team B"].cost == cost[1.0] and held[UNNAMED].cost == cost[0.5]
    assert view.together is not None and view.together.cost == cost[1.0] + cost[0.5]  # run 3 was released to nobody
    assert view.together.releases == 5
    assert view.total.cost.mu_squared == pytest.approx(sum(c.mu_squared for c in cost.values()))
    assert held["Team A"].epsilon == view.together.epsilon < view.total.epsilon < 4
    assert held["Team A"].meaning.advantage < view.total.meaning.advantage
    assert view.total.epsilon < ledger.spent(view.id).epsilon  # the price of a filter


def test_releases_cost_nothing(busy: tuple[Ledger, list[str]]) -> None:
    ledger, runs = busy
    before = people(spending(ledger)).total
    for i in range(5):
        ledger.note(runs[2], "release", {"recipient": f"Team {i}"})
    after = people(spending(ledger))
    assert after.total.cost == before.cost and after.total.releases == 10 and len(after.recipients) == 8
    assert after.together is not None and after.together.cost == before.cost


def test_the_total_grows_run_by_run_up_to_what_was_spent(busy: tuple[Ledger, list[str]]) -> None:
    view = people(spending(busy[0]))
    totals = [r.so_far for r in view.runs]
    assert totals == sorted(totals) and totals[0] == pytest.approx(view.runs[0].cost.epsilon(1e-5))
    assert totals[-1] == pytest.approx(view.epsilon)
    assert [r.epsilon for r in view.runs] == pytest.approx([1.0, 0.5, 2.0])
    assert view.stages == pytest.approx({"one-way": 0.25, "pairs": 0.75})


def test_what_was_reserved_and_not_booked_is_shown_as_spent(ledger: Ledger) -> None:
    run(ledger, "people", 1.0, commit=False)
    run(ledger, "people", 1.0, part=0.5)
    (view,) = spending(ledger).datasets
    assert [r.state for r in view.runs] == ["reserved", "committed"]
    assert view.stages == pytest.approx({NOT_BOOKED: 0.75, "one-way": 0.0625, "pairs": 0.1875})
    assert view.total.cost.mu_squared == pytest.approx(2 * budget_of(1.0, DELTA).mu_squared)


def test_sub_budgets_show_what_they_have_left(ledger: Ledger) -> None:
    ledger.set_cap("people", epsilon=4.0, delta=1e-5)
    ledger.set_sub_budget("people", "[red]team", epsilon=1.5, delta=1e-5)
    run(ledger, "people/[red]team", 1.0)
    run(ledger, "people", 2.0)
    spent = spending(ledger, "people")
    (view,) = spent.datasets
    (part,) = view.parts
    assert (
        part.label == "[red]team"
        and part.epsilon == pytest.approx(part.cap.spent(view.runs[0].cost))
        and 0 < part.left < 1.5
    )
    assert [r.sub_budget for r in view.runs] == ["[red]team", None]
    assert (
        view.epsilon == pytest.approx(ledger.spent(view.id).epsilon) and view.left is not None and view.left > part.left
    )
    assert part.to_json()["cap"] == {"epsilon": 1.5, "delta": 1e-5, "rule": "gdp"}
    for text in (shown(budget_tables.overview(spent), 80), shown(budget_tables.full(spent), 80), budget.render(spent)):
        assert "Sub-budgets" in text and "[red]team" in text


def test_costs_under_different_units_are_shown_apart(ledger: Ledger) -> None:
    run(ledger, "people", 1.0)
    run(ledger, "people", 2.0, unit="who")
    ledger.note(spending(ledger).datasets[1].runs[0].id, "release", {"recipient": "Team A"})
    spent = spending(ledger, "people")
    assert [(v.unit, len(v.runs), len(v.releases)) for v in spent.datasets] == [("row", 1, 0), ("who", 1, 1)]
    assert [v.epsilon for v in spent.datasets] == pytest.approx([1.0, 2.0]) and spent.overlap is None
    run(ledger, "others", 1.0, unit="who")
    assert spending(ledger).overlap is None  # rows and persons do not add up


def test_a_cap_by_the_renyi_rule_is_shown_by_that_rule(ledger: Ledger) -> None:
    ledger.set_cap("people", epsilon=4.0, delta=1e-5, rule="rdp")
    run(ledger, "people", 1.0)
    run(ledger, "people", 1.0)
    spent = spending(ledger)
    (view,) = spent.datasets
    assert view.cap is not None and view.epsilon == pytest.approx(view.cap.spent(view.total.cost))
    assert view.epsilon == view.runs[1].so_far > view.total.epsilon  # the price of a filter
    assert "What each run takes of the cap" not in budget.render(spent)


def test_what_is_left_is_the_largest_run_that_the_ledger_lets_through(
    busy: tuple[Ledger, list[str]], tmp_path: Path
) -> None:
    ledger, _ = busy
    left = people(spending(ledger)).left
    assert left is not None and 0 < left < 5
    with pytest.raises(BudgetExceeded):
        run(ledger, "people", left * 1.001, commit=False)
    run(ledger, "people", left * 0.999, commit=False)
    assert people(spending(ledger)).left == pytest.approx(0.0, abs=0.3)
    roomy = Ledger(tmp_path / "roomy.db")
    roomy.set_cap("people", epsilon=4.0, delta=1e-5)
    run(roomy, "people", 0.1)
    (view,) = spending(roomy).datasets
    assert view.left is not None and view.left > 4  # at delta 1e-6 a run of more than 4 is one of less at 1e-5
    run(roomy, "people", view.left * 0.999, commit=False)


def test_somebody_in_all_data_sets_pays_for_all(busy: tuple[Ledger, list[str]]) -> None:
    spent = spending(busy[0])
    assert spent.overlap is not None
    assert spent.overlap.cost == sum((v.total.cost for v in spent.datasets), Cost())
    assert spent.overlap.epsilon > max(v.total.epsilon for v in spent.datasets)
    assert spending(busy[0], "people").overlap is None


def test_one_data_set_or_run_is_found_by_name_or_id_and_others_are_refused(busy: tuple[Ledger, list[str]]) -> None:
    ledger, runs = busy
    (view,) = spending(ledger, "people").datasets
    assert spending(ledger, view.id).datasets == (view,)
    found = run_of(spending(ledger).datasets, runs[1])
    body = run_json(*found)
    assert body["dataset"]["name"] == "people" and len(body["events"]) == 2 and len(body["releases"]) == 2
    for ask in (lambda: spending(ledger, "nobody"), lambda: run_of(spending(ledger).datasets, "run_x")):
        with pytest.raises(LedgerError, match="dpsynth budget show"):
            ask()


def test_every_kind_of_event_has_a_line() -> None:
    first = Gaussian(stage="one-way", label="age", sensitivity=1.0, sigma=4.0)
    sgd = SubsampledGaussian(stage="training", label="steps", sampling_rate=0.01, noise_multiplier=2.0, steps=10)
    events: list[Event] = [first, Parallel(branches=(first, Composition(events=(first, sgd))))]
    rows = event_rows(events)
    assert [r.kind for r in rows] == [
        "gaussian",
        *(f"parallel of {k}" for k in ("gaussian", "gaussian", "subsampled-gaussian")),
    ]
    assert "sampling rate 0.01" in rows[-1].parameters and "steps 10" in rows[-1].parameters
    assert rows[0].share + rows[1].share == pytest.approx(1.0)
    assert event_rows([]) == []


# -- on paper ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [80, 120])
def test_no_word_is_cut_in_a_terminal(busy: tuple[Ledger, list[str]], width: int) -> None:
    ledger, runs = busy
    spent = spending(ledger)
    single = run_of(spent.datasets, runs[0])
    for value in (budget_tables.overview(spent), budget_tables.full(spent), budget_tables.run_tables(*single)):
        text = shown(value, width)
        assert "…" not in text and max(map(len, text.splitlines())) <= width
        words = set(re.findall(r"[\w./-]+", text))
        assert runs[0] in words and {"epsilon", "people"} <= {w.lower() for w in words} | {"epsilon"}
    full = shown(budget_tables.full(spent), width)
    for word in (
        "dashboard",
        "recipients",
        "(research)",
        view_date(spent),
        "together",
        "committed",
        "reserved",
        "one-way",
        "2999-01-01",
        "[bold]Team",
    ):
        assert word in full, word
    assert "people: epsilon" in full and "of 4 (at delta 1e-05)" in full and "still fits" in full


def test_an_empty_ledger_says_so_everywhere(ledger: Ledger) -> None:
    spent = spending(ledger)
    assert budget_tables.overview(spent) == budget_tables.full(spent) == "The ledger is empty."
    assert "The ledger is empty" in budget.render(spent) and spent.to_json()["datasets"] == []
    ledger.set_cap("planned", epsilon=1.0, delta=1e-5)
    spent = spending(ledger)
    assert "Nothing was spent yet" in budget.render(spent) and "of 1 " in shown(budget_tables.full(spent), 80)
    json.dumps(spent.to_json(), allow_nan=False)


def test_the_page_shows_the_figures_and_escapes_names(busy: tuple[Ledger, list[str]]) -> None:
    ledger, runs = busy
    ledger.note(runs[2], "release", {"recipient": "<script>x</script>"})
    spent = spending(ledger)
    page = budget.render(spent)
    assert "<script" not in page and "&lt;script&gt;" in page
    view = people(spent)
    for text in (f"{view.total.epsilon:.4g}", view.total.meaning.gains, runs[0], "cap 4", "all recipients together"):
        assert text in page
    assert page.count("<svg") == 5  # timeline, cap and stages; without a cap two
    single = budget.render_run(*run_of(spent.datasets, runs[0]))
    assert "age x sex" in single and "<script" not in single
    assert "never booked" in budget.render_run(*run_of(spent.datasets, runs[3]))


def test_a_changed_ledger_is_said_to_be_changed(busy: tuple[Ledger, list[str]], tmp_path: Path) -> None:
    import sqlite3

    with sqlite3.connect(tmp_path / "budget.db") as db:
        db.execute("UPDATE dpsynth_entries SET body = replace(body, 'Team A', 'Team Z')")
    spent = spending(busy[0])
    assert spent.problems and "not as it was written" in budget.render(spent)
    assert "not as it was written" in shown(budget_tables.overview(spent), 80)


def test_the_largest_totals_are_warned_of(ledger: Ledger) -> None:
    run(ledger, "people", 14.0)
    spent = spending(ledger)
    assert "above 10" in spent.datasets[0].warnings[0] and "above 10" in budget.render(spent)
    assert "above 10" in shown(budget_tables.overview(spent), 120)
