"""Low-rank updates of a frozen language model (Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", 2021).

Our own, in place of a library's: the per-unit gradients of `privacy.dpsgd` want plain linear layers, and what is saved is a list of
matrices by the names of the layers that they belong to.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from dpsynth.models.language import pretrained
from dpsynth.models.language.pretrained import LanguageModel
from dpsynth.privacy.errors import ModelError

Array = npt.NDArray[np.float32]

# What the product of the two matrices is multiplied by.
SCALE = 2.0
_NAME = "lora."


class LoRA(nn.Module):
    """A frozen linear layer with an update of low rank, which is zero to begin with."""

    def __init__(self, base: nn.Module, rank: int) -> None:
        super().__init__()
        self.base = base
        n_out, n_in = _shape(base)
        like: Any = base.weight
        self.down = nn.Linear(n_in, rank, bias=False, device=like.device)
        self.up = nn.Linear(rank, n_out, bias=False, device=like.device)
        nn.init.zeros_(self.up.weight)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.base(x) + SCALE * self.up(self.down(x))
        return out


@dataclass(frozen=True, kw_only=True, eq=False)
class Adapter:
    """What a training changed. pairs: of each layer, by name, (down, shape (rank, in); up, shape (out, rank)), float32."""

    rank: int
    pairs: Mapping[str, tuple[Array, Array]]

    def state(self) -> tuple[dict[str, npt.NDArray[Any]], dict[str, Any]]:
        """(arrays, JSON): an allow-list."""
        arrays: dict[str, npt.NDArray[Any]] = {}
        for name, (down, up) in self.pairs.items():
            arrays |= {f"{_NAME}{name}.down": down, f"{_NAME}{name}.up": up}
        return arrays, {"rank": self.rank, "layers": list(self.pairs)}

    @classmethod
    def from_state(cls, arrays: Mapping[str, npt.NDArray[Any]], body: Mapping[str, Any]) -> Adapter:
        pairs = {
            name: tuple(np.asarray(arrays[f"{_NAME}{name}.{part}"], np.float32) for part in ("down", "up"))
            for name in body["layers"]
        }
        return cls(rank=int(body["rank"]), pairs=pairs)  # type: ignore[arg-type]


def layers_of(model: Any) -> dict[str, nn.Module]:
    """The linear layers that get an update, by name: all but the one that gives the logits, which is often the embedding, too."""
    last = model.get_output_embeddings()
    found = {name: m for name, m in model.named_modules() if m is not last and _is_linear(m)}
    if not found:
        raise ModelError("the language model has no linear layer that could be tuned")
    return found


def attach(model: Any, rank: int) -> None:
    """Freeze a model and give its linear layers updates, which alone can learn."""
    model.requires_grad_(False)
    for name, layer in layers_of(model).items():
        parent, _, own = name.rpartition(".")
        setattr(model.get_submodule(parent), own, LoRA(layer, rank))


def adapter_of(model: nn.Module, rank: int) -> Adapter:
    """A copy of the updates of a model that has them."""

    def copied(weight: Tensor) -> Array:
        out: Array = weight.detach().float().cpu().numpy().copy()
        return out

    pairs = {
        name: (copied(m.down.weight), copied(m.up.weight)) for name, m in model.named_modules() if isinstance(m, LoRA)
    }
    return Adapter(rank=rank, pairs=pairs)


@lru_cache(maxsize=1)
def tuned_language_model(base: str, device: str, adapter: Adapter) -> LanguageModel:
    """The base model with the updates added to its weights. Raises ModelError where they are not of this model."""
    lm = pretrained.own_language_model(base, device)
    layers = layers_of(lm.model)
    if set(layers) != set(adapter.pairs):
        raise ModelError(f"the saved updates are not of the layers of the language model {base!r}")
    with torch.no_grad():
        for name, (down, up) in adapter.pairs.items():
            weight: Any = layers[name].weight
            if (up.shape[0], down.shape[1]) != _shape(layers[name]) or up.shape[1] != down.shape[0]:
                raise ModelError(f"the saved updates are not of the shapes of the language model {base!r}")
            update = SCALE * torch.from_numpy(up @ down)
            weight += (update if isinstance(layers[name], nn.Linear) else update.T).to(weight)
    lm.model.to(dtype=pretrained.fast_type(device))
    return lm


def _is_linear(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear) or _is_transposed(module)


def _is_transposed(module: nn.Module) -> bool:
    """Whether it is GPT-2's kind of linear layer, whose weight has shape (in, out)."""
    return type(module).__name__ == "Conv1D" and type(module).__module__ == "transformers.pytorch_utils"


def _shape(layer: nn.Module) -> tuple[int, int]:
    """(out, in)"""
    weight: Any = layer.weight
    rows, columns = weight.shape
    return (int(columns), int(rows)) if _is_transposed(layer) else (int(rows), int(columns))
