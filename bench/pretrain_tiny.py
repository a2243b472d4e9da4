"""The tiny model that ships with the package: where its texts come from, and how it learns from them.

    python bench/pretrain_tiny.py sample OUT --minutes 30     texts of SmolLM2-135M-Instruct over everyday domains: OUT/texts-SEED.jsonl
    python bench/pretrain_tiny.py train OUT --minutes 30      a byte-level Llama learns them: OUT/tiny

No text of a person is in it: domains, labels and two examples of each are in `everyday.py`, words are drawn from a public vocabulary, and
SmolLM2 (Apache-2.0) writes the rest. Texts are appended as they come, so the first step may be cut short.

The model reads pages: a domain's line, then text after text in the form in which `Prompt` asks for them, words before each that it uses.
Bits per byte are of texts that it has not read, each alone after a prompt.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from everyday import DOMAINS, Domain

from dpsynth.models.language import pretrained, selection
from dpsynth.models.language.decoding import Sampling
from dpsynth.models.language.drafts import Ask, by_base
from dpsynth.models.language.embedding import embed
from dpsynth.models.language.prompt import Prompt
from dpsynth.models.language.words import public_vocabulary, words_of

BATCH, NUDGE, MOST = 192, 3.0, (16, 28, 44, 70)
# Words that texts on a label are asked to hold: of the most frequent of the vocabulary, those whose embeddings lie nearest.
AMONG, NEAR = 5000, 250
# The model, its pages in bytes, and pages of a step.
SHAPE = {
    "hidden_size": 160,
    "intermediate_size": 448,
    "num_hidden_layers": 4,
    "num_attention_heads": 5,
    "num_key_value_heads": 5,
}
PAGE, PAGES, CONTEXT, HELD = 384, 8, 512, 400
# Learning rates: of the matrices inside the layers by Muon, of all else by AdamW.
MUON, ADAM = 4e-3, 3e-3
# Texts that SmolLM2 itself finds odder than this share of them are left out.
FLUENT = 0.85


def sample(out: Path, minutes: float, seed: int) -> None:
    """Write texts until the time is over, one batch of each domain after another."""
    lm = pretrained.load_language_model(pretrained.DEFAULT, "cpu")
    words = public_vocabulary(lm.tokenizer, pretrained.load_embedder()[1])[:AMONG]
    near = words_near(words)
    rng = np.random.default_rng(seed)
    end, written = time.monotonic() + 60 * minutes, 0
    with (out / f"texts-{seed}.jsonl").open("a") as file:
        while time.monotonic() < end:
            for number in rng.permutation(len(DOMAINS)):
                for line in texts_of(lm, DOMAINS[number], near, rng):
                    file.write(json.dumps({"domain": int(number), **line}) + "\n")
                    written += 1
                file.flush()
                print(f"{written} texts, {(end - time.monotonic()) / 60:.1f} minutes left", flush=True)
                if time.monotonic() > end:
                    break


def words_near(words: tuple[str, ...]) -> dict[tuple[str, str], list[str]]:
    """(description, label) -> public words near it."""
    keys = [(d.description, label) for d in DOMAINS for label in d.labels]
    similar = embed([f"{description}: {label}" for description, label in keys]) @ embed(list(words)).T
    return {key: [words[i] for i in np.argsort(-row)[:NEAR]] for key, row in zip(keys, similar, strict=True)}


def texts_of(
    lm: pretrained.LanguageModel, domain: Domain, near: dict[tuple[str, str], list[str]], rng: np.random.Generator
) -> Iterator[dict[str, Any]]:
    """One batch of texts of a domain."""
    prompt = Prompt(subject=domain.subject, description=domain.description, examples=domain.examples)
    author = by_base(lm, prompt.prefix(), Sampling(), NUDGE, BATCH, rng, lambda n: None, weigh=True)
    labels, asked = [], []
    for _ in range(BATCH):
        label = str(rng.choice(domain.labels))
        words = tuple(str(w) for w in rng.choice(near[domain.description, label], rng.integers(1, 4), replace=False))
        asked.append(Ask(prompt.ask(label, words), words, int(rng.choice(MOST))))
        labels.append(label)
    for label, draft in zip(labels, author(asked), strict=True):
        text = selection.cleaned(draft.text, ended=draft.ended)
        if text is not None and text.isascii():
            yield {"label": label, "text": text, "odd": draft.odd}


# -- learning ----------------------------------------------------------------------------------------------------------


def byte_tokenizer(folder: Path) -> Any:
    """A token for each byte, and one for the end."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(["<end>", *alphabet])}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    own = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>", clean_up_tokenization_spaces=False)
    own.save_pretrained(folder)
    return own


