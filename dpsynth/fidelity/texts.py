"""How near written texts are to real ones. Reads real texts: for the owner alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.floating]

_SCALE, _POINTS = 5.0, 25


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
    both = PCA(n_components=0.9, svd_solver="full", random_state=seed).fit_transform(both)
    k = min(clusters or max(min(len(real), len(synthetic)) // 10, 2), 500)
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


def repeated(texts: Sequence[str], sources: Sequence[str], *, words: int = 8) -> float:
    """Share of the texts that hold a run of so many words which stands in a source, too."""
    held = {run for text in sources for run in _runs(text, words)}
    return float(np.mean([any(run in held for run in _runs(text, words)) for text in texts])) if len(texts) else 0.0


def _runs(text: str, words: int) -> list[tuple[str, ...]]:
    split = text.lower().split()
    return [tuple(split[i : i + words]) for i in range(len(split) - words + 1)]
