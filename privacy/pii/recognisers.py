"""What Presidio's analyzer is given to work with: its own recognisers that are precise enough, and ours.

Ours: identifiers with a form of their own (`identifiers`), the second detector (`rampart`), and what is told by wording in
English, French, German and their neighbours (titles, ages, streets, "my name is").
Only loaded together with Presidio.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from typing import Any

from presidio_analyzer import EntityRecognizer, RecognizerResult
from presidio_analyzer import predefined_recognizers as presidio

from dpsynth.privacy.pii.identifiers import REGIONS, Span, find, looks_like_date, telephones
from dpsynth.privacy.pii.rampart import ENTITIES as RAMPART_ENTITIES
from dpsynth.privacy.pii.rampart import Rampart

LANGUAGE = "en"  # Presidio's name for the one registry; what a recogniser knows does not depend on it
FORM_ENTITIES = (
    "EMAIL_ADDRESS",
    "URL",
    "IP_ADDRESS",
    "MAC_ADDRESS",
    "CRYPTO",
    "US_SSN",
    "CREDIT_CARD",
    "IBAN_CODE",
    "FR_NIR",
    "COORDINATES",
    "PHONE_NUMBER",
)
SURE, LIKELY = 0.95, 0.6


def recognisers(rampart: Rampart | None) -> list[EntityRecognizer]:
    """All recognisers, for a registry of one language. rampart: None leaves out what needs a model."""
    ours: list[EntityRecognizer] = [Forms(), Wording()]
    if rampart is not None:
        ours += [SecondDetector(rampart), presidio.SpacyRecognizer(supported_language=LANGUAGE)]
    # Left out: recognisers that fire on nearly any number or date (US bank, licence, NHS: measured precision below .2).
    names = (
        "CreditCardRecognizer EmailRecognizer IbanRecognizer IpRecognizer MacAddressRecognizer UrlRecognizer CryptoRecognizer "
        "UsSsnRecognizer UsItinRecognizer UsPassportRecognizer NinoRecognizer UkNinoRecognizer EsNifRecognizer EsNieRecognizer "
        "ItFiscalCodeRecognizer DeTaxIdRecognizer DeSocialSecurityRecognizer DeIdCardRecognizer UsMbiRecognizer"
    ).split()
    theirs = [getattr(presidio, n)(supported_language=LANGUAGE) for n in names if hasattr(presidio, n)]
    phones = presidio.PhoneRecognizer(supported_language=LANGUAGE, supported_regions=REGIONS)
    return [*ours, *theirs, phones]


class _Ours(EntityRecognizer):  # type: ignore[misc]  # the package is untyped
    """A recogniser that is a function of the text: subclasses give `entities` and `spans`."""

    entities: tuple[str, ...] = ()
    score = SURE

    def __init__(self) -> None:
        super().__init__(supported_entities=list(self.entities), supported_language=LANGUAGE)

    def load(self) -> None:
        """Nothing to load."""

    def spans(self, text: str, artifacts: Any) -> Iterable[Span]:
        raise NotImplementedError

    def analyze(self, text: str, entities: list[str], nlp_artifacts: Any) -> list[RecognizerResult]:
        return [RecognizerResult(s.entity, s.start, s.end, self.score) for s in self.spans(text, nlp_artifacts)]


class Forms(_Ours):
    """Identifiers with a form of their own."""

    entities = FORM_ENTITIES

    def spans(self, text: str, artifacts: Any) -> Iterator[Span]:
        yield from find(text)
        yield from (span for span, _ in telephones(text))


class SecondDetector(_Ours):
    """Rampart. Where a batch was looked at beforehand, its spans come with the text's artifacts."""

    entities = RAMPART_ENTITIES

    def __init__(self, rampart: Rampart) -> None:
        self.rampart = rampart
        super().__init__()

    def spans(self, text: str, artifacts: Any) -> Sequence[Span]:
        batched: Sequence[Span] | None = getattr(artifacts, "rampart", None)
        return batched if batched is not None else self.rampart.spans([text])[0]


