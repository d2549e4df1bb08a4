"""Makes `docs/samples.png`: test images on the left, samples of a registered model on the right.

python docs/samples.py models:/digits/2
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

import pixelmodels
from pixelmodels.data import find_dataset
from pixelmodels.pictures import grid, write_png
from pixelmodels.sampling import sample
from pixelmodels.storage import DEFAULT_STORAGE, Storage


def main(uri: str) -> None:
    """Write the picture beside this file."""
    model = pixelmodels.load(uri)
    test_NCHW = find_dataset(Storage(DEFAULT_STORAGE), "digits").read("test").images_NCHW[:80]
    drawn_NCHW = sample(model, 80, seed=0).numpy()
    sides = [grid(images, model.spec.levels, columns=10, scale=5) for images in (test_NCHW, drawn_NCHW)]
    gap = np.full((sides[0].shape[0], 30, sides[0].shape[2]), 255, np.uint8)
    write_png(Path(__file__).parent / "samples.png", np.concatenate([sides[0], gap, sides[1]], axis=1))


if __name__ == "__main__":
    main(sys.argv[1])
