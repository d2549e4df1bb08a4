"""Answers that are no: a status, a code that programs read, a sentence that people read, and the field that is meant."""

from __future__ import annotations

import math
from typing import Any

from starlette.responses import JSONResponse

LOST = "sampler_lost"  # the code of `lost`
NOT_LOADED = "not_loaded"  # the code of a version that cannot be loaded now, and may be later
DEADLINE = "deadline"  # the code of `too_late`
NOT_FINITE = "not_finite"  # the code of what a network makes of broken weights, or of numbers that are too large for it


class Refused(Exception):
    """A request that is not answered with a result; it travels between processes as a value."""

    def __init__(self, status: int, code: str, message: str, field: str | None = None, retry_after_s: float | None = None):
        super().__init__(status, code, message, field, retry_after_s)  # all of them: what pickle makes it again from
        self.status = status  # of HTTP
        self.code = code  # a word such as "invalid" or "overloaded"
        self.message = message  # one sentence
        self.field = field  # of the request, where one is to blame
        self.retry_after_s = retry_after_s  # when it is worth trying again

    def body(self) -> dict[str, Any]:
        """What is sent as JSON."""
        return {"code": self.code, "message": self.message, "field": self.field}

    def response(self, **headers: str) -> JSONResponse:
        """The answer over HTTP, with further headers."""
        if self.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        if self.retry_after_s is not None:
            headers["Retry-After"] = str(max(1, math.ceil(self.retry_after_s)))
        return JSONResponse(self.body(), self.status, headers)


def invalid(message: str, field: str | None) -> Refused:
    """A field whose value cannot be used."""
    return Refused(422, "invalid", message, field)


def overloaded(message: str, retry_after_s: float) -> Refused:
    """More is asked for than can be drawn in time."""
    return Refused(429, "overloaded", message, None, min(max(1.0, retry_after_s), 120.0))


def lost(message: str = "the sampler was lost while it worked on the request; try again") -> Refused:
    """A replica that ended; its requests may be given to another one."""
    return Refused(503, LOST, message, None, 5.0)


def too_late(timeout_s: float) -> Refused:
    """The request's deadline is over."""
    return Refused(504, DEADLINE, f"not finished within {timeout_s:g} s", "timeout_s")
