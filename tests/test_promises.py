"""The promises, tested from outside: one number covers all, no query moves further than it says, nothing private leaves."""

from __future__ import annotations

import json
import logging
import math
import traceback
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.optimize import brentq
from scipy.stats import norm

import dpsynth
from dpsynth.privacy.audit import Recorder
from dpsynth.sources import read
from tests.conftest import mixed_table, witnessed


def independent_epsilon(entries: list[dict[str, float]], delta: float) -> float:
    """Epsilon of a list of Gaussian events, written down anew from the formula, without dpsynth's accountant."""
    mu = math.sqrt(sum((e["sensitivity"] / e["sigma"]) ** 2 for e in entries))
    left = delta - sum(e.get("delta", 0.0) for e in entries)
    return float(
        brentq(lambda eps: norm.cdf(-eps / mu + mu / 2) - math.exp(eps) * norm.cdf(-eps / mu - mu / 2) - left, 0, 60)
    )


@pytest.mark.parametrize("unit", [None, "who"])
def test_the_statements_epsilon_is_the_sum_of_the_ledgers_events(unit: str | None, tmp_path: Path) -> None:
    table = mixed_table(3000)
    table["who"] = np.arange(len(table)) // 3
    table["name"] = [f"Maria Gonzalez{i}" for i in range(len(table))]
    ledger = dpsynth.Ledger(tmp_path / "own.db")
    synth = dpsynth.fit(
        table, epsilon=0.8, delta=1e-5, unit=unit, max_rows_per_unit=3 if unit else None, ledger=ledger, progress=False
    )
    booked = [e.body["events"] for e in ledger.entries() if e.kind == "commit"]
    assert len(booked) == 1
    assert independent_epsilon(booked[0], 1e-5) == pytest.approx(0.8, rel=1e-6)
    assert synth.privacy.epsilon == 0.8 and synth.privacy.recomputed_epsilon == pytest.approx(0.8, rel=1e-6)
    stages = {e["stage"] for e in booked[0]}
    assert {"identifiers", "schema", "vocabulary", "one-way", "selection", "pairs", "gate"} <= stages
    assert ledger.verify() == []


@pytest.mark.parametrize("unit", [None, "who"])
@pytest.mark.parametrize("gone", [0, 7])
def test_neighbours_ask_the_same_queries_and_move_them_by_no_more_than_declared(
    unit: str | None, gone: int, tmp_path: Path
) -> None:
    table = mixed_table(1500, seed=1)
    table["who"] = np.random.default_rng(0).integers(0, 500, len(table)) if unit else 0
    # The one who leaves is as odd as can be: values nobody else has, more rows than are counted.
    odd = table["who"] == gone if unit else table.index == gone
    table.loc[odd, ["age", "income", "score"]] = [10**9, -1e12, 1e-15]
    table.loc[odd, "city"] = "maria.gonzalez@mailbox.org"
    neighbour = table[~odd].reset_index(drop=True)
    recorder = Recorder()
    witnessed(table, tmp_path / "first.db", recorder, seed=17, unit=unit)
    replay = recorder.replay()
    witnessed(neighbour, tmp_path / "second.db", replay, seed=17, unit=unit)
    assert len(replay.comparisons) > 40
    for comparison in replay.comparisons:
        assert comparison.holds, comparison
    # Power: the odd one is felt, up to the full sensitivity.
    assert max(c.distance / c.sensitivity for c in replay.comparisons) > 0.9


def test_a_replay_finds_an_understated_sensitivity() -> None:
    recorder = Recorder()
    recorder.answer("q", np.array([5, 5]), 1.0, np.array([6, 4]))
    replay = recorder.replay()
    replay.answer("q", np.array([7, 5]), 1.0, np.array([0, 0]))
    assert not replay.comparisons[0].holds
    with pytest.raises(dpsynth.PrivacyError, match="part ways"):
        replay.answer("another", np.array([7, 5]), 1.0, np.array([0, 0]))


CANARIES = {
    "category": "Sultan-of-Brunei",
    "number": 987654321.5,
    "email": "zelda.quux@mailbox-canary.org",
    "text": "xylophone canary sentence",
}


