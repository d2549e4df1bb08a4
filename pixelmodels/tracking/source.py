"""Which code, on which machine, by whom: the tags that say where a run came from."""

from __future__ import annotations

import functools
import getpass
import importlib.metadata
import os
import socket
import subprocess
import sys
from pathlib import Path

COMMIT_TAG = "mlflow.source.git.commit"
HOST_TAG = "pixelmodels.host"
PROCESS_TAG = "pixelmodels.process"
PACKAGE = Path(__file__).resolve().parents[1]  # the folder of `pixelmodels`


def source_tags() -> dict[str, str]:
    """Tags of whoever runs this process: user, program, git commit (when run from a checkout), package version, host and process."""
    try:
        user = getpass.getuser()
    except (OSError, KeyError):
        user = "unknown"
    tags = {
        "mlflow.user": user,
        "mlflow.source.name": Path(sys.argv[0]).name or "python",
        "mlflow.source.type": "LOCAL",
        HOST_TAG: socket.gethostname(),
        PROCESS_TAG: str(os.getpid()),
        "pixelmodels.version": package_version(),
    }
    commit, changed = git_state()
    if commit is not None:
        tags[COMMIT_TAG] = commit
        tags["pixelmodels.git_changed"] = str(changed).lower()  # whether files differ from that commit
    return tags


def package_version() -> str:
    """Version of the installed package, or `unknown` when it runs from a bare folder."""
    try:
        return importlib.metadata.version("pixelmodels")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


@functools.cache
def git_state() -> tuple[str | None, bool]:
    """The commit of the checkout that this package runs from, and whether tracked files differ from it; (None, False) outside one."""
    root = PACKAGE.parent
    top = _git(root, "rev-parse", "--show-toplevel")
    # A package inside some other project's checkout (in its .venv, say) must not report that project's commit.
    if top is None or Path(top).resolve() != root:
        return None, False
    return _git(root, "rev-parse", "--verify", "--quiet", "HEAD") or None, bool(_git(root, "status", "--porcelain", "--untracked-files=no"))


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def is_gone(host: str | None, process: str | None) -> bool:
    """Whether a process that wrote these tags is known to have ended: it ran on this host, and no process has its number now."""
    if host != socket.gethostname() or not process or not process.isdigit():
        return False
    try:
        os.kill(int(process), 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return False
