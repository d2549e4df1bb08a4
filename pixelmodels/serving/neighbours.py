"""Nearest neighbours of an image among the training images, by what a layer of the model makes of them: did it copy?

An image is its pooled activations (`evaluation.probes.pool`), without context; distances are Euclidean. What counts as near is told by the
test images: each one's own distance to its nearest training image.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pixelmodels.data import Dataset
from pixelmodels.evaluation.probes import pool
from pixelmodels.models import PixelModel
from pixelmodels.products import products
from pixelmodels.serving.archive import levels_of, reading, shown_images, spread
from pixelmodels.serving.refusals import invalid
from pixelmodels.serving.schemas import Neighbour, Neighbours
from pixelmodels.shapes import ImageSpec

MOST_TRAIN, MOST_TEST = 10_000, 500  # images whose features are compared, spread evenly over the split
MOST_NUMBERS = 1 << 24  # of the features of training images that are held for a layer
HELD = 2  # layers whose features are held

Float32 = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Known:
    """Training images by a layer, and how far test images are from them."""

    places_M: npt.NDArray[np.int64]  # of the training images in their split
    h_MD: Float32
    distances_T: npt.NDArray[np.float64]  # of each test image to its nearest training image, in increasing order


class Index:
    """Features of training images, held for the layers that were asked for last. May be used from several threads."""

    def __init__(self) -> None:
        self._held: OrderedDict[tuple[str, str], Known] = OrderedDict()
        self._lock = threading.Lock()

    def find(self, address: str, layer: str) -> Known | None:
        """What is held of a layer of a version."""
        with self._lock:
            if (address, layer) in self._held:
                self._held.move_to_end((address, layer))
            return self._held.get((address, layer))

    def keep(self, address: str, layer: str, known: Known) -> None:
        """Hold it, and let go of what was not asked for since."""
        with self._lock:
            self._held[address, layer] = known
            while len(self._held) > HELD:
                self._held.popitem(last=False)


def layer_of(model: PixelModel, asked: str | None) -> tuple[str, tuple[str, ...]]:
    """The layer that is asked for (None: the last), and all there are; raises `Refused`."""
    names = model.feature_names()
    if asked is not None and asked not in names:
        raise invalid(f"layer '{asked[:100]}' unknown; have {', '.join(names)}", "layer")
    return asked or names[-1], names


def read_images(model: PixelModel, dataset: Dataset, address: str) -> tuple[Tensor, npt.NDArray[np.int64], int]:
    """Training images and then test images, N C H W, the places of the training images, and how many test images follow them.

    Raises `Refused` where they are not the images of the version at the address, or cannot be read.
    """
    if dataset.spec != model.spec:
        raise invalid(f"the data set's images are {_size(dataset.spec)}, the model's {_size(model.spec)}", "model")
    parts, places = [], []
    for split, most in (("train", MOST_TRAIN), ("test", MOST_TEST)):
        places_M = spread(dataset.num_images(split), most, model.spec)
        with reading(address):
            parts.append(levels_of(dataset, split, dataset.at(split, places_M), places_M))
        places.append(places_M)
    return torch.from_numpy(np.concatenate(parts)), places[0], len(places[1])


def _size(spec: ImageSpec) -> str:
    return f"{spec.channels}x{spec.height}x{spec.width} of {spec.levels} levels"


@torch.inference_mode()
def features(model: PixelModel, x_BCHW: Tensor, layer: str) -> Float32:
    """Pooled activations of images after a layer, B D."""
    with products("ieee", model.device):
        found = model.all_features(x_BCHW.to(model.device), each=pool)
    h_BD: Float32 = found[layer].float().cpu().numpy()
    return h_BD


def known_of(h_ND: Float32, places_M: npt.NDArray[np.int64], num_test: int) -> Known:
    """From the features of training images, and of the test images that follow them."""
    num_train = len(h_ND) - num_test
    most = max(1, MOST_NUMBERS // max(1, h_ND.shape[1]))
    h_MD = h_ND[:num_train][:: -(-num_train // most)] if num_train else h_ND[:0]
    places_M = places_M[:: -(-num_train // most)] if num_train else places_M
    nearest = [float(distances(h_D, h_MD).min()) for h_D in h_ND[num_train:]] if len(h_MD) else []
    return Known(places_M, h_MD, np.sort(np.asarray(nearest, np.float64)))


def distances(h_D: Float32, h_MD: Float32) -> npt.NDArray[np.float64]:
    """Euclidean distances of an image's features to those of others, M."""
    found_M: npt.NDArray[np.float64] = np.sqrt(((h_MD - h_D) ** 2).sum(1, dtype=np.float64))
    return found_M


def nearest(known: Known, h_D: Float32, n: int, dataset: Dataset, told: tuple[str, str, tuple[str, ...]]) -> Neighbours:
    """The `n` nearest training images; raises `Refused` where there are none. `told` are the version, the layer, all layers."""
    if not len(known.h_MD):
        raise invalid("the data set has no training images", "model")
    away_M = distances(h_D, known.h_MD)
    chosen = np.argsort(away_M, kind="stable")[:n]
    model, layer, layers = told
    with reading(model):
        images = {one.index: one for one in shown_images(dataset, "train", np.sort(known.places_M[chosen]))}
    found = [Neighbour(distance=float(away_M[index]), **images[int(known.places_M[index])].model_dump()) for index in chosen]
    return Neighbours(
        model=model,
        layer=layer,
        layers=list(layers),
        num_train=len(known.h_MD),
        num_train_of=dataset.num_images("train"),
        num_test=len(known.distances_T),
        test_percentiles=np.percentile(known.distances_T, np.arange(101)).tolist() if len(known.distances_T) else [],
        share_of_test_nearer=float((known.distances_T < away_M.min()).mean()) if len(known.distances_T) else None,
        neighbours=found,
    )
