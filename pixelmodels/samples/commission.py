"""What is to be drawn, image by image: the requests of any of its images, so that blocks of them may be drawn anywhere."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pixelmodels.models import Context, ContextBlend, ContextSpec, PixelModel
from pixelmodels.models.class_names import names_of, told
from pixelmodels.sampling import Request
from pixelmodels.sampling.request import checked
from pixelmodels.sampling.resampling import Dream

Int64 = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Commission:
    """Image i is a function of the model, `noise_N[i]`, the options, row `row_N[i]` of the context, and given image i // `samples_each`."""

    noise_N: Int64  # each image's number in the seed's stream
    row_N: Int64  # which row of the context each image is given
    seed: int = 0  # of the noise
    guidance: float = 0.0  # as in `Request`, and so are the next two
    temperature: float = 1.0
    top_p: float = 1.0
    context: Context | ContextBlend | None = None  # of as many images as are told apart
    originals_MCHW: Tensor | None = None  # levels: the images that are completed, or whose context is given
    samples_each: int | None = None  # images drawn of each given image, one after the other; None: no image is given
    known_HW: Tensor | None = None  # which pixels of the originals are known, booleans; None: they are not completed
    order: int | None = None  # by which all images are drawn, of a model of several; None: chosen image by image, as in `Request`
    sweeps: int = 0  # over the pixels that are not known, as in `Request`
    dream: Dream | None = None  # of each image; it begins with the originals where there are any of which nothing is said to be known
    columns: int | None = None  # images a row of the picture; None: as square as it can be

    @property
    def n(self) -> int:
        """Images."""
        return len(self.noise_N)

    def class_names(self, spec: ContextSpec) -> list[str]:
        """The name of each image's class, empty where it has none, or the model does not know it; of a blend only at its two ends."""
        if isinstance(self.context, ContextBlend):
            ends = zip(names_of(self.context.first, spec), names_of(self.context.second, spec), strict=True)
            shares = self.context.share_B.tolist()
            names = [start if share == 0 else end if share == 1 else "" for share, (start, end) in zip(shares, ends, strict=True)]
        else:
            names = names_of(self.context, spec)
        return [names[row] for row in self.row_N] if names else [""] * self.n

    @property
    def original_N(self) -> Int64:
        """Which original each image belongs to."""
        assert self.samples_each is not None
        return np.arange(self.n) // self.samples_each

    def requests(self, start: int, stop: int) -> list[Request]:
        """Requests for images `start`..`stop` - 1, in their order: one for each run of numbers in the stream."""
        breaks = np.flatnonzero(np.diff(self.noise_N[start:stop]) != 1) + 1
        return [self._request(first, end) for first, end in pairwise([start, *(start + int(at) for at in breaks), stop])]

    def _request(self, start: int, stop: int) -> Request:
        rows = torch.from_numpy(self.row_N[start:stop])
        known_NCHW = known_mask_NHW = None
        if self.known_HW is not None and self.originals_MCHW is not None:
            known_NCHW = self.originals_MCHW[torch.from_numpy(self.original_N[start:stop])]
            known_mask_NHW = self.known_HW[None]
        start_NCHW = None
        if self.dream is not None and self.originals_MCHW is not None and self.known_HW is None:
            start_NCHW = self.originals_MCHW[torch.from_numpy(self.original_N[start:stop])]
        return Request(
            n=stop - start,
            seed=self.seed,
            first=int(self.noise_N[start]),
            context=None if self.context is None else self.context.rows(rows),
            guidance=self.guidance,
            temperature=self.temperature,
            top_p=self.top_p,
            known_NCHW=known_NCHW,
            known_mask_NHW=known_mask_NHW,
            order=self.order,
            sweeps=self.sweeps,
            dream=self.dream,
            start_NCHW=start_NCHW,
        )

    def orders_N(self, model: PixelModel) -> Int64:
        """By which order each image is drawn."""
        if model.context_spec.num_orders == 1:
            return np.zeros(self.n, np.int64)
        return np.array([request.order_of(model, image) for request in self.requests(0, self.n) for image in range(request.n)], np.int64)

    def check(self, model: PixelModel) -> None:
        """Raise `UserError` for what does not fit the model or is out of range."""
        for request in self.requests(0, self.n):
            checked(model, request)

    def arrays(self, model: PixelModel) -> dict[str, npt.NDArray[np.generic]]:
        """What each image was given, by name: a row for each image, its kinds as `Context` names them; and the names of the labels.

        Of a model of several orders also by which one each image is drawn.
        """
        found: dict[str, npt.NDArray[np.generic]] = {}
        spec = model.context_spec
        if isinstance(self.context, Context):
            context = self.context
            given = {"label_N": context.label_B, "vector_NV": context.vector_BV}
            given |= {"given_image_NCHW": context.image_BCHW, "given_small_NCHW": context.small_BCHW}
            found = {name: _plain(value)[self.row_N] for name, value in given.items() if value is not None}
            if context.label_B is not None and spec.class_names:
                found["class_names"] = np.array([told(name) for name in spec.class_names])
        if self.originals_MCHW is not None:
            found["originals_NCHW"] = _plain(self.originals_MCHW)[self.original_N]
        if self.known_HW is not None:
            found["known_HW"] = self.known_HW.numpy()
        if spec.num_orders > 1:
            found["order_N"] = self.orders_N(model)
        return found


def _plain(value: Tensor) -> npt.NDArray[np.generic]:
    """An array; levels (which are 0..255) as bytes, like those of the samples."""
    array: npt.NDArray[np.generic] = value.numpy()
    return array.astype(np.uint8) if array.ndim == 4 else array
