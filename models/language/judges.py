"""Public judges of written texts: each gives marks, and the best of each group stay. They see synthetic texts and labels, never a row."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from dpsynth.models.language import pretrained
from dpsynth.models.language.endpoint import Endpoint
from dpsynth.models.language.words import words_of
from dpsynth.privacy.errors import DpsynthError, ModelError
from dpsynth.privacy.source import FloatArray

if TYPE_CHECKING:
    from torch import Tensor

    from dpsynth.models.language.pretrained import LanguageModel

# Tokens that go through a model at a time, of which these have logits at once; and of each text those, or characters, that are read.
_BATCH, _FORETOLD, _TOKENS, _CHARACTERS = 2048, 64, 512, 1000
# Added to the count of each word of a label: one that it was not seen with is unlikely, not impossible.
_SMOOTHING = 0.1
_YES, _NO = ("Yes", " Yes", "yes", " yes"), ("No", " No", "no", " no")


class Judge(Protocol):
    """Gives marks to texts. One of your own can be passed; only those of this module can be saved with a model."""

    @property
    def name(self) -> str:
        """What it is called in a report."""

    @property
    def keep(self) -> float:
        """Share of each group's texts that stay, in (0, 1]: those with the highest marks, and all that are level with the last of them."""

    def require(self) -> None:
        """Raises ModelError where what it needs is not there: before anything is reserved."""

    def score(
        self, texts: Sequence[str], labels: Sequence[str], judged: Callable[[int], None] = lambda n: None
    ) -> FloatArray:
        """Marks, shape (texts,), higher is better; -inf: the text is refused, whatever is left.

        labels: in words, those that each text was written for; "" = none.  judged: may be called with the number of texts that were
        judged since.
        """


class Teacher(Protocol):
    """Writes texts in place of the base model. `Endpoint` is one; a model that `transformers` loads is given as `base`."""

    @property
    def name(self) -> str:
        """What it is called for a reader of the data."""

    def require(self) -> None:
        """Raises ModelError where what it needs is not there: before anything is reserved."""

    def write(
        self, asked: Sequence[str], most: Sequence[int], seed: int, written: Callable[[int], None]
    ) -> list[tuple[str, bool]]:
        """For each prompt (public lines, labels and words under DP) a text of at most so many tokens, and whether it came to its end.

        written: called with the number of texts that were finished since.
        """


def _require_share(keep: float) -> None:
    if isinstance(keep, bool) or not isinstance(keep, int | float) or not 0 < keep <= 1:
        raise ModelError("keep must lie in (0, 1]")


