"""Rows as the ledger knows them again: under another name, in another order of rows or columns, saved again in another format.

Each cell has a canonical form, by its value and not by how it is stored: a number, a number in a string and a truth value
(1 or 0) are numbers; a date is a moment, also where it is a string; a missing cell is missing, also as "" or "NA" in a string.
Numbers count to the precision of 32-bit floats, so that a column that was stored as such is known again. Column names do not
count: renaming a column makes no new data set.

Each row gets a 64-bit hash of its cells, and the rows together a hash of their multiset, which parts of a table add up to
(`Contents`). These hashes are as private as the rows; only a keyed hash of the multiset's (`Ledger.fingerprint`) enters the ledger,
and its size says nothing about theirs. The hashes are spelled out here, because a ledger outlives the versions of the libraries
that could make them.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal

import numpy as np
import numpy.typing as npt

from dpsynth.privacy.source import Cells, Strings

Hashes = npt.NDArray[np.uint64]
Moments = Literal["datetime", "timedelta"]

# What readers of CSV files take for a missing cell (pandas' list; what `float` reads as NaN or infinite is missing, too).
MISSING = frozenset(
    ["", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "1.#IND", "1.#QNAN", "<NA>", "N/A", "NA", "NULL", "None", "n/a", "null"]
)  # fmt: skip
_TRUTH = {"true": 1.0, "false": 0.0}
_WHOLE = re.compile(r"-?[1-9]\d*|0")
_DATE = re.compile(r"\d{4}-\d\d-\d\d([T ]\d\d:\d\d.*)?")
_SPAN = re.compile(r"(-?\d+) days?,? ?(?:([+-]?)(\d\d):(\d\d):(\d\d(?:\.\d+)?))?")
_EPOCH, _MICROSECOND = datetime(1970, 1, 1, tzinfo=UTC), timedelta(microseconds=1)
# One for each lane of a multiset's hash.
_LANES = tuple(np.uint64(c) for c in (0x243F6A8885A308D3, 0x13198A2E03707344, 0xA4093822299F31D0, 0x082EFA98EC4E6C89))
_WORD = 2**64
# Kinds of canonical cells; their numbers go into the hashes.
_NUMBER, _MOMENT, _LENGTH, _TEXT = 1, 2, 3, 4
_MISSING_HASH = 0x9E3779B97F4A7C15


@dataclass(frozen=True, slots=True, eq=False)
class RowHashes:
    """Two hashes of each row, both private. content: for the ledger.

    rows: with the columns' names, and numbers to the last bit: rows that differ hash differently (but for chance), so that which rows
    of a unit stay does not depend on their order. A number and the string that spells it shortest are the same here, too.
    """

    rows: Hashes
    content: Hashes

    def __repr__(self) -> str:
        return "RowHashes(private)"


@dataclass(frozen=True, slots=True)
class Contents:
    """What the ledger knows a table by: a hash of the multiset of its rows' content hashes. Private, until it is keyed.

    lanes: four sums modulo 2^64, each of another mix of the hashes.  rows: how many there are.
    Parts of a table add up to the whole in every order and cut, and a row that occurs twice counts twice. Tables that differ by chance
    agree with probability 2^-256, where their rows' 64-bit hashes differ. It is no defence against an owner who makes up rows
    to collide (sums are linear): an owner who wants another fingerprint need only append a row. (Clarke et al., "Incremental
    Multiset Hash Functions", ASIACRYPT 2003: MSet-Add-Hash, with public mixes.)
    """

    lanes: tuple[int, ...] = (0,) * len(_LANES)
    rows: int = 0

    @classmethod
    def of(cls, hashes: Hashes) -> Contents:
        """Of some rows, by their content hashes."""
        return cls(tuple(int(_mix(hashes + c).sum(dtype=np.uint64)) for c in _LANES), len(hashes))

    def __add__(self, other: Contents) -> Contents:
        lanes = tuple((a + b) % _WORD for a, b in zip(self.lanes, other.lanes, strict=True))
        return Contents(lanes, self.rows + other.rows)

    def __repr__(self) -> str:
        return "Contents(private)"

    def to_bytes(self) -> bytes:
        return b"".join(n.to_bytes(8, "little") for n in (*self.lanes, self.rows))


def row_hashes(columns: Mapping[str, Cells], moments: Mapping[str, Moments]) -> RowHashes:
    """Hashes of each row by its own cells alone, columns in any order. moments: which columns of numbers are microseconds."""
    n = len(next(iter(columns.values()), ()))
    rows, content = np.zeros(n, np.uint64), np.zeros(n, np.uint64)
    for name, cells in columns.items():
        hashed, exact = _cell_hashes(cells, moments.get(name))
        rows += _mix(exact ^ np.uint64(_text_hash(name)))
        content += _mix(hashed)
    return RowHashes(_mix(rows), _mix(content))


def _cell_hashes(cells: Cells, moments: Moments | None) -> tuple[Hashes, Hashes]:
    """(as the ledger knows the cells, exactly)."""
    if isinstance(cells, Strings):
        missing = np.uint64(_MISSING_HASH)
        known, exact = _string_hashes(cells.uniques.tolist())
        return np.append(known, missing)[cells.codes], np.append(exact, missing)[cells.codes]
    kinds = np.full(len(cells.data), {None: _NUMBER, "datetime": _MOMENT, "timedelta": _LENGTH}[moments], np.uint64)
    return _number_hashes(cells.data, kinds)


def _string_hashes(texts: list[str]) -> tuple[Hashes, Hashes]:
    values, kinds = np.empty(len(texts), np.float64), np.empty(len(texts), np.uint64)
    for i, text in enumerate(texts):
        kinds[i], values[i] = _canonical(text)
    hashes, exact = _number_hashes(values, kinds)
    for i, text in enumerate(texts):
        if kinds[i] == _TEXT:
            hashes[i] = exact[i] = _text_hash(text)
        elif kinds[i] == _NUMBER and not _spelled_plainly(
            text, float(values[i])
        ):  # "1.50" is no other number than "1.5", but another label
            exact[i] ^= np.uint64(_text_hash(text))
    return hashes, exact


def _spelled_plainly(text: str, value: float) -> bool:
    """Whether a text is as programs write the number (or truth value) that it stands for."""
    return text == repr(value) or _WHOLE.fullmatch(text) is not None or text.lower() in _TRUTH


def _canonical(text: str) -> tuple[int, float]:
    """(kind, value) of a string; NaN is missing, and a text's value does not count."""
    try:
        return _NUMBER, float(text)
    except ValueError:
        pass
    if text in MISSING:
        return _NUMBER, math.nan
    if (truth := _TRUTH.get(text.lower())) is not None:
        return _NUMBER, truth
    if _DATE.fullmatch(text):
        try:
            moment = datetime.fromisoformat(text)
        except ValueError:
            return _TEXT, 0.0
        return _MOMENT, float(((moment if moment.tzinfo else moment.replace(tzinfo=UTC)) - _EPOCH) // _MICROSECOND)
    if span := _SPAN.fullmatch(text):
        days, sign, hours, minutes, seconds = span.groups(default="0")
        within = (int(hours) * 60 + int(minutes)) * 60_000_000 + round(float(seconds) * 1e6)
        return _LENGTH, float(int(days) * 86_400_000_000 + (-within if sign == "-" else within))
    return _TEXT, 0.0


def _number_hashes(values: npt.NDArray[np.float64], kinds: Hashes) -> tuple[Hashes, Hashes]:
    """(numbers to the precision of 32-bit floats, moments and lengths as they are; all as they are)."""
    with np.errstate(over="ignore", under="ignore"):
        rounded = np.where(kinds == _NUMBER, values.astype(np.float32).astype(np.float64), values)
    known = np.isfinite(values)
    coarse, exact = (
        # + 0.0: there is but one zero
        np.where(known, _mix(_mix(np.ascontiguousarray(v + 0.0).view(np.uint64)) + kinds), np.uint64(_MISSING_HASH))
        for v in (rounded, values)
    )
    return coarse, exact


def _text_hash(text: str) -> int:
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def _mix(x: Hashes) -> Hashes:
    """SplitMix64's finaliser: every bit of the input moves every bit of the output."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
