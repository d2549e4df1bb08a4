"""Files decoded in processes that round otherwise: all images as they were, or one line that says what differs, and none written."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from pipelines.compress import main
from pixelmodels.likelihoods import LikelihoodConfig
from pixelmodels.models import build, config_class
from pixelmodels.models.files import save_model
from pixelmodels.pictures import write_png
from pixelmodels.sampling import sample
from pixelmodels.shapes import ImageSpec

pytestmark = pytest.mark.slow

NUM_IMAGES = 20
ENVIRONMENTS = {
    "the same": {},
    "another number of threads": {"OMP_NUM_THREADS": "3"},
    "torch without AVX": {"ATEN_CPU_CAPABILITY": "default"},
    "oneDNN without AVX": {"ONEDNN_MAX_CPU_ISA": "sse41"},
    "MKL alike everywhere": {"MKL_CBWR": "COMPATIBLE"},
    "numpy without AVX": {"NPY_DISABLE_CPU_FEATURES": "X86_V3,X86_V4"},
}
LIKELIHOODS_OF_FILES = {"logits": ("categorical", 1), "mixture": ("discretized_logistic_mixture", 3)}  # and channels
KINDS = ("logits_1", "logits_2", "logits_portable", "mixture_1", "mixture_portable")  # files: of how many threads, or portable
PROGRAM = """
import sys
from pipelines.compress import main
from pixelmodels.errors import UserError
for file in sys.argv[1:]:
    try:
        main(["decode", file, "--out", f"{file}.out"])
    except UserError as error:
        print(f"refused: {error}")
"""


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of one file of images for each way and number of threads, and the images."""
    folder = tmp_path_factory.mktemp("machines")
    num_threads = torch.get_num_threads()
    for name, (likelihood, channels) in LIKELIHOODS_OF_FILES.items():
        torch.manual_seed(0)
        model = build(config_class("gated_pixelcnn")(), ImageSpec(channels, 8, 8, 256), LikelihoodConfig(likelihood)).eval()
        save_model(folder / name, model)
        (folder / f"{name}_images").mkdir()
        for i, image_CHW in enumerate(sample(model, NUM_IMAGES, seed=0).numpy()):
            write_png(folder / f"{name}_images" / f"{i:02d}.png", image_CHW.transpose(1, 2, 0))
    for kind in KINDS:
        name, way = kind.split("_")
        torch.set_num_threads(int(way) if way.isdigit() else num_threads)
        flags = ["--portable"] if way == "portable" else []
        main(["encode", str(folder / name), "--images", str(folder / f"{name}_images"), "--out", str(folder / f"{kind}.pxc"), *flags])
    torch.set_num_threads(num_threads)
    return folder


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_images_are_right_or_refused(name: str, files: Path) -> None:
    for file in files.glob("*.out/*"):
        file.unlink()
    paths = [str(files / f"{kind}.pxc") for kind in KINDS]
    environment = {**os.environ, **ENVIRONMENTS[name]}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *paths], capture_output=True, text=True, env=environment, cwd=Path(__file__).parents[2]
    )
    assert done.returncode == 0, done.stderr
    refused = {path: [line for line in done.stdout.splitlines() if line.startswith(f"refused: block 0 of '{path}'")] for path in paths}
    for path in paths:
        written = sorted(Path(f"{path}.out").glob("*")) if Path(f"{path}.out").exists() else []
        if refused[path]:
            assert not written and ENVIRONMENTS[name]
            assert any(word in refused[path][0] for word in (*ENVIRONMENTS[name], "nothing is known to differ"))
        else:
            assert [file.name for file in written] == [f"{i:02d}.png" for i in range(NUM_IMAGES)]
            images = files / f"{Path(path).stem.split('_')[0]}_images"
            assert all(np.array_equal(np.fromfile(file, np.uint8), np.fromfile(images / file.name, np.uint8)) for file in written)
    if "OMP_NUM_THREADS" in ENVIRONMENTS[name] or not ENVIRONMENTS[name]:
        assert not any(refused.values())  # the number of threads is the file's
    assert not any(refused[path] for path in paths if "portable" in path)
