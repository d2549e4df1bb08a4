"""What commit 47ad97b left in a storage root is still what it was: runs, checkpoints, data sets, versions, a sweep, samples."""

from __future__ import annotations

import csv
import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from pipelines import evaluate, prepare_data, promote, sample, train_all, tune
from pixelmodels.serving.client import Client
from tests.integration.old_root import OldRoot, unpack

ROOT = Path(__file__).resolve().parents[2]
SERVE_S = 300.0  # for the whole of a service on a loaded machine
Lines = list[str]


@pytest.fixture
def old(tmp_path: Path) -> OldRoot:
    return unpack(tmp_path)


@pytest.fixture
def command(old: OldRoot, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Lines]:
    """A command line on the root; its status is as asked for, and the lines are what it printed."""
    monkeypatch.chdir(old.folder)

    def run(main: Callable[..., int], *arguments: str, status: int = 0) -> Lines:
        capsys.readouterr()
        assert main([*arguments, "--storage", str(old.storage)]) == status
        return capsys.readouterr().out.strip().splitlines()

    return run


def prepare(arguments: Lines) -> int:
    """`prepare_data.main` reads its arguments where a program's are."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["prepare_data.py", *arguments])
        return prepare_data.main()


def holds(now: Any, was: Any) -> bool:
    """Whether all entries of a table, and of those in it, are as they were; there may be more."""
    return all(name in now and holds(now[name], value) for name, value in was.items()) if isinstance(was, dict) else bool(now == was)


def test_nothing_tells_where_it_was_made(old: OldRoot) -> None:
    """Neither paths of that machine nor its name: what follows would find them rather than what was unpacked."""
    made_in = old.expected["made_in"].encode()
    assert [
        path for path in old.folder.rglob("*") if path.is_file() and path.name != "expected.json" and made_in in path.read_bytes()
    ] == []


def test_data_sets_are_found_again(old: OldRoot, command: Callable[..., Lines], ray_cluster: None) -> None:
    there = sorted(os.listdir(old.storage / "datasets"))
    for name, folder in old.expected["datasets"].items():
        options = old.expected["dataset_options"].get(name, ["--source", "digits"])
        path = ["--path", str(old.folder / "animals")] if name == "animals" else []
        printed = command(prepare, *options, *path)
        assert printed[-1] == str(old.storage / "datasets" / folder) and "already prepared" in printed[-2]
    assert sorted(os.listdir(old.storage / "datasets")) == there == sorted(old.expected["datasets"].values())


def test_a_finished_run_is_finished(old: OldRoot, command: Callable[..., Lines], ray_cluster: None) -> None:
    was = old.expected["runs"]["better"]
    before = {path: path.stat().st_mtime_ns for path in old.run("better").rglob("*") if path.is_file()}
    printed = command(train_all.main, "--recipe-file", old.recipe("better"))
    assert any("better: finished before" in line for line in printed)
    assert old.run("better").name == f"better-{was['run_key']}"
    assert {path: path.stat().st_mtime_ns for path in old.run("better").rglob("*") if path.is_file()} == before
    rows = {row["model"]: row for row in csv.DictReader(Path(printed[-1]).with_suffix(".csv").open())}
    assert float(rows["better"]["test_bits_per_dim"]) == pytest.approx(was["test_bits_per_dim"], rel=1e-6)


# Dropout was drawn from the generator of a worker then, and is a function of the step now: the steps that were left have other masks.
SINCE_MASKS_BY_KEY = {
    "test_bits_per_dim": 2.875799609627591,
    "test_bits_per_dim_stderr": 0.015845879231706442,
    "val_bits_per_dim": 2.926033870647425,
}


def test_a_killed_run_goes_on_and_ends_as_it_would_have(old: OldRoot, command: Callable[..., Lines], ray_cluster: None) -> None:
    was = old.expected["runs"]["killed"]  # the same training, undisturbed
    (mlflow_run,) = {json.loads(path.read_text())["mlflow_run_id"] for path in old.run("killed").glob("checkpoints/*/state.json")}
    printed = command(train_all.main, "--recipe-file", old.recipe("killed"))
    assert any("killed: going on from step" in line for line in printed)
    now = json.loads((old.run("killed") / "result.json").read_text())
    assert old.run("killed").name == f"killed-{was['run_key']}" and now["mlflow_run_id"] == mlflow_run
    same = ("run_key", "dataset", "architecture", "likelihood", "parameters", "epochs", "steps", "best_step")
    assert {name: now[name] for name in same} == {name: was[name] for name in same}
    # Another machine may round sums in another order; on the same one it is the same to the last bit.
    for name, value in SINCE_MASKS_BY_KEY.items():
        assert now[name] == pytest.approx(value, rel=1e-5) and now[name] == pytest.approx(was[name], rel=0.01)
    assert now["model_version"] == "4"
    assert old.rows(f"SELECT status FROM runs WHERE run_uuid = '{mlflow_run}'") == [("FINISHED",)]
    assert old.rows("SELECT count(*) FROM runs WHERE status = 'RUNNING'") == [(0,)]


@pytest.mark.parametrize("model", ["models:/digits@champion", "better"])
def test_a_model_has_the_score_that_it_had(old: OldRoot, command: Callable[..., Lines], ray_cluster: None, model: str) -> None:
    place = model if "@" in model else f"runs/{old.run(model).name}"
    printed = command(evaluate.main, place, "--dataset", "digits")
    now, was = json.loads((Path(printed[-1]) / "evaluation.json").read_text()), old.expected["evaluation"]
    assert (now["dataset"], now["num_images"]) == (was["dataset"], was["num_images"])
    for name in ("bits_per_dim", "bits_per_dim_stderr", "nll_nats"):
        assert now[name] == pytest.approx(was[name], rel=1e-5)


def test_versions_are_compared_rolled_back_and_promoted(old: OldRoot, command: Callable[..., Lines]) -> None:
    was = old.expected["champion"]
    assert old.aliases == {"champion": was["champion"], "previous": was["previous"]}
    printed = command(promote.main, "--best", "--dry-run")
    assert any(f"version {was['best']} (late) would be promoted" in line for line in printed)
    assert old.aliases["champion"] == was["champion"]
    command(promote.main, "--rollback")
    assert old.aliases["champion"] == was["previous"] and old.aliases["previous"] == was["champion"]
    command(promote.main, "--best")
    assert old.aliases["champion"] == was["best"] and old.aliases["previous"] == was["previous"]


def test_the_champion_draws_the_very_same_samples(old: OldRoot, command: Callable[..., Lines]) -> None:
    """Pixel by pixel: of 256 draws none is near enough to a boundary for the rounding of another machine to move it."""
    command(sample.main, "models:/digits@champion", "--n", "4", "--seed", "0", "--out", "now.npz")
    was, now = (np.load(old.folder / name)["images_NCHW"] for name in ("samples.npz", "now.npz"))
    assert was.shape == (4, 1, 8, 8) and np.array_equal(now, was)


def test_a_sweep_ends_where_it_had_ended(old: OldRoot, command: Callable[..., Lines], ray_cluster: None) -> None:
    best, was = old.storage / old.expected["best"], old.expected["best_summary"]
    recipe = yaml.safe_load(best.read_text())
    recipe["dataset"]["max_bad_share"] = 0.01  # a default that has changed, and no part of a data set
    printed = command(tune.main, *old.expected["sweep"])
    assert any("all 3 trials have ended" in line for line in printed)
    assert printed[-1] == str(best) and holds(yaml.safe_load(best.read_text()), recipe)
    now = json.loads(best.with_name("summary.json").read_text())
    for name in ("number", "values", "recipe", "state", "curve", "mlflow_run_id"):
        assert now["best"][name] == was["best"][name]
    assert [(trial["values"], trial["curve"]) for trial in now["trials"]] == [(trial["values"], trial["curve"]) for trial in was["trials"]]
    assert os.listdir(old.storage / "sweeps") == [best.parent.name]


def test_the_champion_is_served(old: OldRoot) -> None:
    """By the program itself, in a Ray of its own."""
    arguments = ["--storage", str(old.storage), "--port", "0", "--replicas", "1", "--cpus", "1"]
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "pipelines" / "serve.py"), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=old.folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    too_long = threading.Timer(SERVE_S, process.kill)
    too_long.start()
    try:
        assert process.stdout is not None
        said = ""
        while (found := re.search(r"http://127\.0\.0\.1:\d+", said)) is None:
            line = process.stdout.readline()
            assert line, said
            said += line
        drawn = Client(found[0], timeout_s=60).samples(4, seed=0)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
    finally:
        too_long.cancel()
        process.kill()
        process.communicate()
    assert drawn.model == f"digits/{old.expected['champion']['champion']}"
    assert np.array_equal(drawn.images_NCHW, np.load(old.folder / "samples.npz")["images_NCHW"])
