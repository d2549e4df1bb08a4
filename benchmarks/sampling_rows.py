"""What a batch costs: one forward pass, the engine, and the reference sampler, timed in turn; and what a slot holds."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass, replace
from statistics import median
from typing import Any

import torch

from pixelmodels.likelihoods import LikelihoodConfig
from pixelmodels.models import ContextSpec, PixelModel, architecture_of, build, config_class
from pixelmodels.sampling import Engine, Request, draw_all, reference_sample
from pixelmodels.sampling.passes import Passes
from pixelmodels.shapes import ImageSpec

# where `num_layers` counts the layers of one block or resolution of several
NUM_LAYERS = 8
LAYERS = {"pixelcnn_pp": 1, "pixelsnail": 3}
LEAST_S = 0.2  # seconds that one timing covers, of as many calls as it takes


@dataclass(frozen=True)
class Case:
    """A model that is measured: its architecture at a size that all share, likelihood and images."""

    architecture: str
    likelihood: str = "bernoulli"
    channels: int = 1  # of the images
    levels: int = 2  # of the images
    size: int = 28  # rows and columns of the images
    num_features: int = 64
    num_layers: int = NUM_LAYERS  # or those of LAYERS, unless another number is given
    seed: int = 0  # of the weights

    def build(self) -> PixelModel:
        """The model in evaluation mode, float32, with seeded weights."""
        torch.manual_seed(self.seed)
        spec = ImageSpec(self.channels, self.size, self.size, self.levels)
        return build(self._config(self.architecture), spec, LikelihoodConfig(self.likelihood), ContextSpec()).eval()

    def _config(self, architecture: str) -> Any:
        kind = config_class(architecture)
        names = {field.name for field in fields(kind)}
        nested = {name: self._config(architecture_of(getattr(kind(), name))) for name in names if is_dataclass(getattr(kind(), name))}
        wanted = {
            "num_features": self.num_features,
            "head_features": self.num_features,
            "num_layers": LAYERS.get(architecture, NUM_LAYERS) if self.num_layers == NUM_LAYERS else self.num_layers,
        }
        return kind(**nested, **{name: value for name, value in wanted.items() if name in names})


GATED = Case("gated_pixelcnn")


def seconds_of(call: Callable[[], object], num_calls: int = 1) -> float:
    """Mean wall-clock seconds of a call."""
    started = time.perf_counter()
    for _ in range(num_calls):
        call()
    return (time.perf_counter() - started) / num_calls


def state_bytes(model: PixelModel) -> int:
    """Bytes that one slot's image keeps in the canvases of all stages."""
    x_1CHW = torch.zeros(1, *model.spec.shape, dtype=torch.uint8)
    canvases = [Passes(stage.model).start(1, stage.context(None, x_1CHW)) for stage in model.stages()]
    return sum(value.numel() * value.element_size() for canvas in canvases for value in canvas.tensors())


def time_modes(model: PixelModel, batch: int, repeats: int) -> tuple[dict[str, float], int]:
    """Seconds of a batch by each mode, the median of `repeats` timings, the modes in turn; and the pixels of a timing of the reference.

    The reference sampler is timed on some pixels (all channels of them) and scaled to the image: each costs one pass, or one for each
    channel where the network orders them.
    """
    num_pixels = model.spec.height * model.spec.width
    rng = torch.Generator().manual_seed(0)
    x_BCHW = torch.randint(model.spec.levels, (batch, *model.spec.shape), generator=rng, dtype=torch.uint8)
    engine = Engine(model, num_slots=batch, max_waiting=batch, reserve=0)

    def forward() -> None:
        with torch.inference_mode():
            model(x_BCHW)

    def warm_up() -> None:
        request_id = engine.submit(Request(n=batch))
        for _ in range(model.period):
            engine.step_row()
        engine.cancel(request_id)

    warm_up()
    forward()
    num_calls = min(16, int(LEAST_S / seconds_of(forward)) + 1)
    timings: dict[str, list[float]] = {"forward": [], "raster": [], "reference": []}
    for repeat in range(repeats):
        timings["forward"].append(seconds_of(forward, num_calls))
        timings["raster"].append(seconds_of(lambda seed=repeat: draw_all(engine, Request(n=batch, seed=seed))))  # type: ignore[misc]
        some = seconds_of(lambda: reference_sample(model, batch, seed=0, num_pixels=num_calls))
        timings["reference"].append(some / num_calls * num_pixels)
    return {mode: median(seconds) for mode, seconds in timings.items()}, num_calls


def rows_of(case: Case, batches: tuple[int, ...], repeats: int, say: Callable[[str], None]) -> list[dict[str, Any]]:
    """The rows of one model: three modes for each batch."""
    model = case.build()
    rows = []
    for batch in batches:
        seconds, num_timed = time_modes(model, batch, repeats)
        for mode, value in seconds.items():
            row: dict[str, Any] = {
                "model": case.architecture,
                "likelihood": case.likelihood,
                "image_channels": case.channels,
                "levels": case.levels,
                "size": case.size,
                "layers": case.num_layers,
                "width": case.num_features,
                "mode": mode,
                "batch": batch,
                "seconds": value,
                "forward_passes": value / seconds["forward"],
                "speedup_over_reference": None if mode == "forward" else seconds["reference"] / value,
                "state_mib_per_slot": state_bytes(model) / 2**20,
            }
            if mode == "reference":
                row["timed_pixels"] = num_timed  # in each of its timings; scaled to all
            rows.append(row)
        say(
            f"{case.architecture} {case.likelihood} {case.channels}x{case.size}x{case.size}, batch {batch}: {seconds['raster']:.3f} s, "
            f"{seconds['raster'] / seconds['forward']:.2f} forward passes, {seconds['reference'] / seconds['raster']:.0f} x the reference"
        )
    return rows


def float32_differences(case: Case, levels: tuple[int, ...], num_images: int, batch: int) -> list[dict[str, Any]]:
    """How many images of a batch differ in any pixel from the same images drawn alone, for each number of levels; weights are doubled.

    Fresh weights give nearly uniform pixels; doubled ones a network that has something to say.
    """
    found = []
    for count in levels:
        likelihood = "bernoulli" if count == 2 else "categorical"
        model = replace(case, likelihood=likelihood, levels=count).build()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(2)
        together = min(batch, num_images)
        differ = num_different(model, num_images, together)
        found.append({"levels": count, "batch": together, "images": num_images, "images_that_differ": differ, "share": differ / num_images})
    return found


def num_different(model: PixelModel, num_images: int, batch: int) -> int:
    """Images that differ in any pixel, drawn `batch` at a time and alone."""
    request = Request(n=num_images, seed=1)
    together, alone = (draw_all(Engine(model, num_slots=slots, reserve=0), request) for slots in (batch, 1))
    return int((together != alone).flatten(1).any(1).sum())
