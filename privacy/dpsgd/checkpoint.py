"""A training's state on disk: tensors and JSON in one safetensors file, replaced as a whole.

Everything in it follows from noisy sums that were paid for. Nothing of the rows is in it, and nothing is pickled.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dpsynth.privacy.errors import ModelError

FORMAT = "dpsynth-training/1"
# What may go along: a generator that learns from the private critic, and its optimizer.
Also = Mapping[str, nn.Module | torch.optim.Optimizer]


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A state and what it belongs to. body: run, plan and step."""

    body: dict[str, Any]
    tensors: dict[str, Tensor]

    @property
    def digest(self) -> str:
        """Of all of it but the MAC."""
        found = hashlib.sha256(json.dumps({k: v for k, v in self.body.items() if k != "mac"}, sort_keys=True).encode())
        for name, tensor in sorted(self.tensors.items()):
            values = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
            found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode() + values.tobytes())
        return found.hexdigest()

    def save(self, path: Path) -> None:
        """Write it, on disk, in place of the one before."""
        from safetensors.torch import save

        unfinished = path.with_name(path.name + ".part")
        tensors = {name: t.detach().cpu().contiguous().clone() for name, t in self.tensors.items()}
        with open(unfinished, "wb") as file:
            file.write(save(tensors, {"dpsynth": json.dumps({"format": FORMAT, **self.body})}))
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, path)

    @classmethod
    def load(cls, path: Path) -> Checkpoint:
        """Raises ModelError where the file is no checkpoint of a training."""
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, "pt") as file:
                body = json.loads((file.metadata() or {}).get("dpsynth", "{}"))
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a dict)
        except (OSError, SafetensorError, ValueError):
            raise ModelError(f"no checkpoint of a training can be read from {path}") from None
        if body.pop("format", None) != FORMAT:
            raise ModelError(f"{path} is no checkpoint of a training of this version")
        return cls(body, tensors)


def optimizer_state(optimizer: torch.optim.Optimizer, prefix: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """(tensors by name, the rest as JSON) of an optimizer's state."""
    state = optimizer.state_dict()
    tensors, plain = {}, {}
    for index, values in state["state"].items():
        for key, value in values.items():
            name = f"{prefix}/{index}/{key}"
            if isinstance(value, Tensor):
                tensors[name] = value
            else:
                plain[name] = value
    return tensors, {"groups": state["param_groups"], "state": plain}


def load_optimizer(optimizer: torch.optim.Optimizer, prefix: str, tensors: Mapping[str, Tensor], body: Any) -> None:
    """Inverse of `optimizer_state`."""
    state: dict[int, dict[str, Any]] = {}
    for name, value in {**tensors, **body["state"]}.items():
        if name.startswith(f"{prefix}/"):
            index, key = name.removeprefix(f"{prefix}/").split("/")
            state.setdefault(int(index), {})[key] = value
    optimizer.load_state_dict({"state": state, "param_groups": body["groups"]})
