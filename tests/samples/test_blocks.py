"""Many images: Ray gives those of one process, a killed command goes on, and no block is taken for another."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pipelines.sample import main
from pixelmodels.errors import UserError
from pixelmodels.models import Context
from pixelmodels.models.files import load_model, save_model
from pixelmodels.ray_cluster import WorkerNeeds, room
from pixelmodels.samples.blocks import Blocks
from pixelmodels.samples.commission import Commission
from pixelmodels.sampling import sample
from pixelmodels.storage import Storage
from tests.conformance.conftest import small_model

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model of 3 classes, of images of 3x2 with 7 levels."""
    save_model(tmp_path / "model", small_model("pixelcnn", "categorical", 1, 3, 2, levels=7, context="label"))
    return tmp_path / "model"


@pytest.mark.usefixtures("ray_cluster")
def test_ray_gives_the_images_of_one_process(folder: Path, storage: Storage, tmp_path: Path) -> None:
    out = tmp_path / "drawn.npz"
    command = [str(folder), "--storage", storage.root, "--out", str(out), "--n", "23", "--label", "0", "2", "1", "--temperature", "0.8"]
    assert main([*command, "--batch-size", "4", "--num-workers", "2"]) == 0
    context = Context(label_B=torch.tensor([0, 2, 1])[torch.arange(23) % 3])
    expected = sample(load_model(folder), 23, seed=0, context=context, temperature=0.8)
    assert np.array_equal(np.load(out)["images_NCHW"], expected.numpy())
    assert not storage.list("samples")


@pytest.mark.usefixtures("ray_cluster")
def test_broken_weights_in_a_worker_are_one_line(folder: Path, storage: Storage) -> None:
    model = load_model(folder)
    with torch.no_grad():
        for weights in model.parameters():
            weights.fill_(float("nan"))
    save_model(folder, model)
    with pytest.raises(UserError, match="the parameters of row 0 are not finite: the weights are broken; give another checkpoint") as error:
        main([str(folder), "--storage", storage.root, "--n", "4", "--batch-size", "2", "--num-workers", "1"])
    assert "\n" not in str(error.value)


@pytest.mark.usefixtures("ray_cluster")
def test_workers_that_the_cluster_has_not_are_told(folder: Path, storage: Storage) -> None:
    with pytest.raises(UserError) as error:
        main([str(folder), "--storage", storage.root, "--n", "4", "--batch-size", "2", "--num-workers", "6"])
    never = "--num-workers 6: the cluster can never give 6 worker(s) of 1 CPU(s), it has 5 logical CPU(s)"
    assert str(error.value) == f"{never}; give --num-workers 5, or use a larger cluster"


def test_drawing_takes_every_cpu() -> None:
    assert room(WorkerNeeds(1), [{"CPU": 1.0}], spare_cpus=0) == 1
    assert room(WorkerNeeds(3), [{"CPU": 4.0}, {"CPU": 2.0}], spare_cpus=0) == 2
    with pytest.raises(UserError, match=r"a GPU, it has 8 logical CPU\(s\) and 0 GPU\(s\); do without --use-gpu, or use a larger cluster"):
        room(WorkerNeeds(1, use_gpu=True), [{"CPU": 8.0}], spare_cpus=0)


