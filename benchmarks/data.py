"""How fast a folder of images becomes a data set, beside a plain loop, and in how much memory.

    python -m benchmarks.data            # 50,000 small JPEG files, 10,000 photographs, memory of 20,000 and 200,000: 10 minutes
                                         # (five rounds of both sides in turn; memory three times)
    python -m benchmarks.data --quick    # a twentieth of them: 2 minutes; the processes' start is much of what is measured then

`small`: JPEG files of 64x64; `photographs`: of 500x375, made of the two photographs of scikit-learn with noise. Each is prepared as RGB of
32x32 by `pipelines/prepare_data.py`, and by a loop in one process that does no more than it must: Pillow with the same draft mode, crop and
resize, pyarrow with the same compression and rows in a file, no splits, digests or checks. Both are processes whose whole time counts, from
their start to their end: without `RAY_ADDRESS` processes of this machine prepare, and no Ray is started. `memory`: the most that all
processes of a preparation hold, as their share of all pages (PSS), asked for fifty times a second. `times_as_fast` is the median of the
rounds' ratios, the growth of memory that of the median peaks. The last thing printed is one JSON
object; it is also written to `benchmarks/results/` with the date.
"""

from __future__ import annotations

import contextlib
import io
import math
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from sklearn.datasets import load_sample_images

from benchmarks.dated import RESULTS, write_dated
from pixelmodels.commandline import parse
from pixelmodels.errors import UserError, exit_with

ROOT = Path(__file__).parents[1]
SIDE = 32  # of the images that are made
ROWS_PER_FILE = 2048
NUM_CLASSES = 10
SHAPES = {"small": (64, 64), "photographs": (375, 500)}  # height and width
COUNTS = {"small": 50_000, "photographs": 10_000}
MEMORY_COUNTS = (20_000, 200_000)
NAMES = (*COUNTS, "memory")
ROUNDS = 5
LESS = 20  # times fewer with --quick
ASK_EVERY_S = 0.02


@dataclass(frozen=True)
class Arguments:
    """Measure the preparation of a data set."""

    quick: bool = False  # a twentieth of the images, to see that it works; the figures say little
    only: tuple[str, ...] = ()  # small, photographs, memory; all unless given
    out: Path = RESULTS  # folder for the JSON
    scratch: Path | None = None  # folder for images and data sets, which are removed at the end; that of temporary files unless given
    plain: Path | None = None  # internal: run the plain loop on a folder
    to: Path | None = None  # internal: folder for what the plain loop writes

    def __post_init__(self) -> None:
        if unknown := set(self.only) - set(NAMES):
            raise UserError(f"nothing called '{min(unknown)}' is measured; have {', '.join(NAMES)}")


def make(folder: Path, shape: tuple[int, int], count: int) -> None:
    """JPEG files in folders of classes, no two alike: parts of photographs, half of them mirrored, with noise."""
    photos = [np.asarray(photo) for photo in load_sample_images().images]
    rng = np.random.default_rng(0)
    height, width = shape
    for name in range(NUM_CLASSES):
        (folder / str(name)).mkdir(parents=True)
    for number in range(count):
        photo_HWC = photos[number % len(photos)]
        top, left = (int(rng.integers(0, most - least + 1)) for most, least in zip(photo_HWC.shape[:2], shape, strict=True))
        part_HWC = photo_HWC[top : top + height, left : left + width].astype(np.int16)
        noise_HW = rng.integers(-12, 13, (height, width, 1), np.int16)
        pixels_HWC = (part_HWC[:, :: -1 if number % 4 > 1 else 1] + noise_HW).clip(0, 255).astype(np.uint8)
        Image.fromarray(pixels_HWC).save(folder / str(number % NUM_CLASSES) / f"{number:07d}.jpg", quality=85)


def plain_loop(folder: Path, out: Path) -> None:
    """Every image below a folder, in order, decoded, resized and written to Parquet files."""
    out.mkdir(parents=True)
    paths = sorted(entry.path for below in os.scandir(folder) for entry in os.scandir(below.path) if entry.is_file())
    for start in range(0, len(paths), ROWS_PER_FILE):
        images, labels, keys = [], [], []
        for path in paths[start : start + ROWS_PER_FILE]:
            with open(path, "rb") as file:
                data = file.read()
            image: Image.Image = Image.open(io.BytesIO(data))
            shrink = SIDE / min(image.size)
            image.draft(None, (math.ceil(2 * shrink * image.width), math.ceil(2 * shrink * image.height)))
            image = image.convert("RGB")
            side = min(image.size)
            left, top = (image.width - side) / 2, (image.height - side) / 2
            box = (left, top, left + side, top + side)
            images.append(image.resize((SIDE, SIDE), Image.Resampling.BICUBIC, box=box).tobytes())
            labels.append(int(path.split("/")[-2]))
            keys.append("/".join(path.split("/")[-2:]))
        table = pa.table({"image": pa.array(images, pa.binary()), "label": pa.array(labels, pa.int32()), "key": keys})
        pq.write_table(table, out / f"{start:07d}.parquet", compression="zstd", use_dictionary=["label"], row_group_size=512)


def prepare_command(images: Path, storage: Path) -> list[str]:
    """The command line that is measured."""
    options = ["--source", "folder", "--path", str(images), "--size", str(SIDE), str(SIDE), "--channels", "3", "--labels", "True"]
    return [sys.executable, "pipelines/prepare_data.py", *options, "--storage", str(storage)]


