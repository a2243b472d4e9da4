"""The marginals generator: select pairs, measure their tables, fit the graphical model. All-Gaussian.

After MST (McKenna, Miklau, Sheldon, "Winning the NIST Contest", 2021) and its successors, with Gaussian noise on all
selection scores at once in place of the exponential mechanism (so that the run is one Gaussian mechanism), all pairs chosen in one
shot, and inference by the dual.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from dpsynth.encode.codec import Codec
from dpsynth.models.marginals.field import MarkovField
from dpsynth.models.marginals.inference import Table, default_regularisation, fit_potentials
from dpsynth.models.marginals.junction_tree import build
from dpsynth.models.marginals.select import Pair, dense_tree, dependence, gains, log_shares, spanning_tree
from dpsynth.models.protocol import Steps
from dpsynth.privacy.errors import ModelError
from dpsynth.privacy.source import FloatArray
from dpsynth.privacy.table import Measurement, PrivateTable


@dataclass(frozen=True, kw_only=True, slots=True)
class Marginals:
    """Settings of the graphical model.

    structure: "dense" = as many pairs as a junction tree of `max_cells` cells can hold and the noise is worth;
        "tree" = a spanning tree of pairs (MST).
    regularisation: lambda of the dual; None = from the noise.  iterations: limit for L-BFGS.
    """

    structure: Literal["dense", "tree"] = "dense"
    max_cells: int = 100_000
    regularisation: float | None = None
    iterations: int = 250

    def __post_init__(self) -> None:
        if self.structure not in ("dense", "tree") or self.max_cells < 1:
            raise ModelError("structure must be 'dense' or 'tree', max_cells at least 1")
        if self.iterations < 1 or (self.regularisation is not None and not self.regularisation > 0):
            raise ModelError("iterations must be at least 1 and regularisation above 0")

    def fit(
        self,
        table: PrivateTable,
        codecs: Sequence[Codec],
        histograms: Mapping[str, Measurement],
        *,
        n_units: float,
        mu_squared: float,
        selection: float,
        device: str,
        progress: Steps,
    ) -> MarkovField:
        """Select, measure, fit. A single column is its histogram, which is paid for already."""
        edges: list[tuple[int, int]] = []
        tables = [_one_way(a, c, histograms[c.column], device) for a, c in enumerate(codecs)]
        if len(codecs) > 1:
            progress.stage("choosing pairs")
            left = mu_squared - selection
            distances = dependence(table, codecs, n_units=n_units, mu_squared=selection)
            edges = self._select(distances, [c.size for c in codecs], left)
            progress.stage("measuring pairs", len(edges))
            tables += self._measure(table, codecs, edges, left, device)
        progress.stage("fitting the model")
        tree = build([c.size for c in codecs], edges)
        potentials = fit_potentials(
            tree,
            [torch.from_numpy(log_shares(c)).to(device) for c in codecs],
            tables,
            n_units=n_units,
            regularisation=self.regularisation or default_regularisation(tables),
            iterations=self.iterations,
        )
        return MarkovField([c.column for c in codecs], edges, tree, potentials)

    def _select(self, distances: Mapping[Pair, float], sizes: Sequence[int], mu_squared: float) -> list[Pair]:
        if self.structure == "tree":
            sigma = ((len(sizes) - 1) / mu_squared) ** 0.5
            chosen = spanning_tree(gains(distances, sizes, sigma), len(sizes))
        else:
            chosen = dense_tree(distances, sizes, mu_squared, self.max_cells)
        # One pair at least: what is left of the budget must go somewhere.
        return chosen or [max(distances, key=lambda pair: distances[pair])]

    def _measure(
        self, table: PrivateTable, codecs: Sequence[Codec], edges: list[tuple[int, int]], mu_squared: float, device: str
    ) -> list[Table]:
        noisy = table.counts(
            [[codecs[a], codecs[b]] for a, b in edges],
            mu_squared=mu_squared,
            stage="pairs",
            labels=[f"{codecs[a].column} x {codecs[b].column}" for a, b in edges],
        )
        return [
            _table((a, b), m.values.reshape(codecs[a].size, codecs[b].size), np.full(1, m.sigma), device)
            for (a, b), m in zip(edges, noisy, strict=True)
        ]


def _one_way(a: int, codec: Codec, histogram: Measurement, device: str) -> Table:
    # A group's count sums fine cells, each with noise of its own.
    return _table((a,), histogram.values, histogram.sigma * np.sqrt(np.bincount(codec.groups)), device)


def _table(attributes: tuple[int, ...], values: FloatArray, sigma: FloatArray, device: str) -> Table:
    return Table(attributes, torch.from_numpy(values).to(device), torch.from_numpy(sigma).to(device))
