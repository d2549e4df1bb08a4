"""Samples of a trained model as a picture or an array: of chosen classes, guided, or from one class to another."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import tyro

from pixelmodels.data import find_dataset
from pixelmodels.errors import UserError
from pixelmodels.models import Context, PixelModel
from pixelmodels.sampling import interpolate, sample
from pixelmodels.storage import DEFAULT_STORAGE, Storage
from pixelmodels.tracking.grids import grid, png_bytes
from pixelmodels.training.conditioning import check_context_fits, check_images_fit
from pixelmodels.training.loading import find_model
from pixelmodels.training.sample_grids import sample_grid

FORMATS = (".png", ".npz")


@dataclass(frozen=True)
class Sample:
    """Draw samples of a trained model: exact, each a function of the seed and its number."""

    model: Annotated[str, tyro.conf.Positional]  # folder of a run or checkpoint (path or s3:// URI), or models:/name/version
    n: int = 64  # images; with --between, columns of the picture
    seed: int = 0  # of the noise
    label: tuple[int, ...] = ()  # classes in turn, of a model of classes; without any it does without a class
    between: tuple[int, int] | None = None  # two classes: rows of the picture go from one to the other with the noise held fixed
    num_steps: int = 9  # rows of that picture
    guidance: float = 0.0  # how far to go beyond the model towards what it is conditioned on; 0: the model itself
    dataset: str | None = (
        None  # prepared data set whose test images a model is given (grey, small, vector): what is given, the image, samples
    )
    storage: str = DEFAULT_STORAGE  # storage root: a local folder or s3://bucket/prefix
    out: Path = Path("samples.png")  # file to write: .png, a grid; or .npz, the levels, N C H W

    def __post_init__(self) -> None:
        for name in ("n", "num_steps"):
            if getattr(self, name) < 1:
                raise UserError(f"--{name.replace('_', '-')} {getattr(self, name)} is too few; give 1 or more")
        if self.out.suffix not in FORMATS:
            raise UserError(f"--out '{self.out}' is no file that can be written; give a name that ends in {' or '.join(FORMATS)}")
        if self.between is not None and self.label:
            raise UserError("--between and --label are two ways to choose classes; give one of them")
        if self.dataset is not None and (self.out.suffix != ".png" or self.between is not None or self.label or self.guidance):
            raise UserError(
                "--dataset makes a picture of what is given and samples; leave out --label, --between, --guidance and give a .png"
            )


def draw_samples(options: Sample) -> Path:
    """Draw, write the file, return its path; raises `UserError` for what does not fit the model."""
    storage = Storage(options.storage)
    model = find_model(options.model, storage)
    if options.dataset is not None:
        dataset = find_dataset(storage, options.dataset)
        check_images_fit(model, dataset)
        check_context_fits(model.context_spec, dataset, ("test",), "use a data set like the one that it was trained on")
        return _write(options.out, png_bytes(sample_grid(dataset, model, options.n, seed=options.seed)))
    if options.between is not None:
        first, second = (Context(label_B=torch.tensor([label])) for label in options.between)
        x_SNCHW = interpolate(model, first, second, options.num_steps, n=options.n, seed=options.seed, guidance=options.guidance)
        x_NCHW = x_SNCHW.flatten(0, 1)
    else:
        x_NCHW = sample(model, options.n, seed=options.seed, context=_labels(options), guidance=options.guidance)
    columns = options.n if options.between is not None else None
    return _write(options.out, _encoded(options.out, x_NCHW.numpy(), model, columns))


def _labels(options: Sample) -> Context | None:
    if not options.label:
        return None
    return Context(label_B=torch.tensor(options.label)[torch.arange(options.n) % len(options.label)])


def _encoded(path: Path, images_NCHW: np.ndarray, model: PixelModel, columns: int | None) -> bytes | np.ndarray:
    return images_NCHW if path.suffix == ".npz" else png_bytes(grid(images_NCHW, model.spec.levels, columns=columns))


def _write(path: Path, content: bytes | np.ndarray) -> Path:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            np.savez_compressed(path, images_NCHW=content)
    except OSError as error:
        raise UserError(f"--out '{path}' cannot be written ({error.strerror}); give another place") from error
    return path.resolve()
