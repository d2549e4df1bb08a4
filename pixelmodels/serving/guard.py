"""What stands before the application: keys, and bodies that are read up to a limit of bytes and of time."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from dataclasses import dataclass
from typing import Any

from pixelmodels.internals import route_path
from pixelmodels.serving.keys import is_known
from pixelmodels.serving.refusals import Refused, overloaded
from pixelmodels.serving.settings import Settings
from pixelmodels.studio.pages import is_page

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]

OPEN = ("/healthz", "/readyz", "/docs", "/openapi.json")  # paths that need no key: they tell nothing about anybody
WITH_BODY = ("POST", "PUT", "PATCH")  # methods whose body is read
BEARER = b"bearer "


class Guard:
    """An ASGI application around another one: refuses what has no key, reads bodies up to their limits, then hands them on."""

    def __init__(self, app: App, settings: Settings, hashes: Iterable[str]):
        self.app, self.settings, self.hashes = app, settings, tuple(hashes)
        self._held_bytes = 0  # of the bodies of all requests that are not answered

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        held = _Held()
        if scope["method"] == "HEAD":  # is answered as GET, of which the body is left out
            scope["method"], send = "GET", _without_body(send)
        try:
            try:
                path = route_path(scope)  # below the prefix that the application is served under
                if len(path) > 1 and path.endswith("/"):  # served as it would be without: a redirection would not know of TLS in front
                    bare = path.rstrip("/") or "/"
                    scope["path"], path = scope["path"][: len(bare) - len(path)], bare
                self._check_key(path, headers)
                wants_body = scope["method"] in WITH_BODY and not _is_open(path)  # nobody without a key takes the memory for bodies
                if wants_body and path.startswith("/v1/"):
                    _check_is_json(headers)
                bodies = [await self._read(headers, receive, held) if wants_body else b""]
            except Refused as refused:
                # the connection is closed: the rest of the body is not wanted
                await refused.response(connection="close")(scope, receive, send)
                return
            except _Gone:
                return

            async def replay() -> Message:
                if bodies:
                    return {"type": "http.request", "body": bodies.pop(), "more_body": False}
                while True:
                    message = await receive()
                    if message["type"] != "http.request":
                        return message  # a disconnect

            await self.app(scope, replay, send)
        finally:
            self._held_bytes -= held.bytes

    def _check_key(self, path: str, headers: dict[bytes, bytes]) -> None:
        if not self.hashes or _is_open(path):
            return
        given = headers.get(b"authorization", b"")
        key = given[len(BEARER) :] if given.lower().startswith(BEARER) else headers.get(b"x-api-key", b"")
        if not is_known(key.decode("latin-1").strip(), self.hashes):
            raise Refused(401, "unauthorized", "no API key, or one that is not known; send 'Authorization: Bearer KEY'")

    async def _read(self, headers: dict[bytes, bytes], receive: Receive, held: _Held) -> bytes:
        most = self.settings.max_body_bytes
        too_large = Refused(413, "too_large", f"the body is larger than {most} bytes")
        length = headers.get(b"content-length", b"")
        if length.isdigit() and int(length[:20]) > most:
            raise too_large
        parts: list[bytes] = []
        try:
            async with asyncio.timeout(self.settings.body_timeout_s):
                while True:
                    message = await receive()
                    if message["type"] != "http.request":
                        raise _Gone
                    part = message.get("body", b"")
                    held.bytes += len(part)
                    self._held_bytes += len(part)
                    if held.bytes > most:
                        raise too_large
                    if self._held_bytes > self.settings.max_bodies_bytes:
                        raise overloaded("the bodies of other requests take all the memory there is for them", 1.0)
                    parts.append(part)
                    if not message.get("more_body", False):
                        return b"".join(parts)
        except TimeoutError:
            raise Refused(408, "slow", f"the body did not arrive within {self.settings.body_timeout_s:g} s") from None


def _is_open(path: str) -> bool:
    """Whether a path needs no key."""
    return path in OPEN or is_page(path)


def _check_is_json(headers: dict[bytes, bytes]) -> None:
    """Raise `Refused` where a body is sent as something else, or not said to be JSON: browsers send that for any page, without asking."""
    given = headers.get(b"content-type")
    if given is None and headers.get(b"content-length", b"0") == b"0" and b"transfer-encoding" not in headers:
        return  # there is no body: what it lacks is told by name
    kind = "" if given is None else given.decode("latin-1").partition(";")[0].strip()
    if not re.fullmatch(r"(?i)application/([\w.\-]+\+)?json", kind):
        sent = "without a Content-Type" if given is None else f"as '{kind[:100]}'"
        raise Refused(415, "unsupported_media_type", f"the body is sent {sent}; send JSON, with Content-Type: application/json")
    packed = headers.get(b"content-encoding", b"identity").decode("latin-1").strip()
    if packed.lower() != "identity":
        raise Refused(415, "unsupported_media_type", f"the body is packed with '{packed[:100]}'; send it as it is")


def _without_body(send: Send) -> Send:
    async def send_head(message: Message) -> None:
        await send({**message, "body": b""} if message["type"] == "http.response.body" else message)

    return send_head


@dataclass
class _Held:
    """What one request takes of the memory for bodies."""

    bytes: int = 0


class _Gone(Exception):
    """The client went away before its body was whole."""
