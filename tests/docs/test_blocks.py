"""What is run of a page, and what is not."""

from __future__ import annotations

from pathlib import Path

import pytest

from docs.pages.blocks import Block, blocks, masked
from tests.docs.run_pages import Failed, Runner, pages, rewrite

PAGE = """# Page

<!-- not run: no cloud -->
```bash
aws s3 ls
```

<!-- before: bash
echo hidden
-->

```python title="made.py"
x = 1
```

- in a list

    ```bash
    echo two \\
      words
    ```

<!-- shown -->
```text
two words
```
"""


@pytest.fixture
def page(tmp_path: Path) -> Path:
    (tmp_path / "page.md").write_text(PAGE)
    return tmp_path / "page.md"


def test_blocks_come_in_order_with_what_is_said_of_them(page: Path) -> None:
    found = [(one.line, one.language, one.text, one.title, one.not_run, one.is_shown) for one in blocks(page)]
    assert found == [
        (4, "bash", "aws s3 ls", None, "no cloud", False),
        (8, "bash", "echo hidden", None, None, False),
        (12, "python", "x = 1", "made.py", None, False),
        (18, "bash", "echo two \\\n  words", None, None, False),
        (24, "text", "two words", None, None, True),
    ]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("<!-- not run -->\n```bash\nx\n```\n", "1: 'not run' without a reason"),
        ("<!-- not run: it is long -->\nwords\n", "2: no block follows 'not run'"),
        ("```bash\nx\n", "1: the block does not end"),
    ],
)
def test_a_page_that_says_nothing_clear_is_refused(text: str, why: str, tmp_path: Path) -> None:
    (tmp_path / "page.md").write_text(text)
    with pytest.raises(ValueError, match=why):
        list(blocks(tmp_path / "page.md"))


def test_every_page_can_be_read_and_every_exception_has_a_reason() -> None:
    all_blocks = [block for page in pages() for block in blocks(page)]
    assert {block.language for block in all_blocks} <= {
        "bash",
        "python",
        "diff",
        "text",
        "yaml",
    }  # none without a language: it is run, or not
    assert all(block.not_run is None or len(block.not_run) > 5 for block in all_blocks)
    assert sum(block.not_run is None for block in all_blocks if block.language in ("bash", "python")) > 20


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("data set digits-fa0c3e5d19aa: 1,426 images in 2.31 s", "data set digits-0123456789ab: 1,427 images in 41 s"),
        ("trained in 3 min 5 s", "trained in 59 s"),
        ("a  \nb\n\n", "a\nb"),
    ],
)
def test_numbers_of_this_machine_do_not_count(one: str, other: str) -> None:
    assert masked(one) == masked(other)
    assert masked(f"{one} more") != masked(other)


@pytest.fixture
def runner(tmp_path: Path) -> Runner:
    """A runner without a workshop: commands as they are."""
    made = Runner.__new__(Runner)
    made.folder, made.state, made.port, made.not_run, made.shown = tmp_path / "work", tmp_path / "state", 8123, [], {}
    for folder in (made.folder, made.state):
        folder.mkdir()
    made.environment = {"PATH": "/usr/bin:/bin"}
    return made


def test_a_page_is_run_and_what_it_shows_must_be_true(runner: Runner, page: Path) -> None:
    runner.run(page, write=False)
    assert (runner.folder / "made.py").read_text() == "x = 1\n" and [one.text for one in runner.not_run] == ["aws s3 ls"]
    page.write_text(PAGE.replace('title="made.py"', 'title="other.py"').replace("text\ntwo words", "text\ntwo wordz"))
    with pytest.raises(Failed, match=r"page\.md:24: the page shows"):
        runner.run(page, write=False)


def test_what_is_printed_is_written_into_the_page(runner: Runner, page: Path) -> None:
    page.write_text(PAGE.replace("text\ntwo words", "text\nanything\nat all"))
    runner.run(page, write=True)
    rewrite(page, runner.shown)
    assert page.read_text() == PAGE


def test_a_command_that_fails_is_told_with_its_place(runner: Runner, page: Path) -> None:
    page.write_text("```bash\necho first\nfalse\necho not reached\n```\n")
    with pytest.raises(Failed, match=r"(?s)page\.md:1: status 1.*first") as told:
        runner.run(page, write=False)
    assert "not reached\n" not in str(told.value).partition("--- it printed")[2]


def test_lines_of_a_diff_are_added_after_the_line_before_them(runner: Runner, page: Path) -> None:
    (runner.folder / "table.py").write_text("a\nb\nc\n")
    runner._write(Block(page, 1, "diff", " b\n+new\n+newer\n c", title="table.py"))
    assert (runner.folder / "table.py").read_text() == "a\nb\nnew\nnewer\nc\n"
    with pytest.raises(Failed, match="has no line 'z'"):
        runner._write(Block(page, 1, "diff", " z\n+new", title="table.py"))
