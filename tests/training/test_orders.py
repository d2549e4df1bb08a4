"""Training by several orders: whose image is turned how, the same step for any number of workers, and scores of the mixture."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from pixelmodels.data.rows import Rows
from pixelmodels.errors import UserError
from pixelmodels.evaluation.nats import OF_ORDERS, TEST_NATS
from pixelmodels.evaluation.scores import score_rows
from pixelmodels.hashed_fields import hashed_fields
from pixelmodels.models.context_images import grey
from pixelmodels.models.orders import ensemble_log_prob, log_probs_of_orders, turned
from pixelmodels.models.turns import turned_arrays
from pixelmodels.recipes.context import context_of_kinds
from pixelmodels.recipes.recipe import run_key
from pixelmodels.runs.loading import find_model
from pixelmodels.runs.result import finished
from pixelmodels.shapes import ImageSpec
from pixelmodels.storage import Storage
from pixelmodels.training.loop import Loop, train
from pixelmodels.training.options import TrainAll
from pixelmodels.training.orders import drawn_orders, turned_rows
from pixelmodels.training.plan import RunPlan
from tests.training.test_workers import look
from tests.training.tiny_run import TinyDataset, assert_same, final_weights, in_workers, tiny_plan, tiny_recipe, train_until

CPU = torch.device("cpu")
SQUARE = TinyDataset(spec=ImageSpec(1, 4, 4, 4))


def plan_of(folder: Path | str, plan_changes: dict[str, Any] | None = None, dataset: TinyDataset = SQUARE, **changes: Any) -> RunPlan:
    values = {"condition_on": ("label",), "context_drop_rate": 0.4, "orders": 8}
    return tiny_plan(Storage(str(folder)), tiny_recipe(**{**values, **changes}), dataset, **(plan_changes or {}))


def test_each_order_comes_about_equally_often_and_is_a_function_of_seed_step_and_place() -> None:
    """20,000 images; counts within five standard deviations."""
    places_N = np.arange(20_000)
    for num_orders in (2, 4, 8):
        order_N = drawn_orders(num_orders, 5, 3, places_N)
        share = len(places_N) / num_orders
        assert np.all(np.abs(np.bincount(order_N, minlength=num_orders) - share) < 5 * math.sqrt(share))
    parts = [drawn_orders(8, 5, 3, part) for part in (places_N[:7], places_N[7:])]
    assert np.array_equal(np.concatenate(parts), order_N)
    for other in (drawn_orders(8, 6, 3, places_N), drawn_orders(8, 5, 4, places_N)):
        assert np.mean(other == order_N) == pytest.approx(1 / 8, abs=0.02)
    x_NCHW = np.random.default_rng(0).integers(0, 9, (4, 3, 5, 5)).astype(np.uint8)
    rows = turned_rows(Rows(x_NCHW, np.arange(4)), np.array([0, 1, 5, 2]))
    each = [turned_arrays(x_NCHW[n : n + 1], np.array([order])) for n, order in enumerate((0, 1, 5, 2))]
    assert np.array_equal(rows.images_NCHW, np.concatenate(each)) and rows.labels_N is not None and rows.labels_N.tolist() == [0, 1, 2, 3]


def test_what_a_step_takes_are_turned_images_told_their_order_and_given_what_is_made_of_them(tmp_path: Path) -> None:
    dataset = TinyDataset(spec=ImageSpec(3, 4, 4, 4))
    recipe = tiny_recipe(condition_on=("grey", "label"), context_drop_rate=0.5, accumulate=2, orders=8)
    recipe = dataclasses.replace(recipe, model=dataclasses.replace(recipe.model, num_features=12, head_features=24))
    several, one = (
        Loop(tiny_plan(Storage(str(tmp_path)), dataclasses.replace(recipe, orders=orders), dataset), CPU, say=lambda _: None)
        for orders in (8, 1)
    )
    seen = set()
    for step, (inputs, plain) in enumerate(zip(several.inputs(0, 0, 0), one.inputs(0, 0, 0), strict=True)):
        order_N = torch.from_numpy(drawn_orders(8, recipe.seed, step, np.arange(inputs.num_images)))
        seen |= set(order_N.tolist())
        x_BCHW, own_BCHW = (torch.cat([part.batch.x_BCHW for part in each.parts]) for each in (inputs, plain))
        assert torch.equal(x_BCHW, turned(own_BCHW, order_N)) and not torch.equal(x_BCHW, own_BCHW)
        for part in inputs.parts:
            context, whole = part.context(several.model.context_spec, 0.5), part.context(several.model.context_spec, 0)
            assert context is not None and context.order_B is not None and whole is not None and whole.image_BCHW is not None
            assert torch.equal(whole.image_BCHW, grey(part.batch.x_BCHW))
        orders = [part.context(several.model.context_spec, 0.9).order_B for part in inputs.parts]  # type: ignore[union-attr]
        assert torch.equal(torch.cat(orders), order_N), "an order is left out"  # type: ignore[arg-type]
    assert len(seen) > 4


def worker(rank: int, count: int, folder: str) -> None:
    found = look(plan_of(f"{folder}/look", accumulate=2, shift=1, mirror=True))
    Path(f"{folder}/{rank}.json").write_text(json.dumps(found))


def test_two_workers_make_the_same_step_and_scores_as_one(tmp_path: Path) -> None:
    alone = look(plan_of(tmp_path / "alone", accumulate=2, shift=1, mirror=True))
    in_workers(worker, 2, tmp_path)
    for rank in range(2):
        found = json.loads((tmp_path / f"{rank}.json").read_text())
        for name, expected in alone.items():
            np.testing.assert_allclose(found[name], expected, rtol=1e-5 if "gradient" in name else 1e-6, atol=1e-7, err_msg=name)
    assert np.shape(alone["test"]) == (7, 8)


@pytest.mark.parametrize("architecture", ["pixelcnn", "pixelcnn_pp"])
def test_a_stopped_run_ends_as_if_it_had_not_been(architecture: str, tmp_path: Path) -> None:
    """Of PixelCNN++ too, which takes its first scales from the images of the first step."""
    from pixelmodels.likelihoods import LikelihoodConfig
    from pixelmodels.models.pixelcnn_pp import PixelCNNPPConfig

    changes: dict[str, Any] = {"epochs": 2}
    if architecture == "pixelcnn_pp":
        likelihood = LikelihoodConfig("discretized_logistic_mixture", num_mixtures=2)
        changes |= {"model": PixelCNNPPConfig(num_layers=1, num_features=4), "likelihood": likelihood}
    whole, stopped = (plan_of(tmp_path / name, {"checkpoint_every_s": 1e-9}, **changes) for name in ("whole", "stopped"))
    expected = train(whole, say=lambda _: None)
    train_until(stopped, 7)
    assert train(stopped, say=lambda _: None).test_nll_nats == expected.test_nll_nats
    assert_same(final_weights(stopped), final_weights(whole))


def test_splits_are_scored_by_the_mixture_and_the_raster_order_is_told_beside_it(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, {"report_epochs": True}, epochs=2)
    said: list[dict[str, float]] = []
    result = train(plan, say=lambda _: None, report=said.append)
    model, test = find_model(plan.folder, plan.storage), plan.dataset.read("test")
    from pixelmodels.models import Context

    context = Context(label_B=torch.from_numpy(test.labels_N).long())  # type: ignore[arg-type]
    with torch.no_grad():
        log_prob_NK = log_probs_of_orders(model, torch.from_numpy(test.images_NCHW).long(), context).double()
        mixed_N = ensemble_log_prob(model, torch.from_numpy(test.images_NCHW).long(), context)
    assert result.test_nll_nats == pytest.approx(-float(mixed_N.mean()), rel=1e-6)
    assert result.test_nll_nats < -float(log_prob_NK.mean()), "the mixture is no better than its orders are on average"
    raster = -float(log_prob_NK[:, 0].mean()) / plan.dataset.spec.num_subpixels / math.log(2)
    assert result.test_raster_bits_per_dim == pytest.approx(raster, rel=1e-6)
    assert finished(plan.storage, plan.folder) == result
    np.testing.assert_allclose(score_rows(model, test.rows, CPU), -mixed_N, rtol=1e-6)
    table = pq.read_table(pa.BufferReader(plan.storage.read_bytes(f"{plan.folder}/{TEST_NATS}")))
    np.testing.assert_allclose(np.array(table[OF_ORDERS].to_pylist()), -log_prob_NK, rtol=1e-6)
    np.testing.assert_allclose(table["nll_nats"].to_numpy(), -mixed_N, rtol=1e-6)
    assert any("val/raster_bits_per_dim" in metrics for metrics in said)


def test_a_run_of_one_order_is_called_told_and_scored_as_ever(tmp_path: Path) -> None:
    recipe = tiny_recipe()
    assert "orders" not in {spec.name for spec in hashed_fields(recipe)}
    keys = {run_key(dataclasses.replace(recipe, orders=orders), "0123") for orders in (1, 2, 4, 8)}
    assert len(keys) == 4 and run_key(recipe, "0123") in keys
    said: list[dict[str, float]] = []
    plan = tiny_plan(Storage(str(tmp_path)), recipe, report_epochs=True)
    result = train(plan, say=lambda _: None, report=said.append)
    assert result.test_raster_bits_per_dim is None and not any("val/raster_bits_per_dim" in metrics for metrics in said)
    table = pq.read_table(pa.BufferReader(plan.storage.read_bytes(f"{plan.folder}/{TEST_NATS}")))
    assert OF_ORDERS not in table.column_names


def test_orders_that_do_not_fit_are_refused_in_a_line() -> None:
    with pytest.raises(UserError, match="number of orders '3' unknown; have 1, 2, 4, 8"):
        tiny_recipe(orders=3)
    with pytest.raises(UserError, match=r"has 2 orders and is conditioned on 'small', .*; give --orders 1, or train without"):
        tiny_recipe(orders=2, condition_on=("small",))
    with pytest.raises(UserError, match="8 orders exchange rows with columns, which images of 4x3 do not allow; train recipe 'tiny' with"):
        context_of_kinds(tiny_recipe(orders=8), "tiny", ImageSpec(1, 4, 3, 4), 2, 3)
    assert context_of_kinds(tiny_recipe(orders=4), "tiny", ImageSpec(1, 4, 3, 4), 2, 3).num_orders == 4
    assert {recipe.orders for recipe in TrainAll(orders=4).recipes()} == {4} and {one.orders for one in TrainAll().recipes()} == {1}
