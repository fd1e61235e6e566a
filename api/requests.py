"""What every handler reads from a request beside its query: body, conditions, idempotency key and caller."""

import re
from collections.abc import AsyncGenerator, AsyncIterator
from hashlib import sha256
from typing import TypeVar

from pydantic import TypeAdapter
from starlette.requests import ClientDisconnect, Request

from api.parameters import NO_QUERY
from api.problems import Problem, bad_request, run_not_found
from api.tokens import PublicToken
from ledger.keys import ApiKey
from ledger.log import Log
from ledger.run_ids import RUN_ID
from ledger.writes import ANONYMOUS, NOBODY, Caller, IdempotencyKey
from projections import values
from projections.size import BODY_BYTES_MAX

HOLDER = "public token"  # For whom a key acts, as the history says it, where one of its tokens was shown.
IDEMPOTENCY_KEY_CHARACTERS_MAX = 255  # characters; the bound that Stripe publishes for the same header

UNREAD_BYTES_MAX = 160 * 2**20  # bytes that are read to nowhere: more than the largest batch of the SDK

_NDJSON_TYPE = re.compile(r"application/(x-)?ndjson\s*(;.*)?", re.IGNORECASE)
_JSON_TYPE = re.compile(r"application/([a-z0-9.+-]+\+)?json\s*(;.*)?", re.IGNORECASE)
_VERSION = re.compile(r"[1-9][0-9]{0,18}")
_TAG = r'[ \t]*(W/)?"([\x21\x23-\x7e\x80-\xff]*)"[ \t]*'
_ENTITY_TAG = re.compile(f"{_TAG}(?:,|$)")
_KEY = f"[ -~\xa1-\xac\xae-\xff]{{1,{IDEMPOTENCY_KEY_CHARACTERS_MAX}}}"  # What of Latin-1 can be printed.
_IDEMPOTENCY_KEY = re.compile(_KEY)
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")

# What the headers that are read here may say, as the contract tells it.
ENTITY_TAGS_PATTERN = rf"^([ \t]*\*[ \t]*|({_TAG},)*{_TAG},?)$"
IDEMPOTENCY_KEY_PATTERN = f'^("{_KEY}"|{_KEY})$'

_Body = TypeVar("_Body")


def log_of(request: Request) -> Log:
    """The log of the caller's environment: the only way of a handler to any data."""
    log: Log = request.scope["run_ledger.log"]
    return log


def run_id_of(request: Request) -> str:
    """The run that the path names; what cannot be an id is answered like an id that does not exist."""
    run_id: str = request.path_params["run_id"]
    if not RUN_ID.fullmatch(run_id):
        raise run_not_found(run_id)
    return run_id


def headers_of(request: Request) -> dict[bytes, bytes]:
    """The headers by their lower-case names; a repeated one is one list (RFC 9110, 5.3)."""
    scope = request.scope
    headers: dict[bytes, bytes] | None = scope.get("run_ledger.headers")
    if headers is None:
        headers = dict(scope["headers"])
        if len(headers) != len(scope["headers"]):
            lines: dict[bytes, list[bytes]] = {}
            for key, line in scope["headers"]:
                lines.setdefault(key, []).append(line)
            headers = {key: b", ".join(found) for key, found in lines.items()}
        scope["run_ledger.headers"] = headers
    return headers


def header(request: Request, name: bytes) -> str | None:
    """A header by its lower-case name."""
    value = headers_of(request).get(name)
    return None if value is None else value.decode("latin-1")


