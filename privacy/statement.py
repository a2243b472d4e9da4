"""The privacy statement: what was spent on what, and what that promises.

It carries every event of the run, so that anyone can add them up again without trusting who wrote it.
"""

from __future__ import annotations

import html
import json
import math
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from dpsynth.privacy.accounting import cost_of
from dpsynth.privacy.errors import PrivacyError
from dpsynth.privacy.events import Event, from_json, to_json

FORMAT = "dpsynth-privacy/1"
NOT_PRIVATE = "NOT PRIVATE: an insecure test seed was used, so the noise can be repeated and taken off again."
# A recomputed epsilon may exceed the claimed one by this much, relatively: the last digits of a sum.
_ROUNDING = 1e-6


@dataclass(frozen=True, kw_only=True, slots=True)
class PrivacyStatement:
    """The guarantee of one run.

    epsilon, delta: everything released is (epsilon, delta)-DP under `neighbours`.  unit: "row", or the column that names the
    unit, of which each contributes at most max_rows_per_unit rows.  events: every query, in order.
    public: what was taken as public, in words.  dataset, run, ledger_head: where the ledger has it.
    insecure: a test seed was used; then nothing here holds.
    """

    epsilon: float
    delta: float
    unit: str
    max_rows_per_unit: int
    neighbours: str
    events: tuple[Event, ...]
    public: tuple[str, ...]
    dataset: str
    run: str
    ledger_head: str
    insecure: bool
    mechanism: dict[str, str]
    version: str
    created: str

    def __repr__(self) -> str:
        mark = "NOT PRIVATE, " if self.insecure else ""
        return f"PrivacyStatement({mark}epsilon {self.epsilon:g}, delta {self.delta:g}, {len(self.events)} events)"

    @property
    def recomputed_epsilon(self) -> float:
        """Epsilon at `delta` by adding up the events anew."""
        return cost_of(self.events).epsilon(self.delta)

    @property
    def attack_advantage(self) -> float:
        """Bound on true-positive rate minus false-positive rate of any attack on one unit's membership."""
        return math.erf(math.sqrt(cost_of(self.events).mu_squared) / (2 * math.sqrt(2))) + cost_of(self.events).delta

    def spent_by_stage(self) -> dict[str, float]:
        """Share of the squared Gaussian-DP parameter by stage, in order of first use; sums to 1."""
        total = cost_of(self.events).mu_squared
        out: dict[str, float] = {}
        for event in self.events:
            out[event.stage] = out.get(event.stage, 0.0) + event.mu_squared / total
        return out

    def sentence(self) -> str:
        """The guarantee in plain words."""
        who = "row" if self.unit == "row" else f"unit (one {self.unit}, at most {self.max_rows_per_unit} rows)"
        text = (
            f"Adding or removing any one {who} changes the probability of anything in this release by a factor of at most "
            f"e^{self.epsilon:g} = {math.exp(min(self.epsilon, 700)):,.2f}, but for a chance of {self.delta:g}. Whoever tries to "
            f"tell whether one of them was in the data gains at most {self.attack_advantage:.1%} over guessing. "
            f"This covers all {len(self.events)} queries: learning the schema, the model, the fidelity gate and this report."
        )
        return f"{NOT_PRIVATE} {text}" if self.insecure else text

    def to_json(self) -> dict[str, Any]:
        out: dict[str, Any] = {"format": FORMAT}
        for f in fields(self):
            out[f.name] = getattr(self, f.name)
        return out | {"events": [to_json(e) for e in self.events], "public": list(self.public)}

    @classmethod
    def from_json(cls, obj: dict[str, Any]) -> PrivacyStatement:
        """Inverse of `to_json`. Raises PrivacyError where the events cost more than the statement claims."""
        if not isinstance(obj, dict) or obj.get("format") != FORMAT:
            raise PrivacyError(f"not a privacy statement (expected format {FORMAT!r})")
        body = {k: v for k, v in obj.items() if k != "format"}
        try:
            body["events"] = tuple(from_json(e) for e in body["events"])
            body["public"] = tuple(body["public"])
            statement = cls(**body)
        except (KeyError, TypeError) as error:
            raise PrivacyError("the privacy statement has missing or unknown fields") from error
        if not statement.recomputed_epsilon <= statement.epsilon * (1 + _ROUNDING):
            raise PrivacyError("the privacy statement's events cost more than the epsilon it claims")
        return statement

    def save(self, path: str | Path) -> None:
        Path(path).write_text(json.dumps(self.to_json(), indent=1) + "\n", encoding="utf-8")

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><td>{html.escape(stage)}</td><td>{share:.1%}</td></tr>"
            for stage, share in self.spent_by_stage().items()
        )
        return f"<p>{html.escape(self.sentence())}</p><table><tr><th>stage</th><th>share</th></tr>{rows}</table>"
