"""The owner's report: real against synthetic. Marked as private on every screenful."""

from __future__ import annotations

import numpy as np

from dpsynth.fidelity import FidelityReport
from dpsynth.privacy.source import FloatArray
from dpsynth.report import page, plots
from dpsynth.report.terminal import summary


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
    )


def _square(report: FidelityReport, names: list[str], which: str) -> FloatArray:
    out = np.eye(len(names))
    place = {name: i for i, name in enumerate(names)}
    for pair in report.pairs:
        i, j = place[pair.first], place[pair.second]
        out[i, j] = out[j, i] = getattr(pair, which)
    return out
