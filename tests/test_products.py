"""Products of float32 on a GPU: what torch is told, and that it is told what was before."""

import threading
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


def test_threads_of_one_kind_leave_it_to_those_that_are_still_in() -> None:
    before, entered, may_leave = told(), threading.Event(), threading.Event()

    def other() -> None:
        with products("ieee", CUDA):
            entered.set()
            assert may_leave.wait(60)

    thread = threading.Thread(target=other)
    with products("ieee", CUDA):
        thread.start()
        assert entered.wait(60)
    assert told() == ["ieee", "ieee"]  # left here, not there
    may_leave.set()
    thread.join()
    assert told() == before
