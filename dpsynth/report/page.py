"""The page that all reports share: templates from the package, everything escaped."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined


@lru_cache(maxsize=1)
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("dpsynth.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
    )
    environment.filters["percent"] = lambda share: f"{share:.1%}"
    environment.filters["epsilon"] = epsilon
    environment.filters["three"] = lambda value: f"{value:.3f}"
    return environment


def epsilon(value: float) -> str:
    """An epsilon for reading; where a chance of failure alone exceeds delta there is none."""
    return f"{value:.4g}" if math.isfinite(value) else "none"


def render(template: str, **values: Any) -> str:
    """A template of `report/templates`, filled in."""
    return _environment().get_template(template).render(**values)
