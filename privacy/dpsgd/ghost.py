"""One clipped gradient per unit from one backward pass, without writing the units' gradients out.

Why not Opacus' own fast gradient clipping: it clips rows, not units of several rows; it refuses tied weights; it goes backward twice.
Here a unit's rows are simply more positions of one sample, tied weights are more factors of one matrix, and the clipped sum is made
from the factors that the one backward pass left (see `outer`). Opacus' formulas are used for every other layer that it knows
(normalisation, convolution); a layer that it does not know is differentiated row by row with torch.func.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from dpsynth.privacy.dpsgd import outer
from dpsynth.privacy.dpsgd.batch import Clipped, Loss, MicroBatch, factors, trainable
from dpsynth.privacy.dpsgd.outer import Outer
from dpsynth.privacy.errors import ModelError


@dataclass(slots=True, eq=False)
class Call:
    """One call of a layer: what went in, and the gradient of the loss at what came out (None until the backward pass)."""

    layer: nn.Module
    args: tuple[Any, ...]
    versions: tuple[int, ...]
    gradient: Tensor | None = None


@dataclass(slots=True, eq=False)
class Gradients:
    """The units' gradients of one parameter: factors, or tensors of shape (units, *parameter)."""

    factors: list[Outer] = field(default_factory=list)
    written: list[Tensor] = field(default_factory=list)
    rounding: Tensor | None = None

    def settle(self, shape: torch.Size) -> None:
        """Bring it into the one form or the other, whichever is less work."""
        self.factors = outer.merged(self.factors)
        if self.factors and (self.written or outer.better_written_out(self.factors)):
            self.rounding = outer.rounding(self.factors)
            self.written += [outer.written_out(part, shape) for part in self.factors]
            self.factors = []
        if len(self.written) > 1:
            self.written = [torch.stack(self.written).sum(0)]

    def squared_norm(self) -> Tensor:
        if self.factors:
            return outer.squared_norm(self.factors)
        squares = outer.squares(self.written[0])
        return squares if self.rounding is None else squares + self.rounding

    def clean(self, good: Tensor) -> None:
        """Leave out the units that are not good: 0 times NaN is NaN."""
        self.factors = [outer.cleaned(part, good) for part in self.factors]
        self.written = [torch.where(good.view(-1, *[1] * (w.dim() - 1)), w, 0.0) for w in self.written]

    def weighted_sum(self, weights: Tensor, shape: torch.Size) -> Tensor:
        if self.factors:
            first, *more = (outer.weighted_sum(part, weights, shape) for part in self.factors)
            return sum(more, first)
        return (weights @ self.written[0].reshape(len(weights), -1)).reshape(shape)


class Ghost:
    """Per-unit clipping by factors; see the module's docstring."""

    name = "ghost"

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._layers = list(_owners(model))

    def clipped(self, loss: Loss, batch: MicroBatch, limit: float) -> Clipped:
        calls: list[Call] = []
        parameters = trainable(self._model)
        with _watched(self._layers, list(parameters.values()), calls):
            total = batch.total_loss(loss, self._model)
            if not total.requires_grad:
                raise ModelError("the loss does not depend on any layer that learns")
            torch.autograd.backward(total)
        with torch.no_grad(), exact_products(total.device):
            found = self._collect(calls, batch)
            shapes = {p: p.shape for p in parameters.values()}
            squares = [g.squared_norm() for g in found.values()]
            norms = torch.stack(squares).sum(0).sqrt() if squares else batch.weights.new_zeros(batch.units)
            weights, good = factors(norms, limit), torch.isfinite(norms)
            if not bool(good.all()):
                for g in found.values():
                    g.clean(good)
            sums = [
                found[p].weighted_sum(weights, shapes[p]) if p in found else torch.zeros_like(p, dtype=torch.float32)
                for p in parameters.values()
            ]
        return Clipped(sums, norms)

    def _collect(self, calls: list[Call], batch: MicroBatch) -> dict[nn.Parameter, Gradients]:
        found: dict[nn.Parameter, Gradients] = {}
        while calls:
            call = calls.pop()
            if call.gradient is not None:
                for parameter, gradient in _gradients(call, batch):
                    kept = found.setdefault(parameter, Gradients())
                    (kept.factors if isinstance(gradient, Outer) else kept.written).append(gradient)  # type: ignore[arg-type]
        for parameter, gradients in found.items():
            gradients.settle(parameter.shape)
        return found


def _owners(module: nn.Module) -> Iterator[nn.Module]:
    """The layers that hold learning parameters of their own. What lies inside one belongs to it."""
    inside = {p for child in module.children() for p in child.parameters()}  # Opacus' recurrent layers name these again
    if any(p.requires_grad and p not in inside for p in module.parameters(recurse=False)):
        yield module
    else:
        for child in module.children():
            yield from _owners(child)


@contextmanager
def _watched(layers: list[nn.Module], parameters: list[nn.Parameter], calls: list[Call]) -> Iterator[None]:
    """Records the layers' calls. Meanwhile no parameter asks for a gradient: those summed over units are of no use."""

    def record(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        if not torch.is_grad_enabled():
            return
        if not isinstance(output, Tensor) or any(isinstance(v, Tensor) for v in kwargs.values()):
            raise ModelError(
                f"layer {type(layer).__name__} takes tensors by name or gives no tensor; use clipping='functorch'"
            )
        if not output.requires_grad:
            output.requires_grad_()
        args = tuple(a.detach() if isinstance(a, Tensor) else a for a in args)
        call = Call(layer, args, tuple(a._version for a in args if isinstance(a, Tensor)))
        calls.append(call)

        def keep(gradient: Tensor) -> None:
            call.gradient = gradient.detach()

        output.register_hook(keep)  # type: ignore[no-untyped-call]

    handles = [layer.register_forward_hook(record, with_kwargs=True) for layer in layers]
    try:
        for parameter in parameters:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)
        for handle in handles:
            handle.remove()


