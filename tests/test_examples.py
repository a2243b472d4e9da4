"""The examples run as a reader would run them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

# What each says at its end where it went well.
WANTED = {
    "database": "Kiel: ",
    "estimator": "both fits together: epsilon 1.1",
    "gpu": "differential",
    "hand_over": "after a change: ok=False",
    "person_level": "a third is refused",
    "quickstart": "ok=True",
    "schema": "rows that break a rule: 0",
    "spark": "5000 synthetic rows",
    "text": "tstr_minilm",
}
EXAMPLES = sorted((Path(__file__).parents[1] / "examples").glob("*.py"))


def test_the_readme_has_each_example_once() -> None:
    listed = re.findall(r"\]\((\w+)\.py\)", (EXAMPLES[0].parent / "README.md").read_text(encoding="utf-8"))
    assert sorted(listed) == [path.stem for path in EXAMPLES]


RUNS = [(path, ()) for path in EXAMPLES] + [(EXAMPLES[0].with_name("text.py"), ("--base", "tiny"))]


@pytest.mark.slow
@pytest.mark.parametrize(("path", "options"), RUNS, ids=[" ".join([path.stem, *options]) for path, options in RUNS])
def test_an_example_runs(path: Path, options: tuple[str, ...], tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, path, tmp_path, *options],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(path.parents[1])},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    if done.stdout.startswith("left out: "):
        pytest.skip(done.stdout.strip())
    assert WANTED[path.stem] in done.stdout
