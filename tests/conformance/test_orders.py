"""Models of several orders, of every valid pair: each order is a distribution, in its own order, and so is their mixture."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace

import pytest
import torch

from pixelmodels.errors import UserError
from pixelmodels.models import Context, ContextBlend, describe, from_description
from pixelmodels.models.files import load_model, save_model
from pixelmodels.models.orders import (
    ensemble_log_prob,
    in_order,
    log_prob_map_of_order,
    log_prob_of_order,
    log_probs_of_orders,
    turned,
    turned_back,
)
from pixelmodels.sampling import Request, draw_all, reference_sample, sample
from tests.conformance.checks import all_images, by_pixel_passes, by_taking_rows, declared, dependencies
from tests.conformance.conftest import random_context, small_model
from tests.conformance.test_distribution import random_images

GATED = ("gated_pixelcnn", "categorical", 1)


def ranks_of(model, order):
    """The ranks of the image's pixels in an order, H W."""
    return turned_back(model.pixel_ranks()[None], torch.tensor([order]))[0]


def test_probabilities_of_all_images_sum_to_one_by_each_order_and_by_their_mixture(pair):
    architecture, likelihood, channels = pair
    for height, width in ((2, 2), (2, 3)) if channels == 1 else ((1, 1), (1, 2)):
        model = small_model(architecture, likelihood, channels, height, width, context="orders")
        x_NCHW = all_images(model)
        with torch.no_grad():
            log_prob_NK = log_probs_of_orders(model, x_NCHW)
            mixed_N = ensemble_log_prob(model, x_NCHW)
        assert log_prob_NK.shape[1] == model.context_spec.num_orders == (8 if height == width else 4)
        for order, total in enumerate(log_prob_NK.exp().sum(0).tolist()):
            assert total == pytest.approx(1, abs=1e-9), order
        assert float(mixed_N.exp().sum()) == pytest.approx(1, abs=1e-9)
        torch.testing.assert_close(mixed_N.exp(), log_prob_NK.exp().mean(1), rtol=1e-9, atol=0)
        assert len({round(float(one), 9) for one in log_prob_NK[-2]}) == len(log_prob_NK[0]), "an order does not count"


def test_the_mixture_sums_to_one_given_any_context(pair):
    model = small_model(*pair, height=1, width=2, context="mix_and_orders")
    x_NCHW, given = all_images(model), random_context(model, 1)
    given = given.rows(torch.zeros(len(x_NCHW), dtype=torch.long))
    with torch.no_grad():
        log_prob_NK = log_probs_of_orders(model, x_NCHW, given)
        assert not torch.isclose(log_prob_NK, log_probs_of_orders(model, x_NCHW)).all()
    torch.testing.assert_close(log_prob_NK.exp().sum(0), torch.ones(4, dtype=torch.float64), rtol=0, atol=1e-9)


def test_the_network_sees_turned_images_in_its_own_order(pair):
    model = small_model(*pair, height=4, width=4, context="mix_and_orders")
    for order in (1, 6):
        given = replace(random_context(model, 1), order_B=torch.tensor([order]))
        assert torch.equal(dependencies(model, given), declared(model))