@contextmanager
def exact_products(device: torch.device) -> Iterator[None]:
    """Matrix products in full float32: no autocast, no TF32."""
    with ExitStack() as stack:
        if torch.is_autocast_enabled(device.type):
            stack.enter_context(torch.autocast(device.type, enabled=False))
        before = torch.backends.cuda.matmul.allow_tf32
        if before:
            torch.backends.cuda.matmul.allow_tf32 = False
            stack.callback(setattr, torch.backends.cuda.matmul, "allow_tf32", before)
        yield


def _gradients(call: Call, batch: MicroBatch) -> Iterator[tuple[nn.Parameter, Outer | Tensor]]:
    layer, gradient = call.layer, call.gradient
    inputs = [a for a in call.args if isinstance(a, Tensor)]
    rows = batch.units * batch.slots
    if (
        gradient is None
        or any(len(x) != rows for x in (*inputs, gradient) if x.dim())
        or not inputs
        or not gradient.dim()
    ):
        raise ModelError(
            f"a layer {type(layer).__name__} sees something else than one entry for each row in its first dimension, as where one "
            f"tensor of positions serves all rows: expand it, one for each row"
        )
    if any(a._version != v for a, v in zip(inputs, call.versions, strict=True)):
        raise ModelError(
            f"what went into a layer {type(layer).__name__} was changed in place afterwards; use inplace=False"
        )
    yield from _kind(layer)(layer, call.args, gradient.float(), batch)


_Kind = Callable[[Any, tuple[Any, ...], Tensor, MicroBatch], Iterator[tuple[nn.Parameter, Outer | Tensor]]]


def _kind(layer: Any) -> _Kind:
    forward = type(layer).forward
    if forward is nn.Linear.forward:
        return _linear
    if forward is nn.Embedding.forward and layer.max_norm is None and not (layer.scale_grad_by_freq or layer.sparse):
        return _embedding
    if type(layer).__name__ == "Conv1D" and type(layer).__module__ == "transformers.pytorch_utils":
        return _transposed_linear
    return _other


def _positions(x: Tensor, batch: MicroBatch) -> Tensor:
    """(rows, ..., width) to (units, positions, width)."""
    return x.reshape(batch.units, -1, x.shape[-1])


def _linear(
    layer: Any, args: tuple[Any, ...], gradient: Tensor, batch: MicroBatch
) -> Iterator[tuple[nn.Parameter, Outer | Tensor]]:
    left, right = _positions(gradient, batch), _positions(args[0].float(), batch)
    if layer.weight.requires_grad:
        yield layer.weight, Outer(left, right)
    if layer.bias is not None and layer.bias.requires_grad:
        yield layer.bias, outer.summed_positions(left)


def _transposed_linear(
    layer: Any, args: tuple[Any, ...], gradient: Tensor, batch: MicroBatch
) -> Iterator[tuple[nn.Parameter, Outer | Tensor]]:
    right, left = _positions(gradient, batch), _positions(args[0].float(), batch)
    if layer.weight.requires_grad:
        yield layer.weight, Outer(left, right)
    if layer.bias.requires_grad:
        yield layer.bias, outer.summed_positions(right)


def _embedding(
    layer: Any, args: tuple[Any, ...], gradient: Tensor, batch: MicroBatch
) -> Iterator[tuple[nn.Parameter, Outer | Tensor]]:
    left, right = args[0].reshape(batch.units, -1).long(), _positions(gradient, batch)
    if layer.padding_idx is not None:
        right = torch.where((left == layer.padding_idx)[:, :, None], 0.0, right)
    yield layer.weight, Outer(left, right)


def _other(
    layer: nn.Module, args: tuple[Any, ...], gradient: Tensor, batch: MicroBatch
) -> Iterator[tuple[nn.Parameter, Outer | Tensor]]:
    """Row by row, then summed over each unit's rows."""
    from opacus.grad_sample import GradSampleModule

    formula = GradSampleModule.GRAD_SAMPLERS.get(type(layer))
    if formula is not None:
        by_row = formula(layer, [a.float() if a.is_floating_point() else a for a in args], gradient)
    else:
        by_row = _differentiated(layer, args, gradient)
    for parameter, values in by_row.items():
        if parameter.requires_grad:
            yield parameter, values.float().reshape(batch.units, batch.slots, *parameter.shape).sum(1)


def _differentiated(layer: nn.Module, args: tuple[Any, ...], gradient: Tensor) -> dict[nn.Parameter, Tensor]:
    learning = trainable(layer)
    tensors = tuple(a for a in args if isinstance(a, Tensor))

    def product(parameters: dict[str, Tensor], inputs: tuple[Tensor, ...], at: Tensor) -> Tensor:
        left = iter(inputs)
        one = tuple(next(left)[None] if isinstance(a, Tensor) else a for a in args)
        output: Tensor = torch.func.functional_call(layer, parameters, one)
        return (output.float() * at[None]).sum()

    values = {name: p.detach() for name, p in learning.items()}
    by_name = torch.func.vmap(torch.func.grad(product), in_dims=(None, 0, 0), randomness="different")(
        values, tensors, gradient
    )
    return {learning[name]: by_row for name, by_row in by_name.items()}
