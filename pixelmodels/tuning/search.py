"""Where Ray Tune asks a sweep: what is tried next, and what becomes of a trial after an epoch and in the end.

Ray Tune keeps its own state in pickles; a sweep goes on from its record instead, which is told to a new Optuna study.
"""

from __future__ import annotations

import time
import warnings
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import optuna
from optuna.trial import TrialState
from ray.tune.search import Searcher

from pixelmodels.tuning.record import TrialRecord
from pixelmodels.tuning.space import Ask, Values
from pixelmodels.tuning.sweep import Sweep
from pixelmodels.tuning.trial import EPOCH, METRIC, NUMBER

_GUIDED = 10  # draws in a row, tried already or too large, after which values are drawn at random: TPE would go on with what it likes
_ATTEMPTS = 100  # recipes drawn in a row that are too large, or tried already, before the space is taken to be exhausted


class SweepSearch(Searcher):
    """Optuna's TPE over a sweep's space, told of the trials of earlier calls; those that had not ended come first."""

    def __init__(
        self,
        sweep: Sweep,
        seed: int,
        say: Callable[[int, int, bool], object],
        give_back: Callable[[int], object],
        at_once: Callable[[], int],
    ) -> None:
        """`seed`, of what is drawn; `say(number, epoch, goes_on)`, told to the trials after each of their epochs.

        `give_back(number)` frees what the workers of a trial held whose process died; `at_once()`, how many trials may run now.
        """
        super().__init__(METRIC, "min")
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
        self.sweep, self._say, self._give_back, self._at_once = sweep, say, give_back, at_once
        self.error: Exception | None = None  # the first one of the sweep's own, after which it does not go on
        self._asked: dict[str, tuple[optuna.Trial, TrialRecord]] = {}  # trials of this call, by Ray Tune's id
        self._waiting = deque(trial for trial in sweep.trials.values() if not trial.has_ended)
        self._left = sweep.num_samples - sum(trial.has_ended for trial in sweep.trials.values())  # trials that are yet to be asked for
        self._again: deque[tuple[optuna.Trial, TrialRecord]] = deque()  # trials of this call whose processes died
        seed += 1000 * len(sweep.trials)  # with the same seed the first draws would be those of the trials on record again
        self._random = optuna.samplers.RandomSampler(seed)
        self._guided = optuna.samplers.TPESampler(
            seed=seed,
            n_startup_trials=max(2, min(10, sweep.num_samples // 3)),
            multivariate=True,  # parameters depend on each other
            group=True,  # and some are there only where others have a value
            constant_liar=True,  # trials that still run are not tried a second time
        )
        self.study = optuna.create_study(sampler=self._guided, direction="minimize")
        for trial in sweep.trials.values():
            for values in trial.too_large:
                self._tell(values, TrialState.PRUNED)
            if trial.state in ("finished", "stopped"):
                self._tell(trial.values, TrialState.COMPLETE if trial.state == "finished" else TrialState.PRUNED, trial.best_by_epoch)
        for trial in self._waiting:
            self.study.enqueue_trial(trial.values)
        if not sweep.is_tried(sweep.default) and sweep.default not in sweep.too_large:
            self.study.enqueue_trial(sweep.default)

    def _tell(self, values: Values, state: TrialState, best: dict[int, float] | None = None) -> None:
        """Tell the study of a trial on record, with its best scores by epoch."""
        score = min(best.values()) if best and state == TrialState.COMPLETE else None
        _, kinds = self.sweep.rebuilt(values)
        self.study.add_trial(
            optuna.create_trial(state=state, value=score, params=dict(values), distributions=kinds, intermediate_values=best)
        )

    def suggest(self, trial_id: str) -> Any:
        """The next trial's number; `FINISHED` when time is up or there is nothing left to try.

        None while there is no room for another one, or one that runs may yet die.
        """
        if time.monotonic() >= self.sweep.ends_at:
            return Searcher.FINISHED
        if len(self.sweep.running) >= self._at_once():
            return None
        if self._again:
            return self._begin(trial_id, *self._again.popleft())
        if self._left <= 0:
            return None if self.sweep.running else Searcher.FINISHED
        for attempt in range(_ATTEMPTS):
            self.study.sampler = self._guided if attempt < _GUIDED else self._random
            asked = self.study.ask()  # what is waiting comes first, in its order
            ask = Ask(asked)
            drawn = self.sweep.draw(ask)
            trial = self._waiting.popleft() if self._waiting else drawn
            if trial is not None:
                self._left -= 1
                return self._begin(trial_id, asked, trial)
            # Optuna takes a trial that was pruned at once for a bad one, and leaves a failed one out of account.
            self.study.tell(asked, state=TrialState.FAIL if self.sweep.is_tried(ask.values) else TrialState.PRUNED)
        self.sweep.say(f"nothing new found in {_ATTEMPTS} draws: all were tried already, have too many parameters or cannot be built")
        if self.sweep.running:
            self._left = 0
            return None
        return Searcher.FINISHED

    def _begin(self, trial_id: str, asked: optuna.Trial, trial: TrialRecord) -> dict[str, int]:
        self._asked[trial_id] = asked, trial
        with self._noting():
            self.sweep.begin(trial)
        return {NUMBER: trial.number}

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """One epoch's report: decide whether the trial goes on, tell it, and write the epoch down.

        Ray Tune is left to believe that all trials go on: one that is stopped ends itself.
        """
        if EPOCH in result:
            number, epoch = self._asked[trial_id][1].number, int(result[EPOCH])
            goes_on = self.sweep.goes_on(number, epoch, result[METRIC])
            self._say(number, epoch, goes_on)
            with self._noting():
                self.sweep.progress(number, epoch, result, goes_on=goes_on)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """The end of a trial (or of the time): complete, stopped early, failed, or to be asked for again where its process died."""
        asked, trial = self._asked[trial_id]
        if trial.number not in self.sweep.running:
            return  # it had ended when Ray Tune ran into an error, such as one of ours
        if error:
            self._give_back(trial.number)
        with self._noting():
            self.sweep.end(trial.number, has_failed=error)
        if error and not trial.has_ended:
            self._again.append((asked, trial))
            return
        for epoch, best in trial.best_by_epoch.items():
            asked.report(best, epoch)
        is_whole = trial.epochs >= self.sweep.epochs
        state = TrialState.FAIL if error or not trial.curve else TrialState.COMPLETE if is_whole else TrialState.PRUNED
        self.study.tell(asked, trial.best_bits_per_dim if state == TrialState.COMPLETE else None, state)

    @contextmanager
    def _noting(self) -> Iterator[None]:
        """Keep an error for whoever started the sweep: Ray Tune makes a text of its traceback."""
        try:
            yield
        except Exception as error:
            self.error = self.error or error
            raise
