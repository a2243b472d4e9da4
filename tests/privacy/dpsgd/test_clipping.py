"""Every way to clip gives the sum that one-by-one autograd gives, whatever the model and however many rows a unit has."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from dpsynth.privacy.dpsgd.batch import Clipped, Loss, MicroBatch, trainable
from dpsynth.privacy.dpsgd.clipping import clipper
from dpsynth.privacy.errors import ModelError
from tests.privacy.dpsgd import models

PRECISION = 1e-5


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(7)


def one_by_one(model: nn.Module, loss: Loss, batch: MicroBatch, limit: float) -> Clipped:
    """The definition, in float64 but for the model itself: each row's gradient by itself, summed over the unit, clipped."""
    parameters = list(trainable(model).values())
    total, norms = [torch.zeros_like(p, dtype=torch.float64) for p in parameters], []
    for u in range(batch.units):
        own = [torch.zeros_like(t) for t in total]
        for s in range(batch.slots):
            if batch.weights[u, s] > 0:
                row = {k: v[u * batch.slots + s : u * batch.slots + s + 1] for k, v in batch.rows.items()}
                gradients = torch.autograd.grad(loss(model, row)[0], parameters)
                own = [o + g.double() * float(batch.weights[u, s]) for o, g in zip(own, gradients, strict=True)]
        norm = torch.sqrt(sum(g.square().sum() for g in own))  # type: ignore[arg-type]
        total = [t + g * min(1.0, limit / float(norm)) for t, g in zip(total, own, strict=True)]
        norms.append(norm)
    return Clipped(total, torch.stack(norms))


def flat(sums: list[Tensor]) -> Tensor:
    return torch.cat([s.double().flatten() for s in sums])


def off(found: Clipped, truth: Clipped) -> float:
    distance = (flat(found.sums) - flat(truth.sums)).norm() / flat(truth.sums).norm()
    return max(float(distance), float((found.norms / truth.norms - 1).abs().max()))


@pytest.mark.parametrize("slots", [1, 3])
@pytest.mark.parametrize("way", ["ghost", "functorch", "hooks", "loop"])
@pytest.mark.parametrize("name", models.CASES)
def test_the_clipped_sum_is_that_of_one_by_one_autograd(name: str, way: str, slots: int) -> None:
    case = models.CASES[name]()
    model = models.shaken(case.model)
    batch = models.batch_of(case, 5, slots)
    free = one_by_one(model, case.loss, batch, float("inf"))
    limit = float(free.norms.median())  # some are clipped, some are not
    truth = one_by_one(model, case.loss, batch, limit)
    assert off(clipper(way, model).clipped(case.loss, batch, limit), truth) < PRECISION
    assert off(truth, free) > 10 * PRECISION  # clipping changes the sum, so the test can tell
    assert all(p.requires_grad and p.grad is None for p in trainable(model).values())


@pytest.mark.parametrize("way", ["ghost", "functorch", "hooks", "loop"])
def test_one_unit_adds_at_most_the_limit_and_broken_ones_nothing(way: str) -> None:
    case = models.mlp()
    batch = models.batch_of(case, 6, 2)
    good = clipper(way, case.model).clipped(case.loss, batch.part(2, 6), 0.01)
    batch.rows["x"][0, 0] = torch.nan
    batch.rows["x"][2, 1] = torch.inf
    batch.weights[0, 0] = batch.weights[1, 0] = 0.5
    found = clipper(way, case.model).clipped(case.loss, batch, 0.01)
    assert torch.allclose(flat(found.sums), flat(good.sums), rtol=1e-4, atol=1e-8)
    alone = clipper(way, case.model).clipped(case.loss, batch.part(3, 4), 0.01)
    assert flat(alone.sums).norm() <= 0.01 * (1 + 1e-6)


