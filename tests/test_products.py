"""Products of float32 on a GPU: what torch is told, and that it is told what was before."""

from typing import Any

import pytest
import torch

from pixelmodels.products import products

CUDA = torch.device("cuda")
CUDNN: Any = torch.backends.cudnn
SETTINGS: tuple[Any, ...] = (torch.backends.cuda.matmul, CUDNN.conv)


def told() -> list[str]:
    return [one.fp32_precision for one in SETTINGS]


def test_products_are_of_a_kind_while_it_is_entered() -> None:
    before = told()
    with products("tf32", CUDA):
        assert told() == ["tf32", "tf32"]
        with products("ieee", CUDA):
            assert told() == ["ieee", "ieee"]
        assert told() == ["tf32", "tf32"]
    assert told() == before
    with pytest.raises(ZeroDivisionError), products("ieee", CUDA):
        raise ZeroDivisionError
    assert told() == before


def test_other_devices_are_left_alone() -> None:
    before = told()
    with products("tf32", torch.device("cpu")):
        assert told() == before
