"""Runs: create, trigger, find, and give another status."""

from typing import Any

from pydantic import JsonValue
from starlette.requests import Request
from starlette.responses import Response

from api import filters, scopes
from api.problems import bad_request
from api.rendering import audit_members, details_members, json_response, run_members
from api.requests import (
    caller_of,
    check_query,
    expected_versions,
    log_of,
    moment,
    read,
    run_id_of,
    whole_number,
)
from ledger.bodies import NEW_RUN, NEW_STATUS, TRIGGER
from ledger.finding import Sort
from ledger.log import Created
from projections import values
from projections.filters import RunFilter
from projections.size import NAME_CHARACTERS_MAX
from projections.values import JsonObject

PAGE_DEFAULT = 25  # runs; the reference server's
PAGE_MAX = 100  # runs; the reference server's bound

_QUERY = {"page[size]", "page[after]", "page[before]", "asOf", "sort", "include", *filters.NAMES}


async def create(request: Request) -> Response:
    """Create a run, or find the one that has this id already."""
    body, idempotency = await read(request, NEW_RUN)
    created = await scopes.create(request, body.command(), caller_of(request, body.actor), idempotency)
    answer: JsonObject = {"id": created.run_id, "version": created.version, "isCached": created.is_cached}
    return json_response(values.dump(answer), 200 if created.is_cached else 201, _replayed(created))


async def trigger(request: Request) -> Response:
    """Create a run of a task, as the Trigger.dev SDK does."""
    task: str = request.path_params["task"]
    if not task.strip() or len(task) > NAME_CHARACTERS_MAX or not task.isprintable():
        raise bad_request("bad-task", f"a task has 1 to {NAME_CHARACTERS_MAX} printable characters")
    body, idempotency = await read(request, TRIGGER)
    created = await scopes.create(request, body.command(task), caller_of(request, None), idempotency)
    answer: JsonObject = {"id": created.run_id, "isCached": created.is_cached, "version": created.version}
    return json_response(values.dump(answer), headers=_replayed(created))


async def retrieve(request: Request) -> Response:
    """Answer a run with its metadata, payload, output and error."""
    check_query(request, frozenset())
    details = await log_of(request).run(run_id_of(request))
    shown = scopes.without_hidden_relatives(request, details)
    return json_response(values.dump(details_members(shown)))


async def set_status(request: Request) -> Response:
    """Give a run another status."""
    run_id = run_id_of(request)
    body, idempotency = await read(request, NEW_STATUS)
    moved = await log_of(request).move(
        body.command(run_id, expected_versions(request)),
        caller_of(request, body.actor),
        idempotency,
    )
    answer: JsonObject = {"id": moved.run_id, "status": moved.status.value, "version": moved.version}
    headers = {"ETag": f'"{moved.version}"'}
    if moved.is_replay:
        headers["Idempotency-Replayed"] = "true"
    return json_response(values.dump(answer), headers=headers)


async def list_runs(request: Request) -> Response:
    """Answer one page of runs, newest first unless asked otherwise, as they are or as they stood."""
    check_query(request, _QUERY, is_known=filters.is_condition)
    query = request.query_params
    after, before = query.get("page[after]"), query.get("page[before]")
    if after is not None and before is not None:
        raise bad_request("bad-parameter", "ask for what comes after a cursor or before one, not for both")
    log = log_of(request)
    at = moment(request, "asOf")
    asked: dict[str, Any] = {
        "limit": whole_number(request, "page[size]", 1, PAGE_MAX) or PAGE_DEFAULT,
        "after": after,
        "before": before,
        "wanted": filters.run_filter(request, log.now if at is None else lambda: at),
        "sort": filters.sort_of(request),
        "within": scopes.readable(request),
    }
    with_progress = _include(request, is_past=at is not None)
    if at is None:
        page = await log.runs(**asked)
    else:
        _refuse_of_the_past(asked["wanted"], asked["sort"])
        page = await log.runs_as_of(at, **asked)
    cursors = {"next": page.next, "previous": page.previous}
    pagination: JsonObject = {name: cursor for name, cursor in cursors.items() if cursor is not None}
    environment: JsonObject = {"id": log.environment, "name": log.environment}
    audits = await log.audits([run.id for run in page.items]) if with_progress else {}
    data: list[JsonValue] = []
    for run in page.items:
        members = {**run_members(run), "env": environment}
        if run.id in audits:
            members["progress"] = audit_members(audits[run.id])
        data.append(members)
    return json_response(values.dump({"data": data, "pagination": pagination}))


def _include(request: Request, *, is_past: bool) -> bool:
    """Whether the progress of each run is asked for."""
    given = request.query_params.get("include")
    if given not in {None, "progress"}:
        raise bad_request("bad-parameter", f"include can only be progress, not {str(given)[:40]!r}")
    if given is not None and is_past:
        raise bad_request("bad-parameter", "include=progress tells of now; leave out asOf")
    return given is not None


def _refuse_of_the_past(wanted: RunFilter, sort: Sort) -> None:
    if sort.is_by_change:
        raise bad_request("bad-parameter", "asOf goes with the order of creation only; sort by createdAt")
    if wanted.asks_for_verdicts:
        raise bad_request(
            "bad-parameter", "filter[stalled] and filter[regressed] are judged as of now; leave out asOf"
        )


def _replayed(created: Created) -> dict[str, str]:
    return {"Idempotency-Replayed": "true"} if created.is_replay else {}
