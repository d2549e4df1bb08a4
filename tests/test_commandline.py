"""Mistakes on a command line: one line that names what is wrong."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest

from pixelmodels.commandline import parse, parse_one
from pixelmodels.errors import UserError


@dataclass(frozen=True)
class Options:
    """Some options."""

    epochs: int | None = None  # passes
    kind: Literal["one", "two"] = "one"  # of them


def test_what_parses():
    assert parse(Options, ["--epochs", "3"]) == Options(epochs=3)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--epochs", "two"], r"--epochs two cannot be taken; give "),
        (["--kind", "three"], r"'three'.*--kind.*'one', 'two'"),
        (["--epoch", "2"], r"--epoch.*did you mean --epochs\?"),
        (["--epochs"], r"Missing value.*--epochs"),
    ],
)
def test_mistakes_are_one_line(argv, message, capsys):
    with pytest.raises(UserError, match=message) as mistake:
        parse(Options, argv)
    assert "\n" not in str(mistake.value) and str(mistake.value).endswith("--help lists the options")
    assert capsys.readouterr() == ("", "")


def test_help_is_printed_and_ends_well(capsys):
    with pytest.raises(SystemExit) as end:
        parse(Options, ["--help"])
    assert end.value.code == 0
    assert "passes" in capsys.readouterr().out


@dataclass(frozen=True)
class Inner:
    rate: float = 1.0


@dataclass(frozen=True)
class Numbers:
    learning_rate: float | None = None
    limits: tuple[float, ...] = ()
    inner: Inner = Inner()


@pytest.mark.parametrize(
    ("arguments", "flag"),
    [
        (["--learning-rate", "inf"], "--learning-rate inf"),
        (["--learning-rate", "nan"], "--learning-rate nan"),
        (["--limits", "1", "-inf"], "--limits -inf"),
        (["--inner.rate", "1e999"], "--inner.rate inf"),
    ],
)
def test_numbers_that_are_none_are_told_with_their_flag(arguments: list[str], flag: str) -> None:
    with pytest.raises(UserError, match=f"^{flag} is no finite number; give one$"):
        parse(Numbers, arguments)
    assert parse(Numbers, ["--learning-rate", "1e-3"]).learning_rate == 0.001


@pytest.mark.parametrize(
    "words", [["--model", "runs/a", "--n", "3"], ["--n", "3", "--model", "runs/a"], ["--model=runs/a", "--n", "3"], ["--n=3", "runs/a"]]
)
def test_what_has_no_flag_may_be_given_one(words: list[str]) -> None:
    """`--model` is a flag of the service, and has none where a model is what a command is about."""
    from pixelmodels.samples.sample import Sample

    options = parse(Sample, words)
    assert (options.model, options.n) == ("runs/a", 3)


def test_a_flag_without_a_value_takes_none_from_another() -> None:
    from pixelmodels.samples.sample import Sample

    with pytest.raises(UserError):
        parse(Sample, ["--n", "3", "--model"])


@pytest.mark.parametrize("words", [["--label"], ["--label", "--n", "3"], ["--n", "3", "--label"]])
def test_a_flag_of_several_values_takes_one_at_least(words: list[str]) -> None:
    from pixelmodels.samples.sample import Sample

    with pytest.raises(UserError, match=r"^--label is given without a value; give one or more, or leave it out; --help lists the options$"):
        parse(Sample, ["runs/a", *words])
    assert parse(Sample, ["runs/a"]).label == () and parse(Sample, ["runs/a", "--label", "cat", "3"]).label == ("cat", "3")


def test_the_underscore_of_such_a_flag_is_no_way_around() -> None:
    from pixelmodels.training.options import TrainAll

    with pytest.raises(UserError, match=r"^--condition-on is given without a value"):
        parse(TrainAll, ["--condition_on", "--epochs", "3"])


def test_a_path_without_a_flag_is_told_with_the_flag(tmp_path: Path) -> None:
    from pipelines.inspect_data import Arguments
    from pixelmodels.samples.sample import Sample
    from pixelmodels.training.options import TrainAll

    folder = tmp_path / ("long " * 30) / "images"
    folder.mkdir(parents=True)
    there, quoted = str(folder), f"'{folder}'"
    for kind, flag in ((Arguments, "--path"), (TrainAll, "--data-path")):
        for path, shown in ((there, quoted), ("s3://bucket/images", "s3://bucket/images")):
            with pytest.raises(UserError, match="Unrecognized options: ") as mistake:
                parse(kind, [path])
            assert str(mistake.value).endswith(f"; give it with {flag}: {flag} {shown}; --help lists the options")
    for kind, words in (
        (Arguments, [f"{there}.gone"]),
        (Arguments, ["--path", there, there]),
        (Arguments, [f"--path={there}", there]),
        (Sample, ["runs/a", there]),
    ):
        with pytest.raises(UserError, match="Unrecognized options: ") as mistake:
            parse(kind, words)
        assert "give it with" not in str(mistake.value)


@pytest.mark.parametrize("words", [["16"], ["a", "b"], ["16", "16", "16"]])
def test_what_several_types_may_be_is_told(words: list[str]) -> None:
    from pixelmodels.data import DatasetConfig

    text = f"--size {' '.join(words)} cannot be taken; give None or INT INT; --help lists the options"
    with pytest.raises(UserError) as raised:
        parse(DatasetConfig, ["--size", *words])
    assert str(raised.value) == text
    assert parse(DatasetConfig, ["--size", "16", "8"]).size == (16, 8)


@pytest.mark.parametrize("words", [["--sutie", "photos", "--storage", "."], ["--epochz", "3", "--storage", "."], ["--only="]])
def test_a_mistyped_flag_is_no_bare_path(words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pixelmodels.training.options import TrainAll

    (tmp_path / "photos").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as raised:
        parse(TrainAll, words)
    told = str(raised.value)
    assert "give it with" not in told and ("did you mean --" in told or told.startswith("--only is given without a value"))


@dataclass(frozen=True)
class Others:
    """Others of another command."""

    word: str  # any


def test_one_of_several_commands(capsys: pytest.CaptureFixture[str]) -> None:
    kinds = {"first": Options, "second": Others}
    assert parse_one(kinds, ["first", "--epochs", "3"]) == Options(epochs=3)
    assert parse_one(kinds, ["second", "--word", "first"]) == Others("first")
    for argv, message in (
        ([], "no command given; give one of first, second; --help lists what they do"),
        (["secnd"], "command 'secnd' unknown; have first, second; did you mean 'second'?"),
        (["--epochs", "3"], "command '--epochs' unknown; have first, second"),
    ):
        with pytest.raises(UserError) as mistake:
            parse_one(kinds, argv)
        assert str(mistake.value) == message
    with pytest.raises(UserError, match="--epochs two cannot be taken"):
        parse_one(kinds, ["first", "--epochs", "two"])
    with pytest.raises(SystemExit):
        parse_one(kinds, ["--help"])
    assert capsys.readouterr().out.splitlines()[:2] == ["first     Some options.", "second    Others of another command."]
