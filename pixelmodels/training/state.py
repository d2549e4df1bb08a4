"""All that a run is at one moment, how it is written as a checkpoint, and how a run goes on from one."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch

from pixelmodels.models import PixelModel, describe
from pixelmodels.models.files import AVERAGE, DESCRIPTION, WEIGHTS
from pixelmodels.progress import Say
from pixelmodels.ray_cluster import num_cores
from pixelmodels.runs import checkpoints
from pixelmodels.training.averaging import Average
from pixelmodels.training.optimization import load_moments, moments
from pixelmodels.training.plan import RunPlan
from pixelmodels.training.workers import Workers
from pixelmodels.training.writer import Writer


@dataclass
class Position:
    """How far a run is, and what it has seen: all of a checkpoint's state that is not a tensor."""

    epoch: int = 0  # being trained, from 0
    epoch_step: int = 0  # steps done in it
    step: int = 0  # steps done in all
    epoch_nats: float = 0.0  # sum of the training nats of the epoch so far
    epoch_images: int = 0  # images of the epoch so far
    epoch_seconds: float = 0.0  # spent on training steps of the epoch so far
    train_images: int = 0  # images trained on in all
    train_seconds: float = 0.0  # spent on training steps
    seconds: float = 0.0  # spent in all
    best_step: int = -1  # of the checkpoint with the best validation
    best_epoch: int = -1
    best_bits_per_dim: float = float("inf")
    val_bits_per_dim: list[float] = field(default_factory=list)  # after each epoch


@dataclass
class RunState:
    """A run at one moment, in one worker."""

    plan: RunPlan
    workers: Workers
    device: torch.device  # of this worker
    model: PixelModel
    average: Average[PixelModel]
    optimizer: torch.optim.Optimizer
    writer: Writer  # of the first worker
    position: Position = field(default_factory=Position)
    last_saved: int = -1  # step of the newest checkpoint, which is being written where it is not whole

    def save(self) -> None:
        """Have a checkpoint written, of copies of all that it holds, and all but it, the best one and the one before it removed.

        The one before it stands in for it where it is damaged, or never finished. Call it in every worker; only the first one waits, where
        earlier ones are not written yet.
        """
        step = self.position.step
        if self.workers.is_first:
            tensors = {
                WEIGHTS: self.model.state_dict(),
                AVERAGE: self.average.model.state_dict(),
                checkpoints.OPTIMIZER: moments(self.optimizer, self.model),
            }
            copies = {file: {name: value.detach().to("cpu", copy=True) for name, value in own.items()} for file, own in tensors.items()}
            documents = {DESCRIPTION: describe(self.model), checkpoints.STATE: self._document()}
            keep = {self.position.best_step, self.last_saved, step}
            self.writer.bring(partial(_write, self.plan, step, copies, documents, keep))
        self.last_saved = step

    def restore(self, say: Say) -> None:
        """Go on from the newest checkpoint that is whole; where there is none, begin.

        Call it in every worker: the first one chooses, because another might find another checkpoint whole.
        """
        plan = self.plan
        found = self._told_by_first(checkpoints.latest(plan.storage, plan.folder, say) if self.workers.is_first else None)
        if found is None:
            return
        self.model.load_state_dict(found.tensors(WEIGHTS))
        self.average.model.load_state_dict(found.tensors(AVERAGE))
        load_moments(self.optimizer, self.model, found.tensors(checkpoints.OPTIMIZER))
        document = found.json(checkpoints.STATE)
        self.position, self.last_saved = Position(**document["position"]), found.step
        if document["num_workers"] == self.workers.count and plan.num_threads and self.device.type == "cpu":
            # Another number would round sums otherwise; but no more than this machine has cores.
            torch.set_num_threads(min(document["num_threads"], num_cores()))

    def restore_best(self, say: Say) -> None:
        """Take the averaged weights that validated best; where their checkpoint is damaged, keep the last ones, which then count as best.

        Call it in every worker, at the end of an epoch.
        """
        plan, position = self.plan, self.position
        best = None
        if self.workers.is_first:
            self.writer.wait()
            try:
                best = checkpoints.load(plan.storage, plan.folder, position.best_step)
            except checkpoints.DamagedCheckpoint as damage:
                last = f"{position.val_bits_per_dim[-1]:z.4f}, instead of {position.best_bits_per_dim:z.4f}"
                say(f"{plan.recipe.name}: the best checkpoint is damaged ({damage}); testing the last weights (validation {last} bits/dim)")
        best = self._told_by_first(best)
        if best is not None:
            self.average.model.load_state_dict(best.tensors(AVERAGE))
            return
        position.best_step, position.best_epoch = position.step, position.epoch
        position.best_bits_per_dim = position.val_bits_per_dim[-1]
        self.save()  # again: it may have been the damaged one

    def _told_by_first(self, found: checkpoints.Checkpoint | None) -> checkpoints.Checkpoint | None:
        """The checkpoint that the first worker has found and read, known to all."""
        said = self.workers.first_said(None if found is None else json.dumps([found.folder, found.step, list(found.files)]))
        if said is None:
            return None
        folder, step, names = json.loads(said)
        return checkpoints.Checkpoint(
            folder, step, {name: self.workers.bytes_of_first(found.files[name] if found else b"") for name in names}
        )

    def _document(self) -> dict[str, Any]:
        plan = self.plan
        return {
            "recipe": plan.recipe.to_dict(),
            "dataset": f"{plan.dataset.name}-{plan.dataset.fingerprint}",
            "run_key": plan.run_key,
            "mlflow_run_id": plan.mlflow_run_id,
            "num_workers": self.workers.count,
            "num_threads": torch.get_num_threads(),
            "position": dataclasses.asdict(self.position),
        }


def _write(plan: RunPlan, step: int, tensors: Mapping[str, checkpoints.Tensors], documents: Mapping[str, Any], keep: set[int]) -> None:
    """Write a checkpoint, and remove all but some; raises `Lost` where another process has the run."""
    plan.check_held()
    checkpoints.save(plan.storage, plan.folder, step, tensors, documents)
    checkpoints.prune(plan.storage, plan.folder, keep)
