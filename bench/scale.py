"""Seconds and peak memory of counting, by rows: a snapshot of Parquet files and a workload of 45 pairs of columns.

    python bench/scale.py [--millions 1 10 100] [--folder FOLDER] [--unit] [--json FILE]
    python bench/scale.py --table FILE.parquet [--millions 1] [--folder FOLDER] [--json FILE]

Makes `millions` x 10^6 rows x 10 columns (six of labels, four of numbers) in files of a million rows, in a process of its own, and
counts all 45 pairs of the 10 columns through `dpsynth.sources.hold`, as a fit does. Each figure is that of a fresh process: "peak" is its
largest resident memory, pages of mapped files included. With --table the rows are those of a table, drawn with replacement, and all of
it is measured: `fit` without a schema, with its defaults and epsilon 1; as many synthetic rows written to Parquet; the model saved. FOLDER (default: a temporary one) needs about 40 MB a million rows, and the
folder for temporary files about 60 MB.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

FILE_ROWS = 1_000_000
LABELS = [2, 3, 5, 8, 12, 20]


def make(folder: Path, millions: int) -> None:
    """Files of a million rows each; a file that is there already stays."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder.mkdir(parents=True, exist_ok=True)
    for i in range(millions):
        path = folder / f"part-{i:04}.parquet"
        if path.exists():
            continue
        rng = np.random.default_rng(i)
        columns: dict[str, pa.Array] = {}
        for j, size in enumerate(LABELS):
            codes = pa.array(rng.integers(0, size, FILE_ROWS).astype(np.int8), mask=rng.random(FILE_ROWS) < 0.02)
            labels = pa.array([f"label {k}" for k in range(size)])
            columns[f"label{j}"] = pa.DictionaryArray.from_arrays(codes, labels).cast(pa.string())
        columns["age"] = pa.array(rng.integers(0, 100, FILE_ROWS))
        columns["income"] = pa.array(np.round(rng.lognormal(7, 1, FILE_ROWS), 2))
        columns["score"] = pa.array(rng.normal(0, 1, FILE_ROWS))
        columns["visits"] = pa.array(rng.poisson(3, FILE_ROWS))
        columns["person"] = pa.array(rng.integers(0, millions * FILE_ROWS // 3, FILE_ROWS))
        pq.write_table(pa.table(columns), path)


def resample(table: Path, folder: Path, millions: int) -> None:
    """Rows of a table, drawn with replacement, in files of a million each; a file that is there already stays."""
    import pyarrow.parquet as pq

    folder.mkdir(parents=True, exist_ok=True)
    rows = pq.read_table(table)
    for i in range(millions):
        if not (path := folder / f"part-{i:04}.parquet").exists():
            pq.write_table(rows.take(np.random.default_rng(i).integers(0, rows.num_rows, FILE_ROWS)), path)


def whole(folder: Path) -> dict[str, float]:
    """One measurement of everything from files to files, in this process, which has not imported anything yet."""
    start = time.perf_counter()
    import dpsynth

    with tempfile.TemporaryDirectory() as out:
        synth = dpsynth.fit(folder, epsilon=1.0, ledger=f"sqlite:///{out}/ledger.db", progress=False)
        fitted = time.perf_counter()
        synth.write(f"{out}/synthetic.parquet")
        written = time.perf_counter()
        synth.save(f"{out}/model")
        done = time.perf_counter()
    spent = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "columns": len(synth.facts),
        "fit_s": round(fitted - start, 1),
        "sample_s": round(written - fitted, 1),
        "save_s": round(done - written, 1),
        "all_s": round(done - start, 1),
        "cpu_s": round(spent.ru_utime + spent.ru_stime, 1),
        "peak_MB": round(peak() / 2**20),
    }


def count(folder: Path, unit: bool) -> dict[str, float]:
    """One measurement, in this process."""
    from dpsynth.encode.cells import LabelCells, LineCells
    from dpsynth.sources import hold

    codings = [LabelCells(f"label{j}", tuple(f"label {k}" for k in range(n))) for j, n in enumerate(LABELS)]
    for name, low, high in (("age", 0, 100), ("income", 0, 20_000), ("score", -4, 4), ("visits", 0, 16)):
        codings.append(LineCells(name, "number", (), tuple(np.linspace(low, high, 33)), None))  # type: ignore[arg-type]
    queries = [[a, b] for i, a in enumerate(codings) for b in codings[:i]]
    start = time.perf_counter()
    rows = hold(folder, "person" if unit else None)
    held = time.perf_counter()
    source = rows.source("person", 2) if unit else rows.source(None, None)
    bounded = time.perf_counter()
    tables = source.count(queries)
    done = time.perf_counter()
    _ = rows.contents
    totals = {int(t.sum()) for t in tables}
    return {
        "pairs": len(queries),
        "weight of each table": totals.pop() if len(totals) == 1 else -1,
        "snapshot_s": round(held - start, 1),
        "bounding_s": round(bounded - held, 1),
        "counting_s": round(done - bounded, 1),
        "fingerprint_s": round(time.perf_counter() - done, 1),
        "all_s": round(time.perf_counter() - start, 1),
        "peak_MB": round(peak() / 2**20),
    }


def peak() -> int:
    """Bytes of resident memory of this process at most."""
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most * (1 if sys.platform == "darwin" else 1024)


def kind(result: dict[str, Any]) -> tuple[Any, ...]:
    return result.get("table"), result["millions"], result["unit"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--millions", type=int, nargs="+", default=[1])
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--table", type=Path, help="measure everything, on rows of this table")
    parser.add_argument("--unit", action="store_true", help="bound at two rows per person, three rows each on average")
    parser.add_argument("--json", type=Path, help="add to this file; a result of the same kind is replaced")
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one is not None:
        print(json.dumps(whole(args.one) if args.table else count(args.one, args.unit)))
        return
    results: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as temporary:
        for millions in args.millions:
            folder = (args.folder or Path(temporary)) / f"{args.table.stem if args.table else ''}{millions}M"
            call = [sys.executable, __file__, "--one", str(folder)]
            if args.table:
                resample(args.table, folder, millions)
                call += ["--table", str(args.table)]
            else:
                make(folder, millions)
                call += ["--unit"] if args.unit else []
            done = subprocess.run(call, check=True, stdout=subprocess.PIPE, text=True)
            what = {"table": args.table.stem} if args.table else {}
            results.append({"millions": millions, "unit": args.unit} | what | json.loads(done.stdout.splitlines()[-1]))
            print(json.dumps(results[-1]), flush=True)
    if args.json is not None:
        old = json.loads(args.json.read_text(encoding="utf-8")) if args.json.exists() else []
        kept = [r for r in old if kind(r) not in set(map(kind, results))]
        args.json.write_text(json.dumps(kept + results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
