"""The owner's reports: real against synthetic, and what generations of models leave. Marked as private on every screenful."""

from __future__ import annotations

from typing import Any

import numpy as np

from dpsynth.fidelity import Collapse, FidelityReport
from dpsynth.privacy.source import FloatArray
from dpsynth.report import page, plots
from dpsynth.report.terminal import summary, text_lines


def render(report: FidelityReport) -> str:
    """HTML of the internal report."""
    names = [c.name for c in report.columns]
    return page.render(
        "internal.html.j2",
        title="Fidelity, for the owner",
        report=report,
        summary=[(m.label, own, best, worst if m.of_dependence else None) for m, own, best, worst in summary(report)],
        real=plots.heat_map(names, _square(report, names, "real")),
        synthetic=plots.heat_map(names, _square(report, names, "synthetic")),
        texts=[(score, text_lines(score)) for score in report.texts],
        **_generations(report.generations),
    )


# What is drawn of each generation: field of `Decay`, heading, what it says.
CURVES = (
    ("variance", "variance", "of the median column of numbers"),
    ("tails", "tails", "rows in the outer 1% at each end"),
    ("rare", "rare groups", "that keep at least half of their share"),
    ("dependence", "dependence", "correlations and associations"),
)


def render_collapse(found: Collapse) -> str:
    """HTML of the generations alone."""
    return page.render(
        "collapse.html.j2", title="What generations of models leave, for the owner", **_generations(found)
    )


def _generations(found: Collapse | None) -> dict[str, Any]:
    """What the template of the generations takes."""
    if found is None:
        return {"generations": None, "curves": []}
    lines = {"alone": found.alone} | ({"mixed": found.mixed} if found.mixed else {})
    curves = []
    for field, heading, about in CURVES:
        series = {name: [getattr(d, field) for d in decays] for name, decays in lines.items()}
        best = getattr(found.ceiling, field)
        if best is not None and not any(None in values for values in series.values()):
            named = {NAMES[name]: values for name, values in series.items()}
            curves.append({"heading": heading, "about": about, "plot": plots.lines(named, best)})
    return {"generations": found, "curves": curves, "names": [NAMES[name] for name in lines]}


def figure(found: Collapse) -> str:
    """The generations as a picture that stands alone, for a document."""
    drawn = _generations(found)
    panels = [(str(c["heading"]), str(c["about"]), c["plot"]) for c in drawn["curves"]]
    return plots.panels(panels, drawn["names"])


NAMES = {"alone": "from the generation before alone", "mixed": "together with the real rows"}


def _square(report: FidelityReport, names: list[str], which: str) -> FloatArray:
    out = np.eye(len(names))
    place = {name: i for i, name in enumerate(names)}
    for pair in report.pairs:
        i, j = place[pair.first], place[pair.second]
        out[i, j] = out[j, i] = getattr(pair, which)
    return out
