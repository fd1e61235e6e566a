"""
Errors on the wire: RFC 9457 problem bodies, one table of status codes.

Every body also carries `error`, the same text as `detail`, which the Trigger.dev SDK shows.

When two statuses could apply, the earlier of these comes back: 400 or 421 for where the request came from; 401 for
its key; 429 for its rate; 404 and 405 for the route; 403 for what the key may do, or 404 where it may not know of
the run; 415 and 413 for the body as a whole; 400, 413 and 422 for what it says; 422 for a reused idempotency key;
404 for an unknown run; 412 for a stale version; 422 for a late write or a step that the run cannot take; 400, 413
and 422 for what the operations would do. 409 is never used for a refusal, because the SDK would repeat the
request.
"""

import logging
import re
import time
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Match

from ledger import errors as ledger_errors
from projections import errors as refusals
from projections import values

FAULTS_SHOWN = 10  # faults of one body that an answer lists
OUTAGE_LOG_S = 60.0  # seconds between two lines in the server's log about the same kind of outage

# What the Trigger.dev SDK asks of a server that executes tasks, and why there is nothing to do here.
_UNSUPPORTED = re.compile(
    r"/api/v\d/(?:runs/[^/]+/(?P<replay>replay)|runs/[^/]+/(?P<reschedule>reschedule)|(?P<packet>packets)/.*)"
)
_REASONS = {
    "replay": "a ledger records runs and executes none, so it cannot replay one; trigger the task again",
    "reschedule": "a ledger records runs and executes none, so it cannot reschedule one; tell who executes it",
    "packet": "there is no store for large payloads; send less than 131,072 bytes, or say where it lies",
}

_OUTAGES = (
    ledger_errors.StorageFailed,
    ledger_errors.StorageFull,
    ledger_errors.OutcomeUnknown,
    ledger_errors.Overloaded,
)

_logger = logging.getLogger(__name__)
_logged_at: dict[str, float] = {}  # When each kind of outage was last said, by its code.

_STATUS: dict[type[Exception], tuple[int, str]] = {
    refusals.BadJson: (400, "The body is not acceptable JSON"),
    refusals.BadPath: (400, "The key cannot be used"),
    refusals.TooLarge: (413, "The metadata would be too large"),
    refusals.OutOfBounds: (422, "The result is out of bounds"),
    refusals.BadTransition: (422, "The run cannot take this status"),
    ledger_errors.RunNotFound: (404, "No such run"),
    ledger_errors.KeyNotFound: (404, "No such API key"),
    ledger_errors.KeyRefused: (401, "An API key is needed"),
    ledger_errors.TokenSpent: (401, "The token was for one use"),
    ledger_errors.VersionNotFound: (404, "No such version"),
    ledger_errors.WrongExpectedVersion: (412, "The run has another version"),
    ledger_errors.IdempotencyConflict: (422, "The idempotency key was used before"),
    ledger_errors.RunExists: (422, "The run id is taken"),
    ledger_errors.UnknownParent: (422, "No such parent run"),
    ledger_errors.BatchNotFound: (404, "No such batch"),
    ledger_errors.NoSuchPlace: (422, "The batch has no such place"),
    ledger_errors.BatchUnfinished: (422, "The batch is not complete"),
    ledger_errors.AlreadyFinished: (422, "The run is over"),
    ledger_errors.NothingToErase: (404, "Nothing to erase"),
    ledger_errors.Unsound: (422, "The run does not verify"),
    ledger_errors.LateWrite: (422, "The run finished too long ago"),
    ledger_errors.BadCursor: (400, "No such cursor"),
    ledger_errors.Overloaded: (503, "Too many writes are waiting"),
    ledger_errors.Busy: (503, "The log is locked"),
    ledger_errors.StorageFull: (507, "No space left"),
    ledger_errors.StorageFailed: (503, "The storage failed"),
    ledger_errors.OutcomeUnknown: (503, "The outcome is not known"),
}

# Faults of a body that are bounds rather than mistakes: pydantic's type of error, our status.
_BOUNDS = {"too_many_bytes": 413, "too_long": 422, "out_of_bounds": 422, "string_too_long": 422}