@dataclass(frozen=True, kw_only=True, slots=True)
class Rules:
    """Refuses texts by length, form and repetition; all others are level.

    words: least and most words, apart by blanks.  endings: characters one of which a text must end in, "" = any.  pattern: a regular
    expression that the whole text must match, "" = any.  distinct: least share of a text's words that are different ones.
    repeats: whether a text may come more than once (in whatever case).
    """

    words: tuple[int, int] = (1, 1000)
    endings: str = ""
    pattern: str = ""
    distinct: float = 0.0
    repeats: bool = False

    def __post_init__(self) -> None:
        # Of JSON it is a list, and callers may be untyped.
        object.__setattr__(self, "words", tuple(self.words) if isinstance(self.words, Sequence) else ())
        if len(self.words) != 2 or not 0 <= self.words[0] <= self.words[1] or not 0 <= self.distinct <= 1:
            raise ModelError("words must be the least and the most, distinct lie in [0, 1]")
        try:
            re.compile(self.pattern)
        except re.error:
            raise ModelError("pattern is not a regular expression") from None

    @property
    def name(self) -> str:
        return "rules"

    @property
    def keep(self) -> float:
        return 1.0

    def require(self) -> None:
        """Nothing is needed."""

    def score(
        self, texts: Sequence[str], labels: Sequence[str], judged: Callable[[int], None] = lambda n: None
    ) -> FloatArray:
        """0, or -inf for a text that breaks a rule."""
        seen: Counter[str] = Counter()
        good = []
        for text in texts:
            key = " ".join(text.casefold().split())
            good.append(self._obeys(text) and (self.repeats or not seen[key]))
            seen[key] += good[-1]
        return np.where(np.array(good, bool), 0.0, -np.inf)

    def _obeys(self, text: str) -> bool:
        words = text.lower().split()
        return (
            self.words[0] <= len(words) <= self.words[1]
            and (not self.endings or text.rstrip()[-1:] in [*self.endings])
            and (not self.pattern or re.fullmatch(self.pattern, text) is not None)
            and len(set(words)) >= self.distinct * len(words)
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Agreement:
    """Likes texts that tell their label: log-probability of it by naive Bayes of words, learned from the written texts alone.

    Each text is judged by all others: it is left out of its own label's counts. With one label all are level.
    """

    keep: float = 0.7

    def __post_init__(self) -> None:
        _require_share(self.keep)

    @property
    def name(self) -> str:
        return "label agreement"

    def require(self) -> None:
        """Nothing is needed."""

    def score(
        self, texts: Sequence[str], labels: Sequence[str], judged: Callable[[int], None] = lambda n: None
    ) -> FloatArray:
        """Log-probability of each text's own label, shape (texts,); labels are taken to be equally frequent."""
        from scipy.sparse import csr_array
        from scipy.special import logsumexp

        held = [sorted(set(words_of(t))) for t in texts]
        vocabulary = {w: i for i, w in enumerate(sorted({w for h in held for w in h}))}
        own = np.unique(np.array(labels, object).astype(str), return_inverse=True)[1]
        rows = np.repeat(np.arange(len(texts)), [len(h) for h in held])
        columns = np.array([vocabulary[w] for h in held for w in h], np.int64)
        shape = (len(texts), max(len(vocabulary), 1))
        words = csr_array((np.ones(len(rows)), (rows, columns)), shape=shape)
        member = csr_array(
            (np.ones(len(texts)), (own, np.arange(len(texts)))), shape=(int(own.max(initial=0)) + 1, len(texts))
        )
        counts: FloatArray = (member @ words).toarray()
        totals, lengths = counts.sum(axis=1) + _SMOOTHING * shape[1], np.array([len(h) for h in held], np.float64)
        fit: FloatArray = words @ np.log(counts + _SMOOTHING).T - lengths[:, None] * np.log(totals)
        without = np.log(np.maximum(counts[own[rows], columns] - 1, 0) + _SMOOTHING)
        places = np.arange(len(texts))
        fit[places, own] = np.bincount(rows, without, len(texts)) - lengths * np.log(totals[own] - lengths)
        marks: FloatArray = fit[places, own] - np.asarray(logsumexp(fit, axis=1), np.float64)
        return marks


@dataclass(frozen=True, kw_only=True, slots=True)
class Fluency:
    """Likes texts that a language model finds likely, read without their prompt: minus nats a byte.

    model: as `Language.base`.  `Language.fluency` weighs the same marks, of the base model, beside the means that were bought.
    """

    model: str = pretrained.DEFAULT
    keep: float = 0.6

    def __post_init__(self) -> None:
        _require_share(self.keep)

    @property
    def name(self) -> str:
        return f"fluency ({pretrained.called(self.model)})"

    def require(self) -> None:
        """Raises ModelError where the model cannot be loaded."""
        _causal(self.model)

    def score(
        self, texts: Sequence[str], labels: Sequence[str], judged: Callable[[int], None] = lambda n: None
    ) -> FloatArray:
        """Mean log-likelihood of each text, in nats a byte."""
        lm = _causal(self.model)
        first = lm.tokenizer.bos_token_id if lm.tokenizer.bos_token_id is not None else lm.tokenizer.eos_token_id
        tokens = [[first, *_tokens(lm, text[:_CHARACTERS], special=False)] for text in texts]
        nats = _by_batches([*map(len, tokens)], lambda places: _log_likelihood(lm, [tokens[i] for i in places]), judged)
        marks: FloatArray = nats / np.array([max(len(t[:_CHARACTERS].encode()), 1) for t in texts])
        return marks


@dataclass(frozen=True, kw_only=True, slots=True)
class Instruct:
    """Asks a causal language model about each text, yes or no: by how much the logit of yes is above that of no.

    model: as `Language.base`; a model that follows instructions well, as the default one, of 135 million parameters, does not.
    question: {label} stands for the text's labels in words.
    """

    model: str
    question: str = "Is this a natural and well written text on the subject {label}?"
    keep: float = 0.6

    def __post_init__(self) -> None:
        _require_share(self.keep)

    @property
    def name(self) -> str:
        return f"yes or no ({pretrained.called(self.model)})"

    def require(self) -> None:
        """Raises ModelError where the model cannot be loaded, or has the same tokens for yes and no."""
        _yes_and_no(_causal(self.model))

    def score(
        self, texts: Sequence[str], labels: Sequence[str], judged: Callable[[int], None] = lambda n: None
    ) -> FloatArray:
        """Differences of logits, shape (texts,)."""
        import torch

        lm = _causal(self.model)
        yes, no = _yes_and_no(lm)
        asked = [self._asked(lm, text, label) for text, label in zip(texts, labels, strict=True)]

        def differences(places: list[int]) -> Tensor:
            ids, mask = _padded([asked[i] for i in places])
            last = mask.sum(1) - 1
            hidden = lm.model.base_model(input_ids=ids, attention_mask=mask).last_hidden_state
            # Of the last token alone: the logits of all would not fit into memory.
            logits: Tensor = lm.model.get_output_embeddings()(hidden[torch.arange(len(ids)), last]).float()
            return logits[:, yes].logsumexp(1) - logits[:, no].logsumexp(1)

        return _by_batches([*map(len, asked)], differences, judged)

    def _asked(self, lm: LanguageModel, text: str, label: str) -> list[int]:
        question = self.question.replace("{label}", label or "of any kind")
        said = f"{question} Answer yes or no.\n\nText: {text[:_CHARACTERS]}"
        for mark in lm.tokenizer.all_special_tokens:  # a label or text must not begin another's turn
            said = said.replace(mark, " ")
        if lm.tokenizer.chat_template:
            turns = [{"role": "user", "content": said}]
            said = lm.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
            return _tokens(lm, said, special=False)
        return _tokens(lm, f"{said}\n\nAnswer:", special=True)


@dataclass(frozen=True, kw_only=True, slots=True)
class Reward:
    """Marks by a sequence-classification model: a reward model's number, or the log-probability of a class.

    model: a folder or a hub's name that transformers loads.  ask: what the text is an answer to, as reward models want it; {label} stands
    for its labels in words; "" = the text stands alone.  output: number of the class, where there are several; negative: from the end.
    """

    model: str
    ask: str = "Write a short text on the subject {label}."
    output: int = -1
    keep: float = 0.5

    def __post_init__(self) -> None:
        _require_share(self.keep)

    @property
    def name(self) -> str:
        return f"reward ({pretrained.called(self.model)})"

    def require(self) -> None:
        """Raises ModelError where the model cannot be loaded, has no classification head, or not this class."""
        outputs = self._loaded().model.config.num_labels
        if not -outputs <= self.output < outputs:
            raise ModelError(f"output: {self.model!r} has {outputs} classes")

    def score(
        self, texts: Sequence[str], labels: Sequence[str], judged: Callable[[int], None] = lambda n: None
    ) -> FloatArray:
        """Rewards, or log-probabilities of the class, shape (texts,)."""
        lm = self._loaded()
        asked = [self._asked(lm, text, label) for text, label in zip(texts, labels, strict=True)]

        def marks(places: list[int]) -> Tensor:
            some = lm.tokenizer.pad({k: [asked[i][k] for i in places] for k in asked[0]}, return_tensors="pt")
            logits: Tensor = lm.model(**some.to(lm.model.device)).logits.float()
            return logits[:, 0] if logits.shape[1] == 1 else logits.log_softmax(1)[:, self.output]

        return _by_batches([len(a["input_ids"]) for a in asked], marks, judged)

    def _loaded(self) -> LanguageModel:
        return pretrained.load_classifier(self.model, pretrained.fast_device())

    def _asked(self, lm: LanguageModel, text: str, label: str) -> Any:
        text, ask = text[:_CHARACTERS], self.ask.replace("{label}", label or "of any kind")
        if ask and lm.tokenizer.chat_template:
            turns = [{"role": "user", "content": ask}, {"role": "assistant", "content": text}]
            said = lm.tokenizer.apply_chat_template(turns, tokenize=False)
            return lm.tokenizer(said, add_special_tokens=False)
        return lm.tokenizer(*((ask, text) if ask else (text,)), truncation=True, max_length=_TOKENS)


def marks_of(
    judge: Judge, texts: Sequence[str], labels: Sequence[str], judged: Callable[[int], None] = lambda n: None
) -> FloatArray:
    """A judge's marks. Raises ModelError where they are not one number for each text."""
    try:
        marks = np.asarray(judge.score(texts, labels, judged), np.float64)
    except DpsynthError:
        raise
    except Exception as error:  # of a judge that is the caller's own: it sees written texts alone
        raise ModelError(f"the judge {judge.name!r} failed with {type(error).__name__}") from error
    if marks.shape != (len(texts),) or np.isnan(marks).any():
        raise ModelError(f"the judge {judge.name!r} did not give each text a mark")
    return marks


_KINDS: dict[str, type[Any]] = {
    "agreement": Agreement,
    "fluency": Fluency,
    "instruct": Instruct,
    "reward": Reward,
    "rules": Rules,
}  # fmt: skip


def to_json(judge: Judge | Teacher) -> dict[str, Any]:
    """A judge's or teacher's settings with its kind. Raises ModelError for one that this module does not know."""
    known: Any = judge
    if isinstance(known, Endpoint):
        return {"kind": "endpoint", **known.to_json()}
    for kind, of in _KINDS.items():
        if type(known) is of:
            return {"kind": kind, **asdict(known)}
    raise ModelError(f"{judge.name!r} is of your own making and cannot be saved with a model")


def from_json(body: dict[str, Any]) -> Any:
    """What `to_json` wrote. Raises KeyError or TypeError for other kinds and settings."""
    rest = {name: value for name, value in body.items() if name != "kind"}
    return Endpoint.from_json(rest) if body["kind"] == "endpoint" else _KINDS[body["kind"]](**rest)


def _causal(model: str) -> LanguageModel:
    return pretrained.load_language_model(model, pretrained.fast_device())


def _tokens(lm: LanguageModel, text: str, *, special: bool) -> list[int]:
    found: list[int] = lm.tokenizer(text, add_special_tokens=special).input_ids
    return found


def _yes_and_no(lm: LanguageModel) -> tuple[list[int], list[int]]:
    """Tokens that an answer of yes, or of no, begins with. Raises ModelError where they are the same."""
    yes, no = ({lm.tokenizer(word, add_special_tokens=False).input_ids[0] for word in words} for words in (_YES, _NO))
    if not yes - no or not no - yes:
        raise ModelError(f"the language model {lm.name!r} begins yes and no with the same tokens")
    return sorted(yes - no), sorted(no - yes)


def _log_likelihood(lm: LanguageModel, rows: Sequence[Sequence[int]]) -> Tensor:
    """Sum over each row's tokens but the first, shape (rows,)."""
    import torch

    ids, mask = _padded(rows)
    hidden = lm.model.base_model(input_ids=ids, attention_mask=mask).last_hidden_state
    out: Tensor = hidden.new_zeros(ids.shape, dtype=torch.float32)
    row, place = mask[:, 1:].nonzero(as_tuple=True)  # of the tokens that are foretold, less one
    for some_rows, some in zip(torch.split(row, _FORETOLD), torch.split(place, _FORETOLD), strict=True):
        logits = lm.model.get_output_embeddings()(hidden[some_rows, some]).float()
        said = logits.gather(1, ids[some_rows, some + 1, None])[:, 0]
        out[some_rows, some] = said - logits.logsumexp(1)
    return out.sum(1)


def _padded(rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """(tokens, mask), padded at their ends, shape (rows, the longest)."""
    import torch

    ids = torch.zeros(len(rows), max(1, *map(len, rows)), dtype=torch.long)
    mask = torch.zeros_like(ids)
    for i, row in enumerate(rows):
        ids[i, : len(row)], mask[i, : len(row)] = torch.tensor(row, dtype=torch.long), 1
    device = pretrained.fast_device()
    return ids.to(device), mask.to(device)


def _by_batches(lengths: Sequence[int], of: Callable[[list[int]], Tensor], judged: Callable[[int], None]) -> FloatArray:
    """What `of` says of each place, shape (places,), asked of several at a time: those of like length. judged: see `Judge.score`."""
    import torch

    from dpsynth.models.threads import LANES, side_by_side

    out, parts = np.zeros(len(lengths)), []
    order = sorted(range(len(lengths)), key=lengths.__getitem__, reverse=True)
    while order:
        at_once = max(1, _BATCH // max(lengths[order[0]], 1))
        parts.append(order[:at_once])
        order = order[at_once:]

    def put(places: list[int]) -> None:
        with torch.inference_mode():
            out[places] = of(places).double().cpu().numpy()

    most = LANES if pretrained.fast_device() == "cpu" else 1
    side_by_side(put, parts, most=most, done=lambda places: judged(len(places)))
    return out
