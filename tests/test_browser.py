"""The reports in a browser: whole, without a network, without a script, and no wider than the screen."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe

import dpsynth
from dpsynth import Column, Schema
from dpsynth.report import budget, certificate
from dpsynth.report.spending import run_of, spending

SCRIPT = Path(__file__).parents[1] / "bench/screenshots.py"
# What a reader sees of the pictures: each has a size, something painted in it, and no text that is cut off.
DRAWN = """() => [...document.querySelectorAll("svg")].map(svg => {
  const box = svg.getBoundingClientRect(), shapes = [...svg.querySelectorAll("rect, path, circle")];
  const painted = shapes.filter(s => {
    const look = getComputedStyle(s), size = s.getBoundingClientRect();
    return Math.max(size.width, size.height) > 0 && (look.fill !== "none" || look.stroke !== "none");
  });
  const cut = [...svg.querySelectorAll("text")].filter(t => {
    const at = t.getBoundingClientRect();
    return at.left < box.left - 1 || at.right > box.right + 1 || at.top < box.top - 1 || at.bottom > box.bottom + 1;
  });
  return {label: svg.getAttribute("aria-label"), size: Math.min(box.width, box.height), painted: painted.length,
          cut: cut.map(t => t.textContent)};
})"""


def _script() -> Any:
    """The module bench/screenshots.py; bench/ is a folder of scripts, not a package."""
    spec = importlib.util.spec_from_file_location("bench_screenshots", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


SCREENSHOTS = _script()
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(SCREENSHOTS.chromium() is None, reason="Chromium is not installed"),
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with SCREENSHOTS.browser() as running:
        yield running


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
    names = ["age", "score", "group", "city"]
    collapsed = dpsynth.collapse(table[names], 2, epsilon=4.0, mix=True, ledger=ledger, progress=False)
    collapsed.to_html(folder / "collapse.html")
    sensitive = Schema(
        [Column("group", sensitive=True), Column("level", sensitive=True), Column("member", role="target")]
    )
    report = dpsynth.evaluate(table, synth.sample(), schema=sensitive)
    replace(report, generations=collapsed).to_html(folder / "internal.html")
    (folder / "certificate.html").write_text(certificate.render(synth.privacy), encoding="utf-8")
    whole = spending(ledger)
    (folder / "budget.html").write_text(budget.render(whole), encoding="utf-8")
    single = run_of(whole.datasets, spent[1].privacy.run)
    (folder / "run.html").write_text(budget.render_run(*single), encoding="utf-8")
    named = {name: folder / f"{name}.html" for name in ("internal", "collapse", "certificate", "budget", "run")}
    return named | {"shareable": folder / "release/report.html"}


@pytest.mark.parametrize("scheme", SCREENSHOTS.SCHEMES)
@pytest.mark.parametrize("screen", SCREENSHOTS.SCREENS)
@pytest.mark.parametrize("which", ["shareable", "internal", "collapse", "certificate", "budget", "run"])
def test_a_report_is_whole_by_itself(
    browser: Any, reports: dict[str, Path], which: str, screen: str, scheme: str
) -> None:
    """No message in the console, no request, nothing wider than the screen, every plot drawn, nothing that axe-core calls serious."""
    source = reports[which].read_text(encoding="utf-8")
    assert "<script" not in source and "default-src 'none'" in source, "the page forbids itself scripts and requests"
    with SCREENSHOTS.opened(browser, screen, scheme) as tab:
        said, asked = [], []
        tab.on("console", lambda message: said.append(message.text))
        tab.on("pageerror", lambda error: said.append(str(error)))
        tab.on("request", lambda request: asked.append(request.url))
        tab.goto(reports[which].as_uri())
        assert said == [] and asked == [reports[which].as_uri()]
        assert tab.evaluate("document.documentElement.scrollWidth") <= SCREENSHOTS.SCREENS[screen][0], "it is too wide"
        drawn = tab.evaluate(DRAWN)
        assert len(drawn) == source.count("<svg")
        for plot in drawn:
            assert plot["label"] and plot["size"] > 4 and plot["painted"] and not plot["cut"], plot
        dark = tab.evaluate("getComputedStyle(document.body).backgroundColor") != "rgb(251, 251, 249)"
        assert dark == (scheme == "dark")
        found = Axe().run(tab).response["violations"]
        serious = [(v["id"], v["nodes"][0]["html"][:200]) for v in found if v["impact"] in ("serious", "critical")]
        assert serious == []


def test_the_accessibility_check_sees_what_is_wrong(browser: Any, reports: dict[str, Path], tmp_path: Path) -> None:
    """Power: grey on white, a picture without a text, a table that scrolls and cannot be reached."""
    page = tmp_path / "page.html"
    wrong = '<p style="color:#bbb;background:#fff">faint</p><svg role="img" width="9" height="9"></svg>'
    page.write_text(reports["shareable"].read_text(encoding="utf-8").replace("</main>", f"{wrong}</main>"))
    with SCREENSHOTS.opened(browser, "desk", "light") as tab:
        tab.goto(page.as_uri())
        found = {v["id"] for v in Axe().run(tab).response["violations"] if v["impact"] in ("serious", "critical")}
    assert found == {"color-contrast", "svg-img-alt"}


def test_text_from_outside_is_shown_as_text(browser: Any, reports: dict[str, Path]) -> None:
    with SCREENSHOTS.opened(browser, "desk", "light") as tab:
        for which in ("shareable", "budget"):
            tab.goto(reports[which].as_uri())
            assert "Team <b>B</b>" in tab.inner_text("body")


def test_screenshots_are_made_by_a_script(browser: Any, reports: dict[str, Path], tmp_path: Path) -> None:
    made = SCREENSHOTS.shoot(browser, {"certificate": reports["certificate"]}, tmp_path / "shots")
    assert len(made) == 4 and all(path.read_bytes().startswith(b"\x89PNG") for path in made)
