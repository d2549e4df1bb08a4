"""A model of several orders over HTTP and with the client: completion from any side, streams whose rows can be placed, scores."""

from __future__ import annotations

import base64
import io
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
import uvicorn
from PIL import Image

from pixelmodels.likelihoods import LikelihoodConfig
from pixelmodels.likelihoods.bits import bits_per_dim
from pixelmodels.models import ContextSpec, PixelModel, build
from pixelmodels.models.files import save_model
from pixelmodels.models.gated_pixelcnn import GatedPixelCNNConfig
from pixelmodels.models.orders import ensemble_log_prob, log_prob_map_of_order
from pixelmodels.models.turns import known_from, known_too_late
from pixelmodels.sampling import Request, draw_all
from pixelmodels.sampling.orders import order_of_image
from pixelmodels.serving.client import Client, ServiceError
from pixelmodels.serving.replica import Sampler
from pixelmodels.serving.settings import Settings
from pixelmodels.shapes import ImageSpec
from tests.serving.test_names import app_of

SPEC = ImageSpec(1, 5, 5, 7)


def model_of(num_orders: int) -> PixelModel:
    torch.manual_seed(0)
    config = GatedPixelCNNConfig(num_layers=2, num_features=6, head_features=8)
    model = build(config, SPEC, LikelihoodConfig("categorical"), ContextSpec(num_orders=num_orders)).double().eval()
    for parameter in model.parameters():
        parameter.data.mul_(2)  # so that an order makes a difference
    return model


@contextmanager
def serving(num_orders: int, folder: Path) -> Iterator[tuple[PixelModel, Client]]:
    """A model over real HTTP."""
    model = model_of(num_orders)
    save_model(folder / "model", model)
    sampler = Sampler(Settings(model=str(folder / "model"), storage=str(folder), cpus=1, slots=8, max_waiting=64, max_n=64))
    server = uvicorn.Server(uvicorn.Config(app_of(sampler), host="127.0.0.1", port=0, log_level="error", lifespan="off"))
    listening = server.config.bind_socket()
    listening.listen()
    thread = threading.Thread(target=server.run, args=([listening],), daemon=True)
    thread.start()
    yield model, Client(f"http://127.0.0.1:{listening.getsockname()[1]}")
    server.should_exit = True
    thread.join()
    sampler._ended.set()
    sampler.thread.stop()


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


@pytest.fixture(params=["several", "single"])
def served(request: pytest.FixtureRequest) -> tuple[PixelModel, Client]:
    """Each of them."""
    found: tuple[PixelModel, Client] = request.getfixturevalue(request.param)
    return found


def test_samples_are_of_the_mixture_and_say_by_which_order_each_was_drawn(served: tuple[PixelModel, Client]) -> None:
    model, client = served
    found = client.samples(6, seed=3)
    assert np.array_equal(found.images_NCHW, draw_all(model, Request(n=6, seed=3)).numpy())
    assert client.models()["loaded"][0]["num_orders"] == model.context_spec.num_orders
    if model.context_spec.num_orders == 1:
        assert found.order_N is None and found.unused_HW is None
        with pytest.raises(ServiceError, match="order 1 is out of range; the model has 0 only"):
            client.samples(1, order=1)
        return
    assert found.order_N is not None and found.order_N.tolist() == [order_of_image(model, 3, index) for index in range(6)]
    assert np.array_equal(client.samples(2, seed=3, order=5).images_NCHW, draw_all(model, Request(n=2, seed=3, order=5)).numpy())
    answer = client._json("POST", "/v1/samples", {"n": 2, "seed": 3})
    assert answer["drawn_by"] == {"orders": found.order_N.tolist()[:2], "num_unused": 0, "unused": None}


@pytest.mark.parametrize(("side", "order"), [("top", 0), ("bottom", 1), ("left", 4), ("right", 5)])
def test_an_image_is_completed_from_any_side(several: tuple[PixelModel, Client], side: str, order: int) -> None:
    model, client = several
    image_CHW = np.random.default_rng(0).integers(0, 7, SPEC.shape).astype(np.uint8)
    known_HW = known_from(side, 2, 5, 5)  # type: ignore[arg-type]
    found = client.completions(image_CHW, known_rows=2, known_side=side, n=3, seed=1)
    again = client.completions(image_CHW, mask=known_HW, n=3, seed=1)
    known = {"known_NCHW": torch.from_numpy(image_CHW)[None], "known_mask_NHW": torch.from_numpy(known_HW)[None]}
    expected_NCHW = draw_all(model, Request(n=3, seed=1, order=order, **known)).numpy()
    assert np.array_equal(found.images_NCHW, expected_NCHW) and np.array_equal(again.images_NCHW, expected_NCHW)
    assert found.order_N is not None and found.unused_HW is not None
    assert found.order_N.tolist() == [order] * 3 and not found.unused_HW.any()
    assert known_HW.sum() == 10 and np.array_equal(found.images_NCHW[:, :, known_HW], np.stack([image_CHW[:, known_HW]] * 3))


