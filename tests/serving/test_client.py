"""What the client makes of images that people have: levels and grey values that the service takes as meant, or a sentence."""

from __future__ import annotations

import base64
import io
import json
import socket
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from pixelmodels.data.quantization import dequantize
from pixelmodels.serving.client import Client, Images, ServiceError, _encoded
from pixelmodels.serving.pngs import image_of, images_of, mask_of
from pixelmodels.serving.refusals import Refused
from pixelmodels.serving.schemas import CompletionRequest, ScoreRequest
from pixelmodels.shapes import ImageSpec

GREY7, GREY2, RGB7, GREY256 = ImageSpec(1, 6, 5, 7), ImageSpec(1, 6, 5, 2), ImageSpec(3, 6, 5, 7), ImageSpec(1, 6, 5, 256)


def drawn(spec: ImageSpec, n: int = 3) -> np.ndarray:
    """Images as `samples` returns them: with the least and the greatest level."""
    images = np.random.default_rng(0).integers(0, spec.levels, (n, *spec.shape)).astype(np.uint8)
    images[:, 0, 0, :2] = (0, spec.levels - 1)
    return images


def got(images: Any, spec: ImageSpec, **options: Any) -> np.ndarray:
    """The levels that a service makes of images which a client is given."""
    asked = ScoreRequest.model_validate_json(_encoded({"images": images, **options}))
    fields = [f"images.{index}" for index in range(len(asked.images))]
    return np.stack(images_of(asked.images, fields, spec, 100_000, asked.scale))


def hwc(image_CHW: np.ndarray) -> np.ndarray:
    return image_CHW[0] if len(image_CHW) == 1 else image_CHW.transpose(1, 2, 0)


@pytest.mark.parametrize("spec", [GREY7, GREY2, RGB7, GREY256], ids=str)
def test_what_samples_returned_goes_in_again_as_the_same_levels(spec: ImageSpec) -> None:
    levels_NCHW = drawn(spec)
    found = Images(levels_NCHW, "tiny/1", 1)
    tensor = torch.from_numpy(levels_NCHW)
    for given in (found, levels_NCHW, list(levels_NCHW), levels_NCHW.astype(np.int64), tensor, tensor.long(), iter(levels_NCHW)):
        assert np.array_equal(got(given, spec), levels_NCHW)
    assert np.array_equal(got(levels_NCHW.tolist(), spec), levels_NCHW)
    planes = levels_NCHW[:, 0] if spec.channels == 1 else levels_NCHW  # without their channel they are on any scale
    assert np.array_equal(got(planes, spec, scale="levels"), levels_NCHW)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("height", "width"), [(6, 1), (6, 3), (1, 5), (3, 5), (1, 1), (3, 3)])
def test_what_samples_returned_goes_in_again_whatever_its_size(channels: int, height: int, width: int) -> None:
    spec = ImageSpec(channels, height, width, 7)
    levels_NCHW = np.random.default_rng(0).integers(0, 7, (3, *spec.shape)).astype(np.uint8)
    assert np.array_equal(got(Images(levels_NCHW, "tiny/1", 1), spec), levels_NCHW)
    assert np.array_equal(got([Images(levels_NCHW[[i]], "tiny/1", 1) for i in range(3)], spec), levels_NCHW)
    asked = CompletionRequest.model_validate_json(_encoded({"image": Images(levels_NCHW[:1], "tiny/1", 1), "known_rows": 1}))
    assert np.array_equal(image_of(asked.image, "image", spec, 1000, asked.scale), levels_NCHW[0])


@pytest.mark.parametrize("spec", [RGB7, GREY7, ImageSpec(3, 6, 5, 256)], ids=str)
@pytest.mark.parametrize("kind", [np.asarray, torch.from_numpy])
def test_one_image_is_not_taken_for_as_many_as_it_has_channels(kind: Callable[[np.ndarray], Any], spec: ImageSpec) -> None:
    image_CHW = drawn(spec)[0]
    with pytest.raises(ValueError, match=r"^images: an array of shape \([13], 6, 5\) may be one image, .*; wrap one image in a list"):
        _encoded({"images": kind(image_CHW)})
    assert np.array_equal(got([kind(image_CHW)], spec)[0], image_CHW)


