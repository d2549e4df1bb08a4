"""The pictures of a run's samples: every class in turn, or beside the held-out images whose context they were given."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from pixelmodels.captions import can_write
from pixelmodels.data import Dataset
from pixelmodels.evaluation.batches import to_tensors
from pixelmodels.models import Context, ContextSpec, PixelModel
from pixelmodels.models.class_names import names_of, told
from pixelmodels.models.context_images import factor_between
from pixelmodels.pictures import grid
from pixelmodels.sampling import sample

SAMPLES_A_ROW = 4  # beside a held-out image


def sample_grid(dataset: Dataset, model: PixelModel, num_samples: int, *, seed: int) -> np.ndarray:
    """Samples as a picture (H, W, 3), uint8; the same seed each time, so that pictures compare.

    A model of classes has a column for each, with the class's name above where the model knows it. One that is conditioned on vectors or
    images has a row for each of some test images: what is given of it (where that is an image), the image itself, and samples that were
    given the same; the name of its class, if it has one, is beside it.
    """
    if not _needs_images(model.context_spec):
        context = sample_context(dataset, model, num_samples)
        images_NCHW = sample(model, num_samples, seed=seed, context=context).cpu().numpy()
        num_classes = model.context_spec.num_classes
        columns = num_classes if 0 < num_classes <= num_samples else None
        return grid(
            images_NCHW, dataset.spec.levels, columns=columns, captions=written(names_of(context, model.context_spec), model.context_spec)
        )
    columns = min(SAMPLES_A_ROW, num_samples)
    x_NCHW, context = _held_out(dataset, model, num_samples // columns)
    repeated = torch.arange(len(x_NCHW), device=x_NCHW.device).repeat_interleave(columns)
    drawn_NCHW = sample(model, len(repeated), seed=seed, context=context.rows(repeated))
    parts = [x_NCHW[:, None], drawn_NCHW.to(x_NCHW).unflatten(0, (len(x_NCHW), columns))]
    given = [enlarged(image, dataset.spec.shape)[:, None] for image in (context.image_BCHW, context.small_BCHW) if image is not None]
    rows = torch.cat([*given, *parts], 1)
    names = [name for name in written(names_of(context, model.context_spec), model.context_spec) for _ in range(rows.shape[1])]
    return grid(rows.flatten(0, 1).cpu().numpy().astype(np.uint8), dataset.spec.levels, columns=rows.shape[1], captions=names)


def written(names: Sequence[str], spec: ContextSpec) -> list[str]:
    """Names of classes as pictures have them: one for which there are no letters is told by its number."""
    label_of_name = {told(name): label for label, name in enumerate(spec.class_names)}
    as_drawn = {name: name if can_write(name) else f"class {label_of_name[name]}" for name in {*names} - {""}}
    return [as_drawn.get(name, "") for name in names]


def sample_context(dataset: Dataset, model: PixelModel, num_samples: int) -> Context | None:
    """What samples are given: every class in turn, or the context of test images in turn; None for a model without context."""
    spec = model.context_spec
    if _needs_images(spec):
        x_NCHW, context = _held_out(dataset, model, num_samples)
        return context.rows(torch.arange(num_samples, device=x_NCHW.device) % len(x_NCHW))
    return Context(label_B=torch.arange(num_samples, device=model.device) % spec.num_classes) if spec.num_classes else None


def _needs_images(spec: ContextSpec) -> bool:
    return spec.vector_size > 0 or spec.image is not None or spec.small is not None


def _held_out(dataset: Dataset, model: PixelModel, num_images: int) -> tuple[torch.Tensor, Context]:
    """Test images spread over the split (fewer where there are no more), and their context, on the model's device."""
    test = dataset.some("test", num_images)
    x_NCHW, context = to_tensors(test.rows, model.device, model.context_spec)
    assert context is not None
    return x_NCHW, context


def enlarged(given_NCHW: torch.Tensor, shape_CHW: Sequence[int]) -> torch.Tensor:
    """Given images with the channels and the size of others, each pixel a block."""
    channels, height, width = shape_CHW
    factor = factor_between((height, width), given_NCHW.shape[2:])
    blocks = given_NCHW.repeat_interleave(factor, 2).repeat_interleave(factor, 3)[..., :height, :width]
    return blocks.expand(-1, channels, -1, -1)
