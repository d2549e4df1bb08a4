"""Runs the commands and the Python of README and pages: `make test-docs`.

    python -m tests.docs.run_pages                     # all pages
    python -m tests.docs.run_pages README.md start.md  # some
    python -m tests.docs.run_pages --keep /tmp/pages start.md    # in a folder that stays: what was run there before is not run again
    python -m tests.docs.run_pages --write             # and write what they print into the pages' blocks that show it

Pages are run in the order of `ORDER`, each from its beginning to its end, all in one copy of this checkout (`workshop.py`). What a block
that is shown says must be what the block before it printed, but for numbers. Blocks that are not run say why; the reasons are listed.
Status 1 where something failed.
"""

from __future__ import annotations

import argparse
import re
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from docs.pages.blocks import Block, blocks, masked
from tests.docs import quick_python
from tests.docs.workshop import ROOT, make_workshop

# Pages that go on from what others made come after them; those that are not named come last.
ORDER = ("README", "start", "own_images", "data", "conditions", "sampling", "promotion", "orders", "compression", "tuning", "serving")
LAST = ("adding",)  # it changes the tables of architectures: what was trained before still loads, so the others may come first
RUN = re.compile(r"(?<![\w./-])RUN(?!\w)")  # the run that a page last trained


def pages() -> list[Path]:
    """README and all pages, in the order in which they are run."""
    found = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]

    def place(page: Path) -> tuple[int, str]:
        name = page.stem
        return (ORDER.index(name) if name in ORDER else len(ORDER) + (name in LAST), name)

    return sorted(found, key=place)


class Failed(Exception):
    """A block that did not do what the page says."""


class Runner:
    """Runs blocks, in one workshop."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "pixelmodels"
        self.state = folder / "state"
        for made in (self.folder, self.state):
            made.mkdir(parents=True, exist_ok=True)
        self.environment = make_workshop(self.folder)
        self.port = _free_port()
        self.environment["PIXELMODELS_DOCS_PORT"] = str(self.port)
        self.not_run: list[Block] = []
        self.shown: dict[Block, str] = {}  # what was printed, by the block that shows it

    def run(self, page: Path, *, write: bool) -> None:
        """Run a page; raises `Failed` at its first block that fails."""
        printed, python = "", []
        for block in blocks(page):
            if block.not_run is not None:
                self.not_run.append(block)
            elif block.is_shown:
                self._compare(block, printed, write=write)
            elif block.title is not None:
                self._write(block)
            elif block.language == "bash":
                printed = self._command(["bash", "-e", "-o", "pipefail", "-c", self._as_here(block.text, is_shell=True)], block)
            elif block.language == "python":
                python.append(block)  # a page's blocks share their names
                printed = self._python(python, block)

    def close(self) -> None:
        """End what was left running."""
        record = self.state / "service.json"
        if record.exists():
            quick_python.end(record)

    def _as_here(self, text: str, *, is_shell: bool = False) -> str:
        text, newest = text.replace("127.0.0.1:8000", f"127.0.0.1:{self.port}"), self.state / quick_python.NEWEST
        if is_shell:  # a command before it may train another one
            return RUN.sub(f"$(cat {shlex.quote(str(newest))})", text)
        return RUN.sub(newest.read_text() if newest.exists() else "none", text)

    def _python(self, all_blocks: Sequence[Block], block: Block) -> str:
        """Run a page's block after those before it, whose names it may use; what these print is not told again."""
        script = self.state / f"{block.page.stem}.py"
        earlier = "\n".join(self._as_here(one.text) for one in all_blocks[:-1])
        quiet = (
            f"import contextlib as _c, io as _i\nwith _c.redirect_stdout(_i.StringIO()):\n    exec({earlier!r}, globals())\n"
            if earlier
            else ""
        )
        script.write_text(quiet + self._as_here(block.text) + "\n")
        return self._command(["python", str(script)], block)

    def _command(self, command: list[str], block: Block) -> str:
        started = time.monotonic()
        done = subprocess.run(command, cwd=self.folder, env=self.environment, stdin=subprocess.DEVNULL, capture_output=True, text=True)
        print(f"{block}: {time.monotonic() - started:.1f} s", flush=True)
        if done.returncode:
            raise Failed(f"{block}: status {done.returncode}\n{block.text}\n--- it printed\n{done.stdout[-4000:]}{done.stderr[-4000:]}")
        return done.stdout

    def _write(self, block: Block) -> None:
        """Write a block into the file that its title names, or add the lines of a `diff` to it."""
        file = self.folder / str(block.title)
        if block.language != "diff":
            if (ROOT / str(block.title)).exists():
                raise Failed(f"{block}: '{block.title}' is there already")
            file.write_text(block.text + "\n")
            return
        lines, before = file.read_text().splitlines(), ""
        for line in block.text.splitlines():
            if not line.startswith("+"):
                before = line[1:]
                if before not in lines:
                    raise Failed(f"{block}: '{block.title}' has no line '{before}'")
            else:
                lines.insert(lines.index(before) + 1, line[1:])
                before = line[1:]
        file.write_text("\n".join(lines) + "\n")

    def _compare(self, block: Block, printed: str, *, write: bool) -> None:
        told = printed.replace(f"{self.folder}/", "").replace(f"127.0.0.1:{self.port}", "127.0.0.1:8000").rstrip()
        if write:
            self.shown[block] = told
        elif masked(told) != masked(block.text):
            raise Failed(
                f"{block}: the page shows\n{block.text}\n--- and what was printed is\n{told}\n--- ARGS=--write writes it into the page"
            )


def rewrite(page: Path, shown: dict[Block, str]) -> None:
    """Put what was printed into the page's blocks that show it."""
    lines = page.read_text().splitlines()
    for block in sorted(shown, key=lambda one: one.line, reverse=True):
        length = len(block.text.splitlines())
        lines[block.line : block.line + length] = shown[block].splitlines()
    page.write_text("\n".join(lines) + "\n")


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def _chosen(names: Sequence[str]) -> Iterator[Path]:
    found = pages()
    for name in names:
        if not any(Path(name).name == page.name for page in found):
            sys.exit(f"error: no page '{name}'; have {', '.join(page.name for page in found)}")
    return (page for page in found if not names or page.name in {Path(name).name for name in names})


def main() -> int:
    """Run the pages that the command line names; all unless it does."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("pages", nargs="*")
    parser.add_argument("--write", action="store_true", help="write what is printed into the blocks that show it")
    parser.add_argument(
        "--keep", type=Path, metavar="FOLDER", help="work there, and go on from what is there, instead of a folder for once"
    )
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the service ends with it
    failures: list[str] = []
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="pixelmodels-docs-") as folder:
        runner = Runner(options.keep.absolute() if options.keep else Path(folder))
        try:
            for page in _chosen(options.pages):
                try:
                    runner.run(page, write=options.write)
                except (Failed, ValueError) as error:
                    failures.append(str(error))
                    print(error, flush=True)
                shown = {block: text for block, text in runner.shown.items() if block.page == page}
                if shown:
                    rewrite(page, shown)
        finally:
            runner.close()
    print("\nnot run:")
    for block in runner.not_run:
        print(f"  {block}: {block.not_run}")
    seconds = time.monotonic() - started
    print(f"\n{len(failures)} page(s) failed" if failures else "\nall pages passed", f"in {seconds:.0f} s")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
