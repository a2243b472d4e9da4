"""Hidden identifiers are found in the text as it stands: all of the checked kinds, nearly all of the others."""

from __future__ import annotations

from collections import Counter

import pytest

from dpsynth.privacy.pii import CELL_CLASSES, Detector, decide, find_leaks
from tests.privacy.pii.adversarial import COLUMNS, LIKELY, SURE, Case


def found(detector: Detector, cases: list[Case]) -> list[bool]:
    """Whether four fifths of each secret's letters and digits are covered."""
    out = []
    for (_, text, secret), spans in zip(cases, detector.spans([text for _, text, _ in cases]), strict=True):
        start = text.index(secret)
        letters = [i for i in range(start, start + len(secret)) if text[i].isalnum()]
        covered = sum(any(s.start <= i < s.end for s in spans) for i in letters)
        out.append(covered >= 0.8 * len(letters))
    return out


def test_there_are_enough_and_each_is_its_own() -> None:
    names = [name for name, _, _ in SURE + LIKELY]
    assert len(names) == len(set(names)) >= 200


def test_every_e_mail_card_iban_and_ssn_is_found(detector: Detector) -> None:
    missed = [case[0] for case, ok in zip(SURE, found(detector, SURE), strict=True) if not ok]
    assert missed == []


def test_nearly_all_others_are_found(detector: Detector) -> None:
    missed = [case[0] for case, ok in zip(LIKELY, found(detector, LIKELY), strict=True) if not ok]
    assert len(missed) <= 0.05 * len(LIKELY), missed


def test_without_models_forms_are_still_found() -> None:
    from dpsynth.privacy.pii import load_detector

    patterns = load_detector("patterns")
    assert all(found(patterns, SURE))


def test_the_scan_of_the_output_finds_the_checked_kinds_too() -> None:
    assert [name for name, text, _ in SURE if not find_leaks([text])] == ["e-mail, localhost"]  # nobody's


@pytest.mark.parametrize("header, cells, entity", COLUMNS, ids=[h for h, _, _ in COLUMNS])
def test_columns(detector: Detector, header: str, cells: list[str], entity: str | None) -> None:
    votes = Counter(CELL_CLASSES[i] for i in detector.classify(cells, header))
    decision = decide(header, votes, 0.0)
    assert (decision.action, decision.entity) == (("drop", entity) if entity else ("keep", None))
