"""How a training process keeps its memory."""

from __future__ import annotations

import ctypes
import platform

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h
_LARGEST = 2**31 - 1


def keep_freed_memory() -> bool:
    """Have glibc keep what a step frees for the next step; returns whether it was asked to (Linux with glibc only).

    By default it gives large blocks back to the kernel, which hands them out again page by page, zeroed: about a
    tenth of a training step on a CPU (`benchmarks/training.py`).
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    libc = ctypes.CDLL(None)
    return bool(libc.mallopt(_M_MMAP_THRESHOLD, 1 << 30)) and bool(libc.mallopt(_M_TRIM_THRESHOLD, _LARGEST))
