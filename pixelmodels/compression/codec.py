"""Blocks of images to bytes and back: encoder and decoder go through the same passes, sub-pixel by sub-pixel, all images side by side."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pixelmodels.compression import conditions
from pixelmodels.compression.arithmetic import Way, threads
from pixelmodels.compression.range_coding import RangeDecoder, RangeEncoder, Undecodable
from pixelmodels.compression.tables import Float32, frequencies
from pixelmodels.errors import UserError
from pixelmodels.likelihoods.base import Array, Tables
from pixelmodels.models import Context, PixelModel
from pixelmodels.models.base import Stage
from pixelmodels.models.context import Given
from pixelmodels.models.context_images import given_pixels
from pixelmodels.models.orders import in_order, log_probs_of_orders
from pixelmodels.models.turns import turned_arrays, turned_arrays_back
from pixelmodels.products import products
from pixelmodels.sampling.passes import Passes

UInt8 = npt.NDArray[np.uint8]
Int64 = npt.NDArray[np.int64]
DIGEST_BYTES = 8
_SCORED_AT_ONCE = 64  # images, where the order of each is chosen
_ROWS_KEPT = 4 << 20  # bytes of tables that an encoder collects before they are coded


class Place(NamedTuple):
    """A sub-pixel of the image."""

    channel: int
    row: int
    column: int


# From a sub-pixel, what of it is told, and a table of probabilities (B S) to the symbols of all images (B): (level // worth) % S.
Code = Callable[[Place, int, Array], UInt8]


@dataclass(frozen=True)
class Block:
    """Images that were coded together, and can be decoded without others."""

    num_images: int
    payload: bytes  # what they are conditioned on, and their pixels
    digest: bytes  # of both: whether what was decoded is right


class WrongTables(Exception):
    """What was decoded is not what was encoded: a table differed, or the payload is damaged."""


class Codec:
    """A model and the way on which its tables are computed. The model's weights must stay as they are."""

    def __init__(self, model: PixelModel, way: Way, kinds: int = 0) -> None:
        """Args: `kinds`, of context that blocks have (`conditions.kinds_of`); raises `UserError` where the model has no such."""
        if kinds & ~conditions.most_kinds(model.context_spec):
            raise UserError("the images are conditioned on what this model is not; give the model that they were encoded with")
        self.way, self.kinds = way, kinds
        self.model = model.eval() if model.dtype == way.dtype else copy.deepcopy(model).to(way.dtype).eval()
        with threads(way.threads):
            self._stages = [(stage, Passes(stage.model)) for stage in self.model.stages()]

    def encode(self, images_NCHW: npt.NDArray[Any], context: Context | None = None) -> Block:
        """Images, levels, at most as many as the way is wide. Raises `UserError` for images or a context that do not fit the model.

        Of a model of several orders each image is coded by the one in which it is likeliest. No mixture of them is likelier than that, so
        its bits are those of the mixture at most, and the log2 of the number of orders.
        """
        num = len(images_NCHW)
        self._check_num(num)
        x_NCHW = torch.from_numpy(images_NCHW)
        self.model.spec.check(x_NCHW)
        self.model.spec.check_values(x_NCHW.long())
        images_NCHW = images_NCHW.astype(np.uint8)  # as they come back, and as the checksum has them
        context = conditions.checked(context, self.model.context_spec, num)
        if conditions.kinds_of(context) != self.kinds:
            raise ValueError(f"a context of kinds {conditions.kinds_of(context)} given to a codec of kinds {self.kinds}")
        encoder = RangeEncoder()
        conditions.write(context, self.model.context_spec, encoder)
        order_N = self._likeliest(images_NCHW, context)
        encoder.put_uniform(order_N, self._num_orders)
        turned_NCHW = turned_arrays(images_NCHW, order_N)
        symbols: list[UInt8] = []
        tables: list[Array] = []

        def flush() -> None:  # what follows of a table is integers: the same whether of one or of many
            if tables:
                encoder.put(np.concatenate(symbols), self._frequencies(np.concatenate(tables)))
                symbols.clear()
                tables.clear()

        def code(place: Place, worth: int, table_BS: Array) -> UInt8:
            symbol_B = np.zeros(len(table_BS), np.uint8)
            symbol_B[:num] = turned_NCHW[:, *place] // np.int64(worth) % np.int64(table_BS.shape[1])
            symbols.append(symbol_B[:num])
            tables.append(table_BS[:num])
            if len(tables) * table_BS.nbytes >= _ROWS_KEPT:
                flush()
            return symbol_B

        coded_NCHW = self._through(num, context, order_N, code)
        flush()
        if not np.array_equal(coded_NCHW, turned_NCHW):  # a small image that is given says otherwise
            raise UserError("a small image that is given is not made of the image's own pixels; sub-sample the image, or give none")
        return Block(num, encoder.finish(), _digest(images_NCHW, context))

    def decode(self, block: Block) -> tuple[UInt8, Context | None]:
        """The images of a block, and their context. Raises `WrongTables` where they are not those that were encoded."""
        num = block.num_images
        self._check_num(num)
        decoder = RangeDecoder(block.payload)

        def code(_: Place, __: int, table_BS: Array) -> UInt8:
            symbol_B = np.zeros(len(table_BS), np.uint8)
            symbol_B[:num] = decoder.take(self._frequencies(table_BS[:num]))
            return symbol_B

        try:
            context = conditions.read(self.kinds, self.model.context_spec, num, decoder)
            order_N = decoder.take_uniform(num, self._num_orders).astype(np.int64)
            images_NCHW = turned_arrays_back(self._through(num, context, order_N, code), order_N)
        except (Undecodable, UserError) as error:  # noise as a context, or parameters that are not finite, are a way to be wrong, too
            raise WrongTables(str(error)) from error
        if _digest(images_NCHW, context) != block.digest:
            raise WrongTables("the checksum of the images differs")
        return images_NCHW, context

    def _check_num(self, num: int) -> None:
        if not 1 <= num <= self.way.width:
            raise ValueError(f"a block of {num} images given to a codec of {self.way.width}")

    @property
    def _num_orders(self) -> int:
        """Orders that there are to choose from: pixels of a small image are those of the raster order alone."""
        spec = self.model.context_spec
        return spec.num_orders if spec.small is None else 1

    def _likeliest(self, images_NCHW: UInt8, context: Context | None) -> Int64:
        """The order by which each image is likeliest. What rounds here decides what is chosen, and not whether it is decoded."""
        if self._num_orders == 1:
            return np.zeros(len(images_NCHW), np.int64)
        chosen = []
        with torch.inference_mode(), threads(self.way.threads), products("ieee", self.model.device):
            for start in range(0, len(images_NCHW), _SCORED_AT_ONCE):
                part = slice(start, start + _SCORED_AT_ONCE)
                given = None if context is None else context.rows(part).to(self.model.device)
                x_BCHW = torch.from_numpy(images_NCHW[part]).to(self.model.device)
                chosen.append(log_probs_of_orders(self.model, x_BCHW, given).argmax(1).cpu().numpy())
        return np.concatenate(chosen)

    def _frequencies(self, table_BS: Array) -> Float32:
        return frequencies(table_BS, self.way.table_bits)

    def _through(self, num: int, context: Context | None, order_N: Int64, code: Code) -> UInt8:
        """Every sub-pixel of the images, each turned as its order has it: `code` is given its tables and gives its symbols.

        Pixels that are given stay.

        All is as wide as the way is, whatever `num`: blank images, given what the first one is, fill it up.
        """
        model, width = self.model, self.way.width
        index_B = torch.tensor([*range(num), *[0] * (width - num)])
        given: Given = None if context is None else context.rows(index_B).to(model.device)
        x_BCHW = torch.zeros(width, *model.spec.shape, dtype=torch.uint8, device=model.device)
        known_HW = np.zeros(model.spec.shape[1:], np.bool_)
        if self._num_orders > 1:
            given = in_order(given, torch.from_numpy(order_N)[index_B].to(model.device))
        pixels = given_pixels(given, model.context_spec.small, model.spec)
        if pixels is not None:
            known_HW |= self._mask(pixels.mask_BHW)
            x_BCHW = torch.where(pixels.mask_BHW[:, None], pixels.x_BCHW, x_BCHW.long()).to(torch.uint8)
        with torch.inference_mode(), threads(self.way.threads), products("ieee", model.device):
            for stage, passes in self._stages:
                self._through_stage(stage, passes, x_BCHW, known_HW, stage.context(given, x_BCHW), code)
                known_HW[:: stage.every, :: stage.every] = True
        images_NCHW: UInt8 = x_BCHW[:num].cpu().numpy()
        return images_NCHW

    def _mask(self, mask_BHW: Tensor) -> npt.NDArray[np.bool_]:
        """Pixels that are given, of every image or of none."""
        if (mask_BHW != mask_BHW[:1]).any():
            raise UserError("some images of a block are given small images and some are not; give all of them one, or none")
        mask_HW: npt.NDArray[np.bool_] = mask_BHW[0].cpu().numpy()
        return mask_HW

    def _through_stage(
        self, stage: Stage, passes: Passes, x_BCHW: Tensor, known_HW: npt.NDArray[np.bool_], context: Any, code: Code
    ) -> None:
        """A stage's pixels, row by row, written into the images."""
        model, every = stage.model, stage.every
        canvas = passes.start(len(x_BCHW), context)
        for r in range(model.spec.height):
            canvas.num_rows = r
            passes.row(canvas)
            for c in range(model.spec.width):
                row, column = r * every, c * every
                for channel in range(model.spec.channels):
                    if channel < model.num_groups:
                        tables = model.likelihood.tables(self._on_grid(passes.pixel(canvas, c, channel)))
                    if known_HW[row, column]:
                        level_B = x_BCHW[:, channel, row, column]
                    else:
                        levels = _coded(Place(channel, row, column), tables, canvas.x_BWC[:, c], model.spec.levels, code)
                        level_B = torch.from_numpy(levels).to(x_BCHW.device)
                        x_BCHW[:, channel, row, column] = level_B
                    passes.put(canvas, c, channel, level_B)
            passes.commit(canvas)

    def _on_grid(self, params_BP: Tensor) -> Tensor:
        if not self.way.grid_bits:
            return params_BP
        return torch.round(params_BP * 2.0**self.way.grid_bits) * 2.0**-self.way.grid_bits


def _coded(place: Place, tables: Tables, x_BC: Tensor, num_levels: int, code: Code) -> UInt8:
    """A sub-pixel's levels, B: the groups of levels first where there are such."""
    size, groups_BS = tables.group_size, tables.groups(place.channel, x_BC)
    if groups_BS is None:
        return code(place, 1, tables.levels(place.channel, x_BC, None))
    group_B = code(place, size, groups_BS)
    level_B = group_B.astype(np.int64) * size  # the first of the group
    if (level_B < num_levels).all():
        level_B += code(place, 1, tables.levels(place.channel, x_BC, group_B))
    if (level_B >= num_levels).any():
        raise Undecodable("a level that there is not")
    return level_B.astype(np.uint8)


def _digest(images_NCHW: UInt8, context: Context | None) -> bytes:
    """Of all images and all that they are conditioned on."""
    digest = hashlib.sha256(np.ascontiguousarray(images_NCHW).tobytes())
    for name in conditions.KINDS:
        value = getattr(context, name, None)
        if value is not None:
            digest.update(name.encode() + value.cpu().numpy().tobytes())
    return digest.digest()[:DIGEST_BYTES]
