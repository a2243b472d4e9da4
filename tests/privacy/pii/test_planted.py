"""Identifiers of ten kinds, planted in cells, texts, categories and headers: none leaves by any way, and both scans would see it."""

from __future__ import annotations

import json
import logging
import traceback
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import dpsynth
from dpsynth.privacy.pii import fake_columns, find_copies, find_leaks
from dpsynth.privacy.pii.identifiers import is_nir, is_wallet, passes_luhn, passes_mod97

N = 200
LETTERS = str.maketrans("0123456789", "abdeilmnor")
ROWS = 4000


def planted() -> dict[str, list[str]]:
    """200 valid identifiers of each of ten kinds, outside every reserved range."""
    rng = np.random.default_rng(7)

    def digits(n: int) -> str:
        return "".join(map(str, rng.integers(0, 10, n)))

    def card() -> str:
        body = f"4{digits(14)}"
        whole = body + next(str(d) for d in range(10) if passes_luhn(f"{body}{d}"))
        return " ".join(whole[i : i + 4] for i in range(0, 16, 4))

    def iban() -> str:
        rest = f"37040044{digits(10)}"
        return next(made for k in range(2, 99) if passes_mod97(made := f"DE{k:02d}{rest}"))

    def nir() -> str:
        body = f"{rng.integers(1, 3)}{digits(2)}{rng.integers(1, 13):02d}{rng.integers(1, 96):02d}{digits(6)}"
        return f"{body}{97 - int(body) % 97:02d}"

    names = fake_columns({"name": "PERSON"}, N, rng)["name"]
    out = {
        "EMAIL_ADDRESS": [f"{n.split()[-1].lower()}.{digits(5)}@quuxmail.org" for n in names],
        "PHONE_NUMBER": [f"(212) {rng.integers(600, 999)}-{digits(4)}" for _ in range(N)],
        "US_SSN": [f"{rng.integers(100, 665)}-{rng.integers(10, 99)}-{rng.integers(1000, 9999)}" for _ in range(N)],
        "CREDIT_CARD": [card() for _ in range(N)],
        "IBAN_CODE": [iban() for _ in range(N)],
        "IP_ADDRESS": [f"81.{rng.integers(1, 250)}.{rng.integers(1, 250)}.{rng.integers(1, 250)}" for _ in range(N)],
        "FR_NIR": [nir() for _ in range(N)],
        "MAC_ADDRESS": [":".join(f"{b:02x}" for b in [0x3C, *rng.integers(1, 256, 5)]) for _ in range(N)],
        "CRYPTO": [f"0x{''.join(f'{b:02x}' for b in rng.integers(0, 256, 20))}" for _ in range(N)],
        "PERSON": [f"{n.split()[0]} Quux{digits(3).translate(LETTERS)}berger" for n in names],
    }
    assert all(map(is_nir, out["FR_NIR"])) and all(map(is_wallet, out["CRYPTO"]))
    return out


PLANTED = planted()
VALID = {e: v for e, v in PLANTED.items() if e != "PERSON"}


def seeded_table() -> pd.DataFrame:
    """Each kind once as a column of its own, once inside notes, once as a rare category, and a frequent category that is one."""
    rng = np.random.default_rng(1)
    table = pd.DataFrame({"age": rng.integers(18, 90, ROWS), "sex": rng.choice(["F", "M"], ROWS)})
    status = rng.choice(["new", "old", "gone"], ROWS).astype(object)
    note = rng.choice(["Nothing to report.", "Came back for a check."], ROWS).astype(object)
    kinds = list(PLANTED)
    for k, entity in enumerate(kinds):
        values = PLANTED[entity]
        table[f"field {k}"] = [values[i % N] for i in range(ROWS)]
        note[k * N : (k + 1) * N] = [f"Please contact {v} about the bill." for v in values]
        status[2000 + k * 20 : 2000 + (k + 1) * 20] = values[:20]
    status[3000:3600] = PLANTED["EMAIL_ADDRESS"][0]
    table["status"], table["note"] = status, note
    return table


def held(text: str) -> list[str]:
    return [v for values in PLANTED.values() for v in values if v in text]


