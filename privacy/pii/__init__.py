"""Direct identifiers: found before anything learns, kept from the models, regenerated from ranges that no real person has.

engine   Presidio over two pinned, offline models; fails closed
columns  what a cell and a column are, from spans and from headers; decisions from (noisy) votes
labels   frequent values that are identifiers -> made-up ones
scrub    spans -> placeholders, numbered within a text; and placeholders -> fakes (`fill_placeholders`, after sampling)
fakes    identifiers that cannot be real
leaks    the scan of what leaves: valid identifiers outside the fakes' ranges
copies   the owner's comparison of an output with the real values
report   what a scan found, as a table and as an audit log
normalise, identifiers, numbers, languages, recognisers, rampart   what the engine is made of

Scrubbing is not the guarantee: detectors miss a third of the names in noisy text. Differential privacy is.
"""

from dpsynth.privacy.pii.columns import (
    CELL_CLASSES,
    LOOKED_AT,
    Decision,
    Holds,
    NumberForms,
    decide,
    header_entity,
    names_country,
    repeats,
    require_clean_names,
)
from dpsynth.privacy.pii.copies import CopyReport, find_copies
from dpsynth.privacy.pii.engine import Detector, load_detector
from dpsynth.privacy.pii.fakes import fake_columns
from dpsynth.privacy.pii.labels import made_up_labels
from dpsynth.privacy.pii.leaks import find_leaks
from dpsynth.privacy.pii.numbers import NUMBERS_LOOKED_AT, are_long
from dpsynth.privacy.pii.report import ColumnFinding, PIIReport
from dpsynth.privacy.pii.scrub import fill_placeholders, without_placeholders

__all__ = [
    "CELL_CLASSES",
    "LOOKED_AT",
    "ColumnFinding",
    "CopyReport",
    "Decision",
    "Detector",
    "Holds",
    "NUMBERS_LOOKED_AT",
    "NumberForms",
    "PIIReport",
    "are_long",
    "decide",
    "fake_columns",
    "fill_placeholders",
    "find_copies",
    "find_leaks",
    "header_entity",
    "load_detector",
    "made_up_labels",
    "names_country",
    "repeats",
    "require_clean_names",
    "without_placeholders",
]
