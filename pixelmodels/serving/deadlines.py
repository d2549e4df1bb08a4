"""Until when a request is answered: as long as it asks for, or as the service has it, and never longer than a limit."""

from __future__ import annotations

import time

from pixelmodels.serving.refusals import Refused
from pixelmodels.serving.settings import Settings

GRACE_S = 2.0  # beyond a request's deadline, which its sampler keeps; then the sampler is taken to be gone


def time_allowed(settings: Settings, asked_s: float | None) -> float:
    """Seconds until a request's deadline; raises `Refused` where it asks for more than the service gives."""
    timeout_s = settings.timeout_s if asked_s is None else asked_s
    if timeout_s > settings.max_timeout_s:
        raise Refused(422, "invalid", f"{timeout_s:g} s asked for; at most {settings.max_timeout_s:g}", "timeout_s")
    return timeout_s


def left_s(deadline: float) -> float:
    """Seconds until a deadline of the monotonic clock; 0 after it."""
    return max(0.0, deadline - time.monotonic())
