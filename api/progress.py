"""The progress audit of a run: how far, how fast, where it stood still, when it went backwards."""

import re

from starlette.requests import Request
from starlette.responses import Response

from api.parameters import VERSION_MAX, Parameter, Query, key_path, out_of_bounds, parameter, read_number
from api.problems import bad_request
from api.rendering import json_response
from api.requests import log_of, run_id_of
from projections import values
from projections.progress import AttemptChoice, ScaleChoice, parse_scale
from projections.progress.keys import NUMBER_MAX, TOTAL_MIN

STALL_AFTER_MAX_S = 10 * 365 * 86_400  # seconds; no run is watched for longer

_SECONDS = re.compile(r"-?[0-9]{1,19}(\.[0-9]{1,9})?")


def _read_scale(text: str) -> ScaleChoice:
    try:
        return parse_scale(text)
    except ValueError as error:
        raise bad_request("bad-parameter", str(error)) from error


def _read_seconds(text: str) -> float:
    if not _SECONDS.fullmatch(text):
        raise bad_request("bad-parameter", f"stallAfter must be a number of seconds, not {text[:40]!r}")
    seconds = float(text)
    if not 0 < seconds <= STALL_AFTER_MAX_S:
        raise out_of_bounds(
            f"stallAfter must be more than 0 and at most {STALL_AFTER_MAX_S} seconds, not {text[:40]}",
            STALL_AFTER_MAX_S,
        )
    return seconds


def _read_attempt(text: str) -> AttemptChoice:
    match text:
        case "current" | "all":
            return text
        case _ if re.fullmatch(r"-?[0-9]{1,19}", text):
            return read_number("attempt", text, 1, VERSION_MAX)
        case _:
            raise bad_request("bad-parameter", f"attempt must be current, all, or a number, not {text[:40]!r}")


_KEY = key_path("Where the progress is; found by itself unless given.")
_SCALE: Parameter[ScaleChoice | None] = parameter(
    "scale",
    _read_scale,
    {
        "anyOf": [
            {"type": "string", "enum": ["fraction", "percent", "ratio"]},
            {"type": "number", "minimum": TOTAL_MIN, "maximum": NUMBER_MAX},
        ]
    },
    "How to read it, or the number that means complete; told from its values unless given.",
    default=None,
)
_STALL_AFTER: Parameter[float | None] = parameter(
    "stallAfter",
    _read_seconds,
    {"type": "number", "exclusiveMinimum": 0, "maximum": STALL_AFTER_MAX_S},
    "Seconds without movement that make a stall; told from the run's own rhythm unless given.",
    default=None,
)
_ATTEMPT: Parameter[AttemptChoice] = parameter(
    "attempt",
    _read_attempt,
    {
        "anyOf": [
            {"type": "string", "enum": ["current", "all"]},
            {"type": "integer", "minimum": 1, "maximum": VERSION_MAX},
        ],
        "default": "current",
    },
    "The last attempt, all of them as one, or one by its number.",
    default="current",
)
PROGRESS = Query(_KEY, _SCALE, _STALL_AFTER, _ATTEMPT)


async def get_progress(request: Request) -> Response:
    """Answer the audit; a run without a progress key gets one that says so."""
    run_id = run_id_of(request)
    query = PROGRESS.of(request)
    audit = await log_of(request).progress(
        run_id,
        key=query[_KEY],
        scale=query[_SCALE],
        stall_after_s=query[_STALL_AFTER],
        attempt=query[_ATTEMPT],
    )
    return json_response(values.dump(audit.answer()))
