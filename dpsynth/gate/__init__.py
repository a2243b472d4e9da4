"""The fidelity gate: is the synthetic table close enough to the rows to be released?

measured.py   what a gate asks, and what it learns of the rows during the fit, from a reserved slice of the budget
judged.py     the verdict on a synthetic table: free, as often as one likes
candidates.py which of several tables is measured
output.py     checks that look at the output alone
tables.py     tables of coded rows, and distances between them
"""

from __future__ import annotations

from dpsynth.gate.candidates import first_close
from dpsynth.gate.judged import Check, ColumnCheck, GateReport, Verdict, judge, of_reference
from dpsynth.gate.measured import Gate, GateMeasurement, measure
from dpsynth.gate.tables import Compared, Reference, drift

__all__ = [
    "Check",
    "ColumnCheck",
    "Compared",
    "Gate",
    "GateMeasurement",
    "GateReport",
    "Reference",
    "Verdict",
    "drift",
    "first_close",
    "judge",
    "measure",
    "of_reference",
]
