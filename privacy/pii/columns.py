"""What a cell is, and what a column is to become: from spans, headers and (noisy) votes."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from dpsynth.privacy.errors import PIIError
from dpsynth.privacy.pii.identifiers import Span, is_card, is_timestamp, telephones
from dpsynth.privacy.pii.normalise import to_ascii
from dpsynth.privacy.pii.numbers import BY_DIGITS, number_class
from dpsynth.privacy.source import IntArray

# Entities that name one person (or one device or account): a column of them is dropped and regenerated. The surest come
# first: where two fill the same span, the first one names it.
DIRECT_IN_WORDS = {
    "EMAIL_ADDRESS": "e-mail addresses",
    "IBAN_CODE": "IBANs",
    "CREDIT_CARD": "card numbers",
    "US_SSN": "US social security numbers",
    "FR_NIR": "French social security numbers",
    "IP_ADDRESS": "IP addresses",
    "MAC_ADDRESS": "MAC addresses",
    "CRYPTO": "wallets of crypto currencies",
    "URL": "web addresses",
    "COORDINATES": "geographic coordinates",
    "US_ITIN": "US taxpayer numbers",
    "PHONE_NUMBER": "telephone numbers",
    "STREET_ADDRESS": "street addresses",
    "PERSON": "names of people",
    "NATIONAL_ID": "national ids",
    "PASSPORT": "passport numbers",
    "DRIVER_LICENSE": "driving licences",
    "ACCOUNT_NUMBER": "account numbers",
    "USERNAME": "user names",
}
DIRECT = tuple(DIRECT_IN_WORDS)
# What points at a person together with other things: masked in free text; as a column it stays, under DP.
QUASI = ("LOCATION", "ORGANIZATION", "ZIP_CODE", "DATE_TIME", "AGE", "NRP", "TITLE")
MASKED = (*DIRECT, *QUASI)
CELL_CLASSES = ("NONE", *DIRECT, *BY_DIGITS, "TEXT")
# Types whose digits are checked, so that a chance hit is rare and a smaller share of hits decides.
CHECKED = ("CREDIT_CARD", "IBAN_CODE", "EMAIL_ADDRESS", "US_SSN", "FR_NIR", "IP_ADDRESS", "MAC_ADDRESS", "CRYPTO")
# Types that only their surroundings give away: a column's header must speak for them.
# Where it does, any code with so many digits is one.
CODED, CODE_DIGITS = ("PHONE_NUMBER", "US_SSN", "NATIONAL_ID", "PASSPORT", "DRIVER_LICENSE", "ACCOUNT_NUMBER"), 5
BY_HEADER = ("NATIONAL_ID", "PASSPORT", "DRIVER_LICENSE", "ACCOUNT_NUMBER", "US_ITIN", "USERNAME")

# How many different cells of a column the detector looks at, about.
LOOKED_AT = 1500
# A column with fewer different values than this share of its cells holds labels, not texts.
FEW_VALUES = 0.02
COVERED = 0.8
SENTENCE_WORDS = 5
CLEAR = 4.0
NEARLY_ALL = 0.8

# Whole names of columns, in English, French, German and Spanish; lower case, words joined by underscores.
_NUMBER_WORDS = r"(_?(number|numbers|numero|no|nr|num|nummer|id|code))?"
_HEADERS = {
    "EMAIL_ADDRESS": r"(.*_)?(e_?mails?|e?_?mail_?addr(ess(es)?)?|mail|courriel|correo(_electronico)?|adresse_mail)",
    "IBAN_CODE": rf"(.*_)?iban{_NUMBER_WORDS}",
    "CREDIT_CARD": r"(.*_)?((credit|debit|payment)_?card(_?(number|no|nr|num))?|card_?(number|no|nr|num)|cc_?(num|number)|pan"
    r"|kreditkarten_?(nummer|nr)?|carte_(bancaire|bleue|de_credit)|numero_de_carte|tarjeta(_de_credito)?)",
    "US_SSN": rf"(.*_)?(ssn|social_security){_NUMBER_WORDS}",
    "FR_NIR": r"(.*_)?(nir|insee|numero_(de_)?secu(rite_sociale)?|num_secu|securite_sociale)",
    "IP_ADDRESS": r"(.*_)?(ip(_?addr(ess)?)?|ipv[46]|adresse_ip)",
    "MAC_ADDRESS": r"(.*_)?mac_?addr(ess)?",
    "PHONE_NUMBER": rf"((.*_)?((tele)?(phone|fon)|mobile?|cell(phone|_phone)?|fax|telefonnummer|handynummer|telefono|movil|telephone)"
    rf"s?{_NUMBER_WORDS}|tel{_NUMBER_WORDS}|handy|portable|(mobile|cell)_phone{_NUMBER_WORDS}|numero_de_telephone)",
    "STREET_ADDRESS": r"((home|street|postal|mailing|billing|shipping|delivery)_?)?(address|adresse|anschrift|direccion|addr)(_?(line)?_?[12])?|street|strasse|rue|calle",
    "PERSON": r"((customer|client|patient|employee|contact|member|user|holder|owner|doctor|physician|nurse|student|teacher|person|guest|"
    r"first|last|full|given|family|middle|maiden|birth|legal|preferred|sur|fore)_?)?names?|name_(first|last)|surnames?|patient|fullname"
    r"|(nom|prenom)s?(_(de_|d_)?(famille|naissance|client|patient|usage|usuel))?|(vor|nach|familien|geburts)namen?|nombres?|apellidos?|cognome",
    "PASSPORT": rf"(.*_)?(passport|reisepass|passeport|pasaporte){_NUMBER_WORDS}",
    "DRIVER_LICENSE": rf"(.*_)?(drivers?_licen[cs]e|driving_licen[cs]e|permis_de_conduire|fuehrerschein|fuhrerschein){_NUMBER_WORDS}",
    "NATIONAL_ID": rf"(.*_)?(national_id|identity_card|tax_id|tin|nino|personalausweis|steuer_?id|steueridentifikations|sozialversicherungs|versicherten|krankenversicherten|kvnr|cni|dni|nif|mrn|medical_record){_NUMBER_WORDS}",
    "ACCOUNT_NUMBER": r"(.*_)?(bank_)?(account|konto|compte|cuenta)_?(number|no|nr|num|nummer)|kontonummer|numero_de_compte",
    "USERNAME": r"(.*_)?(user_?name|login|screen_?name|handle|nick_?name|benutzername|identifiant)",
    "URL": r"(.*_)?(url|website|homepage|web_?site)",
    "COORDINATES": r"(.*_)?(coordinates|coords|geo_?location|lat_?(lon|lng)|gps)",
    "CRYPTO": r"(.*_)?(wallet|bitcoin|btc|ethereum|eth)(_?addr(ess)?)?",
}  # fmt: skip


Holds = Literal["texts", "labels", "numbers"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Decision:
    """What becomes of a column: dropped and regenerated, scrubbed cell by cell, or kept.

    labels: kept although some cells hold identifiers, for its few values are labels of many units each; those that are
    identifiers are made up (`labels`).  entity: of the greater part of its cells, if that is an identifier.
    """

    action: Literal["drop", "scrub", "keep"]
    entity: str | None
    reason: str
    labels: bool = False


def header_entity(name: str) -> str | None:
    """The entity that a column's name alone speaks of (English, French, German, Spanish); None where it does not.

    Free: column names are public.
    """
    plain = _plain(name)
    return next((entity for entity, pattern in _HEADERS.items() if re.fullmatch(pattern, plain)), None)


def names_country(name: str) -> bool:
    """Whether a column's name says that it holds countries (English, French, German, Spanish)."""
    return (
        re.fullmatch(
            r"(.*_)?(country|country_?(code|name)|nationality|pays|land|staat|pais|nationalitat|nationalite)",
            _plain(name),
        )
        is not None
    )


