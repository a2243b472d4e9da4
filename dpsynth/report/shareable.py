"""The report that goes out with the data. It is made of the statement, the gate's report, the paid-for histograms and the
synthetic table; it never sees a real row."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from markupsafe import Markup

from dpsynth.encode.cells import FineCells, LabelCells
from dpsynth.encode.codec import Codec
from dpsynth.fidelity import evaluate
from dpsynth.gate import GateReport
from dpsynth.models.protocol import TextModel
from dpsynth.privacy.source import Cells, FloatArray, IntArray
from dpsynth.report import page, plots
from dpsynth.report.certificate import tiers
from dpsynth.report.internal import _square
from dpsynth.sources import read
from dpsynth.synthesizer import TEXT_STAGES

if TYPE_CHECKING:
    from dpsynth.synthesizer import Synthesizer

MAX_BARS = 24
# A smaller share of missing cells gets no bar beside those of the numbers.
LEAST_MISSING = 0.001


def render(
    synth: Synthesizer, table: pd.DataFrame, gate: GateReport, *, recipient: str | None, purpose: str | None
) -> str:
    """HTML of the shareable report on one synthetic table."""
    cells = read(table).cells
    return page.render(
        "shareable.html.j2",
        title="A synthetic table, and what is known of it",
        statement=synth.privacy,
        gate=gate,
        rows=f"{len(table):,}",
        columns=table.shape[1],
        recipient=recipient,
        purpose=purpose,
        budget=plots.stacked_bar(synth.privacy.spent_by_stage()),
        checks=plots.intervals([(c.name, c.value, c.low, c.high, c.threshold) for c in gate.checks if c.threshold]),
        histograms=_histograms(synth, cells, gate),
        facts=list(synth.facts.values()),
        associations=_associations(synth, table),
        pairs=len(synth.tree),
        coverage=_coverage(synth, table, cells),
        stages=_stages(table),
        notes=synth.notes,
        tiers=tiers(synth.privacy, gate.said),
    )


def _histograms(synth: Synthesizer, cells: Mapping[str, Cells], gate: GateReport) -> list[dict[str, Any]]:
    distances = {c.name: f"{max(c.tv1, 0.0):.3f} ± {2 * c.noise:.3f}" for c in gate.columns}
    out = []
    for name, fact in synth.facts.items():
        if fact.codec is None or fact.treatment != "modelled":
            continue
        labels, paid, made = _bars(fact.codec, cells[name])
        plot = plots.overlay(labels, made, paid, ("synthetic", "measured"))
        out.append({"name": name, "plot": plot, "distance": distances.get(name, "not measured")})
    return out


def _coverage(synth: Synthesizer, table: pd.DataFrame, cells: Mapping[str, Cells]) -> list[dict[str, Any]]:
    """Of each column of labels that texts were written for, and of the leaves that texts belong to: by label its share as measured, its
    share here, its texts here."""
    out = []
    for writer in synth.writers:
        texts = (table[writer.column].notna() & (table[writer.column] != "")).to_numpy()
        for name in writer.conditions:
            codec = synth.facts[name].codec
            if codec is not None:
                places = codec.cells.encode(cells[name])
                labels = _labels(writer, codec.cells, codec.shares, places, texts)
                out.append({"text": writer.column, "column": name, "what": "rows", "labels": labels})
        coverage = writer.coverage(list(table.loc[texts, writer.column])) if texts.any() else None
        if coverage is not None:
            leaves, shares, places = coverage
            labels = _labels(writer, leaves, shares, places, np.ones(len(places), bool))
            out.append({"text": writer.column, "column": "leaf", "what": "texts", "labels": labels})
    return out


def _labels(
    writer: TextModel, cells: FineCells, shares: FloatArray, places: IntArray, texts: npt.NDArray[np.bool_]
) -> list[tuple[str, str, str, str]]:
    """(label, share as measured, share here, texts here), by branches of the tree, each after its sum where it has several labels.

    places: of the rows.  texts: which of them have one.
    """
    names, branches = cells.describe(), [writer.branch(label) or "" for label in cells.describe()]
    rows, written = (np.bincount(places[kept], minlength=cells.size) for kept in (slice(None), texts))
    shown = [i for i in range(cells.size) if shares[i] > 0 or rows[i]]
    out = []
    for branch in dict.fromkeys(branches[i] for i in shown):
        within = [i for i in shown if branches[i] == branch]
        parts = [(branch, within)] if branch and len(within) > 1 else []
        parts += [(f"{branch} / {names[i]}" if branch else names[i], [i]) for i in within]
        for label, of in parts:
            here = rows[of].sum() / max(len(places), 1)
            out.append((label, f"{shares[of].sum():.2%}", f"{here:.2%}", f"{written[of].sum():,}"))
    return out


def _stages(table: pd.DataFrame) -> dict[str, list[tuple[str, str, str]]]:
    """Of each column of texts the stages that they went through: (stage, texts that it took away, texts left)."""
    out = {}
    for column, stages in table.attrs.get(TEXT_STAGES, {}).items():
        before = [stages[0][1], *(left for _, left in stages)]
        out[column] = [
            (name, f"{had - left:,}", f"{left:,}") for (name, left), had in zip(stages, before, strict=False)
        ]
    return out


def _bars(codec: Codec, cells: Cells) -> tuple[list[str], FloatArray, FloatArray]:
    """(labels, measured shares, synthetic shares) over at most MAX_BARS cells: groups of a number line, or labels."""
    fine = np.bincount(codec.cells.encode(cells), minlength=codec.cells.size)
    made = fine / max(fine.sum(), 1)
    described = codec.cells.describe()
    if isinstance(codec.cells, LabelCells):
        order = [int(i) for i in np.argsort(-codec.shares, kind="stable") if codec.shares[i] > 0 or made[i] > 0][
            :MAX_BARS
        ]
        return [described[i] for i in order], codec.shares[order], made[order]
    starts = np.flatnonzero(np.diff(codec.groups[:-1], prepend=-1))
    labels = [described[i].split(" to ")[0] for i in starts]
    shares = [np.add.reduceat(s[:-1], starts) if len(starts) else np.zeros(0) for s in (codec.shares, made)]
    if max(codec.shares[-1], made[-1]) < LEAST_MISSING:
        return labels, shares[0], shares[1]
    return [*labels, "(missing)"], np.append(shares[0], codec.shares[-1]), np.append(shares[1], made[-1])


def _associations(synth: Synthesizer, table: pd.DataFrame) -> Markup:
    modelled = [name for name, fact in synth.facts.items() if fact.treatment == "modelled"]
    if len(modelled) < 2 or len(table) < 2:
        return Markup("<p>Too few columns or rows.</p>")
    # The synthetic table compared with itself: only its own associations are used.
    report = evaluate(table[modelled], table[modelled], holdout=table[modelled], learners=False, texts=False)
    names = [c.name for c in report.columns]
    return plots.heat_map(names, _square(report, names, "synthetic"))
