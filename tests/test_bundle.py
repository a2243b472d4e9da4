"""The release folder: whole or not at all, and verified offline down to the byte."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

import dpsynth
from dpsynth.artefacts import FILES, problems_in
from dpsynth.bundle import MANIFEST, SIGNATURE, digest, manifest_text
from dpsynth.gate import Gate, judge
from dpsynth.privacy.keys import new_keys, public_hex, sign
from tests.conftest import mixed_table


@pytest.fixture(scope="module")
def released(synth: dpsynth.Synthesizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("bundle") / "release"
    dpsynth.release(synth, out, recipient="team | <b>A</b>", purpose="tests", expires="2999-12-31")
    return out


def test_the_bundle_holds_what_it_should_and_verifies(released: Path, synth: dpsynth.Synthesizer) -> None:
    assert sorted(p.name for p in released.iterdir()) == [
        "README.md", "TERMS.md", "croissant.json", "data.csv", "data.parquet", "gate.json", "manifest.json", "metadata.json",
        "privacy.json", "report.html", "schema.json",
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


@pytest.fixture(scope="module")
def signed(synth: dpsynth.Synthesizer, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(a signed release, its public key)."""
    folder = tmp_path_factory.mktemp("signed")
    private, public = new_keys(folder / "key.pem")
    dpsynth.release(synth, folder / "release", recipient="A", sign_with=private)
    return folder / "release", public


@pytest.mark.parametrize("name", [*FILES, MANIFEST, SIGNATURE])
def test_any_changed_byte_and_any_missing_file_is_named(signed: tuple[Path, Path], tmp_path: Path, name: str) -> None:
    copy = Path(shutil.copytree(signed[0], tmp_path / "copy"))
    assert dpsynth.verify(copy).ok
    raw = (copy / name).read_bytes()
    places = {0, len(raw) - 1, *np.random.default_rng(0).integers(0, len(raw), 8).tolist()}
    for place in places:
        changed = bytearray(raw)
        changed[place] ^= 1 << (place % 7)
        (copy / name).write_bytes(changed)
        found = dpsynth.verify(copy)
        assert not found.ok and any(p.startswith(f"{name}:") for p in found.problems), place
    (copy / name).unlink()
    found = dpsynth.verify(copy)
    assert not found.ok and any(p.startswith(f"{name}:") for p in found.problems)


@pytest.mark.slow
def test_every_byte_of_every_file_counts(synth: dpsynth.Synthesizer, tmp_path: Path) -> None:
    """All bytes of the small files of a small release, 250 of each larger one. (They take the same way: a hash.)"""
    private, _ = new_keys(tmp_path / "key.pem")
    out, rng = tmp_path / "out", np.random.default_rng(0)
    dpsynth.release(synth, out, n=30, sign_with=private, accept_inconclusive=True)
    for path in sorted(out.iterdir()):
        raw = path.read_bytes()
        places = range(len(raw)) if len(raw) <= 1600 else rng.choice(len(raw), 250, replace=False).tolist()
        for place in places:
            changed = bytearray(raw)
            changed[place] ^= 1 << (place % 8)
            path.write_bytes(changed)
            found = dpsynth.verify(out)
            assert not found.ok and any(p.startswith(f"{path.name}:") for p in found.problems), (path.name, place)
        path.write_bytes(raw)
    assert dpsynth.verify(out).ok


def test_every_byte_of_a_manifest_counts(released: Path, tmp_path: Path) -> None:
    """Without a signature, too."""
    copy = Path(shutil.copytree(released, tmp_path / "copy"))
    raw = (copy / MANIFEST).read_bytes()
    for place in range(0, len(raw), 7):
        changed = bytearray(raw)
        changed[place] ^= 1
        (copy / MANIFEST).write_bytes(changed)
        assert not dpsynth.verify(copy).ok, place


