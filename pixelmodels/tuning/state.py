"""A sweep as its driver sees it: what was tried, how it went, and how that is told to the record, MLflow and the terminal."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Mapping
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from pixelmodels.errors import UserError
from pixelmodels.models import architecture_of, build
from pixelmodels.tracking import Tracker
from pixelmodels.tracking.runs import KIND_TAG, PARENT_TAG, Status
from pixelmodels.training.conditioning import context_spec
from pixelmodels.training.progress import Say
from pixelmodels.training.recipes import Recipe
from pixelmodels.training.trainer import failure_of
from pixelmodels.tuning.record import Records, State, TrialRecord
from pixelmodels.tuning.space import Defaults, Drawn, SearchSpace, Values, default_of, from_values
from pixelmodels.tuning.trial import LATEST, TrialPlans, remove_checkpoints, trial_key

_STATUS: dict[State, Status] = {"finished": "FINISHED", "stopped": "FINISHED", "failed": "FAILED", "unfinished": "KILLED"}
STATE_TAG = "pixelmodels.trial_state"


class Sweep:
    """The trials of one sweep; all calls come from the driver's main thread."""

    def __init__(
        self,
        space: SearchSpace,
        defaults: Defaults,
        settings: Mapping[str, Any],
        plans: TrialPlans,
        tracker: Tracker,
        parent: str,
        say: Say,
        *,
        num_samples: int,
        ends_at: float = float("inf"),
    ) -> None:
        """`parent`, the sweep's MLflow run; `ends_at`, when no trial begins any more (`time.monotonic`).

        Raises `UserError` where the space no longer has what is on record.
        """
        self.space, self.defaults, self.plans, self.tracker, self.parent, self.say = space, defaults, plans, tracker, parent, say
        self.settings, self.num_samples, self.ends_at = dict(settings), num_samples, ends_at
        self.records: Records = plans.records
        self.images = plans.dataset.spec
        self.epochs = int(settings["epochs"])
        self.max_parameters: int | None = settings["max_parameters"]
        self.default: Drawn = default_of(space, defaults, self.images)
        self.trials: dict[int, TrialRecord] = {trial.number: trial for trial in self.records.trials()}
        for trial in self.trials.values():
            for values in trial.too_large:
                self.rebuilt(values)
            self._check_same(trial)
        self.running: set[int] = set()  # numbers of trials that this call began and that have not ended, nor been left
        self.num_impossible = 0  # recipes of this call that were drawn and that nothing can be built from
        self._reasons: set[str] = set()  # why; each is said once
        self._too_large: list[Values] = []  # drawn since the last trial began
        self._parameters: dict[str, int] = {}  # of the models of values that were drawn, which takes a while to find

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Ray Tune pickles what it is given, for a restore of its own that nobody asks for

    @property
    def default_trial(self) -> TrialRecord | None:
        """The trial of the suite's own recipe."""
        return next((trial for trial in self.trials.values() if trial.is_default), None)

    @property
    def num_too_large(self) -> int:
        """How many recipes had more parameters than are allowed, each counted once."""
        return len({json.dumps(values, sort_keys=True) for values in self._every_too_large()})

    @property
    def is_out_of_time(self) -> bool:
        """Whether no trial may begin any more."""
        return time.monotonic() >= self.ends_at

    def best(self) -> TrialRecord | None:
        """The trial with the fewest validation bits/dim, of those that were not failed."""
        scored = [trial for trial in self.trials.values() if trial.curve and trial.state != "failed"]
        return min(scored, key=lambda trial: (trial.best_bits_per_dim, trial.number), default=None)

    def is_tried(self, values: Values) -> bool:
        """Whether there is a trial of these values."""
        return any(trial.values == values for trial in self.trials.values())

    def is_too_large(self, values: Values) -> bool:
        """Whether a recipe of these values was drawn and had too many parameters."""
        return values in self._every_too_large()

    def _every_too_large(self) -> list[Values]:
        return [*self._too_large, *(values for trial in self.trials.values() for values in trial.too_large)]

    def rebuilt(self, values: Values) -> tuple[Drawn, dict[str, Any]]:
        """What values on record stand for, and Optuna's distributions; raises `UserError` where the space has changed."""
        try:
            return from_values(self.space, self.defaults, self.images, values)
        except (ValueError, UserError) as error:
            reason = f"space '{self.settings['space']}' no longer has what sweep '{self.records.name}' tried ({error})"
            raise UserError(f"{reason}; give another --name, or --fresh") from error

    def _check_same(self, trial: TrialRecord) -> None:
        """Raise `UserError` where a trial's values no longer stand for the recipe that it trains: the suite or the space has changed."""
        drawn, _ = self.rebuilt(trial.values)
        now = json.loads(json.dumps(self._short(drawn.recipe, trial.number).to_dict()))  # as it is on record: lists for tuples
        other = ", ".join(name for name in now if now[name] != trial.recipe.get(name))
        if other:
            reason = f"the suite's recipes are no longer those of sweep '{self.records.name}' ({other} of trial {trial.number} differ)"
            raise UserError(f"{reason}; give another --name, or --fresh")

    def _short(self, recipe: Recipe, number: int) -> Recipe:
        """A recipe that was drawn, as a trial trains it."""
        name = f"trial-{number:03d}-{architecture_of(recipe.model)}"
        return dataclasses.replace(recipe, name=name, epochs=self.epochs, patience=0, num_samples=0)

    # ---- a trial's life

    def leave_out(self, error: UserError) -> None:
        """Count a recipe that was drawn and cannot be built, and say why."""
        self.num_impossible += 1
        if str(error) not in self._reasons:
            self._reasons.add(str(error))
            self.say(f"a recipe that was drawn is left out: {error}")

    def draw(self, drawn: Drawn) -> TrialRecord | None:
        """A record for what was drawn; none where its model is too large."""
        key = json.dumps(drawn.values, sort_keys=True)
        if key not in self._parameters:
            self._parameters[key] = count_parameters(drawn.recipe, self.plans.dataset)
        parameters = self._parameters[key]
        is_default = drawn.values == self.default.values
        if self.max_parameters is not None and parameters > self.max_parameters:
            is_known = self.is_too_large(drawn.values)
            if not is_known:
                self._too_large.append(drawn.values)
            if is_default and not is_known:
                self.say(f"the default recipe has {parameters:,} parameters, more than --max-parameters {self.max_parameters:,}: not tried")
            return None
        number, too_large = len(self.trials), self._too_large
        recipe, architecture = self._short(drawn.recipe, number), architecture_of(drawn.recipe.model)
        self._too_large = []
        return TrialRecord(number, drawn.values, recipe.to_dict(), architecture, parameters, is_default, too_large=too_large)

    def begin(self, trial: TrialRecord) -> None:
        """Write a trial down, and open its MLflow run."""
        self.trials[trial.number] = trial
        self.records.write_trial(trial)  # before MLflow: whoever goes on then has the same values for the same run
        self._open(trial)
        self.running.add(trial.number)
        how = "goes on" if trial.curve else "begins"
        self.say(f"{title(trial)} {how}: {'the default recipe, ' if trial.is_default else ''}{values_of(trial)}")

    def progress(self, number: int, epoch: int, metrics: Mapping[str, Any], *, is_last: bool = False) -> None:
        """One epoch's report, the last one where the trial is stopped after it; those that are known are not told again."""
        trial = self.trials[number]
        kept = {name: float(metrics[name]) for name in metrics if name.partition("/")[0] in ("train", "val") or name in _METRICS}
        if trial.mlflow_run_id is not None:
            self.tracker.log_metrics(trial.mlflow_run_id, kept, epoch)
        if epoch in trial.curve:
            return
        trial.curve[epoch] = float(metrics[LATEST])
        if is_last:  # a call that is killed before the trial's end is told leaves it stopped
            trial.state = "stopped"
        self.records.write_trial(trial)
        self.say(f"{title(trial)}: epoch {epoch}/{self.epochs}  val {trial.curve[epoch]:.4f} bits/dim")

    def may_die_again(self, number: int) -> bool:
        """Count that the process of a trial died; whether it may go on in the next call."""
        trial = self.trials[number]
        trial.deaths += 1
        return trial.deaths <= self.plans.max_failures

    def end(self, number: int, state: State, reason: str | None = None) -> None:
        """How a trial ended, or that it is left for the next call."""
        trial = self.trials[number]
        plan = self.plans.plan(trial)
        if state == "failed":
            reason = failure_of(plan) or reason
        trial.state, trial.reason = state, reason
        self.records.write_trial(trial)
        self.running.discard(number)
        self._close(trial)
        if trial.has_ended:
            remove_checkpoints(plan)
        told = {
            "finished": f"finished, best val {trial.best_bits_per_dim or 0:.4f} bits/dim",
            "stopped": f"stopped after {trial.epochs} of {self.epochs} epochs, best val {trial.best_bits_per_dim or 0:.4f} bits/dim",
            "failed": f"failed: {reason}",
            "unfinished": f"left after {trial.epochs} of {self.epochs} epochs; the same command goes on with it",
        }
        self.say(f"{title(trial)} {told[state]}")

    def tidy(self) -> None:
        """Close and clear away what a killed call had ended but not told."""
        for trial in self.trials.values():
            if trial.has_ended:
                remove_checkpoints(self.plans.plan(trial))
                self._close(trial)

    def leave(self) -> None:
        """Leave what still runs for the next call."""
        for number in sorted(self.running):
            self.end(number, "unfinished")

    def _open(self, trial: TrialRecord) -> None:
        """Open a trial's MLflow run, and note which it is."""
        tags = {KIND_TAG: "trial", "space": str(self.settings["space"]), "architecture": trial.architecture, "trial": str(trial.number)}
        trial.mlflow_run_id = self.tracker.start_or_resume_child(
            str(trial.recipe["name"]),
            parent_run_id=self.parent,
            run_key=trial_key(self.plans.sweep_id, trial.number),
            params={**trial.recipe, "parameters": trial.parameters, "is_default": trial.is_default},
            tags=tags,
            dataset=self.plans.dataset,
        )
        self.records.write_trial(trial)

    def _close(self, trial: TrialRecord) -> None:
        """Close a trial's MLflow run, below the sweep's; one that somebody has removed is made again from the record."""
        if trial.mlflow_run_id is None:
            return
        if not self.tracker.is_there(trial.mlflow_run_id):
            self._open(trial)
            for epoch, bits_per_dim in sorted(trial.curve.items()):
                self.tracker.log_metrics(trial.mlflow_run_id, {LATEST: bits_per_dim}, epoch)
        run, status = self.tracker.client.get_run(trial.mlflow_run_id), _STATUS[trial.state]
        if run.data.tags.get(PARENT_TAG) != self.parent:
            self.tracker.set_tags(trial.mlflow_run_id, {PARENT_TAG: self.parent})
        if run.info.status != status:
            self.tracker.set_tags(trial.mlflow_run_id, {STATE_TAG: trial.state, **({"reason": trial.reason} if trial.reason else {})})
            self.tracker.finish(trial.mlflow_run_id, status)


_METRICS = ("images_per_second", "learning_rate")


def title(trial: TrialRecord) -> str:
    """A trial's name in lines for people."""
    return f"trial {trial.number} ({trial.architecture})"


def values_of(trial: TrialRecord) -> str:
    """A trial's values as a person reads them: `num_layers 5, dropout 0.3`."""
    shown = {name.rpartition(".")[2]: f"{value:.3g}" if isinstance(value, float) else value for name, value in trial.values.items()}
    return ", ".join(f"{name} {value}" for name, value in shown.items())


def count_parameters(recipe: Recipe, dataset: Any) -> int:
    """Trained numbers of a recipe's model, for images of a data set, without the memory; raises `UserError` where the two do not fit."""
    with torch.random.fork_rng(devices=[]), FakeTensorMode():
        return int(build(recipe.model, dataset.spec, recipe.likelihood, context_spec(recipe, dataset)).num_parameters)
