"""One side of a comparison of memory: the largest resident size of a training step's forward and backward pass, in a process of its own.

    python benchmarks/memory_side.py '{"architecture": "pixelcnn", ...}' BATCH

It uses only what the first version had; so it is run with another checkout on its path, too. Prints bytes. Linux only.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch

from pixelmodels.likelihoods import LikelihoodConfig
from pixelmodels.models import ContextSpec, build, config_class
from pixelmodels.shapes import ImageSpec


def config_of(architecture: str, values: dict[str, Any]) -> Any:
    """A config from plain values; those that are dictionaries are configs of the architecture that they name."""
    fields = {name: config_of(**value) if isinstance(value, dict) else value for name, value in values.items()}
    return config_class(architecture)(**fields)


def main() -> None:
    """Step once with one image, then measure a step of the batch."""
    case, batch = json.loads(sys.argv[1]), int(sys.argv[2])
    torch.manual_seed(0)
    spec = ImageSpec(*case["spec"])
    model = build(config_of(case["architecture"], case["values"]), spec, LikelihoodConfig(case["likelihood"]), ContextSpec()).train()
    status = Path("/proc/self/status")
    for size in (1, batch):
        Path("/proc/self/clear_refs").write_text("5")  # the peak is counted from here on
        x_BCHW = torch.randint(spec.levels, (size, *spec.shape))
        (-model.log_prob(x_BCHW).mean()).backward()
    peak = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
    print(int(peak.split()[1]) * 1024)


if __name__ == "__main__":
    main()
