"""What would break the guarantee is caught on made-up rows, before a private one is touched, with words on what to change."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from dpsynth.privacy.dpsgd import preflight
from dpsynth.privacy.dpsgd.batch import Loss, Rows
from dpsynth.privacy.dpsgd.preflight import checked_clipper
from dpsynth.privacy.errors import DpsynthError, ModelError, PrivacyError
from tests.privacy.dpsgd import models


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(11)


def check(model: nn.Module, loss: Loss, probe: Callable[[int], Rows], clipping: str = "auto", max_rows: int = 2) -> str:
    return checked_clipper(model, loss, probe, clipping=clipping, max_rows=max_rows).name  # type: ignore[arg-type]


@pytest.mark.parametrize("name", models.CASES)
def test_sound_models_pass_and_are_left_as_they_were(name: str) -> None:
    case = models.CASES[name]()
    before = {k: v.clone() for k, v in case.model.state_dict().items()}
    case.model.eval()
    assert check(case.model, case.loss, case.probe) == "ghost"
    assert not case.model.training
    assert all(torch.equal(v, before[k]) for k, v in case.model.state_dict().items())
    assert all(p.grad is None for p in case.model.parameters())


def test_dropout_is_no_obstacle() -> None:
    case = models.gpt2(dropout=0.3)
    assert check(case.model, case.loss, case.probe) == "ghost"
    sdpa = models.gpt2(dropout=0.3)
    sdpa.model.config._attn_implementation = "sdpa"
    assert check(sdpa.model, sdpa.loss, sdpa.probe) == "ghost"


# -- rows that mix -----------------------------------------------------------------------------------------------------


class AcrossRows(nn.Module):
    """Attention of each row to all rows of the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.keys, self.head = nn.Linear(6, 6), nn.Linear(6, 1)

    def forward(self, x: Tensor) -> Tensor:
        k = self.keys(x)
        out: Tensor = self.head(torch.softmax(k @ k.t(), dim=1) @ x)
        return out


