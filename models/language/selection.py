"""Which of the texts that a language model wrote are kept: public rules, then what was bought. Nothing here sees a row."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from dpsynth.models.language.guide import Guide
from dpsynth.models.language.shapes import SIZE, shape_of
from dpsynth.privacy.source import FloatArray, IntArray

# Letters of a word, and times that a text repeats one word, at most.
LONGEST_WORD, MOST_REPEATS = 25, 4
# What the prompt begins its lines with: a text that goes on with them has left its subject.
_PROMPT_LINE = re.compile(r"(?i)\b(words|text|category|subject)\s*:")
_PLACE = re.compile(r"\s+")
# Softness of the choice among texts that lie in the right group: a text of a shape that is wanted twice as often is twice as likely.
_RARE = 1e-3


def cleaned(text: str, *, ended: bool = True) -> str | None:
    """A text without blanks at its ends and control characters; None where public rules refuse it.

    ended: whether it came to its end by itself; if not, what follows its last whole sentence is cut off.
    """
    if not ended:
        text = text[: max(text.rfind(mark) for mark in ".?!") + 1]
    bare = _PLACE.sub(" ", "".join(c for c in text if unicodedata.category(c)[0] != "C" or c in "\t\n")).strip(' "')
    words = bare.lower().split()
    if not words or not any(c.isalpha() for c in bare) or _PROMPT_LINE.search(bare):
        return None
    counts = [words.count(w) for w in set(words)]
    if max(map(len, words)) > LONGEST_WORD or (max(counts) > MOST_REPEATS and max(counts) > len(words) / 4):
        return None
    return bare


def fit_of(guide: Guide, embeddings: npt.NDArray[np.float32]) -> FloatArray:
    """How near texts lie to each group's centroid, shape (texts, groups): cosines, above which one would expect of that group.

    Groups without rows, as far as one can see, are out of the question: -1.
    """
    near: FloatArray = guide.projection(embeddings).astype(np.float64) @ guide.centroids.T
    near[:, guide.groups.counts < LEAST_UNITS] = -1.0
    return near


# Units below which a group is nobody's: a text is not taken for one of its.
LEAST_UNITS = 1.0


def chosen(
    wanted: IntArray, made_for: IntArray, near: FloatArray, shapes: IntArray, guide: Guide, rng: np.random.Generator
) -> IntArray:
    """For each wanted text the number of the one that it gets, shape (wanted,): each at most once while there are enough.

    wanted: groups, shape (wanted,).  made_for, shapes: of the texts, shape (texts,).  near: as `fit_of` gives it.

    A text goes to the group whose centroid it lies nearest, whatever it was written for; among a group's texts, shapes are drawn as often
    as the rows have them. A group with too few takes the nearest of those that were written for it, then of all.
    """
    out = np.full(len(wanted), -1, np.int64)
    belongs = near.argmax(axis=1)
    prefer = _shape_weights(guide.shapes, shapes)
    used = np.zeros(len(made_for), bool)
    for group in np.unique(wanted):
        places = np.flatnonzero(wanted == group)
        own = np.flatnonzero((belongs == group) & ~used)
        if len(own) > len(places):
            keys = rng.exponential(size=len(own)) / prefer[own]
            own = own[np.argsort(keys)[: len(places)]]
        out[rng.permutation(places)[: len(own)]] = own
        used[own] = True
    for place in np.flatnonzero(out < 0):
        group = wanted[place]
        margin = near[:, group] - near.max(axis=1) + 0.1 * (made_for == group) - 10.0 * used
        out[place] = int(np.argmax(margin))
        used[out[place]] = True
    return out


def _shape_weights(counts: FloatArray, shapes: IntArray) -> FloatArray:
    """Of each text, how much more often its shape is wanted than it was written."""
    target = np.maximum(counts[:SIZE], 0.0)
    target = target / max(target.sum(), 1e-300) + _RARE / SIZE
    written = np.bincount(shapes, minlength=SIZE) / max(len(shapes), 1)
    weights: FloatArray = target[shapes] / np.maximum(written[shapes], 1e-12)
    return weights


def shapes_of(texts: Sequence[str]) -> IntArray:
    return np.array([shape_of(t) for t in texts], np.int64).reshape(len(texts))
