"""A sensitive table in, a synthetic one out that a partner team may have, under one differential-privacy guarantee.

    import dpsynth

    synth = dpsynth.fit(df, epsilon=1.0)
    synth.sample(10_000)
    dpsynth.release(synth, "for-partner/")

Names are loaded when first used: importing the package costs next to nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dpsynth.bundle import Release, release
    from dpsynth.column import Column
    from dpsynth.constraints import Determines, Impossible, Ordered, Total
    from dpsynth.detect import scan, scrub
    from dpsynth.fidelity import Collapse, FidelityReport, evaluate
    from dpsynth.gate import Gate, GateReport
    from dpsynth.generations import collapse
    from dpsynth.planning import BudgetPlan, plan
    from dpsynth.privacy.errors import (
        BudgetExceeded,
        DpsynthError,
        GateFailed,
        LedgerError,
        ModelError,
        PIIError,
        PrivacyError,
        SchemaError,
        VerificationError,
    )
    from dpsynth.privacy.ledger import Ledger
    from dpsynth.privacy.statement import PrivacyStatement
    from dpsynth.schema import Schema
    from dpsynth.sources.databases import SQL, DuckDB
    from dpsynth.synthesize import fit
    from dpsynth.synthesizer import Synthesizer, load
    from dpsynth.verification import Verification, verify

__version__ = "0.1.0"

_HOME = {
    "dpsynth.column": ("Column",),
    "dpsynth.constraints": ("Determines", "Impossible", "Ordered", "Total"),
    "dpsynth.detect": ("scan", "scrub"),
    "dpsynth.fidelity": ("Collapse", "FidelityReport", "evaluate"),
    "dpsynth.gate": ("Gate", "GateReport"),
    "dpsynth.generations": ("collapse",),
    "dpsynth.planning": ("BudgetPlan", "plan"),
    "dpsynth.privacy.errors": (
        "BudgetExceeded",
        "DpsynthError",
        "GateFailed",
        "LedgerError",
        "ModelError",
        "PIIError",
        "PrivacyError",
        "SchemaError",
        "VerificationError",
    ),
    "dpsynth.privacy.ledger": ("Ledger",),
    "dpsynth.privacy.statement": ("PrivacyStatement",),
    "dpsynth.bundle": ("Release", "release"),
    "dpsynth.schema": ("Schema",),
    "dpsynth.sources.databases": ("SQL", "DuckDB"),
    "dpsynth.synthesize": ("fit",),
    "dpsynth.synthesizer": ("Synthesizer", "load"),
    "dpsynth.verification": ("Verification", "verify"),
}
_MODULE_OF = {name: module for module, names in _HOME.items() for name in names}

__all__ = [
    "SQL",
    "BudgetExceeded",
    "BudgetPlan",
    "Collapse",
    "Column",
    "Determines",
    "DpsynthError",
    "DuckDB",
    "FidelityReport",
    "Gate",
    "GateFailed",
    "GateReport",
    "Impossible",
    "Ledger",
    "LedgerError",
    "ModelError",
    "Ordered",
    "PIIError",
    "PrivacyError",
    "PrivacyStatement",
    "Release",
    "Schema",
    "SchemaError",
    "Synthesizer",
    "Total",
    "Verification",
    "VerificationError",
    "__version__",
    "collapse",
    "evaluate",
    "fit",
    "load",
    "plan",
    "release",
    "scan",
    "scrub",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'dpsynth' has no attribute {name!r}")
    value = getattr(import_module(_MODULE_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
