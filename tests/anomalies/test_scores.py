"""Scores are those of their papers' equations, and what is measured is what is scored."""

from __future__ import annotations

import math

import numpy as np
import pyarrow as pa
import pytest
import torch

from pixelmodels.anomalies.codecs import Complexity
from pixelmodels.anomalies.level_code import level_bits
from pixelmodels.anomalies.measuring import Measured, Meter, bit_maps, measured_of
from pixelmodels.anomalies.scores import NAMES, Calibration
from pixelmodels.data.rows import Rows
from pixelmodels.data.shards import decode_rows
from pixelmodels.errors import UserError
from pixelmodels.evaluation.scores import mixed_nats, score_orders
from pixelmodels.models import PixelModel
from pixelmodels.models.orders import log_probs_of_orders
from pixelmodels.shapes import ImageSpec
from tests.conformance.conftest import small_model
from tests.evaluation.test_expectations import sizes_of

SPEC = ImageSpec(1, 4, 4, 5)


def measured(seed: int, num: int = 50, orders: int = 1, background: bool = False) -> Measured:
    rng = np.random.default_rng(seed)
    nats_NK = rng.normal(20, 3, (num, orders))
    background_N = rng.normal(25, 3, num) if background else None
    return Measured(
        [f"{i}" for i in range(num)], [None] * num, nats_NK, rng.integers(0, 9, num) * 8.0, rng.normal(30, 3, num), background_N
    )


def test_scores_are_those_of_their_equations() -> None:
    normal, new = (measured(seed, orders=4, background=True) for seed in (0, 1))
    calibration = Calibration.of(normal, SPEC)
    scores = calibration.scores(new)
    assert tuple(scores) == NAMES == tuple(calibration.normal) and calibration.num == 50
    assert new.background_nats_N is not None
    nats = mixed_nats(new.nats_NK)
    expected = {
        "nats": nats,
        "bits_per_dim": nats / math.log(2) / 16,
        "input_complexity": nats / math.log(2) - new.codec_bits_N,
        "arrangement": nats / math.log(2) - new.level_bits_N,
        "likelihood_ratio": nats - new.background_nats_N,
        "typicality": abs(nats - mixed_nats(normal.nats_NK).mean()),
        "order_spread": np.sqrt(((new.nats_NK - new.nats_NK.mean(1, keepdims=True)) ** 2).mean(1)),
    }
    for name, values in expected.items():
        assert scores[name] == pytest.approx(values), name
    p_values = calibration.p_values(scores)
    assert tuple(p_values) == NAMES and p_values["nats"].tolist() == p_values["bits_per_dim"].tolist()


@pytest.mark.parametrize("num", [1, 2, 3, 4, 10])
def test_every_p_value_keeps_its_promise_however_few_normal_images_there_are(num: int) -> None:
    """Of num + 1 images each in turn is the new one: at most k of them have a p-value of k / (num + 1) or less, by every score."""
    for seed in range(20):
        whole, found = measured(seed, num + 1, orders=2, background=True), []
        for new in range(num + 1):
            others, alone = ([place for place in range(num + 1) if (place == new) == is_new] for is_new in (False, True))
            calibration = Calibration.of(_at(whole, others), SPEC)
            found.append(calibration.p_values(calibration.scores(_at(whole, alone))))
        for name in NAMES:
            p_N = np.array([one[name][0] for one in found])
            assert all((p_N <= k / (num + 1) + 1e-9).sum() <= k for k in range(1, num + 1)), (name, p_N)


def _at(whole: Measured, places: list[int]) -> Measured:
    columns = (whole.nats_NK, whole.codec_bits_N, whole.level_bits_N, whole.background_nats_N)
    return Measured([whole.keys[place] for place in places], [None] * len(places), *(column[places] for column in columns))  # type: ignore[index,arg-type]


def test_without_background_and_orders_their_scores_are_left_out() -> None:
    found = Calibration.of(measured(0), SPEC).scores(measured(1))
    assert set(NAMES) - set(found) == {"likelihood_ratio", "order_spread"}


