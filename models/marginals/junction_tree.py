"""Junction trees: cliques on which exact inference is a sweep up and a sweep down.

Source: Lauritzen, Spiegelhalter 1988; Koller, Friedman, "Probabilistic Graphical Models", chapters 9 and 10.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from heapq import heappop, heappush

Clique = tuple[int, ...]
Edge = tuple[int, int]

# States of an elimination that are kept, so that one with another edge need not start from the beginning.
CHECKPOINTS = 32


@dataclass(frozen=True)
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
        return sum(self._cells)

    def home(self, attributes: Iterable[int]) -> int:
        """Index of the smallest clique that holds all the attributes (one at least)."""
        wanted = frozenset(attributes)
        fewest = min((self._holding[a] for a in wanted), key=len)
        return min((i for i in fewest if wanted.issubset(self.cliques[i])), key=self._cells.__getitem__)

    @cached_property
    def _cells(self) -> list[int]:
        return [math.prod(self.sizes[a] for a in clique) for clique in self.cliques]

    @cached_property
    def _holding(self) -> list[list[int]]:
        """For each attribute the cliques that hold it."""
        out: list[list[int]] = [[] for _ in self.sizes]
        for i, clique in enumerate(self.cliques):
            for a in clique:
                out[a].append(i)
        return out


def build(sizes: Sequence[int], edges: Iterable[Edge]) -> JunctionTree:
    """A junction tree of the graph with these edges, in whatever order, triangulated as `Triangulation` does it."""
    return Triangulation(sizes, edges).tree()


class Triangulation:
    """A graph that grows edge by edge, and how many cells its junction tree takes.

        growing = Triangulation(sizes)
        if growing.cells_with((a, b)) <= limit:  # what build(sizes, [*edges, (a, b)]).cells would be
            growing.add((a, b))
        growing.tree()                           # build(sizes, edges)

    Attributes are eliminated one by one, always the one whose clique (itself and the neighbours that remain) has the fewest
    cells. An edge changes nothing until the first of its ends is to be eliminated: up to then it only makes both ends
    dearer, and others were preferred before. So another edge is tried from the last state kept before that step, and costs
    nothing where a clique holds both ends already. Sets of attributes are bit masks.
    """

    def __init__(self, sizes: Sequence[int], edges: Iterable[Edge] = ()) -> None:
        self.sizes = tuple(int(size) for size in sizes)
        self._stride = max(1, len(self.sizes) // CHECKPOINTS)
        start = _State(self.sizes)
        for a, b in edges:
            start.join(a, b)
        self._kept: list[_State] = []  # the states before steps 0, stride, 2 stride, ...
        self._order: list[int] = []  # the attribute of each step
        self._place = [0] * len(self.sizes)  # the step of each attribute
        self._around: list[int] = []  # at each step the neighbours that remain
        self._totals = [0]  # cells of the maximal cliques before each step, and in all
        self._first: dict[int, int] = {}  # the first step that left these neighbours around
        self._run(start)

    @property
    def cells(self) -> int:
        """Cells of the junction tree of the graph as it is."""
        return self._totals[-1]

    def cells_with(self, edge: Edge) -> int:
        """Cells of the junction tree of the graph with this edge."""
        if self._together(edge):
            return self.cells
        state = self._kept[self._checkpoint(edge)].copy()
        state.join(*edge)
        total, start, first, seen = self._totals[state.step], state.step, self._first, set[int]()
        for out, around, cells in state.eliminate():
            clique = around | 1 << out
            if clique not in seen and first.get(clique, start) >= start:
                total += cells
            seen.add(around)
        return total

    def add(self, edge: Edge) -> None:
        """Make this edge a part of the graph."""
        changes, checkpoint = not self._together(edge), self._checkpoint(edge)
        for earlier in self._kept[: checkpoint + 1]:
            earlier.join(*edge)
        if changes:
            state = self._kept[checkpoint]
            self._forget(state.step)
            self._run(state)

    def tree(self) -> JunctionTree:
        """The junction tree of the graph as it is.

        Each step leaves a clique that hangs, by the neighbours that remain, on the clique of the first of them to go. Where
        that one holds nothing else, it lies within this one, and the two are taken together.
        """
        cliques = [around | 1 << out for out, around in zip(self._order, self._around, strict=True)]
        within: list[int] = []  # for each step the step of the maximal clique that holds its own
        top: dict[int, int] = {}  # for each maximal clique the last step within: the one that hangs on another
        for step, clique in enumerate(cliques):
            larger = self._first.get(clique)
            within.append(step if larger is None else within[larger])
            top[within[step]] = step
        maximal = sorted(top, key=lambda step: -top[step])
        index = {step: i for i, step in enumerate(maximal)}
        separators = [tuple(_members(self._around[top[step]])) for step in maximal]
        parents = [
            index[within[min(self._place[a] for a in separator)]] if separator else min(i, 1) - 1
            for i, separator in enumerate(separators)
        ]
        return JunctionTree(
            self.sizes, tuple(tuple(_members(cliques[step])) for step in maximal), tuple(parents), tuple(separators)
        )

    def _together(self, edge: Edge) -> bool:
        """Whether a clique holds both ends already, so that the edge changes nothing."""
        a, b = sorted(edge, key=self._place.__getitem__)
        return bool(self._around[self._place[a]] >> b & 1)

    def _checkpoint(self, edge: Edge) -> int:
        """Index of the last kept state in which both ends remain."""
        return min(self._place[a] for a in edge) // self._stride

    def _forget(self, step: int) -> None:
        """Drop what is known of this step and those after it."""
        for around in self._around[step:]:
            if self._first.get(around, -1) >= step:
                del self._first[around]
        del self._kept[step // self._stride :], self._order[step:], self._around[step:], self._totals[step + 1 :]

    def _run(self, state: _State) -> None:
        """Eliminate from this state on, and keep what there is to know."""
        self._kept.append(state.copy())
        for out, around, cells in state.eliminate():
            step = len(self._order)
            self._order.append(out)
            self._place[out] = step
            self._around.append(around)
            self._totals.append(self._totals[-1] + (cells if around | 1 << out not in self._first else 0))
            self._first.setdefault(around, step)
            if (step + 1) % self._stride == 0 and step + 1 < len(self.sizes):
                self._kept.append(state.copy())


class _State:
    """Where an elimination stands: for each attribute its remaining neighbours and the cells of its clique, 0 once it is gone.

    step: how many are gone.  queue: a heap of cells x d + attribute, some of them out of date.
    """

    __slots__ = ("cells", "neighbours", "queue", "sizes", "step")

    def __init__(self, sizes: tuple[int, ...]) -> None:
        self.sizes, self.step = sizes, 0
        self.neighbours = [0] * len(sizes)
        self.cells = list(sizes)
        self.queue = sorted(size * len(sizes) + a for a, size in enumerate(sizes))

    def copy(self) -> _State:
        other = object.__new__(_State)
        other.sizes, other.step = self.sizes, self.step
        other.neighbours, other.cells, other.queue = self.neighbours.copy(), self.cells.copy(), self.queue.copy()
        return other

    def join(self, a: int, b: int) -> None:
        """Add an edge between two attributes that remain."""
        if a == b or self.neighbours[a] >> b & 1:
            return
        d = len(self.sizes)
        for one, other in ((a, b), (b, a)):
            self.neighbours[one] |= 1 << other
            self.cells[one] *= self.sizes[other]
            heappush(self.queue, self.cells[one] * d + one)

    def eliminate(self) -> Iterator[tuple[int, int, int]]:
        """Go on to the end: at each step the attribute that goes, its remaining neighbours, and the cells of its clique."""
        sizes, neighbours, cells, queue, d = self.sizes, self.neighbours, self.cells, self.queue, len(self.sizes)
        while queue:
            fewest, out = divmod(heappop(queue), d)
            if cells[out] != fewest:
                continue
            around = neighbours[out]
            clique = around | 1 << out
            cells[out] = 0
            rest = around
            while rest:
                bit = rest & -rest
                rest ^= bit
                a = bit.bit_length() - 1
                count = cells[a] // sizes[out]
                fill = clique & ~(neighbours[a] | bit)
                neighbours[a] = (neighbours[a] | fill) & ~(1 << out)
                while fill:
                    low = fill & -fill
                    fill ^= low
                    count *= sizes[low.bit_length() - 1]
                cells[a] = count
                heappush(queue, count * d + a)
            self.step += 1
            yield out, around, fewest


def _members(mask: int) -> Iterator[int]:
    """The attributes of a mask, in ascending order."""
    while mask:
        low = mask & -mask
        mask ^= low
        yield low.bit_length() - 1
