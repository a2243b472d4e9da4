"""What is public is declared and costs nothing; the rest is learned from a part of epsilon; rules hold in every synthetic row.

python examples/schema.py [OUT]
"""

import sys
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
from rich.console import Console

import dpsynth


def stays(n: int = 3_000) -> pd.DataFrame:
    """Made-up hospital stays."""
    rng = np.random.default_rng(11)
    age = rng.integers(0, 100, n)
    admitted = pd.Timestamp("2023-01-01") + pd.to_timedelta(rng.integers(0, 700, n), unit="D")
    return pd.DataFrame(
        {
            "age": age,
            "group": np.where(age < 18, "child", "adult"),
            "admitted": admitted,
            "discharged": admitted + pd.to_timedelta(rng.poisson(2 + age / 25), unit="D"),
            "ward": rng.choice(["surgery", "medicine", "emergency"], n),
        }
    )


def main(out: Path) -> None:
    console = Console()
    group = dpsynth.Column("group", "categorical", categories=["child", "adult"], nullable=False)
    schema = dpsynth.Schema(
        [
            dpsynth.Column("age", "numeric", bounds=(0, 110), integer=True, nullable=False),
            group,
            dpsynth.Column("admitted", "datetime", bounds=("2023-01-01", "2025-12-31")),
            dpsynth.Column("discharged", "datetime", bounds=("2023-01-01", "2026-12-31")),
            dpsynth.Column("ward"),  # all about it is bought
        ],
        constraints=[
            dpsynth.Determines("age", "group", mapping={(0, 17): "child", (18, 110): "adult"}),
            dpsynth.Ordered("admitted", "discharged"),
        ],
    )
    schema.save(out / "schema.json")  # the command line takes it: dpsynth plan schema.json --epsilon 1

    # Before anything is spent: where the budget goes, and how much noise that leaves.
    console.print(dpsynth.plan(schema, epsilon=1.0, n_rows=3_000))

    synth = dpsynth.fit(stays(), epsilon=1.0, schema=schema, ledger=f"{out / 'ledger.db'}")
    rows = synth.sample(1_000)
    console.print(rows.head(5))
    broken = int(
        (rows["admitted"] > rows["discharged"]).sum() + ((rows["age"] < 18) != (rows["group"] == "child")).sum()
    )
    console.print(f"rows that break a rule: {broken}")


if __name__ == "__main__":
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(tempfile.mkdtemp(prefix="dpsynth-"))
    folder.mkdir(parents=True, exist_ok=True)
    main(folder)
