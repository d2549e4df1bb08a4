"""Every command that files and pages show is one that there is: pipelines, Ray, MLflow; and every variable one that is read."""

from __future__ import annotations

import dataclasses
import importlib
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from pixelmodels.commandline import parse
from pixelmodels.data.sources import check_has_files
from pixelmodels.recipes.suites import SUITES, suite
from tune_spaces import SPACES

from .files import CLUSTER, LAUNCHER, ROOT, broken, files, job_commands, launcher_commands, pods

PAGES = {path.name: path.read_text() for path in (ROOT / "docs" / "clusters.md", ROOT / "docs" / "security.md")}
COMMANDS = [(name, program, words) for name, program, words in job_commands({**files(), **PAGES})]


class _Parsed(Exception):
    """Holds the options of a command line that was understood."""


def options_of(program: str, words: list[str]) -> Any:
    """What a pipeline's own command line makes of some words; raises `UserError` as it does."""
    module = importlib.import_module(f"pipelines.{Path(program).stem}")

    def parse_only(kind: type[Any], argv: Any = None) -> None:
        raise _Parsed(parse(kind, words))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "parse", parse_only)
        with pytest.raises(_Parsed) as found:
            module.main()
    return found.value.args[0]


@pytest.mark.parametrize(
    ("name", "program", "words"), COMMANDS, ids=lambda value: " ".join(value)[:60] if isinstance(value, list) else value
)
def test_a_job_s_command_is_understood(name: str, program: str, words: list[str]) -> None:
    assert (ROOT / program).is_file()
    options = options_of(program, words)
    assert getattr(options, "suite", "digits") in SUITES
    assert getattr(options, "space", "architectures") in SPACES
    if hasattr(options, "suite") and options.dataset is None and not getattr(options, "dry_run", False):
        for recipe in suite(options.suite):
            path = options.data_path or recipe.dataset.path
            check_has_files(dataclasses.replace(recipe.dataset, path=path))  # raises where nobody has the images


def test_every_kind_of_job_is_shown() -> None:
    shown = {(name, Path(program).stem) for name, program, _ in COMMANDS}
    assert shown >= {("clusters.md", one) for one in ("train_all", "tune", "promote", "serve")}
    assert shown >= {("aws.yaml", "train_all"), ("gcp.yaml", "train_all"), ("rayjob-train.yaml", "train_all"), ("rayjob-tune.yaml", "tune")}


@pytest.mark.parametrize(
    ("name", "old", "new"), [("rayjob-train.yaml", "--num-workers", "--workers"), ("aws.yaml", "--use-gpu --storage", "--gpu --storage")]
)
def test_an_option_that_is_not_there_is_seen(name: str, old: str, new: str) -> None:
    from pixelmodels.errors import UserError

    (command,) = job_commands({name: broken(name, old, new)[name]})
    with pytest.raises(UserError, match=new.split()[0]):
        options_of(*command[1:])


def words_after(program: str, texts: dict[str, str]) -> list[tuple[str, list[str]]]:
    """Arguments of a program in the commands of the launcher's files and the shell blocks of pages."""
    lines = [(name, command) for name in LAUNCHER for command in launcher_commands(texts[name])]
    for name, text in PAGES.items():
        joined = re.sub(r"\\\n\s*", " ", "\n".join(re.findall(r"```bash\n(.*?)```", text, re.DOTALL)))
        lines += [(name, line) for line in joined.splitlines()]
    return [(name, shlex.split(found[1], comments=True)) for name, line in lines if (found := re.search(rf"\b{program} ([^|;&>]*)", line))]


def test_ray_start_has_every_option() -> None:
    from ray.scripts.scripts import start

    found = words_after("ray start", files())
    assert {name for name, _ in found} == {*LAUNCHER, "clusters.md"}
    for _, words in found:
        start.make_context("ray start", words)


