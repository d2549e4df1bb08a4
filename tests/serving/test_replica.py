"""A sampler in this process, without Ray: limits that need its model, and what it tells about itself."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pixelmodels.models.files import save_model
from pixelmodels.sampling import draw_all
from pixelmodels.sampling.engine import Request
from pixelmodels.serving.pngs import base64_png
from pixelmodels.serving.refusals import Refused
from pixelmodels.serving.replica import Drawn, Sampler, Scored
from pixelmodels.serving.schemas import CompletionRequest, SampleRequest, ScoreRequest
from pixelmodels.serving.settings import Settings
from tests.serving.conftest import SMALL, SPEC, full_model, small_model

PNG = base64_png(np.zeros(SPEC.shape, np.uint8), SPEC.levels)
FITS = np.full(SPEC.shape, SPEC.levels - 1, np.uint8)  # agrees with a small image that is white
FITS[:, 1::2] = 2
PICTURES = (SPEC.height + 1) * SPEC.num_subpixels // 2  # sub-pixels of the pictures of all rows of an image


@pytest.fixture
def sampler(tmp_path: Path) -> Iterator[Sampler]:
    save_model(tmp_path / "model", small_model(0))
    settings = Settings(
        model=str(tmp_path / "model"),
        storage=str(tmp_path),
        slots=8,
        max_waiting=64,
        max_n=64,
        poll_s=0.01,
        max_map_pixels=2 * SPEC.height * SPEC.width,
        max_stream_bytes=2 * PICTURES,
    )
    made = Sampler(settings)
    yield made
    made._ended.set()
    made.thread.stop()


async def streamed(sampler: Sampler, **options: Any) -> list[Any]:
    return [part async for part in sampler.stream(SampleRequest(stream=True, seed=1, **options), 60.0)]


def test_maps_and_streams_of_rows_are_bounded_by_their_pixels(sampler: Sampler) -> None:
    def scored(n: int, map_: bool) -> Scored | Refused:
        return asyncio.run(sampler.score(ScoreRequest(images=[PNG] * n, map=map_), 60.0))

    refused = scored(3, True)
    assert isinstance(refused, Refused) and (refused.status, refused.field) == (422, "map")
    assert isinstance(scored(2, True), Scored) and isinstance(scored(3, False), Scored)
    (refused,) = asyncio.run(streamed(sampler, n=3))
    assert (refused.status, refused.field) == (422, "n")
    assert len({row.image for part in asyncio.run(streamed(sampler, n=2)) for row in part}) == 1 + 2


@pytest.fixture
def full(tmp_path: Path) -> Iterator[Sampler]:
    """Of a model in float32 that is conditioned on everything."""
    save_model(tmp_path / "model", full_model(0).float())
    made = Sampler(Settings(model=str(tmp_path / "model"), storage=str(tmp_path)))
    yield made
    made._ended.set()
    made.thread.stop()


WHITE = base64_png(np.full(SMALL.shape, SMALL.levels - 1, np.uint8), SMALL.levels)
LARGE = {"vector": [3e38, -3e38]}


@pytest.mark.parametrize("ask", ["sample", "score", "complete"])
@pytest.mark.parametrize(("given", "field"), [(LARGE, "vector"), ({"small_image": WHITE}, "small_image")])
def test_what_a_request_contradicts_itself_in_or_overflows_with_is_named(
    full: Sampler, ask: str, given: dict[str, Any], field: str
) -> None:
    if ask == "score":
        answer: Any = asyncio.run(full.score(ScoreRequest(images=[base64_png(FITS, SPEC.levels), PNG], **given), 60.0))
    else:
        known = {"image": PNG, "known_rows": 3} if ask == "complete" else {}
        answer = asyncio.run(full.sample((CompletionRequest if known else SampleRequest)(seed=1, **known, **given), 60.0))
    if (ask, field) == ("sample", "small_image"):
        assert isinstance(answer, Drawn) and (answer.images_NCHW[:, :, ::2, ::2] == SMALL.levels - 1).all()
        return
    assert isinstance(answer, Refused) and (answer.status, answer.code, answer.field) == (422, "invalid", field)
    if field == "small_image":
        image = 1 if ask == "score" else 0
        assert answer.message.startswith(f"pixel (0, 0) of image {image} is of another level in the small image (6, not 0)")
    assert full.thread.num_unfinished == 0


def test_what_agrees_with_the_small_image_is_answered(full: Sampler) -> None:
    scored = asyncio.run(full.score(ScoreRequest(images=[base64_png(FITS, SPEC.levels)], small_image=WHITE, map=True), 60.0))
    assert isinstance(scored, Scored) and (scored.map_bits_NHW[0, ::2, ::2] == 0).all() and scored.nats_N[0] > 0
    asked = CompletionRequest(image=base64_png(FITS, SPEC.levels), known_rows=3, small_image=WHITE)
    drawn = asyncio.run(full.sample(asked, 60.0))
    assert isinstance(drawn, Drawn) and np.array_equal(drawn.images_NCHW[0, :, :3], FITS[:, :3])


def test_weights_that_break_are_the_services_fault(full: Sampler) -> None:
    with torch.no_grad():
        next(iter(full.shelf.find(None).model.parameters())).fill_(float("nan"))
    answers = [asyncio.run(full.sample(SampleRequest(), 60.0)), asyncio.run(full.score(ScoreRequest(images=[PNG]), 60.0))]
    assert [(answer.status, answer.code) for answer in answers if isinstance(answer, Refused)] == [(500, "not_finite")] * 2


def test_what_is_held_and_what_there_is_do_not_wait_for_what_is_loaded(sampler: Sampler, monkeypatch: pytest.MonkeyPatch) -> None:
    may_load, is_loading, loaded = threading.Event(), threading.Event(), sampler.shelf.find(None)

    def slowly(asked: str | None) -> Any:
        is_loading.set()
        may_load.wait(60)
        return loaded

    monkeypatch.setattr(sampler.shelf, "held", lambda asked: None)
    monkeypatch.setattr(sampler.shelf, "found", lambda asked: None if asked == "new" else loaded)
    monkeypatch.setattr(sampler.shelf, "find", slowly)

    async def run() -> None:
        waits = asyncio.create_task(sampler.sample(SampleRequest(model="new"), 60.0))
        await asyncio.to_thread(is_loading.wait, 60)
        assert isinstance(await sampler.sample(SampleRequest(model="another"), 60.0), Drawn)
        assert await sampler.available() == {"local": []}
        assert not waits.done()
        may_load.set()
        assert isinstance(await waits, Drawn)

    asyncio.run(run())


def test_a_stream_of_images_holds_no_rows(sampler: Sampler) -> None:
    opened, *parts = asyncio.run(streamed(sampler, n=20, every="image"))
    rows = [row for part in parts for row in part]
    assert opened[0].image == -1 and len(rows) == 20 and all(row.row == SPEC.height - 1 for row in rows)
    found = {row.image: row.image_CHW for row in rows}
    assert np.array_equal([found[index] for index in range(20)], draw_all(small_model(0), Request(n=20, seed=1)).numpy())


def test_requests_count_while_their_model_is_loaded(sampler: Sampler, monkeypatch: pytest.MonkeyPatch) -> None:
    may_load, loaded = threading.Event(), sampler.shelf.find(None)

    def slowly(asked: str | None) -> Any:
        may_load.wait(60)
        return loaded

    monkeypatch.setattr(sampler.shelf, "held", lambda asked: None)
    monkeypatch.setattr(sampler.shelf, "find", slowly)

    async def run() -> None:
        first = asyncio.create_task(sampler.sample(SampleRequest(n=40, seed=1), 60.0))
        second = asyncio.create_task(sampler.score(ScoreRequest(images=[PNG] * 20), 60.0))
        given_up = asyncio.create_task(sampler.sample(SampleRequest(n=12), 60.0))
        await asyncio.sleep(0)
        assert await sampler.record_autoscaling_stats() == {"unfinished_images": 72.0}
        refused = await sampler.sample(SampleRequest(n=1), 60.0)
        assert isinstance(refused, Refused) and refused.status == 429
        given_up.cancel()
        await asyncio.gather(given_up, return_exceptions=True)
        assert sampler.thread.num_unfinished == 60
        may_load.set()
        assert isinstance(await first, Drawn) and isinstance(await second, Scored)
        assert sampler.thread.num_unfinished == 0
        late = await sampler.score(ScoreRequest(images=[PNG]), 0.0)
        assert isinstance(late, Refused) and late.code == "deadline"

    asyncio.run(run())


def test_following_goes_on_after_an_error_and_its_end_is_told(sampler: Sampler, monkeypatch: pytest.MonkeyPatch) -> None:
    looks = threading.Semaphore(0)

    def fails() -> None:
        looks.release()
        raise KeyError("tiny")

    monkeypatch.setattr(sampler.shelf, "follow", fails)
    assert all(looks.acquire(timeout=60) for _ in range(3))
    asyncio.run(sampler.check_health())
    assert asyncio.run(sampler.state())["failure"] is None
    sampler._ended.set()
    sampler._follower.join(timeout=60)
    with pytest.raises(RuntimeError, match="follows the aliases"):
        asyncio.run(sampler.check_health())
    assert "follows the aliases" in asyncio.run(sampler.state())["failure"]


def test_the_replica_ends_with_its_thread(sampler: Sampler, monkeypatch: pytest.MonkeyPatch) -> None:
    ended = threading.Event()
    on_failure: Any = sampler.thread._on_failure
    assert (on_failure.func, on_failure.args) == (os._exit, (1,))
    monkeypatch.setattr(sampler.thread, "_on_failure", ended.set)
    sampler.thread._inbox.put(lambda: [][0])
    assert ended.wait(60)
    with pytest.raises(RuntimeError, match="has failed: IndexError"):
        asyncio.run(sampler.check_health())
    refused = asyncio.run(sampler.sample(SampleRequest(), 60.0))
    assert isinstance(refused, Refused) and refused.code == "sampler_lost"