@pytest.mark.usefixtures("ray_cluster")
def test_a_killed_command_goes_on(folder: Path, storage: Storage, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import ray

    n, out, samples = 240, tmp_path / "drawn.npz", Path(storage.uri("samples"))
    command = [str(folder), "--storage", storage.root, "--out", str(out), "--n", str(n), "--batch-size", "2"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "RAY_ADDRESS": ray.get_runtime_context().gcs_address}
    arguments = [sys.executable, "pipelines/sample.py", *command, "--num-workers", "1"]
    run = subprocess.Popen(arguments, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    deadline = time.monotonic() + 120
    try:
        while len(list(samples.glob("*/*.npy"))) < 2:
            assert run.poll() is None and time.monotonic() < deadline, run.communicate(timeout=10)[0]
            time.sleep(0.002)
    finally:
        run.send_signal(signal.SIGKILL)
        run.communicate()
    assert run.returncode == -signal.SIGKILL
    assert not out.exists()
    files = sorted(samples.glob("*/*.npy"))
    assert 2 <= len(files) < n // 2
    first, stop = map(int, files[0].name.split("-")[:2])
    marked = np.full_like(np.load(files[0]), 6)
    np.save(files[0], marked)  # so that it shows whether this block is drawn again

    assert main(command) == 0
    assert f"{2 * len(files)} of {n} images found in {samples}" in capsys.readouterr().out
    expected = sample(load_model(folder), n, seed=0).numpy()
    expected[first:stop] = marked
    assert np.array_equal(np.load(out)["images_NCHW"], expected)
    assert not list(samples.iterdir())


def test_blocks_of_another_commission_are_never_taken(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    shape, drawn = (1, 3, 2), np.ones((4, 1, 3, 2), np.uint8)
    context = Context(label_B=torch.tensor([0, 2]))
    known = {"originals_MCHW": torch.zeros(2, 1, 3, 2, dtype=torch.uint8), "samples_each": 5, "known_HW": torch.eye(3, 2) > 0}
    commission = Commission(np.arange(10), np.arange(10) % 2, context=context, **known)
    blocks = Blocks(storage, "model", commission, 4, "cpu")
    blocks.save((4, 8), drawn)

    def found(other: Commission, key: str = "model", device_type: str = "cpu") -> bool:
        return Blocks(storage, key, other, 4, device_type).read((4, 8), np.empty((other.n, *shape), np.uint8))

    assert found(commission)
    assert not found(commission, key="other")
    assert not found(commission, device_type="cuda")
    with monkeypatch.context() as patch:
        patch.setattr(torch, "__version__", "0.1")
        assert not found(commission)
    changes = {"seed": 1, "guidance": 0.5, "temperature": 0.9, "top_p": 0.9, "noise_N": np.arange(10) + 1, "context": None}
    changes |= {"row_N": np.zeros(10, np.int64), "context ": Context(label_B=torch.tensor([0, 1]))}
    changes |= {"originals_MCHW": torch.ones(2, 1, 3, 2, dtype=torch.uint8), "known_HW": torch.ones(3, 2) > 0}
    for name, value in changes.items():
        assert not found(replace(commission, **{name.strip(): value})), name
    longer = Commission(np.arange(50), np.arange(50) % 2, context=context)
    blocks = Blocks(storage, "model", longer, 4, "cpu")
    blocks.save((4, 8), drawn)
    assert found(replace(longer, noise_N=np.arange(9), row_N=np.arange(9) % 2))
    blocks.clear()
    assert found(commission)


@pytest.mark.parametrize("damage", [b"", b"half of", "another shape"])
def test_a_damaged_block_is_drawn_again(storage: Storage, damage: bytes | str) -> None:
    commission = Commission(np.arange(6), np.zeros(6, np.int64))
    blocks = Blocks(storage, "model", commission, 3, "cpu")
    blocks.save((0, 3), np.ones((3, 1, 3, 2), np.uint8))
    (name,) = storage.list("samples/model")
    if isinstance(damage, str):
        stream = io.BytesIO()
        np.save(stream, np.ones((3, 1, 2, 2), np.uint8))
        damage = stream.getvalue()
    storage.write_bytes(f"samples/model/{name}", damage)
    assert not Blocks(storage, "model", commission, 3, "cpu").read((0, 3), np.empty((6, 1, 3, 2), np.uint8))


def test_a_disk_that_fails_is_one_line(folder: Path, storage: Storage, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    storage.write_bytes("samples", b"a file where the folder would be")
    with pytest.raises(UserError, match=r"samples/\w+' cannot be written \(not a directory\); free space there, or") as error:
        main([str(folder), "--storage", storage.root, "--out", str(tmp_path / "drawn.npz"), "--n", "6", "--batch-size", "3"])
    assert "\n" not in str(error.value)
    assert "are kept in" not in capsys.readouterr().out
    assert not (tmp_path / "drawn.npz").exists()
