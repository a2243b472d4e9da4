"""The face that users of scikit-learn and SDV know: get_params and set_params, fit(table), sample(num_rows).

    python examples/estimator.py [OUT]

It is this short, so copy it; every fit spends its epsilon, so a search over parameters adds up in the ledger.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.base import BaseEstimator, clone

import dpsynth


class TableSynthesizer(BaseEstimator):  # type: ignore[misc]
    """dpsynth.fit as an estimator. The fitted model is `synthesizer_`."""

    def __init__(
        self,
        epsilon: float = 1.0,
        schema: dpsynth.Schema | None = None,
        ledger: str | None = None,
        dataset: str | None = None,
    ) -> None:
        self.epsilon, self.schema, self.ledger, self.dataset = epsilon, schema, ledger, dataset

    def fit(self, X: Any, y: Any = None) -> TableSynthesizer:
        self.synthesizer_ = dpsynth.fit(X, **self.get_params(), patterns_only=True)
        return self

    def sample(self, num_rows: int | None = None) -> Any:
        return self.synthesizer_.sample(num_rows)


def main(out: Path) -> None:
    rng = np.random.default_rng(1)
    table = pd.DataFrame({"age": rng.integers(18, 90, 2_000), "plan": rng.choice(["basic", "premium"], 2_000)})

    # SDV's metadata says what the columns are. JSON cannot say whether its ranges are public, so you do.
    metadata = {
        "METADATA_SPEC_VERSION": "V1",
        "tables": {"people": {"columns": {"age": {"sdtype": "numerical"}, "plan": {"sdtype": "categorical"}}}},
    }
    schema = dpsynth.Schema.from_sdv(metadata, ranges="ignore")

    first = TableSynthesizer(epsilon=1.0, schema=schema, ledger=f"{out / 'ledger.db'}", dataset="people").fit(table)
    print(first.sample(num_rows=5))
    clone(first).set_params(epsilon=0.5).fit(table)
    ledger = dpsynth.Ledger(f"{out / 'ledger.db'}")
    (record,) = ledger.datasets()
    print(f"both fits together: epsilon {ledger.spent(record.id).epsilon:.2f}")


if __name__ == "__main__":
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(tempfile.mkdtemp(prefix="dpsynth-"))
    folder.mkdir(parents=True, exist_ok=True)
    main(folder)
