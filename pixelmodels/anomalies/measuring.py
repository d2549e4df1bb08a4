"""What is measured of each image, by actors over the cluster: nats by each order and by the background model, bits of other codes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from pixelmodels.anomalies.codecs import Complexity
from pixelmodels.anomalies.level_code import level_bits
from pixelmodels.anomalies.sources import Source
from pixelmodels.data.rows import Rows
from pixelmodels.errors import UserError, listed
from pixelmodels.evaluation.actors import Actors
from pixelmodels.evaluation.batches import to_tensors
from pixelmodels.evaluation.nats import OF_ORDERS
from pixelmodels.evaluation.scores import mixed_nats, score_orders
from pixelmodels.likelihoods.bits import bits_per_dim
from pixelmodels.models import ContextSpec, PixelModel
from pixelmodels.models.orders import log_prob_map_of_order
from pixelmodels.progress import counting

Float64 = npt.NDArray[np.float64]
BACKGROUND, CODEC, LEVELS = "background_nats", "codec_bits", "level_bits"


@dataclass(frozen=True)
class Measured:
    """Images of one set, sorted by key."""

    keys: list[str]
    labels: list[int | None]  # of images that have one
    nats_NK: Float64  # negative log-likelihood by each order
    codec_bits_N: Float64  # of the best codec, beyond a blank image's
    level_bits_N: Float64  # of the levels alone, wherever they are
    background_nats_N: Float64 | None = None  # negative log-likelihood under the background model; None: there is none
    rejected: dict[str, str] = field(default_factory=dict)  # inputs that are no images, and why
    num_fitted: int = 0  # images that were of another size

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def nats_N(self) -> Float64:
        """Negative log-likelihood of each image: of the mixture of all orders."""
        return mixed_nats(self.nats_NK)


@dataclass(frozen=True)
class Instruments:
    """What images are measured by, in one process."""

    model: PixelModel
    background: PixelModel | None
    complexity: Complexity
    with_context: bool = True  # whether conditional models are given all that they are conditioned on

    def __call__(self, rows: Rows) -> dict[str, Float64]:
        """Numbers of some images by the names of their columns: N, and N K of the nats by each order."""
        found = {
            OF_ORDERS: self._nats(self.model, rows),
            CODEC: self.complexity(rows.images_NCHW),
            LEVELS: level_bits(rows.images_NCHW, self.model.spec.levels),
        }
        if self.background is not None:
            found[BACKGROUND] = mixed_nats(self._nats(self.background, rows))
        return found

    def _nats(self, model: PixelModel, rows: Rows) -> Float64:
        return score_orders(model, rows, model.device, with_context=self.with_context)


class Meter:
    """An actor that measures batches of rows."""

    def __init__(self, actors: Actors, source: Source, codecs: Sequence[str], background: Actors | None) -> None:
        self._source = source
        model, other = (None if one is None else one.model().to(one.device) for one in (actors, background))
        assert model is not None
        self._measure = Instruments(model, other, Complexity(codecs, model.spec), actors.with_context)

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Rows with images to rows of numbers; those without an image keep their reason, and have no numbers."""
        has_image_N = batch["image"].is_valid().to_numpy()
        whole, num = batch.filter(pa.array(has_image_N)), len(batch)
        columns = {"key": batch["key"]}
        nothing = {"label": pa.nulls(num, pa.int32()), "reason": pa.nulls(num, pa.string()), "is_fitted": pa.array(np.zeros(num, np.bool_))}
        columns |= {name: batch[name] if name in batch.column_names else empty for name, empty in nothing.items()}
        found = self._measure(self._source.rows(whole)) if len(whole) else {}
        num_orders = self._measure.model.context_spec.num_orders
        for name, shape in ((OF_ORDERS, (num, num_orders)), (CODEC, (num,)), (LEVELS, (num,)), (BACKGROUND, (num,))):
            values = np.full(shape, np.nan)
            values[has_image_N] = found.get(name, np.nan)
            columns[name] = pa.FixedSizeListArray.from_arrays(values.ravel(), num_orders) if name == OF_ORDERS else pa.array(values)
        return pa.table(columns)


def measure(source: Source, actors: Actors, codecs: Sequence[str], background: Actors | None = None) -> Measured:
    """Measure all images of a set by Ray Data. Raises `UserError` where there is none, or a likelihood is no number."""
    rows = actors.over(source.stream(), source.num_blocks, Meter, actors, source, codecs, background)
    batches: list[pa.Table] = []
    with counting("scoring", source.num, "images") as advance:
        for batch in rows.iter_batches(batch_size=None, batch_format="pyarrow"):
            batches.append(batch)
            advance(len(batch))
    table = pa.concat_tables(batches).sort_by("key")
    if len(table) != source.num:
        raise RuntimeError(f"{len(table)} inputs were measured, '{source.name}' has {source.num}")
    return measured_of(table, source.name, has_background=background is not None)


def measured_of(table: pa.Table, name: str, *, has_background: bool) -> Measured:
    """What a table of `Meter`'s rows says of the set of this name; raises `UserError` as `measure` does."""
    no_images = table.filter(table["reason"].is_valid())
    rejected = dict(zip(no_images["key"].to_pylist(), no_images["reason"].to_pylist(), strict=True))
    table = table.filter(table["reason"].is_null())
    if not len(table):
        some = "; ".join(f"{key} ({reason})" for key, reason in list(rejected.items())[:3])
        raise UserError(f"'{name}' has no images{f': {some}' if some else ''}; give a set that has some")
    keys, nats_NK = table["key"].to_pylist(), np.array(table[OF_ORDERS].to_pylist(), np.float64)
    background_N = table[BACKGROUND].to_numpy().astype(np.float64) if has_background else None
    for whose, values in (("the model", nats_NK), ("the background model", background_N)):
        if values is not None and not np.isfinite(values).all():
            strange = [keys[place] for place in np.unique(np.nonzero(~np.isfinite(values))[0])]
            raise UserError(f"{whose} gives '{name}' likelihoods that are not finite ({listed(strange, 3)}); give another checkpoint")
    return Measured(
        keys=keys,
        labels=table["label"].to_pylist(),
        nats_NK=nats_NK,
        codec_bits_N=table[CODEC].to_numpy().astype(np.float64),
        level_bits_N=table[LEVELS].to_numpy().astype(np.float64),
        background_nats_N=background_N,
        rejected=rejected,
        num_fitted=int(np.count_nonzero(table["is_fitted"].to_numpy())),
    )


def bit_maps(model: PixelModel, rows: Rows, device: torch.device, *, with_context: bool = True, batch_size: int = 128) -> Float64:
    """Bits of each pixel of some images (all its channels), N H W; the mean over the orders, as their mixture has none of a pixel."""
    parts = [rows.part(start, start + batch_size) for start in range(0, len(rows), batch_size)]
    return np.concatenate([_bit_maps(model, part, device, with_context=with_context) for part in parts])


@torch.no_grad()
def _bit_maps(model: PixelModel, rows: Rows, device: torch.device, *, with_context: bool) -> Float64:
    x_BCHW, context = to_tensors(rows, device, model.context_spec if with_context else ContextSpec())
    maps = [log_prob_map_of_order(model, x_BCHW, context, order=order) for order in range(model.context_spec.num_orders)]
    found: Float64 = bits_per_dim(-torch.stack(maps).double().mean(0), 1).cpu().numpy()
    return found
