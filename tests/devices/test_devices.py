"""Nothing is on the wrong device, and no training step waits for one: on a pretended GPU, in processes of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from pixelmodels.models import ARCHITECTURES

ROOT = Path(__file__).parents[2]
STEPS = ("training step", "step after", "trained state", "moments put back")
DRAWN = (" sample", " known pixels", " options", " guidance", " blend")
NUM_ROWS = 6  # of the images that are drawn, and of the small ones that a multi-scale model draws before
MOST_WAITS = 2 * NUM_ROWS  # of a batch of images: one a row, and what of their context or of what is known comes from the host


def done(scenario: str) -> dict[str, dict[str, Any]]:
    """What a process tells of a scenario, by what was done."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tests.devices.scenarios", scenario]
    ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr[-2000:]
    rows = [json.loads(line) for line in ended.stdout.splitlines() if line.startswith("{")]
    return {row.pop("what"): row for row in rows}


def test_the_pretended_device_refuses_and_counts() -> None:
    found = done("itself")
    errors = {what: row["error"] for what, row in found.items() if "error" in row}
    assert [what for what, row in found.items() if row.get("equal")] == [what for what in found if what not in errors]
    assert set(errors) == {"adds a tensor of the CPU", "is added to a number of the CPU", "is put into a tensor of the CPU"}
    assert all(error.startswith("Misplaced") for error in errors.values())
    waits = {what: row["waits"] for what, row in found.items() if row.get("waits")}
    assert waits == {
        "is indexed by the CPU": {"index from the CPU": 1},
        "is waited for": {"aten._local_scalar_dense.default": 1},
        "is told": {"tolist": 1},
        "is copied": {"to the CPU": 1},
    }


def faults(found: Mapping[str, Mapping[str, Any]]) -> str:
    """The first of what is not as it is on the CPU, or waits; empty where all is well."""
    for what, row in found.items():
        if not row.get("equal"):
            return f"{what}: {row.get('error', 'other values')}"
        if what.endswith(STEPS) and row["waits"]:
            return f"{what} waits: {row['waits']}"
        if what.endswith(DRAWN) and not (row["waits"].keys() <= {"to the CPU"} and row["waits"].get("to the CPU", 0) <= MOST_WAITS):
            return f"{what} waits: {row['waits']}"
    return ""


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_models_are_the_same_on_a_device(architecture: str) -> None:
    found = done(architecture)
    assert faults(found) == ""
    assert sum(what.endswith(STEPS) for what in found) >= 8 and sum(what.endswith(DRAWN) for what in found) >= 6


def test_runs_are_the_same_on_a_device() -> None:
    found = done("loop")
    assert faults(found) == ""
    assert sum(what.endswith(" run") for what in found) == sum(what.endswith(" resumed") for what in found) == 4
