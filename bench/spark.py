"""Seconds of a whole fit by Spark on this machine, beside one of the same files without Spark, and whether the models are the same.

    python bench/spark.py [--millions 1] [--unit] [--json FILE]

The rows are those of `bench/scale.py`. Spark runs as local[2], executors in the driver's process and two Python workers; each fit
is a process of its own. "start" is that of Spark itself; "memory" the driver's Python alone (the JVM has 2 GB).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

from scale import make, peak


def session(folder: Path) -> Any:
    from pyspark.sql import SparkSession

    os.environ["PYSPARK_PYTHON"] = sys.executable
    made = SparkSession.builder.master("local[2]").config("spark.ui.enabled", "false")
    for key, value in {"driver.memory": "2g", "local.dir": str(folder), "sql.shuffle.partitions": "4"}.items():
        made = made.config(f"spark.{key}", value)
    return made.config("spark.log.level", "ERROR").config("spark.ui.showConsoleProgress", "false").getOrCreate()


def fit(folder: Path, by_spark: bool, unit: bool) -> dict[str, Any]:
    """One measurement, in this process."""
    import pyarrow.parquet as pq

    import dpsynth

    warnings.simplefilter("ignore", UserWarning)
    bound: dict[str, Any] = {"unit": "person", "max_rows_per_unit": 2} if unit else {}
    start = time.perf_counter()
    # Arrow's table, for its whole numbers are no declaration either: the models are to be the same.
    data = session(folder.parent).read.parquet(str(folder)) if by_spark else pq.read_table(folder)
    started = time.perf_counter()
    columns = [c for c in (data.columns if by_spark else data.column_names) if unit or c != "person"]
    ledger = f"sqlite:///{folder.parent / f'{by_spark}.db'}"
    synth = dpsynth.fit(
        data.select(columns), epsilon=1.0, ledger=ledger, progress=False, patterns_only=True, insecure_seed=7, **bound
    )
    done = time.perf_counter()
    sample = synth.sample_typed(1000, seed=1).to_csv(index=False)
    return {
        "start_s": round(started - start, 1),
        "fit_s": round(done - started, 1),
        "memory_MB": round(peak() / 2**20),
        "sample": hashlib.sha256(sample.encode()).hexdigest()[:16],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--millions", type=int, default=1)
    parser.add_argument("--unit", action="store_true", help="bound at two rows per person, three rows each on average")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one is not None:
        print(json.dumps(fit(Path(args.one[0]), args.one[1] == "spark", args.unit)))
        return
    results = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "rows"
        make(folder, args.millions)
        for by in ("spark", "memory"):
            call = [sys.executable, __file__, "--one", str(folder), by, *(["--unit"] if args.unit else [])]
            done = subprocess.run(call, check=True, stdout=subprocess.PIPE, text=True)
            results.append(
                {"by": by, "millions": args.millions, "unit": args.unit} | json.loads(done.stdout.splitlines()[-1])
            )
            print(json.dumps(results[-1]), flush=True)
    if args.json is not None:
        args.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
