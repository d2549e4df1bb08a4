from __future__ import annotations

import csv
import io

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from pixelmodels.evaluation.leaderboard import (
    COLUMNS,
    LeaderboardRow,
    leaderboard_files,
    markdown,
    ordered,
    print_leaderboard,
    rich_table,
)

ROWS = [
    LeaderboardRow("pixelcnn", "discretized_logistic_mixture", 234567, 1.85, 0.0203, 82.1, 25000.0, 1812.3, 4175.2),
    LeaderboardRow("PNG", "baseline", None, 4.0271, None, 178.65, None, None, 0.02),
    LeaderboardRow("gated_pixelcnn", "categorical", 1234567, 1.7612, 0.021, 78.1, 15000.0, 12.34, 75.25),
    LeaderboardRow("uniform", "baseline", None, 4.0875, 0.0, 181.33, None, None, 0.0),
    LeaderboardRow("histogram", "baseline", None, 2.4328, 0.0107, 107.92, None, None, 0.0),
]


def test_baselines_first_then_models_by_bits() -> None:
    assert [row.model for row in ordered(ROWS)] == ["histogram", "PNG", "uniform", "gated_pixelcnn", "pixelcnn"]


def test_csv_has_the_columns_and_every_digit() -> None:
    reader = csv.DictReader(io.StringIO(leaderboard_files(ROWS, "digits")["leaderboard.csv"].decode()))
    assert (
        tuple(reader.fieldnames or ())
        == COLUMNS
        == (
            "model",
            "likelihood",
            "parameters",
            "test_bits_per_dim",
            "test_bits_per_dim_stderr",
            "test_nll_nats",
            "train_images_per_second",
            "samples_per_second",
            "seconds",
        )
    )
    lines = {line["model"]: line for line in reader}
    assert lines["PNG"]["parameters"] == lines["PNG"]["test_bits_per_dim_stderr"] == lines["PNG"]["samples_per_second"] == ""
    assert lines["gated_pixelcnn"]["parameters"] == "1234567"
    for row in ROWS:
        assert float(lines[row.model]["test_bits_per_dim"]) == row.test_bits_per_dim


def test_markdown() -> None:
    text = markdown(ROWS, "digits", ["a note"])
    assert text.startswith("# digits\n")
    assert "| gated_pixelcnn | categorical | 1,234,567 | 1.7612 ± 0.0210 | 78.10 | 15,000 | 12.3 | 75.2 s |" in text
    assert "| pixelcnn | discretized_logistic_mixture | 234,567 | 1.8500 ± 0.0203 | 82.10 | 25,000 | 1,812 | 1:09:35 |" in text
    assert "| PNG | baseline |  | 4.0271 | 178.65 |  |  | 0.0 s |" in text
    assert text.endswith("- a note\n")
    assert len({line.count("|") for line in text.splitlines() if line.startswith("|")}) == 1


@pytest.mark.parametrize("width", [60, 80, 100, 132, 200])
def test_terminal_shows_whole_numbers_at_any_width(width: int) -> None:
    console = Console(width=width, file=io.StringIO())
    console.print(rich_table(ROWS, "digits", width))
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert "…" not in shown
    for text in ("gated_pixelcnn", "1.7612 ± 0.0210", "2.4328 ± 0.0107"):
        assert text in shown
    assert ("1,234,567" in shown) == (width > 80)
    assert ("train img/s" in shown) == (width >= 132)


def test_a_log_file_gets_all_columns(capsys: pytest.CaptureFixture[str]) -> None:
    print_leaderboard(ROWS)
    out = capsys.readouterr().out
    assert "train img/s" in out and "15,000" in out and "\x1b" not in out


def test_files() -> None:
    files = leaderboard_files(ROWS, "digits")
    assert list(files) == ["leaderboard.md", "leaderboard.csv", "leaderboard.png"]
    picture = np.asarray(Image.open(io.BytesIO(files["leaderboard.png"])).convert("RGB")).reshape(-1, 3)
    for colour in ((0x2A, 0x6F, 0x97), (0xB8, 0xB8, 0xB8)):  # bars of models, bars of baselines
        assert (picture == colour).all(axis=1).sum() > 1000
    with pytest.raises(ValueError, match="at least one row"):
        leaderboard_files([], "digits")
