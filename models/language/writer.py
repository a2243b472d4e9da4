"""Rows in, texts out: prompts with bought words, a public language model, and a choice among what it wrote."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from dpsynth.encode.cells import LabelCells, places_of
from dpsynth.models.language import pretrained, selection
from dpsynth.models.language.drafts import Ask, Author, Drafts, by_base, by_teacher
from dpsynth.models.language.embedding import embed
from dpsynth.models.language.guide import Guide
from dpsynth.models.language.judges import Fluency, Judge, Teacher, from_json, marks_of, to_json
from dpsynth.models.language.leaves import LeafCells
from dpsynth.models.language.pretrained import LanguageModel
from dpsynth.models.language.prompt import Prompt, some_words
from dpsynth.models.language.shapes import SIZE, words_at_most
from dpsynth.models.protocol import Counted, Steps
from dpsynth.privacy.errors import ModelError, SchemaError
from dpsynth.privacy.source import FloatArray, IntArray
from dpsynth.values import Own

# Tokens of an English word, about, and tokens that a text may have beside them.
_TOKENS_PER_WORD, _SPARE_TOKENS = 1.8, 8
# What a leaf of a tree is called in the prompt.
_LEAF = "subject"
# Weight of fluency beside the bought means, unless another is asked for.
FLUENCY = 1.0
# Times at most that texts are written in place of those that did not pass the public rules, once some did.
_ROUNDS = 3
# Below so many texts, none of which passed the public rules or all of which judges refused, it may be chance.
_MOST_TRIED = 256
# Characters that a group's name, and what groups are called, have in a prompt, at most.
_NAMED, _CALLED = 200, 60


@dataclass(frozen=True, kw_only=True, slots=True)
class Writing:
    """Public settings of the writing; see `Language`."""

    base: str
    description: str
    examples: tuple[tuple[str, tuple[str, ...], str], ...]
    words: int
    nudge: float
    temperature: float
    top_k: int
    top_p: float
    overdraw: float
    select: bool
    fluency: float
    batch: int
    coverage: Literal["faithful", "balanced"] = "faithful"
    judges: tuple[Judge, ...] = ()
    teacher: Teacher | None = None

    @property
    def author(self) -> str:
        """Name of the model that writes, for a reader of the texts."""
        return pretrained.called(self.base) if self.teacher is None else self.teacher.name

    def to_json(self) -> dict[str, Any]:
        """All of it. Raises ModelError for a judge or teacher that is not of this package."""
        judges = [to_json(judge) for judge in self.judges]
        teacher = None if self.teacher is None else to_json(self.teacher)
        return asdict(replace(self, judges=(), teacher=None)) | {"judges": judges, "teacher": teacher}

    @classmethod
    def from_json(cls, body: dict[str, Any]) -> Writing:
        """What `to_json` wrote; an endpoint in it asks nobody until it is allowed."""
        teacher = body.get("teacher")
        body = dict(body)
        if "fluent" in body:  # once, the share of the texts that were chosen among, by the same marks
            body["fluency"] = FLUENCY if body.pop("fluent") < 1 else 0.0
        own = {
            "examples": tuple((name, tuple(words), text) for name, words, text in body["examples"]),
            "judges": tuple(from_json(judge) for judge in body.get("judges", ())),
            "teacher": None if teacher is None else from_json(teacher),
        }
        return cls(**(body | own))


def prompt_of(
    cells: Sequence[LabelCells],
    description: str,
    examples: tuple[tuple[str, tuple[str, ...], str], ...],
    *,
    bare: bool = False,
) -> Prompt:
    """The prompt of texts that are written for labels of these columns. bare: see `Prompt`."""
    subject = " and ".join(_LEAF if isinstance(c, LeafCells) else c.column.replace("_", " ") for c in cells) or _LEAF
    return Prompt(
        subject=" ".join(subject.split())[:_CALLED],
        description=description,
        examples=examples,
        bare=bare and not examples,
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class TextWriter:
    """Writes the texts of one column. sha256: of the base model that is meant."""

    guide: Guide
    writing: Writing
    sha256: str

    @property
    def column(self) -> str:
        return self.guide.column

    @property
    def conditions(self) -> tuple[str, ...]:
        """Columns that a text is written for."""
        return tuple(c.column for c in self.guide.groups.labelled)

    def coverage(self, texts: Sequence[str]) -> tuple[LabelCells, FloatArray, IntArray] | None:
        """See `TextModel`."""
        groups = self.guide.groups
        return None if groups.leaves is None else (groups.leaves, groups.leaf_shares(), groups.leaves.nearest(texts))

    def branch(self, label: str) -> str | None:
        """See `TextModel`."""
        taxonomy = self.guide.groups.taxonomy
        leaf = None if taxonomy is None else taxonomy.leaf(label)
        return None if leaf is None else leaf.branch

    @property
    def told(self) -> str:
        return self.made + (
            "; every subject of the public taxonomy is as frequent as any other, which says nothing of the source"
            if self.writing.coverage == "balanced" and self.guide.groups.leaves is not None
            else ""
        )

    @property
    def made(self) -> str:
        """How the texts came about."""
        return (
            f"texts are new, written by a public language model ({self.writing.author}) with words and a direction of meaning that were "
            "bought for each group of rows; what they state is made up"
        )

    def write(
        self,
        conditions: Sequence[Own],
        n: int,
        rng: np.random.Generator,
        *,
        progress: Steps,
        counted: Counted = lambda stage, left: None,
    ) -> list[str]:
        """n new texts for rows with these labels. Post-processing: free. See `TextModel`."""
        if not n:
            return []
        blank, texts = self.guide.blank_share, np.full(n, "", object)
        worded = np.flatnonzero(rng.random(n) >= blank) if blank else np.arange(n)
        texts[worded] = self._worded([c[worded] for c in conditions], len(worded), rng, progress, counted)
        return list(texts)

    def prompt(self) -> Prompt:
        bare = self.writing.base == pretrained.TINY and self.writing.teacher is None
        return prompt_of(self.guide.groups.cells, self.writing.description, self.writing.examples, bare=bare)

    def language_model(self, device: str) -> LanguageModel:
        return pretrained.load_language_model(self.writing.base, device)

    def _worded(
        self,
        conditions: Sequence[Own],
        n: int,
        rng: np.random.Generator,
        progress: Steps,
        counted: Counted,
    ) -> list[str]:
        """Texts that are not blank."""
        if not n:
            return []
        if pretrained.sha256_of(self.writing.base) != self.sha256:
            raise ModelError(f"the language model {self.writing.base!r} is not the one that this was made with")
        wanted = self._wanted(conditions, n, rng)
        times = self.writing.overdraw if self.writing.select or self.writing.judges else 1.0
        drafts = self._enough(wanted, times, rng, progress, counted)
        if self.writing.select:
            marks = self._fluency(drafts.texts, progress)
            progress.stage(f"choosing texts of {self.column}", len(drafts.texts))
            embeddings = embed(drafts.texts, progress.advance)
            taken = selection.chosen(
                wanted,
                drafts.made_for,
                drafts.texts,
                embeddings,
                self.guide,
                rng,
                marks=marks,
                weight=self.writing.fluency,
            )
        else:
            taken = selection.first(wanted, drafts.made_for)
        counted("chosen", len(set(taken.tolist())))
        return [drafts.texts[i] for i in taken]

    def _fluency(self, texts: Sequence[str], progress: Steps) -> FloatArray | None:
        """How likely the base model finds each text, shape (texts,); None where that does not count.

        Not what it thought as it wrote: it had read the words that it was to use, and finds them likely.
        """
        if not self.writing.fluency:
            return None
        judge = Fluency(model=self.writing.base)
        judge.require()
        progress.stage(f"reading texts of {self.column}", len(texts))
        return marks_of(judge, texts, [""] * len(texts), progress.advance)

    def _enough(
        self, wanted: IntArray, times: float, rng: np.random.Generator, progress: Steps, counted: Counted
    ) -> Drafts:
        """Texts that the judges leave. Of a few texts they may refuse all outright: then as many again are written and all are judged, and
        so on, up to `_MOST_TRIED`."""
        written: Counter[str] = Counter()

        def added(stage: str, number: int) -> None:
            written[stage] += number

        drafts = self._drafts(wanted, times, rng, progress, added)
        kept, left = self._judged(drafts, len(wanted), progress)
        while len(kept.texts) < len(wanted) and len(drafts.texts) < _MOST_TRIED:
            more = self._drafts(wanted, max(len(drafts.texts) / len(wanted), 1.0), rng, progress, added)
            drafts = drafts.and_more(more)
            kept, left = self._judged(drafts, len(wanted), progress)
        for name, number in (*written.items(), *left):
            counted(name, number)
            if not number:
                raise ModelError(f"the judge {name!r} refused every text")
        return kept

    def _judged(self, drafts: Drafts, n: int, progress: Steps) -> tuple[Drafts, list[tuple[str, int]]]:
        """(what the judges, one after another, leave: n texts or more where they refuse none outright; how many each left)."""

        def share(keep: float) -> float:
            return min(max(keep, n / len(drafts.texts)), 1.0)  # enough of them that none is used twice

        names, left = self.guide.groups.names(), []
        for judge in self.writing.judges if drafts.texts else ():
            judge.require()
            progress.stage(f"judging texts of {self.column}: {judge.name}", len(drafts.texts))
            marks = marks_of(judge, drafts.texts, [names[group] for group in drafts.made_for], progress.advance)
            drafts = drafts.only(selection.best(drafts.made_for, marks, share(judge.keep)))
            left.append((judge.name, len(drafts.texts)))
            if not drafts.texts:
                break
        return drafts, left

    def _wanted(self, conditions: Sequence[Own], n: int, rng: np.random.Generator) -> IntArray:
        """The group of each text, shape (n,): that of its row's labels, and a leaf where no label says which."""
        groups = self.guide.groups
        places = places_of(groups.labelled, conditions, n)
        if groups.leaves is None:
            return places
        units = groups.counts.reshape(-1, groups.leaves.size)
        if self.writing.coverage == "balanced":
            units = (units > 0).astype(np.float64)
        leaves = np.empty(n, np.int64)
        for place in np.unique(places):
            # Labels that are not known to have a text get what goes with all others.
            shares = units[place] if units[place].sum() > 0 else units.sum(axis=0)
            rows = np.flatnonzero(places == place)
            leaves[rows] = _drawn_evenly(shares, len(rows), rng)
        return places * groups.leaves.size + leaves

    def _drafts(
        self,
        wanted: IntArray,
        times: float,
        rng: np.random.Generator,
        progress: Steps,
        counted: Counted,
    ) -> Drafts:
        """About `times` as many texts as are wanted, all of which pass the public rules."""
        prompt, examples = self.prompt(), self.guide.groups.examples()
        names = [name[:_NAMED] for name in self.guide.groups.names()]
        author = self._author(prompt.prefix(), rng, progress.advance)
        shares = np.maximum(self.guide.shapes[:SIZE], 0.0)
        shares = shares / shares.sum() if shares.sum() > 0 else np.full(SIZE, 1 / SIZE)
        texts: list[str] = []
        made_for: list[int] = []
        tried = 0
        rounds = 0
        while (lacking := round(times * len(wanted)) - len(texts)) > 0:
            if rounds >= _ROUNDS if texts else tried >= _MOST_TRIED:
                break
            rounds += 1
            lacking = lacking if texts else max(lacking, tried)
            groups = np.tile(rng.permutation(wanted), -(-lacking // len(wanted)))[:lacking]
            tried += lacking
            progress.stage(f"writing texts of {self.column}", lacking)
            asked = []
            for group in groups:
                words = some_words(self.guide.keywords[group], self.guide.words, rng, self.writing.words)
                before = prompt.after(names[group], str(rng.choice(examples[group]))) if examples[group] else ""
                most = round(_TOKENS_PER_WORD * words_at_most(int(rng.choice(SIZE, p=shares)))) + _SPARE_TOKENS
                head = before + prompt.head(names[group])
                asked.append(Ask(before + prompt.ask(names[group], words), words, most, head))
            for group, draft in zip(groups.tolist(), author(asked), strict=True):
                text = selection.cleaned(draft.text, ended=draft.ended)
                if text is not None:
                    texts.append(text)
                    made_for.append(group)
        counted("written", tried)
        counted("public rules", len(texts))
        if not texts:
            raise ModelError("the language model wrote nothing that passes the public rules")
        return Drafts(texts, np.array(made_for, np.int64))

    def _author(self, prefix: str, rng: np.random.Generator, written: Callable[[int], None]) -> Author:
        """Who writes: the teacher, if there is one."""
        writing = self.writing
        if writing.teacher is not None:
            writing.teacher.require()
            return by_teacher(writing.teacher, prefix, rng, written)
        from dpsynth.models.language.decoding import Sampling

        sampling = Sampling(temperature=writing.temperature, top_k=writing.top_k, top_p=writing.top_p)
        lm = self.language_model(pretrained.fast_device())
        return by_base(lm, prefix, sampling, writing.nudge, writing.batch, rng, written)

    def balanced(self) -> TextWriter:
        """See `TextModel`."""
        if self.guide.groups.leaves is None:
            raise SchemaError(f"balance: column {self.column!r} has texts without leaves of a taxonomy")
        return replace(self, writing=replace(self.writing, coverage="balanced"))

    def state(self) -> tuple[dict[str, npt.NDArray[Any]], dict[str, Any]]:
        """(arrays, JSON): what was bought, public settings, and the base model's name and hash. None of its weights."""
        arrays, guide = self.guide.state()
        return arrays, {"route": "guided", "guide": guide, "writing": self.writing.to_json(), "sha256": self.sha256}

    @classmethod
    def from_state(cls, arrays: dict[str, npt.NDArray[Any]], body: dict[str, Any]) -> TextWriter:
        return cls(
            guide=Guide.from_state(arrays, body["guide"]),
            writing=Writing.from_json(body["writing"]),
            sha256=str(body["sha256"]),
        )


def _drawn_evenly(shares: FloatArray, n: int, rng: np.random.Generator) -> IntArray:
    """n numbers of parts, each as often as its share says, or one more or less; in random order."""
    ends = np.cumsum(shares)
    places = np.minimum((np.arange(n) + rng.random()) / max(n, 1), np.nextafter(1.0, 0.0))
    return rng.permutation(np.searchsorted(ends / ends[-1], places, side="right"))
