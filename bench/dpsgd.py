"""What DP-SGD costs in time and memory: a private step against a plain one of the same model and batch.

    python bench/dpsgd.py [--json | --markdown] [--device cpu] [--threads 1] [--ways ghost,hooks,functorch,loop]

Two models with random weights: a critic for tables (four linear layers, batch 512), and a language model of 135 million parameters with
LoRA of rank 8 on queries and values (64 tokens, batch 16). A private step is the whole of it: coins, gathering, per-unit clipping,
noise, optimizer. "gradient" is its dearest part alone. Each way runs in a process of its own, so that peak memory is its own.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

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
    """A model, its loss, rows for it, and how many make a batch."""

    model: nn.Module
    loss: Loss
    rows: Callable[[int], dict[str, np.ndarray[Any, Any]]]
    batch: int
    steps: int


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
        60,
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


TASKS = {"critic": critic, "language": language}


def seconds(act: Callable[[], object], runs: int, device: str) -> float:
    """Median time of an act, after two that warm up: CPU seconds on a CPU, which other work there moves less."""
    clock = time.process_time if device == "cpu" else time.perf_counter
    times = []
    for i in range(runs + 2):
        start = clock()
        act()
        if device == "cuda":
            torch.cuda.synchronize()
        if i >= 2:
            times.append(clock() - start)
    return float(np.median(times))


def plain(task: Task, device: str) -> dict[str, float]:
    optimizer = torch.optim.Adam(trainable(task.model).values(), lr=1e-4)
    rows = {k: torch.from_numpy(x).to(device) for k, x in task.rows(task.batch).items()}

    def step() -> None:
        optimizer.zero_grad()
        torch.autograd.backward(task.loss(task.model, rows).mean())
        optimizer.step()

    return {"step": seconds(step, task.steps, device)}


def private(task: Task, way: str, device: str) -> dict[str, float]:
    rate = 1 / POOL
    plan = Training(sampling_rate=rate, steps=task.steps + 2, noise_multiplier=1.0, expected_batch=task.batch)
    account = Account(Reserve(adaptive=Cost(), planned=(plan.event,)))
    n = task.batch * POOL
    handle = TrainingRows(task.rows(n), np.arange(n), max_rows=1, account=account, noise=Noise())
    optimizer = torch.optim.Adam(trainable(task.model).values(), lr=1e-4)

    def probe(k: int) -> Rows:
        return {name: torch.from_numpy(x).to(device) for name, x in task.rows(k).items()}

    trainer = PrivateTrainer(
        task.model, optimizer, task.loss, plan=plan, rows=handle, probe=probe, clipping=way, micro_batch=task.batch * 5 // 4,  # type: ignore[arg-type]
    )  # fmt: skip
    start = time.perf_counter()
    steps = trainer.steps()
    next(steps)
    started = time.perf_counter() - start
    step = seconds(lambda: next(steps, 0), task.steps - 1, device)
    batch = MicroBatch(probe(task.batch), torch.ones(task.batch, 1, device=device))
    engine = clipper(way, task.model)
    gradient = seconds(lambda: engine.clipped(task.loss, batch, 1.0), max(task.steps // 2, 2), device)
    return {"step": step, "gradient": gradient, "start": started}


def measure(name: str, way: str, device: str) -> dict[str, Any]:
    task = TASKS[name]()
    task.model.to(device).train()
    found = plain(task, device) if way == "plain" else private(task, way, device)
    if device == "cuda":
        peak = torch.cuda.max_memory_allocated()
    else:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {
        "model": name,
        "way": way,
        "batch": task.batch,
        "rows_per_second": task.batch / found["step"],
        "peak": peak,
    } | found


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
        base = 0.0
        for way in ("plain", *args.ways.split(",")):
            own = [sys.executable, __file__, "--device", args.device, "--threads", str(args.threads)]
            done = subprocess.run([*own, "--one", name, way], capture_output=True, text=True, check=False)
            if done.returncode:
                found.append({"model": name, "way": way, "error": done.stderr.strip().splitlines()[-1]})
                continue
            row = json.loads(done.stdout.splitlines()[-1])
            base = row["step"] if way == "plain" else base
            found.append(row | {"ratio": row["step"] / base})
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
