"""Ray Tune's three places where a sweep decides: what is tried next, which trial is stopped, and what is written down."""

from __future__ import annotations

import logging
import warnings
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from itertools import accumulate
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import optuna
from optuna.trial import TrialState
from ray import cloudpickle, tune
from ray.exceptions import RayActorError
from ray.tune.schedulers import AsyncHyperBandScheduler, TrialScheduler
from ray.tune.search import Searcher
from ray.tune.search.optuna import OptunaSearch

from pixelmodels.errors import UserError
from pixelmodels.training.one_run import reason_of
from pixelmodels.training.trainer import RunFailed, reason
from pixelmodels.tuning.record import TrialRecord
from pixelmodels.tuning.space import Ask, Drawn, Values
from pixelmodels.tuning.state import Sweep
from pixelmodels.tuning.trial import EPOCH, METRIC, NUMBER

_STUDY = "sweep"
_GUIDED = 10  # draws in a row, tried already or too large, after which values are drawn at random: TPE would go on with what it likes
_ATTEMPTS = 100  # recipes drawn in a row that are too large, or tried already, before the space is taken to be exhausted


class SweepSearch(OptunaSearch):
    """Optuna's TPE over a sweep's space, told of the trials of earlier calls; those that had not ended come first."""

    def __init__(self, sweep: Sweep, seed: int) -> None:
        """`seed`, of what is drawn."""
        self.sweep = sweep
        self._numbers: dict[str, int] = {}  # of the trials of this call, by Ray Tune's id
        self._drawn: Drawn | None = None
        self._told: dict[str, int] = {}  # last epoch that Optuna knows of, by Ray Tune's id
        self._waiting = deque(trial for trial in sweep.trials.values() if not trial.has_ended)
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._random = optuna.samplers.RandomSampler(seed=seed + 1000 * len(sweep.trials))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            sampler = optuna.samplers.TPESampler(
                # Of the trials on record too: with the same seed the first draws would be theirs again.
                seed=seed + 1000 * len(sweep.trials),
                n_startup_trials=max(2, min(10, sweep.num_samples // 3)),
                multivariate=True,  # parameters depend on each other
                group=True,  # and some are there only where others have a value
                constant_liar=True,  # trials that still run are not tried a second time
            )
        storage = optuna.storages.InMemoryStorage()
        study = optuna.create_study(storage=storage, sampler=sampler, study_name=_STUDY, direction="minimize")
        self._replay(study)
        points = [trial.values for trial in self._waiting]
        first = sweep.default.values
        points += [] if sweep.default_trial is not None or sweep.is_tried(first) or sweep.is_too_large(first) else [first]
        super().__init__(
            self._define, metric=METRIC, mode="min", points_to_evaluate=points, sampler=sampler, study_name=_STUDY, storage=storage
        )

    def _define(self, trial: Any) -> None:
        ask, self._drawn = Ask(trial), None
        try:
            self._drawn = Drawn(ask.values, self.sweep.space.recipe(ask, self.sweep.defaults, self.sweep.images))
        except UserError as error:  # nothing can be built from these values: others are drawn
            self.sweep.leave_out(error)

    def suggest(self, trial_id: str) -> Any:
        """The next trial's number; `FINISHED` when time is up or there is nothing left to try."""
        trial = self._next(trial_id)
        if trial is None:
            return Searcher.FINISHED
        self._numbers[trial_id] = trial.number
        self.sweep.begin(trial)
        return {NUMBER: trial.number}

    def _next(self, trial_id: str) -> TrialRecord | None:
        if self.sweep.is_out_of_time:
            return None
        if self._waiting:
            super().suggest(trial_id)  # Optuna hands out the points to evaluate in their order
            return self._waiting.popleft()
        guided = self._ot_study.sampler
        try:
            for attempt in range(_ATTEMPTS):
                if attempt == _GUIDED:
                    self._ot_study.sampler = self._random
                super().suggest(trial_id)
                drawn = self._drawn
                is_tried = drawn is not None and self.sweep.is_tried(drawn.values)
                trial = None if drawn is None or is_tried else self._record(drawn)
                if trial is not None:
                    return trial
                # Optuna takes a trial that was pruned at once for a bad one, and leaves a failed one out of account.
                super().on_trial_complete(trial_id, error=is_tried)
                self._completed_trials.discard(trial_id)
                del self._ot_trials[trial_id]
        finally:
            self._ot_study.sampler = guided
        self.sweep.say(f"nothing new found in {_ATTEMPTS} draws: all were tried already, have too many parameters or cannot be built")
        return None

    def _record(self, drawn: Drawn) -> TrialRecord | None:
        try:
            return self.sweep.draw(drawn)
        except UserError as error:
            self.sweep.leave_out(error)
            return None

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """One epoch's report."""
        epoch = int(result.get(EPOCH, 0))
        if epoch > self._told.get(trial_id, 0):
            self._ot_trials[trial_id].report(result[METRIC], epoch)
            self._told[trial_id] = epoch

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """The end of a trial: complete, stopped early (with what it had reached), or failed."""
        if error or not result or METRIC not in result:
            super().on_trial_complete(trial_id, error=True)
            return
        self.on_trial_result(trial_id, result)
        is_whole = int(result[EPOCH]) >= self.sweep.epochs
        super().on_trial_complete(trial_id, result if is_whole else None)

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the sweep's own record is what it goes on from."""
        Path(checkpoint_path).write_bytes(b"")

    def _replay(self, study: optuna.Study) -> None:
        """Tell a new study of the trials that have ended."""
        sweep = self.sweep
        for trial in sweep.trials.values():
            for values in trial.too_large:
                study.add_trial(self._frozen(values, TrialState.PRUNED, {}))
            best = dict(zip(sorted(trial.curve), accumulate((trial.curve[epoch] for epoch in sorted(trial.curve)), min), strict=True))
            if trial.state == "finished":
                study.add_trial(self._frozen(trial.values, TrialState.COMPLETE, best))
            elif trial.state == "stopped":
                study.add_trial(self._frozen(trial.values, TrialState.PRUNED, best))

    def _frozen(self, values: Values, state: TrialState, best: dict[int, float]) -> optuna.trial.FrozenTrial:
        drawn, distributions = self.sweep.rebuilt(values)
        value = min(best.values()) if state is TrialState.COMPLETE else None
        return optuna.trial.create_trial(
            state=state, value=value, params=dict(drawn.values), distributions=distributions, intermediate_values=best
        )


class SweepScheduler(AsyncHyperBandScheduler):
    """ASHA over epochs: a trial that is not among the best of those that came as far is stopped. The default recipe is not.

    Trials are told, and end themselves: Ray Tune is left to believe that all of them go on.
    """

    def __init__(self, sweep: Sweep, say: Callable[[int, int, bool], object]) -> None:
        """`say(number, epoch, goes_on)`, told to the trials after each of their epochs."""
        settings = sweep.settings
        super().__init__(
            time_attr=EPOCH,
            metric=METRIC,
            mode="min",
            max_t=sweep.epochs,
            grace_period=settings["grace_epochs"],
            reduction_factor=settings["reduction_factor"] or 2,
        )
        self.sweep, self._say = sweep, say
        self.stopped: set[int] = set()  # numbers of trials that were stopped before their last epoch
        self._passed = {trial.number: trial.epochs for trial in sweep.trials.values()}  # epochs after which earlier calls let them go on
        for trial in sweep.trials.values():
            earlier: Any = SimpleNamespace(trial_id=f"earlier-{trial.number}")
            best = float("inf")
            for epoch, bits_per_dim in sorted(trial.curve.items()) if trial.has_ended else ():
                best = min(best, bits_per_dim)
                self._brackets[0].on_result(earlier, epoch, -best)

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Decide whether the trial goes on after this epoch."""
        if EPOCH in result:
            goes_on = super().on_trial_result(tune_controller, trial, result) != TrialScheduler.STOP
            number, epoch = int(trial.config[NUMBER]), int(result[EPOCH])
            is_default = self.sweep.trials[number].is_default  # the measure of all others
            goes_on = goes_on or is_default or epoch <= self._passed.get(number, 0)
            if not goes_on and epoch < self.sweep.epochs:
                self.stopped.add(number)
            self._say(number, epoch, goes_on)
        return str(TrialScheduler.CONTINUE)


class SweepCallback(tune.Callback):
    """Tells the sweep what becomes of its trials."""

    def __init__(self, sweep: Sweep, scheduler: SweepScheduler) -> None:
        self.sweep, self.scheduler = sweep, scheduler

    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any) -> None:
        """One epoch's report."""
        if EPOCH in result:
            number = int(trial.config[NUMBER])
            self.sweep.progress(number, int(result[EPOCH]), result, is_last=number in self.scheduler.stopped)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """The end of a trial, or of the time."""
        number = int(trial.config[NUMBER])
        if self.sweep.trials[number].epochs >= self.sweep.epochs:
            self.sweep.end(number, "finished")
        else:
            self.sweep.end(number, "stopped" if number in self.scheduler.stopped else "unfinished")

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial that failed; not one that had ended when Ray Tune ran into an error, such as this callback's own.

        One whose process died is left for the next call, as often as dead workers are replaced.
        """
        number = int(trial.config[NUMBER])
        if self.sweep.trials[number].has_ended:
            return
        error = error_of(trial)
        if isinstance(error, RayActorError) and self.sweep.may_die_again(number):
            self.sweep.end(number, "unfinished")
        else:
            self.sweep.end(number, "failed", why(trial, error))


def error_of(trial: Any) -> BaseException | None:
    """What ended a trial that failed; none where Ray Tune's record of it cannot be read."""
    if trial.pickled_error_file is None:
        return None
    with suppress(Exception):  # of any kind: what cannot be read again is told by its text
        found: BaseException = cloudpickle.loads(Path(trial.pickled_error_file).read_bytes())
        return found
    return None


def why(trial: Any, error: BaseException | None) -> str:
    """Why a trial failed, in one line: what its function raised, or that its process died."""
    if isinstance(error, RayActorError):
        return "its process died, out of memory or with its machine"
    if error is None:
        with suppress(OSError):
            lines = [line.strip() for line in Path(trial.error_file or "").read_text().splitlines() if line.strip()]
            return lines[-1]
        return "unknown: Ray Tune tells no reason"
    cause = getattr(error, "cause", None) or error
    return reason_of(cause) if isinstance(cause, RunFailed) else reason(cause)


class OutOfTime(tune.Stopper):
    """Stops all trials when the sweep's time is up."""

    def __init__(self, sweep: Sweep) -> None:
        self.sweep = sweep

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        """Whether time is up."""
        return self.sweep.is_out_of_time


def quiet_tune() -> None:
    """Keep what Ray Tune and Optuna say of themselves off the terminal."""
    for name in ("ray.tune", "ray.train", "ray.air"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # a trial that fails is told in a line of our own
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
