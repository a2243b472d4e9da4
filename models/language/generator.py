"""Public settings of the language model for text columns, and the spending of its budget."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from dpsynth.encode.cells import LabelCells
from dpsynth.encode.codec import Codec
from dpsynth.models.language import pretrained
from dpsynth.models.language.guide import Groups, buy
from dpsynth.models.language.words import public_vocabulary
from dpsynth.models.language.writer import TextWriter, Writing
from dpsynth.models.protocol import Generator, Steps, TableModel, Zeros, reserve_of
from dpsynth.privacy.budget import Reserve
from dpsynth.privacy.errors import ModelError
from dpsynth.privacy.source import FloatArray
from dpsynth.privacy.table import Measurement, PrivateTable

# Groups that texts are written for, at most: with more of them, each has too few rows to say anything.
MAX_GROUPS = 256
# Labels of a column that is made a condition without being asked for, at most.
FEW_LABELS = 128


def _marginals() -> Generator:
    from dpsynth.models.marginals.generator import Marginals

    return Marginals()


@dataclass(frozen=True, kw_only=True, slots=True)
class Language:
    """Texts by the *guided* route: DP word counts and DP embedding centroids of each group of rows, written out by a public language model.

    It is not trained on the rows. All settings are public: none may be set by looking at the rows.

    base: a causal language model: the offline default, a folder or .gguf file, or a hub's name that transformers loads.
    condition: columns of labels that a text is to fit; None = declared targets, else the columns of few labels, else none.
    description: what the texts are, in a public sentence ("Questions that customers ask a bank").
    examples: public example texts for the prompt, (subject, words, text); none = texts on subjects that no table is about.
    words: bought words in a prompt, at most.  nudge: added to the logit of each until it has occurred; 3 is fluent, 5 faithful.
    temperature, top_k, top_p: of the sampling.  overdraw: texts written for each that is kept.
    select: choose among them by the DP centroids and shapes; without, the first that pass the public rules are taken.
    dimensions: axes of the embeddings that are bought.  batch: texts at a time.
    table: the model of the other columns.
    """

    base: str = pretrained.DEFAULT
    condition: str | Sequence[str] | None = None
    description: str = ""
    examples: tuple[tuple[str, tuple[str, ...], str], ...] = ()
    words: int = 4
    nudge: float = 4.0
    temperature: float = 0.95
    top_k: int = 60
    top_p: float = 0.95
    overdraw: float = 3.0
    select: bool = True
    dimensions: int = 128
    batch: int = 128
    table: Generator = field(default_factory=_marginals)

    def __post_init__(self) -> None:
        if self.words < 2 or self.top_k < 1 or self.batch < 1 or not 8 <= self.dimensions <= 384:
            raise ModelError("words must be at least 2, top_k and batch at least 1, dimensions between 8 and 384")
        if not self.temperature > 0 or not 0 < self.top_p <= 1 or self.overdraw < 1 or not 0 <= self.nudge <= 100:
            raise ModelError(
                "temperature must be above 0, top_p in (0, 1], overdraw at least 1, nudge between 0 and 100"
            )

    @property
    def conditions(self) -> tuple[str, ...]:
        """Columns that were asked for."""
        return (self.condition,) if isinstance(self.condition, str) else tuple(self.condition or ())

    def require(self) -> None:
        """Raises ModelError where the base model or the embedder is not there: before anything is reserved."""
        pretrained.sha256_of(self.base)
        pretrained.check_embedder()

    def reserve(self, epsilon: float, delta: float) -> Reserve:
        """What the run sets aside: as the model of the other columns asks for it."""
        return reserve_of(self.table, epsilon, delta)

    def fit(
        self,
        table: PrivateTable,
        codecs: Sequence[Codec],
        histograms: Mapping[str, Measurement],
        *,
        n_units: float,
        mu_squared: float,
        selection: float,
        targets: Collection[str],
        zeros: Sequence[Zeros],
        device: str,
        progress: Steps,
    ) -> TableModel:
        """The model of the other columns, and of which rows have a text; texts are `fit_texts`'."""
        return self.table.fit(
            table, codecs, histograms, n_units=n_units, mu_squared=mu_squared, selection=selection, targets=targets, zeros=zeros,
            device=device, progress=progress,
        )  # fmt: skip

    def conditions_among(
        self, codecs: Sequence[Codec], texts: Collection[str], targets: Collection[str]
    ) -> tuple[LabelCells, ...]:
        """The columns of labels that texts are to be written for: see `condition`. Raises ModelError."""
        labelled = {c.column: c.cells for c in codecs if isinstance(c.cells, LabelCells) and c.column not in texts}
        for name in self.conditions:
            if name not in labelled:
                raise ModelError(f"condition: {name!r} is not a column of labels in the model")
        named = self.conditions or tuple(name for name in labelled if name in targets)
        if named:
            found = tuple(labelled[name] for name in named)
            if math.prod(c.size for c in found) > MAX_GROUPS * 4:
                raise ModelError(f"condition: {', '.join(named)} have too many combinations of labels")
            return found
        out: list[LabelCells] = []
        for cells in labelled.values():
            if (
                cells.labels
                and len(cells.labels) <= FEW_LABELS
                and math.prod(c.size for c in (*out, cells)) <= MAX_GROUPS
            ):
                out.append(cells)
        return tuple(out)

    def fit_texts(
        self,
        table: PrivateTable,
        columns: Mapping[str, float],
        cells: tuple[LabelCells, ...],
        counts: FloatArray,
        *,
        mu_squared: float,
        progress: Steps,
    ) -> tuple[TextWriter, ...]:
        """Spend `mu_squared` on text columns, equally. See `TextGenerator`."""
        digest = pretrained.sha256_of(self.base)
        vocabulary = public_vocabulary(pretrained.load_tokenizer(self.base), pretrained.load_embedder()[1])
        progress.stage("measuring texts", len(columns))
        out = []
        for column, share in columns.items():
            guide = buy(
                table,
                column,
                Groups(cells=cells, counts=counts * share),
                vocabulary,
                dimensions=self.dimensions,
                mu_squared=mu_squared / len(columns),
            )
            out.append(TextWriter(guide=guide, writing=self._writing(), sha256=digest))
            progress.advance()
        return tuple(out)

    def _writing(self) -> Writing:
        return Writing(
            base=self.base,
            description=self.description,
            examples=self.examples,
            words=self.words,
            nudge=self.nudge,
            temperature=self.temperature,
            top_k=self.top_k,
            top_p=self.top_p,
            overdraw=self.overdraw,
            select=self.select,
            batch=self.batch,
        )
