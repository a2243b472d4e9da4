"""Spans to numbered placeholders before learning, placeholders to fakes after sampling.

A placeholder is `<ENTITY_k>`: within one text, the same entity has the same number wherever it stands, and another one another. So
a model learns who is who in a text without seeing who it is, and the fakes that are put in afterwards keep it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import numpy as np

from dpsynth.privacy.pii.columns import MASKED
from dpsynth.privacy.pii.fakes import fake_columns, fake_values
from dpsynth.privacy.pii.identifiers import Span
from dpsynth.privacy.pii.normalise import view

# The number may be lacking, as where a language model leaves it out: it is 1 then.
_PLACEHOLDER = re.compile(rf"<({'|'.join(MASKED)})(?:_(\d{{1,4}}))?>")
_RANK = {entity: i for i, entity in enumerate(MASKED)}
# Detectors often find these in two parts, with a space between.
_IN_PARTS = ("PERSON", "STREET_ADDRESS", "LOCATION", "ORGANIZATION", "DATE_TIME")
# Of one number in a text, these are one person's, and must fit each other.
_OF_A_PERSON = ("PERSON", "EMAIL_ADDRESS", "PHONE_NUMBER")
_TRIES = 8


def neutralise(text: str) -> str:
    """The text with placeholders of its own made harmless: <PERSON> becomes (PERSON)."""
    return _PLACEHOLDER.sub(lambda found: f"({found[0][1:-1]})", text)


def without_placeholders(text: str) -> str:
    """The text with a blank in place of each placeholder: what it says, but for whom."""
    return _PLACEHOLDER.sub(" ", text)


def replace_spans(text: str, spans: Sequence[Span]) -> str:
    """The text with each span replaced by <ENTITY_k>, k counting the different ones of an entity from 1 as they come.

    Overlapping spans become one, named by the longest (the surest). A part of a name is the name ("Maria" after "Maria
    Gonzalez"), and a telephone number is the same with and without its country's code.
    """
    out, at = [], 0
    known: dict[str, list[tuple[str, ...]]] = {}
    for start, end, entity in _merged(text, spans):
        number = _number(_words(text[start:end], entity), entity, known.setdefault(entity, []))
        out += [text[at:start], f"<{entity}_{number}>"]
        at = end
    return "".join([*out, text[at:]])


def fill_placeholders(
    texts: Sequence[str | None], rng: np.random.Generator, countries: Sequence[object] | None = None
) -> list[str | None]:
    """Texts with a fake for each placeholder, from ranges that nobody can have: post-processing, to be called on sampled texts.

    Within one text, which stands for its row, the same placeholder gets the same fake and different ones get different fakes;
    <PERSON_k>, <EMAIL_ADDRESS_k> and <PHONE_NUMBER_k> are one person's. Nothing goes from one text to another. A model that writes
    texts learns from what `Detector.scrub` returns, samples texts with placeholders in them, and hands these over as they are; what
    it makes up (a number left out or out of order) is filled all the same.

    countries: one for each text, from the row's own column of countries, whose names and telephones people get.
    """
    asked = [(i, *key) for i, text in enumerate(texts) if text for key in _placeholders(text)]
    made: dict[tuple[int, str, int], str] = {}
    people = list(dict.fromkeys((i, k) for i, entity, k in asked if entity in _OF_A_PERSON))
    regions = None if countries is None else [countries[i] for i, _ in people]
    for entity, fakes in fake_columns({e: e for e in _OF_A_PERSON}, len(people), rng, regions).items():
        made |= {(i, entity, k): fake for (i, k), fake in zip(people, fakes, strict=True)}
    for entity in sorted({e for _, e, _ in asked} - set(_OF_A_PERSON)):
        own = [key for key in asked if key[1] == entity]
        made |= _unlike(own, fake_values(entity, len(own), rng), rng)

    def filled(i: int, text: str) -> str:
        return _PLACEHOLDER.sub(lambda found: made[i, found[1], int(found[2] or 1)], text)

    return [filled(i, text) if text else text for i, text in enumerate(texts)]


def _placeholders(text: str) -> Iterator[tuple[str, int]]:
    """The different placeholders of a text, in order."""
    return iter(dict.fromkeys((m[1], int(m[2] or 1)) for m in _PLACEHOLDER.finditer(text)))


def _unlike(
    keys: Sequence[tuple[int, str, int]], fakes: Sequence[str], rng: np.random.Generator
) -> dict[tuple[int, str, int], str]:
    """The fakes of one entity by key, drawn again where a text has one twice (some entities have a few, or one only)."""
    used: set[tuple[int, str]] = set()
    out = {}
    for (i, entity, k), fake in zip(keys, fakes, strict=True):
        for _ in range(_TRIES):
            if (i, fake) not in used:
                break
            (fake,) = fake_values(entity, 1, rng)
        used.add((i, fake))
        out[i, entity, k] = fake
    return out


def _merged(text: str, spans: Sequence[Span]) -> list[Span]:
    """Spans that do not overlap, in order, each with the name of the longest that it was made of."""
    merged: list[tuple[int, int, Span]] = []
    for span in sorted(spans):
        start, end, best = merged[-1] if merged else (0, 0, span)
        apart = span.entity != best.entity or span.entity not in _IN_PARTS or text[end : span.start] != " "
        if not merged or (span.start >= end and apart):
            merged.append((span.start, span.end, span))
        else:
            longest = max(best, span, key=lambda s: (s.end - s.start, -_RANK.get(s.entity, len(_RANK))))
            merged[-1] = (start, max(end, span.end), longest)
    return [Span(start, end, best.entity) for start, end, best in merged]


def _words(found: str, entity: str) -> tuple[str, ...]:
    """What an entity is told by, in the view that undoes disguises: its words without case, or a number's digits."""
    seen = view(found).text.casefold()
    if entity == "PHONE_NUMBER":
        return (re.sub(r"\D", "", seen).lstrip("0"),)
    return tuple(re.findall(r"\w+", seen))


def _number(words: tuple[str, ...], entity: str, known: list[tuple[str, ...]]) -> int:
    """The number of an entity among those of its text; one that is new is added to them."""
    for number, others in enumerate(known, 1):
        if words == others or (words and others and _is_part(words, others, entity)):
            known[number - 1] = max(words, others, key=lambda w: (len(w), len(w[0]) if w else 0))
            return number
    known.append(words)
    return len(known)


def _is_part(a: tuple[str, ...], b: tuple[str, ...], entity: str) -> bool:
    if entity == "PERSON":
        return set(a) <= set(b) or set(b) <= set(a)
    return entity == "PHONE_NUMBER" and min(len(a[0]), len(b[0])) >= 7 and (a[0].endswith(b[0]) or b[0].endswith(a[0]))
