"""Answers, held to what the OpenAPI document says of their route. Members that it does not describe are faults here."""

import json
from functools import cache
from typing import Any

import httpx2
import jsonschema_rs
from starlette.routing import Match

from api.app import ROUTES
from api.contract import DESCRIPTIONS
from api.openapi import document, public_path
from api.scopes import NEEDS
from api.token_scopes import TOKEN_NEEDS


@cache
def contract() -> dict[str, Any]:
    """The document as a client reads it."""
    made: dict[str, Any] = json.loads(json.dumps(document(DESCRIPTIONS, NEEDS, TOKEN_NEEDS)))
    return made


def route_of(method: str, path: str) -> tuple[str, str] | None:
    """The route of the table that a request is answered by, None where there is none."""
    asked = "GET" if method == "HEAD" else method
    scope = {"type": "http", "method": asked, "path": path, "root_path": "", "path_params": {}}
    for route in ROUTES:
        if route.matches(scope)[0] is Match.FULL:
            return asked, route.path
    return None


def conform(method: str, path: str, answer: httpx2.Response) -> None:
    """
    Hold an answer to the document: its status, its media type, its headers and its body.

    Raises:
        AssertionError: It says something else.
    """
    route = route_of(method, path)
    if route is None or answer.status_code in {405, 499}:
        return
    where = f"{method} {path} -> {answer.status_code}"
    described = answer_of(route, answer.status_code)
    for name, header in described.get("headers", {}).items():
        if name in answer.headers:
            schema = resolved(header)["schema"]
            text = answer.headers[name]
            value = int(text) if schema["type"] == "integer" else text
            assert jsonschema_rs.is_valid(schema, value), f"{where}: {name}: {text}"
    content = described.get("content", {})
    if not content:
        assert not answer.content, f"{where}: there is a body, and none is described"
        return
    ((media_type, _),) = content.items()
    assert answer.headers["content-type"].partition(";")[0] == media_type, where
    if method != "HEAD" and media_type.endswith("json"):
        try:
            validator(route, answer.status_code).validate(answer.json())
        except jsonschema_rs.ValidationError as error:
            raise AssertionError(f"{where}: {error}") from None


def answer_of(route: tuple[str, str], status: int) -> dict[str, Any]:
    """What the document says of an answer of a route."""
    method, path = route
    described = contract()["paths"][public_path(path)][method.lower()]["responses"]
    assert str(status) in described, f"{method} {path} answers {status}, which the document does not say"
    return resolved(described[str(status)])


def resolved(part: dict[str, Any]) -> dict[str, Any]:
    """A part of the document, looked up where it only names another."""
    if "$ref" not in part:
        return part
    found: Any = contract()
    for name in part["$ref"].removeprefix("#/").split("/"):
        found = found[name]
    assert isinstance(found, dict)
    return resolved(found)


@cache
def validator(route: tuple[str, str], status: int) -> jsonschema_rs.Draft202012Validator:
    """Judges the body of an answer, and takes no member that is not described."""
    ((_, media),) = answer_of(route, status)["content"].items()
    schema = {**media["schema"], "components": {"schemas": _closed_schemas()}}
    return jsonschema_rs.Draft202012Validator(schema, validate_formats=True)


@cache
def _closed_schemas() -> Any:
    found = contract()["components"]["schemas"]
    return {name: schema if name == "Problem" else _closed(schema) for name, schema in found.items()}


def _closed(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_closed(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    inner = {name: _closed(one) for name, one in schema.items()}
    return {**inner, "additionalProperties": False} if "properties" in schema else inner
