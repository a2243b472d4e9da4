"""What DP-SGD costs in time and memory: a private step against a plain one of the same model and batch.

    python bench/dpsgd.py [--json | --markdown] [--device cpu] [--threads 1] [--ways ghost,hooks,functorch,loop]

Three models with random weights: a critic for tables (four linear layers, 165,000 parameters, batch 512); CTGAN's critic as it is by default
(batch 512 beside 4096 rows of the generator, which both steps look at); and a language model of 135 million parameters with LoRA of rank 8
on queries and values (64 tokens, batch 16). A step is the whole of it. Private: coins, gathering, per-unit clipping, noise, optimizer.
Plain: as many rows drawn evenly and gathered, the mean loss, the same optimizer. "gradient" is the dearest part of a private step alone.
Each way runs in a process of its own, where private and plain steps take turns, so that what else the machine does meets both alike.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from dpsynth.models import CTGAN
from dpsynth.models.ctgan.networks import Critic, losses_of
from dpsynth.models.ctgan.training import CriticTraining
from dpsynth.privacy.accounting import Cost
from dpsynth.privacy.budget import Account, Reserve
from dpsynth.privacy.dpsgd.batch import Loss, MicroBatch, Rows, trainable
from dpsynth.privacy.dpsgd.clipping import clipper
from dpsynth.privacy.dpsgd.plan import Training
from dpsynth.privacy.dpsgd.rows import TrainingRows
from dpsynth.privacy.dpsgd.trainer import PrivateTrainer
from dpsynth.privacy.noise import Noise

WAYS = ("ghost", "hooks", "functorch", "loop")
BAR = {"cpu": 2.0, "cuda": 1.5}
POOL = 40  # private rows, in batches


@dataclass(frozen=True)
class Task:
    """A model, its loss, rows for it, and how many make a batch. fakes: rows of the generator that a critic sees beside each batch."""

    model: nn.Module
    loss: Loss
    rows: Callable[[int], dict[str, np.ndarray[Any, Any]]]
    batch: int
    steps: int
    fakes: int = 0

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(trainable(self.model).values(), lr=1e-4, betas=(0.9, 0.99))

    def tensors(self, n: int, device: str) -> Rows:
        return {name: torch.from_numpy(x).to(device) for name, x in self.rows(n).items()}


def critic() -> Task:
    layers: list[nn.Module] = []
    for a, b in ((128, 256), (256, 256), (256, 256)):
        layers += [nn.Linear(a, b), nn.LeakyReLU(0.2)]

    def loss(model: nn.Module, rows: Rows) -> Tensor:
        return nn.functional.softplus(-model(rows["x"])[:, 0])

    rng = np.random.default_rng(0)
    return Task(
        nn.Sequential(*layers, nn.Linear(256, 1)),
        loss,
        lambda n: {"x": rng.normal(size=(n, 128)).astype(np.float32)},
        512,
        200,
    )


def ctgan() -> Task:
    settings, sizes = CTGAN(), (20, 9, 20, 16, 16, 7, 15, 6, 5, 2, 20, 20, 20, 42, 2)
    names = [f"column {i}" for i in range(len(sizes))]

    def loss(model: nn.Module, rows: Rows) -> Tensor:
        return losses_of(settings.loss, model(torch.stack([rows[name].long() for name in names], dim=1)), real=True)

    rng = np.random.default_rng(0)
    return Task(
        Critic(sizes, settings.critic_width, settings.critic_layers),
        loss,
        lambda n: {name: rng.integers(0, size, n) for name, size in zip(names, sizes, strict=True)},
        512,
        100,
        settings.fakes,
    )


class LoRA(nn.Module):
    """A frozen linear layer with a low-rank update."""

    def __init__(self, base: nn.Linear, rank: int) -> None:
        super().__init__()
        self.base = base
        self.down, self.up = (
            nn.Linear(base.in_features, rank, bias=False),
            nn.Linear(rank, base.out_features, bias=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.base(x) + self.up(self.down(x))
        return out


def language() -> Task:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=49152, hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9,
        num_key_value_heads=3, tie_word_embeddings=True, max_position_embeddings=512,
    )  # fmt: skip
    model = LlamaForCausalLM(config).requires_grad_(False)
    for layer in model.model.layers:
        for name in ("q_proj", "v_proj"):
            setattr(layer.self_attn, name, LoRA(getattr(layer.self_attn, name), 8))

    def loss(model: nn.Module, rows: Rows) -> Tensor:
        ids = rows["ids"]
        logits = model(input_ids=ids, attention_mask=None, use_cache=False).logits[:, :-1]
        losses = nn.functional.cross_entropy(logits.flatten(0, 1).float(), ids[:, 1:].flatten(), reduction="none")
        return losses.view(len(ids), -1).mean(1)

    rng = np.random.default_rng(0)
    return Task(model, loss, lambda n: {"ids": rng.integers(0, 49152, (n, 64))}, 16, 6)


TASKS = {"critic": critic, "ctgan": ctgan, "language": language}


def seconds(acts: dict[str, Callable[[], object]], runs: int, device: str) -> dict[str, float]:
    """Median time of each act, taking turns, after two that warm up: CPU seconds on a CPU, which other work there moves less."""
    clock = time.process_time if device == "cpu" else time.perf_counter
    times: dict[str, list[float]] = {name: [] for name in acts}
    for i in range(runs + 2):
        for name, act in acts.items():
            start = clock()
            act()
            if device == "cuda":
                torch.cuda.synchronize()
            if i >= 2:
                times[name].append(clock() - start)
    return {name: float(np.median(found)) for name, found in times.items()}


def plain(task: Task, device: str) -> Callable[[], None]:
    """A step without privacy."""
    optimizer, rows = task.optimizer, {k: torch.from_numpy(x) for k, x in task.rows(task.batch * POOL).items()}
    fakes = task.tensors(task.fakes * POOL, device)

    def drawn(rows: Rows, size: int) -> Rows:
        place = torch.randint(len(next(iter(rows.values()))), (size,))
        return {k: x[place.to(x.device)].to(device) for k, x in rows.items()}

    def step() -> None:
        optimizer.zero_grad()
        total = task.loss(task.model, drawn(rows, task.batch)).mean()
        if task.fakes:
            scores = task.model(torch.stack([x.long() for x in drawn(fakes, task.fakes).values()], dim=1))
            total = total + losses_of(CTGAN().loss, scores, real=False).mean()
        torch.autograd.backward(total)
        optimizer.step()

    return step


def private(task: Task, way: str, steps: int, device: str) -> Iterator[object]:
    """Private steps."""
    plan = Training(sampling_rate=1 / POOL, steps=steps, noise_multiplier=1.0, expected_batch=task.batch)
    n, account = task.batch * POOL, Account(Reserve(adaptive=Cost(), planned=(plan.event,)))
    rows = TrainingRows(task.rows(n), np.arange(n), max_rows=1, account=account, noise=Noise())
    if isinstance(task.model, Critic):
        pool = task.tensors(task.fakes * POOL, device)
        training = CriticTraining(
            plan=plan, columns=tuple(pool), pool=torch.stack(list(pool.values()), 1), loss=CTGAN().loss, rate=1e-4, fakes=task.fakes,
            clipping=way,  # type: ignore[arg-type]
        )  # fmt: skip
        return training.steps(task.model, rows)
    return PrivateTrainer(
        task.model, task.optimizer, task.loss, plan=plan, rows=rows, probe=lambda k: task.tensors(k, device), clipping=way,  # type: ignore[arg-type]
        micro_batch=task.batch * 5 // 4,
    ).steps()  # fmt: skip


def peak(device: str) -> int:
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def on(task: Task, device: str) -> Task:
    task.model.to(device).train()
    return task


def measure(name: str, way: str, device: str) -> dict[str, Any]:
    task = on(TASKS[name](), device)
    found: dict[str, Any] = {"model": name, "way": way}
    if way == "plain":
        found |= {
            "step": seconds({way: plain(task, device)}, task.steps, device)[way],
            "ratio": 1.0,
            "peak": peak(device),
        }
    else:
        start = time.perf_counter()
        runs = task.steps if way == "ghost" else max(task.steps // 20, 4)
        steps = private(task, way, runs + 4, device)
        next(steps)
        found["start"] = time.perf_counter() - start
        next(steps)
        found["peak"] = peak(device)  # before there is a plain twin
        twin = plain(on(TASKS[name](), device), device)
        times = seconds({"plain": twin, way: lambda: next(steps)}, runs, device)
        engine, batch = (
            clipper(way, task.model),
            MicroBatch(task.tensors(task.batch, device), torch.ones(task.batch, 1, device=device)),
        )
        gradient = seconds({way: lambda: engine.clipped(task.loss, batch, 1.0)}, max(runs // 2, 2), device)[way]
        found |= {
            "step": times[way],
            "plain": times["plain"],
            "ratio": times[way] / times["plain"],
            "gradient": gradient,
        }
    return found | {"rows_per_second": task.batch / found["step"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--markdown", action="store_true")
    parser.add_argument("--device", default="cpu", choices=list(BAR))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--models", default=",".join(TASKS))
    parser.add_argument("--ways", default=",".join(WAYS))
    parser.add_argument("--one", nargs=2, metavar=("MODEL", "WAY"), help="one measurement in this process")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.one:
        print(json.dumps(measure(*args.one, args.device)))
        return
    found = []
    for name in args.models.split(","):
        for way in ("plain", *args.ways.split(",")):
            own = [sys.executable, __file__, "--device", args.device, "--threads", str(args.threads)]
            done = subprocess.run([*own, "--one", name, way], capture_output=True, text=True, check=False)
            if done.returncode:
                found.append({"model": name, "way": way, "error": done.stderr.strip().splitlines()[-1]})
                continue
            found.append(json.loads(done.stdout.splitlines()[-1]))
    if args.json:
        print(json.dumps(found, indent=1))
    elif args.markdown:
        print(markdown(found))
    else:
        show(found, args.device)


def markdown(found: list[dict[str, Any]]) -> str:
    lines = ["| model | clipping | step s | times plain | rows/s | peak MiB |", "|---|---|---:|---:|---:|---:|"]
    for row in found:
        if "error" in row:
            lines.append(f"| {row['model']} | {row['way']} | {row['error']} | | | |")
            continue
        cells = f"{row['step']:.4f} | {row['ratio']:.2f} | {row['rows_per_second']:,.0f} | {row['peak'] / 2**20:,.0f}"
        lines.append(f"| {row['model']} | {row['way']} | {cells} |")
    return "\n".join(lines)


def show(found: list[dict[str, Any]], device: str) -> None:
    table = Table(title=f"DP-SGD step against a plain step, {device} (bar for ghost: {BAR[device]:g}x)")
    for column in (
        "model",
        "way",
        "step s",
        "times plain",
        "gradient s",
        "rows/s",
        "peak MiB",
        "preflight + 1st step s",
    ):
        table.add_column(column, justify="left" if column in ("model", "way") else "right")
    for row in found:
        if "error" in row:
            table.add_row(row["model"], row["way"], row["error"])
            continue
        cells = [f"{row['step']:.4f}", f"{row['ratio']:.2f}", f"{row['gradient']:.4f}" if "gradient" in row else ""]
        cells += [f"{row['rows_per_second']:,.0f}", f"{row['peak'] / 2**20:,.0f}"]
        table.add_row(row["model"], row["way"], *cells, f"{row['start']:.2f}" if "start" in row else "")
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
