"""The critic's training on private rows: DP-SGD against rows of the generator.

A step's gradient has two sides. That of the private rows is clipped, summed, and noised by `privacy.dpsgd`. That of the generator's rows
is free, so it is taken from as many rows as one likes, and needs no noise; it is clipped just like the other, so that where both kinds of
rows are alike, the two sides cancel.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dpsynth.models.ctgan.networks import Critic, losses_of
from dpsynth.privacy.dpsgd.batch import Loss, MicroBatch, Rows, trainable
from dpsynth.privacy.dpsgd.checkpoint import Also
from dpsynth.privacy.dpsgd.clipping import Clipping, clipper
from dpsynth.privacy.dpsgd.plan import Training
from dpsynth.privacy.dpsgd.rows import TrainingRows
from dpsynth.privacy.dpsgd.trainer import PrivateTrainer, StepJournal

# Private rows that go through the critic at once.
_MICRO_BATCH = 2048
_AVERAGE = 0.95


class TwoSided(torch.optim.Adam):
    """Adam on the sum of the gradient that was handed in and that of the generator's rows."""

    def __init__(self, parameters: Any, rate: float, other_side: Callable[[], list[Tensor]]) -> None:
        super().__init__(parameters, lr=rate, betas=(0.9, 0.99))
        self._other_side = other_side

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        moved = [p for group in self.param_groups for p in group["params"]]
        for p, gradient in zip(moved, self._other_side(), strict=True):
            p.grad = gradient if p.grad is None else p.grad + gradient
        super().step(closure)


@dataclass(frozen=True, kw_only=True, slots=True)
class CriticTraining:
    """How the critic learns from private rows. plan: its noise and steps.  pool: rows of the generator, shape (rows, columns).

    columns: names in the pool's order.  loss: see `networks.losses_of`.  fakes: rows of the pool for each step.
    """

    plan: Training
    columns: tuple[str, ...]
    pool: Tensor
    loss: str
    rate: float
    fakes: int
    clipping: Clipping = "auto"

    def steps(
        self,
        critic: Critic,
        rows: TrainingRows,
        *,
        journal: StepJournal | None = None,
        checkpoint: Path | None = None,
        every: int = 10,
        also: Also | None = None,
    ) -> Iterator[tuple[int, PrivateTrainer]]:
        """Take the plan's steps; yields the number of each with the trainer, whose critic is private already.

        rows: the columns' codes by name.  journal, checkpoint, every, also: to take the training up after a crash.
        """
        trainer = PrivateTrainer(
            critic,
            TwoSided(critic.parameters(), self.rate, self._other_side(critic)),
            self._losses(real=True),
            plan=self.plan,
            rows=rows,
            probe=self._probe,
            clipping=self.clipping,
            micro_batch=_MICRO_BATCH,
            average=_AVERAGE,
            journal=journal,
            checkpoint=checkpoint,
            every=every,
            also=also,
        )
        for step in trainer.steps():
            yield step, trainer

    def _losses(self, *, real: bool) -> Loss:
        def losses(model: nn.Module, rows: Rows) -> Tensor:
            codes = torch.stack([rows[name].long() for name in self.columns], dim=1)
            return losses_of(self.loss, model(codes), real)

        return losses

    def _probe(self, n: int) -> Rows:
        """Rows of the generator by column: of the domain, and public."""
        drawn = self.pool[torch.randint(len(self.pool), (n,), device=self.pool.device)]
        return {name: drawn[:, a] for a, name in enumerate(self.columns)}

    def _other_side(self, critic: Critic) -> Callable[[], list[Tensor]]:
        loss, way = self._losses(real=False), clipper("ghost" if self.clipping == "auto" else self.clipping, critic)
        even = torch.ones(self.fakes, 1, device=self.pool.device)

        def gradients() -> list[Tensor]:
            clipped = way.clipped(loss, MicroBatch(self._probe(self.fakes), even), self.plan.limit)
            return [s / self.fakes for s in clipped.sums]

        return gradients


def weights_of(trainer: PrivateTrainer) -> Mapping[str, Tensor]:
    """A copy of the running mean of the critic's weights."""
    with trainer.averaged() as model:
        return {name: p.detach().clone() for name, p in trainable(model).items()}
