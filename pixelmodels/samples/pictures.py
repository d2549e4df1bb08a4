"""Samples as something to look at: one picture, or an animation of it being drawn."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from pixelmodels.data.quantization import UInt8
from pixelmodels.errors import UserError
from pixelmodels.evaluation.sample_grids import enlarged, written
from pixelmodels.models import Context, PixelModel
from pixelmodels.models.turns import turned_arrays, turned_arrays_back
from pixelmodels.pictures import BACKGROUND, grid, to_bytes
from pixelmodels.samples.commission import Commission

MAX_PICTURE = 1 << 26  # pixels of images in one picture
MAX_FILM = 1 << 19  # pixels of images in an animation; further images are left out of it
MAX_FRAMES = 64
MAX_DREAM_FRAMES = 256
MAX_SHOWN = 1 << 22  # pixels that the colours of an animation are chosen by
FRAME_MS = (40, 200)  # shortest and longest time of a frame
FILM_MS = 4000  # time of the drawing, where frames may last so long
DREAM_MS = 80  # of each step of a dream
LAST_MS = 2000  # time of the whole picture at the end
Mask = npt.NDArray[np.bool_]


def check_size(n: int, model: PixelModel) -> None:
    """Raise `UserError` for more images than one picture can show."""
    most = MAX_PICTURE // (model.spec.height * model.spec.width)
    if n > most:
        raise UserError(f"{n} images are too many for one picture; give a --n for {most} or fewer, or an --out that ends in .npz or /")


def picture(commission: Commission, images_NCHW: UInt8, model: PixelModel, drawn: Mask | None = None) -> UInt8:
    """All images as one picture (H, W, 3): in a row each what was given, the original (if any), and its samples; or samples only.

    The names of the samples' classes are written beside them where the model knows any.

    Args: `drawn`, pixels that are drawn so far (N 1 H W); the others are the grey of the gaps, as unknown pixels of given images are.
    """
    samples_N3HW = _colours(images_NCHW, model.spec.levels, drawn)
    names = written(commission.class_names(model.context_spec), model.context_spec)
    if commission.samples_each is None:
        return grid(samples_N3HW, 256, columns=commission.columns, captions=names)
    given: list[UInt8] = []
    if isinstance(commission.context, Context):
        first_M, spec = torch.from_numpy(commission.row_N[:: commission.samples_each]), model.context_spec
        for kind, image in ((spec.image, commission.context.image_BCHW), (spec.small, commission.context.small_BCHW)):
            if kind is not None and image is not None:
                rgb_M3HW = torch.tensor(_colours(image[first_M].numpy().astype(np.uint8), kind.levels, None))
                given.append(enlarged(rgb_M3HW, samples_N3HW.shape[1:]).numpy())
    if commission.originals_MCHW is not None:
        x_MCHW = commission.originals_MCHW.numpy().astype(np.uint8)
        shown = [None] if commission.known_HW is None else [commission.known_HW.numpy(), None]
        given += [_colours(x_MCHW, model.spec.levels, mask) for mask in shown]
    samples = samples_N3HW.reshape(-1, commission.samples_each, *samples_N3HW.shape[1:])
    rows = np.concatenate([*(image_M3HW[:, None] for image_M3HW in given), samples], axis=1)
    captions = np.array(names, dtype=object).reshape(samples.shape[:2])
    captions = np.pad(captions, ((0, 0), (len(given), 0)), constant_values="")
    return grid(rows.reshape(-1, *rows.shape[2:]), 256, columns=rows.shape[1], captions=captions.ravel().tolist())


def _colours(images_NCHW: UInt8, levels: int, shown: Mask | None) -> UInt8:
    """Levels as RGB, N 3 H W, grey where a pixel is not shown (H W, N 1 H W); of a number of channels other than 1 and 3, the mean."""
    bytes_NCHW = to_bytes(images_NCHW, levels)
    if bytes_NCHW.shape[1] not in (1, 3):
        bytes_NCHW = bytes_NCHW.mean(1, keepdims=True).round().astype(np.uint8)
    rgb_N3HW = np.broadcast_to(bytes_NCHW, (len(bytes_NCHW), 3, *bytes_NCHW.shape[2:]))
    return rgb_N3HW if shown is None else np.where(shown, rgb_N3HW, np.uint8(BACKGROUND))


def masks(model: PixelModel, known_HW: Mask | None, order: int = 0) -> Iterator[Mask]:
    """Which pixels are there before the first row, and after each row that brings some: all images of a block are at the same row.

    A model of several stages draws the small image first, so its pixels come before the others. Args: `order`, by which rows are drawn.
    """
    own_HW = np.zeros(model.spec.shape[1:], dtype=np.bool_) if known_HW is None else known_HW
    for drawn_HW in _masks_of_turned(model, turned_arrays(own_HW[None], np.array([order]))[0]):
        yield turned_arrays_back(drawn_HW[None], np.array([order]))[0]


def _masks_of_turned(model: PixelModel, drawn_HW: Mask) -> Iterator[Mask]:
    yield drawn_HW.copy()
    for stage in model.stages():
        for row in range(0, model.spec.height, stage.every):
            before = drawn_HW.sum()
            drawn_HW[row, :: stage.every] = True
            if drawn_HW.sum() > before:
                yield drawn_HW.copy()


def dream_film(commission: Commission, frames_SNCHW: UInt8, model: PixelModel) -> list[UInt8]:
    """Pictures of every step of a dream, or of `MAX_DREAM_FRAMES` spread evenly; the last one is `picture` of its end."""
    first, _ = _first_images(commission, frames_SNCHW[0], model)
    kept = np.unique(np.linspace(0, len(frames_SNCHW) - 1, min(len(frames_SNCHW), MAX_DREAM_FRAMES)).round().astype(np.int64))
    return [picture(first, frames_SNCHW[step, : first.n], model) for step in kept]


def film(commission: Commission, images_NCHW: UInt8, model: PixelModel) -> list[UInt8]:
    """Pictures of the images being drawn, at most `MAX_FRAMES`; the last one is `picture` of them all."""
    commission, images_NCHW = _first_images(commission, images_NCHW, model)
    known_HW, order_N = None if commission.known_HW is None else commission.known_HW.numpy(), commission.orders_N(model)
    steps = {int(order): list(masks(model, known_HW, int(order))) for order in np.unique(order_N)}
    shares = np.linspace(0, 1, min(max(map(len, steps.values())), MAX_FRAMES))  # of the drawing: where one order has more rows to draw
    films = {order: [each[round(share * (len(each) - 1))] for share in shares] for order, each in steps.items()}
    drawn = [np.stack([films[int(order)][frame] for order in order_N])[:, None] for frame in range(len(shares))]
    return [picture(commission, images_NCHW, model, one) for one in drawn]


def _first_images(commission: Commission, images_NCHW: UInt8, model: PixelModel) -> tuple[Commission, UInt8]:
    """As many images as an animation shows: whole rows of the picture where they come in rows."""
    most = max(1, MAX_FILM // (model.spec.height * model.spec.width))
    if commission.n <= most:
        return commission, images_NCHW
    row = commission.columns or 1
    if commission.samples_each is not None:
        row = commission.samples_each
        most = max(1, most // (row + 2)) * row
        if commission.originals_MCHW is not None:
            commission = replace(commission, originals_MCHW=commission.originals_MCHW[: most // row])
    most = max(row, most // row * row)
    return replace(commission, noise_N=commission.noise_N[:most], row_N=commission.row_N[:most]), images_NCHW[:most]


def gif_bytes(pictures_HWC: list[UInt8]) -> bytes:
    """Pictures (each the last one with grey for what is not there yet) as an animated GIF.

    Exact where the last has at most 256 colours, as grey images have; otherwise its 255 best ones.
    """
    last_HWC = pictures_HWC[-1]
    packed_HW = (last_HWC.astype(np.int64) * (1 << 16, 1 << 8, 1)).sum(-1)
    colours, index = np.unique(packed_HW, return_inverse=True)
    if len(colours) <= 256:
        index_HW = index.reshape(packed_HW.shape).astype(np.uint8)
        palette = np.stack([colours >> 16, colours >> 8 & 255, colours & 255], 1).astype(np.uint8).tobytes()
        grey = int(np.searchsorted(colours, BACKGROUND * 0x010101))  # of the gaps, so it is among them
    else:
        chosen = Image.fromarray(last_HWC).quantize(255, dither=Image.Dither.NONE)
        index_HW, grey = np.asarray(chosen), 255
        palette = bytes(chosen.getpalette() or b"").ljust(765, b"\0")[:765] + bytes([BACKGROUND] * 3)
        index_HW = np.where((last_HWC == BACKGROUND).all(-1), np.uint8(255), index_HW)
    frames = []
    for picture_HWC in pictures_HWC:
        frame = Image.fromarray(np.where((picture_HWC == last_HWC).all(-1), index_HW, np.uint8(grey)))
        frame.putpalette(palette)
        frames.append(frame)
    shortest, longest = FRAME_MS
    each = min(max(FILM_MS // len(frames) // 10 * 10, shortest), longest)
    times = [each] * (len(frames) - 1) + [LAST_MS]
    stream = io.BytesIO()
    frames[0].save(stream, format="GIF", save_all=True, append_images=frames[1:], duration=times, loop=0, optimize=False)
    return stream.getvalue()


def animation_bytes(pictures_HWC: list[UInt8]) -> bytes:
    """Any pictures of one size as an animated GIF; exact where all of them together have at most 256 colours, else the 256 best ones."""
    stacked_THWC = np.stack(pictures_HWC)
    colours = np.unique((stacked_THWC.astype(np.int32) * (1 << 16, 1 << 8, 1)).sum(-1))
    if len(colours) <= 256:
        palette = np.stack([colours >> 16, colours >> 8 & 255, colours & 255], 1).astype(np.uint8)
        indices = [np.searchsorted(colours, (one.astype(np.int32) * (1 << 16, 1 << 8, 1)).sum(-1)) for one in pictures_HWC]
    else:
        every = -(-stacked_THWC[..., 0].size // MAX_SHOWN)
        chosen = Image.fromarray(stacked_THWC.reshape(-1, 1, 3)[::every]).quantize(256, dither=Image.Dither.NONE)
        palette = np.frombuffer(bytes(chosen.getpalette() or b""), np.uint8).reshape(-1, 3)
        indices = [np.asarray(Image.fromarray(one).quantize(palette=chosen, dither=Image.Dither.NONE)) for one in pictures_HWC]
    frames = []
    for index_HW in indices:
        frame = Image.fromarray(index_HW.astype(np.uint8))
        frame.putpalette(palette.tobytes())
        frames.append(frame)
    stream = io.BytesIO()
    times = [DREAM_MS] * (len(frames) - 1) + [LAST_MS]
    frames[0].save(stream, format="GIF", save_all=True, append_images=frames[1:], duration=times, loop=0, optimize=True)
    return stream.getvalue()
