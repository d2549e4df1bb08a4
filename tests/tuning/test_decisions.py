"""What a sweep decides: whom ASHA stops, what is drawn again, what an earlier call's trials are worth to a later one."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import optuna
import pytest
from optuna.trial import TrialState
from ray import cloudpickle
from ray.exceptions import RayActorError, RayTaskError
from ray.tune.schedulers import TrialScheduler
from ray.tune.search import Searcher

from pixelmodels.errors import UserError
from pixelmodels.shapes import ImageSpec
from pixelmodels.storage import Storage
from pixelmodels.tracking import Tracker
from pixelmodels.tracking.runs import PARENT_TAG
from pixelmodels.training.preflight import WorkerNeeds
from pixelmodels.training.recipes import Recipe
from pixelmodels.training.trainer import RunFailed
from pixelmodels.tuning import report
from pixelmodels.tuning.importance import importances
from pixelmodels.tuning.options import Tune
from pixelmodels.tuning.plots import importance_png, parallel_coordinates_png
from pixelmodels.tuning.record import Records
from pixelmodels.tuning.search import SweepCallback, SweepScheduler, SweepSearch, error_of, why
from pixelmodels.tuning.space import Ask, Defaults
from pixelmodels.tuning.state import Sweep
from pixelmodels.tuning.trial import EPOCH, LATEST, METRIC, NUMBER, TrialPlans
from tests.training.tiny_run import TinyDataset, tiny_recipe


class TinySpace:
    """Width and depth of the tiny recipe."""

    architectures: ClassVar[tuple[str, ...]] = ("pixelcnn",)

    def recipe(self, ask: Ask, defaults: Defaults, images: ImageSpec) -> Recipe:
        import dataclasses

        model = defaults.first.model
        model = dataclasses.replace(model, num_features=ask.count("num_features", 4), num_layers=ask.choice("num_layers", 1, (1, 2)))
        return dataclasses.replace(defaults.first, model=model)


class Silent(Tracker):
    """Tracks nothing: MLflow's side of a sweep is tested with a whole one."""

    def start_or_resume_child(self, name: str, **_: Any) -> str:
        return f"run of {name}"

    def log_metrics(self, *_: Any) -> None:
        pass

    def set_tags(self, *_: Any) -> None:
        pass

    def finish(self, *_: Any) -> None:
        pass

    @property
    def client(self) -> Any:
        run = SimpleNamespace(info=SimpleNamespace(status="RUNNING"), data=SimpleNamespace(tags={PARENT_TAG: "parent"}))
        return SimpleNamespace(get_run=lambda run_id: run)

    def is_there(self, run_id: str) -> bool:
        return True


class Driver:
    """A sweep whose trials are told their scores here, in the order in which Ray Tune would tell it of them."""

    def __init__(self, storage: Storage, *, lines: list[str] | None = None, space: Any = None, **options: Any) -> None:
        asked = Tune(**{"epochs": 9, "grace_epochs": 1, "num_samples": 6, **options})
        self.tracker = Silent(storage)
        settings = asked.settings(start_from="tiny", dataset="tiny", epochs=9)
        plans = TrialPlans(Records(storage, "mine"), "id", TinyDataset(), WorkerNeeds(1), 1, 0.0, 1)  # type: ignore[arg-type]
        said = [] if lines is None else lines
        self.sweep = Sweep(
            space or TinySpace(),
            Defaults([tiny_recipe()]),
            settings,
            plans,
            self.tracker,
            "parent",
            said.append,
            num_samples=asked.num_samples,
        )
        self.told: dict[tuple[int, int], bool] = {}  # by trial and epoch: whether it was told to go on
        self.search = SweepSearch(self.sweep, asked.seed)
        self.scheduler = SweepScheduler(self.sweep, lambda number, epoch, goes_on: self.told.update({(number, epoch): goes_on}))
        self.callback = SweepCallback(self.sweep, self.scheduler)

    def begin(self, trial_id: str) -> Any:
        config = self.search.suggest(trial_id)
        if config == Searcher.FINISHED:
            return None
        trial = SimpleNamespace(trial_id=trial_id, config=config, pickled_error_file=None, error_file=None)
        self.scheduler.on_trial_add(None, trial)  # type: ignore[arg-type]
        return trial

    def run(self, trial_id: str, scores: list[float], *, fails: bool = False) -> int:
        """A trial with these validation scores, as far as it is let; returns how many it was let have."""
        trial, best, done = self.begin(trial_id), float("inf"), 0
        for done, score in enumerate(scores, 1):
            best = min(best, score)
            result = {EPOCH: float(done), METRIC: best, LATEST: score, "training_iteration": done}
            assert self.scheduler.on_trial_result(None, trial, result) == TrialScheduler.CONTINUE  # Ray Tune kills nobody
            self.callback.on_trial_result(0, [], trial, result)
            if not self.told[trial.config[NUMBER], done] or done == self.sweep.epochs:
                self.search.on_trial_complete(trial_id, result)
                self.callback.on_trial_complete(0, [], trial)
                return done
            self.search.on_trial_result(trial_id, result)
        self.search.on_trial_complete(trial_id, error=fails)
        if fails:
            self.callback.on_trial_error(0, [], trial)
        return done

    @property
    def study(self) -> optuna.Study:
        found: optuna.Study = self.search._ot_study
        return found


