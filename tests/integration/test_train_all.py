"""The main job on a real Ray: a killed call goes on, one failing model does not stop the others, bad requests wait for nothing."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch

from pipelines import evaluate, train_all
from pixelmodels.data import find_dataset
from pixelmodels.errors import exit_with
from pixelmodels.evaluation.ablation import SIGN
from pixelmodels.evaluation.activations import choose_images
from pixelmodels.evaluation.probes import fit, pool
from pixelmodels.models.files import AVERAGE, WEIGHTS
from pixelmodels.recipes.recipe import Recipe
from pixelmodels.runs import checkpoints
from pixelmodels.runs.loading import find_model
from pixelmodels.runs.result import finished
from pixelmodels.storage import Storage
from pixelmodels.tracking import Tracker
from pixelmodels.training.loop import train
from pixelmodels.training.plan import RunPlan
from tests.integration import small_suites
from tests.training.mlflow_server import Server

ROOT = Path(__file__).resolve().parents[2]
EPOCHS, STEPS = 3, 23  # of the small suite; steps of an epoch of the digits at batch 64
COMMAND = ["--suite", "small", "--only", "pixelcnn", "--checkpoint-every-s", "1e-9"]  # a checkpoint after every step


def inside_an_epoch(storage: Storage) -> bool:
    """Whether there is a whole checkpoint that does not lie at the end of an epoch."""
    runs = [name for name in storage.list("runs") if name.startswith("pixelcnn-")]
    steps = [step for run in runs for step in checkpoints.steps(storage, f"runs/{run}") if step % STEPS]
    return any(storage.exists(f"runs/{run}/checkpoints/{step:08d}/{checkpoints.CHECKPOINT}") for run in runs for step in steps)


@pytest.fixture(scope="module", autouse=True)
def suites() -> Iterator[None]:
    """The small suites known to this process, while this file's tests run."""
    with small_suites.registered():
        yield


@pytest.fixture(scope="module", params=["undisturbed", pytest.param("killed", marks=pytest.mark.faults)])
def trained(
    request: pytest.FixtureRequest, ray_cluster: None, suites: None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Storage, str]]:
    """The storage of a call, and what it printed; of one that was killed while it trained, and started again: what it printed then."""
    folder = tmp_path_factory.mktemp(request.param) / "storage"
    storage = Storage(str(folder))
    if request.param == "killed":
        train_until_killed(folder, storage)
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        assert train_all.main([*COMMAND, "--storage", storage.root]) == 0
    yield storage, printed.getvalue()


def was_killed(request: pytest.FixtureRequest) -> bool:
    """Whether a test is of the call that was killed."""
    return bool(request.node.callspec.params["trained"] == "killed")


def train_until_killed(folder: Path, storage: Storage) -> None:
    """Train in a process of its own, and kill it inside an epoch."""
    command = [sys.executable, str(ROOT / "tests" / "integration" / "small_suites.py"), *COMMAND, "--storage", str(folder)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=folder.parent, env=environment)
    try:
        deadline = time.monotonic() + 180
        while not inside_an_epoch(storage):
            if process.poll() is not None or time.monotonic() > deadline:
                break
            time.sleep(0.05)
    finally:
        process.kill()  # SIGKILL
        said, _ = process.communicate()
    assert process.returncode == -signal.SIGKILL, said
    assert inside_an_epoch(storage), said
    assert finished(storage, run_of(storage)) is None


ONCE = pytest.mark.parametrize("trained", ["undisturbed"], indirect=True)


def run_of(storage: Storage) -> str:
    return next(f"runs/{name}" for name in storage.list("runs") if name.startswith("pixelcnn-"))


def last_checkpoint(storage: Storage) -> checkpoints.Checkpoint:
    last = checkpoints.latest(storage, run_of(storage), print)
    assert last is not None
    return last


def final_weights(storage: Storage) -> dict[str, torch.Tensor]:
    return last_checkpoint(storage).tensors(WEIGHTS)


