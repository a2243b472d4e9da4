"""Many texts at once from a language model, after one prefix that all share.

The prefix is read once. Its keys and values stand in memory once, not for each text: attention over it is one product of matrices for
the whole batch, and is joined with attention over each text's own tokens under one softmax. Texts that have ended leave the batch.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers import AttentionInterface
from transformers.cache_utils import Cache

from dpsynth.models.language.lexicon import Lexicon
from dpsynth.models.language.pretrained import LanguageModel
from dpsynth.models.threads import LANES, side_by_side
from dpsynth.privacy.errors import ModelError

_NAME = "dpsynth_shared_prefix"
# Of a batch, when so few are still being written, the others are taken out of memory.
_COMPACT_BELOW = 0.75
# Texts are written in so many batches or more, where these are not smaller than this.
_PARTS, _FEWEST = 4, 16
# Tokens that texts get room for at a time: few of them become as long as they may.
_ROOM = 32
# What is added to a score or logit that is not to count.
_FAR_BELOW = -1e9
# The share of the nudge that the first letter of a word gets where tokens are bytes: it begins other words, too.
_FIRST_LETTER = 0.5
# By how much of their spread log-probabilities may differ between two orders of the same sums, in float32 and in shorter numbers.
_SAME, _SAME_SHORT = 1e-3, 0.1


@dataclass(frozen=True, kw_only=True, slots=True)
class Sampling:
    """How the next token is drawn: from the `top_k` likeliest, of these the likeliest of mass `top_p`, at a temperature."""

    temperature: float = 0.95
    top_k: int = 60
    top_p: float = 0.95


# Tokens of a word that is to occur, and of each the share of the nudge that it gets once those before it stand.
Nudge = tuple[tuple[int, float], ...]


def nudge_of(lm: LanguageModel, word: str) -> Nudge:
    """What is raised for a word: its first token, which the others follow by themselves; of bytes, its letters.

    The blank before a word is not raised, which would end other words.
    """
    tokens = lm.tokenizer(" " + word, add_special_tokens=False).input_ids
    if not lm.bytewise:
        return ((tokens[0], 1.0),)
    return ((tokens[0], 0.0), (tokens[1], _FIRST_LETTER), *((token, 1.0) for token in tokens[2:]))


@dataclass(frozen=True, slots=True)
class Task:
    """One text to write. suffix: tokens of its own part of the prompt.  nudges: words that are to occur.  most: tokens at most.

    head: how many of the suffix's first tokens other tasks begin with, too, and are read once for all of them.
    """

    suffix: tuple[int, ...]
    nudges: tuple[Nudge, ...]
    most: int
    head: int = 0


@dataclass(frozen=True, slots=True)
class Draft:
    """A text that was written. nats: how unlikely the model by itself, without nudges, takes these tokens to be, -log p; None where it was
    not asked."""

    tokens: tuple[int, ...]
    nats: float | None


class _Shared(Cache):
    """Keys and values of a prefix, shape (heads, prefix, width) in each layer, and of each text's own tokens."""

    def __init__(self, prefix: list[tuple[Tensor, Tensor]], batch: int, room: int) -> None:
        super().__init__(layers=[])
        self.prefix = prefix
        self.used = 0
        self.hidden = torch.zeros(batch, room, device=prefix[0][0].device)  # added to scores: far below 0 for padding
        self._own = [tuple(t.new_empty(batch, t.shape[0], room, t.shape[2]) for t in layer) for layer in prefix]

    def update(self, key_states: Tensor, value_states: Tensor, layer_idx: int, *_: Any, **__: Any) -> Any:
        end = self.used + key_states.shape[2]
        if (lacking := end - self._own[layer_idx][0].shape[2]) > 0:
            self._own[layer_idx] = tuple(pad(t, (0, 0, 0, lacking + _ROOM)) for t in self._own[layer_idx])
        if (lacking := end - self.hidden.shape[1]) > 0:
            self.hidden = pad(self.hidden, (0, lacking + _ROOM))
        keys, values = self._own[layer_idx]
        keys[:, :, self.used : end], values[:, :, self.used : end] = key_states, value_states
        return keys[:, :, :end], values[:, :, :end]

    @property
    def before(self) -> int:
        """Tokens of the prefix."""
        return int(self.prefix[0][0].shape[1])

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return self.before + self.used

    def as_prefix(self) -> list[tuple[Tensor, Tensor]]:
        """The prefix and the only text's own tokens, as a prefix of others."""
        out = []
        for (keys, values), (own_keys, own_values) in zip(self.prefix, self._own, strict=True):
            read = own_keys[0, :, : self.used], own_values[0, :, : self.used]
            out.append((torch.cat([keys, read[0]], 1), torch.cat([values, read[1]], 1)))
        return out

    def keep(self, rows: Tensor) -> None:
        """Only some texts stay in the batch."""
        self.hidden = self.hidden[rows]
        self._own = [tuple(t[rows] for t in layer) for layer in self._own]


