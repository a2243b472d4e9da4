"""The seam between the flow and what learns.

A `Generator` is a configuration that spends a budget on rows behind a `PrivateTable` and returns a `TableModel`, from which
codes are drawn as often as one likes: drawing is post-processing.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np

from dpsynth.encode.codec import Codec
from dpsynth.privacy.budget import Reserve
from dpsynth.privacy.source import FloatArray, IntArray
from dpsynth.privacy.table import Measurement, PrivateTable

# The log weight of codes that declared constraints make impossible: exp of it is 0, and so is any sum with factors of a fit.
IMPOSSIBLE = -1e6


@dataclass(frozen=True, slots=True, eq=False)
class Zeros:
    """What a declared constraint says of the codes of a few columns.

    columns: names.  log_weights: log of the share of each combination's rows that can obey it if their columns are drawn apart, of
    shape (codes of each column); IMPOSSIBLE where none can.
    """

    columns: tuple[str, ...]
    log_weights: FloatArray


class Steps(Protocol):
    """Progress of a long run."""

    def stage(self, name: str, total: int | None = None) -> None: ...

    def advance(self, n: int = 1) -> None: ...

    def note(self, text: str) -> None: ...


class TableModel(Protocol):
    """A distribution over coded rows, learned under DP."""

    @property
    def pairs(self) -> tuple[tuple[str, str], ...]:
        """Pairs of columns whose tables were measured."""

    def sample(self, n: int, *, rng: np.random.Generator, evidence: Mapping[str, FloatArray]) -> IntArray:
        """n coded rows, shape (n, columns), from the model tilted by `evidence`: column -> non-negative weight of each code.

        Raises ModelError where the evidence leaves no row possible.
        """

    def state(self) -> tuple[dict[str, FloatArray], dict[str, Any]]:
        """(arrays, JSON) from which `load_model` makes the same model: an allow-list, nothing else is saved."""


class Generator(Protocol):
    """A model's public settings."""

    def fit(
        self,
        table: PrivateTable,
        codecs: Sequence[Codec],
        histograms: Mapping[str, Measurement],
        *,
        n_units: float,
        mu_squared: float,
        selection: float,
        targets: Collection[str],
        zeros: Sequence[Zeros],
        device: str,
        progress: Steps,
    ) -> TableModel:
        """Spend `mu_squared` on the coded columns, of which `selection` on choosing what to measure.

        histograms: the columns' noisy one-way counts, paid for already.  targets: columns that matter more than others.
        zeros: declared constraints. A model need not heed them (rows that it draws are made to obey), but is better if it does.
        """


@runtime_checkable
class Training(Protocol):
    """A generator that also trains on rows: it says beforehand what to reserve for that."""

    def reserve(self, epsilon: float, delta: float) -> Reserve:
        """What the whole run sets aside, so that it is (epsilon, delta)-DP: allowance for queries, and planned trainings."""
