"""The tracking database of these tests: one for all of them, as making its tables takes seconds."""

from __future__ import annotations

from tests.tracking.conftest import tracker

__all__ = ["tracker"]
