"""Which code, on which machine, by whom: the tags that say where a run came from."""

from __future__ import annotations

import functools
import getpass
import importlib.metadata
import os
import socket
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

COMMIT_TAG = "mlflow.source.git.commit"
HOST_TAG = "pixelmodels.host"
PROCESS_TAG = "pixelmodels.process"
IDENTITY_TAG = "pixelmodels.process_identity"
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
        IDENTITY_TAG: process_identity(),
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


def process_identity() -> str:
    """What tells this process from all others, of other machines and containers too: its number, where that counts, when it began."""
    return f"{os.getpid()}@{_place()}@{_began(os.getpid())}"


def is_gone(identity: object) -> bool:
    """Whether the process with an identity is known to have ended: it ran here, and no process has its number now, or a later one has.

    Of what ran elsewhere nothing is known, nor of what is no identity.
    """
    number, at, rest = str(identity).partition("@")
    place, _, began = rest.rpartition("@")
    if not at or place != _place() or not number.isdigit():
        return False
    try:
        os.kill(int(number), 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return began != _began(int(number))


def has_ended(tags: Mapping[str, str]) -> bool:
    """Whether the process that wrote a run's tags is known to have ended; those of earlier versions tell host and number only."""
    if IDENTITY_TAG in tags:
        return is_gone(tags[IDENTITY_TAG])
    number = tags.get(PROCESS_TAG, "")
    if tags.get(HOST_TAG) != socket.gethostname() or not number.isdigit():
        return False
    try:
        os.kill(int(number), 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return False


@functools.cache
def _place() -> str:
    """Where process numbers count: the host, since it was started, and the container. Containers may share a host's name, or its start."""
    boot = namespace = ""
    with suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    with suppress(OSError):
        namespace = os.readlink("/proc/self/ns/pid")
    return f"{socket.gethostname()}/{boot}/{namespace}".replace(" ", "")


def _began(number: int) -> str:
    """When a process began, in ticks since the machine was started; empty where the system does not tell."""
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""
