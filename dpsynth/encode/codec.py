"""Fine cells grouped into the codes that a model works on.

A model sees `groups`: few enough that noisy tables of two columns still say something. What is inside a group is drawn
from the column's own noisy histogram, so one-column shapes keep the fine resolution.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from dpsynth.encode.cells import FineCells, LabelCells, cells_from_json
from dpsynth.privacy.source import Cells, FloatArray, IntArray


@dataclass(frozen=True, eq=False)
class Codec:
    """How one column is coded for a model, and decoded.

    cells: the fine cells.  shares: share of rows in each fine cell, shape (cells.size,), under DP, sums to 1.
    groups: code of each fine cell, shape (cells.size,), onto 0..size-1.
    """

    cells: FineCells
    shares: FloatArray
    groups: IntArray

    @property
    def column(self) -> str:
        return self.cells.column

    @cached_property
    def size(self) -> int:
        return int(self.groups.max()) + 1

    @cached_property
    def group_shares(self) -> FloatArray:
        """Share of rows of each code, shape (size,)."""
        return np.bincount(self.groups, weights=self.shares, minlength=self.size).astype(np.float64)

    def encode(self, cells: Cells) -> IntArray:
        return self.groups[self.cells.encode(cells)]

    def tilted(self, weights: FloatArray) -> Codec:
        """The same codec with the shares within each group in proportion to `weights`, shape (cells.size,), too."""
        return Codec(self.cells, self.shares * weights, self.groups)

    def split(self, labels: IntArray) -> Codec:
        """The same cells in groups that hold cells of one label each. labels: shape (cells.size,).

        A cell that is never drawn, because its group holds others that are, goes with the largest part of its group.
        """
        cell = np.arange(self.cells.size)
        drawn = self.within[self.groups, cell] > 0
        parts, part = np.unique(np.stack([self.groups, labels])[:, drawn], axis=1, return_inverse=True)
        weights = np.bincount(part.ravel(), weights=self.shares[drawn], minlength=parts.shape[1])
        largest = np.zeros(self.size, np.int64)
        order = np.argsort(weights, kind="stable")
        largest[parts[0, order]] = order  # the last to be written is the heaviest
        groups = largest[self.groups]
        groups[drawn] = part.ravel()
        return Codec(self.cells, self.shares, groups)

    def refine(self, codes: IntArray, rng: np.random.Generator) -> IntArray:
        """A fine cell for each code, drawn from the column's own histogram within the code's group."""
        return draw_conditional(self.within, codes, rng)

    def values(self, fine: IntArray, rng: np.random.Generator) -> npt.NDArray[np.object_] | FloatArray:
        """Values of fine cells: labels (None = missing or other) of a categorical column, floats of a number line."""
        if isinstance(self.cells, LabelCells):
            return np.array([*self.cells.labels, None, None], dtype=object)[fine]
        return self.cells.values(fine, rng.random(len(fine)))

    @cached_property
    def within(self) -> FloatArray:
        """P(fine cell | code), shape (size, cells.size)."""
        table = np.zeros((self.size, self.cells.size))
        table[self.groups, np.arange(self.cells.size)] = self.shares
        empty = table.sum(axis=1) == 0
        table[empty] = np.arange(self.size)[empty][:, None] == self.groups[None, :]
        shares: FloatArray = table / table.sum(axis=1, keepdims=True)
        return shares

    def to_json(self) -> dict[str, Any]:
        return {"cells": self.cells.to_json(), "shares": self.shares.tolist(), "groups": self.groups.tolist()}

    @classmethod
    def from_json(cls, obj: dict[str, Any]) -> Codec:
        return cls(cells_from_json(obj["cells"]), np.array(obj["shares"]), np.array(obj["groups"], np.int64))


def draw_conditional(table: FloatArray, given: IntArray, rng: np.random.Generator) -> IntArray:
    """For each row r a draw from the distribution table[given[r]]; systematic within each value of `given`.

    table: shape (G, K), rows sum to 1.  given: shape (n,), in [0, G).  Returns shape (n,), in [0, K).
    The m rows that share a value get m evenly spaced quantiles from one random start, in random order: counts differ from
    their expectation by less than 1 a cell.
    """
    n, (groups, width) = len(given), table.shape
    shuffled = rng.permutation(n)
    order = shuffled[np.argsort(given[shuffled], kind="stable")]
    grouped = given[order]
    sizes = np.bincount(grouped, minlength=groups)
    first: IntArray = np.cumsum(sizes) - sizes
    quantile = (np.arange(n) - first[grouped] + rng.random(size=(groups,))[grouped]) / sizes[grouped]
    cumulative: FloatArray = np.cumsum(table, axis=1)
    cumulative[cumulative > 1 - 1e-11] = 1.0  # so that no rounding error can reach a cell of probability 0
    # One search for all: row g of the table is shifted by g.
    flat = (cumulative + np.arange(groups)[:, None]).ravel()
    found = np.searchsorted(flat, grouped + np.minimum(quantile, 1 - 1e-12), side="right") - grouped * width
    out = np.empty(n, np.int64)
    out[order] = np.clip(found, 0, width - 1)
    return out
