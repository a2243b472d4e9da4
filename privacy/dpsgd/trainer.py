"""The training: the one place where private rows meet a model.

    for step in trainer.steps():    # charged as a whole before the first; then, for each:
        ...                         # coins -> units -> clipped sum -> noise -> optimizer

A caller sees the numbers of the steps and the model that they made, which are private already: no loss, no batch, no batch size. A loss
of private rows would be another query; what is shown of progress is how many steps were taken.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from dpsynth.privacy.dpsgd.batch import Clipped, Loss, MicroBatch, Rows, trainable
from dpsynth.privacy.dpsgd.checkpoint import Also, Checkpoint, load_optimizer, optimizer_state
from dpsynth.privacy.dpsgd.clipping import Clipping
from dpsynth.privacy.dpsgd.plan import Training
from dpsynth.privacy.dpsgd.preflight import Probe, checked_clipper, cuda_devices, rows_that_fit
from dpsynth.privacy.dpsgd.processes import Processes
from dpsynth.privacy.dpsgd.rows import TrainingRows
from dpsynth.privacy.errors import ModelError, PrivacyError
from dpsynth.privacy.events import Event, SubsampledGaussian

# Bytes that a micro-batch may take on a CPU; on a GPU half of what is free.
_MEMORY = 2**31


class StepJournal(Protocol):
    """Where steps are booked before they are taken; see `ledger.LedgerSteps`."""

    @property
    def run(self) -> str: ...

    def begin(self, event: SubsampledGaussian, before: Sequence[Event]) -> int: ...

    def book(self, first: int, last: int) -> None: ...

    def sign(self, digest: str) -> str: ...

    def fits(self, mac: str, digest: str) -> bool: ...


class PrivateTrainer:
    """DP-SGD on the rows behind a handle.

    model: its trainable parameters (requires_grad) are those that learn; on the device where it shall train.
    optimizer: any torch optimizer of just these.  schedule: step (from 1) -> what the learning rate is multiplied by.
    loss: (model, rows) -> loss of each row, shape (rows,).  It is called with private rows: it must give back nothing but the loss.
    augment: rows -> rows, each from itself and fresh random numbers (fake rows to compare with, noise); called before `loss`. These, and
    those of dropout, come from torch's generators, which the system seeds anew for each micro-batch: with a seed that is known, one more
    row would change the numbers of all rows after it.
    probe: n -> n rows of the domain, from public facts and random numbers, as tensors like the encoded rows.
    clipping: how; "auto" takes the best that is right for the model.  micro_batch: most rows at once; None: by memory. Where memory
    runs out, it is halved. All is float32: in bfloat16, one more unit in the batch moves the sum of the others by some hundredths.
    average: decay of a running mean of the weights (see `averaged`).
    journal, checkpoint: to take up a training after a crash; both or none. Steps are booked and saved `every` so many.
    also: modules and optimizers without private rows whose state is saved along.

    Guarantee: everything but the object's own inside is as private as plan.event, under add/remove of one unit. It is charged to
    the run's account before the first row is touched. The noise is exact, from `privacy.noise`, added in whole numbers.
    Residual assumption: that float32 rounding changes a batch's clipped sum by less than plan.margin of the clipping norm.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        loss: Loss,
        *,
        plan: Training,
        rows: TrainingRows,
        probe: Probe,
        augment: Callable[[Rows], Rows] | None = None,
        clipping: Clipping = "auto",
        micro_batch: int | None = None,
        average: float | None = None,
        schedule: Callable[[int], float] | None = None,
        journal: StepJournal | None = None,
        checkpoint: str | Path | None = None,
        every: int = 10,
        also: Also | None = None,
    ) -> None:
        if (journal is None) != (checkpoint is None):
            raise PrivacyError("a checkpoint needs the ledger's journal, and a journal a checkpoint: give both or none")
        self._model, self._optimizer, self._plan, self._rows = model, optimizer, plan, rows
        self._parameters = trainable(model)
        _require_same(self._parameters, optimizer)
        self._device = next(iter(self._parameters.values())).device
        self._processes = Processes(self._device)
        self._augment, self._schedule = augment, schedule
        self._loss, self._probe, self._clipping, self._micro_batch = loss, probe, clipping, micro_batch
        self._rates = [group["lr"] for group in optimizer.param_groups]
        self._decay = average
        self._average = (
            {n: p.detach().clone().float() for n, p in self._parameters.items()} if average is not None else {}
        )
        self._journal, self._path, self._every = journal, Path(checkpoint) if checkpoint is not None else None, every
        self._also = dict(also or {})
        self._started = False
        self.step = 0

    def __repr__(self) -> str:
        return f"PrivateTrainer(step {self.step} of {self._plan.steps})"

    def steps(self) -> Iterator[int]:
        """Take the steps of the plan, one at a time; yields the number of each, from 1, after it was taken."""
        if self._started:
            raise PrivacyError("a plan's steps are taken once; a new training needs a plan and budget of its own")
        self._started = True
        self._check()
        self._rows._account.charge(self._plan.event)
        first = self._begin()
        self._model.train()
        booked = first - 1
        for step in range(first, self._plan.steps + 1):
            if step > booked:
                booked = min(step + self._every - 1, self._plan.steps)
                self._book(step, booked)
            self._take(step)
            yield step
            if step == booked:  # with what the caller has done after the step
                self._save(step)

    def run(self, on_step: Callable[[int], None] | None = None) -> None:
        """All steps at once."""
        for step in self.steps():
            if on_step is not None:
                on_step(step)

    @contextmanager
    def averaged(self) -> Iterator[nn.Module]:
        """The model with the running mean of its weights; post-processing, so free."""
        if not self._average:
            raise ModelError("no average was kept; pass average=0.99 or so")
        last = {n: p.detach().clone() for n, p in self._parameters.items()}
        self._set(self._average)
        try:
            yield self._model
        finally:
            self._set(last)

    # -- before the first step -----------------------------------------------------------------------------------------

    def _check(self) -> None:
        """Whether clipping is right for the model, on rows of the domain."""

        def probe(n: int) -> Rows:
            rows = {k: x.to(self._device) for k, x in self._probe(n).items()}
            if set(rows) != set(self._rows.layout) or any(
                tuple(rows[k].shape[1:]) != shape for k, (_, shape) in self._rows.layout.items()
            ):
                raise ModelError("the probe's rows must have the names and shapes of the encoded rows")
            return self._augment(rows) if self._augment is not None else rows

        self._clipper = checked_clipper(
            self._model, self._loss, probe, clipping=self._clipping, max_rows=self._rows.max_rows
        )
        if self._micro_batch is None:
            self._micro_batch = rows_that_fit(self._model, self._loss, probe, _free_memory(self._device))

    def _begin(self) -> int:
        """Begin the journal, or go on where it ended; returns the first step to take."""
        if self._journal is None or self._path is None:
            return 1
        journal, path = self._journal, self._path
        booked = int(self._processes.from_first(lambda: np.array([self._begun(journal)]))[0])
        if booked == 0:
            self._save(0)  # whatever becomes of the first steps, there is something to go on from
            return 1
        if not path.exists():
            raise PrivacyError(
                f"steps 1 to {booked} of this training were taken and their checkpoint {path.name} is gone; start a new run, which is "
                f"charged anew"
            )
        self._load(Checkpoint.load(path), booked)
        return booked + 1

    def _begun(self, journal: StepJournal) -> int:
        account = self._rows._account
        return journal.begin(self._plan.event, account.events[: account.events.index(self._plan.event)])

    def _book(self, first: int, last: int) -> None:
        journal = self._journal
        if journal is not None:

            def booked() -> npt.NDArray[np.int64]:
                journal.book(first, last)
                return np.zeros(0, np.int64)

            self._processes.from_first(booked)

    # -- a step --------------------------------------------------------------------------------------------------------

    def _take(self, step: int) -> None:
        chosen = self._processes.from_first(lambda: self._rows._sample(self._plan))
        noisy = self._noisy(step, self._processes.summed(self._clipped_sum(chosen)))
        start = 0
        for p in self._parameters.values():
            p.grad = noisy[start : start + p.numel()].reshape(p.shape).to(p.device, p.dtype)
            start += p.numel()
        for group, rate in zip(self._optimizer.param_groups, self._rates, strict=True):
            group["lr"] = rate * (self._schedule(step) if self._schedule is not None else 1.0)
        self._optimizer.step()
        for p in self._parameters.values():
            p.grad = None
        self._keep_average(step)
        self.step = step

    def _clipped_sum(self, chosen: npt.NDArray[np.int64]) -> Tensor:
        """This process's part of the sum of clipped gradients, flat, float64."""
        total = _Total(sum(p.numel() for p in self._parameters.values()), self._device)
        assert self._micro_batch is not None
        for i, part in enumerate(self._rows._batches(chosen, self._micro_batch)):
            if i % self._processes.count == self._processes.rank:
                rows = {k: torch.from_numpy(a).to(self._device) for k, a in part.rows.items()}
                rows = {k: x.float() if x.dtype == torch.float64 else x for k, x in rows.items()}
                self._add(total, MicroBatch(rows, torch.from_numpy(part.weights).to(self._device)))
        return total.flat()

    def _add(self, total: _Total, batch: MicroBatch) -> None:
        """Add a micro-batch's clipped sum; in halves where memory runs out."""
        try:
            clipped = self._clipped(batch)
        except MemoryError:
            clipped = None
        if clipped is not None:
            total.add(clipped.sums)
            return
        if batch.units == 1:
            raise ModelError(
                "the rows of one unit do not fit into memory; shorten them, or take a smaller model"
            ) from None
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
        half = math.ceil(batch.units / 2)
        self._micro_batch = max(1, half * batch.slots)
        self._add(total, batch.part(0, half))
        self._add(total, batch.part(half, batch.units))

    def _clipped(self, batch: MicroBatch) -> Clipped:
        """Raises MemoryError where memory ran out; of other errors only the kind is told, since a text may hold a row's values."""
        try:
            with self._fresh_numbers():
                rows = self._augment(batch.rows) if self._augment is not None else batch.rows
                return self._clipper.clipped(self._loss, MicroBatch(rows, batch.weights), self._plan.limit)
        except Exception as error:
            if isinstance(error, torch.OutOfMemoryError | MemoryError) or "allocate memory" in str(error):
                raise MemoryError from None
            kind = type(error).__name__
        raise ModelError(f"the loss fails on private rows with {kind}; find out why on rows of the probe")

    @contextmanager
    def _fresh_numbers(self) -> Iterator[None]:
        """Torch's random numbers from a seed of the system's, and those from before again afterwards; a test's stay as they are."""
        if self._rows._noise.insecure:
            yield
            return
        with torch.random.fork_rng(devices=cuda_devices(self._model)):
            torch.manual_seed(secrets.randbits(63))
            yield

    def _noisy(self, step: int, total: Tensor) -> Tensor:
        """The sum with noise over the expected batch, float64 on the CPU, on every process the same. `total` is used up."""

        def draw() -> npt.NDArray[np.int64]:
            exact = total.cpu().numpy()
            if not math.isfinite(exact.sum()):
                raise PrivacyError("a sum of clipped gradients is not finite; nothing of it was used")
            exact *= 1 / self._plan.grid  # by a power of two: exact
            whole, rows = np.empty(len(exact), np.int64), self._rows
            np.rint(exact, out=whole, casting="unsafe")
            noisy = rows._noise.gradient_gaussian(self._plan.sigma, len(whole), self._plan.grid)
            noisy += whole
            if rows._witness is not None:
                label = f"{self._plan.stage}/{self._plan.label} step {step}"
                noisy = rows._witness.answer(label, whole, self._plan.clipping_norm / self._plan.grid, noisy)
            return noisy

        return torch.from_numpy(self._processes.from_first(draw) * (self._plan.grid / self._plan.expected_batch))

    # -- state ---------------------------------------------------------------------------------------------------------

    def _keep_average(self, step: int) -> None:
        if self._decay is not None:
            decay = min(self._decay, (1 + step) / (10 + step))  # the first steps do not hang on to where it began
            with torch.no_grad():
                for name, p in self._parameters.items():
                    self._average[name].lerp_(p.float(), 1 - decay)

    def _set(self, values: dict[str, Tensor]) -> None:
        with torch.no_grad():
            for name, p in self._parameters.items():
                p.copy_(values[name])

    def _save(self, step: int) -> None:
        if self._journal is None or self._path is None or self._processes.rank != 0:
            return
        tensors: dict[str, Tensor] = {f"model/{n}": p for n, p in self._parameters.items()}
        tensors |= {f"average/{n}": t for n, t in self._average.items()}
        own, optimizers = optimizer_state(self._optimizer, "optimizer"), {}
        tensors, optimizers["optimizer"] = tensors | own[0], own[1]
        for name, part in self._also.items():
            if isinstance(part, nn.Module):
                tensors |= {f"also/{name}/{k}": t for k, t in part.state_dict().items()}
            else:
                found, optimizers[f"also/{name}"] = optimizer_state(part, f"also/{name}")
                tensors |= found
        body = {"run": self._journal.run, "plan": asdict(self._plan), "step": step, "optimizers": optimizers}
        body["mac"] = self._journal.sign(Checkpoint(body, tensors).digest)
        Checkpoint(body, tensors).save(self._path)

    def _load(self, saved: Checkpoint, booked: int) -> None:
        body, tensors = saved.body, saved.tensors
        assert self._journal is not None
        if body["run"] != self._journal.run or body["plan"] != asdict(self._plan) or body["step"] > booked:
            raise PrivacyError("the checkpoint is of another run or plan than the journal; nothing was taken up")
        if not self._journal.fits(str(body.get("mac")), saved.digest):
            raise PrivacyError("the checkpoint was changed by something other than dpsynth; nothing was taken up")

        def under(prefix: str) -> dict[str, Tensor]:
            return {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}

        self._set(under("model/"))
        self._average = {n: t.to(self._device) for n, t in under("average/").items()}
        load_optimizer(self._optimizer, "optimizer", under(""), body["optimizers"]["optimizer"])
        for name, part in self._also.items():
            if isinstance(part, nn.Module):
                part.load_state_dict(under(f"also/{name}/"))
            else:
                load_optimizer(part, f"also/{name}", tensors, body["optimizers"][f"also/{name}"])
        self.step = int(body["step"])


