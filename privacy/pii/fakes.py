"""Identifiers that cannot be anybody's: from ranges reserved for documentation and fiction, or failing their own checksum.

So any valid identifier in an output that is outside these ranges is a leak by construction, and no comparison with real
values is needed (which would itself give something away). Names are the exception: common ones are drawn, and people have them.
Ranges: RFC 2606 (domains), RFC 5737 and 3849 (addresses), RFC 9542 (MAC), NANPA, Ofcom, ARCEP and BNetzA (telephones for fiction),
SSA and IRS (numbers never given out).
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from dpsynth.privacy.pii.identifiers import is_nir, is_ssn, is_wallet, passes_luhn, passes_mod97, plain_email, plain_ip
from dpsynth.privacy.pii.normalise import to_ascii

TOWNS = ("Aldermoor", "Brackenfield", "Castlewick", "Dunmarrow", "Elmhollow", "Fernleigh", "Greyharbor", "Hazelbrook")
COMPANIES = ("Example Works", "Sample & Sons", "Placeholder Ltd", "Specimen Group", "Demo Partners", "Mockingbird Co")
STREETS = ("Example Street", "Sample Lane", "Placeholder Road", "Specimen Square", "Demo Avenue")
RESERVED_DOMAINS = ("example.com", "example.org", "example.net")
RESERVED_ENDINGS = ("test", "invalid", "example", "localhost")
DOCUMENTATION_NETS = tuple(
    ipaddress.ip_network(net) for net in ("192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24", "2001:db8::/32")
)
# National forms of numbers set aside for fiction (# = any digit, A = an area code), and all such numbers with their country code.
TELEPHONES = {"US": "(A) 555-01##", "GB": "07700 900###", "FR": "06 39 98 ## ##", "DE": "030 23125 ###"}
_FICTION = re.compile(
    r"1\d{3}55501\d\d|44(?:7700900|2079460)\d{3}|33(?:63998|19900|26191|35301|46571|53649)\d{4}"
    r"|49(?:3023125|6990009|4066969|2214710|8999998)\d{3}"
)
# A country's name, as tables have it, to the region whose names and telephones its people get.
_REGIONS = {
    "GB": "gb uk gbr great-britain united-kingdom england scotland wales northern-ireland royaume-uni grossbritannien",
    "FR": "fr fra france frankreich francia",
    "DE": "de deu germany deutschland allemagne alemania",
}
_LOCALES = {"US": "en_US", "GB": "en_GB", "FR": "fr_FR", "DE": "de_DE"}


def region_of(country: object) -> str:
    """The region of fakes that fits a country's name or code; US where none does."""
    plain = re.sub(r"[^a-z]+", "-", to_ascii(str(country)).lower()).strip("-")
    return next((region for region, names in _REGIONS.items() if plain in names.split()), "US")


def fake_columns(
    entities: Mapping[str, str], n: int, rng: np.random.Generator, countries: Sequence[object] | None = None
) -> dict[str, list[str]]:
    """n fakes for each column (column -> entity), consistent in a row.

    An e-mail address and a user name fit the row's name, and name and telephone fit its country (`countries`, n of them).
    """
    regions = ["US"] * n if countries is None else [region_of(c) for c in countries]
    first, last = _names(regions, rng)
    out = {}
    for column, entity in entities.items():
        if entity == "PERSON":
            out[column] = _person(column, first, last)
        elif entity == "EMAIL_ADDRESS":
            out[column] = _emails(first, last, rng)
        elif entity == "PHONE_NUMBER":
            out[column] = [_telephone(region, rng) for region in regions]
        elif entity == "ID":
            out[column] = [f"{column}-{i:07d}" for i in range(1, n + 1)]
        else:
            out[column] = fake_values(entity, n, rng)
    return out


def fake_values(entity: str, n: int, rng: np.random.Generator) -> list[str]:
    """n fakes of one entity; one without a form of its own gives numbered labels."""
    if entity in ("PERSON", "EMAIL_ADDRESS", "PHONE_NUMBER"):
        return fake_columns({entity: entity}, n, rng)[entity]
    if entity in _CHOICES:
        return [str(_CHOICES[entity][i]) for i in rng.integers(0, len(_CHOICES[entity]), n)]
    if entity in _MAKERS:
        return [_MAKERS[entity](rng) for _ in range(n)]
    return [f"{entity}-{int(x):09d}" for x in rng.integers(0, 10**9, n)]


