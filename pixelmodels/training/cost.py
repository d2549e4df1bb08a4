"""What training a recipe costs, found from the model itself: parameters, operations, memory, and estimates of a GPU's.

Nothing of the model's size is allocated: its weights and features are fakes that know their shapes only. Most models take a
second or two; those that scan diagonals have many small steps, and take up to a minute.

- **Operations** are those that the masks keep, 2 for a multiply-add. A backward pass costs two forward passes; activations
  that are computed again cost one more.
- **Activations** are what autograd keeps between a forward and its backward pass, each storage once; what does not grow with
  the batch (masked weights, their copies in bfloat16) is told apart by a second run at batch 2. Buffers that live shorter
  (workspaces, gradients of features) and what the allocator wastes come on top: `HEADROOM`.
- **Weights** are kept in float32, beside their gradients, the optimizer's moments and the running average. Masks and other buffers are
  there twice, in the model and in its average; gradients are, too, where several workers average them.
- **Time** is operations over `UTILIZATION` of the peak of `GPU`, or `LAUNCH_S` for each kernel where that is longer: networks that
  scan rows or diagonals are thousands of small kernels, one after another.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch

from pixelmodels.internals import dispatch_mode, fake_tensors, storage_address
from pixelmodels.models import ContextSpec, PixelModel, active_flops_per_image, build
from pixelmodels.recipes.recipe import Recipe
from pixelmodels.shapes import ImageSpec
from pixelmodels.training.optimization import NUM_MOMENTS, autocast, block_parts, checkpoint_activations

GPU = "A100 (80 GB)"  # what estimates are made for
PEAK_FLOPS = {"bfloat16": 312e12, "tf32": 156e12, "float32": 19.5e12}  # of its dense matrix products, a second, by precision
UTILIZATION = 0.3  # share of the peak that training is taken to reach
LAUNCH_S = 5e-6  # seconds that a kernel takes at least
HEADROOM = 1.3  # memory taken to be needed for each byte of activations
_BYTES = 4  # of a float32


@dataclass(frozen=True)
class Activations:
    """What takes longest to find of a cost."""

    image_bytes: int  # activations that are kept for each image of a batch
    shared_bytes: int  # activations that are kept once, whatever the batch
    num_kernels: int  # of one forward pass, whatever the batch: tensor operations that are no views


@dataclass(frozen=True)
class Cost(Activations):
    """What one recipe costs on images of one shape."""

    parameters: int  # trained numbers
    forward_flops: float  # of one image, forward only
    training_flops: float  # of one image, forward and backward
    weight_bytes: int  # weights, gradients, moments and running average
    buffer_bytes: int  # masks and other buffers, of the model and of its average

    @property
    def gradient_bytes(self) -> int:
        """All gradients, which workers tell each other once a step."""
        return _BYTES * self.parameters

    def worker_bytes(self, batch: int) -> float:
        """Memory of a worker that scores `batch` images at a time."""
        return self.weight_bytes + self.buffer_bytes + HEADROOM * (self.shared_bytes + batch * self.image_bytes)

    def gpu_hours(self, num_images: float, recipe: Recipe) -> float:
        """Hours of one `GPU` for training on so many images, every epoch's counted, with activations as the recipe keeps them."""
        by_flops = num_images * self.training_flops / (UTILIZATION * PEAK_FLOPS[recipe.precision])
        num_passes = num_images / recipe.batch_size * recipe.accumulate * self.training_flops / self.forward_flops
        return max(by_flops, num_passes * self.num_kernels * LAUNCH_S) / 3600


