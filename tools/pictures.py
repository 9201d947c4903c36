"""Photographs a page for the documents: `python tools/pictures.py` writes docs/images/page.png.

Needs chromium. The page is the one that `onedial inspect examples/rollouts.jsonl.gz -o page.html` writes.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
LOG = "examples/rollouts.jsonl.gz"
TARGET = ROOT / "docs" / "images" / "page.png"
WIDTH, HEIGHT = 1100, 820


def main() -> None:
    """Writes the page, opens it, and saves what is seen first."""
    import os

    from playwright.sync_api import sync_playwright

    from onedial.cli.main import main as onedial

    os.chdir(ROOT)
    browser = shutil.which("chromium") or shutil.which("chromium-browser")
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        page = Path(folder) / "page.html"
        if onedial(["inspect", LOG, "-o", str(page)]):
            raise SystemExit("pictures: the page could not be written")
        chromium = playwright.chromium.launch(executable_path=browser, args=["--no-sandbox"])
        screen = chromium.new_page(viewport={"width": WIDTH, "height": HEIGHT})
        screen.goto(page.as_uri())
        screen.wait_for_timeout(500)
        screen.screenshot(path=str(TARGET))
        chromium.close()


if __name__ == "__main__":
    main()
