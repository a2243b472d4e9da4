"""What is built works where no checkout is: wheel, sdist, each extra's hint, and the README's five commands on one's own table."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import mixed_table
from tests.test_layout import PROJECT, ROOT, checkout

pytestmark = pytest.mark.slow

# As if the network were there: what would be fetched is there already.
OFFLINE = {"PIP_NO_INDEX": "1", "PIP_NO_DEPS": "1", "PIP_NO_BUILD_ISOLATION": "0", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}


def run(command: Any, folder: Path, **options: Any) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, **options)
    assert done.returncode == 0, (command, done.stdout[-2000:], done.stderr[-2000:])
    return done.stdout


def lend_packages(environment: Path) -> None:
    """Let a fresh environment see the packages of this one, but for dpsynth: links to each, before its own."""
    lent = environment / "lent"
    lent.mkdir()
    for entry in Path(sysconfig.get_path("purelib")).iterdir():
        if "dpsynth" not in entry.name and entry.suffix != ".pth":
            (lent / entry.name).symlink_to(entry)
    (site,) = environment.glob("lib/python*/site-packages")
    (site / "lent.pth").write_text(f"import sys; sys.path.insert(0, {str(lent)!r})\n", encoding="utf-8")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what a clone holds of the package."""
    folder = checkout(tmp_path_factory.mktemp("clone"), links=True)
    shutil.copy(ROOT / "constraints.txt", folder)
    return folder


def test_the_wheel_of_the_sdist_works_outside_the_checkout(source: Path, tmp_path: Path) -> None:
    build = "import sys; from setuptools.build_meta import build_sdist; print(build_sdist(sys.argv[1]))"
    sdist = tmp_path / run([sys.executable, "-c", build, tmp_path], source).splitlines()[-1]
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path / "sdist", filter="data")
    (unpacked,) = (tmp_path / "sdist").iterdir()
    wheel = ["pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", tmp_path, unpacked]
    run([sys.executable, "-m", *wheel], tmp_path)
    (built,) = tmp_path.glob("dpsynth-*.whl")
    with zipfile.ZipFile(built) as archive:
        assert "dpsynth/py.typed" in archive.namelist()
    run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv"], tmp_path)
    lend_packages(tmp_path / "venv")
    python = tmp_path / "venv/bin/python"
    run([sys.executable, "-m", "pip", "--python", python, "install", built], tmp_path, env=os.environ | OFFLINE)
    assert "synthetic" in run([tmp_path / "venv/bin/dpsynth", "--help"], tmp_path)
    told = json.loads(run([python, "-c", TINY_FIT], tmp_path))
    assert Path(told["file"]).is_relative_to(tmp_path / "venv") and told["rows"] == 5
    extras = PROJECT["project"]["optional-dependencies"]
    for package, said in told["hints"].items():
        extra = re.fullmatch(rf"{package} is not installed; run: pip install 'dpsynth\[(\w+)\]'", said)
        assert extra is not None and any(re.match(rf"{package}\b", needed) for needed in extras[extra[1]])


# Run in the fresh environment: the package's place, a tiny fit, and what each optional package says where it is not there.
TINY_FIT = """
import json, sys, warnings
import pandas as pd
import dpsynth

warnings.simplefilter("ignore")
table = pd.DataFrame({"a": range(60), "b": [True, False] * 30})
synth = dpsynth.fit(table, epsilon=1.0, ledger="sqlite:///ledger.db", progress=False)
asks = {
    "polars": lambda: synth.sample(5, frame="polars"),
    "duckdb": lambda: dpsynth.fit("x.duckdb#t", epsilon=1.0, progress=False),
    "psycopg": lambda: dpsynth.fit("postgresql+psycopg://host/db#t", epsilon=1.0, progress=False),
    "datasets": lambda: dpsynth.sources.hugging_face.feed_of_dataset(None),
}
hints = {}
for package, ask in asks.items():
    sys.modules[package] = None  # as if it were not installed
    try:
        ask()
    except dpsynth.SchemaError as error:
        hints[package] = str(error)
print(json.dumps({"file": dpsynth.__file__, "rows": len(synth.sample(5)), "hints": hints}))
"""


def test_the_versions_that_are_promised_are_classified() -> None:
    (oldest,) = re.findall(r">=3\.(\d+)", PROJECT["project"]["requires-python"])
    named = re.findall(r"Python :: 3\.(\d+)", "\n".join(PROJECT["project"]["classifiers"]))
    assert named == [str(minor) for minor in range(int(oldest), int(named[-1]) + 1)]
    assert str(sys.version_info.minor) in named


def test_the_readmes_five_commands_lead_from_a_clone_to_a_release(source: Path, tmp_path: Path) -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    section = re.search(r"## Your own table\n.*?```console\n(.*?)```", readme, re.DOTALL)
    assert section is not None
    commands = section[1].strip().splitlines()
    assert len(commands) == 5 and "venv" in commands[0]
    clone = shutil.copytree(source, tmp_path / "clone", symlinks=True)
    mixed_table(20_000).to_csv(clone / "people.csv", index=False)
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | OFFLINE | {"PATH": path}
    run(commands[0], clone, shell=True, env=env)
    lend_packages(clone / ".venv")
    for command in commands[1:]:
        run(command, clone, shell=True, env=env)
    assert {"data.csv", "data.parquet", "privacy.json", "report.html"} <= {
        p.name for p in (clone / "for-partner").iterdir()
    }
