"""Requests made from the service's own OpenAPI description: none of them may break it, and every answer is as described there."""

from __future__ import annotations

import base64
import copy
import io
import json
import threading
from collections import Counter
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import requests
import schemathesis
import uvicorn
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.config import SchemathesisConfig
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_schema_conformance,
    status_code_conformance,
)

from pixelmodels.serving.client import Client
from pixelmodels.serving.gateway import Gateway
from pixelmodels.serving.ingress import make_app
from pixelmodels.serving.keys import hash_of
from pixelmodels.serving.replica import Sampler
from tests.serving.conftest import FULL, KEY, SMALL, SPEC, Service
from tests.studio.conftest import NAME as SHAPES
from tests.studio.conftest import SPEC as SHAPE
from tests.studio.conftest import make_registry, settings_of

CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
HANGS_S = 30.0
TO_THE_END = SchemathesisConfig.from_dict({"max-stream-events": 10_000})  # else it hangs up in the middle of an event stream
OPERATIONS = ["POST /v1/samples", "POST /v1/completions", "POST /v1/scores", "POST /v1/explanations"]
PAGES = ["GET /v1/models", "GET /v1/versions", "GET /healthz", "GET /readyz", "GET /metrics"]
# What is asked of versions whose data sets and tests are at hand, and shown.
KEPT = ["POST /v1/fits", "POST /v1/neighbours"]
KEPT_PAGES = [f"GET /v1/{kind}/{{address}}" for kind in ("models", "test_scores", "data")]
PNG_FIELDS = {"image": "png", "mask": "png", "context_image": "png", "images": "png", "files": "png", "small_image": "small-png"}
# What the model of this registry takes that is conditioned on everything: with it answers other than refusals are reached.
NARROW: dict[str, dict[str, Any]] = {
    "model": {"enum": [f"{FULL}/1", FULL]},
    "timeout_s": {"type": "number", "minimum": 30, "maximum": 60},
    "n": {"type": "integer", "minimum": 1, "maximum": 4},
    "label": {"type": "integer", "minimum": 0, "maximum": 2},
    "vector": {"type": "array", "items": {"type": "number"}, "minItems": 2, "maxItems": 2},
    "known_rows": {"type": "integer", "minimum": 0, "maximum": 6},
    "mask": {"type": "string", "format": "sound-png"},
    "pixel": {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 4}, "minItems": 2, "maxItems": 2},
    "most_passes": {"type": "integer", "minimum": 1, "maximum": 20},
    "dream": {"type": "integer", "minimum": 1, "maximum": 3},
    "scale": {"enum": ["grey"]},  # on the others these pictures are refused
    "context_image": {"type": "string", "format": "sound-png"},
    "small_image": {"type": "string", "format": "sound-small-png"},
}
GIVEN = ["label", "vector", "context_image", "small_image"]
FIELDS = {
    "POST /v1/samples": [*GIVEN, "guidance", "stream", "dream"],
    "POST /v1/completions": [*GIVEN, "guidance", "stream", "mask", "known_rows"],
    "POST /v1/scores": [*GIVEN, "map"],
    "POST /v1/explanations": [*GIVEN, "pixel"],
}
# What the versions of `kept` take, and the version that is asked; None: nothing.
KEPT_NARROW: dict[str, dict[str, Any] | None] = {
    **NARROW,
    **dict.fromkeys(GIVEN),
    "order": {"type": "integer", "minimum": 0, "maximum": 3},
    "sweeps": {"type": "integer", "minimum": 1, "maximum": 2},
    "p_value": {"const": True},
    "kind": {"enum": ["image", "small_image"]},
    "toward": {
        "type": "object",
        "properties": {"share": {"type": "number", "minimum": 0, "maximum": 1}, "seed": {"type": "integer", "minimum": 0, "maximum": 9}},
        "required": ["share", "seed"],
        "additionalProperties": False,
    },
}
KEPT_FIELDS = [
    ("POST /v1/fits", "kind", "enlarging/1"),
    ("POST /v1/neighbours", "n", f"{SHAPES}/1"),
    ("POST /v1/scores", "p_value", "orders/1"),  # of no classes, so that nothing has to be given
    ("POST /v1/scores", "order", "orders/1"),
    ("POST /v1/explanations", "order", "orders/1"),
    ("POST /v1/samples", "order", "orders/1"),
    ("POST /v1/samples", "toward", f"{SHAPES}/2"),
    ("POST /v1/completions", "order", "orders/1"),
    ("POST /v1/completions", "sweeps", "orders/1"),
]
ADDRESSES = [f"{SHAPES}/1", f"{SHAPES}@champion", "orders", "enlarging/1", "none/1"]
FUZZ = settings(max_examples=40, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))


