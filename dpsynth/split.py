"""The split of a budget, before anything is spent.

A run is one Gaussian mechanism of parameter mu (see `privacy.accounting`); its stages share mu^2. A stage that has
nothing to ask leaves its share to the measurement of pairs, which takes what remains, so a run always spends all of it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Protocol

import numpy as np

from dpsynth.privacy.accounting import Cost
from dpsynth.privacy.errors import PrivacyError
from dpsynth.schema import Column

# How the gate's slice is shared out; what is not asked leaves its part to the distances of columns and pairs.
GATE_PARTS = {"candidates": 0.25, "independent": 0.1, "pairs": 0.2, "groups": 0.3}
# The one-way stage's share at mu = .24 (epsilon 1, delta 1e-6), the power of mu by which it falls, and its bounds: pairs drown in the noise
# of a small budget, and columns are what it can tell. Measured, see docs/marginals.md.
ONE_WAY, ONE_WAY_FALLS, ONE_WAY_BOUNDS = 0.18, 0.31, (0.13, 0.35)
# Codes of a column when pairs are looked at, at most: all of them, or merged to so many.
RESOLUTIONS = (None, 10, 5)
# Of its share of the one-way stage, what a column of labels gets whose values were looked for: they have been counted once.
COUNTED_PART = 0.35
# Pairs of columns looked at: all of them up to 200 columns.
MAX_PAIRS = 20_000
_TEXT_MOST = 0.9


@dataclass(frozen=True, kw_only=True, slots=True)
class Split:
    """Shares of mu^2 by stage; `pairs` takes what is left."""

    identifiers: float = 0.03
    schema: float = 0.09
    vocabulary: float = 0.12
    rare_values: float = 0.10
    mappings: float = 0.05
    one_way: float = 0.13
    selection: float = 0.03
    gate: float = 0.05

    def __post_init__(self) -> None:
        shares = [getattr(self, f.name) for f in fields(self)]
        if any(not 0 < s < 1 for s in shares) or sum(shares) >= 1:
            raise PrivacyError("each share of the split must be above 0, and all together below 1")

    @classmethod
    def of(cls, cost: Cost) -> Split:
        """The shares of this budget."""
        share = ONE_WAY * (0.24 / math.sqrt(cost.mu_squared)) ** ONE_WAY_FALLS
        return cls(one_way=float(np.clip(share, *ONE_WAY_BOUNDS)))

    def vocabulary_of(self, strings: int, others: int) -> float:
        """Share of the vocabulary stage: less where few columns need one, and where it finds heaps of numbers alone."""
        return min(self.vocabulary, 0.02 * strings + 0.01 * others)


def text_part(texts: int, others: int) -> float:
    """Of what is left for the model, the part that text columns get; `others` is the number of the other columns.

    A text column weighs as much as eight others, for its words and embeddings by label are many numbers; all of it goes there where
    there is no pair of others to measure, but for a little with which missing texts are told from the rest.
    """
    return _TEXT_MOST * 8 * texts / (8 * texts + max(others - 1, 0)) if texts else 0.0


def pairs_looked_at(d: int, *, seed: int = 0) -> list[tuple[int, int]]:
    """Pairs (a, b), a < b, of d columns that a table is asked about: all of them, or `MAX_PAIRS` where there are more.

    Half of those are of columns that stand next to each other or nearly so, as related ones often do; the others are of
    columns a random distance apart (by `seed`, the same for every table). Each column has equally many partners. More pairs
    would take longer to count and put more noise on each.
    """
    if d * (d - 1) // 2 <= MAX_PAIRS:
        return list(itertools.combinations(range(d), 2))
    offsets = max(MAX_PAIRS // d, 2)
    near = offsets // 2
    far = np.random.default_rng(seed).choice(np.arange(near + 1, (d + 1) // 2), offsets - near, replace=False)
    return sorted(
        (min(a, b), max(a, b)) for k in (*range(1, near + 1), *far.tolist()) for a in range(d) for b in [(a + k) % d]
    )


def resolutions_looked_at(d: int) -> tuple[int, ...]:
    """Indices into `RESOLUTIONS` at which the pairs of d columns are looked at: the middle one where pairs are many."""
    return (0, 1, 2) if d * (d - 1) // 2 <= MAX_PAIRS // 10 else (1,)


class Watching(Protocol):
    """What a gate is asked to watch (see `gate.Gate`)."""

    @property
    def pairs(self) -> tuple[tuple[str, str], ...] | None: ...
    @property
    def groups(self) -> tuple[str, ...] | None: ...
    @property
    def names(self) -> frozenset[str]: ...
    @property
    def candidates(self) -> int: ...


def watched(
    modelled: Iterable[Column], gate: Watching | None
) -> tuple[list[tuple[str, str]], list[tuple[str, ...]], tuple[str, ...]]:
    """(pairs, sets of columns that make groups, columns that cannot be watched), of the columns that are modelled.

    gate: None = what a gate watches that nobody told: pairs among target and sensitive columns, groups of the sensitive ones.
    """
    columns = {c.name: c for c in modelled}
    sensitive = [name for name, column in columns.items() if column.sensitive]
    of_interest = [name for name, column in columns.items() if column.sensitive or column.role == "target"]
    chosen = None if gate is None else gate.pairs
    pairs = list(itertools.combinations(of_interest, 2)) if chosen is None else list(chosen)
    names = sensitive if gate is None or gate.groups is None else list(gate.groups)
    names = [name for name in names if name in columns]
    groups = [*((name,) for name in names), *itertools.combinations(names, 2)]
    lacking = () if gate is None else sorted(gate.names - set(columns))
    return [pair for pair in pairs if set(pair) <= set(columns)], groups, tuple(lacking)
