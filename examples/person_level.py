"""Many rows a person, one guarantee for the person; a budget that two fits share; a schema that saves some of it.

python examples/person_level.py [OUT]
"""

import sys
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
from rich.console import Console

import dpsynth


def visits(people: int = 4_000) -> pd.DataFrame:
    """Made-up clinic visits: one to six rows a person."""
    rng = np.random.default_rng(3)
    person = np.repeat(np.arange(people), rng.integers(1, 7, people))
    age = rng.integers(0, 95, people)[person]
    ward = np.where(rng.random(len(person)) < age / 100, "geriatrics", rng.choice(["surgery", "children"], len(person)))
    return pd.DataFrame({"person": person, "age": age, "ward": ward, "nights": rng.poisson(1 + age / 30)})


def main(out: Path) -> None:
    console = Console()
    table = visits()
    ledger = dpsynth.Ledger(f"{out / 'ledger.db'}")
    ledger.set_cap("clinic", epsilon=2.2, delta=1e-5)

    # What is public is declared, and costs nothing; the rest (here: nights) is learned from a part of epsilon.
    schema = dpsynth.Schema(
        [
            dpsynth.Column("age", "numeric", bounds=(0, 110), integer=True, nullable=False),
            dpsynth.Column("ward", "categorical", categories=["geriatrics", "surgery", "children"], nullable=False),
        ]
    )
    console.print(dpsynth.plan(schema, epsilon=1.5, n_rows=4_000))

    def fit() -> dpsynth.Synthesizer:
        return dpsynth.fit(
            table,
            epsilon=1.5,
            unit="person",
            max_rows_per_unit=4,
            schema=schema,
            ledger=ledger,
            dataset="clinic",
        )

    first = fit()
    console.print(first.sample(6))

    fit()
    together = ledger.spent(first.privacy.dataset)
    console.print(f"two fits at epsilon 1.5 cost {together.epsilon:.2f} together (at delta {together.delta:g})")
    try:
        fit()
    except dpsynth.BudgetExceeded as refused:
        console.print(f"a third is refused: {refused}")


if __name__ == "__main__":
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(tempfile.mkdtemp(prefix="dpsynth-"))
    folder.mkdir(parents=True, exist_ok=True)
    main(folder)
