"""What a cell is, and what a column is to become: from spans, headers and (noisy) votes."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

# Entities that name one person (or one device or account): a column of them is dropped and regenerated.
DIRECT = (
    "PERSON",
    "EMAIL_ADDRESS",
    "PHONE_NUMBER",
    "US_SSN",
    "US_ITIN",
    "US_PASSPORT",
    "CREDIT_CARD",
    "IBAN_CODE",
    "IP_ADDRESS",
    "MAC_ADDRESS",
    "CRYPTO",
    "URL",
)
CELL_CLASSES = ("NONE", *DIRECT, "TEXT")
# Types whose digits are checked, so that a chance hit is rare and a smaller share of hits decides.
CHECKED = ("CREDIT_CARD", "IBAN_CODE", "EMAIL_ADDRESS", "US_SSN", "IP_ADDRESS", "CRYPTO")

COVERED = 0.8
SENTENCE_WORDS = 5

_HEADERS = {
    "PERSON": r"(first|last|full|given|family|sur|maiden)?_?names?|name_(first|last)|surname|patient|customer_name|contact_name"
    r"|nom|prenom|nom_famille|vorname|nachname|nombre|apellidos?",
    "EMAIL_ADDRESS": r"(e_?)?mails?|e?_?mail_?addr(ess)?|courriel|correo",
    "PHONE_NUMBER": r"(tele)?(phone|fon)(_?(number|no|nr))?|(mobile|cell|fax|tel)(_?(phone|number|no))?|telefono|portable|handy",
    "US_SSN": r"ssn|social_security(_?(number|no))?",
    "CREDIT_CARD": r"(credit_?)?card(_?(number|no))|cc_?(num|number)|pan",
    "IBAN_CODE": r"iban(_?code)?",
    "IP_ADDRESS": r"ip(_?addr(ess)?)?|ipv[46]",
    "US_PASSPORT": r"passport(_?(number|no))?",
    "URL": r"url|website|homepage",
}


class Span(NamedTuple):
    """Characters [start, end) of a text, and what they are."""

    start: int
    end: int
    entity: str

    def moved(self, by: int) -> Span:
        return Span(self.start + by, self.end + by, self.entity)


@dataclass(frozen=True, kw_only=True, slots=True)
class Decision:
    """What becomes of a column: dropped and regenerated, scrubbed cell by cell, or kept."""

    action: Literal["drop", "scrub", "keep"]
    entity: str | None
    reason: str


def header_entity(name: str) -> str | None:
    """The entity that a column's name alone speaks of (English, French, German, Spanish); None where it does not.

    Free: column names are public.
    """
    words = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name)
    plain = re.sub(r"[^a-z0-9]+", "_", words.lower()).strip("_")
    return next((entity for entity, pattern in _HEADERS.items() if re.fullmatch(pattern, plain)), None)


def cell_class(cell: str, spans: Sequence[Span], header: str) -> int:
    """Index into CELL_CLASSES: an entity that fills the cell, TEXT that holds one, else NONE."""
    letters = [i for i, c in enumerate(cell) if c.isalnum()]
    if not letters or re.fullmatch(r"\s*[-+]?\d*\.\d+([eE][-+]?\d+)?\s*", cell):
        return 0  # a measurement's decimals pass a checksum now and then, but no identifier has a decimal point
    expected = header_entity(header)
    bare_number = cell.strip().isdigit()
    holds_identifier = False
    for entity in DIRECT:
        if bare_number and entity not in CHECKED and entity != expected:
            continue  # ten digits somewhere in a measurement are no telephone number
        own = [s for s in spans if s.entity == entity and _credible(cell[s.start : s.end], entity, expected)]
        if not own:
            continue
        if sum(any(s.start <= i < s.end for s in own) for i in letters) >= COVERED * len(letters):
            return CELL_CLASSES.index(entity)
        holds_identifier = holds_identifier or entity != "PERSON" or len(cell.split()) >= SENTENCE_WORDS
    return CELL_CLASSES.index("TEXT") if holds_identifier else 0


def _credible(found: str, entity: str, expected: str | None) -> bool:
    """Whether a hit may count: some recognisers fire on labels and bare numbers unless the header speaks for them."""
    if entity == expected:
        return True
    if entity == "PERSON":  # one capitalised word may be anything
        words = found.split()
        return len(words) >= 2 and all(w[0].isupper() and w.strip(".,'").replace("-", "").isalpha() for w in words)
    if entity == "PHONE_NUMBER":  # a bare number is more often an id than a telephone
        return not found.isdigit()
    if entity == "US_PASSPORT":
        return False
    if entity == "URL":
        return "/" in found or found.lower().startswith("www.")
    return True


def decide(header: str, votes: Mapping[str, float], total: float, noise_sd: float) -> Decision:
    """What to do with a column, from (noisy) counts of its cells' classes.

    votes: class -> count; total: their sum; noise_sd: of each count (0 for exact ones).  A class counts when it stands three
    standard deviations of its noise above zero, so an identifier column is missed only where the noise drowns it.
    """
    expected = header_entity(header)
    entity = max(DIRECT, key=lambda e: votes.get(e, 0.0))
    hits = votes.get(entity, 0.0)
    share = hits / max(total, 1e-9)
    needed = 0.3 if entity in CHECKED or entity == expected else 0.5
    if total > 3 * noise_sd and hits > max(3 * noise_sd, 0.5) and share >= needed:
        return Decision(action="drop", entity=entity, reason=f"{_percent(share)} of its cells are {entity}")
    mixed = votes.get("TEXT", 0.0) + (hits if hits > 3 * noise_sd else 0.0)
    if mixed > max(3 * noise_sd, 0.02 * total, 0.5):
        return Decision(
            action="scrub", entity=None, reason=f"{_percent(mixed / max(total, 1e-9))} of its cells hold identifiers"
        )
    return Decision(action="keep", entity=None, reason="no identifiers found")


def _percent(share: float) -> str:
    """A share in steps of 5%."""
    return f"about {min(max(round(share * 20) * 5, 0), 100)}%"
