"""What bare numbers may be: identifiers that are kept as integers, in columns whose names do not speak for them.

One number proves little: of random ten-digit numbers a third are valid US telephone numbers, and a check digit lets one in ten or
eleven pass. Nearly all numbers of a column do prove it. So these kinds are voted on as classes of their own (`PHONE_DIGITS`,
`ID_DIGITS`), which decide only where they hold most cells (`columns.decide`); cards and the French number count as ever.
Not told: numbers without a check digit or a plan (US social security numbers, account numbers).
Sources: ISO 7064 (MOD 11,10), NHS data dictionary, BZSt (Steuer-ID), Receita Federal (CPF), RvIG (BSN), SPF Interieur (Belgian
register), AT (Portuguese NIF), ESDC (SIN).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import numpy as np

from dpsynth.privacy.pii.identifiers import is_card, is_nir, passes_luhn
from dpsynth.privacy.source import FloatArray

# Identifiers of fewer than nine digits are not told; a column is looked at where this share of its numbers may be longer.
LONG, LONG_SHARE = 4.0**13, 0.3
# Different numbers that are looked at, about: it takes no model, and little time.
NUMBERS_LOOKED_AT = 15_000
# A date, and perhaps a time or a counter, written as one number.
_DATED = re.compile(r"(?:19|20)\d\d(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])\d*")


# Classes of numbers that say something only where nearly all of a column are of them, and what the column then holds.
BY_DIGITS = {"PHONE_DIGITS": "PHONE_NUMBER", "ID_DIGITS": "NATIONAL_ID"}


def are_long(edges: FloatArray, counts: FloatArray) -> bool:
    """Whether numbers counted between edges (edges[i] <= number < edges[i + 1]) are long enough to be identifiers."""
    held = np.maximum(counts, 0.0)
    return bool(held[edges[:-1] >= LONG].sum() > LONG_SHARE * held.sum())


def number_class(cell: str) -> str:
    """What a bare number may be: a class of cells (`columns.CELL_CLASSES`)."""
    digits = cell.strip()
    if not (digits.isdecimal() and digits.isascii() and 9 <= len(digits) <= 19):
        return "NONE"
    if is_nir(digits):
        return "FR_NIR"
    if is_card(digits, common=True):
        return "CREDIT_CARD"
    if is_card(digits) or any(check(digits) for check in _CHECKS.get(len(digits), ())):
        return "ID_DIGITS"
    return "PHONE_DIGITS" if _is_telephone(digits) else "NONE"


def _is_telephone(digits: str) -> bool:
    """A telephone number that lost its + or its leading 0: of any country with its code, of the US, a mobile of France or Britain."""
    from phonenumbers import NumberParseException, PhoneNumberType, is_valid_number, number_type, parse

    if len(digits) > 15 or _DATED.match(digits):
        return False
    for written, region in ((f"+{digits}", None), (digits, "US"), (f"0{digits}", "FR"), (f"0{digits}", "GB")):
        try:
            number = parse(written, region)
        except NumberParseException:
            continue
        mobile = region in (None, "US") or number_type(number) == PhoneNumberType.MOBILE
        if mobile and is_valid_number(number):
            return True
    return False


# -- check digits ------------------------------------------------------------------------------------------------------


def _weighted(digits: str, weights: Sequence[int]) -> int:
    return sum(int(d) * w for d, w in zip(digits, weights, strict=False))


def _is_nhs(digits: str) -> bool:
    """Britain's health number."""
    return digits[-1] == str((11 - _weighted(digits, range(10, 1, -1)) % 11) % 11)


def _is_bsn(digits: str) -> bool:
    """The Dutch citizen's number."""
    return (_weighted(digits, range(9, 1, -1)) - int(digits[8])) % 11 == 0


def _is_portuguese(digits: str) -> bool:
    check = 11 - _weighted(digits, range(9, 1, -1)) % 11
    return digits[0] in "1235689" and int(digits[8]) == (0 if check >= 10 else check)


def _is_canadian(digits: str) -> bool:
    return digits[0] not in "08" and passes_luhn(digits)


def is_steuer_id(digits: str) -> bool:
    """Whether eleven digits are a German tax number: one of the first ten stands two or three times, and the check digit fits."""
    repeated = sorted(digits[:10].count(d) for d in set(digits[:10]) if digits[:10].count(d) > 1)
    product = 10
    for d in digits[:10]:
        product = ((int(d) + product) % 10 or 10) * 2 % 11
    return digits[0] != "0" and repeated in ([2], [3]) and int(digits[10]) == (11 - product) % 10


def _is_cpf(digits: str) -> bool:
    """The Brazilian taxpayer's number."""
    checks = [_weighted(digits, range(n, 1, -1)) * 10 % 11 % 10 for n in (10, 11)]
    return len(set(digits)) > 1 and digits[9:] == "".join(map(str, checks))


def _is_belgian(digits: str) -> bool:
    """The Belgian register's number; a 2 stands before those of people born since 2000."""
    return any(97 - int(before + digits[:9]) % 97 == int(digits[9:]) for before in ("", "2"))


_CHECKS: dict[int, tuple[Callable[[str], bool], ...]] = {
    9: (_is_bsn, _is_portuguese, _is_canadian),
    10: (_is_nhs,),
    15: (passes_luhn,),  # a telephone's own (IMEI)
    11: (is_steuer_id, _is_cpf, _is_belgian),
}
