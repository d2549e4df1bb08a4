"""Small nets of one kind of layer each, so that every layer's passes are held to its `forward`."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from pixelmodels.layers.attention import CausalAttention
from pixelmodels.layers.channel_groups import even_groups, group_runs
from pixelmodels.layers.convolution import CausalConv, CausalLinear, RowConv, RowLinear
from pixelmodels.layers.recurrent import DiagonalLSTM, ReversedDiagonalLSTM, RowLSTM
from pixelmodels.layers.strided import PixelGrowConv, PixelShrinkConv, RowGrowConv, RowShrinkConv
from pixelmodels.likelihoods import LikelihoodConfig, build_likelihood
from pixelmodels.likelihoods.categorical import Categorical
from pixelmodels.models.base import PixelModel
from pixelmodels.models.context import ContextSpec
from pixelmodels.sampling.passes import Passes
from pixelmodels.shapes import ImageSpec
from tests.conformance.checks import by_pixel_passes, by_taking_rows, dependencies, illegal

FEATURES = 7  # not a multiple of 3: group sizes differ


@dataclass(frozen=True)
class Config:
    """No options."""


class Toy(PixelModel):
    """An entry and an output around the layers under test."""

    config_class = Config
    orders_channels = True

    def __init__(self, spec: ImageSpec, likelihood: str):
        super().__init__(Config(), spec, build_likelihood(LikelihoodConfig(likelihood, 2), spec), ContextSpec())
        self.features = even_groups(FEATURES, self.num_groups)
        self.entry = CausalConv(self.input_groups, self.features, (1, 3), "A", reads_image=True)
        self.output = CausalLinear(self.features, self.param_groups)
        self.make()

    def make(self) -> None:
        """The layers under test."""

    def middle(self, do, h: Tensor) -> Tensor:
        raise NotImplementedError

    def here(self, do, x: Tensor) -> Tensor:
        return do(self.output, torch.tanh(self.middle(do, torch.tanh(do(self.entry, x)))))


class RowLSTMToy(Toy):
    def make(self):
        self.input_to_state = CausalConv(self.features, self.features * 4, (1, 3), "B")
        self.cell = RowLSTM(self.features)
        nn.init.normal_(self.cell.first_hidden)
        nn.init.normal_(self.cell.first_cell)

    def middle(self, do, h):
        return h + do(self.cell, do(self.input_to_state, h))


class DiagonalToy(Toy):
    def make(self):
        self.to_left, self.to_right = (CausalLinear(self.features, self.features * 4) for _ in range(2))
        self.left, self.right = DiagonalLSTM(self.features), ReversedDiagonalLSTM(self.features)
        for cell in (self.left, self.right):
            nn.init.normal_(cell.first_hidden)
            nn.init.normal_(cell.first_cell)

    def middle(self, do, h):
        return h + do(self.left, do(self.to_left, h)) + do(self.right, do(self.to_right, h))


class ScatteredToy(Toy):
    """Features of a group in two runs, as both halves of a gate have them, read by both kinds of layers that write groups."""

    def make(self):
        twice = self.features * 2
        self.widen, self.mix = CausalLinear(self.features, twice), CausalLinear(twice, twice)
        self.narrow = CausalConv(twice, self.features, (2, 3), "B")

    def middle(self, do, h):
        return h + do(self.narrow, torch.tanh(do(self.mix, torch.tanh(do(self.widen, h)))))


class AttentionToy(Toy):
    orders_channels = False

    def make(self):
        self.attention = CausalAttention(FEATURES, len(self.input_groups), 4, FEATURES)

    def middle(self, do, h):
        return h + do(self.attention, h)


class PaddedAttentionToy(AttentionToy):
    """Padded to an even width: queries also see the columns that are added."""

    period = 2


class StridedToy(Toy):
    """Two strides, nested; the row stream enters the pixel stream at every resolution."""

    orders_channels = False
    period = 4

    def make(self):
        num_in = len(self.input_groups)
        self.rows = RowConv(num_in, FEATURES, (2, 3))
        self.links, self.row_convs, self.convs = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        for stride in (1, 2, 4):
            self.row_convs.append(RowConv(FEATURES, FEATURES, (2, 3)))
            self.links.append(RowLinear(FEATURES, FEATURES))
            self.convs.append(CausalConv(even_groups(FEATURES, 1), even_groups(FEATURES, 1), (2, 3), "B"))
            for layer in (self.row_convs[-1], self.links[-1], self.convs[-1]):
                layer.resolution = stride
        self.row_pairs, self.pairs = [], []
        for stride in (1, 2):
            row_pair = RowShrinkConv(FEATURES, FEATURES), RowGrowConv(FEATURES, FEATURES)
            pair = PixelShrinkConv(FEATURES, FEATURES), PixelGrowConv(FEATURES, FEATURES)
            self.row_pairs.append(row_pair)
            self.pairs.append(pair)
            for i, layer in enumerate((*row_pair, *pair)):
                layer.resolution = stride
                self.add_module(f"stride{stride}_{i}", layer)

    def above(self, do, x, context):
        extras = {}

        def level(i, u):
            u = torch.tanh(do.above(self.row_convs[i], u))
            extras[self.convs[i]] = do.above(self.links[i], u)
            return u if i == 2 else u + do.strided(*self.row_pairs[i], lambda y: level(i + 1, y), u)

        extras[self.entry] = level(0, torch.tanh(do.above(self.rows, x)))
        return extras

    def middle(self, do, h):
        def level(i, y):
            y = y + torch.tanh(do(self.convs[i], y))
            return y if i == 2 else y + do.strided(*self.pairs[i], lambda z: level(i + 1, z), y)

        return level(0, h)


CASES = [
    (toy, channels, likelihood)
    for toy in (RowLSTMToy, DiagonalToy, ScatteredToy, AttentionToy, PaddedAttentionToy, StridedToy)
    for channels, likelihood in ((1, "categorical"), (3, "categorical"), (3, "discretized_logistic_mixture"))
    if toy.orders_channels or (channels, likelihood) != (3, "categorical")
]


@pytest.fixture(params=CASES, ids=lambda case: f"{case[0].__name__}-{case[1]}-{case[2]}")
def toy(request) -> PixelModel:
    kind, channels, likelihood = request.param
    torch.manual_seed(0)
    return kind(ImageSpec(channels, 6, 5, 4), likelihood).double().eval()


def test_passes_equal_forward(toy):
    x_BCHW = torch.randint(4, (2, *toy.spec.shape), generator=torch.Generator().manual_seed(3))
    expected = toy(x_BCHW)
    torch.testing.assert_close(by_pixel_passes(toy, x_BCHW), expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(by_taking_rows(toy, x_BCHW), expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(by_taking_rows(toy, x_BCHW, guess=True), expected, rtol=0, atol=1e-12)


def test_a_group_is_as_few_slices_as_there_can_be():
    groups = (0, 0, 1, -1, 0, 2, 2, 0)
    assert group_runs(groups, 0) == [slice(0, 2), slice(4, 5), slice(7, 8)]
    assert group_runs(groups, 2) == [slice(5, 7)] and group_runs(groups, 3) == []


def test_parameters_of_a_channel_must_lie_together(monkeypatch):
    monkeypatch.setattr(Categorical, "param_channels", (0, 1, 2) * 4)
    with pytest.raises(ValueError, match="the parameters of channel 0 are in 4 places; give `param_channels` with each channel's together"):
        ScatteredToy(ImageSpec(3, 6, 5, 4), "categorical")


def test_prepared_weights_are_a_copy(toy):
    x_BWC = torch.randint(4, (2, 5, toy.spec.channels), generator=torch.Generator().manual_seed(3))

    passes = Passes(toy)

    def first_rows():
        canvas = passes.start(2)
        rows = []
        for _ in range(2):
            passes.row(canvas)
            rows.append(passes.take_row(canvas, x_BWC))
            passes.commit(canvas)
        return torch.stack(rows)

    expected = first_rows()
    for name, parameter in toy.named_parameters():
        if "first_" not in name:  # learned first states are copied by `start`
            parameter.data.zero_()
    assert torch.equal(first_rows(), expected)


def test_nothing_depends_on_a_later_subpixel(toy):
    found = dependencies(toy)
    assert not (found & illegal(toy)).any()
    assert found.any()
