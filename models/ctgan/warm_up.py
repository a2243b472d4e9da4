"""What both networks learn before a private row is looked at: from rows of a model that is paid for. Post-processing, so free."""

from __future__ import annotations

import torch
from torch import Tensor

from dpsynth.models.ctgan.networks import ConditionalGenerator, Critic
from dpsynth.models.protocol import Steps


def warm_up_generator(
    generator: ConditionalGenerator, rows: Tensor, *, steps: int, batch: int, rate: float, progress: Steps
) -> None:
    """Learn to fill in each set of columns given the others: a random set of each row is hidden, and its codes are guessed.

    rows: codes, shape (rows, columns).  rate: highest learning rate, of one cycle.
    """
    if not steps:
        return
    optimizer = torch.optim.Adam(generator.parameters(), lr=rate)
    cycle = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps)
    d = rows.shape[1]
    for _ in range(steps):
        drawn = rows[torch.randint(len(rows), (batch,), device=rows.device)]
        places = torch.rand(batch, d, device=rows.device).argsort(1).argsort(1)
        known = places < torch.randint(d, (batch, 1), device=rows.device)
        optimizer.zero_grad()
        torch.autograd.backward(generator.losses(drawn, known).mean())
        optimizer.step()
        cycle.step()
        progress.advance()


def warm_up_critic(critic: Critic, rows: Tensor, *, steps: int, batch: int, rate: float, progress: Steps) -> None:
    """Learn features that show dependence: tell rows of the model from rows whose columns are each shuffled by themselves.

    Afterwards the critic keeps the features alone: between generator and private rows it knows of no difference yet.
    """
    optimizer = torch.optim.Adam(critic.parameters(), lr=rate)
    n, d = rows.shape
    for _ in range(steps):
        drawn = rows[torch.randint(n, (batch,), device=rows.device)]
        mixed = rows[torch.randint(n, (batch, d), device=rows.device), torch.arange(d, device=rows.device)]
        optimizer.zero_grad()
        loss = torch.nn.functional.softplus(-critic(drawn)) + torch.nn.functional.softplus(critic(mixed))
        torch.autograd.backward(loss.mean())
        optimizer.step()
        progress.advance()
    critic.forget()
