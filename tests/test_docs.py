"""The API reference is what the docstrings say, the examples in them hold, and links between pages lead somewhere.

python -m tests.test_docs     writes docs/api.md anew
"""

from __future__ import annotations

import doctest
import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import dpsynth
from dpsynth import models

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "api.md"
PAGES = [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md")), *sorted(ROOT.glob("*/README.md"))]
MODELS = sorted(set(models.__all__))
HEAD = """# API reference

Every public name, in the words of its docstring; written by `python -m tests.test_docs`, and checked by the tests. What the words
mean: [concepts](concepts.md). Names of `dpsynth` first, then what `dpsynth.models` has for `fit(model=...)`.
"""


def signature(name: str, thing: Any) -> str:
    parts = []
    for parameter in inspect.signature(thing).parameters.values():
        if parameter.name in ("self", "cls"):
            continue
        if parameter.kind is parameter.KEYWORD_ONLY and "*" not in parts:
            parts.append("*")
        said = (
            parameter.name if parameter.annotation is parameter.empty else f"{parameter.name}: {parameter.annotation}"
        )
        parts.append(said if parameter.default is parameter.empty else f"{said} = {parameter.default!r}")
    short = f"{name}({', '.join(parts)})"
    return short if len(short) <= 110 else f"{name}(\n    " + ",\n    ".join(parts) + ",\n)"


def members(kind: type) -> Iterator[tuple[str, Any]]:
    """Public methods and properties that say what they are, in the order of the source."""
    for name, value in vars(kind).items():
        function = value.fget if isinstance(value, property) else getattr(value, "__func__", value)
        if not name.startswith("_") and inspect.isfunction(function) and function.__doc__:
            yield name, value


def entry(home: str, name: str, thing: Any) -> Iterator[str]:
    yield f"## {home}.{name}\n"
    is_error = inspect.isclass(thing) and issubclass(thing, Exception)
    if not is_error:
        yield f"```python\n{signature(name, thing)}\n```\n"
    yield f"```text\n{inspect.cleandoc(thing.__doc__)}\n```\n"
    if not inspect.isclass(thing) or is_error:
        return
    for member, value in members(thing):
        if isinstance(value, property):
            yield f"### {name}.{member}\n\n```text\n{inspect.cleandoc(value.__doc__ or '')}\n```\n"
            continue
        function = getattr(value, "__func__", value)
        yield f"### {name}.{member}()\n"
        yield f"```python\n{signature(member, function)}\n```\n\n```text\n{inspect.cleandoc(function.__doc__)}\n```\n"


def public() -> list[tuple[str, str, Any]]:
    ours = [("dpsynth", name, getattr(dpsynth, name)) for name in dpsynth.__all__ if name != "__version__"]
    ours.sort(key=lambda e: (inspect.isclass(e[2]) and issubclass(e[2], Exception), inspect.isclass(e[2]), e[1]))
    return ours + [("dpsynth.models", name, getattr(models, name)) for name in MODELS]


def reference() -> str:
    return "\n".join([HEAD, *(line for found in public() for line in entry(*found))])


def test_the_reference_is_current() -> None:
    assert PAGE.read_text(encoding="utf-8") == reference(), "python -m tests.test_docs writes it anew"


def test_everything_public_says_what_it_is() -> None:
    for _, name, thing in public():
        assert thing.__doc__ and not thing.__doc__.startswith(f"{name}("), name


def test_the_examples_in_docstrings_hold() -> None:
    tried = 0
    for _, name, thing in public():
        for test in doctest.DocTestFinder(recurse=True).find(thing, name, globs={"dpsynth": dpsynth}):
            tried += len(test.examples)
            result = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(test)
            assert result.failed == 0, test.name
    assert tried >= 8


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target


if __name__ == "__main__":
    PAGE.write_text(reference(), encoding="utf-8")
    sys.stdout.write(f"{PAGE} is written\n")
