"""Wide, long-tailed and tiny tables: they fit within limits, or fail with a reason."""

from __future__ import annotations

import json
import math
from collections import Counter
from typing import Any, Literal

import numpy as np
import pandas as pd
import pytest

import dpsynth
from dpsynth import split
from dpsynth.split import pairs_looked_at
from tests.conftest import mixed_table, run_alone

# What a fit may take, imports and making the table included; a machine that is busy with other things counts up to twice the
# CPU seconds.
CPU_SECONDS, PEAK_MB = 180, 3000

MAKE = """
import json, sys
import numpy as np, pandas as pd
import dpsynth
from dpsynth import Column, Schema
from dpsynth.models import Marginals
rng = np.random.default_rng(0)
"""

THOUSAND_COLUMNS = """
n, hidden = 10_000, rng.normal(size=(10_000, 20))
columns = {}
for i in range(1000):
    x = hidden[:, i % 20] + rng.normal(size=n)
    columns[f"c{i}"] = np.round(10 * x, 1) if i % 2 else np.array(list("abcdef"))[np.clip((x + 3).astype(int), 0, 5)]
table = pd.DataFrame(columns)
schema = Schema(
    Column(c, "numeric", bounds=(-100, 100), decimals=1) if i % 2 else Column(c, "categorical", categories=tuple("abcdef"))
    for i, c in enumerate(table)
)
model = Marginals(iterations=30)
"""

HUNDRED_CATEGORIES = """
hidden = rng.random((10_000, 6))
mixed = {f"c{i}": (100 * (0.7 * hidden[:, i % 6] + 0.3 * rng.random(10_000))).astype(int) for i in range(60)}
table = pd.DataFrame(mixed).astype(str)
schema = Schema(Column(c, "categorical", categories=tuple(map(str, range(100)))) for c in table)
model = "auto"
"""

FIFTY_THOUSAND_VALUES = """
a = np.minimum(rng.zipf(1.3, 100_000), 50_000) - 1
b = (a + rng.integers(0, 50, 100_000)) % 50_000
table = pd.DataFrame({"a": np.char.add("a", a.astype(str)), "b": np.char.add("b", b.astype(str)), "x": rng.random(100_000)})
model = "auto"
"""
DECLARED = """
schema = Schema(Column(c, "categorical", categories=tuple(f"{c}{i}" for i in range(50_000))) for c in "ab")
"""
UNDECLARED = """
schema = Schema(Column(c, "categorical") for c in "ab")
"""

FIT = """
synth = dpsynth.fit(table, epsilon=1.0, schema=schema, model=model, progress=False)
out = synth.sample(2000)
gaps = [abs(float((table[c] == top).mean() - (out[c] == top).mean())) for c in table for top in [table[c].mode()[0]]]
print(json.dumps({"columns": list(out), "rows": len(out), "gap": float(np.mean(gaps))}))
"""


def fit_alone(script: str) -> dict[str, Any]:
    """What a script prints, run in a process of its own that must stay within the limits."""
    printed, seconds, megabytes = run_alone(MAKE + script + FIT)
    assert seconds < CPU_SECONDS
    assert megabytes < PEAK_MB
    found: dict[str, Any] = json.loads(printed)
    return found


@pytest.mark.slow
@pytest.mark.parametrize(
    "script",
    [THOUSAND_COLUMNS, HUNDRED_CATEGORIES, FIFTY_THOUSAND_VALUES + DECLARED, FIFTY_THOUSAND_VALUES + UNDECLARED],
    ids=["1,000 columns", "60 columns of 100 categories", "50,000 declared values", "50,000 values"],
)
def test_a_wide_table_fits_within_limits(script: str) -> None:
    got = fit_alone(script)
    assert got["rows"] == 2000
    assert got["gap"] < 0.05  # of the most frequent values' shares, on average; noise alone makes .03 at 1,000 columns


@pytest.mark.parametrize("d", [2, 3, 200, 201, 202, 1000, 5000])
def test_each_column_is_looked_at_with_equally_many_others(d: int) -> None:
    pairs = pairs_looked_at(d)
    assert all(0 <= a < b < d for a, b in pairs) and pairs == sorted(set(pairs))
    if math.comb(d, 2) <= split.MAX_PAIRS:
        assert len(pairs) == math.comb(d, 2)
        return
    assert split.MAX_PAIRS - d <= len(pairs) <= split.MAX_PAIRS
    assert len(set(Counter(a for pair in pairs for a in pair).values())) == 1
    assert {(i, i + 1) for i in range(d - 1)} <= set(pairs)  # neighbours are always looked at
    assert pairs_looked_at(d) == pairs != pairs_looked_at(d, seed=1)


def test_where_pairs_are_many_the_run_still_spends_and_checks_what_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole flow with six pairs for seven columns at most, in place of 20,000 for 1,000."""
    monkeypatch.setattr(split, "MAX_PAIRS", 14)
    table = mixed_table(2000).drop(columns=["level"]).iloc[:, :7]
    synth = dpsynth.fit(table, epsilon=3.0, progress=False)
    (selection,) = [e for e in synth.privacy.events if e.stage == "selection"]
    assert selection.sensitivity == pytest.approx(math.sqrt(14))  # one distance for each pair looked at
    assert len(synth.gate.tv2) == 7 and all(math.isfinite(v) for v in synth.gate.tv2)
    names = list(table.columns)
    looked_at = {frozenset((names[a], names[b])) for a, b in pairs_looked_at(7)}
    assert {frozenset(pair) for pair in synth.model.pairs} <= looked_at
    assert synth.privacy.epsilon == 3.0


@pytest.mark.parametrize(
    "table",
    [
        pd.DataFrame({"a": ["x"], "b": [1.0]}),
        pd.DataFrame({"a": [1]}),
        pd.DataFrame({"a": np.arange(300.0)}),
        pd.DataFrame({"a": ["x", "y"] * 200}),
        pd.DataFrame({"a": [None] * 50, "b": [np.nan] * 50}),
    ],
    ids=["one row", "one cell", "one column of numbers", "one column of labels", "nothing but missing cells"],
)
def test_a_tiny_table_is_a_table(table: pd.DataFrame) -> None:
    kinds: dict[bool, Literal["categorical", "numeric"]] = {True: "categorical", False: "numeric"}
    schema = dpsynth.Schema(dpsynth.Column(c, kinds[table[c].dtype == object]) for c in table)
    out = dpsynth.fit(table, epsilon=1.0, schema=schema, progress=False).sample(20)
    assert list(out.columns) == list(table.columns) and len(out) == 20


def test_a_table_without_rows_or_columns_is_refused() -> None:
    with pytest.raises(dpsynth.DpsynthError, match="no rows"):
        dpsynth.fit(pd.DataFrame({"a": []}), epsilon=1.0, progress=False)
    with pytest.raises(dpsynth.DpsynthError, match="no columns"):
        dpsynth.fit(pd.DataFrame(index=range(3)), epsilon=1.0, progress=False)