# Faults by pydantic's type, in words that name no Python type.
_WORDS = {
    "missing": "is missing",
    "dict_type": "must be an object",
    "model_type": "must be an object",
    "model_attributes_type": "must be an object",
    "list_type": "must be a list",
    "tuple_type": "must be a list",
    "string_type": "must be a string",
    "int_type": "must be a whole number",
    "string_unicode": "holds an unpaired surrogate, which is half a character and cannot be stored",
    "union_tag_not_found": "lacks a type: set, delete, append, remove, increment or update",
    "union_tag_invalid": "has an unknown type; there are set, delete, append, remove, increment and update",
}


class Problem(Exception):
    """
    An answer that is an error.

    Args:
        status: HTTP status.
        code: A stable word for programs.
        title: The kind of problem, the same for every answer with this code.
        detail: What happened here and how to mend it.
        members: Further members of the body.
        headers: Further headers.
    """

    def __init__(
        self,
        status: int,
        code: str,
        title: str,
        detail: str,
        members: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.code = code
        self.title = title
        self.detail = detail
        self.members = dict(members or {})
        self.headers = dict(headers or {})

    def response(self) -> Response:
        """The RFC 9457 body."""
        body = {
            "type": f"urn:run-ledger:problem:{self.code}",
            "title": self.title,
            "status": self.status,
            "detail": self.detail,
            "error": self.detail,
            "code": self.code,
            **self.members,
        }
        text = values.dump(body)
        return Response(
            text.encode(errors="backslashreplace"),
            self.status,
            headers=self.headers,
            media_type="application/problem+json",
        )


def bad_request(code: str, detail: str, **members: Any) -> Problem:
    """A request that says something impossible."""
    return Problem(400, code, "The request is not acceptable", detail, members)


def run_not_found(run_id: str) -> Problem:
    """The same answer as for a run that does not exist."""
    return problem_of(ledger_errors.RunNotFound(run_id))


async def on_error(_: Request, error: Exception) -> Response:
    """Render what the ledger or a rule refused."""
    log_outage(error)
    return problem_of(error).response()


def log_outage(error: Exception) -> None:
    """Say in the server's log what callers are told of the storage, and not again for each of them."""
    if isinstance(error, _OUTAGES):
        now = time.monotonic()
        if now - _logged_at.get(error.code, -OUTAGE_LOG_S) >= OUTAGE_LOG_S:
            _logged_at[error.code] = now
            _logger.error("requests are refused: %s", error)


async def on_problem(_: Request, error: Exception) -> Response:
    """Render a problem that a handler found."""
    assert isinstance(error, Problem)
    return error.response()


async def on_invalid_body(_: Request, error: Exception) -> Response:
    """Render what pydantic found wrong with a body."""
    return problem_of(error).response()


def _invalid_body(error: ValidationError) -> Problem:
    faults = [_fault(details) for details in error.errors(include_url=False, include_input=False)[:FAULTS_SHOWN]]
    count = error.error_count()
    detail = "; ".join(
        f"{place}: {message}" if place else f"the body {message}" for place, message, _ in faults[:3]
    )
    if count > 3:
        detail += f"; and {count - 3} more"
    status = max(fault[2] for fault in faults) if all(fault[2] != 400 for fault in faults) else 400
    members = {"errors": [{"place": place, "message": message} for place, message, _ in faults]}
    title = "The body is not acceptable" if status == 400 else "The body is past a bound"
    return Problem(status, "invalid-body" if status == 400 else "out-of-bounds", title, detail, members)


async def on_http_error(request: Request, error: Exception) -> Response:
    """Render what the router refused."""
    assert isinstance(error, HTTPException)
    unsupported = _UNSUPPORTED.fullmatch(request.scope["path"])
    if error.status_code == 404 and unsupported is not None:
        reason = _REASONS[str(unsupported.lastgroup)]
        problem = Problem(404, "unsupported", "The ledger does not do this", reason)
    elif error.status_code == 404:
        problem = Problem(404, "no-such-route", "No such route", f"there is nothing at {request.scope['path']}")
    elif error.status_code == 405:
        allowed = ", ".join(sorted(_methods_here(request)))
        detail = f"{request.method} is not possible here; allowed: {allowed}"
        headers = {"Allow": allowed}
        problem = Problem(405, "method-not-allowed", "The method is not possible here", detail, headers=headers)
    else:
        problem = Problem(error.status_code, "http-error", "The request failed", error.detail, None, error.headers)
    return problem.response()


async def on_disconnect(_: Request, __: Exception) -> Response:
    """Nobody is there to read the answer."""
    return Response(status_code=499)


async def on_bug(request: Request, error: Exception) -> Response:
    """Render what nobody foresaw; the log has the details, the caller gets none of them."""
    _logger.error("%s %s failed", request.method, request.scope["path"], exc_info=error)
    detail = "the server failed in a way nobody foresaw; its log says more"
    return Problem(500, "internal-error", "The server failed", detail).response()


def _methods_here(request: Request) -> set[str]:
    """Every method that some route takes at this path; the router knows only those of the first route."""
    return {
        method
        for route in request.app.routes
        if route.matches(request.scope)[0] is not Match.NONE
        for method in route.methods or ()
    }


def problem_of(error: Exception) -> Problem:
    """The answer to what the ledger, a rule or the description of a body refused."""
    if isinstance(error, Problem):
        return error
    if isinstance(error, ValidationError):
        return _invalid_body(error)
    status, title = next(_STATUS[kind] for kind in type(error).__mro__ if kind in _STATUS)
    headers = {}
    if isinstance(error, ledger_errors.Unavailable | ledger_errors.OutcomeUnknown):
        headers["Retry-After"] = str(error.retry_after_s)
    code = getattr(error, "code", "invalid-json")
    return Problem(status, code, title, str(error), dict(_members(error)), headers)


def _members(error: Exception) -> Iterator[tuple[str, Any]]:
    """The fields of an error that help a program to react."""
    match error:
        case refusals.TooLarge():
            yield "sizeBytes", error.size_bytes
            yield "limitBytes", error.limit_bytes
            yield "largestKeys", [{"key": size.key, "bytes": size.bytes} for size in error.largest_keys]
        case refusals.OutOfBounds() if error.limit is not None:
            yield "limit", error.limit
        case ledger_errors.WrongExpectedVersion():
            yield "expected", sorted(error.expected)
            yield "actual", error.actual
            yield "runId", error.run_id
        case ledger_errors.VersionNotFound():
            yield "lastVersion", error.last
        case refusals.BadJson() if error.place:
            yield "place", error.place
        case _:
            pass
    if isinstance(error, refusals.Refusal):
        if error.run_id is not None:
            yield "runId", error.run_id
        if error.list is not None:
            yield "place", f"{error.list}[{error.index}]"


def _fault(details: ErrorDetails) -> tuple[str, str, int]:
    """The place, the words and the status of one of pydantic's errors."""
    kind = details["type"]
    message = _WORDS.get(kind, details["msg"])
    if kind == "value_error":
        message = str(details.get("ctx", {}).get("error", message))
    if kind == "too_long":
        context = details["ctx"]
        message = f"has {context['actual_length']} items, at most {context['max_length']} are allowed"
    if kind == "string_too_long":
        message = f"at most {details['ctx']['max_length']} characters are allowed"
    return place(details["loc"]), message, _BOUNDS.get(kind, 400)


def place(location: tuple[int | str, ...]) -> str:
    """Where in a body: `operations[0].value`, without the tags that pydantic adds for the kind of operation."""
    text = ""
    previous: int | str | None = None
    for step in location:
        if isinstance(step, int):
            text += f"[{step}]"
        elif not (isinstance(previous, int) and step in _KINDS):
            text += f".{step}" if text else step
        previous = step
    return text


_KINDS = frozenset({"set", "delete", "append", "remove", "increment", "update"})

HANDLERS: dict[Any, Any] = {
    refusals.Refusal: on_error,
    refusals.BadJson: on_error,
    ledger_errors.LedgerError: on_error,
    ValidationError: on_invalid_body,
    Problem: on_problem,
    HTTPException: on_http_error,
    ClientDisconnect: on_disconnect,
    Exception: on_bug,
}
