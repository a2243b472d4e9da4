"""Many texts after a shared prefix are what a model would write to each by itself."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from dpsynth.models.language.decoding import Sampling, Task, Writer, _batches, _Nudges, _token_kinds, nudge_of
from dpsynth.models.language.lexicon import Lexicon
from dpsynth.models.language.pretrained import TINY, LanguageModel, load_language_model
from dpsynth.models.language.words import words_of
from dpsynth.privacy.errors import ModelError
from tests.models.language.conftest import save_model

GREEDY = Sampling(top_k=1)


def plainly(lm: LanguageModel, prompt: tuple[int, ...], most: int) -> list[int]:
    """The likeliest continuation, token by token, each time from the start."""
    ids = list(prompt)
    for _ in range(most):
        logits = lm.model(input_ids=torch.tensor([ids])).logits[0, -1]
        text = [lm.tokenizer.decode([i]) for i in range(len(logits))]
        for i, t in enumerate(text):
            if not t or not t.isprintable() and "\n" not in t or "\ufffd" in t:
                logits[i] = -1e9
        token = int(logits.argmax())
        if "\n" in text[token] or token == lm.tokenizer.eos_token_id:
            break
        ids.append(token)
    return ids[len(prompt) :]


def with_float32(lm: LanguageModel) -> LanguageModel:
    lm.model.float()
    return lm


def tasks_of(lm: LanguageModel, most: tuple[int, ...]) -> list[Task]:
    suffixes = ["Text:", "Words: card, week Text:", "Label: card\nText:", "why", "a fee taken for the transfer?"]
    return [Task(tuple(lm.tokenizer(s).input_ids), (), m) for s, m in zip(suffixes * len(most), most * 5, strict=False)]


@pytest.mark.parametrize("batch", [2, 16])
def test_texts_are_those_that_the_model_writes_to_each_prompt_alone(tiny: str, batch: int) -> None:
    lm = with_float32(load_language_model(tiny, "cpu"))
    prefix = tuple(lm.tokenizer("Each has a label and some words.\n").input_ids)
    tasks = tasks_of(lm, (3, 12))
    found = Writer(lm, prefix).write(tasks, GREEDY, 0.0, torch.Generator(), batch)
    assert [list(d.tokens) for d in found] == [plainly(lm, prefix + t.suffix, t.most) for t in tasks]
    assert {len(d.tokens) for d in found} >= {3, 12}


@pytest.mark.parametrize("threads", [1, 3])
def test_what_many_prompts_begin_with_is_read_once_and_changes_nothing(
    tiny: str, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    lm = with_float32(load_language_model(tiny, "cpu"))
    prefix = tuple(lm.tokenizer("Each has a label and some words.\n").input_ids)
    tasks = []
    for i in range(60):  # two heads of many, one of few, and prompts that are no longer than their head
        text = ("Label: card\nWords:", "Label: a fee\nWords:", "Why?")[min(i % 5 // 2, 2) if i < 50 else 2 * (i < 52)]
        head = tuple(lm.tokenizer(text).input_ids)
        own = () if i % 7 == 0 else tuple(lm.tokenizer(f" {i}\nText:").input_ids)
        tasks.append(Task((*head, *own), (), 3 + i % 4, len(head)))
    batches = _batches(tasks, 16)
    assert sorted(i for _, places in batches for i in places) == list(range(60))
    assert sum(head > 0 for head, _ in batches) >= 3 and any(head == 0 for head, _ in batches)
    assert max(len(places) for _, places in batches) <= 16
    before = torch.get_num_threads()
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    found = Writer(lm, prefix).write(tasks, GREEDY, 0.0, torch.Generator(), 16)
    monkeypatch.undo()
    torch.set_num_threads(before)
    assert [list(d.tokens) for d in found] == [plainly(lm, prefix + t.suffix, t.most) for t in tasks]


def test_a_model_with_other_heads_and_positions_shares_a_prefix_too(tiny: str, tmp_path: Path) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    lm = load_language_model(tiny, "cpu")
    config = GPT2Config(vocab_size=len(lm.tokenizer), n_positions=256, n_embd=32, n_layer=2, n_head=4)
    save_model(tmp_path, GPT2LMHeadModel, config)
    lm.tokenizer.save_pretrained(tmp_path)
    other = with_float32(load_language_model(str(tmp_path), "cpu"))
    prefix = tuple(other.tokenizer("Each has a label and some words.\n").input_ids)
    tasks = tasks_of(other, (6,))
    found = Writer(other, prefix).write(tasks, GREEDY, 0.0, torch.Generator(), 16)
    assert [list(d.tokens) for d in found] == [plainly(other, prefix + t.suffix, t.most) for t in tasks]


def test_a_model_whose_attention_is_its_own_is_refused(tiny: str, tmp_path: Path) -> None:
    from transformers import BloomConfig, BloomForCausalLM

    lm = load_language_model(tiny, "cpu")
    save_model(
        tmp_path, BloomForCausalLM, BloomConfig(vocab_size=len(lm.tokenizer), hidden_size=32, n_layer=2, n_head=4)
    )
    lm.tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="cannot share a prefix"):
        Writer(
            load_language_model(str(tmp_path), "cpu"), lm.tokenizer("Each has a label. My card has not come.").input_ids
        )


def test_a_nudge_ends_when_its_token_has_occurred(tiny: str) -> None:
    lm = load_language_model(tiny, "cpu")
    word = lm.tokenizer(" card").input_ids[0]
    task = Task(tuple(lm.tokenizer("Text:").input_ids), (nudge_of(lm, "card"),), 10)
    writer = Writer(lm, tuple(lm.tokenizer("Each has a label.").input_ids))
    (nudged,) = writer.write([task], GREEDY, 100.0, torch.Generator(), 1)
    tokens = nudged.tokens
    assert tokens[0] == word and tokens.count(word) < 4, "once it has occurred, nothing speaks for it any more"


def test_of_bytes_a_letter_is_raised_once_those_before_it_stand() -> None:
    lm = load_language_model(TINY, "cpu")
    assert lm.bytewise
    byte = {letter: lm.tokenizer(letter).input_ids[0] for letter in " acdr"}
    nudges = _Nudges([(nudge_of(lm, "card"), nudge_of(lm, "car"))], 4.0, torch.device("cpu"))

    def raised() -> dict[str, float]:
        logits = torch.zeros(1, len(lm.tokenizer))
        nudges.add_to(logits)
        assert int(logits.count_nonzero()) == sum(float(logits[0, i]) != 0 for i in byte.values())
        return {letter: float(logits[0, i]) for letter, i in byte.items() if logits[0, i] != 0}

    seen = {}
    for i, letter in enumerate(" ca car card c"):
        nudges.written(torch.tensor([byte[letter]]))
        seen[i] = raised()
    assert seen[0] == {"c": 4.0}, "the first letter of either, by half"
    assert seen[1] == {"a": 8.0} and seen[2] == {"r": 8.0}
    assert seen[3] == {"c": 4.0}, "broken off"
    assert seen[6] == {"d": 4.0} and seen[7] == {"c": 2.0}, "one has occurred"
    assert seen[11] == seen[13] == {}, "and both"


def test_words_that_are_wanted_come_whole_from_bytes() -> None:
    lm = load_language_model(TINY, "cpu")
    writer = Writer(lm, lm.tokenizer("Questions that customers ask.\n\n").input_ids)
    suffix = tuple(lm.tokenizer("Category: card\nWords: lost, card\nText:").input_ids)
    task = Task(suffix, (nudge_of(lm, "lost"), nudge_of(lm, "card")), 80)
    share = {}
    for nudge in (0.0, 6.0):
        drafts = writer.write([task] * 60, Sampling(), nudge, torch.Generator().manual_seed(0), 60)
        texts = [lm.tokenizer.decode(d.tokens).lower() for d in drafts]
        share[nudge] = sum(len({"lost", "card"} & set(words_of(t))) for t in texts) / 120
    assert share[6.0] > 0.6 and share[6.0] > share[0.0]


def test_a_lexicon_lets_bytes_make_its_words_alone() -> None:
    lm = load_language_model(TINY, "cpu")
    known = {"don", "lost", "card", "bank", "the", "what", "where", "when", "how", "there", "and", "can", "you", "not"}
    writer = Writer(lm, lm.tokenizer("About.\n\n").input_ids, Lexicon(known, lm.tokenizer))
    task = Task(tuple(lm.tokenizer("Words: lost\nText:").input_ids), (nudge_of(lm, "lost"),), 60)
    drafts = writer.write([task] * 40, Sampling(), 4.0, torch.Generator().manual_seed(0), 16)
    texts = [lm.tokenizer.decode(d.tokens) for d in drafts if len(d.tokens) < 60]
    made = {word for text in texts for word in words_of(text)}
    short = set("am an as at be by do go he hi if in is it me my no of oh ok on or pm so to tv up us we".split())
    assert len(texts) > 5 and "lost" in made and made <= known | short | {"ll", "re", "ve"}


def test_no_text_is_longer_than_the_model_has_places() -> None:
    lm = load_language_model(TINY, "cpu")
    assert Writer(lm, lm.tokenizer("About.").input_ids).room == 512 - 6


def test_a_text_is_as_odd_as_the_model_finds_it_without_nudges(tiny: str) -> None:
    lm = with_float32(load_language_model(tiny, "cpu"))
    prefix = tuple(lm.tokenizer("Each has a label.").input_ids)
    tasks = [replace(task, nudges=(nudge_of(lm, "card"),)) for task in tasks_of(lm, (3, 12))]
    writer = Writer(lm, prefix)
    found, unasked = (
        writer.write(tasks, Sampling(), 6.0, torch.Generator().manual_seed(0), 4, weigh=weigh)
        for weigh in (True, False)
    )
    assert [d.tokens for d in found] == [d.tokens for d in unasked] and {d.nats for d in unasked} == {None}
    for task, draft in zip(tasks, found, strict=True):
        ids = torch.tensor([[*prefix, *task.suffix, *draft.tokens]])
        with torch.inference_mode():
            logits = lm.model(input_ids=ids).logits[0, -1 - len(draft.tokens) : -1] + _token_kinds(lm)[1]
        nats = -torch.log_softmax(logits, -1)[range(len(draft.tokens)), list(draft.tokens)].sum()
        assert draft.nats == pytest.approx(float(nats), rel=1e-3)


def test_the_same_seed_writes_the_same_texts_and_another_others(tiny: str) -> None:
    lm = load_language_model(tiny, "cpu")
    writer = Writer(lm, tuple(lm.tokenizer("Each has a label.").input_ids))
    tasks = tasks_of(lm, (10,))
    first, again, other = (
        writer.write(tasks, Sampling(), 0.0, torch.Generator().manual_seed(seed), 3) for seed in (1, 1, 2)
    )
    assert first == again != other


def test_a_model_reads_as_ever_while_it_writes(tiny: str) -> None:
    lm = with_float32(load_language_model(tiny, "cpu"))
    ids = torch.tensor([lm.tokenizer("a fee taken for the transfer?").input_ids])
    writer = Writer(lm, tuple(lm.tokenizer("Each has a label.").input_ids))
    before, meanwhile = lm.model(input_ids=ids).logits, []
    writer.write(
        tasks_of(lm, (3, 10)), Sampling(), 0.0, torch.Generator(), 2, lambda n: meanwhile.append(lm.model(ids).logits)
    )
    assert len(meanwhile) > 1 and all(torch.equal(logits, before) for logits in meanwhile)
    weights = {tensor.data_ptr() for tensor in lm.model.parameters()}
    assert {tensor.data_ptr() for tensor in writer._model.parameters()} == weights, "weights are not copied"
