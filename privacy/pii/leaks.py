"""The scan of what leaves: valid identifiers outside the fakes' ranges.

It reads the output alone, so it costs nothing. Each kind asks for more than a shape (a checksum, a range, a numbering plan), so that
ids and amounts do not set it off; encodings and disguises are undone first. Names are not looked for: those of fakes are as
common as those of people.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from dpsynth.privacy.pii.fakes import could_be_real
from dpsynth.privacy.pii.identifiers import Span, is_card, is_wallet, values
from dpsynth.privacy.pii.normalise import pieces, view

# Kinds of which a valid one is somebody's. A URL or a place need not be.
LOOKED_FOR = (
    "EMAIL_ADDRESS",
    "IP_ADDRESS",
    "US_SSN",
    "CREDIT_CARD",
    "IBAN_CODE",
    "PHONE_NUMBER",
    "FR_NIR",
    "MAC_ADDRESS",
    "CRYPTO",
)
PIECE, OVERLAP = 20_000, 200


def find_leaks(texts: Iterable[str]) -> dict[str, int]:
    """How many of the different texts hold a valid identifier that could be somebody's, by entity."""
    out: dict[str, int] = {}
    for text in set(texts):
        for entity in {entity for entity, _ in identifiers(text)} & set(LOOKED_FOR):
            out[entity] = out.get(entity, 0) + 1
    return out


def identifiers(text: str) -> Iterator[tuple[str, str]]:
    """(entity, value) of each valid identifier of a text that could be somebody's."""
    if not any(c.isdigit() or c in "@&%\\" for c in text) and len(text) < 12 and text.isascii():
        return
    seen = view(text).text
    for start, end in pieces(seen, PIECE, OVERLAP):
        piece = seen[start:end]
        for span, value in values(piece):
            if _counts(span, value, piece) and could_be_real(span.entity, value):
                yield span.entity, value
        if not piece.isdigit():
            yield from (("PHONE_NUMBER", number) for number in _telephones(piece))


def _counts(span: Span, value: str, text: str) -> bool:
    """Whether a hit is more than chance."""
    if span.entity == "CREDIT_CARD":
        if "-" in (text[span.start - 1 : span.start], text[span.end : span.end + 1]):
            return False  # part of a longer code
        groups = [len(g) for g in re.findall(r"\d+", value)]
        written = len(groups) == 1 or min(groups) >= 3 or set(groups) == {1}
        return written and sum(groups) >= 13 and is_card(value, common=text.strip().isdigit())
    if span.entity == "CRYPTO":
        return is_wallet(value)
    return True


# How telephone numbers are written where they stand without a country code: narrower than what a detector looks for.
_WRITTEN = {
    "US": r"(?:1[-. ])?(?:\(\d{3}\) ?|\d{3}[-. ])\d{3}[-. ]\d{4}",
    "GB": r"\(?0\d{2,4}\)? \d{3,4} ?\d{3,4}|00[1-9](?:[ ().-]{0,2}\d){7,13}",
    "FR": r"0[1-9]([ .-])\d\d(?:\1\d\d){3}",
    "DE": r"\(?0[1-9]\d{1,4}\)?\s?[ /-]\s?\d{3,8}(?:[ -]?\d{1,4})?",
    "": r"\+[1-9](?:[ ().-]{0,2}\d){6,14}",
}
# Not a part of a longer number, code or amount.
_TELEPHONES = {
    region: re.compile(rf"(?<![\w,$€£/+-])(?<!\d[.])(?<!\d (?=\d))(?:{form})(?![\w%]|[.,]\d|[-/]\w| \d)")
    for region, form in _WRITTEN.items()
}


def _telephones(text: str) -> Iterator[str]:
    """Valid telephone numbers outside the ranges for fiction, in E.164."""
    if sum(c.isdigit() for c in text) < 7:
        return
    from phonenumbers import NumberParseException, PhoneNumberFormat, format_number, is_valid_number, parse

    for region, pattern in _TELEPHONES.items():
        for match in pattern.finditer(text):
            try:
                number = parse(match[0], region or None)
            except NumberParseException:
                continue
            e164 = format_number(number, PhoneNumberFormat.E164)
            # A fake of one country may read as a number of another.
            if is_valid_number(number) and all(could_be_real("PHONE_NUMBER", n) for n in (e164, match[0])):
                yield e164
