"""The fitted model: how its rows are drawn and how it is saved."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from dpsynth.models.ctgan.networks import ConditionalGenerator, Critic, log_ratio
from dpsynth.models.marginals.inference import Table
from dpsynth.models.marginals.tilt import Dual, conditioned, is_mild, log_weights, resample
from dpsynth.privacy.errors import ModelError
from dpsynth.privacy.source import FloatArray, IntArray

# Rows of the generator for each row that is wanted, how many are wanted at once, and the fewest that are proposed.
PROPOSED, AT_ONCE, LEAST = 2, 60_000, 20_000
_CHUNK = 20_000
# Sweeps of the dual that fit the weights to the tables.
TOUCHES = 30


class ConditionalField:
    """Rows of a generator, each weighed by what a critic says of it and by the dual of noisy tables.

    That rows are kept by the critic's ratio is discriminator rejection sampling (Azadi et al. 2019); it makes the critic's knowledge
    the model's without a game that two networks must be brought to end.

    shares: of each column, for the condition.  dual: solved on the generator's rows as the critic weighs them.
    limit: the log ratio is cut at +- limit.
    """

    def __init__(
        self,
        columns: Sequence[str],
        generator: ConditionalGenerator,
        critic: Critic,
        shares: Sequence[FloatArray],
        dual: Dual,
        *,
        loss: str,
        limit: float,
    ) -> None:
        self.columns, self.shares, self.dual, self.loss, self.limit = tuple(columns), list(shares), dual, loss, limit
        self.generator, self.critic = generator.cpu().eval(), critic.cpu().eval()

    def __repr__(self) -> str:
        return f"ConditionalField({len(self.columns)} columns, {len(self.pairs)} pairs)"

    @property
    def pairs(self) -> tuple[tuple[str, str], ...]:
        return tuple((self.columns[a], self.columns[b]) for a, b in self.dual.pairs)

    def sample(self, n: int, *, rng: np.random.Generator, evidence: Mapping[str, FloatArray]) -> IntArray:
        """n coded rows, shape (n, columns)."""
        parts = [self._part(min(AT_ONCE, n - start), rng, evidence) for start in range(0, n, AT_ONCE)]
        return np.concatenate(parts) if parts else np.zeros((0, len(self.columns)), np.int64)

    def _part(self, n: int, rng: np.random.Generator, evidence: Mapping[str, FloatArray]) -> IntArray:
        mild = is_mild(evidence)
        asked = {} if mild else {self.columns.index(name): weight for name, weight in evidence.items()}
        rows, logs = propose(self.generator, self.shares, max(PROPOSED * n, LEAST), rng, asked)
        logs = logs + critic_logs(self.critic, rows, self.loss, self.limit) + log_weights(self.dual.factors, rows)
        if mild:
            _, logs = self.dual.solved(rows, logs, step=0.0, iterations=TOUCHES)
            logs = conditioned(logs, rows, self.columns, evidence)
        return rng.permutation(resample(rows, logs, n, rng))

    def state(self) -> tuple[dict[str, FloatArray], dict[str, Any]]:
        arrays: dict[str, FloatArray] = {f"shares.{a}": share for a, share in enumerate(self.shares)}
        for name, network in (("generator", self.generator), ("critic", self.critic)):
            arrays |= {f"{name}.{k}": t.double().numpy() for k, t in network.state_dict().items()}
        for i, table in enumerate(self.dual.tables):
            arrays |= {f"measured.{i}": table.values.cpu().double().numpy(), f"sigma.{i}": table.sigma.double().numpy()}
        arrays["theta"] = self.dual.theta.numpy()
        return arrays, {
            "family": "ctgan",
            "columns": list(self.columns),
            "sizes": list(self.generator.sizes),
            "width": self.generator.start.numel(),
            "critic": [self.critic.head.in_features, len(self.critic.body) // 2],
            "loss": self.loss,
            "limit": self.limit,
            "tables": [_described(t) for t in self.dual.tables],
            "n_units": self.dual.n_units,
            "regularisation": self.dual.regularisation,
        }

    @classmethod
    def from_state(cls, arrays: Mapping[str, FloatArray], body: Mapping[str, Any]) -> ConditionalField:
        """Inverse of `state`. Raises ModelError where the arrays do not fit the structure."""
        sizes = [int(s) for s in body["sizes"]]
        generator = ConditionalGenerator(sizes, int(body["width"]))
        critic = Critic(sizes, int(body["critic"][0]), int(body["critic"][1]))
        try:
            for name, network in (("generator", generator), ("critic", critic)):
                held = {k: torch.from_numpy(np.array(arrays[f"{name}.{k}"])).float() for k in network.state_dict()}
                network.load_state_dict(held)
            tables = [
                Table(
                    tuple(int(a) for a in described["attributes"]),
                    torch.from_numpy(np.array(arrays[f"measured.{i}"])),
                    torch.from_numpy(np.array(arrays[f"sigma.{i}"])),
                    None if described["groups"] is None else tuple(map(torch.tensor, described["groups"])),
                )
                for i, described in enumerate(body["tables"])
            ]
            theta = torch.from_numpy(np.array(arrays["theta"]))
            shares = [np.array(arrays[f"shares.{a}"]) for a in range(len(sizes))]
        except (KeyError, RuntimeError):
            raise ModelError("the saved model's arrays do not fit its structure; it was altered") from None
        dual = Dual.start(tables, sizes, float(body["n_units"]), float(body["regularisation"]))
        if dual.theta.shape != theta.shape or any(s.shape != (k,) for s, k in zip(shares, sizes, strict=True)):
            raise ModelError("the saved model's arrays do not fit its structure; it was altered")
        columns, loss, limit = list(body["columns"]), str(body["loss"]), float(body["limit"])
        return cls(columns, generator, critic, shares, replace(dual, theta=theta.double()), loss=loss, limit=limit)


def propose(
    generator: ConditionalGenerator,
    shares: Sequence[FloatArray],
    n: int,
    rng: np.random.Generator,
    evidence: Mapping[int, FloatArray],
) -> tuple[IntArray, FloatArray]:
    """(n rows of the generator, their log weights), shapes (n, columns) and (n,).

    Columns with evidence (weight of each code) come first, those that it fixes before the others; the rest in an order drawn anew for
    each chunk of rows. The first one is drawn from its share, each other one given those before it. With evidence the weights make up for
    what drawing one column after the other leaves out; without, they are 0.
    """
    if any(not (weight > 0).any() for weight in evidence.values()):
        raise ModelError("the conditions leave no row possible under the model")
    parts = [_proposed(generator, shares, min(_CHUNK, n - start), rng, evidence) for start in range(0, n, _CHUNK)]
    return np.concatenate([rows for rows, _ in parts]), np.concatenate([logs for _, logs in parts])


@torch.no_grad()
def _proposed(
    generator: ConditionalGenerator,
    shares: Sequence[FloatArray],
    n: int,
    rng: np.random.Generator,
    evidence: Mapping[int, FloatArray],
) -> tuple[IntArray, FloatArray]:
    asked = sorted(evidence, key=lambda a: (int((evidence[a] > 0).sum()), a))
    order = [*asked, *(a for a in rng.permutation(len(shares)).tolist() if a not in evidence)]
    device = generator.start.device
    rows, logs = np.zeros((n, len(shares)), np.int64), np.zeros(n)
    state = generator.start.expand(n, -1)
    for place, a in enumerate(order):
        if place == 0:
            given = torch.from_numpy(shares[a]).to(device, torch.float32).clamp(min=1e-12).expand(n, -1)
        else:
            given = torch.softmax(generator.logits(a, generator.features(state)), dim=1)
        if a in evidence:
            given = given * torch.from_numpy(evidence[a]).to(given)
            logs += given.sum(1).clamp(min=1e-30).log().cpu().double().numpy()
        codes = _drawn(given, torch.from_numpy(rng.random((n, 1), dtype=np.float32)).to(device))
        state = state + generator.added(a, codes)
        rows[:, a] = codes.cpu().numpy()
    return rows, logs


def _drawn(weights: torch.Tensor, quantile: torch.Tensor) -> torch.Tensor:
    """A code for each row, by weight. A code without weight is never drawn."""
    cumulative = weights.cumsum(dim=1)
    found = (cumulative <= quantile * cumulative[:, -1:]).sum(dim=1)
    last = weights.shape[1] - 1 - (weights.flip(1) > 0).float().argmax(dim=1)  # where rounding went beyond it
    return torch.minimum(found, last)


@torch.no_grad()
def critic_logs(critic: Critic, rows: IntArray, loss: str, limit: float) -> FloatArray:
    """What the critic adds to the log weight of each row, shape (rows,)."""
    device = critic.head.weight.device
    parts = [
        log_ratio(loss, critic(torch.from_numpy(rows[start : start + _CHUNK]).to(device)), limit).double().cpu()
        for start in range(0, len(rows), _CHUNK)
    ]
    logs: FloatArray = torch.cat(parts).numpy()
    return logs


def _described(table: Table) -> dict[str, Any]:
    groups = None if table.groups is None else [g.cpu().tolist() for g in table.groups]
    return {"attributes": list(table.attributes), "groups": groups}