def require_clean_names(names: Sequence[str]) -> None:
    """Raises PIIError where a column's name holds a valid identifier: names are public, and stand in every output."""
    from dpsynth.privacy.pii.leaks import find_leaks

    for place, name in enumerate(names, 1):
        for entity in find_leaks([name]):
            raise PIIError(
                f"the name of column {place} holds an identifier ({entity}), and names are public; rename the column"
            )


def cell_class(cell: str, spans: Sequence[Span], header: str) -> int:
    """Index into CELL_CLASSES: an entity that fills the cell, TEXT that holds one, else NONE."""
    letters = [i for i, c in enumerate(cell) if c.isalnum()]
    if not letters or is_timestamp(cell) or _MEASUREMENT.fullmatch(cell) or _UUID.fullmatch(cell):
        return 0  # a measurement's decimals pass a checksum now and then, but no identifier has a decimal point
    expected = header_entity(header)
    bare_number = cell.strip().isdigit()
    if expected in CODED and _is_code(cell, 7 if expected == "PHONE_NUMBER" else CODE_DIGITS):
        return CELL_CLASSES.index(expected)
    holds_identifier = False
    for entity in DIRECT:
        if bare_number and entity not in CHECKED and entity != expected:
            continue  # ten digits somewhere in a measurement are no telephone number
        if bare_number and entity == "CREDIT_CARD" != expected and not is_card(cell, common=True):
            continue  # of some network or other are one in ten of the numbers that shops give their goods
        own = [s for s in spans if s.entity == entity and _credible(cell[s.start : s.end], entity, expected)]
        if not own:
            continue
        if sum(any(s.start <= i < s.end for s in own) for i in letters) >= COVERED * len(letters):
            return CELL_CLASSES.index(entity)
        holds_identifier = holds_identifier or entity != "PERSON" or len(cell.split()) >= SENTENCE_WORDS
    if bare_number and not holds_identifier:
        return CELL_CLASSES.index(number_class(cell))
    return CELL_CLASSES.index("TEXT") if holds_identifier else 0


