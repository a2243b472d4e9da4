"""Screenshots of the reports as a reader sees them: light and dark, on a desk and on a phone.

    python bench/screenshots.py PAGE.html ... [--out FOLDER]
    python bench/screenshots.py --demo demo-out [--out FOLDER]     # all pages of a demo's folder

Needs Chromium (Debian's `chromium`, or $CHROMIUM) and what `pip install -e ".[dev]"` installs.
"""

from __future__ import annotations

import argparse
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

SCREENS = {"desk": (1200, 900), "phone": (390, 844)}
SCHEMES = ("light", "dark")


def chromium() -> str | None:
    """Where Chromium is; None where it is not installed."""
    named = (os.environ.get("CHROMIUM"), "chromium", "chromium-browser", "google-chrome")
    return next((found for name in named if name and (found := shutil.which(name))), None)


@contextmanager
def browser() -> Iterator[Any]:
    """A headless Chromium (a Playwright `Browser`)."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=chromium(), args=["--no-sandbox", "--disable-gpu"])
        try:
            yield running
        finally:
            running.close()


@contextmanager
def opened(running: Any, screen: str, scheme: str) -> Iterator[Any]:
    """An empty tab (a Playwright `Page`) on a screen in a colour scheme."""
    width, height = SCREENS[screen]
    context = running.new_context(viewport={"width": width, "height": height}, color_scheme=scheme, offline=True)
    try:
        yield context.new_page()
    finally:
        context.close()


def shoot(running: Any, pages: dict[str, Path], out: Path) -> list[Path]:
    """A picture of each whole page on each screen in each scheme."""
    out.mkdir(parents=True, exist_ok=True)
    made = []
    for screen in SCREENS:
        for scheme in SCHEMES:
            with opened(running, screen, scheme) as tab:
                for name, path in pages.items():
                    tab.goto(path.resolve().as_uri())
                    made.append(out / f"{name}-{screen}-{scheme}.png")
                    tab.screenshot(path=made[-1], full_page=True)
    return made


def demo_pages(folder: Path) -> dict[str, Path]:
    """The pages of a demo, the certificate and the budget among them."""
    import dpsynth
    from dpsynth.report import budget, certificate
    from dpsynth.report.spending import spending

    made = folder / "internal"
    statement = dpsynth.load(folder / "model").privacy
    (made / "certificate.html").write_text(certificate.render(statement), encoding="utf-8")
    (made / "budget.html").write_text(
        budget.render(spending(dpsynth.Ledger(folder / "ledger.db"), None)), encoding="utf-8"
    )
    inside = {name: made / f"{name}.html" for name in ("fidelity", "certificate", "budget")}
    return {"report": folder / "release/report.html"} | inside


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pages", type=Path, nargs="*")
    parser.add_argument("--demo", type=Path, help="folder of `dpsynth demo`")
    parser.add_argument("--out", type=Path, default=Path("screenshots"))
    asked = parser.parse_args()
    pages = {path.stem: path for path in asked.pages} | (demo_pages(asked.demo) if asked.demo else {})
    with browser() as running:
        for path in shoot(running, pages, asked.out):
            print(path)


if __name__ == "__main__":
    main()
