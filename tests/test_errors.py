"""Mistakes of the user's are one line, whatever they come through; and what messages never show: the secrets in an address."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from pyarrow.fs import LocalFileSystem
from ray.exceptions import RayTaskError

from pixelmodels.errors import UserError, check_seed, exit_with, mistake_in, said_of, shown, without_files, without_logins
from pixelmodels.storage import Storage


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("http://bob:s3cret@host:5000", "http://***@host:5000"),
        ("http://bob:s3#c/r?e@t@host:5000/under", "http://***@host:5000/under"),
        ("http://bob:s3\ncret@host", "http://***@host"),
        ("https://t0ken@host", "https://***@host"),
        ("postgresql+psycopg2://bob:s3cret@host/db?sslmode=require", "postgresql+psycopg2://***@host/db?***"),
        ("mysql://host/db?user=bob&password=s3cret", "mysql://host/db?***"),
        ("s3://AKIA:s3/cret@bucket/prefix", "s3://***@bucket/prefix"),
        ("http://host:5000", "http://host:5000"),
        ("databricks://profile", "databricks://profile"),
        ("databricks", "databricks"),
        ("sqlite:////a/what?/me@home.db", "sqlite:////a/what?/me@home.db"),
        ("/a/folder/me@home", "/a/folder/me@home"),
        ("file:///a/me@home", "file:///a/me@home"),
        ("bob:s3cret@host:5000", "***@host:5000"),
        ("bob:s3cret", "bob:***"),
        ("//bob:s3cret@host:5000", "***@host:5000"),
        ("http:/bob:s3cret@host:5000", "http:/***@host:5000"),
        ("http://bob:s3cret", "http://bob:***"),
        ("http://bob:s3/cret", "http://bob:***"),
        ("sqlite://bob:s3cret@host/db", "sqlite://***@host/db"),
        ("postgresql://host/db?user=bob&password=s3@cret", "postgresql://***"),
        ("http://host:5000/some@path", "http://***@path"),
        ("http://[::1]:5000/under", "http://[::1]:5000/under"),
        ("http://host:/under", "http://host:/under"),
        ("localhost:5000", "localhost:5000"),
    ],
)
def test_an_address_is_shown_without_its_secrets(address: str, expected: str) -> None:
    assert shown(address) == expected


def test_a_text_loses_the_logins_of_addresses_in_it() -> None:
    text = "API request to http://bob:s3cret@host/api failed, 'https://t0ken@host' too; models:/digits@champion and s3://bucket/a@b stay"
    assert without_logins(text) == (
        "API request to http://***@host/api failed, 'https://***@host' too; models:/digits@champion and s3://bucket/a@b stay"
    )
    assert without_logins("of 'http:/bob:s3cret@host' and '//bob:s3cret@host'") == "of 'http:/***@host' and '//***@host'"


@pytest.mark.parametrize(
    ("address", "text", "said"),
    [
        ("postgresql://bob:s3%23cret@host/db", 'no password for user "bob" at "host"', 'no password for user "bob" at "host"'),
        ("postgresql://bob:s3%23cret@host/db", "cannot read host=host password=s3#cret", "OSError"),
        ("postgresql://host/db?password=s3cret", "cannot read password=s3cret", "OSError"),
        ("http://t0ken:@host", "no such name as t0ken", "OSError"),
        ("bob:s3cret@host", "cannot read 'bob:s3cret@host'", "OSError"),
        ("http://host:5000", "nobody at host:5000", "nobody at host:5000"),
    ],
)
def test_what_an_error_says_of_an_address_is_told_unless_its_secrets_are_in_it(address: str, text: str, said: str) -> None:
    assert said_of(address, OSError(text)) == said


def test_no_command_ends_with_a_login(capsys: pytest.CaptureFixture[str]) -> None:
    def main() -> int:
        raise UserError("nobody answers at 'http://bob:s3cret@host'")

    with pytest.raises(SystemExit) as ended:
        exit_with(main)
    assert ended.value.code == 2
    assert capsys.readouterr().err == "error: nobody answers at 'http://***@host'\n"


@pytest.mark.parametrize(
    "root",
    [
        "s3://AKIA:s3cret@bucket/prefix",
        "s3://AKIA:s3/cret@bucket/prefix",
        "s3://bucket?secret_key=s3cret",
        "s3://bucket/prefix?access_key=AKIA&secret_key=s3cret",
        "gs://bob:s3cret@bucket",
    ],
)
def test_a_storage_root_with_credentials_is_told_without_them(root: str) -> None:
    with pytest.raises(UserError) as error:
        Storage(root)
    assert "s3cret" not in str(error.value) and "cret@" not in str(error.value) and "bucket" in str(error.value)


def test_a_prefix_may_have_any_letters() -> None:
    assert Storage("s3://bucket/a@b/c?d=1").root == "s3://bucket/a@b/c?d=1"


def test_a_mistake_that_ray_has_wrapped_is_told_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    wrapped = RayTaskError("write", "a traceback\nof many lines", UserError("the disk is full; make room")).as_instanceof_cause()

    def main() -> int:
        raise wrapped

    with pytest.raises(SystemExit) as end:
        exit_with(main)
    assert end.value.code == 2 and capsys.readouterr().err == "error: the disk is full; make room\n"
    for other in (ValueError("x"), RayTaskError("f", "", KeyError("x"))):
        assert mistake_in(other) is None


@pytest.mark.parametrize("path", ["a" * 300, "folder/" * 900 + "a"], ids=["name", "folders"])
@pytest.mark.parametrize("kind", [Path.read_bytes, lambda path: LocalFileSystem().open_input_file(str(path))], ids=["python", "arrow"])
def test_a_path_that_is_too_long_is_the_user_s(path: str, kind: Callable[[Path], object], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        exit_with(lambda: kind(Path(path)))  # type: ignore[arg-type, return-value]
    said = capsys.readouterr().err
    assert end.value.code == 2 and said.startswith("error: a path is longer than its file system takes") and said.count("\n") == 1


def test_what_may_not_be_read_is_told_with_its_name(capsys: pytest.CaptureFixture[str]) -> None:
    def main() -> int:
        raise PermissionError(13, "Permission denied", "photos/private")

    with pytest.raises(SystemExit) as end:
        exit_with(main)
    said = "'photos/private' may not be read or written (Permission denied); change its permissions, or give another place"
    assert end.value.code == 2 and capsys.readouterr().err == f"error: {said}\n"
    assert mistake_in(PermissionError("of a socket")) is None


@pytest.mark.parametrize("seed", [None, 0, 20261128153000, 2**63, 2**64 - 1])
def test_whole_numbers_of_64_bits_are_seeds(seed: int | None) -> None:
    check_seed("--seed", seed)


@pytest.mark.parametrize("seed", [-1, 2**64, -(2**63), 10**30])
def test_other_numbers_are_told_with_the_range(seed: int) -> None:
    with pytest.raises(UserError, match=rf"^--seed {seed} is no seed; give a whole number from 0 to 18446744073709551615$"):
        check_seed("--seed", seed)


def test_a_folder_of_folders_is_told_as_such(tmp_path: Path) -> None:
    assert without_files(tmp_path, "give another") == "is a folder without files; give another"
    for name in ("cat", "dog", "eel", ".hidden"):
        (tmp_path / name).mkdir()
    told = "has no files of its own, only folders (cat, dog and 1 more), which are not gone through; give another, such as one of these"
    assert without_files(tmp_path, "give another") == told
