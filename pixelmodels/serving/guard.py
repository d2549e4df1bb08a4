"""What stands before the application: keys, and bodies that are read up to a limit of bytes and of time."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any

from pixelmodels.serving.keys import is_known
from pixelmodels.serving.refusals import Refused
from pixelmodels.serving.settings import Settings

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]

OPEN = ("/healthz", "/readyz", "/docs", "/openapi.json")  # paths that need no key: they tell nothing about anybody
BEARER = b"bearer "


class Guard:
    """An ASGI application around another one: refuses what has no key, reads bodies up to their limits, then hands them on."""

    def __init__(self, app: App, settings: Settings, hashes: Iterable[str]):
        self.app, self.settings, self.hashes = app, settings, tuple(hashes)

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        try:
            self._check_key(scope["path"], headers)
            body = await self._read(headers, receive)
        except Refused as refused:
            await refuse(send, refused)
            return
        except _Gone:
            return
        given = False

        async def replay() -> Message:
            nonlocal given
            if given:
                return await receive()  # a disconnect
            given = True
            return {"type": "http.request", "body": body, "more_body": False}

        await self.app(scope, replay, send)

    def _check_key(self, path: str, headers: dict[bytes, bytes]) -> None:
        if not self.hashes or path in OPEN:
            return
        given = headers.get(b"authorization", b"")
        key = given[len(BEARER) :] if given.lower().startswith(BEARER) else headers.get(b"x-api-key", b"")
        if not is_known(key.decode("latin-1").strip(), self.hashes):
            raise Refused(401, "unauthorized", "no API key, or one that is not known; send 'Authorization: Bearer KEY'")

    async def _read(self, headers: dict[bytes, bytes], receive: Receive) -> bytes:
        most = self.settings.max_body_bytes
        too_large = Refused(413, "too_large", f"the body is larger than {most} bytes")
        length = headers.get(b"content-length", b"")
        if length.isdigit() and int(length[:20]) > most:
            raise too_large
        parts: list[bytes] = []
        size = 0
        try:
            async with asyncio.timeout(self.settings.body_timeout_s):
                while True:
                    message = await receive()
                    if message["type"] != "http.request":
                        raise _Gone
                    parts.append(message.get("body", b""))
                    size += len(parts[-1])
                    if size > most:
                        raise too_large
                    if not message.get("more_body", False):
                        return b"".join(parts)
        except TimeoutError:
            raise Refused(408, "slow", f"the body did not arrive within {self.settings.body_timeout_s:g} s") from None


class _Gone(Exception):
    """The client went away before its body was whole."""


async def refuse(send: Send, refused: Refused) -> None:
    """Answer with an error and close the connection: the rest of the body is not wanted."""
    body = json.dumps(refused.body()).encode()
    headers = {"content-type": "application/json", "content-length": str(len(body)), "connection": "close", **refused.headers()}
    coded = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": refused.status, "headers": coded})
    await send({"type": "http.response.body", "body": body})
