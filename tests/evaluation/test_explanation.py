"""Explained images of a split: which ones they are, that their maps are the library's, and pages and pictures that hold them."""

from __future__ import annotations

import base64
import dataclasses
import io
import re
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image

from pixelmodels.errors import UserError
from pixelmodels.evaluation.batches import to_tensors
from pixelmodels.evaluation.dependence import dependence_by_gradient, dependence_by_occlusion
from pixelmodels.evaluation.evaluate import Evaluate, _check_fit, _explained
from pixelmodels.evaluation.expectations import expectations
from pixelmodels.evaluation.explanation import Explanation, explain
from pixelmodels.evaluation.explanation_page import explanation_files, maps_png, scale_of
from pixelmodels.evaluation.scores import score_rows
from pixelmodels.models import PixelModel
from pixelmodels.shapes import ImageSpec
from tests.conformance.conftest import small_model
from tests.training.tiny_run import TinyDataset

CPU = torch.device("cpu")


def dataset_of(model: PixelModel) -> Any:
    return TinyDataset(spec=model.spec, num_classes=3, vector_size=0)


def table_of(model: PixelModel, dataset: Any) -> pa.Table:
    """The nats of the test images, as `evaluate` has them."""
    test = dataset.read("test")
    return pa.table({"key": test.keys, "nll_nats": score_rows(model, test.rows, CPU)}).sort_by("key")


def pictures_of(page: bytes) -> list[Image.Image]:
    found = re.findall(rb"data:image/png;base64,([A-Za-z0-9+/=]+)", page)
    return [Image.open(io.BytesIO(base64.b64decode(data))) for data in found]


def test_the_least_and_the_most_likely_images_are_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    model = small_model("gated_pixelcnn", "categorical", 1, 4, 3, levels=4, context="label")
    dataset = dataset_of(model)
    table = table_of(model, dataset)
    files = _explained(model, table, dataset, Evaluate("runs/tiny<1>", "tiny", explain=2))
    assert set(files) == {"explanations.html", "explanations.npz", "least_likely.png", "most_likely.png"}
    arrays = np.load(io.BytesIO(files["explanations.npz"]))
    ranked = [key for _, key in sorted(zip(table["nll_nats"].to_pylist(), table["key"].to_pylist(), strict=True))]
    assert arrays["keys"].tolist() == [ranked[-1], ranked[-2], ranked[0], ranked[1]]
    test = dataset.read("test")
    nats_of = dict(zip(table["key"].to_pylist(), table["nll_nats"].to_pylist(), strict=True))
    for number, key in enumerate(arrays["keys"].tolist()):
        rows = test.rows.at(np.array([test.keys.index(key)]))
        x_1CHW, context = to_tensors(rows, CPU, model.context_spec)
        maps = expectations(model, x_1CHW, context)
        bits_HW = arrays["surprise_bits_NHW"][number]
        assert bits_HW.sum() * np.log(2) == pytest.approx(nats_of[key], rel=1e-9)
        np.testing.assert_allclose(arrays["entropy_bits_NHW"][number], maps.entropy_bits_BHW[0], rtol=1e-12)
        np.testing.assert_allclose(arrays["expected_NCHW"][number], maps.expected_BCHW[0], rtol=1e-12)
        assert np.array_equal(arrays["likeliest_NCHW"][number], maps.likeliest_BCHW[0])
        assert np.array_equal(arrays["images_NCHW"][number], rows.images_NCHW[0])
        pixel = tuple(arrays["pixel_N2"][number].tolist())
        assert bits_HW[pixel] == bits_HW.max()
        np.testing.assert_allclose(arrays["gradient_bits_NCHW"][number], dependence_by_gradient(model, x_1CHW, pixel, context))
        np.testing.assert_allclose(arrays["occlusion_bits_NCHW"][number], dependence_by_occlusion(model, x_1CHW, pixel, context))
    page = files["explanations.html"]
    text = page.decode()
    assert "runs/tiny&lt;1&gt;" in text and "<script" not in text and "Given what it is conditioned on." in text
    assert all(f"{key}: {bits:.2f} bits" in text for key, bits in zip(arrays["keys"], arrays["surprise_bits_NHW"].sum((1, 2)), strict=True))
    assert len(pictures_of(page)) == 4 and "not looked at" not in text
    assert {Image.open(io.BytesIO(files[f"{name}_likely.png"])).format for name in ("least", "most")} == {"PNG"}


