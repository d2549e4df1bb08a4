"""On which earlier sub-pixels the prediction of one pixel depends: by the gradient, and exactly by occlusion."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from pixelmodels.errors import UserError
from pixelmodels.evaluation.expectations import framed, level_tables
from pixelmodels.models import Context, PixelModel
from pixelmodels.models.context_images import factor_between
from pixelmodels.models.orders import turned_back
from pixelmodels.models.turns import places_back
from pixelmodels.products import products
from pixelmodels.sampling.raster import evaluating

MOST_PASSES = 4096  # forward passes of one occlusion, unless asked for otherwise
AT_ONCE = 64  # of them
MOST_DECLARED = 64 * 64  # pixels of images up to which it is looked up which ones a network can see: in a table of all pixels by all
Pixel = tuple[int, int]  # row and column in the image


def check_pixel(model: PixelModel, pixel: Pixel) -> None:
    """Raise `UserError` for a pixel outside the image."""
    (row, column), (_, height, width) = pixel, model.spec.shape
    if not (0 <= row < height and 0 <= column < width):
        raise UserError(f"pixel ({row}, {column}) is outside an image of {height} x {width}; give 0..{height - 1} and 0..{width - 1}")


def dependence_by_gradient(
    model: PixelModel, x_1CHW: Tensor, pixel: Pixel, context: Context | None = None, *, order: int | None = None
) -> Tensor:
    """How steeply the surprise of a pixel changes with each sub-pixel before it, as a size: bits a level, float64, C H W.

    The gradient of -log2 p(pixel | pixels before it) in the network's input, as saliency maps have it (arXiv:1312.6034, section 3): exact
    for the smallest of changes, which levels are not; `dependence_by_occlusion` has no such limit. Exactly 0 at later pixels, and at the
    pixel itself, whose own channels are not counted. Pixels of a small image that is given are before all others.
    Raises `UserError` as `expectations` does, and for a pixel outside the image.
    """
    x_BCHW, given, order_B, (row, column) = _framed(model, x_1CHW, pixel, context, order)
    known = model.given_pixels(given)
    if known is not None and bool(known.mask_BHW[0, row, column]):
        return torch.zeros(model.spec.shape, dtype=torch.float64, device=model.device)
    with evaluating(model), torch.enable_grad(), products("ieee", model.device):
        image_BHWC = model.inputs(x_BCHW).requires_grad_()
        factor = _factor_of_small(model, given)
        small_BHWC = None if factor is None else image_BHWC[:, ::factor, ::factor]
        params_BPHW = model.network(image_BHWC, given, small_BHWC)
        at = (slice(None), slice(None), slice(row, row + 1), slice(column, column + 1))
        log_prob = model.likelihood.log_prob_map(params_BPHW[at], x_BCHW[at]).sum()
        (grad_BHWC,) = torch.autograd.grad(log_prob, image_BHWC)
    bits_CHW = grad_BHWC[0, :, :, : model.spec.channels].permute(2, 0, 1).double().abs() * (model.spec.step / math.log(2))
    bits_CHW[:, row, column] = 0
    return bits_CHW if order_B is None else turned_back(bits_CHW[None], order_B)[0]


class Occlusion:
    """How much worse a pixel is predicted without one of the sub-pixels before it, exactly, for each of these.

    For sub-pixel q and target t it is D(p(t | all before t) || p(t | all before t but q)) in bits: what t costs more on average without q.
    The second distribution is the model's own, by the chain rule: with each level v in q's place the model tells p(v and everything before
    t), which weighs p(t | .., v). This is prediction difference analysis (Robnik-Sikonja and Kononenko 2008; arXiv:1702.04595), whose
    conditional of the feature that is left out is approximated there and exact here. It is never negative, and exactly 0 where t does
    not depend on q. The channels of t are predicted one after the other, and their bits summed. Sub-pixels of a small image that is
    given are before all others, and have no probability of their own: all their levels weigh alike before the others are looked at.

    It takes L - 1 forward passes for each sub-pixel that the network can see from t, and one more. Where these are more than `most_passes`
    the nearest sub-pixels are looked at, and the others are NaN. `at_once` of them are made together.
    Of images of more than `MOST_DECLARED` pixels, all before t count as seen. `like` is one of another image, the same in all else.
    Raises `UserError` as `dependence_by_gradient` does.
    """

    def __init__(
        self,
        model: PixelModel,
        x_1CHW: Tensor,
        pixel: Pixel,
        context: Context | None = None,
        *,
        order: int | None = None,
        most_passes: int = MOST_PASSES,
        at_once: int = AT_ONCE,
        like: Occlusion | None = None,
    ):
        self.model, self._at_once = model, at_once
        self._x_1CHW, self._given, self._order_B, self._target = _framed(model, x_1CHW, pixel, context, order)
        self._before_HW, self._reach_CHW, self._places_NK = self._looked_at(most_passes) if like is None else like._seen

    @property
    def _seen(self) -> tuple[Tensor, Tensor, Tensor]:
        return self._before_HW, self._reach_CHW, self._places_NK

    def _looked_at(self, most_passes: int) -> tuple[Tensor, Tensor, Tensor]:
        """Pixels before the target (H W), sub-pixels that the network can see from it (C H W), and the places of those to look at."""
        model, (row, column) = self.model, self._target
        rank_HW = model.pixel_ranks().to(model.device)
        before_HW = rank_HW < rank_HW[row, column]
        reach_CHW = before_HW.expand(model.spec.shape)
        if rank_HW.numel() <= MOST_DECLARED:
            reach_CHW = reach_CHW & model.reach()[row, column].to(model.device)
        known = model.given_pixels(self._given)
        if known is not None:  # wherever they are, all pixels are drawn given them
            known_HW = known.mask_BHW[0]
            before_HW = before_HW | known_HW
            reach_CHW = torch.zeros_like(reach_CHW) if bool(known_HW[row, column]) else reach_CHW | known_HW
        places_NK = reach_CHW.nonzero()  # channel, row, column
        distance_N = ((places_NK[:, 1:] - torch.tensor(self._target, device=model.device)) ** 2).sum(1)
        num_shown = max(0, most_passes - 1) // (model.spec.levels - 1)
        return before_HW, reach_CHW, places_NK[distance_N.argsort(stable=True)[:num_shown]]

    @property
    def num_passes(self) -> int:
        """Forward passes of one image that it takes."""
        return 1 + len(self._places_NK) * (self.model.spec.levels - 1)

    @property
    def is_whole(self) -> bool:
        """Whether every sub-pixel that counts is looked at."""
        return len(self._places_NK) == int(self._reach_CHW.sum())

    @torch.no_grad()
    def passes(self, first: int, last: int) -> np.ndarray:
        """Passes first..last - 1: log-probability of all pixels before the target, then the target's tables; nats, N 1 + C L."""
        return np.concatenate([self._pass(at, min(at + self._at_once, last)) for at in range(first, last, self._at_once)])

    def _pass(self, first: int, last: int) -> np.ndarray:
        """The first pass of all is of the image itself, then come the other levels of each place in turn."""
        model, levels = self.model, self.model.spec.levels
        x_BCHW = self._x_1CHW.repeat(last - first, 1, 1, 1)
        for image, number in enumerate(range(first, last)):
            if number:
                place, step = divmod(number - 1, levels - 1)
                channel, row, column = self._places_NK[place].tolist()
                x_BCHW[image, channel, row, column] = (x_BCHW[image, channel, row, column] + 1 + step) % levels
        given = self._given
        if given is not None:
            given = given.rows(torch.zeros(len(x_BCHW), dtype=torch.long, device=model.device))
            factor = _factor_of_small(model, self._given)
            if factor is not None:
                given = replace(given, small_BCHW=x_BCHW[..., ::factor, ::factor])
        row, column = self._target
        with evaluating(model), products("ieee", model.device):
            params_BPHW = model(x_BCHW, given)
            log_prob_BHW = model.log_prob_map_of(params_BPHW, x_BCHW, given).double()
            at = (slice(None), slice(None), slice(row, row + 1), slice(column, column + 1))
            tables = [log_BLHW[..., 0, 0] for log_BLHW in level_tables(model, params_BPHW[at], x_BCHW[at])]
        before_B = log_prob_BHW[:, self._before_HW].sum(1)
        return torch.cat([before_B[:, None], *tables], 1).cpu().numpy()

    def bits(self, parts: Sequence[np.ndarray]) -> Tensor:
        """The map from all passes, in their order: bits, float64, C H W, in the image as it is; on the CPU."""
        channels, levels = self.model.spec.channels, self.model.spec.levels
        found = torch.from_numpy(np.concatenate(parts))
        bits_CHW = torch.where(self._reach_CHW.cpu(), torch.nan, 0.0).double()
        row, column = self._target
        own_C = self._x_1CHW[0, :, row, column].tolist()
        for place, (channel, r, c) in enumerate(self._places_NK.tolist()):
            start = 1 + place * (levels - 1)
            log_V = torch.cat([found[:1], found[start : start + levels - 1]])  # of each level in its place
            weight_V, total = log_V[:, 0], 0.0
            for k in range(channels):
                log_VL = log_V[:, 1 + k * levels : 1 + (k + 1) * levels]
                without_L = torch.logsumexp(torch.log_softmax(weight_V, 0)[:, None] + log_VL, 0)
                p_L = log_VL[0].exp()
                total += float(torch.where(p_L > 0, p_L * (log_VL[0] - without_L), 0.0).sum())
                weight_V = weight_V + log_VL[:, own_C[k]]  # the channels before are known to the next one
            bits_CHW[channel, r, c] = max(0.0, total) / math.log(2)  # rounding may leave a little less than nothing
        return bits_CHW if self._order_B is None else turned_back(bits_CHW[None], self._order_B.cpu())[0]