def could_be_real(entity: str, value: str) -> bool:
    """Whether an identifier lies outside the ranges that fakes are made from.

    Names, streets, towns and companies are not told apart. Telephone numbers: in E.164, or as `TELEPHONES` has them.
    """
    if entity in _CHECKS:
        return _CHECKS[entity](value)
    if entity in ("NATIONAL_ID", "PASSPORT", "DRIVER_LICENSE", "ACCOUNT_NUMBER", "USERNAME"):
        return re.fullmatch(rf"{entity}-\d{{9}}", value) is None
    return False


# -- what is made ------------------------------------------------------------------------------------------------------


def _digits(rng: np.random.Generator, n: int) -> str:
    return "".join(map(str, rng.integers(0, 10, n)))


def _telephone(region: str, rng: np.random.Generator) -> str:
    form = TELEPHONES[region].replace("A", str(rng.integers(201, 990)))
    drawn = iter(_digits(rng, form.count("#")))
    return "".join(next(drawn) if c == "#" else c for c in form)


def _ssn(rng: np.random.Generator) -> str:
    """Area 9xx is never a social security number; groups 10-49 are no taxpayer number either."""
    return f"9{_digits(rng, 2)}-{rng.integers(10, 50)}-{rng.integers(1, 10000):04d}"


def _itin(rng: np.random.Generator) -> str:
    """Group 89 is not given out."""
    return f"9{_digits(rng, 2)}-89-{rng.integers(1, 10000):04d}"


def _nir(rng: np.random.Generator) -> str:
    """Keys run from 01 to 97."""
    return f"{rng.integers(1, 3)} {_digits(rng, 2)} {rng.integers(1, 13):02d} {rng.integers(1, 96):02d} {_digits(rng, 3)} {_digits(rng, 3)} 98"


def _card(rng: np.random.Generator) -> str:
    """A last digit that makes the checksum fail."""
    body = f"4{_digits(rng, 14)}"
    right = 5 if passes_luhn(f"{body}0") else 0  # at most one digit passes
    number = f"{body}{right}"
    return " ".join(number[i : i + 4] for i in range(0, 16, 4))


def _wallet(rng: np.random.Generator) -> str:
    """A Bitcoin address whose checksum fails."""
    made = "bc1q" + "".join("qpzry9x8gf2tvdw0s3jn54khce6mua7l"[i] for i in rng.integers(0, 32, 38))
    return made if not is_wallet(made) else made[:-1] + ("q" if made[-1] != "q" else "p")


_MAKERS: Mapping[str, Callable[[np.random.Generator], str]] = {
    "US_SSN": _ssn,
    "US_ITIN": _itin,
    "FR_NIR": _nir,
    "CREDIT_CARD": _card,
    "IBAN_CODE": lambda rng: f"GB00EXMP{_digits(rng, 14)}",  # check digits run from 02 to 98
    "IP_ADDRESS": lambda rng: f"192.0.2.{rng.integers(1, 255)}",
    "MAC_ADDRESS": lambda rng: f"00-00-5E-00-53-{rng.integers(0, 256):02X}",
    "URL": lambda rng: f"https://example.com/{rng.integers(0, 16**6):06x}",
    "CRYPTO": _wallet,
    "COORDINATES": lambda rng: f"0.00{_digits(rng, 4)}, 0.00{_digits(rng, 4)}",  # in the Atlantic
    "STREET_ADDRESS": lambda rng: f"{rng.integers(1, 200)} {STREETS[rng.integers(0, len(STREETS))]}",
    "DATE_TIME": lambda rng: f"{rng.integers(1, 29):02d}/{rng.integers(1, 13):02d}/{rng.integers(1950, 2020)}",
}
_CHOICES: Mapping[str, Sequence[str | int]] = {
    "LOCATION": TOWNS,
    "ORGANIZATION": COMPANIES,
    "ZIP_CODE": ("00000",),  # no post office has it
    "AGE": range(18, 91),
    "NRP": ("Ruritanian", "Freedonian", "Sylvanian"),
    "TITLE": ("Mx.",),
}


