"""One trial where it runs: a Ray Tune function that starts a Ray Train run, whose workers report after every epoch.

Whether a trial goes on then, the driver says; the workers ask, and end themselves. Ray Tune would end a trial by killing its process.
What that process had started on the cluster, workers and the CPUs that are reserved for them, would then be given back by a watchman
of Ray Train's that needs Ray's dashboard: on a local Ray, which has none, never. A trial that ends itself gives everything back at
once, and does not train on until it is found.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
from collections import defaultdict
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch

from pixelmodels.ray_cluster import WorkerNeeds
from pixelmodels.recipes.recipe import Recipe
from pixelmodels.runs.checkpoints import CHECKPOINTS
from pixelmodels.runs.result import FAILURE
from pixelmodels.training.loop import Loop
from pixelmodels.training.plan import RunPlan
from pixelmodels.training.trainer import NoRoom, guarded, ray_files, reason, report, run_group, wrap
from pixelmodels.tuning.record import Records, TrialRecord

_ANSWER_S = 30.0
NUMBER = "number"  # entry of a Tune config: which trial of the sweep
POLL_S = "0.2"  # seconds between looks of Ray Train's controller at a trial's workers, which wait for it after each epoch
EPOCH, METRIC, LATEST = "epoch", "val/best_bits_per_dim", "val/bits_per_dim"  # of a report; the best so far is what trials are compared by


@dataclass(frozen=True)
class TrialPlans:
    """How a trial of a sweep becomes a run; the same for all of them, and sent to where they run."""

    records: Records
    template: RunPlan  # all but recipe and key, which is the sweep's id; MLflow is the driver's business
    needs: WorkerNeeds
    max_failures: int

    def key(self, number: int) -> str:
        """What a trial is known by in MLflow and in folders."""
        return f"{self.template.run_key}-{number:03d}"

    def plan(self, trial: TrialRecord) -> RunPlan:
        """The run of a trial; nothing is tested or registered."""
        return dataclasses.replace(self.template, recipe=Recipe.from_dict(trial.recipe), run_key=self.key(trial.number))


def run_trial(config: Mapping[str, Any], plans: TrialPlans, verdicts: Any) -> None:
    """The function that Ray Tune runs for each trial; why it fails is written down, for the driver, before it is raised.

    Not where another process has taken the sweep over, whose trial it is then. Args: `verdicts`, the actor that says whether trials go on.
    """
    from ray.tune.integration.ray_train import TuneReportCallback

    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", POLL_S)
    number = int(config[NUMBER])
    plan = plans.plan(plans.records.trial(number))
    given = {"plan": plan, "number": number, "verdicts": verdicts}
    try:
        while True:
            with suppress(NoRoom):  # there was some when the trial began: a machine that died comes back, or another trial ends
                run_group(train_trial, given, plans.needs, max_failures=plans.max_failures, callbacks=[TuneReportCallback()])
                return
    except Exception as error:
        plan.check_held()
        plan.storage.write_bytes(f"{plan.folder}/{FAILURE}", json.dumps({"reason": reason(error)}).encode())
        raise


class Verdicts:
    """What was decided of each trial after each epoch, and where its workers are; an actor of the driver's."""

    def __init__(self) -> None:
        self._found: defaultdict[tuple[int, int], asyncio.Future[bool]] = defaultdict(asyncio.Future)
        self._groups: dict[int, Any] = {}

    async def say(self, number: int, epoch: int, goes_on: bool) -> None:
        """Decide; what was decided before stays."""
        if not self._found[number, epoch].done():
            self._found[number, epoch].set_result(goes_on)

    async def ask(self, number: int, epoch: int) -> bool:
        """Whether the trial goes on; waits until that is decided."""
        return await self._found[number, epoch]

    async def hold(self, number: int, group: Any) -> None:
        """Note the placement group that a trial's workers are in."""
        self._groups[number] = group

    async def held(self, number: int) -> Any:
        """The last placement group that a trial's workers were in; None where they never began."""
        return self._groups.get(number)


def give_back(verdicts: Any, number: int) -> None:
    """Give back what a trial's workers held, where its process died: Ray Train's own watchman needs Ray's dashboard for that."""
    import ray

    with suppress(Exception):  # of any kind: where the cluster does not answer, there is nobody to give it back to
        group = ray.get(verdicts.held.remote(number), timeout=_ANSWER_S)
        if group is not None:
            ray.util.remove_placement_group(group)


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
        config["verdicts"].hold.remote(config["number"], ray.util.get_current_placement_group())

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
