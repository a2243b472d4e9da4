"""What of the real values stands in an output: for the owner's eyes, never part of a release.

A comparison with private rows is itself private: its counts are exact, and whether it finds something says something of the rows.
Every column is compared with every other, in a view that undoes disguises, case and spaces. Values that nearly everybody shares
say nothing: a value counts where at most a few real rows hold it, and names are held against what chance alone would give.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from dpsynth.privacy.pii.columns import header_entity
from dpsynth.privacy.pii.fakes import fake_columns
from dpsynth.privacy.pii.identifiers import is_timestamp, plain_email
from dpsynth.privacy.pii.leaks import identifiers
from dpsynth.privacy.pii.normalise import view

if TYPE_CHECKING:
    from rich.table import Table

# A value that more rows hold is no secret of one of them.
FEW = 2
COPIED_WORDS, LONGEST = 8, 6
NAMES_DRAWN = 20_000
ALPHA = 1e-3
COLUMN_NAMES = "(column names)"


@dataclass(frozen=True, kw_only=True, slots=True)
class Copy:
    """Synthetic cells of one column that hold something of one real column.

    kind: identifier (a valid one), value (a whole cell), within (a real cell inside a longer text), words (eight in a row) or
    name.  cells: how many synthetic cells.  by_chance: how many are to be expected of fakes that know nothing.
    """

    kind: str
    real_column: str
    synthetic_column: str
    cells: int
    by_chance: float
    alarming: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class CopyReport:
    """All copies that were found. Private: computed from real values, exactly."""

    copies: tuple[Copy, ...]

    @property
    def clean(self) -> bool:
        return not any(c.alarming for c in self.copies)

    def to_json(self) -> dict[str, Any]:
        return {"clean": self.clean, "copies": [asdict(c) for c in self.copies]}

    def __rich__(self) -> Table:
        from rich.table import Table

        table = Table(title="Real values in the synthetic table (private: keep inside)")
        for name in ("what", "of real column", "in synthetic column", "cells", "by chance", ""):
            table.add_column(name, overflow="fold")
        for c in self.copies:
            mark = "[red]copied[/]" if c.alarming else "as chance has it"
            table.add_row(c.kind, c.real_column, c.synthetic_column, str(c.cells), f"{c.by_chance:.0f}", mark)
        return table


def find_copies(
    real: Mapping[str, Sequence[str]],
    synthetic: Mapping[str, Sequence[str]],
    *,
    public: Collection[str] = (),
    seed: int = 0,
) -> CopyReport:
    """Compare the strings of two tables, column names included. Values come as strings; missing cells are left out.

    public: values that were declared (categories): no secret, however few rows hold them.
    seed: of the fakes that tell how often names coincide by chance.
    """
    declared = {_words(v) for v in _views(public)}
    known = [_Known(name, cells, declared) for name, cells in real.items()]
    rng = np.random.default_rng(seed)
    copies = [
        copy
        for target, cells in {**synthetic, COLUMN_NAMES: list(synthetic)}.items()
        for copy in _copies_in(target, cells, known, rng)
    ]
    return CopyReport(copies=tuple(sorted(copies, key=lambda c: (not c.alarming, c.kind, c.real_column))))


class _Cell:
    """A cell as it is compared: its words, and its valid identifiers without their punctuation."""

    def __init__(self, raw: str) -> None:
        text = view(raw).text
        self.words = _words(text)
        self.identifiers = {
            (entity, re.sub(r"[\W_]", "", plain_email(v) if "EMAIL" in entity else v).casefold())
            for entity, v in identifiers(text)
        }
        self.runs = _runs(self.words)
        # Numbers and dates coincide by chance; so do short words.
        letters = sum(c.isalpha() for c in text)
        self.telling = not is_timestamp(text) and (len("".join(self.words)) >= 6 if letters else _digits(text) >= 9)


class _Known:
    """What one real column holds that few of its rows share."""

    def __init__(self, name: str, raw: Sequence[str], public: Collection[tuple[str, ...]]) -> None:
        self.name = name
        cells = [(_Cell(text), rows) for text, rows in Counter(raw).items()]
        self.names = {c.words for c, _ in cells} if header_entity(name) == "PERSON" else set()
        rare = [c for c, rows in cells if rows <= FEW and c.telling and c.words not in public]
        self.values = {c.words for c in rare} - self.names
        self.short = {w for w in self.values if 1 <= len(w) <= LONGEST}
        self.runs = {run for c in rare for run in c.runs}
        self.identifiers = {i for c, _ in cells for i in c.identifiers}
        self._common: float | None = None

    def common(self, rng: np.random.Generator) -> float:
        """Share of fakes, which know nothing of the real names, that are among them."""
        if self._common is None:
            fakes = fake_columns({self.name: "PERSON"}, NAMES_DRAWN, rng)[self.name]
            self._common = sum(_words(f) in self.names for f in fakes) / NAMES_DRAWN
        return self._common

    def held_by(self, cell: _Cell) -> Iterator[str]:
        """Kinds of copies in a synthetic cell."""
        if cell.identifiers & self.identifiers:
            yield "identifier"
        if cell.words in self.values:
            yield "value"
        if self.short and any(piece in self.short for piece in _pieces(cell.words)):
            yield "within"
        if cell.runs & self.runs:
            yield "words"
        if cell.words in self.names:
            yield "name"


def _copies_in(target: str, raw: Sequence[str], known: Sequence[_Known], rng: np.random.Generator) -> Iterator[Copy]:
    cells = [(_Cell(text), times) for text, times in Counter(raw).items()]
    for column in known:
        found: Counter[str] = Counter()
        for cell, times in cells:
            found.update(dict.fromkeys(column.held_by(cell), times))
        for kind, count in found.items():
            chance = len(raw) * column.common(rng) if kind == "name" else 0.0
            alarming = kind != "name" or _exceeds(count, len(raw), chance)
            yield Copy(
                kind=kind,
                real_column=column.name,
                synthetic_column=target,
                cells=count,
                by_chance=chance,
                alarming=alarming,
            )


def _exceeds(count: int, n: int, expected: float) -> bool:
    """One-sided binomial test; the expectation's own error is allowed for by three of its standard deviations."""
    from scipy.stats import binom

    share = expected / n
    share += 3 * math.sqrt(share * (1 - share) / NAMES_DRAWN) + 1 / NAMES_DRAWN
    return bool(binom.sf(count - 1, n, min(share, 1.0)) < ALPHA)


def _views(cells: Iterable[str]) -> list[str]:
    return [view(cell).text for cell in cells]


def _words(text: str) -> tuple[str, ...]:
    return tuple(re.findall(r"\w+", text.casefold()))


def _digits(text: str) -> int:
    return sum(c.isdigit() for c in text)


def _pieces(words: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """Shorter runs of a text's words."""
    for length in range(1, min(LONGEST, len(words) - 1) + 1):
        for start in range(len(words) - length + 1):
            yield tuple(words[start : start + length])


def _runs(words: Sequence[str]) -> set[int]:
    return {hash(tuple(words[i : i + COPIED_WORDS])) for i in range(len(words) - COPIED_WORDS + 1)}
