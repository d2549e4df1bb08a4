"""What was kept of versions that are served: their data set, and what their test images cost. Everything here may take long."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pixelmodels.anomalies.level_code import arrangement, level_bits
from pixelmodels.data import FIXED_EPOCH, Dataset, Split, binarize_dynamic
from pixelmodels.data.dataset import DATASETS
from pixelmodels.errors import UserError, first_line
from pixelmodels.evaluation.nats import TEST_NATS, ImageNats, read_nats
from pixelmodels.evaluation.scores import standard_error
from pixelmodels.models.class_names import told
from pixelmodels.runs.result import run_folder
from pixelmodels.serving import pngs
from pixelmodels.serving.refusals import NOT_LOADED, Refused, invalid
from pixelmodels.serving.schemas import Shown, ShownImage, TestScores
from pixelmodels.shapes import ImageSpec
from pixelmodels.storage import Storage
from pixelmodels.tracking import Tracker
from pixelmodels.tracking.artifacts import download, names_in
from pixelmodels.tracking.client import find, is_of_mlflow, tracking_failure
from pixelmodels.tracking.versions import Version, version_of

Float64 = npt.NDArray[np.float64]
SPLITS = ("train", "validation", "test")
NUM_BARS = 50  # of a histogram
MOST_NORMAL = 10_000  # test images that others are held against, spread evenly over the split
MOST_SUBPIXELS = 1 << 28  # of images that are read at once
NOT_SHOWN = "this service shows no images of its data sets; whoever runs it may start it with --show-data"


class Archive:
    """Data sets and tests of the versions in a registry (none: of a folder, of which nothing is known)."""

    def __init__(self, storage: str, tracker: Tracker | None, *, show_data: bool):
        self._storage, self._tracker, self._show_data = Storage(storage), tracker, show_data
        self._nats, self._normal = lru_cache(8)(self._read_nats), lru_cache(8)(self._read_normal)

    def test_scores(self, address: str) -> TestScores:
        """What the test images cost a version, name/version, as a histogram; raises `Refused` where nobody kept it."""
        bits_N = self._nats(address).bits_per_dim_N
        finite_N = bits_N[np.isfinite(bits_N)]
        if not len(finite_N):
            raise _gone(address, "its test has no finite scores; train it again")
        counts, edges = np.histogram(finite_N, NUM_BARS)
        return TestScores(
            model=address,
            num_images=len(bits_N),
            mean=float(finite_N.mean()),
            stderr=standard_error(finite_N),
            counts=counts.tolist(),
            edges=edges.tolist(),
            percentiles=np.percentile(finite_N, np.arange(101)).tolist(),
        )

    def normal(self, address: str) -> Float64:
        """The score `arrangement` (docs/anomalies.md) of test images of a version, bits; raises `Refused` where it cannot be told."""
        return self._normal(address)

    def dataset(self, address: str) -> Dataset:
        """The data set that a version was trained on; raises `Refused` where it is not in the storage root."""
        name = self._version(address).dataset
        if not re.fullmatch(r"[\w.\-]+", name):
            raise _gone(address, "its data set is not recorded; register it again with the tag dataset")
        with reading(address):
            return Dataset.load(self._storage, f"{DATASETS}/{name}")

    def check_shows(self) -> None:
        """Raise `Refused` where no images of data sets may be shown."""
        if not self._show_data:
            raise Refused(403, "not_shown", NOT_SHOWN)

    def shown(self, address: str, split: str, first: int, n: int) -> Shown:
        """Some images of the data set of a version, as the model sees them; raises `Refused`."""
        self.check_shows()
        if split not in SPLITS:
            raise invalid(f"split '{split[:100]}' unknown; have {', '.join(SPLITS)}", "split")
        dataset = self.dataset(address)
        total = dataset.num_images(split)
        places_M = np.arange(min(first, total), min(first + n, total))
        with reading(address):
            images = shown_images(dataset, split, places_M)
        return Shown(model=address, dataset=dataset.name, split=split, first=first, total=total, images=images)

    def _version(self, address: str) -> Version:
        if self._tracker is None:
            raise _gone(address, "the service serves a folder; serve a registered model to have its data set and test beside it")
        try:
            return version_of(self._tracker, *address.split("/"))
        except UserError as error:
            raise _gone(address, str(error)) from None
        except Exception as error:
            raise self._trouble(error) from error

    def _read_nats(self, address: str) -> ImageNats:
        version = self._version(address)
        try:
            return read_nats(self._nats_file(version))
        except ValueError as error:
            raise _gone(address, f"{TEST_NATS} of its run is damaged ({error}); train it again") from None

    def _read_normal(self, address: str) -> Float64:
        dataset, nats = self.dataset(address), self._nats(address)
        places_M = spread(dataset.num_images("test"), MOST_NORMAL, dataset.spec)
        with reading(address):
            found = dataset.at("test", places_M)
        try:
            nats_M = nats.at(found.keys)
        except KeyError as error:
            raise _gone(address, f"its {TEST_NATS} has no test image {error} of its data set; train it again") from None
        normal_M = arrangement(nats_M, level_bits(levels_of(dataset, "test", found, places_M), dataset.spec.levels))
        if not len(normal_M) or not np.isfinite(normal_M).all():
            raise _gone(address, "its test has no scores, or some that are not finite; train it again")
        return normal_M

    def _nats_file(self, version: Version) -> bytes:
        """The table of the test's nats: in the run's folder, else among the files of its MLflow run."""
        tracker = self._tracker
        assert tracker is not None
        try:
            run = find(lambda: tracker.client.get_run(version.run_id)) if version.run_id else None
            if run is not None:
                key = run.data.tags.get("pixelmodels.run_key", "")
                place = f"{run_folder(version.recipe, key)}/{TEST_NATS}"
                if re.fullmatch(r"[0-9a-f]+", key) and "/" not in version.recipe and self._storage.is_file(place):
                    return self._storage.read_bytes(place)
                if TEST_NATS in names_in(tracker.uri, run.info.artifact_uri):
                    with tempfile.TemporaryDirectory() as folder:
                        return download(tracker.uri, run.info.artifact_uri, TEST_NATS, Path(folder)).read_bytes()
        except OSError as error:
            raise Refused(503, NOT_LOADED, f"{TEST_NATS} cannot be read now ({error}); try again", "model", 5.0) from error
        except Exception as error:
            raise self._trouble(error) from error
        raise _gone(f"{version.name}/{version.number}", f"its run kept no {TEST_NATS}; train it again")

    def _trouble(self, error: Exception) -> Exception:
        """What is told where the registry does not answer; other errors as they are."""
        if self._tracker is None or not is_of_mlflow(error):
            return error
        return Refused(503, NOT_LOADED, str(tracking_failure(self._tracker.uri, error)), "model", 5.0)


def spread(total: int, most: int, spec: ImageSpec) -> npt.NDArray[np.int64]:
    """Places of images of a split, in increasing order: all of them, or `most`, or as many as may be read at once."""
    count = min(total, most, max(1, MOST_SUBPIXELS // spec.num_subpixels))
    return np.arange(count) * total // max(1, count)


def shown_images(dataset: Dataset, split: str, places_M: npt.NDArray[np.int64]) -> list[ShownImage]:
    """Images at some places of a split, in increasing order, as PNG files with their classes and keys."""
    found = dataset.at(split, places_M)
    images_MCHW = levels_of(dataset, split, found, places_M)
    labels = [-1] * len(places_M) if found.labels_N is None else found.labels_N.tolist()
    names = dataset.label_names
    return [
        ShownImage(
            index=int(place),
            key=told(key),
            label=label if label >= 0 else None,
            label_name=told(names[label]) if 0 <= label < len(names) else None,
            image=pngs.base64_png(image_CHW, dataset.spec.levels),
        )
        for place, key, label, image_CHW in zip(places_M, found.keys, labels, images_MCHW, strict=True)
    ]


def levels_of(dataset: Dataset, split: str, found: Split, places_M: npt.NDArray[np.int64]) -> pngs.UInt8:
    """Images of a split as levels: where training images are stored grey, to be drawn anew each epoch, they are drawn once."""
    if split == "train" and dataset.train_images_are_grey:
        return binarize_dynamic(found.images_NCHW, seed=0, epoch=FIXED_EPOCH, indices_N=places_M)
    return found.images_NCHW


@contextmanager
def reading(address: str) -> Iterator[None]:
    """Around what reads the data set of a version: raises `Refused` where that is damaged, or cannot be read now."""
    try:
        yield
    except UserError as error:
        raise _gone(address, str(error)) from None
    except OSError as error:
        raise Refused(503, NOT_LOADED, f"its data set cannot be read now ({first_line(error)}); try again", "model", 5.0) from error


def _gone(address: str, why: str) -> Refused:
    return Refused(404, "not_kept", f"nothing is kept of {address}: {why}", "model")
