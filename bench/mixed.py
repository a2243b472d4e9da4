"""Texts of a table that has a label, an amount and a day besides: do they fit their rows, and what do the other columns cost them?

    python bench/mixed.py --data FOLDER [--epsilon 4] [--runs 1]

FOLDER holds banking77_train.csv and banking77_test.csv (columns text, category). Amount and day are made up by rules that the label
decides, from a fixed seed. What is printed reads the real rows.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import dpsynth
from dpsynth.models import Language
from dpsynth.models.language.embedding import embed

HERE = Path(__file__).parent
WRITTEN = 1000
DESCRIPTION = "Questions that customers of a bank ask its support"
DAYS = ("2025-01-01", "2025-12-31")
MOST = 2000.0


def main() -> None:
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("--data", type=Path, required=True)
    ask.add_argument("--epsilon", type=float, nargs="+", default=[4.0])
    ask.add_argument("--runs", type=int, default=1, help="fits at each epsilon")
    ask.add_argument("--out", type=Path, default=HERE / "results" / "text-mixed.json")
    args = ask.parse_args()
    train, test = (pd.read_csv(args.data / f"banking77_{part}.csv")[["text", "category"]] for part in ("train", "test"))
    labels = sorted(set(train["category"]))
    train = with_columns(train, labels, seed=0)
    found: dict[str, Any] = {
        "what": f"banking77 with an amount and a day that go by the label: {len(train)} rows; Language() with the description; "
        f"{WRITTEN} rows sampled",
        "real rows": {"agreement": _agreement(train, test), **_ties(train)},
        "runs": [],
    }
    for epsilon in args.epsilon:
        for _ in range(args.runs):
            found["runs"].append(_one(train, test, labels, epsilon))
            print(json.dumps(found["runs"][-1], indent=1), flush=True)
            args.out.write_text(json.dumps(found, indent=1) + "\n")


def with_columns(rows: pd.DataFrame, labels: list[str], *, seed: int) -> pd.DataFrame:
    """The rows in random order, with an amount about that of their label (log-normal) and a day about three weeks around their label's."""
    rng = np.random.default_rng(seed)
    rows = rows.sample(frac=1.0, random_state=seed).reset_index(drop=True)
    code = rows["category"].map({label: i for i, label in enumerate(labels)}).to_numpy()
    typical, middle = rng.uniform(np.log(5), np.log(800), len(labels)), rng.integers(0, 365, len(labels))
    amount = np.minimum(np.exp(typical[code] + rng.normal(0, 0.5, len(rows))), MOST).round(2)
    day = (middle[code] + rng.normal(0, 20, len(rows)).astype(int)) % 365
    return rows.assign(amount=amount, day=pd.Timestamp(DAYS[0]) + pd.to_timedelta(day, unit="D"))


def _one(train: pd.DataFrame, test: pd.DataFrame, labels: list[str], epsilon: float) -> dict[str, Any]:
    schema = dpsynth.Schema(
        [
            dpsynth.Column("text", "text", nullable=False),
            dpsynth.Column("category", "categorical", categories=labels, role="target", nullable=False),
            dpsynth.Column("amount", "numeric", bounds=(0.0, MOST), decimals=2, nullable=False),
            dpsynth.Column("day", "datetime", bounds=DAYS, nullable=False),
        ]
    )
    start, cpu = time.perf_counter(), time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        synth = dpsynth.fit(
            train, epsilon=epsilon, schema=schema, progress=False, model=Language(description=DESCRIPTION),
            ledger=f"{folder}/ledger.db",
        )  # fmt: skip
    fitted = time.perf_counter()
    made = synth.sample(WRITTEN)
    return {
        "epsilon": epsilon,
        "fit_s": fitted - start,
        "sample_s": time.perf_counter() - fitted,
        "cpu_s": time.process_time() - cpu,
        "agreement": _agreement(train, made),
        "tstr_minilm": _agreement(made, test),
        **_ties(made),
        "some": made.head(8).astype(str).to_numpy().tolist(),
    }


def _agreement(learned: pd.DataFrame, asked: pd.DataFrame) -> float:
    """Share of `asked` to whose texts a classifier of embeddings that learned from `learned` gives their label."""
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(C=10, max_iter=300).fit(embed(list(learned["text"])), learned["category"])
    return float(model.score(embed(list(asked["text"])), asked["category"]))


def _ties(rows: pd.DataFrame) -> dict[str, float]:
    """How much of the variance of the logarithm of the amount, and of the season, the label explains."""

    def explained(values: np.ndarray) -> float:
        within = pd.Series(values).groupby(rows["category"].to_numpy()).transform("mean")
        return float(within.var() / values.var())

    turn = 2 * np.pi * rows["day"].dt.dayofyear.to_numpy() / 365
    return {
        "amount by label": explained(np.log1p(rows["amount"].to_numpy())),
        "day by label": (explained(np.sin(turn)) + explained(np.cos(turn))) / 2,
    }


if __name__ == "__main__":
    main()
