"""What users hand in as a description of a table: a dict, an object that makes one, or the path of a JSON file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from dpsynth.privacy.errors import SchemaError


def as_dict(given: Any, method: str, *, wanted: str, not_object: str) -> dict[str, Any]:
    """The description as a dict. method: of objects that make one.  wanted, not_object: what is said where there is none.

    Raises SchemaError.
    """
    if isinstance(given, dict):
        return given
    if hasattr(given, method):
        made: dict[str, Any] = getattr(given, method)()
        return made
    try:
        loaded = json.loads(Path(given).read_text(encoding="utf-8"))
    except (OSError, TypeError, ValueError):
        raise SchemaError(wanted) from None
    if not isinstance(loaded, dict):
        raise SchemaError(not_object)
    return loaded
