"""
The OpenAPI 3.1 document: what a route takes and answers, as a `Description`, and how the document is made of them.

Bodies are described by the adapters that parse them, query parameters by the declarations that read them
(`api.parameters`), answers by the types of `api.answers`. What many routes have in common (that they can be
refused, and with which statuses) follows from the rest of a description, so nobody has to repeat it.

Source: the OpenAPI Specification 3.1.1; JSON Schema 2020-12; RFC 9457.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any, Literal

from pydantic import TypeAdapter
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaMode

from api import answers
from api.parameters import NO_QUERY, Parameter, Query, Schema
from api.requests import ENTITY_TAGS_PATTERN, IDEMPOTENCY_KEY_PATTERN
from api.scopes import Need
from api.token_scopes import TokenNeed
from ledger.run_ids import BATCH_ID_SCHEMA, RUN_ID_SCHEMA
from projections.size import NAME_CHARACTERS_MAX

Tag = Literal["runs", "batches", "metadata", "past", "live", "realtime", "proof", "tokens", "server"]

_TAGS: dict[Tag, str] = {
    "runs": "Create, find and finish runs.",
    "batches": "Many runs at once, as the Trigger.dev SDK triggers them.",
    "metadata": "The metadata of a run, and changing it.",
    "past": "What happened, and how things stood.",
    "live": "Events as they happen, and as pages.",
    "realtime": "Long polls of the Trigger.dev SDK, in the protocol of an Electric shape.",
    "proof": "Whether what is stored is what was written, and taking something out of it.",
    "tokens": "Public tokens, which a browser holds in the place of an API key.",
    "server": "The server itself.",
}

_ABOUT = """\
Live metadata for running jobs, with the full history of every change.

