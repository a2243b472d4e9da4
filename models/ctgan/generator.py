"""The CTGAN generator: buy the marginals model, warm both networks up on its rows, train the critic on the private ones.

After CTGAN (Xu et al., "Modeling Tabular Data using Conditional GAN", 2019): a generator conditioned on columns, a critic, conditions
drawn by frequency. Three things differ, each because of noise. Conditions come from DP histograms. What tables of one and two columns
say is bought as such, at a fraction of what gradients would pay for it; DP-SGD looks for what they miss. And the generator is not led
by a game, which noise would drive off course, but weighed by the critic's density ratio.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import torch

from dpsynth.encode.codec import Codec
from dpsynth.models.ctgan.field import TOUCHES, ConditionalField, critic_logs, propose
from dpsynth.models.ctgan.networks import ConditionalGenerator, Critic
from dpsynth.models.ctgan.training import CriticTraining, weights_of
from dpsynth.models.ctgan.warm_up import warm_up_critic, warm_up_generator
from dpsynth.models.marginals.generator import Marginals
from dpsynth.models.marginals.inference import Table, default_regularisation
from dpsynth.models.marginals.tilt import RIDGE, Columns, Dual
from dpsynth.models.marginals.tilted import TiltedField
from dpsynth.models.protocol import Steps, TableModel, Zeros, planned_training, reserve_training, with_units
from dpsynth.privacy.budget import Account, Reserve, budget_of, delta_of
from dpsynth.privacy.dpsgd.clipping import Clipping
from dpsynth.privacy.dpsgd.plan import Training
from dpsynth.privacy.errors import ModelError, PrivacyError
from dpsynth.privacy.source import FloatArray, IntArray
from dpsynth.privacy.table import Measurement, PrivateTable

STAGE, LABEL = "critic", "DP-SGD"
# Networks begin from, and see public rows in the order of, random numbers that need not be secret.
_SEED = 0
# How often on its way the critic is looked at, and rows by which it is judged.
_LOOKS, _JUDGED_BY = 4, 60_000
# Steps between two checkpoints, if any are kept: so many are lost, at most, where a training is killed.
_EVERY = 5


@dataclass(frozen=True, kw_only=True, slots=True)
class CTGAN:
    """Settings of the generator and its critic. All are public: none may be set by looking at the rows.

    training_share: of the budget (mu^2) for DP-SGD on the rows; the rest buys schema, columns and pairs. 0 = no DP-SGD.
    sampling_rate: chance of each unit to be in a step's batch.  steps, clipping_norm, learning_rate, clipping: of the DP-SGD.
    loss: of the critic.  critic_width, critic_layers: its hidden layers.  ratio_limit: no row is weighed by more than e to this, nor
        by less than e to minus this, on the critic's word.
    fakes: rows of the generator that the critic sees in each step.
    warm_up: what the generator begins from: rows of the "marginals" model, or the histograms of single "columns" alone.
    warm_up_rows, warm_up_steps, warm_up_batch, warm_up_rate: how the generator learns from it (free).  generator_width: hidden units.
    critic_warm_up_steps: how long the critic learns features from it.
    marginals: settings of the marginals model.
    """

    training_share: float = 0.15
    sampling_rate: float = 0.1
    steps: int = 100
    clipping_norm: float = 1.0
    learning_rate: float = 0.01
    clipping: Clipping = "auto"
    loss: Literal["logistic", "least-squares"] = "logistic"
    critic_width: int = 64
    critic_layers: int = 2
    ratio_limit: float = 3.0
    fakes: int = 4096
    warm_up: Literal["marginals", "columns"] = "marginals"
    warm_up_rows: int = 150_000
    warm_up_steps: int = 2000
    warm_up_batch: int = 1024
    warm_up_rate: float = 4e-3
    generator_width: int = 256
    critic_warm_up_steps: int = 600
    marginals: Marginals = field(default_factory=Marginals)

    def __post_init__(self) -> None:
        if not 0 <= self.training_share < 1 or not 0 < self.sampling_rate <= 1:
            raise ModelError("training_share must be at least 0 and below 1, sampling_rate above 0 and at most 1")
        whole = ("steps", "critic_width", "critic_layers", "fakes", "warm_up_rows", "warm_up_batch", "generator_width")
        if any(getattr(self, name) < 1 for name in whole):
            raise ModelError(f"{', '.join(whole)} must be at least 1")
        positive = ("clipping_norm", "learning_rate", "ratio_limit", "warm_up_rate")
        if any(not getattr(self, name) > 0 for name in positive):
            raise ModelError(f"{', '.join(positive)} must be above 0")
        if self.warm_up_steps < 0 or self.critic_warm_up_steps < 0:
            raise ModelError("warm_up_steps and critic_warm_up_steps must not be negative")
        if self.loss not in ("logistic", "least-squares") or self.warm_up not in ("marginals", "columns"):
            raise ModelError("loss must be 'logistic' or 'least-squares', warm_up 'marginals' or 'columns'")

    def reserve(self, epsilon: float, delta: float) -> Reserve:
        """The DP-SGD as one planned event, and the rest for queries; together (epsilon, delta)-DP."""
        if not self.training_share:
            return Reserve(adaptive=budget_of(epsilon, delta))
        return reserve_training(
            epsilon, delta, share=self.training_share, sampling_rate=self.sampling_rate,
            steps={LABEL: self.steps}, clipping_norm=self.clipping_norm, stage=STAGE,
        )  # fmt: skip

    def fit(
        self,
        table: PrivateTable,
        codecs: Sequence[Codec],
        histograms: Mapping[str, Measurement],
        *,
        n_units: float,
        mu_squared: float,
        selection: float,
        targets: Collection[str] = (),
        device: str,
        progress: Steps,
        zeros: Sequence[Zeros] = (),
    ) -> ConditionalField:
        """Buy, warm up, train. zeros: for the marginals model; the generator learns from its rows, which heed them."""
        plan = self._plan(table.account)
        rng = np.random.default_rng(_SEED)
        with torch.random.fork_rng(devices=[device] if device.startswith("cuda") else []):
            torch.manual_seed(_SEED)
            rows, dual = self._begin_from(
                table, codecs, histograms, n_units, rng, device, progress,
                mu_squared=mu_squared, selection=selection, targets=targets, zeros=zeros,
            )  # fmt: skip
            generator, critic = self._warmed_up(rows, [c.size for c in codecs], device, progress)
            shares = [c.group_shares for c in codecs]
            progress.stage("drawing the generator's rows")
            drawn, _ = propose(generator, shares, self.warm_up_rows, rng, {})
            if plan is not None:
                training = CriticTraining(
                    plan=with_units(plan, n_units),
                    columns=tuple(c.column for c in codecs),
                    pool=torch.from_numpy(drawn).to(device),
                    loss=self.loss,
                    rate=self.learning_rate,
                    fakes=self.fakes,
                    clipping=self.clipping,
                )
                self._train(training, critic, table, codecs, dual, drawn, progress)
            progress.stage("fitting rows to tables")
            logs = critic_logs(critic, drawn, self.loss, self.ratio_limit)
            dual, _ = dual.solved(drawn, logs, step=0.0, iterations=TOUCHES)
        names = [c.column for c in codecs]
        return ConditionalField(names, generator, critic, shares, dual, loss=self.loss, limit=self.ratio_limit)

    def _plan(self, account: Account) -> Training | None:
        """The training that the run reserved."""
        if not self.training_share:
            return None
        plan = planned_training(account, stage=STAGE, label=LABEL, clipping_norm=self.clipping_norm)
        if plan is None:
            raise PrivacyError("the critic's training is not among what the run reserved; see CTGAN.reserve")
        return plan

    def _begin_from(
        self,
        table: PrivateTable,
        codecs: Sequence[Codec],
        histograms: Mapping[str, Measurement],
        n_units: float,
        rng: np.random.Generator,
        device: str,
        progress: Steps,
        *,
        mu_squared: float,
        selection: float,
        targets: Collection[str],
        zeros: Sequence[Zeros],
    ) -> tuple[torch.Tensor, Dual]:
        """(rows to warm up on, shape (rows, columns); the dual of the tables that were bought)."""
        if self.warm_up == "columns":
            n = self.warm_up_rows
            rows = np.stack([rng.choice(c.size, n, p=c.group_shares / c.group_shares.sum()) for c in codecs], axis=1)
            return torch.from_numpy(rows).to(device), own_tables(rows, [c.size for c in codecs], [], n_units)
        model = self.marginals.fit(
            table, codecs, histograms, n_units=n_units, mu_squared=mu_squared, selection=selection, targets=targets,
            zeros=zeros, device=device, progress=progress,
        )  # fmt: skip
        progress.stage("drawing rows to warm up on")
        rows = model.sample(self.warm_up_rows, rng=rng, evidence={})
        return torch.from_numpy(rows).to(device), dual_of(model, rows, codecs, n_units)

    def _warmed_up(
        self, rows: torch.Tensor, sizes: Sequence[int], device: str, progress: Steps
    ) -> tuple[ConditionalGenerator, Critic]:
        generator = ConditionalGenerator(sizes, self.generator_width).to(device)
        critic = Critic(sizes, self.critic_width, self.critic_layers).to(device)
        batch = min(self.warm_up_batch, len(rows))
        progress.stage("warming up the generator", self.warm_up_steps)
        warm_up_generator(
            generator, rows, steps=self.warm_up_steps, batch=batch, rate=self.warm_up_rate, progress=progress
        )
        progress.stage("warming up the critic", self.critic_warm_up_steps)
        warm_up_critic(
            critic, rows, steps=self.critic_warm_up_steps, batch=max(batch // 2, 1), rate=2e-3, progress=progress
        )
        return generator, critic

    def _train(
        self,
        training: CriticTraining,
        critic: Critic,
        table: PrivateTable,
        codecs: Sequence[Codec],
        dual: Dual,
        drawn: IntArray,
        progress: Steps,
    ) -> None:
        """DP-SGD; then the critic is the one on its way that fits the tables best, or the one that says nothing."""
        judged = drawn[:_JUDGED_BY]
        best = Best(critic, misfit(dual, judged, np.zeros(len(judged))))
        looks = {max(training.plan.steps * k // _LOOKS, 1) for k in range(1, _LOOKS + 1)}
        rows = table.training_rows({c.column: c for c in codecs})
        spent, delta = table.account.spent, delta_of(table.account.reserved)
        progress.stage("training the critic on the rows", training.plan.steps)
        journal, path = table.kept.training(LABEL) if table.kept is not None else (None, None)
        for step, trainer in training.steps(
            critic, rows, journal=journal, checkpoint=path, every=_EVERY, also={"best": best}
        ):
            progress.advance()
            if not any(best.looked < look <= step for look in looks):
                continue
            so_far = Reserve(adaptive=spent, planned=(replace(training.plan.event, steps=step),))
            progress.note(f"epsilon {so_far.epsilon(delta):.2f} so far")
            weights = weights_of(trainer)
            with trainer.averaged():
                found = misfit(dual, judged, critic_logs(critic, judged, self.loss, self.ratio_limit))
            best.look(step, weights, found)
        critic.load_state_dict(best.weights, strict=False)


class Best(torch.nn.Module):
    """The critic on its way that fitted the tables best, so far; a module, so that a checkpoint keeps it."""

    def __init__(self, critic: Critic, misfit: float) -> None:
        super().__init__()
        self._names = [name for name, _ in critic.named_parameters()]
        for name, p in critic.named_parameters():
            self.register_buffer(name.replace(".", "/"), p.detach().clone())
        self.register_buffer("misfit", torch.tensor(misfit, dtype=torch.float64))
        self.register_buffer("last_look", torch.tensor(0))

    @property
    def looked(self) -> int:
        """The step of the last look."""
        return int(self.get_buffer("last_look"))

    @property
    def weights(self) -> dict[str, torch.Tensor]:
        return {name: self.get_buffer(name.replace(".", "/")) for name in self._names}

    def look(self, step: int, weights: Mapping[str, torch.Tensor], misfit: float) -> None:
        """Keep weights that fit better than all before."""
        self.get_buffer("last_look").fill_(step)
        if misfit < float(self.get_buffer("misfit")):
            self.get_buffer("misfit").fill_(misfit)
            for name, kept in self.weights.items():
                kept.copy_(weights[name])


def dual_of(model: TableModel, rows: IntArray, codecs: Sequence[Codec], n_units: float) -> Dual:
    """The dual of the tables that a marginals model was fitted to, as far as it keeps them; else of its own tables."""
    sizes = [c.size for c in codecs]
    if isinstance(model, TiltedField):
        kept = model.dual
        return Dual.start(kept.tables, sizes, n_units, kept.regularisation)
    names = [c.column for c in codecs]
    return own_tables(rows, sizes, [(names.index(a), names.index(b)) for a, b in model.pairs], n_units)


def own_tables(rows: IntArray, sizes: Sequence[int], pairs: Sequence[tuple[int, int]], n_units: float) -> Dual:
    """The dual of tables that rows themselves have: of each column and of some pairs; sd as of so many rows."""
    tables = []
    for attributes in [*((a,) for a in range(len(sizes))), *(tuple(sorted(p)) for p in pairs)]:
        shape = [sizes[a] for a in attributes]
        cells = np.ravel_multi_index([rows[:, a] for a in attributes], shape)
        counts = np.bincount(cells, minlength=int(np.prod(shape))).reshape(shape) * (n_units / len(rows))
        sigma = np.full(1, np.sqrt(max(n_units, 1.0) / counts.size))
        tables.append(Table(attributes, torch.from_numpy(counts), torch.from_numpy(sigma)))
    # As much of a ridge as noisy tables get. Cells that hold counts but none of the rows that the dual is solved on would otherwise get
    # a theta beyond measure, and all weight would go to the next row that falls there.
    return Dual.start(tables, sizes, n_units, RIDGE * default_regularisation(tables))


def misfit(dual: Dual, rows: IntArray, logs: FloatArray) -> float:
    """How far weighted rows are from noisy tables: mean over cells of squared error over its variance; about 1 where they fit.

    Between checkpoints it chooses for free: the tables are bought.
    """
    weights = np.exp(logs - logs.max())
    weights *= dual.n_units / weights.sum()
    columns, total, cells = Columns(rows), 0.0, 0
    for table, factor in zip(dual.tables, dual.factors, strict=True):
        measured = table.values.cpu().double().numpy().ravel()
        sigma = table.sigma.cpu().double().expand(table.values.shape).numpy().ravel()
        places = factor.cells(columns).numpy()
        found = np.bincount(places, weights=weights, minlength=measured.size)
        of_rows = np.bincount(places, weights=weights**2, minlength=measured.size)
        total += float(((found - measured) ** 2 / (sigma**2 + of_rows + 1e-9)).sum())
        cells += measured.size
    return total / max(cells, 1)
