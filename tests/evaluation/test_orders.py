"""Whatever scores a model of several orders scores the mixture of all of them, or the order that is asked for."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from pixelmodels.errors import UserError
from pixelmodels.evaluation.actors import Actors
from pixelmodels.evaluation.evaluate import SUMMARY, Evaluate, Scorer, _check_fit, _files_of
from pixelmodels.evaluation.nats import OF_ORDERS, nats_table, read_nats
from pixelmodels.evaluation.scores import mixed_nats, summarize
from pixelmodels.models import PixelModel
from pixelmodels.models.files import save_model
from pixelmodels.models.orders import ensemble_log_prob, log_probs_of_orders
from pixelmodels.promotion.checks import check_causality, check_likelihood, check_samples
from pixelmodels.serving.shelf import check_serves
from pixelmodels.shapes import ImageSpec
from pixelmodels.storage import Storage
from pixelmodels.tracking import Tracker
from pixelmodels.tracking.pyfunc import PixelModelPyfunc
from tests.conformance.conftest import small_model
from tests.training.tiny_run import TinyDataset

DATASET = TinyDataset(spec=ImageSpec(1, 4, 4, 4), vector_size=0)


@pytest.fixture
def model(storage: Storage) -> PixelModel:
    """A model of eight orders, saved in the storage root."""
    made = small_model("gated_pixelcnn", "categorical", 1, 4, 4, levels=4, context="orders")
    save_model(Path(storage.root) / "model", made)
    return made


def nats_of(model: PixelModel) -> tuple[np.ndarray, np.ndarray]:
    """Of the test images: by each order, and of the mixture."""
    x_NCHW = torch.from_numpy(DATASET.read("test").images_NCHW).long()
    with torch.no_grad():
        return -log_probs_of_orders(model, x_NCHW).numpy(), -ensemble_log_prob(model, x_NCHW).numpy()


def test_evaluate_scores_the_mixture_and_tells_the_nats_by_each_order(model: PixelModel, storage: Storage) -> None:
    nats_NK, mixed_N = nats_of(model)
    test, dataset = DATASET.read("test"), dataclasses.replace(DATASET, storage=storage)
    images = [image.transpose(1, 2, 0).tobytes() for image in test.images_NCHW]
    batch = pa.table({"image": images, "label": pa.array(test.labels_N, pa.int32()), "key": test.keys})
    actors, of_data = Actors(f"{storage.root}/model", Tracker(storage)), dataset
    found = Scorer(actors, of_data)(batch)  # type: ignore[arg-type]
    np.testing.assert_allclose(found["nll_nats"].to_numpy(), mixed_N, rtol=1e-12)
    np.testing.assert_allclose(np.array(found[OF_ORDERS].to_pylist()), nats_NK, rtol=1e-12)
    by_one = Scorer(actors, of_data, 3)(batch)  # type: ignore[arg-type]
    np.testing.assert_allclose(by_one["nll_nats"].to_numpy(), nats_NK[:, 3], rtol=1e-12)
    assert OF_ORDERS not in by_one.column_names
    options = Evaluate("model", "tiny")
    sized: Any = dataset
    scores = summarize(mixed_N, 16)
    files = dict(_files_of(found, scores, sized, options, with_context=False))
    summary = json.loads(files[SUMMARY])
    assert summary["bits_per_dim"] == scores.bits_per_dim
    assert summary["bits_per_dim_of_orders"] == pytest.approx([summarize(one, 16).bits_per_dim for one in nats_NK.T])
    assert read_nats(files["nats.parquet"]).nll_nats_N.tolist() == pytest.approx(mixed_N.tolist())
    np.testing.assert_allclose(np.array(pq.read_table(pa.BufferReader(files["nats.parquet"]))[OF_ORDERS].to_pylist()), nats_NK)
    with pytest.raises(UserError, match=r"order 9 is out of range; the model has 0\.\.7"):
        _check_fit(model, sized, dataclasses.replace(options, order=9))


def test_the_mixture_of_nats_is_that_of_probabilities() -> None:
    nats_NK = np.array([[1.0, 2.0], [800.0, 805.0], [3.0, np.inf]])
    expected_N = [-np.log((np.exp(-1) + np.exp(-2)) / 2), 800 - np.log((1 + np.exp(-5)) / 2), 3 + np.log(2)]
    np.testing.assert_allclose(mixed_nats(nats_NK), expected_N, rtol=1e-12)
    assert np.array_equal(mixed_nats(nats_NK[:, :1]), nats_NK[:, 0])


def test_promotion_mlflow_and_the_service_check_and_score_the_mixture(model: PixelModel, storage: Storage) -> None:
    nats_NK, mixed_N = nats_of(model)
    dataset: Any = DATASET
    test = dataset.read("test")
    assert check_causality(model, test, 20, seed=1).passed
    assert check_samples(model, dataset, test, seed=1).passed
    check_serves(model)
    for nats_N, passes in ((mixed_N, True), (nats_NK[:, 0], False)):
        nats = read_nats(nats_table(test.keys, None, nats_N, 16))
        found = check_likelihood(model, dataset, test, nats, float("nan"), np.arange(len(test)), 1e-6, "cpu")
        assert found.passed == passes, found
    served = PixelModelPyfunc()
    served._model = model
    np.testing.assert_allclose(served.score(test.images_NCHW)["nll_nats"], mixed_N, rtol=1e-12)


def test_a_leak_in_another_order_than_the_first_is_found(model: PixelModel, monkeypatch: pytest.MonkeyPatch) -> None:
    forward = PixelModel.forward

    def leaking(self: PixelModel, x_BCHW: torch.Tensor, context: Any = None) -> torch.Tensor:
        last_B = x_BCHW[:, 0, -1, -1] * (context.order_B == 6)
        return forward(self, x_BCHW, context) + 1e-3 * last_B[:, None, None, None]

    monkeypatch.setattr(PixelModel, "forward", leaking)
    dataset: Any = DATASET
    found = check_causality(model, dataset.read("test"), 40, seed=1)
    assert not found.passed and "reach parameters that are due before" in found.says