def dependence_by_occlusion(
    model: PixelModel,
    x_1CHW: Tensor,
    pixel: Pixel,
    context: Context | None = None,
    *,
    order: int | None = None,
    most_passes: int = MOST_PASSES,
) -> Tensor:
    """`Occlusion` from its first pass to its last: bits, float64, C H W; NaN where it was not looked at."""
    occlusion = Occlusion(model, x_1CHW, pixel, context, order=order, most_passes=most_passes)
    return occlusion.bits([occlusion.passes(0, occlusion.num_passes)])


def _framed(
    model: PixelModel, x_1CHW: Tensor, pixel: Pixel, context: Context | None, order: int | None
) -> tuple[Tensor, Context | None, Tensor | None, Pixel]:
    """As `framed`, of one image, with the place of the pixel in the turned image."""
    check_pixel(model, pixel)
    if len(x_1CHW) != 1:
        raise UserError(f"{len(x_1CHW)} images given; the dependence of a pixel is that of one image: give one")
    x_BCHW, given, order_B = framed(model, x_1CHW, context, order)
    if order_B is not None:
        _, height, width = model.spec.shape
        row, column = divmod(int(places_back(height, width)[int(order_B[0])][pixel[0] * width + pixel[1]]), width)
        return x_BCHW, given, order_B, (row, column)
    return x_BCHW, given, None, pixel


def _factor_of_small(model: PixelModel, given: Context | None) -> int | None:
    """Every how manieth pixel of the image is that of a small image that is given; None where none is."""
    small, spec = None if given is None else given.small_BCHW, model.context_spec.small
    if small is None or spec is None or bool((small < 0).any()):
        return None
    return factor_between(model.spec.shape[1:], spec.shape[1:])