class _Total:
    """A sum of gradients, flat, float64."""

    def __init__(self, size: int, device: torch.device) -> None:
        self._sum = torch.empty(size, dtype=torch.float64, device="cpu" if device.type == "mps" else device)
        self._begun = False

    def add(self, parts: list[Tensor]) -> None:
        start = 0
        for part in parts:
            place = self._sum[start : start + part.numel()]
            if self._begun:
                place += part.reshape(-1).to(place.device)
            else:  # mostly the only ones: nothing to set to 0, and nothing to add to
                place.copy_(part.reshape(-1))
            start += part.numel()
        self._begun = True

    def flat(self) -> Tensor:
        return self._sum if self._begun else self._sum.zero_()


def _require_same(parameters: dict[str, nn.Parameter], optimizer: torch.optim.Optimizer) -> None:
    """What learns and what the optimizer moves must be one: a parameter outside would never move, or move without noise."""
    moved = {id(p) for group in optimizer.param_groups for p in group["params"]}
    if not parameters or moved != {id(p) for p in parameters.values()}:
        raise ModelError("the optimizer must hold just the model's parameters that learn (requires_grad)")


def _free_memory(device: torch.device) -> int:
    return int(torch.cuda.mem_get_info(device)[0] // 2) if device.type == "cuda" else _MEMORY
