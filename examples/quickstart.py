"""A table in, a release folder out.

    python examples/quickstart.py [OUT]

The table is made here, so that the example runs anywhere; put your own DataFrame, CSV or Parquet file in its place.
"""

import sys
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
from rich.console import Console

import dpsynth


def customers(n: int = 20_000) -> pd.DataFrame:
    """A made-up customer table: names, numbers, categories, dates and missing values."""
    rng = np.random.default_rng(7)
    first, last = (rng.choice(names, n) for names in (["Ada", "Ben", "Cora", "Dan"], ["Abbott", "Baker", "Carter"]))
    age = rng.integers(18, 90, n)
    plan = np.where(rng.random(n) < age / 110, "premium", "basic")
    spend = np.round(rng.lognormal(3 + (plan == "premium"), 0.7, n), 2)
    return pd.DataFrame(
        {
            "customer": [f"{f} {s}" for f, s in zip(first, last, strict=True)],
            "age": age,
            "plan": plan,
            "spend": np.where(rng.random(n) < 0.1, np.nan, spend),
            "since": pd.Timestamp("2018-01-01") + pd.to_timedelta(rng.integers(0, 2000, n), unit="D"),
        }
    )


def main(out: Path) -> None:
    console = Console()
    table = customers()

    # Everything below is covered by this one epsilon. The ledger remembers it; here it lies beside the release.
    synth = dpsynth.fit(table, epsilon=1.0, ledger=f"{out / 'ledger.db'}", dataset="customers")
    console.print(synth.privacy.sentence())

    # Rows, as often as you like: free. With conditions: sampled from the model, not by rejection.
    console.print(synth.sample(5))
    console.print(synth.sample(3, where={"plan": "premium"}))

    # The gate decides whether the table may leave; then the folder is written whole or not at all.
    release = dpsynth.release(synth, out / "for-partner", recipient="partner team")
    console.print(f"released {release.rows:,} rows to {release.path}: {', '.join(release.files)}")
    console.print(dpsynth.verify(release.path))


if __name__ == "__main__":
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(tempfile.mkdtemp(prefix="dpsynth-"))
    folder.mkdir(parents=True, exist_ok=True)
    main(folder)
