"""How a call of `train_all` begins and ends for its reader: where runs are tracked, and which version to promote."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace

import pytest

from pipelines import promote as pipeline
from pixelmodels import ray_cluster
from pixelmodels.promotion.options import Promote
from pixelmodels.storage import Storage
from pixelmodels.tracking import Tracker
from pixelmodels.tracking.location import told_place
from pixelmodels.tracking.versions import CHAMPION, Version, best_on
from pixelmodels.training import train_all as module
from pixelmodels.training.options import TrainAll
from pixelmodels.training.train_all import Outcome, _say_best_of
from tests.training.tiny_run import TinyDataset, tiny_plan, tiny_recipe

DATASET = "tiny-0123456789"


def version(number: int, bits: float, condition_on: str = "", dataset: str = DATASET, put_aside: bool = False) -> Version:
    return Version("tiny", str(number), "", "pixelcnn", f"r{number}", dataset, bits, None, condition_on, put_aside=put_aside)


def test_the_best_version_is_the_one_that_promote_would_take() -> None:
    versions = [
        version(1, 2.0),
        version(2, 1.5),
        version(3, 1.5),
        version(4, 1.0, "label"),
        version(5, 0.5, dataset="tiny-other"),
        version(6, 0.4, put_aside=True),
        version(7, float("nan")),
        version(8, float("inf")),
    ]
    assert [best_on(versions, DATASET, kinds) for kinds in ("", "label", "vector")] == [versions[2], versions[3], None]
    assert best_on([], DATASET, "") is None


class Registry:
    """A real tracker whose registry has these versions."""

    def __init__(self, tracker: Tracker, found: list[tuple[float, str]]) -> None:
        self.tracker, client = tracker, tracker.client
        client.create_registered_model("tiny")
        for bits, kinds in found:
            tags = {"architecture": "a", "git_commit": "c", "recipe": "r", "dataset": DATASET, "condition_on": kinds}
            client.create_model_version("tiny", source="/nowhere", tags={**tags, "test_bits_per_dim": str(bits)})

    def said(self, *conditions: tuple[str, ...], **options: str) -> list[str]:
        """What a call says that has trained recipes with these conditions."""
        storage, lines = self.tracker.storage, list[str]()
        plans = [tiny_plan(storage, tiny_recipe(condition_on=kinds), TinyDataset()) for kinds in conditions]
        _say_best_of("tiny", plans, TrainAll(**options), self.tracker, lines.append)
        return lines


def test_a_version_that_has_learned_nothing_is_not_recommended(storage: Storage) -> None:
    (line,) = Registry(Tracker(storage), [(9.0, "")]).said(())
    assert line.startswith("best of tiny by test bits/dim: version 1 (r), 9.0000: no better than equally likely levels (")
    assert line.endswith("), it has learned nothing yet; give more --epochs, or more images")


def test_a_call_ends_with_the_best_version_and_the_command_that_promotes_it(storage: Storage) -> None:
    tracker = Tracker(storage)
    registry = Registry(tracker, [(2.0, ""), (1.5, ""), (1.0, "label")])
    (line,) = registry.said((), ("label",))
    command = "python pipelines/promote.py --name tiny --version 2"
    assert line == f"best of tiny by test bits/dim: version 2 (r), 1.5000; make it champion: {command}"
    (line,) = registry.said((), storage="s3://bucket/a b")
    assert line.endswith(f"{command} --storage 's3://bucket/a b'")
    asked = pipeline.parse(Promote, ["--name", "tiny", "--version", "2", "--storage", "s3://bucket/a b"])
    assert (asked.name, asked.version, asked.storage) == ("tiny", 2, "s3://bucket/a b")
    # what the champion is given decides what compares with it
    tracker.client.set_registered_model_alias("tiny", CHAMPION, "1")
    assert "--version 2" in registry.said(("label",))[0]
    tracker.client.set_registered_model_alias("tiny", CHAMPION, "2")
    assert registry.said(()) == ["best of tiny by test bits/dim: version 2 (r), 1.5000; it is champion already"]
    tracker.client.set_registered_model_alias("tiny", CHAMPION, "3")
    assert registry.said(()) == ["best of tiny by test bits/dim: version 3 (r), 1.0000; it is champion already"]


def test_where_only_conditional_models_were_trained_the_best_of_them_is_said(storage: Storage) -> None:
    registry = Registry(Tracker(storage), [(2.0, "label"), (1.5, "label,small/2"), (1.7, "label")])
    assert "version 3 (r), 1.7000" in registry.said(("label",))[0]
    assert registry.said(("vector",)) == []


def test_the_database_is_told_where_it_is_not_in_the_storage_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    bucket = Storage("s3://bucket/prefix")
    line = told_place(bucket, Tracker(bucket).uri)
    assert line is not None and f"'{tmp_path}/mlflow.db'" in line and "make ui STORAGE=s3://bucket/prefix" in line
    folder = Storage(str(tmp_path / "root"))
    assert told_place(folder, Tracker(folder).uri) is None
    for named in ("sqlite:///mine.db", "http://host:5000"):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", named)
        assert told_place(bucket, Tracker(bucket).uri) is None


def test_what_was_asked_of_an_autoscaler_is_taken_back_before_ray_ends(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    """At ctrl-c, or the SIGTERM of a job that is stopped: afterwards nobody could, and the machines would stay."""
    import ray

    done: list[str] = []

    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("ray.autoscaler.sdk.request_resources", lambda bundles: done.append(f"asked for {len(bundles)}"))
    monkeypatch.setattr(ray_cluster, "has_autoscaler", lambda: True)
    monkeypatch.setattr(ray_cluster, "cluster_nodes", lambda *_: [{"CPU": 9.0}])
    monkeypatch.setattr(ray, "shutdown", lambda: done.append("Ray ends"))
    monkeypatch.setattr(module, "Progress", lambda *_: SimpleNamespace(close=lambda: None, drain=interrupt))
    monkeypatch.setattr(module, "train_one", lambda *_: None)
    with pytest.raises(KeyboardInterrupt):
        module._train([tiny_plan(storage)], 1, "parent", TrainAll(num_workers="1..3"), Outcome("", ""), print)
    assert done == ["asked for 3", "asked for 0", "Ray ends"]


def test_options_make_one_recipe_of_another() -> None:
    options = TrainAll(
        only=("pixelcnn",), condition_on=("small",), small_factor=4, learning_rate=0.5, activation_checkpointing=True, seed=0
    )
    (changed,), (plain,) = options.recipes(), dataclasses.replace(TrainAll(), only=("pixelcnn",)).recipes()
    assert (changed.condition_on, changed.small_factor, changed.activation_checkpointing) == (("small",), 4, True)
    assert changed.optimizer == dataclasses.replace(plain.optimizer, learning_rate=0.5) and changed.epochs == plain.epochs
