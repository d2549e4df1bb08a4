"""Each conformance test catches a deliberate bug: it fails, and for the reason that it should."""

from __future__ import annotations

import inspect
import sys
from dataclasses import dataclass

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import pixelmodels.likelihoods
import pixelmodels.models
from pixelmodels import plain
from pixelmodels.errors import UserError
from pixelmodels.likelihoods.categorical import Categorical
from pixelmodels.likelihoods.discretized_logistic_mixture import DiscretizedLogisticMixture
from pixelmodels.models import ContextBlend, PixelModel, base, context, files
from pixelmodels.models.context_encoder import ContextEncoder, ContextProjection, ImageEncoder
from pixelmodels.models.context_images import GivenPixels
from pixelmodels.models.gated_pixelcnn import GatedPixelCNN
from pixelmodels.models.pixelcnn import PixelCNN, PixelCNNConfig
from pixelmodels.sampling import request
from pixelmodels.sampling.passes import Passes
from pixelmodels.shapes import ImageSpec
from tests.conformance import test_distribution as distribution
from tests.conformance import test_registry as registry
from tests.conformance.conftest import valid_pairs
from tests.conformance.layer_bugs import CASES, GATED, PIXELCNN, PP_MIXTURE, caught_by

# ---- samples and likelihoods


@caught_by(distribution.test_samples_equal_the_reference, "torch.equal", pair=PIXELCNN)
def pixel_that_the_network_is_not_told(patch, _):
    def put(self, canvas, column, channel, x_B):
        canvas.x_BWC[:, column, channel] = x_B

    patch.setattr(Passes, "put", put)


@caught_by(distribution.test_an_image_is_the_same_whoever_shares_its_batch, "torch.equal", pair=PIXELCNN)
def noise_of_one_stream_for_all(patch, _):
    stream = np.random.default_rng(0)

    def image_noise(model, seed, index):
        return stream.random((model.spec.height, model.spec.width, model.likelihood.num_uniforms))

    patch.setattr(request, "image_noise", image_noise)


@caught_by(distribution.test_samples_follow_the_distribution, r"< \(\(8 \+ ", pair=PIXELCNN)
def draws_that_are_not_uniform(patch, _):
    draw = Categorical.draw
    patch.setattr(Categorical, "draw", lambda self, params_BP, channel, x_BC, u_BU: draw(self, params_BP, channel, x_BC, u_BU**1.2))


@caught_by(
    distribution.test_table_is_the_distribution_that_is_scored,
    "Tensor-likes are not close",
    pair=("pixelcnn", "discretized_logistic_mixture", 3),
)
def table_without_the_channels_before(patch, _):
    table = DiscretizedLogisticMixture.table
    patch.setattr(DiscretizedLogisticMixture, "table", lambda self, params_BP, channel, x_BC: table(self, params_BP, channel, 0 * x_BC))


@caught_by(distribution.test_half_precision_networks_keep_the_likelihood_in_float32, "bfloat16", pair=PIXELCNN)
def likelihood_in_half_precision(patch, _):
    patch.setattr(PixelModel, "log_prob_map", lambda self, x, context=None: self.likelihood.log_prob_map(self(x, context), x))


@caught_by(distribution.test_samples_in_float32_differ_from_the_reference_in_few_images, "<= 1", pair=PIXELCNN)
def weights_of_the_passes_in_half_precision(patch, _):
    prepare = Passes.__init__

    def halved(self, model):
        prepare(self, model)
        for one in self.weights.values():
            one.update({name: value.bfloat16().to(value.dtype) for name, value in one.items()})

    patch.setattr(Passes, "__init__", halved)


@caught_by(distribution.test_gradients_reach_every_tensor, r"assert not \['encoder", pair=GATED)
def context_that_no_gradient_reaches(patch, _):
    patch.setattr(ContextProjection, "forward", lambda self, c_BHWD: F.linear(c_BHWD.detach(), self.weight))


@caught_by(distribution.test_files_bring_back_the_same_model, "torch.equal", pair=PIXELCNN)
def files_that_round(patch, _):
    def save(folder, model):
        files.save_model(folder, model, {name: value.float().to(value.dtype) for name, value in model.state_dict().items()})

    patch.setattr(distribution, "save_model", save)


@caught_by(distribution.test_files_bring_back_the_same_model, "255", pair=PP_MIXTURE)
def field_that_is_not_described(patch, _):
    describe = files.describe
    patch.setattr(files, "describe", lambda model: {**describe(model), "image_spec": {**describe(model)["image_spec"], "levels": 255}})


@caught_by(distribution.test_wrong_images_and_contexts_are_refused, "DID NOT RAISE", pair=PP_MIXTURE)
def levels_that_are_not_looked_at(patch, _):
    patch.setattr(ImageSpec, "check_values", ImageSpec.check)


# ---- context


@caught_by(distribution.test_wrong_images_and_contexts_are_refused, "DID NOT RAISE", pair=PIXELCNN)
def labels_that_are_not_checked(patch, _):
    patch.setattr(context, "_check_labels", lambda label_B, num_classes, batch: None)
    embed = ContextEncoder.encode_labels
    patch.setattr(ContextEncoder, "encode_labels", lambda self, label_B, batch: embed(self, label_B * 0, batch))


@caught_by(distribution.test_probabilities_sum_to_one_given_any_context, "== 1", pair=GATED, kind="image")
def stack_that_is_not_shifted_where_there_is_a_context(patch, _):
    patch.setattr(base, "shifted_down", lambda image_BHWC: image_BHWC)


@caught_by(distribution.test_context_changes_no_order, "torch.equal", pair=GATED, kind="label")
def stack_that_is_not_shifted_where_there_is_a_label(patch, _):
    patch.setattr(base, "shifted_down", lambda image_BHWC: image_BHWC)


