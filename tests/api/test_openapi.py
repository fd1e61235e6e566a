"""The OpenAPI document: it is valid, it describes every route, and what it says is what the routes do."""

import json
from collections.abc import Callable
from typing import Any

import jsonschema_rs
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from schemathesis.specs.openapi import definitions
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from api.contract import DESCRIPTIONS, check_described
from api.openapi import IDEMPOTENCY_KEY, IF_MATCH, Answer, Description, document, public_path
from api.problems import Problem
from api.requests import ENTITY_TAGS_PATTERN, expected_versions, has_tag, idempotency_key
from api.token_scopes import TOKEN_NEEDS
from tests.api.contract import contract, resolved
from tests.api.keys import EVERY, PUBLIC, Keyed, body_of, path_of
from tests.api.service import Service, problem
from tests.strategies import thorough

OPENAPI = "/openapi.json"
ITEMS = ("POST", "/api/v3/batches/{batch_id}/items")  # Its body is lines.
# What asks these may add what it likes.
TAKES_ANY_QUERY = {("GET", "/healthz"), ("GET", "/readyz")} | {
    route for route, description in DESCRIPTIONS.items() if description.query.takes_others
}


def operation(route: tuple[str, str]) -> dict[str, Any]:
    found: dict[str, Any] = contract()["paths"][public_path(route[1])][route[0].lower()]
    return found


# --- the document ---


def test_it_describes_every_route_and_nothing_else() -> None:
    described = sorted((method.upper(), path) for path, of in contract()["paths"].items() for method in of)
    assert described == sorted((method, public_path(path)) for method, path in EVERY)
    assert set(DESCRIPTIONS) == set(EVERY)


def test_a_route_without_a_description_stops_the_start() -> None:
    async def forgotten(_: Request) -> PlainTextResponse:
        return PlainTextResponse("")

    with pytest.raises(LookupError, match=r"POST /forgotten is missing in the table of api/contract\.py"):
        check_described(Route("/forgotten", forgotten, methods=["POST"]))


def test_a_name_in_a_path_without_a_description_is_named() -> None:
    route = ("GET", "/things/{thing}")
    described = Description(id="getThing", tag="server", summary="", answers={200: Answer(str, "", "text/html")})
    with pytest.raises(LookupError, match=r"\{thing\} in a path has no description"):
        document({route: described}, {route: None}, {})


def test_it_is_valid_openapi_and_its_schemas_are_valid_json_schema() -> None:
    definitions.OPENAPI_31_VALIDATOR.validate(contract())
    for schema in contract()["components"]["schemas"].values():
        jsonschema_rs.Draft202012Validator(
            {**schema, "components": contract()["components"]}, validate_formats=True
        )


def test_whatever_it_refers_to_is_in_it_and_nothing_in_it_is_unused() -> None:
    text = json.dumps(contract())
    referred = {part.partition('"')[0] for part in text.split('"$ref": "')[1:]}
    for reference in referred:
        assert isinstance(resolved({"$ref": reference}), dict)
    mentioned = {"LiveSnapshot", "LiveFinished"}  # In words: the data of server-sent events is text.
    for kind in ("schemas", "responses", "headers"):
        names = set(contract()["components"][kind])
        assert names - mentioned <= {reference.rpartition("/")[2] for reference in referred}


def test_names_of_operations_and_tags_are_known_and_meet_once() -> None:
    names = [operation(route)["operationId"] for route in EVERY]
    assert len(set(names)) == len(names)
    assert {operation(route)["tags"][0] for route in EVERY} == {tag["name"] for tag in contract()["tags"]}


def test_the_default_of_a_parameter_is_one_that_it_takes(api: Service) -> None:
    seen = 0
    for description in DESCRIPTIONS.values():
        for parameter in description.query.parameters:
            if "default" in parameter.schema:
                seen += 1
                assert parameter.read([(parameter.name, str(parameter.schema["default"]))]) == parameter.default
    assert seen >= 8


def test_what_is_optional_without_a_key_wants_the_scope_with_one() -> None:
    for route in EVERY:
        wanted = operation(route)["security"]
        if route in PUBLIC:
            assert wanted == []
        else:
            token = [["publicToken"]] if route in TOKEN_NEEDS else []
            assert [[*one] for one in wanted] == [["key"], *token, []]


