"""Files of runs are found in folders of any name; through S3 and a server: `test_registry.py`, `test_server.py`."""

from __future__ import annotations

from pathlib import Path

import pytest

from pixelmodels.tracking import Tracker
from pixelmodels.tracking.artifacts import download, names_in


@pytest.mark.parametrize("name", ["plain", "a b", "run#2", "what?"])
def test_a_folder_of_any_name(name: str, tracker: Tracker, tmp_path: Path) -> None:
    folder = tmp_path / name
    assert names_in(tracker.uri, str(folder)) == set()
    (folder / "inner").mkdir(parents=True)
    (folder / "file").write_bytes(b"1")
    (folder / "inner" / "other").write_bytes(b"2")
    assert names_in(tracker.uri, str(folder)) == {"file", "inner"}
    assert download(tracker.uri, str(folder), "file", tmp_path / "one").read_bytes() == b"1"
    every = download(tracker.uri, str(folder), "", tmp_path / "all")
    assert {str(path.relative_to(every)) for path in every.rglob("*")} == {"file", "inner", "inner/other"}