def curve(last: float) -> list[float]:
    return [last + 1 / epoch for epoch in range(1, 10)]


def test_asha_stops_the_worse_and_lets_the_better_go_on(storage: Storage) -> None:
    driver = Driver(storage)
    assert driver.run("a", curve(2.0)) == 9
    assert driver.run("b", curve(3.0)) == 1  # worse than the first at the first look
    assert driver.run("c", curve(1.0)) == 9
    assert driver.run("d", [1.95, *[1.9] * 8]) == 3  # better at the first look, worse at the second
    assert [trial.state for trial in driver.sweep.trials.values()] == ["finished", "stopped", "finished", "stopped"]
    summary = report.summarize(driver.sweep)
    assert (summary.epochs_spent, summary.epochs_without_asha) == (22, 36)
    assert summary.best_bits_per_dim == pytest.approx(1 + 1 / 9) and summary.default_bits_per_dim == pytest.approx(2 + 1 / 9)
    states = [trial.state for trial in driver.study.trials]
    assert states == [TrialState.COMPLETE, TrialState.PRUNED, TrialState.COMPLETE, TrialState.PRUNED]
    assert driver.study.trials[1].intermediate_values == {1: 4.0}


def test_the_default_recipe_comes_first_and_is_never_stopped(storage: Storage) -> None:
    driver = Driver(storage)
    first, second = driver.begin("default"), driver.begin("other")
    assert driver.sweep.trials[0].is_default and driver.sweep.trials[0].values == {"num_features": 4, "num_layers": 1}
    for trial, score in ((second, 1.0), (first, 2.0)):
        driver.scheduler.on_trial_result(None, trial, {EPOCH: 1.0, METRIC: score})
    assert driver.told == {(0, 1): True, (1, 1): True}


def test_without_asha_nothing_is_stopped(storage: Storage) -> None:
    driver = Driver(storage, asha=False)
    assert [driver.run(str(i), curve(float(i))) for i in range(4)] == [9, 9, 9, 9]


def test_a_later_call_knows_what_an_earlier_one_found(storage: Storage) -> None:
    earlier = Driver(storage)
    earlier.run("a", curve(2.0))
    earlier.run("b", curve(3.0))
    earlier.run("c", [2.5], fails=True)
    half_way = earlier.begin("d")
    earlier.callback.on_trial_result(0, [], half_way, {EPOCH: 1.0, METRIC: 2.2, LATEST: 2.2})
    later = Driver(storage)
    assert [trial.state for trial in later.study.trials[:2]] == [TrialState.COMPLETE, TrialState.PRUNED]
    assert later.study.trials[0].value == pytest.approx(2 + 1 / 9)
    resumed = later.begin("e")
    assert resumed.config[NUMBER] == half_way.config[NUMBER] == 3
    assert later.sweep.trials[3].values == earlier.sweep.trials[3].values
    assert later.run("f", curve(3.5)) == 1  # the earlier call's trials are who it is measured by
    values = [tuple(sorted(trial.values.items())) for trial in later.sweep.trials.values()]
    assert len(set(values)) == len(values) == 5 and sum(trial.is_default for trial in later.sweep.trials.values()) == 1