async def lines(request: Request, bytes_max: int) -> AsyncGenerator[tuple[int, bytes]]:
    """
    The lines of a body as they come, each with its number from 1; empty ones are skipped.

    Once its caller wants no more of them, the rest of the body is read to nowhere, up to a bound: a client that is
    still sending would else see a broken connection instead of the answer.

    Args:
        request: The request.
        bytes_max: Bytes that a line may have.

    Raises:
        Problem: 415 for anything but lines of plain JSON, 413 for a line that is too long, 400 for no line at all.
    """
    content_type = header(request, b"content-type") or ""
    if not (_NDJSON_TYPE.fullmatch(content_type) or _JSON_TYPE.fullmatch(content_type)):
        raise _unsupported(
            "Content-Type", content_type, "send JSON lines with the header Content-Type: application/x-ndjson"
        )
    _refuse_encoding(request)
    body = request.stream()
    try:
        number = 0
        rest = bytearray()
        async for chunk in body:
            searched = len(rest)
            rest += chunk
            start = 0
            while (end := rest.find(b"\n", max(start, searched))) >= 0:
                number += 1
                line = bytes(rest[start:end])
                start = end + 1
                if len(line) <= bytes_max and line.strip():
                    yield number, line
                elif len(line) > bytes_max:
                    raise _line_too_long(number, bytes_max)
            del rest[:start]
            if len(rest) > bytes_max:
                raise _line_too_long(number + 1, bytes_max)
        if rest.strip():
            number += 1
            yield number, bytes(rest)
        if not number:
            raise bad_request("empty-body", "the request body is empty; send a JSON object on each line")
    finally:
        await _read_to_nowhere(body, UNREAD_BYTES_MAX)


async def read_bytes(request: Request) -> bytes:
    """
    The body, when it is JSON of an acceptable size.

    Raises:
        Problem: 415 for anything but plain JSON, 413 for more than 2 MiB, 400 for nothing at all.
    """
    _refuse_other_than_json(request)
    body = await _whole(request)
    if not body:
        raise bad_request("empty-body", "the request body is empty; send a JSON object")
    return body


async def _whole(request: Request) -> bytes:
    _refuse_encoding(request)
    declared = headers_of(request).get(b"content-length", b"")
    if declared.isdigit() and int(declared[:20]) > BODY_BYTES_MAX:
        raise _too_long(int(declared[:20]))
    body = b""
    rest: list[bytes] = []
    length = 0
    more = True
    while more:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        chunk: bytes = message.get("body", b"")
        length += len(chunk)
        if length > BODY_BYTES_MAX:
            raise _too_long(length)
        if body:
            rest.append(chunk)
        else:
            body = chunk  # Most bodies come in one piece.
        more = message.get("more_body", False)
    return b"".join((body, *rest)) if rest else body


async def read_optional(request: Request, adapter: TypeAdapter[_Body]) -> tuple[_Body, IdempotencyKey | None]:
    """As `read`, of a body that may be left out and then says nothing."""
    if request.scope["query_string"]:
        NO_QUERY.of(request)
    body = await _whole(request)
    if body:
        _refuse_other_than_json(request)
    parsed = adapter.validate_python(values.parse(body or b"{}"))
    return parsed, idempotency_key(request, body)


async def read(request: Request, adapter: TypeAdapter[_Body]) -> tuple[_Body, IdempotencyKey | None]:
    """
    The body as *adapter* describes it, and the key that makes a retry of this request harmless.

    Raises:
        Problem: The body as a whole, or the header, is not acceptable.
        BadJson: It is not strict JSON.
        ValidationError: It says something impossible.
    """
    if request.scope["query_string"]:
        NO_QUERY.of(request)
    body = await read_bytes(request)
    parsed = adapter.validate_python(values.parse(body))
    return parsed, idempotency_key(request, body)


def idempotency_key(request: Request, body: bytes) -> IdempotencyKey | None:
    """
    The `Idempotency-Key` header, quoted or not, else the one that the Trigger.dev SDK repeats over its retries.

    Source: draft-ietf-httpapi-idempotency-key-header; the SDK's `x-trigger-request-idempotency-key`.
    """
    headers = headers_of(request)
    shown = headers.get(b"idempotency-key")
    if shown is None:
        shown = headers.get(b"x-trigger-request-idempotency-key")
        if shown is None:
            return None
    key = shown.decode("latin-1")
    if len(key) >= 2 and key[0] == key[-1] == '"':
        key = key[1:-1]
    if not _IDEMPOTENCY_KEY.fullmatch(key):
        raise bad_request(
            "bad-idempotency-key",
            f"an idempotency key has 1 to {IDEMPOTENCY_KEY_CHARACTERS_MAX} printable characters, "
            f"this one has {len(key)}",
        )
    scope = request.scope
    digest = sha256(body).digest()
    # Whoever holds another public token did not send this request before, whatever key it guesses.
    token: PublicToken | None = scope.get("run_ledger.token")
    holder = b"" if token is None else bytes.fromhex(token.digest)
    return IdempotencyKey(key, sha256(f"{scope['method']} {scope['path']}\n".encode() + digest + holder).digest())


