"""What a model's files take: bits beside its own likelihood and beside image codecs, time beside sampling, and which machines read them.

    python -m benchmarks.compression            # trains models of the suites digits and photos, and encodes all of their test images
    python -m benchmarks.compression --quick    # two epochs, fewer images: to see that it works; the figures are rough

Models are trained by `pipelines/train_all.py` in a storage root of its own (`--storage`: one that has them). For each model: the
test images, and images far from the training set (noise, flat ones, shuffled and negative ones), are encoded, decoded and
compared; whole files with all that is in them are held against the model's own negative log-likelihood, in blocks of 64 and of
1. Codecs (PNG, WebP lossless, JPEG XL lossless at effort 9) have the same images as single files, and all as one picture: on top
of each other, or as square as it can be, whichever is smaller. Encoding, decoding and sampling of 64 images take turns in this
process, and the medians are compared; that is done first. Last, processes that round in different ways write and read each other's files.
Before the end a table of goals is printed; the last line is one JSON object, which is also written to `benchmarks/results/`.
"""

from __future__ import annotations

import dataclasses
import io
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import imagecodecs
import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # where this is run as a script

from benchmarks.compression_machines import matrix
from benchmarks.conditioning import run_folder
from benchmarks.dated import RESULTS, write_dated
from pixelmodels.commandline import parse
from pixelmodels.compression.arithmetic import Machine, portable, usual
from pixelmodels.compression.codec import Codec, UInt8
from pixelmodels.compression.container import Container, Head
from pixelmodels.compression.images import write_pngs
from pixelmodels.compression.weights import sha256_of
from pixelmodels.data import find_dataset
from pixelmodels.errors import UserError, exit_with
from pixelmodels.evaluation.baselines import png_file, tall_image, webp_files
from pixelmodels.models import PixelModel
from pixelmodels.models.files import save_model
from pixelmodels.recipes.recipe import Recipe
from pixelmodels.recipes.suites import suite
from pixelmodels.runs.loading import find_model
from pixelmodels.sampling import sample
from pixelmodels.shapes import ImageSpec
from pixelmodels.storage import Storage

BLOCK = 64
SCORING_BATCH = 64
ALLOWED = {BLOCK: (0.01, 4, 1024), 1: (0.01, 96, 0)}  # share of the bits, bits an image, bits a file; by images of a block
ENCODING, DECODING = 0.9, 0.7  # images/s over sampling's
NUM_FAR = 64
NUM_SENT = 32  # images of a file that other machines read


@dataclass(frozen=True)
class Arguments:
    """Measure what compression is worth, and what it costs."""

    quick: bool = False  # two epochs, 64 test images, few repeats, no other machines unless asked for
    suites: tuple[str, ...] = ("digits", "photos")
    models: tuple[str, ...] = ("gated_pixelcnn", "pixelcnn_pp")  # recipes of each suite
    singles: int = 64  # test images that are encoded in blocks of 1, at most (16 with --quick)
    repeats: int = 7  # timings of each figure (3 with --quick)
    machines: bool = True  # also files written and read by processes that round otherwise
    storage: str | None = None  # storage root to train in, or to find trained models in; a temporary one unless given
    out: Path = RESULTS  # folder for the JSON

    def __post_init__(self) -> None:
        for name in ("singles", "repeats"):
            if getattr(self, name) < 1:
                raise UserError(f"--{name} {getattr(self, name)} is too few; give 1 or more")


def train(name: str, arguments: Arguments, storage: Storage) -> None:
    """Train a suite's models, or find them trained."""
    command = [sys.executable, str(Path(__file__).parent.parent / "pipelines" / "train_all.py"), "--suite", name, "--storage", storage.root]
    command += ["--only", *arguments.models, *(["--epochs", "2"] if arguments.quick else [])]
    subprocess.run(command, check=True, stdout=sys.stderr)


