"""A padded convolution gives what torch's own does, with its gradients, and keeps no padded copy."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from pixelmodels.layers.convolution import convolve, convolve_padded

PADS = [(0, 0, 1, 2, 3, 0), (0, 0, 0, 0, 0, 0), (0, 0, 1, 1, 0, 0)]  # left, right, above


def given(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), requires_grad=True)


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("has_bias", [False, True])
@pytest.mark.parametrize("pads", PADS)
def test_it_is_the_convolution_of_the_padded_map(pads: tuple[int, ...], has_bias: bool, stride: int, autocast: bool) -> None:
    x_BHWC, weight_OIHW = given(2, 5, 6, 3, seed=0), given(4, 3, 2, 2, seed=1)
    bias = given(4, seed=2) if has_bias else None
    inputs = [tensor for tensor in (x_BHWC, weight_OIHW, bias) if tensor is not None]
    results = []
    for padded in (True, False):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
            if padded:
                y_BHWC = convolve_padded(x_BHWC, pads, weight_OIHW, bias, stride)
            else:
                y_BHWC = convolve(F.pad(x_BHWC, pads), weight_OIHW, bias, stride)
        factor = torch.randn(y_BHWC.shape, generator=torch.Generator().manual_seed(3))
        results.append((y_BHWC, *torch.autograd.grad((y_BHWC * factor).sum(), inputs)))
    for found, wanted in zip(*results, strict=True):
        assert found.dtype == wanted.dtype
        # a bfloat16 kernel may add in another order where memory is laid out otherwise
        torch.testing.assert_close(found, wanted, rtol=2**-7 if autocast else 1e-6, atol=2**-5 if autocast else 1e-6)


def test_an_image_that_asks_for_no_gradient_gets_none() -> None:
    x_BHWC, weight_OIHW = given(1, 3, 3, 2, seed=0).detach(), given(2, 2, 1, 1, seed=1)
    y_BHWC = convolve_padded(x_BHWC, PADS[0], weight_OIHW)
    y_BHWC.sum().backward()
    assert x_BHWC.grad is None and weight_OIHW.grad is not None
    torch.testing.assert_close(weight_OIHW.grad[0, :, 0, 0], x_BHWC.sum((0, 1, 2)))


def test_what_is_kept_is_the_map_as_it_was() -> None:
    x_BHWC, weight_OIHW = given(2, 5, 6, 3, seed=0), given(4, 3, 2, 2, seed=1)
    kept: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor.data_ptr()) or tensor, lambda tensor: tensor):
        convolve_padded(x_BHWC, PADS[0], weight_OIHW)
    assert kept == [x_BHWC.data_ptr(), weight_OIHW.data_ptr()]
