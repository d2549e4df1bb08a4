"""What a recipe is said to cost is what its model does."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from pixelmodels.likelihoods import LikelihoodConfig
from pixelmodels.models import ARCHITECTURES, ContextSpec, active_flops_per_image, build
from pixelmodels.models.gated_pixelcnn import GatedPixelCNNConfig
from pixelmodels.models.pixelcnn import PixelCNNConfig
from pixelmodels.models.pixelsnail import PixelSNAILConfig
from pixelmodels.recipes.recipe import OptimizerConfig
from pixelmodels.shapes import ImageSpec
from pixelmodels.training.cost import GPU, LAUNCH_S, PEAK_FLOPS, UTILIZATION, Cost, batch_of_a_part, cost
from tests.conformance.conftest import small_config
from tests.training.tiny_run import tiny_recipe

SPEC = ImageSpec(3, 4, 6, 16)
MIXTURE = LikelihoodConfig("discretized_logistic_mixture", num_mixtures=2)


def kept_by_a_real_pass(recipe, batch: int) -> int:  # type: ignore[no-untyped-def]
    """Bytes of every storage that autograd keeps of a forward pass with numbers, parameters and buffers left out."""
    model = build(recipe.model, SPEC, recipe.likelihood).train()
    own = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}
    storages: dict[int, int] = {}
    held = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        held.append(tensor)
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model.log_prob_map(torch.zeros(batch, *SPEC.shape, dtype=torch.long))
    return sum(size for address, size in storages.items() if address not in own)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_fakes_count_as_numbers_do(architecture: str) -> None:
    recipe = tiny_recipe(model=small_config(architecture), likelihood=MIXTURE, condition_on=())
    before = torch.get_rng_state()
    found = cost(recipe, SPEC)
    assert torch.equal(torch.get_rng_state(), before)
    model = build(recipe.model, SPEC, MIXTURE)
    assert found.parameters == model.num_parameters
    assert found.forward_flops == active_flops_per_image(model)
    one, two = (kept_by_a_real_pass(recipe, batch) for batch in (1, 2))
    assert found.image_bytes == pytest.approx(two - one, rel=0.02)
    assert found.shared_bytes + found.image_bytes == pytest.approx(one, rel=0.02)
    assert found.num_kernels > 20


def test_masks_are_counted_without_being_read() -> None:
    for groups in (LikelihoodConfig("categorical"), MIXTURE):
        model = build(PixelCNNConfig(num_layers=2, num_features=7, head_features=8), SPEC, groups)
        for layer in model.layers():
            assert layer.num_active_weights == int(layer.mask.sum())  # type: ignore[operator, union-attr]


def test_attention_counts_its_pairs_of_pixels() -> None:
    config = PixelSNAILConfig(num_blocks=1, num_layers=1, num_features=8, key_features=2, value_features=3)
    small, large = (active_flops_per_image(build(config, ImageSpec(1, 4, width, 4), MIXTURE)) for width in (4, 8))
    pairs_of_large, pairs_of_small = 32 * 31 / 2, 16 * 15 / 2
    assert large - 2 * small == 2 * (2 + 3) * (pairs_of_large - 2 * pairs_of_small)


def test_a_model_far_too_large_for_this_machine_is_estimated() -> None:
    config = GatedPixelCNNConfig(num_layers=4, num_features=16384, kernel_size=5, head_features=1024)
    found = cost(tiny_recipe(model=config, condition_on=()), ImageSpec(3, 64, 64, 256))
    assert found.parameters > 10**10
    assert found.worker_bytes(1) > found.weight_bytes > 2e11


def test_what_saves_memory_is_seen_to_save_it() -> None:
    recipe = tiny_recipe(model=GatedPixelCNNConfig(num_layers=8, num_features=16, head_features=8), condition_on=())
    plain, again, half = (
        cost(dataclasses.replace(recipe, **changes), SPEC)
        for changes in ({}, {"activation_checkpointing": True}, {"precision": "bfloat16"})
    )
    assert again.image_bytes < 0.6 * plain.image_bytes
    assert half.image_bytes < 0.75 * plain.image_bytes
    assert again.training_flops == 4 * plain.forward_flops and plain.training_flops == 3 * plain.forward_flops
    rmsprop = cost(dataclasses.replace(recipe, optimizer=OptimizerConfig(name="rmsprop")), SPEC)
    assert (plain.weight_bytes, rmsprop.weight_bytes) == (20 * plain.parameters, 16 * plain.parameters)


def test_a_condition_is_counted() -> None:
    recipe = tiny_recipe(model=small_config("gated_pixelcnn"), likelihood=MIXTURE)
    with_labels, without = cost(recipe, SPEC, ContextSpec(num_classes=10)), cost(recipe, SPEC)
    assert with_labels.parameters == build(recipe.model, SPEC, MIXTURE, ContextSpec(num_classes=10)).num_parameters > without.parameters


def test_hours_are_those_of_operations_or_of_kernels() -> None:
    recipe = tiny_recipe(batch_size=10, accumulate=2)
    spent = Cost(0, 0, num_kernels=1, parameters=1, forward_flops=1e12, training_flops=3e12, weight_bytes=0, buffer_bytes=0)
    assert spent.gpu_hours(3600e3, recipe) == pytest.approx(3e15 / (UTILIZATION * PEAK_FLOPS["float32"]))
    waiting = dataclasses.replace(spent, num_kernels=10**9)
    assert waiting.gpu_hours(3600, recipe) == pytest.approx(360 * 2 * 3 * 10**9 * LAUNCH_S / 3600)
    assert GPU


def test_a_part_is_the_largest_share_of_the_largest_worker() -> None:
    recipe = tiny_recipe(batch_size=65, accumulate=4)
    assert [batch_of_a_part(recipe, workers) for workers in (1, 2, 65)] == [17, 9, 1]
