"""Starting is cheap: what is heavy is loaded when it is first used."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

HEAVY = {"torch", "opacus", "transformers", "presidio_analyzer", "spacy", "sdv", "sdmetrics", "sklearn", "faker"}
MEDIUM = {"numpy", "pandas", "scipy", "pyarrow", "sqlalchemy", "cryptography", "jinja2"}


def loaded_by(code: str) -> tuple[set[str], float]:
    """(top-level modules that a fresh interpreter has loaded after `code`, seconds of CPU time that it took)."""
    script = (
        f"import json, sys, time\nstart = time.process_time()\n{code}\n"
        "spent = time.process_time() - start\n"
        "print(json.dumps([sorted({name.split('.')[0] for name in sys.modules}), spent]))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    names, seconds = json.loads(done.stdout.splitlines()[-1])
    return set(names), seconds


def test_importing_the_package_loads_nothing() -> None:
    names, seconds = loaded_by("import dpsynth")
    assert not names & (HEAVY | MEDIUM)
    assert seconds < 0.5


def test_touching_every_public_name_loads_nothing_heavy() -> None:
    names, _ = loaded_by("import dpsynth\nfor name in dpsynth.__all__: getattr(dpsynth, name)")
    assert "pandas" in names, "the probe does not see what is loaded"
    assert not names & HEAVY


@pytest.mark.parametrize("name", ["Schema", "Column", "SchemaError", "Ledger", "PrivacyStatement"])
def test_light_names_stay_light(name: str) -> None:
    names, _ = loaded_by(f"import dpsynth; dpsynth.{name}")
    assert not names & (HEAVY | {"pandas", "pyarrow"})


def test_the_command_line_helps_within_a_second() -> None:
    call = "import sys\nsys.argv = ['dpsynth', '--help']\nfrom dpsynth.cli import main\n"
    names, seconds = loaded_by(call + "try: main()\nexcept SystemExit as done: assert not done.code, done.code")
    assert not names & (HEAVY | MEDIUM)
    assert seconds < 1


def test_a_fit_does_not_load_torchs_compiler() -> None:
    fit = (
        "import dpsynth, tempfile\nimport numpy as np, pandas as pd\n"
        "table = pd.DataFrame(np.random.default_rng(0).integers(0, 4, (500, 4)).astype(str)).add_prefix('c')\n"
        "schema = dpsynth.Schema(dpsynth.Column(c, 'categorical', categories=tuple('0123')) for c in table)\n"
        "synth = dpsynth.fit(table, epsilon=1.0, schema=schema, progress=False, ledger=tempfile.mkdtemp() + '/l.db')\n"
        "assert len(synth.sample(10)) == 10\n"
    )
    names, _ = loaded_by(
        fit + "names = [name for name in sys.modules if name.startswith('torch._dynamo')]\nassert not names"
    )
    assert "torch" in names and "presidio_analyzer" not in names
