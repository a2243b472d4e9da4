"""Selection in rounds: each looks for what the model of the round before does not explain, measures that, and fits anew.

After AIM (McKenna, Mullins, Sheldon, Miklau, "AIM: An Adaptive and Iterative Mechanism for Differentially Private Synthetic Data",
2022), which buys one table in each round by the exponential mechanism. Here a round looks at all pairs with one Gaussian vector
query and buys a batch:

- a forest, in all rounds but the last: pairs that do not explain each other, however much they have in common;
- in the last, all that is still worth its noise, as the one-shot selection chooses it.

The budget grows from round to round (GROWTH): early tables are strong dependences, which noise hides least, and say where to look.

Guarantee. A round's queries are Gaussian mechanisms of mu^2 fixed beforehand; which queries they are follows from earlier answers alone.
Adaptive composition of Gaussian mechanisms under a Gaussian-DP filter (Smith, Thakurta 2022) is one Gaussian mechanism of the sum, and
the account refuses what would pass it. Model, sampled rows and expected tables are post-processing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from dpsynth.encode.codec import Codec
from dpsynth.models.marginals import measuring
from dpsynth.models.marginals.field import MarkovField
from dpsynth.models.marginals.fitting import SEED, Fitted, Fitting
from dpsynth.models.marginals.inference import Table
from dpsynth.models.marginals.select import (
    NOISE_LEFT,
    Choice,
    Pair,
    Selection,
    best_of_pairs,
    distances,
    gains,
    held_by_tree,
    independent,
    select,
    spanning_tree,
    steps_between,
)
from dpsynth.models.marginals.tilt import FEWEST_ROWS
from dpsynth.models.marginals.tilted import TiltedField
from dpsynth.privacy.source import FloatArray
from dpsynth.privacy.table import PrivateTable
from dpsynth.split import pairs_looked_at

# How much more each round gets than the one before.
GROWTH = 4.0
# Rows of a model by which it is compared: as many as keep rows times pairs at _PLACES, within these.
_ROWS, _PLACES = 100_000, 200_000_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Rounds:
    """How a run in rounds spends its budget. selecting, measuring: mu^2 in all.  weights: of each column."""

    rounds: int
    selecting: float
    measuring: float
    weights: Sequence[float]
    further_weight: float

    def shares(self) -> Iterator[tuple[float, float]]:
        """(mu^2 for looking, mu^2 for measuring) of each round."""
        parts = np.power(GROWTH, np.arange(self.rounds))
        for part in (parts / parts.sum()).tolist():
            yield part * self.selecting, part * self.measuring


@dataclass(slots=True)
class _Bought:
    """Tables that were bought so far, in order: those that the tree holds, beginning with single columns, and those beside it."""

    tree: list[Table]
    further: list[Table] = field(default_factory=list)

    @property
    def pairs(self) -> list[Pair]:
        return [(t.attributes[0], t.attributes[1]) for t in self.tree if len(t.attributes) == 2]


def fit_in_rounds(
    table: PrivateTable, levels: Sequence[Sequence[Codec]], one_ways: Sequence[Table], fitting: Fitting, plan: Rounds
) -> MarkovField | TiltedField:
    """Spend plan.selecting + plan.measuring on pairs, round by round. levels: each column at each resolution, finest first.

    Where nothing is worth a table, a round leaves what it has to the next; the last buys one pair at least.
    """
    bought = _Bought(list(one_ways))
    fitted: Fitted | None = None
    saved = 0.0
    for number, (looking, share) in enumerate(plan.shares(), 1):
        last, for_tables = number == plan.rounds, share + saved
        fitting.progress.stage(f"choosing pairs, round {number} of {plan.rounds}")
        with fitting.clock:
            expected = _expected(levels, fitting, fitted)
        found = distances(
            table, levels, expected, mu_squared=looking, label=f"distance of each pair from the model, round {number}"
        )
        with fitting.clock:
            batch = _batch(found, levels, for_tables, bought.pairs, fitting, plan, last=last)
        if not batch.tree and not batch.further:
            saved = for_tables
            continue
        saved = 0.0
        fitting.progress.stage(f"measuring pairs, round {number} of {plan.rounds}")
        _buy(table, levels, batch, for_tables, plan.further_weight, fitting, bought)
        start = fitted.thetas if fitted is not None else ()
        fitted = fitting.fit(bought.tree, bought.further, start=start, share=1 / (plan.rounds - number + 1))
    assert fitted is not None  # the last round buys at least one table
    return fitted.model


def _expected(
    levels: Sequence[Sequence[Codec]], fitting: Fitting, fitted: Fitted | None
) -> Callable[[Choice], FloatArray]:
    """Tables of pairs under the model so far, in units: before the first one, under independence."""
    if fitted is None:
        return independent(levels, fitting.n_units)
    pairs = len(pairs_looked_at(len(levels)))
    n = max(FEWEST_ROWS, min(_ROWS, fitting.limits.places(_PLACES) // pairs))
    rows = fitted.model.sample(n, rng=np.random.default_rng(SEED), evidence={})

    def expected(choice: Choice) -> FloatArray:
        (a, b), level = choice
        first, second = (steps_between(levels[c][0], levels[c][level])[rows[:, c]] for c in (a, b))
        size = levels[b][level].size
        counts = np.bincount(first * size + second, minlength=levels[a][level].size * size)
        return np.asarray(counts * (fitting.n_units / len(rows)), np.float64)

    return expected


def _batch(
    found: Mapping[Choice, float],
    levels: Sequence[Sequence[Codec]],
    mu_squared: float,
    held: Sequence[Pair],
    fitting: Fitting,
    plan: Rounds,
    *,
    last: bool,
) -> Selection:
    sizes = [[c.size for c in of] for of in levels]
    if not last:
        return _forest(found, sizes, mu_squared, plan.weights, held, fitting.cells)
    chosen = select(
        found, sizes, mu_squared, n_units=fitting.n_units, weights=plan.weights, max_cells=fitting.cells,
        further_weight=plan.further_weight, held=held, max_tables=fitting.max_tables,
    )  # fmt: skip
    if chosen.tree or chosen.further:
        return chosen
    # Nothing new is worth its noise: what is left goes to what was found before, or else to the pair that looks best.
    again = [min(c for c in found if c[0] == pair) for pair in held] or [max(found, key=lambda choice: found[choice])]
    return Selection(tree=tuple(again))


def _forest(
    found: Mapping[Choice, float],
    sizes: Sequence[Sequence[int]],
    mu_squared: float,
    weights: Sequence[float],
    held: Sequence[Pair],
    max_cells: int,
) -> Selection:
    """The forest of the best predicted total, each pair at its best resolution, as far as the junction tree holds it."""
    d, best = len(sizes), (0.0, Selection(tree=()))
    for at_most in sorted({math.ceil((d - 1) * share) for share in (0.25, 0.5, 1)}):
        gain = gains(found, sizes, math.sqrt(at_most / mu_squared), noise_left=NOISE_LEFT, weights=weights)
        edges = spanning_tree({choice: gain[choice] for choice in best_of_pairs(gain)}, d)
        ranked = sorted(edges, key=lambda c: (-gain[c], c))
        chosen = held_by_tree(ranked, [of[0] for of in sizes], at_most, max_cells, held)
        total = math.fsum(gain[c] for c in chosen)
        if total > best[0]:
            best = total, Selection(tree=tuple(sorted(chosen)))
    return best[1]


def _buy(
    table: PrivateTable,
    levels: Sequence[Sequence[Codec]],
    batch: Selection,
    mu_squared: float,
    further_weight: float,
    fitting: Fitting,
    bought: _Bought,
) -> None:
    """Measure a batch. A further table of a pair that the tree holds is the tree's."""
    tree, beside = measuring.bought(table, levels, batch, mu_squared, further_weight, fitting.device)
    bought.tree += tree
    held = set(bought.pairs)
    for one in beside:
        (bought.tree if one.attributes in held else bought.further).append(one)