def test_a_call_ends_with_the_same_parameters_whether_it_was_killed_or_not(
    trained: tuple[Storage, str], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    storage, printed = trained
    assert ("pixelcnn: going on from step" in printed) == was_killed(request)
    last = last_checkpoint(storage)
    assert last.step == EPOCHS * STEPS
    state = last.json(checkpoints.STATE)
    # the same recipe, uninterrupted, bare in this process
    dataset = find_dataset(storage, "digits")
    plan = RunPlan(Recipe.from_dict(state["recipe"]), dataset, Storage(str(tmp_path)), state["run_key"])
    threads = torch.get_num_threads()
    torch.set_num_threads(state["num_threads"])
    try:
        result = train(plan, say=lambda _: None)
    finally:
        torch.set_num_threads(threads)
    bare = checkpoints.latest(plan.storage, plan.folder, print)
    assert bare is not None
    for name in (WEIGHTS, AVERAGE):
        for key, value in bare.tensors(name).items():
            torch.testing.assert_close(last.tensors(name)[key], value, rtol=1e-5, atol=1e-8)
    found = finished(storage, run_of(storage))
    assert found is not None and found.test_nll_nats == pytest.approx(result.test_nll_nats, rel=1e-6)


def test_it_has_one_mlflow_run(trained: tuple[Storage, str], request: pytest.FixtureRequest) -> None:
    storage, _ = trained
    tracker, result = Tracker(storage), finished(storage, run_of(storage))
    assert result is not None and result.mlflow_run_id is not None
    run = tracker.client.get_run(result.mlflow_run_id)
    assert run.info.status == "FINISHED"
    assert run.data.tags.get("pixelmodels.resumed") == ("1" if was_killed(request) else None)
    assert run.data.metrics["test/bits_per_dim"] == pytest.approx(result.test_bits_per_dim)
    history = tracker.client.get_metric_history(result.mlflow_run_id, "val/bits_per_dim")
    assert {metric.step for metric in history} == set(range(1, EPOCHS + 1))
    assert tracker.client.get_model_version("digits", result.model_version).run_id == result.mlflow_run_id


def test_the_same_command_on_a_finished_run_shows_its_result(
    trained: tuple[Storage, str], ray_cluster: None, capsys: pytest.CaptureFixture[str]
) -> None:
    storage, _ = trained
    before = finished(storage, run_of(storage))
    assert before is not None and before.mlflow_run_id is not None
    client = Tracker(storage).client
    client.update_run(before.mlflow_run_id, status="RUNNING")  # as if it had been killed right after its result was written
    assert train_all.main([*COMMAND, "--storage", storage.root]) == 0
    assert client.get_run(before.mlflow_run_id).info.status == "FINISHED"
    printed = capsys.readouterr().out.strip().splitlines()
    named = f"; it is models:/{before.dataset.rpartition('-')[0]}/{before.model_version}; --fresh trains it anew"
    assert any("pixelcnn: finished before" in line and line.endswith(named) for line in printed)
    assert any(line.startswith("1 finished before in") for line in printed)
    assert printed[-1].endswith("leaderboard.md") and Path(printed[-1]).is_file()
    rows = list(csv.DictReader(io.StringIO(Path(printed[-1]).with_suffix(".csv").read_text())))
    assert {"uniform", "histogram", "pixelcnn"} <= {row["model"] for row in rows}
    assert all((row["parameters"] == "") == (row["likelihood"] == "baseline") for row in rows)


@ONCE
def test_fresh_trains_a_finished_run_anew(trained: tuple[Storage, str]) -> None:
    storage, _ = trained
    before, weights = finished(storage, run_of(storage)), final_weights(storage)
    assert before is not None and before.mlflow_run_id is not None
    storage.write_bytes(f"{run_of(storage)}/left", b"")
    assert train_all.main([*COMMAND, "--dataset", "digits", "--fresh", "--storage", storage.root]) == 0
    after = finished(storage, run_of(storage))
    assert after is not None and after.mlflow_run_id is not None and after.model_version is not None
    assert after.mlflow_run_id != before.mlflow_run_id
    assert int(after.model_version) == int(before.model_version or 0) + 1
    client = Tracker(storage).client
    assert [client.get_run(run).info.status for run in (before.mlflow_run_id, after.mlflow_run_id)] == ["FINISHED"] * 2
    for name, value in final_weights(storage).items():
        torch.testing.assert_close(weights[name], value, rtol=1e-5, atol=1e-8)
    assert not {"left", "running.json"} & set(storage.list(run_of(storage)))
    # the recipe says what the data set named on the command line was made with
    recipe = Recipe.from_dict(last_checkpoint(storage).json(checkpoints.STATE)["recipe"])
    assert recipe.dataset.size == (8, 8) and recipe.dataset.name == "digits"


@ONCE
def test_evaluate_scores_a_run_and_a_registered_version_as_training_did(
    trained: tuple[Storage, str], ray_cluster: None, capsys: pytest.CaptureFixture[str]
) -> None:
    storage, _ = trained
    result = finished(storage, run_of(storage))
    assert result is not None
    for model in (storage.uri(run_of(storage)), f"models:/digits/{result.model_version}"):
        assert evaluate.main([model, "--dataset", "digits", "--storage", storage.root]) == 0
        folder = Path(capsys.readouterr().out.strip().splitlines()[-1])
        summary = json.loads((folder / "evaluation.json").read_text())
        assert summary["bits_per_dim"] == pytest.approx(result.test_bits_per_dim, rel=1e-6)
        assert summary["bits_per_dim_stderr"] == pytest.approx(result.test_bits_per_dim_stderr, rel=1e-5)
        table = pq.read_table(folder / "nats.parquet")
        assert table.column_names == ["key", "label", "nll_nats", "bits_per_dim"] and len(table) == 185
        assert (folder / "lowest.png").is_file() and (folder / "highest.png").is_file()


@ONCE
def test_evaluate_probes_every_layer(trained: tuple[Storage, str], ray_cluster: None, capsys: pytest.CaptureFixture[str]) -> None:
    storage, _ = trained
    command = [storage.uri(run_of(storage)), "--dataset", "digits", "--storage", storage.root, "--probe", "--probe-images", "300"]
    assert evaluate.main([*command, "--num-workers", "2", "--batch-size", "50"]) == 0
    printed = capsys.readouterr().out.strip().splitlines()
    assert any(line.startswith("linear probes on labelled images: 300 of 1,426 train, ") for line in printed)
    assert [line.split()[0] for line in printed if line.strip().startswith(("entry", "block"))] == ["entry", "block0"]
    folder = Path(printed[-1])
    assert (folder / "probe.png").is_file() and (folder / "evaluation.json").is_file()
    rows = list(csv.DictReader(io.StringIO((folder / "probe.csv").read_text())))
    model = find_model(storage.uri(run_of(storage)), storage)
    dataset = find_dataset(storage, "digits")
    assert [(row["kind"], row["layer"]) for row in rows] == [
        *(("baseline", name) for name in ("majority class", "pixels, pooled", "pixels")),
        *(("untrained", name) for name in model.feature_names()),
        *(("layer", name) for name in model.feature_names()),
    ]
    # the same by hand, in this process
    positions = {split: sorted(chosen.values()) for split, chosen in choose_images(dataset, 300, seed=0).items()}
    wholes = {split: dataset.read(split) for split in positions}
    x_of = {split: torch.from_numpy(whole.images_NCHW[positions[split]]) for split, whole in wholes.items()}
    by_hand: list[Callable[[torch.Tensor], torch.Tensor]] = [
        lambda x_BCHW: x_BCHW.flatten(1).float(),
        lambda x_BCHW: pool(model.features(x_BCHW, "block0")),
    ]
    for row, inputs in zip((rows[2], rows[-1]), by_hand, strict=True):
        with torch.no_grad():
            splits = [(inputs(x_of[split]).numpy(), wholes[split].labels_N[positions[split]]) for split in ("train", "validation", "test")]
        _, right_N = fit(*splits)
        # float32 rounds as batches and threads have it, which may move an image over a boundary
        assert float(row["accuracy"]) == pytest.approx(float(right_N.mean()), abs=2.5 / 185)
    assert float(rows[2]["accuracy"]) > 0.8 > float(rows[0]["accuracy"])


@ONCE
def test_an_ablation_trains_what_is_lacking_and_shows_what_the_improvement_is_worth(
    trained: tuple[Storage, str], ray_cluster: None, capsys: pytest.CaptureFixture[str]
) -> None:
    storage, _ = trained
    assert train_all.main(["--suite", "small", "--ablation", "--storage", storage.root]) == 0
    printed = capsys.readouterr().out.strip().splitlines()
    assert any(line.startswith("1 trained, 1 finished before in") for line in printed)
    assert any("dropout" in line and "±" in line for line in printed) and SIGN in " ".join(printed)
    assert printed[-1].endswith("leaderboard.md")
    (row,) = csv.DictReader(io.StringIO(Path(printed[-1]).with_name("ablation.csv").read_text()))
    bits = {name: float(row[f"bits_per_dim_{name}"]) for name in ("with", "without")}
    for recipe in small_suites.improvements()[0].recipe_with, small_suites.improvements()[0].recipe_without:
        result = next(one for run in storage.list("runs") if (one := finished(storage, f"runs/{run}")) and one.name == recipe.name)
        assert bits["without" if "without" in recipe.name else "with"] == pytest.approx(result.test_bits_per_dim)
    assert float(row["worth_bits_per_dim"]) == pytest.approx(bits["without"] - bits["with"]) and 0 < float(row["worth_stderr"]) < 0.1
    assert Path(printed[-1]).with_name("ablation.md").is_file() and Path(printed[-1]).with_name("ablation.png").is_file()


def test_more_workers_than_the_cluster_has_is_one_line(tmp_path: Path, ray_cluster: None, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as leaving:
        exit_with(lambda: train_all.main(["--num-workers", "7", "--storage", str(tmp_path)]))
    lines = capsys.readouterr().err.strip().splitlines()
    assert leaving.value.code == 2 and len(lines) == 1
    assert "--num-workers 7" in lines[0] and "5 logical CPU(s)" in lines[0] and "give --num-workers 4" in lines[0]


@ONCE
def test_bernoulli_on_more_than_two_levels_is_one_line(
    trained: tuple[Storage, str], ray_cluster: None, capsys: pytest.CaptureFixture[str]
) -> None:
    storage, _ = trained
    with pytest.raises(SystemExit) as leaving:
        exit_with(lambda: train_all.main(["--likelihood", "bernoulli", "--storage", storage.root]))
    lines = capsys.readouterr().err.strip().splitlines()
    assert leaving.value.code == 2 and len(lines) == 1 and "bernoulli" in lines[0] and "17" in lines[0]


@ONCE
def test_one_failing_model_is_reported_and_the_others_go_on(trained: tuple[Storage, str], capsys: pytest.CaptureFixture[str]) -> None:
    storage, _ = trained
    assert train_all.main(["--suite", "pair", "--only", "fine", "broken", "--storage", storage.root]) == 1
    printed = capsys.readouterr().out.strip().splitlines()
    assert any(line.startswith("broken failed: the training likelihood is nan") for line in printed), printed
    assert any(line.startswith("fine: finished, test") for line in printed)
    assert any(line.startswith("1 trained, 1 failed in") for line in printed)
    assert printed[-1].endswith("leaderboard.md")


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    made = Server(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", made.uri)
    made.start()
    yield made
    made.stop()


@pytest.mark.faults
def test_a_server_that_goes_away_costs_no_training_and_is_told_by_the_same_command(
    server: Server, ray_cluster: None, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    storage, command = Storage(str(tmp_path / "storage")), [*COMMAND, "--storage", str(tmp_path / "storage")]
    ended = threading.Event()

    def stop_inside_an_epoch() -> None:
        while not inside_an_epoch(storage) and not ended.wait(0.05):
            pass
        server.stop()

    killer = threading.Thread(target=stop_inside_an_epoch)
    killer.start()
    try:
        assert train_all.main(command) == 0
    finally:
        ended.set()
        killer.join()
    printed, said = capfd.readouterr()
    lines = printed.strip().splitlines()
    assert "Traceback" not in printed + said
    assert sum(line.startswith("MLflow could not be told of ") and "the same command brings it there" in line for line in lines) == 1
    assert sum("MLflow cannot be told" in line for line in lines) <= 1 and lines[-1].endswith("leaderboard.md")
    before = finished(storage, run_of(storage))
    assert before is not None and before.model_version is None
    server.start()
    assert train_all.main(command) == 0
    assert "1 finished before in" in capfd.readouterr().out
    after = finished(storage, run_of(storage))
    assert after is not None and (after.model_version, after.test_nll_nats) == ("1", before.test_nll_nats)
    client = Tracker(storage).client
    assert after.mlflow_run_id is not None and client.get_run(after.mlflow_run_id).info.status == "FINISHED"
    assert sorted(point.step for point in client.get_metric_history(after.mlflow_run_id, "val/bits_per_dim")) == [1, 2, 3]