def png_bytes(height: int, width: int, value: int) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.full((height, width), value, np.uint8)).save(stream, format="PNG")
    return stream.getvalue()


def pngs(height: int, width: int) -> st.SearchStrategy[str]:
    """PNG files in base64."""
    return st.sampled_from([0, 255]).map(lambda value: base64.b64encode(png_bytes(height, width, value)).decode())


@st.composite
def damaged_pngs(draw: Any, height: int = SPEC.height, width: int = SPEC.width) -> str:
    """The same with bytes changed, cut or added."""
    data = bytearray(png_bytes(height, width, 40))
    for _ in range(draw(st.integers(0, 3))):
        data[draw(st.integers(0, len(data) - 1))] = draw(st.integers(0, 255))
    end = draw(st.integers(0, len(data)) | st.just(len(data)))
    return base64.b64encode(bytes(data[:end]) + draw(st.binary(max_size=8))).decode()


class Asking:
    """Sends what was made up to the service, and counts what comes back."""

    def __init__(self, service: Service):
        self.url, self.session, self.statuses = service.client.url, requests.Session(), Counter[int]()
        self.fields: Counter[str] = Counter()  # of the requests that were not refused
        self.session.headers["Authorization"] = f"Bearer {KEY}"

    def case(self, case: Any, checks: list[Any]) -> None:
        """A case of schemathesis."""
        response = case.call(base_url=self.url, session=self.session, timeout=HANGS_S)
        case.validate_response(response, checks=checks)
        self.note(response.status_code, response.content)
        if response.status_code == 200 and isinstance(case.body, dict):
            self.fields.update(name for name, value in case.body.items() if value is not None)
            if response.content.startswith(b"event: "):
                assert not response.stream_cut_short
                assert response.content.rstrip().rpartition(b"\n\n")[2].startswith(b"event: done")
                self.fields["an event stream"] += 1

    def raw(self, method: str, path: str, body: bytes | None) -> int:
        """Any request; its status."""
        headers = {"Content-Type": "application/json"}
        response = self.session.request(method, self.url + path, data=body, headers=headers, timeout=HANGS_S)
        assert response.status_code < 500, (body, response.content)
        self.note(response.status_code, response.content)
        return response.status_code

    def note(self, status: int, content: bytes) -> None:
        """Refusals are JSON of one form, each with a sentence."""
        self.statuses[status] += 1
        if status >= 400:
            refusal = json.loads(content)
            assert set(refusal) == {"code", "message", "field"} and refusal["code"] and refusal["message"], content


@pytest.fixture
def asking(service: Service) -> Iterator[Asking]:
    made = Asking(service)
    yield made
    made.session.close()


@pytest.fixture(scope="module")
def described(service: Service) -> dict[str, Any]:
    """The description that the service gives of itself, with a format where the text is a PNG."""
    schemathesis.openapi.format("png", pngs(SPEC.height, SPEC.width) | damaged_pngs())
    schemathesis.openapi.format("small-png", pngs(SMALL.height, SMALL.width) | damaged_pngs())
    schemathesis.openapi.format("sound-png", pngs(SPEC.height, SPEC.width))
    schemathesis.openapi.format("sound-small-png", pngs(SMALL.height, SMALL.width))
    document: dict[str, Any] = requests.get(f"{service.client.url}/openapi.json", timeout=HANGS_S).json()
    return with_formats(document, "")


def with_formats(document: dict[str, Any], prefix: str) -> dict[str, Any]:
    """A description in which the texts of images have their formats."""
    document = copy.deepcopy(document)
    for schema in document["components"]["schemas"].values():
        for name, field in schema["properties"].items():
            for one in (field, field.get("items", {}), *field.get("anyOf", ())):
                if one.get("type") == "string" and name in PNG_FIELDS and "minLength" in one:
                    one["format"] = prefix + PNG_FIELDS[name]
    return document


