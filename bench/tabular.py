"""The tabular benchmark: tables x models x epsilon x repetitions, each fit in a process of its own, one score for all.

    python bench/tabular.py --data FOLDER                       # ours on Adult and Credit: the whole table of the docs
    python bench/tabular.py --data FOLDER --tables acs --epsilon 1 --runs 1
    python bench/tabular.py --data FOLDER --peers ENVIRONMENTS --models dpmm-aim --epsilon 1 --limit 3000

Results are added to OUT/tabular.json (a run anew replaces the old one of its kind); OUT/tabular.svg is drawn from all of them,
and a summary printed as a Markdown table. Noise differs from run to run, so look at several.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import books
import pandas as pd
from peers import python_of
from score import score

HERE = Path(__file__).resolve().parent
SHOWN = {
    "tv1": "tv1_train",
    "tv2": "tv2_train",
    "tv2q": "tv2q_train",
    "tv3": "tv3_train",
    "quality": "quality",
    "AUC": "auc",
    "invalid": "invalid",
    "accuracy": "accuracy",
    "fit CPU s": "fit_cpu",
    "peak MB": "peak_mb",
}
PLOTTED = ("tv2", "tv2q", "tv3", "accuracy", "AUC", "fit CPU s")
REAL = "real rows"  # as many others of the train rows, drawn with replacement: what no synthetic table can beat by much

Record = dict[str, Any]


def main() -> None:
    asked = _arguments()
    asked.out.mkdir(parents=True, exist_ok=True)
    results = asked.out / "tabular.json"
    records: list[Record] = json.loads(results.read_text())["records"] if results.exists() else []
    for name in asked.tables:
        book, rows = books.read(name, asked.data)
        train, holdout = books.split(rows)
        for model in asked.models:
            for epsilon in asked.epsilon if model != REAL else [0.0]:
                for run in range(asked.runs if model != REAL else 1):
                    record: Record = {"table": name, "model": model, "epsilon": epsilon, "run": run}
                    synthetic, took = _synthesize(model, train, book, epsilon, asked)
                    record |= took
                    if synthetic is not None:
                        record |= score(train, holdout, synthetic, book, heavy=not asked.quick)
                    records = [r for r in records if _key(r) != _key(record)] + [record]
                    records.sort(key=_key)
                    results.write_text(json.dumps({"machine": _machine(), "records": records}, indent=1) + "\n")
                    print(_line(record), file=sys.stderr, flush=True)
    print(summary(records))
    plot(records, asked.out / "tabular.svg")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the public files; see bench/README.md")
    parser.add_argument("--tables", nargs="+", default=["adult", "credit"], choices=books.FILES)
    parser.add_argument("--models", nargs="+", default=[REAL, "dpsynth", "dpsynth-mst"])
    parser.add_argument("--epsilon", nargs="+", type=float, default=[0.1, 1.0, 10.0])
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--peers", type=Path, help="folder of the environments that bench/peers.py made")
    parser.add_argument("--limit", type=float, default=900, help="seconds that a fit may take")
    parser.add_argument("--quick", action="store_true", help="without the measures that take long: quality and AUC")
    parser.add_argument("--out", type=Path, default=HERE / "results")
    return parser.parse_args()


def _synthesize(
    model: str, train: pd.DataFrame, book: books.Book, epsilon: float, asked: argparse.Namespace
) -> tuple[pd.DataFrame | None, Record]:
    """(as many synthetic rows as there are train rows, or None where the fit failed; what it took)."""
    if model == REAL:
        return train.sample(len(train), replace=True, random_state=0).reset_index(drop=True), {}
    family = model.partition("-")[0]
    python = sys.executable if family == "dpsynth" else str(python_of(family, asked.peers or Path("peers")))
    with tempfile.TemporaryDirectory() as folder:
        rows, columns, out, log = (Path(folder) / n for n in ("train.parquet", "book.json", "out.parquet", "log"))
        train.to_parquet(rows)
        book.save(columns)
        command = [python, str(HERE / "fits.py"), model, str(rows), str(columns), str(epsilon), str(out)]
        took = _run(command, log, asked.limit)
        if took.pop("status") == 0:
            took |= json.loads(log.read_text().splitlines()[-1])
            return pd.read_parquet(out), took
        return None, took | {"failed": _last_error(log)}


def _run(command: Sequence[str], log: Path, limit: float) -> Record:
    """Exit status and CPU seconds of a process and its children, killed after `limit` seconds."""
    with log.open("w") as stdout, (log.parent / "errors").open("w") as stderr:
        process = subprocess.Popen(command, stdout=stdout, stderr=stderr, start_new_session=True)
        end = time.monotonic() + limit
        while not (waited := os.wait4(process.pid, os.WNOHANG))[0]:
            if time.monotonic() > end:
                os.killpg(process.pid, 9)
            time.sleep(0.02)
    _, status, usage = waited
    process.returncode = status  # it has been waited for
    return {"status": status, "cpu": usage.ru_utime + usage.ru_stime}


def _last_error(log: Path) -> str:
    lines = (log.parent / "errors").read_text().strip().splitlines()
    return lines[-1][:200] if lines else "no answer within the limit"


def _key(record: Record) -> tuple[str, float, str, int]:
    return record["table"], record["epsilon"], record["model"], record["run"]


def _line(record: Record) -> str:
    shown = [f"{name} {record[key]:.4g}" for name, key in SHOWN.items() if key in record]
    return " ".join([*map(str, _key(record)), *shown, record.get("failed", "")])


def _machine() -> dict[str, str]:
    cpu = next(
        (line.split(":")[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")),
        platform.processor(),
    )
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "cpu": f"{cpu}, {os.cpu_count()} cores",
        "memory": f"{memory:.0f} GB",
        "system": platform.platform(),
        "python": platform.python_version(),
    }


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines() if Path(path).exists() else []


def _groups(records: Iterable[Record]) -> dict[tuple[str, float, str], list[Record]]:
    out: dict[tuple[str, float, str], list[Record]] = {}
    for record in records:
        out.setdefault(_key(record)[:3], []).append(record)
    return out


def _mean(records: Iterable[Record], key: str) -> float | None:
    values = [r[key] for r in records if key in r]
    return statistics.fmean(values) if values else None


def summary(records: Iterable[Record]) -> str:
    """A Markdown table: means over the runs, with the standard deviation of tv2."""
    lines = [
        "| table | epsilon | model | runs | " + " | ".join(SHOWN) + " |",
        "|---|---:|---|---:|" + "---:|" * len(SHOWN),
    ]
    for (table, epsilon, model), group in _groups(records).items():
        cells = []
        for name, key in SHOWN.items():
            mean = _mean(group, key)
            cells.append("" if mean is None else f"{mean:.1f}" if key in ("fit_cpu", "peak_mb") else f"{mean:.4f}")
            spread = [r[key] for r in group if key in r]
            if name == "tv2" and len(spread) > 1:
                cells[-1] += f" ± {statistics.stdev(spread):.4f}"
        lines.append(f"| {table} | {epsilon:g} | {model} | {len(group)} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def plot(records: Iterable[Record], path: Path) -> None:
    """Each measure over epsilon, a row of plots for each table."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "dpsynth"
    from matplotlib import pyplot

    groups = _groups(records)
    tables, models = sorted({k[0] for k in groups}), sorted({k[2] for k in groups} - {REAL})
    figure, axes = pyplot.subplots(
        len(tables), len(PLOTTED), figsize=(3 * len(PLOTTED), 2.8 * len(tables)), squeeze=False
    )
    for row, table in zip(axes, tables, strict=True):
        for ax, name in zip(row, PLOTTED, strict=True):
            for model in models:
                points = [(e, _mean(g, SHOWN[name])) for (t, e, m), g in groups.items() if (t, m) == (table, model)]
                known = [(e, v) for e, v in points if v is not None]
                if known:
                    ax.plot(*zip(*known, strict=True), "o-", label=model, markersize=3)
            floor = _mean(groups.get((table, 0.0, REAL), []), SHOWN[name])
            if floor is not None:
                ax.axhline(floor, color="gray", linestyle=":", label=REAL)
            ax.set(xscale="log", title=f"{table}: {name}", yscale="log" if name == "fit CPU s" else "linear")
            ax.tick_params(labelsize=7)
            ax.set_xlabel("epsilon", fontsize=7)
    handles = {label: h for ax in axes.flat for h, label in zip(*ax.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles.keys(), loc="lower center", ncols=6, fontsize=8)
    figure.tight_layout(rect=(0, 0.06, 1, 1))
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)


if __name__ == "__main__":
    main()
