"""The two networks. A row is its columns' codes, shape (rows, columns); both look at it as one-hot vectors."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn

_SLOPE = 0.2


class _Codes(nn.Module):
    """What the columns' codes add up to in a first layer: a linear layer on their one-hot vectors, without writing those down."""

    offsets: Tensor

    def __init__(self, sizes: Sequence[int]) -> None:
        super().__init__()
        self.sizes = tuple(sizes)
        self.spans = list(itertools.pairwise(itertools.accumulate(sizes, initial=0)))
        self.register_buffer("offsets", torch.tensor([start for start, _ in self.spans]), persistent=False)

    @property
    def cells(self) -> int:
        return self.spans[-1][1]

    def one_hot(self, rows: Tensor) -> Tensor:
        """Shape (rows, cells)."""
        out = torch.zeros(len(rows), self.cells, device=rows.device)
        return out.scatter(1, rows + self.offsets, 1.0)


class ConditionalGenerator(_Codes):
    """P(column | any set of known columns), as a softmax over the column's codes.

    A row is drawn column by column: first the condition, from the column's histogram, then each other one given those before it, in
    any order. So every set of columns can be a condition, and what is drawn is discrete without a detour by Gumbel noise.
    """

    def __init__(self, sizes: Sequence[int], width: int) -> None:
        super().__init__(sizes)
        self.given = nn.Embedding(self.cells, width)
        self.start = nn.Parameter(torch.zeros(width))
        self.body = nn.Sequential(
            nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width)
        )  # beside the sum itself
        self.out = nn.Linear(width, self.cells)
        nn.init.normal_(self.given.weight, std=len(sizes) ** -0.5)

    def added(self, column: int, codes: Tensor) -> Tensor:
        """What a column that becomes known adds to the state of its rows, shape (rows, width)."""
        out: Tensor = self.given(codes + self.spans[column][0])
        return out

    def features(self, state: Tensor) -> Tensor:
        """From the sum of `start` and what was `added`, shape (rows, width)."""
        return torch.relu(state + self.body(state))

    def logits(self, column: int, features: Tensor) -> Tensor:
        """Shape (rows, codes of the column)."""
        start, stop = self.spans[column]
        return nn.functional.linear(features, self.out.weight[start:stop], self.out.bias[start:stop])

    def losses(self, rows: Tensor, known: Tensor) -> Tensor:
        """Mean negative log-likelihood of the columns of each row that are not known, shape (rows,). known: of the rows' shape."""
        added = self.given(rows + self.offsets) * known.unsqueeze(-1)
        scores = self.out(self.features(self.start + added.sum(1)))
        logs = [
            torch.log_softmax(scores[:, start:stop], 1).gather(1, rows[:, a : a + 1])
            for a, (start, stop) in enumerate(self.spans)
        ]
        unknown = (~known).float()
        return -(torch.cat(logs, 1) * unknown).sum(1) / unknown.sum(1).clamp(min=1.0)


class Critic(_Codes):
    """The log of how much more often a row comes up among the private rows than among the generator's, shape (rows,).

    Its last features have length 1 at every row, so that the gradient of the last layer, which learns first, has one length for all: a
    clipping norm of 1 never cuts it.
    """

    def __init__(self, sizes: Sequence[int], width: int, layers: int) -> None:
        super().__init__(sizes)
        widths = [self.cells, *[width] * layers]
        parts = [(nn.Linear(a, b), nn.LeakyReLU(_SLOPE)) for a, b in itertools.pairwise(widths)]
        self.body = nn.Sequential(*itertools.chain(*parts))
        self.even = nn.LayerNorm(width, elementwise_affine=False)
        self.head = nn.Linear(width, 1)
        self.forget()

    def forward(self, rows: Tensor) -> Tensor:
        features = self.even(self.body(self.one_hot(rows)))
        out: Tensor = self.head(features / features.shape[1] ** 0.5)[:, 0]
        return out

    def forget(self) -> None:
        """Keep the features and find no difference any more."""
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)


def losses_of(kind: str, scores: Tensor, real: bool) -> Tensor:
    """The critic's loss at each row. Both have their minimum where the scores give the log ratio back, see `log_ratio`."""
    if kind == "logistic":
        return nn.functional.softplus(-scores if real else scores)
    return 0.5 * (scores - (1.0 if real else -1.0)) ** 2


def log_ratio(kind: str, scores: Tensor, limit: float) -> Tensor:
    """Log of density among private rows over density among the generator's, within +- limit."""
    if kind == "least-squares":
        scores = 2 * torch.atanh(scores.clamp(-1 + 1e-6, 1 - 1e-6))
    return scores.clamp(-limit, limit)
