"""Whether the server lives, and whether it can do its work."""

from starlette.requests import Request
from starlette.responses import Response

from api.problems import Problem
from api.rendering import json_response
from api.requests import log_of
from ledger.errors import RunNotFound, Unavailable


async def healthz(request: Request) -> Response:
    """Answer 200 while the process can still take writes; what restarts processes should ask this."""
    if not log_of(request).is_writing:
        raise _not_ready("the writer has stopped; restart the process")
    return json_response('{"status":"ok"}')


async def readyz(request: Request) -> Response:
    """Answer 200 while the database can be read and writes are taken; what routes traffic should ask this."""
    if not log_of(request).is_writing:
        raise _not_ready("the server is shutting down")
    try:
        await log_of(request).current("-")
    except RunNotFound:
        pass
    except Unavailable as error:
        raise _not_ready(str(error)) from error
    return json_response('{"status":"ready"}')


def _not_ready(detail: str) -> Problem:
    return Problem(503, "not-ready", "The server is not ready", detail, headers={"Retry-After": "1"})
