"""Given images, made of the images themselves."""

from __future__ import annotations

import itertools

import torch

from pixelmodels.models import ContextSpec
from pixelmodels.models.context_images import context_of, factor_between, grey, small
from pixelmodels.shapes import ImageSpec


def test_luma_of_pure_colours() -> None:
    colours = {(255, 0, 0): 76, (0, 255, 0): 150, (0, 0, 255): 29, (255, 255, 0): 226, (255, 255, 255): 255, (0, 0, 0): 0, (7, 7, 7): 7}
    x_BCHW = torch.tensor(list(colours), dtype=torch.uint8)[:, :, None, None]
    found = grey(x_BCHW)
    assert found.shape == (7, 1, 1, 1) and not found.is_floating_point()
    assert found.flatten().tolist() == list(colours.values())


def test_luma_is_the_nearest_level() -> None:
    x_BCHW = torch.randint(0, 256, (50, 3, 4, 5), generator=torch.Generator().manual_seed(0))
    exact = (x_BCHW.double() * torch.tensor([0.299, 0.587, 0.114], dtype=torch.float64)[:, None, None]).sum(1, keepdim=True)
    found = grey(x_BCHW)
    assert ((found - exact).abs() <= 0.5 + 1e-9).all()
    assert int(found.max()) <= 255 and int(found.min()) >= 0
    # 0.299 * 1000 pixels of 500: halves go up
    assert grey(torch.tensor([0, 0, 0]).view(1, 3, 1, 1)).item() == 0
    assert grey(torch.tensor([1, 1, -0]).view(1, 3, 1, 1)).item() == 1  # 0.886
    assert grey(torch.tensor([1, 0, 1]).view(1, 3, 1, 1)).item() == 0  # 0.413


def test_grey_images_of_colours_that_are_grey_are_their_level() -> None:
    x_BCHW = torch.arange(256).view(1, 1, 16, 16).expand(1, 3, 16, 16)
    assert torch.equal(grey(x_BCHW)[:, 0], x_BCHW[:, 0])


def test_small_images_are_pixels_of_the_image() -> None:
    x_BCHW = torch.arange(2 * 3 * 6 * 4).view(2, 3, 6, 4)
    found = small(x_BCHW, 2)
    assert found.shape == (2, 3, 3, 2)
    for r in range(3):
        for c in range(2):
            assert torch.equal(found[:, :, r, c], x_BCHW[:, :, 2 * r, 2 * c])
    assert small(x_BCHW.expand(2, 3, 6, 4), 1).equal(x_BCHW)


def test_sub_sampling_by_the_factor_between_two_sizes_gives_the_smaller_one() -> None:
    for height, width, factor in itertools.product(range(1, 8), range(1, 8), range(1, 8)):
        x_BCHW = torch.zeros(1, 1, height, width)
        sampled = small(x_BCHW, factor)
        found = factor_between(x_BCHW.shape[2:], sampled.shape[2:])
        assert found <= factor and small(x_BCHW, found).shape == sampled.shape


def test_context_of_makes_given_images_of_the_images() -> None:
    x_BCHW = torch.randint(0, 8, (5, 3, 6, 9))
    labels, vectors = torch.arange(5), torch.randn(5, 2)
    assert context_of(ContextSpec(), x_BCHW, labels, vectors) is None
    coloured = context_of(ContextSpec(num_classes=7, image=ImageSpec(1, 6, 9, 8)), x_BCHW, labels, vectors)
    assert coloured is not None and coloured.vector_BV is None and coloured.label_B is labels
    assert coloured.image_BCHW is not None and torch.equal(coloured.image_BCHW, grey(x_BCHW))
    large = context_of(ContextSpec(vector_size=2, small=ImageSpec(3, 2, 3, 8)), x_BCHW, labels, vectors)
    assert large is not None and large.label_B is None and large.vector_BV is vectors and large.image_BCHW is None
    assert large.small_BCHW is not None and torch.equal(large.small_BCHW, small(x_BCHW, 3))
    row = context_of(ContextSpec(small=ImageSpec(3, 1, 5, 8)), x_BCHW[:, :, :1])  # one row: only the columns tell the factor
    assert row is not None and row.small_BCHW is not None and torch.equal(row.small_BCHW, x_BCHW[:, :, :1, ::2])
    uneven = context_of(ContextSpec(small=ImageSpec(3, 3, 5, 8)), x_BCHW)  # 9 columns leave 5
    assert uneven is not None and uneven.small_BCHW is not None and torch.equal(uneven.small_BCHW, x_BCHW[..., ::2, ::2])
