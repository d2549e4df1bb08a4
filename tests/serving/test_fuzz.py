"""Requests made from the service's own OpenAPI schema: none of them may break it, and every refusal has the same form."""

from __future__ import annotations

import base64
import http.client
import io
import json
import time
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.serving.conftest import KEY, SPEC, Service

STREAM = io.BytesIO()
Image.fromarray(np.full((SPEC.height, SPEC.width), 40, np.uint8)).save(STREAM, format="PNG")
PNG = STREAM.getvalue()
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@st.composite
def damaged_png(draw: Any) -> str:
    """A PNG in base64, sometimes with bytes changed, cut or added."""
    data = bytearray(PNG)
    for _ in range(draw(st.integers(0, 3))):
        data[draw(st.integers(0, len(data) - 1))] = draw(st.integers(0, 255))
    end = draw(st.integers(0, len(data)) | st.just(len(data)))
    return base64.b64encode(bytes(data[:end]) + draw(st.binary(max_size=8))).decode()


def values(schema: dict[str, Any], components: dict[str, Any]) -> st.SearchStrategy[Any]:
    """What a part of the schema allows, nearly: bounds are sometimes overstepped by one."""
    if "$ref" in schema:
        return values(components[schema["$ref"].rsplit("/", 1)[1]], components)
    if "anyOf" in schema:
        return st.one_of([values(one, components) for one in schema["anyOf"]])
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    if "const" in schema:
        return st.just(schema["const"])
    kind = schema.get("type")
    if kind == "object":
        properties = {name: values(one, components) for name, one in schema.get("properties", {}).items()}
        required = {name: properties.pop(name) for name in schema.get("required", ())}
        return st.fixed_dictionaries(required, optional=properties)
    if kind == "array":
        return st.lists(values(schema["items"], components), min_size=schema.get("minItems", 0), max_size=4)
    if kind == "integer":
        low = schema.get("minimum", schema.get("exclusiveMinimum", -2))
        high = schema.get("maximum", schema.get("exclusiveMaximum", low + 10))
        return st.integers(low - 1, min(high, low + 12)) | st.sampled_from([low, high, high + 1])
    if kind == "number":
        low, high = schema.get("minimum", schema.get("exclusiveMinimum", -1e9)), schema.get("maximum", 1e9)
        return st.floats(low, high) | st.sampled_from([low, high, 1e308, -1e308, 1e-300])
    if kind == "boolean":
        return st.booleans()
    if kind == "null":
        return st.none()
    return damaged_png() | st.text(max_size=20) | st.sampled_from(["champion", "1", "latest", "tiny@champion", "x/../y"])


def call(service: Service, method: str, path: str, body: bytes | None) -> tuple[int, str, bytes]:
    connection = http.client.HTTPConnection(service.host, service.port, timeout=60)
    try:
        connection.request(method, path, body, {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"})
        response = connection.getresponse()
        return response.status, response.headers.get("Content-Type", ""), response.read()
    finally:
        connection.close()


def check(service: Service, method: str, path: str, body: bytes | None) -> int:
    """Send it; the status. No failure of the service, no hanging, and refusals are JSON of one form."""
    began = time.monotonic()
    status, kind, answer = call(service, method, path, body)
    assert status < 500, (status, body, answer)
    assert time.monotonic() - began < 30, body
    if status >= 400:
        assert kind.startswith("application/json") and set(json.loads(answer)) == {"code", "message", "field"}, answer
    return status


@pytest.fixture(scope="module")
def openapi(service: Service) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(call(service, "GET", "/openapi.json", None)[2])
    return document


FUZZ = settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


@pytest.mark.parametrize("path", ["/v1/samples", "/v1/completions", "/v1/scores"])
def test_bodies_of_the_schema(service: Service, openapi: dict[str, Any], path: str) -> None:
    schema = openapi["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]
    statuses = []

    @FUZZ
    @given(values(schema, openapi["components"]["schemas"]))
    def fuzz(body: Any) -> None:
        statuses.append(check(service, "POST", path, json.dumps(body).encode()))

    fuzz()
    assert 422 in statuses


@FUZZ
@given(
    path=st.sampled_from(["/v1/samples", "/v1/completions", "/v1/scores"]),
    body=ANYTHING.map(lambda value: json.dumps(value).encode()) | st.binary(),
)
def test_any_body(service: Service, path: str, body: bytes) -> None:
    check(service, "POST", path, body)


@FUZZ
@given(
    method=st.sampled_from(["GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"]),
    path=st.sampled_from(["/", "/v1", "/v1/models", "/v1/samples/", "/metrics", "/readyz", "/healthz/..", "/v1/models?x=%00", "/%ff"]),
)
def test_any_method_and_path(service: Service, method: str, path: str) -> None:
    check(service, method, path, b"{}" if method == "POST" else None)
