"""A rare leaf of a public tree, faithful and balanced: how much of it is written, and what a classifier learns of it.

    python bench/taxonomy.py --data FOLDER [--kinds labels] [--runs 3]

FOLDER holds banking77_train.csv and banking77_test.csv (columns text, category). Of ten labels one is cut to a hundredth of the rows. Two
kinds of table are learned from: with the column of labels, and texts alone, which belong to the leaf that they lie nearest to. What is
printed reads the real texts.
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
from dpsynth.models.language.leaves import LeafCells
from dpsynth.models.language.taxonomy import Taxonomy

HERE = Path(__file__).parent
RARE, SHARE = "lost_or_stolen_card", 0.01
WRITTEN = 600
KINDS = ("labels", "texts alone")
DESCRIPTION = "Questions that customers of a bank ask its support"


def main() -> None:
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("--data", type=Path, required=True)
    ask.add_argument("--epsilon", type=float, default=4.0)
    ask.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    ask.add_argument("--runs", type=int, default=1, help="fits of each kind; each is a quarter of an hour of CPU time")
    ask.add_argument("--out", type=Path, default=HERE / "results" / "taxonomy.json")
    args = ask.parse_args()
    tree = Taxonomy.read(HERE / "taxonomy.yaml")
    whole, test = (_of_tree(pd.read_csv(args.data / f"banking77_{part}.csv"), tree) for part in ("train", "test"))
    judge = _learned(embed(list(whole["text"])), whole["category"])
    first = _cut(whole, 0)
    found: dict[str, Any] = {
        "what": f"{len(tree.leaves)} labels of banking77, {RARE} cut to {SHARE:.0%} of the rows; {WRITTEN} texts a sample, Language() "
        f"with taxonomy.yaml and the description; epsilon {args.epsilon:g}; the rare rows are others in each run",
        "real rows": {
            "rows": len(first),
            "rare": float((first["category"] == RARE).mean()),
            "nearest leaf is the label": float(
                np.mean(_nearest(LeafCells.of("text", tree), test["text"]) == test["category"])
            ),
            **_tstr(first, test),
        },
    }
    for kind in args.kinds:
        found[kind] = []
        for run in range(args.runs):
            found[kind].append(_one(kind, _cut(whole, run), test, tree, judge, args.epsilon))
            print(json.dumps(found[kind][-1], indent=1), flush=True)
            before = json.loads(args.out.read_text()) if args.out.exists() else {}  # those of its kind are replaced
            args.out.write_text(json.dumps(before | found, indent=1) + "\n")


def _one(
    kind: str, train: pd.DataFrame, test: pd.DataFrame, tree: Taxonomy, judge: Any, epsilon: float
) -> dict[str, Any]:
    """Shares and scores of a faithful and a balanced sample of one fit."""
    label = dpsynth.Column("category", "categorical", categories=list(tree.names), nullable=False)
    columns = [dpsynth.Column("text", "text", nullable=False), *([label] if kind == "labels" else [])]
    start = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        synth = dpsynth.fit(
            train[[c.name for c in columns]], epsilon=epsilon, schema=dpsynth.Schema(columns), progress=False,
            model=Language(taxonomy=tree, description=DESCRIPTION), ledger=f"{folder}/ledger.db",
        )  # fmt: skip
    cells = LeafCells.of("text", tree)
    if kind == "labels":
        measured = float(synth.one_way("category")[RARE])
    else:
        (writer,) = synth.writers
        coverage = writer.coverage([])
        assert coverage is not None
        measured = float(coverage[1][tree.names.index(RARE)])
    out: dict[str, Any] = {
        "rare, measured": measured,
        "rare, nearest leaf of the rows": float(np.mean(_nearest(cells, train["text"]) == RARE)),
        "fit_cpu_s": time.process_time() - start,
    }
    for way, balance in (("faithful", None), ("balanced", "category" if kind == "labels" else "text")):
        start = time.process_time()
        made = synth.sample(WRITTEN, balance=balance, seed=1)
        if kind != "labels":
            made["category"] = _nearest(cells, made["text"])
        out[way] = {
            "rare": float((made["category"] == RARE).mean()),
            "rare, by a classifier of real texts": float((judge.predict(embed(list(made["text"]))) == RARE).mean()),
            "shares": {name: float((made["category"] == name).mean()) for name in tree.names},
            **_tstr(made, test),
            "cpu_s": time.process_time() - start,
            "some": made.loc[made["category"] == RARE, "text"].head(5).tolist(),
        }
    return out


def _of_tree(rows: pd.DataFrame, tree: Taxonomy) -> pd.DataFrame:
    return rows[rows["category"].isin(tree.names)].reset_index(drop=True)


def _cut(rows: pd.DataFrame, seed: int) -> pd.DataFrame:
    """The rows with a share of RARE of about SHARE, in random order."""
    others = rows[rows["category"] != RARE]
    few = rows[rows["category"] == RARE].sample(round(SHARE * len(others) / (1 - SHARE)), random_state=seed)
    return pd.concat([others, few]).sample(frac=1.0, random_state=seed).reset_index(drop=True)


def _nearest(cells: LeafCells, texts: pd.Series[Any]) -> np.ndarray:
    return np.array(cells.describe(), object)[cells.nearest(list(texts))]


def _tstr(made: pd.DataFrame, test: pd.DataFrame) -> dict[str, float]:
    """Of a classifier of words that learned from `made`: accuracy on real test texts, and recall, precision and F1 of the rare leaf."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.metrics import precision_recall_fscore_support

    words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True).fit(made["text"])
    said = _learned(words.transform(made["text"]), made["category"]).predict(words.transform(test["text"]))
    precision, recall, f1, _ = precision_recall_fscore_support(
        test["category"], said, labels=[RARE], average=None, zero_division=0
    )
    return {
        "tstr": float(np.mean(said == test["category"])),
        "rare recall": float(recall[0]),
        "rare precision": float(precision[0]),
        "rare f1": float(f1[0]),
    }


def _learned(features: Any, labels: pd.Series[Any]) -> Any:
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(C=10, max_iter=300).fit(features, labels)


if __name__ == "__main__":
    main()