class NumberForms:
    """Classifies whole numbers, written in digits, by their form alone: what of a detector needs no model."""

    def classify(self, cells: Sequence[str], header: str) -> IntArray:
        """Class of each cell, an index into CELL_CLASSES, shape (cells,)."""
        return np.array([CELL_CLASSES.index(number_class(cell)) for cell in cells], np.int64)


_MEASUREMENT = re.compile(r"\s*[-+]?\d*\.\d+([eE][-+]?\d+)?\s*")
_UUID = re.compile(r"\s*\{?[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}\}?\s*")
_CODE = re.compile(r"\s*\+?[A-Za-z0-9 ./()-]+\s*")
_WORD = re.compile(r"[A-Za-z]{5}")


def _is_code(cell: str, digits: int) -> bool:
    is_code = _CODE.fullmatch(cell) is not None and _WORD.search(cell) is None
    return is_code and sum(c.isdigit() for c in cell) >= digits


def _credible(found: str, entity: str, expected: str | None) -> bool:
    """Whether a hit may count: some recognisers fire on labels and bare numbers unless the header speaks for them."""
    if entity == expected:
        return True
    if entity == "PERSON":  # one capitalised word may be anything
        words = found.split()
        return len(words) >= 2 and all(w[0].isupper() and w.strip(".,'").replace("-", "").isalpha() for w in words)
    if entity == "PHONE_NUMBER":  # a bare number is more often an id than a telephone, and a short one an article's
        return not found.isdigit() and (
            sum(c.isdigit() for c in found) >= 9 or next(telephones(found), None) is not None
        )
    if entity in BY_HEADER:
        return False
    if entity == "STREET_ADDRESS":
        return any(c.isdigit() for c in found) and sum(c.isalpha() for c in found) >= 4
    if entity == "URL":
        return "/" in found or found.lower().startswith("www.")
    return True


