"""The CTGAN generator against its own parts: does DP-SGD on the rows pay for itself?

    python bench/ctgan.py --data FOLDER [--tables adult] [--epsilon 1 3 10] [--runs 3] [--device cpu]

For each table and epsilon: as it is ("ctgan"), with all of epsilon in the warm-up ("warm-up only"), and without the marginals model
("no warm-up", four fifths of the budget for DP-SGD). Beside the figures of `score.py`: "detector", the AUC of boosted trees that tell
synthetic rows from holdout rows they have not seen (0.5 = they cannot). Files as for `tabular.py`; results go to OUT/ctgan.json, a
summary is printed as a Markdown table. Noise differs from run to run, so look at several.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import sys
import tempfile
from pathlib import Path
from resource import RUSAGE_CHILDREN, RUSAGE_SELF, getrusage
from typing import Any

import books
import numpy as np
import pandas as pd
from score import score

import dpsynth
from dpsynth.models import CTGAN

VARIANTS = {
    "ctgan": CTGAN(),
    "warm-up only": CTGAN(training_share=0.0),
    "no warm-up": CTGAN(training_share=0.8, warm_up="columns"),
}
SHOWN = {
    "tv1": "tv1_train",
    "tv2": "tv2_train",
    "tv3": "tv3_train",
    "AUC": "auc",
    "detector": "detector",
    "CPU s": "cpu",
}

Record = dict[str, Any]


def detector(holdout: pd.DataFrame, synthetic: pd.DataFrame, book: books.Book) -> float:
    """AUC, on rows that were not trained on, of telling synthetic rows from holdout rows, equally many of both."""
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.metrics import roc_auc_score

    rng = np.random.default_rng(0)
    n = min(len(holdout), len(synthetic))
    both = pd.concat(
        [holdout.iloc[rng.permutation(len(holdout))[:n]], synthetic.iloc[rng.permutation(len(synthetic))[:n]]]
    )
    columns = []
    for field in book.fields:
        if field.kind == "numeric":
            columns.append(pd.to_numeric(both[field.name], errors="coerce").to_numpy(np.float64))
        else:
            codes = {c: float(i) for i, c in enumerate(field.categories)}
            columns.append(both[field.name].astype(object).map(str, na_action="ignore").map(codes).to_numpy(np.float64))
    x, y, order = np.stack(columns, axis=1), np.repeat([1, 0], n), rng.permutation(2 * n)
    train, test = order[:n], order[n:]
    fitted = HistGradientBoostingClassifier(random_state=0).fit(x[train], y[train])
    return float(roc_auc_score(y[test], fitted.predict_proba(x[test])[:, 1]))


def fitted(
    train: pd.DataFrame, book: books.Book, model: CTGAN, epsilon: float, device: str
) -> tuple[pd.DataFrame, float]:
    """(as many synthetic rows, CPU seconds of fit and sample)."""
    before = _cpu()
    with tempfile.TemporaryDirectory() as folder:
        synth = dpsynth.fit(
            train, epsilon=epsilon, schema=book.schema(), model=model, device=device, progress=False,
            ledger=f"sqlite:///{folder}/ledger.db",
        )  # fmt: skip
    table: pd.DataFrame = synth.sample(len(train))
    return table, _cpu() - before


def _cpu() -> float:
    return sum(u.ru_utime + u.ru_stime for u in (getrusage(RUSAGE_SELF), getrusage(RUSAGE_CHILDREN)))


def summary(records: list[Record]) -> str:
    """Medians over runs, as a Markdown table."""
    lines = [
        f"| table | epsilon | variant | runs | {' | '.join(SHOWN)} |",
        "|---|---:|---|---:|" + "---:|" * len(SHOWN),
    ]

    def kind(record: Record) -> tuple[str, float, int]:
        return record["table"], record["epsilon"], list(VARIANTS).index(record["variant"])

    for (table, epsilon, place), group in itertools.groupby(sorted(records, key=kind), kind):
        runs = list(group)
        # A table without a target has no AUC.
        cells = [f"{statistics.median(r[k] for r in runs):.4g}" if k in runs[0] else "" for k in SHOWN.values()]
        lines.append(f"| {table} | {epsilon:g} | {list(VARIANTS)[place]} | {len(runs)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the public files; see bench/README.md")
    parser.add_argument("--tables", nargs="+", default=["adult"], choices=books.FILES)
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=VARIANTS)
    parser.add_argument("--epsilon", nargs="+", type=float, default=[1.0, 3.0, 10.0])
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    records: list[Record] = []
    for name, run in itertools.product(asked.tables, range(asked.runs)):  # one of each first: it may be cut short
        book, rows = books.read(name, asked.data)
        train, holdout = books.split(rows)
        for epsilon, variant in itertools.product(asked.epsilon, asked.variants):
            synthetic, cpu = fitted(train, book, VARIANTS[variant], epsilon, asked.device)
            record: Record = {"table": name, "epsilon": epsilon, "variant": variant, "run": run, "cpu": cpu}
            record |= score(train, holdout, synthetic, book, heavy=True)
            record["detector"] = detector(holdout, synthetic, book)
            records.append(record)
            (asked.out / "ctgan.json").write_text(json.dumps(records, indent=1) + "\n")
            shown = {k: record[k] for k in ("table", "epsilon", "variant", *SHOWN.values()) if k in record}
            print(shown, file=sys.stderr, flush=True)
    print(summary(records))


if __name__ == "__main__":
    main()