def seconds_of(command: list[str]) -> float:
    """The whole time of a process; raises `UserError`, with what it said, where it fails."""
    started = time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=_environment())
    took = time.monotonic() - started
    if done.returncode:
        raise UserError(f"'{' '.join(command)}' failed: {done.stderr.strip()[-500:]}")
    print(done.stdout.strip(), file=sys.stderr)
    return took


def _environment() -> dict[str, str]:
    """Without a cluster that somebody else has."""
    return {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"} | {"PYTHONPATH": str(ROOT)}


def speed(name: str, count: int, num_rounds: int, scratch: Path) -> dict[str, Any]:
    """Seconds of both for images of one kind, in turn."""
    images = scratch / name
    make(images, SHAPES[name], count)
    subprocess.run(["sync"], check=True)
    out = scratch / f"{name}-made"
    commands = {
        "plain_s": [sys.executable, "-m", "benchmarks.data", "--plain", str(images), "--to", str(out)],
        "prepared_s": prepare_command(images, out),
    }
    seconds: dict[str, list[float]] = {side: [] for side in commands}
    for number in range(num_rounds):
        for side in list(commands)[:: 1 if number % 2 == 0 else -1]:
            seconds[side].append(round(seconds_of(commands[side]), 2))
            shutil.rmtree(out)
            subprocess.run(["sync"], check=True)
    ratios = [plain_s / prepared_s for plain_s, prepared_s in zip(*seconds.values(), strict=True)]
    best = {"times_as_fast_best": round(max(ratios), 3), "images_per_s_best": round(count / min(seconds["prepared_s"]), 1)}
    return {"name": name, "images": count, **seconds, "times_as_fast": round(statistics.median(ratios), 3), **best}


def memory(counts: tuple[int, ...], num_rounds: int, scratch: Path) -> list[dict[str, Any]]:
    """The most memory of a preparation of each number of images, in turn."""
    for count in counts:
        make(scratch / f"memory-{count}", SHAPES["small"], count)
    rows: dict[int, list[dict[str, Any]]] = {count: [] for count in counts}
    for _ in range(num_rounds):
        for count in counts:
            rows[count].append(_most_memory(scratch / f"memory-{count}", scratch / "memory-made"))
            print(count, rows[count][-1], file=sys.stderr)
    return [
        {"images": count, "peak_mib": statistics.median(row["peak_mib"] for row in of_count), "rounds": of_count}
        for count, of_count in rows.items()
    ]


def _most_memory(images: Path, made: Path) -> dict[str, Any]:
    """The most memory that a preparation holds, and which processes do then."""
    started = time.monotonic()
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(prepare_command(images, made), cwd=ROOT, env=_environment(), stdout=said, stderr=said)
        peak, processes = max(_memory_until_end(process), key=lambda held: held[0])
        said.seek(0)
        told = said.read()
    if process.returncode:
        raise UserError(f"the preparation of '{images}' failed: {told.strip()[-500:]}")
    shutil.rmtree(made)
    rounded = {name: round(held / (1 << 20)) for name, held in sorted(processes.items(), key=lambda item: -item[1])}
    return {"peak_mib": round(peak / (1 << 20), 1), "seconds": round(time.monotonic() - started, 1), "mib_of": rounded}


def _memory_until_end(process: subprocess.Popen[bytes]) -> Iterator[tuple[int, dict[str, int]]]:
    """Bytes of all processes that come from one, and those of each by its name, until it ends."""
    while process.poll() is None:
        held: dict[str, int] = {}
        for pid, name in _processes_from(process.pid):
            with contextlib.suppress(OSError, StopIteration):  # it has ended
                lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
                held[name] = held.get(name, 0) + 1024 * next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
        yield sum(held.values()), held
        time.sleep(ASK_EVERY_S)


def _processes_from(first: int) -> list[tuple[int, str]]:
    """Numbers and names of a process and of all that it has begun, and they."""
    parents, names = dict[int, int](), {first: "driver"}
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                name, _, rest = Path(entry.path, "stat").read_text().partition("(")[2].rpartition(")")
                parents[int(entry.name)] = int(rest.split()[1])
                names.setdefault(int(entry.name), name)
    found, following = {first}, {first}
    while following:
        following = {pid for pid, parent in parents.items() if parent in following} - found
        found |= following
    return [(pid, names[pid]) for pid in found if pid in names]


def run(arguments: Arguments) -> dict[str, Any]:
    """All that is asked for."""
    less, num_rounds = (LESS, 1) if arguments.quick else (1, ROUNDS)
    names = arguments.only or NAMES
    result: dict[str, Any] = {
        "quick": arguments.quick,
    }
    with tempfile.TemporaryDirectory(dir=arguments.scratch) as scratch:
        result["speed"] = [speed(name, COUNTS[name] // less, num_rounds, Path(scratch)) for name in COUNTS if name in names]
        if "memory" in names:
            rows = memory(tuple(count // less for count in MEMORY_COUNTS), min(3, num_rounds), Path(scratch))
            result["memory"] = rows
            result["memory_growth"] = round(rows[-1]["peak_mib"] / rows[0]["peak_mib"], 3)
    return result


def main() -> int:
    """Measure, print and write."""
    arguments = parse(Arguments)
    if arguments.plain and arguments.to:
        plain_loop(arguments.plain, arguments.to)
        return 0
    result = run(arguments)
    write_dated("data", result, arguments.out)
    return 0


if __name__ == "__main__":
    exit_with(main)
