"""The reports in a browser: whole, without a network, without a script, and no wider than the screen."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

import dpsynth

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
    dpsynth.release(synth, folder / "release", recipient="Team <b>B</b>")
    dpsynth.evaluate(table, synth.sample(), schema=synth.schema).to_html(folder / "internal.html")
    return {"shareable": folder / "release/report.html", "internal": folder / "internal.html"}


def rendered(page: Path, width: int, folder: Path) -> str:
    """The page's elements after it was laid out in a window of this width."""
    switches = "--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking --disable-sync"
    command = [BROWSER, *switches.split(), f"--user-data-dir={folder}", f"--window-size={width},900", "--dump-dom"]
    done = subprocess.run([*map(str, command), page.as_uri()], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.mark.parametrize("width", [1200, 600])
@pytest.mark.parametrize("which", ["shareable", "internal"])
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
    seen = rendered(reports["shareable"], 1200, tmp_path / "profile")
    assert "Team &lt;b&gt;B&lt;/b&gt;" in seen
