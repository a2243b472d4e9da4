"""What is lost when a model learns from its own output: variance, tails, rare groups, dependence.

Each figure is 1 where all is kept and 0 where all is lost. A figure above 1 (noise may widen a column) is no gain.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping

import numpy as np

from dpsynth.fidelity.coded import Coded, coded, comparable
from dpsynth.fidelity.comparison import Comparison, mean, shares
from dpsynth.fidelity.results import Decay
from dpsynth.privacy.source import Cells, FloatArray
from dpsynth.schema import Schema

# A tail is what lies beyond these quantiles of the real column.
TAILS = (0.01, 0.99)
# A group is rare that holds at most this share of the real rows, and is known from at least so many of them.
RARE, KNOWN_FROM = 0.01, 10
# It is kept where at least this part of its share is.
KEPT = 0.5


class Original:
    """The real table that every generation is held to. Private."""

    def __init__(self, cells: Mapping[str, Cells], schema: Schema | None, unit: str | None) -> None:
        found = comparable({"real": cells}, schema).bins(cells)
        self._bins = {name: bins for name, bins in found.items() if name != unit}
        self._table = coded(self._bins, cells)

    def decay(self, cells: Mapping[str, Cells]) -> Decay:
        """What is left of the real table in another one."""
        return _decay(self._table, coded(self._bins, cells))

    def ceiling(self) -> Decay:
        """What is left in as many rows drawn from the real table at random: no model could be asked for more."""
        n = len(self._table)
        return _decay(self._table, self._table.take(np.random.default_rng(0).integers(0, n, n)))


def _decay(real: Coded, made: Coded) -> Decay:
    compared = Comparison(real, made)
    pairs = list(compared.association.values())
    strength = sum(r * r for r, _ in pairs)
    return Decay(
        variance=_variance(compared),
        tails=_tails(real, made),
        rare=_rare(real, made),
        dependence=sum(r * s for r, s in pairs) / strength if strength > 0 else None,
        tv1=mean(compared.tv1.values()),
        tv2=mean(compared.tv2.values()),
    )


def _variance(compared: Comparison) -> float | None:
    """Of the columns of numbers, the median one's share of its real variance."""
    moments = [m for m in map(compared.moments, compared.names) if m is not None and m[1][0] > 0]
    return float(np.median([(made / real) ** 2 for _, (real, made) in moments])) if moments else None


def _tails(real: Coded, made: Coded) -> float | None:
    """Rows beyond the real tails' quantiles, over how many the real table has there; mean over columns of numbers with tails."""
    kept = []
    for name, values in real.values.items():
        low, high = np.nanquantile(values, TAILS) if not np.isnan(values).all() else (math.nan, math.nan)
        own, other = (_beyond(v, low, high) for v in (values, made.values[name]))
        if own > 0:
            kept.append(other / own)
    return float(np.mean(kept)) if kept else None


def _beyond(values: FloatArray, low: float, high: float) -> float:
    return float(((values < low) | (values > high)).mean()) if len(values) else 0.0


def _rare(real: Coded, made: Coded) -> float | None:
    """Share of the rare cells of one and two columns that still hold at least half of their real share."""
    least, kept, cells = KNOWN_FROM / len(real), 0, 0
    for names in itertools.chain(((a,) for a in real.sizes), itertools.combinations(real.sizes, 2)):
        size = math.prod(real.sizes[name] for name in names)
        own, other = (shares(table.joint(names), size) for table in (real, made))
        rare = (own >= least) & (own <= RARE)
        cells += int(rare.sum())
        kept += int((other[rare] >= KEPT * own[rare]).sum())
    return kept / cells if cells else None
