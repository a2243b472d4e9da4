"""The seam between the flow and what learns.

A `Generator` is a configuration that spends a budget on rows behind a `PrivateTable` and returns a `TableModel`, from which
codes are drawn as often as one likes: drawing is post-processing.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from dpsynth.encode.cells import LabelCells
from dpsynth.encode.codec import Codec
from dpsynth.privacy.accounting import Cost
from dpsynth.privacy.budget import Account, Reserve, budget_of
from dpsynth.privacy.dpsgd import plan
from dpsynth.privacy.events import SubsampledGaussian
from dpsynth.privacy.source import FloatArray, IntArray
from dpsynth.privacy.table import Measurement, PrivateTable
from dpsynth.values import Own

# Told of a stage, and how many texts there are after it.
Counted = Callable[[str, int], None]
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


class TextModel(Protocol):
    """What writes the texts of one column, learned under DP."""

    @property
    def column(self) -> str: ...

    @property
    def conditions(self) -> tuple[str, ...]:
        """Columns of labels that a text is written for."""

    @property
    def told(self) -> str:
        """How the texts come about, for a reader of the data."""

    def coverage(self, texts: Sequence[str]) -> tuple[LabelCells, FloatArray, IntArray] | None:
        """(leaves of a public tree as cells, share of the private texts in each as measured, the cell of each of these synthetic texts); None
        where no tree is known, or a column's labels say which leaf a text belongs to."""

    def branch(self, label: str) -> str | None:
        """Where on the tree a leaf of this name grows, "" at its root; None where there is none."""

    def balanced(self) -> TextModel:
        """The same, with every leaf as frequent as any other. Raises SchemaError where `coverage` is None."""

    def write(
        self,
        conditions: Sequence[Own],
        n: int,
        rng: np.random.Generator,
        *,
        progress: Steps,
        counted: Counted,
    ) -> list[str]:
        """n new texts. conditions: of each of those columns the n rows' labels, None = missing.

        counted: told after each stage of writing and choosing how many texts it left.
        Raises ModelError where what it writes with is not there.
        """

    def state(self) -> tuple[dict[str, npt.NDArray[Any]], dict[str, Any]]:
        """(arrays, JSON with the `route`) from which the same model is made: an allow-list, nothing else is saved."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class TextColumn:
    """A column whose texts are to be written.

    counts: units in each combination of the conditions' labels whose text is to be written, under DP, flat in C order.
    recurring: texts that are not, for the table's model has them as labels, found under DP. As they come whole, nothing is to be
    learned of them: what is asked of the column leaves them out.
    """

    counts: FloatArray
    recurring: frozenset[str] = frozenset()


@runtime_checkable
class TextGenerator(Protocol):
    """A generator that also has texts written, by whatever route."""

    @property
    def conditions(self) -> tuple[str, ...] | None:
        """Columns that texts are to be written for; None = the generator chooses among those there are."""

    @property
    def public(self) -> tuple[str, ...]:
        """What its settings say of the texts, in words: taken as public, and listed so in the statement."""

    def require(self) -> None:
        """Raises ModelError where what it needs is not installed: before anything is reserved."""

    def require_few(self, declared: Sequence[LabelCells]) -> None:
        """Raises ModelError where the conditions among these columns, whose labels are declared, have too many of them together: before
        anything is reserved."""

    def conditions_among(
        self, codecs: Sequence[Codec], texts: Collection[str], targets: Collection[str]
    ) -> tuple[LabelCells, ...]:
        """The columns of labels that texts are to be written for.  texts: columns to write.  targets: declared ones."""

    def fit_texts(
        self,
        table: PrivateTable,
        columns: Mapping[str, TextColumn],
        cells: tuple[LabelCells, ...],
        *,
        mu_squared: float,
        device: str,
        progress: Steps,
    ) -> tuple[TextModel, ...]:
        """Spend `mu_squared` on text columns.

        columns: by name.  cells: of the conditions.  device: where a model is trained.
        """


@runtime_checkable
class Training(Protocol):
    """A generator that also trains on rows: it says beforehand what to reserve for that."""

    def reserve(self, epsilon: float, delta: float) -> Reserve:
        """What the whole run sets aside, so that it is (epsilon, delta)-DP: allowance for queries, and planned trainings."""


def reserve_training(
    epsilon: float, delta: float, *, share: float, sampling_rate: float, steps: Mapping[str, int], clipping_norm: float, stage: str
) -> Reserve:  # fmt: skip
    """A DP-SGD for `share` of the budget (mu^2), the rest for queries; together (epsilon, delta)-DP.

    steps: of each of its phases, by label. Every phase is a planned event of its own, with the rate and noise of all: together they are what
    one event of all steps would be.
    """
    whole = budget_of(epsilon, delta)
    queries = Cost(mu_squared=(1 - share) * whole.mu_squared, delta=whole.delta)
    found = plan.Training.calibrated(
        epsilon=epsilon,
        delta=delta,
        units=1.0,
        expected_batch=sampling_rate,
        steps=sum(steps.values()),
        clipping_norm=clipping_norm,
        beside=queries,
        stage=stage,
    )
    phases = (replace(found.event, label=label, steps=number) for label, number in steps.items())
    return Reserve(adaptive=queries, planned=tuple(phases))


def planned_training(account: Account, *, stage: str, label: str, clipping_norm: float) -> plan.Training | None:
    """The training of this name that the run reserved and has not taken; None where there is none."""
    for event in account.planned:
        if isinstance(event, SubsampledGaussian) and (event.stage, event.label) == (stage, label):
            return plan.Training(
                sampling_rate=event.sampling_rate,
                steps=event.steps,
                noise_multiplier=event.noise_multiplier,
                expected_batch=1.0,
                clipping_norm=clipping_norm,
                stage=stage,
                label=label,
            )
    return None


def with_units(training: plan.Training, n_units: float) -> plan.Training:
    """The plan with the batch that a DP count of the units lets expect; its event stays as it is."""
    return replace(training, expected_batch=max(training.sampling_rate * n_units, 1.0))


def reserve_of(generator: Generator, epsilon: float, delta: float) -> Reserve:
    """What a run sets aside: an allowance for queries, and the trainings that its generator plans."""
    if isinstance(generator, Training):
        return generator.reserve(epsilon, delta)
    return Reserve(adaptive=budget_of(epsilon, delta))
