"""The shape of a text: how long it is, how it begins and how it ends."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dpsynth.privacy.errors import PrivacyError
from dpsynth.privacy.source import Cells, IntArray, Strings

# A text of n words is in the first class whose number is at least n; the last holds all others.
LENGTHS = (2, 4, 6, 8, 11, 15, 20, 28, 40, 60, 90)
ENDINGS = ("?", ".", "!")
SIZE = (len(LENGTHS) + 1) * (len(ENDINGS) + 1) * 2
# Codes beside the shapes: a text without a character, and none at all.
BLANK, MISSING = SIZE, SIZE + 1


def shape_of(text: str) -> int:
    """Length class, ending and whether the first letter is a capital, as one code in [0, SIZE)."""
    bare = text.strip()
    length = int(np.searchsorted(LENGTHS, len(bare.split())))
    ending = ENDINGS.index(bare[-1]) if bare and bare[-1] in ENDINGS else len(ENDINGS)
    capital = next((c.isupper() for c in bare if c.isalpha()), False)
    return (length * (len(ENDINGS) + 1) + ending) * 2 + capital


def words_at_most(shape: int) -> int:
    """Words of a text of this shape, at most (half as much again for the longest)."""
    length = shape // 2 // (len(ENDINGS) + 1)
    return LENGTHS[length] if length < len(LENGTHS) else LENGTHS[-1] * 3 // 2


def _parts() -> npt.NDArray[np.float64]:
    codes = np.arange(SIZE)
    lengths, endings = np.eye(len(LENGTHS) + 1), np.eye(len(ENDINGS) + 1)
    ends = codes // 2
    return np.column_stack([lengths[ends // len(endings)], endings[ends % len(endings)], codes % 2])


# Each shape as a vector of ones and noughts: its length class, its ending, whether it begins with a capital; shape (SIZE, 17).
PARTS = _parts()


@dataclass(frozen=True)
class ShapeOf:
    """A coding: the shape of each text, or BLANK or MISSING. left_out: texts that count as missing ones."""

    column: str
    left_out: frozenset[str] = frozenset()

    @property
    def size(self) -> int:
        return SIZE + 2

    def encode(self, cells: Cells) -> IntArray:
        if not isinstance(cells, Strings):
            raise PrivacyError(f"column {self.column!r} holds no strings")
        shapes = [MISSING if t in self.left_out else shape_of(t) if t.strip() else BLANK for t in cells.uniques]
        return np.append(shapes, MISSING).astype(np.int64)[cells.codes]
