"""What makes a large model fit changes nothing else: parts of a step, activations computed again, bfloat16; and RMSProp."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pixelmodels.errors import UserError
from pixelmodels.layers.dropout import Dropout
from pixelmodels.models import ARCHITECTURES
from pixelmodels.recipes.recipe import OptimizerConfig
from pixelmodels.runs import checkpoints
from pixelmodels.storage import Storage
from pixelmodels.training.loop import Loop, train
from pixelmodels.training.optimization import block_parts, checkpoint_activations, make_optimizer
from tests.conformance.conftest import PAIRS, random_context, small_config, small_model
from tests.training.tiny_run import assert_same, final_weights, last_checkpoint, tiny_plan, tiny_recipe, train_until

CPU = torch.device("cpu")


def gradients_of_a_step(storage: Storage, architecture: str, **changes: object) -> dict[str, torch.Tensor]:
    """Gradients of the first step of a run of a float64 model."""
    optimizer = OptimizerConfig(clip_norm=0.0)
    recipe = tiny_recipe(model=small_config(architecture), optimizer=optimizer, condition_on=(), context_drop_rate=0.0, **changes)
    loop = Loop(tiny_plan(storage, recipe), CPU, say=lambda _: None)
    loop.model.double().train()
    for module in loop.model.modules():
        if isinstance(module, Dropout):
            module.rate = 0.2
    loop.average.model.double()
    loop._step(next(loop.inputs(0, 0, 0)))
    return {name: parameter.grad for name, parameter in loop.model.named_parameters() if parameter.grad is not None}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize(
    "changes", [{"accumulate": 3}, {"activation_checkpointing": True}, {"accumulate": 2, "activation_checkpointing": True}]
)
def test_a_step_in_parts_or_with_activations_computed_again_has_the_same_gradients(
    storage: Storage, architecture: str, changes: dict[str, object]
) -> None:
    whole, other = (gradients_of_a_step(storage, architecture, **options) for options in ({}, changes))
    assert whole and set(whole) == set(other)
    for name in whole:
        torch.testing.assert_close(other[name], whole[name], rtol=1e-9, atol=1e-12, msg=name)


@pytest.mark.parametrize(
    "architecture", [pytest.param(name, marks=() if name == "pixelcnn" else pytest.mark.compiled) for name in ARCHITECTURES]
)
def test_a_compiled_step_has_the_same_gradients(storage: Storage, architecture: str) -> None:
    """With dropout, whose masks are made of integers that overflow."""
    whole, other = (gradients_of_a_step(storage, architecture, compile=is_compiled) for is_compiled in (False, True))
    assert whole and set(whole) == set(other)
    for name in whole:
        torch.testing.assert_close(other[name], whole[name], rtol=1e-9, atol=1e-12, msg=name)


def test_without_a_compiler_a_compiled_step_is_refused(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> str:
        raise RuntimeError("no g++ here")

    monkeypatch.setattr("torch._inductor.cpp_builder.get_cpp_compiler", none)
    with pytest.raises(UserError, match=r"compile: there is no C\+\+ compiler \(no g\+\+ here\); install g\+\+, or leave compile out"):
        gradients_of_a_step(storage, "pixelcnn", compile=True)


@pytest.mark.parametrize(("architecture", "likelihood", "channels"), PAIRS)
def test_checkpointed_activations_are_not_kept_and_gradients_stay(architecture: str, likelihood: str, channels: int) -> None:
    def kept_and_gradients(is_checkpointed: bool) -> tuple[int, list[torch.Tensor]]:
        model = small_model(architecture, likelihood, channels, 5, 6, context="mix").train()
        x_BCHW = torch.randint(model.spec.levels, (2, *model.spec.shape), generator=torch.Generator().manual_seed(1))
        if is_checkpointed:
            checkpoint_activations(model)
        kept: list[torch.Tensor] = []
        with torch.autograd.graph.saved_tensors_hooks(lambda tensor: (kept.append(tensor), tensor)[1], lambda tensor: tensor):
            log_prob = model.log_prob_map(x_BCHW, random_context(model, 2)).sum()
        log_prob.backward()
        return len(kept), [parameter.grad for parameter in model.parameters() if parameter.grad is not None]

    (all_of_them, expected), (fewer, found) = kept_and_gradients(False), kept_and_gradients(True)
    assert fewer < all_of_them
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_architecture_has_blocks_and_no_block_lies_in_another(architecture: str) -> None:
    likelihood = "discretized_logistic_mixture"
    blocks = {block for block, _ in block_parts(small_model(architecture, likelihood, 1, 4, 4))}
    assert blocks
    assert not any(inner in blocks for block in blocks for inner in block.modules() if inner is not block)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_step_in_bfloat16_is_finite_and_its_likelihood_is_of_float32(
    storage: Storage, architecture: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = tiny_recipe(model=small_config(architecture), precision="bfloat16")
    loop = Loop(tiny_plan(storage, recipe), CPU, say=lambda _: None)
    likelihood, network = loop.model.likelihood, loop.model.network
    types: list[torch.dtype] = []

    def log_prob_map(params_BPHW: torch.Tensor, x_BCHW: torch.Tensor) -> torch.Tensor:
        types.append(params_BPHW.dtype)
        return type(likelihood).log_prob_map(likelihood, params_BPHW, x_BCHW)

    def recorded(*arguments: object) -> torch.Tensor:
        params_BPHW = network(*arguments)  # type: ignore[arg-type]
        types.append(params_BPHW.dtype)
        return params_BPHW

    monkeypatch.setattr(likelihood, "log_prob_map", log_prob_map)
    monkeypatch.setattr(loop.model, "network", recorded)
    loop.model.train()
    nats = loop._step(next(loop.inputs(0, 0, 0)))
    assert types == [torch.bfloat16, torch.float32]
    assert torch.isfinite(nats)
    assert all(torch.isfinite(parameter.grad).all() for parameter in loop.model.parameters() if parameter.grad is not None)
    assert {parameter.dtype for parameter in loop.model.parameters()} == {torch.float32}


def test_a_run_with_rmsprop_stopped_in_the_middle_ends_as_if_it_had_not_been(tmp_path: Path) -> None:
    recipe = tiny_recipe(optimizer=OptimizerConfig(name="rmsprop", learning_rate=1e-2, betas=(0.0, 0.9), average_decay=0.9))
    whole = tiny_plan(Storage(str(tmp_path / "whole")), recipe)
    stopped = tiny_plan(Storage(str(tmp_path / "stopped")), recipe, checkpoint_every_s=1e-9)
    train(whole, say=lambda _: None)
    for step in (3, 7):
        train_until(stopped, step)
    train(stopped, say=lambda _: None)
    assert_same(final_weights(stopped), final_weights(whole))
    assert {name.rpartition("/")[2] for name in last_checkpoint(stopped).tensors(checkpoints.OPTIMIZER)} == {"step", "square_avg"}


def test_rmsprop_steps_by_the_root_of_the_mean_square() -> None:
    weight = torch.nn.Linear(1, 1, bias=False)
    optimizer = make_optimizer(weight, OptimizerConfig(name="rmsprop", learning_rate=0.1, betas=(0.0, 0.75)))
    before = weight.weight.detach().clone()
    weight.weight.grad = torch.full((1, 1), 4.0)
    optimizer.step()
    torch.testing.assert_close(weight.weight.detach(), before - 0.1 * 4.0 / (0.25 * 16.0) ** 0.5)


def test_an_optimizer_that_cannot_be_is_refused() -> None:
    with pytest.raises(UserError, match=r"optimizer 'sgd' unknown; have adam, rmsprop"):
        OptimizerConfig(name="sgd")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="rmsprop has none"):
        OptimizerConfig(name="rmsprop", weight_decay=0.1)
    with pytest.raises(UserError, match="precision 'float16' unknown"):
        tiny_recipe(precision="float16")