@pytest.mark.parametrize("spec", [GREY7, GREY2, RGB7, GREY256], ids=str)
def test_grey_values_are_those_of_a_picture(spec: ImageSpec) -> None:
    levels_NCHW = drawn(spec)
    pictures = [hwc(dequantize(image_CHW, spec.levels)) for image_CHW in levels_NCHW]
    for given in (
        pictures,
        [Image.fromarray(picture) for picture in pictures],
        [torch.from_numpy(np.ascontiguousarray(picture)) for picture in pictures],
        [picture.tolist() for picture in pictures],
        [picture.astype(np.int32) for picture in pictures],
        [picture.reshape(6, 5, -1) for picture in pictures],
    ):
        assert np.array_equal(got(given, spec), levels_NCHW)
        assert np.array_equal(got(given, spec, scale="grey"), levels_NCHW)


def test_a_png_of_the_service_is_grey_however_dark() -> None:
    stream = io.BytesIO()
    Image.fromarray(np.full((6, 5), 3, np.uint8)).save(stream, format="PNG")
    text = base64.b64encode(stream.getvalue()).decode()
    for given in (stream.getvalue(), text, Image.open(stream)):
        assert not got([given], GREY7).any()
        assert (got([given], GREY7, scale="levels") == 3).all()


def test_what_could_be_either_is_refused_until_it_is_said() -> None:
    """Levels without their channel; a picture is known by one value that is no level, one image by another one."""
    levels = list(drawn(GREY7)[:, 0])
    with pytest.raises(Refused, match=r"no value is above 6.* say which: scale 'grey' or 'levels'"):
        got(levels, GREY7)
    assert not got(levels, GREY7, scale="grey").any()
    assert np.array_equal(got(levels, GREY7, scale="levels")[:, 0], np.stack(levels))
    bright = np.full((6, 5), 200, np.uint8)
    assert np.array_equal(got([levels[0], bright], GREY7)[:, 0, 0, 0], [0, 5])
    assert not got(np.zeros((2, 6, 5), np.uint8), GREY7).any()  # black on either scale
    assert np.array_equal(got([np.full((6, 5), 3, np.uint8)], GREY256)[0, 0, 0, 0], 3)
    with pytest.raises(Refused, match=r"a level of 200 given; this takes 0\.\.6"):
        got([bright], GREY7, scale="levels")
    with pytest.raises(ValueError, match=r"some are levels .* and some grey"):
        _encoded({"images": [drawn(GREY7)[0], bright]})
    with pytest.raises(ValueError, match="'image' and 'context_image': some are levels"):
        _encoded({"image": drawn(GREY7)[0], "context_image": bright})


BAD: list[tuple[Any, str]] = [
    (np.full((6, 5), 0.9), "float64 given; give whole numbers"),
    (np.full((6, 5), -1.0), "float64"),
    (np.full((6, 5), np.nan, np.float32), "float32"),
    (np.full((6, 5), np.inf), "float64"),
    (np.full((6, 5), 200.0), "float64"),
    (torch.rand(6, 5), "float32"),
    (torch.rand(6, 5, requires_grad=True), "no array of numbers"),
    (np.ones((6, 5), bool), "bool given"),
    (np.full((6, 5), 256), r"values 256\.\.256 given"),
    (np.full((6, 5), -1), r"values -1\.\.-1 given"),
    (np.full((6, 5), 1 << 40), "values"),
    (np.full((6, 5), 1j), "complex128 given"),
    (np.zeros((0, 5), np.uint8), r"shape \(0, 5\) given, which has no pixels"),
    (np.zeros(30, np.uint8), r"shape \(30,\) given; give rows x columns"),
    (np.zeros((6, 5, 2), np.uint8), r"shape \(6, 5, 2\)"),
    (np.zeros((6, 5, 4), np.uint8), r"shape \(6, 5, 4\)"),
    (np.zeros((1, 1, 6, 5), np.uint8), r"shape \(1, 1, 6, 5\)"),
    (np.zeros((3, 6, 3), np.uint8), "either side may be the channels"),
    ([[1, 2], [3]], "no array of numbers"),
    ([["a", "b"]], "<U1 given"),
    (None, "object given"),
    (Path("cat.png"), "object given"),
    (Image.fromarray(np.zeros((6, 5), np.float32)), r"mode F given; convert it"),
    (Images(drawn(GREY7), "tiny/1", 1), "3 images given"),
]


@pytest.mark.parametrize(("image", "said"), BAD, ids=[said for _, said in BAD])
def test_what_is_no_image_is_said_in_words(image: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said) as error:
        _encoded({"images": [image]})
    assert str(error.value).startswith("images[0]: ") and "\n" not in str(error.value)
    if image is not None:  # there none is given
        with pytest.raises(ValueError, match=said):
            _encoded({"image": image, "known_rows": 1})


