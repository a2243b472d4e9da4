"""SDMetrics' quality score, beside ours. Reads real rows: for the owner."""

from __future__ import annotations

import warnings
from typing import Any

import pandas as pd

from dpsynth.privacy.errors import SchemaError


def quality(real: Any, synthetic: Any, names: list[str]) -> float:
    """SDMetrics' overall quality (column shapes and pair trends), between 0 and 1, of two pandas frames."""
    if not (isinstance(real, pd.DataFrame) and isinstance(synthetic, pd.DataFrame)):
        raise SchemaError("SDMetrics compares pandas data frames; read the tables first")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from sdmetrics.reports.single_table import QualityReport

        sdtypes = {n: {"sdtype": _sdtype(real[n])} for n in names}
        report = QualityReport()
        report.generate(real[names], synthetic[names], {"columns": sdtypes}, verbose=False)
    return float(report.get_score())


def _sdtype(column: pd.Series[Any]) -> str:
    if pd.api.types.is_bool_dtype(column.dtype):
        return "boolean"
    if pd.api.types.is_numeric_dtype(column.dtype):
        return "numerical"
    return "datetime" if pd.api.types.is_datetime64_any_dtype(column.dtype) else "categorical"
