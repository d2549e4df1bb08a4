"""From a request of the HTTP API to one of the engine, once the model is known: decoding, and checks that name the field."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pixelmodels.errors import UserError
from pixelmodels.evaluation.dependence import check_pixel
from pixelmodels.models import Context, ContextBlend, ContextSpec, PixelModel
from pixelmodels.models.class_names import class_name, label_of
from pixelmodels.models.turns import check_order, known_from, known_too_late
from pixelmodels.sampling.engine import Request
from pixelmodels.sampling.request import checked
from pixelmodels.sampling.resampling import Dream
from pixelmodels.serving import pngs
from pixelmodels.serving.refusals import Refused, invalid
from pixelmodels.serving.schemas import CompletionRequest, ExplanationRequest, SampleRequest, ScoreRequest, Toward
from pixelmodels.shapes import ImageSpec

SMALL = "small_image"
CONTEXT_FIELDS = ("label_B", "vector_BV")  # of a context, that an image may go from and to
PASSES = 255  # of the network for the occlusion of one image, unless asked for otherwise; more where `NEAREST` needs them
NEAREST = 4  # nearest sub-pixels that are looked at unless asked for otherwise: each takes a pass for each other level
Asked = SampleRequest | ScoreRequest | ExplanationRequest


def engine_request(model: PixelModel, asked: SampleRequest, max_bytes: int) -> Request:
    """What the engine is asked for; raises `Refused` with the field to blame."""
    known, mask = _known(model, asked, max_bytes) if isinstance(asked, CompletionRequest) else (None, None)
    context = context_of(model, asked, max_bytes)
    blend = context if asked.toward is None else _toward(model, asked, asked.toward, context)
    if known is not None and mask is not None:
        _check_agrees(model, context, known, mask)
    request = Request(
        n=asked.n,
        seed=asked.seed or 0,
        first=asked.first,
        context=blend,
        guidance=asked.guidance,
        temperature=asked.temperature,
        top_p=asked.top_p,
        known_NCHW=known,
        known_mask_NHW=mask,
        order=asked.order,
        sweeps=asked.sweeps if isinstance(asked, CompletionRequest) else 0,
        dream=None if asked.dream is None else Dream(asked.dream, asked.dream_region),
        toward_seed=None if asked.toward is None else asked.toward.seed,
        toward_share=0.0 if asked.toward is None else asked.toward.share,
    )
    try:
        return checked(model, request)
    except UserError as error:  # what is left to check are the options: each one's message begins with its name
        named = next(
            (name for name in ("temperature", "top_p", "guidance", "seed", "first", "sweeps", "order") if name in str(error)), None
        )
        raise invalid(str(error), named) from None


def context_of(model: PixelModel, asked: Asked, max_bytes: int) -> Context | None:
    """The context of one image; raises `Refused` for what the model is not conditioned on, or not in this form."""
    spec = model.context_spec
    label = vector = None
    if asked.label is not None:
        if not spec.num_classes:
            raise _not_conditioned("label")
        try:
            label = torch.tensor([label_of(asked.label, spec)])
        except UserError as error:
            raise invalid(str(error), "label") from None
    if asked.vector is not None:
        if not spec.vector_size:
            raise _not_conditioned("vector")
        if len(asked.vector) != spec.vector_size:
            raise invalid(f"{len(asked.vector)} numbers given; this model takes {spec.vector_size}", "vector")
        vector = torch.tensor([asked.vector], dtype=torch.float32)
        if not bool(vector.isfinite().all()):
            raise invalid("a number is too large", "vector")
    image = _given(asked.context_image, "context_image", spec.image, max_bytes, asked.scale)
    small = _given(asked.small_image, SMALL, spec.small, max_bytes, asked.scale)
    context = Context(label, vector, image, small)
    return context if len(context) else None


def _toward(model: PixelModel, asked: SampleRequest, toward: Toward, first: Context | None) -> Context | ContextBlend | None:
    """The context between that of a request and the one it goes to; raises `Refused`. Given images are those of the request."""
    given = {name: value for name in ("label", "vector") if (value := getattr(toward, name)) is not None}
    if not given:
        if toward.seed is None:
            raise invalid("nothing to go to; give label, vector or seed beside share", "toward")
        return first
    try:
        second = context_of(model, SampleRequest(**given), 0)
    except Refused as refused:
        raise invalid(refused.message, f"toward.{refused.field}") from None
    second = replace(first or Context(), **{name: getattr(second, name) for name in CONTEXT_FIELDS if getattr(second, name) is not None})
    return ContextBlend(first or Context(), second, torch.tensor([toward.share]))


def class_of(asked: Asked, spec: ContextSpec) -> tuple[int | None, str | None]:
    """The class that a request (which fits the model) asks for, as it is told: its number and its name, None where there is none."""
    if asked.label is None:
        return None, None
    label = label_of(asked.label, spec)
    return label, class_name(label, spec)


def images_of(model: PixelModel, asked: ScoreRequest | ExplanationRequest, max_bytes: int) -> tuple[Tensor, Context | None]:
    """The images to score, levels, N C H W, and the context that all of them have; raises `Refused` with the field to blame."""
    fields = [f"images.{index}" for index in range(len(asked.images))]
    x_NCHW = torch.from_numpy(np.stack(pngs.images_of(asked.images, fields, model.spec, max_bytes, asked.scale)).astype(np.int64))
    context = context_of(model, asked, max_bytes)
    _check_agrees(model, context, x_NCHW, torch.ones(1, *x_NCHW.shape[2:], dtype=torch.bool))
    return x_NCHW, context


def _check_agrees(model: PixelModel, context: Context | None, x_NCHW: Tensor, mask_NHW: Tensor) -> None:
    """Raise `Refused` where a pixel in the mask is another one in the small image that is given: nothing has both."""
    given = None if context is None else model.given_pixels(context.to(model.device))
    if given is None:
        return
    known_BCHW, mask_BHW = given.x_BCHW.to(x_NCHW.device), given.mask_BHW.to(x_NCHW.device)
    differ_NCHW = mask_BHW[:, None] & mask_NHW[:, None] & (known_BCHW != x_NCHW)
    if differ_NCHW.any():
        image, channel, row, column = differ_NCHW.nonzero()[0].tolist()
        levels = f"{known_BCHW[0, channel, row, column]}, not {x_NCHW[image, channel, row, column]}"
        raise invalid(f"pixel ({row}, {column}) of image {image} is of another level in the small image ({levels}); make them agree", SMALL)


def check_map(model: PixelModel, n: int, most: int) -> None:
    """Raise `Refused` where the costs of the pixels of `n` images are more than `most` numbers."""
    pixels = n * model.spec.height * model.spec.width
    if pixels > most:
        raise invalid(f"{n} images have {pixels} pixels; at most {most} are told the cost of each, so give fewer images at a time", "map")


def check_pictures(model: PixelModel, asked: SampleRequest, most: int) -> None:
    """Raise `Refused` where the pictures of a stream have more than `most` sub-pixels in all."""
    if asked.every == "row":
        check_rows(model, asked.n * asked.most_passes, most)
    elif asked.dream is not None and (size := asked.n * asked.most_passes * model.spec.num_subpixels) > most:
        what = f"the pictures of all steps of {asked.n} images are too large ({size} sub-pixels, at most {most})"
        raise invalid(f"{what}; ask for fewer steps, or without stream", "dream")


def check_rows(model: PixelModel, n: int, most: int) -> None:
    """Raise `Refused` where a picture of each row's image so far, of `n` images, has more than `most` sub-pixels in all."""
    rows_each = [stage.model.spec.height for stage in model.stages()]
    if model.context_spec.num_orders > 1:  # each picture is of the whole size
        size = n * sum(rows_each) * model.spec.num_subpixels
    else:
        size = n * sum((rows + 1) * stage.model.spec.num_subpixels // 2 for rows, stage in zip(rows_each, model.stages(), strict=True))
    if size > most:
        raise invalid(f"the pictures of all rows of {n} images are too large ({size} sub-pixels, at most {most}); ask for every=image", "n")


@dataclass(frozen=True)
class DrawnBy:
    """By which orders the images of a request are drawn, of a model of several."""

    orders: tuple[int, ...]  # of each image
    unused_HW: npt.NDArray[np.bool_]  # known pixels that come after an unknown one: what is drawn before them does not know of them


def drawn_by(model: PixelModel, request: Request) -> DrawnBy | None:
    """By which orders the images of a request that was checked are drawn; None for a model of one, where all that is known counts."""
    mask_NHW, late_HW = request.known_mask_NHW, np.zeros(model.spec.shape[1:], np.bool_)
    if mask_NHW is not None and mask_NHW.any():  # one for all images, which are drawn by one order: it is chosen once
        orders = (request.order_of(model, 0),) * request.n
        late_HW = known_too_late(mask_NHW[0].numpy(), model.pixel_ranks().cpu().numpy(), orders[0])
        given = model.given_pixels(request.context)
        if given is not None:  # of a small image: the whole of it is told before the first pixel
            late_HW &= ~given.mask_BHW[0].cpu().numpy()
    else:
        orders = tuple(request.order_of(model, image) for image in range(request.n))
    return None if model.context_spec.num_orders == 1 and not late_HW.any() else DrawnBy(orders, late_HW)


def check_p_value(model: PixelModel, asked: ScoreRequest) -> None:
    """Raise `Refused` where images are scored otherwise than test images, which were given what belongs to them."""
    spec = model.context_spec
    given = {"label": spec.num_classes, "vector": spec.vector_size, "context_image": spec.image, SMALL: spec.small}
    missing = [field for field, is_given in given.items() if is_given and getattr(asked, field) is None]
    if asked.p_value and missing:
        told = f"test images were scored given their own {' and '.join(missing)}".replace("_", " ")
        raise invalid(f"{told}, without which p-values would be wrong; give it too, or leave p_value out", "p_value")


def order_of_scores(model: PixelModel, asked: ScoreRequest) -> int | None:
    """By which order images are scored, None: by the mixture of all; raises `Refused` where that tells no cost of each pixel."""
    num_orders = model.context_spec.num_orders
    if asked.order is not None:
        try:
            check_order(asked.order, num_orders)
        except UserError as error:
            raise invalid(str(error), "order") from None
    if asked.map and asked.order is None and num_orders > 1:
        raise invalid(f"a pixel costs something in one order only, not in a mixture of {num_orders}; give order, or leave map out", "map")
    if asked.p_value and asked.order is not None and num_orders > 1:
        raise invalid("p-values are of the mixture of all orders, as the test is; leave order out, or p_value", "p_value")
    return asked.order if num_orders > 1 else 0


def check_explained(model: PixelModel, asked: ExplanationRequest, most: int, most_passes: int) -> None:
    """Raise `Refused` where the maps of a request are more than `most` numbers, or take more than so many forward passes.

    Also for a pixel or an order that the model does not have, or an order that is missing.
    """
    n, (channels, height, width), num_orders = len(asked.images), model.spec.shape, model.context_spec.num_orders
    numbers = n * height * width * (2 + 2 * channels + (0 if asked.pixel is None else 2 * channels))
    if numbers > most:
        raise invalid(f"the maps of {n} images are {numbers} numbers, at most {most} are told; give fewer images at a time", "images")
    try:
        if asked.order is not None:
            check_order(asked.order, num_orders)
    except UserError as error:
        raise invalid(str(error), "order") from None
    if asked.order is None and num_orders > 1:
        raise invalid(f"a pixel costs something in one order only, not in a mixture of {num_orders}; give order", "order")
    if asked.pixel is None:
        return
    try:
        check_pixel(model, (asked.pixel[0], asked.pixel[1]))
    except UserError as error:
        raise invalid(str(error), "pixel") from None
    passes = passes_of(model, asked, most_passes)
    if n * (1 + passes) > most_passes:
        told = f"{n} images with {passes} passes of the network each"
        raise invalid(f"{told} are too many at a time, at most {most_passes} with one more for each; give fewer", "most_passes")


def passes_of(model: PixelModel, asked: ExplanationRequest, most_passes: int) -> int:
    """Forward passes for the occlusion of each image of a request, which may take so many in all."""
    if asked.most_passes is not None:
        return asked.most_passes
    return max(1, min(max(PASSES, 1 + NEAREST * (model.spec.levels - 1)), most_passes // len(asked.images) - 1))


def _given(text: str | None, field: str, spec: ImageSpec | None, max_bytes: int, scale: pngs.Scale) -> Tensor | None:
    if text is None:
        return None
    if spec is None:
        raise _not_conditioned(field)
    return torch.from_numpy(pngs.image_of(text, field, spec, max_bytes, scale).astype(np.int64))[None]


def _not_conditioned(field: str) -> Refused:
    return invalid(f"this model is not conditioned on a {field.replace('_', ' ')}; leave it out", field)


def _known(model: PixelModel, asked: CompletionRequest, max_bytes: int) -> tuple[Tensor, Tensor]:
    """Known levels (1 C H W) and which pixels they are (1 H W)."""
    spec = model.spec
    image_CHW = pngs.image_of(asked.image, "image", spec, max_bytes, asked.scale)
    if asked.mask is not None:
        mask_HW = pngs.mask_of(asked.mask, "mask", spec, max_bytes)
    else:
        rows = asked.known_rows or 0
        what, most = ("rows", spec.height) if asked.known_side in ("top", "bottom") else ("columns", spec.width)
        if rows > most:
            raise invalid(f"{rows} {what} are known of an image of {most}", "known_rows")
        mask_HW = known_from(asked.known_side, rows, spec.height, spec.width)
    return torch.from_numpy(image_CHW)[None], torch.from_numpy(mask_HW)[None]
