"""The engine by several orders: every image is the reference sampler's, its rows are where they are told to be, known pixels come first."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch

from pixelmodels.errors import UserError
from pixelmodels.models.context import Context
from pixelmodels.models.turns import row_in_image
from pixelmodels.sampling import Engine, Request, draw_all, reference_sample, sample
from pixelmodels.sampling.orders import order_of_image
from tests.conformance.conftest import random_context, small_config, small_model

SMALL_PP = replace(small_config("pixelcnn_pp"), num_layers=1, num_features=4)
MODELS = {
    "gated_pixelcnn": ("gated_pixelcnn", "categorical", 3, 4, 4),
    "multiscale_pixelrnn": ("multiscale_pixelrnn", "categorical", 1, 5, 5),
    "pixelcnn_pp": (SMALL_PP, "discretized_logistic_mixture", 1, 4, 6),
}


def model_of(name):
    return small_model(*MODELS[name], levels=6, context="mix_and_orders")


@pytest.mark.parametrize("speculates", [False, True])
@pytest.mark.parametrize("name", MODELS)
def test_images_of_all_orders_share_a_batch_and_each_is_the_reference_samplers(name, speculates):
    model = model_of(name)
    rng, context = torch.Generator().manual_seed(0), random_context(model, 3)
    known_NCHW = torch.randint(model.spec.levels, (3, *model.spec.shape), generator=rng, dtype=torch.uint8)
    mask_NHW = torch.rand(3, *model.spec.shape[1:], generator=rng) < 0.4
    mask_NHW[0] = False
    mask_NHW[0, -2:] = True  # whole rows at the end
    mask_NHW[1, :, :2] = True  # whole columns, and more
    options = [
        {},
        {"order": model.context_spec.num_orders - 1},
        {"context": context, "guidance": 1.5, "temperature": 0.7},
        {"context": context.rows(slice(1)), "known_NCHW": known_NCHW, "known_mask_NHW": mask_NHW},
        {"known_NCHW": known_NCHW, "known_mask_NHW": mask_NHW, "order": 0},
        {"first": 7, "context": Context(label_B=torch.tensor([0, 1, 2]))},
    ]
    engine = Engine(model, num_slots=7, speculates=lambda width: speculates)
    submitted = {engine.submit(Request(n=3, seed=2, **each)): each for each in options}
    rows = {}
    while not engine.is_idle:
        for row in engine.step_row():
            rows.setdefault((row.request_id, row.image), []).append(row)
    orders = set()
    for (request_id, image), found in rows.items():
        each = submitted[request_id]
        given = each.get("context")
        given = None if given is None else given.rows(slice(image % len(given), image % len(given) + 1))
        one = {**each, "context": given, "first": each.get("first", 0) + image}
        for field in ("known_NCHW", "known_mask_NHW"):
            if field in each:
                one[field] = each[field][image : image + 1]
        x_CHW = reference_sample(model, 1, seed=2, **one)[0]
        assert torch.equal(found[-1].image_CHW, x_CHW), (each, image)
        if "known_NCHW" in each:
            assert torch.equal(x_CHW[:, mask_NHW[image]], known_NCHW[image][:, mask_NHW[image]])
        orders |= {row.order for row in found}
        stages = model.stages()
        for row in found:
            every = stages[row.stage].every
            (top, left), (down, right) = row_in_image(row.order, row.row, every, *model.spec.shape[1:])
            steps = np.arange(row.levels_CW.shape[1])
            assert np.array_equal(row.levels_CW, x_CHW.numpy()[:, top + down * steps, left + right * steps])
    assert len(orders) > 3


def test_an_order_is_drawn_from_the_seed_of_the_image_alone_each_equally_often():
    model = small_model("pixelcnn", "categorical", 1, 3, 3, context="orders")
    orders = [order_of_image(model, 4, index) for index in range(4000)]
    counts = Counter(orders)
    assert all(abs(counts[order] - 500) < 5 * math.sqrt(500) for order in range(8))
    assert orders != [order_of_image(model, 5, index) for index in range(4000)]
    together = sample(model, 9, seed=4)
    for index in (0, 5, 8):
        assert torch.equal(draw_all(model, Request(n=1, seed=4, first=index))[0], together[index])
        assert torch.equal(draw_all(model, Request(n=1, seed=4, first=index, order=orders[index]))[0], together[index])


def test_a_model_of_one_order_draws_what_it_drew():
    one = small_model("pixelcnn", "categorical", 1, 3, 3, levels=6)
    assert order_of_image(one, 4, 7) == 0 and order_of_image(one, 4, 7, np.eye(3, dtype=bool)[::-1]) == 0
    assert torch.equal(sample(one, 3, seed=1, order=0), sample(one, 3, seed=1))


def test_completion_takes_the_order_in_which_known_pixels_come_first():
    model = small_model("pixelcnn", "categorical", 1, 4, 4, context="orders")
    sides = {"top": (slice(0, 2), slice(None), 0), "bottom": (slice(2, 4), slice(None), 1)}
    sides |= {"left": (slice(None), slice(0, 2), 4), "right": (slice(None), slice(2, 4), 5)}
    known_NCHW = torch.zeros(4, 1, 4, 4, dtype=torch.uint8)
    mask_NHW = torch.zeros(4, 4, 4, dtype=torch.bool)
    for image, (rows, columns, _) in enumerate(sides.values()):
        mask_NHW[image, rows, columns] = True
    request = Request(n=4, known_NCHW=known_NCHW, known_mask_NHW=mask_NHW)
    assert [request.order_of(model, image) for image in range(4)] == [order for _, _, order in sides.values()]
    assert [Request(n=4, known_NCHW=known_NCHW, known_mask_NHW=mask_NHW, order=3).order_of(model, 2)] == [3]


def test_a_model_that_is_given_small_images_draws_by_the_first_order_only():
    from pixelmodels.models import ContextSpec, build
    from pixelmodels.shapes import ImageSpec

    one = small_model("pixelcnn", "categorical", 1, 4, 4, context="small")
    model = build(one.config, one.spec, one.likelihood.config, ContextSpec(small=ImageSpec(1, 2, 2, 3), num_orders=2)).double().eval()
    with pytest.raises(UserError, match=r"the model is given small images, .* give order 0"):
        sample(model, 1, seed=0)
    small = Context(small_BCHW=torch.tensor([[[[0, 1], [2, 0]]]]))
    assert torch.equal(sample(model, 1, seed=0, order=0, context=small)[:, :, ::2, ::2].long(), small.small_BCHW)
