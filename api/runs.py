"""Runs: create, trigger, find, and give another status."""

from typing import Any

from pydantic import JsonValue
from starlette.requests import Request
from starlette.responses import Response

from api import scopes
from api.auth import token_headers
from api.cursors import cursors_of
from api.problems import bad_request
from api.rendering import details_members, json_response, run_members, unapplied_members
from api.requests import (
    caller_of,
    check_query,
    expected_versions,
    log_of,
    moment,
    read,
    read_optional,
    run_id_of,
    whole_number,
)
from api.token_scopes import judge_list
from ledger.bodies import CANCELLATION, NEW_RUN, NEW_STATUS, NEW_TAGS, TRIGGER
from ledger.log import Created
from ledger.run_ids import RUN_ID
from projections import values
from projections.lifecycle import Status, parse_status
from projections.size import NAME_CHARACTERS_MAX
from projections.values import JsonObject

PAGE_DEFAULT = 25  # runs; the reference server's
PAGE_MAX = 100  # runs; the reference server's bound

_QUERY = {"page[size]", "page[after]", "page[before]", "filter[status]", "filter[taskIdentifier]", "asOf"}


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
    headers = {**await token_headers(request, f"read:runs:{created.run_id}"), **_replayed(created)}
    return json_response(values.dump(answer), headers=headers)


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
    command = body.command(run_id, expected_versions(request))
    await scopes.judge_family(request, command.last_change)
    moved = await log_of(request).move(command, caller_of(request, body.actor), idempotency)
    answer: JsonObject = {"id": moved.run_id, "status": moved.status.value, "version": moved.version}
    if body.last_flush is not None:
        answer["unapplied"] = unapplied_members(moved.unapplied)
    return json_response(values.dump(answer), headers=_written(moved.version, is_replay=moved.is_replay))


async def cancel(request: Request) -> Response:
    """End a run as cancelled; one that is over stays as it is."""
    run_id = run_id_of(request)
    body, idempotency = await read_optional(request, CANCELLATION)
    command = body.command(run_id, expected_versions(request))
    moved = await log_of(request).move(command, caller_of(request, body.actor), idempotency)
    answer: JsonObject = {"id": moved.run_id, "version": moved.version}
    return json_response(values.dump(answer), headers=_written(moved.version, is_replay=moved.is_replay))


async def add_tags(request: Request) -> Response:
    """Give a run more tags; blank ones and those that it has are skipped."""
    run_id = run_id_of(request)
    body, idempotency = await read(request, NEW_TAGS)
    command = body.command(run_id, expected_versions(request))
    tagged = await log_of(request).tag(command, caller_of(request, body.actor), idempotency)
    answer: JsonObject = {"message": "the run has these tags", "id": run_id, "version": tagged.version}
    return json_response(values.dump(answer), headers=_written(tagged.version, is_replay=tagged.is_replay))


async def list_runs(request: Request) -> Response:
    """Answer one page of runs, newest first, as they are or as they stood."""
    check_query(request, _QUERY)
    cursors = cursors_of(request)
    for cursor in (cursors.after, cursors.before):
        if cursor is not None and not RUN_ID.fullmatch(cursor):
            raise bad_request("bad-cursor", "a cursor is what pagination.next or pagination.previous said")
    tasks = _listed(request, "filter[taskIdentifier]")
    judge_list(request, tasks)
    log = log_of(request)
    at = moment(request, "asOf")
    filters: Any = {
        "limit": whole_number(request, "page[size]", 1, PAGE_MAX) or PAGE_DEFAULT,
        "after": cursors.after,
        "before": cursors.before,
        "statuses": _statuses(request),
        "tasks": tasks,
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
    pagination = cursors.pagination(following, previous)
    environment: JsonObject = {"id": log.environment, "name": log.environment}
    data: list[JsonValue] = [{**run_members(run), "env": environment} for run in found]
    return json_response(values.dump({"data": data, "pagination": pagination}))


def _statuses(request: Request) -> list[Status]:
    try:
        return [parse_status(name) for name in _listed(request, "filter[status]")]
    except ValueError as error:
        raise bad_request("bad-parameter", f"filter[status]: {error}") from error


def _listed(request: Request, name: str) -> list[str]:
    return [item for item in request.query_params.get(name, "").split(",") if item]


def _written(version: int, *, is_replay: bool) -> dict[str, str]:
    return {"ETag": f'"{version}"', **({"Idempotency-Replayed": "true"} if is_replay else {})}


def _replayed(created: Created) -> dict[str, str]:
    return {"Idempotency-Replayed": "true"} if created.is_replay else {}
