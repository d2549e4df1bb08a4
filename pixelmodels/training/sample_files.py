"""Where samples go: one picture, a folder of single images, or arrays. Looked at before anything is drawn, written whole."""

from __future__ import annotations

import io
import os
import tempfile
from pathlib import Path

import numpy as np

from pixelmodels.data import dequantize
from pixelmodels.errors import UserError
from pixelmodels.models import PixelModel
from pixelmodels.tracking.grids import png_bytes
from pixelmodels.training.sample_order import Order
from pixelmodels.training.sample_pictures import UInt8, film, gif_bytes, picture, single_png

FORMATS = (".png", ".npz")


def is_folder(out: str) -> bool:
    """Whether single images are asked for: the name ends in / or is that of a folder."""
    return out.endswith("/") or Path(out).is_dir()


def check_name(out: str) -> None:
    """Raise `UserError` for a name that says no format."""
    if "://" in out:
        raise UserError(f"--out '{out}' is no local file; give a local name that ends in {', '.join(FORMATS)} or /")
    if not is_folder(out) and Path(out).suffix not in FORMATS:
        raise UserError(
            f"--out '{out}' is no file that can be written; give a name that ends in .png (one picture), .npz (levels as an array) "
            "or / (a folder of single PNG files)"
        )


def check_gif_name(gif: Path | None) -> None:
    """Raise `UserError` for a name of another format."""
    if gif is not None and (gif.suffix != ".gif" or gif.is_dir()):
        raise UserError(f"--gif '{gif}' is no name of an animation; give one that ends in .gif")


def check_place(out: str, gif: Path | None, order: Order, model: PixelModel) -> None:
    """Make the folders, and see that files can be written there and that they will hold the samples; raises `UserError`."""
    if is_folder(out):
        if model.spec.channels not in (1, 3):
            raise UserError(f"--out '{out}': images of {model.spec.channels} channels are no PNG files; give a name that ends in .npz")
        _check_folder(Path(out), "--out")
        ours = set(_names(order.n))
        if others := sorted(name for name in os.listdir(out) if name not in ours and not name.startswith(".")):
            raise UserError(f"folder '{out}' holds '{others[0]}', which is none of these samples; empty it, or give another --out")
    else:
        _check_folder(Path(out).parent, "--out")
    if gif is not None:
        _check_folder(gif.parent, "--gif")


def _check_folder(folder: Path, option: str) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UserError(f"{option}: '{folder}' cannot be written ({error.strerror}); give another place") from error


def write_samples(out: str, order: Order, images_NCHW: UInt8, model: PixelModel) -> Path:
    """Write what the name asks for; returns the file or folder, absolute."""
    path = Path(out)
    if is_folder(out):
        for name, image_CHW in zip(_names(order.n), dequantize(images_NCHW, model.spec.levels), strict=True):
            _write(path / name, single_png(image_CHW), "--out")
    elif path.suffix == ".png":
        _write(path, png_bytes(picture(order, images_NCHW, model)), "--out")
    else:
        stream = io.BytesIO()
        np.savez_compressed(stream, images_NCHW=images_NCHW, **order.arrays())  # type: ignore[arg-type]
        _write(path, stream.getvalue(), "--out")
    return path.resolve()


def write_gif(gif: Path, order: Order, images_NCHW: UInt8, model: PixelModel) -> Path:
    """Write the animation of the images being drawn; returns the file, absolute."""
    _write(gif, gif_bytes(film(order, images_NCHW, model)), "--gif")
    return gif.resolve()


def _names(n: int) -> list[str]:
    """File names of single images, which sort by number."""
    digits = max(4, len(str(n - 1)))
    return [f"{i:0{digits}d}.png" for i in range(n)]


def _write(path: Path, content: bytes, option: str) -> None:
    """A whole file or none: a reader, or a process that is killed, never leaves half of one under this name."""
    temporary = path.with_name(f".{path.name}.tmp-{os.getpid()}")
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise UserError(f"{option} '{path}' cannot be written ({error.strerror}); give another place") from error