def test_swapped_statements_and_other_keys_are_named(signed: tuple[Path, Path], released: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(signed[0], tmp_path / "copy"))
    shutil.copy(released / "privacy.json", copy / "privacy.json")
    assert any(p.startswith("privacy.json: changed") for p in dpsynth.verify(copy).problems)
    # With a manifest made to fit, and signed again by another key:
    other, public = new_keys(tmp_path / "other.pem")
    body = json.loads((copy / MANIFEST).read_text())
    raw = (copy / "privacy.json").read_bytes()
    body["files"]["privacy.json"] = {"sha256": hashlib.sha256(raw).hexdigest(), "bytes": len(raw)}
    (copy / MANIFEST).write_text(manifest_text(body | {"signed_by": public_hex(public)}))
    (copy / SIGNATURE).write_bytes(sign((copy / MANIFEST).read_bytes(), other))
    problems = dpsynth.verify(copy, public_key=signed[1]).problems
    assert any(p.startswith("manifest.sig: signed by key") for p in problems)
    assert any(p.startswith("privacy.json: its recipient") for p in problems)
    (copy / SIGNATURE).write_bytes(bytes(64))
    assert any("not the signature" in p for p in dpsynth.verify(copy).problems)


class Killed(BaseException):
    """As if the process ended here."""


