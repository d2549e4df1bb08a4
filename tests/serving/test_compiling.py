"""Versions whose passes are compiled: who waits for that and who does not. What compiles, and what it makes, are stand-ins at first."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from weakref import WeakSet

import numpy as np
import pytest
import torch

from pixelmodels.likelihoods import LikelihoodConfig
from pixelmodels.models import PixelModel, build
from pixelmodels.models.gated_pixelcnn import GatedPixelCNNConfig
from pixelmodels.sampling import Engine, Request, compiled, draw_all, precompile
from pixelmodels.sampling.compiled import CannotCompile, CompiledPasses, NotMade
from pixelmodels.sampling.passes import Passes
from pixelmodels.serving.refusals import Refused
from pixelmodels.serving.replica import Drawn, Sampler
from pixelmodels.serving.schemas import SampleRequest
from pixelmodels.serving.shelf import Loaded, Shelf
from pixelmodels.shapes import ImageSpec
from pixelmodels.storage import Storage
from pixelmodels.tracking import Tracker
from tests.serving.conftest import Registry, settings_of, small_model
from tests.serving.web import pids, read

ROOT = Path(__file__).parents[2]
LAYERS = (2, 3, 3, 4)  # of versions 1 to 4: the second and the third have the same functions
# Stands for the process that compiles: notes what it is ordered, waits until it may end, makes the functions, says why where it does not.
STAND_IN = """
import hashlib, pathlib, sys, time
order, folder = sys.stdin.readline().strip(), pathlib.Path(sys.argv[1])
with open(folder / "orders", "a") as orders:
    print(order, sys.argv[2], file=orders)
while not (folder / "end").exists():
    time.sleep(0.01)
said = (folder / "end").read_text()
if said in ("", "lost"):
    (folder / hashlib.sha256(order.encode()).hexdigest()).write_text(said)
print(said.removeprefix("lost"))
"""


def wait_for(holds: Any, within_s: float = 60) -> None:
    until = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < until
        time.sleep(0.01)


class Factory:
    """What is ordered of the stand-in, and what it does."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.served: WeakSet[PixelModel] = WeakSet()  # models that have found their functions

    def path(self, order: str) -> Path:
        """There, and empty, where the functions of an order are."""
        return self.folder / hashlib.sha256(order.encode()).hexdigest()

    def orders(self) -> list[tuple[int, int]]:
        """The number of layers of each order so far, and the niceness."""
        file = self.folder / "orders"
        lines = [line.rpartition(" ") for line in file.read_text().splitlines()] if file.exists() else []
        return [(json.loads(order)["model"]["config"]["num_layers"], int(niceness)) for order, _, niceness in lines]

    def serves(self, shelf: Shelf, asked: str) -> bool:
        """Whether a version is drawn by compiled passes."""
        return shelf.find(asked).model in self.served

    def has_made(self, model: PixelModel) -> None:
        self.path(precompile.order_of(model, 1)).write_text("")

    def end(self, said: str = "") -> None:
        """Let what is being compiled be made, or fail with what is said."""
        (self.folder / "end").write_text(said)

    def go_on(self) -> None:
        """Let it wait again."""
        (self.folder / "end").unlink()


@pytest.fixture
def factory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Factory:
    made = Factory(tmp_path)

    class OfFactory(Passes):
        """Compiled passes where the stand-in has made their functions."""

        def __init__(self, model: PixelModel, cache: Path | None, num_threads: int, *, speculates: bool, instead: CannotCompile | NotMade):
            path = made.path(precompile.order_of(model, num_threads, speculates))
            if not path.exists() or path.read_text():
                raise instead
            super().__init__(model)
            made.served.add(model)

    monkeypatch.setattr(precompile, "COMMAND", (sys.executable, "-c", STAND_IN, str(tmp_path)))
    monkeypatch.setattr(compiled, "CompiledPasses", OfFactory)
    compiled._say_once.cache_clear()
    made.has_made(small_model(0, LAYERS[0]))
    return made


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Registry:
    folder = tmp_path_factory.mktemp("compiling")
    tracker = Tracker(Storage(str(folder / "storage")))
    tracker.check()
    made = Registry(tracker, tracker.start_parent("compiling", {}), folder, {})
    for seed, num_layers in enumerate(LAYERS):
        made.add(small_model(seed, num_layers))
    return made


