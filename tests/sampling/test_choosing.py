"""A level is chosen by the image's own options, whatever the others of its batch have, and nothing waits for a device."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from pixelmodels.likelihoods import LikelihoodConfig, likelihood_class
from pixelmodels.sampling.choosing import Choice, choose, shaped_table
from pixelmodels.shapes import ImageSpec

CPU = torch.device("cpu")
OPTIONS = [(0.0, 1.0, 1.0), (0.0, 0.5, 1.0), (1.5, 1.0, 1.0), (0.0, 1.0, 0.6), (0.0, 1.0, 1.0), (2.0, 1.7, 0.8), (0.0, 2.0, 0.9)]
INDICES_AND_WAITS = {"aten.index.Tensor", "aten.index_put_.default", "aten.nonzero.default", "aten._local_scalar_dense.default"}


class Operations(TorchDispatchMode):
    """The names of the operations that were done, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(str(func))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    ("name", "channels", "levels"), [("bernoulli", 1, 2), ("categorical", 1, 6), ("discretized_logistic_mixture", 3, 5)]
)
def test_an_image_of_a_mixed_batch_is_drawn_as_it_is_alone(name, channels, levels):
    likelihood = likelihood_class(name)(ImageSpec(channels, 2, 2, levels), LikelihoodConfig(name, num_mixtures=2))
    rng, n = torch.Generator().manual_seed(0), len(OPTIONS)
    seen = set()
    for _ in range(20):
        params = [torch.randn(n, likelihood.num_params, dtype=torch.float64, generator=rng) * 2 for _ in range(2)]
        x_BC = torch.randint(levels, (n, channels), generator=rng, dtype=torch.uint8)
        u_BU = torch.rand(n, likelihood.num_uniforms, dtype=torch.float64, generator=rng)
        for channel in range(channels):
            with Operations() as done:
                mixed_B = choose(likelihood, params, channel, x_BC, u_BU, Choice.of(OPTIONS, CPU))
            assert not INDICES_AND_WAITS.intersection(done.names)
            for i, option in enumerate(OPTIONS):
                own = [params_BP[i : i + 1] for params_BP in (params if option[0] else params[:1])]
                alone_B = choose(likelihood, own, channel, x_BC[i : i + 1], u_BU[i : i + 1], Choice.of([option], CPU))
                assert mixed_B[i] == alone_B[0], (i, channel)
                if option == OPTIONS[0]:
                    assert alone_B[0] == likelihood.draw(own[0], channel, x_BC[i : i + 1], u_BU[i : i + 1])[0]
            seen |= set(mixed_B.tolist())
    assert seen == set(range(levels))


def test_no_guidance_beside_guided_images_leaves_the_table_as_it_is():
    likelihood = likelihood_class("categorical")(ImageSpec(1, 2, 2, 3), LikelihoodConfig("categorical"))
    given_BP = torch.tensor([[0.1, 0.7, 0.3]] * 2, dtype=torch.float64)
    without_BP = torch.tensor([[0.3, 0.2, -torch.inf]] * 2, dtype=torch.float64)  # what the given parameters know to be possible
    table_BL = shaped_table(likelihood, [given_BP, without_BP], 0, torch.zeros(2, 1), Choice.of([(0.0, 0.5, 1.0), (0.5, 0.5, 1.0)], CPU))
    alone_BL = shaped_table(likelihood, [given_BP], 0, torch.zeros(2, 1), Choice.of([(0.0, 0.5, 1.0)] * 2, CPU))
    assert torch.equal(table_BL[0], alone_BL[0]) and not torch.equal(table_BL[1], alone_BL[1])


@pytest.mark.parametrize(("option", "unused"), [((0.0, 1.0, 1.0), "table"), ((0.0, 0.7, 1.0), "draw")])
def test_a_batch_of_one_kind_pays_for_that_kind_only(option, unused, monkeypatch):
    likelihood = likelihood_class("discretized_logistic_mixture")(ImageSpec(1, 2, 2, 5), LikelihoodConfig(num_mixtures=2))
    monkeypatch.setattr(type(likelihood), unused, lambda *_: pytest.fail(f"{unused} is made for nobody"))
    drawn_B = choose(likelihood, [torch.zeros(3, 6)], 0, torch.zeros(3, 1), torch.full((3, 2), 0.5), Choice.of([option] * 3, CPU))
    assert drawn_B.tolist() == [2, 2, 2]