class Local:
    """A sampler of this process as Serve's handle has it."""

    def __init__(self, sampler: Sampler):
        self.sampler = sampler

    def options(self, **_: Any) -> Local:
        return self

    def broadcast(self, name: str) -> Any:
        async def answers(**_: Any) -> list[Any]:
            return [await getattr(self.sampler, name)()]

        return SimpleNamespace(results_async=answers)

    def __getattr__(self, name: str) -> Any:
        return SimpleNamespace(remote=getattr(self.sampler, name))


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A service of one sampler in this process, which shows the data set that its versions are of."""
    settings = settings_of(make_registry(tmp_path_factory.mktemp("kept")))
    sampler = Sampler(settings)
    app = make_app(Gateway(Local(sampler), settings), (hash_of(KEY),))  # type: ignore[arg-type]
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="error", lifespan="off"))
    listening = server.config.bind_socket()
    listening.listen()
    thread = threading.Thread(target=server.run, args=([listening],), daemon=True)
    thread.start()
    yield SimpleNamespace(client=Client(f"http://127.0.0.1:{listening.getsockname()[1]}", KEY))
    server.should_exit = True
    thread.join()
    sampler._ended.set()
    sampler.thread.stop()


@pytest.fixture
def asking_kept(kept: Any) -> Iterator[Asking]:
    made = Asking(kept)
    yield made
    made.session.close()


@pytest.fixture(scope="module")
def described_kept(kept: Any) -> dict[str, Any]:
    """As `described`, with images of the size that these versions take."""
    height, width = SHAPE.height, SHAPE.width
    for name, size in (("png", (height, width)), ("small-png", (height // 2, width // 2))):
        schemathesis.openapi.format(f"kept-{name}", pngs(*size) | damaged_pngs(*size))
        schemathesis.openapi.format(f"kept-sound-{name}", pngs(*size))
    document: dict[str, Any] = requests.get(f"{kept.client.url}/openapi.json", timeout=HANGS_S).json()
    return with_formats(document, "kept-")


def narrowed_kept(document: dict[str, Any], field: str, model: str) -> dict[str, Any]:
    """As `narrowed`, of one of the versions that are kept."""
    document = narrowed(document, field, {**KEPT_NARROW, "model": {"const": model}, "mask": {"type": "string", "format": "kept-sound-png"}})
    return with_formats(document, "kept-sound-")


def narrowed(document: dict[str, Any], field: str, given: dict[str, Any] | None = None) -> dict[str, Any]:
    """A description of requests with a field that the model takes; all that it allows, the service's own does, too."""
    document = with_formats(document, "sound-")
    narrow: dict[str, Any] = NARROW if given is None else given
    narrow = {**narrow, "stream": {"const": True}, "format": {"const": "png"}} if field == "stream" else narrow
    schemas = document["components"]["schemas"]
    for kind in ("SampleRequest", "CompletionRequest", "ScoreRequest", "ExplanationRequest", "FitRequest", "NeighboursRequest"):
        properties = schemas[kind]["properties"]
        for name in set(narrow) & set(properties):
            if narrow[name] is None:
                del properties[name]
            else:
                properties[name] = narrow[name]
        schemas[kind]["required"] = [*schemas[kind].get("required", ()), "model", field]
    one_of_two = [{"required": ["mask"]}, {"required": ["known_rows"]}]
    schemas["CompletionRequest"]["oneOf"] = one_of_two
    return document


def fuzz(asking: Asking, document: dict[str, Any], operation: str, mode: GenerationMode, checks: list[Any], max_examples: int = 40) -> None:
    method, path = operation.split()

    @settings(FUZZ, max_examples=max_examples)
    @given(schemathesis.openapi.from_dict(document, config=TO_THE_END)[path][method].as_strategy(generation_mode=mode))
    def ask(case: Any) -> None:
        asking.case(case, checks)

    ask()


@pytest.mark.parametrize("operation", [*OPERATIONS, *PAGES])
def test_what_the_description_allows(asking: Asking, described: dict[str, Any], operation: str) -> None:
    fuzz(asking, described, operation, GenerationMode.POSITIVE, CHECKS)
    if operation in PAGES:
        assert set(asking.statuses) == {200}


def test_every_operation_is_asked_for(described: dict[str, Any]) -> None:
    there = {f"{method.upper()} {path}" for path, methods in described["paths"].items() for method in methods}
    assert there == {*OPERATIONS, *PAGES, *KEPT, *KEPT_PAGES}


@pytest.mark.parametrize("operation", KEPT)
def test_what_the_description_allows_of_what_is_kept(asking_kept: Asking, described_kept: dict[str, Any], operation: str) -> None:
    fuzz(asking_kept, described_kept, operation, GenerationMode.POSITIVE, CHECKS)
    fuzz(asking_kept, described_kept, operation, GenerationMode.NEGATIVE, [*CHECKS, negative_data_rejection], max_examples=25)
    assert asking_kept.statuses[422] > 10


