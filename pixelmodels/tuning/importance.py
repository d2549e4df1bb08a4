"""What each parameter of a sweep is worth: the share of the score's variance that it explains (fANOVA, Hutter et al. 2014)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import optuna
from optuna.trial import TrialState

from pixelmodels.tuning.record import TrialRecord
from pixelmodels.tuning.state import Sweep

_LEAST = 4  # trials from which a group is rated


@dataclass(frozen=True)
class Importances:
    """Shares by group of parameters; each group's sum to 1."""

    epoch: int  # after which trials are compared: the last one that all of them trained
    groups: dict[str, dict[str, float]]  # by group: "all trials", or the trials of one architecture; the largest share first
    num_trials: dict[str, int]  # by group
    not_rated: dict[str, int]  # parameters that only some trials of a group have, or that were the same in all, with their number of trials
    note: str  # in words


def importances(sweep: Sweep, trials: Sequence[TrialRecord]) -> Importances:
    """Rate the parameters that all trials of a group have; those of one architecture among its own trials.

    Trials are compared by the best validation bits/dim up to the last epoch that all of them trained, so that none is worse for
    having been stopped.
    """
    epoch = min(trial.epochs for trial in trials)
    groups: dict[str, dict[str, float]] = {}
    counts: dict[str, int] = {}
    rated: set[str] = set()
    prefixes = sorted({name.rpartition(".")[0] for trial in trials for name in trial.values})
    for prefix in prefixes:
        members = [trial for trial in trials if any(name.rpartition(".")[0] == prefix for name in trial.values)]
        names = [name for name in members[0].values if name.rpartition(".")[0] == prefix and all(name in trial.values for trial in members)]
        names = [name for name in names if len({trial.values[name] for trial in members}) > 1]
        title = prefix or "all trials"
        shares = _fanova(sweep, members, names, epoch) if len(members) >= _LEAST and names else {}
        if shares:
            groups[title], counts[title] = shares, len(members)
            rated |= set(shares)
    every = {name for trial in trials for name in trial.values}
    not_rated = {name: sum(name in trial.values for trial in trials) for name in sorted(every - rated)}
    note = f"of the variance between trials after epoch {epoch}; {_LEAST} trials of a group, that are not all alike, are needed"
    return Importances(epoch, groups, counts, not_rated, note)


def score(trial: TrialRecord, epoch: int) -> float:
    """A trial's best validation bits/dim up to an epoch."""
    return min(bits for done, bits in trial.curve.items() if done <= epoch)


def _fanova(sweep: Sweep, trials: Sequence[TrialRecord], names: list[str], epoch: int) -> dict[str, float]:
    study = optuna.create_study(direction="minimize")
    for trial in trials:
        drawn, distributions = sweep.rebuilt(trial.values)
        study.add_trial(
            optuna.trial.create_trial(
                state=TrialState.COMPLETE,
                value=score(trial, epoch),
                params={name: drawn.values[name] for name in names},
                distributions={name: distributions[name] for name in names},
            )
        )
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
    try:
        found = optuna.importance.get_param_importances(study, evaluator=evaluator, params=names)
    except (RuntimeError, ValueError):  # all scores alike
        return {}
    return {name: float(share) for name, share in found.items()}
