"""Images of a folder or a data set to one file, and back: what `compress.py` does."""

from __future__ import annotations

import io
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pixelmodels.compression.arithmetic import Machine, portable, usual
from pixelmodels.compression.codec import Block, Codec, UInt8, WrongTables
from pixelmodels.compression.container import MAGIC, PNG, Container, Head
from pixelmodels.compression.images import check_file, check_target, write_pngs, write_whole
from pixelmodels.compression.options import Decode, Encode, Show
from pixelmodels.compression.sources import FIELDS, context_of_rows, kinds_asked, source_of
from pixelmodels.compression.weights import sha256_of
from pixelmodels.errors import UserError, listed
from pixelmodels.models import Context, PixelModel
from pixelmodels.models.class_names import told
from pixelmodels.progress import Say, counting
from pixelmodels.runs.loading import find_model
from pixelmodels.storage import Storage

ARRAYS = ".npz"


def encode(options: Encode, model: PixelModel, storage: Storage, say: Say = print) -> Path:
    """Encode, write, return the file's path; raises `UserError` for what does not fit the model or cannot be written."""
    path = Path(options.out)
    check_file(path)
    source, kinds = source_of(options, model, storage), kinds_asked(options)
    if source.others:
        say(f"left out, as they are no files: {listed([told(name) for name in source.others])}")
    weights = sha256_of(model)
    model = _on_device(model, options.use_gpu)
    way = (portable if options.portable else usual)(model, options.block)
    bits_of_kinds = sum(1 << bit for bit, kind in enumerate(FIELDS) if kind in kinds)
    codec = Codec(model, way, bits_of_kinds)
    blocks: list[Block] = []
    with counting("encoding", source.num, "images") as advance:
        for rows in source.blocks(options.block):
            blocks.append(codec.encode(rows.images_NCHW, context_of_rows(rows, model.context_spec, kinds)))
            advance(len(rows))
    head = Head(weights, options.model, model.spec, bits_of_kinds, way, Machine.here(model.device))
    container = Container(head, tuple(blocks), source.names)
    content = container.to_bytes()
    write_whole(path, content)
    say(f"{source.num:,} images in {len(blocks):,} block{'s' * (len(blocks) > 1)} of {options.block}: {_size(container, len(content))}")
    return path.resolve()


def decode(options: Decode, storage: Storage, say: Say = print) -> Path:
    """Decode, write, return the folder's or file's path; raises `UserError` where not all of it can be decoded and checked.

    Images are written block by block, each after its checksum was found to fit.
    """
    what = f"'{options.file}'"
    container = read(options.file)
    head = container.head
    for block in options.blocks:
        if not 0 <= block < len(container.blocks):
            raise UserError(f"--blocks {block}: {what} has {len(container.blocks)} blocks; give 0..{len(container.blocks) - 1}")
    chosen = sorted(set(options.blocks)) or list(range(len(container.blocks)))
    model = _on_device(model_of(container, options, storage), options.use_gpu)
    out = Path(options.out)
    as_arrays = out.suffix == ARRAYS and not out.is_dir()
    if not as_arrays and model.spec.channels not in (1, 3):
        raise UserError(f"--out '{out}': images of {model.spec.channels} channels are no PNG files; give a name that ends in {ARRAYS}")
    codec, names = Codec(model, head.way, head.kinds), _names(container)
    images = [range(container.first_of(block), container.first_of(block) + container.blocks[block].num_images) for block in chosen]
    folder = out.parent if as_arrays else out
    is_new = check_target(folder, [out.name] if as_arrays else [names[i] for part in images for i in part])
    differences = Machine.here(model.device).differences(head.machine)
    if differences:
        say(f"{what} was encoded with {'; '.join(differences)}: what cannot be decoded because of that is told, and not written")
    decoded: list[tuple[UInt8, Context | None]] = []
    num_written = 0
    try:
        with counting("decoding", sum(map(len, images)), "images") as advance:
            for block, part in zip(chosen, images, strict=True):
                try:
                    images_NCHW, context = codec.decode(container.blocks[block])
                except WrongTables as error:
                    raise UserError(_told_wrong(what, block, differences, num_written, out)) from error
                if as_arrays:
                    decoded.append((images_NCHW, context))
                else:
                    write_pngs(out, [names[i] for i in part], images_NCHW, model.spec.levels)
                    num_written += len(images_NCHW)
                advance(len(images_NCHW))
        if as_arrays:
            write_whole(out, _arrays(decoded, [names[i] for part in images for i in part] if container.names else None))
    except BaseException:
        if is_new:
            with suppress(OSError):  # something is in it
                folder.rmdir()
        raise
    say(f"{sum(map(len, images)):,} images of {what}, every one with the checksum that it was encoded with")
    return out.resolve()


def read(file: str) -> Container:
    """What a file holds; raises `UserError` where it cannot be read, or is none that `encode` wrote."""
    path = Path(file)
    if not path.is_file():
        raise UserError(f"'{file}' {'is a folder' if path.is_dir() else 'not found'}; give a file that compress.py encoded")
    try:
        with path.open("rb") as opened:
            start = opened.read(len(MAGIC))
            data = start + (opened.read() if start == MAGIC else b"")  # what is no such file may be of any length
        return Container.of_bytes(data, f"'{file}'")
    except OSError as error:
        raise UserError(f"'{file}' cannot be read ({error.strerror}); change its permissions, or give another") from error


