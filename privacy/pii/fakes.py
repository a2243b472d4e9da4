"""Identifiers that cannot be anybody's: from ranges reserved for documentation and fiction, or failing their own checksum.

So any valid identifier in an output that is outside these ranges is a leak by construction, and no comparison with real
values is needed (which would itself give something away).
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping

import numpy as np

TOWNS = ("Aldermoor", "Brackenfield", "Castlewick", "Dunmarrow", "Elmhollow", "Fernleigh", "Greyharbor", "Hazelbrook")
COMPANIES = ("Example Works", "Sample & Sons", "Placeholder Ltd", "Specimen Group", "Demo Partners", "Mockingbird Co")
RESERVED_DOMAINS = ("example.com", "example.org", "example.net")  # RFC 2606
DOCUMENTATION_NETS = tuple(  # RFC 5737, RFC 3849
    ipaddress.ip_network(net) for net in ("192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24", "2001:db8::/32")
)


def fake_columns(entities: Mapping[str, str], n: int, rng: np.random.Generator) -> dict[str, list[str]]:
    """n fakes for each column (column -> entity), consistent in a row: an e-mail address fits the row's name."""
    first, last = _names(n, rng)
    out = {}
    for column, entity in entities.items():
        if entity == "PERSON":
            out[column] = _person(column, first, last)
        elif entity == "EMAIL_ADDRESS":
            out[column] = _emails(first, last, rng)
        elif entity == "ID":
            out[column] = [f"{column}-{i:07d}" for i in range(1, n + 1)]
        else:
            out[column] = fake_values(entity, n, rng)
    return out


def fake_values(entity: str, n: int, rng: np.random.Generator) -> list[str]:
    """n fakes of one entity; an unknown entity gives numbered labels."""
    if entity in ("PERSON", "EMAIL_ADDRESS"):
        first, last = _names(n, rng)
        return _person("name", first, last) if entity == "PERSON" else _emails(first, last, rng)

    def digits(low: int, high: int) -> list[int]:
        return [int(x) for x in rng.integers(low, high, n)]

    if entity == "PHONE_NUMBER":  # 555-0100 to 555-0199 are set aside for fiction in every area
        return [f"({a}) 555-01{x:02d}" for a, x in zip(digits(201, 990), digits(0, 100), strict=True)]
    if entity == "US_SSN":  # area 9xx is never a social security number; groups 10-49 are no taxpayer number either
        return [
            f"9{a:02d}-{g}-{s:04d}" for a, g, s in zip(digits(0, 100), digits(10, 50), digits(1, 10000), strict=True)
        ]
    if entity == "US_ITIN":  # group 89 is not given out
        return [f"9{a:02d}-89-{s:04d}" for a, s in zip(digits(0, 100), digits(1, 10000), strict=True)]
    if entity == "CREDIT_CARD":
        return [_failing_luhn(f"4{x:014d}") for x in digits(0, 10**14)]
    if entity == "IBAN_CODE":  # check digits run from 02 to 98
        return [f"GB00EXMP{x:014d}" for x in digits(0, 10**14)]
    if entity == "IP_ADDRESS":
        return [f"192.0.2.{x}" for x in digits(1, 255)]
    if entity == "MAC_ADDRESS":  # RFC 7042, documentation range
        return [f"00-00-5E-00-53-{x:02X}" for x in digits(0, 256)]
    if entity == "URL":
        return [f"https://example.com/{x:06x}" for x in digits(0, 16**6)]
    if entity == "LOCATION":
        return [TOWNS[x] for x in digits(0, len(TOWNS))]
    if entity == "ORGANIZATION":
        return [COMPANIES[x] for x in digits(0, len(COMPANIES))]
    return [f"{entity}-{x:09d}" for x in digits(0, 10**9)]


def could_be_real(entity: str, value: str) -> bool:
    """Whether an identifier lies outside the ranges that fakes are made from. Names and towns are not told apart."""
    if entity == "EMAIL_ADDRESS":
        domain = value.rsplit("@", 1)[-1].lower()
        return not (
            domain.endswith(RESERVED_DOMAINS)
            or domain.rsplit(".", 1)[-1] in ("test", "invalid", "example", "localhost")
        )
    digits = re.sub(r"\D", "", value)
    if entity == "PHONE_NUMBER":
        return re.fullmatch(r"1?\d{3}55501\d\d", digits) is None
    if entity == "US_SSN":
        area, group, serial = digits[:3], digits[3:5], digits[5:]
        return len(digits) == 9 and area not in ("000", "666") and area[0] != "9" and group != "00" and serial != "0000"
    if entity == "CREDIT_CARD":
        return passes_luhn(digits)
    if entity == "IBAN_CODE":
        return passes_mod97(value)
    if entity == "IP_ADDRESS":
        address = ipaddress.ip_address(value)
        return address.is_global and not any(address in net for net in DOCUMENTATION_NETS)
    return False


def passes_luhn(digits: str) -> bool:
    """The checksum of payment cards (ISO/IEC 7812-1)."""
    doubled = [int(d) * (2 if i % 2 else 1) for i, d in enumerate(reversed(digits))]
    return sum(d - 9 if d > 9 else d for d in doubled) % 10 == 0


def passes_mod97(iban: str) -> bool:
    """The checksum of an IBAN (ISO 13616), whose check digits run from 02 to 98."""
    plain = re.sub(r"\s", "", iban).upper()
    if not re.fullmatch(r"[A-Z]{2}\d{2}[A-Z0-9]{11,30}", plain) or not 2 <= int(plain[2:4]) <= 98:
        return False
    return int("".join(str(int(c, 36)) for c in plain[4:] + plain[:4])) % 97 == 1


def _failing_luhn(body: str) -> str:
    """Fifteen digits and a sixteenth that makes the checksum fail."""
    right = next(d for d in range(10) if passes_luhn(f"{body}{d}"))
    number = f"{body}{(right + 5) % 10}"
    return " ".join(number[i : i + 4] for i in range(0, 16, 4))


def _names(n: int, rng: np.random.Generator) -> tuple[list[str], list[str]]:
    from faker.providers.person.en_US import Provider

    first, last = list(Provider.first_names), list(Provider.last_names)
    return [first[i] for i in rng.integers(0, len(first), n)], [last[i] for i in rng.integers(0, len(last), n)]


def _person(column: str, first: list[str], last: list[str]) -> list[str]:
    """Full names, or the part of them that the column's name asks for."""
    plain = column.lower()
    if re.search(r"first|given|vorname|prenom", plain):
        return first
    if re.search(r"last|family|surname|nachname|apellido", plain):
        return last
    return [f"{f} {s}" for f, s in zip(first, last, strict=True)]


def _emails(first: list[str], last: list[str], rng: np.random.Generator) -> list[str]:
    domains = rng.integers(0, len(RESERVED_DOMAINS), len(first))
    return [
        f"{f}.{s}{i}@{RESERVED_DOMAINS[d]}".lower()
        for i, (f, s, d) in enumerate(zip(first, last, domains, strict=True), 1)
    ]
