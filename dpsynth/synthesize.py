"""The whole flow on one screen.

    source -> detect -> schema/encode -> plan -> model (spends) -> sample -> check -> release

`fit` runs the first five and measures the gate while the rows are at hand; everything after it is post-processing.
"""

from __future__ import annotations

import hashlib
import math
import secrets
import warnings
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from dpsynth import gate as gates
from dpsynth.console import Progress, make_progress
from dpsynth.declared import check_kind, declared, needs_votes
from dpsynth.encode.cells import LabelCells, places_of
from dpsynth.enforce import NO_CONDITIONS
from dpsynth.gate import Gate
from dpsynth.generate import Drawn, draw, texts_of, unit_weights, values_of
from dpsynth.learn import Domain, learn
from dpsynth.models.language.tuning import STAGE as TUNING
from dpsynth.models.named import generator_of
from dpsynth.models.protocol import Generator, TableModel, TextColumn, TextGenerator, TextModel, Training, reserve_of
from dpsynth.privacy.accounting import require_budget
from dpsynth.privacy.budget import Account, Reserve, budget_of
from dpsynth.privacy.errors import ModelError, SchemaError
from dpsynth.privacy.events import Event, leaves
from dpsynth.privacy.ledger import DatasetRecord, Ledger, Reservation, RunFolder, Spent
from dpsynth.privacy.meaning import budget_warnings
from dpsynth.privacy.noise import Noise
from dpsynth.privacy.pii.columns import require_clean_names
from dpsynth.privacy.statement import History, PrivacyStatement
from dpsynth.privacy.table import PrivateTable, Witness
from dpsynth.schema import Schema
from dpsynth.sources import Snapshot, SourceColumn, hold
from dpsynth.sources.lineage import made_by
from dpsynth.sources.spark import NO_ROWS, SparkRows
from dpsynth.split import GATE_PARTS, Split, text_part
from dpsynth.synthesizer import Synthesizer, load
from dpsynth.values import LINES, as_label

if TYPE_CHECKING:
    from dpsynth.privacy.pii import Detector

__all__ = ["Synthesizer", "fit", "load"]

