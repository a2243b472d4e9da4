"""The privacy statement: what was spent on what, and what that promises.

It carries every event of the run, so that anyone can add them up again without trusting who wrote it: every figure that follows
from others is recomputed where a statement is read, and a file that claims another is refused.

The groups of its JSON follow the tiers of the public registry of differential-privacy deployments (OpenDP and NIST): who released
what, when and for whom (`release`); flavour, parameters and unit (`guarantee`, `unit`, `trust`); unprotected quantities, accounting
and implementation (`public`, `accounting`, `implementation`, `history`). NIST SP 800-226 gives the order in which reports show them.
"""

from __future__ import annotations

import html
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from dpsynth.privacy.accounting import Cost, cost_of, require_budget
from dpsynth.privacy.errors import PrivacyError
from dpsynth.privacy.events import Event, from_json, leaves, to_json
from dpsynth.privacy.meaning import Meaning, budget_warnings, finite, meaning_of_cost, meaning_of_events, profile

FORMAT = "dpsynth-privacy/2"
NOT_PRIVATE = "NOT PRIVATE: an insecure test seed was used, so the noise can be repeated and taken off again."
FLAVOUR = "approximate differential privacy (epsilon, delta)"
DEPLOYMENT = "central: one trusted owner holds the rows; everything that leaves their hands is covered"
UNPROTECTED = (
    "nothing else: no count, total, range or value of the rows is given exactly, not even how many rows there are; but the "
    "data set's id and history show whether two runs had the same rows or name"
)
COMPOSITION = (
    "all events of the run, adaptively chosen, held under the reserved cost by a filter; runs on the data set add up"
)
POST_PROCESSING = (
    "the model's fit, every sample, the gate's verdict, reports and releases are made from the events' answers alone"
)
ASSUMPTIONS = (
    "what is listed as public would be known without the rows",
    "the column that names the unit names each of them once; who goes by two ids is two units",
    "the owner's computer, ledger and key are not in the attacker's hands, and nobody times the run or watches its memory",
    "the operating system's random numbers cannot be predicted",
    "every earlier run on these rows stands in the same ledger",
    "neither the rows nor the parameters were chosen by looking at the rows",
)
COLLECTION = (
    "No epsilon covers how the rows were collected, who else holds them, or what was published of them by other means."
)
# Figures that are recomputed may differ by this much, relatively: the last digits of a sum.
_ROUNDING = 1e-6


