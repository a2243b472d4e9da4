"""What each stage of choosing texts adds, from the same texts that were written.

    python bench/stages.py MODEL --data FOLDER [--judge gemma.gguf]

MODEL is what `examples/text.py --data` saved (OUT/model), FOLDER holds banking77_train.csv and banking77_test.csv. Texts are written once;
each line chooses among them by other stages. What is printed reads the real texts.
"""

from __future__ import annotations

import argparse
import json
import runpy
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import dpsynth
from dpsynth.models.language.drafts import Drafts
from dpsynth.models.language.judges import Agreement, Fluency, Judge, Rules
from dpsynth.models.language.writer import FLUENCY, TextWriter

quality = runpy.run_path(str(Path(__file__).parents[1] / "examples" / "text.py"))["quality"]
WRITTEN, OVERDRAW = 3500, 4.0


def stages(fluent: Judge) -> dict[str, tuple[bool, float, tuple[Judge, ...]]]:
    """By name: whether texts are chosen by means, the weight of fluency, and the judges before that."""
    rules = Rules(words=(3, 60), endings=".?!")
    return {
        "none: the label that each was written for": (False, 0, ()),
        "means": (True, 0, ()),
        "means, of the fluent .6 of each label": (True, 0, (fluent,)),
        "means and fluency (the default)": (True, FLUENCY, ()),
        "half the weight of fluency": (True, FLUENCY / 2, ()),
        "twice the weight of fluency": (True, FLUENCY * 2, ()),
        "agreement .7, then the default": (True, FLUENCY, (Agreement(keep=0.7),)),
        "rules (3 to 60 words, a mark at the end), then the default": (True, FLUENCY, (rules,)),
    }


@dataclass(frozen=True, kw_only=True, eq=False)
class Once(TextWriter):
    """Writes and reads once, whatever the stages after that are."""

    kept: list[Drafts] = field(default_factory=list)
    marks: dict[str, float] = field(default_factory=dict)

    def _drafts(self, wanted: Any, times: float, *how: Any) -> Drafts:
        if not self.kept:
            self.kept.append(super()._drafts(wanted, OVERDRAW, *how))
            marks = Fluency(model=self.writing.base).score(self.kept[0].texts, [""] * len(self.kept[0].texts))
            self.marks.update(zip(self.kept[0].texts, marks.tolist(), strict=True))
        return self.kept[0]

    def _fluency(self, texts: Sequence[str], progress: Any) -> Any:
        return np.array([self.marks[text] for text in texts]) if self.writing.fluency else None


@dataclass(frozen=True, kw_only=True, eq=False)
class Fluent:
    """The rule that was the default before: of each label the share that is most fluent."""

    marks: dict[str, float]
    name: str = "fluency"
    keep: float = 0.6

    def require(self) -> None:
        """Nothing is needed."""

    def score(self, texts: Sequence[str], labels: Sequence[str], judged: Any = lambda n: None) -> Any:
        return np.array([self.marks[text] for text in texts])


def main() -> None:
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("model", type=Path)
    ask.add_argument("--data", type=Path, required=True)
    ask.add_argument("--judge", help="a language model that says how fluent the texts are")
    ask.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "text-stages.json")
    args = ask.parse_args()
    train, test = (
        pd.read_csv(args.data / f"banking77_{part}.csv")[["text", "category"]]
        .set_axis(["text", "label"], axis=1)
        .sample(frac=1.0, random_state=0)
        for part in ("train", "test")
    )
    synth = dpsynth.load(args.model)
    (writer,) = synth.writers
    assert isinstance(writer, TextWriter)
    once = Once(**{f.name: getattr(writer, f.name) for f in fields(writer)})
    found: dict[str, Any] = {}
    for name, (select, fluency, judges) in stages(Fluent(marks=once.marks)).items():
        writing = replace(writer.writing, select=select, fluency=fluency, judges=judges)
        made = replace(synth, writers=(replace(once, writing=writing),)).sample(WRITTEN, seed=1)
        found[name] = quality(train, test, made, args.judge or writer.writing.base)
        print(name, json.dumps(found[name]), flush=True)
        epsilon = f"epsilon {synth.privacy.epsilon:g}"
        before = json.loads(args.out.read_text()) if args.out.exists() else {}
        args.out.write_text(json.dumps(before | {epsilon: found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
