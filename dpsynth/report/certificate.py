"""The certificate: a privacy statement for reading, from its top (epsilon and unit) down to what no epsilon covers.

The order is the pyramid of NIST SP 800-226: a guarantee is worth no more than what it stands on. The rows under each tier are the
fields that the public registry of differential-privacy deployments (OpenDP, NIST) asks for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dpsynth.privacy.meaning import profile
from dpsynth.privacy.statement import (
    ASSUMPTIONS,
    COLLECTION,
    COMPOSITION,
    DEPLOYMENT,
    FLAVOUR,
    POST_PROCESSING,
    UNPROTECTED,
    History,
    PrivacyStatement,
)
from dpsynth.report import page, plots

if TYPE_CHECKING:
    from rich.console import Group

NOT_SAID = "not said"


@dataclass(frozen=True, slots=True)
class Tier:
    """One tier of the pyramid: label -> what stands there, a text or several."""

    title: str
    lines: dict[str, str | tuple[str, ...]]


def tiers(statement: PrivacyStatement, gate: str | None = None) -> tuple[Tier, ...]:
    """The certificate's text. gate: the verdict on what is released, where there is one."""
    return (
        Tier("Guarantee", _guarantee(statement)),
        Tier("Privacy unit", _unit(statement)),
        Tier("Release", _release(statement)),
        Tier("Algorithms and correctness", _accounting(statement)),
        Tier(
            "Utility",
            {
                "fidelity gate": gate or statement.terms.gate or "judged when a table is released",
                "paid for": "measured during the run, from the same budget",
            },
        ),
        Tier("Security and side channels", _security(statement)),
        Tier("Trust", {"deployment model": DEPLOYMENT, "assumptions": ASSUMPTIONS}),
        Tier("Spent on this data set in all", _history(statement)),
        Tier(
            "Data and its collection",
            {"taken as public": statement.public, "unprotected": UNPROTECTED, "not covered": COLLECTION},
        ),
    )


def render(statement: PrivacyStatement) -> str:
    """HTML of the certificate by itself: no script, no network."""
    return page.render(
        "certificate.html.j2",
        title="Privacy certificate",
        statement=statement,
        tiers=tiers(statement),
        budget=plots.stacked_bar(statement.spent_by_stage()),
    )


def certificate_tables(statement: PrivacyStatement) -> Group:
    """The certificate in a terminal."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    shown: list[Text | Table] = [Text(statement.sentence())]
    shown += [Text.assemble(("! ", "bold yellow"), text) for text in statement.warnings.values()]
    for tier in tiers(statement):
        table = Table(title=tier.title, title_justify="left", show_header=False, box=None, padding=(0, 2, 0, 0))
        table.add_column(style="dim", max_width=24)
        table.add_column(overflow="fold")
        for label, value in tier.lines.items():
            table.add_row(label, Text(value if isinstance(value, str) else "\n".join(f"- {v}" for v in value)))
        shown += [Text(""), table]
    return Group(*shown)


def _guarantee(statement: PrivacyStatement) -> dict[str, str | tuple[str, ...]]:
    meaning = statement.meaning
    return {
        "epsilon": f"{statement.epsilon:g} at delta {statement.delta:g}",
        "in words": meaning.words(),
        "flavour": FLAVOUR,
        "why this delta": statement.delta_reason,
        "at other deltas": _at(meaning.epsilon_at),
        "Gaussian-DP mu": f"{statement.mu:.4g}",
        "attack gains at most": meaning.gains,
        "attack misses at least": f"{meaning.misses} at 1% false positives",
    }


def _unit(statement: PrivacyStatement) -> dict[str, str | tuple[str, ...]]:
    many = (
        "" if statement.units is None else f"about {max(statement.units, 0):,.0f}, counted under differential privacy"
    )
    return {
        "unit": "one row" if statement.unit == "row" else f"all rows of one {statement.unit}",
        "rows of a unit": f"at most {statement.max_rows_per_unit} are used",
        "neighbouring tables": statement.neighbours,
        "units": many or NOT_SAID,
    }


def _release(statement: PrivacyStatement) -> dict[str, str | tuple[str, ...]]:
    terms = statement.terms
    return {
        "product": "synthetic table",
        "made": statement.created,
        "curator": terms.curator or NOT_SAID,
        "contact": terms.contact or NOT_SAID,
        "recipient": terms.recipient or NOT_SAID,
        "intended use": terms.purpose or NOT_SAID,
        "until": terms.expires or "no end given",
    }


def _accounting(statement: PrivacyStatement) -> dict[str, str | tuple[str, ...]]:
    return {
        "queries": f"{len(statement.events)}, each listed with its sensitivity and noise in privacy.json",
        "recomputed epsilon": f"{statement.recomputed_epsilon:.6g} at delta {statement.delta:g}",
        "accountant": f"dpsynth {statement.version}: {profile(statement.events).method}",
        "composition": COMPOSITION,
        "post-processing": POST_PROCESSING,
    }


def _security(statement: PrivacyStatement) -> dict[str, str | tuple[str, ...]]:
    told = {key.replace("_", " "): value for key, value in statement.mechanism.items()}
    return {"test seed": "USED: NOT PRIVATE" if statement.insecure else "none", **told}


def _history(statement: PrivacyStatement) -> dict[str, str | tuple[str, ...]]:
    out: dict[str, str | tuple[str, ...]] = {"data set": statement.dataset}
    out |= {"run": statement.run, "ledger head": statement.ledger_head}
    spent = statement.history
    return out if spent is None else out | _spent(spent)


def _spent(spent: History) -> dict[str, str | tuple[str, ...]]:
    meaning = spent.meaning
    return {
        "runs": f"{spent.runs}, this one included",
        "epsilon in all": f"{page.epsilon(spent.cost.epsilon(spent.delta))} at delta {spent.delta:g}",
        "at several deltas": _at(meaning.epsilon_at),
        "attack gains at most": f"{meaning.gains} with all of them in hand",
        "cap": "none" if spent.cap is None else f"epsilon {spent.cap[0]:g} at delta {spent.cap[1]:g}",
    }


def _at(epsilons: Sequence[tuple[float, float]]) -> str:
    return "; ".join(f"{page.epsilon(epsilon)} at {delta:g}" for delta, epsilon in epsilons)
