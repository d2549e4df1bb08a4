"""Where samples go: one picture, a folder of single images, arrays, an animation. Looked at before anything is drawn, written whole."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from pixelmodels.data import dequantize
from pixelmodels.data.quantization import UInt8
from pixelmodels.errors import UserError
from pixelmodels.models import PixelModel
from pixelmodels.pictures import png_bytes
from pixelmodels.samples.commission import Commission
from pixelmodels.samples.pictures import animation_bytes, dream_film, film, gif_bytes, picture
from pixelmodels.storage import fitting

PICTURE, ARRAYS, FILM = ".png", ".npz", ".gif"
LONGEST_CLASS = 80  # bytes of a class's name in the name of a file


@dataclass(frozen=True)
class Output:
    """A file that samples are written to, or a folder of them."""

    folder: Path
    name: str  # of the file, whose end says its format; empty: a file for each sample, named by its number and its class
    option: str = "--out"  # what asks for it on the command line

    def check(self, commission: Commission, model: PixelModel) -> None:
        """Make the folder, and see that files can be written there and will hold the samples; raises `UserError`."""
        channels = model.spec.channels
        if not self.name and channels not in (1, 3):
            raise UserError(f"--out '{self.folder}/': images of {channels} channels are no PNG files; give a name that ends in .npz")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._temporary.touch()
            self._temporary.unlink()
            there = {name for name in os.listdir(self.folder) if not name.startswith(".")}
        except OSError as error:
            raise UserError(f"{self.option}: '{self.folder}' cannot be written ({error.strerror}); give another place") from error
        if self.name:
            return
        names = set(_names(commission, model))
        if others := there - names or {name for name in there & names if (self.folder / name).is_dir()}:
            what = f"folder '{self.folder}' holds '{min(others)}', which is none of these samples"
            raise UserError(f"{what}; empty it, or give another --out")

    def write(self, commission: Commission, images_NCHW: UInt8, model: PixelModel, dream_SNCHW: UInt8 | None = None) -> Path:
        """Write it, each file whole or not at all; returns the file or folder, absolute. Raises `UserError`.

        Args: `dream_SNCHW`, the images before a dream and after each of its steps.
        """
        for name, content in self._files(commission, images_NCHW, model, dream_SNCHW):
            path = self.folder / name
            try:
                self._temporary.write_bytes(content)
                self._temporary.replace(path)
            except OSError as error:
                with suppress(OSError):
                    self._temporary.unlink()
                raise UserError(f"{self.option} '{path}' cannot be written ({error.strerror}); give another place") from error
        return (self.folder / self.name).resolve()

    @property
    def _temporary(self) -> Path:
        """What a file is called until it is whole: however long its own name is."""
        return self.folder / f".{os.uname().nodename[:64]}-{os.getpid()}.tmp"

    def _files(
        self, commission: Commission, images_NCHW: UInt8, model: PixelModel, dream_SNCHW: UInt8 | None
    ) -> Iterator[tuple[str, bytes]]:
        if not self.name:
            for name, image_CHW in zip(_names(commission, model), dequantize(images_NCHW, model.spec.levels), strict=True):
                yield name, png_bytes(image_CHW.transpose(1, 2, 0))
        elif self.name.endswith(FILM):
            if dream_SNCHW is not None:
                yield self.name, animation_bytes(dream_film(commission, dream_SNCHW, model))
            else:
                yield self.name, gif_bytes(film(commission, images_NCHW, model))
        elif self.name.endswith(PICTURE):
            yield self.name, png_bytes(picture(commission, images_NCHW, model))
        else:
            stream = io.BytesIO()
            dream = {} if dream_SNCHW is None else {"dream_SNCHW": dream_SNCHW}
            np.savez_compressed(stream, images_NCHW=images_NCHW, **dream, **commission.arrays(model))  # type: ignore[arg-type]
            yield self.name, stream.getvalue()


def outputs_of(out: str, gif: Path | None) -> list[Output]:
    """What the two options ask for, `--out` last; raises `UserError` for a name that says no format."""
    films = [] if gif is None else [Output(gif.parent, gif.name, "--gif")]
    if gif is not None and (gif.suffix != FILM or gif.is_dir()):
        raise UserError(f"--gif '{gif}' is no name of an animation; give one that ends in .gif")
    if "://" in out:
        raise UserError(f"--out '{out}' is no local file; give a local name that ends in {PICTURE}, {ARRAYS} or /")
    path = Path(out)
    if out.endswith("/") or path.is_dir():
        return [*films, Output(path, "")]
    if path.suffix not in (PICTURE, ARRAYS):
        raise UserError(
            f"--out '{out}' is no file that can be written; give a name that ends in .png (one picture), .npz (levels as an array) "
            "or / (a folder of single PNG files)"
        )
    return [*films, Output(path.parent, path.name)]


def _names(commission: Commission, model: PixelModel) -> list[str]:
    """File names of single images, which sort by number; the class's name follows where it is known, such as 0007-cat.png."""
    digits = max(4, len(str(commission.n - 1)))
    return [f"{i:0{digits}d}{_ending(name)}.png" for i, name in enumerate(commission.class_names(model.context_spec))]


@lru_cache
def _ending(class_name: str) -> str:
    """What of a class's name a file's name has, wherever the file goes: letters of any script, digits, and not too many."""
    plain = re.sub(r"[^\w.+]+", "_", class_name).strip("._")
    return f"-{fitting(plain, LONGEST_CLASS)}" if plain else ""
