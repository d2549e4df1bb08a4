"""A sweep as its driver sees it: what was tried, how it went, and how that is told to the record, MLflow and the terminal."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

from pixelmodels.errors import UserError
from pixelmodels.internals import fake_tensors
from pixelmodels.models import architecture_of, build
from pixelmodels.progress import Say
from pixelmodels.recipes.context import context_spec
from pixelmodels.recipes.recipe import Recipe
from pixelmodels.tracking import Tracker
from pixelmodels.tracking.runs import KIND_TAG, PARENT_TAG, Status
from pixelmodels.training.outbox import RETRY_S, attempt
from pixelmodels.training.trainer import failure_of
from pixelmodels.tuning.record import State, TrialRecord
from pixelmodels.tuning.space import Ask, Defaults, SearchSpace, Values, from_values
from pixelmodels.tuning.trial import LATEST, TrialPlans, remove_checkpoints

_STATUS: dict[State, Status] = {"finished": "FINISHED", "stopped": "FINISHED", "failed": "FAILED", "unfinished": "KILLED"}
STATE_TAG = "pixelmodels.trial_state"
_METRICS = ("images_per_second", "learning_rate")  # beside those of training and validation


@dataclass
class Sweep:
    """The trials of one sweep; all calls come from the driver's main thread.

    Raises `UserError` where the space no longer has what is on record.
    """

    space: SearchSpace
    defaults: Defaults
    settings: dict[str, Any]  # all that its trials depend on
    plans: TrialPlans
    tracker: Tracker
    parent: str  # the sweep's MLflow run
    say: Say
    num_samples: int  # trials in all, those of earlier calls included
    ends_at: float = float("inf")  # when no trial begins any more (`time.monotonic`)

    def __post_init__(self) -> None:
        self.records, self.dataset, self.epochs = self.plans.records, self.plans.template.dataset, int(self.settings["epochs"])
        ask = Ask()
        self.space.recipe(ask, self.defaults, self.dataset.spec)
        self.default: Values = ask.values  # of the suite's own recipe
        self.trials: dict[int, TrialRecord] = {trial.number: trial for trial in self.records.trials()}
        for trial in self.trials.values():
            for values in trial.too_large:
                self.rebuilt(values)
            self._check_same(trial)
        self.running: set[int] = set()  # numbers of trials that this call began and that have not ended, nor been left
        self.num_impossible = 0  # recipes of this call that were drawn and that nothing can be built from
        self._reasons: set[str] = set()  # why; each is said once
        self._too_large: list[Values] = []  # drawn since the last trial began
        self.advance: Callable[[float], None] = lambda _: None  # is told of trials, and of parts of one, that are done
        self.untold: str | None = None  # why MLflow could not be told at the last attempt
        self._try_at = 0.0

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Ray Tune pickles what it is given, for a restore of its own that nobody asks for

    @property
    def default_trial(self) -> TrialRecord | None:
        """The trial of the suite's own recipe."""
        return next((trial for trial in self.trials.values() if trial.is_default), None)

    @property
    def too_large(self) -> list[Values]:
        """Values that were drawn and whose recipes had more parameters than are allowed, each once."""
        return [*self._too_large, *(values for trial in self.trials.values() for values in trial.too_large)]

    def scored(self) -> list[TrialRecord]:
        """The trials that have a score and have not failed."""
        return [trial for trial in self.trials.values() if trial.curve and trial.state != "failed"]

    def best(self) -> TrialRecord | None:
        """The one of them with the fewest validation bits/dim."""
        return min(self.scored(), key=lambda trial: (trial.best_bits_per_dim, trial.number), default=None)

    @property
    def num_done(self) -> float:
        """Trials that have ended, and the parts of others that are done."""
        return sum(1 if trial.has_ended else len(trial.curve) / self.epochs for trial in self.trials.values())

    def is_tried(self, values: Values) -> bool:
        """Whether there is a trial of these values."""
        return any(trial.values == values for trial in self.trials.values())

    def rebuilt(self, values: Values) -> tuple[Recipe, dict[str, Any]]:
        """What values on record stand for, and Optuna's distributions; raises `UserError` where the space has changed."""
        try:
            return from_values(self.space, self.defaults, self.dataset.spec, values)
        except (ValueError, UserError) as error:
            reason = f"space '{self.settings['space']}' no longer has what sweep '{self.records.name}' tried ({error})"
            raise UserError(f"{reason}; give another --name, or --fresh") from error

    def _check_same(self, trial: TrialRecord) -> None:
        """Raise `UserError` where a trial's values no longer stand for the recipe that it trains: the suite or the space has changed."""
        now = self._short(self.rebuilt(trial.values)[0], trial.number)
        then = Recipe.from_dict(trial.recipe)  # a field that the record does not have yet: its default
        other = ", ".join(spec.name for spec in dataclasses.fields(now) if getattr(now, spec.name) != getattr(then, spec.name))
        if other:
            reason = f"the suite's recipes are no longer those of sweep '{self.records.name}' ({other} of trial {trial.number} differ)"
            raise UserError(f"{reason}; give another --name, or --fresh")

    def _short(self, recipe: Recipe, number: int) -> Recipe:
        """A recipe that was drawn, as a trial trains it."""
        name = f"trial-{number:03d}-{architecture_of(recipe.model)}"
        return dataclasses.replace(recipe, name=name, epochs=self.epochs, patience=0, num_samples=0)

    # ---- what MLflow is told

    def tell(self, call: Callable[[], object], *, now: bool = True) -> bool:
        """Make a call to MLflow; where it cannot be made the sweep goes on, and says so once. Returns whether it was made.

        Args: unless `now`, it is not tried at all for some seconds after an attempt that failed.
        """
        if not now and time.monotonic() < self._try_at:
            return False
        before, self.untold = self.untold, attempt(self.tracker, call)
        if self.untold is None:
            return True
        self._try_at = time.monotonic() + RETRY_S
        if before is None:
            self.say(f"MLflow cannot be told ({self.untold}); the sweep goes on, and tells it in the end")
        return False

    # ---- a trial's life

    def draw(self, ask: Ask) -> TrialRecord | None:
        """A trial of what `ask` answers; none, which is counted and said, where that was tried, is too large or cannot be built."""
        try:
            recipe = self.space.recipe(ask, self.defaults, self.dataset.spec)
            if self.is_tried(ask.values) or ask.values in self.too_large:
                return None
            parameters = count_parameters(recipe, self.dataset)
        except UserError as error:
            self.num_impossible += 1
            if str(error) not in self._reasons:
                self._reasons.add(str(error))
                self.say(f"a recipe that was drawn is left out: {error}")
            return None
        number, most, is_default = len(self.trials), self.settings["max_parameters"], ask.values == self.default
        if most is not None and parameters > most:
            self._too_large.append(ask.values)
            if is_default:
                self.say(f"the default recipe has {parameters:,} parameters, more than --max-parameters {most:,}: not tried")
            return None
        too_large, self._too_large = self._too_large, []
        plain, architecture = self._short(recipe, number).to_dict(), architecture_of(recipe.model)
        return TrialRecord(number, ask.values, plain, architecture, parameters, is_default, too_large=too_large)

    def begin(self, trial: TrialRecord) -> None:
        """Write a trial down, and open its MLflow run; raises `Lost` as all do that write to the sweep's files."""
        self.plans.template.check_held()
        self.trials[trial.number] = trial
        self.records.write(trial)  # before MLflow: whoever goes on then has the same values for the same run
        self.tell(partial(self._open, trial))
        self.running.add(trial.number)
        how = "goes on" if trial.curve or trial.deaths else "begins"
        self.say(f"{title(trial)} {how}: {'the default recipe, ' if trial.is_default else ''}{values_of(trial)}")

    def goes_on(self, number: int, epoch: int, best_bits_per_dim: float) -> bool:
        """Whether a trial trains on after an epoch.

        Asynchronous successive halving (ASHA, arXiv:1810.05934): after the grace epochs, and after each power of the reduction factor
        times as many, it is stopped unless it is among the best of those that came as far. The default recipe, the measure of all
        others, is not; nor is a trial judged again where it had passed.
        """
        trial, grace, factor = self.trials[number], self.settings["grace_epochs"], self.settings["reduction_factor"]
        if epoch >= self.epochs or trial.state == "stopped":
            return False
        if trial.is_default or epoch in trial.curve or epoch not in (grace * factor**look for look in range(epoch)):
            return True
        others = [-other.best_by_epoch[epoch] for other in self.trials.values() if other is not trial and epoch in other.curve]
        return not others or bool(-best_bits_per_dim >= np.percentile(others, (1 - 1 / factor) * 100))

    def progress(self, number: int, epoch: int, metrics: Mapping[str, Any], *, goes_on: bool) -> None:
        """One epoch's report, after which the trial goes on or not; those that are known are not told again."""
        self.plans.template.check_held()
        trial = self.trials[number]
        kept = {name: float(metrics[name]) for name in metrics if name.partition("/")[0] in ("train", "val") or name in _METRICS}
        if trial.mlflow_run_id is not None:
            self.tell(partial(self.tracker.log_metrics, trial.mlflow_run_id, kept, epoch), now=False)
        if epoch in trial.curve:
            return
        trial.curve[epoch] = float(metrics[LATEST])
        self.advance(1 / self.epochs)
        if not goes_on and epoch < self.epochs:  # a call that is killed before the trial's end is told leaves it stopped
            trial.state = "stopped"
        self.records.write(trial)
        self.say(f"{title(trial)}: epoch {epoch}/{self.epochs}  val {trial.curve[epoch]:z.4f} bits/dim")

    def end(self, number: int, *, has_failed: bool = False) -> None:
        """The end of a trial, or that it goes on later: as often as dead workers are replaced, where its process died."""
        self.plans.template.check_held()
        trial = self.trials[number]
        plan = self.plans.plan(trial)
        reason = failure_of(plan) if has_failed else None
        has_died = has_failed and reason is None
        trial.deaths += has_died
        if trial.epochs >= self.epochs:
            trial.state = "finished"
        elif has_failed and not trial.has_ended and (not has_died or trial.deaths > self.plans.max_failures):
            trial.state, trial.reason = "failed", reason or "its process died, out of memory or with its machine"
        self.records.write(trial)
        self.running.discard(number)
        self.tell(partial(self._close, trial))
        if trial.has_ended:
            remove_checkpoints(plan)
            self.advance(1 - len(trial.curve) / self.epochs)
        best = f"best val {trial.best_bits_per_dim or 0:z.4f} bits/dim"
        told = {
            "finished": f"finished, {best}",
            "stopped": f"stopped after {trial.epochs} of {self.epochs} epochs, {best}",
            "failed": f"failed: {trial.reason}",
            "unfinished": f"left after {trial.epochs} of {self.epochs} epochs; the same command goes on with it",
            "died": f"lost its process after {trial.epochs} of {self.epochs} epochs; it goes on in another",
        }
        goes_on_here = has_died and not trial.has_ended and time.monotonic() < self.ends_at
        self.say(f"{title(trial)} {told['died' if goes_on_here else trial.state]}")

    def tidy(self) -> None:
        """Close and clear away what a killed call had ended but not told."""
        for trial in self.trials.values():
            if trial.has_ended:
                remove_checkpoints(self.plans.plan(trial))
                if not self.tell(partial(self._close, trial)):
                    return  # nor of the others

    def leave(self) -> None:
        """Leave what still runs for the next call."""
        for number in sorted(self.running):
            self.end(number)

    def _open(self, trial: TrialRecord) -> str:
        """Open a trial's MLflow run, and note which it is."""
        tags = {KIND_TAG: "trial", "space": str(self.settings["space"]), "architecture": trial.architecture, "trial": str(trial.number)}
        trial.mlflow_run_id = run_id = self.tracker.start_or_resume_child(
            str(trial.recipe["name"]),
            parent_run_id=self.parent,
            run_key=self.plans.key(trial.number),
            params={**trial.recipe, "parameters": trial.parameters, "is_default": trial.is_default},
            tags=tags,
            dataset=self.dataset,
        )
        self.records.write(trial)
        return run_id

    def _close(self, trial: TrialRecord) -> None:
        """Close a trial's MLflow run, below the sweep's, with its curve; one that there is not is made from the record."""
        known = trial.mlflow_run_id
        run_id = known if known is not None and self.tracker.is_there(known) else self._open(trial)
        run, status = self.tracker.client.get_run(run_id), _STATUS[trial.state]
        if run.data.tags.get(PARENT_TAG) != self.parent:
            self.tracker.set_tags(run_id, {PARENT_TAG: self.parent})
        if run.info.status != status:
            for epoch, bits_per_dim in sorted(trial.curve.items()):
                self.tracker.log_metrics(run_id, {LATEST: bits_per_dim}, epoch)  # where MLflow was away
            self.tracker.set_tags(run_id, {STATE_TAG: trial.state, **({"reason": trial.reason} if trial.reason else {})})
            self.tracker.finish(run_id, status)


def title(trial: TrialRecord) -> str:
    """A trial's name in lines for people."""
    return f"trial {trial.number} ({trial.architecture})"


def values_of(trial: TrialRecord) -> str:
    """A trial's values as a person reads them: `num_layers 5, dropout 0.3`."""
    shown = {name.rpartition(".")[2]: f"{value:.3g}" if isinstance(value, float) else value for name, value in trial.values.items()}
    return ", ".join(f"{name} {value}" for name, value in shown.items())


def count_parameters(recipe: Recipe, dataset: Any) -> int:
    """Trained numbers of a recipe's model, for images of a data set, without the memory; raises `UserError` where the two do not fit."""
    with torch.random.fork_rng(devices=[]), fake_tensors():
        return int(build(recipe.model, dataset.spec, recipe.likelihood, context_spec(recipe, dataset)).num_parameters)