@dataclass(frozen=True, kw_only=True, slots=True)
class History:
    """What the data set has cost in all when the run was booked, this run included; from the ledger.

    runs: how many were booked.  cost: their sum.  delta: at which epsilon is given.  cap: (epsilon, delta) that no set of runs may
    pass, where one is set.
    """

    runs: int
    cost: Cost
    delta: float
    cap: tuple[float, float] | None = None

    @property
    def meaning(self) -> Meaning:
        return meaning_of_cost(self.cost, self.delta)

    def to_json(self) -> dict[str, Any]:
        return {
            "runs": self.runs,
            "cost": self.cost.to_json(),
            "delta": self.delta,
            "cap": None if self.cap is None else {"epsilon": self.cap[0], "delta": self.cap[1]},
            "epsilon": finite(self.cost.epsilon(self.delta)),
            **self.meaning.to_json(),
        }

    @classmethod
    def from_json(cls, obj: Mapping[str, Any]) -> History:
        cap = obj["cap"]
        return cls(
            runs=int(obj["runs"]),
            cost=Cost.from_json(obj["cost"]),
            delta=float(obj["delta"]),
            cap=None if cap is None else (float(cap["epsilon"]), float(cap["delta"])),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Terms:
    """Who releases to whom, for what and for how long; filled in at release, each as the owner wrote it.

    gate: the fidelity gate's verdict, and whether the owner accepted that it is inconclusive.
    """

    curator: str | None = None
    contact: str | None = None
    recipient: str | None = None
    purpose: str | None = None
    expires: str | None = None
    gate: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class PrivacyStatement:
    """The guarantee of one run.

    epsilon, delta: everything released is (epsilon, delta)-DP under `neighbours`.  unit: "row", or the column that names the
    unit, of which each contributes at most max_rows_per_unit rows.  units: how many there are, as counted under DP.
    events: every query, in order.  public: what was taken as public, in words.
    dataset, run, ledger_head: where the ledger has it.  history: what the data set has cost in all.
    insecure: a test seed was used; then nothing here holds.
    mechanism: how noise is drawn, by subject, in words.  terms: of the release; empty before.
    """

    epsilon: float
    delta: float
    unit: str
    max_rows_per_unit: int
    neighbours: str
    units: float | None = None
    events: tuple[Event, ...]
    public: tuple[str, ...]
    dataset: str
    run: str
    ledger_head: str
    history: History | None = None
    insecure: bool
    mechanism: dict[str, str]
    version: str
    created: str
    terms: Terms = Terms()

    def __repr__(self) -> str:
        mark = "NOT PRIVATE, " if self.insecure else ""
        return f"PrivacyStatement({mark}epsilon {self.epsilon:g}, delta {self.delta:g}, {len(self.events)} events)"

    @property
    def recomputed_epsilon(self) -> float:
        """Epsilon at `delta` by adding up the events anew."""
        return profile(self.events).epsilon(self.delta)

    @property
    def meaning(self) -> Meaning:
        """Epsilon at several deltas, and what an attack can gain."""
        return meaning_of_events(self.events, self.delta)

    @property
    def mu(self) -> float:
        """Gaussian-DP parameter that bounds the run, but for a chance of `cost_of(events).delta`."""
        return math.sqrt(cost_of(self.events).mu_squared)

    @property
    def attack_advantage(self) -> float:
        """Bound on true-positive rate minus false-positive rate of any attack on one unit's membership."""
        return self.meaning.advantage

    @property
    def warnings(self) -> dict[str, str]:
        """What a reader must know before trusting the numbers, by name; empty where there is nothing."""
        seed = {"not private": NOT_PRIVATE} if self.insecure else {}
        return seed | budget_warnings(self.epsilon, self.delta, self.units)

    @property
    def delta_reason(self) -> str:
        """Why delta is what it is."""
        why = "fixed before a row was read, never from their number"
        if self.units is None or self.units < 1:
            return why
        return f"{why}; {self.delta * self.units:.2g} of 1 over the about {self.units:,.0f} units (a noisy count)"

    def spent_by_stage(self) -> dict[str, float]:
        """Share of the run by stage, in order of first use; sums to 1."""
        return shares_by_stage(self.events)

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

    def under(self, **terms: str | None) -> PrivacyStatement:
        """The statement as it goes out with a release, with the terms that are known (fields of `Terms`)."""
        return replace(self, terms=replace(self.terms, **terms))

    def to_json(self) -> dict[str, Any]:
        """In groups; see the module's docstring. Numbers in `guarantee` beside epsilon and delta follow from the events."""
        return {
            "format": FORMAT,
            "guarantee": {
                "flavour": FLAVOUR,
                "epsilon": self.epsilon,
                "delta": self.delta,
                "delta_reason": self.delta_reason,
                "mu": self.mu,
                **self.meaning.to_json(),
                "warnings": self.warnings,
            },
            "unit": {
                "unit": self.unit,
                "max_rows_per_unit": self.max_rows_per_unit,
                "neighbours": self.neighbours,
                "noisy_number_of_units": self.units,
            },
            "release": {"product": "synthetic table", "created": self.created, **asdict(self.terms)},
            "public": {"taken_as_public": list(self.public), "unprotected": UNPROTECTED},
            "accounting": {
                "method": profile(self.events).method,
                "composition": COMPOSITION,
                "post_processing": POST_PROCESSING,
                "recomputed_epsilon": finite(self.recomputed_epsilon),
                "events": [to_json(e) for e in self.events],
            },
            "implementation": {"dpsynth": self.version, "insecure": self.insecure, **self.mechanism},
            "trust": {"deployment": DEPLOYMENT, "assumptions": list(ASSUMPTIONS), "collection": COLLECTION},
            "history": {
                "dataset": self.dataset,
                "run": self.run,
                "ledger_head": self.ledger_head,
                "spent": None if self.history is None else self.history.to_json(),
            },
        }

    @classmethod
    def from_json(cls, obj: dict[str, Any]) -> PrivacyStatement:
        """Inverse of `to_json`. Raises PrivacyError where the events cost more than the statement claims, or a figure in it is
        not what follows from them."""
        if not isinstance(obj, dict) or obj.get("format") != FORMAT:
            raise PrivacyError(f"not a privacy statement (expected format {FORMAT!r})")
        try:
            statement = cls(**_fields(obj))
            again = statement.to_json()
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise PrivacyError("the privacy statement has missing or unknown fields") from error
        require_budget(statement.epsilon, statement.delta)
        if not statement.recomputed_epsilon <= statement.epsilon * (1 + _ROUNDING):
            raise PrivacyError("the privacy statement's events cost more than the epsilon it claims")
        if (where := _first_difference(obj, again)) is not None:
            raise PrivacyError(f"the privacy statement's {where} is not what follows from its events")
        if statement.history is not None:
            _require_covered(statement.history, statement.events)
        return statement

    @classmethod
    def load(cls, path: str | Path) -> PrivacyStatement:
        """A saved statement. Raises PrivacyError as `from_json` does, and where the file cannot be read."""
        try:
            obj = json.loads(Path(path).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            raise PrivacyError(f"no privacy statement can be read from {path}") from None
        return cls.from_json(obj)

    def save(self, path: str | Path) -> None:
        Path(path).write_text(json.dumps(self.to_json(), indent=1, allow_nan=False) + "\n", encoding="utf-8")

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><td>{html.escape(stage)}</td><td>{share:.1%}</td></tr>"
            for stage, share in self.spent_by_stage().items()
        )
        warned = "".join(f"<p><b>{html.escape(text)}</b></p>" for text in self.warnings.values())
        table = f"<table><tr><th>stage</th><th>share</th></tr>{rows}</table>"
        return f"<p>{html.escape(self.sentence())}</p>{warned}{table}"


def stage_of(event: Event) -> str:
    """The stage of an event; of branches that see disjoint units the names of all their stages."""
    return " + ".join(dict.fromkeys(leaf.stage for leaf in leaves(event))) or "nothing"


def shares_by_stage(events: tuple[Event, ...]) -> dict[str, float]:
    """Share of mu^2 (see `accounting.Cost`) by stage, in order of first use; sums to 1.

    Branches that see disjoint units cost the dearest of them together.
    """
    costs: dict[str, float] = {}
    for event in events:
        stage = stage_of(event)
        costs[stage] = costs.get(stage, 0.0) + cost_of([event]).mu_squared
    total = math.fsum(costs.values())
    return {stage: cost / total for stage, cost in costs.items()} if total > 0 else {}


def _fields(obj: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of a statement from the groups of its JSON."""
    guarantee, unit, history = obj["guarantee"], obj["unit"], obj["history"]
    mechanism = {k: v for k, v in obj["implementation"].items() if k not in ("dpsynth", "insecure")}
    units, spent = unit["noisy_number_of_units"], history["spent"]
    return {
        "epsilon": guarantee["epsilon"],
        "delta": guarantee["delta"],
        "unit": unit["unit"],
        "max_rows_per_unit": unit["max_rows_per_unit"],
        "neighbours": unit["neighbours"],
        "units": units,
        "events": tuple(from_json(e) for e in obj["accounting"]["events"]),
        "public": tuple(obj["public"]["taken_as_public"]),
        "dataset": history["dataset"],
        "run": history["run"],
        "ledger_head": history["ledger_head"],
        "history": None if spent is None else History.from_json(spent),
        "insecure": obj["implementation"]["insecure"],
        "mechanism": mechanism,
        "version": obj["implementation"]["dpsynth"],
        "created": obj["release"]["created"],
        "terms": Terms(**{f.name: obj["release"][f.name] for f in fields(Terms)}),
    }


def _first_difference(given: Any, own: Any, path: str = "") -> str | None:
    """Where a statement's JSON differs from what its own events give, but for the wording of texts; None where nowhere."""
    if isinstance(own, dict):
        if not isinstance(given, dict) or given.keys() != own.keys():
            return path or "set of groups"
        steps = ((f"{path}.{k}" if path else k, given[k], own[k]) for k in own)
    elif isinstance(own, list):
        texts = bool(own) and isinstance(own[0], str)
        if not isinstance(given, list) or (len(given) != len(own) and not texts):
            return path
        steps = ((f"{path}[{i}]", g, o) for i, (g, o) in enumerate(zip(given, own, strict=False)))
    elif isinstance(own, str):
        return None if isinstance(given, str) else path
    else:
        return None if _same(given, own) else path
    return next((found for step, g, o in steps if (found := _first_difference(g, o, step)) is not None), None)


def _same(given: Any, own: Any) -> bool:
    if isinstance(own, bool) or own is None:
        return given is own
    return (
        isinstance(given, int | float)
        and not isinstance(given, bool)
        and math.isclose(given, own, rel_tol=_ROUNDING, abs_tol=1e-12)
    )


def _require_covered(history: History, events: tuple[Event, ...]) -> None:
    """A data set cannot have cost less than one of its runs."""
    own = cost_of(events)
    if (
        history.runs < 1
        or history.cost.mu_squared * (1 + _ROUNDING) < own.mu_squared
        or history.cost.delta * (1 + _ROUNDING) < own.delta
    ):
        raise PrivacyError("the privacy statement's history costs less than its own events")
