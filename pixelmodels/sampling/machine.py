"""What compiled functions and measured times depend on beside the model: the processor, and the code that draws."""

from __future__ import annotations

import hashlib
import platform
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

import torch

_PACKAGE = Path(__file__).resolve().parents[1]
_SOURCES = ("layers/*.py", "models/*.py", "likelihoods/*.py", "sampling/*.py", "shapes.py")


@lru_cache(maxsize=1)
def digest_of_sources() -> str:
    """Of all code that draws."""
    digest = hashlib.sha256()
    for file in sorted(file for pattern in _SOURCES for file in _PACKAGE.glob(pattern)):
        digest.update(f"{file.relative_to(_PACKAGE)}\0".encode() + file.read_bytes())
    return digest.hexdigest()


@lru_cache(maxsize=1)
def processor() -> str:
    """What of the processor code makes use of."""
    flags = platform.processor()
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        flags = next((line for line in lines if line.startswith(("flags", "Features"))), flags)
    return f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()} {hashlib.sha256(flags.encode()).hexdigest()[:16]}"
