"""A tiny language model with random weights in a folder, and small public axes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from dpsynth.models.language import guide

CORPUS = """Text: My card has not come yet. Words: card, week
Text: Why was a fee taken for the transfer? I want a refund, please!
Each has a label and some words that it uses. Label: card"""


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The folder of a Llama of two layers with grouped heads, and a byte-level tokenizer."""
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("tiny")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=["<end>"], initial_alphabet=alphabet)
    tokenizer.train_from_iterator([CORPUS] * 4, trainer)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>").save_pretrained(folder)
    save_model(folder, LlamaForCausalLM, LlamaConfig(
        vocab_size=tokenizer.get_vocab_size(), hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=1024, bos_token_id=0, eos_token_id=0, pad_token_id=0,
    ))  # fmt: skip
    return str(folder)


def save_model(folder: Path, kind: type, config: object) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        kind(config).save_pretrained(folder)  # type: ignore[call-arg]


@pytest.fixture
def few_salads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Public axes from fewer texts: quicker, and all the same to what is tested."""
    monkeypatch.setattr(guide, "SALADS", 60)
    monkeypatch.setattr(guide, "NEIGHBOURS_AMONG", 120)
