"""One preparation, its tasks one after the other in this process, that is ended at one of its writes.

    python -m tests.data.killing SOURCE IMAGES ROOT NUMBER MOMENT

kills itself (SIGKILL) before write NUMBER, in the middle of it, or after it, and prints what it did until then: lines of JSON.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

from pixelmodels.data import SPLITS, DatasetConfig, packed, pieces, preparation, prepare
from pixelmodels.data.sources import folder
from pixelmodels.storage import Storage

MOMENTS = ("before", "middle", "after")
HALF_WRITTEN = f".tmp-{'0' * 32}"  # as a write leaves it that is ended in the middle: see `Storage._write_local`


def config_of(source: str, images: Path) -> DatasetConfig:
    """A data set of several units and shards."""
    if source != "folder":
        return DatasetConfig(source=source, rows_per_shard=300)
    return DatasetConfig(source=source, path=str(images), rows_per_shard=6, max_bad_share=0.1)


def call(config: DatasetConfig, root: Path, tell: Callable[[str, Any], None], end_at: int, moment: str, end: Callable[[], None]) -> None:
    """Prepare, and tell what is done; `end` ends it at the write of this number."""
    count, write = 0, Storage.write_bytes

    def ending(storage: Storage, path: str, data: bytes) -> None:
        nonlocal count
        is_it = count == end_at
        count += 1
        if is_it and moment == "before":
            end()
        if is_it and moment == "middle":
            left = Path(storage.uri(path)).parent / HALF_WRITTEN
            left.parent.mkdir(parents=True, exist_ok=True)
            left.write_bytes(data[: len(data) // 2])
            end()
        write(storage, path, data)
        tell("wrote", path)
        if is_it:
            end()

    def one_after_the_other(function: Callable[[Any], Any], records: Iterable[Any]) -> Iterator[Any]:
        return map(function, records)

    changed = [mock.patch.object(module, "map_records", one_after_the_other) for module in (packed, pieces, preparation)]
    changed += [mock.patch.object(Storage, "write_bytes", ending), mock.patch.object(folder, "FILES_PER_TASK", 8)]
    with changed[0], changed[1], changed[2], changed[3], changed[4]:
        dataset = prepare(config, Storage(root), say=lambda line: tell("said", line))
    tell("shards", {shard["file"]: shard["sha256"] for split in SPLITS for shard in dataset.shards(split)})
    tell("dataset", [dataset.fingerprint, dataset.skipped(), sorted(dataset.storage.list(dataset.folder))])


def main(source: str, images: str, root: str, end_at: str, moment: str) -> None:
    """See the top of this file."""
    call(
        config_of(source, Path(images)),
        Path(root),
        lambda name, value: print(json.dumps([name, value]), flush=True),
        int(end_at),
        moment,
        lambda: os.kill(os.getpid(), signal.SIGKILL),
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
