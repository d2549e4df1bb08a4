"""A user's mistakes: exit status 2 and one line on stderr that names the value and the choices."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pipelines import evaluate, train_all
from pixelmodels.errors import exit_with

ROOT = Path(__file__).resolve().parents[2]


def line_of(main: object, argv: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as leaving:
        exit_with(lambda: main(argv))  # type: ignore[operator]
    assert leaving.value.code == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1, lines
    return lines[0]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--suite", "digts"], ["suite 'digts' unknown", "digits, photos", "did you mean 'digits'"]),
        (["--only", "pixelcn"], ["model 'pixelcn' unknown", "did you mean 'pixelcnn'"]),
        (["--exclude", "resnet"], ["model 'resnet' unknown"]),
        (["--only", "pixelcnn", "--exclude", "pixelcnn"], ["leave no model"]),
        (["--dataset", "mnist"], ["data set 'mnist' unknown", "prepare_data.py"]),
        (["--likelihood", "mixx"], ["likelihood 'mixx' unknown", "discretized_logistic_mixture"]),
        (["--epochs", "0"], ["epochs is 0"]),
        (["--learning-rate", "-1"], ["learning_rate is -1"]),
        (["--num-workers", "0"], ["--num-workers 0"]),
    ],
)
def test_train_all_tells_mistakes_in_one_line(
    arguments: list[str], words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = line_of(train_all.main, [*arguments, "--storage", str(tmp_path / "storage")], capsys)
    for word in words:
        assert word in line


@pytest.mark.parametrize("root", ["/proc/pixelmodels", __file__, "ftp://host/folder"])
def test_a_storage_root_that_cannot_be_written_is_named(root: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert root in line_of(train_all.main, ["--storage", root], capsys)


def test_evaluate_tells_mistakes_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    storage = ["--storage", str(tmp_path)]
    assert "data set 'mnist' unknown" in line_of(evaluate.main, ["runs/none", "--dataset", "mnist", *storage], capsys)


def test_a_mistake_in_a_process_of_its_own() -> None:
    command = [sys.executable, str(ROOT / "pipelines" / "train_all.py"), "--suite", "digts"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=120, check=False)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1 and done.stderr.startswith("error: suite 'digts' unknown")
