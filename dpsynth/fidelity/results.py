"""What an evaluation gives. PRIVATE: made from real rows."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table

_PRIVATE = {"private": "made from real rows; keep inside"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Scores:
    """One table against the real one. Distances: 0 is equal; means over columns, pairs or triples. See `metrics`.

    tv1 / tv2 / tv3: total variation distance of one- / two- / three-column tables.  mean / sd / quantiles: difference of means, of
    standard deviations, of deciles, in real standard deviations.  missing: difference of missing shares.  association:
    difference of correlations (Pearson between numbers, Cramer's V otherwise).
    detector: AUC of a classifier that tells the tables apart (0.5: it cannot).  utility: how well a classifier that learns the target
    from the table does on real rows that nothing was learned from (AUC, accuracy or R2).  None: not asked for, or no target.
    """

    tv1: float
    tv2: float
    tv3: float
    mean: float
    sd: float
    quantiles: float
    missing: float
    association: float
    detector: float | None
    utility: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class ColumnScore:
    """One column: TVD, and for numbers the means and standard deviations (real, synthetic)."""

    name: str
    tv1: float
    ceiling: float
    means: tuple[float, float] | None
    sds: tuple[float, float] | None
    missing: tuple[float, float]


@dataclass(frozen=True, kw_only=True, slots=True)
class PairScore:
    """One pair of columns: TVD, and association in the real, synthetic and ceiling table."""

    first: str
    second: str
    tv2: float
    ceiling: float
    real: float
    synthetic: float
    other: float


@dataclass(frozen=True, kw_only=True, slots=True)
class GroupScore:
    """One subgroup: its share (real, synthetic), mean 1-way TVD within it with its ceiling, and how well a classifier does on its
    real rows, having learned from real and from synthetic rows; None without a target or with too few rows.
    """

    columns: tuple[str, ...]
    name: str
    shares: tuple[float, float]
    tv1: float
    ceiling: float
    utility: tuple[float, float] | None


@dataclass(frozen=True, kw_only=True, slots=True)
class TextFigures:
    """A set of texts against real ones; the functions of `fidelity.texts` say what each figure is.

    frechet (0: equal), mauve (1: equal), precision, recall (of as many real texts: as the ceiling): of sentence embeddings; None where
    no embedder is installed.  lengths, words: difference of the numbers of words, and of how often each word occurs (0: equal).
    repeated: share of the texts that hold eight words in a row of a real one that was learned from.  nearly_copied: share that are one,
    but for a word or two.
    """

    frechet: float | None
    mauve: float | None
    precision: float | None
    recall: float | None
    lengths: float
    words: float
    repeated: float
    nearly_copied: float


@dataclass(frozen=True, kw_only=True, slots=True)
class LearnedFromTexts:
    """What words say of a column of labels: accuracy on other real texts of a classifier that learned from synthetic and from real
    ones, and the share of synthetic texts to which the latter gives the label of their row.
    """

    label: str
    synthetic: float
    real: float
    agreement: float


@dataclass(frozen=True, kw_only=True, slots=True)
class TextScore:
    """One column of texts. ceiling: the same figures for other real texts.  compared: texts of each side that were embedded.
    canaries: (of those that were planted, how many stand in a synthetic text; how many were planted), if any were named.
    """

    column: str
    synthetic: TextFigures
    ceiling: TextFigures
    compared: int
    learned: tuple[LearnedFromTexts, ...]
    canaries: tuple[int, int] | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Decay:
    """What of the real table is left in another one: 1 is all of it. None: the table has none of that.

    variance: of the median column of numbers.  tails: rows in the outer 1% at each end, over the real ones; mean over columns.
    rare: share of the rare groups (cells of one and two columns with at most 1% of the rows) that hold at least half of their real
    share.  dependence: correlations and associations, as a multiple of the real ones.  tv1 / tv2: distances, as in `Scores`.
    """

    variance: float | None
    tails: float | None
    rare: float | None
    dependence: float | None
    tv1: float
    tv2: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Collapse:
    """What is left, generation by generation, when a model learns from its own output. PRIVATE: made from real rows.

    alone: each generation learned from the one before; the first from the real table.  mixed: each from the one before together with
    the real rows; the same first one; empty where that was not asked for.  ceiling: what a random sample of the real table keeps.
    fits: how many of the fits read real rows.  epsilon, delta: of each.  total: (epsilon, delta) of those together.
    """

    alone: tuple[Decay, ...]
    mixed: tuple[Decay, ...]
    ceiling: Decay
    fits: int
    epsilon: float
    delta: float
    total: tuple[float, float]

    def to_json(self) -> dict[str, Any]:
        return _PRIVATE | asdict(self)

    def to_html(self, path: str | Path) -> None:
        """Write the generations as a page, marked as private."""
        from dpsynth.report.internal import render_collapse

        Path(path).write_text(render_collapse(self), encoding="utf-8")

    def __rich__(self) -> Table:
        from dpsynth.report.terminal import collapse_table

        return collapse_table(self)


@dataclass(frozen=True, kw_only=True, slots=True)
class FidelityReport:
    """Fidelity of a synthetic table, each figure with its ceiling and floor. PRIVATE: made from real rows.

    ceiling_of: what the ceiling is ("holdout" or "two halves of the real table").  skipped: columns that were not compared.
    texts: columns of texts.  groups: subgroups of the sensitive columns and of each two.  target: column that `utility` is about, and its measure.
    quality: SDMetrics' quality score, if it was asked for.  generations: what models lost that learned from their own output.
    """

    synthetic: Scores
    ceiling: Scores
    floor: Scores
    columns: tuple[ColumnScore, ...]
    pairs: tuple[PairScore, ...]
    ceiling_of: str
    skipped: tuple[str, ...]
    texts: tuple[TextScore, ...] = ()
    groups: tuple[GroupScore, ...] = ()
    target: tuple[str, str] | None = None
    quality: float | None = None
    generations: Collapse | None = None

    def to_json(self) -> dict[str, Any]:
        return _PRIVATE | asdict(self)

    def to_html(self, path: str | Path) -> None:
        """Write the internal report, marked as private."""
        from dpsynth.report.internal import render

        Path(path).write_text(render(self), encoding="utf-8")

    def __rich__(self) -> Group:
        from dpsynth.report.terminal import fidelity_tables

        return fidelity_tables(self)
