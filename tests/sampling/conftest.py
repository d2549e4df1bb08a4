"""What tests of sampling share."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def compiled_functions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of compiled functions for all tests of a process."""
    folder = tmp_path_factory.mktemp("compiled")
    folder.chmod(0o700)
    return folder
