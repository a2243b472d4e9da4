"""What is bought of a text column: four or five Gaussian releases, and what follows from them.

    leaves      how many texts belong to each leaf of a public tree, where no column says so    by the row's other columns
    shapes      how long the texts are, how they begin and end                    pooled over all groups
    words       which words of a public vocabulary the texts hold                 pooled
    words by group       the same for the words that were found                   by the row's other columns
    centroids   sums of the texts' embeddings                                     by the row's other columns

All else here is post-processing. A group is a combination of labels of the columns that the text is written for, and of the leaf that it
belongs to.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from dpsynth.encode.cells import LabelCells
from dpsynth.models.language.embedding import Array, EmbeddingRows, Projection, embed, grid_for
from dpsynth.models.language.leaves import AT_LEAST, LEAVES, LeafCells, leaf_counts
from dpsynth.models.language.shapes import BLANK, ShapeOf
from dpsynth.models.language.taxonomy import Leaf, Taxonomy, plain
from dpsynth.models.language.words import STEPS, WordRows
from dpsynth.privacy.source import FloatArray
from dpsynth.privacy.table import PrivateTable

T = TypeVar("T")

STAGE = "text"
# Shares of the stage's mu^2.
SHAPES, POOLED, BY_GROUP, CENTROIDS = 0.03, 0.20, 0.35, 0.42
# A word is taken to occur where its noisy count stands so many sd of its noise above zero; one in 2,000 does by chance.
OCCURS = 3.3
MAX_WORDS = 4000
# Public texts from which the axes of embeddings are taken, and of how many words near a group's name they are made.
SALADS, NEAR, NEIGHBOURS_AMONG = 1000, 300, 4000
_SEED = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Groups:
    """Combinations of labels, in C order over the columns' cells; no columns = one group.

    counts: units in each group, under DP, shape (size,).  taxonomy: whose leaves are labels of a column, or the cells of the texts
    themselves (`LeafCells`, the last of the cells).
    """

    cells: tuple[LabelCells, ...]
    counts: FloatArray
    taxonomy: Taxonomy | None = None

    @property
    def size(self) -> int:
        return math.prod(c.size for c in self.cells)

    @property
    def leaves(self) -> LeafCells | None:
        """The cells of the texts themselves; None where columns alone make the groups."""
        return next((c for c in self.cells if isinstance(c, LeafCells)), None)

    @property
    def labelled(self) -> tuple[LabelCells, ...]:
        """The cells of the row's other columns."""
        return tuple(c for c in self.cells if not isinstance(c, LeafCells))

    def names(self) -> list[str]:
        """Of each group its labels in words; "" for other or missing ones."""
        out = [""]
        for column in self._each(lambda label, leaf: plain(label) if leaf is None else leaf.told, ""):
            out = [", ".join(filter(None, (name, label))) for name in out for label in column]
        return out

    def examples(self) -> list[tuple[str, ...]]:
        """Of each group the public texts on its leaf."""
        none: tuple[str, ...] = ()
        out = [none]
        for column in self._each(lambda label, leaf: none if leaf is None else leaf.examples, none):
            out = [texts + more for texts in out for more in column]
        return out

    def leaf_of(self) -> list[Leaf | None]:
        """Of each group the leaf of the taxonomy; None where there is none."""
        out: list[Leaf | None] = [None]
        for column in self._each(lambda label, leaf: leaf, None):
            out = [leaf or own for leaf in out for own in column]
        return out

    def _each(self, of: Callable[[str, Leaf | None], T], nothing: T) -> Iterator[list[T]]:
        """Of each column something for each label and its leaf, and nothing for other and missing ones."""
        for c in self.cells:
            leaves = [None if self.taxonomy is None else self.taxonomy.leaf(label) for label in c.labels]
            yield [*map(of, c.labels, leaves), nothing, nothing]

    def leaf_shares(self) -> FloatArray:
        """Share of the texts in each cell of the last column, as bought; sums to 1."""
        units = self.counts.reshape(-1, self.cells[-1].size).sum(axis=0)
        shares: FloatArray = units / max(units.sum(), 1e-300)
        return shares

    def to_json(self) -> dict[str, Any]:
        tree = {} if self.taxonomy is None else {"taxonomy": self.taxonomy.to_json()}
        return {"groups": [c.to_json() for c in self.cells]} | tree

    @classmethod
    def from_json(cls, obj: dict[str, Any], counts: FloatArray) -> Groups:
        taxonomy = Taxonomy.from_json(obj["taxonomy"]) if "taxonomy" in obj else None
        cells = [
            LeafCells.of(c["column"], taxonomy)
            if c["kind"] == "leaves" and taxonomy is not None
            else LabelCells(c["column"], tuple(c["labels"]))
            for c in obj["groups"]
        ]
        return cls(cells=tuple(cells), counts=counts, taxonomy=taxonomy)


