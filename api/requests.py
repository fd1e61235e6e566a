"""What every handler reads from a request: its body, conditions, idempotency key, query and caller."""

import re
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from collections.abc import Set as AbstractSet
from hashlib import sha256
from typing import TypeVar

from pydantic import TypeAdapter
from starlette.requests import ClientDisconnect, Request

from api.problems import Problem, bad_request, run_not_found
from api.tokens import PublicToken
from ledger.keys import ApiKey
from ledger.log import Log
from ledger.reads import Point
from ledger.run_ids import RUN_ID
from ledger.writes import ANONYMOUS, Caller, IdempotencyKey
from projections import values
from projections.errors import BadPath
from projections.paths import Path, parse_key
from projections.size import BODY_BYTES_MAX
from projections.times import Microseconds, parse_time

HOLDER = "public token"  # For whom a key acts, as the history says it, where one of its tokens was shown.
VERSION_MAX = 2**53  # A version is a JSON number.
IDEMPOTENCY_KEY_CHARACTERS_MAX = 255  # characters; the bound that Stripe publishes for the same header

UNREAD_BYTES_MAX = 160 * 2**20  # bytes that are read to nowhere: more than the largest batch of the SDK

_NDJSON_TYPE = re.compile(r"application/(x-)?ndjson\s*(;.*)?", re.IGNORECASE)
_JSON_TYPE = re.compile(r"application/([a-z0-9.+-]+\+)?json\s*(;.*)?", re.IGNORECASE)
_VERSION = re.compile(r"[1-9][0-9]{0,18}")
_ENTITY_TAG = re.compile(r'\s*((?:W/)?)"([\x21\x23-\x7e\x80-\xff]*)"\s*(?:,|$)')
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")
_SPACE_FOR_PLUS = re.compile(r" (?=\d\d(:?\d\d)?$)")

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


def header(request: Request, name: bytes) -> str | None:
    """A header by its lower-case name; a repeated one is one list (RFC 9110, 5.3)."""
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
    value = headers.get(name)
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
    declared = header(request, b"content-length") or ""
    if declared.isdecimal() and int(declared[:20]) > BODY_BYTES_MAX:
        raise _too_long(int(declared[:20]))
    chunks = []
    length = 0
    async for chunk in request.stream():
        length += len(chunk)
        if length > BODY_BYTES_MAX:
            raise _too_long(length)
        chunks.append(chunk)
    return b"".join(chunks)


async def read_optional(request: Request, adapter: TypeAdapter[_Body]) -> tuple[_Body, IdempotencyKey | None]:
    """As `read`, of a body that may be left out and then says nothing."""
    if request.scope["query_string"]:
        check_query(request, frozenset())
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
        check_query(request, frozenset())
    body = await read_bytes(request)
    parsed = adapter.validate_python(values.parse(body))
    return parsed, idempotency_key(request, body)


def idempotency_key(request: Request, body: bytes) -> IdempotencyKey | None:
    """
    The `Idempotency-Key` header, quoted or not, else the one that the Trigger.dev SDK repeats over its retries.

    Source: draft-ietf-httpapi-idempotency-key-header; the SDK's `x-trigger-request-idempotency-key`.
    """
    key = header(request, b"idempotency-key")
    if key is None:
        key = header(request, b"x-trigger-request-idempotency-key")
        if key is None:
            return None
    if len(key) >= 2 and key[0] == key[-1] == '"':
        key = key[1:-1]
    if not 1 <= len(key) <= IDEMPOTENCY_KEY_CHARACTERS_MAX or not key.isprintable():
        raise bad_request(
            "bad-idempotency-key",
            f"an idempotency key has 1 to {IDEMPOTENCY_KEY_CHARACTERS_MAX} printable characters, "
            f"this one has {len(key)}",
        )
    scope = request.scope
    digest = sha256(body).digest()
    # Whoever holds another public token did not send this request before, whatever key it guesses.
    token: PublicToken | None = scope.get("run_ledger.token")
    shown = b"" if token is None else bytes.fromhex(token.digest)
    return IdempotencyKey(key, sha256(f"{scope['method']} {scope['path']}\n".encode() + digest + shown).digest())


def expected_versions(request: Request) -> frozenset[int] | None:
    """
    The versions that `If-Match` accepts, None for any.

    Weak tags never match, and `*` accepts whatever exists (RFC 9110, 13.1.1).
    """
    tags = _entity_tags(request, "if-match")
    if tags is None:
        return None
    return frozenset(int(tag) for weak, tag in tags if not weak and _VERSION.fullmatch(tag))