Field names are camelCase, times are ISO 8601 in UTC, sizes are bytes. Every error is a problem body (RFC 9457).
What is answered to GET is answered to HEAD without its body. A ledger in which no API key was ever made is open to
its own machine and wants no key. Members of an answer that are not described here may be added at any time."""


@dataclass(frozen=True, slots=True)
class Header:
    """
    A header of requests or answers.

    Attributes:
        name: Its name.
        description: What it means.
        schema: What it may say.
    """

    name: str
    description: str
    schema: Schema = field(default_factory=lambda: {"type": "string"})


_ETAG = {"type": "string", "pattern": r'^"[!#-~]+"$'}
_ETAGS = {"type": "string", "pattern": ENTITY_TAGS_PATTERN}

# Of requests.
IF_MATCH = Header(
    "If-Match",
    'Carry it out only at this version, such as `"7"`; `*` asks only that the run exists.',
    _ETAGS,
)
IF_NONE_MATCH = Header("If-None-Match", "Answer 304 where the caller has it already.", _ETAGS)
IDEMPOTENCY_KEY = Header(
    "Idempotency-Key",
    "The same request under the same key is carried out once, and answered alike for 7 days. "
    "Without it, `x-trigger-request-idempotency-key` is taken.",
    {"type": "string", "pattern": IDEMPOTENCY_KEY_PATTERN},
)
LAST_EVENT_ID = Header(
    "Last-Event-ID", "Go on behind the event with this id, as a browser asks by itself. It wins over the query."
)

# Of answers.
ETAG = Header("ETag", "The version in double quotes.", {"type": "string", "pattern": '^"[1-9][0-9]*"$'})
DOCUMENT_ETAG = Header("ETag", "Changes with the document.", _ETAG)
FROM_VERSION = Header("From-Version", "The version of the first state.", {"type": "integer", "minimum": 1})
TO_VERSION = Header("To-Version", "The version of the second state.", {"type": "integer", "minimum": 1})
CLAIMS = Header(
    "x-trigger-jwt-claims",
    "JSON: what a public token has to say that may read what was made, for a caller to sign.",
)
TOKEN = Header(
    "x-trigger-jwt", "A public token that may read what was made, for a caller that does not sign one itself."
)
HANDLE = Header("electric-handle", "What is followed; send it as `handle`.")
PLACE = Header(
    "electric-offset",
    "How far the answer reaches; send it as `offset`.",
    {"type": "string", "pattern": "^[0-9]+_[0-9]+$"},
)
SHAPE = Header(
    "electric-schema", "What decodes the columns: nothing, JSON says it all.", {"type": "string", "enum": ["{}"]}
)
POLL = Header(
    "electric-cursor",
    "Another number in each answer, for the address of the next poll.",
    {"type": "string", "pattern": "^[0-9]+$"},
)
UP_TO_DATE = Header(
    "electric-up-to-date", "Empty, and there only where nothing more is known.", {"type": "string", "enum": [""]}
)
_REPLAYED = Header(
    "Idempotency-Replayed",
    "The request was carried out before, and this is its first answer; nothing was written now.",
    {"type": "string", "enum": ["true"]},
)
_RETRY_AFTER = Header(
    "Retry-After", "Seconds after which trying again makes sense.", {"type": "integer", "minimum": 1}
)
_CHALLENGE = Header("WWW-Authenticate", "What is asked of the key (RFC 6750).")
_ALLOWANCE = (
    Header("x-ratelimit-limit", "Requests in one burst of the key.", {"type": "integer", "minimum": 1}),
    Header("x-ratelimit-remaining", "Requests that the key has left.", {"type": "integer", "minimum": 0}),
    Header(
        "x-ratelimit-reset",
        "When it gets more, in milliseconds since 1970-01-01 UTC.",
        {"type": "integer", "minimum": 0},
    ),
)

# What a path may name.
_PATH_PARAMETERS: dict[str, tuple[Schema, str]] = {
    "run_id": (RUN_ID_SCHEMA, "The run."),
    "batch_id": (BATCH_ID_SCHEMA, "The batch."),
    "task": (
        {
            "type": "string",
            "minLength": 1,
            "maxLength": NAME_CHARACTERS_MAX,
            "pattern": r"^[^\x00-\x1f\x7f-\x9f\u2028\u2029]+$",
        },
        "What the run executes; printable characters, slashes too.",
    ),
}

# What a refusal with a status means, and the headers it comes with.
_REFUSALS: dict[int, tuple[str, str, tuple[Header, ...]]] = {
    400: ("BadRequest", "The request says something impossible, or came through a proxy to an open ledger.", ()),
    401: ("Unauthorized", "The key, or the token, is missing, unknown, revoked or expired.", (_CHALLENGE,)),
    403: (
        "Forbidden",
        "The key, or the token, may not do this, or a web page of another origin asks an open ledger.",
        (_CHALLENGE,),
    ),
    404: ("NotFound", "There is no such thing, or the key may not know of it.", ()),
    412: ("OtherVersion", "The run has another version than `If-Match` says; nothing was written.", ()),
    413: ("TooLarge", "The body, the metadata or a value is too large; nothing was written.", ()),
    415: ("NotJson", "The body is not sent as plain JSON, or JSON lines.", ()),
    421: ("ForeignHost", "An open ledger answers only names of its own machine in `Host`.", ()),
    422: ("NotPossible", "It is past a bound, or does not fit what is stored; nothing was written.", ()),
    429: ("TooMany", "The key makes too many requests, or has too many live streams.", (_RETRY_AFTER,)),
    500: ("Failed", "The server failed in a way nobody foresaw.", ()),
    503: ("Unavailable", "Nothing was done; try again in a moment.", (_RETRY_AFTER,)),
    507: ("StorageFull", "No space is left; nothing was written.", (_RETRY_AFTER,)),
}


JSON_LINES = "application/x-ndjson"


@dataclass(frozen=True, slots=True)
class Answer:
    """
    What a route answers when all is well.

    Attributes:
        model: The type of the body, None where there is no body.
        description: What it is, in one sentence.
        media_type: How the body is sent. What is not JSON is described as text.
        headers: Headers of its own.
    """

    model: Any
    description: str
    media_type: str = "application/json"
    headers: tuple[Header, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """
    What a route takes and answers.

    Attributes:
        id: A name for programs made from the document, a verb and what it works on: `listRuns`.
        tag: The group it belongs to.
        summary: What it does, in one line.
        answers: By status, what it answers when all is well.
        query: What its query may say: the one that its handler reads.
        body: The adapter that its handler parses the body with; with `JSON_LINES`, each line of it.
        body_type: How the body is sent.
        is_body_optional: It may be left out.
        has_idempotency_key: With a body comes the key that makes a retry harmless.
        headers: Headers that it reads beside those of every request.
        refusals: Statuses of refusals beside those that follow from the rest.
        more: Types that its answers mention without being made of them.
    """

    id: str
    tag: Tag
    summary: str
    answers: Mapping[int, Answer]
    query: Query = NO_QUERY
    body: TypeAdapter[Any] | None = None
    body_type: str = "application/json"
    is_body_optional: bool = False
    has_idempotency_key: bool = True
    headers: tuple[Header, ...] = ()
    refusals: frozenset[int] = frozenset()
    more: tuple[Any, ...] = ()

    @property
    def is_idempotent(self) -> bool:
        """Whether a request is carried out once under an idempotency key."""
        return self.body is not None and self.has_idempotency_key


Descriptions = Mapping[tuple[str, str], Description]
"""By method and path, as the routes of the application have them."""


def document(
    descriptions: Descriptions,
    needs: Mapping[tuple[str, str], Need | None],
    token_needs: Mapping[tuple[str, str], TokenNeed],
) -> dict[str, Any]:
    """
    Make the document.

    Args:
        descriptions: Every route.
        needs: What each of them asks of a key.
        token_needs: What those that take public tokens ask of one.

    Raises:
        LookupError: A path names something that has no description.
    """
    schemas = _Schemas(descriptions.values())
    paths: dict[str, dict[str, Any]] = {}
    for (method, path), description in descriptions.items():
        operations = paths.setdefault(public_path(path), {})
        operation = _operation(path, description, needs[method, path], schemas)
        operation["security"] = _security(needs[method, path], token_needs.get((method, path)))
        operations[method.lower()] = operation
    return {
        "openapi": "3.1.1",
        "info": {
            "title": "Run Ledger",
            "version": version("run-metadata-ledger"),
            "description": _ABOUT,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "tags": [{"name": name, "description": text} for name, text in _TAGS.items()],
        "paths": paths,
        "components": {
            "schemas": schemas.definitions,
            "responses": {name: _refusal(status) for status, (name, _, _) in _REFUSALS.items()},
            "headers": {header.name: _header(header) for header in _ALLOWANCE},
            "securitySchemes": {
                "key": {
                    "type": "http",
                    "scheme": "bearer",
                    "bearerFormat": "rl_<environment>_<id>_<secret>",
                    "description": "An API key, which also says the environment. An open ledger wants none.",
                },
                "publicToken": {
                    "type": "http",
                    "scheme": "bearer",
                    "bearerFormat": "JWT",
                    "description": "A public token, signed with an API key (HS256). It does what its "
                    "scopes allow, such as `read:runs:ID`, and never more than its key may.",
                },
            },
        },
    }


def public_path(path: str) -> str:
    """A path of a route as the document has it: `{task:path}` is `{task}`."""
    return re.sub(r"\{(\w+):\w+\}", r"{\1}", path)


class _Titleless(GenerateJsonSchema):
    """Fields have names; a title that repeats the name in other letters tells nobody anything."""

    def field_title_should_be_set(self, schema: Any) -> bool:  # noqa: ARG002 - As pydantic has it.
        """Never."""
        return False


class _Schemas:
    """The schemas of all bodies and answers, with the types they share."""

    def __init__(self, descriptions: Iterable[Description]) -> None:
        sources = dict(_sources(descriptions))
        inputs: list[tuple[Any, JsonSchemaMode, TypeAdapter[Any]]] = [
            (source, "validation", source)
            if mode == "validation"
            else (source, "serialization", TypeAdapter(source))
            for source, mode in sources.items()
        ]
        found, rest = TypeAdapter.json_schemas(
            inputs, ref_template="#/components/schemas/{model}", schema_generator=_Titleless
        )
        self._found = {source: schema for (source, _), schema in found.items()}
        self.definitions: dict[str, Any] = rest["$defs"]

    def of(self, source: Any) -> dict[str, Any]:
        """The schema of an adapter that parses bodies, or of a type of answers."""
        return self._found[source]


def _sources(descriptions: Iterable[Description]) -> Iterator[tuple[Any, JsonSchemaMode]]:
    yield answers.Problem, "serialization"
    for description in descriptions:
        if description.body is not None:
            yield description.body, "validation"
        for answer in description.answers.values():
            if answer.model is not None:
                yield answer.model, "serialization"
        for model in description.more:
            yield model, "serialization"


def _security(need: Need | None, token_need: TokenNeed | None) -> list[dict[str, list[str]]]:
    """Who may call: a key, perhaps a token, or anyone while the ledger is open; where nothing is said, anyone."""
    if need is None:
        return []
    token: list[dict[str, list[str]]] = [] if token_need is None else [{"publicToken": [token_need.action]}]
    return [{"key": [] if need.action is None else [need.action]}, *token, {}]


def _operation(path: str, description: Description, need: Need | None, schemas: _Schemas) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": description.id,
        "tags": [description.tag],
        "summary": description.summary,
        "parameters": [
            *map(_path_parameter, re.findall(r"\{(\w+)(?::\w+)?\}", path)),
            *map(_query_parameter, description.query.parameters),
            *map(_header_parameter, _headers(description)),
        ],
        "responses": {
            **{
                str(status): _answer(answer, description, need, schemas)
                for status, answer in description.answers.items()
            },
            **{
                str(status): {"$ref": f"#/components/responses/{_REFUSALS[status][0]}"}
                for status in sorted(_refusals(path, description, need))
            },
        },
    }
    if description.body is not None:
        schema = schemas.of(description.body)
        if description.body_type == JSON_LINES:
            schema = {"type": "array", "minItems": 1, "items": schema, "description": "A value on each line."}
        operation["requestBody"] = {
            "required": not description.is_body_optional,
            "content": {description.body_type: {"schema": schema}},
        }
    return operation


def _headers(description: Description) -> tuple[Header, ...]:
    return (*description.headers, *((IDEMPOTENCY_KEY,) if description.is_idempotent else ()))


def _refusals(path: str, description: Description, need: Need | None) -> set[int]:
    """With which statuses a route can refuse; see the order of precedence in `api.problems`."""
    found = {400, 401, 403, 421, 500, 503, *description.refusals}
    if need is not None:
        found.add(429)
    if "{run_id}" in path or "{batch_id}" in path:
        found.add(404)
    if any(parameter.is_bounded for parameter in description.query.parameters):
        found.add(422)
    if description.body is not None:
        found |= {413, 415, 422, 507}
    if IF_MATCH in description.headers:
        found.add(412)
    return found


def _path_parameter(name: str) -> dict[str, Any]:
    if name not in _PATH_PARAMETERS:
        raise LookupError(f"{{{name}}} in a path has no description in api/openapi.py")
    schema, text = _PATH_PARAMETERS[name]
    return {"name": name, "in": "path", "required": True, "description": text, "schema": dict(schema)}


def _query_parameter(parameter: Parameter[Any]) -> dict[str, Any]:
    described: dict[str, Any] = {
        "name": parameter.name,
        "in": "query",
        "required": parameter.is_required,
        "description": parameter.description,
        "schema": dict(parameter.schema),
    }
    if parameter.is_family:
        described |= {"style": "deepObject", "explode": True}
    elif parameter.schema.get("type") == "array":
        described |= {"style": "form", "explode": parameter.is_list}
    return described


def _header_parameter(header: Header) -> dict[str, Any]:
    return {"name": header.name, "in": "header", **_header(header)}


def _header(header: Header) -> dict[str, Any]:
    return {"description": header.description, "schema": dict(header.schema)}


def _answer(answer: Answer, description: Description, need: Need | None, schemas: _Schemas) -> dict[str, Any]:
    headers = {header.name: _header(header) for header in answer.headers}
    if description.is_idempotent and answer.model is not None:
        headers[_REPLAYED.name] = _header(_REPLAYED)
    described: dict[str, Any] = {"description": answer.description}
    if headers or need is not None:
        described["headers"] = headers | ({} if need is None else _allowance())
    if answer.model is not None:
        schema = schemas.of(answer.model)
        described["content"] = {answer.media_type: {"schema": schema}}
    return described


def _refusal(status: int) -> dict[str, Any]:
    _, text, headers = _REFUSALS[status]
    schema = {"$ref": "#/components/schemas/Problem"}
    described: dict[str, Any] = {
        "description": text,
        "content": {"application/problem+json": {"schema": schema}},
        "headers": {header.name: _header(header) for header in headers} | _allowance(),
    }
    return described


def _allowance() -> dict[str, Any]:
    return {header.name: {"$ref": f"#/components/headers/{header.name}"} for header in _ALLOWANCE}
