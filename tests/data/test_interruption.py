"""Preparations that are killed, and given again."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
from sklearn.datasets import load_digits

from pixelmodels.data import SPLITS, DatasetConfig, find_dataset, prepare
from pixelmodels.errors import UserError
from pixelmodels.storage import Storage
from tests.data import killing

ROOT = Path(__file__).resolve().parents[2]
ROWS_PER_SHARD = 30  # 60 shards: the run is killed when the first is there


@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.faults
def test_a_run_killed_half_way_leaves_nothing_that_looks_whole(storage: Storage) -> None:
    command = [sys.executable, "pipelines/prepare_data.py", "--storage", storage.root, "--rows-per-shard", str(ROWS_PER_SHARD)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "RAY_ADDRESS": ray.get_runtime_context().gcs_address}
    run = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    datasets, deadline = Path(storage.uri("datasets")), time.monotonic() + 120
    try:
        while not list(datasets.glob("*/*.parquet")):
            assert run.poll() is None and time.monotonic() < deadline, run.communicate(timeout=10)[0]
            time.sleep(0.002)
    finally:
        run.send_signal(signal.SIGKILL)
        run.communicate()
    (folder,) = datasets.iterdir()
    assert not (folder / "manifest.json").exists()
    assert len(list(folder.glob("*.parquet"))) < 1797 / ROWS_PER_SHARD
    with pytest.raises(UserError, match="data set 'digits' unknown; have none"):
        find_dataset(storage, "digits")

    (folder / "train-99999.parquet").write_bytes(b"left by another run")
    dataset = prepare(DatasetConfig(rows_per_shard=ROWS_PER_SHARD), storage)
    assert storage.uri(dataset.folder) == str(folder)
    shards = {shard["file"] for split in SPLITS for shard in dataset.shards(split)}
    # A worker may have been in the middle of a write: `.tmp-...`, which no reader takes for a shard.
    assert {file.name for file in folder.iterdir() if not file.name.startswith(".tmp-")} == shards | {"manifest.json", "rejected.parquet"}
    keys = []
    for split in SPLITS:
        part = dataset.read(split)
        np.testing.assert_array_equal(part.images_NCHW[:, 0], load_digits().images[[int(key[6:]) for key in part.keys]])
        keys += part.keys
    assert len(set(keys)) == len(keys) == 1797


class Ended(BaseException):
    """Ends a call of `prepare` as a signal would."""


def here(source: str, images: Path, root: Path, end_at: int = -1, moment: str = "") -> dict[str, Any]:
    """What a call in this process did, to its end or to one of its writes."""
    done: dict[str, Any] = {"wrote": [], "said": []}

    def tell(name: str, value: Any) -> None:
        done[name] = [*done[name], value] if name in ("wrote", "said") else value

    def end() -> None:
        raise Ended

    with suppress(Ended):
        killing.call(killing.config_of(source, images), root, tell, end_at, moment, end)
    return done


def killed(source: str, images: Path, root: Path, end_at: int, moment: str) -> dict[str, Any]:
    """As `here`, in a process of its own, which is killed."""
    command = [sys.executable, "-m", "tests.data.killing", source, str(images), str(root), str(end_at), moment]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert run.returncode == -signal.SIGKILL, run.stderr
    told = [json.loads(line) for line in run.stdout.splitlines()]
    return {name: [value for told_name, value in told if told_name == name] for name in ("wrote", "said")}


@pytest.fixture
def images(pictures: Path) -> Path:
    """Pictures that were written long ago, one of them cut off, and a text."""
    (pictures / "ants" / "00.png").write_bytes((pictures / "ants" / "00.png").read_bytes()[:-30])
    (pictures / "notes.txt").write_text("no image")
    long_ago = time.time() - 60
    for file in pictures.rglob("*"):
        os.utime(file, (long_ago, long_ago))
    return pictures


def check_it_goes_on(source: str, images: Path, root: Path, first: dict[str, Any], moment: str, undisturbed: dict[str, Any]) -> list[str]:
    """A call after one that was ended makes the same data set, and nothing again that was whole; gives what it says of that."""
    second = here(source, images, root)
    wrote = first["wrote"]
    num_units, num_shards = (sum(map(is_record, undisturbed["wrote"])) for is_record in (_is_of_a_unit, _is_of_a_shard))
    # Whole is what has its record, which is written after it; when the manifest is there, too, both go.
    units, shards = ([path for path in wrote if is_record(path)] for is_record in (_is_of_a_unit, _is_of_a_shard))
    if any(path.endswith("/manifest.json") for path in wrote):
        shards, units = [], units if wrote[-1].endswith("/manifest.json") and moment == "after" else []
    expected = [f"goes on from {len(units)} of {num_units} parts of"] if units else []
    expected += [f"goes on from {len(shards)} of {num_shards} shards"] if shards else []
    assert [line.partition(" '")[0] for line in second["said"][:-1]] == expected
    assert not {*units, *shards} & set(second["wrote"]) and len(set(second["wrote"])) == len(second["wrote"])
    is_noted = any(path.endswith("/listing.json") for path in wrote)  # so it is found without looking at an image
    assert sum(path.endswith(".arrow") for path in second["wrote"]) == (0 if is_noted else num_units - len(units))
    assert second["shards"] == undisturbed["shards"] and second["dataset"] == undisturbed["dataset"]
    left = [file.name for file in root.rglob("*") if file.is_file() and not file.name.startswith(".tmp-")]
    assert sorted(left) == second["dataset"][2]
    return expected


@pytest.mark.parametrize("source", ["folder", "digits"])
def test_ended_at_any_write_it_goes_on(source: str, images: Path, tmp_path: Path) -> None:
    undisturbed = here(source, images, tmp_path / "undisturbed")
    assert len(undisturbed["said"]) == 1
    seen = set[str]()
    for end_at in range(len(undisturbed["wrote"])):
        for moment in killing.MOMENTS:
            root = tmp_path / f"{end_at}-{moment}"
            first = here(source, images, root, end_at, moment)
            assert "dataset" not in first
            seen.update(check_it_goes_on(source, images, root, first, moment, undisturbed))
            shutil.rmtree(root)
    num_units, num_shards = (sum(map(is_record, undisturbed["wrote"])) for is_record in (_is_of_a_unit, _is_of_a_shard))
    assert num_shards == len(undisturbed["shards"]) > 5 and num_units == (4 if source == "folder" else 0)
    assert len(seen) == num_units + num_shards


@pytest.mark.parametrize(
    ("ending", "number", "moment"), [(".arrow", 2, "middle"), ("/00000001.json", 0, "after"), ("/manifest.json", 0, "before")]
)
def test_killed_it_goes_on(ending: str, number: int, moment: str, images: Path, tmp_path: Path) -> None:
    """In the middle of a piece, after two units, before the manifest."""
    undisturbed = here("folder", images, tmp_path / "undisturbed")
    end_at = [place for place, path in enumerate(undisturbed["wrote"]) if path.endswith(ending)][number]
    first = killed("folder", images, tmp_path / "root", end_at, moment)
    assert check_it_goes_on("folder", images, tmp_path / "root", first, moment, undisturbed)


def test_what_is_not_whole_is_made_again(images: Path, tmp_path: Path) -> None:
    """Damaged pieces, records and shards, whose records say that they are whole."""
    undisturbed = here("folder", images, tmp_path / "undisturbed")
    before_manifest = next(place for place, path in enumerate(undisturbed["wrote"]) if path.endswith("/manifest.json"))
    first = here("folder", images, tmp_path / "root", before_manifest, "before")
    damaged = [path for path in first["wrote"] if path.endswith(("/00000000-0000.arrow", "/00000001.json", "/train-00001.parquet"))]
    for path in damaged:
        (tmp_path / "root" / path).write_bytes((tmp_path / "root" / path).read_bytes()[:-1])
    second = here("folder", images, tmp_path / "root")
    assert len(damaged) == 3 and set(damaged) <= set(second["wrote"])
    assert sum(path.endswith(".arrow") for path in second["wrote"]) == 2 and sum(map(_is_of_a_shard, second["wrote"])) == 1
    assert second["shards"] == undisturbed["shards"] and second["dataset"] == undisturbed["dataset"]


def test_a_folder_that_has_just_changed_is_read_anew(images: Path, tmp_path: Path) -> None:
    undisturbed = here("folder", images, tmp_path / "undisturbed")
    before_manifest = next(place for place, path in enumerate(undisturbed["wrote"]) if path.endswith("/manifest.json"))
    os.utime(images / "ants" / "03.png")
    here("folder", images, tmp_path / "root", before_manifest, "before")
    second = here("folder", images, tmp_path / "root")
    assert sum(path.endswith(".arrow") for path in second["wrote"]) == 4
    assert second["said"][0].startswith("goes on from 7 of 7 shards")  # which are known by the content
    assert second["shards"] == undisturbed["shards"] and not list((tmp_path / "root" / "preparing").iterdir())


def _is_of_a_unit(path: str) -> bool:
    return path.startswith("preparing/") and path.endswith(".json")


def _is_of_a_shard(path: str) -> bool:
    return path.startswith("datasets/") and path.rpartition("/")[2].startswith(SPLITS) and path.endswith(".json")
