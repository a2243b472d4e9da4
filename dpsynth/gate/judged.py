"""The verdict on a synthetic table. Free: it reads that table and what was measured during the fit; no private row.

Each noisy check has one-sided bounds; a check passes where the whole of its interval does, fails where none of it does, and is
inconclusive in between. The bounds of all checks hold together with the gate's confidence (Bonferroni).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from dpsynth.encode.codec import Codec
from dpsynth.gate.measured import GateMeasurement, GroupsMeasured, PairMeasured
from dpsynth.gate.output import OutputCheck, output_checks
from dpsynth.gate.tables import Compared, Reference, drift, still
from dpsynth.privacy.source import FloatArray, IntArray

if TYPE_CHECKING:
    import pandas as pd

    from dpsynth.synthesizer import Synthesizer

Verdict = Literal["pass", "fail", "inconclusive"]

_ORDINALS = {1: "first", 2: "second", 3: "third"}
MEAN_1, MEAN_2 = "columns: mean 1-way TVD", "pairs: mean 2-way TVD"


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """One check: a value with its confidence interval against a threshold.

    needed: about how many units would decide it, where it is inconclusive.
    """

    name: str
    value: float
    low: float
    high: float
    threshold: float
    verdict: Verdict
    detail: str
    needed: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class ColumnCheck:
    """Distances of one column, with the sd of their noise."""

    name: str
    tv1: float
    tv2: float
    noise: float


@dataclass(frozen=True, kw_only=True, slots=True)
class GateReport:
    """The verdict on one synthetic table. Shareable: made of DP measurements and the synthetic table alone.

    accepted: the owner released the table although the verdict is inconclusive.
    """

    verdict: Verdict
    checks: tuple[Check, ...]
    columns: tuple[ColumnCheck, ...]
    accepted: bool = False

    @property
    def said(self) -> str:
        """The verdict in words."""
        return f"{self.verdict}, accepted by the owner" if self.accepted else self.verdict

    @property
    def booked(self) -> dict[str, Any]:
        """What the ledger keeps of it."""
        return {"verdict": self.verdict, "checks": {c.name: c.verdict for c in self.checks}}

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def judge(synth: Synthesizer, table: pd.DataFrame, reference: Reference | None = None) -> GateReport:
    """The verdict on a synthetic table: passes only where the whole confidence interval of each check does.

    reference: of the synthesizer, where it is known already: otherwise it is drawn anew.  A table other than the one that was measured is held to the distance between the two on top (triangle inequality).
    """
    return report_on(synth.gate, synth.compared(table, reference), output_checks(synth.domain, table))


def of_reference(m: GateMeasurement, codecs: Sequence[Codec], codes: IntArray, weights: FloatArray) -> GateReport:
    """The verdict on the very table that was measured, before its cells become values."""
    compared = Compared(codecs=tuple(codecs), reference=codes, coded=codes, weights=(weights, weights))
    return report_on(m, compared, ())


def report_on(m: GateMeasurement, compared: Compared | None, found: Iterable[OutputCheck]) -> GateReport:
    """The verdict from its parts. compared: the table that is judged; None where it has no modelled column or row."""
    checks = [*measured_checks(m, compared), *map(_certain, found)]
    pairs = m.tv2 or (0.0,) * len(m.columns)
    columns = tuple(
        ColumnCheck(name=name, tv1=tv1, tv2=tv2, noise=m.sigma)
        for name, tv1, tv2 in zip(m.columns, m.tv1, pairs, strict=True)
        if not name.startswith("\x00")
    )
    return GateReport(verdict=worst(c.verdict for c in checks), checks=tuple(checks), columns=columns)


def worst(verdicts: Iterable[Verdict]) -> Verdict:
    """The verdict on all from the verdicts on each."""
    found = set(verdicts)
    return "fail" if "fail" in found else "inconclusive" if "inconclusive" in found else "pass"


def measured_checks(m: GateMeasurement, compared: Compared | None) -> list[Check]:
    """The checks that rest on noisy values."""
    from scipy.special import ndtri

    bounds = 1 + bool(m.tv2) + len(m.pairs) + sum(len(g.names) for g in m.groups)
    z = -float(ndtri((1 - m.gate.confidence) / bounds))
    drift1, drift2 = (
        (0.0, 0.0) if compared is None else drift(compared.codecs, compared.reference, compared.coded, compared.weights)
    )
    d = len(m.columns)
    sigma, lost = m.sigma / math.sqrt(d), m.gate.max_lost
    checks = [_tv_check(m, MEAN_1, float(np.mean(m.tv1)), (z * sigma, drift1), m.gate.max_tv1, m.floor1)]
    if m.tv2:
        allowed = min(m.gate.max_tv2, still(m.independent - m.floor2, lost))
        noise = z * math.hypot(sigma, lost * m.independent_sigma)
        checks.append(_tv_check(m, MEAN_2, float(np.mean(m.tv2)), (noise, drift2), allowed, m.floor2))
    for pair in m.pairs:
        moved = 0.0 if compared is None else compared.drift((pair.first, pair.second))
        checks.append(_pair_check(m, pair, z, moved))
    checks += [_group_check(m, groups, z, compared) for groups in m.groups]
    if m.gate.candidates > 1:
        checks.append(_candidate_check(m))
    if m.unwatched:
        checks.append(_unwatched(m.unwatched))
    return checks


def _candidate_check(m: GateMeasurement) -> Check:
    """What the first look at the candidates said. None within the limit may be the noise's doing: it fails nothing."""
    tried = m.candidate or m.gate.candidates
    found = (
        f"the {_ORDINALS.get(tried, f'{tried}th')} was the first that looked close enough"
        if m.candidate
        else "none looked close enough"
    )
    return Check(
        name="candidates: first look",
        value=float(tried),
        low=float(tried),
        high=float(tried),
        threshold=0.0,
        verdict="pass" if m.candidate else "inconclusive",
        detail=f"of {m.gate.candidates} tables {found}; the {'last' if not m.candidate else 'same'} was measured",
    )