def cost(recipe: Recipe, spec: ImageSpec, context: ContextSpec = ContextSpec(), activations: Activations | None = None) -> Cost:  # noqa: B008
    """The cost of a recipe; torch's random state stays as it was. Raises `UserError` where the recipe and the images do not fit.

    Args: `activations`, where an earlier call has found them.
    """
    with torch.random.fork_rng(devices=[]), fake_tensors():
        model = build(recipe.model, spec, recipe.likelihood, context)
        flops = active_flops_per_image(model)
        buffers = {storage_address(buffer.untyped_storage()): buffer.untyped_storage().nbytes() for buffer in model.buffers()}
        found = activations or _activations(model, recipe)
    passes = 4 if recipe.activation_checkpointing else 3
    return Cost(
        **dataclasses.asdict(found),
        parameters=model.num_parameters,
        forward_flops=flops,
        training_flops=passes * flops,
        weight_bytes=weight_bytes(recipe, model.num_parameters),
        buffer_bytes=2 * sum(buffers.values()),
    )


def weight_bytes(recipe: Recipe, num_parameters: int) -> int:
    """Bytes of weights, gradients, running average and moments: what each worker has to hold whatever its batch."""
    return (3 + NUM_MOMENTS[recipe.optimizer.name]) * _BYTES * num_parameters


def batch_of_a_part(recipe: Recipe, num_workers: int) -> int:
    """Images that a worker scores at a time: its share of a step, in `accumulate` parts."""
    return math.ceil(math.ceil(recipe.batch_size / num_workers) / recipe.accumulate)


class _Kernels(dispatch_mode()):  # type: ignore[misc]
    """Counts tensor operations that are no views."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        aliases = [value.alias_info for value in func._schema.returns]
        self.count += not any(alias is not None and not alias.is_write for alias in aliases)
        return func(*args, **(kwargs or {}))


class _Saved(torch.autograd.graph.saved_tensors_hooks):
    """The storages of the tensors that autograd keeps while it is entered, each once; held, so that their addresses stay their own."""

    def __init__(self) -> None:
        super().__init__(self._note, lambda tensor: tensor)
        self._storages: dict[int, Any] = {}

    def _note(self, tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        self._storages[storage_address(storage)] = storage
        return tensor

    def num_bytes(self, without: Iterable[torch.Tensor] = ()) -> int:
        """Bytes of them, those of some tensors left out."""
        others = {storage_address(tensor.untyped_storage()) for tensor in without}
        return sum(storage.nbytes() for address, storage in self._storages.items() if address not in others)


def _activations(model: PixelModel, recipe: Recipe) -> Activations:
    """Bytes that are kept for each image, and once for all; and the number of kernels."""
    model.train()
    with _Kernels() as kernels:
        one = _saved_bytes(model, recipe, 1)
    if recipe.activation_checkpointing:
        largest = [_largest_part_bytes(model, recipe, batch) for batch in (1, 2)]
        checkpoint_activations(model)
        one, two = (_saved_bytes(model, recipe, batch) + part for batch, part in zip((1, 2), largest, strict=True))
    else:
        two = _saved_bytes(model, recipe, 2)
    return Activations(two - one, max(0, 2 * one - two), kernels.count)


def _saved_bytes(model: PixelModel, recipe: Recipe, batch: int) -> int:
    """Bytes that autograd keeps of one forward pass, parameters and buffers left out."""
    x_BCHW = torch.zeros(batch, *model.spec.shape, dtype=torch.long)
    saved = _Saved()
    with saved, autocast(torch.device("cpu"), recipe.precision):
        log_prob_map = model.log_prob_map(x_BCHW)
    del log_prob_map
    return saved.num_bytes(without=(*model.parameters(), *model.buffers()))


def _largest_part_bytes(model: PixelModel, recipe: Recipe, batch: int) -> int:
    """Bytes that autograd keeps of the largest part of a block: what has to be there while the part is computed again."""
    counts: list[int] = []

    def counted(part: Callable[..., Any]) -> Callable[..., Any]:
        def run(*arguments: Any) -> Any:
            saved = _Saved()
            with saved:
                result = part(*arguments)
            counts.append(saved.num_bytes())
            return result

        return run

    parts = list(block_parts(model))
    for block, name in parts:
        setattr(block, name, counted(getattr(block, name)))
    _saved_bytes(model, recipe, batch)
    for block, name in parts:
        delattr(block, name)
    return max(counts)