def repeats(different: float, cells: float) -> bool:
    """Whether a column of so many different values (at most) and cells holds labels, each of many units, rather than texts."""
    return different < FEW_VALUES * cells


# Why a column that holds identifiers here and there is not scrubbed: only texts are.
_NO_TEXTS = {
    "labels": "few values, each of many rows: labels. Those that are identifiers ({} of its cells) are made up",
    "numbers": "numbers, of which some ({}) have the form of identifiers",
}
# A column of few of these is one of labels all the same: who treats whom, what happens where.
_MAY_BE_LABELS = ("PERSON", "STREET_ADDRESS")


def decide(header: str, votes: Mapping[str, float], noise_sd: float, *, holds: Holds = "texts") -> Decision:
    """What to do with a column, from (noisy) counts of its cells' classes. Shares are of cells, never of hits.

    votes: class -> count; noise_sd: of each count (0 for exact ones).  holds: "labels" where values repeat (`repeats`): they
    are no free text to be scrubbed, for what looks like a name is said of many units alike; no more are numbers.

    A class counts when it stands four standard deviations of its noise above zero (of some twenty classes that hold nothing, one
    gets there in one column of two thousand), so a column of identifiers is missed only where the noise drowns it; and then its name
    decides, which costs nothing.
    """
    expected = header_entity(header)
    entity = max(DIRECT, key=lambda e: votes.get(e, 0.0))
    floor = max(CLEAR * noise_sd, 0.5)
    if expected is not None and not (votes.get(entity, 0.0) > floor and entity != expected):
        entity = expected
    hits = votes.get(entity, 0.0)
    # What other classes seem to hold is mostly noise where it is not clear.
    others = [v for e in (*DIRECT, "TEXT") if e != entity and (v := votes.get(e, 0.0)) > floor]
    by_digits = {e: v for e in BY_DIGITS if (v := votes.get(e, 0.0)) > floor}
    bare = sum(by_digits.values())
    cells = max(votes.get("NONE", 0.0), 0.0) + max(hits, 0.0) + sum(others) + bare
    needed = 0.3 if entity in CHECKED or entity == expected else 0.5
    filled = hits > floor and hits >= needed * cells
    as_labels = holds == "labels" and entity in _MAY_BE_LABELS and entity != expected
    if filled and not as_labels:
        return Decision(
            action="drop", entity=entity, reason=f"{_percent(hits / cells)} of its cells are {DIRECT_IN_WORDS[entity]}"
        )
    if entity == expected and noise_sd > 0 and hits + 2 * noise_sd >= needed * (cells - 2 * noise_sd):
        return Decision(
            action="drop",
            entity=entity,
            reason=f"its name speaks of {DIRECT_IN_WORDS[entity]}; noise hides whether its cells are",
        )
    if bare > NEARLY_ALL * cells:
        entity = BY_DIGITS[max(by_digits, key=lambda e: by_digits[e])]
        reason = f"{_percent(bare / cells)} of its numbers have the form of {DIRECT_IN_WORDS[entity]}"
        return Decision(action="drop", entity=entity, reason=reason)
    mixed = sum(others) + (hits if hits > floor else 0.0)
    if mixed > max(floor, 0.02 * cells):
        share = _percent(mixed / cells)
        if holds == "texts":
            return Decision(action="scrub", entity=None, reason=f"{share} of its cells hold identifiers")
        reason = _NO_TEXTS[holds].format(share)
        return Decision(action="keep", entity=entity if filled else None, reason=reason, labels=holds == "labels")
    return Decision(action="keep", entity=None, reason="no identifiers found")


def _percent(share: float) -> str:
    """A share in steps of 5%."""
    return f"about {min(max(round(share * 20) * 5, 0), 100)}%"


def _plain(name: str) -> str:
    """A column's name in lower case and ASCII, its words joined by underscores."""
    words = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name)
    return re.sub(r"[^a-z0-9]+", "_", to_ascii(words).lower()).strip("_")
