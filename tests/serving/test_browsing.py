"""What the studio asks of a service besides samples: versions, what each takes, fitted images, tests, images between two others."""

from __future__ import annotations

import base64
import io
import json
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pixelmodels.data.quantization import dequantize, quantize
from pixelmodels.serving.client import ServiceError
from tests.serving.conftest import FULL, NAME, SPEC, Service
from tests.serving.web import drawn, raw, refusal


def file_of(pixels: np.ndarray, kind: str = "PNG") -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind)
    return stream.getvalue()


def test_versions_are_told(service: Service) -> None:
    found = service.client.versions()
    mine = {one["model"]: one for one in found["versions"]}
    newest = max(int(one.split("/")[1]) for one in mine if one.startswith(f"{NAME}/"))
    assert found["versions"][0]["model"] == f"{NAME}/{newest}"
    assert "champion" in {alias for one in mine.values() for alias in one["aliases"]}
    assert mine["full/1"]["test_bits_per_dim"] is None and mine["full/1"]["parameters"] is None
    assert found["mlflow"] == "http://127.0.0.1:5000"  # where make ui shows the file that the registry is


def test_what_one_version_takes(service: Service) -> None:
    found = service.client.model("full/1")
    assert (found["model"], found["architecture"], found["likelihood"]) == ("full/1", "gated_pixelcnn", "categorical")
    assert found["num_parameters"] == service.registry.models["full/1"].num_parameters
    assert found["context_image"] == [1, 6, 5, 256] and found["small_image"] == [1, 3, 3, 7]
    assert service.client.model("1")["model"] == f"{NAME}/1"


@pytest.mark.parametrize("address, code", [("none/1", "unknown_model"), ("a/b/c", "unknown_model"), ("x y", "unknown_model"), ("99", None)])
def test_a_version_that_is_not_there(service: Service, address: str, code: str | None) -> None:
    with pytest.raises(ServiceError) as caught:
        service.client.model(address)
    assert caught.value.status == 404 and (code is None or caught.value.code == code)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF"])
def test_files_are_fitted_as_data_are(service: Service, kind: str) -> None:
    rows = np.linspace(0, 255, 60).astype(np.uint8)[:, None] + np.zeros((60, 50), np.uint8)
    (png,) = service.client.fit([file_of(rows, kind)])
    pixels = np.asarray(Image.open(io.BytesIO(png)))
    assert pixels.shape == (SPEC.height, SPEC.width)
    assert np.array_equal(dequantize(quantize(pixels, SPEC.levels), SPEC.levels), pixels)  # a grey value for each level
    assert (np.diff(pixels.astype(int), axis=0) >= 0).all() and (pixels == pixels[:, :1]).all()


def test_what_a_model_is_given_is_fitted(service: Service) -> None:
    rng = np.random.default_rng(0)
    whole = dequantize(rng.integers(0, 7, (6, 5)).astype(np.uint8), 7)
    small = np.asarray(Image.open(io.BytesIO(service.client.fit([file_of(whole)], model="full/1", kind="small_image")[0])))
    image = np.asarray(Image.open(io.BytesIO(service.client.fit([file_of(whole)], model="full/1", kind="context_image")[0])))
    assert small.shape == (3, 3) and image.shape == (6, 5)
    assert np.array_equal(image, whole)  # of 256 levels, which cannot be made of the model's own images: the file as it is


@pytest.mark.parametrize(
    "body, field",
    [
        ({"files": [base64.b64encode(b"nothing").decode()]}, "files.0"),
        ({"files": []}, "files"),
        ({"files": ["####"]}, "files.0"),
        ({"files": [base64.b64encode(file_of(np.zeros((1, 1), np.uint8))).decode()], "kind": "small_image"}, "kind"),
        ({"files": ["eA=="], "kind": "other"}, "kind"),
        ({"file": "eA=="}, "file"),
    ],
)
def test_files_that_cannot_be_fitted(service: Service, body: dict[str, Any], field: str) -> None:
    status, code, found = refusal(service, "/v1/fits", body)
    assert (status, code, found) == (422, "invalid", field)


def test_a_file_of_too_many_pixels_is_not_decoded(service: Service) -> None:
    whole = Image.new("1", (30_000, 30_000))
    stream = io.BytesIO()
    whole.save(stream, "PNG")
    with pytest.raises(ServiceError, match="pixels"):
        service.client.fit([stream.getvalue()])


