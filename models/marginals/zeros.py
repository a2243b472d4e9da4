"""Declared constraints in the graphical model: factors that are given, not fitted.

A factor over a few columns is exact where one clique of the junction tree holds them all. Tables of the model are then those of
the maximum-entropy distribution *on the rows that obey*, so what a constraint takes away is not missed elsewhere.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from dpsynth.models.marginals.junction_tree import Edge, Triangulation
from dpsynth.models.protocol import Zeros
from dpsynth.privacy.source import FloatArray

# Cells that the constraints may add to the junction tree, at least, where memory is not limited.
LEAST_ROOM = 100_000


@dataclass(frozen=True, slots=True, eq=False)
class Given:
    """A factor over attributes in ascending order: log weights of shape sizes[attributes]."""

    attributes: tuple[int, ...]
    log_weights: FloatArray


def given(zeros: Iterable[Zeros], columns: Sequence[str]) -> list[Given]:
    """The factors of constraints, in the attributes of a model over `columns`."""
    out = []
    for zero in zeros:
        places = [columns.index(name) for name in zero.columns]
        order = np.argsort(places)
        out.append(Given(tuple(places[i] for i in order), np.transpose(zero.log_weights, order)))
    return out


def in_tree(
    sizes: Sequence[int], edges: Sequence[Edge], factors: Sequence[Given], room: int
) -> tuple[list[Given], list[Edge]]:
    """(factors that a junction tree can hold beside the measured pairs, the edges that it needs for them).

    room: cells that they may add.  Factors over fewer cells come first. One that does not fit leaves impossible rows to be drawn anew.
    """
    growing = Triangulation(sizes, edges)
    limit = growing.cells + room
    held: list[Given] = []
    further: list[Edge] = []
    for factor in sorted(factors, key=lambda f: f.log_weights.size):
        new = [e for e in itertools.combinations(factor.attributes, 2) if e not in further]
        wider = Triangulation(sizes, [*edges, *further, *new])
        if not new or wider.cells <= limit:
            held.append(factor)
            further += new
    return held, further