def test_layers_called_twice_for_each_row_count_twice() -> None:
    model = models.mlp().model

    def paired(model: nn.Module, rows: dict[str, Tensor]) -> Tensor:
        out: Tensor = model(rows["fake"]) - model(rows["x"])
        return out.squeeze(-1)

    batch = MicroBatch({"x": torch.randn(8, 6), "fake": torch.randn(8, 6)}, torch.full((4, 2), 0.5))
    truth = one_by_one(model, paired, batch, 0.3)
    for way in ("ghost", "functorch", "hooks"):
        assert off(clipper(way, model).clipped(paired, batch, 0.3), truth) < PRECISION


def test_gradient_penalties_are_right_with_functorch() -> None:
    model = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 1))

    def penalty(model: nn.Module, rows: dict[str, Tensor]) -> Tensor:
        slope = torch.func.vmap(torch.func.grad(lambda x: model(x[None]).squeeze()))(rows["x"])
        return (slope.norm(dim=1) - 1) ** 2 - model(rows["x"]).squeeze(-1)

    batch = MicroBatch({"x": torch.randn(4, 6)}, torch.ones(4, 1))
    truth = one_by_one(model, penalty, batch, 0.5)
    assert off(clipper("functorch", model).clipped(penalty, batch, 0.5), truth) < PRECISION
    assert off(clipper("loop", model).clipped(penalty, batch, 0.5), truth) < PRECISION


def test_cancelling_positions_do_not_make_a_gradient_look_small() -> None:
    """Two tokens whose terms cancel: the norm from inner products may come out too large, never too small."""
    from dpsynth.privacy.dpsgd.outer import Outer, squared_norm

    left, right = torch.randn(200, 1, 300) * 100, torch.randn(200, 1, 300) * 100
    small = torch.randn(200, 1, 300) * 1e-3
    part = Outer(torch.cat([left, left], 1), torch.cat([right, -right + small], 1))
    truth = (
        (left.double()[:, 0, :, None] * (right.double() + (-right + small).double())[:, 0, None, :])
        .square()
        .sum((1, 2))
    )
    assert (squared_norm([part]).double() >= truth * (1 - 1e-6)).all()
    unguarded = (torch.bmm(part.left, part.left.mT) * torch.bmm(part.right, part.right.mT)).sum((1, 2))
    assert (unguarded.double() < truth * (1 - 1e-6)).any()


def test_layers_that_cannot_be_clipped_are_refused_with_what_to_change() -> None:
    class SharedPositions(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.positions, self.head = nn.Embedding(6, 6), nn.Linear(6, 1)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.head(x + self.positions(torch.arange(6)).mean(0))
            return out

    batch = MicroBatch(models.numbers(4), torch.ones(4, 1))
    with pytest.raises(ModelError, match="expand it, one for each row"):
        clipper("ghost", SharedPositions()).clipped(models.critic_loss, batch, 1.0)
    inplace = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6), nn.ReLU(inplace=True), nn.Linear(6, 1))
    clipper("ghost", inplace).clipped(models.critic_loss, batch, 1.0)  # what the layers took in is as it was

    class Overwriting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.head = nn.Linear(6, 6), nn.Linear(6, 1)

        def forward(self, x: Tensor) -> Tensor:
            x = x.clone()
            hidden = self.first(x)
            x.mul_(2)
            out: Tensor = self.head(hidden + x)
            return out

    with pytest.raises(ModelError, match="changed in place"):
        clipper("ghost", Overwriting()).clipped(models.critic_loss, batch, 1.0)
    with pytest.raises(ModelError, match="clipping must be"):
        clipper("flat", inplace)


def test_an_embedding_with_padding_is_right_or_refused() -> None:
    case = models.recurrent("gru", padding_idx=3)
    batch = models.batch_of(case, 6, 2)
    truth = one_by_one(case.model, case.loss, batch, 0.2)
    for way in ("ghost", "functorch"):
        assert off(clipper(way, case.model).clipped(case.loss, batch, 0.2), truth) < PRECISION
    with pytest.raises(ModelError, match="padding_idx"):
        clipper("hooks", case.model).clipped(case.loss, batch, 0.2)
