"""The reports in a browser: whole, without a network, without a script, and no wider than the screen."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

import dpsynth
from dpsynth.report import budget, certificate
from dpsynth.report.spending import run_of, spending

BROWSER = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
)
# Appended to a copy: writes what the browser laid out into the page, from where --dump-dom shows it.
PROBE = """<script>addEventListener("load", () => {
  const root = document.documentElement;
  const asked = performance.getEntriesByType("resource").length;
  document.title = `width ${root.scrollWidth} of ${root.clientWidth}, resources ${asked}`;
});</script>"""
POLICY = "default-src 'none'"
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(BROWSER is None, reason="Chromium is not installed"),
]


@pytest.fixture(scope="module")
def reports(synth: dpsynth.Synthesizer, table: object, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("reports")
    ledger = dpsynth.Ledger(folder / "ledger.db")
    ledger.set_cap("people", epsilon=9.0, delta=1e-5)
    spent = [dpsynth.fit(table, epsilon=e, ledger=ledger, dataset="people", progress=False) for e in (1.0, 4.0)]
    dpsynth.release(synth, folder / "release", recipient="Team <b>B</b>")
    for fitted, who in ((spent[1], "Team <b>B</b>"), (spent[1], "a-team-with-a-name-that-has-no-end-" * 3)):
        out = folder / f"out-{len(who)}"
        dpsynth.release(fitted, out, recipient=who, purpose="tests", ledger=ledger, accept_inconclusive=True)
    dpsynth.evaluate(table, synth.sample(), schema=synth.schema).to_html(folder / "internal.html")
    (folder / "certificate.html").write_text(certificate.render(synth.privacy), encoding="utf-8")
    whole = spending(ledger)
    (folder / "budget.html").write_text(budget.render(whole), encoding="utf-8")
    single = run_of(whole.datasets, spent[1].privacy.run)
    (folder / "run.html").write_text(budget.render_run(*single), encoding="utf-8")
    named = {name: folder / f"{name}.html" for name in ("internal", "certificate", "budget", "run")}
    return named | {"shareable": folder / "release/report.html"}


def rendered(page: Path, width: int, folder: Path) -> str:
    """The page's elements after it was laid out in a window of this width."""
    switches = "--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking --disable-sync"
    command = [BROWSER, *switches.split(), f"--user-data-dir={folder}", f"--window-size={width},900", "--dump-dom"]
    done = subprocess.run([*map(str, command), page.as_uri()], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.mark.parametrize("width", [1200, 600])
@pytest.mark.parametrize("which", ["shareable", "internal", "certificate", "budget", "run"])
def test_a_report_stands_alone(reports: dict[str, Path], which: str, width: int, tmp_path: Path) -> None:
    source = reports[which].read_text(encoding="utf-8")
    assert "<script" not in source and not re.search(r"""(src|href)=["']?(https?:)?//""", source)
    page = tmp_path / "page.html"
    assert POLICY in source, "the page forbids itself scripts and requests"
    probed = source.replace(POLICY, f"{POLICY}; script-src 'unsafe-inline'").replace("</body>", f"{PROBE}</body>")
    page.write_text(probed, encoding="utf-8")
    seen = rendered(page, width, tmp_path / "profile")
    assert "<svg" in seen and "<h1" in seen
    laid_out = re.search(r"<title>width (\d+) of (\d+), resources (\d+)</title>", seen)
    assert laid_out is not None
    content, window, resources = map(int, laid_out.groups())
    assert window > 0 and content <= window, "the page is wider than the window"
    assert resources == 0, "the page asked for something outside itself"


def test_text_from_outside_is_shown_as_text(reports: dict[str, Path], tmp_path: Path) -> None:
    for which in ("shareable", "budget"):
        seen = rendered(reports[which], 1200, tmp_path / "profile")
        assert "Team &lt;b&gt;B&lt;/b&gt;" in seen