class _Nudges:
    """How far each word that is to occur has been written, row by row."""

    def __init__(self, words: Sequence[Sequence[Nudge]], strength: float, device: torch.device) -> None:
        most = max(1, *map(len, words))
        longest = 1 + max((len(word) for row in words for word in row), default=0)
        self._tokens = torch.full((len(words), most, longest), -1)  # -1 after a word's end
        self._raised = torch.zeros(len(words), most, longest)
        for i, row in enumerate(words):
            for j, word in enumerate(row):
                self._tokens[i, j, : len(word)] = torch.tensor([token for token, _ in word])
                self._raised[i, j, : len(word)] = strength * torch.tensor([share for _, share in word])
        self._tokens, self._raised = self._tokens.to(device), self._raised.to(device)
        self._place = torch.zeros(len(words), most, dtype=torch.long, device=device)

    def add_to(self, logits: Tensor) -> None:
        """Raise the next token of each word."""
        tokens, raised = self._next()
        logits.scatter_add_(1, tokens.clamp(min=0), raised)

    def written(self, token: Tensor) -> Tensor:
        """Go on by the token of each row, shape (rows,): by how much it was raised, of the same shape."""
        tokens, raised = self._next()
        hit = tokens == token[:, None]
        again = (self._tokens[:, :, 0] == token[:, None]).long()  # a word may begin anew where it was broken off
        self._place = torch.where(tokens < 0, self._place, torch.where(hit, self._place + 1, again))
        return (raised * hit).sum(dim=1)

    def keep(self, rows: Tensor) -> None:
        """Only some texts stay in the batch."""
        self._tokens, self._raised, self._place = self._tokens[rows], self._raised[rows], self._place[rows]

    def _next(self) -> tuple[Tensor, Tensor]:
        place = self._place[:, :, None]
        return self._tokens.gather(2, place)[:, :, 0], self._raised.gather(2, place)[:, :, 0]


_active: ContextVar[_Shared] = ContextVar("shared prefix")


