"""Direct identifiers: found before anything learns, kept from the models, regenerated from ranges that no real person has.

engine   Presidio over a pinned, offline spaCy model; fails closed
columns  what a cell and a column are, from spans and from headers; decisions from (noisy) votes
scrub    spans -> placeholders, and placeholders -> fakes
fakes    identifiers that cannot be real
leaks    the scan of what leaves: valid identifiers outside the fakes' ranges
report   what a scan found, as a table

Scrubbing is not the guarantee: detectors miss a third of the names in noisy text. Differential privacy is.
"""

from dpsynth.privacy.pii.columns import CELL_CLASSES, Decision, decide, header_entity
from dpsynth.privacy.pii.engine import Detector, load_detector
from dpsynth.privacy.pii.fakes import fake_columns
from dpsynth.privacy.pii.leaks import find_leaks
from dpsynth.privacy.pii.report import ColumnFinding, PIIReport
from dpsynth.privacy.pii.scrub import fill_placeholders

__all__ = [
    "CELL_CLASSES",
    "ColumnFinding",
    "Decision",
    "Detector",
    "PIIReport",
    "decide",
    "fake_columns",
    "fill_placeholders",
    "find_leaks",
    "header_entity",
    "load_detector",
]
