"""Which pairs of columns to measure, from noisy errors of independence."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from dpsynth.encode.codec import Codec
from dpsynth.models.marginals.junction_tree import build
from dpsynth.privacy.source import FloatArray
from dpsynth.privacy.table import PrivateTable
from dpsynth.split import pairs_looked_at

Pair = tuple[int, int]

# Pairs that are looked at for a dense tree, best first: each look triangulates the graph anew.
MAX_CANDIDATES = 300


def dependence(
    table: PrivateTable,
    codecs: Sequence[Codec],
    *,
    n_units: float,
    mu_squared: float,
) -> dict[Pair, float]:
    """Noisy L1 distance of each pair's table from independence, in units (of the pairs that are looked at).

    One vector query: a unit moves each distance by at most 1, so the whole by sqrt(pairs) in L2. The independence tables
    are products of noisy one-way shares, public by now.
    """
    from scipy.sparse import eye_array

    pairs = pairs_looked_at(len(codecs))
    shares = [c.group_shares for c in codecs]
    measured = table.distances(
        [[codecs[a], codecs[b]] for a, b in pairs],
        (n_units * np.outer(shares[a], shares[b]).ravel() for a, b in pairs),
        weights=eye_array(len(pairs), dtype=np.int64, format="csr"),
        mu_squared=mu_squared,
        stage="selection",
        label="distance of each pair from independence",
    )
    return dict(zip(pairs, measured.values.tolist(), strict=True))


def gains(distances: Mapping[Pair, float], sizes: Sequence[int], sigma: float) -> dict[Pair, float]:
    """What measuring each pair is expected to mend: its distance less the L1 noise sqrt(2/pi) sigma of its cells."""
    noise = math.sqrt(2 / math.pi) * sigma
    return {(a, b): distance - noise * sizes[a] * sizes[b] for (a, b), distance in distances.items()}


def spanning_tree(gain: Mapping[Pair, float], d: int) -> list[Pair]:
    """The maximum spanning tree (Kruskal), as in MST (McKenna et al. 2021), but without edges that would add only noise."""
    part = list(range(d))

    def root(a: int) -> int:
        while part[a] != a:
            a = part[a]
        return a

    chosen = []
    for a, b in sorted(gain, key=lambda pair: (-gain[pair], pair)):
        if gain[a, b] > 0 and root(a) != root(b):
            part[root(a)] = root(b)
            chosen.append((a, b))
    return sorted(chosen)


def dense_tree(distances: Mapping[Pair, float], sizes: Sequence[int], mu_squared: float, max_cells: int) -> list[Pair]:
    """Pairs in the order of their gain, as long as a junction tree of `max_cells` cells holds them.

    How many pairs share the budget sets the noise, and the noise sets which pairs are worth it: a few numbers of pairs are
    tried and the best predicted total wins (post-processing of noisy distances).
    """
    d = len(sizes)
    best: tuple[float, list[Pair]] = (-math.inf, [])
    for at_most in sorted({math.ceil((d - 1) * factor) for factor in (0.5, 1, 1.5, 2, 3, 4)}):
        gain = gains(distances, sizes, math.sqrt(at_most / mu_squared))
        chosen: list[Pair] = []
        ranked = sorted((p for p in gain if gain[p] > 0), key=lambda p: (-gain[p], p))
        for pair in ranked[:MAX_CANDIDATES]:
            if len(chosen) < at_most and build(sizes, [*chosen, pair]).cells <= max(
                max_cells, sizes[pair[0]] * sizes[pair[1]]
            ):
                chosen.append(pair)
        total = math.fsum(gain[p] for p in chosen)
        if total > best[0]:
            best = total, sorted(chosen)
    return best[1]


def log_shares(codec: Codec) -> FloatArray:
    """Log of a codec's group shares, floored where a code is empty."""
    return np.log(np.maximum(codec.group_shares, 1e-12))
