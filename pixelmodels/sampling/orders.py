"""By which order an image is drawn: the one asked for, the one that fits what is known of it, or one drawn from its own seed."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pixelmodels.models import PixelModel
from pixelmodels.models.turns import best_order


def order_of_image(
    model: PixelModel, seed: int, index: int, known_HW: npt.NDArray[np.bool_] | None = None, asked: int | None = None
) -> int:
    """The order of image `index` of a seed, a function of these arguments and of the kind of model alone.

    Without any that is asked for: where pixels are known the order in which these come first (`best_order`), else any with the same
    probability, so that the image is one of the mixture of all orders.
    """
    num_orders = model.context_spec.num_orders
    if asked is not None or num_orders == 1:
        return asked or 0
    if known_HW is not None and known_HW.any():
        return best_order(known_HW, model.pixel_ranks().cpu().numpy(), num_orders)
    stream = np.random.SeedSequence(seed, spawn_key=(index, 0))  # beside the stream of the image's noise, whose key is (index,)
    return int(stream.generate_state(1, np.uint64)[0]) % num_orders
