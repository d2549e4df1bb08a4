"""Explanations, sweeps and dreams over HTTP and with the client: what the library finds and draws, with the refusals of other requests."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from pixelmodels.evaluation.dependence import dependence_by_gradient, dependence_by_occlusion
from pixelmodels.evaluation.expectations import expectations
from pixelmodels.models import Context, PixelModel
from pixelmodels.models.files import save_model
from pixelmodels.models.orders import log_prob_of_order
from pixelmodels.sampling import Request, draw_all
from pixelmodels.sampling.resampling import Dream
from pixelmodels.serving.client import Client, ServiceError
from pixelmodels.serving.explaining import Explaining, is_finite
from pixelmodels.serving.pngs import base64_png
from pixelmodels.serving.ray_serve import images_of
from pixelmodels.serving.refusals import Refused
from pixelmodels.serving.replica import Explained, Sampler
from pixelmodels.serving.requests import check_pictures, passes_of
from pixelmodels.serving.schemas import ExplanationRequest, SampleRequest
from pixelmodels.serving.settings import Settings
from pixelmodels.shapes import ImageSpec
from tests.serving.conftest import SMALL, full_model
from tests.serving.conftest import SPEC as FULL_SPEC
from tests.serving.test_orders import SPEC, serving

X_NCHW = np.random.default_rng(0).integers(0, 7, (2, *SPEC.shape)).astype(np.uint8)
HOLE = np.zeros((5, 5), bool)
HOLE[1:4, 1:4] = True


@pytest.fixture(scope="module")
def several(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[PixelModel, Client]]:
    """A model of eight orders."""
    with serving(8, tmp_path_factory.mktemp("several")) as served:
        yield served


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[PixelModel, Client]]:
    """A model of one order."""
    with serving(1, tmp_path_factory.mktemp("single")) as served:
        yield served


@pytest.mark.parametrize("order", [None, 6])
def test_explanations_are_what_the_library_finds(request: pytest.FixtureRequest, order: int | None) -> None:
    model, client = request.getfixturevalue("single" if order is None else "several")
    options: dict[str, Any] = {"pixel": (2, 3), "most_passes": 25} | ({} if order is None else {"order": order})
    found = client.explanations(X_NCHW, scale="levels", **options)
    x_NCHW = torch.from_numpy(X_NCHW).long()
    maps = expectations(model, x_NCHW, order=order)
    with torch.no_grad():
        nats_N = -log_prob_of_order(model, x_NCHW, order=order or 0)
    for image, one in enumerate(found):
        assert one["nats"] == pytest.approx(float(nats_N[image]), rel=1e-9)
        assert one["bits_per_dim"] == pytest.approx(float(nats_N[image]) / math.log(2) / 25, rel=1e-9)
        np.testing.assert_allclose(one["surprise_bits"], maps.surprise_bits_BHW[image], rtol=1e-9)
        assert one["surprise_bits"].sum() * math.log(2) == pytest.approx(float(nats_N[image]), rel=1e-9)
        np.testing.assert_allclose(one["entropy_bits"], maps.entropy_bits_BHW[image], rtol=1e-9)
        np.testing.assert_allclose(one["expected"], maps.expected_BCHW[image], rtol=1e-9)
        assert np.array_equal(one["likeliest"], maps.likeliest_BCHW[image]) and one["likeliest"].dtype == np.int64
        mine = x_NCHW[image : image + 1]
        np.testing.assert_allclose(one["gradient_bits_per_level"], dependence_by_gradient(model, mine, (2, 3), order=order), rtol=1e-9)
        occlusion_CHW = dependence_by_occlusion(model, mine, (2, 3), order=order, most_passes=25)
        np.testing.assert_allclose(one["occlusion_bits"], occlusion_CHW, rtol=1e-7, atol=1e-12)
        assert 0 < np.isnan(one["occlusion_bits"]).sum() < 12
    fewer = client.explanations(X_NCHW, scale="levels", **{**options, "most_passes": None})  # as many as there may be: 31 for each
    whole_CHW = dependence_by_occlusion(model, x_NCHW[:1], (2, 3), order=order, most_passes=31)
    np.testing.assert_allclose(fewer[0]["occlusion_bits"], whole_CHW, rtol=1e-7, atol=1e-12)
    plain = client.explanations([X_NCHW[0]], **({} if order is None else {"order": order}))
    assert set(plain[0]) == {"nats", "bits_per_dim", "surprise_bits", "entropy_bits", "expected", "likeliest"}


def test_what_cannot_be_explained_names_the_field(several: tuple[PixelModel, Client], single: tuple[PixelModel, Client]) -> None:
    for client, options, field, told in (
        (several[1], {}, "order", "in one order only, not in a mixture of 8; give order"),
        (several[1], {"order": 7, "label": 1}, "label", "not conditioned on a label"),
        (single[1], {"order": 1}, "order", "order 1 is out of range"),
        (single[1], {"pixel": (5, 0)}, "pixel", "outside an image of 5 x 5"),
        (single[1], {"pixel": (0, -1)}, "pixel.1", "greater than or equal to 0"),
        (single[1], {"pixel": (1, 2, 3)}, "pixel", "at most 2 items"),
        (single[1], {"pixel": (1, 1), "most_passes": 64}, "most_passes", "too many at a time, at most 64"),
        (single[1], {"map": True}, "map", "no such field"),
    ):
        with pytest.raises(ServiceError, match=told) as error:
            client.explanations(X_NCHW, scale="levels", **options)
        assert (error.value.status, error.value.field) == (422, field)


def test_the_nearest_pixels_are_looked_at_however_many_levels_there_are() -> None:
    asked = ExplanationRequest(images=["a", "b"], pixel=[0, 0])
    for levels, most, wanted in ((7, 1024, 255), (65, 1024, 257), (256, 4096, 1021), (256, 1024, 511), (256, 2, 1)):
        assert passes_of(SimpleNamespace(spec=ImageSpec(1, 5, 5, levels)), asked, most) == wanted  # type: ignore[arg-type]


def test_pieces_of_any_size_make_the_same_maps(single: tuple[PixelModel, Client]) -> None:
    model, x_NCHW = single[0], torch.from_numpy(X_NCHW).long()
    explaining = Explaining(model, x_NCHW, None, None, (2, 3), 40)
    whole = explaining.finished(explaining.work(0, explaining.num_units))
    assert explaining.num_units == 2 + 2 * 37
    for size in (1, 3, 5, 70):
        pieces = [explaining.work(at, min(at + size, 76)) for at in range(0, 76, size)]
        assert all(len(piece) == min(size, 76 - at) for piece, at in zip(pieces, range(0, 76, size), strict=True))
        for one, other in zip(explaining.finished([unit for piece in pieces for unit in piece]), whole, strict=True):
            np.testing.assert_allclose(one.occlusion_bits, other.occlusion_bits, rtol=1e-7, atol=1e-12)  # type: ignore[arg-type]
            assert np.array_equal(one.entropy_bits, other.entropy_bits)
    json.dumps(whole[0].plain(), allow_nan=False)


@pytest.mark.parametrize("name", ["surprise_bits", "entropy_bits", "expected", "gradient_bits_per_level", "occlusion_bits"])
def test_numbers_that_are_none_are_not_told(single: tuple[PixelModel, Client], name: str) -> None:
    """JSON has no word for them: nobody could read the answer."""
    explaining = Explaining(single[0], torch.from_numpy(X_NCHW[:1]).long(), None, None, (2, 3), 5)
    (maps,) = explaining.finished(explaining.work(0, explaining.num_units))
    assert is_finite([maps]) and np.isnan(maps.occlusion_bits).any()  # type: ignore[arg-type]
    broken = getattr(maps, name).copy()
    broken.flat[0] = math.inf
    assert not is_finite([maps, replace(maps, **{name: broken})])


def test_a_model_that_is_given_everything_explains_with_it_and_counts_as_work(tmp_path: Path) -> None:
    model = full_model(0)
    save_model(tmp_path / "model", model)
    settings = Settings(model=str(tmp_path / "model"), storage=str(tmp_path), slots=4, max_waiting=40, max_n=40, max_map_pixels=400)
    sampler = Sampler(settings)
    try:
        x_CHW, small_CHW = np.full(FULL_SPEC.shape, 6, np.uint8), np.full(SMALL.shape, 6, np.uint8)
        given = {"label": 1, "vector": [0.5, -1.0], "small_image": base64_png(small_CHW, 7)}
        asked = ExplanationRequest(images=[base64_png(x_CHW, 7)], pixel=[3, 3], most_passes=30, **given)  # type: ignore[arg-type]
        assert images_of((asked,)) == 1
        answer = asyncio.run(sampler.explain(asked, 60.0))
        assert isinstance(answer, Explained) and answer.label == 1
        context = Context(torch.tensor([1]), torch.tensor([[0.5, -1.0]]), None, torch.from_numpy(small_CHW).long()[None])
        x_1CHW = torch.from_numpy(x_CHW).long()[None]
        np.testing.assert_allclose(answer.maps[0].entropy_bits, expectations(model, x_1CHW, context).entropy_bits_BHW[0], rtol=1e-9)
        expected_CHW = dependence_by_occlusion(model, x_1CHW, (3, 3), context, most_passes=30)
        np.testing.assert_allclose(answer.maps[0].occlusion_bits, expected_CHW, rtol=1e-7, atol=1e-12)  # type: ignore[arg-type]
        refused = asyncio.run(sampler.explain(asked.model_copy(update={"images": asked.images * 3}), 60.0))
        assert isinstance(refused, Refused) and (refused.status, refused.field) == (422, "images")  # 3 images of 30 pixels, 6 numbers each
        with sampler.thread.reserved(20):  # 1 image and its passes are more than the 24 that are left
            refused = asyncio.run(sampler.explain(asked, 60.0))
            assert isinstance(refused, Refused) and refused.status == 429
        assert sampler.thread.num_unfinished == 0
    finally:
        sampler._ended.set()
        sampler.thread.stop()


def test_sweeps_are_those_of_the_engine(several: tuple[PixelModel, Client], single: tuple[PixelModel, Client]) -> None:
    model, client = several
    known = {"known_NCHW": torch.from_numpy(X_NCHW[:1]), "known_mask_NHW": torch.from_numpy(~HOLE)[None]}
    expected = draw_all(model, Request(n=2, seed=4, sweeps=2, **known)).numpy()
    asked = {"mask": ~HOLE, "n": 2, "seed": 4, "scale": "levels"}
    assert np.array_equal(client.completions(X_NCHW[0], sweeps=2, **asked).images_NCHW, expected)
    without = draw_all(model, Request(n=2, seed=4, **known)).numpy()
    assert np.array_equal(client.completions(X_NCHW[0], sweeps=0, **asked).images_NCHW, without) and not np.array_equal(without, expected)
    images = [event for event in client.stream(image=X_NCHW[0], sweeps=2, every="image", **asked) if event.kind == "image"]
    assert [sorted(event.data) for event in images] == [["image", "png"]] * 2
    placed_NCHW, redraws = np.full((2, *SPEC.shape), 99, np.uint8), set()
    for event in client.stream(image=X_NCHW[0], sweeps=2, **asked):
        if event.kind == "row":
            placed_NCHW[event.data["image"]][:, *event.places] = event.data["levels"]
            redraws.add(event.data["redraw"])
            if (placed_NCHW[event.data["image"]] != 99).all():
                shown = np.round(placed_NCHW[event.data["image"], 0] * (255 / 6))
                assert np.abs(event.picture - shown).max() <= 1
    assert np.array_equal(placed_NCHW, expected) and len(redraws) > 4
    with pytest.raises(ServiceError, match="1 sweeps asked for, which are by several orders, and the model has one") as error:
        single[1].completions(X_NCHW[0], sweeps=1, **asked)
    assert (error.value.status, error.value.field) == (422, "sweeps")
    with pytest.raises(ServiceError, match="two ways to draw pixels again"):
        client.completions(X_NCHW[0], sweeps=1, dream=1, **asked)


@pytest.mark.parametrize("which", ["several", "single"])
def test_a_dream_is_streamed_step_by_step(which: str, request: pytest.FixtureRequest) -> None:
    model, client = request.getfixturevalue(which)
    options: dict[str, Any] = {"seed": 3, "temperature": 0.7}
    asked = {"dream": 4, "dream_region": 2, **options}
    lengths = [draw_all(model, Request(n=2, dream=Dream(steps, 2), **options)).numpy() for steps in (1, 2, 3, 4)]
    steps = {0: draw_all(model, Request(n=2, **options)).numpy(), **dict(enumerate(lengths, 1))}
    found = client.samples(2, **asked)
    assert np.array_equal(found.images_NCHW, steps[4])
    told = [event for event in client.stream(2, every="image", **asked) if event.kind == "image"]
    assert sorted((event.data["image"], event.data["step"]) for event in told) == [(image, step) for image in (0, 1) for step in range(5)]
    for event in told:
        shown = np.round(steps[event.data["step"]][event.data["image"], 0] * (255 / 6))
        assert np.abs(event.picture - shown).max() <= 1
    rows = [event for event in client.stream(2, **asked) if event.kind in ("row", "image")]
    assert max(event.data.get("redraw", 0) for event in rows) == 4
    last = [event for event in rows if event.kind == "image" and event.data["step"] == 4]
    assert len(last) == 2 and all(event.picture.shape == (5, 5) for event in last)
    if which == "single":
        whole = [event.picture for event in rows if event.kind == "row" and event.data["redraw"] > 0]
        assert all(picture.shape == (5, 5) for picture in whole)


def test_streams_of_dreams_are_bounded_by_their_pictures(single: tuple[PixelModel, Client]) -> None:
    model, client = single
    rows, steps = SampleRequest(n=2, dream=9, stream=True), SampleRequest(n=2, dream=9, stream=True, every="image")
    for asked, size, told in ((rows, 2 * 10 * (5 + 1) * 25 // 2, "ask for every=image"), (steps, 2 * 10 * 25, "ask for fewer steps")):
        check_pictures(model, asked, size)
        with pytest.raises(Refused, match=told):
            check_pictures(model, asked, size - 1)
    check_pictures(model, SampleRequest(n=2, stream=True, every="image"), 0)  # one picture of each, as without a stream
    with pytest.raises(ServiceError, match="less than or equal to 1000") as error:
        client.samples(1, dream=1001)
    assert error.value.field == "dream"
