"""What is measured of each image, by actors over the cluster: nats by each order, nats by the background model, bits of the best codec."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from pixelmodels.anomalies.codecs import Complexity
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

Float64 = npt.NDArray[np.float64]
BACKGROUND, CODEC = "background_nats", "codec_bits"


@dataclass(frozen=True)
class Measured:
    """Images of one set, sorted by key."""

    keys: list[str]
    labels: list[int | None]  # of images that have one
    nats_NK: Float64  # negative log-likelihood by each order
    codec_bits_N: Float64  # of the best codec, beyond a blank image's
    background_nats_N: Float64 | None = None  # negative log-likelihood under the background model; None: there is none
    rejected: dict[str, str] = field(default_factory=dict)  # inputs that are no images, and why
    num_fitted: int = 0  # images that were of another size

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def nats_N(self) -> Float64:
        """Negative log-likelihood of each image: of the mixture of all orders."""
        return mixed_nats(self.nats_NK)


def numbers(
    rows: Rows, model: PixelModel, complexity: Complexity, background: PixelModel | None, device: torch.device, *, with_context: bool = True
) -> tuple[Float64, Float64, Float64 | None]:
    """Of some images: nats by each order, N K; bits of the best codec, N; nats by the background model, N, where there is one."""
    nats_NK = score_orders(model, rows, device, with_context=with_context)
    background_N = None if background is None else mixed_nats(score_orders(background, rows, device, with_context=with_context))
    return nats_NK, complexity(rows.images_NCHW), background_N


class Meter:
    """An actor that holds the models and measures batches of rows."""

    def __init__(self, actors: Actors, source: Source, codecs: Sequence[str], background: Actors | None) -> None:
        self._actors, self._source = actors, source
        self._model = actors.model().to(actors.device)
        self._background = None if background is None else background.model().to(actors.device)
        self._complexity = Complexity(codecs, self._model.spec)

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Rows with images to rows of numbers; those without an image keep their reason, and have no numbers."""
        has_image_N = batch["image"].is_valid().to_numpy()
        whole = batch.filter(pa.array(has_image_N))
        num, num_orders = len(batch), self._model.context_spec.num_orders
        nats_NK, bits_N, background_N = np.full((num, num_orders), np.nan), np.full(num, np.nan), np.full(num, np.nan)
        if len(whole):
            actors = self._actors
            found = numbers(
                self._source.rows(whole), self._model, self._complexity, self._background, actors.device, with_context=actors.with_context
            )
            nats_NK[has_image_N], bits_N[has_image_N] = found[:2]
            background_N[has_image_N] = np.nan if found[2] is None else found[2]
        nothing = {"label": pa.nulls(num, pa.int32()), "reason": pa.nulls(num, pa.string()), "is_fitted": pa.array(np.zeros(num, np.bool_))}
        return pa.table(
            {
                "key": batch["key"],
                **{name: batch[name] if name in batch.column_names else empty for name, empty in nothing.items()},
                OF_ORDERS: pa.FixedSizeListArray.from_arrays(nats_NK.ravel(), num_orders),
                BACKGROUND: background_N,
                CODEC: bits_N,
            }
        )


def measure(source: Source, actors: Actors, codecs: Sequence[str], background: Actors | None = None) -> Measured:
    """Measure all images of a set by Ray Data. Raises `UserError` where there is none, or a likelihood is no number."""
    rows = actors.over(source.stream(), source.num_blocks, Meter, actors, source, codecs, background)
    table = pa.concat_tables(list(rows.iter_batches(batch_size=None, batch_format="pyarrow"))).sort_by("key")
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
        background_nats_N=background_N,
        rejected=rejected,
        num_fitted=int(np.count_nonzero(table["is_fitted"].to_numpy())),
    )


@torch.no_grad()
def bit_maps(model: PixelModel, rows: Rows, device: torch.device, *, with_context: bool = True) -> Float64:
    """Bits of each pixel of some images (all its channels), N H W; the mean over the orders, as their mixture has none of a pixel."""
    x_BCHW, context = to_tensors(rows, device, model.context_spec if with_context else ContextSpec())
    maps = [log_prob_map_of_order(model, x_BCHW, context, order=order) for order in range(model.context_spec.num_orders)]
    found: Float64 = bits_per_dim(-torch.stack(maps).double().mean(0), 1).cpu().numpy()
    return found
