"""The command line: results on stdout, errors in a line on stderr, exit codes as documented, no traceback with values."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import sqlalchemy

from tests.conftest import mixed_table


def dpsynth(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "dpsynth", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, timeout=300)


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a table, a fitted model and a release."""
    folder = tmp_path_factory.mktemp("desk")
    table = mixed_table(3000)[["age", "score", "group", "city"]]
    table.to_csv(folder / "t.csv", index=False)
    fit = dpsynth("fit", "t.csv", "--out", "model", "-e", "3", "--ledger", "l.db", "--dataset", "d", cwd=folder)
    assert fit.returncode == 0, fit.stderr
    assert "Budget: epsilon 3" in fit.stdout and fit.stderr == ""
    release = dpsynth("release", "model", "--out", "out", "--recipient", "team", "--ledger", "l.db", cwd=folder)
    assert release.returncode == 0, release.stderr
    return folder


def test_verify_sample_and_evaluate(desk: Path) -> None:
    verified = dpsynth("verify", "out", "--json", cwd=desk)
    assert verified.returncode == 0 and json.loads(verified.stdout)["ok"] is True
    sampled = dpsynth("sample", "model", "-o", "s.csv", "-n", "50", "--where", "group=old", cwd=desk)
    assert sampled.returncode == 0 and (desk / "s.csv").read_text().count("old") == 50
    (desk / "facts.json").write_text('{"columns": [{"name": "group", "role": "target"}]}')
    asked = ("--schema", "facts.json", "--html", "r.html", "--json")
    compared = dpsynth("evaluate", "t.csv", "out/data.csv", *asked, cwd=desk)
    assert compared.returncode == 0, compared.stderr
    report = json.loads(compared.stdout)
    assert report["synthetic"]["tv2"] < 0.2 and (desk / "r.html").exists()
    assert report["target"][0] == "group"


@pytest.mark.slow
def test_a_table_of_a_database(desk: Path) -> None:
    table = pd.read_csv(desk / "t.csv")
    engine = sqlalchemy.create_engine(f"sqlite:///{desk / 'people.sqlite'}")
    table.to_sql("people", engine, index=False)
    engine.dispose()
    named = ("sqlite:///people.sqlite", "--table", "people")
    fit = dpsynth("fit", *named, "--out", "by-table", "-e", "3", "--ledger", "t.db", "--patterns-only", cwd=desk)
    assert fit.returncode == 0, fit.stderr
    scanned = dpsynth("scan", *named, "--patterns-only", "--json", cwd=desk)
    assert scanned.returncode == 0 and "group" in scanned.stdout
    missing = dpsynth("evaluate", "sqlite:///people.sqlite", "t.csv", "--table", "nobody", cwd=desk)
    assert missing.returncode == 2 and "NoSuchTableError" in missing.stderr
    no_database = dpsynth("fit", "t.csv", "--table", "people", "--out", "never", "-e", "1", cwd=desk)
    assert no_database.returncode == 2 and "--table goes with" in no_database.stderr and not (desk / "never").exists()


@pytest.mark.slow
def test_budget_commands(desk: Path) -> None:
    shown = dpsynth("budget", "show", "--ledger", "l.db", "--json", cwd=desk)
    (spent,) = json.loads(shown.stdout)["datasets"]
    assert spent["name"] == "d" and spent["epsilon"] == pytest.approx(3.0)
    assert spent["recipients"][0]["name"] == "team" and spent["recipients"][0]["epsilon"] == pytest.approx(3.0)
    run = spent["runs"][0]["id"]
    report = dpsynth("budget", "report", "--run", run, "--ledger", "l.db", "--html", "run.html", "--json", cwd=desk)
    assert (
        any(e["stage"] == "gate" for e in json.loads(report.stdout)["events"])
        and run in (desk / "run.html").read_text()
    )
    page = dpsynth("budget", "report", "--dataset", "d", "--ledger", "l.db", "--html", "b.html", cwd=desk)
    assert "team" in page.stdout and "b.html" in page.stdout and "Privacy budget" in (desk / "b.html").read_text()
    nobody = dpsynth("budget", "report", "--dataset", "nobody", "--ledger", "l.db", "--html", "n.html", cwd=desk)
    assert nobody.returncode == 2 and "nobody" in nobody.stderr and not (desk / "n.html").exists()
    assert dpsynth("budget", "verify", "--ledger", "l.db", cwd=desk).returncode == 0
    assert "d: epsilon 3" in dpsynth("budget", "show", "--ledger", "l.db", cwd=desk).stdout
    assert dpsynth("budget", "set", "d", "-e", "3.5", "--delta", "1e-5", "--ledger", "l.db", cwd=desk).returncode == 0
    refused = dpsynth("fit", "t.csv", "--out", "m2", "-e", "3", "--ledger", "l.db", "--dataset", "d", cwd=desk)
    assert refused.returncode == 4 and "BudgetExceeded" in refused.stderr and not list((desk / "m2").glob("*"))


