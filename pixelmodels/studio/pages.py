"""The studio's files over HTTP: small, read once, sent with headers that let the page load and call nothing but this service."""

from __future__ import annotations

import hashlib
import html
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import TYPE_CHECKING

from starlette.responses import Response
from starlette.routing import Route

if TYPE_CHECKING:
    from starlette.requests import Request

PAGE, FOLDER = "/", "/studio/"  # where the page is, and below which its files are
KINDS = {".html": "text/html; charset=utf-8", ".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8"}
KINDS |= {".svg": "image/svg+xml", ".md": "text/plain; charset=utf-8"}
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; base-uri 'self'; "
    "form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",  # a browser keeps it, and asks whether it is still the same
}
_HEAD = b"<head>"


@dataclass(frozen=True)
class File:
    """One of the studio's files."""

    data: bytes
    kind: str  # its media type

    def answer(self, request: Request, data: bytes | None = None) -> Response:
        """The file, or `data` in its place; nothing where the browser has the same already."""
        data = self.data if data is None else data
        tag = f'"{hashlib.sha256(data).hexdigest()[:16]}"'
        headers = {**HEADERS, "ETag": tag}
        if tag in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=headers)
        return Response(data, headers={**headers, "Content-Type": self.kind})


def is_page(path: str) -> bool:
    """Whether a path (below the prefix that the application is served under) is the studio's: it tells nothing about anybody."""
    return path == PAGE or path.startswith(FOLDER)


def read_files() -> dict[str, File]:
    """All files by their path below `FOLDER`."""
    root = files("pixelmodels.studio") / "static"
    return {name: File(file.read_bytes(), KINDS["." + name.rpartition(".")[2]]) for name, file in _walk(root, "")}


def routes() -> list[Route]:
    """The page, and its files."""
    found = read_files()

    async def page(request: Request) -> Response:
        file, below = found["index.html"], request.scope.get("root_path", "")
        if not below:
            return file.answer(request)
        base = f'<base href="{html.escape(below)}/">'.encode()  # the page's addresses are relative: here to the prefix
        return file.answer(request, file.data.replace(_HEAD, _HEAD + base, 1))

    async def one(request: Request) -> Response:
        file = found.get(request.path_params["name"])
        return Response(status_code=404, headers=HEADERS) if file is None else file.answer(request)

    return [
        Route(PAGE, page, methods=["GET"], include_in_schema=False),
        Route(FOLDER + "{name:path}", one, methods=["GET"], include_in_schema=False),
    ]


def _walk(folder: Traversable, path: str) -> Iterator[tuple[str, Traversable]]:
    for entry in folder.iterdir():
        name = f"{path}{entry.name}"
        if entry.is_dir():
            yield from _walk(entry, f"{name}/")
        elif not entry.name.startswith(".") and "." + name.rpartition(".")[2] in KINDS:
            yield name, entry