def test_no_pixel_depends_on_later_ones_of_its_order(pair):
    """To rounding in float64: every pixel changed, one at a time, and what is due before it looked at."""
    model = small_model(*pair, height=3, width=3, context="orders")
    x_1CHW = random_images(model, 1)
    x_BCHW = x_1CHW.repeat(9, 1, 1, 1)
    for place in range(9):
        x_BCHW[place, :, place // 3, place % 3] = (x_BCHW[place, :, place // 3, place % 3] + 1) % model.spec.levels
    x_BCHW = torch.cat([x_BCHW, x_1CHW])
    order_B = torch.arange(8).repeat_interleave(10)
    with torch.no_grad():  # all orders in one pass
        maps_BHW = model.log_prob_map(turned(x_BCHW.repeat(8, 1, 1, 1), order_B), in_order(None, order_B))
        third_BHW = log_prob_map_of_order(model, x_BCHW, order=3)
    maps_KBHW = turned_back(maps_BHW, order_B).unflatten(0, (8, 10))
    torch.testing.assert_close(maps_KBHW[3], third_BHW, rtol=1e-12, atol=1e-12)
    for order, maps in enumerate(maps_KBHW):
        rank_HW = ranks_of(model, order)
        for place in range(9):
            before_HW = rank_HW < rank_HW[place // 3, place % 3]
            torch.testing.assert_close(maps[place][before_HW], maps[-1][before_HW], rtol=1e-12, atol=1e-12)
            assert not torch.isclose(maps[place][place // 3, place % 3], maps[-1][place // 3, place % 3], rtol=1e-9).item()


def test_passes_equal_forward_in_any_order(pair):
    model = small_model(*pair, height=4, width=4, context="mix_and_orders")
    x_BCHW, context = random_images(model, 8), in_order(random_context(model, 8), torch.arange(8))
    with torch.no_grad():
        expected = model(x_BCHW, context)
    torch.testing.assert_close(by_pixel_passes(model, x_BCHW, context), expected, rtol=0, atol=1e-11)
    torch.testing.assert_close(by_taking_rows(model, x_BCHW, context), expected, rtol=0, atol=1e-11)


def test_samples_of_any_order_and_of_the_mixture_equal_the_reference(pair):
    model = small_model(*pair, height=3, width=3, levels=16, context="mix_and_orders")
    context = random_context(model, 4)
    for options in ({}, {"order": 5, "guidance": 1.5, "temperature": 0.8}):
        x_NCHW = sample(model, 4, seed=1, context=context, **options)
        assert torch.equal(x_NCHW, reference_sample(model, 4, seed=1, context=context, **options)), options
        assert torch.equal(sample(model, 2, seed=1, context=context.rows(slice(2)), **options), x_NCHW[:2])


def test_a_blend_is_drawn_by_the_order_of_its_image():
    model = small_model(*GATED, height=4, width=4, levels=16, context="mix_and_orders")
    blend = ContextBlend(random_context(model, 6), random_context(model, 6, seed=9), torch.linspace(0, 1, 6))
    assert torch.equal(sample(model, 6, seed=1, context=blend), reference_sample(model, 6, seed=1, context=blend))
    assert torch.equal(sample(model, 6, seed=1, context=blend)[0], sample(model, 1, seed=1, context=blend.first.rows(slice(1)))[0])


def test_samples_follow_the_mixture(pair):
    # by a chi-square bound, as samples of one order follow theirs
    model, n = small_model(*pair, height=1, width=2, context="orders"), 4000
    counts = Counter(tuple(image) for image in sample(model, n, seed=5).flatten(1).tolist())
    x_NCHW = all_images(model)
    with torch.no_grad():
        expected_N = n * ensemble_log_prob(model, x_NCHW).exp()
        raster_N = n * log_prob_of_order(model, x_NCHW, order=0).exp()
    found_N = torch.tensor([counts[tuple(image)] for image in x_NCHW.flatten(1).tolist()], dtype=torch.float64)
    assert statistic(found_N, expected_N) < bound(expected_N)
    if pair == GATED:
        assert statistic(found_N, raster_N) > bound(raster_N), "the test could not tell the mixture from the raster order"


def statistic(found_N, expected_N):
    common = expected_N >= 5
    return float(((found_N - expected_N)[common] ** 2 / expected_N[common]).sum())


def bound(expected_N):
    degrees = max(int((expected_N >= 5).sum()) - 1, 1)
    return degrees + 6 * math.sqrt(2 * degrees) + 6


def test_completion_from_the_last_row_is_the_conditional_given_it():
    """p(upper row | lower row) of the half turn, by brute force over all images: what is drawn follows it, and its pixels' nats are it."""
    model = small_model(*GATED, height=2, width=2, context="orders")
    known_1CHW = torch.tensor([[[[0, 0], [2, 1]]]], dtype=torch.uint8)
    mask_1HW = torch.tensor([[[False, False], [True, True]]])
    x_NCHW = all_images(model)
    fits_N = (x_NCHW[:, :, 1] == known_1CHW[:, :, 1]).flatten(1).all(1)
    with torch.no_grad():
        log_prob_N = log_prob_of_order(model, x_NCHW, order=1)[fits_N]
        conditional_N = log_prob_N - log_prob_N.logsumexp(0)
        maps_NHW = log_prob_map_of_order(model, x_NCHW, order=1)[fits_N]
    torch.testing.assert_close(maps_NHW[:, 0].sum(1), conditional_N, rtol=0, atol=1e-12)
    n = 4000
    request = Request(n=n, seed=2, known_NCHW=known_1CHW, known_mask_NHW=mask_1HW)
    assert request.order_of(model, 7) == 1
    drawn_NCHW = draw_all(model, request)
    assert (drawn_NCHW[:, :, 1] == known_1CHW[:, :, 1]).all()
    counts = Counter(tuple(image) for image in drawn_NCHW.flatten(1).tolist())
    found_N = torch.tensor([counts[tuple(image)] for image in x_NCHW[fits_N].flatten(1).tolist()], dtype=torch.float64)
    assert statistic(found_N, n * conditional_N.exp()) < bound(n * conditional_N.exp())
    raster_N = counts_of_raster_clamped(model, known_1CHW, mask_1HW, n, x_NCHW[fits_N])
    assert statistic(raster_N, n * conditional_N.exp()) > bound(n * conditional_N.exp()), "the raster order would do as well"


def counts_of_raster_clamped(model, known_1CHW, mask_1HW, n, x_NCHW):
    """Counts of images drawn in raster order, whose known pixels come too late."""
    drawn_NCHW = draw_all(model, Request(n=n, seed=2, known_NCHW=known_1CHW, known_mask_NHW=mask_1HW, order=0))
    counts = Counter(tuple(image) for image in drawn_NCHW.flatten(1).tolist())
    return torch.tensor([counts[tuple(image)] for image in x_NCHW.flatten(1).tolist()], dtype=torch.float64)


def test_given_images_are_turned_with_the_image():
    model = small_model(*GATED, height=4, width=4, context="mix_and_orders")
    context, order_B = random_context(model, 8), torch.arange(8)
    given = in_order(context, order_B)
    assert torch.equal(given.image_BCHW, turned(context.image_BCHW, order_B)) and torch.equal(given.label_B, context.label_B)
    absent = in_order(context.without({"image_BCHW": torch.ones(8, dtype=torch.bool)}), order_B)
    assert (absent.image_BCHW == -1).all()
    assert torch.equal(context.dropped(0.9, torch.arange(8)).without({}).label_B, given.dropped(0.9, torch.arange(8)).label_B)
    assert torch.equal(given.dropped(0.9, torch.arange(8)).order_B, order_B), "an order is left out"


def test_without_an_order_it_is_the_first(pair):
    model = small_model(*pair, height=3, width=3, context="orders")
    x_BCHW = random_images(model, 3)
    with torch.no_grad():
        expected = model.log_prob(x_BCHW)
        for order_B in (torch.zeros(3, dtype=torch.long), torch.tensor([-1, 0, -1])):
            torch.testing.assert_close(model.log_prob(x_BCHW, Context(order_B=order_B)), expected, rtol=0, atol=0)
        assert torch.equal(log_prob_of_order(model, x_BCHW, order=0), expected)


def test_a_model_of_one_order_is_described_and_scored_as_ever(pair):
    model = small_model(*pair, height=2, width=2, context="mix")
    assert "num_orders" not in describe(model)["context"]
    assert not any("order" in name for name in model.state_dict())
    x_BCHW, context = random_images(model, 3), random_context(model, 3)
    with torch.no_grad():
        assert torch.equal(ensemble_log_prob(model, x_BCHW, context), model.log_prob(x_BCHW, context))


def test_files_bring_back_a_model_of_several_orders(tmp_path):
    model = small_model(*GATED, height=3, width=3, context="orders")
    save_model(tmp_path, model)
    again = load_model(tmp_path)
    assert describe(again) == describe(model) == describe(from_description(describe(model)))
    x_BCHW = random_images(model, 2)
    assert torch.equal(ensemble_log_prob(again, x_BCHW), ensemble_log_prob(model, x_BCHW))


def test_orders_that_do_not_fit_are_refused():
    model, one = small_model(*GATED, height=3, width=3, context="orders"), small_model(*GATED, height=3, width=3)
    x_BCHW = random_images(model, 2)
    for wrong, message in [
        (torch.tensor([0, 8]), r"order 8 is out of range; this model has 0\.\.7"),
        (torch.tensor([0, -2]), "order -2 is out of range"),
        (torch.tensor([0]), "give one integer for each image"),
        (torch.zeros(2), "give one integer for each image"),
    ]:
        with pytest.raises(UserError, match=message):
            model.log_prob(x_BCHW, Context(order_B=wrong))
    with pytest.raises(UserError, match="a context order is given to a model that is not conditioned on one"):
        one.log_prob(x_BCHW, Context(order_B=torch.tensor([0, 0])))
    with pytest.raises(UserError, match="told different orders"):
        first, second = (Context(order_B=torch.tensor([order, order])) for order in (0, 1))
        model.log_prob(x_BCHW, ContextBlend(first, second, torch.zeros(2)))
    with pytest.raises(UserError, match="order 1 is out of range; the model has 0 only"):
        sample(one, 1, seed=0, order=1)
    with pytest.raises(UserError, match="say it by the request's `order`"):
        sample(model, 1, seed=0, context=Context(order_B=torch.tensor([1])))
    with pytest.raises(UserError, match="8 orders exchange rows with columns, which images of 2x3 do not allow"):
        from_description({**describe(model), "image_spec": {"channels": 1, "height": 2, "width": 3, "levels": 3}})
    small = Context(small_BCHW=torch.zeros(2, 1, 2, 2, dtype=torch.long))
    with pytest.raises(UserError, match="its pixels are not those of a turned image"):
        in_order(small, torch.tensor([0, 1]))