def show(options: Show) -> list[str]:
    """What is in a file, in lines."""
    container = read(options.file)
    head, spec = container.head, container.head.spec
    num_bytes = Path(options.file).stat().st_size
    kinds = [kind for bit, kind in enumerate(FIELDS) if head.kinds >> bit & 1]
    rows = {
        "images": f"{container.num_images:,} of {spec.channels}x{spec.height}x{spec.width} with {spec.levels} levels",
        "blocks": f"{len(container.blocks):,} of {head.way.width}",
        "size": _size(container, num_bytes),
        "names": "kept" if container.names is not None else "not kept",
        "model": head.model,
        "weights": f"sha256 {head.weights.hex()}",
        "conditions": ", ".join(kinds) or "none",
        "computed": f"{head.way.precision}, {head.way.path}, {head.way.threads} threads"
        + (f", parameters rounded to 2^-{head.way.grid_bits}" if head.way.grid_bits else ""),
        "on": f"{head.machine.device}, {head.machine.capability}, torch {head.machine.torch_version}, numpy {head.machine.numpy_version}"
        + (f", {head.machine.isa}" if head.machine.isa else ""),
    }
    return [f"{name:<11}{value}" for name, value in rows.items()]


def _size(container: Container, num_bytes: int) -> str:
    """Of a whole file, and what of it is pixels: of few images the rest is much."""
    bits, pixels = 8 * num_bytes / container.num_images, sum(len(block.payload) for block in container.blocks)
    per_dim = bits / container.head.spec.num_subpixels
    rest = f"{num_bytes - pixels:,} of head, index and names"
    return f"{num_bytes:,} bytes ({pixels:,} of pixels, {rest}), {bits:,.1f} bits an image, {per_dim:.4f} bits/dim"


def model_of(container: Container, options: Decode, storage: Storage) -> PixelModel:
    """The model that encoded a file: the one that is given, or the one that the file names. Raises `UserError` for any other."""
    head, what = container.head, f"'{options.file}'"
    needed = f"the model that it was encoded with has weights of sha256 {head.weights.hex()[:16]}..."
    if options.model is None and not head.model:
        raise UserError(f"{what} does not name its model; give it with --model: {needed}")
    ref = head.model if options.model is None else options.model
    try:
        model = find_model(ref, storage)
    except UserError as error:
        if options.model is not None:
            raise
        raise UserError(f"{what} was encoded with a model that is not found here ({error}); give it with --model: {needed}") from error
    found = sha256_of(model)
    if found != head.weights:
        asked = f"model '{ref}' has weights of sha256 {found.hex()[:16]}..."
        raise UserError(f"{what} was encoded with another model: {asked}, and {needed}; give that one with --model")
    if model.spec != head.spec:
        raise UserError(f"{what} says that its images are of another shape than those of model '{ref}'; encode the images again")
    return model


def _on_device(model: PixelModel, use_gpu: bool) -> PixelModel:
    if use_gpu and not torch.cuda.is_available():
        raise UserError("--use-gpu given, and this machine has no GPU that torch can use; leave it out")
    return model.to("cuda") if use_gpu else model


def _names(container: Container) -> Sequence[str]:
    """What the files of a container are called: as they were, or by their numbers."""
    if container.names is not None:
        return container.names
    digits = max(4, len(str(container.num_images - 1)))
    return [f"{i:0{digits}d}{PNG}" for i in range(container.num_images)]


def _arrays(decoded: Sequence[tuple[UInt8, Context | None]], names: Sequence[str] | None) -> bytes:
    """Levels with what the images are conditioned on, and their names where they are kept, as NumPy's arrays."""
    arrays: dict[str, Any] = {"images_NCHW": np.concatenate([images_NCHW for images_NCHW, _ in decoded])}
    for field in FIELDS.values():
        values = [getattr(context, field) for _, context in decoded if getattr(context, field, None) is not None]
        if values:  # of every block, or of none
            arrays[field.replace("_B", "_N")] = torch.cat(values).numpy()
    if names is not None:
        arrays["names"] = np.array([told(name) for name in names])
    stream = io.BytesIO()
    np.savez_compressed(stream, **arrays)
    return stream.getvalue()


def _told_wrong(what: str, block: int, differences: Sequence[str], num_written: int, out: Path) -> str:
    """Why a block is refused, and what is there."""
    if differences:
        why = f"this machine computes other tables than the one that encoded it, with {'; '.join(differences)}"
        remedy = "decode it on a machine like that, or encode with --portable"
    else:
        why = "the tables come out otherwise here, though nothing is known to differ"
        remedy = "decode it on the machine that encoded it"
    written = f"{num_written:,} images of earlier blocks are right, and in '{out}'" if num_written else "nothing was written"
    return f"block {block} of {what} cannot be decoded: {why}; {remedy} ({written})"