# --- what it says is what the routes do ---


@pytest.mark.parametrize("route", [route for route in EVERY if route not in TAKES_ANY_QUERY])
def test_a_route_takes_the_query_parameters_that_are_described(api: Service, route: tuple[str, str]) -> None:
    api.create("r")
    described = sorted(one["name"] for one in operation(route)["parameters"] if one["in"] == "query")
    path = path_of(route).partition("?")[0]
    refused = problem(api.request(route[0], f"{path}?no-such=1", **body_of(route)), 400)
    allowed = f"there are {', '.join(described)}" if described else "this route takes none"
    assert refused["detail"] == f"unknown query parameter 'no-such'; {allowed}"


@pytest.mark.parametrize(
    "route", [route for route in EVERY if "requestBody" in operation(route) and route != ITEMS]
)
def test_a_member_that_the_document_requires_is_required(api: Service, route: tuple[str, str]) -> None:
    schema = resolved(operation(route)["requestBody"]["content"]["application/json"]["schema"])
    api.create("r")
    answer = api.request(route[0], path_of(route), json={})
    if schema.get("required"):
        named = {one["place"] for one in problem(answer, 400)["errors"]}
        assert named == set(schema["required"])
    else:
        assert answer.is_success


def asking(name: str, value: str) -> Request:
    headers = [(name.lower().encode(), value.encode("latin-1"))]
    return Request({"type": "http", "method": "PUT", "path": "/", "headers": headers})


def is_read(read: Callable[[], object]) -> bool:
    try:
        read()
    except Problem:
        return False
    return True


LATIN = st.characters(max_codepoint=255)
TAGS = st.text(st.one_of(st.sampled_from('"W/*, 7\x00\xff'), LATIN), max_size=12)


@thorough
@given(value=st.one_of(TAGS, st.from_regex(ENTITY_TAGS_PATTERN, fullmatch=True, alphabet=LATIN)))
def test_conditions_are_read_as_their_pattern_says(value: str) -> None:
    said = jsonschema_rs.is_valid(dict(IF_MATCH.schema), value)
    assert is_read(lambda: expected_versions(asking("If-Match", value))) == said
    assert is_read(lambda: has_tag(asking("If-None-Match", value), "7")) == said


@thorough
@given(value=st.one_of(st.text(LATIN), st.integers(253, 258).map("x".__mul__), st.just(f'"{"x" * 255}"')))
def test_idempotency_keys_are_read_as_their_pattern_says(value: str) -> None:
    assume(value != '""')  # No key, in quotes; the pattern takes it for two characters.
    said = jsonschema_rs.is_valid(dict(IDEMPOTENCY_KEY.schema), value)
    assert is_read(lambda: idempotency_key(asking("Idempotency-Key", value), b"")) == said


# --- the route ---


def test_it_is_answered_as_it_is_made(api: Service) -> None:
    answer = api.get(OPENAPI)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    assert answer.json() == contract()
    assert answer.json()["openapi"].startswith("3.1.")
    assert api.request("HEAD", OPENAPI).headers["etag"] == answer.headers["etag"]


def test_who_has_it_already_is_told_so(api: Service) -> None:
    tag = api.get(OPENAPI).headers["etag"]
    again = api.get(OPENAPI, {"If-None-Match": f'"other", W/{tag}'})
    assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag)
    assert api.get(OPENAPI, {"If-None-Match": '"other"'}).status_code == 200
    assert problem(api.get(OPENAPI, {"If-None-Match": "bare"}), 400)["code"] == "bad-condition"


def test_it_needs_no_key_and_is_the_same_with_any(api: Service) -> None:
    opened = api.get(OPENAPI)
    key = Keyed(api, scopes=["write"])
    assert api.get(OPENAPI).content == key.get(OPENAPI).content == opened.content
    assert api.get(OPENAPI, {"Host": "a.example"}).status_code == 200


def test_an_open_ledger_shows_it_to_its_own_machine_only(api: Service) -> None:
    assert problem(api.get(OPENAPI, {"Host": "a.example"}), 421)["code"] == "foreign-host"
    assert problem(api.get(OPENAPI, {"X-Forwarded-For": "1.2.3.4"}), 400)["code"] == "forwarded"
