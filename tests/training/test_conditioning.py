"""Every kind of context through the loop: derived, dropped in training only, scored whole, and drawn in grids."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from pixelmodels.errors import UserError
from pixelmodels.evaluation.actors import Actors
from pixelmodels.evaluation.batches import check_context_fits
from pixelmodels.evaluation.evaluate import Scorer
from pixelmodels.evaluation.nats import TEST_NATS
from pixelmodels.evaluation.sample_grids import sample_grid
from pixelmodels.evaluation.scores import score_rows
from pixelmodels.models import Context, ContextSpec
from pixelmodels.models.context_images import context_of, grey, small
from pixelmodels.recipes.context import context_of_kinds
from pixelmodels.runs.loading import find_model
from pixelmodels.sampling import sample
from pixelmodels.shapes import ImageSpec
from pixelmodels.storage import Storage
from pixelmodels.tracking import Tracker
from pixelmodels.training.loop import Loop, train
from pixelmodels.training.plan import RunPlan, build_model
from tests.training.tiny_run import TinyDataset, assert_same, final_weights, tiny_plan, tiny_recipe, train_until

CPU = torch.device("cpu")
KINDS = [("label",), ("vector",), ("small",), ("grey",), ("label", "vector", "small"), ("grey", "small")]


def plan_of(folder: Path | str, kinds: tuple[str, ...], plan_changes: dict[str, Any] | None = None, **changes: Any) -> RunPlan:
    """A plan of 4x4 images, RGB where they are to be coloured."""
    dataset = TinyDataset(spec=ImageSpec(3 if "grey" in kinds else 1, 4, 4, 4))
    recipe = tiny_recipe(condition_on=kinds, **changes)
    recipe = dataclasses.replace(recipe, model=dataclasses.replace(recipe.model, num_features=12, head_features=24))
    return tiny_plan(Storage(str(folder)), recipe, dataset, **(plan_changes or {}))


def whole_context(kinds: tuple[str, ...], part: Any) -> Context:
    """Derived by hand."""
    x_BCHW = torch.from_numpy(part.images_NCHW).long()
    return Context(
        label_B=torch.from_numpy(part.labels_N).long() if "label" in kinds else None,
        vector_BV=torch.from_numpy(part.vectors_NV) if "vector" in kinds else None,
        image_BCHW=grey(x_BCHW) if "grey" in kinds else None,
        small_BCHW=small(x_BCHW, 2) if "small" in kinds else None,
    )


@pytest.mark.parametrize("kinds", KINDS)
def test_a_stopped_run_with_context_left_out_now_and_then_ends_as_if_it_had_not_been(kinds: tuple[str, ...], tmp_path: Path) -> None:
    whole = plan_of(tmp_path / "whole", kinds, context_drop_rate=0.5, epochs=2)
    stopped = plan_of(tmp_path / "stopped", kinds, {"checkpoint_every_s": 1e-9}, context_drop_rate=0.5, epochs=2)
    expected = train(whole, say=lambda _: None)
    train_until(stopped, 7)
    assert train(stopped, say=lambda _: None).test_nll_nats == expected.test_nll_nats
    assert_same(final_weights(stopped), final_weights(whole))
    other = plan_of(tmp_path / "other", kinds, context_drop_rate=0.0, epochs=2)
    assert train(other, say=lambda _: None).test_nll_nats != expected.test_nll_nats


@pytest.mark.parametrize("kinds", KINDS)
def test_splits_are_scored_with_the_whole_context(kinds: tuple[str, ...], tmp_path: Path) -> None:
    plan = plan_of(tmp_path, kinds, context_drop_rate=0.9, epochs=1)
    result = train(plan, say=lambda _: None)
    model, test = find_model(plan.folder, plan.storage), plan.dataset.read("test")
    x_BCHW = torch.from_numpy(test.images_NCHW).long()
    with torch.no_grad():
        given_B = -model.log_prob(x_BCHW, whole_context(kinds, test))
        absent_B = -model.log_prob(x_BCHW)
    assert float(given_B.mean()) == pytest.approx(result.test_nll_nats, rel=1e-6)
    assert not torch.allclose(given_B, absent_B, rtol=1e-6)
    rows = test.rows
    np.testing.assert_allclose(score_rows(model, rows, CPU), given_B, rtol=1e-6)
    np.testing.assert_allclose(score_rows(model, rows, CPU, with_context=False), absent_B, rtol=1e-6)


@pytest.mark.parametrize("rate", [0.0, 0.3])
def test_each_kind_of_each_training_image_is_left_out_at_the_rate(rate: float, storage: Storage) -> None:
    kinds = ("label", "vector", "small")
    plan = plan_of(storage.root, kinds, context_drop_rate=rate, epochs=20)
    loop = Loop(plan, CPU, say=lambda _: None)
    seen: list[tuple[torch.Tensor, Context]] = []
    loop.parallel.register_forward_pre_hook(lambda module, inputs: seen.append(inputs))
    loop.run()
    assert len(seen) == 20 * 5
    absent_BK = torch.cat(
        [
            torch.stack([c.label_B == -1, c.vector_BV.isnan().all(1), (c.small_BCHW == -1).flatten(1).all(1)], 1)  # type: ignore[union-attr]
            for _, c in seen
        ]
    )
    total = len(absent_BK)
    assert total == 20 * 23
    if rate == 0:
        assert not absent_BK.any()
        return
    spread = (rate * (1 - rate) / total) ** 0.5
    assert ((absent_BK.float().mean(0) - rate).abs() < 4 * spread).all()
    both = absent_BK[:, 0] & absent_BK[:, 1]
    assert abs(float(both.float().mean()) - rate**2) < 4 * (rate**2 / total) ** 0.5, "kinds are left out independently"
    for x_BCHW, context in seen:  # what is there is the image's own
        assert context.small_BCHW is not None
        there = (context.small_BCHW >= 0).flatten(1).all(1)
        assert torch.equal(context.small_BCHW[there], small(x_BCHW, 2)[there])


def test_a_model_learns_from_a_vector(tmp_path: Path) -> None:
    """The first level of each image is in its vector."""
    plans = [plan_of(tmp_path / "-".join(kinds), kinds, context_drop_rate=0.0, epochs=60) for kinds in ((), ("vector",))]
    without, given = (train(plan, say=lambda _: None).test_bits_per_dim for plan in plans)
    assert given < without - 0.05


@pytest.mark.parametrize(
    ("kinds", "dataset", "words"),
    [
        (("label",), TinyDataset(num_classes=0), ["conditioned on 'label'", "'tiny' has no labels", "without --condition-on label"]),
        (("vector",), TinyDataset(vector_size=0), ["conditioned on 'vector'", "'tiny' has no vectors", "--vectors FILE"]),
        (("grey",), TinyDataset(), ["conditioned on 'grey'", "is grey already", "without --condition-on grey"]),
        (("small",), TinyDataset(spec=ImageSpec(1, 1, 1, 4)), ["1x1", "small_factor 4 leaves one pixel"]),
        (("small",), TinyDataset(spec=ImageSpec(1, 3, 1, 4)), ["3x1", "small_factor 4 leaves one pixel", "a smaller one"]),
        (("small",), TinyDataset(spec=ImageSpec(1, 5, 5, 4)), ["5x5", "small_factor 4 leaves 2x2, as 3 does", "--small-factor 3"]),
        (("label",), TinyDataset(unlabelled=3), ["3 of train, 3 of validation, 3 of test", "without --condition-on label"]),
    ],
)
def test_data_that_lacks_what_a_recipe_asks_for_is_told_in_one_line(
    kinds: tuple[str, ...], dataset: TinyDataset, words: list[str], storage: Storage
) -> None:
    with pytest.raises(UserError) as error:
        build_model(tiny_plan(storage, tiny_recipe(condition_on=kinds, small_factor=4), dataset))
    assert "\n" not in str(error.value) and all(word in str(error.value) for word in words), error.value


def test_a_model_is_given_the_pixels_of_its_recipes_factor_or_is_refused() -> None:
    refused = []
    for height, width, factor in itertools.product(range(1, 8), range(1, 8), range(2, 9)):
        spec, recipe = ImageSpec(1, height, width, 64), tiny_recipe(condition_on=("small",), small_factor=factor)
        x_BCHW = torch.arange(height * width).view(1, 1, height, width)
        try:
            built = context_of_kinds(recipe, "tiny", spec, num_classes=0, vector_size=0)
        except UserError:
            refused.append((height, width, factor))
            continue
        context = context_of(built, x_BCHW)
        assert context is not None and context.small_BCHW is not None and torch.equal(context.small_BCHW, small(x_BCHW, factor))
        check_context_fits(built, TinyDataset(spec=spec), ("test",), "remedy")  # type: ignore[arg-type]
    squares = [(height, factor) for height, width, factor in refused if height == width >= factor]
    assert squares == [(4, 3), (5, 4), (6, 4), (6, 5), (7, 5), (7, 6)]
    assert not {(6, 4, 2), (1, 7, 2), (7, 5, 3)} & set(refused)


def test_given_images_that_cannot_be_made_are_told() -> None:
    rgb: Any = TinyDataset(spec=ImageSpec(3, 8, 8, 4))
    grey_one, half, quarter = ImageSpec(1, 8, 8, 4), ImageSpec(3, 4, 4, 4), ImageSpec(3, 2, 2, 4)
    for image, sampled in ((grey_one, None), (None, half), (None, quarter), (grey_one, half)):
        check_context_fits(ContextSpec(image=image, small=sampled), rgb, ("test",), "remedy")
    strange_images = (half, ImageSpec(3, 8, 8, 4), ImageSpec(1, 8, 8, 8), ImageSpec(1, 4, 4, 4))
    strange_samples = (ImageSpec(1, 4, 4, 4), ImageSpec(3, 8, 8, 4), ImageSpec(3, 4, 2, 4), ImageSpec(3, 16, 16, 4), ImageSpec(3, 4, 4, 8))
    strange = [ContextSpec(image=one) for one in strange_images] + [ContextSpec(small=one) for one in strange_samples]
    for spec in strange:
        with pytest.raises(UserError, match="cannot be made of its own images; remedy"):
            check_context_fits(spec, rgb, ("test",), "remedy")


def cells(picture_HWC: np.ndarray, rows: int, columns: int, size: int = 4) -> np.ndarray:
    """The images of a grid, rows columns height width channels, at one pixel each; names above or beside them are left out."""
    height, width = (num * (size + 1) + 1 for num in (rows, columns))
    scale = min(picture_HWC.shape[0] // height, picture_HWC.shape[1] // width)
    assert picture_HWC.shape[0] == height * scale or picture_HWC.shape[1] == width * scale
    plain = picture_HWC[-height * scale :: scale, -width * scale :: scale]
    step = size + 1
    return np.array([[plain[1 + r * step : r * step + step, 1 + c * step : c * step + step] for c in range(columns)] for r in range(rows)])


@pytest.mark.parametrize("kinds", [("small",), ("grey", "label"), ("vector",)])
def test_grids_show_what_is_given_the_image_and_samples(kinds: tuple[str, ...], storage: Storage) -> None:
    plan = plan_of(storage.root, kinds)
    model, dataset = build_model(plan), plan.dataset
    picture = sample_grid(dataset, model, 10, seed=3)
    test = dataset.some("test", 2)
    x_BCHW, context = torch.from_numpy(test.images_NCHW).long(), whole_context(kinds, test)
    twice = context.rows(torch.tensor([0, 0, 0, 0, 1, 1, 1, 1]))
    columns = [x_BCHW[:, None], sample(model, 8, seed=3, context=twice).long().unflatten(0, (2, 4))]
    given = context.image_BCHW if context.image_BCHW is not None else context.small_BCHW
    if given is not None:
        factor = 4 // given.shape[2]
        blocks = given.repeat_interleave(factor, 2).repeat_interleave(factor, 3)
        columns.insert(0, blocks.expand(-1, x_BCHW.shape[1], -1, -1)[:, None])
    expected = torch.cat(columns, 1).permute(0, 1, 3, 4, 2).numpy() * 85  # four levels over 0..255
    np.testing.assert_array_equal(cells(picture, 2, expected.shape[1]), np.broadcast_to(expected, (*expected.shape[:4], 3)))


def test_grids_of_classes_have_a_column_for_each(storage: Storage) -> None:
    plan = plan_of(storage.root, ("label",))
    model = build_model(plan)
    drawn = sample(model, 6, seed=1, context=Context(label_B=torch.tensor([0, 1, 0, 1, 0, 1])))
    expected = drawn.unflatten(0, (3, 2)).permute(0, 1, 3, 4, 2).numpy() * 85
    np.testing.assert_array_equal(cells(sample_grid(plan.dataset, model, 6, seed=1), 3, 2)[..., :1], expected)


def test_an_actor_scores_rows_of_a_data_set_as_the_run_did(storage: Storage) -> None:
    plan = plan_of(storage.root, ("label", "vector", "small"), epochs=1)
    result = train(plan, say=lambda _: None)
    test = plan.dataset.read("test")
    assert test.vectors_NV is not None
    batch = pa.table(
        {
            "image": [image.transpose(1, 2, 0).tobytes() for image in test.images_NCHW],
            "label": pa.array(test.labels_N, pa.int32()),
            "key": test.keys,
            "vector": pa.FixedSizeListArray.from_arrays(pa.array(test.vectors_NV.ravel()), 3),
        }
    )
    dataset: Any = dataclasses.replace(plan.dataset, storage=storage)  # type: ignore[type-var]
    found = Scorer(Actors(plan.folder, Tracker(storage)), dataset)(batch)
    table = pq.read_table(pa.BufferReader(storage.read_bytes(f"{plan.folder}/{TEST_NATS}")))
    assert found["key"].to_pylist() == table["key"].to_pylist() == test.keys
    np.testing.assert_allclose(found["nll_nats"].to_numpy(), table["nll_nats"].to_numpy(), rtol=1e-6)
    without = Scorer(Actors(plan.folder, Tracker(storage), with_context=False), dataset)(batch)["nll_nats"].to_numpy()
    assert abs(without.mean() - result.test_nll_nats) > 1e-4
