"""What becomes of columns in a fit: numbers that are identifiers, categories that are, fakes of a country, what the statement says."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

import dpsynth
from dpsynth import Column, Schema, detect
from dpsynth.console import SilentProgress
from dpsynth.privacy.pii import Detector, fake_columns, find_leaks, made_up_labels

N = 800


def people() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    status = rng.choice(["new", "old"], N).astype(object)
    status[:200] = "maria.gonzalez@mailbox.org"
    return pd.DataFrame(
        {
            "phone": 2127360000 + rng.integers(1000, 9999, N),
            "phones": rng.integers(0, 3, N),
            "ssn": rng.integers(536_000_000, 537_000_000, N),
            "name": ["Maria Gonzalez", "John Smith"] * (N // 2),
            "country": rng.choice(["France", "Germany"], N),
            "status": status,
        }
    )


@pytest.mark.slow
def test_identifiers_that_are_numbers_are_dropped_and_counts_are_kept() -> None:
    schema = Schema(
        [Column("status", "categorical"), Column("country", "categorical", categories=["France", "Germany"])]
    )
    synth = dpsynth.fit(people(), epsilon=5.0, schema=schema, progress=False)
    treatments = {name: fact.treatment for name, fact in synth.facts.items()}
    assert treatments == {"phone": "fake", "ssn": "fake", "name": "fake"} | dict.fromkeys(
        ["phones", "country", "status"], "modelled"
    )
    out = synth.sample(400)
    french = out["country"] == "France"
    assert out.loc[french, "phone"].str.match(r"06 39 98 \d\d \d\d").all()
    assert out.loc[~french, "phone"].str.match(r"030 23125 \d{3}").all()
    assert set(out["status"].dropna()) <= {"new", "old"}, "a category that many hold and that is an identifier"
    assert find_leaks(str(v) for c in out for v in out[c].dropna()) == {}
    assert "Rampart" in synth.privacy.mechanism["identifiers"]


def test_what_the_user_declares_decides(tmp_path: Path) -> None:
    schema = Schema(
        [
            Column("phone", "numeric"),
            Column("country", role="identifier", entity="LOCATION"),
            Column("name", "categorical"),
        ]
    )
    schema.save(tmp_path / "schema.json")
    report = dpsynth.scan(people(), tmp_path / "schema.json")
    found = {f.column: (f.action, f.declared) for f in report.findings}
    assert found["phone"] == ("keep", True) and found["country"] == ("drop", True) and found["name"] == ("keep", True)
    assert found["ssn"] == ("drop", False) and found["phones"] == ("keep", False)


def test_a_scan_and_a_fit_say_the_same_of_what_is_declared() -> None:
    table = people()[["country", "phone"]]
    table["note"] = [f"case {i % 3}: nothing new" for i in range(N)]
    table["age"] = np.arange(N) % 90
    schema = Schema(
        [
            Column("country", "categorical", categories=["France", "Germany"]),
            Column("phone", "id"),
            Column("note", "text"),
        ]
    )
    synth = dpsynth.fit(table, epsilon=8.0, schema=schema, patterns_only=True, progress=False)
    found = {f.column: f.reason for f in dpsynth.scan(table, schema, patterns_only=True).findings}
    facts = {name: fact.reason for name, fact in synth.facts.items()}
    for name in ("country", "note"):  # strings, of whose type nothing can be said
        assert facts[name] == found[name] == "declared in the schema"
    assert facts["phone"] == "declared an id; regenerated"
    assert facts["age"] == "no identifiers: its type is not a string"


@pytest.mark.slow
def test_a_scan_and_a_fit_say_the_same_of_labels_and_of_texts_and_labels_that_are_names_are_made_up(
    tmp_path: Path,
) -> None:
    rng = np.random.default_rng(0)
    names = ["Maria Gonzalez", "John Smith", "Amélie Lefèvre"]
    doctor = rng.choice(names, 12_000)
    desk = np.where(rng.random(12_000) < 0.7, rng.choice(["unassigned", "Gift Card"], 12_000, p=[0.85, 0.15]), doctor)
    ward = np.where(rng.random(12_000) < 0.9, np.where(doctor == names[0], "east", "west"), "north")
    notes = [f"case {i}: nothing new" if i % 4 else f"Maria Gonzalez called, case {i}" for i in range(400)] * 30
    table = pd.DataFrame({"treats": doctor, "desk": desk, "ward": ward, "note": notes})
    found = {f.column: (f.action, f.reason) for f in dpsynth.scan(table).findings}
    synth = dpsynth.fit(table, epsilon=8.0, model="marginals", progress=False)
    facts = {name: (fact.treatment, fact.reason) for name, fact in synth.facts.items()}
    for name in ("treats", "desk"):
        assert (found[name][0], facts[name][0]) == ("keep", "modelled")
        assert all("few values, each of many rows" in said[name][1] for said in (found, facts))
    assert (found["note"][0], facts["note"][0]) == ("scrub", "scrubbed text")
    assert "3 of its labels" in facts["treats"][1] and "3 of its labels" in facts["desk"][1]
    out = synth.sample(2000)
    assert {"unassigned", "Gift Card"} < set(out["desk"]) and not set(names) & {*out["desk"], *out["treats"]}
    assert len(set(out["treats"])) == 3 and len(set(out["desk"])) == 5
    east = out.loc[out["ward"] == "east", "treats"].value_counts(normalize=True)
    assert east.iloc[0] > 0.9, "who goes with what is lost"
    synth.save(tmp_path / "model")
    saved = "".join(p.read_bytes().decode("utf-8", "ignore") for p in (tmp_path / "model").rglob("*") if p.is_file())
    assert not [name for name in names if name in saved or name.encode("unicode_escape").decode() in saved]


def test_labels_are_made_up_each_for_itself_and_all_different(detector: Detector) -> None:
    labels = [
        "Maria Gonzalez",
        "Gift Card",
        "742 Evergreen Terrace",
        "open",
        "call Maria Gonzalez again about the bill",
        "Grade 10",
    ]
    labels += [f"{first} Smith" for first in ("Ann", "Bob", "Carl", "Dora", "Emil", "Fred")]
    rng = np.random.default_rng(0)
    made = made_up_labels(labels, "desk", detector, rng, of_people=False)
    assert set(made) == set(labels) - {"Gift Card", "open", "742 Evergreen Terrace", labels[4], "Grade 10"}
    assert len({*labels, *made.values()}) == len(labels) + len(made)
    of_people = made_up_labels(labels, "desk", detector, rng, of_people=True)
    assert {"Gift Card", "742 Evergreen Terrace"} < set(of_people)
    assert of_people[labels[4]].startswith("call ") and of_people[labels[4]].endswith(" again about the bill")
    assert made_up_labels(["病人王小明", "open"], "desk", detector, rng, of_people=True) == {}


class Recorded(SilentProgress):
    """Stages, and how far each came."""

    def __init__(self) -> None:
        self.stages: list[list[Any]] = []

    def stage(self, name: str, total: int | None = None) -> None:
        self.stages.append([name, total, 0])

    def advance(self, n: int = 1) -> None:
        self.stages[-1][2] += n


def test_a_scan_says_how_far_it_is_and_can_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    recorded = Recorded()
    monkeypatch.setattr(detect, "make_progress", lambda enabled: contextlib.nullcontext(recorded))
    table = pd.DataFrame(
        {"who": ["Maria Gonzalez", "John Smith"], "note": ["call 212-736-5000 now", "ok"], "n": [1, 2]}
    )
    report = dpsynth.scan(table)
    assert [stage[0] for stage in recorded.stages] == [
        "reading the table",
        "loading the detector",
        "looking for identifiers",
    ]
    assert recorded.stages[-1][1:] == [4, 4]
    console = Console(file=io.StringIO(), width=120)
    console.print(report)
    shown = " ".join(console.file.getvalue().split())  # type: ignore[attr-defined]
    assert "names of people (PERSON)" in shown and "drop: no model sees it" in shown and "<PERSON_1>" in shown
    assert "names of people (PERSON)" in report._repr_html_()


def test_patterns_alone_are_written_in_the_statement() -> None:
    table = people()[["status", "country"]].assign(word="病人王小明昨天来到医院")
    with pytest.raises(dpsynth.PIIError, match="--patterns-only"):
        dpsynth.fit(table, epsilon=3.0, progress=False)
    synth = dpsynth.fit(table, epsilon=3.0, patterns_only=True, progress=False)
    assert "--patterns-only" in json.dumps(synth.privacy.to_json())


def test_the_audit_log_says_what_was_decided_by_what_and_shows_no_cell(tmp_path: Path) -> None:
    table = people().head(200)
    dpsynth.scan(table).audit(tmp_path / "log")
    lines = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    assert [line["column"] for line in lines] == list(table.columns)
    assert all(len(sha) == 64 for sha in lines[0]["models"].values()) and lines[0]["thresholds"]["score"] == 0.4
    text = (tmp_path / "log").read_text()
    assert not [
        v
        for c in ("phone", "ssn", "name", "status")
        for v in table[c].astype(str)
        if v in text and v not in ("new", "old")
    ]


def test_fakes_fit_each_other_and_their_country() -> None:
    columns = {"nom": "PERSON", "mail": "EMAIL_ADDRESS", "tel": "PHONE_NUMBER"}
    made = fake_columns(columns, 3, np.random.default_rng(0), ["Frankreich", "United Kingdom", "Peru"])
    assert (
        made["tel"][0].startswith("06 39 98") and made["tel"][1].startswith("07700 900") and "555-01" in made["tel"][2]
    )
    for name, mail in zip(made["nom"], made["mail"], strict=True):
        assert mail.isascii() and mail[0] == name[0].lower().replace("é", "e").replace("î", "i")


def test_a_text_is_judged_by_itself(detector: Detector) -> None:
    """Scrubbing row by row is free only if no row decides about another: alone or among others, the same spans, bit by bit."""
    texts = [
        "My name is Maria Gonzalez and I live in Boston.",
        "je suis passé chez amélie lefèvre hier",
        "the server at 8.8.4.4 is down again, call jim",
        "Herr Schröder wohnt Hauptstraße 17 in Köln",
        "nothing to see",
        "order 66 of twelve, paid by Anna",
    ] * 4
    alone = {t: next(detector.spans([t])) for t in set(texts)}
    for seed in range(3):
        shuffled = [texts[i] for i in np.random.default_rng(seed).permutation(len(texts))]
        assert list(detector.spans(shuffled)) == [alone[t] for t in shuffled]


def test_the_second_models_figures_do_not_depend_on_a_batch(detector: Detector) -> None:
    rampart = detector._rampart
    assert rampart is not None
    rng = np.random.default_rng(0)
    ids = rng.integers(200, 19_000, (7, 21))
    together = rampart._logits(ids)
    assert all(np.array_equal(rampart._logits(ids[i : i + 1])[0], together[i]) for i in range(7))


def test_hostile_texts_are_done_in_time(detector: Detector) -> None:
    hostile = [
        "a@" * 400,
        "a." * 400 + "@",
        "1-" * 400,
        "(" * 800,
        "a at " * 150,
        "a[dot]" * 100,
        "&#65;" * 150,
        "\x00" * 800,
        "Gonzalez MARIA " * 60,
        "8[.]8(.)" * 100,
        "4012/8888_" * 80,
        "1a1a" * 200 + "!",
    ]
    assert len(list(detector.spans(hostile))) == len(hostile)
    assert find_leaks([t * 50 for t in hostile]) is not None
