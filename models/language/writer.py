"""Rows in, texts out: prompts with bought words, a public language model, and a choice among what it wrote."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from dpsynth.encode.cells import LabelCells, places_of
from dpsynth.models.language import pretrained, selection
from dpsynth.models.language.embedding import embed
from dpsynth.models.language.guide import Guide
from dpsynth.models.language.leaves import LeafCells
from dpsynth.models.language.pretrained import LanguageModel
from dpsynth.models.language.prompt import Prompt, some_words
from dpsynth.models.language.shapes import SIZE, words_at_most
from dpsynth.models.protocol import Counted
from dpsynth.privacy.errors import ModelError, SchemaError
from dpsynth.privacy.source import FloatArray, IntArray
from dpsynth.values import Own

# Tokens of an English word, about, and tokens that a text may have beside them.
_TOKENS_PER_WORD, _SPARE_TOKENS = 1.8, 8
# What a leaf of a tree is called in the prompt.
_LEAF = "subject"
# Groups of which texts are written beside the one that is asked for, so that the choice has others to compare with.
_ROUNDS = 3


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
    fluent: float
    batch: int
    coverage: Literal["faithful", "balanced"] = "faithful"


def prompt_of(
    cells: Sequence[LabelCells], description: str, examples: tuple[tuple[str, tuple[str, ...], str], ...]
) -> Prompt:
    """The prompt of texts that are written for labels of these columns."""
    subject = " and ".join(_LEAF if isinstance(c, LeafCells) else c.column.replace("_", " ") for c in cells) or _LEAF
    return Prompt(subject=subject, description=description, examples=examples)


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

    def branch(self, label: str) -> str:
        """See `TextModel`."""
        taxonomy = self.guide.groups.taxonomy
        leaf = None if taxonomy is None else taxonomy.leaf(label)
        return "" if leaf is None else leaf.branch

    @property
    def told(self) -> str:
        return (
            f"texts are new, written by a public language model ({self.writing.base}) with words and a direction of meaning that were "
            "bought for each group of rows; what they state is made up"
        )

    def write(
        self,
        conditions: Sequence[Own],
        n: int,
        rng: np.random.Generator,
        *,
        written: Callable[[int], None],
        counted: Counted = lambda stage, left: None,
    ) -> list[str]:
        """n new texts for rows with these labels. Post-processing: free. See `TextModel`."""
        if not n:
            return []
        blank, texts = self.guide.blank_share, np.full(n, "", object)
        worded = np.flatnonzero(rng.random(n) >= blank) if blank else np.arange(n)
        texts[worded] = self._worded([c[worded] for c in conditions], len(worded), rng, written, counted)
        return list(texts)

    def prompt(self) -> Prompt:
        return prompt_of(self.guide.groups.cells, self.writing.description, self.writing.examples)

    def language_model(self, device: str) -> LanguageModel:
        return pretrained.load_language_model(self.writing.base, device)

    def _worded(
        self,
        conditions: Sequence[Own],
        n: int,
        rng: np.random.Generator,
        written: Callable[[int], None],
        counted: Counted,
    ) -> list[str]:
        """Texts that are not blank."""
        if not n:
            return []
        if pretrained.sha256_of(self.writing.base) != self.sha256:
            raise ModelError(f"the language model {self.writing.base!r} is not the one that this was made with")
        wanted = self._wanted(conditions, n, rng)
        times = self.writing.overdraw if self.writing.select else 1.0
        texts, made_for, odd = self._drafts(wanted, times, rng, written, counted)
        if self.writing.select and self.writing.fluent < 1:
            share = min(max(self.writing.fluent, n / len(texts)), 1.0)  # enough of them that none is used twice
            fluent = selection.fluent(made_for, odd, share)
            texts, made_for = [texts[i] for i in fluent], made_for[fluent]
            counted("fluency", len(texts))
        if self.writing.select:
            taken = selection.chosen(wanted, made_for, texts, embed(texts), self.guide, rng)
        else:
            taken = selection.first(wanted, made_for)
        counted("chosen", len(set(taken.tolist())))
        return [texts[i] for i in taken]

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
        written: Callable[[int], None],
        counted: Counted,
    ) -> tuple[list[str], IntArray, FloatArray]:
        """About `times` as many texts as are wanted, all of which pass the public rules.

        (The texts, the group that each was written for, how odd the language model by itself finds each: nats a byte.)
        """
        import torch

        from dpsynth.models.language.decoding import Sampling, Task, Writer

        lm, prompt = self.language_model(pretrained.fast_device()), self.prompt()
        encode = lm.tokenizer
        writer = Writer(lm, encode(prompt.prefix()).input_ids)
        names, examples = self.guide.groups.names(), self.guide.groups.examples()
        sampling = Sampling(temperature=self.writing.temperature, top_k=self.writing.top_k, top_p=self.writing.top_p)
        generator = torch.Generator().manual_seed(int(rng.integers(2**63 - 1)))
        shares = np.maximum(self.guide.shapes[:SIZE], 0.0)
        shares = shares / shares.sum() if shares.sum() > 0 else np.full(SIZE, 1 / SIZE)
        texts: list[str] = []
        made_for: list[int] = []
        odd: list[float] = []
        tried = 0
        for _ in range(_ROUNDS):
            lacking = round(times * len(wanted)) - len(texts)
            if lacking <= 0:
                break
            groups = np.tile(rng.permutation(wanted), -(-lacking // len(wanted)))[:lacking]
            tried += lacking
            tasks = []
            for group in groups:
                words = some_words(self.guide.keywords[group], self.guide.words, rng, self.writing.words)
                before = prompt.after(names[group], str(rng.choice(examples[group]))) if examples[group] else ""
                most = words_at_most(int(rng.choice(SIZE, p=shares)))
                tasks.append(
                    Task(
                        suffix=tuple(
                            encode(before + prompt.ask(names[group], words), add_special_tokens=False).input_ids
                        ),
                        nudges=tuple(encode(" " + w, add_special_tokens=False).input_ids[0] for w in words),
                        most=round(_TOKENS_PER_WORD * most) + _SPARE_TOKENS,
                    )
                )
            drafts = writer.write(tasks, sampling, self.writing.nudge, generator, self.writing.batch, written)
            for group, task, draft in zip(groups.tolist(), tasks, drafts, strict=True):
                raw = encode.decode(draft.tokens)
                text = selection.cleaned(raw, ended=len(draft.tokens) < task.most)
                if text is not None:
                    texts.append(text)
                    made_for.append(group)
                    odd.append(draft.nats / len(raw.encode()))
        counted("written", tried)
        counted("public rules", len(texts))
        if not texts:
            raise ModelError("the language model wrote nothing that passes the public rules")
        return texts, np.array(made_for, np.int64), np.array(odd)

    def balanced(self) -> TextWriter:
        """See `TextModel`."""
        if self.guide.groups.leaves is None:
            raise SchemaError(f"balance: column {self.column!r} has texts without leaves of a taxonomy")
        return replace(self, writing=replace(self.writing, coverage="balanced"))

    def state(self) -> tuple[dict[str, npt.NDArray[Any]], dict[str, Any]]:
        """(arrays, JSON): what was bought, public settings, and the base model's name and hash. None of its weights."""
        arrays, guide = self.guide.state()
        return arrays, {"route": "guided", "guide": guide, "writing": asdict(self.writing), "sha256": self.sha256}

    @classmethod
    def from_state(cls, arrays: dict[str, npt.NDArray[Any]], body: dict[str, Any]) -> TextWriter:
        writing = dict(body["writing"])
        writing["examples"] = tuple((name, tuple(words), text) for name, words, text in writing["examples"])
        return cls(
            guide=Guide.from_state(arrays, body["guide"]), writing=Writing(**writing), sha256=str(body["sha256"])
        )


def _drawn_evenly(shares: FloatArray, n: int, rng: np.random.Generator) -> IntArray:
    """n numbers of parts, each as often as its share says, or one more or less; in random order."""
    ends = np.cumsum(shares)
    places = np.minimum((np.arange(n) + rng.random()) / max(n, 1), np.nextafter(1.0, 0.0))
    return rng.permutation(np.searchsorted(ends / ends[-1], places, side="right"))
