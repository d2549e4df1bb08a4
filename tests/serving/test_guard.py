"""Bodies: which are read, how much of them is held, and for how long."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from pixelmodels.serving.guard import Guard
from pixelmodels.serving.keys import hash_of
from pixelmodels.serving.settings import Settings

SETTINGS = Settings(max_body_bytes=4096, max_bodies_bytes=6000)
HASHES = (hash_of("key"),)


async def ask(guard: Guard, path: str, size: int, method: str = "POST", key: str = "key") -> tuple[int, str | None, int]:
    """Status, the code of a refusal, and how many bytes of the body were taken, which comes in parts of 1000."""
    left, status, answer = size, 0, b""

    async def receive() -> dict[str, Any]:
        nonlocal left
        part = min(left, 1000)
        left -= part
        return {"type": "http.request", "body": b" " * part, "more_body": left > 0}

    async def send(message: Any) -> None:
        nonlocal status, answer
        status = message.get("status", status)
        answer += message.get("body", b"")

    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "headers": [(b"x-api-key", key.encode()), (b"content-type", b"application/json")],
    }
    if path.startswith("/second"):
        scope["root_path"] = "/second"
    await guard(scope, receive, send)
    return status, json.loads(answer)["code"] if status >= 400 else None, size - left


class Echo:
    """An application that reads the body and waits before it answers."""

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.may_answer = asyncio.Event()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.sizes.append(len((await receive())["body"]))
        await self.may_answer.wait()
        await send({"type": "http.response.start", "status": 200})


@pytest.mark.parametrize(
    ("path", "method", "key", "size", "answer"),
    [
        ("/v1/samples", "POST", "key", 3500, (200, None, 3500)),
        ("/v1/samples", "POST", "key", 9000, (413, "too_large", 5000)),
        ("/v1/samples", "POST", "wrong", 3500, (401, "unauthorized", 0)),
        ("/v1/models", "GET", "key", 3500, (200, None, 0)),
        ("/readyz", "POST", "wrong", 3500, (200, None, 0)),  # nobody may make it hold anything who has no key
        ("/", "POST", "wrong", 3500, (200, None, 0)),  # nor on the pages that need no key
        ("/studio/main.js", "PUT", "wrong", 3500, (200, None, 0)),
        ("/second/readyz", "GET", "wrong", 0, (200, None, 0)),  # below the path that the application is served under
        ("/second/v1/models", "GET", "wrong", 0, (401, "unauthorized", 0)),
        ("/other/readyz", "GET", "wrong", 0, (401, "unauthorized", 0)),
    ],
)
def test_bodies_are_read_of_those_who_may_send_one(
    path: str, method: str, key: str, size: int, answer: tuple[int, str | None, int]
) -> None:
    async def run() -> None:
        echo = Echo()
        echo.may_answer.set()
        guard = Guard(echo, SETTINGS, HASHES)
        assert await ask(guard, path, size, method, key) == answer
        assert echo.sizes == ([answer[2]] if answer[0] == 200 else [])
        assert guard._held_bytes == 0

    asyncio.run(run())


def test_all_bodies_together_are_bounded_until_they_are_answered() -> None:
    async def run() -> None:
        echo = Echo()
        guard = Guard(echo, SETTINGS, HASHES)
        first = asyncio.create_task(ask(guard, "/v1/scores", 4000))
        while not echo.sizes:
            await asyncio.sleep(0)
        assert await ask(guard, "/v1/scores", 4000) == (429, "overloaded", 3000)
        second = asyncio.create_task(ask(guard, "/v1/scores", 2000))
        while len(echo.sizes) < 2:
            await asyncio.sleep(0)
        assert guard._held_bytes == 6000
        echo.may_answer.set()
        assert await first == (200, None, 4000) and await second == (200, None, 2000)
        assert guard._held_bytes == 0

    asyncio.run(run())
