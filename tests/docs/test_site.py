"""Pages that are made have all that they are made of."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from docs import tables
from docs.pages import commands, figures, http_api, python_api

ROOT = Path(__file__).parents[2]


def test_every_flag_of_a_command_is_on_its_page() -> None:
    text = commands.page()
    for name in commands.names():
        assert f"## {name}.py" in text
    assert "--num-workers" in text and "--known-side" in text and "$ python pipelines/compress.py encode --help" in text
    assert "| `make train` |" in text and "\x1b" not in text


def test_every_path_and_every_field_of_the_service_is_on_its_page() -> None:
    text, found = http_api.page(), http_api.document()
    for path, methods in found["paths"].items():
        assert all(f"## {method.upper()} {path}\n" in text for method in methods)
    for name, schema in found["components"]["schemas"].items():
        section = text.partition(f"### {name}\n")[2].partition("\n### ")[0]
        assert section and all(f"| `{field}` |" in section for field in schema.get("properties", {}))


def test_every_module_of_the_library_is_on_a_page() -> None:
    text = "\n".join(python_api.pages().values())
    modules = {
        ".".join(file.relative_to(ROOT).with_suffix("").parts)
        for file in (ROOT / "pixelmodels").rglob("*.py")
        if file.stem != "__init__" and not file.stem.startswith("_")
    }
    assert modules - set(re.findall(r"^::: (\S+)$", text, re.MULTILINE)) == set()


def test_every_committed_result_is_a_figure_with_command_table_and_plot() -> None:
    made, plots = figures.pages(), figures.plots()
    for file in sorted(figures.RESULTS.glob("*")):
        if file.suffix in (".json", ".csv", ".png"):
            assert any(f"../results/{file.name})" in text for text in made.values()) or file.with_suffix(".json").exists(), file.name
    for name, found in figures.results().items():
        text = made[f"{name}.md"]
        assert figures.command(name) and figures.command(name) in text
        for result in found:
            section = text.partition(f"## {result.parts[1]}\n")[2].partition("\n## ")[0]
            assert "|:---|" in section or "|---:|" in section, result.path.name
            assert "![" in section, f"{result.path.name} has no picture: commit one, or give its bars in figures.PLOTS"
    assert all(picture.startswith(b"<?xml") for picture in plots.values())


def test_a_result_without_a_date_is_told(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="has no date in its name"):
        _ = figures.Result(tmp_path / "speed.json").parts


def test_tables_have_what_results_have() -> None:
    rows = [{"name": "a|b", "part": {"x": 0.12345, "y": None}}, {"name": "c", "part": {"x": 12345.6}, "ok": True}]
    assert figures.table(rows) == "\n".join(
        ["| name | part.x | part.y | ok |", "|:---|---:|---:|---:|", "| a\\|b | 0.1235 |  |  |", "| c | 12,346 |  | yes |"]
    )


def test_tables_of_the_readme_are_those_of_the_results() -> None:
    for page in tables.PAGES:
        assert page.read_text() == tables.with_tables(page.read_text()), "run python docs/tables.py"
    newest = json.loads(max(figures.RESULTS.glob("main_job-*.json")).read_text())
    assert all(f"| {row['model']} |" in tables.PAGES[0].read_text() for row in newest["leaderboard"])


def test_links_of_the_projects_own_texts_lead_somewhere() -> None:
    for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md"):
        links = re.findall(r"\]\((?!https?:)([^)#]+)", (ROOT / name).read_text())
        assert [link for link in links if not (ROOT / link).exists()] == []


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 104