def _tv_check(
    m: GateMeasurement, name: str, value: float, margins: tuple[float, float], allowed: float, floor: float
) -> Check:
    """margins: of noise, and of another table than the measured one."""
    margin, threshold = sum(margins), allowed + floor
    low, high = max(value - margin, 0.0), value + margin
    verdict = _verdict(low, high, threshold)
    detail = f"{value:.3f} (at most {high:.3f}); allowed {threshold:.3f}, of which chance alone makes {floor:.3f}"
    needed = _needed(m.units, margin, threshold - value) if verdict == "inconclusive" else None
    return Check(
        name=name, value=value, low=low, high=high, threshold=threshold, verdict=verdict, detail=_told(detail, needed), needed=needed
    )  # fmt: skip


def _pair_check(m: GateMeasurement, pair: PairMeasured, z: float, moved: float) -> Check:
    allowed = min(m.gate.max_tv2, still(pair.independent - pair.floor, m.gate.max_lost))
    noise = z * pair.sigma * math.hypot(1.0, m.gate.max_lost)
    name = f"watched pair: TVD of {pair.first} x {pair.second}"
    return _tv_check(m, name, pair.tv, (noise, moved), allowed, pair.floor)


def _group_check(m: GateMeasurement, groups: GroupsMeasured, z: float, compared: Compared | None) -> Check:
    """Whether the groups that are large enough are as many in the output as they are in the rows, within the shortfall allowed."""
    name = f"groups of {' x '.join(groups.columns)}: largest shortfall"
    real, noise, most = np.array(groups.units), z * groups.sigma, m.gate.max_shortfall
    made = np.zeros(len(real)) if compared is None else compared.units(groups.columns, m.units)
    large = np.flatnonzero(real >= m.gate.min_group * m.units)
    if not len(large):
        return Check(
            name=name, value=0.0, low=0.0, high=0.0, threshold=most, verdict="pass", detail="no group is large enough"
        )
    with np.errstate(divide="ignore"):
        short, low, high = (1 - made[large] / np.maximum(real[large] + e, 1e-9) for e in (0.0, -noise, noise))
    verdicts = [_verdict(a, b, most) for a, b in zip(low, high, strict=True)]
    verdict = worst(verdicts)
    i = max((k for k, v in enumerate(verdicts) if v == verdict), key=lambda k: float(short[k]))
    # 1 - made / real <= most, as counts: made >= (1 - most) real.
    gap = float(made[large[i]] - (1 - most) * real[large[i]])
    needed = _needed(m.units, (1 - most) * noise, gap) if verdict == "inconclusive" else None
    detail = f"{groups.names[large[i]]}: {short[i]:.1%} too few (at most {high[i]:.1%}); allowed {most:.0%}; {len(large)} groups watched"
    return Check(
        name=name,
        value=max(float(short[i]), 0.0),
        low=max(float(low[i]), 0.0),
        high=max(float(high[i]), 0.0),
        threshold=most,
        verdict=verdict,
        detail=_told(detail, needed),
        needed=needed,
    )


def _verdict(low: float, high: float, threshold: float) -> Verdict:
    return "pass" if high <= threshold else "fail" if low > threshold else "inconclusive"


def _needed(units: float, margin: float, gap: float) -> int | None:
    """Units at which the noise, the same at every size, would be smaller than the gap between value and threshold."""
    return math.ceil(units * margin / abs(gap)) if gap else None


def _told(detail: str, needed: int | None) -> str:
    return detail if needed is None else f"{detail}; about {needed:,} units would decide it"


def _unwatched(names: tuple[str, ...]) -> Check:
    return Check(
        name="columns to watch",
        value=float(len(names)),
        low=0.0,
        high=float(len(names)),
        threshold=0.0,
        verdict="inconclusive",
        detail=f"not modelled, so not watched: {', '.join(names)}",
    )


def _certain(found: OutputCheck) -> Check:
    """A check of the output alone: any finding fails it."""
    total = float(found.findings)
    verdict: Verdict = "fail" if total else "pass"
    return Check(
        name=found.name, value=total, low=total, high=total, threshold=0.0, verdict=verdict, detail=found.detail
    )
