"""Noise draws per second, next to numpy, torch and OpenDP in the same run.

    python bench/noise.py [--json] [--draws 2000000]

Each sampler is timed on one thread, the best of five runs after one that fills the caches (tables, memory). OpenDP's
discrete Gaussian is the one exact alternative; it is timed where `opendp` is installed, on fewer draws.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from dpsynth.privacy.noise import Noise

SIGMAS = [0.5, 1.0, 5.0, 100.0, 2.0**20, 2.0**40]
FLOOR = 1e6  # draws per second that every exact sampler must reach


def rate(draw: Callable[[], object], draws: int, runs: int = 5) -> float:
    """Draws per second, the best of `runs`."""
    draw()
    seconds = []
    for _ in range(runs):
        start = time.perf_counter()
        draw()
        seconds.append(time.perf_counter() - start)
    return draws / min(seconds)


def exact_rates(n: int) -> list[dict[str, Any]]:
    """The samplers of dpsynth: one row per sampler and scale."""
    noise, rows = Noise(), []
    samplers: dict[str, Callable[[float], object]] = {
        "discrete Gaussian": lambda sigma: noise.discrete_gaussian(sigma, n),
        "rounded Gaussian": lambda sigma: noise.rounded_gaussian(sigma, n),
        "discrete Laplace": lambda sigma: noise.discrete_laplace(sigma, n),
    }
    for name, sampler in samplers.items():
        for sigma in SIGMAS:
            rows.append({"sampler": name, "scale": sigma, "rate": rate(lambda: sampler(sigma), n)})  # noqa: B023
    grid = 2.0**-20  # a clipping norm of 1, in steps finer than float32 can tell near it
    rows.append(
        {"sampler": "gradient noise", "scale": 1 / grid, "rate": rate(lambda: noise.gradient_gaussian(1, n, grid), n)}
    )
    rows.append({"sampler": "coins at 0.01", "scale": None, "rate": rate(lambda: noise.coins(0.01, n), n)})
    return rows


def choice_rates() -> list[dict[str, Any]]:
    """Noisy max: candidates looked at per second."""
    noise, rows = Noise(), []
    for n in (1000, 100_000):
        scores = np.random.default_rng(0).integers(0, 10_000, n)
        one = rate(lambda: noise.noisy_max(scores, 1.0, 50.0), n)  # noqa: B023
        rows.append({"sampler": f"noisy max, {n:,} candidates", "scale": None, "rate": one})
    return rows


def inexact_rates(n: int) -> list[dict[str, Any]]:
    """What is fast and neither exact nor secret: for the scale of things."""
    generator = np.random.default_rng()
    rows = [{"sampler": "numpy standard_normal", "rate": rate(lambda: generator.standard_normal(n), n)}]
    try:
        import torch
    except ImportError:
        return rows
    torch.set_num_threads(1)
    for dtype in (torch.float32, torch.float64):
        one = rate(lambda: torch.randn(n, dtype=dtype), n)  # noqa: B023
        rows.append({"sampler": f"torch randn {str(dtype)[6:]}", "rate": one})
    return [{**row, "scale": None} for row in rows]


def opendp_rates(n: int) -> dict[float, float] | None:
    """OpenDP's discrete Gaussian over i64 by scale; None where it is not installed."""
    try:
        import opendp.prelude as dp  # type: ignore[import-not-found, unused-ignore]
    except ImportError:
        return None
    dp.enable_features("contrib")
    zeros, rates = [0] * n, {}
    for sigma in SIGMAS:
        draw = dp.m.make_gaussian(dp.vector_domain(dp.atom_domain(T="i64")), dp.l2_distance(T="f64"), scale=sigma)
        rates[sigma] = rate(lambda: draw(zeros), n, runs=3)  # noqa: B023
    return rates


def measure(n: int) -> dict[str, Any]:
    """Every rate, in draws per second, and that of the discrete Gaussian over OpenDP's."""
    theirs = opendp_rates(max(1000, n // 100))
    rows = exact_rates(n)
    for row in rows:
        if theirs and row["sampler"] == "discrete Gaussian":
            row["opendp_rate"] = theirs[row["scale"]]
            row["ratio"] = row["rate"] / row["opendp_rate"]
    return {
        "draws": n,
        "exact": rows,
        "choices": choice_rates(),
        "inexact": inexact_rates(n),
        "opendp_installed": theirs is not None,
        "every_exact_sampler_reaches_1M_per_s": all(row["rate"] >= FLOOR for row in rows),
    }


def show(result: dict[str, Any]) -> None:
    console = Console()
    table = Table("sampler", "scale", "M draws/s", "OpenDP, M/s", "ratio", title="Noise, one thread")
    for column in table.columns[1:]:
        column.justify = "right"
    for group in ("exact", "choices", "inexact"):
        for row in result[group]:
            scale = "" if row["scale"] is None else f"{row['scale']:,.4g}"
            opendp, ratio = (f"{row['opendp_rate'] / 1e6:.3f}", f"{row['ratio']:,.0f}") if "ratio" in row else ("", "")
            table.add_row(row["sampler"], scale, f"{row['rate'] / 1e6:,.1f}", opendp, ratio)
        table.add_section()
    console.print(table)
    if not result["opendp_installed"]:
        console.print("OpenDP is not installed, so it was not timed: pip install opendp")
    reached = result["every_exact_sampler_reaches_1M_per_s"]
    console.print(f"Every exact sampler reaches 1 M draws/s: {'yes' if reached else 'NO'}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    parser.add_argument("--draws", type=int, default=2_000_000)
    arguments = parser.parse_args()
    result = measure(arguments.draws)
    if arguments.json:
        print(json.dumps(result, indent=2))
    else:
        show(result)
    return 0 if result["every_exact_sampler_reaches_1M_per_s"] else 1


if __name__ == "__main__":
    raise SystemExit(main())
