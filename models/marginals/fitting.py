"""From noisy tables to a model: the junction tree by its dual, the tables beyond it by tilting. All of it is post-processing."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from dpsynth.encode.codec import Codec
from dpsynth.models.marginals.field import MarkovField
from dpsynth.models.marginals.inference import Table, default_regularisation, fit_potentials
from dpsynth.models.marginals.junction_tree import build
from dpsynth.models.marginals.limits import Clock, Limits
from dpsynth.models.marginals.select import log_shares
from dpsynth.models.marginals.tilt import (
    FEWEST_ROWS,
    RIDGE,
    ROWS,
    SWEEPS,
    WORK,
    Dual,
    Factor,
    factor_of,
    fit_tilt,
    rows_within_reach,
    whole_factor,
)
from dpsynth.models.marginals.tilted import Draws, TiltedField
from dpsynth.models.marginals.zeros import LEAST_ROOM, Given, in_tree
from dpsynth.models.protocol import Steps

# The rows that stand for the model while it is fitted are drawn from what is public by then: this seed hides nothing.
SEED = 0
# Of the time that a fit has, what the junction tree may take where there are tables beyond it.
_TREE_SHARE = 0.5


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Fitted:
    """A model, and theta of each of the tree's tables, from which a later fit may start."""

    model: MarkovField | TiltedField
    thetas: Sequence[torch.Tensor]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Fitting:
    """What stays the same when a model is fitted, once or round after round.

    factors: of declared constraints.  max_cells: of the junction tree.  regularisation: None = from the noise.
    iterations: of the dual on the tree.  clock: runs while a model is fitted.
    """

    codecs: Sequence[Codec]
    factors: Sequence[Given]
    n_units: float
    max_cells: int
    regularisation: float | None
    iterations: int
    limits: Limits
    clock: Clock
    device: str
    progress: Steps

    @property
    def sizes(self) -> list[int]:
        return [c.size for c in self.codecs]

    @property
    def cells(self) -> int:
        """Of the junction tree of measured pairs, at most."""
        return self.limits.cells(self.max_cells)

    @property
    def max_tables(self) -> int:
        """Tables that a tilt can be solved for on the fewest rows."""
        return self.limits.places(sys.maxsize) // FEWEST_ROWS

    def fit(
        self,
        tables: Sequence[Table],
        further: Sequence[Table],
        *,
        start: Sequence[torch.Tensor] = (),
        share: float = 1.0,
    ) -> Fitted:
        """tables: of single columns and of pairs that the tree holds.  further: of pairs beside it.  start: theta of the first
        tables.  share: of the time that is left."""
        with self.clock:
            until = self.clock.until(share)
            tree_until = self.clock.until(share * (_TREE_SHARE if further else 1.0))
            edges = sorted({(t.attributes[0], t.attributes[1]) for t in tables if len(t.attributes) == 2})
            held, bound = in_tree(self.sizes, edges, self.factors, self.limits.cells(max(self.max_cells, LEAST_ROOM)))
            tree = build(self.sizes, [*edges, *bound])
            base = [log_shares(c) for c in self.codecs]
            regularisation = self.regularisation or default_regularisation(tables)
            self.progress.stage("fitting the model", self.iterations)
            potentials, thetas = fit_potentials(
                tree,
                [torch.from_numpy(b).to(self.device) for b in base],
                tables,
                n_units=self.n_units,
                regularisation=regularisation,
                iterations=self.iterations,
                given=held,
                start=start,
                until=tree_until,
                advance=self.progress.advance,
            )
            field = MarkovField([c.column for c in self.codecs], edges, tree, potentials, bound)
            if not further:
                return Fitted(model=field, thetas=thetas)
            own = [factor_of(t, theta, self.sizes) for t, theta in zip(tables, thetas, strict=True)]
            dual = Dual.start([*tables, *further], self.sizes, self.n_units, RIDGE * regularisation)
            return Fitted(model=self._tilted(field, own, dual, until), thetas=thetas)

    def _tilted(self, field: MarkovField, own: Sequence[Factor], dual: Dual, until: float) -> TiltedField:
        self.progress.stage("fitting the further pairs", SWEEPS)
        own = [*own, *(whole_factor(f.attributes, f.log_weights) for f in self.factors if len(f.attributes) <= 2)]
        base = [log_shares(c) for c in self.codecs]
        rng = np.random.default_rng(SEED)
        wanted = rows_within_reach(len(dual.tables), ROWS, self.limits.places(WORK))
        rows = field.sample(wanted, rng=rng, evidence={})
        dual = fit_tilt(dual, rows, base, own, rng, until=until, advance=self.progress.advance)
        return TiltedField(field, base, own, dual, Draws.within(self.limits, len(dual.tables)))
