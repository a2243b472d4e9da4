"""Identifiers that have a form of their own: found by shape and proved by checksum, range or numbering plan.

Used twice: by the detector, before anything learns, and by the scan of what leaves. Text is expected as `normalise.view` gives it.
Sources: ISO/IEC 7812-1 (cards), ISO 13616 and the SWIFT registry (IBAN lengths), INSEE (NIR), SSA (SSN ranges), RFC 5321, RFC 4291.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import ipaddress
import re
from collections.abc import Callable, Iterator
from typing import NamedTuple


class Span(NamedTuple):
    """Characters [start, end) of a text, and what they are."""

    start: int
    end: int
    entity: str

    def moved(self, by: int) -> Span:
        return Span(self.start + by, self.end + by, self.entity)


_LABEL = r"[^\W_](?:[\w-]{0,61}[^\W_])?"
_EMAIL = re.compile(
    rf"(?<![\w.%+'-])[\w.%+'!#$&*/=?^`{{|}}~-]{{1,64}}@(?:{_LABEL}\.){{1,8}}[^\W\d_]{{2,24}}(?![^\W_]|@)"
)
_EMAIL_LITERAL = re.compile(r"(?<![\w.%+-])[\w.%+-]{1,64}@(?:localhost\b|\[[0-9a-fA-F.:]{7,45}\])")
_AT = r"\s?(?:\(\s?(?:at|ät|@|arobase)\s?\)|\[\s?(?:at|@)\s?\]|\{\s?at\s?\}|<at>|_at_|\sat\s)\s?"
_DOT = r"(?:\s?(?:\(\s?(?:dot|\.|point|punkt)\s?\)|\[\s?(?:dot|\.)\s?\]|\{\s?dot\s?\}|<dot>|_dot_|\s(?:dot|point|punkt)\s)\s?)"
_EMAIL_SPELT = re.compile(
    rf"(?<![\w.])[\w%+-]+(?:(?:\.|{_DOT})[\w%+-]+){{0,3}}(?:{_AT}|@)[\w-]+(?:(?:\.|{_DOT})[\w-]+){{0,3}}(?:{_DOT}|\.)[A-Za-z]{{2,24}}\b",
    re.IGNORECASE,
)
_SPELT_MARK = re.compile(rf"{_DOT}|{_AT}", re.IGNORECASE)
_IPV4 = re.compile(r"(?<![\w.])(?:(?:25[0-5]|2[0-4]\d|1?\d?\d)\.){3}(?:25[0-5]|2[0-4]\d|1?\d?\d)(?!\d|\.\d|\w)")
_IPV4_DEFANGED = re.compile(
    r"(?<![\w.])\d{1,3}(?:\[\.\]|\(\.\)|\[dot\])(?:\d{1,3}(?:\[\.\]|\(\.\)|\[dot\]|\.)){2}\d{1,3}(?![\w.])"
)
_IPV6 = re.compile(r"(?<![\w:.])(?:[0-9A-Fa-f]{0,4}:){2,7}(?:[0-9A-Fa-f]{1,4}|(?:\d{1,3}\.){3}\d{1,3})?(?![\w:])")
_MAC = re.compile(r"(?<![\w:-])(?:[0-9A-Fa-f]{2}([:-]))(?:[0-9A-Fa-f]{2}\1){4}[0-9A-Fa-f]{2}(?![\w:-])")
_MAC_CISCO = re.compile(r"(?<![\w.])[0-9A-Fa-f]{4}\.[0-9A-Fa-f]{4}\.[0-9A-Fa-f]{4}(?![\w.])")
_MAC_NAMED = re.compile(r"(?i)\bmac(?:[ _-]?addr(?:ess|esse)?)?\b\W{0,3}(?P<x>(?:[0-9a-f]{2}){6})(?!\w)")
_SSN = re.compile(r"(?<![\w-])\d{3}([-./ ]|\s-\s)\d{2}\1\d{4}(?![\w-])")
_SSN_NAMED = re.compile(
    r"(?i)\b(?:ssn|ss(?=\s?(?:#|no\b|number\b))|social security(?: number| no)?)\b\D{0,20}(?P<x>\d{9})(?![\w-])"
)
_CARD = re.compile(r"(?<![\w.])\d(?:[ .\n-]{0,2}\d){11,18}(?![\w]|\.\d)")
_CARD_GROUPED = re.compile(r"(?<!\d)\d{4}([/:|])\d{4}\1\d{4}\1\d{4}(?!\d)")
_IBAN = re.compile(r"(?:(?<![A-Za-z0-9])|(?<=IBAN)|(?<=iban))[A-Za-z]{2}[ .-]?\d{2}(?:[ .\n-]{0,2}[A-Za-z0-9]){11,32}")
_NIR = re.compile(
    r"(?<![\d.])[1-478][ -]?\d{2}[ .-]?\d{2}[ .-]?(?:\d{2}|2[ABab])[ .-]?\d{3}[ .-]?\d{3}[ ./-]{0,3}(?:cl[ée]\s?)?\d{2}(?!\d)"
)
_CRYPTO = re.compile(r"(?<!\w)(?:0x[0-9a-fA-F]{40}|bc1[02-9ac-hj-np-z]{25,62}|[13][1-9A-HJ-NP-Za-km-z]{25,34})(?!\w)")
_COORDINATES = re.compile(
    r"(?<![\w.])[-+]?\d{1,2}\.\d{3,}\s?°?\s?[NSns]?\s?[,;/ ]\s?[-+]?\d{1,3}\.\d{3,}\s?°?\s?[EWOewo]?(?![\w.])"
    r"|(?<!\w)\d{1,2}\s?[°º]\s?\d{1,2}\s?['′’]\s?(?:[\d.]+\s?(?:[\"″”]|'')\s?)?[NSns][ ,;]{0,3}\d{1,3}\s?[°º]\s?\d{1,2}\s?['′’]\s?(?:[\d.]+\s?(?:[\"″”]|'')\s?)?[EWOewo]"
)
_URL = re.compile(
    r"(?<![\w@.])(?:https?|ftp|sftp|file|ssh|git)://[^\s<>\"'`]+|(?<![\w@./])www\.[^\s<>\"'`]+|(?<![\w@./-])(?:[\w-]+\.)+[a-z]{2,24}/[^\s<>\"'`]*",
    re.IGNORECASE,
)
_SPACED_OUT = re.compile(r"(?<![\d.,])\d(?:[ ]\d){8,18}(?![\d.,])")
_BASE64 = re.compile(r"(?<![\w+/-])(?:[A-Za-z0-9+/]{12,}|[A-Za-z0-9_-]{12,})={0,2}(?![\w+/=])")
_HEX = re.compile(r"(?<![0-9A-Za-z])(?:0x)?(?:[0-9a-fA-F]{2}){8,}(?![0-9A-Za-z])")
# The first digits of payment card networks and the lengths that they give out: those that most cards are of, and the others,
# which nearly any long number is one of.
_COMMON_NETWORKS = re.compile(
    r"4\d{15}|5[1-5]\d{14}|2(?:22[1-9]|2[3-9]\d|[3-6]\d\d|7[01]\d|720)\d{12}|3[47]\d{13}|3(?:0[0-5]|[68]\d)\d{11}"
    r"|6(?:011|4[4-9]\d|5\d\d)\d{12}|35(?:2[89]|[3-8]\d)\d{12}|62\d{14}"
)
_OTHER_NETWORKS = re.compile(
    r"4(?:\d{12}|\d{18})|3(?:0[0-59]|[689]\d)\d{11,16}|6(?:011|4[4-9]\d|5\d\d)\d{12,15}|35(?:2[89]|[3-8]\d)\d{12,15}"
    r"|62\d{14,17}|(?:2131|1800)\d{11}|(?:50|5[6-9]|6\d)\d{10,17}|220[0-4]\d{12,15}|8[16]\d{14,17}"
)
_IBAN_LENGTHS = {
    code[:2]: int(code[2:])
    for code in (
        "AD24 AE23 AL28 AT20 AZ28 BA20 BE16 BG22 BH22 BI27 BR29 BY28 CH21 CR22 CY28 CZ24 DE22 DJ27 DK18 DO28 EE20 EG29 "
        "ES24 FI18 FK18 FO18 FR27 GB22 GE22 GI23 GL18 GR27 GT28 HN28 HR21 HU28 IE22 IL23 IQ23 IS26 IT27 JO30 KW30 KZ20 "
        "LB28 LC32 LI21 LT20 LU20 LV21 LY25 MC27 MD24 ME22 MK19 MN20 MR27 MT31 MU30 NI28 NL18 NO15 OM23 PK24 PL28 PS29 "
        "PT25 QA29 RO24 RS22 RU33 SA24 SC31 SD18 SE24 SI19 SK24 SM27 SO23 ST25 SV28 TL23 TN24 TR26 UA29 VA22 VG24 XK20 YE30"
    ).split()
}
# Telephone plans in which numbers without a country code are looked for.
REGIONS = ("US", "GB", "FR", "DE")


def find(text: str) -> Iterator[Span]:
    """Every identifier with a form of its own, overlapping ones too; wrapped ones (base64, hex) by their wrapping."""
    return (span for span, _ in values(text))


def values(text: str) -> Iterator[tuple[Span, str]]:
    """The same, each with its value: what stands in the text, or what its wrapping holds."""
    yield from ((span, text[span.start : span.end]) for span in _plain(text))
    for pattern, decode in ((_BASE64, _base64), (_HEX, _hex)):
        for match in pattern.finditer(text):
            inner = decode(match[0])
            if inner and (found := next(_plain(inner), None)):
                yield Span(match.start(), match.end(), found.entity), inner[found.start : found.end]


def _plain(text: str) -> Iterator[Span]:
    if "@" in text:
        yield from _all(_EMAIL, "EMAIL_ADDRESS", text, is_email)
        yield from _all(_EMAIL_LITERAL, "EMAIL_ADDRESS", text)
    if _SPELT_MARK.search(text):
        yield from (s for s in _all(_EMAIL_SPELT, "EMAIL_ADDRESS", text, _is_spelt_email))
    if "." in text:
        yield from _all(_URL, "URL", text)
    if ":" in text:
        yield from _all(_IPV6, "IP_ADDRESS", text, is_ip)
    yield from _all(_CRYPTO, "CRYPTO", text)
    yield from _all(_MAC, "MAC_ADDRESS", text)
    yield from _all(_MAC_CISCO, "MAC_ADDRESS", text)
    if sum(c.isdigit() for c in text) >= 4:
        yield from _numbers(text)
        if "_" in text:  # as in names of files
            yield from _numbers(text.replace("_", " "))


def _numbers(text: str) -> Iterator[Span]:
    yield from _all(_IPV4, "IP_ADDRESS", text, is_ip)
    yield from _all(_IPV4_DEFANGED, "IP_ADDRESS", text, lambda found: is_ip(plain_ip(found)))
    yield from (Span(*match.span("x"), "MAC_ADDRESS") for match in _MAC_NAMED.finditer(text))
    yield from _all(_SSN, "US_SSN", text, is_ssn)
    for match in _SSN_NAMED.finditer(text):
        if is_ssn(match["x"]):
            yield Span(*match.span("x"), "US_SSN")
    yield from _all(_CARD, "CREDIT_CARD", text, is_card)
    yield from _all(_CARD_GROUPED, "CREDIT_CARD", text, is_card)
    yield from _all(_NIR, "FR_NIR", text, is_nir)
    yield from _all(_COORDINATES, "COORDINATES", text, _is_place)
    for match in _IBAN.finditer(text):
        if end := _iban_end(match[0]):
            yield Span(match.start(), match.start() + end, "IBAN_CODE")
    for match in _SPACED_OUT.finditer(text):
        digits = match[0].replace(" ", "")
        if is_card(digits):
            yield Span(match.start(), match.end(), "CREDIT_CARD")
        elif len(digits) in (9, 10, 13, 15):
            entity = {9: "US_SSN", 10: "PHONE_NUMBER"}.get(len(digits), "FR_NIR")
            if entity == "PHONE_NUMBER" or (is_ssn(digits) if entity == "US_SSN" else is_nir(digits)):
                yield Span(match.start(), match.end(), entity)


def telephones(text: str, regions: tuple[str, ...] = REGIONS) -> Iterator[tuple[Span, str]]:
    """Valid telephone numbers that are written as such (bare digits are more often an id), with their E.164 form.

    Without a country code a number must be grouped as people of its region write it, or be led in by a 0 or a bracket.
    """
    from phonenumbers import Leniency, PhoneNumberFormat, PhoneNumberMatcher, format_number

    if not any(_may_be_telephone(match[0]) for match in _NUMBER.finditer(text)):
        return
    seen: set[tuple[int, int]] = set()
    for region in regions:
        for match in PhoneNumberMatcher(text, region, leniency=Leniency.VALID):
            raw = match.raw_string
            if (match.start, match.end) in seen or (raw.isdigit() and not raw.startswith("00")) or looks_like_date(raw):
                continue
            if region == "US" or raw[0] in "+0(":
                seen.add((match.start, match.end))
                e164 = format_number(match.number, PhoneNumberFormat.E164)
                yield Span(match.start, match.end, "PHONE_NUMBER"), e164


_NUMBER = re.compile(r"\+?\(?\d(?:[^\w\n]{0,3}\d){6,}")


def _may_be_telephone(number: str) -> bool:
    """What a look at digits and groups can tell, before the numbering plans are asked."""
    grouped = not number.isdigit() or number.startswith("00")
    return grouped and sum(c.isdigit() for c in number) <= 15 and not is_timestamp(number)


_DATE = r"(?:1[5-9]|20|21)\d\d([-./ ])(?:0?[1-9]|1[0-2])\1(?:0?[1-9]|[12]\d|3[01])|(?:0?[1-9]|[12]\d|3[01])([-./ ])(?:0?[1-9]|[12]\d|3[01])\2(?:(?:1[5-9]|20|21)\d\d|\d\d)"
_DATE_LIKE = re.compile(rf"(?<!\d)(?:{_DATE})(?!\d)")
_TIMESTAMP = re.compile(
    rf"\s*(?:{_DATE})?(?:[T ]?\s?\d{{1,2}}:\d{{2}}(?::\d{{2}}(?:[.,]\d+)?)?\s?(?:[AaPp]\.?[Mm]\.?)?)?\s?(?:Z|UTC|[+-]\d{{2}}:?\d{{2}})?\s*"
)


def is_timestamp(text: str) -> bool:
    """Whether a text is a date, a time of day or both, in digits: what numbers of other kinds look like as well."""
    return _TIMESTAMP.fullmatch(text) is not None


def looks_like_date(text: str) -> bool:
    """Whether a date in digits stands in a text."""
    return _DATE_LIKE.search(text) is not None


def is_email(text: str) -> bool:
    """Whether an address has a plausible domain (a letter somewhere, no doubled dots)."""
    local, _, domain = text.rpartition("@")
    return ".." not in text and not local.startswith(".") and any(c.isalpha() for c in domain)


def _is_spelt_email(text: str) -> bool:
    """`name at site dot org`: bare words need both a spelt at and a spelt dot, or one of them in brackets."""
    lowered = text.lower()
    if "@" in lowered or re.search(r"[(\[{<_]\s?(?:at|ät|@|arobase)", lowered):
        return True
    return re.search(r"\sat\s.*(?:\sdot\s|\spoint\s|\spunkt\s|[(\[{<_]\s?dot)", lowered) is not None


def is_ip(text: str) -> bool:
    """Whether a string is an IP address that names a machine (not 0.0.0.0, ::, or a version number's like)."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return False
    return not (address.is_unspecified or address.is_loopback) and (address.version == 4 or text.count(":") >= 2)


def plain_ip(text: str) -> str:
    """An address without the brackets that keep it from being clicked on, or that stand around it."""
    return re.sub(r"[\[\]()]", "", text.replace("[dot]", "."))


def is_ssn(text: str) -> bool:
    """Whether nine digits can be a US social security number (areas 001-665 and 667-899, no zero group or serial)."""
    digits = _digits(text)
    return (
        len(digits) == 9
        and digits[:3] not in ("000", "666")
        and digits[0] != "9"
        and digits[3:5] != "00"
        and digits[5:] != "0000"
    )


def is_card(text: str, *, common: bool = False) -> bool:
    """Whether digits carry a payment network's prefix, have one of its lengths and pass the checksum.

    common: of the networks that most cards are of; a bare number is one of some network too often.
    """
    digits = _digits(text)
    if not 12 <= len(digits) <= 19 or len(set(digits)) == 1:
        return False
    known = _COMMON_NETWORKS.fullmatch(digits) or (not common and _OTHER_NETWORKS.fullmatch(digits))
    return bool(known) and passes_luhn(digits)


def is_nir(text: str) -> bool:
    """Whether digits are a French social security number: 13 characters and the key 97 - (number mod 97)."""
    plain = re.sub(r"[^0-9ABab]", "", re.sub(r"cl[ée]", "", text)).upper()
    if not re.fullmatch(r"[1-478]\d{4}(?:\d{2}|2[AB])\d{8}", plain):
        return False
    month = int(plain[3:5])
    number = plain[:13].replace("2A", "19").replace("2B", "18")
    known_month = 1 <= month <= 12 or 20 <= month <= 42 or month >= 50
    return known_month and number.isdigit() and 97 - int(number) % 97 == int(plain[13:])


def passes_luhn(digits: str) -> bool:
    """The checksum of payment cards (ISO/IEC 7812-1)."""
    doubled = [int(d) * (2 if i % 2 else 1) for i, d in enumerate(reversed(digits))]
    return sum(d - 9 if d > 9 else d for d in doubled) % 10 == 0


def passes_mod97(iban: str) -> bool:
    """The checksum of an IBAN (ISO 13616), whose check digits run from 02 to 98, at its country's length."""
    plain = re.sub(r"[^A-Za-z0-9]", "", iban).upper()
    if not re.fullmatch(r"[A-Z]{2}\d{2}[A-Z0-9]{11,30}", plain) or not 2 <= int(plain[2:4]) <= 98:
        return False
    if _IBAN_LENGTHS.get(plain[:2]) != len(plain):
        return False
    return int("".join(str(int(c, 36)) for c in plain[4:] + plain[:4])) % 97 == 1


def is_wallet(text: str) -> bool:
    """Whether a string is an Ethereum address by its form, or a Bitcoin address by its checksum (Base58Check, BIP 173, BIP 350)."""
    if text.startswith("0x"):
        return len(text) == 42
    return _bech32(text) if text.startswith("bc1") else _base58check(text)


_BASE58 = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
_BECH32 = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"


def _base58check(text: str) -> bool:
    number = 0
    for c in text:
        number = number * 58 + _BASE58.index(c)
    if number >= 1 << 200:
        return False
    raw = number.to_bytes(25, "big")
    return hashlib.sha256(hashlib.sha256(raw[:-4]).digest()).digest()[:4] == raw[-4:]


def _bech32(text: str) -> bool:
    check = 1
    # The human-readable part "bc", spread out as the checksum wants it, then the data.
    for value in [3, 3, 0, 2, 3, *(_BECH32.find(c) for c in text[3:])]:
        top = check >> 25
        check = (check & 0x1FFFFFF) << 5 ^ value
        for bit, generator in enumerate((0x3B6A57B2, 0x26508E6D, 0x1EA119FA, 0x3D4233DD, 0x2A1462B3)):
            check ^= generator if top >> bit & 1 else 0
    return check in (1, 0x2BC830A3)


def _iban_end(text: str) -> int | None:
    """Where the IBAN that a string begins with ends; None where it is none (words may follow without a break)."""
    length = _IBAN_LENGTHS.get(text[:2].upper())
    if length is None:
        return None
    places = [i for i, c in enumerate(text) if c.isalnum()]
    if len(places) < length:
        return None
    end = places[length - 1] + 1
    return end if passes_mod97(text[:end]) and not text[end : end + 1].isalnum() else None


def _is_place(text: str) -> bool:
    if "°" in text or "º" in text:
        return True
    latitude, longitude = (float(x) for x in re.findall(r"[-+]?\d+\.\d+", text)[:2])
    return abs(latitude) <= 90 and abs(longitude) <= 180


def _all(
    pattern: re.Pattern[str], entity: str, text: str, check: Callable[[str], bool] | None = None
) -> Iterator[Span]:
    for match in pattern.finditer(text):
        if check is None or check(match[0]):
            yield Span(match.start(), match.end(), entity)


def plain_email(text: str) -> str:
    """An address in the usual way of writing it, whatever was spelt out; lower case."""
    dotted = re.sub(_DOT, ".", re.sub(_AT, "@", text, flags=re.IGNORECASE), flags=re.IGNORECASE)
    return re.sub(r"\s", "", dotted).lower()


def _digits(text: str) -> str:
    return re.sub(r"\D", "", text)


def _base64(token: str) -> str | None:
    plain = token.rstrip("=").replace("-", "+").replace("_", "/")
    try:
        return _printable(base64.b64decode(plain + "=" * (-len(plain) % 4), validate=True))
    except (binascii.Error, ValueError):
        return None


def _hex(token: str) -> str | None:
    return _printable(bytes.fromhex(token.removeprefix("0x")))


def _printable(raw: bytes) -> str | None:
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        return None
    return text if text.replace("\n", " ").isprintable() else None
