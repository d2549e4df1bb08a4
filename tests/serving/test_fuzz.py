"""Requests made from the service's own OpenAPI description: none of them may break it, and every answer is as described there."""

from __future__ import annotations

import base64
import copy
import io
import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import requests
import schemathesis
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

from tests.serving.conftest import FULL, KEY, SMALL, SPEC, Service

CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
HANGS_S = 30.0
TO_THE_END = SchemathesisConfig.from_dict({"max-stream-events": 10_000})  # else it hangs up in the middle of an event stream
OPERATIONS = ["POST /v1/samples", "POST /v1/completions", "POST /v1/scores", "POST /v1/explanations"]
PAGES = ["GET /v1/models", "GET /v1/versions", "GET /healthz", "GET /readyz", "GET /metrics"]
PNG_FIELDS = {"image": "png", "mask": "png", "context_image": "png", "images": "png", "small_image": "small-png"}
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
FUZZ = settings(max_examples=40, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))


def png_bytes(height: int, width: int, value: int) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.full((height, width), value, np.uint8)).save(stream, format="PNG")
    return stream.getvalue()


def pngs(height: int, width: int) -> st.SearchStrategy[str]:
    """PNG files in base64."""
    return st.sampled_from([0, 255]).map(lambda value: base64.b64encode(png_bytes(height, width, value)).decode())


@st.composite
def damaged_pngs(draw: Any) -> str:
    """The same with bytes changed, cut or added."""
    data = bytearray(png_bytes(SPEC.height, SPEC.width, 40))
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
            if response.content.startswith(b"event: start"):
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


def narrowed(document: dict[str, Any], field: str) -> dict[str, Any]:
    """A description of requests with a field that the model takes; all that it allows, the service's own does, too."""
    document = with_formats(document, "sound-")
    narrow = {**NARROW, "stream": {"const": True}, "format": {"const": "png"}} if field == "stream" else NARROW
    schemas = document["components"]["schemas"]
    for kind in ("SampleRequest", "CompletionRequest", "ScoreRequest", "ExplanationRequest"):
        properties = schemas[kind]["properties"]
        properties |= {name: schema for name, schema in narrow.items() if name in properties}
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


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@FUZZ
@given(
    path=st.sampled_from(["/v1/samples", "/v1/completions", "/v1/scores", "/v1/explanations"]),
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
