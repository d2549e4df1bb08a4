"""What a sweep decides: whom ASHA stops, what is drawn again, what an earlier call's trials are worth to a later one."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import ray
from optuna.trial import TrialState
from ray.tune.search import Searcher

from pixelmodels.errors import UserError
from pixelmodels.ray_cluster import WorkerNeeds
from pixelmodels.recipes.recipe import Recipe
from pixelmodels.runs.lock import Hold, Lost
from pixelmodels.runs.result import FAILURE
from pixelmodels.shapes import ImageSpec
from pixelmodels.storage import Storage
from pixelmodels.tracking import Tracker
from pixelmodels.tracking.runs import PARENT_TAG
from pixelmodels.training.plan import RunPlan
from pixelmodels.training.trainer import RunFailed
from pixelmodels.tuning import report, tune
from pixelmodels.tuning import sweep as sweep_module
from pixelmodels.tuning.options import Tune
from pixelmodels.tuning.parameters import importance_png, importances, parallel_coordinates_png
from pixelmodels.tuning.record import Head, Records
from pixelmodels.tuning.search import SweepSearch
from pixelmodels.tuning.space import Ask, Defaults
from pixelmodels.tuning.sweep import Sweep
from pixelmodels.tuning.trial import EPOCH, LATEST, METRIC, NUMBER, TrialPlans, Verdicts, give_back, run_trial
from pixelmodels.tuning.tune import _begin
from tests.training.tiny_run import TinyDataset, tiny_recipe


class TinySpace:
    """Width and depth of the tiny recipe."""

    architectures: ClassVar[tuple[str, ...]] = ("pixelcnn",)

    def recipe(self, ask: Ask, defaults: Defaults, images: ImageSpec) -> Recipe:
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
        template = RunPlan(tiny_recipe(), TinyDataset(), storage, "id", place="sweeps/mine/runs")  # type: ignore[arg-type]
        plans = TrialPlans(Records(storage, "mine"), template, WorkerNeeds(1), 1)
        said = [] if lines is None else lines
        defaults = Defaults([tiny_recipe()])
        self.sweep = Sweep(space or TinySpace(), defaults, settings, plans, self.tracker, "parent", said.append, asked.num_samples)
        self.told: dict[tuple[int, int], bool] = {}  # by trial and epoch: whether it was told to go on
        self.given_back: list[int] = []  # numbers of trials that Ray Tune told to have failed
        self.at_once = 9  # trials that there is room for

        def say(number: int, epoch: int, goes_on: bool) -> None:
            self.told[number, epoch] = goes_on

        self.search = SweepSearch(self.sweep, asked.seed, say, self.given_back.append, lambda: self.at_once)

    def begin(self, trial_id: str) -> int | None:
        """The number of the trial that is next; none where there is none."""
        config = self.search.suggest(trial_id)
        return None if config in (None, Searcher.FINISHED) else config[NUMBER]

    def report(self, trial_id: str, epoch: int, best: float, latest: float | None = None) -> bool:
        """One epoch's scores; returns whether the trial is told to go on."""
        self.search.on_trial_result(trial_id, {EPOCH: float(epoch), METRIC: best, LATEST: best if latest is None else latest})
        return list(self.told.values())[-1]

    def end(self, trial_id: str, reason: str | None = None, *, dies: bool = False) -> None:
        """The end of a trial, which fails for a reason where one is given."""
        number = self.search._asked[trial_id][1].number
        if reason is not None:
            plan = self.sweep.plans.plan(self.sweep.trials[number])
            self.sweep.records.storage.write_bytes(f"{plan.folder}/{FAILURE}", json.dumps({"reason": reason}).encode())
        self.search.on_trial_complete(trial_id, {}, error=dies or reason is not None)

    def run(self, trial_id: str, scores: list[float], *, fails: bool = False) -> int:
        """A trial with these validation scores, as far as it is let; returns how many it was let have."""
        self.begin(trial_id)
        best, done = float("inf"), 0
        for done, score in enumerate(scores, 1):
            best = min(best, score)
            if not self.report(trial_id, done, best, score):
                break
        self.end(trial_id, "it was to fail" if fails else None)
        return done


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
    assert (summary["epochs_spent"], summary["epochs_without_asha"]) == (22, 36)
    assert summary["best_bits_per_dim"] == pytest.approx(1 + 1 / 9) and summary["default_bits_per_dim"] == pytest.approx(2 + 1 / 9)
    states = [trial.state for trial in driver.search.study.trials]
    assert states == [TrialState.COMPLETE, TrialState.PRUNED, TrialState.COMPLETE, TrialState.PRUNED]
    assert driver.search.study.trials[1].intermediate_values == {1: 4.0}