def _attention(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any, scaling: float | None = None, **_: Any
) -> tuple[Tensor, None]:
    """Attention of queries, shape (batch, heads, new, width), over the prefix and the texts' own keys."""
    shared = _active.get()
    before_keys, before_values = shared.prefix[module.layer_idx]
    batch, heads, new, width = query.shape
    kv, length = key.shape[1], key.shape[2]
    scale = width**-0.5 if scaling is None else scaling
    grouped = (query.to(key.dtype) * scale).reshape(batch, kv, heads // kv * new, width)
    together = grouped.transpose(0, 1).reshape(kv, -1, width)
    before = (together @ before_keys.transpose(1, 2)).view(kv, batch, heads // kv * new, -1).transpose(0, 1)
    own = (grouped @ key.transpose(2, 3)).view(batch, kv, heads // kv, new, length)
    own = own + shared.hidden[:, None, None, None, :length].to(own.dtype)
    if new > 1:
        future = torch.ones(new, length, dtype=torch.bool, device=own.device).triu(length - new + 1)
        own = own.masked_fill(future, _FAR_BELOW)
    scores = torch.cat([before, own.view(batch, kv, heads // kv * new, length)], dim=-1)
    weights = torch.softmax(scores, dim=-1, dtype=torch.float32).to(value.dtype)
    split = before_keys.shape[1]
    out = weights[..., split:] @ value
    first = weights[..., :split].transpose(0, 1).reshape(kv, -1, split) @ before_values
    out = out + first.view(kv, batch, heads // kv * new, -1).transpose(0, 1)
    return out.reshape(batch, heads, new, -1).transpose(1, 2).contiguous().to(query.dtype), None


def _view(model: Any) -> Any:
    """The same weights in modules of their own, which attend to a shared prefix: that of `_sharing` in each thread.

    The model itself stays as it is for whoever reads by it meanwhile.
    """
    AttentionInterface.register(_NAME, _attention)
    weights = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    view = copy.deepcopy(model, weights)
    view.config._attn_implementation = _NAME
    return view


@contextmanager
def _sharing(cache: _Shared) -> Iterator[None]:
    token = _active.set(cache)
    try:
        yield
    finally:
        _active.reset(token)


class Writer:
    """A language model that has read a prefix.

    lexicon: the words that it may write, where its tokens are bytes.
    Raises ModelError where the model's attention is not of the common kind (the same logits with the prefix shared and without).
    """

    def __init__(self, lm: LanguageModel, prefix: Sequence[int], lexicon: Lexicon | None = None) -> None:
        self.lm, self.prefix = lm, tuple(prefix)
        self._lexicon = None if lexicon is None else lexicon.to(lm.model.device)
        self._model = _view(lm.model)
        # Tokens that may follow: at places beyond those that it was trained on, a model makes no sense. Some have no end of them.
        self.room = int(getattr(lm.model.config, "max_position_embeddings", None) or 2**20) - len(self.prefix)
        with torch.inference_mode():
            ids = torch.tensor([self.prefix], device=lm.model.device)
            read = lm.model(input_ids=ids, use_cache=True)
            # On a CPU, products of many small matrices are faster in float32 than in bfloat16, which is copied about for them.
            kind = torch.float32 if lm.model.device.type == "cpu" else lm.model.dtype
            layers = read.past_key_values.layers
            self._read = [(layer.keys[0].to(kind), layer.values[0].to(kind)) for layer in layers]
            try:
                same = self._is_same()
            except Exception:  # whatever the model makes of a cache and an attention that it does not know
                same = False
        if not same:
            raise ModelError(f"the language model {lm.name!r} has an attention that cannot share a prefix")

    def write(
        self, tasks: Sequence[Task], sampling: Sampling, nudge: float, generator: torch.Generator, batch: int,
        written: Callable[[int], None] = lambda n: None, *, weigh: bool = False,
    ) -> list[Draft]:  # fmt: skip
        """Each text, up to a line's or the text's end. nudge: added to the logits of words that are still to occur; see `nudge_of`.

        written: called with the number of texts that were finished since.  weigh: whether to say how unlikely each is.
        """
        out: list[Draft] = [Draft((), None)] * len(tasks)
        parts = _batches(tasks, batch)
        # Seeds of their own, so that a text is the same whichever others are being written beside it.
        seeds = torch.randint(2**63 - 1, (len(parts),), generator=generator).tolist()

        def put(part: tuple[tuple[int, list[int]], int]) -> None:
            (head, places), own = part[0], torch.Generator().manual_seed(part[1])
            with torch.inference_mode():
                drafts = self._batch([tasks[i] for i in places], head, sampling, nudge, own, weigh)
            for place, draft in zip(places, drafts, strict=True):
                out[place] = draft

        most = LANES if self.lm.model.device.type == "cpu" else 1
        seeded = list(zip(parts, seeds, strict=True))
        side_by_side(put, seeded, most=most, done=lambda part: written(len(part[0][1])))
        return out

    def _batch(
        self,
        tasks: Sequence[Task],
        head: int,
        sampling: Sampling,
        nudge: float,
        generator: torch.Generator,
        weigh: bool,
    ) -> list[Draft]:
        """Texts whose suffixes begin with `head` tokens in common."""
        read = self._read_with(tasks[0].suffix[:head]) if head else self._read
        state, logits = self._begun([t.suffix[head:] for t in tasks], read)
        out: list[list[int]] = [[] for _ in tasks]
        nats = [0.0] * len(tasks)
        rows = list(range(len(tasks)))  # which text each row of the batch is
        alive = [True] * len(tasks)
        device = logits.device
        nudges = _Nudges([t.nudges for t in tasks], nudge, device)
        lengths = torch.tensor([len(t.suffix) - head for t in tasks], device=device)
        ends, banned = (t.to(device) for t in _token_kinds(self.lm))
        nodes = torch.zeros(len(tasks), dtype=torch.long, device=device)  # of the lexicon
        while True:
            logits = logits.float().add_(banned)
            total = logits.logsumexp(dim=1) if weigh else logits.new_zeros(len(rows))
            nudges.add_to(logits)
            if self._lexicon is not None:
                logits.masked_fill_(self._lexicon.barred(nodes), _FAR_BELOW)
            token = _drawn(logits, sampling, generator)
            unlikely = total - logits.gather(1, token[:, None])[:, 0] + nudges.written(token)
            if self._lexicon is not None:
                nodes = self._lexicon.after(nodes, token)
            for i, (row, drawn, over, by) in enumerate(
                zip(rows, token.tolist(), ends[token].tolist(), unlikely.tolist(), strict=True)
            ):
                if alive[i] and not over:
                    out[row].append(drawn)
                    nats[row] += by
                alive[i] = alive[i] and not over and len(out[row]) < tasks[row].most
            if not any(alive):
                return [Draft(tuple(tokens), of if weigh else None) for tokens, of in zip(out, nats, strict=True)]
            if sum(alive) < _COMPACT_BELOW * len(alive):
                kept = torch.tensor([i for i, a in enumerate(alive) if a], device=device)
                rows, alive = [r for r, a in zip(rows, alive, strict=True) if a], [True] * len(kept)
                token, lengths, nodes = token[kept], lengths[kept], nodes[kept]
                nudges.keep(kept)
                state.keep(kept)
            logits = self._read_on(state, token[:, None], lengths[:, None])
            lengths = lengths + 1

    def _read_with(self, head: Sequence[int]) -> list[tuple[Tensor, Tensor]]:
        """Keys and values of the prefix and some more tokens."""
        state = _Shared(self._read, 1, len(head))
        ids = torch.tensor([head], device=state.hidden.device)
        self._read_in(state, ids, torch.arange(len(head), device=ids.device)[None])
        return state.as_prefix()

    def _begun(self, suffixes: Sequence[Sequence[int]], read: list[tuple[Tensor, Tensor]]) -> tuple[_Shared, Tensor]:
        """(state after the suffixes, logits of what follows). Suffixes are padded at their beginning.

        read: keys and values of what all have read before.
        """
        longest = max(map(len, suffixes))
        state = _Shared(read, len(suffixes), longest + _ROOM)
        ids = torch.zeros(len(suffixes), longest, dtype=torch.long, device=state.hidden.device)
        places = torch.zeros_like(ids)
        for i, suffix in enumerate(suffixes):
            first = longest - len(suffix)
            ids[i, first:] = torch.tensor(suffix, device=ids.device)
            places[i, first:] = torch.arange(len(suffix), device=ids.device)
            state.hidden[i, :first] = _FAR_BELOW
        # All but the last by itself: logits are wanted of that alone, and transformers would copy their matrix for each text.
        if longest > 1:
            self._read_in(state, ids[:, :-1], places[:, :-1])
        return state, self._read_on(state, ids[:, -1:], places[:, -1:])

    def _read_in(self, state: _Shared, ids: Tensor, places: Tensor) -> None:
        """More tokens, shape (batch, tokens). places: of the tokens, counted from the prefix's end."""
        with _sharing(state):
            self._model.base_model(
                input_ids=ids, position_ids=places + state.before, past_key_values=state, use_cache=True
            )
        state.used += ids.shape[1]

    def _read_on(self, state: _Shared, ids: Tensor, places: Tensor) -> Tensor:
        """Logits after one more token, shape (batch, vocabulary). places: see `_read_in`."""
        with _sharing(state):
            read = self._model(input_ids=ids, position_ids=places + state.before, past_key_values=state, use_cache=True)
        state.used += ids.shape[1]
        logits: Tensor = read.logits[:, -1]
        return logits

    def _is_same(self) -> bool:
        """Whether ends of the prefix, of different lengths in one batch, are read alike by themselves and after a shared prefix."""
        short, long = self.prefix[-1:], self.prefix[-3:]
        most = _SAME if self.lm.model.dtype == torch.float32 else _SAME_SHORT
        _, shared = self._begun([short, long], self._read)
        for found, suffix in zip(shared.float(), (short, long), strict=True):
            ids = torch.tensor([[*self.prefix, *suffix]], device=found.device)
            plain = torch.log_softmax(self.lm.model(input_ids=ids).logits[0, -1].float(), -1)
            if float((torch.log_softmax(found, -1) - plain).abs().median()) > most * float(plain.std()):
                return False
        return True


def _batches(tasks: Sequence[Task], batch: int) -> list[tuple[int, list[int]]]:
    """Of each batch how many tokens its suffixes begin with in common, and which tasks these are.

    Few tasks of one head go with others: a batch of them alone would be too small. The longest texts come first: the last batches are short
    then, and all threads end at about the same time.
    """
    heads: dict[tuple[int, ...], list[int]] = {}
    for i, task in enumerate(tasks):
        heads.setdefault(task.suffix[: min(task.head, len(task.suffix) - 1)], []).append(i)
    groups = [(len(head), places) for head, places in heads.items() if len(places) >= _FEWEST]
    groups.append((0, [i for places in heads.values() if len(places) < _FEWEST for i in places]))
    most = min(batch, max(_FEWEST, -(-len(tasks) // _PARTS)))
    out = []
    for head, places in groups:
        places = sorted(places, key=lambda i: (-tasks[i].most, -len(tasks[i].suffix), i))
        parts = -(-len(places) // most)
        out += [(head, places[len(places) * k // parts : len(places) * (k + 1) // parts]) for k in range(parts)]
    return sorted(out, key=lambda part: -tasks[part[1][0]].most)


def _drawn(logits: Tensor, sampling: Sampling, generator: torch.Generator) -> Tensor:
    """A token for each row of logits, shape (rows,)."""
    best, ids = logits.topk(min(sampling.top_k, logits.shape[1]), dim=1)
    shares = torch.softmax(best / sampling.temperature, dim=1)
    shares = torch.where(shares.cumsum(1) - shares < sampling.top_p, shares, 0.0)  # the first is always kept
    return ids.gather(1, torch.multinomial(shares.cpu(), 1, generator=generator).to(ids.device))[:, 0]


_kinds: dict[str, tuple[Tensor, Tensor]] = {}


def _token_kinds(lm: LanguageModel) -> tuple[Tensor, Tensor]:
    """(whether each token ends a line, what is added to its logit: far below 0 for one that no text should hold)."""
    if lm.sha256 not in _kinds:
        size = lm.model.get_output_embeddings().weight.shape[0]
        known = lm.tokenizer.batch_decode([[i] for i in range(len(lm.tokenizer))], clean_up_tokenization_spaces=False)
        texts = [*known, *[""] * (size - len(known))][:size]
        special = set(lm.tokenizer.all_special_ids)
        ends = torch.tensor(["\n" in t or i == lm.tokenizer.eos_token_id for i, t in enumerate(texts)])
        bad = [(i in special or not t or not t.isprintable() or "\ufffd" in t) for i, t in enumerate(texts)]
        banned = torch.where(torch.tensor(bad) & ~ends, _FAR_BELOW, 0.0)
        _kinds[lm.sha256] = ends, banned
    return _kinds[lm.sha256]