@pytest.mark.parametrize("name", ["up", "down", "exec", "attach", "dashboard", "rsync-down", "rsync-up", "monitor", "get-head-ip"])
def test_the_launcher_has_every_command(name: str) -> None:
    from ray.scripts.scripts import cli

    command = cli.commands.get(name) or cli.commands[name.replace("-", "_")]
    found = words_after(f"ray {name}", {**files()})
    for where, words in found:
        context = command.make_context(name, [one for one in words if one not in (")", "$HEAD_IP")])
        assert (ROOT / str(context.params["cluster_config_file"])).is_file(), where


def test_mlflow_has_every_option() -> None:
    from mlflow.cli import server

    found = words_after("mlflow server", files())
    assert len(found) == len(LAUNCHER) + 1
    in_pod = [pod.containers[0] for pod in pods(files()) if "mlflow" in pod.spec["containers"][0]["name"]]
    found += [("mlflow.yaml", [*one["command"][2:], *one["args"]]) for one in in_pod]
    for _, words in found:
        server.make_context("mlflow server", words)


# Read by programs whose sources are not here.
_BY_OTHERS = re.compile(
    r"PATH|HEAD_IP|PG(HOST|USER|PASSWORD|DATA)|POSTGRES_(DB|USER|PASSWORD)|NVIDIA_(VISIBLE_DEVICES|DRIVER_CAPABILITIES)"
    r"|PYTHON(UNBUFFERED|DONTWRITEBYTECODE)|PIP_DISABLE_PIP_VERSION_CHECK|TORCH_INDEX"
)


def variables() -> set[str]:
    """Every environment variable that a file sets."""
    in_pods = {variable["name"] for pod in pods(files()) for one in pod.containers for variable in one.get("env", ())}
    in_shells = re.findall(r"(?<![\w$.-])([A-Z][A-Z0-9_]{2,}|RAY_\w+|no_grpc_proxy)=", "\n".join(files().values()))
    return in_pods | set(in_shells)


def test_every_variable_is_one_that_somebody_reads() -> None:
    import botocore
    import mlflow
    import ray

    of_ray = [
        "_private/authentication",
        "_private/runtime_env/image_uri.py",
        "_common/usage/usage_constants.py",
        "dashboard/utils.py",
        "_private/ray_constants.py",
    ]
    places = [
        ROOT / "pixelmodels",
        Path(mlflow.__file__).parent / "environment_variables.py",
        Path(botocore.__file__).parent / "credentials.py",
    ]
    places += [Path(ray.__file__).parent / one for one in of_ray]
    sources = [path for place in places for path in (place.rglob("*.py") if place.is_dir() else [place])]
    read = set(re.findall(r"\b\w+\b", "\n".join(path.read_text() for path in sources)))
    found = {name for name in variables() if not _BY_OTHERS.fullmatch(name)}
    assert {"RAY_AUTH_MODE", "MLFLOW_TRACKING_URI", "PIXELMODELS_API_KEYS", "AWS_ACCESS_KEY_ID"} <= found
    assert found - read == set()


def secrets_made() -> dict[str, set[str]]:
    """Keys of the Secrets that the commands of clusters.md make, by name."""
    text = re.sub(r"\\\n\s*", " ", PAGES["clusters.md"])
    return {
        found[1]: set(re.findall(r"--from-literal=([\w-]+)=", found[2]))
        for found in re.finditer(r"create secret generic ([\w-]+) (.*)", text)
    }


def test_every_secret_is_made_by_the_commands_of_the_page() -> None:
    wanted: dict[str, set[str]] = {}
    for pod in pods(files()):
        for container in pod.containers:
            for variable in container.get("env", ()):
                reference = variable.get("valueFrom", {}).get("secretKeyRef")
                if reference:
                    wanted.setdefault(reference["name"], set()).add(reference["key"])
    assert wanted == secrets_made()


def test_the_page_names_every_file() -> None:
    names = {path.name for path in CLUSTER.iterdir() if path.suffix in (".yaml", ".sh", ".lock") or path.name == "Dockerfile"}
    assert {name for name in names if name not in PAGES["clusters.md"]} == set()


def test_the_readme_points_to_the_pages() -> None:
    text = (ROOT / "README.md").read_text()
    assert "docs/clusters.md" in text and "docs/security.md" in text
