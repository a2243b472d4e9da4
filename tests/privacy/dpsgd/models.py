"""Small models with random weights, their losses, and made-up rows for them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dpsynth.privacy.dpsgd.batch import Loss, MicroBatch, Rows

VOCABULARY, LENGTH = 40, 7


@dataclass(frozen=True)
class Case:
    """A model, the loss of each row, and rows of its domain."""

    model: nn.Module
    loss: Loss
    probe: Callable[[int], Rows]


def numbers(n: int) -> Rows:
    x = torch.randn(n, 6)
    return {"x": x, "y": (x[:, 0] > 0).float()}


def tokens(n: int) -> Rows:
    """Token ids; the first 3 to 7 of each row count."""
    length = torch.randint(3, LENGTH + 1, (n, 1))
    return {"ids": torch.randint(0, VOCABULARY, (n, LENGTH)), "mask": (torch.arange(LENGTH) < length).long()}


def critic_loss(model: nn.Module, rows: Rows) -> Tensor:
    out: Tensor = model(rows["x"]).squeeze(-1)
    return nn.functional.binary_cross_entropy_with_logits(out, rows["y"], reduction="none")


def language_loss(model: nn.Module, rows: Rows) -> Tensor:
    """Mean over each row's own tokens of the next token's loss."""
    ids, mask = rows["ids"], rows["mask"]
    positions = torch.arange(ids.shape[1]).expand(len(ids), -1).contiguous()
    logits = model(input_ids=ids, attention_mask=causal(mask), position_ids=positions, use_cache=False).logits
    losses = nn.functional.cross_entropy(logits[:, :-1].float().flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
    kept = mask[:, 1:].float()
    return (losses.view(len(ids), -1) * kept).sum(1) / kept.sum(1).clamp_min(1)


def causal(mask: Tensor) -> Tensor:
    """(rows, length) of 0 and 1 to an additive mask of shape (rows, 1, length, length)."""
    length = mask.shape[1]
    seen = torch.tril(torch.ones(length, length, dtype=torch.bool))[None, None] & mask.bool()[:, None, None, :]
    return torch.where(seen, 0.0, -1e9)


def mlp() -> Case:
    layers = [nn.Linear(6, 16), nn.LayerNorm(16), nn.LeakyReLU(0.2), nn.Linear(16, 12), nn.GroupNorm(3, 12), nn.Tanh()]
    return Case(nn.Sequential(*layers, nn.Linear(12, 1)), critic_loss, numbers)


class Recurrent(nn.Module):
    """Opacus' GRU, which is made of linear layers called at every step, between an embedding and a read-out."""

    def __init__(self, kind: str, padding_idx: int | None) -> None:
        from opacus.layers import DPGRU, DPLSTM

        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, 5, padding_idx=padding_idx)
        self.cell = {"gru": DPGRU, "lstm": DPLSTM}[kind](5, 8, batch_first=True)
        self.head = nn.Linear(8, VOCABULARY)

    def forward(self, ids: Tensor) -> Tensor:
        out: Tensor = self.head(self.cell(self.embedding(ids))[0])
        return out


def recurrent_loss(model: nn.Module, rows: Rows) -> Tensor:
    logits = model(rows["ids"])
    losses = nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), rows["ids"][:, 1:].flatten(), reduction="none")
    return losses.view(len(logits), -1).mean(1)


def recurrent(kind: str, padding_idx: int | None = None) -> Case:
    return Case(Recurrent(kind, padding_idx), recurrent_loss, tokens)


def llama(tied: bool = False) -> Case:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=32, tie_word_embeddings=tied, attn_implementation="eager",
    )  # fmt: skip
    return Case(LlamaForCausalLM(config), language_loss, tokens)


def gpt2(dropout: float = 0.0) -> Case:
    """Conv1D layers, learned positions and tied embeddings."""
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        vocab_size=VOCABULARY, n_positions=16, n_embd=16, n_layer=2, n_head=2, resid_pdrop=dropout, embd_pdrop=dropout,
        attn_pdrop=dropout, attn_implementation="eager", bos_token_id=0, eos_token_id=0, use_cache=False,
    )  # fmt: skip
    return Case(GPT2LMHeadModel(config), language_loss, tokens)


class LoRA(nn.Module):
    """A frozen linear layer with a low-rank update that learns."""

    def __init__(self, base: nn.Linear, rank: int) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.down = nn.Linear(base.in_features, rank, bias=False)
        self.up = nn.Linear(rank, base.out_features, bias=False)
        nn.init.zeros_(self.up.weight)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.base(x) + self.up(self.down(x))
        return out


def with_lora(model: nn.Module, rank: int, names: tuple[str, ...] = ("q_proj", "v_proj")) -> nn.Module:
    model.requires_grad_(False)
    for module in list(model.modules()):
        for name in names:
            if isinstance(getattr(module, name, None), nn.Linear):
                setattr(module, name, LoRA(getattr(module, name), rank))
    return model


def lora() -> Case:
    case = llama()
    return Case(with_lora(case.model, 3), language_loss, tokens)


class Scaled(nn.Module):
    """A layer of a kind that nobody has a formula for, with a learning scalar and a linear layer inside."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(0.7))
        self.inner = nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = torch.sin(self.scale * self.inner(x))
        return out


def unknown_layer() -> Case:
    return Case(nn.Sequential(Scaled(), nn.Linear(6, 1)), critic_loss, numbers)


CASES: dict[str, Callable[[], Case]] = {
    "mlp": mlp,
    "gru": lambda: recurrent("gru"),
    "lstm": lambda: recurrent("lstm"),
    "llama": llama,
    "llama tied": lambda: llama(tied=True),
    "gpt2": gpt2,
    "lora": lora,
    "unknown layer": unknown_layer,
}


def shaken(model: nn.Module, by: float = 0.1) -> nn.Module:
    """The model with every parameter moved a little: no gradient is zero by its start."""
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn_like(p) * by)
    return model.train()


def batch_of(case: Case, units: int, slots: int) -> MicroBatch:
    """Units with 1 to `slots` rows, each row weighing 1 over the rows of its unit."""
    counts = torch.randint(1, slots + 1, (units, 1))
    weights = (torch.arange(slots) < counts).float() / counts
    return MicroBatch(case.probe(units * slots), weights)
