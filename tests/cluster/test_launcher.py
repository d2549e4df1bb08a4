"""The files of Ray's launcher, held to its schema, to what it does with them, and to Amazon's description of a machine; offline."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from .files import CLUSTER, LAUNCHER, ROOT, broken, documents, files, launcher_commands, prepared

PRIVATE = 0o600


@pytest.fixture(params=LAUNCHER)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def validate(text: str) -> None:
    """As `ray up` does before it asks the cloud for anything."""
    from ray.autoscaler._private.util import validate_config

    validate_config(yaml.safe_load(text))


def full(text: str) -> str:
    return yaml.safe_dump(prepared(text))


def test_the_launcher_takes_the_file(name: str) -> None:
    validate(full(files()[name]))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("max_workers: 4\nidle", "max_worker: 4\nidle"),
        ("idle_timeout_minutes: 10", "idle_timeout_minutes: long"),
        ("resources: {CPU: 4}\n", "resource: {CPU: 4}\n"),
        ("resources: {CPU: 8, GPU: 1}", "resources: {CPU: 8.5, GPU: 1}"),
        ("head_node_type: head", "head_node_type: heads"),
    ],
)
def test_the_launcher_refuses_a_broken_file(name: str, old: str, new: str) -> None:
    with pytest.raises((jsonschema.ValidationError, ValueError, KeyError)):
        validate(full(broken(name, old, new)[name]))


def test_what_is_copied_to_machines_is_there(name: str) -> None:
    for local in prepared(files()[name])["file_mounts"].values():
        assert (ROOT / local).is_file(), local


def test_both_clouds_set_their_machines_up_alike() -> None:
    aws, gcp = (documents(files()[name])[0] for name in LAUNCHER)
    same = (
        "file_mounts",
        "cluster_synced_files",
        "setup_commands",
        "head_setup_commands",
        "worker_setup_commands",
        "worker_start_ray_commands",
    )
    assert {key: aws[key] for key in same} == {key: gcp[key] for key in same}
    starts = [[command.replace("gs://", "s3://") for command in one["head_start_ray_commands"]] for one in (aws, gcp)]
    assert starts[0] == starts[1]


@pytest.mark.parametrize("kind", ["head", "gpu_worker"])
def test_amazon_knows_every_field_of_a_machine(kind: str) -> None:
    assert _complaints(files()["aws.yaml"], kind) == ""


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("InstanceType: g6.2xlarge", "InstanceKind: g6.2xlarge"),
        ("InstanceMarketOptions: {MarketType: spot}", "InstanceMarketOptions: spot"),
        ("IamInstanceProfile: {Name: pixelmodels-worker}", "IamInstanceProfile: {Names: pixelmodels-worker}"),
        ("VolumeSize: 150", "VolumeSize: large"),
    ],
)
def test_amazon_does_not_know_a_broken_field(old: str, new: str) -> None:
    assert _complaints(broken("aws.yaml", old, new)["aws.yaml"], "gpu_worker")


def _complaints(text: str, kind: str) -> str:
    """What botocore's model of EC2, which comes with it, says to a request for such a machine."""
    import botocore.session
    from botocore.validate import ParamValidator

    shape = botocore.session.get_session().get_service_model("ec2").operation_model("RunInstances").input_shape
    request = {**prepared(text)["available_node_types"][kind]["node_config"], "MinCount": 1, "MaxCount": 1}
    return str(ParamValidator().validate(request, shape).generate_report())


def test_every_command_is_one_of_a_shell(name: str) -> None:
    for command in launcher_commands(files()[name]):
        subprocess.run(["bash", "-n", "-c", command], check=True)
    subprocess.run(["bash", "-n", CLUSTER / "node.sh"], check=True)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home folder as a machine has it after `setup_commands`, with this environment's programs."""
    programs = tmp_path / "venv" / "bin"
    programs.mkdir(parents=True)
    (programs / "python").write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    (programs / "ray").write_text(f'#!/bin/sh\nexec "{sys.executable}" -c "from ray.scripts.scripts import main; main()" "$@"\n')
    for program in programs.iterdir():
        program.chmod(0o755)
    (tmp_path / "node.sh").write_bytes((CLUSTER / "node.sh").read_bytes())
    return tmp_path


def shell(command: str, home: Path, **variables: str) -> str:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "MLFLOW_"))}
    done = subprocess.run(["bash", "-c", command], env={**kept, "HOME": str(home), **variables}, capture_output=True, text=True, check=True)
    return done.stdout


