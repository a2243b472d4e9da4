"""DP-SGD of a language model on the rows: each row's text, after a prompt that the row itself gives.

A row is read as   public line | its labels | some of its own words | its text | end   and the loss is the mean over the tokens of its
text, given all that comes before: none on the prompt, and no mean over a batch's tokens, in which a row's gradient would depend on how long
the others are. Rows are padded at their end, where a causal model never looks from a token of the row.

In phases (after LAB: Sudalairaj et al., "LAB: Large-Scale Alignment for ChatBots", 2024, section 3.3: knowledge first, then skills with a
replay of it) a row's loss is weighted by the branch that its text belongs to. Each phase is an event of its own, planned before a row is read.

Prompts hold words in training because they will in writing: there they are drawn from what was bought (`guide`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from dpsynth.models.language.prompt import Prompt
from dpsynth.models.language.words import words_of
from dpsynth.privacy.errors import ModelError, PrivacyError
from dpsynth.privacy.source import Cells, FloatArray, Strings

if TYPE_CHECKING:
    from torch import Tensor, nn

    from dpsynth.encode.cells import LabelCells
    from dpsynth.models.language.guide import Groups
    from dpsynth.models.language.lora import Adapter
    from dpsynth.models.language.pretrained import LanguageModel
    from dpsynth.models.language.taxonomy import Leaf, Taxonomy
    from dpsynth.models.protocol import Steps
    from dpsynth.privacy.dpsgd.batch import Loss, Rows
    from dpsynth.privacy.dpsgd.plan import Training
    from dpsynth.privacy.dpsgd.rows import TrainingRows
    from dpsynth.privacy.table import PrivateTable

STAGE, LABEL = "text-training", "DP-SGD"
# Tokens that the line of words takes, at most.
ASKED = 40
_AVERAGE = 0.95
_SEED = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Phase:
    """A part of the training, on some of the texts.

    name: in the ledger.  branches: of the taxonomy, each by its path ("transfers", "transfers / abroad"; a leaf's, too).  steps: as of `Tuning`.
    """

    name: str
    branches: tuple[str, ...]
    steps: int

    def holds(self, leaf: Leaf | None) -> bool:
        return leaf is not None and any(" / ".join(leaf.path[: i + 1]) in self.branches for i in range(len(leaf.path)))


@dataclass(frozen=True, kw_only=True, slots=True)
class Tuning:
    """Public settings of the training.

    share: of the whole budget (mu^2); the rest buys schema, table and guide.  rank: of the updates (LoRA) of all linear layers.
    sampling_rate: chance of each unit to be in a step's batch.  steps, learning_rate, clipping_norm: of the DP-SGD.
    max_tokens: of a text that are read.
    phases: trainings one after another in place of one of `steps`, each an event of its own; texts on no branch of any are not trained on, and
    a phase whose branches no label is on is left out (its budget stays reserved).  replay: weight of the loss of
    texts on earlier phases' branches.
    """

    share: float = 0.3
    rank: int = 8
    sampling_rate: float = 0.05
    steps: int = 300
    learning_rate: float = 1e-3
    clipping_norm: float = 1.0
    max_tokens: int = 96
    phases: tuple[Phase, ...] = ()
    replay: float = 0.2

    def __post_init__(self) -> None:
        if not 0 < self.share < 1 or not 0 < self.sampling_rate <= 1:
            raise ModelError("tuning: share must be above 0 and below 1, sampling_rate above 0 and at most 1")
        if min(self.rank, self.steps, self.max_tokens, *(phase.steps for phase in self.phases)) < 1:
            raise ModelError("tuning: rank, steps and max_tokens must be at least 1")
        if not self.learning_rate > 0 or not self.clipping_norm > 0:
            raise ModelError("tuning: learning_rate and clipping_norm must be above 0")
        if not 0 <= self.replay <= 1:
            raise ModelError("tuning: replay must lie between 0 and 1")
        if len({phase.name for phase in self.phases}) < len(self.phases):
            raise ModelError("tuning: phases must have different names")

    @property
    def labelled(self) -> dict[str, int]:
        """Steps of each phase by its label in the ledger."""
        return {f"{LABEL}, {phase.name}": phase.steps for phase in self.phases} or {LABEL: self.steps}

    def require(self, taxonomy: Taxonomy | None) -> None:
        """Raises ModelError where a phase's branch is none of the taxonomy's."""
        for phase in self.phases:
            for branch in phase.branches:
                only = replace(phase, branches=(branch,))
                if taxonomy is None or not any(map(only.holds, taxonomy.leaves)):
                    raise ModelError(
                        f"tuning: phase {phase.name!r} is on {branch!r}, which is no branch of the taxonomy"
                    )
            if not phase.branches:
                raise ModelError(f"tuning: phase {phase.name!r} has no branches")

    def parts(self, groups: Sequence[Groups]) -> list[Part]:
        """What each phase is on. groups: of each text column."""
        if not self.phases:
            return [Part(tuple(np.ones(g.size) for g in groups), 1.0)]
        out = []
        for i, phase in enumerate(self.phases):
            weights = [np.array([self._weight(phase, self.phases[:i], leaf) for leaf in g.leaf_of()]) for g in groups]
            units = [
                float(w @ g.counts) / max(float(g.counts.sum()), 1.0) for w, g in zip(weights, groups, strict=True)
            ]
            out.append(Part(tuple(weights), max(units)))
        return out

    def _weight(self, phase: Phase, before: Sequence[Phase], leaf: Leaf | None) -> float:
        return 1.0 if phase.holds(leaf) else self.replay * any(earlier.holds(leaf) for earlier in before)


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """What a phase is on. weights: of the loss of each group's texts, by text column.  share: of the units, about, under DP."""

    weights: tuple[FloatArray, ...]
    share: float

    @property
    def live(self) -> bool:
        """Whether there is a group in every column that it is on: without one, noise alone would move the model."""
        return all(w.any() for w in self.weights)


@dataclass(frozen=True, kw_only=True, slots=True)
class TunedPrompt(Prompt):
    """A prompt for a model that was trained on it: no examples are needed. column: whose texts are meant."""

    column: str

    def prefix(self) -> str:
        about = self.description.strip().rstrip(".") or "Short texts that different people wrote"
        return f"{about} ({self.column.replace('_', ' ')}).\n\n"

    def after(self, name: str, example: str) -> str:
        return ""


def tuned_prompt(plain: Prompt, column: str) -> TunedPrompt:
    return TunedPrompt(subject=plain.subject, description=plain.description, examples=(), column=column)


@dataclass(frozen=True, eq=False)
class TokenRows:
    """An encoding: the number of the prompt's tokens, then the tokens of "Words: ... Text:", of the text and its end; -1 = none.

    int32, shape (cells, 1 + ASKED + max_tokens + 1). A function of each text alone: words are its rarest of a public vocabulary, and how
    many of them goes by its length. A missing or blank text is a row without tokens, and its loss is 0; so is one that is `left_out`.
    """

    column: str
    tokenizer: Any
    vocabulary: tuple[str, ...]
    words: int
    max_tokens: int
    left_out: frozenset[str] = frozenset()

    @property
    def width(self) -> int:
        return 1 + ASKED + self.max_tokens + 1

    @cached_property
    def _places(self) -> dict[str, int]:
        return {word: i for i, word in enumerate(self.vocabulary)}

    def encode(self, cells: Cells) -> npt.NDArray[np.int32]:
        if not isinstance(cells, Strings):
            raise PrivacyError(f"column {self.column!r} holds no strings")
        out = np.full((len(cells.uniques) + 1, self.width), -1, np.int32)
        out[:, 0] = 0
        for row, text in zip(out, cells.uniques, strict=False):
            if (bare := " ".join(text.split())) and text not in self.left_out:
                asked, tokens = self._asked(bare), self._tokens(" " + bare)
                end = [self._end] if len(tokens) <= self.max_tokens else []  # a text that is cut does not end there
                read = [*asked, *tokens[: self.max_tokens], *end]
                row[0], row[1 : 1 + len(read)] = len(asked), read
        return out[cells.codes]

    def _asked(self, text: str) -> list[int]:
        held = sorted({self._places[w] for w in words_of(text) if w in self._places})
        number = 2 + len(text) % max(self.words - 1, 1)
        for most in range(number, -1, -1):
            chosen = [self.vocabulary[i] for i in held[len(held) - most :]] if most <= len(held) else None
            if chosen is not None and len(tokens := self._tokens(asked_of(chosen))) <= ASKED:
                return tokens
        raise ModelError("the tokenizer of the language model takes too many tokens for a line of words")

    def _tokens(self, text: str) -> list[int]:
        # One more than may stand says that a text was cut; without a bound, some tokenizers log how long a text is.
        most = max(self.max_tokens, ASKED) + 1
        found: list[int] = self.tokenizer(text, add_special_tokens=False, truncation=True, max_length=most).input_ids
        return found

    @cached_property
    def _end(self) -> int:
        end = self.tokenizer.eos_token_id
        return int(end) if end is not None else self._tokens("\n")[-1]


def asked_of(words: Sequence[str]) -> str:
    """The part of a prompt after the labels."""
    return Prompt(subject="", description="", examples=()).ask("", words)


@dataclass(frozen=True, eq=False)
class Reading:
    """How the rows of some text columns are read by a language model, and their loss.

    heads: of each column, and of each group the tokens of the public line and of its labels.  cells: of all columns' groups, each once.
    places: of each column, which of the cells make its groups.  texts: the columns' encodings.
    """

    heads: tuple[tuple[tuple[int, ...], ...], ...]
    cells: tuple[LabelCells, ...]
    places: tuple[tuple[int, ...], ...]
    texts: tuple[TokenRows, ...]

    @classmethod
    def of(
        cls,
        lm: LanguageModel,
        prompts: Sequence[TunedPrompt],
        groups: Sequence[Groups],
        vocabulary: tuple[str, ...],
        words: int,
        max_tokens: int,
        left_out: Sequence[frozenset[str]],
    ) -> Reading:
        """prompts, groups, left_out: of the columns."""
        encode, heads = lm.tokenizer, []
        for prompt, own in zip(prompts, groups, strict=True):
            first, empty = encode(prompt.prefix()).input_ids, prompt.ask("", ())
            labels = [prompt.ask(name, ()).removesuffix(empty) for name in own.names()]
            heads.append(tuple((*first, *encode(t, add_special_tokens=False).input_ids) for t in labels))
        texts = tuple(
            TokenRows(p.column, encode, vocabulary, words, max_tokens, kept)
            for p, kept in zip(prompts, left_out, strict=True)
        )
        cells = tuple(dict.fromkeys(c for own in groups for c in own.cells))
        return cls(tuple(heads), cells, tuple(tuple(map(cells.index, own.cells)) for own in groups), texts)

    def rows(self, table: PrivateTable) -> TrainingRows:
        labels = {_label(j): c for j, c in enumerate(self.cells)}
        return table.training_rows(labels | {_text(i): t for i, t in enumerate(self.texts)})

    def probe(self, vocabulary: int, part: Part, device: str) -> Any:
        """n -> n rows of the domain that the part is on: labels of its groups, and texts of any tokens and length."""
        import torch

        def drawn(n: int) -> Rows:
            rows = {_label(j): torch.randint(c.size, (n,), device=device) for j, c in enumerate(self.cells)}
            for i, text in enumerate(self.texts):
                live = torch.from_numpy(np.flatnonzero(part.weights[i])).to(device)
                group = live[torch.randint(len(live), (n,), device=device)]
                for j in reversed(self.places[i]):
                    rows[_label(j)] = group % self.cells[j].size
                    group = group // self.cells[j].size
                own = torch.randint(vocabulary, (n, text.width), dtype=torch.int32, device=device)
                asked = torch.randint(4, ASKED + 1, (n, 1), device=device)
                length = asked + torch.randint(1, text.max_tokens + 1, (n, 1), device=device)
                own[:, :1] = asked.int()
                place = torch.arange(text.width, device=device)
                rows[_text(i)] = torch.where(place <= length, own, -1)
            return rows

        return drawn

    def loss(self, part: Part, device: str) -> Loss:
        """(model, rows) -> the mean loss of each row's own text tokens, weighted by its group, over its columns; shape (rows,)."""
        import torch

        heads = []
        for of_groups in self.heads:
            width = max(map(len, of_groups))
            padded = [[*head, *[-1] * (width - len(head))] for head in of_groups]
            heads.append(torch.tensor(padded, dtype=torch.long, device=device))
        weights = [torch.tensor(w, dtype=torch.float32, device=device) for w in part.weights]

        def losses(model: nn.Module, rows: Rows) -> Tensor:
            model.eval()  # no dropout, in whatever form a model has it
            each = []
            for i, places in enumerate(self.places):
                group = torch.zeros(len(rows[_text(i)]), dtype=torch.long, device=device)
                for j in places:
                    group = group * self.cells[j].size + rows[_label(j)].long()
                each.append(weights[i][group] * _text_loss(model, heads[i][group], rows[_text(i)].long()))
            return torch.stack(each).mean(0)

        return losses


def _text_loss(model: nn.Module, head: Tensor, own: Tensor) -> Tensor:
    """Mean negative log-likelihood of each row's text tokens, shape (rows,); 0 without any.

    head: shape (rows, width), -1 after its end.  own: as `TokenRows` gives it.
    """
    import torch

    asked, own = own[:, :1], own[:, 1:]
    before = (head >= 0).sum(1, keepdim=True)
    total = before + (own >= 0).sum(1, keepdim=True)
    place = torch.arange(max(int(total.max()), 2), device=own.device).expand(len(own), -1)
    in_head = head.gather(1, place.clamp(max=head.shape[1] - 1))
    in_own = own.gather(1, (place - before).clamp(0, own.shape[1] - 1))
    ids = torch.where(place < before, in_head, in_own).clamp(min=0)
    wanted = ((place >= before + asked) & (place < total))[:, 1:]
    logits = model(input_ids=ids, use_cache=False).logits[:, :-1].float()
    each = torch.nn.functional.cross_entropy(logits.transpose(1, 2), ids[:, 1:], reduction="none")
    return torch.where(wanted, each, 0.0).sum(1) / wanted.sum(1).clamp(min=1)


def tune(
    lm: LanguageModel, reading: Reading, rows: TrainingRows, settings: Tuning, phases: Sequence[tuple[Training, Part]], device: str,
    progress: Steps,
) -> Adapter:  # fmt: skip
    """Train updates of a language model on the rows, phase by phase; the model is changed on the way.

    lm: in float32.  phases: plan of each, and what it is on.  Guarantee: the updates are as private as the plans' events, each of which is
    charged before a row is touched for it; see `PrivateTrainer`. A phase goes on from the weights of the one before; what is given back is
    the running mean over the last one's steps.  Raises PrivacyError, ModelError where per-unit gradients of this model cannot be trusted.
    """
    import torch

    from dpsynth.models.language.lora import adapter_of, attach
    from dpsynth.privacy.dpsgd.batch import trainable
    from dpsynth.privacy.dpsgd.trainer import PrivateTrainer

    with torch.random.fork_rng(devices=[device] if device.startswith("cuda") else []):
        torch.manual_seed(_SEED)
        attach(lm.model, settings.rank)
        progress.stage("training the language model on the rows", sum(plan.steps for plan, _ in phases))
        for plan, part in phases:
            trainer = PrivateTrainer(
                lm.model,
                torch.optim.Adam(trainable(lm.model).values(), lr=settings.learning_rate),
                reading.loss(part, device),
                plan=plan,
                rows=rows,
                probe=reading.probe(len(lm.tokenizer), part, device),
                average=_AVERAGE,
            )
            trainer.run(lambda step: progress.advance())
        with trainer.averaged() as model:
            return adapter_of(model, settings.rank)


def _label(j: int) -> str:
    return f"label {j}"


def _text(i: int) -> str:
    return f"text {i}"