def expected_versions(request: Request) -> frozenset[int] | None:
    """
    The versions that `If-Match` accepts, None for any.

    Weak tags never match, and `*` accepts whatever exists (RFC 9110, 13.1.1).
    """
    if b"if-match" not in headers_of(request):
        return None
    tags = _entity_tags(request, "if-match")
    if tags is None:
        return None
    return frozenset(int(tag) for weak, tag in tags if not weak and _VERSION.fullmatch(tag))


def has_tag(request: Request, tag: str) -> bool:
    """Whether `If-None-Match` says that the caller has what this entity tag stands for (weak comparison)."""
    if b"if-none-match" not in headers_of(request):
        return False
    tags = _entity_tags(request, "if-none-match")
    return tags is None or any(shown == tag for _, shown in tags)


def caller_of(request: Request, actor: str | None) -> Caller:
    """Who asks: the key, and for whom the body says it does; in an open ledger the name that the body gives."""
    trace = header(request, b"traceparent")
    if trace is None and actor is None and "run_ledger.key" not in request.scope:
        return NOBODY
    if trace is not None and not _TRACEPARENT.fullmatch(trace):
        trace = None  # A broken trace context is to be ignored, says W3C Trace Context.
    key: ApiKey | None = request.scope.get("run_ledger.key")
    if key is None:
        return Caller(actor=actor or ANONYMOUS, traceparent=trace)
    if request.scope.get("run_ledger.token") is not None:
        actor = actor or HOLDER
    return Caller(actor=key.name, on_behalf_of=actor, traceparent=trace)


def _entity_tags(request: Request, condition: str) -> list[tuple[bool, str]] | None:
    """The tags of a condition as (weak, tag), None when there is no condition or it is `*`."""
    text = header(request, condition.encode())
    if text is None or text.strip(" \t") == "*":
        return None
    tags = []
    start = 0
    while start < len(text):
        found = _ENTITY_TAG.match(text, start)
        if found is None:
            raise bad_request("bad-condition", f'{condition} must be a version in double quotes such as "7", or *')
        tags.append((bool(found[1]), found[2]))
        start = found.end()
    if not tags:
        raise bad_request("bad-condition", f"{condition} is empty")
    return tags


def _unsupported(name: str, value: str | None, way_out: str) -> Problem:
    detail = f"{name} is {value!r}; {way_out}" if value else f"{name} is missing; {way_out}"
    return Problem(415, "unsupported-media-type", "The body has an unsupported form", detail)


def _refuse_other_than_json(request: Request) -> None:
    if headers_of(request).get(b"content-type") == b"application/json":
        return
    content_type = header(request, b"content-type")
    if not _JSON_TYPE.fullmatch(content_type or ""):
        raise _unsupported(
            "Content-Type", content_type, "send the body as JSON with the header Content-Type: application/json"
        )


def _refuse_encoding(request: Request) -> None:
    if b"content-encoding" not in headers_of(request):
        return
    encoding = header(request, b"content-encoding") or "identity"
    if encoding.lower() != "identity":
        raise _unsupported("Content-Encoding", encoding, "send the body uncompressed")


async def _read_to_nowhere(body: AsyncIterator[bytes], bytes_max: int) -> None:
    try:
        async for chunk in body:
            bytes_max -= len(chunk)
            if bytes_max < 0:
                return
    except ClientDisconnect:  # Then nobody waits for the answer either.
        return


def _line_too_long(number: int, bytes_max: int) -> Problem:
    return Problem(
        413,
        "line-too-large",
        "A line of the body is too large",
        f"it has more than {bytes_max:,} bytes; send less with each item",
        {"line": number, "limitBytes": bytes_max},
        {"Connection": "close"},
    )


def _too_long(length: int) -> Problem:
    return Problem(
        413,
        "body-too-large",
        "The body is too large",
        f"the request body has {length:,} bytes or more, at most {BODY_BYTES_MAX:,} are allowed; "
        "send several requests",
        {"limitBytes": BODY_BYTES_MAX},
        {"Connection": "close"},  # Or the server would go on reading what it does not want.
    )
