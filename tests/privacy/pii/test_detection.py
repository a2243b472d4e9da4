"""Labels stay, identifiers go, texts are scrubbed, fakes could not be real."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter

import numpy as np
import pytest

from dpsynth.privacy.pii import (
    CELL_CLASSES,
    Detector,
    decide,
    fake_columns,
    find_leaks,
    header_entity,
    repeats,
)
from dpsynth.privacy.pii.fakes import could_be_real, fake_values, passes_luhn, passes_mod97

LABELS = {
    "workclass": "Private Self-emp-not-inc Self-emp-inc Federal-gov Local-gov State-gov Without-pay Never-worked",
    "education": "Bachelors Some-college 11th HS-grad Prof-school Assoc-acdm Masters 1st-4th Doctorate Preschool",
    "marital_status": "Married-civ-spouse Divorced Never-married Separated Widowed Married-AF-spouse",
    "occupation": "Tech-support Craft-repair Sales Exec-managerial Handlers-cleaners Adm-clerical Armed-Forces",
    "relationship": "Wife Own-child Husband Not-in-family Other-relative Unmarried",
    "race": "White Asian-Pac-Islander Amer-Indian-Eskimo Other Black",
    "country": "United-States Cambodia England Puerto-Rico Canada Germany India Japan Greece Cuba Iran Mexico Peru",
    "site": "Dayton Seattle Fitchburg Franklin Charleston Georgetown",
    "order_id": " ".join(str(7_000_000_000 + 37 * i) for i in range(40)),
    "month": "January February March April",
}


def decision_on(detector: Detector, header: str, cells: list[str]):  # type: ignore[no-untyped-def]
    votes = Counter(CELL_CLASSES[i] for i in detector.classify(cells, header))
    return decide(header, votes, 0.0)


@pytest.mark.parametrize("header", LABELS)
def test_columns_of_labels_are_kept(detector: Detector, header: str) -> None:
    assert decision_on(detector, header, LABELS[header].split()).action == "keep"


def real_looking(n: int = 120) -> dict[str, list[str]]:
    rng = np.random.default_rng(0)
    names = fake_columns({"name": "PERSON"}, n, rng)["name"]
    cards = [f"4{x:014d}" for x in rng.integers(0, 10**14, n)]
    return {
        "PERSON": names,
        "EMAIL_ADDRESS": [f"{name.split()[0].lower()}{i}@mailbox.org" for i, name in enumerate(names)],
        "PHONE_NUMBER": [f"(212) 736-{i:04d}" for i in range(1000, 1000 + n)],
        "US_SSN": [f"{536 + i % 50}-22-{i:04d}" for i in range(1000, 1000 + n)],
        "CREDIT_CARD": [c + next(str(d) for d in range(10) if passes_luhn(f"{c}{d}")) for c in cards],
        "IP_ADDRESS": [f"8.8.{i}.4" for i in range(n)],
    }


@pytest.mark.parametrize("entity", real_looking())
def test_columns_of_identifiers_are_dropped_whatever_they_are_called(detector: Detector, entity: str) -> None:
    for header in ("who", "column 7"):
        decision = decision_on(detector, header, real_looking()[entity])
        assert (decision.action, decision.entity) == ("drop", entity)


def test_notes_are_scrubbed_and_an_occasional_identifier_is_seen(detector: Detector) -> None:
    some = real_looking()
    notes = [
        f"Please call {n} at {p} about the bill." for n, p in zip(some["PERSON"], some["PHONE_NUMBER"], strict=True)
    ]
    assert decision_on(detector, "note", notes).action == "scrub"
    assert decision_on(detector, "status", ["ok"] * 95 + some["EMAIL_ADDRESS"][:5]).action == "scrub"


def test_scrubbing_leaves_no_direct_identifier_and_cannot_be_fooled_by_placeholders(detector: Detector) -> None:
    text = "Mail maria.gonzalez@mailbox.org or call (212) 736-5000. <PERSON> was here."
    (clean,) = detector.scrub([text])
    assert clean == "Mail <EMAIL_ADDRESS_1> or call <PHONE_NUMBER_1>. (PERSON) was here."
    assert detector.scrub([text, "plain", text]) == [clean, "plain", clean]


@pytest.mark.parametrize(
    "entity", ["EMAIL_ADDRESS", "PHONE_NUMBER", "US_SSN", "CREDIT_CARD", "IBAN_CODE", "IP_ADDRESS"]
)
def test_no_fake_could_be_real_and_the_leak_scan_knows(entity: str) -> None:
    fakes = fake_values(entity, 500, np.random.default_rng(1))
    assert not any(could_be_real(entity, f) for f in fakes)
    assert find_leaks(fakes) == {}


@pytest.mark.parametrize("entity", ["EMAIL_ADDRESS", "PHONE_NUMBER", "US_SSN", "CREDIT_CARD", "IP_ADDRESS"])
def test_the_leak_scan_finds_real_looking_identifiers_inside_text(entity: str) -> None:
    values = real_looking()[entity]
    assert find_leaks([f"write {v} down" for v in values])[entity] >= 0.95 * len(values)


def test_the_leak_scan_is_not_set_off_by_ids_amounts_and_dates() -> None:
    rng = np.random.default_rng(2)
    harmless = [f"id-{i:07d}" for i in range(500)] + [f"{x:.2f}" for x in rng.random(500) * 1e6]
    harmless += [f"{x}" for x in rng.integers(10**9, 10**10, 500)] + ["2024-01-31", "12:30:01", "1.2.3", "v10.0.0.1"]
    assert find_leaks(harmless) == {}


def test_ibans_are_checked_by_their_digits() -> None:
    assert passes_mod97("GB82 WEST 1234 5698 7654 32") and not passes_mod97("GB83 WEST 1234 5698 7654 32")
    assert find_leaks(["pay to GB82 WEST 1234 5698 7654 32 please"]) == {"IBAN_CODE": 1}


def test_fakes_fit_each_other_in_a_row_and_repeat_by_seed() -> None:
    columns = {"name": "PERSON", "mail": "EMAIL_ADDRESS", "first_name": "PERSON", "last_name": "PERSON"}
    made = fake_columns(columns, 50, np.random.default_rng(3))
    for name, mail, first, last in zip(*made.values(), strict=True):
        assert name == f"{first} {last}" and mail.startswith(f"{first}.{last}".lower())
    assert made == fake_columns(columns, 50, np.random.default_rng(3)) and len(set(made["mail"])) == 50


@pytest.mark.parametrize(
    "header, entity",
    [("e-mail", "EMAIL_ADDRESS"), ("CustomerName", "PERSON"), ("Nachname", "PERSON"), ("tel", "PHONE_NUMBER"),
     ("téléphone", "PHONE_NUMBER"), ("patient_email", "EMAIL_ADDRESS"), ("Straße", "STREET_ADDRESS"), ("ip", "IP_ADDRESS"), ("trip", None), ("tip", None), ("shipping", None), ("account", None), ("telling", None), ("email_opt_in", None), ("country_name", None), ("hotel", None), ("NIR", "FR_NIR"), ("Steuer-ID", "NATIONAL_ID"), ("panel", None), ("pan", "CREDIT_CARD"), ("product", None), ("filename", None), ("cardinality", None), ("SSN", "US_SSN")],
)  # fmt: skip
def test_headers(header: str, entity: str | None) -> None:
    assert header_entity(header) == entity


@pytest.mark.parametrize(
    "different, cells, kept", [(3, 4000, True), (79, 4000, True), (80, 4000, False), (1600, 10**6, True)]
)
def test_few_values_of_many_rows_are_labels_and_no_texts(different: int, cells: int, kept: bool) -> None:
    labels = repeats(different, cells)
    assert labels is kept
    votes = {"NONE": 0.9 * cells, "PERSON": 0.1 * cells}
    decision = decide("desk", votes, 0.0, holds="labels" if labels else "texts")
    assert (decision.action, decision.labels) == (("keep", True) if kept else ("scrub", False))
    whole = {
        e: decide("desk", {e: float(cells)}, 0.0, holds="labels" if labels else "texts") for e in ("PERSON", "US_SSN")
    }
    assert (whole["PERSON"].action, whole["US_SSN"].action) == ("keep" if kept else "drop", "drop")
    assert decide("name", {"PERSON": float(cells)}, 0.0, holds="labels").action == "drop"


def test_noise_that_drowns_the_votes_keeps_a_column_and_does_not_drop_it_by_chance() -> None:
    rng = np.random.default_rng(0)
    dropped = 0
    for _ in range(500):
        votes = {c: float(rng.normal(0, 50)) for c in CELL_CLASSES} | {"NONE": 400 + float(rng.normal(0, 50))}
        dropped += decide("x", votes, 50.0).action == "drop"
    assert dropped <= 3


def test_a_detector_leaves_unloaded_what_presidio_would_load_for_other_engines() -> None:
    code = (
        "import sys\n"
        "from dpsynth.privacy.pii.engine import load_detector\n"
        "load_detector()\n"
        "assert 'presidio_analyzer' in sys.modules and 'transformers.pipelines' not in sys.modules\n"
        "import transformers\n"
        "from presidio_analyzer.nlp_engine import huggingface_token_pipe\n"
        "assert transformers.pipeline.__module__ == 'transformers.pipelines'\n"
        "try: huggingface_token_pipe.hf_pipeline('no such task')\n"
        "except KeyError as error: assert 'no such task' in str(error)\n"
        "else: raise SystemExit('the pipeline that Presidio took is not the real one')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert not done.returncode, done.stderr
