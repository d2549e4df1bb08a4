"""Exact properties of a distribution over images, each checked on any model, with no model named."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import partial
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor

from pixelmodels.models import Context, PixelModel
from pixelmodels.sampling.passes import Passes


def all_images(model: PixelModel) -> Tensor:
    """Every image there is of the model's shape and levels; N C H W."""
    values = itertools.product(range(model.spec.levels), repeat=model.spec.num_subpixels)
    return torch.tensor(list(values), dtype=torch.uint8).view(-1, *model.spec.shape)


def total_probability(model: PixelModel, context: Context | None = None) -> float:
    """The sum of the probabilities of all images, given the context of one."""
    x_NCHW = all_images(model)
    if context is not None:
        context = context.rows(torch.zeros(len(x_NCHW), dtype=torch.long))
    with torch.no_grad():
        return float(model.log_prob(x_NCHW, context).exp().sum())


def dependencies(model: PixelModel, context: Context | None = None, seed: int = 0, tries: int = 1) -> Tensor:
    """Which sub-pixels the parameters depend on: booleans G H W (output group) by C H W (input).

    From gradients, in which a masked weight gives an exact zero. Rectifiers are made smooth meanwhile: where one
    is off it would hide a dependence that the network has.
    """
    with mock.patch.object(torch, "relu", F.softplus), mock.patch.object(F, "relu", F.softplus):
        return _dependencies(model, context, seed, tries)


def _dependencies(model: PixelModel, context: Context | None, seed: int, tries: int) -> Tensor:
    rng = torch.Generator().manual_seed(seed)
    channels, height, width = model.spec.shape
    found = torch.zeros(model.num_groups, height, width, channels, height, width, dtype=torch.bool)
    groups = torch.tensor(model.param_groups)
    for _ in range(tries):
        x_BCHW = torch.randint(model.spec.levels, (1, *model.spec.shape), generator=rng)
        image_BHWC = model.inputs(x_BCHW).requires_grad_()
        params_PHW = model.network(image_BHWC, context)[0]
        mix_PHW = torch.rand(params_PHW.shape, generator=rng, dtype=params_PHW.dtype) + 0.5
        outputs_GHW = torch.stack([(params_PHW * mix_PHW)[groups == g].sum(0) for g in range(model.num_groups)])
        for g, r, c in itertools.product(range(model.num_groups), range(height), range(width)):
            (grad_BHWC,) = torch.autograd.grad(outputs_GHW[g, r, c], image_BHWC, retain_graph=True, allow_unused=True)
            if grad_BHWC is not None:
                found[g, r, c] |= grad_BHWC[0, :, :, :channels].permute(2, 0, 1) != 0
    return found


def declared(model: PixelModel) -> Tensor:
    """What `model.reach` declares, over sub-pixels: shaped as `dependencies` gives it."""
    channels, height, width = model.spec.shape
    reach = model.reach()[None].repeat(model.num_groups, 1, 1, 1, 1, 1)
    for g, k, r, c in itertools.product(range(model.num_groups), range(channels), range(height), range(width)):
        reach[g, r, c, k, r, c] = k < g  # earlier channels of the pixel itself
    return reach


def illegal(model: PixelModel) -> Tensor:
    """Every dependence that the model's order forbids, shaped as `dependencies` gives it."""
    channels, height, width = model.spec.shape
    order = model.pixel_ranks()
    assert sorted(order.flatten().tolist()) == list(range(height * width))
    later = order[None, None] > order[:, :, None, None]
    forbidden = later[None, :, :, None].expand(model.num_groups, -1, -1, channels, -1, -1).clone()
    for g, k, r, c in itertools.product(range(model.num_groups), range(channels), range(height), range(width)):
        forbidden[g, r, c, k, r, c] = k >= g
    return forbidden


def by_pixel_passes(model: PixelModel, x_BCHW: Tensor, context: Context | None = None) -> Tensor:
    """Parameters from row passes and pixel passes alone, each stage's image fed in sub-pixel by sub-pixel."""
    return _by_stages(model, x_BCHW, context, _stage_by_pixel_passes)


def by_taking_rows(model: PixelModel, x_BCHW: Tensor, context: Context | None = None, guess: bool = False) -> Tensor:
    """Parameters from row passes and `take_row`; with `guess`, other columns are taken in (and dropped) before each: as many as count."""
    return _by_stages(model, x_BCHW, context, partial(_stage_by_taking_rows, guess=guess))


def _by_stages(model: PixelModel, x_BCHW: Tensor, context: Context | None, passes: Callable[..., Tensor]) -> Tensor:
    """The parameters of every pixel from the first stage that draws it."""
    params_BPHW = torch.full((len(x_BCHW), len(model.param_groups), *model.spec.shape[1:]), float("nan"), dtype=model.dtype)
    for stage in reversed(model.stages()):
        params_BPHW[..., :: stage.every, :: stage.every] = passes(
            stage.model, x_BCHW[..., :: stage.every, :: stage.every], stage.context(context, x_BCHW)
        )
    return params_BPHW


def _stage_by_pixel_passes(model: PixelModel, x_BCHW: Tensor, context: Context | None) -> Tensor:
    groups = torch.tensor(model.param_groups)
    params_BPHW = torch.full((len(x_BCHW), len(groups), *model.spec.shape[1:]), float("nan"), dtype=model.dtype)
    passes = Passes(model)
    canvas = passes.start(len(x_BCHW), context)
    for r in range(model.spec.height):
        passes.row(canvas)
        for c in range(model.spec.width):
            for k in range(model.spec.channels):
                if k < model.num_groups:
                    params_BPHW[:, groups == k, r, c] = passes.pixel(canvas, c, k)
                passes.put(canvas, c, k, x_BCHW[:, k, r, c])
        passes.commit(canvas)
    return params_BPHW


def _stage_by_taking_rows(model: PixelModel, x_BCHW: Tensor, context: Context | None, guess: bool) -> Tensor:
    rows = []
    rng = torch.Generator().manual_seed(1)
    passes = Passes(model)
    canvas = passes.start(len(x_BCHW), context)
    for r in range(model.spec.height):
        passes.row(canvas)
        row_BWC = x_BCHW[:, :, r].permute(0, 2, 1)
        if not guess:
            rows.append(passes.take_row(canvas, row_BWC))
        else:  # each time, what is right ends at another column
            whole = passes.take_row(canvas, torch.randint(model.spec.levels, row_BWC.shape, generator=rng))
            for first in range(0, model.spec.width, model.period):
                end = first + model.period
                guessed_BKC = torch.randint(model.spec.levels, row_BWC[:, first:].shape, generator=rng)
                guessed_BKC[:, : model.period] = row_BWC[:, first:end]
                whole[:, first:end] = passes.take_row(canvas, guessed_BKC, first)[:, : model.period]
            rows.append(whole)
        passes.commit(canvas)
    return torch.stack(rows, 1).permute(0, 3, 1, 2)