@pytest.mark.parametrize("operation", KEPT_PAGES)
def test_pages_of_a_version(asking_kept: Asking, described_kept: dict[str, Any], operation: str) -> None:
    fuzz(asking_kept, described_kept, operation, GenerationMode.POSITIVE, CHECKS, max_examples=25)
    assert set(asking_kept.statuses) <= {404, 422}  # addresses that are made up
    narrow = copy.deepcopy(described_kept)
    get = narrow["paths"][operation.removeprefix("GET ")]["get"]
    for parameter in get["parameters"]:
        if parameter["name"] == "address":
            parameter["schema"] = {"type": "string", "enum": ADDRESSES}
    fuzz(asking_kept, narrow, operation, GenerationMode.POSITIVE, CHECKS)
    assert asking_kept.statuses[200] >= 3 and asking_kept.statuses[404]
    if len(get["parameters"]) > 1:
        fuzz(asking_kept, narrow, operation, GenerationMode.NEGATIVE, CHECKS, max_examples=25)
        assert asking_kept.statuses[422]


@pytest.mark.parametrize(("operation", "field", "model"), KEPT_FIELDS)
def test_what_versions_take_that_are_kept(
    asking_kept: Asking, described_kept: dict[str, Any], operation: str, field: str, model: str
) -> None:
    document = narrowed_kept(described_kept, field, model)
    fuzz(asking_kept, document, operation, GenerationMode.POSITIVE, CHECKS, max_examples=15)
    assert asking_kept.statuses[200] and asking_kept.fields[field]


@pytest.mark.parametrize("operation", OPERATIONS)
def test_what_the_description_does_not_allow(asking: Asking, described: dict[str, Any], operation: str) -> None:
    fuzz(asking, described, operation, GenerationMode.NEGATIVE, [*CHECKS, negative_data_rejection])
    assert set(asking.statuses) <= {400, 422} and asking.statuses[422] > 20


@pytest.mark.parametrize(("operation", "field"), [(operation, field) for operation, fields in FIELDS.items() for field in fields])
def test_what_the_model_takes(asking: Asking, described: dict[str, Any], operation: str, field: str) -> None:
    """With each field in turn, and whatever else there may be beside it."""
    fuzz(asking, narrowed(described, field), operation, GenerationMode.POSITIVE, CHECKS, max_examples=15)
    assert asking.statuses[200] and asking.fields["an event stream" if field == "stream" else field]


@pytest.mark.parametrize(("path", "field"), [("/v1/completions", "image"), ("/v1/scores", "images"), ("/v1/samples", "context_image")])
def test_damaged_images(asking: Asking, path: str, field: str) -> None:
    @FUZZ
    @given(damaged_pngs())
    def ask(text: str) -> None:
        rest: dict[str, Any] = {"known_rows": 2} if field == "image" else {}
        asking.raw("POST", path, json.dumps({"model": FULL, field: [text] if field == "images" else text, **rest}).encode())

    ask()
    assert set(asking.statuses) == {200, 422}


@pytest.mark.parametrize(("path", "field"), [("/v1/fits", "files"), ("/v1/neighbours", "image")])
def test_damaged_files(asking_kept: Asking, path: str, field: str) -> None:
    @FUZZ
    @given(damaged_pngs(SHAPE.height, SHAPE.width))
    def ask(text: str) -> None:
        asking_kept.raw("POST", path, json.dumps({field: [text] if field == "files" else text}).encode())

    ask()
    assert set(asking_kept.statuses) == {200, 422}


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@FUZZ
@given(
    path=st.sampled_from([operation.removeprefix("POST ") for operation in [*OPERATIONS, *KEPT]]),
    body=ANYTHING.map(lambda value: json.dumps(value).encode()) | st.binary(),
)
def test_any_body(service: Service, path: str, body: bytes) -> None:
    Asking(service).raw("POST", path, body)


@FUZZ
@given(
    method=st.sampled_from(["GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"]),
    path=st.sampled_from(["/", "/v1", "/v1/models", "/v1/samples/", "/metrics", "/readyz", "/healthz/..", "/v1/models?x=%00", "/%ff"]),
)
def test_any_method_and_path(service: Service, method: str, path: str) -> None:
    Asking(service).raw(method, path, b"{}" if method == "POST" else None)
