"""Junction trees: cliques on which exact inference is a sweep up and a sweep down.

Source: Lauritzen, Spiegelhalter 1988; Koller, Friedman, "Probabilistic Graphical Models", chapter 10.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

Clique = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class JunctionTree:
    """Cliques of a triangulated graph over attributes 0..d-1, parents before children.

    cliques: sorted attribute tuples; together they hold every attribute.
    parents: index of each clique's parent, -1 for the first; a parent stands before its children.
    separators: attributes shared with the parent (empty between unconnected parts).
    """

    sizes: tuple[int, ...]
    cliques: tuple[Clique, ...]
    parents: tuple[int, ...]
    separators: tuple[Clique, ...]

    @property
    def cells(self) -> int:
        """Total number of cells of all cliques: the memory and time that one sweep takes."""
        return sum(math.prod(self.sizes[a] for a in clique) for clique in self.cliques)

    def home(self, attributes: Iterable[int]) -> int:
        """Index of the smallest clique that holds all the attributes."""
        wanted = set(attributes)
        holding = [i for i, clique in enumerate(self.cliques) if wanted <= set(clique)]
        return min(holding, key=lambda i: math.prod(self.sizes[a] for a in self.cliques[i]))


def build(sizes: Sequence[int], edges: Iterable[tuple[int, int]]) -> JunctionTree:
    """A junction tree of the graph with these edges, triangulated greedily by the smallest new clique (in cells)."""
    neighbours: dict[int, set[int]] = {a: set() for a in range(len(sizes))}
    for a, b in edges:
        neighbours[a].add(b)
        neighbours[b].add(a)
    cliques: list[Clique] = []
    while neighbours:
        out = min(neighbours, key=lambda a: (math.prod(sizes[b] for b in neighbours[a] | {a}), a))
        around = neighbours.pop(out)
        cliques.append(tuple(sorted(around | {out})))
        for a in around:
            neighbours[a] = (neighbours[a] | around) - {a, out}
    maximal = [
        c
        for i, c in enumerate(cliques)
        if not any(set(c) < set(o) or (c == o and j < i) for j, o in enumerate(cliques))
    ]
    return _arrange(tuple(sizes), maximal)


def _arrange(sizes: tuple[int, ...], cliques: list[Clique]) -> JunctionTree:
    """A maximum spanning tree on separator sizes (Prim), which has the running-intersection property."""
    order, parents, separators = [0], [-1], [()]
    best = dict.fromkeys(range(1, len(cliques)), 0)
    shared = {(i, j): set(cliques[i]) & set(cliques[j]) for i, j in itertools.permutations(range(len(cliques)), 2)}
    while best:
        child = max(best, key=lambda i: (len(shared[i, best[i]]), -i))
        parent = best.pop(child)
        order.append(child)
        parents.append(order.index(parent))
        separators.append(tuple(sorted(shared[child, parent])))  # type: ignore[arg-type]  # attributes of the separator
        for i in best:
            if len(shared[i, child]) > len(shared[i, best[i]]):
                best[i] = child
    return JunctionTree(sizes, tuple(cliques[i] for i in order), tuple(parents), tuple(separators))
