"""The budget ledger: what was spent on which data, across runs, processes and days.

A run reserves its whole cost *before* a row is looked at; what was reserved stays spent, whatever becomes of the run. Costs
add up as values (`accounting.Cost`), and a cap is a filter over their sum, never a sum of epsilons.

ledger        the API
book          what the entries of one data set add up to, and whether a cap grants one more run
journal       appends to the chain of entries; keeps each data set's sum beside it, sealed
training      the journal of a training's steps
folder        what a run has bought so far, to take it up again after a crash
verify        recomputes everything from the entries and names each place that differs
fingerprint   the same rows, known again under another name, order or file format
database      SQLite or PostgreSQL: tables, locks, time-outs, errors in plain words
key           the key of all MACs, kept outside the database
"""

from dpsynth.privacy.ledger.folder import RunFolder
from dpsynth.privacy.ledger.ledger import Ledger
from dpsynth.privacy.ledger.training import LedgerSteps
from dpsynth.privacy.ledger.values import DatasetRecord, Entry, Reservation, Run, Spent, SubBudget

__all__ = ["DatasetRecord", "Entry", "Ledger", "LedgerSteps", "Reservation", "Run", "RunFolder", "Spent", "SubBudget"]
