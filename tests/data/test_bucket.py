from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pixelmodels.data import SPLITS, DatasetConfig, decode_rows, find_dataset, find_prepared, prepare
from pixelmodels.errors import UserError
from pixelmodels.storage import Storage


@pytest.mark.usefixtures("ray_cluster")
def test_from_bucket_to_bucket(bucket: str, pictures: Path, storage: Storage) -> None:
    """Images below an s3:// prefix, a data set below another: the same shards as on disk."""
    for file in pictures.rglob("*.png"):
        Storage(f"{bucket}/images").write_bytes(f"pictures/{file.relative_to(pictures)}", file.read_bytes())
    there = Storage(f"{bucket}/deep/root")
    config = DatasetConfig(source="folder", path=f"{bucket}/images/pictures", labels=True, rows_per_shard=4)
    dataset = prepare(config, there)
    local = prepare(DatasetConfig(source="folder", path=str(pictures), labels=True, rows_per_shard=4), storage)
    assert dataset.fingerprint == local.fingerprint
    for split in SPLITS:
        assert [shard["sha256"] for shard in dataset.shards(split)] == [shard["sha256"] for shard in local.shards(split)]
    assert find_dataset(there, "pictures") == dataset == prepare(config, there)
    part = dataset.read("train")
    rows = {}
    for batch in dataset.stream("train").iter_batches(batch_size=8, batch_format="pyarrow"):
        rows |= dict(zip(batch["key"].to_pylist(), decode_rows(batch["image"], dataset.spec.shape), strict=True))
    np.testing.assert_array_equal(np.stack([rows[key] for key in part.keys]), part.images_NCHW)


def test_an_empty_prefix_has_no_images(bucket: str, storage: Storage) -> None:
    with pytest.raises(UserError, match="has no images"):
        prepare(DatasetConfig(source="folder", path=f"{bucket}/nothing/here"), storage)
    with pytest.raises(UserError, match=r"no-such-bucket.*(cannot be listed|has no images)"):
        find_prepared(DatasetConfig(source="folder", path="s3://no-such-bucket/x"), storage)
        prepare(DatasetConfig(source="folder", path="s3://no-such-bucket/x"), storage)
