"""Power and size of the fidelity gate: fresh measurements of fixed tables, good and harmed, and how often it says what.

    python bench/gate.py --data FOLDER                  # Adult, epsilon 1; see bench/README.md for the folder
    python bench/gate.py --data FOLDER --rows 2000

A model is fitted once; each replay then spends the gate's slice anew, on the rows and one fixed table:

default         the table of the model
independent     each column in an order of its own
shuffled        one column of a watched pair in an order of its own
missing group   half of a group replaced by others
outside         5% of a column's cells outside its bounds
copied          one cell holds an identifier of a person

Verdicts go to OUT/gate.json; a run anew replaces the old one of as many rows and the same epsilon.
"""

from __future__ import annotations

import argparse
import collections
import json
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import dpsynth
from dpsynth.gate.judged import report_on
from dpsynth.gate.measured import measure
from dpsynth.gate.output import OutputCheck, output_checks
from dpsynth.gate.tables import Compared
from dpsynth.privacy.accounting import Cost
from dpsynth.privacy.budget import Account, budget_of
from dpsynth.privacy.noise import Noise
from dpsynth.privacy.table import PrivateTable
from dpsynth.sources import read
from dpsynth.split import Split

COPIED = "maria.gonzalez@mailbox.org"


@dataclass(frozen=True)
class Case:
    """A fixed table: its codes, and what the checks of the output alone find in it."""

    name: str
    codes: Any
    found: tuple[OutputCheck, ...]


class Counted:
    """A source that remembers its counts: replays differ in noise alone."""

    def __init__(self, source: Any) -> None:
        self._source, self._known = source, {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._source, name)

    def count(self, queries: Sequence[Any]) -> list[Any]:
        keys = [tuple(map(id, query)) for query in queries]
        for key, query in zip(keys, queries, strict=True):
            if key not in self._known:
                self._known[key] = self._source.count([query])[0]
        return [self._known[key] for key in keys]


def cases(
    synth: dpsynth.Synthesizer, *, pair: tuple[str, str], group: tuple[str, str], number: str, label: str
) -> Iterator[Case]:
    """The default model's table, and its harms. group: (column, label).  number, label: columns whose cells are harmed."""
    rng = np.random.default_rng(0)
    codes, _ = synth.reference()
    at = {c.column: i for i, c in enumerate(synth.domain.codecs)}
    table = synth.sample_typed()
    fine = tuple(output_checks(synth.domain, table))
    yield Case("default", codes, fine)
    yield Case("independent", np.stack([rng.permutation(c) for c in codes.T], axis=1), fine)
    one = codes.copy()
    one[:, at[pair[1]]] = rng.permutation(one[:, at[pair[1]]])
    yield Case("shuffled", one, fine)
    yield Case("missing group", _halved(synth, codes, at[group[0]], group[1], rng), fine)
    harmed = table.copy()
    harmed[number] = harmed[number].astype(float)
    harmed.loc[rng.random(len(table)) < 0.05, number] = 1e9
    yield Case("outside", codes, tuple(output_checks(synth.domain, harmed)))
    harmed = table.copy()
    harmed.loc[len(table) // 2, label] = COPIED
    yield Case("copied", codes, tuple(output_checks(synth.domain, harmed)))


def _halved(synth: dpsynth.Synthesizer, codes: Any, place: int, label: str, rng: np.random.Generator) -> Any:
    codec = synth.domain.codecs[place]
    code = codec.groups[list(codec.cells.describe()).index(label)]
    members, others = (np.flatnonzero((codes[:, place] == code) == which) for which in (True, False))
    gone = rng.choice(members, len(members) // 2, replace=False)
    out = codes.copy()
    out[gone] = codes[rng.choice(others, len(gone))]
    return out


def replays(
    rows: pd.DataFrame, synth: dpsynth.Synthesizer, case: Case, times: int, epsilon: float, counted: Counted
) -> collections.Counter[str]:
    """Verdicts of `times` gates on one table, each with noise of its own."""
    slice_of = Split().gate * budget_of(epsilon, synth.privacy.delta).mu_squared
    weights = np.full(len(case.codes), synth.domain.n_units / len(case.codes))
    compared = Compared(codecs=synth.domain.codecs, reference=case.codes, coded=case.codes, weights=(weights, weights))
    verdicts: collections.Counter[str] = collections.Counter()
    for _ in range(times):
        table = PrivateTable(counted, account=Account(Cost(mu_squared=slice_of)), noise=Noise())
        measured = measure(table, synth.domain, case.codes, weights, synth.gate.gate, slice_of)
        verdicts[report_on(measured, compared, case.found).verdict] += 1
    return verdicts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the public files; see bench/README.md")
    parser.add_argument("--rows", type=int, help="so many rows instead of all train rows")
    parser.add_argument("--epsilon", type=float, default=1.0)
    parser.add_argument("--times", type=int, default=200)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    asked = parser.parse_args()
    rows, schema = adult(asked.data, asked.rows)
    with tempfile.TemporaryDirectory() as folder:
        synth = dpsynth.fit(
            rows, epsilon=asked.epsilon, schema=schema, ledger=f"sqlite:///{folder}/ledger.db", progress=False
        )
    counted = Counted(read(rows).source(None, None))
    print(
        f"| table ({len(rows):,} rows, epsilon {asked.epsilon:g}) | pass | fail | inconclusive |\n|---|---:|---:|---:|"
    )
    start, found = time.process_time(), []
    for case in cases(synth, pair=("sex", "income"), group=("sex", "Female"), number="age", label="workclass"):
        said = replays(rows, synth, case, asked.times, asked.epsilon, counted)
        print(f"| {case.name} | {said['pass']} | {said['fail']} | {said['inconclusive']} |", flush=True)
        verdicts = {verdict: said[verdict] for verdict in ("pass", "fail", "inconclusive")}
        found.append({"rows": len(rows), "epsilon": asked.epsilon, "table": case.name} | verdicts)
    keep(asked.out / "gate.json", found)
    print(f"\n{time.process_time() - start:.0f} CPU seconds")


def keep(file: Path, found: list[dict[str, Any]]) -> None:
    """Put the verdicts in place of older ones of their kind."""
    kinds = {(f["rows"], f["epsilon"]) for f in found}
    others = (
        [f for f in json.loads(file.read_text()) if (f["rows"], f["epsilon"]) not in kinds] if file.exists() else []
    )
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(others + found, indent=1) + "\n")


def adult(data: Path, n: int | None) -> tuple[pd.DataFrame, dpsynth.Schema]:
    """Train rows, and what is declared: the code book, the target, and two sensitive columns."""
    from dataclasses import replace

    import books

    book, rows = books.read("adult", data)
    rows = books.split(rows)[0]
    if n is not None:
        rows = rows.sample(n, random_state=0).reset_index(drop=True)
    roles: dict[str, dict[str, Any]] = {
        "income": {"role": "target"},
        "sex": {"sensitive": True},
        "race": {"sensitive": True},
    }
    schema = book.schema()
    assert schema is not None
    return rows, dpsynth.Schema(replace(c, **roles.get(c.name, {})) for c in schema.columns)


if __name__ == "__main__":
    main()
