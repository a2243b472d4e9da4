"""What a fit returns: a synthetic table as often as one likes, the privacy statement, and a folder on disk."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from dpsynth import gate as gates
from dpsynth.console import make_progress
from dpsynth.constraints import constraint_from_json
from dpsynth.encode.cells import LabelCells
from dpsynth.encode.codec import Codec
from dpsynth.enforce import Rules
from dpsynth.generate import Drawn, conditions_of, draw, evened, made_up_ids, table_of, unit_weights, values_of
from dpsynth.learn import ColumnFacts, Domain
from dpsynth.models.protocol import TableModel, TextModel
from dpsynth.outputs import SPREAD_ROWS, Frame, as_frame, is_session, require_frame, spread, write
from dpsynth.privacy.errors import ModelError, SchemaError
from dpsynth.privacy.source import ROWS_PER_UNIT, FloatArray, IntArray
from dpsynth.privacy.statement import PrivacyStatement
from dpsynth.privacy.table import Measurement
from dpsynth.schema import Column, Schema
from dpsynth.sources import Layout, read
from dpsynth.sources.lineage import MARK, mark

FORMAT = "dpsynth-model/1"
# In the file of arrays, the names of those of text columns begin so.
_TEXT = "text."
# What of a pandas frame's `attrs` says, of each column of texts, how many were left after each stage of writing and choosing them.
TEXT_STAGES = "dpsynth_texts"
# So many texts take long enough for a progress bar.
_MANY_TEXTS = 200


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Synthesizer:
    """A fitted model with all that belongs to it. Everything in it but `layout` is under DP; all but that and `drawn` is saved.

    domain: columns, codecs and histograms.  model: the distribution over codes.  privacy: the statement.
    writers: of text columns.  gate: what the gate's slice bought.  seed: public seed of the table that the gate measured and `release` writes.
    drawn: that table as it was drawn, where it is kept: a table that follows from `seed` and the model.
    layout: the input's looks; in the owner's process only.
    """

    domain: Domain
    model: TableModel
    privacy: PrivacyStatement
    gate: gates.GateMeasurement
    seed: int
    layout: Layout | None = None
    writers: tuple[TextModel, ...] = ()
    drawn: Drawn | None = None

    def __repr__(self) -> str:
        unit = f"unit {self.privacy.unit!r}"
        return f"Synthesizer({len(self.facts)} columns, about {self.n_rows:,} rows, {unit}, {self.privacy!r})"

    @property
    def schema(self) -> Schema:
        """The columns with every fact filled in, declared or learned under DP."""
        return self.domain.schema

    @property
    def n_rows(self) -> int:
        """DP estimate of the table's number of rows."""
        return self.domain.n_rows

    @property
    def facts(self) -> dict[str, ColumnFacts]:
        """What became of each column."""
        return {f.column.name: f for f in self.domain.facts}

    @property
    def tree(self) -> list[tuple[str, str]]:
        """Pairs of columns whose tables were measured."""
        return [pair for pair in self.model.pairs if ROWS_PER_UNIT not in pair]

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of the data should know, in plain words."""
        return (*_notes(self.domain, self.writers), *_of_copies(self.privacy, self.writers))

    def one_way(self, name: str) -> pd.Series[float]:
        """The column's shares under DP by label or interval; sums to 1.

        Raises SchemaError for a column that is not modelled.
        """
        codec = self._codec(name)
        return pd.Series(codec.shares, index=list(codec.cells.describe()), name=name)

    def sample(
        self,
        n: int | None = None,
        *,
        where: Mapping[str, Any] | None = None,
        balance: str | None = None,
        seed: int | None = None,
        frame: Frame | Any = None,
    ) -> Any:
        """Synthetic rows in the input's frame type, columns, order and dtypes. Free: as often as you like.

        n: number of rows; None = about as many as the source (and without `where` and `seed`, the very table that the
        gate measured).  where: column -> value that every row has; sampled from the model, not by rejection.
        balance: a column of labels, each of which that is known to occur, or is a leaf of a taxonomy, is to be as frequent as any other.
        What else stands in a row still fits its label.  Or a column of texts that a taxonomy was given for: its leaves are to be
        equally frequent.
        seed: makes the draw repeatable; it has no part in privacy. A pandas frame's attrs["dpsynth_texts"] says of each column of texts how
        many were written and how many each rule left.  frame: "pandas", "polars" or "pyarrow", in types learned under DP,
        instead of the input's frame and dtypes; or a SparkSession, for a Spark DataFrame whose partitions the executors draw.
        Raises SchemaError for a column or value that cannot be conditioned on; ModelError where texts are to be written in a cluster.
        """
        if where is not None and not isinstance(where, Mapping):
            raise SchemaError("where is a mapping of columns to values")
        if balance is not None and not isinstance(balance, str):
            raise SchemaError("balance is the name of a column")
        if is_session(frame):
            return self._spread(frame, self.n_rows if n is None else _checked(n), dict(where or {}), seed, balance)
        if frame is not None:
            require_frame(frame)
        table = self._table(n, dict(where or {}), seed, balance)
        if frame is not None:
            table = as_frame(table, frame)
        elif self.layout is not None:
            table = self.layout.restore(table)
        return mark(table, self.privacy.run)

    def sample_typed(self, n: int | None = None, *, seed: int | None = None) -> pd.DataFrame:
        """Like `sample`, in types learned under DP instead of the input's: what a release writes."""
        table: pd.DataFrame = mark(self._table(n, {}, seed), self.privacy.run)
        return table

    def chunks(
        self, n: int | None = None, *, seed: int | None = None, rows: int | None = None
    ) -> Iterator[pd.DataFrame]:
        """`sample_typed`, at most `rows` rows at a time (None: a million, or 16,384 where texts are written): for more rows than memory
        holds. Each chunk is drawn by itself; units and ids are numbered on, units with gaps.
        """
        rows = (2**14 if self.writers else 2**20) if rows is None else rows
        if isinstance(rows, bool) or not isinstance(rows, int) or rows < 1:
            raise SchemaError("rows must be a whole number of at least 1")
        total, seed = self.n_rows if n is None else _checked(n), _checked_seed(seed)
        if total <= rows:
            yield self.sample_typed(n, seed=seed)
            return
        first = secrets.randbits(63) if seed is None else seed
        for i in range(-(-total // rows)):
            yield _part_of(self, first, total, rows, {}, None, i)

    def _chunk(
        self, i: int, first: int, start: int, n: int, where: dict[str, Any], balance: str | None
    ) -> pd.DataFrame:
        """Chunk i of a long table, which begins at row `start`: by itself, wherever it is drawn."""
        table = self._table(n, where, int(np.random.default_rng([first, i]).integers(2**63 - 1)), balance)
        for fact in self.domain.facts:
            if fact.treatment == "unit id":
                table[fact.column.name] += start  # the rows before hold no more units than that
            elif fact.treatment == "id":
                table[fact.column.name] = made_up_ids(fact.column.name, start, n)
        marked: pd.DataFrame = mark(table, self.privacy.run)
        return marked

    def _spread(self, session: Any, n: int, where: dict[str, Any], seed: int | None, balance: str | None) -> Any:
        """A Spark DataFrame of n rows. What executors get is what `save` writes: the model, and nothing of the input's looks."""
        if self.writers:
            raise ModelError("texts are not written in a cluster; use write(), or sample without frame=")
        conditions_of(self.domain, where, balance)  # refuses here what executors would refuse
        seed = _checked_seed(seed)
        first = secrets.randbits(63) if seed is None else seed
        draw = partial(_part_of, replace(self, layout=None, drawn=None), first, n, SPREAD_ROWS, where, balance)
        return spread(session, draw, self.domain.facts, -(-n // SPREAD_ROWS), {MARK: self.privacy.run})

    def write(self, to: Any, n: int | None = None, *, seed: int | None = None, rows: int | None = None) -> None:
        """Write synthetic rows in chunks of `rows` (see `chunks`), in types learned under DP; all of them or none.

        to: a .parquet or .csv file, a new folder for Hugging Face's `load_dataset`, `dpsynth.SQL(url, table=...)` or "URL#table".
        This is no release: there is no gate, and no statement beside the rows. Raises SchemaError where `to` cannot be written.
        """
        write(self.chunks(n, seed=seed, rows=rows), self.domain.facts, to, {MARK: self.privacy.run})

    def measured(self) -> tuple[pd.DataFrame, gates.Reference]:
        """The very table that the gate measured, in types learned under DP, and its `reference`; drawn once for both."""
        table, codes, unit_ids = self._drawn(self.n_rows, {}, self.seed)
        return mark(table, self.privacy.run), (codes, unit_weights(self.domain, unit_ids))

    def reference(self) -> gates.Reference:
        """The coded table that the gate measured, and how many units each of its rows stands for."""
        codes, unit_ids, _ = self._coded(self.n_rows, {}, self.seed)
        return codes, unit_weights(self.domain, unit_ids)

    def compared(self, table: pd.DataFrame, reference: gates.Reference | None = None) -> gates.Compared | None:
        """A synthetic table beside the one that the gate measured, in codes; None where it has no modelled column or row.

        reference: what `reference` gives, where it is known already.  Scrubbed text is left out: its placeholders are filled with fakes, which have no code.
        """
        modelled = [f for f in self.domain.facts if f.codec is not None]
        kept = [(i, f.codec) for i, f in enumerate(modelled) if f.codec is not None and f.treatment == "modelled"]
        kept = [(i, codec) for i, codec in kept if codec.column in table.columns]
        if not kept or not len(table):
            return None
        codecs = tuple(c for _, c in kept)
        cells = read(table).cells
        codes, weights = self.reference() if reference is None else reference
        return gates.Compared(
            codecs=codecs,
            reference=codes[:, [i for i, _ in kept]],
            coded=np.stack([c.encode(cells[c.column]) for c in codecs], axis=1),
            weights=(weights, _row_weights(self.domain, table)),
        )

    def _table(
        self, n: int | None, where: dict[str, Any], seed: int | None, balance: str | None = None
    ) -> pd.DataFrame:
        if n is not None:
            n = _checked(n)
        seed = _checked_seed(seed)
        if seed is None:
            own = n is None and not where and balance is None
            seed = self.seed if own else secrets.randbits(63)
        return self._drawn(self.n_rows if n is None else n, where, seed, balance)[0]

    def _drawn(
        self, n: int, where: dict[str, Any], seed: int, balance: str | None = None
    ) -> tuple[pd.DataFrame, IntArray, IntArray]:
        """(table, its codes, the unit of each row)."""
        writers, balance = self._balanced(balance)
        conditions = conditions_of(self.domain, where, balance, self._leaves_of(balance))
        if balance is not None:
            conditions = evened(self.domain, self.model, conditions, balance)
        codes, unit_ids, rng = self._coded(n, conditions.evidence, seed)
        stages: dict[str, list[tuple[str, int]]] = {}

        def counted(column: str, stage: str, left: int) -> None:
            stages.setdefault(column, []).append((stage, left))

        with make_progress(bool(self.writers) and n >= _MANY_TEXTS) as steps:
            values = values_of(
                self.domain,
                self.model,
                codes,
                conditions,
                rng,
                writers=writers,
                progress=steps,
                counted=counted,
            )
        table = table_of(self.domain.facts, values, unit_ids, rng)
        table.attrs |= {TEXT_STAGES: stages} if stages else {}
        return table, codes, unit_ids

    def _balanced(self, balance: str | None) -> tuple[tuple[TextModel, ...], str | None]:
        """(what writes the texts, what is left for the table's model to balance)."""
        if not any(w.column == balance for w in self.writers):
            return self.writers, balance
        return tuple(w.balanced() if w.column == balance else w for w in self.writers), None

    def _leaves_of(self, column: str | None) -> set[str]:
        """Labels of a column that are leaves of a taxonomy."""
        codec = None if column not in self.facts else self.facts[column].codec
        labels = codec.cells.labels if codec is not None and isinstance(codec.cells, LabelCells) else ()
        told = [w.branch for w in self.writers if column in w.conditions]
        return {label for label in labels for branch in told if branch(label) is not None}

    def _coded(
        self, n: int, evidence: Mapping[str, FloatArray], seed: int
    ) -> tuple[IntArray, IntArray, np.random.Generator]:
        """(codes, the unit of each row, the generator after that)."""
        if self.drawn is not None and not evidence and (n, seed) == (self.n_rows, self.seed):
            return self.drawn.unpacked()
        rng = np.random.default_rng(seed)
        return *draw(self.domain, self.model, n, evidence, rng), rng

    def _codec(self, name: str) -> Codec:
        fact = self.facts.get(name)
        if fact is None:
            raise SchemaError(f"there is no column {name!r}")
        if fact.codec is None:
            raise SchemaError(f"column {name!r} is not modelled ({fact.treatment})")
        return fact.codec

    def save(self, path: str | Path) -> None:
        """Write the model to a folder: model.safetensors and model.json. Nothing is pickled, nothing raw is in it."""
        from safetensors.numpy import save_file

        folder = Path(path)
        arrays, body = self.model.state()
        texts = []
        for i, writer in enumerate(self.writers):
            own, said = writer.state()
            arrays |= {f"{_TEXT}{i}.{name}": values for name, values in own.items()}
            texts.append(said)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            save_file({k: np.ascontiguousarray(v) for k, v in arrays.items()}, folder / "model.safetensors")
            text = json.dumps(
                {
                    "format": FORMAT,
                    "domain": _domain_to_json(self.domain),
                    "model": body,
                    "texts": texts,
                    "privacy": self.privacy.to_json(),
                    "gate": self.gate.to_json(),
                    "seed": self.seed,
                }
            )
            (folder / "model.json").write_text(text, encoding="utf-8")
        except OSError as error:
            raise ModelError(f"the model cannot be written: {error.strerror}") from None


def _checked(n: Any) -> int:
    if isinstance(n, bool) or not isinstance(n, int | np.integer) or n < 0:
        raise SchemaError("n must be a whole number of rows, 0 or more")
    return int(n)


def _checked_seed(seed: Any) -> int | None:
    if seed is None:
        return None
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or seed < 0:
        raise SchemaError("seed must be a whole number, 0 or more")
    return int(seed)


def _part_of(
    synth: Synthesizer, first: int, n: int, rows: int, where: dict[str, Any], balance: str | None, i: int
) -> pd.DataFrame:
    """Part i of n rows that are drawn `rows` at a time."""
    return synth._chunk(i, first, i * rows, min(rows, n - i * rows), where, balance)


def load(path: str | Path) -> Synthesizer:
    """A saved synthesizer. Its samples have types learned under DP; the input's own dtypes are not saved.

    Raises ModelError where the folder does not hold a whole model.
    """
    from safetensors.numpy import load_file

    from dpsynth.models.ctgan.field import ConditionalField
    from dpsynth.models.marginals.field import MarkovField
    from dpsynth.models.marginals.tilted import TiltedField

    families: dict[str, type[MarkovField] | type[TiltedField] | type[ConditionalField]] = {
        "ctgan": ConditionalField,
        "marginals": MarkovField,
        "tilted-marginals": TiltedField,
    }
    folder = Path(path)
    try:
        body = json.loads((folder / "model.json").read_text(encoding="utf-8"))
        arrays = load_file(folder / "model.safetensors")
    except OSError as error:
        raise ModelError(f"no model can be read from {folder}: {error.strerror or 'not found'}") from None
    except Exception as error:
        raise ModelError(f"the model in {folder} is damaged ({type(error).__name__})") from None
    if not isinstance(body, dict) or body.get("format") != FORMAT:
        raise ModelError(f"not a saved model of this version (expected format {FORMAT!r})")
    try:
        return Synthesizer(
            domain=_domain_from_json(body["domain"]),
            model=families[body["model"]["family"]].from_state(arrays, body["model"]),
            privacy=PrivacyStatement.from_json(body["privacy"]),
            gate=gates.GateMeasurement.from_json(body["gate"]),
            seed=int(body["seed"]),
            writers=tuple(_writer(i, arrays, said) for i, said in enumerate(body.get("texts", []))),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(f"the model in {folder} is damaged ({type(error).__name__})") from None


def _writer(i: int, arrays: Mapping[str, Any], body: dict[str, Any]) -> TextModel:
    from dpsynth.models.language.writer import TextWriter

    routes: dict[str, type[TextWriter]] = {"guided": TextWriter}
    if body["route"] == "tuned":  # loads torch
        from dpsynth.models.language.tuned import TunedWriter

        routes["tuned"] = TunedWriter
    start = f"{_TEXT}{i}."
    own = {name.removeprefix(start): values for name, values in arrays.items() if name.startswith(start)}
    return routes[body["route"]].from_state(own, body)


def _row_weights(domain: Domain, table: pd.DataFrame) -> FloatArray:
    """1/k for each row of a table with a unit column; 1 without."""
    unit = next((f.column.name for f in domain.facts if f.treatment == "unit id"), None)
    if unit is None:
        return np.ones(len(table))
    return 1 / table.groupby(unit)[unit].transform("size").to_numpy(np.float64)


def _notes(domain: Domain, writers: Sequence[TextModel] = ()) -> list[str]:
    out = []
    written = {w.column: w.told for w in writers}
    for fact in domain.facts:
        name, codec = fact.column.name, fact.codec
        if fact.treatment == "fake":
            kind = fact.column.entity or "identifier"
            out.append(f"{name}: values are made up ({kind}, from ranges that no real person has).")
        elif fact.treatment == "id":
            out.append(f"{name}: ids are made up.")
        elif fact.treatment == "determined":
            out.append(f"{name}: made from other columns of the row ({fact.reason}).")
        elif name in written:
            out.append(f"{name}: {written[name]}.")
            if codec is not None and isinstance(codec.cells, LabelCells) and codec.cells.labels:
                whole = float(codec.shares[: codec.cells.other].sum())
                out.append(
                    f"{name}: about {whole:.1%} of the rows do not have a new text, but one that recurs in many units, kept word for word "
                    "without its identifiers."
                )
        elif codec is not None and isinstance(codec.cells, LabelCells):
            if not codec.cells.labels:
                out.append(f"{name}: no value is held by enough units to be released; the column is empty.")
            elif (other := float(codec.shares[codec.cells.other])) > 0.001:
                way = "are left empty" if fact.treatment == "scrubbed text" else "are replaced by frequent ones"
                out.append(f"{name}: about {other:.1%} of the rows hold rare values, which {way}.")
        if fact.treatment == "scrubbed text" and name not in written:
            out.append(f"{name}: only texts that recur in many units, without their identifiers, are kept.")
    if domain.rules.constraints:
        out.append(f"Every row obeys: {'; '.join(map(str, domain.rules.constraints))}.")
    if domain.rows_codec is not None:
        out.append("Rows of one unit are drawn independently: what ties a unit's rows together is not modelled.")
    out.append("Dependence is modelled for the measured pairs of columns and what follows from them.")
    return out


def _of_copies(privacy: PrivacyStatement, writers: Sequence[TextModel]) -> list[str]:
    """What the guarantee says of a text that stands in several rows or units."""
    if not writers:
        return []
    columns = ", ".join(w.column for w in writers)
    if privacy.unit == "row":
        held, whole = "rows", "each row is covered at the stated epsilon"
    else:
        read = f"of each unit at most {privacy.max_rows_per_unit} rows were read"
        held, whole = "units", f"{read}, covered together at the stated epsilon"
    return [f"{columns}: {whole}; a text that k {held} hold, word for word, at k times that epsilon."]


def _domain_to_json(domain: Domain) -> dict[str, Any]:
    return {
        "facts": [
            {
                "column": f.column.to_json(),
                "treatment": f.treatment,
                "reason": f.reason,
                "codec": f.codec.to_json() if f.codec else None,
            }
            for f in domain.facts
        ],
        "histograms": {k: {"values": m.values.tolist(), "sigma": m.sigma} for k, m in domain.histograms.items()},
        "rows_codec": domain.rows_codec.to_json() if domain.rows_codec else None,
        "constraints": [c.to_json() for c in domain.rules.constraints],
        "n_units": domain.n_units,
        "n_rows": domain.n_rows,
    }


def _domain_from_json(obj: dict[str, Any]) -> Domain:
    def codec(body: dict[str, Any] | None) -> Codec | None:
        return Codec.from_json(body) if body else None

    facts = tuple(
        ColumnFacts(
            column=Column.from_json(f["column"]),
            treatment=f["treatment"],
            reason=f["reason"],
            codec=codec(f["codec"]),
        )
        for f in obj["facts"]
    )
    rows_codec = codec(obj["rows_codec"])
    codecs = [*(f.codec for f in facts if f.codec is not None), *([rows_codec] if rows_codec else [])]
    return Domain(
        facts=facts,
        histograms={
            k: Measurement(values=np.array(m["values"]), sigma=m["sigma"]) for k, m in obj["histograms"].items()
        },
        rows_codec=rows_codec,
        n_units=obj["n_units"],
        n_rows=obj["n_rows"],
        rules=Rules(
            constraints=tuple(constraint_from_json(c) for c in obj["constraints"]),
            columns={f.column.name: f.column for f in facts},
            codecs={c.column: c for c in codecs},
        ),
    )