def nll_bits(model: PixelModel, images_NCHW: UInt8) -> float:
    """The model's own negative log-likelihood of images, all together; bits."""
    with torch.inference_mode():
        parts = torch.from_numpy(images_NCHW).split(SCORING_BATCH)
        return -sum(float(model.log_prob(part).double().sum()) for part in parts) / math.log(2)


def encoded(model: PixelModel, images_NCHW: UInt8, block: int, *, on_any_machine: bool = False) -> tuple[Container, Codec]:
    """A file of images, without names, as `compress.py` writes it."""
    way = (portable if on_any_machine else usual)(model, block)
    codec = Codec(model, way)
    blocks = tuple(codec.encode(images_NCHW[start : start + block]) for start in range(0, len(images_NCHW), block))
    head = Head(sha256_of(model), "models:/benchmark/1", model.spec, 0, way, Machine.here(model.device))
    return Container(head, blocks), codec


def size_of(model: PixelModel, images_NCHW: UInt8, block: int, *, on_any_machine: bool = False) -> dict[str, Any]:
    """Encode, write, read, decode, compare, and count the bits."""
    container, codec = encoded(model, images_NCHW, block, on_any_machine=on_any_machine)
    data = container.to_bytes()
    read = Container.of_bytes(data, "the file")
    decoded_NCHW = np.concatenate([codec.decode(one)[0] for one in read.blocks])
    own, bits, num = nll_bits(model, images_NCHW), 8 * len(data), len(images_NCHW)
    share, each, file = ALLOWED[block]
    return {
        "block": block,
        "images": num,
        "bytes": len(data),
        "exact": bool(np.array_equal(decoded_NCHW, images_NCHW)),
        "bits_an_image": round(bits / num, 2),
        "nll_bits_an_image": round(own / num, 2),
        "bits_per_dim": round(bits / images_NCHW.size, 4),
        "nll_bits_per_dim": round(own / images_NCHW.size, 4),
        "over_percent": round(100 * (bits / own - 1), 3),
        "over_bits_an_image": round((bits - own) / num, 2),
        "of_payloads_over_percent": round(100 * (8 * sum(len(one.payload) for one in container.blocks) / own - 1), 3),
        "within": bool(bits <= own * (1 + share) + each * num + file),
    }


def far_images(images_NCHW: UInt8, spec: ImageSpec) -> dict[str, UInt8]:
    """Images that no model of the training set expects."""
    rng, own = np.random.default_rng(0), images_NCHW[:NUM_FAR]
    flat = rng.integers(0, spec.levels, (len(own), spec.channels, 1, 1))
    shuffled = rng.permuted(own.reshape(*own.shape[:2], -1), axis=2).reshape(own.shape)
    return {
        "noise": rng.integers(0, spec.levels, own.shape).astype(np.uint8),
        "flat": np.broadcast_to(flat, own.shape).astype(np.uint8),
        "extremes": (rng.integers(0, 2, own.shape) * (spec.levels - 1)).astype(np.uint8),
        "shuffled": np.ascontiguousarray(shuffled),
        "negative": (spec.levels - 1 - own).astype(np.uint8),
    }


def jpegxl_file(picture: UInt8) -> bytes:
    """One picture as lossless JPEG XL, which is checked."""
    data = bytes(imagecodecs.jpegxl_encode(picture, lossless=True, effort=9))
    if not np.array_equal(imagecodecs.jpegxl_decode(data), picture):
        raise ValueError("JPEG XL lost something")
    return data


