"""The demo: a real health survey, with made-up people in front of it, from raw rows to a release folder.

The rows are those of the RAND Health Insurance Experiment (public domain; the raw file ships inside the `statsmodels`
package): person-years of families that were given different insurance plans. Names, addresses, telephone numbers and notes
are made up here and put in front, one per person, so that detection and scrubbing have something to find.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from dpsynth.privacy.errors import SchemaError

if TYPE_CHECKING:
    from rich.console import Console

    from dpsynth.bundle import Release
    from dpsynth.fidelity import FidelityReport
    from dpsynth.synthesizer import Synthesizer

UNIT, MAX_ROWS, EPSILON, DATASET = "zper", 5, 3.0, "rand-health-insurance-demo"
# What is kept of the survey's 45 columns: 24 that are neither functions of others nor nearly constant, and the person.
COLUMNS = (
    "zper site plan coins year female black child xage educdec income num mdeoff "
    "mhi disea physlm ghindx hlthg mdvis notmdvis totadm outpdol drugdol inpdol meddol"
).split()
FIRST = (
    "Ada Ben Cora Dan Eva Finn Gina Hugo Iris Jack Kate Liam Mona Nick Olga Paul Rosa Sam Tina Victor Wendy Zoe".split()
)
LAST = "Abbott Baker Carter Dalton Ellis Foster Grant Harris Irving Jenkins Keller Lawson Miller Norton Palmer".split()


@dataclass(frozen=True, kw_only=True, slots=True)
class Demo:
    """What a run of the demo made, and where."""

    synth: Synthesizer
    release: Release
    fidelity: FidelityReport
    release_dir: Path
    internal_report: Path
    ledger: Path


def table() -> pd.DataFrame:
    """The survey's rows with made-up people in front: 20,190 person-years of 5,912 persons.

    Raises SchemaError where statsmodels is not installed.
    """
    try:
        with (files("statsmodels") / "datasets/randhie/src/randhie.csv").open("rb") as file:
            survey = pd.read_csv(file)[COLUMNS]
    except ModuleNotFoundError:
        raise SchemaError("the demo's data is part of statsmodels: pip install 'dpsynth[demo]'") from None
    return pd.concat([_people(survey), survey], axis=1)


def _people(survey: pd.DataFrame) -> pd.DataFrame:
    """A made-up name, e-mail address, telephone number and note for each person, drawn at random."""
    rng = np.random.default_rng(1971)  # the survey's first year; fixed, so that the demo's data is the same everywhere
    persons = survey[UNIT].unique()
    n = len(persons)
    first, last = (np.array(names)[rng.integers(0, len(names), n)] for names in (FIRST, LAST))
    phone = [
        f"({a}) {b}-{c:04d}"
        for a, b, c in zip(rng.integers(212, 219, n), rng.integers(730, 740, n), rng.integers(0, 10000, n), strict=True)
    ]
    visits = survey.groupby(UNIT)["mdvis"].mean().reindex(persons).to_numpy()
    topic = np.select(
        [visits >= 5, visits >= 1],
        ["to plan the next visits", "to confirm the yearly check-up"],
        "to offer a first visit",
    )
    people = pd.DataFrame(
        {
            "name": [f"{f} {s}" for f, s in zip(first, last, strict=True)],
            "email": [f"{f}.{s}{i}@mailbox-demo.com".lower() for i, (f, s) in enumerate(zip(first, last, strict=True))],
            "phone": phone,
            "note": [f"Please call {f} {s} at {p} {t}." for f, s, p, t in zip(first, last, phone, topic, strict=True)],
        },
        index=persons,
    )
    return people.loc[survey[UNIT]].reset_index(drop=True)


def split(rows: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """(train, holdout) with four in five persons in the first."""
    persons = np.sort(rows[UNIT].unique())
    held = set(np.random.default_rng(0).permutation(persons)[: len(persons) // 5])
    out = rows[UNIT].isin(held)
    return rows[~out].reset_index(drop=True), rows[out].reset_index(drop=True)


def run(out: str | Path, *, epsilon: float = EPSILON, progress: bool = True) -> Demo:
    """The whole flow: fit, release, evaluate against a holdout. Writes into `out`; an earlier demo's release is replaced,
    its ledger is kept, so that a second run composes with the first."""
    from dpsynth.bundle import release
    from dpsynth.fidelity import evaluate
    from dpsynth.privacy.ledger import Ledger
    from dpsynth.synthesize import fit

    folder = Path(out)
    release_dir, internal = folder / "release", folder / "internal"
    internal.mkdir(parents=True, exist_ok=True)
    if (release_dir / "manifest.json").exists():
        shutil.rmtree(release_dir)
    elif release_dir.exists() and any(release_dir.iterdir()):
        raise SchemaError(f"{release_dir} holds something else than a release; choose another folder for the demo")
    train, holdout = split(table())
    ledger = Ledger(folder / "ledger.db")
    synth = fit(
        train,
        epsilon=epsilon,
        unit=UNIT,
        max_rows_per_unit=MAX_ROWS,
        dataset=DATASET,
        ledger=ledger,
        progress=progress,
    )
    synth.save(folder / "model")
    written = release(synth, release_dir, recipient="a partner team", purpose="demonstration", ledger=ledger)
    report = evaluate(train, pd.read_parquet(release_dir / "data.parquet"), holdout, schema=synth.schema)
    report.to_html(internal / "fidelity.html")
    return Demo(
        synth=synth,
        release=written,
        fidelity=report,
        release_dir=release_dir,
        internal_report=internal / "fidelity.html",
        ledger=folder / "ledger.db",
    )


def show(demo: Demo, console: Console) -> None:
    """The demo's summary for a terminal."""
    from rich.panel import Panel
    from rich.table import Table

    from dpsynth.report.terminal import budget_table, fidelity_tables, gate_table

    synth = demo.synth
    console.print(
        Panel(
            "RAND Health Insurance Experiment, person-years; names, e-mails, telephones and notes are made up",
            title="dpsynth demo",
        )
    )
    columns = Table(title="Columns that needed a decision")
    for name in ("column", "made by", "why"):
        columns.add_column(name)
    for name, fact in synth.facts.items():
        if fact.treatment != "modelled":
            columns.add_row(name, fact.treatment, fact.reason)
    console.print(columns)
    console.print(budget_table(synth.privacy))
    console.print(fidelity_tables(demo.fidelity))
    console.print(gate_table(demo.release.gate))
    console.print(Panel(synth.privacy.sentence(), title="What is promised"))
    places = Table(title="Where it is", show_header=False)
    places.add_row("for the partner team", str(demo.release_dir))
    places.add_row("  begin with", str(demo.release_dir / "report.html"))
    places.add_row("for you alone", str(demo.internal_report))
    places.add_row("the demo's ledger", str(demo.ledger))
    console.print(places)