def test_models_that_are_too_large_are_drawn_again_and_counted(storage: Storage) -> None:
    lines: list[str] = []
    free = Driver(storage, num_samples=6)
    for i in range(6):
        free.run(str(i), curve(2.0))
    sizes = sorted(trial.parameters for trial in free.sweep.trials.values())
    limit = sizes[len(sizes) // 2]
    other = Storage(storage.root + "-limited")
    driver = Driver(other, lines=lines, max_parameters=limit)
    for i in range(4):
        driver.run(str(i), curve(2.0 - i))
    assert driver.sweep.num_too_large > 0
    assert all(trial.parameters <= limit for trial in driver.sweep.trials.values())
    assert Driver(other, max_parameters=limit).sweep.num_too_large == driver.sweep.num_too_large
    assert f"{driver.sweep.num_too_large} recipe(s) with too many parameters not tried" in report.summarize(driver.sweep).counts()
    tight = Driver(Storage(storage.root + "-tight"), lines=lines, max_parameters=1)
    assert tight.begin("a") is None and any("more than --max-parameters 1" in line for line in lines)


def test_a_space_that_is_exhausted_ends_the_sweep(storage: Storage) -> None:
    lines: list[str] = []
    driver = Driver(storage, lines=lines, num_samples=100)
    for i in range(14):
        driver.run(str(i), curve(2.0 + i))
    assert driver.begin("one more") is None and "nothing new found" in lines[-1]
    assert len({tuple(trial.values.items()) for trial in driver.sweep.trials.values()}) == 14  # 7 widths, 2 depths


def test_no_trial_begins_when_time_is_up(storage: Storage) -> None:
    driver = Driver(storage)
    trial = driver.begin("a")
    driver.sweep.ends_at = 0.0
    assert driver.begin("b") is None
    driver.callback.on_trial_complete(0, [], trial)
    assert driver.sweep.trials[0].state == "unfinished"


def test_a_trained_trial_stays_finished_whatever_mlflow_says(storage: Storage) -> None:
    driver = Driver(storage)
    trial = driver.begin("a")
    for epoch, score in enumerate(curve(2.0), 1):
        driver.callback.on_trial_result(0, [], trial, {EPOCH: float(epoch), METRIC: score, LATEST: score})

    def refuse(*_: Any) -> None:
        raise ConnectionError("no answer")

    driver.tracker.finish = refuse  # type: ignore[method-assign]
    with pytest.raises(ConnectionError):
        driver.callback.on_trial_complete(0, [], trial)
    driver.callback.on_trial_error(0, [], trial)  # as Ray Tune does then
    assert driver.sweep.trials[0].state == driver.sweep.records.trial(0).state == "finished"


def test_what_runs_when_a_call_ends_is_left_for_the_next(storage: Storage) -> None:
    driver = Driver(storage, asha=False)
    driver.run("a", curve(2.0))
    driver.begin("b")
    driver.begin("c")
    closed: list[tuple[Any, ...]] = []
    driver.tracker.finish = lambda *given: closed.append(given)  # type: ignore[method-assign]
    driver.sweep.leave()
    assert [status for _, status in closed] == ["KILLED", "KILLED"] and not driver.sweep.running
    assert [trial.state for trial in driver.sweep.trials.values()] == ["finished", "unfinished", "unfinished"]


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (RayTaskError("f", "", RuntimeError("shapes differ")), "shapes differ"),
        (RayTaskError("f", "", KeyError("width")), "KeyError: 'width'"),
        (RayTaskError("f", "", RunFailed("no room\nat all")), "no room at all"),
        (RayActorError(), "its process died, out of memory or with its machine"),
    ],
)
def test_a_failed_trial_tells_its_own_reason(error: Exception, told: str, tmp_path: Path) -> None:
    path = tmp_path / "error.pkl"
    path.write_bytes(cloudpickle.dumps(error))
    trial = SimpleNamespace(pickled_error_file=str(path), error_file=None)
    assert why(trial, error_of(trial)) == told


def test_a_trial_whose_process_died_goes_on_as_often_as_workers_are_replaced(storage: Storage, tmp_path: Path) -> None:
    (tmp_path / "error.pkl").write_bytes(cloudpickle.dumps(RayActorError()))
    states = []
    for call in ("a", "b"):
        driver = Driver(storage)
        trial = driver.begin(call)
        trial.pickled_error_file = str(tmp_path / "error.pkl")
        driver.callback.on_trial_error(0, [], trial)
        states.append((driver.sweep.records.trial(0).state, driver.sweep.records.trial(0).deaths))
    assert states == [("unfinished", 1), ("failed", 2)]  # its workers are replaced once


def test_a_trial_that_is_stopped_stays_so_where_the_driver_is_killed_before_its_end(storage: Storage) -> None:
    driver = Driver(storage)
    driver.run("a", curve(2.0))
    trial = driver.begin("b")
    result = {EPOCH: 1.0, METRIC: 4.0, LATEST: 4.0}
    driver.scheduler.on_trial_result(None, trial, result)
    driver.callback.on_trial_result(0, [], trial, result)
    later = Driver(storage)
    assert later.sweep.trials[1].state == "stopped" and later.sweep.trials[1].curve == {1: 4.0}
    assert later.begin("c").config[NUMBER] == 2


