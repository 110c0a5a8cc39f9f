"""The API in words: one HTML page made from its OpenAPI, with nothing to load."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from dm2at_ray.service.routing import ROLE_KEY

_STYLE = (
    ":root{color-scheme:light dark}body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;"
    "padding:0 1rem}code,pre{font:14px/1.5 ui-monospace,monospace}h2{margin-top:2.5rem}"
    "h3{margin:2rem 0 .25rem}table{border-collapse:collapse;width:100%}"
    "td,th{border-top:1px solid #8886;padding:.3rem .8rem .3rem 0;text-align:left;vertical-align:top}"
    ".wide{overflow-x:auto}"
)
DOCS_CSP = (
    "default-src 'none'; style-src 'sha256-"
    + base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
    + "'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


@dataclass(frozen=True)
class Operation:
    """One thing that can be asked.

    Attributes:
        method: HTTP method.
        path: Template of its path.
        role: What it needs; None for nothing.
        summary: In a few words.
        description: In more.
        parameters: Place, name, type and meaning.
        body: The message that it takes.
        answers: Status code, what is sent, and its meaning.
    """

    method: str
    path: str
    role: str | None
    summary: str
    description: str
    parameters: list[tuple[str, str, Markup, str]]
    body: Markup | None
    answers: list[tuple[str, Markup, str]]


def docs_page(openapi: Mapping[str, Any]) -> str:
    """The page.

    Args:
        openapi: The API's description.
    """
    subjects: dict[str, list[Operation]] = {}
    for tag, operation in _operations(openapi):
        subjects.setdefault(tag, []).append(operation)
    messages = [
        (name, schema.get("description", ""), _fields(schema))
        for name, schema in sorted(openapi["components"]["schemas"].items())
    ]
    return _template().render(
        info=openapi["info"], subjects=subjects, messages=messages, style=Markup(_STYLE)
    )


@cache
def _template() -> Any:
    environment = Environment(
        loader=PackageLoader("dm2at_ray.service", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("docs.html.j2")


def _operations(openapi: Mapping[str, Any]) -> Iterator[tuple[str, Operation]]:
    for path, methods in openapi["paths"].items():
        for method, found in methods.items():
            body = found.get("requestBody", {}).get("content", {})
            yield (
                found["tags"][0],
                Operation(
                    method.upper(),
                    path,
                    found.get(ROLE_KEY),
                    found["summary"],
                    found["description"].partition("\n")[2].strip(),
                    [
                        (each["in"], each["name"], _type(each["schema"]), each.get("description", ""))
                        for each in found.get("parameters", [])
                    ],
                    next((_type(content["schema"]) for content in body.values()), None),
                    [
                        (code, _content(answer), answer["description"])
                        for code, answer in sorted(found["responses"].items())
                    ],
                ),
            )


def _content(answer: Mapping[str, Any]) -> Markup:
    parts = []
    for media_type, content in answer.get("content", {}).items():
        is_message = "$ref" in content.get("schema", {})
        parts.append(_type(content["schema"]) if is_message else Markup("<code>{}</code>").format(media_type))
    return Markup(", ").join(parts)


def _fields(schema: Mapping[str, Any]) -> list[tuple[str, Markup, str]]:
    return [
        (name, _type(field), field.get("description", ""))
        for name, field in schema.get("properties", {}).items()
    ]


def _type(schema: Mapping[str, Any]) -> Markup:
    """A schema in a few words, with links to messages."""
    if "$ref" in schema:
        name = schema["$ref"].rsplit("/", 1)[-1]
        return Markup('<a href="#{}">{}</a>').format(name, name)
    if "anyOf" in schema:
        return Markup(" or ").join(_type(each) for each in schema["anyOf"])
    if "enum" in schema:
        return Markup(" | ").join(Markup("<code>{}</code>").format(each) for each in schema["enum"])
    if schema.get("type") == "array":
        return Markup("list of ") + _type(schema.get("items", {}))
    words = schema.get("format") or schema.get("type") or "anything"
    low, high = schema.get("minimum"), schema.get("maximum")
    if low is not None and high is not None:
        words += f", {low} to {high}"
    if "pattern" in schema:
        return Markup("{} <code>{}</code>").format(words, schema["pattern"])
    return Markup("{}").format(words)
