"""Texts before the choice among them: written by the base model, or by a teacher, from public prompts and bought words."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import TYPE_CHECKING

import numpy as np

from dpsynth.models.language.pretrained import load_embedder
from dpsynth.models.language.words import embedder_words
from dpsynth.privacy.source import IntArray

if TYPE_CHECKING:
    from dpsynth.models.language.decoding import Sampling
    from dpsynth.models.language.judges import Teacher
    from dpsynth.models.language.pretrained import LanguageModel

# Bytes of a token, about, as others have them.
_BYTES = 4


@dataclass(frozen=True, slots=True)
class Ask:
    """One text to write. prompt: what follows the prefix that all share.  words: that it is to use.  most: tokens at most.

    head: what the prompt begins with as those of its group do.
    """

    prompt: str
    words: tuple[str, ...]
    most: int
    head: str = ""


@dataclass(frozen=True, slots=True)
class Draft:
    """A text as it was written. ended: whether it came to its end by itself.  odd: nats a byte that the writer, after its prompt, finds it
    unlikely by, where it was asked."""

    text: str
    ended: bool
    odd: float | None = None


# Writes a text for each that is asked for.
Author = Callable[[Sequence[Ask]], Iterator[Draft]]


@dataclass(frozen=True, slots=True, eq=False)
class Drafts:
    """Texts to choose among, and the group that each was written for."""

    texts: list[str]
    made_for: IntArray

    def and_more(self, others: Drafts) -> Drafts:
        """These and others."""
        return Drafts([*self.texts, *others.texts], np.concatenate([self.made_for, others.made_for]))

    def only(self, kept: IntArray) -> Drafts:
        """Those of these numbers."""
        return Drafts([self.texts[i] for i in kept], self.made_for[kept])


def by_base(
    lm: LanguageModel, prefix: str, sampling: Sampling, nudge: float, batch: int, rng: np.random.Generator,
    written: Callable[[int], None], *, weigh: bool = False,
) -> Author:  # fmt: skip
    """The base model, after a prefix that all texts share. One of bytes writes whole words of the embedder's tokenizer alone.

    weigh: whether to say how odd each text is.
    """
    import torch

    from dpsynth.models.language.decoding import Task, Writer, nudge_of
    from dpsynth.models.language.lexicon import Lexicon

    encode = lm.tokenizer
    lexicon = Lexicon(embedder_words(load_embedder()[1]), encode) if lm.bytewise else None
    writer = Writer(lm, encode(prefix).input_ids, lexicon)
    times = _BYTES if lm.bytewise else 1
    generator = torch.Generator().manual_seed(int(rng.integers(2**63 - 1)))
    nudge_for = cache(partial(nudge_of, lm))  # the same words are asked for in thousands of texts

    @cache
    def tokens_of(head: str) -> tuple[int, ...]:
        return tuple(encode(head, add_special_tokens=False).input_ids)

    def write(asked: Sequence[Ask]) -> Iterator[Draft]:
        tasks = []
        for ask in asked:
            suffix = tuple(encode(ask.prompt, add_special_tokens=False).input_ids)
            most = max(1, min(times * ask.most, writer.room - len(suffix)))
            # Behind its last token a word may go on otherwise than the head ends.
            same = [a == b for a, b in zip(suffix, tokens_of(ask.head), strict=False)]
            head = [*same, False].index(False)
            tasks.append(Task(suffix=suffix, nudges=tuple(map(nudge_for, ask.words)), most=most, head=head))
        drafts = writer.write(tasks, sampling, nudge, generator, batch, written, weigh=weigh)
        for task, draft in zip(tasks, drafts, strict=True):
            text = encode.decode(draft.tokens)
            odd = None if draft.nats is None else draft.nats / max(len(text.encode()), 1)
            yield Draft(text, len(draft.tokens) < task.most, odd)

    return write


def by_teacher(teacher: Teacher, prefix: str, rng: np.random.Generator, written: Callable[[int], None]) -> Author:
    """A teacher, text by text."""

    def write(asked: Sequence[Ask]) -> Iterator[Draft]:
        prompts, most = [prefix + ask.prompt for ask in asked], [ask.most for ask in asked]
        for text, ended in teacher.write(prompts, most, int(rng.integers(2**31)), written):
            yield Draft(text, ended)

    return write
