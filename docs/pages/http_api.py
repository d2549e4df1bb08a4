"""A page of the HTTP API, made of the service's own OpenAPI document, which it also answers with at `/openapi.json`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, cast

from pixelmodels.serving.gateway import Gateway
from pixelmodels.serving.ingress import make_app

_BOUNDS = {
    "minimum": "≥",
    "maximum": "≤",
    "exclusiveMinimum": ">",
    "exclusiveMaximum": "<",
    "minLength": "length ≥",
    "maxLength": "length ≤",
}
_BOUNDS |= {"minItems": "items ≥", "maxItems": "items ≤"}


def document() -> dict[str, Any]:
    """The OpenAPI document; no service is started."""
    gateway = SimpleNamespace(settings=SimpleNamespace(cors_origins=()))
    return make_app(cast(Gateway, gateway), ()).openapi()


def page() -> str:
    """The page as Markdown."""
    found = document()
    parts = [
        "# HTTP API",
        f"{found['info']['description']} Made of the OpenAPI document of version {found['info']['version']}, which a service answers "
        "with at `/openapi.json`; [Serving](../serving.md) tells what the fields mean together, and how to start a service.",
    ]
    for path, methods in found["paths"].items():
        for method, about in methods.items():
            parts += [f"## {method.upper()} {path}", about.get("description", "")]
            body = about.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema")
            if body:
                parts.append(f"Takes {_type(body)}.")
            parts.append("| status | answer |\n|---:|:---|\n" + "\n".join(_answers(about["responses"])))
    parts.append("## Objects")
    for name, schema in found["components"]["schemas"].items():
        parts += [f"### {name}", _cell(schema.get("description", ""), "\n\n")]
        if schema.get("properties"):
            parts.append("| field | type | default | |\n|:---|:---|:---|:---|\n" + "\n".join(_fields(schema)))
        elif "enum" in schema:
            parts.append("One of " + ", ".join(f"`{one}`" for one in schema["enum"]) + ".")
    return "\n\n".join(part for part in parts if part) + "\n"


def _answers(responses: dict[str, Any]) -> Iterator[str]:
    for status, answer in sorted(responses.items()):
        kinds = [f"{_type(media['schema'])}" if media.get("schema") else f"`{kind}`" for kind, media in answer.get("content", {}).items()]
        yield f"| {status} | {_cell(answer['description'])}{': ' if kinds else ''}{', '.join(kinds)} |"


def _fields(schema: dict[str, Any]) -> Iterator[str]:
    required = schema.get("required", [])
    for name, about in schema["properties"].items():
        default = "required" if name in required else f"`{json.dumps(about['default'])}`" if "default" in about else ""
        words = _cell(about.get("description", ""))
        yield f"| `{name}` | {_type(about)} | {default} | {words} |"


def _type(schema: dict[str, Any]) -> str:
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(_type(one) for one in schema["anyOf"]))
    if "enum" in schema or "const" in schema:
        return ", ".join(f"`{json.dumps(one)}`" for one in schema.get("enum", [schema.get("const")]))
    name = str(schema.get("type", "anything"))
    if name == "array":
        name = f"list of {_type(schema['items'])}" if "items" in schema else "list"
    bounds = [f"{sign} {schema[bound]}" for bound, sign in _BOUNDS.items() if bound in schema]
    return name + (f" ({', '.join(bounds)})" if bounds else "")


def _cell(text: str, line: str = " ") -> str:
    return line.join(text.split("\n")).replace("|", "\\|")
