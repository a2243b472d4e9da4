"""Generations of models that learn from each other: what they lose, what that costs, and what the ledger says of it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

import dpsynth
from dpsynth import Column, Schema
from dpsynth.cli import app
from dpsynth.fidelity.decay import Original
from dpsynth.generations import mixed_rows, total_cost
from dpsynth.report.internal import figure
from dpsynth.sources import read, to_pandas

SCHEMA = Schema(
    [
        Column("x", "numeric", bounds=(-8, 8), decimals=1, nullable=False),
        Column("y", "numeric", bounds=(-8, 8), decimals=1, nullable=False),
        Column("kind", "categorical", categories=("a", "b", "c", "rare"), nullable=False),
    ]
)


def rows(n: int, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    x = np.clip(rng.normal(0, 2, n), -8, 8).round(1)
    y = np.clip(0.8 * x + rng.normal(0, 1, n), -8, 8).round(1)
    return pd.DataFrame({"x": x, "y": y, "kind": rng.choice(["a", "b", "c", "rare"], n, p=[0.5, 0.3, 0.192, 0.008])})


def test_what_is_left_is_told_for_each_kind_of_loss() -> None:
    real = rows(20_000)
    original = Original(read(real).cells, None, None)

    def left(table: pd.DataFrame) -> dict[str, float | None]:
        d = original.decay(read(table).cells)
        return {"variance": d.variance, "tails": d.tails, "rare": d.rare, "dependence": d.dependence}

    same = left(real)
    assert list(same.values()) == pytest.approx([1, 1, 1, 1])
    assert list(left(rows(20_000, seed=1)).values()) == pytest.approx([1, 1, 1, 1], abs=0.15)
    ceiling = original.ceiling()
    assert ceiling.rare is not None and ceiling.rare > 0.9 and 0 < ceiling.tv1 < 0.03
    half = left(real.assign(x=real["x"] / 2, y=real["y"] / 2))
    assert half["variance"] == pytest.approx(0.25) and half["tails"] == pytest.approx(0, abs=0.05)
    assert left(real[real["x"].abs() < 4])["tails"] == pytest.approx(0.4, abs=0.35)
    without = left(real[real["kind"] != "rare"])
    assert without["rare"] is not None and same["rare"] is not None and without["rare"] < same["rare"]
    apart = left(real.assign(y=real["y"].sample(frac=1, random_state=0).to_numpy()))
    assert apart["dependence"] == pytest.approx(0, abs=0.05) and apart["variance"] == pytest.approx(1)
    # Where there are no numbers, and no rare groups, nothing is said of them.
    few = pd.DataFrame({"a": ["p", "q"] * 20})
    nothing = Original(read(few).cells, None, None).decay(read(few).cells)
    assert (nothing.variance, nothing.tails, nothing.rare, nothing.dependence) == (None, None, None, None)


def test_each_fit_that_reads_real_rows_is_booked_and_no_other(tmp_path: Path) -> None:
    ledger = dpsynth.Ledger(tmp_path / "l.db")
    settings = {"epsilon": 2.0, "schema": SCHEMA, "ledger": ledger, "progress": False}
    alone = dpsynth.collapse(rows(800), 2, **settings)
    (dataset,) = ledger.datasets()
    assert len(ledger.spent(dataset.id).runs) == alone.fits == 1 and alone.mixed == () and len(alone.alone) == 2
    assert alone.total == (2.0, 1e-6)
    mixed = dpsynth.collapse(rows(800), 2, mix=True, **settings)
    assert [d.id for d in ledger.datasets()] == [dataset.id], "the rows with others mixed in are the same data set"
    assert len(ledger.spent(dataset.id).runs) == 1 + mixed.fits == 3
    assert len(mixed.alone) == len(mixed.mixed) == 2 and mixed.alone[0] == mixed.mixed[0]
    cost, epsilon, delta = total_cost(2, 2.0, 1e-6)
    assert mixed.total == (epsilon, delta) and 2.0 < epsilon < 4.0
    spent = ledger.spent(dataset.id).cost
    assert spent.mu_squared == pytest.approx(cost.mu_squared * 3 / 2) and spent.delta == pytest.approx(
        cost.delta * 3 / 2
    )
    for found in (alone, mixed):
        found.to_html(tmp_path / "page.html")
        html = (tmp_path / "page.html").read_text()
        curves = 3 + (found.ceiling.rare is not None)
        assert "CONTAINS PRIVATE INFORMATION" in html and html.count("<svg") == curves
        assert json.loads(json.dumps(found.to_json()))["private"] and figure(found).count("<svg") == 1 + curves


def test_a_cap_that_would_not_last_to_the_end_is_told_before_anything_is_spent(tmp_path: Path) -> None:
    ledger = dpsynth.Ledger(tmp_path / "l.db")
    ledger.set_cap("people", epsilon=3.0, delta=1e-5)
    settings = {"epsilon": 2.0, "schema": SCHEMA, "ledger": ledger, "dataset": "people", "progress": False}
    with pytest.raises(dpsynth.BudgetExceeded, match="people"):
        dpsynth.collapse(rows(300), 5, mix=True, **settings)
    assert ledger.spent(ledger.datasets()[0].id).runs == ()
    dpsynth.collapse(rows(300), 1, **settings)
    with pytest.raises(dpsynth.SchemaError, match="generations"):
        dpsynth.collapse(rows(300), 0, **settings)


def test_no_unit_is_both_real_and_made_up() -> None:
    """A shared one would mix real and made-up rows under one bound."""
    real = pd.DataFrame({"who": [1, 1, 2, None], "v": [1, 2, 3, 4]})
    made = pd.DataFrame({"who": [1, 2, 3], "v": [5, 6, 7]})
    both = mixed_rows(real, made, "who")
    assert both["v"].tolist() == [1, 2, 3, 4, 5, 6, 7]
    known = both["who"].dropna()
    assert known.nunique() == 2 + 3 and both["who"].isna().sum() == 1
    assert not set(known[:3]) & set(known[3:])
    assert mixed_rows(real, made, None)["who"].tolist()[4:] == [1, 2, 3]


def test_a_file_is_read_as_its_types_say(tmp_path: Path) -> None:
    table = pd.DataFrame({"n": [1, 2], "t": pd.to_datetime(["2020-01-01", "2021-01-01"])})
    table.to_csv(tmp_path / "t.csv", index=False)
    table.to_parquet(tmp_path / "t.parquet")
    assert to_pandas(tmp_path / "t.csv")["n"].tolist() == ["1", "2"]
    assert to_pandas(str(tmp_path / "t.parquet"))["n"].tolist() == [1, 2]
    assert to_pandas(table) is table


@pytest.mark.slow
def test_on_the_command_line_the_cost_stands_before_the_run(tmp_path: Path) -> None:
    rows(400).to_parquet(tmp_path / "t.parquet")
    real, html = str(tmp_path / "t.parquet"), tmp_path / "r.html"
    base = ["evaluate", real, "--ledger", str(tmp_path / "l.db"), "--html", str(html)]
    run = CliRunner().invoke
    done = run(app, [*base, real, "--generations", "2", "-e", "2", "--mix", "--json"])
    assert done.exit_code == 0, done.output
    _, epsilon, _ = total_cost(2, 2.0, 1e-6)
    assert f"2 of the fits read the real rows and are booked in the ledger: epsilon {epsilon:.4g} at" in done.stderr
    assert len(json.loads(done.stdout)["generations"]["mixed"]) == 2
    assert "Strongest pairs" in html.read_text() and "learn from their own output" in html.read_text()
    done = run(app, [*base, "--generations", "1", "-e", "2"])
    assert done.exit_code == 0 and "1 of the fits reads the real rows" in done.stderr and "tails" in html.read_text()
    for wrong in ([], ["--generations", "2"]):
        assert isinstance(run(app, [*base, *wrong]).exception, dpsynth.SchemaError)


@pytest.mark.slow
def test_five_generations_lose_what_real_rows_keep(tmp_path: Path) -> None:
    """Dependence and rare groups fade without real rows, and stay with them."""
    real = rows(3000)
    ledger = dpsynth.Ledger(tmp_path / "l.db")
    found = dpsynth.collapse(real, 5, mix=True, epsilon=1.0, schema=SCHEMA, ledger=ledger, progress=False)
    first, last, kept = found.alone[0], found.alone[-1], found.mixed[-1]
    assert last.tv2 > 1.3 * first.tv2 and kept.tv2 < 0.8 * last.tv2
