"""What becomes of a table when models learn from their own output, generation after generation.

Each generation is a fit like any other, on rows that the one before made. In the first, and where real rows are mixed back in in
every one, the fit reads real rows: it is booked in the ledger under their data set, and adds up. A fit on synthetic rows alone is
post-processing of the fits before it and costs the real rows nothing: it is booked in a ledger of its own, which goes with the run.
"""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from dpsynth.fidelity import Collapse
from dpsynth.fidelity.decay import Original
from dpsynth.models.named import generator_of
from dpsynth.models.protocol import reserve_of
from dpsynth.privacy.accounting import Cost
from dpsynth.privacy.errors import SchemaError
from dpsynth.privacy.ledger import Ledger
from dpsynth.schema import Schema
from dpsynth.sources import read, to_pandas
from dpsynth.synthesize import fit

if TYPE_CHECKING:
    from dpsynth.models.protocol import Generator


def collapse(
    data: Any,
    generations: int = 5,
    *,
    epsilon: float,
    delta: float = 1e-6,
    mix: bool = False,
    schema: Schema | str | Path | None = None,
    unit: str | None = None,
    max_rows_per_unit: int | None = None,
    model: str | Generator = "auto",
    ledger: Ledger | str | None = None,
    dataset: str | None = None,
    device: str = "auto",
    patterns_only: bool = False,
    progress: bool = True,
    insecure_seed: int | None = None,
) -> Collapse:
    """Fit on a table, sample, fit on the sample, and so on; say how much of the table is left in each generation.

    mix: also a second line, in which each generation learns from the rows of the one before together with the real ones.
    The others: as in `fit`; each fit has the whole epsilon.

    Costs one fit of (epsilon, delta), with `mix` one for each generation: see `total_cost`. Compares with real rows without noise: what
    it returns is for the owner's eyes.
    Raises as `fit` does; BudgetExceeded before anything is spent where the named data set's cap would not last to the end.
    """
    if isinstance(generations, bool) or not isinstance(generations, int) or generations < 1:
        raise SchemaError("generations must be a whole number of at least 1")
    schema = None if schema is None else Schema.of(schema)
    real = to_pandas(data)
    fits = generations if mix else 1
    cost, *total = total_cost(fits, epsilon, delta, model)
    book = ledger if isinstance(ledger, Ledger) else Ledger(ledger)
    plan = reserve_of(generator_of(model), epsilon, delta).plan if fits == 1 else ()
    book.require_room(dataset, unit or "row", cost, fits * delta, plan)
    original = Original(read(real).cells, schema, unit)
    learn = partial(
        fit,
        epsilon=epsilon,
        delta=delta,
        schema=schema,
        unit=unit,
        max_rows_per_unit=max_rows_per_unit,
        model=model,
        device=device,
        patterns_only=patterns_only,
        progress=progress,
        insecure_seed=insecure_seed,
    )
    first = learn(real, ledger=book, dataset=dataset)
    made = first.sample()
    alone = mixed = [original.decay(read(made).cells)]
    with tempfile.TemporaryDirectory(prefix="dpsynth-") as folder:
        own, table = Ledger(Path(folder) / "synthetic.db"), made
        for i in range(2, generations + 1):
            table = learn(table, ledger=own, dataset=f"generation {i}", allow_synthetic=True).sample()
            alone = [*alone, original.decay(read(table).cells)]
    table = made
    for _ in range(2, fits + 1):
        both = mixed_rows(real, table, unit)
        # Other rows than the first fit's, but the same people: the runs add up under the same data set.
        name = dataset or first.privacy.dataset
        table = learn(both, ledger=book, dataset=name, allow_synthetic=True).sample()
        mixed = [*mixed, original.decay(read(table).cells)]
    return Collapse(
        alone=tuple(alone),
        mixed=tuple(mixed) if mix else (),
        ceiling=original.ceiling(),
        fits=fits,
        epsilon=epsilon,
        delta=delta,
        total=(total[0], total[1]),
    )


def total_cost(fits: int, epsilon: float, delta: float, model: str | Generator = "auto") -> tuple[Cost, float, float]:
    """(cost of so many fits on the same rows, its epsilon, at which delta)."""
    one = reserve_of(generator_of(model), epsilon, delta).cost
    cost = one
    for _ in range(fits - 1):
        cost = cost + one
    return cost, cost.epsilon(fits * delta) if fits > 1 else epsilon, fits * delta


def mixed_rows(real: pd.DataFrame, made: pd.DataFrame, unit: str | None) -> pd.DataFrame:
    """Real and synthetic rows in one table.

    No unit is in both: a real one that shared its bound with made-up rows would replace rows of theirs when it is added, which moves
    counts by twice what adding rows does.
    """
    if unit is not None:
        real, made = (
            table.assign(**{unit: (of + table[unit].astype(str)).where(table[unit].notna(), None)})
            for of, table in (("real ", real), ("made ", made))
        )
    return pd.concat([real, made], ignore_index=True)
