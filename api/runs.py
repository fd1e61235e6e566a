"""Runs: create, trigger, find, and give another status."""

from typing import Any

from pydantic import JsonValue
from starlette.requests import Request
from starlette.responses import Response

from api import scopes
from api.parameters import NO_QUERY, Query, listed, moment, run_id, whole_number
from api.problems import Problem, bad_request
from api.rendering import details_members, json_response, run_members
from api.requests import caller_of, expected_versions, log_of, read, run_id_of
from ledger.bodies import NEW_RUN, NEW_STATUS, TRIGGER
from ledger.log import Created
from projections import values
from projections.lifecycle import Status, parse_status
from projections.size import NAME_CHARACTERS_MAX
from projections.values import JsonObject

PAGE_DEFAULT = 25  # runs; the reference server's
PAGE_MAX = 100  # runs; the reference server's bound


def _bad_cursor(_: str) -> Problem:
    return bad_request("bad-cursor", "a cursor is what pagination.next or pagination.previous said")


_SIZE = whole_number("page[size]", 1, PAGE_MAX, "Runs on a page.", default=PAGE_DEFAULT)
_AFTER = run_id("page[after]", "The `pagination.next` of the page before.", _bad_cursor)
_BEFORE = run_id("page[before]", "The `pagination.previous` of the page behind, instead.", _bad_cursor)
_STATUSES = listed(
    "filter[status]", parse_status, {"type": "string", "enum": [*Status]}, "Runs with any of these statuses."
)
_TASKS = listed("filter[taskIdentifier]", str, {"type": "string"}, "Runs of any of these tasks.")
_AS_OF = moment("asOf", "The runs as they stood then, with the filters meaning what held then.")
LIST = Query(_SIZE, _AFTER, _BEFORE, _STATUSES, _TASKS, _AS_OF)


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
    NO_QUERY.of(request)
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
    """Answer one page of runs, newest first, as they are or as they stood."""
    query = LIST.of(request)
    after, before, at = query[_AFTER], query[_BEFORE], query[_AS_OF]
    if after is not None and before is not None:
        raise bad_request("bad-parameter", "ask for what comes after a cursor or before one, not for both")
    log = log_of(request)
    filters: Any = {
        "limit": query[_SIZE],
        "after": after,
        "before": before,
        "statuses": query[_STATUSES],
        "tasks": query[_TASKS],
        "within": scopes.readable(request),
    }
    if at is None:
        page = await log.runs(**filters)
        found, following, previous = page.items, None, None
        if page.items and page.has_next:
            following = page.items[-1].id
        if page.items and page.has_previous:
            previous = page.items[0].id
    else:
        past = await log.runs_as_of(at, **filters)
        found, following, previous = past.items, past.next, past.previous
    cursors = {"next": following, "previous": previous}
    pagination: JsonObject = {name: cursor for name, cursor in cursors.items() if cursor is not None}
    environment: JsonObject = {"id": log.environment, "name": log.environment}
    data: list[JsonValue] = [{**run_members(run), "env": environment} for run in found]
    return json_response(values.dump({"data": data, "pagination": pagination}))


def _replayed(created: Created) -> dict[str, str]:
    return {"Idempotency-Replayed": "true"} if created.is_replay else {}
