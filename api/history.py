"""The past of a run: its events and what they did, what differs between two states, why a value is what it is."""

from typing import Literal

from starlette.requests import Request
from starlette.responses import Response

from api import scopes
from api.problems import bad_request
from api.rendering import entry_text, json_response, refusal_text, step_text
from api.requests import (
    VERSION_MAX,
    check_query,
    key_path,
    log_of,
    moment,
    point,
    run_id_of,
    whole_number,
)
from ledger.history import Wanted
from ledger.reads import Point
from ledger.run_ids import RUN_ID
from ledger.writes import Refused
from projections import values
from projections.events import EVENT_TYPES
from projections.metadata import Absent
from projections.size import ATTEMPT_MAX

PAGE_DEFAULT = 100  # events
PAGE_MAX = 1_000  # events

_FILTERS = {"key", "actor", "type", "attempt", "from", "to"}


async def get_history(request: Request) -> Response:
    """Answer one page of events."""
    run_id = run_id_of(request)
    check_query(request, {"after", "before", "limit", "order", "include"} | _FILTERS)
    after, before = (whole_number(request, name, 0, VERSION_MAX) for name in ("after", "before"))
    if after is not None and before is not None:
        raise bad_request("bad-parameter", "ask for what comes after a version or before one, not for both")
    page = await log_of(request).entries(
        run_id,
        limit=_limit(request),
        after=after,
        before=before,
        order=_order(request),
        wanted=_wanted(request),
        refusals=_includes_refusals(request),
    )
    items = [refusal_text(run_id, item) if isinstance(item, Refused) else entry_text(item) for item in page.items]
    return json_response(f'{{"data":[{",".join(items)}],"pagination":{_pagination(page.next, page.previous)}}}')


async def get_diff(request: Request) -> Response:
    """Answer the JSON Patch (RFC 6902) that makes one state of the other."""
    run_id = run_id_of(request)
    check_query(request, {"from", "to", "toRun"})
    to_run = request.query_params.get("toRun")
    if to_run is not None and not RUN_ID.fullmatch(to_run):
        raise bad_request("bad-parameter", "toRun must be the id of a run")
    if to_run is not None:
        await scopes.judge_other_run(request, to_run)
    start, end = point(request, "from"), point(request, "to")
    if to_run is None and start == Point():
        start = Point(version=1)
    difference = await log_of(request).diff(run_id, start, end, to_run)
    headers = {"From-Version": str(difference.start), "To-Version": str(difference.end)}
    return Response(values.dump(difference.patch), headers=headers, media_type="application/json-patch+json")


async def get_explanation(request: Request) -> Response:
    """Answer the events that made a value what it is, or what it was."""
    run_id = run_id_of(request)
    check_query(request, {"key", "version", "at", "limit", "before"})
    key = key_path(request)
    if key is None:
        raise bad_request(
            "bad-parameter", "name the value to explain: key=progress, or a path: key=$.status.state"
        )
    version, at = whole_number(request, "version", 1, VERSION_MAX), moment(request, "at")
    if version is not None and at is not None:
        raise bad_request("bad-parameter", "ask for a version or for a moment, not for both")
    found = await log_of(request).explain(
        run_id,
        key,
        version=version,
        at=at,
        limit=_limit(request),
        before=whole_number(request, "before", 0, VERSION_MAX),
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


def _limit(request: Request) -> int:
    return whole_number(request, "limit", 1, PAGE_MAX) or PAGE_DEFAULT


def _order(request: Request) -> Literal["asc", "desc"]:
    match request.query_params.get("order", "asc"):
        case "asc":
            return "asc"
        case "desc":
            return "desc"
        case other:
            raise bad_request("bad-parameter", f"order must be asc or desc, not {other[:40]!r}")


def _wanted(request: Request) -> Wanted:
    since, until = moment(request, "from"), moment(request, "to")
    if since is not None and until is not None and since > until:
        raise bad_request("bad-parameter", "from lies behind to; exchange them")
    return Wanted(
        key=key_path(request),
        actor=request.query_params.get("actor"),
        types=_types(request),
        attempt=whole_number(request, "attempt", 1, ATTEMPT_MAX),
        since=since,
        until=until,
    )


def _types(request: Request) -> tuple[str, ...]:
    text = request.query_params.get("type")
    if text is None:
        return ()
    types = tuple(sorted({name for name in text.split(",") if name}))
    unknown = [name for name in types if name not in EVENT_TYPES]
    if unknown or not types:
        what = repr(unknown[0][:40]) if unknown else "nothing"
        raise bad_request("bad-parameter", f"type: there are {', '.join(EVENT_TYPES)}, not {what}")
    return types


def _includes_refusals(request: Request) -> bool:
    match request.query_params.get("include"):
        case None:
            return False
        case "refusals":
            return True
        case other:
            raise bad_request("bad-parameter", f"include must be refusals, not {other[:40]!r}")