def test_known_pixels_that_no_order_can_use_are_told(several: tuple[PixelModel, Client]) -> None:
    model, client = several
    image_CHW, known_HW = np.zeros(SPEC.shape, np.uint8), np.ones((5, 5), bool)
    known_HW[1:3, 2:4] = False  # a hole
    found = client.completions(image_CHW, mask=known_HW, scale="levels")
    assert found.order_N is not None and found.unused_HW is not None
    assert np.array_equal(found.unused_HW, known_too_late(known_HW, model.pixel_ranks().numpy(), int(found.order_N[0])))
    assert 0 < found.unused_HW.sum() < known_HW.sum()
    start = next(iter(client.stream(image=image_CHW, mask=known_HW, scale="levels"))).data["drawn_by"]
    assert start["orders"] == found.order_N.tolist() and start["num_unused"] == found.unused_HW.sum()
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(base64.b64decode(start["unused"])))) > 0, found.unused_HW)


def test_the_rows_of_a_stream_can_be_placed(served: tuple[PixelModel, Client]) -> None:
    model, client = served
    drawn_NCHW = draw_all(model, Request(n=6, seed=3)).numpy()
    placed_NCHW, last = np.full((6, *SPEC.shape), 99, np.uint8), dict[int, np.ndarray]()
    for event in client.stream(6, seed=3):
        if event.kind == "row":
            image = event.data["image"]
            placed_NCHW[image][:, *event.places] = event.data["levels"]
            last[image] = event.picture
            if model.context_spec.num_orders > 1:
                so_far_HW = np.where(placed_NCHW[image, 0] == 99, 0, np.round(placed_NCHW[image, 0] * (255 / 6)))
                assert event.picture.shape == (5, 5) and np.abs(event.picture - so_far_HW).max() <= 1
            else:
                assert "order" not in event.data and event.picture.shape == (event.data["row"] + 1, 5)
        elif event.kind == "start":
            assert ("drawn_by" in event.data) == (model.context_spec.num_orders > 1)
    assert np.array_equal(placed_NCHW, drawn_NCHW) and len(last) == 6


def test_scores_are_of_the_mixture_or_of_one_order(several: tuple[PixelModel, Client]) -> None:
    model, client = several
    x_NCHW = draw_all(model, Request(n=3, seed=3))
    with torch.no_grad():
        mixed_N = ensemble_log_prob(model, x_NCHW)
        map_NHW = log_prob_map_of_order(model, x_NCHW, order=6)
    scores = client.scores(x_NCHW.numpy(), scale="levels")
    assert [one["nats"] for one in scores] == pytest.approx((-mixed_N).tolist(), rel=1e-12)
    assert scores[0]["bits_per_dim"] == pytest.approx(float(bits_per_dim(-float(mixed_N[0]), SPEC.num_subpixels)), rel=1e-12)
    scores = client.scores(x_NCHW.numpy(), scale="levels", order=6, map=True)
    assert [one["nats"] for one in scores] == pytest.approx((-map_NHW.sum((1, 2))).tolist(), rel=1e-12)
    np.testing.assert_allclose([one["map_bits"] for one in scores], -map_NHW / np.log(2), rtol=1e-12)
    with pytest.raises(ServiceError, match=r"a pixel costs something in one order only, .* give order, or leave map out"):
        client.scores(x_NCHW.numpy(), scale="levels", map=True)
    with pytest.raises(ServiceError, match="p-values are of the mixture of all orders"):
        client.scores(x_NCHW.numpy(), scale="levels", order=6, p_value=True)
    with pytest.raises(ServiceError, match=r"order: Input should be less than or equal to 7|less than or equal to 7"):
        client.scores(x_NCHW.numpy(), scale="levels", order=8)
    with pytest.raises(ServiceError, match=r"6 columns are known of an image of 5 \(field 'known_rows'\)"):
        client.completions(np.zeros(SPEC.shape, np.uint8), known_rows=6, known_side="left", scale="levels")
    with pytest.raises(ServiceError, match="says what known_rows counts; give known_rows"):
        client.completions(np.zeros(SPEC.shape, np.uint8), mask=np.eye(5, dtype=bool), known_side="left", scale="levels")
