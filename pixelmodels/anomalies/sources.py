"""The images that are looked at, as rows for Ray Data: a split of a prepared data set, or image files of any size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from pixelmodels.data import FIXED_EPOCH, SPLITS, Dataset, DatasetConfig, binarize_dynamic, decode_rows, find_dataset, quantize
from pixelmodels.data.dataset import DATASETS
from pixelmodels.data.decoding import BadImage, decode, read_header
from pixelmodels.data.encoded import BYTES_PER_PIXEL
from pixelmodels.data.quantization import UInt8
from pixelmodels.data.rows import Rows
from pixelmodels.data.source import files_below, unreadable
from pixelmodels.data.splits import draw_indices
from pixelmodels.data.streaming import rows_of
from pixelmodels.errors import UserError, first_line, listed
from pixelmodels.shapes import ImageSpec
from pixelmodels.storage import Storage, why

FILES_AT_ONCE = 64  # that one task decodes
MOST_PIXELS = DatasetConfig().max_pixels


class Source(Protocol):
    """Images of a model's shape and levels; picklable."""

    @property
    def name(self) -> str:
        """What messages call it."""

    @property
    def num(self) -> int:
        """Inputs, those that are no images among them."""

    @property
    def num_blocks(self) -> int:
        """Tasks that read it."""

    def stream(self) -> Any:
        """A Ray Data set with columns key and image (bytes); label and vector where there are any; of files also reason and is_fitted."""

    def rows(self, batch: pa.Table) -> Rows:
        """The images of such rows, all of which have one."""

    def rows_at(self, keys: Sequence[str]) -> Rows:
        """The images of some keys, in their order."""


@dataclass(frozen=True)
class PreparedSplit:
    """A split of a prepared data set."""

    dataset: Dataset
    split: str
    has_full_name: bool = False  # whether it is called NAME-FINGERPRINT: another set of another data set has its name

    @property
    def name(self) -> str:
        fingerprint = f"-{self.dataset.fingerprint}" if self.has_full_name else ""
        return f"{self.dataset.name}{fingerprint}/{self.split}"

    @property
    def num(self) -> int:
        return self.dataset.num_images(self.split)

    @property
    def num_blocks(self) -> int:
        return len(self.dataset.shards(self.split))

    def stream(self) -> Any:
        return self.dataset.stream(self.split)

    def rows(self, batch: pa.Table) -> Rows:
        return rows_of(batch, self.dataset)

    def rows_at(self, keys: Sequence[str]) -> Rows:
        found: dict[str, Rows] = {}
        for number in range(self.num_blocks):
            part = self.dataset.read_shard(self.split, number)
            wanted = set(keys)
            found |= {key: part.rows.at(np.array([row])) for row, key in enumerate(part.keys) if key in wanted}  # copies: shards are let go
        return Rows.joined([found[key] for key in keys])


