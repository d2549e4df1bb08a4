"""How many planted near copies are found, how many images are taken for copies of others, and what a million images cost.

    python -m benchmarks.duplicates             # a million images: some minutes on two cores
    python -m benchmarks.duplicates --quick     # 50,000 images, under a minute

`found`: of all digits, and of all 16x16 and 32x32 patches of the two photographs, a changed copy each is planted; the share of images
whose nearest copy is their own, of all and of those whose contrast at 8x8 is at least 4 of 255 (`share_with_contrast` of them: the others
are sky and blur, of which noise or compression leaves little). `mistaken`: train images that are taken for copies of other images of the
same data set although none is planted, a fifth of all being in other splits, over ten seeds. `scale`: generated 32x32 RGB images, a tenth
of them test images, of which every hundredth is a changed train image; made, sketched and compared by all cores of this machine, from the
start of Python to its end, with the memory (PSS) of all processes. The last thing printed is one JSON object; it is also written to
`benchmarks/results/` with the date.
"""

from __future__ import annotations

import dataclasses
import io
import json
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.dated import RESULTS, write_dated
from benchmarks.main_job import MARK, proportional_bytes
from pixelmodels.commandline import parse
from pixelmodels.data.copies import copies_between
from pixelmodels.data.duplicates import Sketches, find_copies
from pixelmodels.data.parallel import Record
from pixelmodels.data.quantization import UInt8, dequantize, quantize
from pixelmodels.errors import exit_with