def test_a_trial_that_goes_on_is_not_judged_again_where_it_had_passed(storage: Storage) -> None:
    earlier = Driver(storage)
    earlier.run("a", curve(2.0))
    half_way = earlier.begin("b")
    for epoch, score in enumerate([2.5, 2.4, 2.3], 1):  # as far as this it passed
        earlier.callback.on_trial_result(0, [], half_way, {EPOCH: float(epoch), METRIC: score, LATEST: score})
    later = Driver(storage)
    for number, score in ((0, 0.5), (2, 0.1)):
        for epoch in (1, 3):  # others have come by that are better
            later.scheduler._brackets[0].on_result(SimpleNamespace(trial_id=f"other-{number}"), epoch, -score)
    assert later.run("c", [2.5, 2.4, 2.3, *[2.2] * 6]) == 9
    assert later.run("d", [2.5, 2.4]) == 1  # a new one is judged at once


def test_the_default_recipe_counts_only_at_the_same_budget(storage: Storage) -> None:
    driver = Driver(storage)
    driver.run("a", [2.0, 1.9], fails=True)
    driver.run("b", curve(3.0))
    summary = report.summarize(driver.sweep)
    assert summary.default_bits_per_dim is None and summary.default is not None
    assert "default recipe at the same budget: failed after 2 of 9 epochs" in report.told(driver.sweep, summary)


class Fragile(TinySpace):
    """A space in which nothing can be built of two layers."""

    def recipe(self, ask: Ask, defaults: Defaults, images: ImageSpec) -> Recipe:
        recipe = super().recipe(ask, defaults, images)
        if recipe.model.num_layers == 2:
            raise UserError("two layers do not fit")
        return recipe


def test_recipes_that_cannot_be_built_are_left_out_and_counted(storage: Storage) -> None:
    lines: list[str] = []
    driver = Driver(storage, lines=lines, num_samples=100, space=Fragile())
    for i in range(7):
        driver.run(str(i), curve(2.0 + i))
    assert driver.begin("one more") is None and len(driver.sweep.trials) == 7  # widths
    assert driver.sweep.num_impossible > 0 and lines.count("a recipe that was drawn is left out: two layers do not fit") == 1
    assert f"; {driver.sweep.num_impossible} recipe(s) that cannot be built not tried" in report.summarize(driver.sweep).counts()


def test_a_space_that_has_changed_is_told(storage: Storage) -> None:
    driver = Driver(storage)
    driver.run("a", curve(2.0))
    driver.sweep.trials[0].values["colour"] = "red"
    driver.sweep.records.write_trial(driver.sweep.trials[0])
    with pytest.raises(UserError, match=r"space 'architectures' no longer has what sweep 'mine' tried .*--fresh"):
        Driver(storage)


def test_recipes_that_have_changed_are_told(storage: Storage) -> None:
    driver = Driver(storage)
    driver.run("a", curve(2.0))
    driver.sweep.trials[0].recipe["batch_size"] += 1
    driver.sweep.records.write_trial(driver.sweep.trials[0])
    with pytest.raises(
        UserError, match=r"no longer those of sweep 'mine' \(batch_size of trial 0 differ\); give another --name, or --fresh"
    ):
        Driver(storage)


def test_a_default_that_is_too_large_is_counted_once(storage: Storage) -> None:
    free = Driver(storage)
    free.begin("a")
    limit = free.sweep.trials[0].parameters - 1
    other = Storage(storage.root + "-limited")
    lines: list[str] = []
    for _ in range(3):
        driver = Driver(other, lines=lines, max_parameters=limit)
        driver.run("a", curve(2.0))
        values = [str(values) for trial in driver.sweep.trials.values() for values in trial.too_large]
        assert driver.sweep.num_too_large == len(set(values)) == len(values)
    assert sum("the default recipe has" in line for line in lines) == 1


def test_importances_name_the_parameter_that_matters(storage: Storage) -> None:
    driver = Driver(storage, asha=False, num_samples=8)
    for i in range(8):
        # wider is better, depth changes nothing
        trial = driver.begin(str(i))
        score = 10.0 - driver.sweep.trials[i].values["num_features"]  # type: ignore[operator]
        driver.callback.on_trial_result(0, [], trial, {EPOCH: 1.0, METRIC: score, LATEST: score})
        driver.search.on_trial_complete(str(i), {EPOCH: 9.0, METRIC: score})
    trials = list(driver.sweep.trials.values())
    found = importances(driver.sweep, trials)
    shares = found.groups["all trials"]
    assert found.epoch == 1 and next(iter(shares)) == "num_features" and shares["num_features"] > 0.8
    assert sum(shares.values()) == pytest.approx(1)
    best = driver.sweep.best()
    assert best is not None and best.values["num_features"] == max(int(trial.values["num_features"]) for trial in trials)
    for picture in (parallel_coordinates_png(trials, best, "tiny"), importance_png(found, "tiny")):
        assert picture.startswith(b"\x89PNG") and len(picture) > 5000
