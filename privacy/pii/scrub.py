"""Spans to placeholders before learning, placeholders to fakes after sampling."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from dpsynth.privacy.pii.columns import MASKED
from dpsynth.privacy.pii.fakes import fake_columns
from dpsynth.privacy.pii.identifiers import Span

_PLACEHOLDER = re.compile(r"<([A-Z][A-Z_]+)>")
_RANK = {entity: i for i, entity in enumerate(MASKED)}


def neutralise(text: str) -> str:
    """The text with placeholders of its own made harmless: <PERSON> becomes (PERSON)."""
    return _PLACEHOLDER.sub(r"(\1)", text)


def replace_spans(text: str, spans: Sequence[Span]) -> str:
    """The text with each span replaced by <ENTITY>; overlapping spans become one, named by the longest (the surest)."""
    merged: list[tuple[int, int, Span]] = []
    for span in sorted(spans):
        if merged and span.start < merged[-1][1]:
            start, end, best = merged[-1]
            longest = max(best, span, key=lambda s: (s.end - s.start, -_RANK.get(s.entity, len(_RANK))))
            merged[-1] = (start, max(end, span.end), longest)
        else:
            merged.append((span.start, span.end, span))
    out, at = [], 0
    for start, end, span in merged:
        out += [text[at:start], f"<{span.entity}>"]
        at = end
    return "".join([*out, text[at:]])


def fill_placeholders(texts: Sequence[str | None], rng: np.random.Generator) -> list[str | None]:
    """Texts with a fake for each placeholder, from reserved ranges; a text's placeholders are of one person throughout."""
    found = [set(_PLACEHOLDER.findall(t)) if t is not None else set() for t in texts]
    places = [i for i, entities in enumerate(found) if entities]
    made = fake_columns({e: e for e in sorted(set().union(*found))}, len(places), rng)
    out = list(texts)
    for row, i in enumerate(places):
        text = texts[i] or ""
        for entity in sorted(found[i]):
            text = text.replace(f"<{entity}>", made[entity][row])
        out[i] = text
    return out