def test_images_between_two_classes_and_seeds(service: Service) -> None:
    ends = [service.client.samples(3, seed=seed, label=label).images_NCHW for seed, label in ((1, 0), (2, 1))]
    toward = {"label": 1, "seed": 2}
    for share, wanted in ((0, ends[0]), (1, ends[1])):
        found = service.client.samples(3, seed=1, label=0, toward={"share": share, **toward})
        assert np.array_equal(found.images_NCHW, wanted)
    half = service.client.samples(3, seed=1, label=0, toward={"share": 0.5, **toward}).images_NCHW
    assert not np.array_equal(half, ends[0]) and not np.array_equal(half, ends[1])
    only_seed = service.client.samples(3, seed=1, toward={"share": 0.5, "seed": 2}).images_NCHW
    assert np.array_equal(only_seed, drawn(service, n=3, seed=1, toward_seed=2, toward_share=0.5))


@pytest.mark.parametrize(
    "toward, field",
    [
        ({"share": 0.5}, "toward"),
        ({"share": 0.5, "label": 3}, "toward.label"),
        ({"share": 0.5, "vector": [1.0]}, "toward.vector"),
        ({"share": 2, "seed": 1}, "toward.share"),
        ({"seed": 1}, "toward.share"),
        ({"share": 0.5, "seed": 1, "order": 2}, "toward.order"),
    ],
)
def test_ways_that_lead_nowhere(service: Service, toward: dict[str, Any], field: str) -> None:
    status, code, found = refusal(service, "/v1/samples", {"toward": toward})
    assert (status, code, found) == (422, "invalid", field)


def test_known_pixels_that_come_too_late_are_told_of_one_order_too(service: Service) -> None:
    mask_HW = np.zeros((SPEC.height, SPEC.width), bool)
    mask_HW[0], mask_HW[4, 2:] = True, True
    image = np.zeros((SPEC.height, SPEC.width), np.uint8)
    late = service.client.completions(image, mask=mask_HW, scale="grey")
    mask_HW[0] = False  # those are before every unknown pixel
    assert late.unused_HW is not None and np.array_equal(late.unused_HW, mask_HW)
    assert service.client.completions(image, known_rows=2, scale="grey").unused_HW is None


def test_images_of_data_are_not_shown_unless_that_was_asked_for(service: Service) -> None:
    for call in (lambda: service.client.data(f"{NAME}/1"), lambda: service.client.neighbours(np.zeros((6, 5), np.uint8), scale="grey")):
        with pytest.raises(ServiceError, match="--show-data") as caught:
            call()
        assert (caught.value.status, caught.value.code) == (403, "not_shown")


def test_a_test_that_nobody_kept(service: Service) -> None:
    with pytest.raises(ServiceError, match="test_nats") as caught:
        service.client.test_scores(f"{NAME}/1")
    assert (caught.value.status, caught.value.code) == (404, "not_kept")


def test_a_p_value_that_nothing_tells(service: Service) -> None:
    with pytest.raises(ServiceError) as caught:
        service.client.scores(np.zeros((1, SPEC.height, SPEC.width), np.uint8), scale="grey", label=1, p_value=True)
    assert (caught.value.status, caught.value.code) == (404, "not_kept")


def test_a_p_value_needs_what_the_test_images_were_given(service: Service) -> None:
    grey = np.zeros((1, SPEC.height, SPEC.width), np.uint8)
    full = {"model": FULL, "label": 1, "vector": [0.5, -1.0]}
    for given, told in (({}, "their own label,"), (full, "their own context image and small image,")):
        with pytest.raises(ServiceError, match=f"test images were scored given {told} without which p-values would be wrong") as caught:
            service.client.scores(grey, scale="grey", p_value=True, **given)
        assert (caught.value.status, caught.value.field) == (422, "p_value")


def test_the_page_needs_no_key_and_everything_else_does(service: Service) -> None:
    status, headers, page = raw(service, "/", None, {})
    assert status == 200 and b"<title>Studio" in page and "default-src 'none'" in headers["content-security-policy"]
    assert raw(service, "/studio/main.js", None, {})[0] == 200
    for path in ("/v1/versions", f"/v1/models/{NAME}/1", f"/v1/test_scores/{NAME}/1", f"/v1/data/{NAME}/1", "/studio"):
        status, _, answer = raw(service, path, None, {})
        assert (status, json.loads(answer)["code"]) == (401, "unauthorized"), path
    for path in ("/v1/fits", "/v1/neighbours"):
        assert raw(service, path, b"{}", {"Content-Type": "application/json"})[0] == 401