def _names(regions: Sequence[str], rng: np.random.Generator) -> tuple[list[str], list[str]]:
    people = {region: _people(region) for region in sorted(set(regions))}
    u, v = rng.random(len(regions)), rng.random(len(regions))
    first = [people[r][0][int(x * len(people[r][0]))] for r, x in zip(regions, u, strict=True)]
    last = [people[r][1][int(x * len(people[r][1]))] for r, x in zip(regions, v, strict=True)]
    return first, last


def _people(region: str) -> tuple[list[str], list[str]]:
    from importlib import import_module

    provider = import_module(f"faker.providers.person.{_LOCALES[region]}").Provider
    return list(provider.first_names), list(provider.last_names)


def _person(column: str, first: list[str], last: list[str]) -> list[str]:
    """Full names, or the part of them that the column's name asks for."""
    plain = to_ascii(column.lower())
    if re.search(r"first|given|vorname|prenom|nombre", plain):
        return first
    if re.search(r"last|family|surname|nachname|apellido|nom_de_famille", plain):
        return last
    return [f"{f} {s}" for f, s in zip(first, last, strict=True)]


def _emails(first: list[str], last: list[str], rng: np.random.Generator) -> list[str]:
    domains = rng.integers(0, len(RESERVED_DOMAINS), len(first))
    return [
        f"{_handle(f)}.{_handle(s)}{i}@{RESERVED_DOMAINS[d]}"
        for i, (f, s, d) in enumerate(zip(first, last, domains, strict=True), 1)
    ]


def _handle(name: str) -> str:
    return re.sub(r"[^a-z]", "", to_ascii(name).lower())


# -- what is told apart ------------------------------------------------------------------------------------------------


def _is_reserved(host: str) -> bool:
    reserved = any(host == d or host.endswith(f".{d}") for d in RESERVED_DOMAINS)
    return reserved or host.rsplit(".", 1)[-1] in RESERVED_ENDINGS


def _real_email(value: str) -> bool:
    return not _is_reserved(plain_email(value).rsplit("@", 1)[-1])


def _real_telephone(value: str) -> bool:
    digits = re.sub(r"\D", "", value)
    if not value.strip().startswith("+"):
        codes = {"07": "44", "02": "44", "06": "33", "03": "49"}
        digits = (
            codes[digits[:2]] + digits[1:] if digits[:2] in codes else digits if len(digits) == 11 else f"1{digits}"
        )
    return _FICTION.fullmatch(digits) is None


def _real_itin(value: str) -> bool:
    digits = re.sub(r"\D", "", value)
    return (
        len(digits) == 9 and digits[0] == "9" and re.match(r"5\d|6[0-5]|7\d|8[0-8]|9[0-24-9]", digits[3:5]) is not None
    )


def _real_ip(value: str) -> bool:
    address = ipaddress.ip_address(plain_ip(value))
    return address.is_global and not any(address in net for net in DOCUMENTATION_NETS)


def _real_mac(value: str) -> bool:
    """Neither for documentation nor a broadcast or all-zero address."""
    digits = re.sub(r"[^0-9a-f]", "", value.lower())
    return not digits.startswith("00005e0053") and len(set(digits)) > 1


def _real_url(value: str) -> bool:
    host = re.sub(r"^[a-z]+://", "", value.lower()).split("/")[0].split("@")[-1].split(":")[0]
    return not _is_reserved(host)


def _real_place(value: str) -> bool:
    numbers = [abs(float(x)) for x in re.findall(r"-?\d+\.\d+", value)]
    return "°" in value or len(numbers) != 2 or max(numbers) >= 0.01


_CHECKS: Mapping[str, Callable[[str], bool]] = {
    "EMAIL_ADDRESS": _real_email,
    "PHONE_NUMBER": _real_telephone,
    "US_SSN": is_ssn,
    "US_ITIN": _real_itin,
    "FR_NIR": is_nir,
    "CREDIT_CARD": lambda value: passes_luhn(re.sub(r"\D", "", value)),
    "IBAN_CODE": passes_mod97,
    "IP_ADDRESS": _real_ip,
    "MAC_ADDRESS": _real_mac,
    "URL": _real_url,
    "CRYPTO": is_wallet,
    "COORDINATES": _real_place,
}
