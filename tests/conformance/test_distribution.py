"""Each valid pair of architecture and likelihood is a distribution, in raster order, and samples what it scores."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch

from pixelmodels.errors import UserError
from pixelmodels.models import Context, ContextBlend, ContextSpec, build, describe, from_description
from pixelmodels.models.files import load_model, save_model
from pixelmodels.sampling import Request, draw_all, reference_sample, sample
from pixelmodels.shapes import ImageSpec
from tests.conformance.checks import by_pixel_passes, by_taking_rows, declared, dependencies, illegal, total_probability
from tests.conformance.conftest import WITHOUT_SMALL, random_context, small_model

SIZES = [(5, 4), (4, 6), (1, 5), (5, 1), (1, 1), (3, 7)]


def random_images(model, n, seed=3):
    return torch.randint(model.spec.levels, (n, *model.spec.shape), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


def test_probabilities_of_all_images_sum_to_one(pair):
    architecture, likelihood, channels = pair
    for height, width in ((2, 3), (3, 2)) if channels == 1 else ((1, 2), (2, 1)):
        assert total_probability(small_model(architecture, likelihood, channels, height, width)) == pytest.approx(1, abs=1e-9)


def test_probabilities_sum_to_one_given_any_context(pair, kind):
    model = small_model(*pair, height=1, width=2, context=kind)
    given = random_context(model, 1)
    assert total_probability(model, given) == pytest.approx(1, abs=1e-9)
    assert total_probability(model) == pytest.approx(1, abs=1e-9)


def test_depends_on_exactly_what_is_declared(pair):
    model = small_model(*pair, height=6, width=9)
    found = dependencies(model)
    assert not (found & illegal(model)).any(), "an output depends on a later sub-pixel"
    assert torch.equal(found, declared(model)), "the reach differs from what the architecture declares"


def test_context_changes_no_order(pair, kind):
    model = small_model(*pair, height=4, width=6, context=kind)
    assert torch.equal(dependencies(model, random_context(model, 1)), declared(model))


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_passes_equal_forward(pair, size):
    check_passes(small_model(*pair, *size))


def test_passes_equal_forward_given_any_context(pair, kind):
    for size in ((5, 4), (4, 6)):
        check_passes(small_model(*pair, *size, context=kind))


@pytest.mark.parametrize("pair", WITHOUT_SMALL, ids=lambda pair: "-".join(map(str, pair)))
def test_a_small_image_may_be_given(pair):
    model = small_model(*pair, height=1, width=2, context="small")
    assert total_probability(model, random_context(model, 1)) == pytest.approx(1, abs=1e-9)
    model = small_model(*pair, height=4, width=6, context="small")
    assert torch.equal(dependencies(model, random_context(model, 1)), declared(model))
    check_passes(model)
    x_BCHW, given = random_images(model, 1).repeat(2, 1, 1, 1), random_context(model, 2)
    with torch.no_grad():
        assert not torch.allclose(*model(x_BCHW, given)), "the small image does not count"


@pytest.mark.parametrize("pair", WITHOUT_SMALL, ids=lambda pair: "-".join(map(str, pair)))
def test_pixels_of_a_given_small_image_are_certain(pair):
    model = small_model(*pair, height=4, width=6, context="small")
    x_BCHW, context = random_images(model, 3), random_context(model, 3)
    x_BCHW[:2, :, ::2, ::2] = context.small_BCHW[:2]
    x_BCHW[1, :, 2, 4] = (x_BCHW[1, :, 2, 4] + 1) % model.spec.levels
    context = context.without({"small_BCHW": torch.tensor([False, False, True])})
    without = model.likelihood.log_prob_map(model(x_BCHW, context), x_BCHW)
    nats_BHW = model.log_prob_map(x_BCHW, context)
    given_HW = torch.zeros(4, 6, dtype=torch.bool)
    given_HW[::2, ::2] = True
    assert not nats_BHW[0, given_HW].any(), "a given pixel costs something"
    assert torch.equal(nats_BHW[:2, ~given_HW], without[:2, ~given_HW]) and torch.equal(nats_BHW[2], without[2])
    assert (nats_BHW[1] == -torch.inf).nonzero().tolist() == [[2, 4]]
    drawn_BCHW = sample(model, 3, seed=1, context=context)
    assert torch.equal(drawn_BCHW, reference_sample(model, 3, seed=1, context=context))
    assert torch.equal(drawn_BCHW[:2, :, ::2, ::2].long(), context.small_BCHW[:2].long()), "a given pixel is drawn"


def check_passes(model):
    x_BCHW, context = random_images(model, 2), random_context(model, 2)
    with torch.no_grad():
        expected = model(x_BCHW, context)
    torch.testing.assert_close(by_pixel_passes(model, x_BCHW, context), expected, rtol=0, atol=1e-11)
    torch.testing.assert_close(by_taking_rows(model, x_BCHW, context), expected, rtol=0, atol=1e-11)
    torch.testing.assert_close(by_taking_rows(model, x_BCHW, context, guess=True), expected, rtol=0, atol=1e-11)


def test_samples_equal_the_reference(pair):
    model = small_model(*pair, height=4, width=5, levels=16, context="mix")
    context = random_context(model, 3)
    x_NCHW = sample(model, 3, seed=1, context=context)
    assert torch.equal(x_NCHW, reference_sample(model, 3, seed=1, context=context))
    assert x_NCHW.dtype == torch.uint8 and len(x_NCHW.unique()) > 1


def test_an_image_is_the_same_whoever_shares_its_batch(pair):
    model = small_model(*pair, height=4, width=3, levels=16)
    together = sample(model, 5, seed=11)
    assert torch.equal(sample(model, 2, seed=11), together[:2])
    assert torch.equal(draw_all(model, Request(n=1, seed=11, first=4)), together[4:])
    assert not torch.equal(sample(model, 5, seed=12), together)


def test_samples_follow_the_distribution(pair):
    # every pixel of a 1 x 2 image against the exact marginal and conditional tables, by a chi-square bound
    model = small_model(*pair, height=1, width=2)
    n = 4000
    counts: dict[tuple[int, ...], int] = {}
    for image in sample(model, n, seed=5).flatten(1).tolist():
        counts[tuple(image)] = counts.get(tuple(image), 0) + 1
    from tests.conformance.checks import all_images

    x_NCHW = all_images(model)
    expected = n * model.log_prob(x_NCHW).exp().detach().numpy()
    found = np.array([counts.get(tuple(image), 0) for image in x_NCHW.flatten(1).tolist()])
    assert found.sum() == n
    common = expected >= 5
    statistic = ((found - expected)[common] ** 2 / expected[common]).sum()
    degrees = max(int(common.sum()) - 1, 1)
    assert statistic < degrees + 6 * math.sqrt(2 * degrees) + 6


def test_table_is_the_distribution_that_is_scored(pair):
    model = small_model(*pair, height=1, width=1, levels=8)
    x_NCHW = random_images(model, 4)
    with torch.no_grad():
        params_NP = model(x_NCHW)[:, :, 0, 0]
        expected_N = model.log_prob(x_NCHW)
    groups, total_N = torch.tensor(model.param_groups), torch.zeros(4, dtype=torch.float64)
    for k in range(model.spec.channels):
        mine = params_NP[:, groups == k] if model.num_groups > 1 else params_NP
        table_NL = model.likelihood.table(mine, k, x_NCHW[:, :, 0, 0])
        assert table_NL.shape == (4, model.spec.levels)
        torch.testing.assert_close(table_NL.exp().sum(1), torch.ones(4, dtype=torch.float64), rtol=0, atol=1e-12)
        total_N += table_NL.gather(1, x_NCHW[:, k, 0, 0, None].long())[:, 0]
    torch.testing.assert_close(total_N, expected_N, rtol=1e-10, atol=1e-10)


def test_half_precision_networks_keep_the_likelihood_in_float32(pair):
    model = small_model(*pair, height=4, width=3).float()
    x_BCHW = random_images(model, 3)
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        found_B, params_BPHW = model.log_prob(x_BCHW), model(x_BCHW)
    assert found_B.dtype == torch.float32
    assert torch.equal(found_B, model.likelihood.log_prob_map(params_BPHW.float(), x_BCHW).sum((1, 2)))
    torch.testing.assert_close(found_B, model.log_prob(x_BCHW), rtol=0.05, atol=0.5)


def test_samples_in_float32_differ_from_the_reference_in_few_images(pair):
    model = small_model(*pair, height=4, width=5, levels=16).float()
    differ = (sample(model, 16, seed=2) != reference_sample(model, 16, seed=2)).flatten(1).any(1)
    assert int(differ.sum()) <= 1  # about 2 draws in a million flip


def test_gradients_reach_every_tensor(pair):
    check_gradients(small_model(*pair, height=5, width=4, context="mix"))


def check_gradients(model):
    model.train()
    x_BCHW, context = random_images(model, 3), random_context(model, 3)
    model.log_prob(x_BCHW, context).sum().backward()
    model.log_prob(x_BCHW).sum().backward()  # what stands for a context that is absent is learned too
    without = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert not without


def test_files_bring_back_the_same_model(pair, tmp_path):
    model = small_model(*pair, height=3, width=2, context="mix")
    for parameter in model.parameters():
        parameter.data.add_(torch.randn_like(parameter) / 3)  # values that float32 does not hold
    save_model(tmp_path, model)
    again = load_model(tmp_path)
    assert describe(again) == describe(model) == describe(from_description(describe(model)))
    x_BCHW, context = random_images(model, 2), random_context(model, 2)
    assert torch.equal(again.log_prob(x_BCHW, context), model.log_prob(x_BCHW, context))


def test_each_kind_of_context_counts_and_may_be_absent(pair):
    model = small_model(*pair, height=4, width=2, context="mix")
    x_BCHW = random_images(model, 1).repeat(3, 1, 1, 1)
    given = random_context(model, 3)
    everywhere = torch.ones(3, dtype=torch.bool)
    with torch.no_grad():
        full, none = model.log_prob(x_BCHW, given), model.log_prob(x_BCHW)
        for name in ("label_B", "vector_BV", "image_BCHW"):
            without = model.log_prob(x_BCHW, given.without({name: everywhere}))
            assert not torch.isclose(without, full).any() and not torch.isclose(without, none).any()
            expected = model.log_prob(x_BCHW, dataclasses.replace(given, **{name: None}))
            torch.testing.assert_close(without, expected, rtol=0, atol=1e-12)
        some = {name: torch.tensor([True, False, True]) for name in ("label_B", "vector_BV", "image_BCHW")}
        expected = torch.where(some["label_B"], none, full)
        torch.testing.assert_close(model.log_prob(x_BCHW, given.without(some)), expected, rtol=0, atol=1e-12)


def test_a_blend_begins_and_ends_at_its_contexts(pair):
    model = small_model(*pair, height=4, width=2, context="mix")
    x_BCHW = random_images(model, 2)
    first, second = random_context(model, 2, seed=1), random_context(model, 2, seed=2)
    with torch.no_grad():
        ends = model.log_prob(x_BCHW, ContextBlend(first, second, torch.tensor([0.0, 1.0])))
        middle = model.log_prob(x_BCHW, ContextBlend(first, second, torch.tensor([0.5, 0.5])))
        expected = torch.stack([model.log_prob(x_BCHW, first)[0], model.log_prob(x_BCHW, second)[1]])
    torch.testing.assert_close(ends, expected, rtol=0, atol=1e-12)
    assert not torch.isclose(middle, expected).any()


@pytest.mark.parametrize("pair", WITHOUT_SMALL, ids=lambda pair: "-".join(map(str, pair)))
def test_a_blend_of_small_images_keeps_what_both_give(pair):
    model = small_model(*pair, height=4, width=4, context="small")
    first, second = random_context(model, 3, seed=1), random_context(model, 3, seed=2)
    second.small_BCHW[2, :, 1, 1] = first.small_BCHW[2, :, 1, 1]
    blend = ContextBlend(first, second, torch.tensor([0.0, 1.0, 0.5]))
    drawn_BCHW = sample(model, 3, seed=1, context=blend)
    assert torch.equal(drawn_BCHW, reference_sample(model, 3, seed=1, context=blend))
    assert torch.equal(drawn_BCHW[0], sample(model, 1, seed=1, context=first.rows(slice(0, 1)))[0]), "the first end"
    assert torch.equal(drawn_BCHW[1, :, ::2, ::2].long(), second.small_BCHW[1].long()), "the second end"
    assert torch.equal(drawn_BCHW[2, :, 2, 2].long(), first.small_BCHW[2, :, 1, 1].long()), "what both give"
    same = (first.small_BCHW[2] == second.small_BCHW[2]).all(0)
    known_HW = model.given_pixels(blend).mask_BHW[2]
    assert torch.equal(known_HW[::2, ::2], same) and known_HW.sum() == same.sum()
    own_BCHW = torch.cat([drawn_BCHW[:1], drawn_BCHW[:1]])
    ends = model.log_prob(own_BCHW, ContextBlend(first.rows(slice(2)), second.rows(slice(2)), torch.zeros(2)))
    torch.testing.assert_close(ends[0], model.log_prob(own_BCHW, first.rows(slice(2)))[0], rtol=0, atol=1e-12)


def test_wrong_images_and_contexts_are_refused(pair):
    model = small_model(*pair, height=4, width=2, context="mix")
    x_BCHW, good = random_images(model, 2), random_context(model, 2)
    for images, changes, message in [
        (x_BCHW[:, :, :2], {}, "images of shape"),
        (x_BCHW.float(), {}, "give integers"),
        (x_BCHW + 200, {}, "level 20. is out of range"),
        (x_BCHW.long() - 5, {}, "level -. is out of range"),
        (x_BCHW, {"label_B": torch.tensor([0, 3])}, "label 3 is out of range; this model knows 0..2"),
        (x_BCHW, {"label_B": torch.tensor([0, -2])}, "label -2 is out of range"),
        (x_BCHW, {"label_B": torch.tensor([0])}, "one integer for each image"),
        (x_BCHW, {"vector_BV": torch.zeros(2, 3)}, r"vectors of shape \(2, 3\) .* takes 2 numbers"),
        (x_BCHW, {"vector_BV": torch.tensor([[0.0, float("inf")]] * 2)}, "not finite"),
        (x_BCHW, {"vector_BV": torch.tensor([[0.0, float("nan")]] * 2)}, "not finite"),
        (x_BCHW, {"image_BCHW": torch.zeros(2, 1, 9, 9, dtype=torch.long)}, r"context images of shape \(2, 1, 9, 9\)"),
        (x_BCHW, {"image_BCHW": good.image_BCHW + 9}, "level .* is out of range"),
    ]:
        with pytest.raises(UserError, match=message):
            model.log_prob(images, dataclasses.replace(good, **changes))
    with pytest.raises(UserError, match="a context label is given to a model that is not conditioned on one"):
        small_model(*pair, height=4, width=2).log_prob(x_BCHW, Context(label_B=torch.tensor([0, 0])))
    with pytest.raises(UserError, match="no whole factors apart"):
        build(model.config, model.spec, model.likelihood.config, ContextSpec(image=ImageSpec(1, 3, 2, 2)))