@dataclass(frozen=True, kw_only=True, eq=False)
class Guide:
    """What is known of a text column. All of it is public or was bought.

    shapes: units with texts of each shape, shape (ShapeOf.size,), of noise sd `shape_sigma`.  words: that occur, the most frequent of the language first.
    word_counts: units of each group by word, shape (groups, words), of noise sd `word_sigma`.
    sums: of embeddings along `projection`, shape (groups, width), of noise sd `sum_sigma`.  names: embeddings of the groups' names.
    """

    column: str
    groups: Groups
    shapes: FloatArray
    shape_sigma: float
    words: tuple[str, ...]
    word_counts: FloatArray
    word_sigma: float
    projection: Projection
    sums: FloatArray
    sum_sigma: float
    names: Array

    @property
    def blank_share(self) -> float:
        """Share of the texts that are blank; 0 where that cannot be told from noise."""
        # Of all that are to be written: the sum of the other shapes is many noisy numbers, and without those below 0 too large.
        blank, all_of_them = float(self.shapes[BLANK]), float(self.groups.counts.sum())
        return blank / max(all_of_them, blank) if blank > OCCURS * self.shape_sigma else 0.0

    @cached_property
    def centroids(self) -> FloatArray:
        """Where each group's texts lie, unit-norm, shape (groups, width).

        The noisy mean, drawn towards where the group's name lies by as much as noise and what names are worth (seen over all groups)
        suggest.
        """
        counts = np.maximum(self.groups.counts, 1.0)[:, None]
        mean, noise = self.sums / counts, (self.sum_sigma / counts) ** 2
        named = np.linalg.norm(self.names, axis=1) > 0
        if named.any():
            name, seen = self.names[named].astype(np.float64), 1 / noise[named]
            pull = max(float((seen * mean[named] * name).sum() / (seen * name**2).sum()), 0.0)
            off = (mean[named] - pull * name) ** 2 - noise[named]
            spread = max(float((seen * off).sum() / (seen.sum() * name.shape[1])), 1e-6)
            trust = spread / (spread + noise)
            mean = trust * mean + (1 - trust) * pull * self.names
        out: FloatArray = mean / np.maximum(np.linalg.norm(mean, axis=1, keepdims=True), 1e-12)
        return out

    @cached_property
    def keywords(self) -> FloatArray:
        """Weight of each word in each group, shape (groups, words); rows sum to 1, or to 0 where nothing is known.

        What to expect of a group: all groups' counts, tilted to words near its centroid. Its own noisy count moves that by as much as
        groups are seen to differ from what to expect, beyond noise, in that word (empirical Bayes).
        """
        if not self.words:
            return np.zeros((self.groups.size, 0))
        share = self.groups.counts / max(self.groups.counts.sum(), 1.0)
        total = np.maximum(self.word_counts.sum(axis=0), self.word_sigma)
        near = self.centroids @ self.projection(embed(self.words)).T.astype(np.float64)
        tilt = np.exp(TILT * near)
        expected = share[:, None] * total * tilt / np.maximum(share @ tilt, 1e-300)
        off = ((self.word_counts - expected) ** 2 - self.word_sigma**2)[share > 0].sum(axis=0)
        spread = expected * np.maximum(off / np.maximum(expected[share > 0].sum(axis=0), 1e-300), 0.0)
        trust = spread / (spread + self.word_sigma**2)
        found = np.maximum(trust * self.word_counts + (1 - trust) * expected, 0.0)
        found[found < LEAST * found.max(axis=1, keepdims=True)] = 0.0
        out: FloatArray = found / np.maximum(found.sum(axis=1, keepdims=True), 1e-300)
        return out

    def state(self) -> tuple[dict[str, npt.NDArray[Any]], dict[str, Any]]:
        """(arrays, JSON): an allow-list."""
        arrays = {name: getattr(self, name) for name in ("shapes", "word_counts", "sums", "names")}
        arrays |= {"counts": self.groups.counts, "centre": self.projection.centre, "axes": self.projection.axes}
        body = {
            "column": self.column,
            **self.groups.to_json(),
            "words": list(self.words),
            "shape_sigma": self.shape_sigma,
            "word_sigma": self.word_sigma,
            "sum_sigma": self.sum_sigma,
        }
        return arrays, body

    @classmethod
    def from_state(cls, arrays: dict[str, npt.NDArray[Any]], body: dict[str, Any]) -> Guide:
        return cls(
            column=body["column"],
            groups=Groups.from_json(body, arrays["counts"]),
            shapes=arrays["shapes"],
            shape_sigma=float(body["shape_sigma"]),
            words=tuple(body["words"]),
            word_counts=arrays["word_counts"],
            word_sigma=float(body["word_sigma"]),
            projection=Projection(arrays["centre"], arrays["axes"]),
            sums=arrays["sums"],
            sum_sigma=float(body["sum_sigma"]),
            names=arrays["names"],
        )


# How much likelier a word is in a group whose centroid it lies at than in one at a right angle to it: e to this.
TILT = 6.0
# Words below this share of a group's most frequent one are left out: they are noise for the most part.
LEAST = 0.02


