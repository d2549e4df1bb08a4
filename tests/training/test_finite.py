"""What is not finite ends a run before it is reported or saved, with its step and its images; the checkpoints before it stay."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pixelmodels.data.feeds import epoch_order
from pixelmodels.models.files import AVERAGE, WEIGHTS
from pixelmodels.runs import checkpoints
from pixelmodels.storage import Storage
from pixelmodels.training.finite import not_finite
from pixelmodels.training.loop import Loop
from pixelmodels.training.plan import Hopeless, RunPlan
from pixelmodels.training.workers import LogProb
from tests.training.tiny_run import SIZES, in_workers, last_checkpoint, tiny_plan, tiny_recipe

CPU = torch.device("cpu")
NAN, INF = float("nan"), float("inf")


def keys_of_step(step: int) -> list[str]:
    """Keys of the images of a step (from 1) of the tiny recipe, 5 of 23 images each."""
    epoch, start = (step - 1) // 5, (step - 1) % 5 * 5
    return [f"train/{index}" for index in epoch_order(0, epoch, SIZES["train"])[start : start + 5]]


def spoil_likelihood(patch: pytest.MonkeyPatch, call: int, value: float) -> None:
    """Make what the model says of the images in a call in training, counted from 1, another value."""
    forward, calls = LogProb.forward, []

    def spoiled(self: LogProb, *arguments: Any) -> torch.Tensor:
        calls.append(1)
        log_prob_B = forward(self, *arguments)
        return log_prob_B * value if len(calls) == call else log_prob_B

    patch.setattr(LogProb, "forward", spoiled)


def run(plan: RunPlan, spoil: Callable[[Loop], None] | None = None, step: int = 0, **hooks: Any) -> str:
    """Train, spoiling something after a step; returns why it ended."""
    loops: list[Loop] = []

    def after_step(done: int) -> None:
        if spoil is not None and done == step:
            spoil(loops[0])

    loops.append(Loop(plan, CPU, say=lambda _: None, after_step=after_step, **hooks))
    with pytest.raises(Hopeless) as ended:
        loops[0].run()
    return str(ended.value)


def assert_whole(plan: RunPlan, steps: list[int]) -> None:
    """That a run has the checkpoints of these steps, and no others but its best one, all of finite numbers."""
    kept = checkpoints.steps(plan.storage, plan.folder)
    assert set(kept) == {*steps, max(0, last_checkpoint(plan).json(checkpoints.STATE)["position"]["best_step"])} - {0}
    for step in kept:
        found = checkpoints.load(plan.storage, plan.folder, step)
        assert not_finite({name: found.tensors(name) for name in (WEIGHTS, AVERAGE, checkpoints.OPTIMIZER)}) is None


@pytest.mark.parametrize(("call", "value"), [(2, NAN), (8, NAN), (8, INF), (15, -INF)])
def test_a_likelihood_that_is_no_number_is_told_with_its_step_and_images_before_anything_is_saved(
    call: int, value: float, storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = tiny_plan(storage, checkpoint_every_s=1e-9)
    spoil_likelihood(monkeypatch, call, value)
    said = run(plan)
    kind = "nan" if np.isnan(value) else "inf" if value > 0 else "-inf"
    assert said.startswith(f"the training likelihood is {kind} in epoch {(call + 4) // 5}, step {call}: lower learning_rate or clip_norm")
    assert said.endswith(f"images {', '.join(keys_of_step(call))}")
    assert_whole(plan, [1] if call == 2 else [call - 2, call - 1])
    monkeypatch.undo()
    assert Loop(plan, CPU, say=lambda _: None).position.step == call - 1


def test_it_is_told_before_a_report_and_at_the_latest_at_the_end_of_an_epoch(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    reports: list[dict[str, float]] = []
    spoil_likelihood(monkeypatch, 8, NAN)
    said = run(tiny_plan(storage, report_every_s=0.0), report=reports.append)
    assert "epoch 2, step 8:" in said and all(np.isfinite(list(one.values())).all() for one in reports)
    assert reports[-1]["step"] >= 5
    monkeypatch.undo()
    spoil_likelihood(monkeypatch, 7, NAN)
    plan = tiny_plan(storage, tiny_recipe(seed=0, epochs=4))
    steps: list[int] = []
    loop = Loop(plan, CPU, say=lambda _: None, after_step=steps.append)
    with pytest.raises(Hopeless, match=r"epoch 2, step 7: .* images train/"):
        loop.run()
    assert steps[-1] == 10
    assert_whole(plan, [5])


def test_a_step_in_parts_is_one_step(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = tiny_plan(storage, tiny_recipe(accumulate=2), checkpoint_every_s=1e-9)
    spoil_likelihood(monkeypatch, 2 * 8, NAN)
    assert "step 8: " in run(plan)
    assert_whole(plan, [6, 7])


def spoil_weight(value: float) -> Callable[[Loop], None]:
    def spoil(loop: Loop) -> None:
        list(loop.model.parameters())[-1].detach().view(-1)[0] = value

    return spoil


def spoil_average(loop: Loop) -> None:
    next(loop.average.model.parameters()).view(-1)[-1] = INF


def spoil_moment(name: str, value: float) -> Callable[[Loop], None]:
    def spoil(loop: Loop) -> None:
        loop.optimizer.state[next(loop.model.parameters())][name].view(-1)[0] = value

    return spoil


@pytest.mark.parametrize(
    ("spoil", "what"),
    [
        (spoil_weight(NAN), "weight '"),
        (spoil_weight(INF), "weight '"),
        (spoil_average, "averaged weight '"),
        (spoil_moment("exp_avg", NAN), "the optimizer's moment '"),
        (spoil_moment("exp_avg_sq", INF), "the optimizer's moment '"),
    ],
)
@pytest.mark.parametrize("step", [9, 10])  # inside an epoch, and at its end
def test_a_checkpoint_is_never_written_with_what_is_not_finite(
    spoil: Callable[[Loop], None], what: str, step: int, storage: Storage
) -> None:
    plan = tiny_plan(storage, checkpoint_every_s=1e-9)
    said = run(plan, spoil, step)
    assert said.startswith(what) and f"has values that are not finite in epoch 2, step {step}: lower learning_rate" in said
    assert keys_of_step(step)[0] in said
    assert_whole(plan, [step - 2, step - 1])


@pytest.mark.parametrize("split", ["validation", "test"])
def test_images_whose_likelihood_is_no_number_are_named(split: str, storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    score = Loop._score

    def spoiled(self: Loop, of: str) -> np.ndarray:
        nats_NK = score(self, of)
        if of == split:
            nats_NK[[2, 5], 0] = NAN, INF
        return nats_NK

    monkeypatch.setattr(Loop, "_score", spoiled)
    plan = tiny_plan(storage)
    said = run(plan)
    assert said.startswith(f"the {split} likelihood is nan ") and said.endswith(f"images {split}/2, {split}/5")
    assert not storage.exists(f"{plan.folder}/result.json")
    if split == "test":
        assert last_checkpoint(plan).step == 15


def test_a_message_names_some_of_many_images(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    spoil_likelihood(monkeypatch, 1, NAN)
    assert run(tiny_plan(storage, tiny_recipe(batch_size=20))).endswith(" and 14 more")


def work(rank: int, count: int, folder: str) -> None:
    """Runs of which one worker alone meets what is not finite."""
    said = []
    with pytest.MonkeyPatch.context() as patch:
        if rank == 1:
            spoil_likelihood(patch, 8, NAN)
        said.append(run(tiny_plan(Storage(f"{folder}/likelihood"), checkpoint_every_s=1e-9)))
    for name, spoil in (("weight", spoil_weight(NAN)), ("average", spoil_average)):
        said.append(run(tiny_plan(Storage(f"{folder}/{name}"), checkpoint_every_s=1e-9), spoil if rank == count - 1 else None, 8))
    Path(f"{folder}/{rank}.json").write_text(json.dumps(said))


def test_all_workers_stop_with_the_same_message(tmp_path: Path) -> None:
    in_workers(work, 2, tmp_path)
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2))
    assert first == second
    assert first[0].startswith("the training likelihood is nan in epoch 2, step 8: ")
    assert first[1].startswith("weight '") and first[2].startswith("averaged weight '")
    assert all("step 8: " in said and said.endswith(", ".join(keys_of_step(8))) for said in first)
    for name in ("likelihood", "weight", "average"):
        assert_whole(tiny_plan(Storage(str(tmp_path / name))), [6, 7])
