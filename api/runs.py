"""Runs: create, trigger, find, and give another status."""

from typing import Any

from pydantic import JsonValue
from starlette.requests import Request
from starlette.responses import Response

from api import cursors, filters, scopes
from api.auth import token_headers
from api.parameters import NO_QUERY, Given, Parameter, Query, moment, one_of, whole_number
from api.problems import bad_request
from api.rendering import audit_members, details_members, json_response, run_members, unapplied_members
from api.requests import caller_of, expected_versions, log_of, read, read_optional, run_id_of
from api.token_scopes import judge_list
from ledger.answers import Created
from ledger.bodies import CANCELLATION, NEW_RUN, NEW_STATUS, NEW_TAGS, TRIGGER
from ledger.finding import RunsPage, Sort
from projections import values
from projections.filters import RunFilter
from projections.size import NAME_CHARACTERS_MAX
from projections.values import JsonObject

PAGE_DEFAULT = 25  # runs; the reference server's
PAGE_MAX = 100  # runs; the reference server's bound

_SIZE = whole_number("page[size]", 1, PAGE_MAX, "Runs on a page.", default=PAGE_DEFAULT)
AS_OF = moment("asOf", "The runs as they stood then, with the filters meaning what held then.")
_SORT = one_of(
    "sort",
    {one.value: one for one in Sort},
    "The order: by creation or by the last event, newest first where it begins with `-`.",
    default=Sort.NEWEST,
    usual=Sort.NEWEST.value,
)
_INCLUDE = one_of("include", {"progress": True}, "Show the progress of each run, as it is now.", default=False)
FINDING: tuple[Parameter[Any], ...] = (_SIZE, cursors.AFTER, cursors.BEFORE, _SORT, AS_OF, *filters.PARAMETERS)
LIST = Query(*FINDING, _INCLUDE)


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
    NO_QUERY.of(request)
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
    """Answer one page of runs, newest first unless asked otherwise, as they are or as they stood."""
    query = LIST.of(request)
    with_progress = query[_INCLUDE]
    if with_progress and query[AS_OF] is not None:
        raise bad_request("bad-parameter", "include=progress tells of now; leave out asOf")
    page = await find(request, query)
    log = log_of(request)
    environment: JsonObject = {"id": log.environment, "name": log.environment}
    audits = await log.audits([run.id for run in page.items]) if with_progress else {}
    data: list[JsonValue] = []
    for run in page.items:
        members = {**run_members(run), "env": environment}
        if run.id in audits:
            members["progress"] = audit_members(audits[run.id])
        data.append(members)
    pagination = cursors.cursors_of(query).pagination(page.next, page.previous)
    return json_response(values.dump({"data": data, "pagination": pagination}))


async def find(request: Request, query: Given) -> RunsPage:
    """
    The page of runs that a query asks for, of those that the caller may read.

    Args:
        request: The request.
        query: What it says of all `FINDING`.

    Raises:
        Problem: 400; it asks of the past what is only known of now.
        BadCursor: There is no such page.
    """
    place = cursors.cursors_of(query)
    at, sort = query[AS_OF], query[_SORT]
    log = log_of(request)
    wanted = filters.run_filter(query, log.now if at is None else lambda: at)
    judge_list(request, wanted.tasks)
    asked: dict[str, Any] = {
        "limit": query[_SIZE],
        "after": place.after,
        "before": place.before,
        "wanted": wanted,
        "sort": sort,
        "within": scopes.readable(request),
    }
    if at is None:
        return await log.runs(**asked)
    _refuse_of_the_past(wanted, sort)
    return await log.runs_as_of(at, **asked)


def _refuse_of_the_past(wanted: RunFilter, sort: Sort) -> None:
    if sort.is_by_change:
        raise bad_request("bad-parameter", "asOf goes with the order of creation only; sort by createdAt")
    if wanted.asks_for_verdicts:
        raise bad_request(
            "bad-parameter", "filter[stalled] and filter[regressed] are judged as of now; leave out asOf"
        )


def _written(version: int, *, is_replay: bool) -> dict[str, str]:
    return {"ETag": f'"{version}"', **({"Idempotency-Replayed": "true"} if is_replay else {})}


def _replayed(created: Created) -> dict[str, str]:
    return {"Idempotency-Replayed": "true"} if created.is_replay else {}
