"""Which pairs of columns to measure, and how finely, from noisy errors of independence."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from dpsynth.encode.cells import LabelCells
from dpsynth.encode.codec import Codec
from dpsynth.encode.grid import even_groups, label_groups
from dpsynth.models.marginals.junction_tree import Triangulation
from dpsynth.privacy.source import FloatArray, IntArray
from dpsynth.privacy.table import PrivateTable
from dpsynth.split import RESOLUTIONS, pairs_looked_at, resolutions_looked_at

Pair = tuple[int, int]
# A pair at one of the resolutions of `RESOLUTIONS`, by its index.
Choice = tuple[Pair, int]

# Pairs that are looked at for a dense tree, best first.
MAX_CANDIDATES = 1000
# Tables beyond the tree, at most.
MAX_FURTHER = 400
# The ridge of the fit takes away most of a table's noise: this share of it stands against a pair's gain. Measured on census
# and credit tables at epsilon .1 to 10, flat from .2 to .7.
NOISE_LEFT, NOISE_LEFT_FURTHER = 0.5, 0.35
# A pair of the tree is measured coarsely too where the L1 noise of its table is more than the first share of the units and its
# coarse distance from independence more than the second: cells that hold nothing keep the positive half of their noise, which
# blurs a strong dependence over the whole table.
BLURRED, STRONG = 0.5, 0.15


@dataclass(frozen=True, kw_only=True, slots=True)
class Selection:
    """Pairs whose tables the junction tree holds, and further ones beside it."""

    tree: tuple[Choice, ...]
    further: tuple[Choice, ...] = ()


def coarser(codec: Codec, at_most: int) -> Codec:
    """The codec with at most about that many codes: neighbours on a line taken together, or the rarest labels."""
    if codec.size <= at_most:
        return codec
    shares = codec.group_shares
    if isinstance(codec.cells, LabelCells):
        merged = label_groups(shares, at_most)
    else:
        missing = int(codec.groups[codec.cells.missing])
        if np.any(codec.groups[:-1] == missing):  # no code of its own
            merged = even_groups(shares, at_most)
        else:
            line = even_groups(np.delete(shares, missing), max(at_most - 1, 2))
            merged = np.insert(line, missing, line.max() + 1)
    return Codec(codec.cells, codec.shares, merged[codec.groups])


def steps_between(fine: Codec, coarse: Codec) -> IntArray:
    """Code under `coarse` of each code of `fine`, shape (fine.size,)."""
    index = np.zeros(fine.size, np.int64)
    index[fine.groups] = coarse.groups
    return index


def resolutions(codecs: Sequence[Codec]) -> list[list[Codec]]:
    """Each column at each of `RESOLUTIONS`, finest first."""
    return [[codec if at_most is None else coarser(codec, at_most) for at_most in RESOLUTIONS] for codec in codecs]


def independent(levels: Sequence[Sequence[Codec]], n_units: float) -> Callable[[Choice], FloatArray]:
    """Tables of pairs in units, flat in C order, if columns were independent: products of noisy one-way shares, public by now."""

    def expected(choice: Choice) -> FloatArray:
        (a, b), level = choice
        table: FloatArray = n_units * np.outer(levels[a][level].group_shares, levels[b][level].group_shares).ravel()
        return table

    return expected


def distances(
    table: PrivateTable,
    levels: Sequence[Sequence[Codec]],
    expected: Callable[[Choice], FloatArray],
    *,
    mu_squared: float,
    label: str,
) -> dict[Choice, float]:
    """Noisy L1 distance of each pair's table from what is expected of it, in units (of the pairs and resolutions looked at).

    One vector query: a unit moves each distance by at most 1, so the whole by the root of their number in L2.
    expected: of a pair at a resolution, a public table in units, flat in C order.
    """
    from scipy.sparse import eye_array

    asked = list(looked_at(levels))
    measured = table.distances(
        [[levels[a][level], levels[b][level]] for (a, b), level in asked],
        map(expected, asked),
        weights=eye_array(len(asked), dtype=np.int64, format="csr"),
        mu_squared=mu_squared,
        stage="selection",
        label=label,
    )
    return dict(zip(asked, measured.values.tolist(), strict=True))


def looked_at(levels: Sequence[Sequence[Codec]]) -> Iterable[Choice]:
    """Pairs at each resolution that differs from the one before."""
    wanted = resolutions_looked_at(len(levels))
    for a, b in pairs_looked_at(len(levels)):
        seen = None
        for level in wanted:
            sizes = levels[a][level].size, levels[b][level].size
            if sizes != seen:
                yield (a, b), level
            seen = sizes


def gains(
    distances: Mapping[Choice, float],
    sizes: Sequence[Sequence[int]],
    sigma: float,
    *,
    noise_left: float,
    weights: Sequence[float],
) -> dict[Choice, float]:
    """What measuring each pair is expected to mend: its distance less what stays of the L1 noise sqrt(2/pi) sigma of its cells.

    sizes: of each column at each resolution.  weights: of each column; a pair's is their product.
    """
    noise = noise_left * math.sqrt(2 / math.pi) * sigma
    return {
        ((a, b), level): weights[a] * weights[b] * (distance - noise * sizes[a][level] * sizes[b][level])
        for ((a, b), level), distance in distances.items()
    }


def best_of_pairs(gain: Mapping[Choice, float]) -> Iterable[Choice]:
    """Each pair once, at the resolution of its largest gain."""
    best: dict[Pair, Choice] = {}
    for choice in sorted(gain, key=lambda c: (gain[c], c)):
        best[choice[0]] = choice
    return best.values()


def spanning_tree(gain: Mapping[Choice, float], d: int) -> list[Choice]:
    """The maximum spanning tree (Kruskal), as in MST (McKenna et al. 2021), but without edges that would add only noise."""
    part = list(range(d))

    def root(a: int) -> int:
        while part[a] != a:
            a = part[a]
        return a

    chosen = []
    for choice in sorted(gain, key=lambda c: (-gain[c], c)):
        (a, b), _ = choice
        if gain[choice] > 0 and root(a) != root(b):
            part[root(a)] = root(b)
            chosen.append(choice)
    return sorted(chosen)


def select(
    distances: Mapping[Choice, float],
    sizes: Sequence[Sequence[int]],
    mu_squared: float,
    *,
    n_units: float,
    weights: Sequence[float],
    max_cells: int,
    further_weight: float,
    held: Sequence[Pair] = (),
    max_tables: int = sys.maxsize,
) -> Selection:
    """The pairs of a junction tree of `max_cells` cells at the finest resolution, and further tables beside them: pairs that
    the tree does not hold, at whichever resolution is best, and coarse ones of those in it that noise would blur.

    further_weight: share of mu^2 that a further table gets, against one of the tree; 0 = none.  held: pairs in the tree already.
    max_tables: with those of single columns; the tree's come first.
    """
    finest = _finest(distances)
    tree = dense_tree(finest, sizes, mu_squared, weights=weights, max_cells=max_cells, held=held)
    room = max_tables - len(sizes) - len(held) - len(tree)
    if further_weight == 0 or room <= 0:
        return Selection(tree=tuple(tree))
    chosen = {pair for pair, _ in tree}
    rest = {choice: distance for choice, distance in distances.items() if choice[0] not in chosen}
    further: list[Choice] = []
    for _ in range(5):  # the number of tables sets the noise, which sets the number of tables
        sigma = math.sqrt((len(tree) / further_weight + max(len(further), 1)) / mu_squared)
        gain = gains(rest, sizes, sigma, noise_left=NOISE_LEFT_FURTHER, weights=weights)
        worth = sorted((c for c in best_of_pairs(gain) if gain[c] > 0), key=lambda c: (-gain[c], c))
        further = worth[: min(MAX_FURTHER, room)]
    sigma = math.sqrt((len(tree) + further_weight * len(further)) / mu_squared)
    coarse = list(_blurred(tree, distances, sizes, sigma, n_units))[: room - len(further)]
    return Selection(tree=tuple(tree), further=tuple(sorted([*further, *coarse])))


def _blurred(
    tree: Sequence[Choice],
    distances: Mapping[Choice, float],
    sizes: Sequence[Sequence[int]],
    sigma: float,
    n_units: float,
) -> Iterable[Choice]:
    """The coarsest look at each pair of the tree that noise would blur."""
    for (a, b), level in tree:
        noise = math.sqrt(2 / math.pi) * sigma * sizes[a][level] * sizes[b][level]
        coarsest = max(at for at in range(len(sizes[a])) if ((a, b), at) in distances)
        if noise > BLURRED * n_units and coarsest > level and distances[(a, b), coarsest] > STRONG * n_units:
            yield (a, b), coarsest


def _finest(distances: Mapping[Choice, float]) -> dict[Choice, float]:
    """Each pair at the finest resolution that was looked at."""
    level: dict[Pair, int] = {}
    for pair, at in distances:
        level[pair] = min(level.get(pair, at), at)
    return {(pair, at): distances[pair, at] for pair, at in level.items()}


def dense_tree(
    distances: Mapping[Choice, float],
    sizes: Sequence[Sequence[int]],
    mu_squared: float,
    *,
    weights: Sequence[float],
    max_cells: int,
    held: Sequence[Pair] = (),
) -> list[Choice]:
    """Pairs in the order of their gain, as long as a junction tree of `max_cells` cells holds them.

    How many pairs share the budget sets the noise, and the noise sets which pairs are worth it: a few numbers of pairs are
    tried and the best predicted total wins (post-processing of noisy distances).  held: pairs in the tree already.
    """
    d = len(sizes)
    whole = [of[0] for of in sizes]
    best: tuple[float, list[Choice]] = (-math.inf, [])
    for at_most in sorted({math.ceil((d - 1) * factor) for factor in (0.5, 1, 1.5, 2, 3, 4, 5, 7)}):
        sigma = math.sqrt(at_most / mu_squared)
        gain = gains(distances, sizes, sigma, noise_left=NOISE_LEFT, weights=weights)
        ranked = sorted((c for c in gain if gain[c] > 0), key=lambda c: (-gain[c], c))
        chosen = held_by_tree(ranked[:MAX_CANDIDATES], whole, at_most, max_cells, held)
        total = math.fsum(gain[c] for c in chosen)
        if total > best[0]:
            best = total, sorted(chosen)
        if len(chosen) < at_most:
            break  # no more of them fit: to ask for more would only add noise
    return best[1]


def held_by_tree(
    ranked: Sequence[Choice], sizes: Sequence[int], at_most: int, max_cells: int, held: Sequence[Pair] = ()
) -> list[Choice]:
    """The first `at_most` of the choices that a junction tree of `max_cells` cells holds beside `held`; the first pair of all
    always fits."""
    chosen = list(ranked[: _fitting(ranked[:at_most], sizes, max_cells, held)])
    growing = Triangulation(sizes, [*held, *(pair for pair, _ in chosen)])
    for choice in ranked[len(chosen) :]:
        (a, b), _ = choice
        if len(chosen) == at_most:
            break
        if growing.cells_with((a, b)) <= max(max_cells, sizes[a] * sizes[b] + sum(sizes)):
            growing.add((a, b))
            chosen.append(choice)
    return chosen


def _fitting(ranked: Sequence[Choice], sizes: Sequence[int], max_cells: int, held: Sequence[Pair]) -> int:
    """How many of the choices, from the first on, fit together as they are: found by halving."""
    low, high = 0, len(ranked)
    while low < high:
        middle = (low + high + 1) // 2
        if Triangulation(sizes, [*held, *(pair for pair, _ in ranked[:middle])]).cells <= max_cells:
            low = middle
        else:
            high = middle - 1
    return low


def log_shares(codec: Codec) -> FloatArray:
    """Log of a codec's group shares, floored where a code is empty."""
    return np.log(np.maximum(codec.group_shares, 1e-12))
