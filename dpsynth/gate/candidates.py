"""The first of several tables from one model that looks close enough to the rows to be measured: AboveThreshold.

The look costs the same whether the first table passes or none: only which one is told, by noise on a threshold and on each look.
It decides which table the gate then measures, with fresh noise, and a release writes; the verdict rests on that measurement.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from dpsynth.encode.codec import Codec
from dpsynth.gate.measured import Gate
from dpsynth.gate.tables import Reference, by_column, chance, distance, queries, shuffled, still, table
from dpsynth.privacy.source import Codes, FloatArray
from dpsynth.privacy.table import PrivateTable

LABEL = "first candidate table within its limit"


def first_close(
    rows: PrivateTable, codecs: Sequence[Codec], candidates: Sequence[Reference], gate: Gate, mu_squared: float
) -> int | None:
    """Place of the first candidate whose pairs (a lone column: itself) are, noisily, within what the gate allows; None: none is.

    candidates: coded tables and the units of their rows.
    """
    d = len(codecs)
    seen = [(by_column(codes), weights) for codes, weights in candidates]
    asked = queries(d)[d:] or queries(d)

    def limit(codes: Codes, weights: FloatArray) -> float:
        """Of the sum of the L1 distances, in units: twice the TVD, by the number of units and of tables."""
        floor = float(np.mean([chance(table(codecs, codes, weights, query)) for query in asked]))
        allowed = gate.max_tv1
        if d > 1:  # how far independent columns are is known of the candidate itself
            other, both = shuffled(codes), (weights, weights)
            apart = float(np.mean([distance(codecs, codes, other, both, query) for query in asked]))
            allowed = min(gate.max_tv2, still(apart - floor, gate.max_lost))
        return 2 * (allowed + floor) * float(weights.sum()) * len(asked)

    def targets() -> Iterator[Sequence[FloatArray]]:
        for query in asked:
            yield [table(codecs, *codes, query) for codes in seen]

    return rows.first_within(
        [[codecs[a] for a in query] for query in asked],
        targets(),
        [limit(*codes) for codes in seen],
        mu_squared=mu_squared,
        stage="gate",
        label=LABEL,
    )
