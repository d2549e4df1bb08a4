"""A service with versions of every kind, a data set and its key, and a browser that notes what goes wrong on its pages."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import numpy as np
import pytest
import torch
from PIL import Image

from pixelmodels.data import Dataset, DatasetConfig, dequantize, prepare
from pixelmodels.evaluation.nats import TEST_NATS, nats_table
from pixelmodels.likelihoods import LikelihoodConfig
from pixelmodels.models import Context, ContextSpec, PixelModel, build
from pixelmodels.models.files import save_model
from pixelmodels.models.gated_pixelcnn import GatedPixelCNNConfig
from pixelmodels.models.orders import ensemble_log_prob
from pixelmodels.serving import keys
from pixelmodels.serving.client import Client
from pixelmodels.serving.settings import Settings
from pixelmodels.shapes import ImageSpec
from pixelmodels.storage import Storage
from pixelmodels.tracking import Tracker
from pixelmodels.tracking.registry import register
from pixelmodels.tracking.versions import Version

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Page

SPEC = ImageSpec(channels=1, height=6, width=6, levels=7)
COLOUR = ImageSpec(channels=3, height=6, width=6, levels=8)
CLASSES = ("bars", "dots", "rings")
KEY = "pm_key-of-the-studio"
NAME = "shapes"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


def model_of(spec: ImageSpec, seed: int, **context: Any) -> PixelModel:
    """A small model, in float64: the same images in any batch."""
    torch.manual_seed(seed)
    config = GatedPixelCNNConfig(num_layers=2, num_features=6, head_features=8)
    return build(config, spec, LikelihoodConfig("categorical"), ContextSpec(**context)).double().eval()


@dataclass
class Registry:
    """What is served: versions, and the data set that they are of."""

    tracker: Tracker
    dataset: Dataset
    models: dict[str, PixelModel] = field(default_factory=dict)  # by name/version

    def add(self, model: PixelModel, folder: Path, name: str = NAME, condition_on: str = "") -> str:
        """Register a model with what its training would tell of it; returns the version."""
        bits = 2.5 + 0.01 * len(self.models)
        run_id = self.tracker.start_parent(f"train {name}", {})
        made = Version(name, "", run_id, "gated_pixelcnn", "gated_pixelcnn", self.dataset_ref, bits, None, condition_on)
        if model.spec == self.dataset.spec and not condition_on:
            self.tracker.log_files(run_id, {TEST_NATS: self._test_nats(model)})
        save_model(folder, model)
        version = str(register(self.tracker, run_id, folder, name, made.to_tags()))
        self.models[f"{name}/{version}"] = model
        return version

    @property
    def dataset_ref(self) -> str:
        return f"{self.dataset.name}-{self.dataset.fingerprint}"

    def _test_nats(self, model: PixelModel) -> bytes:
        test = self.dataset.read("test")
        with torch.no_grad():
            x_NCHW = torch.from_numpy(test.images_NCHW)
            nats_N = -ensemble_log_prob(model, x_NCHW, context_of_labels(model, test.labels_N)).numpy()
        return nats_table(test.keys, test.labels_N, nats_N, model.spec.num_subpixels)


def context_of_labels(model: PixelModel, labels_N: Any) -> Context | None:
    """The classes of images, where a model is given them."""
    return Context(label_B=torch.from_numpy(labels_N).long()) if model.context_spec.num_classes else None


def shapes(folder: Path) -> None:
    """Images of three classes, grey values of the levels that the models know."""
    rng = np.random.default_rng(0)
    for name in CLASSES:
        (folder / name).mkdir(parents=True)
        for index in range(30):
            levels_HW = rng.integers(0, SPEC.levels, (SPEC.height, SPEC.width)).astype(np.uint8)
            Image.fromarray(dequantize(levels_HW, SPEC.levels)).save(folder / name / f"{index:02}.png")


def make_registry(folder: Path) -> Registry:
    """Two versions of the shapes, of which the first is champion, and one version of each kind that is given something."""
    shapes(folder / "shapes")
    storage = Storage(str(folder / "storage"))
    config = DatasetConfig(source="folder", path=str(folder / "shapes"), levels=SPEC.levels, channels=1, name=NAME)
    dataset = prepare(config, storage, say=lambda _: None)
    tracker = Tracker(storage)
    tracker.check()
    made = Registry(tracker, dataset)
    for seed in (0, 1):
        made.add(model_of(SPEC, seed, num_classes=3, class_names=CLASSES), folder / f"{seed}")
    tracker.client.set_registered_model_alias(NAME, "champion", "1")
    decision = tracker.start_parent(
        f"promote {NAME} 1", {}, {"pixelmodels.kind": "promotion", "registered_model": NAME, "model_version": "1"}
    )
    tracker.set_tags(decision, {"outcome": "promoted", "reason": "it is the first"})
    tracker.finish(decision)
    small = ImageSpec(1, 3, 3, SPEC.levels)
    made.add(model_of(SPEC, 2, small=small), folder / "small", "enlarging", "small/2")
    made.add(model_of(COLOUR, 3, image=ImageSpec(1, 6, 6, COLOUR.levels)), folder / "colour", "colouring", "image")
    made.add(model_of(SPEC, 4, num_orders=4), folder / "orders", "orders")
    return made


def settings_of(registry: Registry, **changes: Any) -> Settings:
    given: dict[str, Any] = {
        "model": NAME,
        "others": ("enlarging", "colouring", "orders"),
        "storage": registry.tracker.storage.root,
        "speculation": "off",
        "slots": 16,
        "max_models": 5,
        "max_waiting": 128,
        "max_n": 128,
        "poll_s": 1.0,
        "drain_s": 5.0,
        "show_data": True,
        "key_hashes": (keys.hash_of(KEY),),
    }
    return Settings(**{**given, **changes})


@dataclass
class Studio:
    """A service with its studio."""

    url: str
    client: Client
    registry: Registry


@pytest.fixture(scope="session")
def studio(ray_cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Studio]:
    from pixelmodels.serving import serve

    registry = make_registry(tmp_path_factory.mktemp("studio"))
    port = serve.free_port("127.0.0.1", 0)
    serve.start(settings_of(registry), "127.0.0.1", port)
    url = f"http://127.0.0.1:{port}"
    yield Studio(url, Client(url, KEY, timeout_s=60), registry)
    serve.end()


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("no Chromium: as root make test-browser installs it, else apt-get install chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"] if os.geteuid() == 0 else [])
        yield browser
        browser.close()


@dataclass
class Screen:
    """A page of the studio in a browser, and what its console and network told."""

    page: Page
    studio: Studio
    problems: list[str] = field(default_factory=list)  # errors on the console, and of scripts
    urls: list[str] = field(default_factory=list)  # that were asked for
    num_bytes: int = 0  # of the files that were loaded

    def open(self, name: str, key: str | None = KEY) -> Screen:
        """Show one of the pages; a key is typed in where the service asks for one."""
        self.page.goto(f"{self.studio.url}/#{name}")
        self.page.locator(f"#key:visible, #{name}[data-ready]").first.wait_for()
        if key is not None and self.page.locator("#key").is_visible():
            self.page.locator("#key").fill(key)
            self.page.get_by_role("button", name="Go on").click()
            self.page.locator(f"#{name}[data-ready]").wait_for()
        return self

    def until(self, script: str, within_s: float = 30) -> None:
        """Wait until an expression of JavaScript is true (Playwright's own way needs `eval`, which the page's policy forbids)."""
        end = time.monotonic() + within_s
        while not self.page.evaluate(script):
            assert time.monotonic() < end, f"never: {script}\n{self.page.locator('main').inner_text()[-1500:]}"
            self.page.wait_for_timeout(20)

    def finished(self, inside: str, n: int) -> None:
        """Wait until so many images are finished."""
        self.until(f"document.querySelectorAll('{inside} canvas[data-finished]').length === {n}")

    def pixels(self, selector: str) -> list[np.ndarray]:
        """What is on the canvases that a selector finds, RGB: rows, columns, 3."""
        script = """selector => [...document.querySelectorAll(selector)].map(canvas => {
            const {data} = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
            return [canvas.height, canvas.width, [...data]];
        })"""
        found = [np.array(data, np.uint8).reshape(height, width, 4) for height, width, data in self.page.evaluate(script, selector)]
        assert all((one[..., 3] == 255).all() for one in found)
        return [one[..., :3] for one in found]


@pytest.fixture
def screens(chromium: Browser, studio: Studio) -> Iterator[Callable[..., Screen]]:
    """Makes screens, each in a browser context of its own; at the end nothing must have gone wrong on any of them."""
    contexts: list[BrowserContext] = []
    made: list[Screen] = []

    def make(**options: Any) -> Screen:
        context = chromium.new_context(**{"viewport": {"width": 1280, "height": 900}, **options})
        context.set_default_timeout(30_000)
        contexts.append(context)
        screen = Screen(context.new_page(), studio)
        screen.page.on("console", lambda said: said.type in ("error", "warning") and screen.problems.append(f"{said.type}: {said.text}"))
        screen.page.on("pageerror", lambda error: screen.problems.append(str(error)))
        screen.page.on("request", lambda request: screen.urls.append(request.url))
        made.append(screen)
        return screen

    yield make
    for context in contexts:
        context.close()
    host = urlsplit(studio.url).netloc
    for screen in made:
        others = [url for url in screen.urls if urlsplit(url).scheme in ("http", "https", "ws", "wss") and urlsplit(url).netloc != host]
        assert not others, others
        # browsers write a line for an answer that is no, though the page tells it: those are not mistakes of the page
        assert [one for one in screen.problems if "Failed to load resource: the server responded with a status of 4" not in one] == []


@pytest.fixture
def screen(screens: Callable[..., Screen]) -> Screen:
    return screens()
