from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from pixelmodels.tracking import source


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
    return subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout with one commit that this package seems to run from."""
    package = tmp_path / "pixelmodels"
    package.mkdir()
    (package / "__init__.py").write_text("")
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", "-A")
    git(tmp_path, "commit", "-q", "-m", "first")
    monkeypatch.setattr(source, "PACKAGE", package)
    monkeypatch.setattr(source, "git_state", source.git_state.__wrapped__)  # without its cache
    return tmp_path


def test_commit_and_whether_files_changed(checkout: Path) -> None:
    commit = git(checkout, "rev-parse", "HEAD")
    assert source.git_state() == (commit, False)
    assert source.source_tags()["mlflow.source.git.commit"] == commit
    (checkout / "pixelmodels" / "__init__.py").write_text("changed = True\n")
    assert source.git_state() == (commit, True)
    assert source.source_tags()["pixelmodels.git_changed"] == "true"


def test_commit_of_a_surrounding_project_is_not_taken(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inside = checkout / ".venv" / "pixelmodels"
    inside.mkdir(parents=True)
    monkeypatch.setattr(source, "PACKAGE", inside)
    assert source.git_state() == (None, False)
    assert "mlflow.source.git.commit" not in source.source_tags()


def test_no_git_is_fine(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    assert source.git_state() == (None, False)


def test_processes_that_are_gone() -> None:
    program = "from pixelmodels.tracking.source import process_identity; print(process_identity())"
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as process:
        gone = process.communicate()[0].strip()
    mine = source.process_identity()
    assert gone.startswith(f"{process.pid}@{socket.gethostname()}/") and source.is_gone(gone)
    assert not source.is_gone(mine)
    number, place, began = mine.split("@")
    assert source.is_gone(f"{number}@{place}@{int(began) - 1}")  # an earlier process had this number
    host, boot, namespace = place.split("/")
    elsewhere = (f"other/{boot}/{namespace}", f"{host}/{boot[::-1]}/{namespace}", f"{host}/{boot}/pid:[1]")
    for other in elsewhere:  # another host; the same name, another machine; a container beside this one
        assert not source.is_gone(gone.replace(place, other))
    for nothing in (None, "", "17", f"{process.pid}", "a@b@c", f"@{place}@{began}"):
        assert not source.is_gone(nothing)


def test_runs_of_earlier_versions_tell_host_and_number() -> None:
    with subprocess.Popen([sys.executable, "-c", "pass"]) as process:
        process.wait()
    here = {source.HOST_TAG: socket.gethostname(), source.PROCESS_TAG: str(process.pid)}
    assert source.has_ended(here)
    assert not source.has_ended({**here, source.PROCESS_TAG: str(os.getpid())})
    assert not source.has_ended({**here, source.HOST_TAG: "another-host"})
    assert not source.has_ended({**here, source.IDENTITY_TAG: source.process_identity()}) and not source.has_ended({})
