"""A storage root that an old commit made (tests/fixtures/README.md), unpacked into another folder as if it had been made there."""

from __future__ import annotations

import json
import socket
import sqlite3
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.fixtures.make_root import HOST

ARCHIVE = Path(__file__).resolve().parents[1] / "fixtures" / "root_47ad97b.tar.xz"
_BINARY = (".db", ".npz", ".parquet", ".safetensors")


@dataclass(frozen=True)
class OldRoot:
    """The root, what lies beside it, and what the commit found with it."""

    folder: Path  # recipes/, animals/, samples.npz, and the root itself
    expected: dict[str, Any]

    @property
    def storage(self) -> Path:
        """The storage root."""
        return self.folder / "storage"

    def recipe(self, name: str) -> str:
        """A recipe file."""
        return str(self.folder / "recipes" / f"{name}.yaml")

    def run(self, name: str) -> Path:
        """The folder of the run of a recipe; there is one."""
        (found,) = self.storage.glob(f"runs/{name}-*")
        return found

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        """What MLflow's database answers."""
        database = sqlite3.connect(self.storage / "mlflow.db")
        try:
            return list(database.execute(query))
        finally:
            database.close()

    @property
    def aliases(self) -> dict[str, str]:
        """Versions of the registered model `digits` by alias."""
        return {alias: str(version) for alias, version in self.rows("SELECT alias, version FROM registered_model_aliases")}


def unpack(folder: Path) -> OldRoot:
    """Unpack it into an empty folder of this machine: its paths become those of the folder, the machine that made it this one."""
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(folder, filter="data")
    expected = json.loads((folder / "expected.json").read_text())
    changes = {expected["made_in"]: str(folder), HOST: socket.gethostname()}
    for path in folder.rglob("*"):
        if path.is_file() and path.suffix not in _BINARY:
            content = changed = path.read_bytes()
            for old, new in changes.items():
                changed = changed.replace(old.encode(), new.encode())
            if changed != content:
                path.write_bytes(changed)
    database = sqlite3.connect(folder / "storage" / "mlflow.db")
    for (table,) in list(database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")):
        for _, column, kind, *_ in list(database.execute(f"PRAGMA table_info('{table}')")):
            if kind.startswith(("VARCHAR", "TEXT")):
                for change in changes.items():
                    database.execute(f'UPDATE \'{table}\' SET "{column}" = replace("{column}", ?, ?)', change)
    database.commit()
    database.close()
    return OldRoot(folder, expected)
