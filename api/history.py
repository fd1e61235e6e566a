"""The past of a run: its events and what they did, what differs between two states, why a value is what it is."""

from typing import Literal

from starlette.requests import Request
from starlette.responses import Response

from api import scopes
from api.parameters import (
    VERSION_MAX,
    Given,
    Parameter,
    Query,
    key_path,
    moment,
    one_of,
    parameter,
    point,
    run_id,
    text,
    whole_number,
)
from api.problems import bad_request
from api.rendering import entry_text, json_response, refusal_text, step_text
from api.requests import log_of, run_id_of
from ledger.history import Wanted
from ledger.reads import Point
from ledger.writes import Refused
from projections import values
from projections.events import EVENT_TYPES
from projections.metadata import Absent
from projections.size import ATTEMPT_MAX

PAGE_DEFAULT = 100  # events
PAGE_MAX = 1_000  # events

_ORDERS: dict[str, Literal["asc", "desc"]] = {"asc": "asc", "desc": "desc"}


def _read_types(text: str) -> tuple[str, ...]:
    types = tuple(sorted({name for name in text.split(",") if name}))
    unknown = [name for name in types if name not in EVENT_TYPES]
    if unknown or not types:
        what = repr(unknown[0][:40]) if unknown else "nothing"
        raise bad_request("bad-parameter", f"type: there are {', '.join(EVENT_TYPES)}, not {what}")
    return types


_LIMIT = whole_number("limit", 1, PAGE_MAX, "Events on a page.", default=PAGE_DEFAULT)
_AFTER = whole_number("after", 0, VERSION_MAX, "Begin behind this version, in the order asked for.")
_BEFORE = whole_number("before", 0, VERSION_MAX, "End in front of this version, in the order asked for, instead.")
_ORDER = one_of("order", _ORDERS, "Oldest first, or newest first.", default="asc", usual="asc")
_INCLUDE = one_of("include", {"refusals": True}, "Show between the events what was refused.", default=False)
_KEY = key_path("Events about the value of this key, or path where it begins with `$.`.")
_ACTOR = text("actor", "Events of this actor.")
_TYPES: Parameter[tuple[str, ...]] = parameter(
    "type",
    _read_types,
    {"type": "array", "minItems": 1, "items": {"type": "string", "enum": [*EVENT_TYPES]}},
    "Events of any of these types.",
    default=(),
)
_ATTEMPT = whole_number("attempt", 1, ATTEMPT_MAX, "Events of this attempt.")
_SINCE = moment("from", "Events recorded then or later.")
_UNTIL = moment("to", "Events recorded then or before.")
HISTORY = Query(_AFTER, _BEFORE, _LIMIT, _ORDER, _INCLUDE, _KEY, _ACTOR, _TYPES, _ATTEMPT, _SINCE, _UNTIL)

_FROM = point("from", "The first state: a version, or a time. Version 1 unless given, or `toRun` is.")
_TO = point("to", "The second state: a version, or a time. The current one unless given.")
_TO_RUN = run_id(
    "toRun",
    "The run of the second state, the same one unless given.",
    lambda _: bad_request("bad-parameter", "toRun must be the id of a run"),
)
DIFF = Query(_FROM, _TO, _TO_RUN)

_VALUE = key_path("The value to explain: a key, or a path where it begins with `$.`.", is_required=True)
_VERSION = whole_number("version", 1, VERSION_MAX, "As it stood after so many events.")
_AT = moment("at", "As it stood after the last event recorded by then. Not together with `version`.")
_IN_FRONT = whole_number("before", 0, VERSION_MAX, "Only events in front of this version.")
EXPLANATION = Query(_VALUE, _VERSION, _AT, _LIMIT, _IN_FRONT)


async def get_history(request: Request) -> Response:
    """Answer one page of events."""
    run_id = run_id_of(request)
    query = HISTORY.of(request)
    after, before = query[_AFTER], query[_BEFORE]
    if after is not None and before is not None:
        raise bad_request("bad-parameter", "ask for what comes after a version or before one, not for both")
    page = await log_of(request).entries(
        run_id,
        limit=query[_LIMIT],
        after=after,
        before=before,
        order=query[_ORDER],
        wanted=_wanted(query),
        refusals=query[_INCLUDE],
    )
    items = [refusal_text(run_id, item) if isinstance(item, Refused) else entry_text(item) for item in page.items]
    return json_response(f'{{"data":[{",".join(items)}],"pagination":{_pagination(page.next, page.previous)}}}')


async def get_diff(request: Request) -> Response:
    """Answer the JSON Patch (RFC 6902) that makes one state of the other."""
    run_id = run_id_of(request)
    query = DIFF.of(request)
    start, end, to_run = query[_FROM], query[_TO], query[_TO_RUN]
    if to_run is not None:
        await scopes.judge_other_run(request, to_run)
    if to_run is None and start == Point():
        start = Point(version=1)
    difference = await log_of(request).diff(run_id, start, end, to_run)
    headers = {"From-Version": str(difference.start), "To-Version": str(difference.end)}
    return Response(values.dump(difference.patch), headers=headers, media_type="application/json-patch+json")


async def get_explanation(request: Request) -> Response:
    """Answer the events that made a value what it is, or what it was."""
    run_id = run_id_of(request)
    query = EXPLANATION.of(request)
    key, version, at = query[_VALUE], query[_VERSION], query[_AT]
    if key is None:
        raise bad_request(
            "bad-parameter", "name the value to explain: key=progress, or a path: key=$.status.state"
        )
    if version is not None and at is not None:
        raise bad_request("bad-parameter", "ask for a version or for a moment, not for both")
    found = await log_of(request).explain(
        run_id,
        key,
        version=version,
        at=at,
        limit=query[_LIMIT],
        before=query[_IN_FRONT],
    )
    value = "" if isinstance(found.value, Absent) else f'"value":{values.dump(found.value)},'
    steps = ",".join(map(step_text, found.steps, found.wiped_by))
    return json_response(
        f'{{"runId":"{run_id}","key":{values.dump(request.query_params["key"])},{value}"version":{found.version},'
        f'"events":[{steps}],"pagination":{_pagination(None, found.previous)}}}'
    )


def _pagination(following: int | None, previous: int | None) -> str:
    cursors = {"next": following, "previous": previous}
    return values.dump({name: str(version) for name, version in cursors.items() if version is not None})


def _wanted(query: Given) -> Wanted:
    since, until = query[_SINCE], query[_UNTIL]
    if since is not None and until is not None and since > until:
        raise bad_request("bad-parameter", "from lies behind to; exchange them")
    return Wanted(
        key=query[_KEY],
        actor=query[_ACTOR],
        types=query[_TYPES],
        attempt=query[_ATTEMPT],
        since=since,
        until=until,
    )