def test_the_certificate_of_a_model_and_of_a_release(desk: Path) -> None:
    model = json.loads(dpsynth("budget", "certificate", "model", "--json", cwd=desk).stdout)
    assert model["release"]["recipient"] is None and model["history"]["spent"]["runs"] == 1
    released = dpsynth("budget", "certificate", "out", "--html", "c.html", cwd=desk)
    assert "team" in released.stdout and "Security and side channels" in (desk / "c.html").read_text()
    nothing = dpsynth("budget", "certificate", "nowhere", cwd=desk)
    assert nothing.returncode == 2 and "no privacy statement" in nothing.stderr


def test_plan_and_scan(desk: Path) -> None:
    (desk / "schema.json").write_text('{"columns": [{"name": "a"}, {"name": "b", "kind": "boolean"}]}')
    plan = dpsynth("plan", "schema.json", "-e", "1", "--rows", "1000", cwd=desk)
    assert plan.returncode == 0 and "noise sd" in plan.stdout and "units each" in plan.stdout
    refused = dpsynth("plan", "schema.json", "-e", "1", "--delta", "0.01", "--rows", "1000", cwd=desk)
    assert refused.returncode == 2 and "delta 0.01" in refused.stderr
    scan = dpsynth("scan", "t.csv", "--json", cwd=desk)
    assert {f["action"] for f in json.loads(scan.stdout)["findings"]} == {"keep"}


@pytest.mark.parametrize(
    "arguments, code, says",
    [
        (["fit", "nowhere.csv", "-o", "m", "-e", "1"], 2, "no file"),
        (["fit", "t.csv", "-o", "m", "-e", "0"], 2, "epsilon"),
        (["fit", "t.csv", "-o", "model", "-e", "1"], 2, "not an empty folder"),
        (["fit", "t.csv", "-o", "m"], 2, "--epsilon"),
        (["release", "nowhere", "-o", "x"], 2, "no model"),
        (["release", "model", "-o", "out"], 2, "not an empty folder"),
        (["verify", "model"], 5, "manifest.json"),
        (["sample", "model", "-o", "x.txt"], 2, ".csv"),
        (["sample", "model", "-o", "x.csv", "--where", "group"], 2, "column=value"),
        (["nonsense"], 2, "nonsense"),
    ],
)
def test_failures_have_their_exit_code_and_one_line(desk: Path, arguments: list[str], code: int, says: str) -> None:
    done = dpsynth(*arguments, cwd=desk)
    assert done.returncode == code and says in done.stderr, done.stderr
    assert "Traceback" not in done.stderr and done.stdout == ""


@pytest.mark.parametrize(
    "arguments, says",
    [
        (["sample", "model", "-o", "x.badsuffix"], "--out must end in .csv or .parquet"),
        (["sample", "model", "-o", "nowhere/x.csv"], "x.csv cannot be written: there is no folder nowhere"),
        (["sample", "model", "-o", "taken.csv"], "taken.csv is a folder; name a file"),
        (
            ["evaluate", "t.csv", "out/data.csv", "--html", "nowhere/r.html"],
            "r.html cannot be written: there is no folder",
        ),
    ],
)
def test_a_file_that_cannot_be_written_is_told_before_a_row_is_read_or_drawn(
    desk: Path, arguments: list[str], says: str
) -> None:
    (desk / "taken.csv").mkdir(exist_ok=True)
    code = (
        "import dpsynth.fidelity, dpsynth.synthesizer; from dpsynth.cli import main\n"
        "def never(*arguments): raise RuntimeError\n"
        "dpsynth.synthesizer.load = dpsynth.fidelity.evaluate = never; main()"
    )
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, cwd=desk)
    assert done.returncode == 2 and says in done.stderr, done.stderr


def test_an_error_that_is_not_ours_shows_its_type_alone(desk: Path) -> None:
    code = (
        "import dpsynth.synthesizer as s; from dpsynth.cli import main\n"
        "def load(path): raise RuntimeError('row 7 holds 987654')\n"
        "s.load = load; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "sample", "model", "-o", "x.csv"], capture_output=True, text=True, cwd=desk
    )
    assert done.returncode == 1 and "RuntimeError" in done.stderr and "987654" not in done.stderr


def test_keys(tmp_path: Path) -> None:
    assert dpsynth("keys", "new", "k.pem", cwd=tmp_path).returncode == 0
    assert (tmp_path / "k.pem").exists() and (tmp_path / "k.pem.pub").exists()
    assert dpsynth("keys", "new", "k.pem", cwd=tmp_path).returncode == 5
