"""One fit of one model: `python bench/fits.py MODEL TRAIN.parquet BOOK.json EPSILON OUT.parquet`.

Runs under the interpreter of the model's own environment, so it imports nothing but that model, pandas and `books`. Prints as
JSON the CPU seconds of fitting and sampling (imports and reading left out), the peak memory, and the model's version. Every peer is told the
public bounds and categories in the way it asks for them, and gets epsilon for all it does, preparation included.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from resource import RUSAGE_CHILDREN, RUSAGE_SELF, getrusage
from typing import Any

import numpy as np
import pandas as pd
from books import Book, Field

DELTA = 1e-6
MISSING = "_NA_"
# Of epsilon for finding bins, where a peer does that (dpmm's own defaults are 1 and another 0.1).
PREPARATION = 0.1
PEER_BINS = 20


def ours(model: str, book: Book, epsilon: float) -> tuple[Any, str]:
    import dpsynth

    def fit(train: pd.DataFrame) -> pd.DataFrame:
        with tempfile.TemporaryDirectory() as folder:
            synth = dpsynth.fit(
                train,
                epsilon=epsilon,
                delta=DELTA,
                schema=book.schema(),
                model=model,
                ledger=f"sqlite:///{folder}/ledger.db",
                progress=False,
            )
            table: pd.DataFrame = synth.sample(len(train))
            return table

    import dpsynth.synthesize  # what a first call would load

    return fit, version("dpsynth")


def dpmm(model: str, book: Book, epsilon: float) -> tuple[Any, str]:
    from dpmm.pipelines import AIMPipeline, MSTPipeline

    domain = {
        f.name: {"lower": f.lower, "upper": f.upper}
        if f.kind == "numeric"
        else {"categories": [*f.categories, *([MISSING] if f.nullable else [])]}
        for f in book.fields
    }

    def fit(train: pd.DataFrame) -> pd.DataFrame:
        pipeline = {"aim": AIMPipeline, "mst": MSTPipeline}[model](
            epsilon=(1 - PREPARATION) * epsilon, proc_epsilon=PREPARATION * epsilon, delta=DELTA
        )
        filled = train.assign(
            **{f.name: train[f.name].fillna(MISSING).astype("category") for f in book.fields if f.kind == "categorical"}
        )
        pipeline.fit(filled, domain)
        table = pipeline.generate(n_records=len(train))
        return table.astype({f.name: object for f in book.fields if f.kind == "categorical"}).replace(MISSING, None)

    return fit, version("dpmm")


def smartnoise(model: str, book: Book, epsilon: float) -> tuple[Any, str]:
    from snsynth import Synthesizer
    from snsynth.transform import BinTransformer, LabelTransformer, TableTransformer

    def fit(train: pd.DataFrame) -> pd.DataFrame:
        columns = [
            BinTransformer(bins=PEER_BINS, lower=f.lower, upper=f.upper, nullable=f.nullable)
            if f.kind == "numeric"
            else LabelTransformer(nullable=False)
            for f in book.fields
        ]
        filled = train.assign(**{f.name: train[f.name].fillna(MISSING) for f in book.fields if f.kind == "categorical"})
        synth = Synthesizer.create(model, epsilon=epsilon, delta=DELTA)
        synth.fit(filled, transformer=TableTransformer(columns))
        table = synth.sample(len(train))
        return pd.DataFrame(table, columns=train.columns).replace(MISSING, None)

    return fit, version("smartnoise-synth")


def mbi(model: str, book: Book, epsilon: float) -> tuple[Any, str]:
    from mbi_mst import mst

    rng = np.random.default_rng()
    fields = {f.name: f for f in book.fields}

    def fit(train: pd.DataFrame) -> pd.DataFrame:
        codes = {name: _coded(train[name], field) for name, field in fields.items()}
        sizes = {name: _size(field) for name, field in fields.items()}
        made = {"mst": mst}[model](codes, sizes, epsilon, DELTA, rng)
        return pd.DataFrame({name: _decoded(made[name], field, rng) for name, field in fields.items()})

    return fit, version("mbi")


def _bins(field: Field) -> int:
    """How many codes a column has besides missing: a number no more than it has whole numbers."""
    return min(PEER_BINS, int(field.upper - field.lower) + 1) if field.kind == "numeric" else len(field.categories)


def _size(field: Field) -> int:
    return _bins(field) + field.nullable


def _coded(column: pd.Series[Any], field: Field) -> Any:
    """Numbers in bins of equal width between the bounds, labels by their place; missing last."""
    bins = _bins(field)
    if field.kind == "categorical":
        codes = pd.Categorical(column.astype(object).map(str, na_action="ignore"), categories=field.categories).codes
        return np.where(codes < 0, bins, codes).astype(np.int64)
    share = (column.astype(float) - field.lower) / (field.upper - field.lower)
    return np.clip(np.floor(share * bins), 0, bins - 1).fillna(bins).astype(np.int64).to_numpy()


def _decoded(codes: Any, field: Field, rng: np.random.Generator) -> Any:
    """Any of the whole numbers that have the code: to round what was drawn anywhere in a bin would leave the bin."""
    if field.kind == "categorical":
        return np.array([*field.categories, None], dtype=object)[codes]
    whole = np.arange(field.lower, field.upper + 1)
    starts = np.searchsorted(_coded(pd.Series(whole), field), np.arange(_bins(field) + 2))
    places = starts[codes] + np.floor(rng.random(len(codes)) * (starts[codes + 1] - starts[codes])).astype(np.int64)
    numbers = whole[np.minimum(places, len(whole) - 1)]
    return np.where(codes == _bins(field), np.nan, numbers) if field.nullable else numbers.astype(np.int64)


def sdv(model: str, book: Book, epsilon: float) -> tuple[Any, str]:
    """No privacy at all, whatever epsilon is: for reference."""
    from sdv.metadata import Metadata
    from sdv.single_table import GaussianCopulaSynthesizer

    kinds = {f.name: {"sdtype": "numerical" if f.kind == "numeric" else "categorical"} for f in book.fields}
    metadata = Metadata.load_from_dict({"tables": {"table": {"columns": kinds}}})

    def fit(train: pd.DataFrame) -> pd.DataFrame:
        synth = {"copula": GaussianCopulaSynthesizer}[model](metadata)
        synth.fit(train)
        table: pd.DataFrame = synth.sample(len(train))
        return table

    return fit, version("sdv")


FAMILIES = {"dpsynth": ours, "dpmm": dpmm, "smartnoise": smartnoise, "mbi": mbi, "sdv": sdv}


def main(model: str, train: str, book: str, epsilon: str, out: str) -> None:
    family, _, member = model.partition("-")
    table, columns = pd.read_parquet(train), Book.load(Path(book))
    fit, found = FAMILIES[family](member or "auto", columns, float(epsilon))
    before, started = _cpu(), time.monotonic()
    synthetic = fit(table)
    took = {"fit_cpu": _cpu() - before, "fit_seconds": time.monotonic() - started, "peak_mb": _peak(), "version": found}
    labels = [f.name for f in columns.fields if f.kind == "categorical"]
    texts = {c: synthetic[c].astype(object).map(str, na_action="ignore") for c in labels}
    synthetic.assign(**texts).to_parquet(out)
    print(json.dumps(took))


def _cpu() -> float:
    """CPU seconds of this process, its threads and the children it has waited for."""
    return sum(u.ru_utime + u.ru_stime for u in (getrusage(RUSAGE_SELF), getrusage(RUSAGE_CHILDREN)))


def _peak() -> float:
    """Largest memory in MB that this process held, or a child that it has waited for."""
    # Not from getrusage: a process starts there with what the one that forked it held.
    lines = Path("/proc/self/status").read_text().splitlines()
    own = next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
    return max(own, getrusage(RUSAGE_CHILDREN).ru_maxrss) / 1024


if __name__ == "__main__":
    main(*sys.argv[1:])
