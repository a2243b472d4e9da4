"""One clipped gradient per unit: five ways to the same sum.

ghost      from the factors of one backward pass (see `ghost`); the default: least time and memory
functorch  the whole loss differentiated for each unit by torch.func; also right where a loss is itself made of gradients (a
           gradient penalty), which no layer-wise way sees
hooks      per-row gradients written out by Opacus' GradSampleModule, summed over each unit's rows
loop       one unit at a time, by plain autograd: slow, and right for every model; what the others are compared with

Only gradients come from Opacus: never its noise, its data loader, or its rate. Its defaults take rate and batch size from the exact
number of rows, and draw noise from a generator with 32 bits of seed.
"""

from __future__ import annotations

import warnings
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from dpsynth.privacy.dpsgd.batch import Clipped, Loss, MicroBatch, Rows, factors, trainable
from dpsynth.privacy.dpsgd.ghost import Ghost, exact_products
from dpsynth.privacy.dpsgd.outer import squares
from dpsynth.privacy.errors import ModelError

Clipping = Literal["auto", "ghost", "functorch", "hooks", "loop"]


class Clipper(Protocol):
    """A way to clip."""

    name: str

    def clipped(self, loss: Loss, batch: MicroBatch, limit: float) -> Clipped:
        """Sum over units of gradient * min(1, limit / |gradient|), where the gradient is of the unit's loss by all parameters that
        learn. A unit whose gradient is not finite adds nothing. Raises ModelError where a layer cannot be clipped this way."""


class Loop:
    """One unit at a time."""

    name = "loop"

    def __init__(self, model: nn.Module) -> None:
        self._model = model

    def clipped(self, loss: Loss, batch: MicroBatch, limit: float) -> Clipped:
        parameters = list(trainable(self._model).values())
        sums, norms = [torch.zeros_like(p, dtype=torch.float32) for p in parameters], []
        for i in range(batch.units):
            total = batch.part(i, i + 1).total_loss(loss, self._model)
            gradients = torch.autograd.grad(total, parameters, allow_unused=True)
            found = [(s, g.float()) for s, g in zip(sums, gradients, strict=True) if g is not None]
            norm = torch.stack([g.square().sum() for _, g in found]).sum().sqrt()
            factor = factors(norm, limit)
            if factor > 0:
                for s, g in found:
                    s.add_(g * factor)
            norms.append(norm)
        return Clipped(sums, torch.stack(norms))


class Functorch:
    """The loss of one unit, differentiated and mapped over units by torch.func."""

    name = "functorch"

    def __init__(self, model: nn.Module) -> None:
        self._model = model

    def clipped(self, loss: Loss, batch: MicroBatch, limit: float) -> Clipped:
        held = _Held(self._model, loss)
        values = {f"model.{name}": p.detach() for name, p in trainable(self._model).items()}

        def unit_loss(parameters: dict[str, Tensor], rows: Rows, weights: Tensor) -> Tensor:
            total: Tensor = torch.func.functional_call(held, parameters, (MicroBatch(rows, weights[None]),))
            return total

        rows = {name: x.reshape(batch.units, batch.slots, *x.shape[1:]) for name, x in batch.rows.items()}
        by_unit = torch.func.vmap(torch.func.grad(unit_loss), in_dims=(None, 0, 0), randomness="different")(
            values, rows, batch.weights
        )
        return clip_written([by_unit[name].float() for name in values], limit)


class _Held(nn.Module):
    """A model and its loss as one module, so that torch.func can put other parameters in."""

    def __init__(self, model: nn.Module, loss: Loss) -> None:
        super().__init__()
        self.model, self._loss = model, loss

    def forward(self, batch: MicroBatch) -> Tensor:
        return batch.total_loss(self._loss, self.model)


class Hooks:
    """Opacus' GradSampleModule, in training mode."""

    name = "hooks"

    def __init__(self, model: nn.Module) -> None:
        self._model = model

    def clipped(self, loss: Loss, batch: MicroBatch, limit: float) -> Clipped:
        from opacus.grad_sample import GradSampleModule

        parameters = list(trainable(self._model).values())
        for layer in self._model.modules():
            if isinstance(layer, nn.Embedding) and layer.padding_idx is not None and layer.weight.requires_grad:
                raise ModelError(
                    "Opacus counts an embedding's padding_idx as any other; use clipping='ghost', or no padding_idx"
                )
        watched: Any = GradSampleModule(self._model, loss_reduction="sum", strict=False)
        try:
            with warnings.catch_warnings():
                # Of the first layer, whose input needs no gradient: Opacus' hook fires all the same.
                warnings.filterwarnings("ignore", "Full backward hook is firing", UserWarning)
                torch.autograd.backward(batch.total_loss(loss, self._model))
            by_unit = [self._by_unit(p, batch) for p in parameters]
        finally:
            watched._close()
            for p in parameters:
                p.grad = None
        return clip_written(by_unit, limit)

    def _by_unit(self, parameter: nn.Parameter, batch: MicroBatch) -> Tensor:
        by_row: Any = getattr(parameter, "grad_sample", None)
        if by_row is None:
            return torch.zeros(batch.units, *parameter.shape, device=parameter.device)
        if not isinstance(by_row, Tensor) or len(by_row) != batch.units * batch.slots:
            raise ModelError(
                "Opacus gives no gradient for each row of a parameter; use clipping='ghost' or 'functorch'"
            )
        own: Tensor = by_row.detach().float().reshape(batch.units, batch.slots, *parameter.shape)
        return own.sum(1)


def clip_written(by_unit: list[Tensor], limit: float) -> Clipped:
    """Clip gradients of shape (units, *parameter), and sum over units."""
    with torch.no_grad(), exact_products(by_unit[0].device):
        norms = torch.stack([squares(g) for g in by_unit]).sum(0).sqrt()
        weights, good = factors(norms, limit), torch.isfinite(norms)
        if not bool(good.all()):
            by_unit = [torch.where(good.view(-1, *[1] * (g.dim() - 1)), g, 0.0) for g in by_unit]
        return Clipped([(weights @ g.reshape(len(g), -1)).reshape(g.shape[1:]) for g in by_unit], norms)


def clipper(name: str, model: nn.Module) -> Clipper:
    """The way of that name."""
    ways: dict[str, type[Clipper]] = {w.name: w for w in (Ghost, Functorch, Hooks, Loop)}
    if name not in ways:
        raise ModelError(f"clipping must be auto, {', '.join(ways)}")
    return ways[name](model)  # type: ignore[call-arg]