@pytest.mark.slow
def test_none_leaves_in_files_logs_errors_models_or_reports(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    table = seeded_table()
    report = dpsynth.scan(table.iloc[::10])
    report.audit(tmp_path / "audit.jsonl")
    actions = {f.column: (f.action, f.entity) for f in report.findings}
    assert all(actions[f"field {k}"] == ("drop", entity) for k, entity in enumerate(PLANTED)), actions
    assert actions["status"][0] == actions["note"][0] == "scrub"
    ledger = dpsynth.Ledger(tmp_path / "ledger.db")
    synth = dpsynth.fit(table, epsilon=8.0, ledger=ledger, dataset="planted", progress=True)
    synth.save(tmp_path / "model")
    dpsynth.release(synth, tmp_path / "release", ledger=ledger, accept_inconclusive=True)
    sample = synth.sample(3000)
    shown = [
        caplog.text,
        *capfd.readouterr(),
        repr(synth),
        repr(report),
        json.dumps(report.to_json()),
        report._repr_html_(),
    ]
    shown += [sample.to_csv(), json.dumps(synth.privacy.to_json()), str(synth.gate), str(synth.notes)]
    shown += [p.read_bytes().decode("latin-1") for p in tmp_path.rglob("*") if p.is_file()]
    shown += [pd.read_parquet(tmp_path / "release" / "data.parquet").to_csv()]
    assert len(shown) > 18
    for text in shown:
        assert held(text) == []
    real = {c: list(map(str, table[c])) for c in table if c != "age"}
    releases = [synth.sample(300, seed=seed) for seed in range(20)]
    for made in releases:
        assert find_leaks(str(v) for name in made for v in [name, *made[name].dropna().unique()]) == {}
    together = pd.concat(releases)
    copies = find_copies(real, {c: list(map(str, together[c])) for c in together if c != "age"})
    assert [c for c in copies.copies if c.alarming] == []


@pytest.mark.parametrize("entity", VALID)
def test_a_header_that_is_an_identifier_is_refused_without_showing_it(entity: str, own_ledger: Path) -> None:
    for value in VALID[entity][:20]:
        table = pd.DataFrame({"age": [1, 2, 3], value: ["a", "b", "c"]})
        for work in (lambda t: dpsynth.fit(t, epsilon=1.0, progress=False), dpsynth.scan):
            with pytest.raises(dpsynth.PIIError, match="column 2") as caught:
                work(table)
            assert value not in "".join(traceback.format_exception(caught.value)).split("PIIError")[-1]
    assert not own_ledger.exists() or all(e.kind != "reserve" for e in dpsynth.Ledger(own_ledger).entries())


@pytest.mark.parametrize("entity", VALID)
@pytest.mark.parametrize("place", ["cell", "text", "header"])
def test_the_scan_of_the_output_finds_all_that_are_put_there(entity: str, place: str) -> None:
    forms = {"cell": "{}", "text": "Please write {} down, or say it again.", "header": "total of {}"}
    assert sum(find_leaks([forms[place].format(v)]).get(entity, 0) for v in VALID[entity]) == N


@pytest.mark.parametrize("entity", PLANTED)
@pytest.mark.parametrize("place", ["cell", "text", "header"])
def test_the_comparison_finds_all_that_are_put_there(entity: str, place: str) -> None:
    real = {"field": PLANTED[entity]}
    if place == "header":
        synthetic = {v: ["x"] for v in PLANTED[entity]}
    else:
        form = "{}" if place == "cell" else "Please contact {} today."
        synthetic = {"note": [form.format(v) for v in PLANTED[entity]]}
    kind = "identifier" if entity in VALID else "within" if place == "text" else "value"
    found = [c for c in find_copies(real, synthetic).copies if c.kind == kind]
    assert [(c.cells, c.alarming) for c in found] == [(N, True)]


@pytest.mark.slow
def test_no_false_alarm_in_twenty_clean_tables() -> None:
    columns = {e: e for e in PLANTED} | {
        "STREET_ADDRESS": "STREET_ADDRESS",
        "US_ITIN": "US_ITIN",
        "URL": "URL",
        "ID": "ID",
    }
    columns |= {"COORDINATES": "COORDINATES", "PASSPORT": "PASSPORT"}
    for seed in range(20):
        rng = np.random.default_rng(seed)
        countries = rng.choice(["France", "Germany", "United Kingdom", "USA", "Peru"], 150).tolist()
        table = fake_columns(columns, 150, rng, countries)
        table["amount"] = [f"{x:.2f}" for x in rng.random(150) * 1e6]
        table["code"] = [f"{a:03d}-{b:02d}-{c:04d}"[1:] for a, b, c in rng.integers(0, 1000, (150, 3))]
        table["when"] = [str(np.datetime64("1990-01-01T00:00:00") + int(s)) for s in rng.integers(0, 10**9, 150)]
        table["order"] = [str(x) for x in rng.integers(10**9, 10**10, 150)]
        assert find_leaks([*table, *(v for values in table.values() for v in values)]) == {}, seed
        assert find_copies(PLANTED, table, seed=seed).clean, seed
