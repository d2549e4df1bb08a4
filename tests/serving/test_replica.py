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

from pixelmodels.models.files import save_model
from pixelmodels.sampling import draw_all
from pixelmodels.sampling.engine import Request
from pixelmodels.serving.pngs import base64_png
from pixelmodels.serving.refusals import Refused
from pixelmodels.serving.replica import Drawn, Sampler, Scored
from pixelmodels.serving.schemas import SampleRequest, ScoreRequest
from pixelmodels.serving.settings import Settings
from tests.serving.conftest import SPEC, small_model

PNG = base64_png(np.zeros(SPEC.shape, np.uint8), SPEC.levels)
PICTURES = (SPEC.height + 1) * SPEC.num_subpixels // 2  # sub-pixels of the pictures of all rows of an image


@pytest.fixture
def sampler(tmp_path: Path) -> Iterator[Sampler]:
    save_model(tmp_path / "model", small_model(0))
    settings = Settings(
        model=str(tmp_path / "model"),
        storage=str(tmp_path),
        slots=8,
        max_waiting=64,
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