_NAME = r"[^\W\d_][^\W\d_'’.-]*(?:['’-][^\W\d_]+)*\.?"
_FULL_NAME = rf"{_NAME}(?:\s(?:(?:de|da|du|la|van|von|der|den|di|le|el|al|bin)\s)?{_NAME}){{0,2}}"
_TITLE = (
    r"Mr|Mrs|Ms|Miss|Mx|Dr|Drs|Prof|Professor|Doctor|Sir|Madam|Rev|Reverend|Capt|Sgt|Lt|Hon|Judge|Nurse"
    r"|Mme|Mlle|Madame|Monsieur|Mademoiselle|Me|Docteur|Herr|Herrn|Frau|Fräulein|Señora?|Sra?|Srta|Do[nñ]a?|Sig|Signora?|Dott|Dhr|Mevr|Mw"
)
_STREET = r"street|avenue|ave|road|rd|boulevard|blvd|lane|drive|court|square|terrace|parkway|highway|hwy|crescent|alley|trail|turnpike|esplanade"
# Wording that tells what stands beside it. Group "x" is the span; the rest is context.
_WORDING: tuple[tuple[str, str], ...] = (
    ("TITLE", rf"(?<![\w.])(?P<x>(?:{_TITLE})(?:\.|\b))(?=\s+[A-ZÀ-ÖØ-Þ])"),
    ("TITLE", r"(?<![\w.])(?P<x>(?:Mr|Mrs|Ms|Dr|Prof|Mme|Mlle)\.)"),
    ("TITLE", r"(?<![\w.])(?P<x>Miss|Mister|Mrs|Ms|Mr)(?![\w.])"),
    ("PERSON", rf"(?<![\w.])(?:{_TITLE})\.?\s+(?P<x>[A-ZÀ-ÖØ-Þ][\w'’-]*\.?(?:\s[A-ZÀ-ÖØ-Þ][\w'’-]+){{0,2}})"),
    ("PERSON", rf"(?i:my name is|my name's|name is|named|je m'appelle|mein name ist|ich hei(?:ß|ss)e|me llamo|mi chiamo|meu nome é|mijn naam is)\s+(?P<x>{_FULL_NAME})"),
    ("AGE", r"(?i)(?<![\w.,/-])(?P<x>\d{1,3})(?=[\s-]?(?:years?|yrs?|y\.?/?o\.?|ans|jahre|jährige[rn]?|años|anni|anos|jaar)(?:[\s-]old|[\s-]of[\s-]age|\s?d['’]âge|\salt|\sdi\setà)?\b)"),
    ("AGE", r"(?i)\b(?:aged?|alter|âgée?(?:\sde)?|age\s?[:=]|years? old|turned|i['’]?a?m)(?:\s(?:of|is|was|:))?\s(?P<x>1[01]\d|\d{1,2})(?![\w%°/:.,-]\w|\s?(?:minutes?|miles?|km|days?|hours?|weeks?|months?))\b"),
    ("STREET_ADDRESS", rf"(?i)(?<!\w)(?P<x>\d{{1,5}}[a-z]?(?:[-/]\d{{1,4}})?,?\s(?:[\w.'’-]+\s){{0,3}}(?:{_STREET})\b\.?(?:,?\s(?:apt|apartment|suite|ste|unit|no|#)\.?\s?\w+)?)"),
    ("STREET_ADDRESS", r"(?<!\w)(?P<x>(?:\d{1,4}(?:\s?(?:bis|ter))?,?\s)?(?i:rue|avenue|boulevard|impasse|allée|chemin|quai|place|via|viale|piazza|calle|avenida|rua)\s(?:de\sla\s|de\sl['’]|des?\s|du\s|d['’]|della\s|del\s)?[A-ZÀ-ÖØ-Þ][\w'’-]+(?:\s[A-ZÀ-ÖØ-Þ][\w'’-]+){0,2}(?:,?\s\d{1,4}\b)?)"),
    ("STREET_ADDRESS", r"(?P<x>(?<!\w)[A-ZÄÖÜ][\wäöüß.-]*(?:stra(?:ß|ss)e|str\.|gasse|weg|allee|platz|ufer|damm|straat|laan|gatan|vägen|vej|veien|tie|katu)\s\d{1,4}\s?[a-z]?\b)"),
    ("STREET_ADDRESS", r"(?i)(?<!\w)(?P<x>(?:apt|apartment|suite|ste|unit|floor|flat|p\.?\s?o\.?\s?box|box|psc|postfach|bp)\.?\s?#?\d+[a-z]?)(?!\w)"),
    ("STREET_ADDRESS", r"(?<!\w)(?P<x>(?:PSC|USS|USNS|USCGC|Unit|CMR)\s\S[^\n]{0,40}\n?\s?(?:APO|FPO|DPO)\s(?:AA|AE|AP)\s\d{5}(?:-\d{4})?)"),
    ("LOCATION", r"(?i:\b(?:my city is|i live in|living in|based in|moved to|j'habite à|ich wohne in|wohnhaft in|vivo en|abito a)\s)(?P<x>[A-ZÀ-ÖØ-Þ][\w'’.-]+(?:\s[A-ZÀ-ÖØ-Þ][\w'’-]+){0,3})"),
    ("USERNAME", r"(?<![\w@.+/-])(?P<x>@[A-Za-z0-9_]{2,30})\b(?!\.\w)"),
    ("USERNAME", r"(?i)\b(?:user ?name|login|screen ?name|handle|benutzername|identifiant)\s?(?:is|:|=|ist|est)?\s?(?P<x>[\w.-]{3,30})\b"),
    ("USERNAME", r"(?:/home/|/Users/|(?i:[a-z]:)?\\(?:Users|Documents and Settings)\\)(?P<x>[^\s/\\:\"<>|*?]{2,40})"),
    ("PHONE_NUMBER", r"(?i)\b(?:phone|telephone|mobile|cell(?:phone)?|fax|tel|call(?:\s(?:me|us|him|her))?(?:\s(?:at|on|back))?|reach\s\w+\s(?:at|on)|téléphone|portable|telefon(?:nummer)?|handy(?:nummer)?|number)\b[^\d\n+(]{0,25}(?P<x>\+?\(?\d(?:[\s()./x-]{0,3}\d){5,16})(?![\w-])"),
    ("PHONE_NUMBER", r"(?<![\w.,/$€£+-])(?P<x>\+?\(?\d{1,4}\)?(?:[ .-]\(?\d{1,4}\)?){2,6}(?:\s?(?:x|ext\.?)\s?\d{1,6})?|\+\d{7,15})(?![\w%]|[.,]\d|-\d)"),
    ("PHONE_NUMBER", r"(?<![\w.,/$€£+-])(?P<x>\(?\d{3}\)?[ .-]\d{3,4}[ .-]?\d{4}(?:\s?(?:x|ext\.?)\s?\d{1,6})?|\d{3}[ -]\d{4})(?![\w%]|[.,]\d|-\d)"),
    ("CREDIT_CARD", r"(?i)\b(?:card|carte|karte|tarjeta|carta|visa|mastercard|amex)\b[^\d\n]{0,30}(?P<x>\d(?:[ .-]?\d){11,18})(?!\d)"),
    ("NATIONAL_ID", r"(?i)\b(?:passport|driver'?s? licen[cs]e|licen[cs]e|national id|identity card|id card|social insurance|tax id|steuer-?id|ausweis(?:nummer)?|carte d['’]identité|passeport|reisepass|nir|insee|sécurité sociale|sozialversicherungsnummer|medical record|mrn|member id|policy)\b(?:\s(?:number|no|nr|numéro|n°|nummer))?\.?\s?(?:is|:|=|#|ist|est)?\s?(?P<x>(?=[A-Z0-9 -]*\d)[A-Z0-9](?:[ -]?[A-Z0-9]){4,18})\b"),
    ("DATE_TIME", r"(?<![\w/.-])(?P<x>(?:19|20)\d{2}[-/.](?:0?[1-9]|1[0-2])[-/.](?:0?[1-9]|[12]\d|3[01])(?:[T ]\d{1,2}:\d{2}(?::\d{2})?(?:\.\d+)?Z?)?|(?:0?[1-9]|[12]\d|3[01])[-/.](?:0?[1-9]|[12]\d|3[01])[-/.](?:19|20)?\d{2}|(?:0?[1-9]|[12]\d|3[01])\.(?:0?[1-9]|1[0-2])\.(?:19|20)\d{2})(?![\w/-]|\.\d)"),
    ("DATE_TIME", r"(?<![\w./$€£-])(?P<x>(?:19[3-9]\d|20[0-3]\d))(?![\w%]|[-./,:]\d)"),
    ("DATE_TIME", r"(?i)(?<!\w)(?P<x>(?:(?:mon|tues|wednes|thurs|fri|satur|sun)day|lundi|mardi|mercredi|jeudi|vendredi|samedi|dimanche|montag|dienstag|mittwoch|donnerstag|freitag|samstag|sonntag)s?)(?!\w)"),
    ("DATE_TIME", r"(?i)(?<!\w)(?P<x>(?:\d{1,2}(?:st|nd|rd|th|er|\.)?\s)?(?:of\s)?(?:january|february|march|april|june|july|august|september|october|november|december|janvier|février|mars|avril|juin|juillet|août|septembre|octobre|novembre|décembre|januar|februar|märz|juni|juli|oktober|dezember)(?:\s\d{1,2}(?:st|nd|rd|th)?)?(?:,?\s(?:19|20)\d{2})?)(?!\w)"),
    ("ZIP_CODE", r"(?i)\b(?:zip(?:\s?code)?|post(?:al\s|\s)?code|plz|code postal|postleitzahl|cap)\b(?:\s(?:is|est|ist)|\s?[:=])?\s(?P<x>[A-Z0-9]{2,5}[- ]?\d[A-Z0-9]{1,4}|\d{3}\s\d{2}|\d{4,5}(?:-\d{3,4})?)\b"),
    ("ZIP_CODE", r"(?<![\w.])(?P<x>(?:GIR 0AA|[A-Z]{1,2}\d[A-Z\d]?\s\d[A-Z]{2}))(?!\w)"),
)  # fmt: skip


