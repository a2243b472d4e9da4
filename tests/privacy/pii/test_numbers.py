"""Identifiers kept as integers in columns whose names say nothing are found; other long numbers stay numbers."""

from __future__ import annotations

import re
from collections import Counter

import numpy as np
import pandas as pd
import pytest

import dpsynth
from dpsynth import Column, Schema
from dpsynth.constraints import Total
from dpsynth.privacy.events import leaves
from dpsynth.privacy.pii import CELL_CLASSES, Decision, NumberForms, decide, find_leaks
from dpsynth.privacy.pii.numbers import number_class
from tests.privacy.pii.test_planted import PLANTED

N = 3000
RNG = np.random.default_rng(0)


def digits(values: list[str]) -> list[int]:
    return [int(re.sub(r"\D", "", v)) for v in values]


def us_phones(n: int) -> list[int]:
    area, rest = RNG.choice([212, 310, 415, 646, 702], n), RNG.integers(2_000_000, 9_999_999, n)
    return [a * 10**7 + r for a, r in zip(area.tolist(), rest.tolist(), strict=True)]


NUMBERED = {
    "CREDIT_CARD": digits(PLANTED["CREDIT_CARD"]),
    "FR_NIR": digits(PLANTED["FR_NIR"]),
    "PHONE_NUMBER": us_phones(500),
    "PHONE_NUMBER, French mobiles": (RNG.integers(611_000_000, 689_000_000, 500)).tolist(),
    "PHONE_NUMBER, with codes": [*(33_612_000_000 + RNG.integers(0, 10**6, 250)), *(491_711_234_567 + RNG.integers(0, 10**6, 250))],
    "NATIONAL_ID, NHS": [n for n in range(4_010_232_000, 4_010_238_000) if number_class(str(n)) == "ID_DIGITS"],
    "NATIONAL_ID, Steuer-ID": [n for n in range(65_929_970_000, 65_930_010_000) if number_class(str(n)) == "ID_DIGITS"],
}  # fmt: skip
OTHERS = {
    "any ten digits": RNG.integers(10**9, 10**10, N),
    "any nine digits": RNG.integers(10**8, 10**9, N),
    "any sixteen digits": RNG.integers(10**15, 9 * 10**15, N),
    "numbered on": 7_000_000_000 + 37 * np.arange(N),
    "seconds": RNG.integers(1_500_000_000, 1_750_000_000, N),
    "milliseconds": RNG.integers(1_500_000_000_000, 1_750_000_000_000, N),
    "dates and hours": [int(f"20{24 + i % 2}{i % 12 + 1:02d}{i % 28 + 1:02d}{i % 24:02d}") for i in range(N)],
    "amounts": np.exp(RNG.normal(22, 1, N)).astype(np.int64),
}


def decision_on(numbers: object) -> Decision:
    votes = Counter(CELL_CLASSES[i] for i in NumberForms().classify([str(n) for n in np.array(numbers)], "x"))
    return decide("x", votes, 0.0, holds="numbers")


@pytest.mark.parametrize("kind", NUMBERED)
def test_columns_of_identifiers_are_told_by_their_digits(kind: str) -> None:
    assert len(NUMBERED[kind]) >= 200
    assert (decision_on(NUMBERED[kind]).action, decision_on(NUMBERED[kind]).entity) == ("drop", kind.split(",")[0])


@pytest.mark.parametrize("kind", OTHERS)
def test_other_long_numbers_stay(kind: str) -> None:
    assert decision_on(OTHERS[kind]).action == "keep"


@pytest.mark.parametrize(
    "number",
    ["9434765919", "111222333", "123456789", "130692544", "65929970489", "86095742719", "11144477735", "85073003328"],
)
def test_check_digits(number: str) -> None:
    """Examples that the authorities publish: NHS, BSN, NIF, SIN, Steuer-ID (two), CPF, the Belgian register."""
    wrong = number[:-1] + str((int(number[-1]) + 1) % 10)
    assert number_class(number) == "ID_DIGITS" != number_class(wrong)


def test_a_fit_and_a_scan_drop_planted_integers_and_keep_amounts() -> None:
    table = pd.DataFrame({f"field {i}": RNG.choice(v, N) for i, v in enumerate(NUMBERED.values())})
    table["gaps"] = np.where(RNG.random(N) < 0.2, np.nan, RNG.choice(NUMBERED["CREDIT_CARD"], N))
    table["seconds"], table["amount"] = OTHERS["seconds"], OTHERS["amounts"]
    table["age"] = RNG.integers(18, 90, N)
    found = {f.column: (f.action, f.entity) for f in dpsynth.scan(table).findings}
    synth = dpsynth.fit(table, epsilon=2.0, progress=False)
    for i, kind in enumerate([*(k.split(",")[0] for k in NUMBERED), "CREDIT_CARD"]):
        name = f"field {i}" if i < len(NUMBERED) else "gaps"
        assert found[name] == ("drop", kind)
        assert (synth.facts[name].treatment, synth.facts[name].column.entity) == ("fake", kind)
    kept = ["seconds", "amount", "age"]
    assert [found[c][0] for c in kept] == ["keep"] * 3
    assert [synth.facts[c].treatment for c in kept] == ["modelled"] * 3
    out = synth.sample(300)
    assert find_leaks(str(v) for c in out for v in out[c].dropna()) == {}
    bought = {
        leaf.label for event in synth.privacy.events for leaf in leaves(event) if leaf.label.startswith("votes on")
    }
    assert bought == {f"votes on {c}" for c in table if c != "age"}
    assert synth.privacy.recomputed_epsilon <= 2.0 + 1e-9


def test_what_is_declared_or_reckoned_with_is_not_voted_on() -> None:
    table = pd.DataFrame({name: us_phones(N) for name in "abde"})
    table["c"] = table["a"] + table["b"]
    schema = Schema([Column(c, "numeric" if c == "d" else None) for c in table], [Total("c", ("a", "b"))])
    found = {f.column: f.action for f in dpsynth.scan(table, schema).findings}
    assert found == {"a": "keep", "b": "keep", "c": "keep", "d": "keep", "e": "drop"}
    synth = dpsynth.fit(table, epsilon=5.0, schema=schema, progress=False)
    treatments = {name: fact.treatment for name, fact in synth.facts.items()}
    assert treatments == {"a": "modelled", "b": "modelled", "c": "determined", "d": "modelled", "e": "fake"}
