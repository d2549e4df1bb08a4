"""Look at a data set: counts, levels, examples, copies between splits, what was rejected, and what a model has to beat.

    python pipelines/inspect_data.py --dataset digits
    python pipelines/inspect_data.py --path my_images/ --size 32 32

It is told on the terminal, and, with pictures, in one HTML file below the storage root. The last line printed is where that is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import tyro

from pixelmodels import ray_cluster
from pixelmodels.commandline import parse
from pixelmodels.data import DatasetConfig, find_dataset, prepare
from pixelmodels.errors import UserError, exit_with
from pixelmodels.evaluation.inspection import inspect
from pixelmodels.evaluation.inspection_page import page, print_inspection
from pixelmodels.storage import DEFAULT_STORAGE, Storage

INSPECTIONS = "inspections"  # folder below the storage root


@dataclass(frozen=True)
class Arguments:
    """Look at a prepared data set, or at one that is prepared first."""

    data: Annotated[DatasetConfig, tyro.conf.arg(name="")]
    dataset: str | None = None  # a prepared data set: name, or name-fingerprint; left out: the one of the options of prepare_data.py
    storage: str = DEFAULT_STORAGE  # storage root: a local folder, s3://bucket/prefix or gs://bucket/prefix

    def __post_init__(self) -> None:
        if self.dataset is not None and self.data != DatasetConfig():
            raise UserError(
                f"--dataset '{self.dataset}' is prepared already, and options that prepare one are given; give one or the other"
            )


def main(argv: list[str] | None = None) -> int:
    """Parse the command line, look, print, write the page, print where it is; status 0."""
    arguments = parse(Arguments, argv)
    storage = Storage(arguments.storage)
    storage.check_writable()
    if arguments.dataset is not None:
        dataset = find_dataset(storage, arguments.dataset)
        print(f"data set {dataset.summary()}")
    else:
        dataset = prepare(arguments.data, storage, connect=ray_cluster.join)
    ray_cluster.join()
    found = inspect(dataset)
    print_inspection(found)
    file = f"{INSPECTIONS}/{dataset.folder.rpartition('/')[2]}.html"
    storage.write_bytes(file, page(found))
    print(storage.uri(file))
    return 0


if __name__ == "__main__":
    exit_with(main)
