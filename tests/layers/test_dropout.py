"""Masks by (seed, step, place, layer) alone: the share that is kept, independence, and the same bits in every version."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import numpy as np
import pytest
import torch

from pixelmodels.layers.dropout import Dropout, image_keys, keep_masks, use_keys
from pixelmodels.models import ARCHITECTURES, Context
from tests.conformance.conftest import small_config, small_model

NUM = 1 << 14
PLACES = np.arange(8)


def masks(seed: int = 3, step: int = 5, stream: int = 0, rate: float = 0.5, num: int = NUM) -> np.ndarray:
    return keep_masks(image_keys(seed, step, PLACES), stream, num, rate).numpy()


def by_hand(seed: int, step: int, place: int, stream: int, feature: int, rate: float) -> bool:
    """The same with Python's whole numbers."""

    def mixed(x: int) -> int:
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
            x = (x ^ (x >> shift)) * factor % 2**64
        return x ^ (x >> 31)

    key = 0
    for value in (seed, step, place):
        key = mixed((key + value + 0x9E3779B97F4A7C15) % 2**64)
    key = mixed((key + (stream + 1) * 0x9E3779B97F4A7C15) % 2**64)
    x = (feature * 0x9E3779B9 + key) % 2**32
    x = (x ^ (x >> 16)) * 0x7FEB352D % 2**32
    x = (x ^ (x >> 15) ^ (key >> 32)) * 0x846CA68B % 2**32
    x ^= x >> 16
    return (x - 2**32 if x >= 2**31 else x) >= round(rate * 2**32) - 2**31


@pytest.mark.parametrize(("seed", "step", "stream"), [(0, 0, 0), (7, 123456, 3), (2**64 - 1, 2**40, 211), (5, 1, -1)])
def test_the_bits_are_those_of_the_hash_and_stay_so(seed: int, step: int, stream: int) -> None:
    found = masks(seed, step, stream, 0.3, 50)
    assert [[by_hand(seed, step, place, stream, feature, 0.3) for feature in range(50)] for place in range(8)] == found.tolist()


@pytest.mark.parametrize("rate", [0.001, 0.1, 0.5, 0.9])
def test_the_share_that_is_kept(rate: float) -> None:
    for stream in range(4):
        found = masks(rate=rate, stream=stream)
        error = np.sqrt(rate * (1 - rate) / found.size)
        assert abs(found.mean() - (1 - rate)) < 5 * error
        assert np.abs(found.mean(1) - (1 - rate)).max() < 5 * error * np.sqrt(len(PLACES))


def test_no_two_masks_have_to_do_with_each_other() -> None:
    """Of images, steps, seeds and layers: whether one keeps a feature says nothing of another, nor of the features beside it."""
    found = np.concatenate([masks(), masks(step=6), masks(seed=4), masks(stream=1), masks(seed=5, step=3)]) * 2.0 - 1
    worst = 5.5 / np.sqrt(NUM)  # of 780 correlations and of those of neighbours, each of variance 1/NUM
    correlations = found @ found.T / NUM - np.eye(len(found))
    assert np.abs(correlations).max() < worst
    for shift in (1, 2, 3, 8, 64):
        assert np.abs((found[:, shift:] * found[:, :-shift]).mean(1)).max() < worst
    products = found[:-1] * np.roll(found[1:], 1, 1)  # of one image and its neighbour in the step, one feature on
    assert np.abs(products.mean(1)).max() < worst


def test_an_image_s_mask_is_its_own_wherever_it_is_scored() -> None:
    keys_B = image_keys(3, 5, PLACES)
    whole = keep_masks(keys_B, 2, 100, 0.5)
    assert torch.equal(torch.cat([keep_masks(image_keys(3, 5, PLACES[part]), 2, 100, 0.5) for part in (slice(3), slice(3, 8))]), whole)


def test_what_is_kept_is_scaled_and_nothing_is_lost_outside_training() -> None:
    layer = Dropout(0.25)
    x = torch.randn(8, 3, 5, requires_grad=True)
    layer.keys_B = image_keys(1, 2, PLACES)
    y = layer(x)
    kept = keep_masks(layer.keys_B, 0, 15, 0.25).view(8, 3, 5)
    torch.testing.assert_close(y, torch.where(kept, x / 0.75, torch.zeros(())))
    (gradient,) = torch.autograd.grad(y.sum(), x)
    torch.testing.assert_close(gradient, kept / 0.75)
    assert torch.equal(layer.eval()(x), x) and torch.equal(Dropout(0.0)(x), x)


def test_without_keys_each_call_draws_its_own() -> None:
    layer, x = Dropout(0.5), torch.ones(4, 100)
    torch.manual_seed(1)
    first, second = layer(x), layer(x)
    torch.manual_seed(1)
    assert not torch.equal(first, second) and torch.equal(layer(x), first)


def with_dropout(architecture: str) -> Any:
    def changed(config: Any) -> Any:
        values = {one.name: getattr(config, one.name) for one in dataclasses.fields(config)}
        inner = {name: changed(value) for name, value in values.items() if dataclasses.is_dataclass(value)}
        return dataclasses.replace(config, **inner, **({"dropout": 0.5} if "dropout" in values else {}))

    return changed(small_config(architecture))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_layer_of_a_model_has_masks_of_its_own_and_uses_them_once(architecture: str) -> None:
    model = small_model(with_dropout(architecture), "categorical", 1, 4, 4).train()
    layers = [module for module in model.modules() if isinstance(module, Dropout)]
    assert layers
    calls: list[int] = []
    for layer in layers:
        layer.register_forward_hook(lambda one, _inputs, _output: calls.append(one.stream))
    x_BCHW = torch.randint(3, (4, 1, 4, 4))

    def nats(rows: slice, step: int = 1) -> torch.Tensor:
        use_keys(model, image_keys(0, step, np.arange(4)[rows]))
        return model.log_prob(x_BCHW[rows])

    whole = nats(slice(4))
    assert calls and len(set(calls)) == len(calls) and max(calls) == len(layers) - 1
    torch.testing.assert_close(torch.cat([nats(slice(1)), nats(slice(1, 4))]), whole)
    assert (nats(slice(4), step=2) != whole).all()


def test_context_is_left_out_by_the_image_s_key_and_each_kind_by_itself() -> None:
    keys_B = image_keys(0, 1, np.arange(4000))
    context = Context(label_B=torch.zeros(4000, dtype=torch.int64), vector_BV=torch.zeros(4000, 2))
    dropped = context.dropped(0.3, keys_B)
    assert dropped.label_B is not None and dropped.vector_BV is not None
    without = torch.stack([dropped.label_B == -1, dropped.vector_BV.isnan().all(1)]).double()
    for share in without.mean(1).tolist():
        assert abs(share - 0.3) < 5 * (0.3 * 0.7 / 4000) ** 0.5
    assert abs(float(torch.corrcoef(without)[0, 1])) < 5 / 4000**0.5
    parts = [context.rows(slice(*ends)).dropped(0.3, keys_B[slice(*ends)]).label_B for ends in itertools.pairwise((0, 7, 4000))]
    assert torch.equal(torch.cat([part for part in parts if part is not None]), dropped.label_B)
    assert context.dropped(0.0, keys_B) is context
