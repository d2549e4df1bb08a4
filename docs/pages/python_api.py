"""Pages of the library, a page a room: the docstrings of its modules, which mkdocstrings reads from the source without importing it."""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).parents[2]
FIRST = ("models", "likelihoods", "sampling", "data", "recipes", "evaluation", "runs", "compression", "serving")


def pages() -> dict[str, str]:
    """Markdown by the page's path below `reference/`."""
    library = ROOT / "pixelmodels"
    rooms = sorted(folder.name for folder in library.iterdir() if (folder / "__init__.py").exists())
    rooms = [name for name in FIRST if name in rooms] + [name for name in rooms if name not in FIRST]
    made = {f"python/{room}.md": _room(f"pixelmodels.{room}", library / room) for room in rooms}
    single = [file for file in sorted(library.glob("*.py")) if file.stem != "__init__"]
    lines = [f"- [`pixelmodels.{room}`](python/{room}.md): {_first_line(library / room / '__init__.py')}" for room in rooms]
    head = [
        "# Python",
        "Made from the docstrings. The first rooms are those that programs use; what the others do the commands do for you.",
        "\n".join(lines),
        "## pixelmodels\n\n::: pixelmodels.load",
        *(f"## pixelmodels.{file.stem}\n\n{_directive(f'pixelmodels.{file.stem}')}" for file in single),
    ]
    return {**made, "python.md": "\n\n".join(head) + "\n"}


def _room(name: str, folder: Path) -> str:
    files = [file for file in sorted(folder.rglob("*.py")) if file.stem != "__init__" and not file.stem.startswith("_")]
    parts = [f"# {name}", _first_line(folder / "__init__.py")]
    for file in files:
        module = ".".join([name, *file.relative_to(folder).with_suffix("").parts])
        parts += [f"## {module.removeprefix('pixelmodels.')}", _directive(module)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _directive(module: str) -> str:
    """What is public in a module, without a heading of the module's own."""
    return f"::: {module}\n    options:\n      show_root_heading: false\n      show_root_toc_entry: false"


def _first_line(file: Path) -> str:
    return (ast.get_docstring(ast.parse(file.read_text())) or "").partition("\n")[0]
