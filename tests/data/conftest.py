"""A prepared data set of digits, made once; a folder of small pictures; a bucket."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pixelmodels.data import Dataset, DatasetConfig, prepare
from pixelmodels.storage import Storage
from tests.s3 import bucket_server


@pytest.fixture(scope="session")
def digits(ray_cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return prepare(DatasetConfig(rows_per_shard=500), Storage(tmp_path_factory.mktemp("digits")))


@pytest.fixture(scope="session")
def bucket() -> Iterator[str]:
    with bucket_server("data-tests") as uri:
        yield uri


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """30 PNGs of 6x5 (height x width) RGB, in sub-folders `ants`, `bees` and `cats`; picture i is filled with colour (i, 2i, 3i)."""
    folder = tmp_path / "pictures"
    for i in range(30):
        path = folder / ("ants", "bees", "cats")[i % 3] / f"{i:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((6, 5, 3), (i, 2 * i, 3 * i), np.uint8)).save(path)
    return folder
