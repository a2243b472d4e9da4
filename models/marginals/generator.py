"""The marginals generator: select pairs, measure their tables, fit the graphical model. All-Gaussian.

After MST (McKenna, Miklau, Sheldon, "Winning the NIST Contest", 2021) and its successors, with Gaussian noise on all
selection scores at once in place of the exponential mechanism (so that the run is one Gaussian mechanism), all pairs chosen in one
shot (or in rounds: see `adaptive`) and each at the resolution that it is worth, inference by the dual, and tables beyond the junction
tree by tilting.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from dpsynth.encode.codec import Codec
from dpsynth.models.marginals.adaptive import Rounds, fit_in_rounds
from dpsynth.models.marginals.field import MarkovField
from dpsynth.models.marginals.fitting import Fitting
from dpsynth.models.marginals.inference import Table
from dpsynth.models.marginals.limits import Clock, Limits
from dpsynth.models.marginals.measuring import bought, one_ways
from dpsynth.models.marginals.select import (
    Choice,
    Selection,
    distances,
    gains,
    independent,
    resolutions,
    select,
    spanning_tree,
)
from dpsynth.models.marginals.tilted import TiltedField
from dpsynth.models.marginals.zeros import given
from dpsynth.models.protocol import Steps, Zeros
from dpsynth.privacy.errors import ModelError
from dpsynth.privacy.table import Measurement, PrivateTable

Structure = Literal["dense", "tree", "adaptive"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Marginals:
    """Settings of the graphical model.

    structure: "dense" = as many pairs as a junction tree of `max_cells` cells can hold and the noise is worth, and further
        ones beside it; "tree" = a spanning tree of pairs (MST); "adaptive" = the dense one in `rounds`, each of which looks for what
        the model so far does not explain (AIM).
    further_weight: share of mu^2 that the table of a further pair gets, against one of the tree; 0 = none of them.
    target_weight: how much more a pair with a target or sensitive column counts when pairs are chosen.
    regularisation: lambda of the dual; None = from the noise.  iterations: limit for L-BFGS.
    max_seconds: for choosing pairs and fitting, on this machine's clock; counting rows is not stopped and does not count, so that
        nothing depends on how long it takes. Smaller structures are planned, and fits stop in time: the model is one of all that
        was measured, if a coarser one. What is stopped so is post-processing of noisy answers and costs nothing; but two runs
        under one (test) seed may differ.  None = no limit.
    max_memory: bytes for the model beyond the rows and the interpreter; see `limits` for the formula.  None = no limit.

    The limits are public numbers: what they change is planned from them, from declared and from noisy sizes, never from rows.
    """

    structure: Structure = "dense"
    max_cells: int = 100_000
    further_weight: float = 0.5
    target_weight: float = 3.0
    regularisation: float | None = None
    iterations: int = 250
    rounds: int = 2
    max_seconds: float | None = None
    max_memory: float | None = None

    def __post_init__(self) -> None:
        if self.structure not in get_args(Structure) or self.max_cells < 1:
            raise ModelError(f"structure must be one of {', '.join(get_args(Structure))}, max_cells at least 1")
        if self.iterations < 1 or (self.regularisation is not None and not self.regularisation > 0):
            raise ModelError("iterations must be at least 1 and regularisation above 0")
        if not 0 <= self.further_weight <= 1 or not self.target_weight > 0:
            raise ModelError("further_weight must be between 0 and 1, target_weight above 0")
        if not 1 <= self.rounds <= 100:
            raise ModelError("rounds must be between 1 and 100")
        if any(limit is not None and not limit > 0 for limit in (self.max_seconds, self.max_memory)):
            raise ModelError("max_seconds and max_memory must be above 0")

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
        fitting = Fitting(
            codecs=codecs,
            factors=given(zeros, [c.column for c in codecs]),
            n_units=n_units,
            max_cells=self.max_cells,
            regularisation=self.regularisation,
            iterations=self.iterations,
            limits=Limits(self.max_seconds, self.max_memory),
            clock=Clock(self.max_seconds),
            device=device,
            progress=progress,
        )
        columns = one_ways(codecs, histograms, device)
        if len(codecs) == 1:
            return fitting.fit(columns, []).model
        weights = [self.target_weight if c.column in targets else 1.0 for c in codecs]
        plan = Rounds(
            rounds=self.rounds,
            selecting=selection,
            measuring=mu_squared - selection,
            weights=weights,
            further_weight=self.further_weight,
        )
        levels = resolutions(codecs)
        if self.structure == "adaptive":
            return fit_in_rounds(table, levels, columns, fitting, plan)
        return self._fit_at_once(table, levels, columns, fitting, plan)

    def _fit_at_once(
        self,
        table: PrivateTable,
        levels: Sequence[Sequence[Codec]],
        columns: Sequence[Table],
        fitting: Fitting,
        plan: Rounds,
    ) -> MarkovField | TiltedField:
        fitting.progress.stage("choosing pairs")
        found = distances(
            table,
            levels,
            independent(levels, fitting.n_units),
            mu_squared=plan.selecting,
            label="distance of each pair from independence",
        )
        with fitting.clock:
            chosen = self._select(found, [[c.size for c in of] for of in levels], plan, fitting)
        fitting.progress.stage("measuring pairs")
        tree, further = bought(table, levels, chosen, plan.measuring, self.further_weight, fitting.device)
        return fitting.fit([*columns, *tree], further).model

    def _select(
        self,
        found: Mapping[Choice, float],
        sizes: Sequence[Sequence[int]],
        plan: Rounds,
        fitting: Fitting,
    ) -> Selection:
        if self.structure == "tree":
            finest = {c: d for c, d in found.items() if c[1] == min(level for _, level in found)}
            sigma = ((len(sizes) - 1) / plan.measuring) ** 0.5
            gain = gains(finest, sizes, sigma, noise_left=1.0, weights=plan.weights)
            chosen = Selection(tree=tuple(spanning_tree(gain, len(sizes))))
        else:
            chosen = select(
                found,
                sizes,
                plan.measuring,
                n_units=fitting.n_units,
                weights=plan.weights,
                max_cells=fitting.cells,
                further_weight=self.further_weight,
                max_tables=fitting.max_tables,
            )
        if chosen.tree:
            return chosen
        # One pair at least: what is left of the budget must go somewhere.
        return Selection(tree=(max(found, key=lambda choice: found[choice]),))