def test_context_order_pixel_and_passes_are_those_that_are_asked_for() -> None:
    by_class = small_model("gated_pixelcnn", "categorical", 1, 4, 3, levels=4, context="label")
    dataset = dataset_of(by_class)
    options = Evaluate("m", "tiny", explain=1, explain_pixel=(3, 2), without_context=True, explain_passes=7)
    arrays = np.load(io.BytesIO(_explained(by_class, table_of(by_class, dataset), dataset, options)["explanations.npz"]))
    x_1CHW = torch.from_numpy(arrays["images_NCHW"][:1]).long()
    np.testing.assert_allclose(arrays["entropy_bits_NHW"][:1], expectations(by_class, x_1CHW).entropy_bits_BHW)
    assert (
        arrays["pixel_N2"].tolist() == [[3, 2]] * 2
        and (~np.isnan(arrays["occlusion_bits_NCHW"])).sum() < arrays["occlusion_bits_NCHW"].size
    )
    several = small_model("gated_pixelcnn", "categorical", 1, 4, 4, levels=4, context="orders")
    dataset = TinyDataset(spec=several.spec, vector_size=0)
    files = _explained(several, table_of(several, dataset), dataset, Evaluate("m", "tiny", explain=1, order=5))  # type: ignore[arg-type]
    arrays = np.load(io.BytesIO(files["explanations.npz"]))
    x_NCHW = torch.from_numpy(arrays["images_NCHW"]).long()
    np.testing.assert_allclose(arrays["surprise_bits_NHW"], expectations(several, x_NCHW, order=5).surprise_bits_BHW, rtol=1e-12)
    assert "By order 5: columns from the right, each from the bottom." in files["explanations.html"].decode()


@pytest.mark.parametrize(("channels", "levels"), [(3, 256), (1, 2), (2, 5)])
def test_pictures_of_any_kind_of_image_can_be_drawn(channels: int, levels: int) -> None:
    architecture = "pixelcnn"
    model = small_model(architecture, "categorical", channels, 3, 5, levels=levels)
    rows = TinyDataset(spec=ImageSpec(channels, 3, 5, levels)).read("test").rows
    explained = explain(model, rows, ["a", "b"], most_passes=2 * levels)
    assert scale_of(explained) == max(one.surprise_bits_HW.max() for one in explained)
    picture = Image.open(io.BytesIO(maps_png(explained, levels, scale_of(explained))))
    assert picture.width > 1000 and picture.height > 200


def test_impossible_and_certain_images_have_a_scale_too() -> None:
    zeros_HW, zeros_CHW = np.zeros((2, 2)), np.zeros((1, 2, 2))
    certain = Explanation(
        "a", zeros_CHW.astype(np.uint8), zeros_HW, zeros_HW, zeros_CHW, zeros_CHW.astype(np.uint8), (0, 0), zeros_CHW, zeros_CHW
    )
    impossible = dataclasses.replace(certain, surprise_bits_HW=np.array([[np.inf, 0.0], [2.0, 0.0]]), occlusion_CHW=zeros_CHW * np.nan)
    assert scale_of([certain]) == 1 and scale_of([certain, impossible]) == 2
    files = explanation_files({"least likely": [impossible], "most likely": [certain]}, 4, ["a fact"])
    assert len(pictures_of(files["explanations.html"])) == 2 and b"not looked at" in files["explanations.html"]


def test_what_cannot_be_explained_is_told_before_anything_is_scored() -> None:
    several = small_model("gated_pixelcnn", "categorical", 1, 4, 4, levels=4, context="orders")
    dataset: Any = TinyDataset(spec=several.spec, vector_size=0)
    for changes, message in (
        ({"explain": 2}, r"--explain: a pixel costs something in one order only, .* give --order too, 0\.\.7"),
        ({"explain": 2, "order": 0, "explain_pixel": (4, 0)}, r"pixel \(4, 0\) is outside an image of 4 x 4"),
        ({"explain": 2, "order": 8}, "order 8 is out of range"),
        ({"explain": 0}, "--explain 0 is too few; give 1 or more"),
        ({"explain": 1, "explain_passes": 0}, "--explain-passes 0 is too few"),
        ({"explain_pixel": (0, 0)}, "--explain-pixel says which pixel is explained; give --explain N too"),
    ):
        with pytest.raises(UserError, match=message) as error:
            _check_fit(several, dataset, Evaluate("m", "tiny", **changes))  # type: ignore[arg-type]
        assert "\n" not in str(error.value)