class FromBytes:
    """A set whose rows hold images only."""

    name = "some"

    def rows(self, batch: pa.Table) -> Rows:
        return Rows(decode_rows(batch["image"], SPEC.shape))


class Holding:
    """Actors that hold a model."""

    with_context, device = True, torch.device("cpu")

    def __init__(self, model: PixelModel) -> None:
        self._model = model

    def model(self) -> PixelModel:
        return self._model


def batch_of(images_NCHW: np.ndarray, bad: int) -> pa.Table:
    """Rows of images, the one at a place put aside."""
    images = [None if place == bad else image.transpose(1, 2, 0).tobytes() for place, image in enumerate(images_NCHW)]
    reasons = ["no image" if place == bad else None for place in range(len(images_NCHW))]
    fitted = [place == 0 for place in range(len(images_NCHW))]
    return pa.table({"key": [f"k{i}" for i in range(len(images))], "image": images, "reason": reasons, "is_fitted": fitted})


@pytest.mark.parametrize("context", ["none", "orders"])
def test_what_is_measured_is_what_each_image_has_alone(context: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = small_model("gated_pixelcnn", "categorical", 1, 4, 4, levels=5, context=context)
    background = small_model("pixelcnn", "categorical", 1, 4, 4, levels=5)
    images = np.random.default_rng(0).integers(0, 5, (6, *SPEC.shape)).astype(np.uint8)
    meter = Meter(Holding(model), FromBytes(), ("png",), Holding(background))  # type: ignore[arg-type]
    found = measured_of(meter(batch_of(images, bad=2)), "some", has_background=True)
    whole = images[[0, 1, 3, 4, 5]]
    assert found.keys == ["k0", "k1", "k3", "k4", "k5"] and found.rejected == {"k2": "no image"} and found.num_fitted == 1
    x_BCHW = torch.from_numpy(whole.astype(np.int64))
    with torch.no_grad():
        assert found.nats_NK == pytest.approx(-log_probs_of_orders(model, x_BCHW).numpy())
        assert found.background_nats_N == pytest.approx(-background.log_prob(x_BCHW).numpy())
    assert found.codec_bits_N.tolist() == Complexity(("png",), SPEC)(whole).tolist()
    assert found.level_bits_N.tolist() == level_bits(whole, 5).tolist()
    maps_NHW = bit_maps(model, Rows(whole), torch.device("cpu"))
    assert maps_NHW.sum((1, 2)) * math.log(2) == pytest.approx(score_orders(model, Rows(whole), torch.device("cpu")).mean(1))
    sizes = sizes_of(model, monkeypatch)
    assert bit_maps(model, Rows(whole), torch.device("cpu"), batch_size=2) == pytest.approx(maps_NHW)
    assert set(sizes) == {1, 2}


def test_a_batch_without_any_image_is_put_aside_whole() -> None:
    model = small_model("pixelcnn", "categorical", 1, 4, 4, levels=5)
    meter = Meter(Holding(model), FromBytes(), ("png",), None)  # type: ignore[arg-type]
    table = meter(batch_of(np.zeros((1, *SPEC.shape), np.uint8), bad=0))
    with pytest.raises(UserError, match=r"'some' has no images: k0 \(no image\); give a set that has some"):
        measured_of(table, "some", has_background=False)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_likelihoods_that_are_no_numbers_are_told_with_their_images(value: float) -> None:
    model = small_model("pixelcnn", "categorical", 1, 4, 4, levels=5)
    meter = Meter(Holding(model), FromBytes(), ("png",), None)  # type: ignore[arg-type]
    table = meter(batch_of(np.zeros((3, *SPEC.shape), np.uint8), bad=1))
    nats = np.array([1.0, np.nan, value])
    table = table.set_column(
        table.column_names.index("nll_nats_of_orders"), "nll_nats_of_orders", pa.FixedSizeListArray.from_arrays(nats, 1)
    )
    with pytest.raises(UserError, match=r"the model gives 'some' likelihoods that are not finite \('k2'\); give another checkpoint"):
        measured_of(table, "some", has_background=False)
