"""A table with a label and a text: new texts that fit their labels, and how good they are.

    python examples/text.py OUT                                          a made-up corpus, small
    python examples/text.py OUT --base tiny                              the same, in seconds and plainly worse
    python examples/text.py OUT --data train.csv --test test.csv         any CSV with a text and a label column

The labels' names are taken as public, and so is that a row has both; all else is bought. Texts are scrubbed, measured, written, chosen,
judged by the gate and released to OUT/release. What is printed at the end reads the real texts: it is for the owner. Its figures go
to OUT/text.json.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import dpsynth
from dpsynth.fidelity.texts import mauve, repeated
from dpsynth.models import Language
from dpsynth.models.language import pretrained
from dpsynth.models.language.judges import Fluency

# Texts of which a language model says how fluent they are: it differs from text to text, and of a few hundred by some per cent.
JUDGED = 1000
SAID = {
    "card lost": [
        "I lost my card",
        "my card was stolen",
        "please block the card that I lost",
        "where can I report a stolen card",
    ],
    "exchange rate": [
        "what exchange rate do you use for euros",
        "the rate on Sunday was wrong",
        "is the rate fixed for a week",
    ],
    "top up": [
        "can I top up by cheque",
        "my top up is still pending",
        "why was the top up refused",
        "is there a limit to a top up",
    ],
}
WHERE = [
    "today",
    "in the app",
    "since Monday",
    "from my phone",
    "at the airport",
    "once more",
    "this week",
    "with no reason given",
]


def made_up(n: int, seed: int) -> pd.DataFrame:
    """A corpus for trying out: phrases on three subjects, with different ends."""
    rng = np.random.default_rng(seed)
    labels = rng.choice(list(SAID), n)
    ends = rng.choice(WHERE, (n, 2))
    texts = [
        f"{rng.choice(SAID[label])} {' '.join(end)}{rng.choice(['?', '.', ''])}"
        for label, end in zip(labels, ends, strict=True)
    ]
    return pd.DataFrame({"text": texts, "label": labels})


def main() -> None:
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("out", type=Path)
    ask.add_argument("--data", type=Path)
    ask.add_argument("--test", type=Path, help="texts to test on; default: a fifth of the rows, held back")
    ask.add_argument("--text", default="text")
    ask.add_argument("--label", default="category")
    ask.add_argument("--about", default="Questions that customers ask a bank", help="public: what the texts are")
    ask.add_argument("--epsilon", type=float, default=4.0)
    ask.add_argument("--rows", type=int, help="texts to write; default: as many as the table has")
    ask.add_argument(
        "--base", default=Language().base, help="the language model that writes: a name, a folder or a file"
    )
    ask.add_argument(
        "--route",
        default=Language().route,
        choices=("guided", "tuned", "auto"),
        help="tuned: also trained by DP-SGD (wants a GPU)",
    )
    ask.add_argument("--overdraw", type=float, default=Language().overdraw, help="texts written for each that is kept")
    ask.add_argument(
        "--fluency", type=float, default=Language().fluency, help="weight of it beside the means that were bought"
    )
    ask.add_argument(
        "--temperature", type=float, default=Language().temperature, help="lower: more fluent, less alike the rows"
    )
    ask.add_argument("--no-filter", action="store_true")
    ask.add_argument(
        "--judge", help="a language model that says how fluent the texts are; default: the one that writes"
    )
    args = ask.parse_args()
    if pretrained.missing(args.base):
        print(f"left out: {pretrained.INSTALL}")
        return
    frame = made_up(300, 0) if args.data is None else pd.read_csv(args.data)[[args.text, args.label]]
    frame.columns = ["text", "label"]
    rows = args.rows or (40 if args.data is None else None)
    train = frame.sample(frac=1.0 if args.test else 0.8, random_state=0)
    test = (
        pd.read_csv(args.test)[[args.text, args.label]].set_axis(["text", "label"], axis=1)
        if args.test
        else frame.drop(train.index)
    )

    schema = dpsynth.Schema(
        [
            dpsynth.Column("text", "text", nullable=False),
            dpsynth.Column(
                "label", "categorical", categories=sorted(set(train["label"])), role="target", nullable=False
            ),
        ]
    )
    start = time.perf_counter()
    model = Language(
        base=args.base,
        description=args.about,
        route=args.route,
        overdraw=args.overdraw,
        fluency=args.fluency,
        temperature=args.temperature,
        select=not args.no_filter,
    )
    synth = dpsynth.fit(train.reset_index(drop=True), epsilon=args.epsilon, schema=schema, model=model)
    fitted = time.perf_counter()
    synth.save(args.out / "model")
    # Of few rows the gate cannot be sure; the certificate says so.
    released = dpsynth.release(synth, args.out / "release", rows, purpose="an example", accept_inconclusive=True)
    made = pd.read_parquet(released.path / "data.parquet")
    found = {
        "epsilon": args.epsilon,
        "rows": len(made),
        "fit_s": fitted - start,
        "release_s": time.perf_counter() - fitted,
        "cpu_s": time.process_time(),
        "gate": released.gate.said,
    }
    print(synth.privacy.sentence())
    for label, text in made.head(8)[["label", "text"]].itertuples(index=False):
        print(f"  {label}: {text}")
    found |= quality(train, test, made, args.judge or args.base)
    found["settings"] = {
        "base": model.base,
        "route": model.route,
        "overdraw": model.overdraw,
        "select": model.select,
        "fluency": model.fluency,
        "temperature": model.temperature,
        "nudge": model.nudge,
        "words": model.words,
    }
    print(json.dumps(found, indent=1))
    (args.out / "text.json").write_text(json.dumps(found, indent=1))


def quality(train: pd.DataFrame, test: pd.DataFrame, made: pd.DataFrame, judge: str) -> dict[str, Any]:
    """Accuracy on real texts of classifiers that learned from written ones, and what else tells the two apart."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

    from dpsynth.models.language.embedding import embed

    real, held, new = (embed(list(part["text"])) for part in (train, test, made))

    def learned(features: Any, labels: pd.Series[Any]) -> Any:
        return LogisticRegression(C=10, max_iter=300).fit(features, labels)

    words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True).fit(made["text"])
    by_words = learned(words.transform(made["text"]), made["label"])
    few = min(len(held), len(new), 1500)
    some = np.random.default_rng(1).permutation(len(held))[:few]  # a file may be sorted by label
    return {
        "tstr_tfidf": by_words.score(words.transform(test["text"]), test["label"]),
        "tstr_minilm": learned(new, made["label"]).score(held, test["label"]),
        "real_minilm": learned(real, train["label"]).score(held, test["label"]),
        "label_agreement": learned(real, train["label"]).score(new, made["label"]),
        "mauve": mauve(held[some], new[:few]),
        "mauve_real": mauve(held[some], real[:few]),
        "repeated_8": repeated(list(made["text"]), list(train["text"])),
        "judge": Path(judge).name,
        "bits_per_byte": bits_per_byte(list(made["text"][:JUDGED]), judge),
        "bits_per_byte_real": bits_per_byte(list(test["text"].iloc[some[:JUDGED]]), judge),
    }


def bits_per_byte(texts: list[str], judge: str) -> float:
    """Of a language model. The one that wrote the texts takes them for more fluent than one that had no part in them."""
    sizes = np.array([len(text.encode()) for text in texts])
    nats = -Fluency(model=judge).score(texts, [""] * len(texts)) * sizes
    return float(nats.sum() / sizes.sum() / np.log(2))


if __name__ == "__main__":
    main()
