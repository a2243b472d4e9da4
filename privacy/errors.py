"""The one error tree.

    DpsynthError
    |-- SchemaError        what a table is said to be, or is, cannot be worked with
    |-- PrivacyError       a promise of the privacy core would be broken
    |   |-- BudgetExceeded   the ledger's cap (or a run's reservation) would be passed
    |   `-- LedgerError      the ledger cannot be reached, read or trusted
    |-- PIIError           the detector is missing, unverified or failed: fails closed
    |-- ModelError         a model cannot be built, saved or loaded
    |-- GateFailed         the fidelity gate did not pass
    `-- VerificationError  a release folder is not what its manifest says

A message names the column and the rule, never a value from a row, and says what to do next.
"""

from __future__ import annotations


class DpsynthError(Exception):
    """Base of every error that dpsynth raises on purpose."""


class SchemaError(DpsynthError):
    """The table, or the schema declared for it, cannot be worked with."""


class PrivacyError(DpsynthError):
    """Going on would break a promise of the privacy core."""


class BudgetExceeded(PrivacyError):
    """A request would pass a cap; carries what was asked, spent and left (epsilon at the cap's delta)."""

    def __init__(self, message: str, *, asked: float, spent: float, left: float) -> None:
        super().__init__(message)
        self.asked, self.spent, self.left = asked, spent, left


class LedgerError(PrivacyError):
    """The ledger cannot be reached, read or trusted."""


class PIIError(DpsynthError):
    """The PII detector is missing, does not match its hash, or failed."""


class ModelError(DpsynthError):
    """A model cannot be built, saved or loaded."""


class GateFailed(DpsynthError):
    """The fidelity gate failed, or was inconclusive and that was not accepted."""


class VerificationError(DpsynthError):
    """A release folder is not what its manifest says."""
