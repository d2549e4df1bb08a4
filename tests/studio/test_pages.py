"""The studio's files: headers that let it load and call nothing but its service, and what they weigh."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from starlette.applications import Starlette
from starlette.testclient import TestClient

from pixelmodels.studio import pages

MOST_BYTES = 500_000
TEXTS = {name: file.data.decode() for name, file in pages.read_files().items()}


@pytest.fixture
def web() -> TestClient:
    return TestClient(Starlette(routes=pages.routes()))


def test_what_file_managers_leave_among_the_files_is_none_of_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "static" / "deep").mkdir(parents=True)
    for name in ("index.html", ".DS_Store", "main.js~", "Thumbs.db", "deep/one.svg", "deep/.one.swp", ".#main.js"):
        (tmp_path / "static" / name).write_bytes(b"x")
    monkeypatch.setattr(pages, "files", lambda _: tmp_path)
    assert set(pages.read_files()) == {"index.html", "deep/one.svg"}


def test_the_page_and_its_files_say_what_they_are(web: TestClient) -> None:
    for path, kind in (("/", "text/html"), ("/studio/main.js", "text/javascript"), ("/studio/studio.css", "text/css")):
        answer = web.get(path)
        assert answer.status_code == 200 and answer.headers["content-type"].startswith(kind)
        policy = dict(part.strip().split(" ", 1) for part in answer.headers["content-security-policy"].split(";"))
        assert policy["default-src"] == "'none'"
        assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
        assert "unsafe" not in answer.headers["content-security-policy"]
        assert answer.headers["x-content-type-options"] == "nosniff"


def test_a_file_that_the_browser_has_is_not_sent_again(web: TestClient) -> None:
    tag = web.get("/studio/api.js").headers["etag"]
    assert web.get("/studio/api.js", headers={"If-None-Match": tag}).status_code == 304
    assert web.get("/studio/dom.js", headers={"If-None-Match": tag}).status_code == 200


@pytest.mark.parametrize("path", ["/studio/none.js", "/studio/", "/studio/../pages.py", "/studio/%2e%2e/pages.py", "/studio//etc/passwd"])
def test_nothing_else_is_there(web: TestClient, path: str) -> None:
    assert web.get(path).status_code == 404


def test_below_a_prefix_addresses_are_those_of_the_prefix() -> None:
    page = TestClient(Starlette(routes=pages.routes()), root_path='/models/"x').get("/").text
    assert '<base href="/models/&quot;x/">' in page
    assert not re.search(r'(href|src)="/', TEXTS["index.html"])


@pytest.mark.parametrize("path, is_open", [("/", True), ("/studio/main.js", True), ("/studio", False), ("/v1/models", False), ("", False)])
def test_which_paths_need_no_key(path: str, is_open: bool) -> None:
    assert pages.is_page(path) == is_open


def test_all_files_weigh_little() -> None:
    assert sum(len(file.data) for file in pages.read_files().values()) < MOST_BYTES


def test_nothing_comes_from_elsewhere() -> None:
    known = {"http://www.w3.org/2000/svg"}  # a name, that nobody asks for
    for name, text in TEXTS.items():
        if not name.endswith(".md"):
            assert set(re.findall(r"https?://[^\s\"'`)]+", text)) <= known, name


def test_the_policy_is_kept_by_the_files_themselves() -> None:
    assert not re.search(r"<script(?![^>]*src=)|<style|\son\w+=|\sstyle=", TEXTS["index.html"])
    forbidden = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function|setAttribute\(\"style"
    for name, text in TEXTS.items():
        if name.endswith(".js"):
            assert not re.search(forbidden, text), name


def test_every_module_that_is_imported_is_there() -> None:
    for name, text in TEXTS.items():
        if name.endswith(".js"):
            for found in re.findall(r"from \"\./([^\"]+)\"", text):
                assert found in TEXTS, (name, found)
    for page in re.findall(r'<a href="#(\w+)">', TEXTS["index.html"]):
        assert f"{page}.js" in TEXTS or page == "main"
