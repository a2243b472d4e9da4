"""Which of the texts that a language model wrote are kept: public rules, then what was bought. Nothing here sees a row."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from dpsynth.models.language.guide import Guide
from dpsynth.models.language.shapes import PARTS, SIZE, shape_of
from dpsynth.models.language.words import STEPS, WordRows
from dpsynth.privacy.pii import fill_placeholders, find_leaks
from dpsynth.privacy.source import FloatArray, IntArray

if TYPE_CHECKING:
    from scipy.sparse import csr_array

# Letters of a word, and times that a text repeats one word, at most.
LONGEST_WORD, MOST_REPEATS = 25, 4
# What the prompt begins its lines with: a text that goes on with them has left its subject.
_PROMPT_LINE = re.compile(r"(?i)\b(words|text|category|subject)\s*:")
_PLACE = re.compile(r"\s+")
# How far the means of a group's chosen texts may lie from those that were bought, beside what noise explains. Written texts cannot
# have all the means of real ones; to ask for less than this costs other means more than it gains.
_LEEWAY = 0.05
# The same for shapes: they are known of all texts together, and groups differ.
_SHAPE_LEEWAY = 0.2
# What a standard deviation of the marks is worth, in root mean squared lengths: with this, choices from much and from little that was
# bought (banking77, training rows, epsilon 4 and 1) came out equally fluent.
_WORTH = 40.0
# A text may go to the group whose centroid it lies nearest, and to the one it was written for where that is among so many nearest.
_NEAREST = 3
# Texts that are looked at together, at most: what is above is cut into parts.
_PART = 3000


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
    return None if _could_be_somebodys(bare) else bare


def _could_be_somebodys(text: str) -> bool:
    """Whether a text, its placeholders filled, holds a valid identifier: a model can come by one that a real person has."""
    return bool(find_leaks(map(str, fill_placeholders([text], np.random.default_rng(0)))))


def fit_of(guide: Guide, along: npt.NDArray[np.float32]) -> FloatArray:
    """How near texts lie to each group's centroid, shape (texts, groups): cosines, above which one would expect of that group.

    along: the texts' embeddings along the guide's projection.

    Groups without rows, as far as one can see, are out of the question: -1.
    """
    near: FloatArray = along.astype(np.float64) @ guide.centroids.T
    near[:, guide.groups.counts < LEAST_UNITS] = -1.0
    return near


def first(wanted: IntArray, made_for: IntArray) -> IntArray:
    """For each wanted text the number of the next that was written for its group, shape (wanted,); where these are too few, they come
    again, and where there are none, any text will do."""
    out = np.empty(len(wanted), np.int64)
    for group in np.unique(wanted):
        places, own = np.flatnonzero(wanted == group), np.flatnonzero(made_for == group)
        out[places] = np.resize(own if len(own) else np.arange(len(made_for)), len(places))
    return out


def best(made_for: IntArray, marks: FloatArray, share: float) -> IntArray:
    """Numbers of the texts that are left when of each group this share stays, those with the highest marks and all that are level with the
    last of them. A text with a mark of -inf never stays."""
    kept = [np.zeros(0, np.int64)]
    for group in np.unique(made_for):
        own = np.flatnonzero(made_for == group)
        stay = math.ceil(share * len(own))
        own = own[marks[own] > -np.inf]
        if len(own):
            kept.append(own[marks[own] >= np.sort(marks[own])[-min(stay, len(own))]])
    return np.sort(np.concatenate(kept))


# Units below which a group is nobody's: a text is not taken for one of its.
LEAST_UNITS = 1.0


def chosen(
    wanted: IntArray,
    made_for: IntArray,
    texts: Sequence[str],
    embeddings: npt.NDArray[np.float32],
    guide: Guide,
    rng: np.random.Generator,
    *,
    marks: FloatArray | None = None,
    weight: float = 0.0,
) -> IntArray:
    """For each wanted text the number of the one that it gets, shape (wanted,): each at most once while there are enough.

    wanted: groups, shape (wanted,).  made_for: the group that each of the texts was written for.  embeddings: shape (texts, 384).
    marks: how good each text is by itself, shape (texts,).  weight: of that beside the means; see `_Moments.matched`.

    Of each group those texts are taken which together have the means that were bought: of embeddings, of words and, for all groups
    alike, of shapes. A text may serve another group than the one it was written for, if it lies nearest to that. A group with too few
    takes the nearest of all.
    """
    along = guide.projection(embeddings)
    near = fit_of(guide, along)
    out = np.full(len(wanted), -1, np.int64)
    used = np.zeros(len(made_for), bool)
    favour = np.zeros(len(texts)) if marks is None else _WORTH * weight * _standing(marks)
    moments = _Moments.of(guide, texts, along, favour)
    nearest = near.argmax(axis=1)
    meant = (near > near[np.arange(len(near)), made_for][:, None]).sum(axis=1) < _NEAREST
    for group in rng.permutation(np.unique(wanted)):
        places = rng.permutation(np.flatnonzero(wanted == group))
        own = rng.permutation(np.flatnonzero((nearest == group) | (meant & (made_for == group))))
        own = own[~used[own]]
        taken = moments.matched(int(group), own, len(places))
        out[places[: len(taken)]] = taken
        used[taken] = True
    for place in np.flatnonzero(out < 0):
        group = wanted[place]
        margin = near[:, group] - near.max(axis=1) + 0.1 * (made_for == group) - 10.0 * used
        out[place] = int(np.argmax(margin))
        used[out[place]] = True
    return out


@dataclass(frozen=True, kw_only=True, eq=False)
class _Moments:
    """Texts as vectors whose means were bought, and those means by group.

    along, words, shapes: parts of the moments, shape (texts, moments of each); words are few of many.  means, leeway: of each group, and by
    how much a mean may be missed, shape (groups, moments).  favour: what a text is worth by itself, shape (texts,).
    """

    along: npt.NDArray[np.float32]
    words: csr_array[Any]
    shapes: npt.NDArray[np.float32]
    means: FloatArray
    leeway: FloatArray
    favour: FloatArray

    @classmethod
    def of(cls, guide: Guide, texts: Sequence[str], along: npt.NDArray[np.float32], favour: FloatArray) -> _Moments:
        groups, counts = guide.groups.size, np.maximum(guide.groups.counts, 1.0)[:, None]
        shares = np.maximum(guide.shapes[:SIZE], 0.0)
        shares = shares / max(shares.sum(), 1e-300)
        sets = (
            (guide.sums / counts, guide.sum_sigma / counts + _LEEWAY),
            (guide.word_counts / counts, guide.word_sigma / counts + _LEEWAY),
            ((shares @ PARTS)[None, :], np.full((1, 1), _SHAPE_LEEWAY)),
        )
        widths = [means.shape[1] for means, _ in sets]
        return cls(
            along=along.astype(np.float32),
            words=WordRows(guide.column, guide.words).encode(texts).astype(np.float32) / np.float32(STEPS),
            shapes=PARTS[shapes_of(texts)].astype(np.float32),
            means=np.hstack([np.broadcast_to(means, (groups, w)) for w, (means, _) in zip(widths, sets, strict=True)]),
            leeway=np.hstack([np.broadcast_to(away, (groups, w)) for w, (_, away) in zip(widths, sets, strict=True)]),
            favour=favour,
        )

    def matched(self, group: int, among: IntArray, n: int) -> IntArray:
        """n of the texts `among`, or all where there are fewer, whose means come near the group's: shape (at most n,).

        One after another the text is taken that brings the sum of those taken so far nearest to as many times the mean (herding:
        Welling, "Herding dynamical weights to learn", 2009), distances counted in leeways. What a text is worth by itself counts
        beside that, in root mean squared lengths of these texts.
        """
        parts = max(1, -(-len(among) // _PART))
        taken = [
            self._herded(group, among[k::parts], n // parts + (k < n % parts)) for k in range(parts)
        ]  # `among` is in random order
        return np.concatenate(taken)

    def _herded(self, group: int, among: IntArray, n: int) -> IntArray:
        features = np.hstack([self.along[among], self.words[among].toarray(), self.shapes[among]])
        scaled = features / self.leeway[group]
        mean = self.means[group] / self.leeway[group]
        squares, gain = (scaled**2).sum(axis=1), 2 * (scaled @ mean)
        squares -= self.favour[among] * math.sqrt(squares.sum() / max(len(among), 1))
        n = min(n, len(among))
        taken, ahead = np.empty(n, np.int64), np.zeros(len(among))
        for m in range(n):
            ahead += gain
            best = int(np.argmax(ahead - squares))
            taken[m] = best
            ahead -= 2 * (scaled @ scaled[best])
            squares[best] = np.inf
        return among[taken]


def _standing(marks: FloatArray) -> FloatArray:
    """Marks in standard deviations from their mean; 0 where all are level."""
    spread = float(marks.std())
    out: FloatArray = (marks - marks.mean()) / spread if spread > 0 else np.zeros(len(marks))
    return out


def shapes_of(texts: Sequence[str]) -> IntArray:
    return np.array([shape_of(t) for t in texts], np.int64).reshape(len(texts))