def test_the_default_recipe_comes_first_and_is_never_stopped(storage: Storage) -> None:
    driver = Driver(storage)
    driver.begin("default")
    driver.begin("other")
    assert driver.sweep.trials[0].is_default and driver.sweep.trials[0].values == {"num_features": 4, "num_layers": 1}
    driver.report("other", 1, 1.0)
    driver.report("default", 1, 2.0)
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
    earlier.report("d", 1, 2.2)
    later = Driver(storage)
    assert [trial.state for trial in later.search.study.trials[:2]] == [TrialState.COMPLETE, TrialState.PRUNED]
    assert later.search.study.trials[0].value == pytest.approx(2 + 1 / 9)
    assert later.begin("e") == half_way == 3
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
    assert driver.sweep.too_large
    assert all(trial.parameters <= limit for trial in driver.sweep.trials.values())
    assert Driver(other, max_parameters=limit).sweep.too_large == driver.sweep.too_large
    assert f"{len(driver.sweep.too_large)} recipe(s) with too many parameters not tried" in report.counts(report.summarize(driver.sweep))
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
    driver.begin("a")
    driver.sweep.ends_at = 0.0
    assert driver.begin("b") is None
    driver.end("a")
    assert driver.sweep.trials[0].state == "unfinished"


def test_as_many_trials_run_as_there_is_room_for_by_now(storage: Storage) -> None:
    driver = Driver(storage)
    driver.at_once = 2
    assert [driver.begin(name) for name in "abc"] == [0, 1, None]
    driver.at_once = 3  # a node came late
    assert [driver.begin(name) for name in "cd"] == [2, None]
    driver.at_once = 1  # two are gone
    driver.end("a", dies=True)
    assert driver.begin("d") is None
    driver.at_once = 3
    assert driver.begin("d") == 0  # which goes on


def test_the_cluster_is_asked_again_how_many_trials_it_has_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    found, lines = [3], list[str]()

    def look(needs: WorkerNeeds, *, wanted: int) -> int:
        if not found[0]:
            raise UserError("the cluster can never give so many")
        return found[0]

    monkeypatch.setattr(tune, "runs_at_once", look)
    monkeypatch.setattr(tune, "_LOOK_EVERY_S", 0.0)
    at_once = tune.AtOnce(WorkerNeeds(1), None, 6, lines.append)
    assert at_once() == 3 and not lines
    found[0] = 9
    assert at_once() == 6 and lines == ["the cluster has room for 6 trial(s) at a time now, and had for 3"]
    found[0] = 0
    assert at_once() == 6 and len(lines) == 1  # who runs is told by what they wait for
    found[0] = 9
    assert tune.AtOnce(WorkerNeeds(1), 2, 6, lines.append)() == 2
    monkeypatch.setattr(tune, "_LOOK_EVERY_S", 1e9)
    found[0] = 1
    assert at_once() == 6


