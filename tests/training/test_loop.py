"""The loop in this process: a run that was stopped anywhere ends exactly where it would have ended anyway."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from pixelmodels.data.feeds import ResidentFeed, epoch_order
from pixelmodels.errors import UserError
from pixelmodels.evaluation.nats import TEST_NATS
from pixelmodels.models import Context
from pixelmodels.models.files import AVERAGE, WEIGHTS
from pixelmodels.recipes.recipe import Recipe
from pixelmodels.runs import checkpoints
from pixelmodels.runs.loading import find_model
from pixelmodels.runs.result import RESULT, finished
from pixelmodels.storage import Storage
from pixelmodels.training import loop
from pixelmodels.training.loop import Left, Loop, train
from pixelmodels.training.outbox import UNSENT
from pixelmodels.training.plan import Hopeless, build_model
from pixelmodels.training.workers import Workers
from tests.gs import google_bucket_server
from tests.s3 import bucket_server
from tests.training.tiny_run import (
    SIZES,
    Stop,
    TinyDataset,
    assert_same,
    final_weights,
    last_checkpoint,
    tiny_plan,
    tiny_recipe,
    train_until,
)

CPU = torch.device("cpu")


@pytest.mark.parametrize("changes", [{}, {"accumulate": 2, "condition_on": ()}])
def test_a_run_stopped_in_the_middle_of_epochs_ends_as_if_it_had_not_been(tmp_path: Path, changes: dict[str, object]) -> None:
    recipe = tiny_recipe(**changes)
    whole = tiny_plan(Storage(str(tmp_path / "whole")), recipe)
    stopped = tiny_plan(Storage(str(tmp_path / "stopped")), recipe, checkpoint_every_s=1e-9)  # after every step
    expected = train(whole, say=lambda _: None)
    for step in (3, 7, 11):
        train_until(stopped, step)
    found = train(stopped, say=lambda _: None)
    assert_same(final_weights(stopped), final_weights(whole))
    assert found.test_nll_nats == expected.test_nll_nats
    assert found.steps == expected.steps == 3 * 5
    first, second = (Loop(plan, CPU, say=lambda _: None).position for plan in (whole, stopped))
    assert second.val_bits_per_dim == first.val_bits_per_dim
    assert second.train_images == first.train_images == 3 * SIZES["train"]


def test_a_checkpoint_that_is_cut_short_is_named_and_the_one_before_it_used(storage: Storage) -> None:
    plan = tiny_plan(storage, checkpoint_every_s=1e-9)
    train_until(plan, 8)
    steps = checkpoints.steps(storage, plan.folder)
    path = f"{plan.folder}/checkpoints/{steps[-1]:08d}/{checkpoints.OPTIMIZER}"
    storage.write_bytes(path, storage.read_bytes(path)[:-7])
    lines: list[str] = []
    loop = Loop(plan, CPU, say=lines.append)
    assert loop.position.step == steps[-2]
    assert f"{steps[-1]:08d}" in lines[0] and "optimizer.safetensors is cut short" in lines[0] and "one before" in lines[0]


def test_a_checkpoint_without_its_last_file_is_no_checkpoint(storage: Storage) -> None:
    plan = tiny_plan(storage, checkpoint_every_s=1e-9)
    train_until(plan, 4)
    steps = checkpoints.steps(storage, plan.folder)
    storage.delete(f"{plan.folder}/checkpoints/{steps[-1]:08d}/{checkpoints.CHECKPOINT}")
    assert Loop(plan, CPU, say=lambda _: None).position.step == steps[-2]


def test_what_killed_runs_left_ahead_never_costs_the_checkpoint_just_written(storage: Storage) -> None:
    plan = tiny_plan(storage, checkpoint_every_s=1e-9)
    train_until(plan, 3)
    for step in (90, 91):
        storage.write_bytes(f"{plan.folder}/checkpoints/{step:08d}/{WEIGHTS}", b"half")
    train_until(plan, 5)  # saved after steps 3 and 4
    assert checkpoints.steps(storage, plan.folder) == [3, 4]
    assert last_checkpoint(plan).step == 4


def overfitting() -> Recipe:
    """A recipe whose last epochs validate worse than earlier ones."""
    recipe = tiny_recipe(epochs=200, patience=2)
    return dataclasses.replace(recipe, optimizer=dataclasses.replace(recipe.optimizer, learning_rate=0.1, schedule="constant"))


def test_a_run_whose_best_checkpoint_is_damaged_ends_with_its_last_weights(storage: Storage) -> None:
    plan = tiny_plan(storage, overfitting())
    first = train(plan, say=lambda _: None)
    assert first.best_step < first.steps
    storage.delete(f"{plan.folder}/{RESULT}")
    best = f"{plan.folder}/checkpoints/{first.best_step:08d}/{AVERAGE}"
    storage.write_bytes(best, storage.read_bytes(best)[:-3])
    lines: list[str] = []
    again = train(plan, say=lines.append)
    assert any("best checkpoint is damaged (average.safetensors is cut short" in line for line in lines), lines
    assert again.best_step == again.steps == first.steps
    last = checkpoints.load(storage, plan.folder, again.best_step)
    position = last.json(checkpoints.STATE)["position"]
    assert again.val_bits_per_dim == position["val_bits_per_dim"][-1] == position["best_bits_per_dim"]
    model = find_model(plan.folder, storage)
    test = TinyDataset().read("test")
    context = Context(label_B=torch.from_numpy(test.labels_N).long())
    with torch.no_grad():
        log_prob_B = model.log_prob(torch.from_numpy(test.images_NCHW).long(), context)
    assert -float(log_prob_B.mean()) == pytest.approx(again.test_nll_nats, rel=1e-5)


def test_a_validation_likelihood_that_is_no_number_stops_the_run(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Loop, "_score", lambda self, split: np.full((SIZES[split], 1), np.nan))
    with pytest.raises(Hopeless, match="the validation likelihood is nan in epoch 1: lower learning_rate"):
        train(tiny_plan(storage), say=lambda _: None)


def test_a_run_on_a_cpu_keeps_the_memory_that_steps_free(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[bool] = []
    monkeypatch.setattr("pixelmodels.training.loop.keep_freed_memory", lambda: calls.append(True))
    Loop(tiny_plan(storage), CPU, say=lambda _: None)
    assert calls == [True]


@pytest.mark.parametrize("server", [bucket_server, google_bucket_server])
def test_a_run_in_a_bucket_that_was_stopped_ends_as_one_in_a_folder(
    storage: Storage, server: Callable[[str], AbstractContextManager[str]]
) -> None:
    expected = train(tiny_plan(storage), say=lambda _: None)
    with server("training") as uri:
        plan = tiny_plan(Storage(f"{uri}/root"), checkpoint_every_s=1e-9)
        train_until(plan, 7)
        lines: list[str] = []
        found = train(plan, say=lines.append)
        assert "going on from step 6" in lines[0]
        assert_same(final_weights(plan), final_weights(tiny_plan(storage)))
        assert finished(plan.storage, plan.folder) == found
        assert found.test_nll_nats == expected.test_nll_nats


@pytest.mark.parametrize("batch_size", [64, 5])
def test_who_has_to_leave_does_so_before_an_epoch_is_validated(batch_size: int, storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    """With one step an epoch, too: what is saved then goes on as if nothing had happened, and no step is done again."""
    plan = tiny_plan(storage, dataclasses.replace(tiny_recipe(epochs=3), batch_size=batch_size))
    steps_per_epoch = -(-SIZES["train"] // batch_size)
    validated: list[int] = []
    score = Loop._score

    def scored(self: Loop, split: str) -> Any:
        validated.append(self.position.step)
        return score(self, split)

    monkeypatch.setattr(Loop, "_score", scored)
    monkeypatch.setattr("pixelmodels.training.loop._LOOK_EVERY_S", 0.0)
    loop = Loop(plan, CPU, say=lambda _: None)
    loop.leave = lambda: "taken away" if loop.position.step == steps_per_epoch else None
    with pytest.raises(Left) as left:
        loop.run()
    assert left.value.why == "taken away" and not validated and last_checkpoint(plan).step == steps_per_epoch
    done: list[int] = []
    train(plan, say=lambda _: None, after_step=done.append)
    assert done == list(range(steps_per_epoch + 1, 3 * steps_per_epoch + 1))
    assert validated[:3] == [steps_per_epoch, 2 * steps_per_epoch, 3 * steps_per_epoch]
    other = dataclasses.replace(plan, run_key="another")
    train(other, say=lambda _: None)
    assert_same(final_weights(plan), final_weights(other))


def test_best_and_last_checkpoints_are_kept_and_no_others_but_one(storage: Storage) -> None:
    plan = tiny_plan(storage, tiny_recipe(epochs=8))
    result = train(plan, say=lambda _: None)
    steps = checkpoints.steps(storage, plan.folder)
    assert result.best_step in steps and 8 * 5 in steps
    assert set(steps) <= {result.best_step, 8 * 5, 7 * 5}


def test_a_finished_run_leaves_its_result_and_the_nats_of_every_test_image(storage: Storage, tmp_path: Path) -> None:
    plan = tiny_plan(storage)
    result = train(plan, say=lambda _: None)
    assert finished(storage, plan.folder) == result
    (tmp_path / "nats.parquet").write_bytes(storage.read_bytes(f"{plan.folder}/{TEST_NATS}"))
    table = pq.read_table(tmp_path / "nats.parquet")
    assert table.column_names == ["key", "label", "nll_nats", "bits_per_dim"]
    assert table["key"].to_pylist() == TinyDataset().read("test").keys
    assert np.mean(table["nll_nats"].to_numpy()) == pytest.approx(result.test_nll_nats, rel=1e-12)
    # the test is of the weights that validated best, scored image by image
    model = build_model(plan).eval()
    best = checkpoints.load(storage, plan.folder, result.best_step)
    model.load_state_dict(best.tensors(AVERAGE))
    test = TinyDataset().read("test")
    for image, label, nats in zip(test.images_NCHW, test.labels_N, table["nll_nats"].to_pylist(), strict=True):
        with torch.no_grad():
            log_prob = model.log_prob(torch.from_numpy(image[None]).long(), Context(label_B=torch.tensor([int(label)])))
        assert -float(log_prob) == pytest.approx(nats, rel=1e-5)


def test_a_run_tells_how_far_it_is_in_place_of_its_lines(storage: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "_LOOK_EVERY_S", 0.0)  # at each step
    plan, lines, standings = tiny_plan(storage, tiny_recipe(epochs=2)), [], []
    result = train(plan, say=lines.append, stand=standings.append)
    assert not any("epoch" in line for line in lines)
    shares = [standing.share for standing in standings]
    assert shares == sorted(shares) and shares[-1] == 1.0 and len(shares) == result.steps + 2
    assert [standing.epoch for standing in standings if standing.left_s == 0.0] == [1, 2]  # before the last epoch's end, and after it
    assert standings[0].bits_per_dim is None and standings[-1].bits_per_dim is not None and standings[-1].epochs == 2
    told: list[str] = []
    train(tiny_plan(Storage(str(tmp_path / "lines")), tiny_recipe(epochs=2)), say=told.append)
    assert [line.partition("  ")[0] for line in told] == ["tiny: epoch 1/2", "tiny: epoch 2/2"]


def test_training_lowers_the_likelihoods_bits(storage: Storage) -> None:
    plan = tiny_plan(storage, tiny_recipe(epochs=30))
    result = train(plan, say=lambda _: None)
    assert result.test_bits_per_dim < 1.9  # uniform is 2 bits


def test_patience_stops_a_run_that_no_longer_improves(storage: Storage) -> None:
    plan = tiny_plan(storage, overfitting())
    result = train(plan, say=lambda _: None)
    assert result.epochs < 200
    history = Loop(plan, CPU, say=lambda _: None).position.val_bits_per_dim
    assert len(history) == result.epochs and min(history) == history[-3]


def test_activation_checkpointing_changes_nothing_but_memory(tmp_path: Path) -> None:
    for architecture in (tiny_recipe().model, gated()):
        weights = []
        for flag in (False, True):
            recipe = tiny_recipe(model=architecture, activation_checkpointing=flag)
            plan = tiny_plan(Storage(str(tmp_path / f"{type(architecture).__name__}{flag}")), recipe)
            train(plan, say=lambda _: None)
            weights.append(final_weights(plan))
        for name, value in weights[0].items():
            torch.testing.assert_close(weights[1][name], value, rtol=1e-5, atol=1e-7)


def test_the_order_of_an_epoch_depends_on_seed_and_epoch_only() -> None:
    feed = ResidentFeed(TinyDataset(), Workers(CPU), seed=3, batch_size=5)  # type: ignore[arg-type]
    images = TinyDataset().read("train").images_NCHW
    order = epoch_order(3, 2, SIZES["train"])
    assert sorted(order) == list(range(SIZES["train"]))
    assert not np.array_equal(order, epoch_order(3, 1, SIZES["train"])) and not np.array_equal(order, epoch_order(4, 2, SIZES["train"]))
    for first_step in (0, 2, 4):
        batches = list(feed.training_rows(2, first_step))
        assert [count for _, count in batches] == [5, 5, 5, 5, 3][first_step:]
        got = np.concatenate([rows.images_NCHW for rows, _ in batches])
        np.testing.assert_array_equal(got, images[order[first_step * 5 :]])


def test_reports_come_as_rarely_as_asked_for(storage: Storage) -> None:
    reports: list[dict[str, float]] = []
    train(tiny_plan(storage), say=lambda _: None, report=reports.append)
    assert len(reports) == 1 and "test/bits_per_dim" in reports[0]  # the end is always told


def test_labels_are_needed_where_a_model_is_conditioned_on_them(storage: Storage) -> None:
    plan = tiny_plan(storage)
    plan = dataclasses.replace(plan, dataset=TinyDataset(num_classes=0))  # type: ignore[arg-type]
    with pytest.raises(UserError, match="has no labels"):
        build_model(plan)


def test_images_without_a_label_are_counted_where_a_model_is_conditioned_on_labels(storage: Storage) -> None:
    plan = dataclasses.replace(tiny_plan(storage), dataset=TinyDataset(unlabelled=3))  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"3 of train, 3 of validation, 3 of test.*without --condition-on label"):
        build_model(plan)
    build_model(dataclasses.replace(plan, recipe=tiny_recipe(condition_on=())))


def test_a_changed_recipe_is_another_run(storage: Storage) -> None:
    plan, other = tiny_plan(storage), tiny_plan(storage, tiny_recipe(epochs=1, seed=5))
    train(plan, say=lambda _: None)
    assert plan.folder != other.folder and finished(storage, other.folder) is None
    assert storage.exists(f"{plan.folder}/{RESULT}")


def gated() -> object:
    from pixelmodels.models.gated_pixelcnn import GatedPixelCNNConfig

    return GatedPixelCNNConfig(num_layers=2, num_features=4, first_kernel_size=3, head_features=8, dropout=0.1)


def test_an_epoch_is_told_or_kept_before_its_checkpoint_is_written(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that goes on from the checkpoint tells nobody of the epoch again."""
    plan = tiny_plan(storage, tiny_recipe(epochs=3, num_samples=0), tracker=object())  # in no run of MLflow: all is kept
    save, kept = checkpoints.save, dict[int, bool]()

    def watched(to: Storage, folder: str, step: int, tensors: Any, documents: Any) -> str:
        epoch = documents[checkpoints.STATE]["position"]["epoch"]
        kept[epoch] = to.is_file(f"{folder}/{UNSENT}/{epoch:06d}.json")
        return save(to, folder, step, tensors, documents)

    monkeypatch.setattr(checkpoints, "save", watched)
    Loop(plan, CPU, say=lambda _: None).train()
    assert kept == {1: True, 2: True, 3: True}


def test_what_is_being_written_is_written_when_training_is_left(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    save, may_write = checkpoints.save, threading.Event()

    def slow(*arguments: Any) -> str:
        assert may_write.wait(60)
        return save(*arguments)

    def leave(step: int) -> None:
        if step == 7:
            may_write.set()
            raise Stop

    monkeypatch.setattr(checkpoints, "save", slow)
    plan = tiny_plan(storage, tiny_recipe(), checkpoint_every_s=0)
    with pytest.raises(Stop):
        Loop(plan, CPU, say=lambda _: None, after_step=leave).train()
    assert checkpoints.steps(storage, plan.folder) == [5]  # that of the epoch before
