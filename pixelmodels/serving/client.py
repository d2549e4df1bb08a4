"""A small client of the HTTP API: samples, completions, scores, streams. It needs NumPy, Pillow and the standard library only."""

from __future__ import annotations

import base64
import http.client
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote, urlsplit

import numpy as np
import numpy.typing as npt
from PIL import Image

UInt8 = npt.NDArray[np.uint8]


class ServiceError(Exception):
    """The service said no."""

    def __init__(self, status: int, code: str, message: str, field: str | None = None, retry_after_s: float | None = None):
        super().__init__(f"{status} {code}: {message}" + (f" (field '{field}')" if field else ""))
        self.status, self.code, self.message, self.field = status, code, message, field
        self.retry_after_s = retry_after_s  # when it is worth trying again, where the service says so


@dataclass(frozen=True)
class Images:
    """Images that were drawn."""

    images_NCHW: UInt8  # levels
    model: str  # name/version that drew them
    seed: int  # the same again gives the same images


@dataclass(frozen=True)
class Event:
    """One event of a stream: "start", "row", "image", "done"."""

    kind: str
    data: dict[str, Any]

    @property
    def picture(self) -> UInt8:
        """The picture of a row (the image so far) or an image: grey values, rows x columns (x 3)."""
        return np.asarray(Image.open(io.BytesIO(base64.b64decode(self.data["png"]))))


class Client:
    """Calls one service; it may be used from several threads, and each call has a connection of its own.

    Args: `url` such as http://127.0.0.1:8000; `key`, an API key; `timeout_s`, for each answer.
    Every call raises `ServiceError` where the service says no, and `OSError` where nobody answers.
    """

    def __init__(self, url: str, key: str | None = None, timeout_s: float = 60.0):
        self.url, self.key, self.timeout_s = url.rstrip("/"), key, timeout_s

    def samples(self, n: int = 1, **options: Any) -> Images:
        """Draw images; options: seed, first, label, vector, context_image, small_image, temperature, top_p, guidance, model, timeout_s.

        Images that are given (here and below) are arrays of grey values 0..255, rows x columns (x 3), or PNG files as bytes.
        """
        return self._images("/v1/samples", {"n": n, **options})

    def completions(self, image: Any, *, mask: Any = None, known_rows: int | None = None, n: int = 1, **options: Any) -> Images:
        """Draw images of which the pixels in `mask` (not 0), or the first rows, are those of `image`; options as for `samples`."""
        known = {"known_rows": known_rows} if mask is None else {"mask": np.asarray(mask, bool).astype(np.uint8) * 255}
        return self._images("/v1/completions", {"n": n, "image": image, **known, **options})

    def scores(self, images: Any, **options: Any) -> list[dict[str, Any]]:
        """Of each image: nats, bits_per_dim, and map_bits (rows of columns) with `map=True`; options: the context, model, timeout_s."""
        answer = self._json("POST", "/v1/scores", {"images": list(images), **options})
        scores: list[dict[str, Any]] = answer["scores"]
        return scores

    def stream(self, n: int = 1, **options: Any) -> Iterator[Event]:
        """Rows (`every="row"`) and images as they are drawn; with `image` and `mask` or `known_rows` a completion. Options as above."""
        path = "/v1/completions" if "image" in options else "/v1/samples"
        connection, response = self._send("POST", path, {"n": n, "stream": True, **options})
        try:
            kind = ""
            for line in response:
                text = line.decode().rstrip("\n")
                if text.startswith("event: "):
                    kind = text.removeprefix("event: ")
                elif text.startswith("data: "):
                    data = json.loads(text.removeprefix("data: "))
                    if kind == "error":
                        raise ServiceError(data["status"], data["code"], data["message"], data["field"])
                    yield Event(kind, data)
            if kind != "done":
                raise ConnectionError("the stream ended before it was done")
        finally:
            connection.close()

    def models(self) -> dict[str, Any]:
        """What is served: `default`, `loaded`, `available`, `refused`."""
        return self._json("GET", "/v1/models")

    def is_ready(self) -> bool:
        """Whether requests would be answered now."""
        try:
            self._json("GET", "/readyz")
        except (OSError, ServiceError, http.client.HTTPException):
            return False
        return True

    def _images(self, path: str, body: dict[str, Any]) -> Images:
        connection, response = self._send("POST", path, {**body, "format": "npz"})
        try:
            with np.load(io.BytesIO(response.read())) as arrays:
                images_NCHW: UInt8 = arrays["images_NCHW"]
            return Images(images_NCHW, unquote(response.headers["X-Model"]), int(response.headers["X-Seed"]))
        finally:
            connection.close()

    def _json(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        connection, response = self._send(method, path, body)
        try:
            answer: dict[str, Any] = json.loads(response.read())
            return answer
        finally:
            connection.close()

    def _send(self, method: str, path: str, body: dict[str, Any] | None) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
        parts = urlsplit(self.url)
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        connection = kind(parts.hostname or "", parts.port, timeout=self.timeout_s)
        headers = {"Content-Type": "application/json", **({"Authorization": f"Bearer {self.key}"} if self.key else {})}
        try:
            data = None if body is None else json.dumps({name: _plain(value) for name, value in body.items()})
            connection.request(method, parts.path + path, data, headers)
            response = connection.getresponse()
            if response.status != 200:
                raise _error(response)
        except BaseException:
            connection.close()
            raise
        return connection, response


def _plain(value: Any) -> Any:
    """What JSON can hold: images as PNG in base64."""
    if isinstance(value, np.ndarray) and value.ndim >= 2:
        stream = io.BytesIO()
        Image.fromarray(value.astype(np.uint8)).save(stream, format="PNG")
        value = stream.getvalue()
    if isinstance(value, bytes):
        return base64.b64encode(value).decode("ascii")
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    return value.tolist() if isinstance(value, (np.ndarray, np.generic)) else value


def _error(response: http.client.HTTPResponse) -> ServiceError:
    text = response.read().decode("utf-8", "replace")
    after = response.headers.get("Retry-After")
    try:
        body = json.loads(text)
        code, message, field = body["code"], body["message"], body["field"]
    except (ValueError, KeyError, TypeError):  # of Ray Serve's own proxy
        code, message, field = "http_error", text[:300], None
    return ServiceError(response.status, code, message, field, float(after) if after else None)
