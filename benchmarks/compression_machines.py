"""Files written in processes that round in one way, read in processes that round in another: which are decoded, and which refused.

As a program: writes or reads files in the environment that it is started in, and tells in one JSON object what came of it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # where this is run as a script

ENVIRONMENTS: dict[str, dict[str, str]] = {
    "1 thread": {},
    "2 threads": {"OMP_NUM_THREADS": "2"},
    "torch avx2": {"ATEN_CPU_CAPABILITY": "avx2"},
    "torch without AVX": {"ATEN_CPU_CAPABILITY": "default"},
    "oneDNN avx2": {"ONEDNN_MAX_CPU_ISA": "avx2"},
    "oneDNN without AVX": {"ONEDNN_MAX_CPU_ISA": "sse41"},
    "MKL alike everywhere": {"MKL_CBWR": "COMPATIBLE"},
    "numpy without AVX": {"NPY_DISABLE_CPU_FEATURES": "X86_V3,X86_V4"},
}
WAYS: dict[str, tuple[str, ...]] = {"usual": (), "portable": ("--portable",)}
GPU = "GPU"


def matrix(model: Path, images: Path, folder: Path) -> list[dict[str, Any]]:
    """A row for each way, writer and reader: decoded (and whether right) or refused, with the reason.

    Args: `model`, a model's folder; `images`, a folder of image files that fit it; `folder`, for what is written.
    """
    names = [*ENVIRONMENTS, *([GPU] if torch.cuda.is_available() else [])]
    for name in names:
        _run(name, "write", model, images, folder)
    rows = []
    for name in names:
        for found in _run(name, "read", model, images, folder):
            rows.append({"read_by": name, **found})
    return rows


def _run(name: str, *arguments: object) -> list[dict[str, Any]]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **ENVIRONMENTS.get(name, {})}
    command = [sys.executable, "-m", "benchmarks.compression_machines", name, *map(str, arguments)]
    done = subprocess.run(command, check=True, env=environment, stdout=subprocess.PIPE, cwd=Path(__file__).parent.parent)
    found: list[dict[str, Any]] = json.loads(done.stdout.splitlines()[-1])
    return found


def _write(name: str, model: str, images: str, folder: Path, gpu: list[str]) -> list[dict[str, Any]]:
    from pipelines.compress import main

    for way, flags in WAYS.items():
        main(["encode", model, "--images", images, "--out", str(folder / f"{name}--{way}.pxc"), *flags, *gpu])
    return []


def _read(name: str, images: str, folder: Path, gpu: list[str]) -> list[dict[str, Any]]:
    import numpy as np
    from PIL import Image

    from pipelines.compress import main
    from pixelmodels.errors import UserError

    rows = []
    for file in sorted(folder.glob("*.pxc")):
        writer, way = file.stem.split("--")
        out = folder / f"{file.stem}--{name}"
        row: dict[str, Any] = {"way": way, "written_by": writer, "decoded": True}
        try:
            main(["decode", str(file), "--out", str(out), *gpu])
        except UserError as error:
            row |= {"decoded": False, "reason": str(error).partition("cannot be decoded: ")[2]}
        pairs = [(path, Path(images) / path.name) for path in sorted(out.glob("*.png"))]
        row["all_written_are_right"] = all(np.array_equal(np.asarray(Image.open(a)), np.asarray(Image.open(b))) for a, b in pairs)
        row["num_written"] = len(pairs)
        rows.append(row)
    return rows


if __name__ == "__main__":
    own_name, work, *rest = sys.argv[1:]
    use_gpu = ["--use-gpu"] if own_name == GPU else []
    if work == "write":
        print(json.dumps(_write(own_name, rest[0], rest[1], Path(rest[2]), use_gpu)))
    else:
        print(json.dumps(_read(own_name, rest[1], Path(rest[2]), use_gpu)))