@pytest.mark.parametrize("images", [[], np.zeros((0, 6, 5), np.uint8), (), iter([])])
def test_no_images_are_said(images: Any) -> None:
    with pytest.raises(ValueError, match="there are none"):
        _encoded({"images": images})


ONE = [np.zeros((6, 5), np.uint8), b"\x89PNG", "iVBOR", {"a": 1}, 7, Image.new("L", (5, 6)), torch.zeros(6, 5)]


@pytest.mark.parametrize("images", ONE)
def test_one_image_is_no_list_of_them(images: Any) -> None:
    with pytest.raises(ValueError, match=r"such as \[image\]"):
        _encoded({"images": images})


def mask_that_arrives(mask: Any) -> np.ndarray:
    asked = CompletionRequest.model_validate_json(_encoded({"image": drawn(GREY7)[0], "mask": mask}))
    assert asked.mask is not None
    return mask_of(asked.mask, "mask", GREY7, 100_000)


def test_masks_are_booleans_or_two_numbers() -> None:
    known = np.random.default_rng(0).random((6, 5)) < 0.5
    for mask in (known, known.astype(int), known * np.uint8(255), known * 7, known.tolist(), torch.from_numpy(known), known[None]):
        assert np.array_equal(mask_that_arrives(mask), known)
    picture = Image.fromarray(known)
    stream = io.BytesIO()
    picture.save(stream, format="PNG")
    assert np.array_equal(mask_that_arrives(picture), known) and np.array_equal(mask_that_arrives(stream.getvalue()), known)
    for mask in (known * 0.3, known * np.nan, np.arange(30).reshape(6, 5), known[0], np.zeros((2, 6, 5), bool)):
        with pytest.raises(ValueError, match="give booleans"):
            mask_that_arrives(mask)
    with pytest.raises(Refused, match="several shades"):
        mask_that_arrives(Image.fromarray(np.arange(30, dtype=np.uint8).reshape(6, 5)))


def test_numbers_of_any_library_are_numbers() -> None:
    body = {"n": np.int64(4), "label": torch.tensor(2), "vector": np.array([0.5, -1.0]), "seed": None, "temperature": np.float32(0.5)}
    assert json.loads(_encoded(body)) == {"n": 4, "label": 2, "vector": [0.5, -1.0], "temperature": 0.5}
    lists = {"vector": [np.float32(0.5), torch.tensor(-1)], "label": [np.int64(2), np.bool_(True)]}
    assert json.loads(_encoded(lists)) == {"vector": [0.5, -1], "label": [2, True]}
    with pytest.raises(TypeError, match="set given; give numbers, text, or lists of them"):
        _encoded({"vector": {0.5}})
    for vector in ([float("nan")], [np.float32("nan")], np.array([np.inf]), torch.tensor([-np.inf])):
        with pytest.raises(ValueError, match="not finite"):
            _encoded({"vector": vector})


@pytest.fixture
def answering() -> Iterator[str]:
    """The address of a server that says no, and which path was asked for."""

    class Answer(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.dumps({"code": "no", "message": self.path, "field": None}).encode()
            self.send_response(418)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Answer) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/below"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("name", ["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY", "https_proxy"])
def test_the_client_asks_no_proxy(answering: str, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "http://127.0.0.1:9")
    with pytest.raises(ServiceError) as refused:
        Client(answering).samples(1)
    assert (refused.value.status, refused.value.message) == (418, "/below/v1/samples")


def test_a_level_keeps_its_pixel() -> None:
    """Row, column and channel, through all of it."""
    image_CHW = np.arange(30, dtype=np.uint8).reshape(1, 6, 5) % 7
    asked = CompletionRequest.model_validate_json(_encoded({"image": image_CHW, "known_rows": 1}))
    assert np.array_equal(image_of(asked.image, "image", GREY7, 1000, asked.scale), image_CHW)


@pytest.mark.parametrize("url", ["127.0.0.1:8000", "localhost", "", "ftp://127.0.0.1", "http://", "user:secret@127.0.0.1:8000"])
def test_what_is_no_address_is_told_without_its_secrets(url: str) -> None:
    with pytest.raises(ValueError, match=r"is no address of a service; give one such as http://127\.0\.0\.1:8000") as error:
        Client(url)
    assert "secret" not in str(error.value)


def test_nobody_at_an_address_is_told_with_it() -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))  # and does not listen
        port = held.getsockname()[1]
        with pytest.raises(ConnectionError, match=rf"nobody answers at http://127\.0\.0\.1:{port} \(.+\); start the service") as error:
            Client(f"http://user:secret@127.0.0.1:{port}").samples(1)
    assert "secret" not in str(error.value)
