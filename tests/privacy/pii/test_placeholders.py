"""Within a text the same entity has the same number, and its fake is the same; texts know nothing of each other."""

from __future__ import annotations

import re

import numpy as np
import pytest

from dpsynth.privacy.pii import Detector, fill_placeholders, find_leaks
from dpsynth.privacy.pii.columns import MASKED
from dpsynth.privacy.pii.identifiers import Span
from dpsynth.privacy.pii.scrub import neutralise, replace_spans

LETTER = (
    "Maria Gonzalez met John Smith. Maria's mail is maria.gonzalez@mailbox.org, John's john@mailbox.org. "
    "Call Maria at +1 212 736 5000 or (212) 736-5000, not at (212) 736-5011."
)


def marked(text: str, *secrets: tuple[str, str]) -> str:
    """The text with each (secret, entity) replaced wherever it stands."""
    spans = [Span(m.start(), m.end(), entity) for found, entity in secrets for m in re.finditer(re.escape(found), text)]
    return replace_spans(text, spans)


def filled(text: str, seed: int = 0) -> str:
    (out,) = fill_placeholders([text], np.random.default_rng(seed))
    assert out is not None
    return out


def test_a_letter_keeps_who_is_who(detector: Detector) -> None:
    (clean,) = detector.scrub([LETTER])
    assert clean == (
        "<PERSON_1> met <PERSON_2>. <PERSON_1>'s mail is <EMAIL_ADDRESS_1>, <PERSON_2>'s <EMAIL_ADDRESS_2>. "
        "Call <PERSON_1> at <PHONE_NUMBER_1> or <PHONE_NUMBER_1>, not at <PHONE_NUMBER_2>."
    )
    found = re.fullmatch(
        r"(.+) met (.+)\. \1's mail is (\S+), \2's (\S+)\. Call \1 at (.+) or \5, not at (.+)\.", filled(clean)
    )
    assert found is not None
    maria, john, mail, other, phone, another = found.groups()
    assert maria != john and phone != another and "555-01" in phone
    for name, address in ((maria, mail), (john, other)):
        assert address.startswith(re.sub(r"[^a-z]", "", name.split()[0].lower())) and "@example." in address


@pytest.mark.parametrize(
    "text, secrets, expected",
    [
        ("Ann Lee, LEE, ann", [("Ann Lee", "PERSON"), ("LEE", "PERSON"), ("ann", "PERSON")], "<PERSON_1>, <PERSON_1>, <PERSON_1>"),
        ("Lee, Kim, Ann Lee", [("Lee", "PERSON"), ("Kim", "PERSON"), ("Ann Lee", "PERSON")], "<PERSON_1>, <PERSON_2>, <PERSON_1>"),
        ("Ann Lee", [("Ann", "PERSON"), ("Lee", "PERSON")], "<PERSON_1>"),
        ("Ann\nLee", [("Ann", "PERSON"), ("Lee", "PERSON")], "<PERSON_1>\n<PERSON_2>"),
        ("a@b.org A@B.ORG c@b.org", [(m, "EMAIL_ADDRESS") for m in ("a@b.org", "A@B.ORG", "c@b.org")], "<EMAIL_ADDRESS_1> <EMAIL_ADDRESS_1> <EMAIL_ADDRESS_2>"),
        ("0033 612345678 and 06 12 34 56 78", [("0033 612345678", "PHONE_NUMBER"), ("06 12 34 56 78", "PHONE_NUMBER")], "<PHONE_NUMBER_1> and <PHONE_NUMBER_1>"),
        ("536-22-8741, 536–22–8741, 536-22-8742", [(n, "US_SSN") for n in ("536-22-8741", "536–22–8741", "536-22-8742")], "<US_SSN_1>, <US_SSN_1>, <US_SSN_2>"),
        ("at 8.8.4.4", [("8.8.4.4", "IP_ADDRESS"), ("8.8", "PHONE_NUMBER")], "at <IP_ADDRESS_1>"),
    ],
)  # fmt: skip
def test_the_same_entity_has_the_same_number(text: str, secrets: list[tuple[str, str]], expected: str) -> None:
    assert marked(text, *secrets) == expected


def test_texts_are_numbered_and_filled_apart(detector: Detector) -> None:
    texts = ["I spoke to Maria Gonzalez.", "I spoke to John Smith.", "I spoke to John Smith and Maria Gonzalez."]
    assert detector.scrub(texts) == [*["I spoke to <PERSON_1>."] * 2, "I spoke to <PERSON_1> and <PERSON_2>."]
    out = fill_placeholders(["<PERSON_1>"] * 200, np.random.default_rng(0))
    assert len(set(out)) > 150
    alone = fill_placeholders(["<PERSON_1>, <AGE_1>", None, "plain", ""], np.random.default_rng(1))
    assert alone[1:] == [None, "plain", ""] and re.fullmatch(r"\D+, \d\d", alone[0] or "")


def test_every_placeholder_is_filled_by_what_is_nobodys_and_different_ones_differ() -> None:
    text = "; ".join(f"<{e}_{k}>|<{e}_{k}>" for e in MASKED for k in (1, 2))
    for seed in range(20):
        whole = filled(text, seed)
        assert "<" not in whole and find_leaks([whole]) == {}
        assert all(part.split("|")[0] == part.split("|")[1] for part in whole.split("; "))
    towns = [filled("<LOCATION_1>|<LOCATION_2>|<LOCATION_3>", seed).split("|") for seed in range(50)]
    assert all(len(set(t)) == 3 for t in towns)


def test_what_a_model_makes_up_is_filled_too() -> None:
    out = filled("<PERSON> and <PERSON_1> and <PERSON_7>; <NOBODY_1> <BR> <PERSON_>")
    first, second, rest = out.split(" and ")
    other, left = rest.split("; ")
    assert first == second != other and left == "<NOBODY_1> <BR> <PERSON_>"


def test_people_are_of_their_rows_country() -> None:
    out = fill_placeholders(
        ["<PHONE_NUMBER_1>", "none", "<PHONE_NUMBER_1> <PHONE_NUMBER_2>"],
        np.random.default_rng(0),
        ["France", "Germany", "Deutschland"],
    )
    assert (out[0] or "").startswith("06 39 98") and (out[2] or "").count("030 23125") == 2


def test_placeholders_in_the_input_are_made_harmless_and_other_tags_are_left() -> None:
    assert (
        neutralise("<PERSON> <PERSON_12> <BR> <person_1> <PERSONS>") == "(PERSON) (PERSON_12) <BR> <person_1> <PERSONS>"
    )