class Wording(_Ours):
    """What the words around a span say it is."""

    entities = tuple(dict.fromkeys(entity for entity, _ in _WORDING)) + ("NRP", "LOCATION")
    score = LIKELY
    _patterns = tuple((entity, re.compile(pattern)) for entity, pattern in _WORDING)

    def spans(self, text: str, artifacts: Any) -> Iterator[Span]:
        has_digit = any(c.isdigit() for c in text)
        for entity, pattern in self._patterns:
            if not has_digit and entity in _NEED_DIGITS:
                continue
            for match in pattern.finditer(text):
                start, end = match.span("x")
                if entity == "PHONE_NUMBER" and not _is_telephone_like(text[start:end]):
                    continue
                yield Span(start, end, entity)
        for match in _WORDS.finditer(text):
            word = match[0].lower()
            if word in _peoples() or word.removesuffix("s") in _peoples():
                yield Span(match.start(), match.end(), "NRP")
        if (countries := _countries()).search(text):
            for match in countries.finditer(text):
                yield Span(match.start(), match.end(), "LOCATION")


def _is_telephone_like(found: str) -> bool:
    return 7 <= sum(c.isdigit() for c in found) <= 18 and not looks_like_date(found)


_NEED_DIGITS = ("PHONE_NUMBER", "AGE", "US_SSN", "CREDIT_CARD", "NATIONAL_ID", "ZIP_CODE")
_WORDS = re.compile(r"[^\W\d_]{4,}")