def test_a_trained_trial_stays_finished_whatever_mlflow_says(storage: Storage) -> None:
    driver = Driver(storage)
    driver.begin("a")
    for epoch, score in enumerate(curve(2.0), 1):
        driver.report("a", epoch, score)

    def refuse(*_: Any) -> None:
        raise ConnectionError("no answer")

    driver.tracker.finish = refuse  # type: ignore[method-assign]
    driver.end("a")
    driver.end("a", dies=True)  # as Ray Tune does where an error of ours comes back to it
    assert driver.sweep.trials[0].state == driver.sweep.records.trial(0).state == "finished"


def test_mlflow_that_goes_away_is_told_once_and_has_the_curves_in_the_end(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []
    driver, is_away = Driver(storage, asha=False, lines=lines), True
    logged: list[tuple[str, dict[str, float], int]] = []
    monkeypatch.setattr(sweep_module, "RETRY_S", 0.0)

    def answers(method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*given: Any, **named: Any) -> Any:
            if is_away:
                raise ConnectionError("no answer")
            return method(*given, **named)

        return call

    driver.tracker.log_metrics = lambda *given: logged.append(given)  # type: ignore[method-assign]
    for name in ("start_or_resume_child", "log_metrics", "set_tags", "finish", "is_there"):
        setattr(driver.tracker, name, answers(getattr(driver.tracker, name)))
    driver.run("a", curve(2.0))
    assert [line for line in lines if "MLflow" in line] == ["MLflow cannot be told (no answer); the sweep goes on, and tells it in the end"]
    assert not logged and driver.sweep.trials[0].state == "finished"
    assert any("the same command brings it there" in line for line in report.told(driver.sweep, report.summarize(driver.sweep)))
    is_away = False
    driver.sweep.tidy()
    assert [(metrics[LATEST], epoch) for _, metrics, epoch in logged] == [(score, epoch) for epoch, score in enumerate(curve(2.0), 1)]
    assert not any("MLflow" in line for line in report.told(driver.sweep, report.summarize(driver.sweep)))


def test_an_error_of_its_own_is_kept_for_whoever_started_the_sweep(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    driver, full = Driver(storage, asha=False), UserError("the disk is full")
    driver.begin("a")

    def write(trial: Any) -> None:
        raise full

    monkeypatch.setattr(driver.sweep.records, "write", write)
    with pytest.raises(UserError):
        driver.report("a", 1, 2.0)
    assert driver.search.error is full


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
    [(RuntimeError("shapes differ"), "shapes differ"), (RunFailed("no room\nat all"), "no room at all"), (KeyError(), "KeyError")],
)
def test_a_failed_trial_tells_its_own_reason(error: Exception, told: str, storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    driver = Driver(storage)
    driver.begin("a")

    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr("pixelmodels.tuning.trial.run_group", fail)
    monkeypatch.setattr("ray.tune.integration.ray_train.TuneReportCallback", lambda: None)  # it wants a Tune session
    with pytest.raises(type(error)):
        run_trial({NUMBER: 0}, driver.sweep.plans, None)
    driver.end("a", dies=True)
    assert (driver.sweep.trials[0].state, driver.sweep.trials[0].reason, driver.sweep.trials[0].deaths) == ("failed", told, 0)


def test_a_trial_whose_process_died_goes_on_as_often_as_workers_are_replaced(storage: Storage) -> None:
    states = []
    for call in ("a", "b"):
        driver = Driver(storage)
        driver.begin(call)
        driver.end(call, dies=True)
        states.append((driver.sweep.records.trial(0).state, driver.sweep.records.trial(0).deaths))
    assert states == [("unfinished", 1), ("failed", 2)]  # its workers are replaced once
    assert driver.sweep.trials[0].reason == "its process died, out of memory or with its machine"


def test_a_trial_whose_process_died_is_asked_for_again_in_the_same_call(storage: Storage) -> None:
    lines: list[str] = []
    driver = Driver(storage, asha=False, lines=lines, num_samples=2)
    driver.begin("a")
    driver.report("a", 1, 2.0)
    driver.begin("b")
    assert driver.search.suggest("early") is None  # all are asked for, and each of them may yet die
    driver.end("a", dies=True)
    assert lines[-1] == "trial 0 (pixelcnn) lost its process after 1 of 9 epochs; it goes on in another"
    assert driver.begin("c") == 0 and lines[-1].startswith("trial 0 (pixelcnn) goes on")
    for epoch, score in enumerate(curve(2.0), 1):
        assert driver.report("c", epoch, score) is (epoch < 9)
    driver.end("c")
    driver.end("b", dies=True)
    assert driver.begin("d") == 1
    driver.end("d", dies=True)  # once too often
    assert driver.search.suggest("e") == Searcher.FINISHED
    assert [(trial.state, trial.deaths) for trial in driver.sweep.trials.values()] == [("finished", 1), ("failed", 2)]
    assert driver.given_back == [0, 1, 1]
    assert [trial.state for trial in driver.search.study.trials] == [TrialState.COMPLETE, TrialState.FAIL]


def test_what_a_trial_s_workers_held_is_given_back_where_its_process_died(monkeypatch: pytest.MonkeyPatch) -> None:
    verdicts, removed = Verdicts(), list[str]()
    asyncio.run(verdicts.hold(0, "group"))
    actor = SimpleNamespace(held=SimpleNamespace(remote=verdicts.held))
    monkeypatch.setattr(ray, "get", lambda answer, timeout: asyncio.run(answer))
    monkeypatch.setattr(ray.util, "remove_placement_group", removed.append)
    for number in (0, 1):  # the workers of the second never began
        give_back(actor, number)
    assert removed == ["group"]
    monkeypatch.setattr(ray.util, "remove_placement_group", lambda _: 1 / 0)
    give_back(actor, 0)


def test_a_sweep_that_another_process_has_taken_over_is_left_to_it(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    driver = Driver(storage, asha=False)
    driver.begin("a")
    hold = Hold("sweeps/mine/running.json", "mine")
    driver.sweep.plans = dataclasses.replace(driver.sweep.plans, template=dataclasses.replace(driver.sweep.plans.template, hold=hold))
    storage.write_bytes(hold.path, json.dumps({"host": "there", "process": 17, "id": "theirs"}).encode())
    before = storage.read_bytes("sweeps/mine/trials/000.json")
    driver.tracker.finish = lambda *_: pytest.fail("its run is another's")  # type: ignore[method-assign]
    monkeypatch.setattr("pixelmodels.tuning.trial.run_group", lambda *_, **__: (_ for _ in ()).throw(RunFailed("a worker died")))
    monkeypatch.setattr("ray.tune.integration.ray_train.TuneReportCallback", lambda: None)  # it wants a Tune session
    for write in (
        lambda: run_trial({NUMBER: 0}, driver.sweep.plans, None),
        lambda: driver.report("a", 1, 2.0),
        lambda: driver.end("a", dies=True),
        lambda: driver.begin("b"),
        driver.sweep.leave,
    ):
        with pytest.raises(Lost, match="process 17 on host 'there' trains it now"):
            write()
    assert isinstance(driver.search.error, Lost)
    assert storage.read_bytes("sweeps/mine/trials/000.json") == before and storage.list("sweeps/mine/trials") == ["000.json"]
    assert storage.list("sweeps/mine/runs") == []


@pytest.mark.parametrize("fresh", [False, True])
def test_a_sweep_is_not_forgotten_where_mlflow_cannot_be_told(fresh: bool, storage: Storage) -> None:
    records, settings = Records(storage, "mine"), {"seed": 0}
    head = Head("id", settings, "run")
    records.write(head)
    tracker = Silent(storage)

    def refuse(*given: Any) -> str:
        assert given[-1] == (None if fresh else "run")
        raise ConnectionError("no answer")

    tracker.start_parent = refuse  # type: ignore[method-assign]
    with pytest.raises(UserError, match=r"cannot be used \(no answer\)"):
        _begin(records, settings, Tune(fresh=fresh), tracker)
    assert records.head() == head


def test_a_trial_that_is_stopped_stays_so_where_the_driver_is_killed_before_its_end(storage: Storage) -> None:
    driver = Driver(storage)
    driver.run("a", curve(2.0))
    driver.begin("b")
    driver.report("b", 1, 4.0)
    later = Driver(storage)
    assert later.sweep.trials[1].state == "stopped" and later.sweep.trials[1].curve == {1: 4.0}
    assert later.begin("c") == 2


def test_a_trial_that_goes_on_is_not_judged_again_where_it_had_passed(storage: Storage) -> None:
    earlier = Driver(storage)
    earlier.run("a", curve(2.0))
    earlier.begin("b")
    for epoch, score in enumerate([2.5, 2.4, 2.3], 1):  # as far as this it passed
        earlier.report("b", epoch, score)
    for other, score in (("c", 0.5), ("d", 0.1)):  # others have come by that are better
        earlier.run(other, [score] * 9)
    later = Driver(storage)
    assert later.run("e", [2.5, 2.4, 2.3, *[2.2] * 6]) == 9
    assert later.run("f", [2.5, 2.4]) == 1  # a new one is judged at once


def test_a_trial_that_was_stopped_and_whose_process_died_then_stays_stopped(storage: Storage) -> None:
    driver = Driver(storage)
    driver.run("a", curve(2.0))
    driver.begin("b")
    assert not driver.report("b", 1, 4.0)
    driver.end("b", dies=True)
    assert driver.sweep.records.trial(1).state == "stopped" and not driver.sweep.running


def test_the_default_recipe_counts_only_at_the_same_budget(storage: Storage) -> None:
    driver = Driver(storage)
    driver.run("a", [2.0, 1.9], fails=True)
    driver.run("b", curve(3.0))
    summary = report.summarize(driver.sweep)
    assert summary["default_bits_per_dim"] is None and summary["default"] is not None
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
    assert f"; {driver.sweep.num_impossible} recipe(s) that cannot be built not tried" in report.counts(report.summarize(driver.sweep))


def test_a_space_that_has_changed_is_told(storage: Storage) -> None:
    driver = Driver(storage)
    driver.run("a", curve(2.0))
    driver.sweep.trials[0].values["colour"] = "red"
    driver.sweep.records.write(driver.sweep.trials[0])
    with pytest.raises(UserError, match=r"space 'architectures' no longer has what sweep 'mine' tried .*--fresh"):
        Driver(storage)


def test_recipes_that_have_changed_are_told(storage: Storage) -> None:
    driver = Driver(storage)
    driver.run("a", curve(2.0))
    driver.sweep.trials[0].recipe["batch_size"] += 1
    driver.sweep.records.write(driver.sweep.trials[0])
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
        assert len(driver.sweep.too_large) == len(set(values)) == len(values)
    assert sum("the default recipe has" in line for line in lines) == 1


def test_importances_name_the_parameter_that_matters(storage: Storage) -> None:
    driver = Driver(storage, asha=False, num_samples=8)
    for i in range(8):
        # wider is better, depth changes nothing
        driver.begin(str(i))
        score = 10.0 - driver.sweep.trials[i].values["num_features"]  # type: ignore[operator]
        driver.report(str(i), 1, score)
        driver.end(str(i))
    trials = list(driver.sweep.trials.values())
    found = importances(driver.sweep, trials)
    shares = found.groups["all trials"]
    assert found.epoch == 1 and next(iter(shares)) == "num_features" and shares["num_features"] > 0.8
    assert sum(shares.values()) == pytest.approx(1)
    best = driver.sweep.best()
    assert best is not None and best.values["num_features"] == max(int(trial.values["num_features"]) for trial in trials)
    for picture in (parallel_coordinates_png(trials, best, "tiny $_$"), importance_png(found, "tiny $_$")):  # no formula
        assert picture.startswith(b"\x89PNG") and len(picture) > 5000
