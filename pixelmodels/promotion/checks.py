"""What a registered version must pass before its score counts: causality, its recorded likelihoods, samples."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pixelmodels.data import Dataset, Split
from pixelmodels.evaluation.batches import to_tensors
from pixelmodels.evaluation.nats import ImageNats, difference_of_keys
from pixelmodels.evaluation.sample_grids import sample_context
from pixelmodels.evaluation.scores import score_rows
from pixelmodels.likelihoods.bits import bits_per_dim
from pixelmodels.models import PixelModel
from pixelmodels.models.orders import ensemble_log_prob
from pixelmodels.promotion.outcome import Check
from pixelmodels.sampling import sample

CAUSALITY, LIKELIHOOD, SAMPLES = "causality", "likelihood", "samples"
SCORING_BATCH = 128  # images
_PROBE_BATCH = 8  # images of which one sub-pixel each is changed
_NUM_SAMPLES = 16
_TAGGED = 2e-6  # a version's tag has its bits/dim to six places


@dataclass(frozen=True)
class _Probe:
    """A change of an image: of one sub-pixel, or of all sub-pixels of a pixel and of those that come after it."""

    k: int  # channel
    r: int  # row
    c: int  # column
    onwards: bool = False

    def changed(self, model: PixelModel) -> Tensor:
        """Which sub-pixels are changed; booleans C H W."""
        changed_CHW = torch.zeros(model.spec.shape, dtype=torch.bool)
        if self.onwards:
            order_HW = model.pixel_ranks()
            changed_CHW[:] = order_HW >= order_HW[self.r, self.c]
        else:
            changed_CHW[self.k, self.r, self.c] = True
        return changed_CHW

    def __str__(self) -> str:
        place = f"row {self.r}, column {self.c}"
        return f"all from {place} on" if self.onwards else f"channel {self.k} of {place}"


def check_causality(model: PixelModel, test: Split, num_probes: int, seed: int) -> Check:
    """Change sub-pixels: no parameter that is due before them may change, not in the last bit.

    One at a time, first of each channel the corners and a random place of each edge, where padding, shifts and wraps go wrong, then
    `num_probes` anywhere. And for each row all sub-pixels at once of the pixels from its first on: what leaks from there to what comes
    before, from wherever and however rarely one of them is met by chance, is found for certain.

    "Before" is the order that the model declares: pixels earlier in `pixel_ranks()`, and parameters of the pixel itself but those of later
    channels. In float64 on the CPU, on test images and images of noise, all context held fixed: masks give exact zeros there.
    """
    rng = np.random.default_rng(seed)
    model = copy.deepcopy(model).cpu().double().eval()
    worst, leaks = 0.0, []
    probes = [_Probe(*place) for place in _places(model.spec.shape, num_probes, rng)]
    probes += [_Probe(0, r, 0, onwards=True) for r in range(model.spec.height)]
    for start in range(0, len(probes), _PROBE_BATCH):
        batch = probes[start : start + _PROBE_BATCH]
        chosen = test.take(rng.integers(0, len(test), len(batch)))
        orders = model.context_spec.num_orders
        order_B = rng.integers(0, orders, len(batch)) if orders > 1 else None  # it sees turned images
        x_BCHW, context = to_tensors(chosen.rows, torch.device("cpu"), model.context_spec, order_B)
        noise_BCHW = torch.from_numpy(rng.integers(0, model.spec.levels, x_BCHW.shape))
        x_BCHW = torch.where(torch.from_numpy(rng.random((len(x_BCHW), 1, 1, 1)) < 0.5), noise_BCHW, x_BCHW)
        other_BCHW = (x_BCHW + torch.from_numpy(rng.integers(1, model.spec.levels, x_BCHW.shape))) % model.spec.levels
        changed_BCHW = torch.where(torch.stack([probe.changed(model) for probe in batch]), other_BCHW, x_BCHW)
        with torch.no_grad():
            before_BPHW, after_BPHW = (model.forward(one_BCHW, context) for one_BCHW in (x_BCHW, changed_BCHW))
        if not (before_BPHW.isfinite().all() and after_BPHW.isfinite().all()):
            return Check(CAUSALITY, False, "parameters are not finite")
        moved_BPHW = (before_BPHW - after_BPHW).abs()
        for image, probe in enumerate(batch):
            leak = float((moved_BPHW[image] * _due_before(model, probe.k, probe.r, probe.c)).max())
            worst = max(worst, leak)
            leaks += [probe] if leak > 0 else []
    if leaks:
        said = f"{len(leaks)} of {len(probes)} changes reach parameters that are due before what was changed, by up to {worst:.3g}"
        return Check(CAUSALITY, False, f"{said}; the first is of {leaks[0]}")
    alone = len(probes) - model.spec.height
    return Check(CAUSALITY, True, f"{alone} sub-pixels changed, and all from each of {model.spec.height} rows on: nothing before them did")


def check_likelihood(
    model: PixelModel, dataset: Dataset, test: Split, nats: ImageNats, tagged: float, positions: np.ndarray, tolerance: float, device: str
) -> Check:
    """The recorded nats are of exactly the data set's test images, finite, and what the model gives: scored again at these positions.

    Args: `tagged`, the version's bits/dim by its tag (NaN: none); `tolerance`, how far nats may be off, as a share of them.
    """
    unlike = difference_of_keys(nats.keys, test.keys, ("the recorded", "the data set's"))
    if unlike is not None:
        return Check(LIKELIHOOD, False, f"the recorded test images are not the data set's: {unlike}")
    bad = int((~np.isfinite(nats.nll_nats_N)).sum())
    if bad:
        return Check(LIKELIHOOD, False, f"the recorded nats of {bad} of {len(nats.keys)} test images are not finite")
    part = test.take(positions)
    recorded_N = nats.at(part.keys)
    model, target = copy.deepcopy(model).to(device).eval(), torch.device(device)
    rows = part.rows
    again_N = np.concatenate(
        [score_rows(model, rows.part(start, start + SCORING_BATCH), target) for start in range(0, len(rows), SCORING_BATCH)]
    )
    bad = int((~np.isfinite(again_N)).sum())
    if bad:
        return Check(LIKELIHOOD, False, f"the likelihoods of {bad} of {len(rows)} test images are not finite")
    off_N = np.abs(again_N - recorded_N) - allowed_nats(recorded_N, tolerance)
    wrong = int((off_N > 0).sum())
    if wrong:
        worst = int(off_N.argmax())
        said = f"{wrong} of {len(rows)} test images scored again do not have the recorded nats"
        return Check(LIKELIHOOD, False, f"{said}: '{part.keys[worst]}' has {again_N[worst]:z.3f}, recorded {recorded_N[worst]:z.3f}")
    bits = float(bits_per_dim(float(nats.nll_nats_N.mean()), dataset.spec.num_subpixels))
    if math.isfinite(tagged) and abs(bits - tagged) > _TAGGED:
        return Check(LIKELIHOOD, False, f"the tag test_bits_per_dim says {tagged:z.6f}, the recorded nats {bits:z.6f}")
    return Check(LIKELIHOOD, True, f"{len(rows)} of {len(test)} test images scored again, {bits:z.4f} bits/dim")


def allowed_nats(nll_nats_N: npt.NDArray[np.float64], tolerance: float) -> npt.NDArray[np.float64]:
    """How far recorded nats may be from what the model gives: a share of them, and of one nat where they are fewer."""
    return tolerance * np.maximum(np.abs(nll_nats_N), 1.0)


def check_samples(model: PixelModel, dataset: Dataset, test: Split, seed: int) -> Check:
    """Draw a few images: their levels are in range, not all one level where test images have more, and likely at all."""
    context = sample_context(dataset, model, _NUM_SAMPLES)
    try:
        x_NCHW = sample(model, _NUM_SAMPLES, seed=seed, context=context).long()
    except FloatingPointError as error:  # parameters that are not finite
        return Check(SAMPLES, False, str(error))
    low, high, levels = int(x_NCHW.min()), int(x_NCHW.max()), dataset.spec.levels
    if low < 0 or high >= levels:
        return Check(SAMPLES, False, f"samples have levels {low}..{high}, outside 0..{levels - 1}")
    if low == high and test.images_NCHW.min() < test.images_NCHW.max():
        return Check(SAMPLES, False, f"all of {_NUM_SAMPLES} samples have level {low} everywhere")
    with torch.no_grad():
        log_prob_N = ensemble_log_prob(model, x_NCHW, context)
    if not log_prob_N.isfinite().all():
        return Check(SAMPLES, False, "the model gives its own samples a likelihood that is not finite")
    bits = float(bits_per_dim(float(-log_prob_N.double().mean()), dataset.spec.num_subpixels))
    return Check(SAMPLES, True, f"{_NUM_SAMPLES} drawn, {bits:z.4f} bits/dim")


def _places(shape: tuple[int, int, int], num_random: int, rng: np.random.Generator) -> list[tuple[int, int, int]]:
    """Sub-pixels (channel, row, column): of each channel four corners and one of each edge, then random ones."""
    channels, height, width = shape
    bottom, right, places = height - 1, width - 1, []
    for k in range(channels):
        r, c = (int(rng.integers(min(1, size - 1), max(size - 1, min(2, size)))) for size in (height, width))  # no corner again
        places += [(k, 0, 0), (k, 0, right), (k, bottom, 0), (k, bottom, right), (k, 0, c), (k, bottom, c), (k, r, 0), (k, r, right)]
    return places + [(int(rng.integers(channels)), int(rng.integers(height)), int(rng.integers(width))) for _ in range(num_random)]


def _due_before(model: PixelModel, k: int, r: int, c: int) -> Tensor:
    """1 where a parameter must not know sub-pixel (k, r, c), else 0; P H W."""
    order_HW = model.pixel_ranks()
    due_PHW = (order_HW <= order_HW[r, c]).double().repeat(len(model.param_groups), 1, 1)
    due_PHW[:, r, c] = (torch.tensor(model.param_groups) <= k).double()
    return due_PHW
