"""What MkDocs calls while it builds the site: adds the pages that are made, and settles links to files of the repository."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))  # the hook is a file of its own, not a module of a package

from docs.pages import commands, figures, http_api, python_api  # noqa: E402

PROJECT = {"CONTRIBUTING.md": "project/contributing.md", "CHANGELOG.md": "project/changelog.md"}
_LOADS = re.compile(r"""<(?:script|img|link|iframe|source)\b[^>]*\b(?:src|href)=["']?(?:https?:)?//[^>]*>""")
_LINK = re.compile(r"(\]\()([^)#\s]+)(#[^)\s]*)?(\))")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Guides that the navigation does not name are at its end, by the names of their files."""
    nav: list[Any] = list(config.nav or [])
    named = set(_names(nav))
    guides = next(part["Guides"] for part in nav if isinstance(part, dict) and "Guides" in part)
    guides += sorted(file.name for file in Path(config.docs_dir).glob("*.md") if file.name not in named)
    rooms = [f"reference/{path}" for path in python_api.pages() if path != "python.md"]
    benchmarks = [f"figures/{name}.md" for name in figures.results()]
    made = {"reference/python.md": {"Python": ["reference/python.md", *rooms]}}
    for part in nav:
        if isinstance(part, dict) and "Reference" in part:
            part["Reference"] = [made.get(name, name) for name in part["Reference"]]
        if isinstance(part, dict) and "Figures" in part:
            part["Figures"] = [*part["Figures"], *benchmarks]
    config.nav = nav
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add what is made: pages, plots, committed results with their pictures, and the project's own texts."""
    made: dict[str, str | bytes] = {"reference/commands.md": commands.page(), "reference/http.md": http_api.page()}
    made |= {f"reference/{path}": text for path, text in python_api.pages().items()}
    made |= {f"figures/{path}": text for path, text in figures.pages().items()}
    made |= {f"figures/{path}": picture for path, picture in figures.plots().items()}
    for name, path in PROJECT.items():
        made[path] = _outside((ROOT / name).read_text())
    for path, content in made.items():
        files.append(File.generated(config, path, content=content, inclusion=InclusionLevel.INCLUDED))
    for file in sorted(one for one in figures.RESULTS.iterdir() if one.suffix in (".json", ".csv", ".png")):
        path = f"results/{file.name}"
        files.append(File.generated(config, path, abs_src_path=str(file), inclusion=InclusionLevel.INCLUDED))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Links of pages to files outside `docs/` lead to the copies that the site has of them."""
    if page.file.generated_by is not None or "/" in page.file.src_uri:
        return markdown
    return _LINK.sub(lambda found: found[1] + _inside(found[2]) + (found[3] or "") + found[4], markdown)


def on_post_page(output: str, page: Page, config: MkDocsConfig) -> str:
    """See that a page loads nothing from elsewhere; links may lead there."""
    loaded = [tag for tag in _LOADS.findall(output) if 'rel="canonical"' not in tag]
    if loaded:
        raise PluginError(f"page '{page.file.src_uri}' loads from elsewhere: {loaded[0]}")
    return output


def _names(nav: object) -> Iterator[str]:
    if isinstance(nav, str):
        yield nav
    elif isinstance(nav, dict):
        for value in nav.values():
            yield from _names(value)
    elif isinstance(nav, list):
        for value in nav:
            yield from _names(value)


def _inside(link: str) -> str:
    """Where the site has what a page of `docs/` links to."""
    if link.startswith("../benchmarks/results/"):
        return "results/" + link.removeprefix("../benchmarks/results/")
    return PROJECT.get(link.removeprefix("../"), link) if link.startswith("../") else link


def _outside(text: str) -> str:
    """A text of the repository's root as a page of `project/`."""

    def settled(found: re.Match[str]) -> str:
        link = found[2]
        if link.startswith("docs/"):
            link = "../" + link.removeprefix("docs/")
        elif link.startswith("benchmarks/results/"):
            link = "../" + link.removeprefix("benchmarks/")
        elif link in PROJECT:
            link = PROJECT[link].removeprefix("project/")
        return found[1] + link + (found[3] or "") + found[4]

    return _LINK.sub(settled, text)
