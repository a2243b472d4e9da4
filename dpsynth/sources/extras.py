"""Packages that not everyone needs, and how to get one that is not there."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from dpsynth.privacy.errors import SchemaError

# Import name of a package -> the extra that installs it.
EXTRAS = {"datasets": "huggingface", "duckdb": "duckdb", "polars": "polars", "psycopg": "postgres"}


def load(package: str) -> Any:
    """An optional package. Raises SchemaError with the line that installs it where it is not there."""
    try:
        return import_module(package)
    except ImportError:
        raise SchemaError(f"{package} is not installed; run: pip install 'dpsynth[{EXTRAS[package]}]'") from None
