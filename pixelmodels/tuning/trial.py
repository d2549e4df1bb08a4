"""One trial where it runs: a Ray Tune function that starts a Ray Train run, whose workers report after every epoch."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch

from pixelmodels.data import Dataset
from pixelmodels.training.checkpoints import CHECKPOINTS
from pixelmodels.training.loop import Loop
from pixelmodels.training.plan import RunPlan
from pixelmodels.training.preflight import WorkerNeeds
from pixelmodels.training.trainer import guarded, ray_files, report, run_group, wrap
from pixelmodels.tuning.record import TRIAL_RUNS, Records, TrialRecord, recipe_of

NUMBER = "number"  # entry of a Tune config: which trial of the sweep
POLL_S = "0.2"  # seconds between looks of Ray Train's controller at a trial's workers, which wait for it after each epoch
EPOCH, METRIC, LATEST = "epoch", "val/best_bits_per_dim", "val/bits_per_dim"  # of a report; the best so far is what trials are compared by


@dataclass(frozen=True)
class TrialPlans:
    """How a trial of a sweep becomes a run; the same for all of them, and sent to where they run."""

    records: Records
    sweep_id: str
    dataset: Dataset
    needs: WorkerNeeds
    num_threads: int
    checkpoint_every_s: float
    max_failures: int

    def plan(self, trial: TrialRecord) -> RunPlan:
        """The run of a trial: MLflow is the driver's business, and nothing is tested or registered."""
        return RunPlan(
            recipe=recipe_of(trial),
            dataset=self.dataset,
            storage=self.records.storage,
            run_key=trial_key(self.sweep_id, trial.number),
            checkpoint_every_s=self.checkpoint_every_s,
            report_epochs=True,
            num_threads=self.num_threads,
            place=f"{self.records.folder}/{TRIAL_RUNS}",
        )


def trial_key(sweep_id: str, number: int) -> str:
    """What a trial is known by in MLflow and in folders."""
    return f"{sweep_id}-{number:03d}"


def run_trial(config: Mapping[str, Any], plans: TrialPlans, verdicts: Any) -> None:
    """The function that Ray Tune runs for each trial; raises `RunFailed` where the trial fails.

    Args: `verdicts`, the actor that says whether trials go on.
    """
    from ray.tune.integration.ray_train import TuneReportCallback

    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", POLL_S)
    number = int(config[NUMBER])
    given = {"plan": plans.plan(plans.records.trial(number)), "number": number, "verdicts": verdicts}
    run_group(train_trial, given, plans.needs, max_failures=plans.max_failures, callbacks=[TuneReportCallback()])


class _Stopped(Exception):
    """The trial was stopped after the epoch that it has reported."""


def train_trial(config: dict[str, Any]) -> None:
    """What each worker runs: the loop without its test, until its last epoch or the one after which the trial is stopped.

    A trial that goes on from a checkpoint reports the epochs before it again.
    """
    import ray

    def goes_on(epoch: int) -> bool:
        return bool(ray.get(config["verdicts"].ask.remote(config["number"], epoch)))

    def work(plan: RunPlan, device: torch.device) -> None:
        loop: Loop | None = None

        def tell(metrics: dict[str, float]) -> None:
            assert loop is not None
            report({**metrics, METRIC: loop.position.best_bits_per_dim})
            if not goes_on(loop.position.epoch):
                raise _Stopped

        loop = Loop(plan, device, wrap, say=lambda _: None, report=tell)
        curve = loop.position.val_bits_per_dim
        for epoch, latest in enumerate(curve, 1):
            report({LATEST: latest, METRIC: min(curve[:epoch]), EPOCH: float(epoch)})
        if not curve or goes_on(len(curve)):
            with suppress(_Stopped):
                loop.train()

    guarded(config["plan"], work)


def remove_checkpoints(plan: RunPlan) -> None:
    """Remove what a trial that has ended left for going on, and Ray Train's own files of it."""
    plan.storage.delete(f"{plan.folder}/{CHECKPOINTS}")
    plan.storage.delete(ray_files(plan))