def train(out: Path, minutes: float, seed: int, resume: bool) -> None:
    """Learn the texts until the time is over, and save the model in half precision. resume: go on from the model in OUT, by smaller steps."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    folder = out / "tiny"
    tokenizer = byte_tokenizer(folder)
    rng = np.random.default_rng(seed)
    texts = read(out, rng)
    held, learned = texts[:HELD], texts[HELD:]
    vocabulary = set(public_vocabulary(tokenizer, pretrained.load_embedder()[1]))
    config = LlamaConfig(
        **SHAPE, vocab_size=len(tokenizer), max_position_embeddings=CONTEXT, tie_word_embeddings=True, bos_token_id=0, eos_token_id=0,
        pad_token_id=0,
    )  # fmt: skip
    model: Any = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32) if resume else LlamaForCausalLM(config)
    print(f"{len(learned)} texts, {sum(p.numel() for p in model.parameters()):,} parameters", flush=True)
    pages = pages_of(learned, vocabulary, tokenizer, np.random.default_rng([seed, resume]))
    start, step, ran = time.monotonic(), 0, 0.0
    inner = [p for name, p in model.named_parameters() if ".layers." in name and p.ndim == 2]
    outer = [p for name, p in model.named_parameters() if ".layers." not in name or p.ndim < 2]
    optimizers = [
        torch.optim.Muon(inner, lr=MUON, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(outer, lr=ADAM, betas=(0.9, 0.98), weight_decay=0.0),
    ]
    while (done := (time.monotonic() - start) / (60 * minutes)) < 1:
        for optimizer, rate in zip(optimizers, (MUON, ADAM), strict=True):
            optimizer.param_groups[0]["lr"] = (
                rate * min(1.0, (step + 1) / 40) * (1.02 - done) * (0.6 if resume else 1.0)
            )
        ids = torch.stack([next(pages) for _ in range(PAGES)])
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(input_ids=ids[:, :-1], use_cache=False).logits
        loss = torch.nn.functional.cross_entropy(logits.float().flatten(0, 1), ids[:, 1:].flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        step += 1
        ran = loss.item() if step == 1 else 0.95 * ran + 0.05 * loss.item()
        if step % 100 == 0:
            copy.deepcopy(model).half().save_pretrained(folder)
            print(
                f"step {step}, {100 * done:.0f}% of the time, bits per byte of pages {ran / math.log(2):.3f}",
                flush=True,
            )
    print(
        f"{step} steps; bits per byte of {HELD} held-out texts: {bits(model.eval(), tokenizer, held, vocabulary):.3f}"
    )
    model.half().save_pretrained(folder)


def read(out: Path, rng: np.random.Generator) -> list[dict[str, Any]]:
    """The texts that are fluent, each once, in random order."""
    lines = [json.loads(line) for path in sorted(out.glob("texts-*.jsonl")) for line in path.open()]
    odd = float(np.quantile([line["odd"] for line in lines], FLUENT))
    once = {line["text"]: line for line in lines if line["odd"] <= odd and len(line["text"]) < PAGE // 2}
    texts = list(once.values())
    return [texts[i] for i in rng.permutation(len(texts))]


def asked(line: dict[str, Any], bare: Prompt, vocabulary: set[str], rng: np.random.Generator) -> str:
    """A text with what comes before it: its label, and words of a public vocabulary that it uses."""
    held = sorted({w for w in words_of(line["text"]) if w in vocabulary})
    words = rng.permutation(held)[: rng.integers(1, 5)] if held else []
    label = line["label"] if rng.random() < 0.85 else ""
    return f"{bare.ask(label, [str(w) for w in words])} {line['text']}\n"


def pages_of(
    texts: list[dict[str, Any]], vocabulary: set[str], tokenizer: Any, rng: np.random.Generator
) -> Iterator[torch.Tensor]:
    """Pages without end, each of one domain, shape (PAGE + 1,): other words and neighbours each time a text comes up."""
    by_domain: dict[int, list[dict[str, Any]]] = {}
    for line in texts:
        by_domain.setdefault(line["domain"], []).append(line)
    numbers = sorted(by_domain)
    shares = np.array([len(by_domain[n]) for n in numbers]) / len(texts)
    while True:
        number = int(rng.choice(numbers, p=shares))
        prompt = bare_prompt(number, described=rng.random() < 0.8)
        page = prompt.prefix()
        while len(page) <= PAGE:
            line = by_domain[number][rng.integers(len(by_domain[number]))]
            page += asked(line, prompt, vocabulary, rng) + "\n"
        yield torch.tensor(tokenizer(page[: PAGE + 1]).input_ids)


def bare_prompt(domain: int, described: bool = True) -> Prompt:
    of = DOMAINS[domain]
    return Prompt(subject=of.subject, description=of.description if described else "", examples=(), bare=True)


def bits(model: Any, tokenizer: Any, texts: list[dict[str, Any]], vocabulary: set[str]) -> float:
    """Per byte of texts, their line's end included, each alone after its prompt."""
    nats = size = 0.0
    rng = np.random.default_rng(0)
    with torch.inference_mode():
        for line in texts:
            prompt = bare_prompt(line["domain"])
            whole = tokenizer(prompt.prefix() + asked(line, prompt, vocabulary, rng)).input_ids
            own = len(line["text"]) + 2
            logs = torch.log_softmax(model(input_ids=torch.tensor([whole])).logits[0, -own - 1 : -1].float(), -1)
            nats -= float(logs.gather(1, torch.tensor(whole[-own:])[:, None]).sum())
            size += own
    return nats / math.log(2) / size


def main() -> None:
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("step", choices=("sample", "train"))
    ask.add_argument("out", type=Path)
    ask.add_argument("--minutes", type=float, default=30.0)
    ask.add_argument("--seed", type=int, default=0)
    ask.add_argument("--resume", action="store_true", help="train: go on from the model in OUT")
    args = ask.parse_args()
    torch.set_num_threads(1)
    args.out.mkdir(exist_ok=True)
    if args.step == "sample":
        sample(args.out, args.minutes, args.seed)
    else:
        train(args.out, args.minutes, args.seed, args.resume)


if __name__ == "__main__":
    main()
