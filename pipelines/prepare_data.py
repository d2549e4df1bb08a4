"""Prepare a data set: images in; Parquet shards and a manifest below the storage root out.

    python pipelines/prepare_data.py --source folder --path photos/ --size 32 32 --levels 256

The last line printed is where the data set is. The same input and options a second time do nothing; a call that was killed is gone on
from by the next one. With `RAY_ADDRESS` all of a cluster prepares, else the cores of this machine do, without Ray.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

import tyro

from pixelmodels import ray_cluster
from pixelmodels.commandline import parse
from pixelmodels.data import DatasetConfig, prepare
from pixelmodels.errors import exit_with
from pixelmodels.storage import DEFAULT_STORAGE, Storage


@dataclass(frozen=True)
class Arguments:
    """Prepare a data set: Parquet shards and a manifest below the storage root."""

    data: Annotated[DatasetConfig, tyro.conf.arg(name="")] = field(default_factory=DatasetConfig)
    storage: str = DEFAULT_STORAGE  # storage root: a local folder or s3://bucket/prefix


def main() -> int:
    """Parse the command line, prepare, print the data set's path; status 0."""
    arguments = parse(Arguments)
    storage = Storage(arguments.storage)
    storage.check_writable()
    dataset = prepare(arguments.data, storage, connect=ray_cluster.join)
    print(storage.uri(dataset.folder))
    return 0


if __name__ == "__main__":
    exit_with(main)
