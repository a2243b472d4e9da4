"""The release folder: whole or not at all, and verified offline down to the byte."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

import dpsynth
from dpsynth.gate import Gate, judge
from dpsynth.privacy.keys import new_keys
from tests.conftest import mixed_table


@pytest.fixture(scope="module")
def released(synth: dpsynth.Synthesizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("bundle") / "release"
    dpsynth.release(synth, out, recipient="team | <b>A</b>", purpose="tests", expires="2999-12-31")
    return out


def test_the_bundle_holds_what_it_should_and_verifies(released: Path, synth: dpsynth.Synthesizer) -> None:
    assert sorted(p.name for p in released.iterdir()) == [
        "README.md", "data.csv", "data.parquet", "gate.json", "manifest.json", "privacy.json", "report.html", "schema.json",
    ]  # fmt: skip
    found = dpsynth.verify(released)
    assert found.ok and found.epsilon is not None and 4.9 < found.epsilon < 5.0 + 1e-6 and found.signed is None
    table = pd.read_parquet(released / "data.parquet")
    pd.testing.assert_frame_equal(table, synth.sample_typed(), check_dtype=False)
    assert pd.read_csv(released / "data.csv").shape == table.shape
    assert dpsynth.Schema.load(released / "schema.json") == synth.schema


def test_data_card_and_report_speak_of_privacy_and_escape_names(released: Path) -> None:
    card, report = (released / "README.md").read_text(), (released / "report.html").read_text()
    assert "team \\| <b>A</b>" not in report and "team | &lt;b&gt;A&lt;/b&gt;" in report
    for text in (card, report):
        assert "epsilon" in text.lower() and "pass" in text
    assert "<script" not in report and "http" not in report.replace("http-equiv", "")


@pytest.mark.parametrize(
    "name", ["README.md", "data.csv", "data.parquet", "gate.json", "privacy.json", "report.html", "schema.json"]
)
@pytest.mark.parametrize("harm", ["flip", "drop"])
def test_any_change_of_any_file_is_named(released: Path, tmp_path: Path, name: str, harm: str) -> None:
    copy = Path(shutil.copytree(released, tmp_path / "copy"))
    if harm == "flip":
        raw = bytearray((copy / name).read_bytes())
        raw[len(raw) // 2] ^= 1
        (copy / name).write_bytes(raw)
    else:
        (copy / name).unlink()
    found = dpsynth.verify(copy)
    assert not found.ok and any(p.startswith(f"{name}:") for p in found.problems)


def test_additions_swaps_and_a_missing_manifest_are_named(released: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(released, tmp_path / "copy"))
    (copy / "more.txt").write_text("x")
    assert "more.txt: not part of the release" in dpsynth.verify(copy).problems
    (copy / "more.txt").unlink()
    manifest = json.loads((copy / "manifest.json").read_text())
    (copy / "manifest.json").write_text(json.dumps(manifest | {"run": "run_other"}))
    assert any(p.startswith("privacy.json: belongs") for p in dpsynth.verify(copy).problems)
    (copy / "manifest.json").write_text(json.dumps(manifest | {"expires": "2001-01-01"}))
    assert any("expired" in p for p in dpsynth.verify(copy).problems)
    (copy / "manifest.json").unlink()
    assert not dpsynth.verify(copy).ok and not dpsynth.verify(tmp_path / "nowhere").ok


def test_signatures(synth: dpsynth.Synthesizer, tmp_path: Path) -> None:
    (private, public), (_, other) = new_keys(tmp_path / "a.pem"), new_keys(tmp_path / "b.pem")
    assert private.stat().st_mode & 0o077 == 0
    dpsynth.release(synth, tmp_path / "out", sign_with=private)
    assert dpsynth.verify(tmp_path / "out", public_key=public).signed is True
    assert dpsynth.verify(tmp_path / "out", public_key=public).ok
    assert dpsynth.verify(tmp_path / "out", public_key=other).signed is False
    for wrong in (public, tmp_path / "nowhere.pem"):
        with pytest.raises(dpsynth.VerificationError):
            dpsynth.release(synth, tmp_path / "out2", sign_with=wrong)
    assert not (tmp_path / "out2").exists()
    with pytest.raises(dpsynth.VerificationError, match="not overwritten"):
        new_keys(tmp_path / "a.pem")


def test_nothing_is_left_where_writing_fails_or_the_gate_does(
    synth: dpsynth.Synthesizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    strict = replace(synth, gate=replace(synth.gate, gate=Gate(max_tv1=1e-9, max_tv2=1e-9), floor1=0.0, floor2=0.0))
    with pytest.raises(dpsynth.GateFailed, match="Nothing was written"):
        dpsynth.release(strict, tmp_path / "out")
    monkeypatch.setattr("dpsynth.bundle._data_card", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        dpsynth.release(synth, tmp_path / "out")
    assert list(tmp_path.glob("[!l]*")) == [] and list(tmp_path.glob(".*")) == []


def test_an_existing_folder_is_not_written_over(synth: dpsynth.Synthesizer, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    dpsynth.release(synth, tmp_path / "out")
    with pytest.raises(dpsynth.SchemaError, match="not an empty folder"):
        dpsynth.release(synth, tmp_path / "out")
    with pytest.raises(dpsynth.SchemaError, match="expires"):
        dpsynth.release(synth, tmp_path / "out3", expires="tomorrow")


def test_the_gate_decides_by_its_interval(synth: dpsynth.Synthesizer) -> None:
    table = synth.sample_typed()
    assert judge(synth, table).verdict == "pass"
    measured = synth.gate
    level = sum(measured.tv2) / len(measured.tv2)
    between = replace(synth, gate=replace(measured, gate=Gate(max_tv2=level), floor2=0.0, sigma=0.02))
    assert judge(between, table).verdict == "inconclusive"
    with pytest.raises(dpsynth.GateFailed, match="accept_inconclusive"):
        dpsynth.bundle._require_pass(judge(between, table), False)  # type: ignore[attr-defined]
    dpsynth.bundle._require_pass(judge(between, table), True)  # type: ignore[attr-defined]


def test_another_table_than_the_measured_one_is_held_to_its_distance(synth: dpsynth.Synthesizer) -> None:
    shuffled = synth.sample_typed(n=8000, seed=1)
    own = judge(synth, shuffled).checks[1].high
    for name in shuffled.columns:
        shuffled[name] = shuffled[name].sample(frac=1, random_state=hash(name) % 2**31).to_numpy()
    assert judge(synth, shuffled).checks[1].high > own + 0.02


def test_a_copied_identifier_fails_the_gate(synth: dpsynth.Synthesizer) -> None:
    table = synth.sample_typed()
    table.loc[3, "city"] = "maria.gonzalez@mailbox.org"
    report = judge(synth, table)
    assert report.verdict == "fail" and "1 EMAIL_ADDRESS" in report.checks[-1].detail


def test_the_gate_fails_a_model_of_independent_columns() -> None:
    """Power: the slice sees what a model without dependence gets wrong."""
    table = mixed_table(20_000)[["age", "score", "group"]]
    table["again"] = table["age"]
    from dpsynth.models import Marginals

    good = dpsynth.fit(table, epsilon=3.0, progress=False)
    poor = dpsynth.fit(table, epsilon=3.0, model=Marginals(iterations=1, further_weight=0), progress=False)
    assert judge(good, good.sample_typed()).verdict == "pass"
    assert judge(poor, poor.sample_typed()).verdict == "fail"
