from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from pixelmodels import ray_cluster
from pixelmodels.errors import UserError

PROGRAM = """
import json, os, stat
from pathlib import Path
from pixelmodels.ray_cluster import connect
connect(num_cpus=2)
connect()  # joins what is there
import ray
ray.data.range(4, override_num_blocks=1).map(lambda row: row).take_all()
token = Path.home() / ".ray" / "auth_token"
print(json.dumps({
    "address": ray.get_runtime_context().gcs_address,
    "cpus": ray.cluster_resources()["CPU"],
    "token_mode": oct(stat.S_IMODE(token.stat().st_mode)),
    "auth": os.environ["RAY_AUTH_MODE"],
}))
"""


def test_a_local_ray_is_quiet_private_and_keeps_its_token_to_itself(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment |= {"HOME": str(tmp_path), "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["address"].startswith("127.0.0.1:")
    assert (told["cpus"], told["token_mode"], told["auth"]) == (2, "0o600", "token")
    assert done.stderr == ""


def test_a_cluster_that_does_not_answer_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{unused.getsockname()[1]}"
    monkeypatch.setenv("RAY_ADDRESS", address)
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    monkeypatch.setattr("ray.init", None)  # must not come to that
    with pytest.raises(UserError, match=rf"RAY_ADDRESS '{address}' cannot be joined .*unset RAY_ADDRESS"):
        ray_cluster.connect()


@pytest.mark.parametrize("home", ["nowhere", "file", ""])
def test_a_home_folder_that_takes_no_token_is_told(home: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("HOME", str(tmp_path / home / "of me") if home else "/proc")
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    monkeypatch.setattr("ray.init", None)  # must not come to that
    with pytest.raises(UserError, match=r"token in the home folder, which cannot be written \(.*\); set HOME to a folder that can be"):
        ray_cluster.connect()


@pytest.mark.parametrize(
    ("variable", "folder", "remedy"),
    [
        ("TMPDIR", "x" * 100, "set RAY_TMPDIR to a folder with a shorter name, such as /tmp"),
        ("RAY_TMPDIR", f"{'x' * 60}/{'y' * 60}", "set RAY_TMPDIR to a folder with a shorter name, such as /tmp"),
        ("RAY_TMPDIR", "/proc/x", "set RAY_TMPDIR to a folder that can be written"),
    ],
)
def test_a_folder_that_holds_no_session_is_told(variable: str, folder: str, remedy: str, tmp_path: Path) -> None:
    if not folder.startswith("/"):
        (tmp_path / folder).mkdir(parents=True)
    program = "from pixelmodels import errors, ray_cluster; errors.exit_with(lambda: ray_cluster.connect(1))"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment |= {variable: str(tmp_path / folder), "HOME": str(tmp_path), "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert done.stderr.startswith("error: a local Ray cannot be started (") and done.stderr.endswith(f"; {remedy}\n")


HANGS = """
import sys, threading
from pixelmodels import errors
errors.THREADS_END_S = 0.2
def main():
    threading.Thread(target=threading.Event().wait).start()
    raise KeyboardInterrupt
errors.exit_with(main)
"""


def test_threads_that_wait_for_what_is_gone_do_not_hold_up_the_end() -> None:
    done = subprocess.run([sys.executable, "-c", HANGS], capture_output=True, text=True, timeout=240)
    assert (done.returncode, done.stderr) == (130, "interrupted\n")


TERMINATED = """
import os, signal
from pixelmodels import ray_cluster
from pixelmodels.errors import exit_with
def main():
    ray_cluster.connect(num_cpus=1)
    os.kill(os.getpid(), signal.SIGTERM)
    signal.pause()
exit_with(main)
"""


def test_sigterm_ends_a_program_that_works_with_ray_in_order() -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    done = subprocess.run([sys.executable, "-c", TERMINATED], env=environment, capture_output=True, text=True, timeout=240)
    assert (done.returncode, done.stderr) == (143, "ended by SIGTERM\n")