IMAGES_PER_TASK = 2048
PLANTED_EVERY = 100  # of the generated test images
SIDE = 32  # of generated images
Change = Callable[[UInt8], UInt8]


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Measure what is found of planted copies, and at which cost."""

    quick: bool = False  # 50,000 images instead of a million
    num_images: int | None = None  # generated images; a million unless given, or as --quick says
    out: Path = RESULTS  # folder for the JSON


def digits() -> UInt8:
    """All 1,797 digits: N, 8, 8, 1 with 17 levels."""
    from sklearn.datasets import load_digits

    return load_digits().images.astype(np.uint8)[..., None]


def patches(size: int) -> UInt8:
    """All whole patches of the two photographs: N, size, size, 3."""
    from sklearn.datasets import load_sample_images

    tiles = []
    for photo_HWC in load_sample_images().images:
        rows, columns = (side // size for side in photo_HWC.shape[:2])
        whole_HWC = photo_HWC[: rows * size, : columns * size]
        tiles.append(whole_HWC.reshape(rows, size, columns, size, 3).swapaxes(1, 2).reshape(-1, size, size, 3))
    return np.concatenate(tiles)


def _picture(image_HWC: UInt8) -> Image.Image:
    return Image.fromarray(image_HWC[..., 0] if image_HWC.shape[-1] == 1 else image_HWC)


def _jpeg(quality: int) -> Change:
    def change(image_HWC: UInt8) -> UInt8:
        stream = io.BytesIO()
        _picture(image_HWC).save(stream, "JPEG", quality=quality)
        return np.asarray(Image.open(stream)).reshape(image_HWC.shape)

    return change


def _scaled(factor: float) -> Change:
    def change(image_HWC: UInt8) -> UInt8:
        height, width, _ = image_HWC.shape
        other = _picture(image_HWC).resize((round(width * factor), round(height * factor)), Image.Resampling.BICUBIC)
        return np.asarray(other.resize((width, height), Image.Resampling.BICUBIC)).reshape(image_HWC.shape)

    return change


def _brighter(factor: float) -> Change:
    return lambda image_HWC: np.clip(np.round(image_HWC * factor), 0, 255).astype(np.uint8)


def noisy(image_HWC: UInt8) -> UInt8:
    """The image with noise of 3 of 255, the same for the same image."""
    noise_HWC = np.random.default_rng(int(image_HWC.sum())).normal(0, 3, image_HWC.shape)
    return np.clip(np.round(image_HWC + noise_HWC), 0, 255).astype(np.uint8)


def _moved(image_HWC: UInt8) -> UInt8:
    return np.concatenate([image_HWC[:, :1], image_HWC[:, :-1]], 1)


# What near copies are found after, on grey values 0..255.
CHANGES: dict[str, Change] = {
    "jpeg 70": _jpeg(70),
    "jpeg 95": _jpeg(95),
    "darker by 5%": _brighter(0.95),
    "brighter by 5%": _brighter(1.05),
    "noise": noisy,
}
# And these where there are 16 pixels a side: 8 would become 7, and lose what tells one digit from another.
SCALED: dict[str, Change] = {"0.9 times and back": _scaled(0.9), "1.1 times and back": _scaled(1.1)}
# What makes another image of one.
OTHERS: dict[str, Change] = {"moved by a pixel": _moved}


def contrasts(images_NHWC: UInt8, levels: int) -> np.ndarray:
    """The standard deviation of each image at 8x8, of 255."""
    contrast_N: np.ndarray = (Sketches.of(images_NHWC, levels).grey_NP / 256).std(1)
    return contrast_N


def are_found(images_NHWC: UInt8, levels: int, change: Change) -> np.ndarray:
    """Whether the nearest copy of each image, among the changed copies of all, is its own."""
    grey_NHWC = dequantize(images_NHWC, levels)
    copies_NHWC = quantize(np.stack([change(image_HWC) for image_HWC in grey_NHWC]), levels)
    found = find_copies(Sketches.of(images_NHWC, levels), Sketches.of(copies_NHWC, levels))
    nearest_N = np.full(len(images_NHWC), -1)
    nearest_N[found.row_M] = found.other_M
    # Of images that are the same, each one's copy is every one's.
    return (copies_NHWC[nearest_N] == copies_NHWC).all((1, 2, 3)) & (nearest_N >= 0)


def num_mistaken(images_NHWC: UInt8, levels: int, seed: int) -> tuple[int, int]:
    """Train images that are taken for copies, and how many train images there are, a fifth of all being in other splits."""
    order = np.random.default_rng(seed).permutation(len(images_NHWC))
    train, others = (Sketches.of(images_NHWC[rows], levels) for rows in (order[len(order) // 5 :], order[: len(order) // 5]))
    return len(find_copies(train, others).row_M), len(train)


def _generated(numbers: range) -> UInt8:
    """Images of these numbers: noise at 6x6, brought to 32x32, with noise upon it."""
    images = []
    for number in numbers:
        generator = np.random.default_rng(number)
        smooth = Image.fromarray(generator.integers(0, 256, (6, 6, 3), np.uint8)).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
        images.append(np.asarray(smooth) // 2 + generator.integers(0, 128, (SIDE, SIDE, 1), np.uint8) // 4)
    return np.stack(images).astype(np.uint8)


def _sketch(task: Record) -> Record:
    """Sketches of generated images; each hundredth one of test is a train image with noise."""
    images_NHWC = _generated(task["numbers"])
    if task["split"] == "test":
        for row in range(-task["start"] % PLANTED_EVERY, len(images_NHWC), PLANTED_EVERY):
            number = task["start"] + row
            images_NHWC[row] = noisy(_generated(range(number, number + 1))[0])
    return {"sketches": Sketches.of(images_NHWC, 256)}


def search(num_images: int) -> dict[str, Any]:
    """Compare generated images; what was found, and the time that it took."""
    num_test = num_images // 10
    numbers = {"train": range(num_images - num_test), "test": range(num_images - num_test, num_images)}

    begun: list[float] = []  # when the last image of each split was given to a process

    def tasks(split: str) -> Iterator[Record]:
        for start in range(0, len(numbers[split]), IMAGES_PER_TASK):
            yield {"split": split, "start": start, "numbers": numbers[split][start : start + IMAGES_PER_TASK]}
        begun.append(time.monotonic())

    started = time.monotonic()
    (found,) = copies_between(_sketch, {split: tasks(split) for split in numbers})
    ended = time.monotonic()
    wanted = np.arange(0, num_test, PLANTED_EVERY)
    is_planted_M = np.isin(found.copies.row_M, wanted)
    return {
        "images": num_images,
        "seconds_making_and_sketching": round(begun[-1] - started, 1),
        "seconds_comparing": round(ended - begun[-1], 1),
        "planted": len(wanted),
        "planted_found": int((is_planted_M & (found.copies.row_M == found.copies.other_M)).sum()),
        "others_found": int((~is_planted_M).sum()),
        "pairs_not_compared": found.copies.num_left_out,
    }


def scale(num_images: int) -> dict[str, Any]:
    """`search` in a process of its own, with the memory of all processes that it starts."""
    mark = uuid.uuid4().hex
    command = [sys.executable, "-c", f"import json; from benchmarks.duplicates import search; print(json.dumps(search({num_images})))"]
    started, peak = time.monotonic(), 0
    job = subprocess.Popen(command, env={**os.environ, MARK: mark}, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[1])
    while job.poll() is None:
        peak = max(peak, proportional_bytes(mark))
        time.sleep(1)
    told = job.stdout.read() if job.stdout else ""
    if job.returncode:
        raise RuntimeError(f"the search ended with status {job.returncode}")
    found: dict[str, Any] = json.loads(told.strip().splitlines()[-1])
    return found | {"seconds": round(time.monotonic() - started, 1), "peak_memory_gib": round(peak / 2**30, 2)}


def run(arguments: Arguments) -> dict[str, Any]:
    """All figures."""
    sources = {"digits": (digits(), 17), "photos 16x16": (patches(16), 256), "photos 32x32": (patches(32), 256)}
    found, mistaken = [], []
    for name, (images_NHWC, levels) in sources.items():
        has_contrast_N = contrasts(images_NHWC, levels) >= 4
        for change, how in (CHANGES | SCALED | OTHERS).items():
            found_N = are_found(images_NHWC, levels, how)
            row = {"source": name, "change": change, "found": round(float(found_N.mean()), 4)}
            found.append(row | {"found_with_contrast": round(float(found_N[has_contrast_N].mean()), 4)})
            print(found[-1], file=sys.stderr)
        counts = [num_mistaken(images_NHWC, levels, seed) for seed in range(10)]
        shares = [num / total for num, total in counts]
        row = {"source": name, "share_with_contrast": round(float(has_contrast_N.mean()), 4), "train_images": counts[0][1]}
        mistaken.append(row | {"mean_share": round(sum(shares) / len(shares), 6), "worst_share": round(max(shares), 6)})
        print(mistaken[-1], file=sys.stderr)
    num_images = arguments.num_images or (50_000 if arguments.quick else 1_000_000)
    return {
        "quick": arguments.quick,
        "found": found,
        "mistaken": mistaken,
        "scale": scale(num_images),
    }


def main() -> int:
    """Measure, print and write."""
    arguments = parse(Arguments)
    result = run(arguments)
    write_dated("duplicates", result, arguments.out)
    return 0


if __name__ == "__main__":
    exit_with(main)