def square(images_NCHW: UInt8) -> UInt8:
    """All images side by side in one picture, as many in a row as in a column; what is left over is black; 1 C H W."""
    num, channels, height, width = images_NCHW.shape
    columns = max(1, round(math.sqrt(num * height / width)))
    rows = -(-num // columns)
    cells = np.zeros((rows * columns, channels, height, width), np.uint8)
    cells[:num] = images_NCHW
    picture = cells.reshape(rows, columns, channels, height, width).transpose(2, 0, 3, 1, 4)
    return np.ascontiguousarray(picture.reshape(1, channels, rows * height, columns * width))


def codec_bits(images_NCHW: UInt8, spec: ImageSpec) -> list[dict[str, Any]]:
    """Bits of each codec's files: of single images, and of all as one picture."""
    mosaic = square(images_NCHW)
    of_mosaic = dataclasses.replace(spec, height=mosaic.shape[2], width=mosaic.shape[3])
    kinds: dict[str, Callable[[UInt8, ImageSpec], int]] = {
        "PNG": lambda images, one: len(png_file(images, one)),
        "WebP lossless": lambda images, one: sum(map(len, webp_files(images, one))),
        "JPEG XL lossless": lambda images, _: len(jpegxl_file(tall_image(images))),
    }
    rows = []
    for name, count in kinds.items():
        started = time.perf_counter()
        single = sum(count(image_CHW[None], spec) for image_CHW in images_NCHW)
        tall, as_square = count(images_NCHW, spec), count(mosaic, of_mosaic)
        picture = min(tall, as_square)
        rows.append(
            {
                "codec": name,
                "single_bits_per_dim": round(8 * single / images_NCHW.size, 4),
                "one_picture_bits_per_dim": round(8 * picture / images_NCHW.size, 4),
                "one_picture_bytes": picture,
                "laid": "on top of each other" if picture == tall else "as a square",
                "seconds": round(time.perf_counter() - started, 2),
            }
        )
    return rows


def speed(model: PixelModel, images_NCHW: UInt8, repeats: int) -> dict[str, Any]:
    """Images/s of sampling, encoding and decoding 64 at a time, in turns."""
    some_NCHW = np.resize(images_NCHW, (BLOCK, *images_NCHW.shape[1:]))
    codecs = {"": Codec(model, usual(model, BLOCK)), "portable_": Codec(model, portable(model, BLOCK))}
    blocks = {kind: codec.encode(some_NCHW) for kind, codec in codecs.items()}
    calls: dict[str, Callable[[], object]] = {"sampling": lambda: sample(model, BLOCK, seed=0)}
    for kind, codec in codecs.items():
        calls[f"{kind}encoding"] = lambda codec=codec: codec.encode(some_NCHW)  # type: ignore[misc]
        calls[f"{kind}decoding"] = lambda codec=codec, block=blocks[kind]: codec.decode(block)  # type: ignore[misc]
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            started = time.perf_counter()
            call()
            taken[name].append(time.perf_counter() - started)
    found: dict[str, Any] = {f"{name}_images_per_second": round(BLOCK / median(times), 1) for name, times in taken.items()}
    for name in list(taken)[1:]:
        pairs = zip(taken["sampling"], taken[name], strict=True)
        found[f"{name}_over_sampling"] = round(median(own / other for own, other in pairs), 3)
    return found


def trained(recipe: Recipe, storage: Storage) -> PixelModel:
    """The model of a recipe."""
    return find_model(storage.uri(run_folder(storage, recipe)), storage)


def tests_of(recipe: Recipe, arguments: Arguments, storage: Storage) -> UInt8:
    """The test images of its data set."""
    test_NCHW = find_dataset(storage, recipe.dataset.dataset_name()).read("test").images_NCHW
    return test_NCHW[: 64 if arguments.quick else len(test_NCHW)]


def measure(recipe: Recipe, arguments: Arguments, storage: Storage) -> dict[str, Any]:
    """Everything of one model but times."""
    model, test_NCHW = trained(recipe, storage), tests_of(recipe, arguments, storage)
    singles = test_NCHW[: 16 if arguments.quick else arguments.singles]
    row: dict[str, Any] = {"suite": recipe.dataset.dataset_name(), "model": recipe.name, "likelihood": recipe.likelihood.name}
    row["test"] = size_of(model, test_NCHW, BLOCK)
    row["test_portable"] = size_of(model, test_NCHW, BLOCK, on_any_machine=True)
    row["test_singles"] = size_of(model, singles, 1)
    row["far"] = {name: size_of(model, images, BLOCK) for name, images in far_images(test_NCHW, model.spec).items()}
    if arguments.machines:
        with tempfile.TemporaryDirectory() as folder:
            here = Path(folder)
            save_model(here / "model", model)
            for part in ("images", "files"):
                (here / part).mkdir()
            write_pngs(here / "images", [f"{i:04d}.png" for i in range(NUM_SENT)], test_NCHW[:NUM_SENT], model.spec.levels)
            row["machines"] = matrix(here / "model", here / "images", here / "files")
    return row


def goals_of(rows: Sequence[dict[str, Any]], codecs: dict[str, list[dict[str, Any]]]) -> list[tuple[str, bool]]:
    """What was aimed at, and whether it was reached."""
    goals = []
    for row in rows:
        what = f"{row['suite']}, {row['model']}"
        sizes = [row["test"], row["test_portable"], row["test_singles"], *row["far"].values()]
        goals.append((f"{what}: every image comes back", all(one["exact"] for one in sizes)))
        test, single, speeds = row["test"], row["test_singles"], row["speed"]
        goals.append((f"{what}: {test['over_percent']}% over the likelihood in blocks of {BLOCK}", test["within"]))
        goals.append((f"{what}: {single['over_bits_an_image']} bits an image over the likelihood, one by one", single["within"]))
        goals.append((f"{what}: images far from the training set likewise", all(one["within"] for one in row["far"].values())))
        for kind, least in (("encoding", ENCODING), ("decoding", DECODING)):
            goals.append((f"{what}: {kind} at {speeds[f'{kind}_over_sampling']} of sampling", speeds[f"{kind}_over_sampling"] >= least))
        best = min(one["one_picture_bits_per_dim"] for one in codecs[row["suite"]])
        goals.append((f"{what}: {test['bits_per_dim']} bits/dim, the best codec {best}", test["bits_per_dim"] < best))
        if "machines" in row:
            goals.append((f"{what}: nothing wrong is written anywhere", all(one["all_written_are_right"] for one in row["machines"])))
    return goals


def main() -> int:
    """Train, measure, write, print."""
    arguments = parse(Arguments)
    rows: list[dict[str, Any]] = []
    codecs: dict[str, list[dict[str, Any]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        storage = Storage(arguments.storage or folder)
        for name in arguments.suites:
            train(name, arguments, storage)
        recipes = [recipe for name in arguments.suites for recipe in suite(name) if recipe.name in arguments.models]
        repeats, speeds = 3 if arguments.quick else arguments.repeats, []
        for recipe in recipes:
            speeds.append(speed(trained(recipe, storage), tests_of(recipe, arguments, storage), repeats))
            print(recipe.name, recipe.dataset.dataset_name(), speeds[-1], file=sys.stderr)
        print("times are measured; what follows may share the machine", file=sys.stderr)
        for recipe, found in zip(recipes, speeds, strict=True):
            rows.append({**measure(recipe, arguments, storage), "speed": found})
            print(rows[-1]["model"], rows[-1]["suite"], rows[-1]["test"], file=sys.stderr)
            name = recipe.dataset.dataset_name()
            if name not in codecs:
                codecs[name] = codec_bits(tests_of(recipe, arguments, storage), find_dataset(storage, name).spec)
    goals = goals_of(rows, codecs)
    table = io.StringIO()
    for what, reached in goals:
        table.write(f"{'reached' if reached else 'MISSED ':8} {what}\n")
    print(table.getvalue())
    figures = {"quick": arguments.quick, "rows": rows, "codecs": codecs, "goals": [{"goal": what, "reached": ok} for what, ok in goals]}
    write_dated("compression", figures, arguments.out, "quick" if arguments.quick else "")
    return 0


if __name__ == "__main__":
    exit_with(main)
