"""Sweeps: recipes drawn from a search space, each trained for a short budget; the best one is kept as a file."""

from __future__ import annotations
