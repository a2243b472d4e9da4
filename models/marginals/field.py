"""The fitted graphical model: draws coded rows, with or without conditions, and is saved as plain arrays."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from dpsynth.encode.codec import draw_conditional
from dpsynth.models.marginals.inference import clique_marginals, log_partition
from dpsynth.models.marginals.junction_tree import JunctionTree, build
from dpsynth.models.threads import one_thread
from dpsynth.privacy.errors import ModelError
from dpsynth.privacy.source import FloatArray, IntArray


class MarkovField:
    """A log-linear model over coded columns.

    columns: names in the order of the attributes.  edges: measured pairs.  potentials: log space, one for each clique.
    bound: further pairs that the tree holds together for a declared constraint.
    """

    def __init__(
        self,
        columns: Sequence[str],
        edges: Sequence[tuple[int, int]],
        tree: JunctionTree,
        potentials: Sequence[torch.Tensor],
        bound: Sequence[tuple[int, int]] = (),
    ) -> None:
        self.columns, self.edges, self.tree, self.bound = tuple(columns), tuple(edges), tree, tuple(bound)
        self._potentials = [p.detach().cpu().double() for p in potentials]

    def __repr__(self) -> str:
        return f"MarkovField({len(self.columns)} columns, {len(self.edges)} pairs, {self.tree.cells:,} cells)"

    @property
    def pairs(self) -> tuple[tuple[str, str], ...]:
        return tuple((self.columns[a], self.columns[b]) for a, b in self.edges)

    def sample(self, n: int, *, rng: np.random.Generator, evidence: Mapping[str, FloatArray]) -> IntArray:
        """n coded rows, shape (n, columns): exactly from the (conditioned) model, clique by clique down the tree."""
        tree = self.tree
        with one_thread():
            marginals = clique_marginals(tree, self._conditioned(evidence))
        rows = np.zeros((n, len(self.columns)), np.int64)
        for clique, separator, marginal in zip(tree.cliques, tree.separators, marginals, strict=True):
            new = [a for a in clique if a not in separator]
            if not new:
                continue
            axes = [clique.index(a) for a in (*separator, *new)]
            outer = math.prod(tree.sizes[a] for a in separator)
            joint = marginal.permute(axes).reshape(outer, -1).numpy()
            given = _ravel(rows, separator, tree.sizes)
            drawn = draw_conditional(_normalised(joint), given, rng)
            for a in reversed(new):
                drawn, rows[:, a] = np.divmod(drawn, tree.sizes[a])
        return rows

    def _conditioned(self, evidence: Mapping[str, FloatArray]) -> list[torch.Tensor]:
        out = list(self._potentials)
        for name, weight in evidence.items():
            a = self.columns.index(name)
            i = self.tree.home((a,))
            shape = [len(weight) if b == a else 1 for b in self.tree.cliques[i]]
            out[i] = out[i] + torch.from_numpy(np.maximum(weight, 1e-300)).log().reshape(shape)
        # A weight of 1e-300 stands for "impossible": what is left must weigh more than any mixture of those.
        if evidence and float(log_partition(self.tree, out)) < math.log(1e-200):
            raise ModelError("the conditions leave no row possible under the model")
        return out

    def state(self) -> tuple[dict[str, FloatArray], dict[str, Any]]:
        arrays = {f"potential.{i}": p.numpy() for i, p in enumerate(self._potentials)}
        return arrays, {
            "family": "marginals",
            "columns": list(self.columns),
            "edges": [list(e) for e in self.edges],
            "bound": [list(e) for e in self.bound],
            "sizes": list(self.tree.sizes),
        }

    @classmethod
    def from_state(cls, arrays: Mapping[str, FloatArray], body: Mapping[str, Any]) -> MarkovField:
        """Inverse of `state`. Raises ModelError where the arrays do not fit the structure."""
        edges, bound = ([(int(a), int(b)) for a, b in body[kind]] for kind in ("edges", "bound"))
        tree = build([int(s) for s in body["sizes"]], [*edges, *bound])
        try:
            potentials = [torch.from_numpy(np.array(arrays[f"potential.{i}"])) for i in range(len(tree.cliques))]
        except KeyError:
            raise ModelError("the saved model lacks a clique's potential; it was not saved whole") from None
        for clique, potential in zip(tree.cliques, potentials, strict=True):
            if tuple(potential.shape) != tuple(tree.sizes[a] for a in clique):
                raise ModelError("a saved potential does not fit its clique; the model was altered")
        return cls(list(body["columns"]), edges, tree, potentials, bound)


def _ravel(rows: IntArray, attributes: Sequence[int], sizes: Sequence[int]) -> IntArray:
    flat = np.zeros(len(rows), np.int64)
    for a in attributes:
        flat = flat * sizes[a] + rows[:, a]
    return flat


def _normalised(joint: FloatArray) -> FloatArray:
    """Rows scaled to sum to 1; a row without mass (never drawn) becomes even."""
    joint = np.maximum(joint, 0.0)
    totals = joint.sum(axis=1, keepdims=True)
    return np.where(totals > 0, joint / np.where(totals > 0, totals, 1.0), 1.0 / joint.shape[1])
