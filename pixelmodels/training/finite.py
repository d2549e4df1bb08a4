"""What is not finite is found before it is reported or written down: likelihoods by step and image, and the tensors of a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import NoReturn

import numpy as np
import torch

from pixelmodels.data import Dataset
from pixelmodels.data.feeds import Feed
from pixelmodels.training.plan import Hopeless
from pixelmodels.training.workers import Workers

_SHOWN = 6  # keys of images in a message


class FiniteCheck:
    """Ends a run where something is not finite, in all workers with the same `Hopeless`; call its methods in every worker."""

    def __init__(self, dataset: Dataset, feed: Feed, workers: Workers, steps_per_epoch: int) -> None:
        self._dataset, self._feed, self._workers, self._steps_per_epoch = dataset, feed, workers, steps_per_epoch

    def steps(self, step_nats: Sequence[float], total_nats: float, num_steps: int) -> None:
        """Check the training likelihood.

        Args: `step_nats`, of this worker's images of each of the last steps; `total_nats`, their sum over all workers; `num_steps` done.
        """
        if np.isfinite(total_nats):
            return
        bad = np.flatnonzero(~np.isfinite(step_nats))
        first = torch.tensor([bad[0] if len(bad) else len(step_nats) - 1])
        step = num_steps - len(step_nats) + int(torch.cat(self._workers.gather(first)).min())
        self._stop_at(f"the training likelihood is {total_nats}", step)

    def tensors(self, groups: Mapping[str, Mapping[str, torch.Tensor]], num_steps: int) -> None:
        """Check tensors, by group and name, after so many steps."""
        bad = self._workers.first_said(not_finite(groups))
        if bad is not None:
            self._stop_at(f"{bad} has values that are not finite", num_steps - 1)

    def scores(self, split: str, nll_nats_N: np.ndarray, when: str) -> None:
        """Check the likelihood of each image of a split."""
        bad = np.flatnonzero(~np.isfinite(nll_nats_N))
        if len(bad):
            self._stop(f"the {split} likelihood is {nll_nats_N.mean()} {when}", split, bad)

    def _stop_at(self, what: str, step: int) -> NoReturn:
        """Stop for what was found of a step (from 0)."""
        epoch, epoch_step = divmod(step, self._steps_per_epoch)
        self._stop(f"{what} in epoch {epoch + 1}, step {step + 1}", "train", self._feed.indices(epoch, epoch_step))

    def _stop(self, what: str, split: str, indices: np.ndarray) -> NoReturn:
        text = None
        if self._workers.is_first:
            text = f"{what}: lower learning_rate or clip_norm"
            with suppress(Exception):  # of any kind: what happened matters more than which images are named
                keys = self._dataset.read_labels(split)[1]
                more = f" and {len(indices) - _SHOWN} more" if len(indices) > _SHOWN else ""
                text += f", or see what is wrong with images {', '.join(keys[index] for index in indices[:_SHOWN])}{more}"
        raise Hopeless(self._workers.first_said(text))


def not_finite(groups: Mapping[str, Mapping[str, torch.Tensor]]) -> str | None:
    """The first group, and of it the first tensor, with a value that is not finite; None where all are. Waits for the device once."""
    named = [(group, name, tensor) for group, tensors in groups.items() for name, tensor in tensors.items()]
    if not named:
        return None
    device = named[0][2].device
    are_finite = torch.stack([tensor.isfinite().all().to(device) for _, _, tensor in named]).tolist()
    return next((f"{group} '{name}'" for (group, name, _), is_finite in zip(named, are_finite, strict=True) if not is_finite), None)
