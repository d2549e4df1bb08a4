"""A small client of the HTTP API: samples, completions, scores, explanations, streams.

It needs NumPy, Pillow and the standard library only.
"""

from __future__ import annotations

import base64
import http.client
import io
import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, unquote, urlencode, urlsplit

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

    images_NCHW: UInt8  # levels of the model, which are grey values 0..255 for a model of 256 levels only
    model: str  # name/version that drew them
    seed: int  # the same again gives the same images
    label: int | None = None  # the number of their class, where one was asked for
    label_name: str | None = None  # its name, where the model knows it
    order_N: npt.NDArray[np.int64] | None = None  # by which order each was drawn, of a model of several
    unused_HW: npt.NDArray[np.bool_] | None = None  # known pixels that came too late in it, so that the others were drawn without them


@dataclass(frozen=True)
class Event:
    """One event of a stream: "start", "row", "image", "done"."""

    kind: str
    data: dict[str, Any]

    @property
    def picture(self) -> UInt8:
        """The picture of a row (the image so far) or an image: grey values, rows x columns (x 3)."""
        return np.asarray(Image.open(io.BytesIO(base64.b64decode(self.data["png"]))))

    @property
    def places(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Rows and columns of a row's pixels in the image: `image_CHW[:, *event.places] = event.data["levels"]`."""
        every, steps = self.data["every"], np.arange(len(self.data["levels"][0]))
        (top, left), (down, right) = self.data.get("first", (every * self.data["row"], 0)), self.data.get("step", (0, every))
        return top + down * steps, left + right * steps


class Client:
    """Calls one service; it may be used from several threads, and each call has a connection of its own.

    Args: `url` such as http://127.0.0.1:8000, which is called directly whatever proxy the environment names; `key`, an API key;
    `timeout_s`, for each answer.

    Images that are given are PNG files as bytes, Pillow's images, or whole numbers (arrays, tensors, lists) on one of two scales: "grey",
    0..255 of rows x columns (x 3); "levels", those of the model, of (channels x) rows x columns. What `samples` returned (its `Images`,
    their array or some of it) goes in again as the same levels. `scale=` says which is meant; without it channels that come first mean
    levels, and anything else is grey values, refused where all of it is so dark that it could be levels too.

    Every call raises `ValueError` for what is no image, `ServiceError` where the service says no, and `OSError` where nobody answers.
    """

    def __init__(self, url: str, key: str | None = None, timeout_s: float = 60.0):
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"'{url.rpartition('@')[2]}' is no address of a service; give one such as http://127.0.0.1:8000")
        self.url, self.key, self.timeout_s = url.rstrip("/"), key, timeout_s

    def samples(self, n: int = 1, **options: Any) -> Images:
        """Draw images.

        Options: seed, first, label (the number of a class, or its name), vector, context_image, small_image, scale, temperature, top_p,
        guidance, order (of a model of several), dream (squares that are drawn again), dream_region (their side), model, timeout_s.
        """
        return self._images("/v1/samples", {"n": n, **options})

    def completions(self, image: Any, *, mask: Any = None, known_rows: int | None = None, n: int = 1, **options: Any) -> Images:
        """Draw images of which the pixels in `mask`, or so many rows, are those of `image`; options as for `samples`, and known_side.

        `known_side` ("top", "bottom", "left", "right") says where the known rows, or columns, are. A model of several orders draws by the
        one in which what is known comes first: `order_N` of the answer, whose `unused_HW` are known pixels that no order could put first.
        With `sweeps` it draws the unknown pixels again so often, in squares, by other orders: an approximation.

        Args: `mask`, booleans of rows x columns, 0 and one other number, or a PNG file or picture: black where pixels are drawn.
        """
        return self._images("/v1/completions", {"n": n, "image": image, "mask": mask, "known_rows": known_rows, **options})

    def scores(self, images: Any, **options: Any) -> list[dict[str, Any]]:
        """Of each image: nats, bits_per_dim, map_bits (rows of columns) with `map=True`, arrangement_bits and p_value with `p_value=True`.

        Options: context, scale, order (of a model of several: score by this one, not by the mixture of all), model, timeout_s.
        """
        scores: list[dict[str, Any]] = self._json("POST", "/v1/scores", {"images": images, **options})["scores"]
        return scores

    def explanations(self, images: Any, *, pixel: tuple[int, int] | None = None, **options: Any) -> list[dict[str, Any]]:
        """What the model expects of each image: nats, bits_per_dim, and maps as arrays.

        surprise_bits and entropy_bits (rows x columns); expected and likeliest, in levels (channels x rows x columns). With `pixel`, its
        row and column, also on what its prediction depends: gradient_bits_per_level, and occlusion_bits (NaN: not looked at).

        Options: most_passes, context, scale, order (which a model of several needs), model, timeout_s.
        """
        asked = {"images": images, "pixel": None if pixel is None else [int(at) for at in pixel], **options}
        found: list[dict[str, Any]] = self._json("POST", "/v1/explanations", asked)["explanations"]
        for one in found:
            for name, value in one.items():
                if isinstance(value, list):
                    one[name] = np.array(value, dtype=np.int64 if name == "likeliest" else np.float64)
        return found

    def stream(self, n: int = 1, **options: Any) -> Iterator[Event]:
        """Rows (`every="row"`) and images as they are drawn; with `image` and `mask` or `known_rows` a completion. Options as above.

        With `dream` and `every="image"` the image after every step: `event.data["step"]`, from 0.
        """
        path = "/v1/completions" if "image" in options else "/v1/samples"
        yield from self._events(path, {"n": n, "stream": True, **options})

    def _events(self, path: str, body: dict[str, Any]) -> Iterator[Event]:
        """The events of a stream to its end; raises `ServiceError` for what it says went wrong."""
        with self._sent("POST", path, body) as response:
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

    def models(self) -> dict[str, Any]:
        """What is served: `default`, `loaded` (each with its `class_names`), `available`, `refused`."""
        models: dict[str, Any] = self._json("GET", "/v1/models")
        return models

    def model(self, address: str) -> dict[str, Any]:
        """What one version takes, which is loaded for it: as an entry of `loaded` of `models`."""
        info: dict[str, Any] = self._json("GET", f"/v1/models/{quote(address)}")
        return info

    def versions(self) -> dict[str, Any]:
        """The leaderboard: `versions`, with their figures and aliases, and the `decisions` on them."""
        versions: dict[str, Any] = self._json("GET", "/v1/versions")
        return versions

    def fit(self, files: Iterable[bytes], **options: Any) -> list[bytes]:
        """Image files of any size and format as a model sees them: PNG files, which other calls take.

        Options: model; kind ("image", or "context_image" or "small_image": what the model is given of an image).
        """
        images = [base64.b64encode(data).decode() for data in files]
        return [base64.b64decode(png) for png in self._json("POST", "/v1/fits", {"files": images, **options})["images"]]

    def test_scores(self, address: str) -> dict[str, Any]:
        """What the test images cost a version in bits/dim: mean, stderr, histogram (`counts`, `edges`), percentiles."""
        scores: dict[str, Any] = self._json("GET", f"/v1/test_scores/{quote(address)}")
        return scores

    def data(self, address: str, *, split: str = "test", first: int = 0, n: int = 24) -> dict[str, Any]:
        """Images of the data set of a version, where the service shows them: `total`, and `images` with PNG files in base64."""
        images: dict[str, Any] = self._json("GET", f"/v1/data/{quote(address)}?{urlencode({'split': split, 'first': first, 'n': n})}")
        return images

    def neighbours(self, image: Any, **options: Any) -> dict[str, Any]:
        """The training images that are nearest to an image by a layer of the model, where the service shows images of the data set.

        Options: layer, n, scale, model, timeout_s.
        """
        found: dict[str, Any] = {}
        for event in self._events("/v1/neighbours", {"image": image, **options}):
            found = event.data
        return found

    def is_ready(self) -> bool:
        """Whether requests would be answered now."""
        try:
            self._json("GET", "/readyz")
        except (OSError, ServiceError, http.client.HTTPException):
            return False
        return True

    def _images(self, path: str, body: dict[str, Any]) -> Images:
        with self._sent("POST", path, {**body, "format": "npz"}) as response, np.load(io.BytesIO(response.read())) as arrays:
            told, label, name = response.headers, response.headers["X-Label"], response.headers["X-Label-Name"]
            label, name = None if label is None else int(label), None if name is None else unquote(name)
            orders = {kind: arrays[kind] for kind in ("order_N", "unused_HW") if kind in arrays}
            return Images(arrays["images_NCHW"], unquote(told["X-Model"]), int(told["X-Seed"]), label, name, **orders)

    def _json(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        with self._sent(method, path, body) as response:
            return json.loads(response.read())

    @contextmanager
    def _sent(self, method: str, path: str, body: dict[str, Any] | None) -> Iterator[http.client.HTTPResponse]:
        """The answer to a request, to be read inside the block; raises `ServiceError`."""
        parts = urlsplit(self.url)
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        headers = {"Content-Type": "application/json", **({"Authorization": f"Bearer {self.key}"} if self.key else {})}
        with closing(kind(parts.hostname or "", parts.port, timeout=self.timeout_s)) as connection:
            data = None if body is None else _encoded(body)
            try:
                connection.connect()
            except OSError as error:
                where = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"  # without a login
                raise ConnectionError(f"nobody answers at {where} ({error}); start the service, or give its address") from error
            connection.request(method, parts.path + path, data, headers)
            response = connection.getresponse()
            if response.status != 200:
                raise _error(response)
            yield response


def _encoded(body: dict[str, Any]) -> str:
    """A request as JSON: images as PNG in base64, and what scale they are on."""
    plain: dict[str, Any] = {}
    scales: dict[str, str] = {}  # of each field with images
    for name, value in body.items():
        if value is None:
            continue
        if name == "mask":
            plain[name] = _base64(_mask(value))
        elif name == "images":
            scale = "levels" if isinstance(value, Images) else body.get("scale")
            pictures = [_picture(one, f"{name}[{index}]", scale) for index, one in enumerate(_several(value, scale))]
            plain[name] = [_base64(png) for png, _ in pictures]
            scales[name] = _one_of({scale for _, scale in pictures}, f"'{name}'")
        elif name in ("image", "context_image", "small_image"):
            png, scales[name] = _picture(value, name, body.get("scale"))
            plain[name] = _base64(png)
        else:
            plain[name] = value
    if scales:
        plain["scale"] = _one_of(set(scales.values()), " and ".join(f"'{name}'" for name in scales))
    try:
        return json.dumps(plain, allow_nan=False, default=_plain)
    except ValueError:
        raise ValueError("a number is not finite (nan or inf); give finite ones") from None


def _plain(value: Any) -> Any:
    """Numbers of NumPy and torch, wherever they are in a request."""
    if not hasattr(value, "tolist"):
        raise TypeError(f"{type(value).__name__} given; give numbers, text, or lists of them")
    return value.tolist()


def _one_of(scales: set[str], where: str) -> str:
    """The scale of a request; "unsure" gives way to grey, as what is grey for certain tells what is meant."""
    if "levels" in scales and len(scales) > 1:
        raise ValueError(f"{where}: some are levels (channels first) and some grey values; give all on one scale, and say scale=")
    return next(iter(scales - {"unsure"}), "unsure")


def _several(images: Any, scale: str | None) -> Any:
    if isinstance(images, Images):
        return images.images_NCHW
    if isinstance(images, Iterator):
        images = list(images)
    if isinstance(images, (bytes, str, Mapping, Image.Image)) or not hasattr(images, "__len__") or getattr(images, "ndim", 3) < 3:
        raise ValueError("images: give a list of images, such as [image]")
    if not len(images):
        raise ValueError("images: there are none; give one or more")
    if scale is None and getattr(images, "ndim", 0) == 3 and len(images) in (1, 3):
        what = f"images: an array of shape {tuple(images.shape)} may be one image, channels first, or {len(images)} without channels"
        raise ValueError(f"{what}; wrap one image in a list: [image], or say scale='levels' or 'grey' of several")
    return images


def _picture(value: Any, name: str, scale: str | None) -> tuple[bytes | str, str]:
    """A PNG file (or base64, as it is) and the scale of its values; raises `ValueError` for what is no image."""
    if isinstance(value, Images):
        if len(value.images_NCHW) != 1:
            raise ValueError(f"{name}: {len(value.images_NCHW)} images given; give one of them, such as found.images_NCHW[0]")
        value, scale = value.images_NCHW[0], "levels"
    if isinstance(value, (bytes, str)):
        return value, scale or "grey"
    if isinstance(value, Image.Image):
        return _png(value, name), scale or "grey"
    array = _array(value, name)
    if array.dtype == bool and scale == "levels":
        array = array.astype(np.uint8)
    if array.dtype.kind not in "iu":
        raise ValueError(
            f"{name}: {array.dtype} given; give whole numbers, such as grey values: np.round(255 * x).astype(np.uint8) of x in 0..1"
        )
    least, most = int(array.min()), int(array.max())
    if least < 0 or most > 255:
        raise ValueError(f"{name}: values {least}..{most} given; give grey values 0..255, or levels (scale='levels')")
    first, last = array.ndim == 3 and array.shape[0] in (1, 3), array.ndim == 3 and array.shape[2] in (1, 3)
    if first and last and scale is None:
        raise ValueError(f"{name}: of shape {array.shape} either side may be the channels; say scale='levels' (first) or 'grey' (last)")
    if first and scale != "grey":
        array, scale = np.moveaxis(array, 0, -1), "levels"
    elif not (array.ndim == 2 or (last and scale != "levels")):
        raise ValueError(
            f"{name}: shape {array.shape} given; give rows x columns (x 3) of grey values, or (channels x) rows x columns of levels"
        )
    array = array[..., 0] if array.ndim == 3 and array.shape[2] == 1 else array
    return _png(Image.fromarray(np.ascontiguousarray(array.astype(np.uint8))), name), scale or "unsure"


def _mask(value: Any) -> bytes | str:
    """A PNG file that is white where pixels are known; raises `ValueError` where it is not clear which are meant."""
    if isinstance(value, (bytes, str)):
        return value
    if isinstance(value, Image.Image):
        return _png(value, "mask")
    array = _array(value, "mask")
    array = array.reshape(array.shape[1:]) if array.ndim == 3 and len(array) == 1 else array
    if array.ndim != 2 or array.dtype.kind not in "biu" or len(np.unique(array[array != 0])) > 1:
        raise ValueError(f"mask: {array.dtype} of shape {array.shape} given; give booleans (or 0 and one other number) of rows x columns")
    return _png(Image.fromarray((array != 0).astype(np.uint8) * 255), "mask")


def _array(value: Any, name: str) -> npt.NDArray[Any]:
    try:
        array = np.asarray(value)
    except (TypeError, ValueError, RuntimeError) as error:  # ragged lists; tensors of a GPU, or with gradients
        raise ValueError(f"{name}: no array of numbers ({str(error).splitlines()[0]})") from None
    if not array.size:
        raise ValueError(f"{name}: shape {array.shape} given, which has no pixels")
    return array


def _png(image: Image.Image, name: str) -> bytes:
    stream = io.BytesIO()
    try:
        image.save(stream, format="PNG")
    except OSError:  # of modes that PNG files do not have
        raise ValueError(f"{name}: a picture of mode {image.mode} given; convert it: image.convert('RGB')") from None
    return stream.getvalue()


def _base64(png: bytes | str) -> str:
    return png if isinstance(png, str) else base64.b64encode(png).decode("ascii")


def _error(response: http.client.HTTPResponse) -> ServiceError:
    text = response.read().decode("utf-8", "replace")
    after = response.headers.get("Retry-After")
    try:
        body = json.loads(text)
        code, message, field = body["code"], body["message"], body["field"]
    except (ValueError, KeyError, TypeError):  # of Ray Serve's own proxy
        code, message, field = "http_error", text[:300], None
    return ServiceError(response.status, code, message, field, float(after) if after else None)
