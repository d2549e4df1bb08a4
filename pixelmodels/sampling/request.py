"""What is asked of the engine, checked before it waits, and each of its images while it is being drawn."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pixelmodels.errors import UserError
from pixelmodels.models import Context, ContextBlend, PixelModel
from pixelmodels.models.context import Given, check_context, order_alone
from pixelmodels.models.context_images import GivenPixels, given_pixels
from pixelmodels.models.orders import in_order
from pixelmodels.models.turns import check_order, turned_arrays, turned_arrays_back
from pixelmodels.sampling.choosing import check_options
from pixelmodels.sampling.noise import between, image_noise
from pixelmodels.sampling.orders import order_of_image
from pixelmodels.sampling.resampling import MOST_OF_SWEEP, MOST_REDRAWS, Dream, Redraw, dream_of, redraw_noise, sweeps_over

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Request:
    """Images to draw: image i is a function of (weights, its context, seed, first + i) and the options below, never of its batch.

    Known pixels are clamped: what is drawn after them is conditioned on them, what is drawn before them is not. So
    known *later* pixels (in the order of the model) stay as they are given, and their image is no draw from p(image | all known pixels).
    The pixels of a small image that is given as context are known too.

    A model of several orders draws by the order that is asked for; else image by image by the one in which the known pixels come first,
    so that they all count where they can (`models.turns`), or, where none are known, by one drawn from the image's own seed.
    """

    n: int = 1  # images
    seed: int = 0  # of the noise
    first: int = 0  # index of the first image in the seed's stream
    context: Context | ContextBlend | None = None  # of one image (for all n), or of n images
    guidance: float = 0.0  # w of p(x | context)^(1+w) / p(x)^w; 0: the model itself
    temperature: float = 1.0  # T > 0 of softmax(log p / T), on the exact table over levels
    top_p: float = 1.0  # in (0, 1]: draw from the smallest set of levels whose probability reaches it, on the same table
    known_NCHW: Tensor | None = None  # levels, integers, of one image or n; read where the mask is true
    known_mask_NHW: Tensor | None = None  # which pixels are known, booleans, of one image or n
    order: int | None = None  # of all images, see above; None: chosen image by image
    sweeps: int = 0  # over the pixels that are not known once they are drawn, of a model of several orders (`resampling`)
    dream: Dream | None = None  # how the image is drawn again once it is there; its pixels that are known stay
    start_NCHW: Tensor | None = None  # levels, of one image or n, that a dream begins with in place of drawn ones
    toward_seed: int | None = None  # another seed, whose noise is mixed in: what is between the images of the two
    toward_share: float = 0.0  # of it, in [0, 1]

    def order_of(self, model: PixelModel, image: int) -> int:
        """By which order one of the images of a request that was checked is drawn."""
        mask_NHW = self.known_mask_NHW
        known_HW = None if mask_NHW is None else mask_NHW[image % len(mask_NHW)].numpy()
        return order_of_image(model, self.seed, self.first + image, known_HW, self.order)

    def redraws_of(self, model: PixelModel, image: int) -> list[Redraw]:
        """What is drawn again of one of the images of a request that was checked, in order."""
        if not self.sweeps and self.dream is None:
            return []
        free_HW, num_orders, index = self.free_of(model, image), model.context_spec.num_orders, self.first + image
        if self.dream is not None:
            return dream_of(free_HW, self.dream, num_orders, self.order, self.seed, index)
        return sweeps_over(free_HW, self.sweeps, num_orders, self.seed, index)

    def free_of(self, model: PixelModel, image: int) -> npt.NDArray[np.bool_]:
        """Which pixels of one of the images are not known."""
        mask_NHW = self.known_mask_NHW
        return np.ones(model.spec.shape[1:], np.bool_) if mask_NHW is None else ~mask_NHW[image % len(mask_NHW)].numpy()

    @property
    def most_passes(self) -> int:
        """How often an image is drawn at most, whole or in part."""
        return 1 + (self.dream.num_steps if self.dream is not None else self.sweeps * MOST_OF_SWEEP)

    @property
    def options(self) -> tuple[float, float, float]:
        """Guidance, temperature and top_p."""
        return float(self.guidance), float(self.temperature), float(self.top_p)


@dataclass(eq=False)
class Drawing:
    """One image while it is being drawn."""

    request_id: int
    image: int  # index in its request
    options: tuple[float, float, float]  # guidance, temperature, top_p
    context: Given  # of this image, with its order where there are several
    u_HWU: npt.NDArray[np.float64]  # its noise
    x_CHW: npt.NDArray[np.uint8]  # levels so far, with what is known, turned as its order has it
    known_HW: npt.NDArray[np.bool_] | None  # pixels that are not drawn: those given, and those of stages that are done; turned likewise
    request: Request  # whose image it is
    order: int = 0  # by which the image is turned while it is drawn
    stage: int = 0  # that it is in, or waits for
    redraws: list[Redraw] = field(default_factory=list)  # all of them, in order
    num_redraws: int = 0  # that are begun

    @property
    def goes_on(self) -> bool:
        """Whether the image is drawn again once it is through with its stages."""
        return self.num_redraws < len(self.redraws)

    def finished(self) -> Tensor:
        """The image as it is wanted, uint8."""
        if not self.order:
            return torch.from_numpy(self.x_CHW)
        return torch.from_numpy(turned_arrays_back(self.x_CHW[None], np.array([self.order]))[0])

    def num_leading_known(self, every: int) -> int:
        """Rows at the top of a stage, which draws every k-th row and column, that are wholly known."""
        if self.known_HW is None:
            return 0
        whole_H: npt.NDArray[np.bool_] = np.all(self.known_HW[::every, ::every], axis=1)
        return len(whole_H) if whole_H.all() else int(whole_H.argmin())

    def finish_stage(self, every: int) -> None:
        """What a stage has drawn is known to the next one."""
        if self.known_HW is None:
            self.known_HW = np.zeros(self.x_CHW.shape[1:], dtype=np.bool_)
        self.known_HW[::every, ::every] = True
        self.stage += 1


def checked(model: PixelModel, request: Request) -> Request:
    """The request, with a context on the model's device and all known pixels, those of a given small image too, on the CPU.

    Raises `UserError` for what does not fit the model or is out of range.
    """
    if request.n < 1:
        raise UserError(f"{request.n} images asked for; give 1 or more")
    for name in ("seed", "first"):
        if getattr(request, name) < 0:
            raise UserError(f"{name} {getattr(request, name)} is negative; give 0 or more")
    if request.order is not None:
        check_order(request.order, model.context_spec.num_orders)
    _check_redraws(model, request)
    if model.context_spec.num_orders > 1 and model.context_spec.small is not None and request.order != 0:
        raise UserError("the model is given small images, whose pixels are not those of a turned image; give order 0")
    context = request.context
    if order_alone(context) is not None:
        raise UserError("a context says by which order images are turned; say it by the request's `order`, and give images as they are")
    if isinstance(context, Context) and not len(context):
        context = None
    if context is not None:
        context = context.to(CPU)  # its values are looked at there: on a device each look would be waited for
        check_context(context, model.context_spec, 1 if len(context) == 1 else request.n)
    check_options(model, request.guidance, request.temperature, request.top_p)
    _check_known(model, request)
    request = _with_given_pixels(model, replace(request, context=context))
    return replace(request, context=None if context is None else context.to(model.device))


def _check_redraws(model: PixelModel, request: Request) -> None:
    if not 0 <= request.sweeps <= MOST_REDRAWS // MOST_OF_SWEEP:
        raise UserError(f"{request.sweeps} sweeps asked for; give 0..{MOST_REDRAWS // MOST_OF_SWEEP}")
    if request.sweeps:
        if request.dream is not None:
            raise UserError("sweeps and a dream are two ways to draw pixels again; leave one of them out")
        if model.context_spec.num_orders == 1:
            raise UserError(f"{request.sweeps} sweeps asked for, which are by several orders, and the model has one; leave sweeps out")
        if request.known_mask_NHW is None:
            raise UserError(f"{request.sweeps} sweeps asked for, which are over the unknown pixels of a completion; say what is known")
    start = request.start_NCHW
    if start is not None:
        if request.dream is None:
            raise UserError("images to begin with are given without a dream; leave them out, or give a dream")
        model.spec.check(start)
        model.spec.check_values(start)
        if len(start) not in (1, request.n):
            raise UserError(f"{len(start)} images to begin with given for {request.n} images; give 1 or {request.n}")


def _check_known(model: PixelModel, request: Request) -> None:
    known, mask = request.known_NCHW, request.known_mask_NHW
    if known is None and mask is None:
        return
    if known is None or mask is None:
        raise UserError("known pixels and their mask are given one without the other; give known_NCHW and known_mask_NHW, or neither")
    model.spec.check(known)
    size = model.spec.shape[1:]
    if mask.dtype != torch.bool or tuple(mask.shape[1:]) != size:
        raise UserError(f"a mask of {mask.dtype} and shape {tuple(mask.shape)} given; give booleans of shape (n, {size[0]}, {size[1]})")
    for name, value in (("known images", known), ("masks", mask)):
        if len(value) not in (1, request.n):
            raise UserError(f"{len(value)} {name} given for {request.n} images; give 1 or {request.n}")
    model.spec.check_values(torch.where(mask[:, None], known, 0))


def _with_given_pixels(model: PixelModel, request: Request) -> Request:
    """The request with the pixels of a small image that is given among the known ones; `UserError` where both say something else."""
    known, mask = request.known_NCHW, request.known_mask_NHW
    if known is not None and mask is not None:
        known, mask = known.to(CPU), mask.to(CPU)
    given = given_pixels(request.context, model.context_spec.small, model.spec)
    if given is not None:
        if known is None or mask is None:
            known, mask = given.x_BCHW.to(torch.uint8), given.mask_BHW
        else:
            _check_agreement(given, known, mask)
            known = torch.where(given.mask_BHW[:, None], given.x_BCHW, known).to(torch.uint8)
            mask = given.mask_BHW | mask
    return replace(request, known_NCHW=known, known_mask_NHW=mask)


def _check_agreement(given: GivenPixels, known_NCHW: Tensor, mask_NHW: Tensor) -> None:
    differ_NCHW = given.mask_BHW[:, None] & mask_NHW[:, None] & (given.x_BCHW != known_NCHW)
    if differ_NCHW.any():
        image, channel, row, column = differ_NCHW.nonzero()[0].tolist()
        raise UserError(
            f"pixel ({row}, {column}) of image {image} is known to differ, in channel {channel}, from the small image that is given; "
            "make them agree, or leave one of them out"
        )


def drawing_of(model: PixelModel, request_id: int, request: Request, image: int) -> Drawing:
    """One image of a request that was checked, before its first row."""
    context = _context_of(request, image)
    x_CHW, known_HW = np.zeros(model.spec.shape, dtype=np.uint8), None
    if request.known_NCHW is not None and request.known_mask_NHW is not None:
        known, mask = request.known_NCHW, request.known_mask_NHW
        known_HW = mask[image % len(mask)].numpy().copy()
        x_CHW = np.where(known_HW, known[image % len(known)].numpy(), 0).astype(np.uint8)
    if request.start_NCHW is not None:  # nothing of it is drawn, so that the dream begins with it
        start_CHW = request.start_NCHW[image % len(request.start_NCHW)].cpu().numpy().astype(np.uint8)
        x_CHW = start_CHW.copy() if known_HW is None else np.where(known_HW, x_CHW, start_CHW)
        known_HW = np.ones(model.spec.shape[1:], dtype=np.bool_)
    order, noise_HWU = request.order_of(model, image), _noise_of(model, request, request.first + image)
    context, x_CHW, known_HW = _turned(model, order, context, x_CHW, known_HW)
    again = request.redraws_of(model, image)
    return Drawing(request_id, image, request.options, context, noise_HWU, x_CHW, known_HW, request, order, redraws=again)


def draw_again(model: PixelModel, drawing: Drawing) -> None:
    """Let an image that is through with its stages, and `goes_on`, begin its next redraw."""
    request, number = drawing.request, drawing.num_redraws
    x_CHW, redraw = drawing.finished().numpy(), drawing.redraws[number]
    known_HW = ~redraw.region(request.free_of(model, drawing.image))
    context = _context_of(request, drawing.image)
    drawing.order, drawing.stage, drawing.num_redraws = redraw.order, 0, number + 1
    drawing.context, drawing.x_CHW, drawing.known_HW = _turned(model, redraw.order, context, x_CHW.copy(), known_HW)
    drawing.u_HWU = redraw_noise(drawing.u_HWU.shape, request.seed, request.first + drawing.image, number)


def _context_of(request: Request, image: int) -> Given:
    """The context of one image of a request."""
    context = request.context
    if context is None:
        return None
    mine = 0 if len(context) == 1 else image
    return context.rows(slice(mine, mine + 1))


def _turned(
    model: PixelModel, order: int, context: Given, x_CHW: npt.NDArray[np.uint8], known_HW: npt.NDArray[np.bool_] | None
) -> tuple[Given, npt.NDArray[np.uint8], npt.NDArray[np.bool_] | None]:
    """What is known of an image, as a model of several orders takes it."""
    if model.context_spec.num_orders == 1:
        return context, x_CHW, known_HW
    order_1 = np.array([order])
    context = in_order(context, torch.tensor([order], device=model.device))
    return context, turned_arrays(x_CHW[None], order_1)[0], None if known_HW is None else turned_arrays(known_HW[None], order_1)[0]


def _noise_of(model: PixelModel, request: Request, index: int) -> npt.NDArray[np.float64]:
    noise_HWU = image_noise(model, request.seed, index)
    if request.toward_seed is None or request.toward_seed == request.seed:
        return noise_HWU
    return between(noise_HWU, image_noise(model, request.toward_seed, index), request.toward_share)
