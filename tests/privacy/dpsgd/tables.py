"""Small private tables, and trainings on them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from dpsynth.privacy.accounting import Cost
from dpsynth.privacy.budget import Account, Reserve
from dpsynth.privacy.dpsgd.batch import Rows
from dpsynth.privacy.dpsgd.plan import Training
from dpsynth.privacy.dpsgd.rows import TrainingRows
from dpsynth.privacy.dpsgd.trainer import PrivateTrainer
from dpsynth.privacy.noise import Noise
from dpsynth.privacy.source import Cells, MemorySource, Numbers
from dpsynth.privacy.table import PrivateTable, Witness


@dataclass(frozen=True)
class Floats:
    """A numeric column as float32, clipped to [-4, 4]; missing is 0."""

    column: str

    def encode(self, cells: Cells) -> npt.NDArray[Any]:
        assert isinstance(cells, Numbers)
        return np.nan_to_num(np.clip(cells.data, -4, 4), nan=0.0).astype(np.float32)


PLAN = Training(sampling_rate=0.2, steps=3, noise_multiplier=1.0, expected_batch=20, clipping_norm=0.5)
ENCODINGS = {"a": Floats("a"), "b": Floats("b")}


def table(
    n: int = 100,
    *,
    plan: Training = PLAN,
    seed: int | None = 3,
    max_rows: int = 1,
    units: npt.NDArray[np.int64] | None = None,
    witness: Witness | None = None,
    columns: dict[str, npt.NDArray[np.float64]] | None = None,
    account: Account | None = None,
) -> PrivateTable:
    """b = 2 a + noise; `units` of each row, or one unit a row."""
    made = np.random.default_rng(5).normal(size=(100_000, 2))[:n]
    columns = columns or {"a": made[:, 0], "b": 2 * made[:, 0] + 0.1 * made[:, 1]}
    hashes = np.arange(len(columns["a"]), dtype=np.uint64)
    cells = {name: Numbers(values) for name, values in columns.items()}
    if units is None:
        source = MemorySource(cells, row_hashes=hashes)
    else:
        source = MemorySource(cells, row_hashes=hashes, unit="who", units=units, max_rows=max_rows)
    account = account or Account(Reserve(adaptive=Cost(mu_squared=0.1), planned=(plan.event,)))
    return PrivateTable(source, account=account, noise=Noise(insecure_seed=seed), witness=witness)


def handle(**kwargs: Any) -> TrainingRows:
    return table(**kwargs).training_rows(ENCODINGS)


class Line(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.line = nn.Linear(1, 1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.line(x[:, None])[:, 0]
        return out


def squares(model: nn.Module, rows: Rows) -> Tensor:
    out: Tensor = (model(rows["a"]) - rows["b"]) ** 2
    return out


def probe(n: int) -> Rows:
    return {"a": torch.randn(n), "b": torch.randn(n)}


def trainer(rows: TrainingRows, plan: Training = PLAN, *, rate: float = 0.1, **kwargs: Any) -> PrivateTrainer:
    torch.manual_seed(0)
    model = kwargs.pop("model", None) or Line()
    optimizer = kwargs.pop("optimizer", None) or torch.optim.SGD(model.parameters(), lr=rate)
    kwargs.setdefault("loss", squares)
    kwargs.setdefault("probe", probe)
    return PrivateTrainer(model, optimizer, plan=plan, rows=rows, **kwargs)


def weights(trained: PrivateTrainer) -> Tensor:
    return torch.cat([p.detach().flatten() for p in trained._model.parameters()])