@pytest.fixture
def shelf(own: Registry, factory: Factory) -> Iterator[Shelf]:
    """With version 1, whose functions are there."""
    own.point("champion", "1")
    made = Shelf(settings_of(own, compiled=True, max_models=4))
    made.open()
    assert factory.orders() == []
    yield made
    (factory.folder / "end").touch()


def refusal(shelf: Shelf, asked: str) -> str:
    """What is said of a version that is not ready."""
    with pytest.raises(Refused) as refused:
        shelf.find(asked)
    assert (refused.value.status, refused.value.code, refused.value.retry_after_s) == (503, "not_loaded", 5.0)
    return refused.value.message


COMPILES = "compiling the passes of tiny/4 in another process, which takes a minute or some, once"
READY = "tiny/2 is being made ready (its passes are compiled, which takes a minute or some); ask again in 5 s"


def test_a_version_that_is_compiled_keeps_nobody_waiting(
    shelf: Shelf, factory: Factory, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    load, loads = shelf._load, list[str]()

    def counted(key: str) -> Loaded:
        loads.append(key)
        return load(key)

    monkeypatch.setattr(shelf, "_load", counted)
    factory.has_made(small_model(3, LAYERS[3]))
    with caplog.at_level(logging.WARNING):
        assert refusal(shelf, "2") == READY
        wait_for(factory.orders)
        assert refusal(shelf, "2") == READY
    assert shelf.find("4").address == "tiny/4" and shelf.find(None).address == "tiny/1"  # of which there is nothing to compile
    with shelf._loading, pytest.raises(Refused, match="is being made ready") as refused:
        shelf.found("2")  # also while another one is loaded
    assert refused.value.retry_after_s == 5.0 and shelf.found("3") is None
    for _ in range(2):
        assert refusal(shelf, "3") == READY.replace("tiny/2", "tiny/3")  # for whose functions it waits, too
    assert loads == ["tiny/2", "tiny/4", "tiny/3"]  # each once, however often it is asked for
    factory.end()
    shelf._compiling.wait()  # type: ignore[union-attr]
    assert factory.serves(shelf, "2") and factory.serves(shelf, "3")
    assert factory.orders() == [(3, 19)]
    assert caplog.messages == ["compiling the passes of tiny/2 in another process, which takes a minute or some, once"]


def test_one_is_compiled_at_a_time(shelf: Shelf, factory: Factory) -> None:
    refusal(shelf, "2")
    wait_for(factory.orders)
    assert refusal(shelf, "4") == "tiny/4 is made ready after another version, whose passes are being compiled; ask again in 5 s"
    factory.end()
    shelf._compiling.wait()  # type: ignore[union-attr]
    factory.go_on()
    assert refusal(shelf, "4") == READY.replace("tiny/2", "tiny/4") and shelf.find("2").address == "tiny/2"
    wait_for(lambda: factory.orders() == [(3, 19), (4, 19)])


def test_an_alias_moves_once_the_passes_are_there(own: Registry, shelf: Shelf, factory: Factory, caplog: pytest.LogCaptureFixture) -> None:
    before = shelf.find(None)
    own.point("champion", "2")
    for _ in range(2):  # it waits for nothing
        shelf.follow()
        assert shelf.find(None) is before
    wait_for(factory.orders)
    factory.end()
    shelf._compiling.wait()  # type: ignore[union-attr]
    shelf.follow()
    assert shelf.find(None).address == "tiny/2" and factory.serves(shelf, "2") and factory.orders() == [(3, 19)]
    assert [message for message in caplog.messages if "stays" in message] == []


def test_what_cannot_be_compiled_is_drawn_as_ever_and_stays_so(shelf: Shelf, factory: Factory, caplog: pytest.LogCaptureFixture) -> None:
    refusal(shelf, "2")
    factory.end("its _Row cannot be compiled: no room")
    shelf._compiling.wait()  # type: ignore[union-attr]
    loaded = shelf.find("2")
    assert not factory.serves(shelf, "2") and not factory.serves(shelf, "3")  # the other one is not tried
    assert caplog.messages[1:] == ["GatedPixelCNN is drawn without compiled functions: its _Row cannot be compiled: no room"]
    factory.has_made(small_model(1, LAYERS[1]))  # by somebody else, later
    shelf.follow()
    assert shelf.find("2") is loaded and not factory.serves(shelf, "2") and factory.orders() == [(3, 19)]


@pytest.mark.parametrize(
    ("said", "command", "told"),
    [
        ("lost", None, "they were compiled, and are not found; start the service again if its code was changed"),
        ("", ("false",), "the process that compiled them ended with status 1"),
    ],
)
def test_a_process_that_makes_nothing_is_told(
    shelf: Shelf,
    factory: Factory,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    said: str,
    command: tuple[str, ...] | None,
    told: str,
) -> None:
    monkeypatch.setattr(precompile, "COMMAND", command or precompile.COMMAND)
    refusal(shelf, "2")
    factory.end(said)
    shelf._compiling.wait()  # type: ignore[union-attr]
    assert not factory.serves(shelf, "2")
    assert caplog.messages[1:] == [f"GatedPixelCNN is drawn without compiled functions: {told}"]


def test_a_process_that_died_has_a_successor(
    shelf: Shelf, factory: Factory, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Not for the version that was loaded since, whose images stay what they are."""
    compiling, compiles = shelf._compiling, precompile.COMMAND
    assert compiling is not None
    monkeypatch.setattr(precompile, "COMMAND", (sys.executable, "-c", "import sys; sys.exit('no\\nroom')"))
    refusal(shelf, "2")
    compiling.wait()
    assert not factory.serves(shelf, "2")
    why = "the process that compiled them ended with status 1: room"
    assert caplog.messages[1:] == [f"GatedPixelCNN is drawn without compiled functions: {why}"]
    (order,) = compiling._again_at
    assert compiling._again_at[order] > time.monotonic() + 250
    compiling._again_at[order] = time.monotonic()
    monkeypatch.setattr(precompile, "COMMAND", compiles)
    assert refusal(shelf, "3") == READY.replace("tiny/2", "tiny/3")
    factory.end()
    compiling.wait()
    assert factory.serves(shelf, "3") and not factory.serves(shelf, "2") and not compiling._again_at


def test_the_first_version_is_waited_for(own: Registry, factory: Factory, caplog: pytest.LogCaptureFixture) -> None:
    own.point("champion", "4")
    shelf = Shelf(settings_of(own, compiled=True))
    opening = threading.Thread(target=shelf.open)
    opening.start()
    wait_for(factory.orders)
    assert opening.is_alive() and not shelf.loaded()
    factory.end()
    opening.join(60)
    assert factory.serves(shelf, "4") and factory.orders() == [(4, 0)]
    assert caplog.messages == [COMPILES]


def test_a_sampler_draws_and_refuses_while_it_compiles(own: Registry, factory: Factory) -> None:
    own.point("champion", "1")
    sampler = Sampler(settings_of(own, compiled=True, max_models=4))

    async def ask() -> None:
        refused = await sampler.sample(SampleRequest(model="2"), 60.0)
        assert isinstance(refused, Refused) and refused.message == READY and sampler.thread.num_unfinished == 0
        wait_for(factory.orders)
        drawn = await sampler.sample(SampleRequest(n=3, seed=1), 60.0)
        assert isinstance(drawn, Drawn) and np.array_equal(drawn.images_NCHW, draw_all(own.models["1"], Request(n=3, seed=1)).numpy())
        with sampler.shelf._loading:  # another version is loaded for as long as it takes
            loads = asyncio.create_task(sampler.sample(SampleRequest(model="4"), 60.0))
            streamed = [part async for part in sampler.stream(SampleRequest(model="2", stream=True), 60.0)]
            assert [(part.code, part.retry_after_s) for part in streamed if isinstance(part, Refused)] == [("not_loaded", 5.0)]
            assert not loads.done()
        assert isinstance(await loads, Refused)
        factory.end()
        sampler.shelf._compiling.wait()  # type: ignore[union-attr]
        drawn = await sampler.sample(SampleRequest(n=3, seed=1, model="2"), 60.0)
        assert isinstance(drawn, Drawn) and drawn.model == "tiny/2"
        assert np.array_equal(drawn.images_NCHW, draw_all(own.models["2"], Request(n=3, seed=1)).numpy())

    try:
        asyncio.run(ask())
    finally:
        factory.end()
        sampler._ended.set()
        sampler.thread.stop()


# --- what truly compiles ---


def tiny_model(seed: int, num_features: int, num_layers: int = 1) -> PixelModel:
    """A net of 4 x 4 black and white images, in float32."""
    torch.manual_seed(seed)
    config = GatedPixelCNNConfig(num_layers=num_layers, num_features=num_features, head_features=2)
    return build(config, ImageSpec(1, 4, 4, 2), LikelihoodConfig("bernoulli")).eval()


REPLICA = """
import sys
from pixelmodels.sampling.precompile import Compilation

compilation = Compilation(sys.argv[1], gives_way=True)
print(compilation._process.pid, flush=True)
compilation.wait()
"""


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(compiled, "CACHE", tmp_path / "functions")
    compiled._say_once.cache_clear()
    return tmp_path / "functions"


def in_group(group: int) -> list[int]:
    """Processes of a group that have not ended."""
    stats = {pid: read(pid, "stat").rpartition(b")")[2].split() for pid in pids()}
    return [pid for pid, stat in stats.items() if stat and int(stat[2]) == group and stat[0] != b"Z"]


@pytest.mark.slow
def test_what_compiles_gives_way_and_ends_with_its_replica(cache: Path) -> None:
    """Killed while a compiler runs: nothing that was begun goes on."""
    command = [sys.executable, "-c", REPLICA, precompile.order_of(tiny_model(0, 2, num_layers=8), 1)]
    replica = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    try:
        assert replica.stdout is not None
        group = int(replica.stdout.readline())
        wait_for(lambda: len(in_group(group)) > 1, within_s=300)  # a compiler
        assert {os.getpriority(os.PRIO_PROCESS, pid) for pid in in_group(group)} == {19}
    finally:
        os.kill(replica.pid, signal.SIGKILL)
        replica.wait()
    wait_for(lambda: not in_group(group))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Registry:
    folder = tmp_path_factory.mktemp("tiny")
    tracker = Tracker(Storage(str(folder / "storage")))
    tracker.check()
    made = Registry(tracker, tracker.start_parent("tiny", {}), folder, {})
    for seed, num_features in enumerate((2, 3, 3)):
        made.add(tiny_model(seed, num_features))
    made.point("champion", "1")
    return made


@pytest.mark.compiled
def test_the_first_request_of_a_version_is_told_to_come_again(
    tiny: Registry, cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(precompile, "NICENESS", 0)  # tests give way to none
    settings = settings_of(tiny, compiled=True)
    sampler = Sampler(settings)

    async def ask(model: str | None) -> Drawn | Refused:
        return await sampler.sample(SampleRequest(n=5, seed=1, model=model), 60.0)

    def drawn(version: str) -> np.ndarray:
        engine = Engine(tiny.models[version], num_slots=settings.slots, make_passes=lambda model: CompiledPasses(model, cache, 1))
        return draw_all(engine, Request(n=5, seed=1)).numpy()

    try:
        assert len(list(cache.glob("*.pt2"))) == 4
        refused = asyncio.run(ask("2"))
        assert isinstance(refused, Refused) and refused.code == "not_loaded"
        first = asyncio.run(ask(None))
        assert isinstance(first, Drawn) and np.array_equal(first.images_NCHW, drawn("1"))
        sampler.shelf._compiling.wait()  # type: ignore[union-attr]
        for version in ("2", "3"):
            answer = asyncio.run(ask(version))
            assert isinstance(answer, Drawn) and np.array_equal(answer.images_NCHW, drawn(version))
        assert len(list(cache.glob("*.pt2"))) == 8 and not list(cache.glob("building-*"))
        assert len(caplog.messages) == 2 and all(message.startswith("compiling the passes of") for message in caplog.messages)
        assert isinstance(sampler.shelf.find("3").engine._lanes[0]["plain"].passes, CompiledPasses)
    finally:
        sampler._ended.set()
        sampler.thread.stop()


@pytest.mark.compiled
def test_a_compiler_that_fails_leaves_the_passes_as_they_are(
    tiny: Registry, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "c++").write_text('#!/bin/sh\ntest "$1" = --version && exec g++ --version\necho no room >&2\nexit 1\n')
    (tmp_path / "c++").chmod(0o700)
    monkeypatch.setenv("CXX", str(tmp_path / "c++"))  # of the process that compiles
    shelf = Shelf(settings_of(tiny, compiled=True))
    shelf.open()
    assert (
        type(shelf.find(None).engine._lanes[0]["plain"].passes) is Passes
        and not list(cache.glob("*.pt2"))
        and not list(cache.glob("building-*"))
    )
    _, drawn = caplog.messages
    assert drawn.startswith("GatedPixelCNN is drawn without compiled functions: its _Row cannot be compiled: ") and "\n" not in drawn
