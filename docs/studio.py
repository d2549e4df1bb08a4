"""Makes `docs/studio-*.png`: pages of the studio in Chromium, of a service of two versions of `digits` that shows its data.

python pipelines/serve.py --model digits --show-data          # beside it, then
python docs/studio.py http://127.0.0.1:8000
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

HERE = Path(__file__).parent
SEED = "7"


def watch(page: Page) -> None:
    """Two versions on the same seeds."""
    part = page.locator("#watch")
    values = [one.get_attribute("value") for one in part.get_by_label("Model and version").locator("option").all()]
    part.get_by_label("Beside it").select_option(values[1])
    part.get_by_label("Seed", exact=True).fill(SEED)
    part.get_by_role("button", name="Draw", exact=True).click()
    part.locator("canvas[data-finished]").nth(31).wait_for()


def complete(page: Page) -> None:
    """A digit of the data set of which the upper half is known."""
    part = page.locator("#complete")
    part.get_by_text("From the data set").click()
    part.locator("button:has(img)").nth(12).click()
    board = part.locator("canvas").first
    board.wait_for()
    part.get_by_role("button", name="Top half known").click()
    part.get_by_label("Seed", exact=True).fill(SEED)
    part.get_by_role("button", name="Complete", exact=True).click()
    part.locator("canvas[data-finished]").nth(11).wait_for()


def score(page: Page) -> None:
    """Two digits of the data set, with their scores and maps."""
    part = page.locator("#score")
    part.get_by_text("From the data set").click()
    for place in (0, 2):
        part.locator("button:has(img)").nth(place).click()
    part.locator("article").nth(1).wait_for()


PICTURES = {"watch": watch, "complete": complete, "score": score}


def main(url: str, names: list[str]) -> None:
    """Write the pictures that are named, all unless any is, beside this file."""
    with sync_playwright() as playwright:
        chromium = shutil.which("chromium") or shutil.which("chromium-browser")
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"] if os.geteuid() == 0 else [])
        for name in names or PICTURES:
            page = browser.new_page(viewport={"width": 1180, "height": 900})
            page.goto(f"{url}/#{name}")
            page.locator(f"#{name}[data-ready]").wait_for()
            PICTURES[name](page)
            page.mouse.move(0, 0)
            page.evaluate("document.activeElement.blur()")
            page.screenshot(path=HERE / f"studio-{name}.png", full_page=True)
        browser.close()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