@dataclass(frozen=True)
class ImageFiles:
    """Image files, made to fit: the shorter side is resized, the centre cropped, levels and colours are the model's."""

    name: str
    storage: Storage  # the folder or bucket
    files: tuple[str, ...]  # in it, sorted
    spec: ImageSpec
    irregular: frozenset[str] = frozenset()  # of these, what cannot be read: broken links, sockets
    num_hidden: int = 0  # files left out because their name starts with a dot
    draw_seed: int | None = None  # of the fixed draws of dynamic binarization; None: grey values are quantized

    @property
    def num(self) -> int:
        return len(self.files)

    @property
    def num_blocks(self) -> int:
        return -(-self.num // FILES_AT_ONCE)

    def stream(self) -> Any:
        import ray.data

        items = ray.data.from_items([{"key": file} for file in self.files], override_num_blocks=self.num_blocks)
        return items.map_batches(self.decoded, batch_size=FILES_AT_ONCE, batch_format="pyarrow")

    def decoded(self, batch: pa.Table) -> pa.Table:
        """Files whose keys are in a batch: their levels H W C as bytes, or the reason why there are none; whether they had to be fitted."""
        images: list[bytes | None] = []
        reasons: list[str | None] = []
        fitted = []
        for key in batch["key"].to_pylist():
            try:
                levels_HWC, is_fitted = self._levels(key)
                images.append(levels_HWC.tobytes())
                reasons.append(None)
                fitted.append(is_fitted)
            except (BadImage, OSError) as error:
                images.append(None)
                reasons.append(first_line(error) if isinstance(error, BadImage) else why(error))
                fitted.append(False)
        columns = {"image": pa.array(images, pa.binary()), "reason": pa.array(reasons, pa.string()), "is_fitted": pa.array(fitted)}
        return pa.table({"key": batch["key"], **columns})

    def _levels(self, file: str) -> tuple[UInt8, bool]:
        """One file as levels, and whether it is of another size than the model's images; raises `BadImage` and `OSError`."""
        if file in self.irregular:
            raise BadImage("no regular file: a broken link, say", "unreadable")
        if self.storage.size(file) > MOST_PIXELS * BYTES_PER_PIXEL:
            raise BadImage(f"more than {MOST_PIXELS * BYTES_PER_PIXEL:,} bytes", "too large")
        data, size = self.storage.read_bytes(file), self.spec.shape[1:]
        height, width, _ = read_header(data, MOST_PIXELS)
        is_fitted = (height, width) != size
        pixels_HWC = decode(data, self.spec.channels, size, MOST_PIXELS)
        if self.draw_seed is None:
            return quantize(pixels_HWC, self.spec.levels), is_fitted
        return binarize_dynamic(pixels_HWC[None], seed=self.draw_seed, epoch=FIXED_EPOCH, indices_N=draw_indices([file]))[0], is_fitted

    def rows(self, batch: pa.Table) -> Rows:
        return Rows(decode_rows(batch["image"], self.spec.shape))

    def rows_at(self, keys: Sequence[str]) -> Rows:
        images = []
        for key in keys:
            try:
                images.append(self._levels(key)[0])
            except (BadImage, OSError) as error:  # it was read a moment ago
                raise unreadable(self.storage, key, error) from error
        return Rows(np.ascontiguousarray(np.stack(images).transpose(0, 3, 1, 2)))


def source_of(ref: str, storage: Storage, spec: ImageSpec, draw_seed: int | None = None) -> PreparedSplit | ImageFiles:
    """The images that a word names: `NAME` or `NAME/SPLIT` of a prepared data set, or a folder, bucket or file.

    What ends in / is the folder, where there is one.

    Args: `draw_seed`, as of `ImageFiles`.
    Raises `UserError` where there are none, where it may be either, and for files where the model's images are neither grey nor RGB.
    """
    try:
        ref.encode()
    except UnicodeEncodeError:
        raise UserError(f"--sets {ref!a} is not UTF-8; rename it") from None
    name, _, split = ref.rstrip("/").rpartition("/")
    if split not in SPLITS or not name:
        name, split = ref.rstrip("/"), "test"
    is_path = "://" in ref or ref.startswith(("/", "./", "../", "~")) or (ref.endswith("/") and Path(ref).is_dir())
    has_dataset = not is_path and any(found in (name, f"{name}-{found.rpartition('-')[2]}") for found in storage.list(DATASETS))
    if has_dataset:
        if Path(ref).exists():
            raise UserError(f"--sets '{ref}' is a prepared data set and a path, too; give {ref}/ for the files, or NAME-FINGERPRINT")
        return PreparedSplit(find_dataset(storage, name), split)
    if not is_path and not Path(ref).exists():
        raise UserError(f"--sets '{ref}' is no prepared data set, and no file or folder; give NAME, NAME/SPLIT, or a path")
    if spec.channels not in (1, 3):
        raise UserError(f"--sets '{ref}': the model's images have {spec.channels} channels, which image files do not; give a data set")
    place = Storage(ref)
    if place.is_local and (path := Path(place.root)).is_file():
        return ImageFiles(ref, Storage(path.parent), (path.name,), spec, draw_seed=draw_seed)
    try:
        files, num_hidden = files_below(place, "image files", "images")
    except UserError as error:
        raise UserError(str(error).replace("--path FOLDER", "a folder")) from error
    irregular = frozenset(file.path for file in files if not file.is_regular)
    return ImageFiles(ref, place, tuple(file.path for file in files), spec, irregular, num_hidden, draw_seed)


def told_apart(sources: list[PreparedSplit | ImageFiles]) -> list[PreparedSplit | ImageFiles]:
    """One set or two, by names of their own; raises `UserError` where two words name the same images."""
    places = [(one.dataset.folder, one.split) if isinstance(one, PreparedSplit) else (one.storage.root, *one.files) for one in sources]
    names = [one.name for one in sources]
    if len(set(places)) < len(sources):
        raise UserError(f"--sets names {listed(names)}, which are the same images; give two sets, or one")
    if len(set(names)) < len(sources):
        return [replace(one, has_full_name=True) if isinstance(one, PreparedSplit) else one for one in sources]
    return sources
