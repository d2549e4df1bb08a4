"""Images in and out: the files of a folder as levels where nothing is lost by that, and levels as files again."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pixelmodels.compression.container import LONGEST_NAME, MAGIC, PNG
from pixelmodels.data import DatasetConfig, dequantize, quantize
from pixelmodels.data.decoding import BadImage, convert_channels, decode, not_kept, read_header
from pixelmodels.data.quantization import UInt8
from pixelmodels.errors import UserError, without_files
from pixelmodels.models.class_names import told
from pixelmodels.pictures import png_bytes
from pixelmodels.shapes import ImageSpec

_LOSSY = "--quantize has it lost, and keeps exactly what is left"


@dataclass(frozen=True)
class ImageFiles:
    """An image file, or those of a folder in the order of their names (hidden ones left out)."""

    files: tuple[Path, ...]
    others: tuple[str, ...] = ()  # what else is in the folder, and is not encoded: folders, links that lead nowhere

    @classmethod
    def at(cls, place: str) -> ImageFiles:
        """Raises `UserError` where there are none."""
        path, what = Path(place), f"--images '{place}'"
        if not path.is_file() and not path.is_dir():
            found = "is neither a file nor a folder" if path.exists() else "not found"
            raise UserError(f"{what} {found}; give a folder of images, or one of them")
        there = [path] if path.is_file() else sorted(file for file in path.iterdir() if not file.name.startswith("."))
        files = tuple(file for file in there if file.is_file())
        if not files:
            raise UserError(f"{what} {without_files(path, 'give one that holds images')}")
        return cls(files, tuple(file.name for file in there if not file.is_file()))

    def names(self) -> tuple[str, ...]:
        """What the files are called when they are decoded, as PNG files: cat.png stays so, cat.jpg becomes cat.jpg.png."""
        names = tuple(file.name if file.name.lower().endswith(PNG) else f"{file.name}{PNG}" for file in self.files)
        counts = Counter(names)
        for file, name in zip(self.files, names, strict=True):
            if len(os.fsencode(name)) > LONGEST_NAME or counts[name] > 1:
                what = "would be too long" if len(os.fsencode(name)) > LONGEST_NAME else "is another image's, too"
                raise UserError(f"the name '{name}' of '{file}', decoded, {what}; rename it, or give --no-names")
        return names

    def read(self, start: int, stop: int, spec: ImageSpec, *, lossy: bool) -> UInt8:
        """Files `start`..`stop` - 1 as levels, N C H W. Raises `UserError` for what is no such image, or holds more than levels keep.

        Args: `lossy`, whether more may be lost, as when a data set is prepared: levels, colours, transparency; sizes have to fit.
        """
        read = [_levels(file, spec, lossy) for file in self.files[start:stop]]
        return np.ascontiguousarray(np.stack(read).transpose(0, 3, 1, 2))


def _levels(file: Path, spec: ImageSpec, lossy: bool) -> UInt8:
    """One file, H W C."""
    most = DatasetConfig().max_pixels
    try:
        data = file.read_bytes()
        height, width, channels = read_header(data, most)
        if (height, width) != spec.shape[1:]:
            want = f"{spec.height}x{spec.width}"
            raise UserError(f"'{file}' is {height}x{width} (height x width), the model's images are {want}; cut or resize it")
        if not lossy and (lost := not_kept(data, most)):
            raise UserError(f"'{file}' has {lost}, which would be lost; {_LOSSY}")
        pixels_HWC = decode(data, channels, None, most)
    except (BadImage, OSError) as error:
        raise UserError(f"'{file}' cannot be read ({error}); take it out of the folder, or get it again") from error
    if spec.channels not in (1, 3):
        raise UserError(f"'{file}': the model's images have {spec.channels} channels, which image files do not; give --dataset")
    fitting_HWC = convert_channels(pixels_HWC, spec.channels)
    if not lossy and channels == 3 and not np.array_equal(np.broadcast_to(fitting_HWC, pixels_HWC.shape), pixels_HWC):
        raise UserError(f"'{file}' has colours, the model's images are grey; {_LOSSY}")
    levels_HWC = quantize(fitting_HWC, spec.levels)
    if not lossy and not np.array_equal(dequantize(levels_HWC, spec.levels), fitting_HWC):
        strange = int(fitting_HWC[dequantize(levels_HWC, spec.levels) != fitting_HWC].flat[0])
        grey = dequantize(np.arange(spec.levels, dtype=np.uint8), spec.levels)[:3].tolist()
        have = f"value {strange}, which is none of the {spec.levels} that the model's levels stand for ({', '.join(map(str, grey))}, ...)"
        raise UserError(f"'{file}' has {have}; {_LOSSY}")
    return levels_HWC


def check_target(folder: Path, names: Sequence[str]) -> bool:
    """Make a folder for files; whether there was none. Raises `UserError` where it cannot be written, or holds one of them."""
    is_new = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        check_writable(folder)
        there = {name.lower() for name in os.listdir(folder)}
    except OSError as error:
        raise UserError(f"--out: '{folder}' cannot be written ({error.strerror}); give another place") from error
    if taken := next((name for name in names if name.lower() in there), None):
        raise UserError(f"--out: '{folder}' holds '{told(taken)}' already; empty it, or give another folder")
    return is_new


def check_file(path: Path) -> None:
    """Raise `UserError` where a file cannot be written, or something is there that is no such file: an image, say, or a device."""
    if not path.parent.is_dir():
        raise UserError(f"--out '{path}': there is no folder '{path.parent}'; make it, or give another place")
    if path.is_dir():
        raise UserError(f"--out '{path}' is a folder; give the name of a file in it")
    try:
        check_writable(path.parent)
        if path.exists() and not (path.is_file() and _starts_like_one(path)):
            raise UserError(f"--out '{path}' is there already, and no file that compress.py encoded; give another name")
    except OSError as error:
        raise UserError(f"--out '{path}' cannot be written ({error.strerror}); give another place") from error


def _starts_like_one(path: Path) -> bool:
    """Whether a file is empty, or one that was encoded."""
    with path.open("rb") as file:
        return file.read(len(MAGIC)) in (b"", MAGIC)


def check_writable(folder: Path) -> None:
    """Raise `OSError` where no file can be made in a folder: before there is work that would be lost."""
    _temporary(folder).touch()
    _temporary(folder).unlink()


def write_pngs(folder: Path, names: Sequence[str], images_NCHW: UInt8, levels: int) -> None:
    """Levels as PNG files, each whole or not at all, none over another; raises `UserError`."""
    for name, image_CHW in zip(names, dequantize(images_NCHW, levels), strict=True):
        if os.path.lexists(folder / name):  # of two names that the file system takes for one
            raise UserError(f"--out: '{folder}' has '{told(name)}' by now, or a name like it; give a folder that tells them apart, or .npz")
        write_whole(folder / name, png_bytes(image_CHW.transpose(1, 2, 0)))


def write_whole(path: Path, content: bytes) -> None:
    """A file that is there as a whole or not at all; raises `UserError`."""
    temporary = _temporary(path.parent)
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink()
        if not isinstance(error, OSError):
            raise
        raise UserError(f"--out '{path}' cannot be written ({error.strerror}); give another place") from error


def _temporary(folder: Path) -> Path:
    """What a file is called until it is whole: however long its own name is."""
    return folder / f".{os.uname().nodename[:64]}-{os.getpid()}.tmp"
