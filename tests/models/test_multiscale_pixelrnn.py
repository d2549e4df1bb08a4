"""Multi-scale models with any architecture in either place: one distribution, over every pixel once."""

from __future__ import annotations

import itertools

import pytest
import torch

from pixelmodels.errors import UserError
from pixelmodels.likelihoods import LikelihoodConfig
from pixelmodels.models import (
    ARCHITECTURES,
    Context,
    ContextSpec,
    active_flops_per_image,
    build,
    config_from_plain,
    config_to_plain,
)
from pixelmodels.models.multiscale_pixelrnn import MultiscalePixelRNNConfig
from pixelmodels.sampling import reference_sample, request, sample
from pixelmodels.sampling.noise import image_noise
from pixelmodels.shapes import ImageSpec
from tests.conformance.checks import by_pixel_passes, by_taking_rows, dependencies, illegal, total_probability
from tests.conformance.conftest import random_context, small_config

SINGLE = [name for name in ARCHITECTURES if name != "multiscale_pixelrnn"]
COMBINATIONS = [*zip(SINGLE, SINGLE[1:] + SINGLE[:1], strict=True), *zip(SINGLE, SINGLE, strict=True), ("multiscale_pixelrnn", SINGLE[0])]


def multiscale(small: str, large: str, spec: ImageSpec, factor: int = 2, context: ContextSpec = ContextSpec()):  # noqa: B008
    torch.manual_seed(0)
    config = MultiscalePixelRNNConfig(factor, small_config(small), small_config(large))
    model = build(config, spec, LikelihoodConfig("discretized_logistic_mixture", num_mixtures=2), context)
    for name, parameter in model.named_parameters():
        parameter.data.mul_(1 if "encoder." in name else 2)
        if not parameter.any():  # what begins with zeros
            parameter.data.normal_(0, 0.3)
    return model.double().eval()


@pytest.fixture(params=COMBINATIONS, ids="-in-".join)
def pair(request):
    """Architectures of the small and the large image."""
    return request.param


def test_probabilities_of_all_images_sum_to_one(pair):
    for spec in (ImageSpec(1, 3, 3, 2), ImageSpec(1, 2, 3, 3), ImageSpec(3, 1, 2, 3)):
        assert total_probability(multiscale(*pair, spec)) == pytest.approx(1, abs=1e-9)


def test_stages_equal_forward_and_the_reference_in_the_declared_order(pair):
    model = multiscale(*pair, ImageSpec(3, 3, 4, 5))
    assert not (dependencies(model) & illegal(model)).any()
    x_BCHW = torch.randint(5, (2, 3, 3, 4), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = model(x_BCHW)
    torch.testing.assert_close(by_pixel_passes(model, x_BCHW), expected, rtol=0, atol=1e-11)
    torch.testing.assert_close(by_taking_rows(model, x_BCHW), expected, rtol=0, atol=1e-11)
    assert torch.equal(sample(model, 2, seed=1), reference_sample(model, 2, seed=1))


def test_no_pixel_is_counted_twice_or_missed(pair):
    # the log-probability is the small image's under its model, and that of all other pixels given it
    model = multiscale(*pair, ImageSpec(1, 6, 5, 4), factor=3)
    x_BCHW = torch.randint(4, (2, 1, 6, 5), generator=torch.Generator().manual_seed(0))
    small_BCHW = x_BCHW[..., ::3, ::3]
    with torch.no_grad():
        nats_BHW = model.large.log_prob_map(x_BCHW, Context(small_BCHW=small_BCHW))
        nats_BHW[:, ::3, ::3] = 0
        expected = model.small.log_prob(small_BCHW) + nats_BHW.sum((1, 2))
        torch.testing.assert_close(model.log_prob(x_BCHW), expected, rtol=0, atol=1e-11)


def test_small_images_are_the_small_models_own_samples(monkeypatch):
    model = multiscale("pixelcnn", "gated_pixelcnn", ImageSpec(1, 4, 6, 8))
    x_NCHW = sample(model, 3, seed=2)
    monkeypatch.setattr(request, "image_noise", lambda _, seed, index: image_noise(model, seed, index)[::2, ::2])
    assert torch.equal(x_NCHW[..., ::2, ::2], sample(model.small, 3, seed=2))
    assert model.pixel_ranks()[::2, ::2].max() == 5 and model.pixel_ranks().unique().numel() == 24


def test_given_images_and_labels_reach_both_stages(pair):
    spec = ImageSpec(1, 4, 5, 3)
    model = multiscale(*pair, spec, context=ContextSpec(num_classes=3, image=ImageSpec(1, 4, 5, 5)))
    context = random_context(model, 3)
    x_BCHW = torch.randint(3, (3, 1, 4, 5), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = model(x_BCHW, context)
        assert not torch.isclose(model.small(x_BCHW[..., ::2, ::2], context), model.small(x_BCHW[..., ::2, ::2])).all()
    torch.testing.assert_close(by_pixel_passes(model, x_BCHW, context), expected, rtol=0, atol=1e-11)
    assert torch.equal(sample(model, 3, seed=1, context=context), reference_sample(model, 3, seed=1, context=context))


def test_costs_both_stages():
    model = multiscale("pixelcnn", "pixelsnail", ImageSpec(1, 4, 4, 4))
    assert active_flops_per_image(model) == active_flops_per_image(model.small) + active_flops_per_image(model.large)


def test_config_goes_to_plain_values_and_back():
    config = MultiscalePixelRNNConfig(3, MultiscalePixelRNNConfig(2, small_config("pixelsnail")), small_config("pixelcnn_pp"))
    assert config_from_plain(config_to_plain(config)) == config


def test_what_makes_no_sense_is_refused():
    config = MultiscalePixelRNNConfig()
    spec = ImageSpec(1, 4, 4, 4)
    with pytest.raises(UserError, match="draws a small image of its own"):
        build(MultiscalePixelRNNConfig(large=config), spec, LikelihoodConfig("categorical"))
    with pytest.raises(UserError, match="draws a small image of its own"):
        build(config, spec, LikelihoodConfig("categorical"), ContextSpec(small=ImageSpec(1, 2, 2, 4)))
    for name, value in itertools.product(("small", "large"), ({"architecture": "pixelcn", "config": {}}, {"config": {}})):
        with pytest.raises(UserError, match=r"pixelcn|exactly architecture, config"):
            MultiscalePixelRNNConfig(**{name: value})