def planted() -> pd.DataFrame:
    table = mixed_table(3000, seed=2)
    table["mail"] = [f"person{i}.smith@mailbox-test.org" for i in range(len(table))]
    table["note"] = "Please call back about the monthly bill soon."
    table.loc[11, "city"] = CANARIES["category"]
    table.loc[12, "income"] = CANARIES["number"]
    table.loc[13, "mail"] = CANARIES["email"]
    table.loc[14, "note"] = CANARIES["text"] + " of zelda.quux@mailbox-canary.org with many more words"
    table.loc[15, "city"] = CANARIES["email"]
    table.loc[16, "level"] = np.nan
    return table


def found_in(text: str) -> list[str]:
    needles = [str(v) for v in CANARIES.values()] + ["987654321", "quux", "mailbox-test"]
    return [needle for needle in needles if needle in text]


def test_canaries_are_in_no_artefact_log_repr_or_error(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    table = planted()
    caplog.set_level(logging.DEBUG)
    ledger = dpsynth.Ledger(tmp_path / "ledger.db")
    synth = dpsynth.fit(table, epsilon=5.0, ledger=ledger, dataset="canaries", progress=True)
    synth.save(tmp_path / "model")
    dpsynth.release(synth, tmp_path / "release", recipient="a team", ledger=ledger, accept_inconclusive=True)
    files = [p for p in tmp_path.rglob("*") if p.is_file()]
    assert len(files) >= 11
    for path in files:
        raw = path.read_bytes()
        assert found_in(raw.decode("latin-1")) == [], path.name
        assert np.float64(CANARIES["number"]).tobytes() not in raw, path.name
    assert found_in(pd.read_parquet(tmp_path / "release" / "data.parquet").to_csv()) == []
    shown = [caplog.text, *capfd.readouterr(), repr(synth), repr(synth.privacy), repr(ledger), repr(read(table))]
    shown += [str(synth.notes), json.dumps(synth.privacy.to_json()), synth.privacy._repr_html_(), str(synth.gate)]
    for text in shown:
        assert found_in(text) == []
    assert synth.facts["mail"].treatment == "fake"


def test_errors_with_their_context_carry_no_value(tmp_path: Path) -> None:
    table = planted()
    nested = table.copy()
    nested["city"] = nested["city"].astype(object)
    nested.at[0, "city"] = [CANARIES["category"]]
    csv = tmp_path / "broken.csv"
    csv.write_text(f"a,b\n1,2\n{CANARIES['category']},1,2,3,{CANARIES['email']}\n")
    broken = tmp_path / "broken.parquet"
    broken.write_bytes(b"PAR1" + CANARIES["email"].encode() * 20)
    for data in (nested, csv, broken):
        with pytest.raises(dpsynth.SchemaError) as caught:
            dpsynth.fit(data, epsilon=1.0, progress=False)
        assert found_in("".join(traceback.format_exception(caught.value))) == []


@pytest.mark.slow
def test_an_insecure_seed_is_repeatable_and_says_so_everywhere(table: pd.DataFrame, tmp_path: Path) -> None:
    frames = []
    for i in range(2):
        with pytest.warns(UserWarning, match="NOT PRIVATE"):
            synth = dpsynth.fit(table, epsilon=1.0, insecure_seed=3, ledger=f"{tmp_path / f'{i}.db'}", progress=False)
        frames.append(synth.sample())
    pd.testing.assert_frame_equal(*frames)
    assert "NOT PRIVATE" in repr(synth) and synth.privacy.sentence().startswith("NOT PRIVATE")
    dpsynth.release(synth, tmp_path / "out", accept_inconclusive=True)
    assert any("NOT PRIVATE" in p for p in dpsynth.verify(tmp_path / "out").problems)


def test_two_fits_differ(table: pd.DataFrame) -> None:
    first, second = (dpsynth.fit(table, epsilon=1.0, progress=False).domain.n_units for _ in range(2))
    assert first != second


def test_the_dtype_that_one_missing_cell_changes_does_not_leave() -> None:
    """int64 with no missing cell, float64 with one: what is saved must not tell which it was."""
    whole = pd.DataFrame({"a": np.random.default_rng(0).integers(0, 9, 5000)})
    one_missing = whole.astype(float)
    one_missing.loc[0, "a"] = np.nan
    for name, table in {"whole": whole, "one missing": one_missing}.items():
        synth = dpsynth.fit(table, epsilon=5.0, dataset=name, progress=False)
        assert synth.sample_typed(10)["a"].dtype == np.int64
        assert synth.sample(10)["a"].dtype == table["a"].dtype
        assert "float64" not in json.dumps([f.column.to_json() for f in synth.facts.values()])