class Centred(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x - x.mean(0)


class Earlier(nn.Module):
    """Each row sees the row before it: the first row sees nobody."""

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.cat([torch.zeros_like(x[:1]), x[:-1]])


def token_mean(model: nn.Module, rows: Rows) -> Tensor:
    """The loss of the batch's tokens over their number, as language-model trainers take it."""
    mine = models.language_loss(model, rows) * rows["mask"][:, 1:].sum(1)
    return mine / rows["mask"][:, 1:].sum()


def batch_mean(model: nn.Module, rows: Rows) -> Tensor:
    return models.critic_loss(model, rows) / len(rows["x"])


def linear(*between: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Linear(6, 6), *between, nn.Linear(6, 1))


MIXING: dict[str, tuple[Callable[[], nn.Module], Loss, Callable[[int], Rows], str]] = {
    "batch norm": (lambda: linear(nn.BatchNorm1d(6)), models.critic_loss, models.numbers, "GroupNorm"),
    "batch norm without state": (
        lambda: linear(nn.BatchNorm1d(6, track_running_stats=False)), models.critic_loss, models.numbers, "GroupNorm"),
    "attention": (AcrossRows, models.critic_loss, models.numbers, "other rows"),
    "centring": (lambda: linear(Centred()), models.critic_loss, models.numbers, "other rows"),
    "the row before": (lambda: linear(Earlier()), models.critic_loss, models.numbers, "other rows"),
    "token mean": (lambda: models.llama().model, token_mean, models.tokens, "averaged over the batch"),
    "batch mean": (linear, batch_mean, models.numbers, "averaged over the batch"),
    "running state": (lambda: linear(nn.Unflatten(1, (2, 3)), nn.InstanceNorm1d(2, track_running_stats=True), nn.Flatten()),
                      models.critic_loss, models.numbers, "keeps state"),
}  # fmt: skip


@pytest.mark.parametrize("name", MIXING)
def test_rows_that_mix_are_caught(name: str) -> None:
    model, loss, probe, words = MIXING[name]
    with pytest.raises(PrivacyError, match=words):
        check(model(), loss, probe)


# -- parameters and losses ---------------------------------------------------------------------------------------------


def test_dead_parameters_are_named() -> None:
    class Dead(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.forgotten, self.cut = nn.Linear(6, 1), nn.Linear(6, 1), nn.Linear(6, 1)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.used(x) + self.cut(x).detach()
            return out

    with pytest.raises(ModelError, match="'forgotten.weight', 'forgotten.bias', 'cut.weight', 'cut.bias'.*freeze it"):
        check(Dead(), models.critic_loss, models.numbers)
    model = Dead()
    model.forgotten.requires_grad_(False)
    model.cut.requires_grad_(False)
    assert check(model, models.critic_loss, models.numbers) == "ghost"


def test_an_update_that_starts_at_zero_is_alive() -> None:
    """LoRA begins with one of its two factors at zero, where the other has no gradient."""
    case = models.lora()
    assert any(not p.any() for p in case.model.parameters() if p.requires_grad)
    assert check(case.model, case.loss, case.probe) == "ghost"


class Functional(nn.Module):
    """Uses a layer's weight without calling the layer: no hook sees it."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.head = nn.Linear(6, 6), nn.Linear(6, 1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(nn.functional.linear(self.first(x), self.first.weight))
        return out


def test_a_way_that_is_wrong_for_the_model_is_passed_over_or_refused() -> None:
    assert check(Functional(), models.critic_loss, models.numbers) == "functorch"
    for way in ("ghost", "hooks"):
        with pytest.raises(ModelError, match="cannot be trusted.*'first.weight'"):
            check(Functional(), models.critic_loss, models.numbers, clipping=way)


def test_a_gradient_penalty_gets_the_way_that_sees_it() -> None:
    """Hooks see the first backward pass alone: the penalty's own gradient would go unclipped."""
    model = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 1))

    def penalty(model: nn.Module, rows: Rows) -> Tensor:
        slope = torch.func.vmap(torch.func.grad(lambda x: model(x[None]).squeeze()))(rows["x"])
        return (slope.norm(dim=1) - 1) ** 2 - model(rows["x"]).squeeze(-1)

    assert check(model, penalty, models.numbers) == "functorch"


def test_losses_that_are_not_one_finite_number_a_row_are_refused() -> None:
    def at(change: Callable[[Tensor], Tensor]) -> Loss:
        return lambda model, rows: change(models.critic_loss(model, rows))

    for loss, words in (
        (at(lambda x: x.mean()), "one number for each row"),
        (at(lambda x: x / 0), "not finite"),
        (at(lambda x: x * torch.rand(1)), "random numbers of its own"),
    ):
        with pytest.raises(ModelError, match=words):
            check(models.mlp().model, loss, models.numbers)
    with pytest.raises(ModelError, match="as many rows as it is asked for"):
        check(models.mlp().model, models.critic_loss, lambda n: models.numbers(n - 1))


def test_a_wrong_way_to_clip_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Power: sums that are off by a percent, norms by two."""
    from dpsynth.privacy.dpsgd import ghost

    for change in ("weighted_sum", "squared_norm"):
        right = getattr(ghost.Gradients, change)
        with monkeypatch.context() as patch:
            patch.setattr(ghost.Gradients, change, lambda self, *a, right=right: right(self, *a) * 1.01)
            with pytest.raises(DpsynthError, match="ghost clipping gives another gradient"):
                check(models.mlp().model, models.critic_loss, models.numbers, clipping="ghost")


def test_how_many_rows_fit_follows_the_model_and_the_memory() -> None:
    small, large = models.mlp(), models.llama()
    few = preflight.rows_that_fit(large.model, large.loss, large.probe, 2**22)
    assert 1 <= few < preflight.rows_that_fit(small.model, small.loss, small.probe, 2**22) <= 4096
    assert few < preflight.rows_that_fit(large.model, large.loss, large.probe, 2**24)
    assert preflight.rows_that_fit(large.model, large.loss, large.probe, 1) == 1