@pytest.mark.slow
def test_a_release_that_is_killed_anywhere_leaves_nothing_that_verifies(
    synth: dpsynth.Synthesizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    private, _ = new_keys(tmp_path / "key.pem")
    gate = judge(synth, synth.sample_typed())
    monkeypatch.setattr("dpsynth.bundle.judge", lambda *_: gate)
    monkeypatch.setattr("dpsynth.bundle.shutil.rmtree", lambda *_, **__: None)  # nobody cleans up after a kill
    left: list[int] = []  # steps until the kill; empty: not armed

    def step(event: str, arguments: tuple[object, ...]) -> None:
        writes = event == "open" and isinstance(arguments[1], str) and "w" in arguments[1]
        if left and (writes or event in ("os.rename", "os.rmdir", "os.mkdir")) and str(tmp_path) in str(arguments[0]):
            left[0] -= 1
            if left[0] < 0:
                left.clear()
                raise Killed

    sys.addaudithook(step)
    for steps in range(40):
        out = tmp_path / f"out{steps}"
        left[:] = [steps]
        try:
            dpsynth.release(synth, out, sign_with=private)
        except Killed:
            for folder in (*tmp_path.glob(f".out{steps}.*"), out):
                # Whole, signed and merely without its name, or not at all.
                assert (
                    not (folder / MANIFEST).exists()
                    or dpsynth.verify(folder).signed is None
                    and dpsynth.verify(folder).ok
                )
                assert folder != out or not folder.exists()
            continue
        finally:
            left.clear()
        assert steps > 12 and dpsynth.verify(out).ok
        return
    pytest.fail("the release never came to its end")


def test_nothing_of_single_rows_is_in_any_file(tmp_path: Path) -> None:
    """Values that one row alone holds, planted as canaries."""
    table = mixed_table(1500)[["age", "income", "city", "score"]]
    table.loc[7, "city"], table.loc[7, "income"], table.loc[7, "score"] = "Zyzzyxroad", 98765.43, -4321.125
    synth = dpsynth.fit(table, epsilon=3.0, progress=False)
    dpsynth.release(synth, tmp_path / "out", accept_inconclusive=True, recipient="A")
    for path in (tmp_path / "out").iterdir():
        raw = path.read_bytes()
        assert not any(canary in raw for canary in (b"Zyzzyx", b"98765.43", b"4321.125")), path.name
        assert str(tmp_path).encode() not in raw, "no path of the machine is in a release"


def test_what_no_release_has_stops_it(
    synth: dpsynth.Synthesizer, released: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = Path(shutil.copytree(released, tmp_path / "copy"))
    (copy / "gate.json").write_text(json.dumps(json.loads((copy / "gate.json").read_text()) | {"exact": [1]}))
    (copy / "report.html").write_text("<p onclick = 'x'>")
    table = pq.read_table(copy / "data.parquet")
    pq.write_table(table.replace_schema_metadata({"made_on": "here"}), copy / "data.parquet")
    assert [p.split(":")[0] for p in problems_in(copy)] == ["gate.json", "report.html", "data.parquet"]
    assert list(problems_in(released)) == []
    monkeypatch.setattr("dpsynth.bundle.terms", lambda _: "x")
    monkeypatch.setattr("dpsynth.report.shareable.render", lambda *_, **__: "<img src='//elsewhere/x.png'>")
    with pytest.raises(dpsynth.SchemaError, match=r"report\.html"):
        dpsynth.release(synth, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_metadata_and_croissant_speak_of_the_same_columns(released: Path, synth: dpsynth.Synthesizer) -> None:
    names = list(synth.schema.names)
    metadata = json.loads((released / "metadata.json").read_text())
    assert metadata["METADATA_SPEC_VERSION"] == "V2" and list(metadata["tables"]["data"]["columns"]) == names
    croissant = json.loads((released / "croissant.json").read_text())
    assert [f["name"] for f in croissant["recordSet"][0]["field"]] == names
    for file in croissant["distribution"]:
        assert file["sha256"] == digest(released / file["contentUrl"])
    timestamps = [f.type for f in pq.read_schema(released / "data.parquet") if f.name == "joined"]
    assert [str(t) for t in timestamps] == ["timestamp[us]"]
    terms = (released / "TERMS.md").read_text()
    assert "2999-12-31" in terms and "for: tests" in terms


def test_additions_swaps_and_a_missing_manifest_are_named(released: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(released, tmp_path / "copy"))
    (copy / "more.txt").write_text("x")
    assert "more.txt: not part of the release" in dpsynth.verify(copy).problems
    (copy / "more.txt").unlink()
    manifest = json.loads((copy / "manifest.json").read_text())
    (copy / "manifest.json").write_text(manifest_text(manifest | {"run": "run_other"}))
    assert any(p.startswith("privacy.json: belongs") for p in dpsynth.verify(copy).problems)
    (copy / "manifest.json").write_text(manifest_text(manifest | {"expires": "2001-01-01"}))
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
    monkeypatch.setattr("dpsynth.bundle.data_card", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        dpsynth.release(synth, tmp_path / "out")
    assert list(tmp_path.glob("[!l]*")) == [] and list(tmp_path.glob(".*")) == []


def test_what_shows_beforehand_is_told_before_a_row_is_drawn(
    synth: dpsynth.Synthesizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dpsynth.synthesizer.values_of", lambda *_, **__: pytest.fail("a row is drawn"))
    _, public = new_keys(tmp_path / "key.pem")
    for wrong in (public, tmp_path / "nowhere.pem"):
        with pytest.raises(dpsynth.VerificationError, match="not a readable private key"):
            dpsynth.release(synth, tmp_path / "out", sign_with=wrong)
    for out in (public / "out", public / "deep" / "out"):
        with pytest.raises(dpsynth.SchemaError, match=r"cannot be written to .*: key\.pem\.pub is not a folder"):
            dpsynth.release(synth, out)


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


def test_a_release_has_the_very_table_that_the_gate_measured_and_does_not_draw_it_again(
    synth: dpsynth.Synthesizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synth.save(tmp_path / "model")
    loaded, drawn = dpsynth.load(tmp_path / "model"), []
    draw = dpsynth.synthesizer.draw  # type: ignore[attr-defined]
    monkeypatch.setattr("dpsynth.synthesizer.draw", lambda *a, **k: drawn.append(1) or draw(*a, **k))
    done = dpsynth.release(synth, tmp_path / "out")
    assert not drawn and synth.drawn is not None and loaded.drawn is None
    again = dpsynth.release(loaded, tmp_path / "again")
    assert len(drawn) == 1  # from its seed
    assert (tmp_path / "out/data.parquet").read_bytes() == (tmp_path / "again/data.parquet").read_bytes()
    assert done.gate.checks == again.gate.checks == judge(synth, synth.sample_typed()).checks
    pd.testing.assert_frame_equal(synth.measured()[0], synth.sample_typed())
    codes, weights = synth.reference()
    assert np.array_equal(codes, loaded.reference()[0]) and np.array_equal(weights, loaded.reference()[1])


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
