"""Writes docs/images/report.png: one run in the report of the demo, as Chromium shows it.

    python docs/make_picture.py [runs/demo/report.html] [RUN]

Chromium must be installed (`apt-get install chromium`).
"""

from __future__ import annotations

import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

PICTURE = Path(__file__).parent / "images" / "report.png"
RUN = "pocket-llama-late__pocket-insecure-code__lr0.001__seed1"


def draw(report: Path, run: str) -> None:
    """Take the picture of a run's card."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1180, "height": 900}, color_scheme="light")
        page.goto(report.resolve().as_uri())
        page.locator("article.run").filter(has_text=run).first.screenshot(path=PICTURE)
        browser.close()


if __name__ == "__main__":
    given = sys.argv[1:]
    draw(Path(given[0] if given else "runs/demo/report.html"), given[1] if given[1:] else RUN)
