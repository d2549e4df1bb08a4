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
}
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
    torch.manual_seed(0)
    model = build(config_class("gated_pixelcnn")(), ImageSpec(1, 8, 8, 256), LikelihoodConfig("categorical")).eval()
    save_model(folder / "model", model)
    (folder / "images").mkdir()
    for i, image_CHW in enumerate(sample(model, NUM_IMAGES, seed=0).numpy()):
        write_png(folder / "images" / f"{i:02d}.png", image_CHW.transpose(1, 2, 0))
    command = ["encode", str(folder / "model"), "--images", str(folder / "images")]
    num_threads = torch.get_num_threads()
    for threads in (1, 2):
        torch.set_num_threads(threads)
        main([*command, "--out", str(folder / f"usual{threads}.pxc")])
    torch.set_num_threads(num_threads)
    main([*command, "--out", str(folder / "portable.pxc"), "--portable"])
    return folder


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_images_are_right_or_refused(name: str, files: Path) -> None:
    for file in files.glob("*.out/*"):
        file.unlink()
    paths = [str(files / f"{kind}.pxc") for kind in ("usual1", "usual2", "portable")]
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
            assert all(np.array_equal(np.fromfile(file, np.uint8), np.fromfile(files / "images" / file.name, np.uint8)) for file in written)
    if "OMP_NUM_THREADS" in ENVIRONMENTS[name] or not ENVIRONMENTS[name]:
        assert not any(refused.values())  # the number of threads is the file's
    assert not refused[paths[2]]
