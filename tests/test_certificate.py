"""The certificate of real runs: what it says of the ledger, the units and the release, and when `fit` warns."""

from __future__ import annotations

import io
import json
import math
import re
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

import dpsynth
from dpsynth.privacy.statement import PrivacyStatement
from dpsynth.report.certificate import certificate_tables, render, tiers
from tests.conftest import mixed_table

NARROW = ["age", "score", "group"]


def fitted(n: int = 3000, **settings: object) -> dpsynth.Synthesizer:
    return dpsynth.fit(mixed_table(n)[NARROW], **{"epsilon": 1.0, "progress": False} | settings)  # type: ignore[arg-type]


def text_of(value: object, width: int) -> str:
    console = Console(file=io.StringIO(), width=width)
    console.print(value)
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_a_statement_counts_the_runs_before_it(tmp_path: Path) -> None:
    ledger = dpsynth.Ledger(tmp_path / "own.db")
    ledger.set_cap("people", epsilon=5.0, delta=1e-5)
    first, second = (fitted(ledger=ledger, dataset="people").privacy for _ in range(2))
    other = fitted(n=2000, ledger=ledger, dataset="others").privacy
    assert [s.history.runs for s in (first, second, other) if s.history] == [1, 2, 1]
    assert second.history is not None and first.history is not None
    assert second.history.cost == first.history.cost + first.history.cost
    assert second.history.cap == (5.0, 1e-5) and other.history is not None and other.history.cap is None
    (record,) = [d for d in ledger.datasets() if d.name == "people"]
    whole = ledger.spent(record.id)
    assert second.history.cost.epsilon(second.history.delta) < whole.epsilon < 1.4  # a filter costs a little more
    assert second.history.meaning.advantage > second.meaning.advantage


def scalars(body: object) -> list[object]:
    if isinstance(body, dict):
        return [x for value in body.values() for x in scalars(value)]
    return [x for value in body for x in scalars(value)] if isinstance(body, list) else [body]


def test_the_units_are_counted_under_dp_and_the_exact_number_is_nowhere() -> None:
    n = 31_973
    synths = [fitted(n=n, epsilon=0.5) for _ in range(3)]
    assert len({s.privacy.units for s in synths}) == 3
    assert all(s.privacy.units is not None and 0 < abs(s.privacy.units - n) < n / 4 for s in synths)
    for synth in synths:
        body = synth.privacy.to_json()
        ids = [body["history"].pop(name) for name in ("dataset", "run", "ledger_head")]
        assert all(re.fullmatch(r"[a-z_]*[0-9a-f]+", name) for name in ids)
        # Where the noisy count stands, noise may by chance be nought.
        del body["guarantee"]["delta_reason"], body["unit"]["noisy_number_of_units"]
        for value in scalars(body):
            assert value != n and not (isinstance(value, str) and re.search("31.?973", value)), value


def test_the_terms_of_a_release_are_in_its_statement_and_do_not_change_the_model(tmp_path: Path) -> None:
    synth = fitted(n=8000, epsilon=5.0)
    terms = {"recipient": "Team B", "purpose": "dashboard", "expires": "2999-12-31"}
    dpsynth.release(synth, tmp_path / "out", accept_inconclusive=True, **terms)
    assert synth.privacy.terms == type(synth.privacy.terms)()
    released = PrivacyStatement.load(tmp_path / "out" / "privacy.json")
    assert released.terms.gate in ("pass", "inconclusive, accepted by the owner")
    assert released == synth.privacy.under(**terms, gate=released.terms.gate)
    report = (tmp_path / "out" / "report.html").read_text()
    for text in ("Team B", "dashboard", "2999-12-31", "Trust", "fidelity gate", "neighbouring tables"):
        assert text in report
    assert dpsynth.verify(tmp_path / "out").ok


def test_a_release_whose_statement_was_made_to_look_better_does_not_verify(tmp_path: Path) -> None:
    dpsynth.release(fitted(n=8000, epsilon=5.0), tmp_path / "out", accept_inconclusive=True)
    path = tmp_path / "out" / "privacy.json"
    body = json.loads(path.read_text())
    body["guarantee"]["advantage"] /= 2
    path.write_text(json.dumps(body))
    assert any("advantage is not what follows" in p for p in dpsynth.verify(tmp_path / "out").problems)


@pytest.mark.parametrize("width", [80, 120])
def test_the_certificate_in_a_terminal_and_on_a_page(synth: dpsynth.Synthesizer, width: int) -> None:
    statement = synth.privacy.under(recipient="[bold]Team[/] <b>B</b>")
    shown, page = text_of(certificate_tables(statement), width), render(statement)
    titles = [tier.title for tier in tiers(statement)]
    assert titles[0] == "Guarantee" and titles[-1] == "Data and its collection"
    for title in titles:
        assert title in shown and title in page
    assert "…" not in shown and max(map(len, shown.splitlines())) <= width
    assert "[bold]Team[/] <b>B</b>" in shown and "&lt;b&gt;B&lt;/b&gt;" in page and "<b>B</b>" not in page
    assert [shown.index(t) for t in titles] == sorted(shown.index(t) for t in titles)


# -- warnings ----------------------------------------------------------------------------------------------------------


def test_a_large_epsilon_is_warned_of_before_and_in_the_statement() -> None:
    with pytest.warns(UserWarning, match="epsilon 11 is above 10 and bounds very little"):
        synth = fitted(epsilon=11.0)
    assert "large epsilon" in synth.privacy.warnings
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert fitted(epsilon=10.0).privacy.warnings == {}


def test_a_large_delta_is_warned_of_by_the_noisy_count_and_the_run_goes_on() -> None:
    with pytest.warns(UserWarning, match="delta 0.01 is not below 1 over the number of units"):
        synth = fitted(delta=0.01)
    assert list(synth.privacy.warnings) == ["large delta"]
    assert f"about {synth.privacy.units:,.0f}" in synth.privacy.warnings["large delta"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert fitted(delta=1e-4).privacy.warnings == {}


def test_units_not_rows_are_held_against_delta() -> None:
    """900 persons of 10 rows: delta 1e-3 is below 1/900, though far above 1/9000."""
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"who": np.repeat(np.arange(900), 10), "x": rng.choice(["a", "b"], 9000)})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        synth = dpsynth.fit(table, epsilon=3.0, delta=1e-3, unit="who", max_rows_per_unit=10, progress=False)
    assert math.isclose(synth.privacy.units or 0, 900, rel_tol=0.1) and synth.privacy.warnings == {}
