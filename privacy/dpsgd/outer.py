"""Per-unit gradients of a matrix, kept as factors.

The gradient of a linear layer's weight for one unit is a sum of outer products, one for each position (each token of each of the
unit's rows, each call of the layer):  sum over p of  left[p] (x) right[p].  Its norm needs the factors alone,

    |sum_p left_p (x) right_p|^2  =  sum over p, q of  (left_p . left_q) (right_p . right_q)

(Li, Tramer, Liang, Hashimoto, "Large Language Models Can Be Strong Differentially Private Learners", 2022: ghost clipping), and
so does the sum of the clipped gradients: one matrix product (Bu, Wang, Zha, Karypis, "Differentially Private Optimization on Large
Model at Small Cost", 2023: book-keeping). An embedding's left factors are one-hot vectors, kept as indices; a matrix that is both an
embedding and an output layer has factors of both kinds, and their inner products are the terms that tie them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import combinations

import torch
from torch import Tensor

# The norm from inner products is rounded up by this share of the largest value that rounding can have come from: where terms cancel,
# a rounded norm must not be smaller than the gradient is.
_ROUNDING = 2.0**-22
# Per-unit gradients are written out where that is less work than their inner products, up to this many numbers at once.
_WRITTEN_OUT = 2**26
# A norm that adds up one number after another is right to 1e-5 up to this many.
_SHORT = 2**12


@dataclass(frozen=True, slots=True, eq=False)
class Outer:
    """left: float (units, positions, n), or int64 (units, positions): the one-hot rows of a matrix with n rows.
    right: float (units, positions, m). The matrix has shape (n, m)."""

    left: Tensor
    right: Tensor

    @property
    def indexed(self) -> bool:
        return self.left.dim() == 2


def merged(parts: Iterable[Outer]) -> list[Outer]:
    """The same gradient with all positions of a kind together: at most one part with vectors and one with indices."""
    out = []
    for indexed in (False, True):
        alike = [part for part in parts if part.indexed == indexed]
        if len(alike) == 1:
            out += alike
        elif alike:
            out.append(Outer(torch.cat([p.left for p in alike], 1), torch.cat([p.right for p in alike], 1)))
    return out


def better_written_out(parts: list[Outer]) -> bool:
    """Whether the units' gradients are smaller than what their inner products take. One outer product's norm takes none."""
    if len(parts) != 1 or parts[0].indexed:
        return False
    units, positions, n = parts[0].left.shape
    m = parts[0].right.shape[2]
    return positions > 1 and positions * (n + m) > n * m and units * n * m <= _WRITTEN_OUT


def written_out(part: Outer, shape: torch.Size) -> Tensor:
    """The units' gradients, shape (units, n, m)."""
    if not part.indexed:
        return torch.bmm(part.left.transpose(1, 2), part.right)
    units, positions = part.left.shape
    out = part.right.new_zeros(units, *shape)
    unit = torch.arange(units, device=out.device).repeat_interleave(positions)
    return out.index_put_((unit, part.left.reshape(-1)), part.right.reshape(-1, shape[1]), accumulate=True)


def squared_norm(parts: list[Outer]) -> Tensor:
    """|gradient|^2 of each unit, shape (units,), never below the true one by more than float32 rounds a single product.

    With `rounding` of the parts: which form a norm is computed in hangs on how many units and positions a batch has, and the one must
    not be longer than the other for all of its units.
    """
    if len(parts) == 1 and not parts[0].indexed and parts[0].left.shape[1] == 1:
        return squares(parts[0].left) * squares(parts[0].right) * (1 + _ROUNDING)
    total = torch.stack([_inner(part, part) for part in parts]).sum(0)
    for one, other in combinations(parts, 2):
        total = total + 2 * _inner(one, other)
    return total.clamp_min(0.0) + rounding(parts)


def rounding(parts: list[Outer]) -> Tensor:
    """What a squared norm from these parts is rounded up by, shape (units,)."""
    return _ROUNDING * torch.stack([_sum_of_norms(part) for part in parts]).sum(0).square()


def squares(x: Tensor) -> Tensor:
    """Sum of squares of each unit's part of x, shape (units,)."""
    by_unit = x.reshape(len(x), -1)
    if by_unit.shape[1] > _SHORT:  # summed pairwise
        return by_unit.square().sum(1)
    norms: Tensor = torch.linalg.vector_norm(by_unit, dim=1)  # writes no squares down
    return norms.square()


def _inner(one: Outer, other: Outer) -> Tensor:
    """Inner product of two parts' gradients, for each unit."""
    right = torch.bmm(one.right, other.right.transpose(1, 2))
    if one.indexed and other.indexed:
        left = (one.left[:, :, None] == other.left[:, None, :]).to(right.dtype)
    elif one.indexed:
        return _inner(other, one)
    elif other.indexed:
        left = one.left.gather(2, other.left[:, None, :].expand(-1, one.left.shape[1], -1))
    else:
        left = torch.bmm(one.left, other.left.transpose(1, 2))
    return (left * right).sum((1, 2))


def _sum_of_norms(part: Outer) -> Tensor:
    norms: Tensor = part.right.norm(dim=2)
    return norms.sum(1) if part.indexed else (part.left.norm(dim=2) * norms).sum(1)


def weighted_sum(part: Outer, weights: Tensor, shape: torch.Size) -> Tensor:
    """Sum over units of weight * gradient, shape (n, m)."""
    by_unit = weights[:, None, None]
    if part.indexed:
        right = (part.right * by_unit).reshape(-1, part.right.shape[2])
        return torch.zeros(shape, device=right.device).index_add(0, part.left.reshape(-1), right)
    left, right = part.left, part.right
    left, right = (left * by_unit, right) if left.shape[2] < right.shape[2] else (left, right * by_unit)  # the narrower
    return torch.mm(left.reshape(-1, left.shape[2]).t(), right.reshape(-1, right.shape[2]))


def summed_positions(x: Tensor) -> Tensor:
    """Sum of shape (units, positions, width) over positions; of one position, without a copy."""
    return x[:, 0] if x.shape[1] == 1 else x.sum(1)


def cleaned(part: Outer, good: Tensor) -> Outer:
    """The factors without those of units whose gradient is not finite."""
    right = torch.where(good[:, None, None], part.right, 0.0)
    return Outer(part.left if part.indexed else torch.where(good[:, None, None], part.left, 0.0), right)