# How noise comes about, for the statement; `privacy.noise` has the reasons.
MECHANISM = {
    "randomness": "ChaCha20 keyed with 256 bits of the operating system, for each run, thread and process anew",
    "floating_point": "no floating-point number depends on a row: counts and noise are whole numbers, and drawn exactly",
    "side_channels": "time, memory and energy of the run are not covered; nothing of it leaves with a release",
}
# In place of the above, where a model was trained by DP-SGD.
_FLOATING_GRADIENTS = (
    "gradients are float32: each unit's is clipped a thousandth short of the clipping norm, which pays for rounding; their sum is "
    "rounded to whole numbers, and the noise on it is whole numbers, drawn exactly; counts never are floating-point numbers"
)
# The same, where embeddings of texts were summed.
_FLOATING_EMBEDDINGS = (
    "a text's embedding is float32, computed from that text alone, and rounded to whole numbers, or to the leaf that lies nearest, "
    "before anything is summed or counted; counts, sums and noise are whole numbers, and the noise is drawn exactly"
)
_TEXTS = (
    "the language model that writes texts and the model that reads them are public, and are not trained on the rows"
)
_TUNED_TEXTS = (
    "the language model that writes texts was trained on the rows by DP-SGD, from public weights; the model that reads them is public, and "
    "is not trained on the rows"
)
_ROUNDED = "Gaussian rounded to whole numbers on whole-number counts: post-processing of the Gaussian mechanism"
# Bytes of the table that the gate measured, up to which it is kept for samples and releases; a larger one is drawn again.
KEPT = 2**28
NOISE = {
    "gaussian": _ROUNDED,
    "stability-histogram": _ROUNDED,
    "above-threshold": "discrete Laplace on whole-number distances and on their threshold",
    "subsampled-gaussian": "Gaussian rounded to a grid of 2^-30 clipping norms, on sums of clipped gradients rounded to that grid; "
    "batches are Poisson samples of the units, by secret coins",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """Everything public that decides what a run does."""

    epsilon: float
    delta: float
    schema: Schema | None
    generator: Generator
    gate: Gate
    split: Split
    device: str
    seed: int
    key: str
    patterns_only: bool = False


def fit(
    data: Any,
    *,
    epsilon: float,
    delta: float = 1e-6,
    schema: Schema | str | Path | None = None,
    unit: str | None = None,
    max_rows_per_unit: int | None = None,
    model: str | Generator = "auto",
    gate: Gate | Literal["auto"] = "auto",
    ledger: Ledger | str | None = None,
    dataset: str | None = None,
    allow_synthetic: bool = False,
    max_seconds: float | None = None,
    max_memory: float | None = None,
    checkpoint: str | Path | None = None,
    device: str = "auto",
    patterns_only: bool = False,
    progress: bool = True,
    insecure_seed: int | None = None,
) -> Synthesizer:
    """Learn a synthetic twin of a table under (epsilon, delta)-differential privacy.

    data: a table, or where one is: DataFrame, path, database, ... (see `dpsynth.sources.hold`).
    epsilon, delta: the whole budget: schema learning, model and gate together.
    schema: public facts (`Schema` or the path of its JSON); what it leaves open is learned from a part of epsilon.
    unit, max_rows_per_unit: column that names the privacy unit, and the most rows a unit contributes; default: a row.
    model: "auto" or "marginals" (tables of pairs, chosen in one shot), "aim" (chosen in rounds), "mst" (a tree of pairs), "ctgan",
    "language" (marginals, and texts by a language model, which takes its time), or settings from `dpsynth.models`.
    gate: what `release` will check; its slice is reserved here.
    ledger: where the spending is booked (default: $DPSYNTH_LEDGER or the user's own).  dataset: the ledger's name for the
    data, which a cap needs; "name/label" uses a sub-budget of it.
    allow_synthetic: accept a table that dpsynth itself made.
    max_seconds, max_memory (bytes): public limits of the model's fit; see `dpsynth.models.Marginals`.
    checkpoint: for "ctgan" and marginals models: a folder of its own, which keeps what the run has bought. The same call with the same
    folder takes up a fit that was killed, at the same epsilon; without it the run stays charged, and a new one is charged anew.
    Refused (LedgerError) where rows, settings or versions differ, the folder was altered, or the fit is finished.
    device: "auto", "cpu", "cuda", ...  progress: show a bar on stderr, if that is a terminal.
    patterns_only: look for identifiers by their form alone, without models (for languages that these do not read); the statement
    says so, and names in texts are not found.
    insecure_seed: for tests alone; makes the noise repeatable and the result NOT PRIVATE.

    Guarantee: everything in the returned object but its in-process `layout` is (epsilon, delta)-DP under add/remove of one
    unit. The budget is reserved in the ledger before a row is looked at; a crash leaves it spent.
    Warns (UserWarning) where epsilon is above 10, and where delta is not below one over the noisy number of units.
    Raises SchemaError, PIIError, BudgetExceeded, LedgerError, PrivacyError, ModelError.
    """
    require_budget(epsilon, delta)
    for text in budget_warnings(epsilon, delta, None).values():
        warnings.warn(text, stacklevel=2)
    if gate != "auto" and not isinstance(gate, Gate):
        raise SchemaError("gate: 'auto' or a dpsynth.Gate")
    rng_seed, key = _public_randomness(insecure_seed)
    settings = Settings(
        epsilon=float(epsilon),
        delta=float(delta),
        schema=None if schema is None else Schema.of(schema),
        generator=_limited(generator_of(model), max_seconds, max_memory),
        gate=Gate() if gate == "auto" else gate,
        split=Split.of(budget_of(float(epsilon), float(delta))),
        device=_device(device),
        seed=rng_seed,
        key=key,
        patterns_only=patterns_only,
    )
    if checkpoint is not None and isinstance(settings.generator, TextGenerator):
        raise ModelError("checkpoint: only fits of 'ctgan' and of marginals models are taken up again")
    maker = made_by(data)
    _refuse_synthetic(maker, allow_synthetic)
    with make_progress(progress) as steps:
        steps.stage("reading")
        rows = hold(data, unit)
        book = ledger if isinstance(ledger, Ledger) else Ledger(ledger)
        synth = fit_rows(
            rows,
            settings,
            unit=unit,
            max_rows=max_rows_per_unit,
            ledger=book,
            dataset=dataset,
            noise=Noise(insecure_seed=insecure_seed),
            progress=steps,
            maker=maker,
            allow_synthetic=allow_synthetic,
            folder=RunFolder(checkpoint, book) if checkpoint is not None else None,
        )
    if model == "auto" and not synth.writers and (empty := sorted(texts_of(synth.domain))):
        text = "model='language' has them written, at some tens a second"
        warnings.warn(f"texts are left empty ({', '.join(empty)}); {text}", stacklevel=2)
    if lost := [fact.column.name for fact in synth.domain.facts if fact.is_empty]:
        text = "their cells are left missing; declare them in a schema, or spend more epsilon"
        warnings.warn(f"nothing could be learned of {', '.join(map(repr, lost))}: {text}", stacklevel=2)
    return synth


def fit_rows(
    rows: Snapshot,
    settings: Settings,
    *,
    unit: str | None,
    max_rows: int | None,
    ledger: Ledger,
    dataset: str | None,
    noise: Noise,
    progress: Progress,
    maker: str | None = None,
    allow_synthetic: bool = False,
    witness: Witness | None = None,
    folder: RunFolder | None = None,
) -> Synthesizer:
    """The stages of `fit` on rows that have been read. maker: run that made them, where they are synthetic and say so.
    witness: for the neighbour replay of tests alone.  folder: what the run has bought so far, if it is kept.
    """
    require_clean_names([c.name for c in rows.columns])
    _check_schema(rows, settings.schema, unit)
    for name in sorted(settings.gate.names - {c.name for c in rows.columns}):
        raise SchemaError(f"the gate's column {name!r} is not in the table")
    _check_generator(rows, settings.generator, settings.schema, unit)
    source = rows.source(unit, max_rows)
    detector = _detector(rows, settings.schema, unit, settings.patterns_only)

    writing = _writing(settings.generator, detector)
    fingerprint = ledger.fingerprint(rows.contents)
    maker = maker or ledger.released(fingerprint)
    _refuse_synthetic(maker, allow_synthetic)
    reserve = reserve_of(settings.generator, settings.epsilon, settings.delta)
    budget = reserve.adaptive
    record = ledger.dataset(
        name=dataset,
        fingerprint=fingerprint,
        unit=unit or "row",
        columns=[c.name for c in rows.columns],
    )
    label = "fit" if maker is None else f"fit on synthetic rows of {maker}"
    about = {} if folder is None else _about(rows, record, fingerprint, source.max_rows, label, settings, noise)
    reservation, settings = _reserved(ledger, folder, record, reserve, label, about, settings)

    table = PrivateTable(source, account=Account(reserve), noise=noise, witness=witness, kept=folder)
    domain = learn(
        table,
        rows.columns,
        settings.schema,
        split=settings.split,
        detector=detector,
        key=settings.key,
        progress=progress,
        written=writing is not None,
    )
    for_model = max(table.account.left.mu_squared - settings.split.gate * budget.mu_squared, 0.0)
    texts = [] if writing is None else texts_of(domain)
    for_texts = text_part(len(texts), len(domain.codecs) - len(texts)) * for_model
    model = settings.generator.fit(
        table,
        domain.codecs,
        domain.histograms,
        n_units=domain.n_units,
        mu_squared=for_model - for_texts,
        selection=settings.split.selection * budget.mu_squared,
        targets=domain.rules.modelled(c.name for c in domain.schema.columns if c.role == "target" or c.sensitive),
        zeros=domain.rules.zeros,
        device=settings.device,
        progress=progress,
    )
    writers = _writers(writing, table, domain, model, texts, settings, for_texts, progress)
    progress.stage("measuring the gate")
    seed, drawn, reference, measured = _gate(table, domain, model, settings)
    progress.stage("booking")
    ledger.note(reservation.id, "gate", gates.of_reference(measured, domain.codecs, *reference).booked)
    head = ledger.commit(reservation, table.account.events)
    statement = PrivacyStatement(
        epsilon=settings.epsilon,
        delta=settings.delta,
        unit=unit or "row",
        max_rows_per_unit=source.max_rows,
        neighbours="add or remove one unit",
        units=domain.n_units,
        events=table.account.events,
        public=(*_public(rows, settings.schema, unit, source.max_rows, maker), *_said(writing, texts)),
        dataset=record.id,
        run=reservation.id,
        ledger_head=head,
        history=_history(ledger.spent(record.id, record.unit)),
        insecure=noise.insecure,
        mechanism=_mechanism(table.account.events, detector, writers),
        version=_version(),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    if "large delta" in statement.warnings:
        warnings.warn(statement.warnings["large delta"], stacklevel=3)
    return Synthesizer(
        domain=domain, model=model, privacy=statement, gate=measured, seed=seed, layout=rows.layout, writers=writers, drawn=drawn
    )  # fmt: skip


def _gate(
    table: PrivateTable, domain: Domain, model: TableModel, settings: Settings
) -> tuple[int, Drawn | None, gates.Reference, gates.GateMeasurement]:
    """(seed of the table that a release will write, that table as drawn, if it is to be kept, and as the gate sees it, what the rest of
    the budget says of it)."""
    gate = settings.gate
    seeds = [settings.seed + i for i in range(gate.candidates)]
    drawn, seen = [], []
    for rng in map(np.random.default_rng, seeds):
        codes, unit_ids = draw(domain, model, domain.n_rows, {}, rng)
        drawn.append((codes, unit_ids, rng))
        seen.append((codes, unit_weights(domain, unit_ids)))
    found: int | None = 0
    if len(seen) > 1:
        part = GATE_PARTS["candidates"] * table.account.left.mu_squared
        found = gates.first_close(table, domain.codecs, seen, gate, part)
    place = len(seen) - 1 if found is None else found
    measured = gates.measure(table, domain, *seen[place], gate, table.account.left.mu_squared)
    packed = Drawn.of(*drawn[place])
    kept = packed if packed.nbytes <= KEPT else None
    return seeds[place], kept, seen[place], replace(measured, candidate=0 if found is None else found + 1)


def _reserved(
    ledger: Ledger,
    folder: RunFolder | None,
    record: DatasetRecord,
    reserve: Reserve,
    label: str,
    about: Mapping[str, Any],
    settings: Settings,
) -> tuple[Reservation, Settings]:
    """The reservation that a folder's run goes on under, or a new one; with it what that run drew for itself."""
    if folder is not None and folder.run is not None:
        return folder.taken_up(about, reserve.cost), replace(settings, **folder.own)
    reservation = ledger.reserve(
        dataset=record, cost=reserve.cost, plan=reserve.plan, delta=settings.delta, label=label
    )
    if folder is not None:
        folder.begin(reservation, about, {"seed": settings.seed, "key": settings.key})
    return reservation, settings


def _about(
    rows: Snapshot,
    record: DatasetRecord,
    fingerprint: str,
    max_rows: int,
    label: str,
    settings: Settings,
    noise: Noise,
) -> dict[str, Any]:
    """What must be the same for a fit to be taken up again: with it all that is computed between two answers is computed again."""
    import torch

    public = replace(settings, seed=0, key="")
    return {
        "rows": fingerprint,
        "columns": [[c.name, c.type] for c in rows.columns],
        "data set": [record.id, record.sub_budget],
        "units": [record.unit, max_rows],
        "label": label,
        "settings": [f"{f.name}={getattr(public, f.name)!r}" for f in fields(public)],
        "noise": repr(noise),
        "versions": {"dpsynth": _version(), "numpy": np.__version__, "torch": torch.__version__},
    }


def _writing(generator: Generator, detector: Detector | None) -> TextGenerator | None:
    """The generator, if it has texts written; what it needs for that is there, if some of the strings may be texts (`detector`)."""
    if not isinstance(generator, TextGenerator):
        return None
    if detector is not None:
        generator.require()
    return generator


def _writers(
    generator: TextGenerator | None,
    table: PrivateTable,
    domain: Domain,
    model: TableModel,
    texts: Collection[str],
    settings: Settings,
    mu_squared: float,
    progress: Progress,
) -> tuple[TextModel, ...]:
    """What writes the text columns. texts: see `texts_of`."""
    if generator is None or not texts:
        return ()
    targets = [c.name for c in domain.schema.columns if c.role == "target"]
    cells = generator.conditions_among(domain.codecs, texts, targets)
    rng = np.random.default_rng(settings.seed)
    codes, unit_ids = draw(domain, model, domain.n_rows, {}, rng)
    values = values_of(domain, model, codes, NO_CONDITIONS, rng)
    places = places_of(cells, [values[c.column] for c in cells], len(codes))
    weights, size = unit_weights(domain, unit_ids), math.prod(c.size for c in cells)
    columns = {}
    for i, codec in enumerate(domain.codecs):
        if codec.column in texts and isinstance(codec.cells, LabelCells):
            # How probable it is that a row's text is none of the recurring ones.
            to_write = codec.within[codes[:, i], codec.cells.other]
            counts = np.bincount(places, weights=weights * to_write, minlength=size).astype(np.float64)
            columns[codec.column] = TextColumn(counts=counts, recurring=frozenset(codec.cells.labels))
    return generator.fit_texts(table, columns, cells, mu_squared=mu_squared, device=settings.device, progress=progress)


def _mechanism(
    events: Sequence[Event], detector: Detector | None = None, writers: Sequence[TextModel] = ()
) -> dict[str, str]:
    """How the noise of these events came about, and what was left to models, in words by subject."""
    kinds = dict.fromkeys(leaf.kind for event in events for leaf in leaves(event))
    noise = {"noise": "; ".join(dict.fromkeys(NOISE.get(kind, kind) for kind in kinds))}
    floating = [_FLOATING_GRADIENTS] * ("subsampled-gaussian" in kinds) + [_FLOATING_EMBEDDINGS] * bool(writers)
    told = noise | MECHANISM | ({"floating_point": "; ".join(floating)} if floating else {})
    tuned = any(getattr(leaf, "stage", "") == TUNING for event in events for leaf in leaves(event))
    told |= {"texts": _TUNED_TEXTS if tuned else _TEXTS} if writers else {}
    return told | ({"identifiers": detector.told()} if detector is not None else {})


def _history(spent: Spent) -> History:
    """What the data set has cost in all by now under the run's unit, the run included."""
    return History(
        runs=len(spent.runs),
        cost=spent.cost,
        delta=spent.delta,
        cap=None if spent.cap is None else (spent.cap.epsilon, spent.cap.delta),
    )


def _public_randomness(insecure_seed: int | None) -> tuple[int, str]:
    """(seed of the reference table, key by which the detector picks cells); fresh unless a test says otherwise."""
    if insecure_seed is None:
        return secrets.randbits(63), secrets.token_hex(8)
    warnings.warn("insecure_seed makes the noise repeatable: the result is NOT PRIVATE", stacklevel=3)
    digest = hashlib.sha256(f"insecure {insecure_seed}".encode()).hexdigest()
    return int(digest[:15], 16), digest[-16:]


def _limited(generator: Generator, max_seconds: float | None, max_memory: float | None) -> Generator:
    """The generator with limits of time and memory in place of its own."""
    from dpsynth.models.language.generator import Language
    from dpsynth.models.marginals.generator import Marginals

    if max_seconds is None and max_memory is None:
        return generator
    if isinstance(generator, Language):
        return replace(generator, table=_limited(generator.table, max_seconds, max_memory))
    if not isinstance(generator, Marginals):
        raise ModelError("max_seconds and max_memory: only marginals models keep to such limits")
    seconds = generator.max_seconds if max_seconds is None else max_seconds
    return replace(
        generator, max_seconds=seconds, max_memory=generator.max_memory if max_memory is None else max_memory
    )


def _device(device: str) -> str:
    import torch

    if device != "auto":
        try:
            return str(torch.device(device))
        except RuntimeError:
            raise ModelError("device must be 'auto', 'cpu', 'cuda' or another name that torch knows") from None
    return "cuda" if torch.cuda.is_available() else "cpu"


def _check_generator(rows: Snapshot, generator: Generator, schema: Schema | None, unit: str | None) -> None:
    if isinstance(rows, SparkRows) and isinstance(generator, TextGenerator):
        # Machines that differ give one text embeddings that differ in their last bits, and rounding would make whole steps of that.
        raise ModelError("texts of a Spark DataFrame are not written; pass model='marginals', which leaves them empty")
    if isinstance(rows, SparkRows) and isinstance(generator, Training):
        raise ModelError(NO_ROWS)
    if isinstance(generator, TextGenerator):
        by_type = {source.name: declared(source, schema) for source in rows.columns if source.name != unit}
        for name in generator.conditions or ():
            if name not in by_type:
                raise ModelError(f"condition: there is no column {name!r}, or it names the privacy unit")
            column = by_type[name]
            if column.kind in (*LINES, "text", "id") or column.role == "identifier":
                raise ModelError(f"condition: {name!r} is not a column of labels; declare it categorical if it is")
        known = [c for c in by_type.values() if c.categories is not None]
        generator.require_few([LabelCells(c.name, tuple(map(as_label, c.categories or ()))) for c in known])


def _check_schema(rows: Snapshot, schema: Schema | None, unit: str | None) -> None:
    sources = {c.name: c for c in rows.columns}
    for column in schema.columns if schema is not None else ():
        if column.name not in sources:
            raise SchemaError(f"the schema's column {column.name!r} is not in the table")
        if column.name != unit and column.role != "identifier":
            check_kind(sources[column.name], column)
    if schema is None or not schema.constraints:
        return
    for constraint in schema.constraints:
        for name in constraint.columns:
            if name == unit:
                raise SchemaError(f"constraint {constraint}: {name!r} names the privacy unit, and is made up")
            if schema[name].kind is None and sources[name].type == "string":
                raise SchemaError(f"constraint {constraint}: {name!r} holds strings; declare its kind in the schema")
    by_type = [declared(source, schema) for source in rows.columns]
    Schema(by_type, schema.constraints)  # refuses what does not go with the types that the source says


def _detector(rows: Snapshot, schema: Schema | None, unit: str | None, patterns_only: bool) -> Detector | None:
    """The PII detector, if a column needs it: loaded before anything is reserved, so that it fails without cost."""

    def needed(source: SourceColumn) -> bool:
        column = schema[source.name] if schema is not None and source.name in schema else None
        text = column is not None and column.kind == "text" and column.role != "identifier"
        return source.name != unit and (text or needs_votes(source, schema))

    if not any(map(needed, rows.columns)):
        return None
    from dpsynth.privacy.pii import load_detector

    return load_detector("patterns" if patterns_only else "full")


def _refuse_synthetic(maker: str | None, allowed: bool) -> None:
    """Training on synthetic data loses tails and rare groups with each generation; it must be asked for."""
    if maker is not None and not allowed:
        raise SchemaError("this table was made by dpsynth; pass allow_synthetic=True to learn from synthetic data")


def _public(
    rows: Snapshot, schema: Schema | None, unit: str | None, max_rows: int, maker: str | None
) -> tuple[str, ...]:
    """What was taken as public, by name."""
    out = ["names and order of the columns", "that a column holds numbers, times, truth values or strings"]
    if maker is not None:
        out.append(f"the rows are synthetic themselves: made by {maker}")
    out += [f"{c.name}: whole numbers, by the file's type" for c in rows.columns if c.type == "integer"]
    if unit is not None:
        out.append(f"{unit} names the privacy unit; a unit contributes at most {max_rows} rows")
    for column in schema.columns if schema is not None else ():
        if column.declared:
            out.append(f"{column.name}: {', '.join(column.declared)} (declared)")
    out += [f"{constraint} (declared)" for constraint in (schema.constraints if schema is not None else ())]
    return tuple(out)


def _said(writing: TextGenerator | None, texts: Collection[str]) -> tuple[str, ...]:
    """What the model's settings say of texts that are written."""
    return writing.public if writing is not None and texts else ()


def _version() -> str:
    from dpsynth import __version__

    return __version__
