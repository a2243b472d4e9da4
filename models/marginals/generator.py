"""The marginals generator: select pairs, measure their tables, fit the graphical model. All-Gaussian.

After MST (McKenna, Miklau, Sheldon, "Winning the NIST Contest", 2021) and its successors, with Gaussian noise on all
selection scores at once in place of the exponential mechanism (so that the run is one Gaussian mechanism), all pairs chosen in one
shot and each at the resolution that it is worth, inference by the dual, and tables beyond the junction tree by tilting.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from dpsynth.encode.codec import Codec
from dpsynth.models.marginals.field import MarkovField
from dpsynth.models.marginals.inference import Table, default_regularisation, fit_potentials
from dpsynth.models.marginals.junction_tree import build
from dpsynth.models.marginals.select import (
    Choice,
    Selection,
    dependence,
    gains,
    log_shares,
    resolutions,
    select,
    spanning_tree,
    steps_between,
)
from dpsynth.models.marginals.tilt import RIDGE, ROWS, Dual, factor_of, fit_tilt, rows_within_reach, whole_factor
from dpsynth.models.marginals.tilted import TiltedField
from dpsynth.models.marginals.zeros import Given, given, in_tree
from dpsynth.models.protocol import Steps, Zeros
from dpsynth.privacy.errors import ModelError
from dpsynth.privacy.source import FloatArray
from dpsynth.privacy.table import Measurement, PrivateTable

# The rows that stand for the model while it is fitted are drawn from what is public by then: this seed hides nothing.
_SEED = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Marginals:
    """Settings of the graphical model.

    structure: "dense" = as many pairs as a junction tree of `max_cells` cells can hold and the noise is worth, and further
        ones beside it; "tree" = a spanning tree of pairs (MST).
    further_weight: share of mu^2 that the table of a further pair gets, against one of the tree; 0 = none of them.
    target_weight: how much more a pair with a target or sensitive column counts when pairs are chosen.
    regularisation: lambda of the dual; None = from the noise.  iterations: limit for L-BFGS.
    """

    structure: Literal["dense", "tree"] = "dense"
    max_cells: int = 100_000
    further_weight: float = 0.5
    target_weight: float = 3.0
    regularisation: float | None = None
    iterations: int = 250

    def __post_init__(self) -> None:
        if self.structure not in ("dense", "tree") or self.max_cells < 1:
            raise ModelError("structure must be 'dense' or 'tree', max_cells at least 1")
        if self.iterations < 1 or (self.regularisation is not None and not self.regularisation > 0):
            raise ModelError("iterations must be at least 1 and regularisation above 0")
        if not 0 <= self.further_weight <= 1 or not self.target_weight > 0:
            raise ModelError("further_weight must be between 0 and 1, target_weight above 0")

    def fit(
        self,
        table: PrivateTable,
        codecs: Sequence[Codec],
        histograms: Mapping[str, Measurement],
        *,
        n_units: float,
        mu_squared: float,
        selection: float,
        targets: Collection[str] = (),
        zeros: Sequence[Zeros] = (),
        device: str,
        progress: Steps,
    ) -> MarkovField | TiltedField:
        """Select, measure, fit. A single column is its histogram, which is paid for already."""
        chosen = Selection(tree=())
        tables = [_one_way(a, c, histograms[c.column], device) for a, c in enumerate(codecs)]
        further: list[Table] = []
        if len(codecs) > 1:
            progress.stage("choosing pairs")
            left = mu_squared - selection
            levels = resolutions(codecs)
            distances = dependence(table, levels, n_units=n_units, mu_squared=selection)
            weights = [self.target_weight if c.column in targets else 1.0 for c in codecs]
            chosen = self._select(distances, [[c.size for c in of] for of in levels], weights, n_units, left)
            progress.stage("measuring pairs", len(chosen.tree) + len(chosen.further))
            all_shares = len(chosen.tree) + self.further_weight * len(chosen.further)
            of_tree = left * len(chosen.tree) / all_shares
            tables += self._measure(table, levels, chosen.tree, of_tree, device)
            if chosen.further:
                further = self._measure(table, levels, chosen.further, left - of_tree, device)
        factors = given(zeros, [c.column for c in codecs])
        return self._fit(codecs, chosen, tables, further, factors, n_units, device, progress)

    def _fit(
        self,
        codecs: Sequence[Codec],
        chosen: Selection,
        tables: list[Table],
        further: list[Table],
        factors: Sequence[Given],
        n_units: float,
        device: str,
        progress: Steps,
    ) -> MarkovField | TiltedField:
        progress.stage("fitting the model")
        sizes, edges = [c.size for c in codecs], [pair for pair, _ in chosen.tree]
        held, bound = in_tree(sizes, edges, factors, self.max_cells)
        tree = build(sizes, [*edges, *bound])
        base = [log_shares(c) for c in codecs]
        regularisation = self.regularisation or default_regularisation(tables)
        potentials, thetas = fit_potentials(
            tree,
            [torch.from_numpy(b).to(device) for b in base],
            tables,
            n_units=n_units,
            regularisation=regularisation,
            iterations=self.iterations,
            given=held,
        )
        field = MarkovField([c.column for c in codecs], edges, tree, potentials, bound)
        if not further:
            return field
        progress.stage("fitting the further pairs")
        own = [factor_of(t, theta, sizes) for t, theta in zip(tables, thetas, strict=True)]
        own += [whole_factor(f.attributes, f.log_weights) for f in factors if len(f.attributes) <= 2]
        rng = np.random.default_rng(_SEED)
        rows = field.sample(rows_within_reach(len(tables) + len(further), ROWS), rng=rng, evidence={})
        dual = Dual.start([*tables, *further], sizes, n_units, RIDGE * regularisation)
        return TiltedField(field, base, own, fit_tilt(dual, rows, base, own, rng))

    def _select(
        self,
        distances: Mapping[Choice, float],
        sizes: Sequence[Sequence[int]],
        weights: Sequence[float],
        n_units: float,
        mu_squared: float,
    ) -> Selection:
        if self.structure == "tree":
            finest = {c: d for c, d in distances.items() if c[1] == min(level for _, level in distances)}
            sigma = ((len(sizes) - 1) / mu_squared) ** 0.5
            gain = gains(finest, sizes, sigma, noise_left=1.0, weights=weights)
            chosen = Selection(tree=tuple(spanning_tree(gain, len(sizes))))
        else:
            chosen = select(
                distances,
                sizes,
                mu_squared,
                n_units=n_units,
                weights=weights,
                max_cells=self.max_cells,
                further_weight=self.further_weight,
            )
        if chosen.tree:
            return chosen
        # One pair at least: what is left of the budget must go somewhere.
        return Selection(tree=(max(distances, key=lambda choice: distances[choice]),))

    def _measure(
        self,
        table: PrivateTable,
        levels: Sequence[Sequence[Codec]],
        choices: Sequence[Choice],
        mu_squared: float,
        device: str,
    ) -> list[Table]:
        queries = [(levels[a][level], levels[b][level]) for (a, b), level in choices]
        noisy = table.counts(
            [list(q) for q in queries],
            mu_squared=mu_squared,
            stage="pairs",
            labels=[f"{a.column} x {b.column}" for a, b in queries],
        )
        return [
            _pair(pair, query, [levels[a][0] for a in pair], m, device)
            for (pair, _), query, m in zip(choices, queries, noisy, strict=True)
        ]


def _one_way(a: int, codec: Codec, histogram: Measurement, device: str) -> Table:
    # A group's count sums fine cells, each with noise of its own.
    return _table((a,), histogram.values, histogram.sigma * np.sqrt(np.bincount(codec.groups)), device)


def _pair(
    pair: tuple[int, int], query: Sequence[Codec], fine: Sequence[Codec], measured: Measurement, device: str
) -> Table:
    values = measured.values.reshape([c.size for c in query])
    groups = None
    if any(c is not f for c, f in zip(query, fine, strict=True)):
        groups = tuple(torch.from_numpy(steps_between(f, c)).to(device) for f, c in zip(fine, query, strict=True))
    return _table(pair, values, np.full(1, measured.sigma), device, groups)


def _table(
    attributes: tuple[int, ...],
    values: FloatArray,
    sigma: FloatArray,
    device: str,
    groups: tuple[torch.Tensor, ...] | None = None,
) -> Table:
    return Table(attributes, torch.from_numpy(values).to(device), torch.from_numpy(sigma).to(device), groups)
