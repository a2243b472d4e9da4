"""The scan of what leaves: valid identifiers outside the fakes' ranges.

It reads the output alone. Each pattern asks for more than a shape (a checksum, a range, a telephone plan), so that ids and
amounts do not set it off.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from dpsynth.privacy.pii.fakes import could_be_real, passes_luhn, passes_mod97

_EMAIL = re.compile(r"[A-Za-z0-9._%+'-]+@[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)*\.[A-Za-z]{2,}")
_SSN = re.compile(r"(?<![\d-])\d{3}[- ]\d{2}[- ]\d{4}(?![\d-])")
_CARD = re.compile(r"(?<![\w.])(?:\d[ -]?){12,18}\d(?![\d.])")
_IBAN = re.compile(r"(?<![A-Za-z0-9])[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?(?![A-Za-z0-9])")
_IPV4 = re.compile(r"(?<![\d.])(?:(?:25[0-5]|2[0-4]\d|1?\d?\d)\.){3}(?:25[0-5]|2[0-4]\d|1?\d?\d)(?![\d.])")
_CARD_PREFIX = re.compile(r"4|5[1-5]|2[2-7]|3[47]|6011|65")
_SEVEN_DIGITS = re.compile(r"(?:\d[^\d\n]{0,3}){6,}\d")


def find_leaks(texts: Iterable[str]) -> dict[str, int]:
    """How many of the texts hold a valid identifier that could be somebody's, by entity."""
    out: dict[str, int] = {}
    for text in set(texts):
        for entity in set(_identifiers(text)):
            out[entity] = out.get(entity, 0) + 1
    return out


def _identifiers(text: str) -> Iterator[str]:
    """Entities of which the text holds one that could be real."""
    if "@" in text and any(could_be_real("EMAIL_ADDRESS", m) for m in _EMAIL.findall(text)):
        yield "EMAIL_ADDRESS"
    if _IPV4.search(text) and any(could_be_real("IP_ADDRESS", m) for m in _IPV4.findall(text)):
        yield "IP_ADDRESS"
    if not _SEVEN_DIGITS.search(text):
        return
    if any(could_be_real("US_SSN", m) for m in _SSN.findall(text)):
        yield "US_SSN"
    cards = (re.sub(r"\D", "", m) for m in _CARD.findall(text))
    if any(_CARD_PREFIX.match(digits) and passes_luhn(digits) for digits in cards):
        yield "CREDIT_CARD"
    if any(passes_mod97(m) for m in _IBAN.findall(text)):
        yield "IBAN_CODE"
    if any(_telephones(text)):
        yield "PHONE_NUMBER"


def _telephones(text: str) -> Iterator[bool]:
    """For each valid telephone number that is written as one, whether it could be real."""
    from phonenumbers import Leniency, PhoneNumberMatcher

    for match in PhoneNumberMatcher(text, "US", leniency=Leniency.VALID):
        if not match.raw_string.isdigit():  # bare digits are more often an id or an amount
            yield could_be_real("PHONE_NUMBER", match.raw_string)
