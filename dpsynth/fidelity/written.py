"""A column of texts beside the real one: every figure twice, for the written texts and for other real ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from dpsynth.fidelity import texts as measure
from dpsynth.fidelity.coded import as_strings
from dpsynth.fidelity.results import LearnedFromTexts, TextFigures, TextScore
from dpsynth.privacy.source import Cells, IntArray

# Texts of each side that are embedded or that a classifier learns from; real ones that copies are looked for in.
EMBEDDED, LEARNED, SOURCES = 1_500, 10_000, 100_000
# Fewer texts of a side than this are not compared.
LEAST = 20
# A column with more labels than this is not learned from the texts.
MOST_LABELS = 200


@dataclass(frozen=True, slots=True, eq=False)
class Texts:
    """The texts of a column that hold a word, and the rows that they stand in."""

    texts: list[str]
    rows: IntArray

    @classmethod
    def of(cls, cells: Cells) -> Texts:
        strings = as_strings(cells)
        known = [bool(str(u).strip()) for u in strings.uniques]
        rows = np.flatnonzero(np.append(known, False)[strings.codes])
        return cls([str(strings.uniques[i]) for i in strings.codes[rows]], rows)

    def __len__(self) -> int:
        return len(self.texts)

    def some(self, most: int, seed: int = 0) -> Texts:
        """At most so many, drawn at random; a file may be sorted."""
        if len(self) <= most:
            return self
        return self.take(np.sort(np.random.default_rng(seed).choice(len(self), most, replace=False)))

    def take(self, places: IntArray) -> Texts:
        return Texts([self.texts[i] for i in places], self.rows[places])


@dataclass(frozen=True, slots=True, eq=False)
class Sides:
    """The texts of one column: real ones, synthetic ones, and the two real sets that the ceiling compares."""

    real: Texts
    synthetic: Texts
    base: Texts
    other: Texts

    @classmethod
    def of(cls, name: str, cells: Mapping[str, Mapping[str, Cells]]) -> Sides:
        """cells: of the tables "real", "synthetic" and perhaps "other", a holdout; without it the real table is halved."""
        real, synthetic = (Texts.of(cells[which][name]) for which in ("real", "synthetic"))
        if "other" in cells:
            return cls(real, synthetic, real, Texts.of(cells["other"][name]))
        order = np.random.default_rng(0).permutation(len(real))
        half = len(order) // 2
        return cls(real, synthetic, real.take(np.sort(order[:half])), real.take(np.sort(order[half:])))


def text_score(
    name: str,
    cells: Mapping[str, Mapping[str, Cells]],
    labels: Sequence[str],
    canaries: Sequence[str] | None,
    learners: bool,
) -> TextScore | None:
    """One column of texts; None where a side has too few. labels: columns that a classifier is to learn from the texts."""
    sides = Sides.of(name, cells)
    if min(len(sides.synthetic), len(sides.base), len(sides.other)) < LEAST:
        return None
    compared = min(EMBEDDED, len(sides.synthetic), len(sides.base), len(sides.other))
    own, best = _figures(sides, compared)
    return TextScore(
        column=name,
        synthetic=own,
        ceiling=best,
        compared=compared,
        learned=tuple(found for label in labels if learners and (found := _learned(sides, label, cells)) is not None),
        canaries=None if canaries is None else (measure.emitted(sides.synthetic.texts, canaries), len(canaries)),
    )


def _figures(sides: Sides, n: int) -> tuple[TextFigures, TextFigures]:
    """Of the synthetic texts, and of the base ones, both against the other real ones, n of each."""
    other, synthetic, base = (side.some(n).texts for side in (sides.other, sides.synthetic, sides.base))
    near = _embedded([other, synthetic, base])
    sources = sides.real.some(SOURCES).texts
    halves = sides.base.some(SOURCES).texts
    return (
        _one(other, synthetic, None if near is None else (near[0], near[1]), synthetic, sources),
        _one(other, base, None if near is None else (near[0], near[2]), other, halves),
    )


def _one(
    real: list[str],
    texts: list[str],
    near: tuple[measure.Array, measure.Array] | None,
    copies: list[str],
    sources: list[str],
) -> TextFigures:
    precision, recall = measure.precision_recall(*near) if near else (None, None)
    return TextFigures(
        frechet=measure.frechet(*near) if near else None,
        mauve=measure.mauve(*near) if near else None,
        precision=precision,
        recall=recall,
        lengths=measure.lengths_apart(real, texts),
        words=measure.words_apart(real, texts),
        repeated=measure.repeated(copies, sources),
        nearly_copied=measure.nearly_copied(copies, sources),
    )


def _embedded(sets: Sequence[list[str]]) -> list[measure.Array] | None:
    """None where no embedder is installed."""
    from dpsynth.models.language.embedding import embed
    from dpsynth.models.language.pretrained import embedder_folder

    return [embed(texts) for texts in sets] if embedder_folder() is not None else None


def _learned(sides: Sides, label: str, cells: Mapping[str, Mapping[str, Cells]]) -> LearnedFromTexts | None:
    """What words say of a label, learned from each kind and tested on real texts that nothing was learned from."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    held = "other" if "other" in cells else "real"
    parts = {"real": (sides.base, "real"), "synthetic": (sides.synthetic, "synthetic"), "test": (sides.other, held)}
    sets = {which: _labelled(texts.some(LEARNED), cells[table][label]) for which, (texts, table) in parts.items()}
    if any(len(set(labels)) < 2 for _, labels in sets.values()):
        return None
    models = {}
    for which in ("real", "synthetic"):
        words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"(?u)\b\w+\b")
        models[which] = make_pipeline(words, LogisticRegression(C=10, max_iter=300)).fit(*sets[which])
    return LearnedFromTexts(
        label=label,
        synthetic=float(models["synthetic"].score(*sets["test"])),
        real=float(models["real"].score(*sets["test"])),
        agreement=float(models["real"].score(*sets["synthetic"])),
    )


def _labelled(texts: Texts, cells: Cells) -> tuple[list[str], list[str]]:
    """The texts whose row has a label, and these labels."""
    strings = as_strings(cells)
    codes = strings.codes[texts.rows]
    kept = np.flatnonzero(codes >= 0)
    return [texts.texts[i] for i in kept], [str(strings.uniques[codes[i]]) for i in kept]
