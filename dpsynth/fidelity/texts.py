"""How near written texts are to real ones: figures of two sets of texts, or of their embeddings. Reads real texts: for the owner alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.floating]

_SCALE, _POINTS = 5.0, 25
# Neighbours that span the space around a text, in precision and recall.
_NEAREST = 3
# Letters that stand together when two texts are compared, and how much of these two near-copies share (Jaccard).
_LETTERS, _NEAR = 5, 0.8
# Texts whose runs of letters are held at a time.
_CHUNK = 5_000


def mauve(real: Array, synthetic: Array, *, clusters: int | None = None, seed: int = 0) -> float:
    """MAUVE of two sets of embeddings, shapes (n, d) and (m, d): from 0, nothing in common, to 1, not to be told apart.

    Both are cut into the same k-means clusters; the area under the curve of exp(-5 KL(p | r)) against exp(-5 KL(q | r)), r running over
    the mixtures of the two histograms (Pillutla et al., "MAUVE: Measuring the Gap Between Neural Text and Human Text using Divergence
    Frontiers", 2021). Sets of different sizes and numbers of clusters give different values: compare like with like.
    """
    from sklearn.cluster import KMeans
    from sklearn.decomposition import PCA
    from sklearn.metrics import auc

    both = np.concatenate([real, synthetic]).astype(np.float64)
    both /= np.maximum(np.linalg.norm(both, axis=1, keepdims=True), 1e-12)
    distinct = len(np.unique(both.round(6), axis=0))  # texts may repeat
    if distinct == 1:
        return 1.0
    both = PCA(n_components=0.9, svd_solver="full", random_state=seed).fit_transform(both)
    k = min(clusters or max(min(len(real), len(synthetic)) // 10, 2), 500, distinct)
    place = KMeans(k, n_init=5, random_state=seed).fit_predict(both)
    p, q = (np.bincount(part, minlength=k) / len(part) for part in (place[: len(real)], place[len(real) :]))
    along = [(0.0, 1.0), (1.0, 0.0)]
    for mix in np.linspace(1e-6, 1 - 1e-6, _POINTS):
        r = mix * p + (1 - mix) * q
        along.append((np.exp(-_SCALE * _kl(q, r)), np.exp(-_SCALE * _kl(p, r))))
    x, y = np.array(sorted(along, key=lambda point: (point[0], -point[1]))).T
    return float(auc(x, y))


def _kl(p: Array, q: Array) -> float:
    held = p > 0
    return float((p[held] * np.log(p[held] / q[held])).sum())


def frechet(real: Array, synthetic: Array) -> float:
    """Squared Frechet distance of two sets of embeddings as normal distributions, shapes (n, d) and (m, d): 0 where mean and
    covariance are equal (Heusel et al., "GANs Trained by a Two Time-Scale Update Rule", 2017). Few texts make it larger: compare like with like.
    """
    first, second = (np.asarray(side, np.float64) for side in (real, synthetic))
    apart = first.mean(axis=0) - second.mean(axis=0)
    a, b = (np.cov(side, rowvar=False, bias=True) for side in (first, second))
    values, vectors = np.linalg.eigh(a)
    root = (vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T
    shared = np.sqrt(np.clip(np.linalg.eigvalsh(root @ b @ root), 0, None)).sum()
    return max(float(apart @ apart + np.trace(a) + np.trace(b) - 2 * shared), 0.0)


def precision_recall(real: Array, synthetic: Array) -> tuple[float, float]:
    """(share of synthetic embeddings that lie among real ones, share of real ones that lie among synthetic ones).

    Among: no further from one of them than its third nearest neighbour of its own kind (Kynkaanniemi et al., "Improved Precision and
    Recall Metric for Assessing Generative Models", 2019). Wants at least four of each.
    """
    first, second = (np.asarray(side, np.float64) for side in (real, synthetic))
    between = _squares(first, second)
    precise = (between <= _radii(first)[:, None]).any(axis=0).mean()
    recalled = (between <= _radii(second)[None, :]).any(axis=1).mean()
    return float(precise), float(recalled)


def _radii(points: Array) -> Array:
    """Squared distance of each to its third nearest neighbour; the first is itself."""
    near: Array = np.partition(_squares(points, points), _NEAREST, axis=1)[:, _NEAREST]
    return near


def _squares(a: Array, b: Array) -> Array:
    out: Array = (a * a).sum(1)[:, None] + (b * b).sum(1)[None, :] - 2 * a @ b.T
    return np.clip(out, 0, None)


def lengths_apart(real: Sequence[str], synthetic: Sequence[str]) -> float:
    """Largest difference of the shares of texts with at most so many words, over all numbers of words (Kolmogorov-Smirnov): 0 to 1."""
    first, second = (np.sort([len(text.split()) for text in side]) for side in (real, synthetic))
    at = np.union1d(first, second)
    below = [np.searchsorted(side, at, side="right") / len(side) for side in (first, second)]
    return float(np.abs(below[0] - below[1]).max())


def words_apart(real: Sequence[str], synthetic: Sequence[str]) -> float:
    """Total variation distance of how often each word occurs, 0 to 1. Of few texts, even two real sets are far apart."""
    first, second = (Counter(word for text in side for word in text.lower().split()) for side in (real, synthetic))
    sizes = [max(sum(side.values()), 1) for side in (first, second)]
    return 0.5 * sum(abs(first[word] / sizes[0] - second[word] / sizes[1]) for word in first.keys() | second.keys())


def nearly_copied(texts: Sequence[str], sources: Sequence[str]) -> float:
    """Share of the texts that share four fifths of their runs of five letters with a source (Jaccard): copies, but for a word or two."""
    if not texts:
        return 0.0
    own = _letters(texts)
    sizes = np.asarray(own.sum(axis=1)).ravel()
    found = np.zeros(len(texts), bool)
    for start in range(0, len(sources), _CHUNK):
        other = _letters(sources[start : start + _CHUNK])
        others = np.asarray(other.sum(axis=1)).ravel()
        both = (own @ other.T).tocoo()
        near = both.data >= _NEAR * (sizes[both.row] + others[both.col] - both.data)
        found[both.row[near & (both.data > 0)]] = True
    return float(found.mean())


def _letters(texts: Sequence[str]) -> Any:
    """Runs of letters of each text, as ones in a sparse matrix; a text that is shorter than a run is one run."""
    from sklearn.feature_extraction.text import HashingVectorizer

    padded = [f"{_plain(text):_<{_LETTERS}}" for text in texts]
    vectoriser = HashingVectorizer(
        analyzer="char", ngram_range=(_LETTERS, _LETTERS), binary=True, norm=None, alternate_sign=False
    )
    return vectoriser.transform(padded)


def emitted(texts: Iterable[str], canaries: Sequence[str]) -> int:
    """How many of the canaries (texts that were planted in the source) stand in a text, whatever the case and the spaces."""
    every = "\n".join(map(_plain, texts))
    return sum(canary in every for canary in map(_plain, canaries) if canary)


def _plain(text: str) -> str:
    """Whatever its case and spaces were."""
    return " ".join(text.lower().split())


def repeated(texts: Sequence[str], sources: Sequence[str], *, words: int = 8) -> float:
    """Share of the texts that hold a run of so many words which stands in a source, too."""
    held = {run for text in sources for run in _runs(text, words)}
    return float(np.mean([any(run in held for run in _runs(text, words)) for text in texts])) if len(texts) else 0.0


def _runs(text: str, words: int) -> list[tuple[str, ...]]:
    split = text.lower().split()
    return [tuple(split[i : i + words]) for i in range(len(split) - words + 1)]
