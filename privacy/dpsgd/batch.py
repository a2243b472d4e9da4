"""Rows as the model sees them, grouped by privacy unit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

# Encoded rows by name, e.g. "tokens"; the first dimension of each is the row.
Rows = dict[str, Tensor]

# (model, rows) -> the loss of each row, shape (rows,). A row's loss must depend on that row alone.
Loss = Callable[[nn.Module, Rows], Tensor]


@dataclass(frozen=True, slots=True, eq=False)
class MicroBatch:
    """As many units as go through the model at once, each with the same number of slots for its rows.

    rows: units * slots rows, a unit's next to each other.  weights: of each row in its unit's loss, shape (units, slots);
    0 marks an empty slot, which holds a copy of some row.
    """

    rows: Rows
    weights: Tensor

    def __repr__(self) -> str:
        return "MicroBatch(private)"

    @property
    def units(self) -> int:
        return int(self.weights.shape[0])

    @property
    def slots(self) -> int:
        return int(self.weights.shape[1])

    def part(self, start: int, stop: int) -> MicroBatch:
        """The units from start to stop."""
        rows = {name: x[start * self.slots : stop * self.slots] for name, x in self.rows.items()}
        return MicroBatch(rows, self.weights[start:stop])

    def total_loss(self, loss: Loss, model: nn.Module) -> Tensor:
        """The sum of the units' losses, each the weighted sum of those of its rows."""
        weights = self.weights.reshape(-1)
        losses = loss(model, self.rows)
        return torch.where(weights > 0, losses.float() * weights, 0.0).sum()


@dataclass(frozen=True, slots=True, eq=False)
class Clipped:
    """Sum of the units' clipped gradients.

    sums: for each trainable parameter, in the model's order, float32.  norms: of the units' gradients before clipping, shape
    (units,); private.
    """

    sums: list[Tensor]
    norms: Tensor

    def __repr__(self) -> str:
        return "Clipped(private)"


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that learn, by name, each once."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def factors(norms: Tensor, limit: float) -> Tensor:
    """What each unit's gradient is multiplied by, shape (units,): min(1, limit / norm).

    0 where the norm is not a finite float32: a gradient with NaN, infinity or a norm beyond 1e19 contributes nothing.
    """
    shrunk = torch.clamp(limit / norms.clamp_min(1e-30), max=1.0)
    return torch.where(torch.isfinite(norms), shrunk, torch.zeros_like(shrunk))
