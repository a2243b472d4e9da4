"""Which leaf of a public tree a text belongs to, where no column says so, and how many units belong to each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dpsynth.encode.cells import LabelCells
from dpsynth.encode.grid import pooled
from dpsynth.models.language.taxonomy import Taxonomy
from dpsynth.privacy.errors import PrivacyError
from dpsynth.privacy.pii import without_placeholders
from dpsynth.privacy.source import Cells, FloatArray, IntArray, Strings
from dpsynth.privacy.table import PrivateTable

# Of the mu^2 of a text column, what the histogram over the leaves costs.
LEAVES = 0.05
# Units that a leaf is taken to have at least: it is public that the leaf is there, and noise may have hidden the few that it has.
AT_LEAST = 1.0


@dataclass(frozen=True)
class LeafCells(LabelCells):
    """Cells of a column of texts: the leaf that each text lies nearest to, by public embeddings; a blank text is in no leaf (`other`).

    left_out: texts that count as missing ones.

    A text is read by itself, so that its cell is a function of it alone, bit for bit; see `embed_alone`.
    """

    taxonomy: Taxonomy
    left_out: frozenset[str] = frozenset()

    @classmethod
    def of(cls, column: str, taxonomy: Taxonomy, left_out: frozenset[str] = frozenset()) -> LeafCells:
        return cls(column, taxonomy.names, taxonomy, left_out)

    def encode(self, cells: Cells) -> IntArray:
        from dpsynth.models.language.embedding import embed_alone

        if not isinstance(cells, Strings):
            raise PrivacyError(f"column {self.column!r} holds no strings")
        anchors = self.taxonomy.anchors
        leaves = [self.other if e is None else int(np.argmax(anchors @ e)) for e in embed_alone(cells.uniques)]
        kept = [self.missing if t in self.left_out else leaf for t, leaf in zip(cells.uniques, leaves, strict=True)]
        return np.array([*kept, self.missing], np.int64)[cells.codes]

    def nearest(self, texts: Sequence[str]) -> IntArray:
        """The cell of each of some public or synthetic texts, faster than `encode`."""
        from dpsynth.models.language.embedding import embed

        blank = [not without_placeholders(text).strip() for text in texts]
        return np.where(blank, self.other, (embed(texts) @ self.taxonomy.anchors.T).argmax(axis=1)).astype(np.int64)

    def describe(self) -> tuple[str, ...]:
        return (*self.labels, "(blank)", "(missing)")

    def to_json(self) -> dict[str, Any]:
        return {"kind": "leaves", "column": self.column}


def leaf_counts(
    table: PrivateTable, cells: tuple[LabelCells, ...], counts: FloatArray, leaves: LeafCells, *, mu_squared: float, stage: str
) -> FloatArray:  # fmt: skip
    """Units of each combination of labels and leaf, under DP, flat in C order; `mu_squared` is spent on it.

    counts: units of each combination of labels, better known than their parts.  Sensitivity: a unit's rows weigh 1 together, and each
    falls to one cell, so the histogram moves by at most 1 in L2; see `PrivateTable.counts`.
    """
    (found,) = table.counts(
        [[*cells, leaves]], mu_squared=mu_squared, stage=stage, labels=[f"leaves of {leaves.column}"]
    )
    noisy = found.values.reshape(-1, leaves.size)
    out, least = np.zeros_like(noisy), min(AT_LEAST, float(counts.max()))
    for row, seen, total in zip(out, noisy, counts, strict=True):
        if total >= least:
            row[: leaves.other] = np.maximum(pooled(seen[: leaves.other], found.sigma, float(total)), AT_LEAST)
    return out.ravel()
