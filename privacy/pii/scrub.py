"""Spans to placeholders before learning, placeholders to fakes after sampling."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from dpsynth.privacy.pii.columns import Span
from dpsynth.privacy.pii.fakes import fake_values

_PLACEHOLDER = re.compile(r"<([A-Z][A-Z_]+)>")


def neutralise(text: str) -> str:
    """The text with placeholders of its own made harmless: <PERSON> becomes (PERSON)."""
    return _PLACEHOLDER.sub(r"(\1)", text)


def replace_spans(text: str, spans: Sequence[Span]) -> str:
    """The text with each span replaced by <ENTITY>; overlapping spans become one, named by the longest."""
    merged: list[tuple[int, int, Span]] = []
    for span in sorted(spans):
        if merged and span.start < merged[-1][1]:
            start, end, best = merged[-1]
            longest = max(best, span, key=lambda s: s.end - s.start)
            merged[-1] = (start, max(end, span.end), longest)
        else:
            merged.append((span.start, span.end, span))
    out, at = [], 0
    for start, end, span in merged:
        out += [text[at:start], f"<{span.entity}>"]
        at = end
    return "".join([*out, text[at:]])


def fill_placeholders(texts: Sequence[str | None], rng: np.random.Generator) -> list[str | None]:
    """Texts with a fake for each placeholder, from reserved ranges; a fake is the same throughout one text."""
    needed: dict[str, int] = {}
    found = [sorted(set(_PLACEHOLDER.findall(t))) if t is not None else [] for t in texts]
    for entities in found:
        for entity in entities:
            needed[entity] = needed.get(entity, 0) + 1
    fakes = {entity: iter(fake_values(entity, n, rng)) for entity, n in sorted(needed.items())}
    out: list[str | None] = []
    for text, entities in zip(texts, found, strict=True):
        for entity in entities:
            text = (text or "").replace(f"<{entity}>", next(fakes[entity]))
        out.append(text)
    return out
