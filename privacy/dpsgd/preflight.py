"""Is the clipping right for this model? Looked at before a private row is, on rows of the domain; where it is not, nothing starts.

DP-SGD's guarantee needs one thing of a model: that what a unit adds to the sum depends on that unit alone and is no longer than
the clipping norm. What breaks it does so silently: batch normalisation, attention across rows, a loss that is a mean over the
batch's tokens, a layer that a hook does not see. So the gradients of made-up rows are compared with those that plain autograd
gives for each row by itself, and with the same row among other rows. Parameters are moved a little for it and put back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from dpsynth.privacy.dpsgd.batch import Clipped, Loss, MicroBatch, Rows, trainable
from dpsynth.privacy.dpsgd.clipping import Clipper, Clipping, Loop, clipper
from dpsynth.privacy.errors import DpsynthError, ModelError, PrivacyError

# Made-up rows of the domain: n of them, as tensors by name.
Probe = Callable[[int], Rows]

# In this order, the first that is right for the model is taken.
_WAYS: tuple[Clipping, ...] = ("ghost", "functorch", "hooks", "loop")
_UNITS = 4
# Relative differences that rounding explains.
_SAME = 1e-3
_MOST_ROWS = 4096
_SHOWN = 5


class WithoutDropout(TorchFunctionMode):
    """Dropout does nothing inside: what is left of a model can be compared with itself."""

    _DROPOUTS = frozenset(
        getattr(where, name)
        for where in (torch, nn.functional)
        for name in (
            "dropout",
            "alpha_dropout",
            "feature_dropout",
            "feature_alpha_dropout",
            "dropout1d",
            "dropout2d",
            "dropout3d",
        )
        if hasattr(where, name)
    )

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func in self._DROPOUTS:
            return args[0] if args else kwargs["input"]
        if func is nn.functional.scaled_dot_product_attention:
            args = (*args[:4], 0.0, *args[5:]) if len(args) > 4 else args
            if "dropout_p" in kwargs:
                kwargs["dropout_p"] = 0.0
        return func(*args, **kwargs)


def checked_clipper(model: nn.Module, loss: Loss, probe: Probe, *, clipping: Clipping, max_rows: int) -> Clipper:
    """The way to clip that was asked for, or the best that is right for this model.

    Raises PrivacyError where rows mix, ModelError for what else is wrong; messages say what to change.
    """
    _require_no_batch_norm(model)
    rows = _probed(probe, 2 * _UNITS)
    with torch.random.fork_rng(devices=cuda_devices(model)), _shaken(model), WithoutDropout():
        _require_row_losses(model, loss, rows)
        _require_rows_apart(model, loss, rows, _probed(probe, 2 * _UNITS))
        batches = [_batch(rows, 1), *([_batch(rows, 2)] if max_rows > 1 else [])]
        truths = [Loop(model).clipped(loss, batch, 1.0) for batch in batches]
        _require_alive(model, loss, rows)
        limits = [float(truth.norms.median()) for truth in truths]
        truths = [Loop(model).clipped(loss, b, limit) for b, limit in zip(batches, limits, strict=True)]
        return _first_right(model, loss, clipping, list(zip(batches, limits, truths, strict=True)))


def _first_right(
    model: nn.Module, loss: Loss, clipping: Clipping, known: Sequence[tuple[MicroBatch, float, Clipped]]
) -> Clipper:
    names, why = list(trainable(model)), ""
    for name in _WAYS if clipping == "auto" else (clipping,):
        way = clipper(name, model)
        try:
            wrong = {
                w for batch, limit, truth in known for w in _differences(way.clipped(loss, batch, limit), truth, names)
            }
        except DpsynthError as error:
            why = why or str(error)
        except Exception as error:  # of the model or of what differentiates it: the next way may do
            why = why or f"{name} clipping fails with {type(error).__name__}"
        else:
            if not wrong:
                return way
            why = why or f"{name} clipping gives another gradient than autograd for {_listed(sorted(wrong))}"
    raise ModelError(
        f"per-unit gradients of this model cannot be trusted: {why}; use clipping='loop' or change the layer"
    )


def _differences(found: Clipped, truth: Clipped, names: Sequence[str]) -> Iterator[str]:
    """Parameters whose clipped sums differ, or "the norms"."""
    if not torch.allclose(found.norms, truth.norms, rtol=_SAME, atol=0.0):
        yield "the norms"
    size = torch.stack([t.norm() for t in truth.sums]).norm()
    for name, ours, theirs in zip(names, found.sums, truth.sums, strict=True):
        if not (ours - theirs).norm() <= _SAME * size:
            yield name


def _require_no_batch_norm(model: nn.Module) -> None:
    for name, module in model.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            raise PrivacyError(
                f"layer {name!r} normalises over the batch, so a row's gradient depends on other rows; use GroupNorm or LayerNorm"
            )


def _require_row_losses(model: nn.Module, loss: Loss, rows: Rows) -> None:
    """One finite number for each row, twice the same, and no state left behind."""
    n, before = len(next(iter(rows.values()))), {k: b.clone() for k, b in model.named_buffers()}
    losses = loss(model, rows)
    if losses.shape != (n,):
        raise ModelError(
            f"the loss must give one number for each row, shape ({n},), not {tuple(losses.shape)}; do not average it"
        )
    if not bool(torch.isfinite(losses).all()):
        raise ModelError("the loss is not finite on rows of the domain")
    changed = [k for k, b in model.named_buffers() if not torch.equal(b, before[k])]
    if changed:
        raise PrivacyError(
            f"the model keeps state of its rows in {_listed(changed)}; use a layer without running statistics"
        )
    if not torch.allclose(losses, loss(model, rows), rtol=1e-4, atol=1e-6):
        raise ModelError(
            "the loss draws random numbers of its own; draw them in the encoding or in `augment`, one for each row"
        )


def _require_rows_apart(model: nn.Module, loss: Loss, rows: Rows, others: Rows) -> None:
    """A row's gradient must not change where the other rows do, nor where there are fewer."""
    last = len(next(iter(rows.values()))) - 1
    for kept in (0, last // 2, last):
        alone = _gradient(model, loss, rows, kept)
        mixed = {k: torch.cat([others[k][:kept], x[kept : kept + 1], others[k][kept + 1 :]]) for k, x in rows.items()}
        fewer = {k: x[kept : kept + 1] for k, x in rows.items()}
        for gradient in (_gradient(model, loss, mixed, kept), _gradient(model, loss, fewer, 0)):
            if not (gradient - alone).norm() <= _SAME * alone.norm():
                raise PrivacyError(
                    "a row's gradient depends on the other rows of its batch: a loss averaged over the batch or over its tokens, "
                    "attention or normalisation across rows, or packed rows; give each row its own loss and its own layers' values"
                )


def _gradient(model: nn.Module, loss: Loss, rows: Rows, row: int) -> Tensor:
    parameters = list(trainable(model).values())
    found = torch.autograd.grad(loss(model, rows)[row], parameters, allow_unused=True)
    return torch.cat([g.flatten().float() for g in found if g is not None] or [torch.zeros(1)])


def _require_alive(model: nn.Module, loss: Loss, rows: Rows) -> None:
    """Every parameter that learns has a gradient: one that has none would get noise alone."""
    parameters = trainable(model)
    found = torch.autograd.grad(loss(model, rows).sum(), list(parameters.values()), allow_unused=True)
    dead = [name for name, g in zip(parameters, found, strict=True) if g is None or not bool(g.any())]
    if dead:
        raise ModelError(
            f"no gradient ever reaches {_listed(dead)}, so noise alone would move it; freeze it (requires_grad_(False)) or repair "
            f"how it is used"
        )


def _batch(rows: Rows, slots: int) -> MicroBatch:
    """Units of one or two rows; every other of two has an empty slot."""
    first = next(iter(rows.values()))
    weights = torch.ones(len(first) // slots, slots, device=first.device)
    if slots > 1:
        weights[::2, 1:] = 0
        weights[1::2] = 0.5
    return MicroBatch(rows, weights)


def _probed(probe: Probe, n: int) -> Rows:
    rows = probe(n)
    if not rows or any(len(x) != n for x in rows.values()):
        raise ModelError(f"the probe must give as many rows as it is asked for ({n})")
    return rows


@contextmanager
def _shaken(model: nn.Module) -> Iterator[None]:
    """Parameters moved a little, so that no gradient is zero because of where it starts; put back afterwards."""
    before = [(p, p.detach().clone()) for p in trainable(model).values()]
    training = {m: m.training for m in model.modules()}
    try:
        model.train()
        with torch.no_grad():
            for p, _ in before:
                p.add_(torch.randn_like(p) * (0.01 + 0.1 * p.float().square().mean().sqrt()))
        yield
    finally:
        with torch.no_grad():
            for p, old in before:
                p.copy_(old)
        for module, was in training.items():
            module.training = was


def rows_that_fit(model: nn.Module, loss: Loss, probe: Probe, memory: int) -> int:
    """How many rows may go through the model at once within `memory` bytes, from what one row leaves for the backward pass."""
    kept: dict[int, int] = {}
    held = {p.untyped_storage().data_ptr() for p in (*model.parameters(), *model.buffers())}

    def seen(x: Tensor) -> Tensor:
        storage = x.untyped_storage()
        if storage.data_ptr() not in held:
            kept[storage.data_ptr()] = storage.nbytes()
        return x

    rows = _probed(probe, _UNITS)
    with (
        torch.random.fork_rng(devices=cuda_devices(model)),
        torch.autograd.graph.saved_tensors_hooks(seen, lambda x: x),
    ):
        loss(model, rows)
    # Beside what is saved there are the gradients at each layer's output, and the layers' inputs.
    return max(1, min(_MOST_ROWS, memory * _UNITS // (3 * max(sum(kept.values()), 1))))


def cuda_devices(model: nn.Module) -> list[int]:
    """The GPUs of a model, by number."""
    device = next(model.parameters()).device
    return [device.index or 0] if device.type == "cuda" else []


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(repr(n) for n in names[:_SHOWN])
    return shown if len(names) <= _SHOWN else f"{shown} and {len(names) - _SHOWN} more"