def has_version(request: Request, version: int) -> bool:
    """Whether `If-None-Match` says that the caller has this version already (weak comparison)."""
    if header(request, b"if-none-match") is None:
        return False
    tags = _entity_tags(request, "if-none-match")
    return tags is None or any(tag == str(version) for _, tag in tags)


def caller_of(request: Request, actor: str | None) -> Caller:
    """Who asks: the key, and for whom the body says it does; in an open ledger the name that the body gives."""
    trace = header(request, b"traceparent")
    if trace is not None and not _TRACEPARENT.fullmatch(trace):
        trace = None  # A broken trace context is to be ignored, says W3C Trace Context.
    key: ApiKey | None = request.scope.get("run_ledger.key")
    if key is None:
        return Caller(actor=actor or ANONYMOUS, traceparent=trace)
    if request.scope.get("run_ledger.token") is not None:
        actor = actor or HOLDER
    return Caller(actor=key.name, on_behalf_of=actor, traceparent=trace)


def check_query(
    request: Request,
    known: AbstractSet[str],
    *,
    repeatable: AbstractSet[str] = frozenset(),
    is_known: Callable[[str], bool] = lambda _: False,
) -> None:
    """
    Refuse a query parameter that means nothing here, or that is given twice: it would be ignored in silence.

    Args:
        request: The request.
        known: The parameters that mean something here.
        repeatable: Those of them that may be given several times.
        is_known: Tells of a parameter that is not listed whether it means something, any number of times.

    Raises:
        Problem: 400.
    """
    query = request.query_params
    names = [name for name, _ in query.multi_items()]
    for name in names:
        if is_known(name):
            continue
        if name not in known:
            allowed = f"there are {', '.join(sorted(known))}" if known else "this route takes none"
            raise bad_request("unknown-parameter", f"unknown query parameter {name!r}; {allowed}")
        if names.count(name) > 1 and name not in repeatable:
            raise bad_request("repeated-parameter", f"the query parameter {name!r} is given twice")


def whole_number(request: Request, name: str, low: int, high: int) -> int | None:
    """
    A query parameter that counts something, None when it is not there.

    Raises:
        Problem: 400 for what is no number, 422 for one outside *low* to *high*.
    """
    text = request.query_params.get(name)
    if text is None:
        return None
    if not re.fullmatch(r"-?[0-9]{1,19}", text):
        raise bad_request("bad-parameter", f"{name} must be a whole number, not {text[:40]!r}")
    number = int(text)
    if not low <= number <= high:
        raise Problem(
            422,
            "out-of-bounds",
            "The request is past a bound",
            f"{name} must lie within {low} and {high}, not be {number}",
            {"limit": high},
        )
    return number


def moment(request: Request, name: str) -> Microseconds | None:
    """
    A query parameter that is a time, None when it is not there.

    Raises:
        Problem: 400.
    """
    text = request.query_params.get(name)
    if text is None:
        return None
    try:
        return time_of(text)
    except ValueError as error:
        raise bad_request("bad-parameter", f"{name}: {error}") from error


def time_of(text: str) -> Microseconds:
    """
    A time in a query, where a plus sign that was not percent-encoded arrives as a space.

    Raises:
        ValueError: It is none.
    """
    return parse_time(_SPACE_FOR_PLUS.sub("+", text))


def point(request: Request, name: str) -> Point:
    """
    A query parameter that names a state: digits are a version, anything else a time; without it the current one.

    Raises:
        Problem: 400 for what is neither, 422 for a version that no run can have.
    """
    text = request.query_params.get(name)
    if text is not None and re.fullmatch("-?[0-9]+", text):
        return Point(version=whole_number(request, name, 1, VERSION_MAX))
    return Point(at=moment(request, name))


def key_path(request: Request) -> Path | None:
    """
    The query parameter `key`, which reads like the key of an operation; None when it is not there.

    Raises:
        Problem: 400.
    """
    text = request.query_params.get("key")
    if text is None:
        return None
    try:
        return parse_key(text)
    except BadPath as error:
        raise bad_request("bad-path", str(error)) from error


def _entity_tags(request: Request, condition: str) -> list[tuple[bool, str]] | None:
    """The tags of a condition as (weak, tag), None when there is no condition or it is `*`."""
    text = header(request, condition.encode())
    if text is None or text.strip() == "*":
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
    content_type = header(request, b"content-type")
    if content_type != "application/json" and not _JSON_TYPE.fullmatch(content_type or ""):
        raise _unsupported(
            "Content-Type", content_type, "send the body as JSON with the header Content-Type: application/json"
        )


def _refuse_encoding(request: Request) -> None:
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
