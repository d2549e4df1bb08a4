"""How soon one sees something: the studio in Chromium, on the 28x28 net of `benchmarks/serving.py`, served as `pipelines/serve.py` does.

    python -m benchmarks.studio            # needs chromium and pip's playwright; a minute or two
    python -m benchmarks.studio --quick    # one round

    first_pixels_s      from the click until the first row of a drawing is on a canvas, on a warm service: median and greatest of the rounds
    slowest_over_median 8 browser contexts that begin to draw in the same moment: of all their images, from the click until one is finished,
                        the slowest over the median; the greatest of the rounds
    page_bytes          of all that the page loads
    goals               what each figure is held to, and whether it keeps that

Browser, service and benchmark share the machine's cores. Errors on any page end it with status 1.
"""

from __future__ import annotations

import os
import shutil
import statistics
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # where this is run as a script

from benchmarks.dated import RESULTS, write_dated
from benchmarks.sampling_rows import GATED
from pixelmodels.commandline import parse
from pixelmodels.errors import UserError, exit_with
from pixelmodels.models.files import save_model
from pixelmodels.serving import serve
from pixelmodels.storage import Storage
from pixelmodels.tracking import Tracker, registry

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

NAME, CONTEXTS = "gated", 8
LEAD_MS = 400  # before all contexts begin: each is told when
GOALS = {"first_pixels_s": 1.0, "slowest_over_median": 2.0, "page_bytes": 500_000.0}  # at most
TIMED = """() => addEventListener('click', event => {
    if (event.target.textContent === 'Draw') window.clicked = performance.now();
}, true)"""
DRAW = """at => setTimeout(() => document.querySelector('#watch button.first').click(), at - Date.now())"""
TIMES = """name => [...document.querySelectorAll('#watch .stage canvas')].map(one => (one.dataset[name] ?? NaN) - window.clicked)"""
ALERT = "document.querySelector('#watch [role=alert]').hidden ? '' : document.querySelector('#watch [role=alert]').textContent"


@dataclass(frozen=True)
class Arguments:
    """Measure how soon one sees something in the studio."""

    quick: bool = False  # one round
    rounds: int = 5  # of each figure
    images: int = 4  # that each context draws
    out: Path = RESULTS  # folder for the JSON


class Pages:
    """Pages of the studio in contexts of their own, and what went wrong on them."""

    def __init__(self, browser: Browser, url: str, images: int):
        self.browser, self.url, self.images = browser, url, images
        self.problems: list[str] = []
        self.num_bytes = 0

    def open(self) -> Page:
        """One more, ready to draw."""
        page = self.browser.new_context().new_page()
        page.on("console", lambda said: self.problems.append(said.text) if said.type == "error" else None)
        page.on("pageerror", lambda error: self.problems.append(str(error)))
        sizes: dict[str, int] = {}
        page.on("response", lambda answer: sizes.update({answer.url: int(answer.headers.get("content-length", 0))}))
        page.goto(self.url)
        page.locator("#watch[data-ready]").wait_for(timeout=60_000)
        page.get_by_label("Images", exact=True).fill(str(self.images))
        page.evaluate(TIMED)
        self.num_bytes = max(self.num_bytes, sum(size for url, size in sizes.items() if "/v1/" not in url))
        return page

    def draw(self, pages: list[Page]) -> list[tuple[list[float], list[float]]]:
        """Have all of them begin in one moment; of each the seconds to the first pixels, and to the end, of its images."""
        at = pages[0].evaluate("Date.now()") + LEAD_MS
        for page in pages:
            page.evaluate(DRAW, at)
        found = []
        for page in pages:
            page.wait_for_timeout(LEAD_MS)
            while (told := page.evaluate(ALERT)) == "" and any(time != time or time < 0 for time in page.evaluate(TIMES, "finished")):
                page.wait_for_timeout(50)
            if told:
                self.problems.append(told)
            found.append(tuple([time / 1000 for time in page.evaluate(TIMES, name)] for name in ("begun", "finished")))
        return found  # type: ignore[return-value]


def measure(arguments: Arguments, url: str, chromium: str) -> tuple[dict[str, Any], list[str]]:
    """The figures, and what went wrong."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"] if os.geteuid() == 0 else [])
        made = Pages(browser, url, arguments.images)
        pages = [made.open() for _ in range(CONTEXTS)]
        rounds = 1 if arguments.quick else arguments.rounds
        made.draw(pages[:1])  # warm
        alone = [min(made.draw(pages[:1])[0][0]) for _ in range(rounds)]
        together = [made.draw(pages) for _ in range(rounds)]
        version = browser.version
        browser.close()
    images = [[time for _, finished in drawn for time in finished] for drawn in together]
    figures = {
        "chromium": version,
        "contexts": CONTEXTS,
        "images_each": arguments.images,
        "rounds": rounds,
        "first_pixels_s": max(alone),
        "first_pixels_median_s": statistics.median(alone),
        "first_pixels_together_s": max(min(begun) for drawn in together for begun, _ in drawn),
        "image_median_s": [statistics.median(times) for times in images],
        "image_slowest_s": [max(times) for times in images],
        "slowest_over_median": max(max(times) / statistics.median(times) for times in images),
        "page_bytes": made.num_bytes,
    }
    return figures, made.problems


def main() -> int:
    """Start the service, measure, end it."""
    arguments = parse(Arguments)
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        raise UserError("no Chromium is found; install it (apt-get install chromium)")
    with tempfile.TemporaryDirectory() as folder:
        tracker = Tracker(Storage(f"{folder}/storage"))
        tracker.check()
        save_model(Path(folder) / "model", GATED.build())
        registry.register(tracker, tracker.start_parent("studio", {}), Path(folder) / "model", NAME, {})
        settings = serve.Serve(model=NAME, storage=tracker.storage.root).settings()
        port = serve.free_port("127.0.0.1", 0)
        serve.connect(settings)
        try:
            serve.start(settings, "127.0.0.1", port)
            figures, problems = measure(arguments, f"http://127.0.0.1:{port}/", chromium)
        finally:
            serve.end()
    goals = {name: {"goal": f"<= {most:g}", "met": figures[name] <= most} for name, most in GOALS.items()}
    write_dated("studio", {**figures, "problems": problems, "goals": goals}, arguments.out, "quick" if arguments.quick else "")
    return 1 if problems else 0


if __name__ == "__main__":
    exit_with(main)