@lru_cache(maxsize=1)
def _countries() -> re.Pattern[str]:
    from faker.providers.address.en import Provider

    # A few countries are also common words or names.
    names = [n for n in Provider.countries if n not in ("Jordan", "Chad", "Georgia")]
    names += ["USA", "UK", "U.S.", "U.S.A.", "U.K.", "UAE", "England", "Scotland", "Wales", "Deutschland", "Frankreich"]
    names = sorted({re.sub(r"\s*\(.*", "", n) for n in names}, key=len, reverse=True)
    return re.compile(r"(?<!\w)(?:" + "|".join(map(re.escape, names)) + r")(?!\w)")


@lru_cache(maxsize=1)
def _peoples() -> frozenset[str]:
    """Names of peoples, made from the names of countries by English endings: Chile, Chilean."""
    from faker.providers.address.en import Provider

    out: set[str] = set()
    for name in Provider.countries:
        stem = re.sub(r"\s*\(.*", "", name).lower()
        if not re.fullmatch(r"[a-z]{4,}", stem):
            continue
        bare = stem.rstrip("aeiouy")
        out |= {bare + e for e in ("an", "ian", "ean", "ese", "ish", "i")} | {f"{stem}n", f"{stem}ian", f"{stem}i"}
    out |= set(
        "american british english scottish welsh irish french german dutch swiss greek turkish spanish danish swedish norwegian "
        "finnish polish czech slovak russian chinese japanese korean filipino thai indian arab jewish muslim christian catholic "
        "protestant hindu buddhist sikh latino hispanic african asian european israeli saudi iraqi pakistani afghan chechen kurdish "
        "argentine cuban brazilian mexican canadian portuguese belgian dominican salvadoran ecuadorean paraguayan "
        "peruvian ukrainian serbian croatian français française allemand deutsche franzose español italiano".split()
    )  # fmt: skip
    return frozenset(out)