@caught_by(distribution.test_passes_equal_forward_given_any_context, "not close", pair=GATED, kind="image")
def passes_that_read_the_context_upside_down(patch, _):
    start = Passes.start

    def upside_down(self, batch, context=None):
        canvas = start(self, batch, context)
        canvas.context = {module: map_BHWF.flip(1) for module, map_BHWF in canvas.context.items()}
        return canvas

    patch.setattr(Passes, "start", upside_down)


@caught_by(distribution.test_each_kind_of_context_counts_and_may_be_absent, "assert", pair=PIXELCNN)
def label_that_does_not_count(patch, _):
    embed = ContextEncoder.encode_labels
    patch.setattr(ContextEncoder, "encode_labels", lambda self, label_B, batch: embed(self, None, batch))


@caught_by(distribution.test_a_small_image_may_be_given, "does not count", pair=PIXELCNN)
def small_image_that_does_not_count(patch, _):
    inputs = ImageEncoder.inputs
    patch.setattr(ImageEncoder, "inputs", lambda self, x_BCHW, batch: inputs(self, None, batch))


@caught_by(distribution.test_pixels_of_a_given_small_image_are_certain, "a given pixel costs something", pair=PIXELCNN)
def given_pixel_that_is_paid_for(patch, _):
    patch.setattr(GivenPixels, "condition", lambda self, log_prob_BHW, x_BCHW: log_prob_BHW)


@caught_by(distribution.test_a_blend_of_small_images_keeps_what_both_give, "torch.equal", pair=PIXELCNN)
def blend_that_keeps_the_first_image(patch, _):
    find = base.given_pixels
    first = lambda context, *specs: find(context.first if isinstance(context, ContextBlend) else context, *specs)  # noqa: E731
    patch.setattr(base, "given_pixels", first)


@caught_by(distribution.test_a_blend_begins_and_ends_at_its_contexts, "not close", pair=PIXELCNN)
def blend_from_end_to_beginning(patch, _):
    lerp = torch.lerp
    patch.setattr(torch, "lerp", lambda first, second, share: lerp(second, first, share))


# ---- tables


def add_module(patch, package, folder, text):
    """A module `forgotten` in the package, whose file is in another folder."""
    (folder / "forgotten.py").write_text(text)
    patch.setattr(package, "__path__", [*package.__path__, str(folder)])
    patch.setattr(package, "forgotten", None, raising=False)  # taken away again, as is the module
    patch.setitem(sys.modules, f"{package.__name__}.forgotten", None)
    del sys.modules[f"{package.__name__}.forgotten"]


@caught_by(registry.test_every_architecture_is_registered, "forgotten:Forgotten")
def architecture_that_is_not_registered(patch, folder):
    text = "from pixelmodels.models.base import PixelModel\nclass Forgotten(PixelModel):\n    config_class = object\n"
    add_module(patch, pixelmodels.models, folder, text)


@caught_by(registry.test_every_likelihood_is_registered, "forgotten:Forgotten")
def likelihood_that_is_not_registered(patch, folder):
    text = "from pixelmodels.likelihoods.base import Likelihood\nclass Forgotten(Likelihood): pass\n"
    add_module(patch, pixelmodels.likelihoods, folder, text)


@caught_by(registry.test_config_is_a_frozen_dataclass_of_its_own, "frozen", name="pixelcnn")
def config_that_can_be_changed(patch, _):
    patch.setattr(PixelCNN, "config_class", dataclass(type("Config", (), {"__annotations__": {"num_layers": int}, "num_layers": 1})))


@caught_by(registry.test_config_is_a_frozen_dataclass_of_its_own, "'pixelcnn' == 'gated_pixelcnn'", name="gated_pixelcnn")
def config_that_two_share(patch, _):
    patch.setattr(GatedPixelCNN, "config_class", PixelCNNConfig)


@caught_by(registry.test_every_architecture_has_a_likelihood_for_grey_and_for_colour, "pixelsnail")
def mixture_that_does_not_order(patch, _):
    patch.setattr(DiscretizedLogisticMixture, "orders_channels", False)
    patch.setattr(registry, "PAIRS", valid_pairs())


@caught_by(registry.test_a_pair_where_nobody_orders_the_channels_is_refused, "DID NOT RAISE")
def likelihood_that_claims_to_order(patch, _):
    patch.setattr(Categorical, "orders_channels", True)


@caught_by(registry.test_configs_that_make_no_sense_are_refused, "DID NOT RAISE")
def config_that_is_not_checked(patch, _):
    patch.setattr(base.ModelConfig, "__post_init__", lambda self: None)


@caught_by(registry.test_unknown_names_are_refused_with_the_choices, "have .*pixelcnn")
def choices_that_are_not_told(patch, _):
    patch.setattr(plain, "unknown", lambda kind, name, choices: UserError(f"{kind} '{name}' unknown"))


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.bug.__name__}-{case.check.__name__}")
def test_a_bug_is_caught(case, tmp_path):
    with pytest.MonkeyPatch.context() as patch:
        (tmp_path / "bug").mkdir()
        case.bug(patch, tmp_path / "bug")
        given = {"tmp_path": tmp_path, "monkeypatch": patch, **case.arguments}
        with pytest.raises((AssertionError, pytest.fail.Exception), match=case.says):
            case.check(**{name: given[name] for name in inspect.signature(case.check).parameters})


def test_every_conformance_test_has_a_bug_that_it_catches():
    tests = {value for module in (distribution, registry) for name, value in vars(module).items() if name.startswith("test_")}
    assert tests == {case.check for case in CASES}