def buy(
    table: PrivateTable,
    column: str,
    groups: Groups,
    vocabulary: tuple[str, ...],
    *,
    dimensions: int,
    mu_squared: float,
    left_out: frozenset[str] = frozenset(),
) -> Guide:
    """Spend `mu_squared` on a text column. Where the groups' taxonomy has no column of labels, each text belongs to its nearest leaf.

    left_out: texts that nothing is asked of, for they are not to be written; public or an earlier noisy answer.
    """
    groups, mu_squared = _with_leaves(table, column, groups, mu_squared, left_out)
    (shapes,) = table.counts(
        [[ShapeOf(column, left_out)]], mu_squared=SHAPES * mu_squared, stage=STAGE, labels=[f"shapes of {column}"]
    )
    words, counts, sigma = _words(table, column, groups, vocabulary, mu_squared, left_out)
    names, projection = _public_axes(groups.names(), vocabulary, dimensions)
    grid = grid_for(table.max_rows)
    sums = table.sums(
        groups.cells,
        EmbeddingRows(column, projection, left_out, grid),
        mu_squared=CENTROIDS * mu_squared,
        stage=STAGE,
        label=f"sums of embeddings of {column}",
    )
    return Guide(
        column=column,
        groups=groups,
        shapes=shapes.values,
        shape_sigma=shapes.sigma,
        words=words,
        word_counts=counts,
        word_sigma=sigma,
        projection=projection,
        sums=sums.values / grid,
        sum_sigma=sums.sigma / grid,
        names=names,
    )


def _with_leaves(
    table: PrivateTable, column: str, groups: Groups, mu_squared: float, left_out: frozenset[str]
) -> tuple[Groups, float]:
    """(groups that tell the leaves of their taxonomy apart, what is left of `mu_squared`)."""
    taxonomy = groups.taxonomy
    if taxonomy is None:
        return groups, mu_squared
    if not any(map(taxonomy.covers, groups.cells)):
        leaves = LeafCells.of(column, taxonomy, left_out)
        counts = leaf_counts(table, groups.cells, groups.counts, leaves, mu_squared=LEAVES * mu_squared, stage=STAGE)
        return replace(groups, cells=(*groups.cells, leaves), counts=counts), (1 - LEAVES) * mu_squared
    if len(groups.cells) > 1:  # most combinations of a leaf with other labels are rare because they are
        return groups, mu_squared
    least = np.array([0.0 if leaf is None else AT_LEAST for leaf in groups.leaf_of()])
    return replace(groups, counts=np.maximum(groups.counts, least)), mu_squared


def _words(
    table: PrivateTable,
    column: str,
    groups: Groups,
    vocabulary: tuple[str, ...],
    mu_squared: float,
    left_out: frozenset[str],
) -> tuple[tuple[str, ...], FloatArray, float]:
    """(words that occur, their noisy counts by group, the noise's sd)."""
    share = POOLED if groups.size > 1 else POOLED + BY_GROUP
    found = table.sums(
        [],
        WordRows(column, vocabulary, left_out=left_out),
        mu_squared=share * mu_squared,
        stage=STAGE,
        label=f"words of {column}",
    )
    counts, sigma = found.values[0] / STEPS, found.sigma / STEPS
    kept = np.flatnonzero(counts > OCCURS * sigma)
    kept = np.sort(kept[np.argsort(-counts[kept], kind="stable")[:MAX_WORDS]])
    words = tuple(vocabulary[i] for i in kept)
    if groups.size == 1 or not words:
        return words, counts[kept][None, :].repeat(groups.size, axis=0), sigma
    by_group = table.sums(
        groups.cells,
        WordRows(column, words, left_out=left_out),
        mu_squared=BY_GROUP * mu_squared,
        stage=STAGE,
        label=f"words of {column} by group",
    )
    return words, by_group.values / STEPS, by_group.sigma / STEPS


def _public_axes(names: Sequence[str], vocabulary: tuple[str, ...], dimensions: int) -> tuple[Array, Projection]:
    """(embeddings of the groups' names along public axes, the axes).

    The axes are the principal components of word salads: public words near each group's name, and the name. They span what texts of
    the table's subject differ in almost as well as the texts' own axes would, which nobody pays for.
    """
    rng = np.random.default_rng(_SEED)
    named = [name for name in dict.fromkeys(names) if name]
    near: list[npt.NDArray[Any]] = [np.array(vocabulary, object)]
    if named:
        common = np.array(vocabulary[:NEIGHBOURS_AMONG], object)
        similar = embed(named) @ embed(list(common)).T
        near = [common[np.argsort(-row, kind="stable")[:NEAR]] for row in similar]
    salads = []
    for i in range(max(SALADS, 4 * len(near))):
        words = list(rng.choice(near[i % len(near)], 3 if named else 6))
        if named and rng.random() < 0.5:
            words.append(named[i % len(near)])
        salads.append(" ".join(rng.permutation(np.array(words, object))))
    projection = Projection.of(embed(salads), dimensions)
    out = np.zeros((len(names), projection.axes.shape[1]), np.float32)
    places = [i for i, name in enumerate(names) if name]
    if places:
        out[places] = projection(embed([names[i] for i in places]))
    return out, projection
