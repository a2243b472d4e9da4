"""Public settings of the language model for text columns, and the spending of its budget.

Routes: *guided*, a public model that noisy counts and embeddings lead; *tuned*, the same after DP-SGD on the rows.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Literal

from dpsynth.encode.cells import LabelCells
from dpsynth.encode.codec import Codec
from dpsynth.models.language import pretrained
from dpsynth.models.language.guide import Groups, Guide, buy
from dpsynth.models.language.judges import Judge, Teacher
from dpsynth.models.language.leaves import LeafCells
from dpsynth.models.language.taxonomy import Taxonomy
from dpsynth.models.language.tuning import STAGE, Reading, Tuning, tune, tuned_prompt
from dpsynth.models.language.words import public_vocabulary
from dpsynth.models.language.writer import FLUENCY, TextWriter, Writing, prompt_of
from dpsynth.models.protocol import (
    Generator,
    Steps,
    TableModel,
    TextColumn,
    Training,
    Zeros,
    planned_training,
    reserve_of,
    reserve_training,
    with_units,
)
from dpsynth.privacy.budget import Reserve
from dpsynth.privacy.errors import ModelError
from dpsynth.privacy.table import Measurement, PrivateTable

if TYPE_CHECKING:
    from dpsynth.models.language.lora import Adapter

# Groups that texts are written for, at most: with more of them, each has too few rows to say anything.
MAX_GROUPS = 256
# Labels of a column that is made a condition without being asked for, at most.
FEW_LABELS = 128
# Tokens that a text and its own part of the prompt are to have room for.
LEAST_ROOM = 100
# Below these, "auto" does not train on the rows.
ENOUGH_UNITS, ENOUGH_EPSILON = 5000, 2.0


def _marginals() -> Generator:
    from dpsynth.models.marginals.generator import Marginals

    return Marginals()


def _is_example(example: Any) -> bool:
    """Whether it is a subject, words and a text."""
    if not isinstance(example, tuple | list) or len(example) != 3:
        return False
    subject, words, text = example
    return isinstance(subject, str) and isinstance(text, str) and all(isinstance(word, str) for word in words)


@dataclass(frozen=True, kw_only=True, slots=True)
class Language:
    """Texts by a public language model. All settings are public: none may be set by looking at the rows.

    route: "guided": DP word counts and DP embedding centroids of each group of rows, written out by the language model as it is.
        "tuned": DP-SGD trains the language model on the rows for a part of the budget (see `Tuning`), and it then writes with the guide that
        the rest bought.  "auto": "tuned" where there is a CUDA device, `units` is at least 5000 and epsilon at least 2, else
        "guided"; these bounds are a rule of thumb and were not measured.
    tuning: settings of the training.  units: about how many privacy units there are, where that is public; used by "auto" alone.
    base: a causal language model: the offline default, "tiny" (a byte-level one that comes with the package: fast, and plainly worse),
    a folder or .gguf file, or a hub's name that transformers loads.
    condition: columns of labels that a text is to fit; () = none; None = declared targets, else the columns of few labels, else none.
    taxonomy: a public tree of subjects, whose leaves are labels of a column that a text is to fit (most of whose labels are leaves); without
    such a column each text belongs to the leaf that it lies nearest to, and how many belong to each is bought.
    coverage: of those leaves that are not a column's labels: "faithful" to what was bought, or "balanced", each as frequent as any other. For
    one sample, and for labels, see `Synthesizer.sample(balance=...)`.
    description: what the texts are, in a public sentence ("Questions that customers ask a bank").
    examples: public example texts for the prompt, (subject, words, text); none = texts on subjects that no table is about.
    words: bought words in a prompt, at most.  nudge: added to the logit of each until it has occurred; 3 is fluent, 5 faithful.
    temperature, top_k, top_p: of the sampling.  overdraw: texts written for each that is kept.
    select: choose among them so that their means come near those that were bought; without, the first that pass the public rules are taken.
    fluency: weight, beside those means, of how likely the base model finds a text that it reads without the prompt; 0 = none, and the
    texts are not read again.
    dimensions: axes of the embeddings that are bought.  batch: texts at a time.
    table: the model of the other columns.
    judges: of `dpsynth.models.language.judges`, which one after another take texts away before the choice; public models and rules, which see
    written texts and labels alone.  teacher: an `Endpoint` that writes in place of the base model.
    """

    base: str = pretrained.DEFAULT
    condition: str | Sequence[str] | None = None
    taxonomy: Taxonomy | None = None
    coverage: Literal["faithful", "balanced"] = "faithful"
    description: str = ""
    examples: tuple[tuple[str, tuple[str, ...], str], ...] = ()
    words: int = 4
    nudge: float = 4.0
    temperature: float = 0.8
    top_k: int = 60
    top_p: float = 0.95
    overdraw: float = 4.0
    select: bool = True
    fluency: float = FLUENCY
    dimensions: int = 128
    batch: int = 128
    table: Generator = field(default_factory=_marginals)
    route: Literal["guided", "tuned", "auto"] = "guided"
    tuning: Tuning = field(default_factory=Tuning)
    units: int | None = None
    judges: tuple[Judge, ...] = ()
    teacher: Teacher | None = None

    def __post_init__(self) -> None:
        for name in ("judges", "examples"):
            if isinstance(getattr(self, name), list):
                object.__setattr__(self, name, tuple(getattr(self, name)))
        self._require_types()
        if self.words < 2 or self.top_k < 1 or self.batch < 1 or not 8 <= self.dimensions <= 384:
            raise ModelError("words must be at least 2, top_k and batch at least 1, dimensions between 8 and 384")
        if not 0 < self.temperature <= 100 or not 0 < self.top_p <= 1 or not 1 <= self.overdraw <= 1000:
            raise ModelError("temperature must be above 0, top_p in (0, 1], overdraw between 1 and 1000")
        if not 0 <= self.nudge <= 100 or not 0 <= self.fluency <= 100:
            raise ModelError("nudge and fluency must lie between 0 and 100")
        if self.route not in ("guided", "tuned", "auto"):
            raise ModelError("route must be 'guided', 'tuned' or 'auto'")
        if self.coverage not in ("faithful", "balanced"):
            raise ModelError("coverage must be 'faithful' or 'balanced'")
        if self.coverage == "balanced" and self.taxonomy is None:
            raise ModelError("coverage='balanced' needs a taxonomy; labels are balanced by sample(balance=...)")
        self.tuning.require(self.taxonomy)
        if self.teacher is not None and self.route != "guided":
            raise ModelError("a teacher writes in place of the base model: it goes with route='guided' alone")
        if self.route == "tuned" and isinstance(self.table, Training):
            raise ModelError("route='tuned' needs a table model that is not trained on the rows itself, as Marginals()")

    def _require_types(self) -> None:
        """Raises ModelError for what would fail later, when the budget is spent: callers may be untyped."""
        for name in ("words", "top_k", "batch", "dimensions", *(["units"] if self.units is not None else [])):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int):
                raise ModelError(f"{name} must be a whole number")
        for name in ("temperature", "top_p", "overdraw", "nudge", "fluency"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
                raise ModelError(f"{name} must be a finite number")
        if not isinstance(self.base, str) or not isinstance(self.description, str):
            raise ModelError("base and description must be strings")
        if self.taxonomy is not None and not isinstance(self.taxonomy, Taxonomy):
            raise ModelError('taxonomy: Taxonomy.read("subjects.yaml"), or Taxonomy.of(...)')
        if not hasattr(self.table, "fit") or not isinstance(self.tuning, Tuning):
            raise ModelError("table must be a model such as Marginals(), tuning a Tuning")
        if not isinstance(self.judges, tuple) or not all(
            callable(getattr(judge, "score", None)) for judge in self.judges
        ):
            raise ModelError("judges: a tuple of them, as judges=(Rules(),)")
        if self.teacher is not None and not hasattr(self.teacher, "write"):
            raise ModelError("teacher: an Endpoint; a model that transformers loads is given as base=")
        if not all(isinstance(name, str) for name in self.conditions or ()):
            raise ModelError("condition: a column's name, or several")
        if not isinstance(self.examples, tuple) or not all(map(_is_example, self.examples)):
            raise ModelError("examples: (subject, words, text), one after another")

    @property
    def conditions(self) -> tuple[str, ...] | None:
        """Columns that were asked for, maybe none; None where nothing was said."""
        if self.condition is None:
            return None
        if isinstance(self.condition, str) or not isinstance(self.condition, Iterable):
            return (self.condition,)
        return tuple(dict.fromkeys(self.condition))

    @property
    def public(self) -> tuple[str, ...]:
        """See `TextGenerator`."""
        said = [f"what the texts are: {self.description} (declared)"] if self.description else []
        said += [f"{len(self.examples)} example texts (declared)"] if self.examples else []
        if self.taxonomy is not None:
            said.append(f"subjects of the texts: {', '.join(self.taxonomy.names)} (a taxonomy, declared)")
        return tuple(said)

    def require(self) -> None:
        """Raises ModelError where the base model, the embedder, a judge or the teacher is not there or cannot write to such a prompt:
        before anything is reserved."""
        pretrained.sha256_of(self.base)
        pretrained.check_embedder()
        self._require_room()
        for judge in self.judges:
            judge.require()
        if self.teacher is not None:
            self.teacher.require()

    def _require_room(self) -> None:
        """Raises ModelError where the base model has no place for a text after what is public of the prompt."""
        if self.teacher is not None:
            return
        from dpsynth.models.language.decoding import Writer

        tokenizer = pretrained.load_tokenizer(self.base)
        bare = self.base == pretrained.TINY
        prefix = tokenizer(prompt_of((), self.description, self.examples, bare=bare).prefix()).input_ids
        if self.base in pretrained.PLACES:
            room = pretrained.PLACES[self.base] - len(prefix)
        else:  # a model of one's own is loaded and tried: it may have an attention that shares no prefix
            room = Writer(pretrained.load_language_model(self.base, pretrained.fast_device()), prefix).room
        if room < LEAST_ROOM:
            raise ModelError(
                f"description and examples take {len(prefix)} tokens, and leave the language model no room"
            )

    def reserve(self, epsilon: float, delta: float) -> Reserve:
        """What the run sets aside: where the language model is tuned, its training and the rest for queries."""
        if not self._tunes(epsilon):
            return reserve_of(self.table, epsilon, delta)
        return reserve_training(
            epsilon, delta, share=self.tuning.share, sampling_rate=self.tuning.sampling_rate,
            steps=self.tuning.labelled, clipping_norm=self.tuning.clipping_norm, stage=STAGE,
        )  # fmt: skip

    def _tunes(self, epsilon: float) -> bool:
        """Whether the language model is trained on the rows: see `route`."""
        if self.route != "auto":
            return self.route == "tuned"
        return (
            epsilon >= ENOUGH_EPSILON
            and (self.units or 0) >= ENOUGH_UNITS
            and not isinstance(self.table, Training)
            and pretrained.fast_device() != "cpu"
        )

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
        """The columns of labels that texts are to be written for: see `condition`.

        Raises ModelError. Warns of conditions that are left out, for too many labels: a run that has spent is not refused for that.
        """
        labelled = {c.column: c.cells for c in codecs if isinstance(c.cells, LabelCells) and c.column not in texts}
        if self.conditions is not None:
            for name in self.conditions:
                if name not in labelled:
                    raise ModelError(f"condition: {name!r} is not a column of labels in the model")
            asked = [labelled[name] for name in self.conditions]
            fitting = self._fitting(asked, MAX_GROUPS * 4)
            if lost := [cells.column for cells in asked if cells not in fitting]:
                text = "their labels, as bought, are too many together"
                warnings.warn(f"texts are not written for {', '.join(map(repr, lost))}: {text}", stacklevel=2)
            return fitting
        meant = dict.fromkeys((*self._leafed(labelled), *(name for name in labelled if name in targets)))
        few = [cells for cells in labelled.values() if 1 <= len(cells.labels) <= FEW_LABELS]
        return self._fitting([labelled[name] for name in meant], MAX_GROUPS * 4) or self._fitting(few, MAX_GROUPS)

    def require_few(self, declared: Sequence[LabelCells]) -> None:
        """See `TextGenerator`."""
        asked = tuple(cells for cells in declared if cells.column in (self.conditions or ()))
        # Labels of a condition that is not declared may turn out to be the leaves.
        leaves = self._leaves(asked) if len(asked) == len(self.conditions or ()) else 1
        if math.prod(c.size for c in asked) * leaves > MAX_GROUPS * 4:
            names = ", ".join(cells.column for cells in asked)
            with_leaves = " with the taxonomy's leaves" if leaves > 1 else ""
            raise ModelError(f"condition: {names} have too many combinations of labels{with_leaves}")

    def _fitting(self, columns: Iterable[LabelCells], most: int) -> tuple[LabelCells, ...]:
        """One column after another, but those that would make more than so many groups."""
        out: tuple[LabelCells, ...] = ()
        for cells in columns:
            if self._groups((*out, cells)) <= most:
                out = (*out, cells)
        return out

    def _groups(self, cells: tuple[LabelCells, ...]) -> int:
        """Combinations of these columns' labels and of the leaves beside them."""
        return math.prod(c.size for c in cells) * self._leaves(cells)

    def _leafed(self, labelled: Mapping[str, LabelCells]) -> tuple[str, ...]:
        """The first column whose labels are leaves of the taxonomy."""
        taxonomy = self.taxonomy
        return () if taxonomy is None else tuple(n for n, cells in labelled.items() if taxonomy.covers(cells))[:1]

    def _leaves(self, cells: Sequence[LabelCells]) -> int:
        """Cells of the leaves that each text is given beside these columns' labels; 1 where there are none."""
        if self.taxonomy is None or any(map(self.taxonomy.covers, cells)):
            return 1
        return LeafCells.of("", self.taxonomy).size

    def fit_texts(
        self,
        table: PrivateTable,
        columns: Mapping[str, TextColumn],
        cells: tuple[LabelCells, ...],
        *,
        mu_squared: float,
        device: str,
        progress: Steps,
    ) -> tuple[TextWriter, ...]:
        """Spend `mu_squared` on text columns, equally. See `TextGenerator`."""
        digest = pretrained.sha256_of(self.base)
        vocabulary = public_vocabulary(pretrained.load_tokenizer(self.base), pretrained.load_embedder()[1])
        progress.stage("measuring texts", len(columns))
        guides = []
        for name, column in columns.items():
            guide = buy(
                table,
                name,
                Groups(cells=cells, counts=column.counts, taxonomy=self.taxonomy),
                vocabulary,
                dimensions=self.dimensions,
                mu_squared=mu_squared / len(columns),
                left_out=column.recurring,
            )
            guides.append(guide)
            progress.advance()
        parts: list[dict[str, Any]] = [
            {"guide": guide, "writing": self._writing(), "sha256": digest} for guide in guides
        ]
        adapter = self._tuned(table, guides, [*columns.values()], vocabulary, device, progress)
        if adapter is None:
            return tuple(TextWriter(**part) for part in parts)
        from dpsynth.models.language.tuned import TunedWriter

        return tuple(TunedWriter(**part, adapter=adapter) for part in parts)

    def _tuned(
        self,
        table: PrivateTable,
        guides: Sequence[Guide],
        columns: Sequence[TextColumn],
        vocabulary: tuple[str, ...],
        device: str,
        progress: Steps,
    ) -> Adapter | None:
        """Updates of the language model, trained on all text columns together; None where no training was reserved."""
        clip, groups = self.tuning.clipping_norm, [guide.groups for guide in guides]
        n_units = max(float(column.counts.sum()) for column in columns)
        phases = []
        for label, part in zip(self.tuning.labelled, self.tuning.parts(groups), strict=True):
            plan = planned_training(table.account, stage=STAGE, label=label, clipping_norm=clip)
            if plan is not None and part.live:
                phases.append((with_units(plan, part.share * n_units), part))
        if not phases:
            return None
        lm = pretrained.own_language_model(self.base, device)
        prompts = [tuned_prompt(prompt_of(g.groups.cells, self.description, ()), g.column) for g in guides]
        left_out = [column.recurring for column in columns]
        reading = Reading.of(lm, prompts, groups, vocabulary, self.words, self.tuning.max_tokens, left_out)
        return tune(lm, reading, reading.rows(table), self.tuning, phases, device, progress)

    def _writing(self) -> Writing:
        return Writing(**{setting.name: getattr(self, setting.name) for setting in fields(Writing)})