def test_a_head_makes_its_secrets_once_for_its_own_eyes(home: Path, name: str) -> None:
    token, password = home / ".ray" / "auth_token", home / ".mlflow" / "password"
    made: list[tuple[str, str]] = []
    for _ in range(2):
        said = "".join(shell(f"umask 022; {command}", home) for command in documents(files()[name])[0]["head_setup_commands"])
        assert [stat.S_IMODE(one.stat().st_mode) for one in (token, password)] == [PRIVATE, PRIVATE]
        assert [stat.S_IMODE(one.parent.stat().st_mode) for one in (token, password)] == [0o700, 0o700]
        made.append((token.read_text(), password.read_text().strip()))
        assert min(map(len, made[-1])) >= 32
        assert not any(secret in said for secret in made[-1])
    assert made[0] == made[1]
    synced = [one.replace("~", str(home)) for one in prepared(files()[name])["cluster_synced_files"]]
    assert synced == [str(token), str(password)]


def environment(home: Path, **variables: str) -> dict[str, str]:
    said = shell(f'. ~/node.sh; "{sys.executable}" -c "import json, os; print(json.dumps(dict(os.environ)))"', home, **variables)
    found: dict[str, str] = json.loads(said)
    return found


def test_machines_have_the_same_registry_and_a_token(home: Path) -> None:
    worker = environment(home, RAY_HEAD_IP="10.1.2.3")
    assert worker["RAY_AUTH_MODE"] == "token"
    assert worker["MLFLOW_TRACKING_URI"] == "http://10.1.2.3:5000"
    assert worker["PATH"].startswith(f"{home}/venv/bin:")
    assert "MLFLOW_TRACKING_PASSWORD" not in worker
    (home / ".mlflow").mkdir()
    (home / ".mlflow" / "password").write_text("a b\n")
    assert environment(home, RAY_HEAD_IP="10.1.2.3")["MLFLOW_TRACKING_PASSWORD"] == "a b"


def test_a_head_takes_its_own_address(home: Path) -> None:
    (home / "venv" / "bin" / "hostname").write_text("#!/bin/sh\necho '10.9.8.7 172.17.0.1 '\n")
    (home / "venv" / "bin" / "hostname").chmod(0o755)
    assert environment(home)["MLFLOW_TRACKING_URI"] == "http://10.9.8.7:5000"


def test_a_worker_without_a_gpu_does_not_join(home: Path) -> None:
    last: Any = documents(files()["aws.yaml"])[0]["worker_setup_commands"][-1]
    _, _, asks_torch = last.partition(" && ")
    done = subprocess.run(
        ["bash", "-c", asks_torch], env={**os.environ, "HOME": str(home), "CUDA_VISIBLE_DEVICES": ""}, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (1, "torch finds no GPU\n")


def test_mlflow_starts_beside_the_command_and_gets_no_secret_as_an_argument(home: Path, name: str) -> None:
    """A shell whose output somebody waits for, as the launcher does through SSH, ends at once; a second one starts nothing."""
    programs = home / "venv" / "bin"
    told = 'echo "$MLFLOW_AUTH_ADMIN_PASSWORD $*" > ~/asked; echo $$ > ~/.pid; mv ~/.pid ~/pid'
    (programs / "mlflow").write_text(f"#!/bin/sh\n{told}\nexec sleep 300\n")
    (programs / "curl").write_text("#!/bin/sh\ntest -e ~/pid\n")
    for program in ("mlflow", "curl"):
        (programs / program).chmod(0o755)
    (home / ".mlflow").mkdir()
    (home / ".mlflow" / "password").write_text("geheim\n")
    (command,) = [one for one in documents(files()[name])[0]["head_start_ray_commands"] if "mlflow server" in one]
    kept = {**os.environ, "HOME": str(home), "RAY_HEAD_IP": "10.1.2.3"}
    try:
        subprocess.run(["bash", "-c", command], env=kept, capture_output=True, check=True, timeout=60)
        give_up = time.monotonic() + 60
        while not (home / "pid").exists() and time.monotonic() < give_up:
            time.sleep(0.05)
        first = (home / "pid").read_text()
        password, _, arguments = (home / "asked").read_text().partition(" ")
        assert password == "geheim" and "geheim" not in arguments
        assert "--host 10.1.2.3 " in arguments
        subprocess.run(["bash", "-c", command], env=kept, capture_output=True, check=True, timeout=60)
        assert (home / "pid").read_text() == first
    finally:
        os.kill(int((home / "pid").read_text()), signal.SIGKILL)
