"""The progress audit of a run: how far, how fast, where it stood still, when it went backwards."""

import re

from starlette.requests import Request
from starlette.responses import Response

from api.problems import Problem, bad_request
from api.rendering import json_response
from api.requests import VERSION_MAX, check_query, key_path, log_of, run_id_of, whole_number
from projections import values
from projections.progress import AttemptChoice, ScaleChoice, parse_scale

STALL_AFTER_MAX_S = 10 * 365 * 86_400  # seconds; no run is watched for longer

_SECONDS = re.compile(r"-?[0-9]{1,19}(\.[0-9]{1,9})?")


async def get_progress(request: Request) -> Response:
    """Answer the audit; a run without a progress key gets one that says so."""
    run_id = run_id_of(request)
    check_query(request, {"key", "scale", "stallAfter", "attempt"})
    audit = await log_of(request).progress(
        run_id,
        key=key_path(request),
        scale=_scale(request),
        stall_after_s=_stall_after_s(request),
        attempt=_attempt(request),
    )
    return json_response(values.dump(audit.answer()))


def _scale(request: Request) -> ScaleChoice | None:
    text = request.query_params.get("scale")
    if text is None:
        return None
    try:
        return parse_scale(text)
    except ValueError as error:
        raise bad_request("bad-parameter", str(error)) from error


def _stall_after_s(request: Request) -> float | None:
    text = request.query_params.get("stallAfter")
    if text is None:
        return None
    if not _SECONDS.fullmatch(text):
        raise bad_request("bad-parameter", f"stallAfter must be a number of seconds, not {text[:40]!r}")
    seconds = float(text)
    if not 0 < seconds <= STALL_AFTER_MAX_S:
        raise Problem(
            422,
            "out-of-bounds",
            "The request is past a bound",
            f"stallAfter must be more than 0 and at most {STALL_AFTER_MAX_S} seconds, not {text[:40]}",
            {"limit": STALL_AFTER_MAX_S},
        )
    return seconds


def _attempt(request: Request) -> AttemptChoice:
    match request.query_params.get("attempt", "current"):
        case "current":
            return "current"
        case "all":
            return "all"
        case other if re.fullmatch(r"-?[0-9]{1,19}", other):
            return whole_number(request, "attempt", 1, VERSION_MAX) or 1
        case other:
            raise bad_request("bad-parameter", f"attempt must be current, all, or a number, not {other[:40]!r}")
