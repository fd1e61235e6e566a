"""
What each route asks of a key: one table, and the judgement of the runs that a restricted key reaches.

What a key may not read does not exist for it: the answer is the 404 of a run that was never made. Where it may
read a run but not do what it asks, the answer is 403.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

from starlette.requests import Request
from starlette.routing import Route
from starlette.types import ASGIApp

from api.problems import Problem
from api.requests import log_of, run_id_of
from api.token_scopes import (
    TOKEN_NEEDS,
    judge_item,
    judge_token,
    reaches_run,
    token_of,
    without_relatives_out_of_scope,
)
from api.tokens import PublicToken
from ledger.answers import Created, Relative
from ledger.batches import BatchDetails, BatchRun
from ledger.errors import BatchNotFound, RunExists, RunNotFound, UnknownParent
from ledger.keys import Action, ApiKey, Grant, Reach, describe
from ledger.reads import RunDetails
from ledger.writes import Caller, ChangeMetadata, CreateRun, IdempotencyKey

Endpoint = Callable[[Request], Awaitable[ASGIApp]]


@dataclass(frozen=True, slots=True)
class Need:
    """
    What a route asks of a key.

    Attributes:
        action: The scope, None where any key will do.
        of: `run`: the run in the path must be within the key's restriction, which is judged before the handler is
            called. `handler`: the handler judges the runs that the body or the query names. `all`: there is no
            telling runs apart here, so the scope must be without a restriction. `key`: it is about the key itself.
    """

    action: Action | None
    of: Literal["run", "handler", "all", "key"]


_RUN = "/api/v1/runs/{run_id}"

# A route that is missing here stops the start.
NEEDS: dict[tuple[str, str], Need | None] = {
    ("GET", f"{_RUN}/metadata"): Need("read", "run"),
    ("PUT", f"{_RUN}/metadata"): Need("write", "run"),
    ("GET", f"{_RUN}/metadata/history"): Need("read", "run"),
    ("GET", f"{_RUN}/metadata/diff"): Need("read", "run"),
    ("GET", f"{_RUN}/metadata/explain"): Need("read", "run"),
    ("GET", f"{_RUN}/metadata/progress"): Need("read", "run"),
    ("GET", f"{_RUN}/metadata/live"): Need("read", "run"),
    ("POST", f"{_RUN}/metadata/erase"): Need("erase", "run"),
    ("GET", f"{_RUN}/verify"): Need("read", "run"),
    ("POST", f"{_RUN}/status"): Need("write", "run"),
    ("POST", "/api/v1/tasks/{task:path}/trigger"): Need("write", "handler"),
    ("POST", "/api/v1/runs"): Need("write", "handler"),
    ("POST", "/api/v3/batches"): Need("write", "handler"),
    ("POST", "/api/v3/batches/{batch_id}/items"): Need("write", "handler"),
    ("GET", "/api/v2/batches/{batch_id}"): Need("read", "handler"),
    ("POST", "/api/v2/tasks/batch"): Need("write", "handler"),
    ("POST", "/api/v2/runs/{run_id}/cancel"): Need("write", "run"),
    ("POST", f"{_RUN}/tags"): Need("write", "run"),
    ("GET", "/api/v1/runs"): Need("read", "handler"),
    ("GET", "/api/v3/runs/{run_id}"): Need("read", "run"),
    ("GET", "/realtime/v1/runs/{run_id}"): Need("read", "run"),
    ("GET", "/realtime/v1/runs"): Need("read", "handler"),
    ("GET", "/realtime/v1/batches/{batch_id}"): Need("read", "handler"),
    ("POST", "/api/v1/auth/jwt/claims"): Need(None, "key"),
    ("POST", "/api/v1/auth/public-tokens"): Need(None, "key"),
    ("GET", "/api/v1/events"): Need("read", "all"),
    ("GET", "/api/v1/events/live"): Need("read", "all"),
    ("GET", "/metrics"): Need("read", "all"),
    # No key: what asks these has none, and they tell nothing of any run.
    ("GET", "/healthz"): None,
    ("GET", "/readyz"): None,
    ("GET", "/openapi.json"): None,
}

# The pages are for browsers, which sign in: what is refused sends them to the form, and is no problem body.
PAGE_NEEDS: dict[tuple[str, str], Need | None] = {
    ("GET", "/"): Need("read", "handler"),
    ("GET", "/runs/{run_id}"): Need("read", "run"),
    ("GET", "/login"): None,
    ("POST", "/login"): None,
    ("POST", "/logout"): None,
    ("GET", "/assets/{name}"): None,
}

_ASSETS = "/assets/"
PUBLIC_PATHS = frozenset(path for (_, path), need in [*NEEDS.items(), *PAGE_NEEDS.items()] if need is None)
HEALTH_PATHS = frozenset({"/healthz", "/readyz"})


def is_public(path: str) -> bool:
    """Whether a path is answered without a key."""
    return path in PUBLIC_PATHS or path.startswith(_ASSETS)


def is_page(path: str) -> bool:
    """Whether a path is one of the pages, and what is wrong is said to a person."""
    return path in {"/", "/login", "/logout"} or path.startswith("/runs/")


def guarded(route: Route) -> Route:
    """The route, with what it asks of a key judged before its handler is called."""
    needs = {}
    for method in (route.methods or set()) - {"HEAD"}:
        table = PAGE_NEEDS if (method, route.path) in PAGE_NEEDS else NEEDS
        if (method, route.path) not in table:
            raise LookupError(f"{method} {route.path} is missing in the table of api/scopes.py")
        needs[method] = table[method, route.path]
    if "GET" in needs:
        needs["HEAD"] = needs["GET"]
    endpoint: Endpoint = route.endpoint

    async def judged(request: Request) -> ASGIApp:
        key: ApiKey | None = request.scope.get("run_ledger.key")
        method = request.scope["method"]
        need = needs[method]
        if key is not None and need is not None:
            token = token_of(request)
            if token is not None:
                asked = TOKEN_NEEDS.get(("GET" if method == "HEAD" else method, route.path))
                await judge_token(request, token, asked)
            await _judge(request, key.grant, need)
        return await endpoint(request)

    return Route(route.path, judged, methods=[*needs], name=route.name)


def grant_of(request: Request) -> Grant | None:
    """What the key of a request may do, None where nothing is asked of a key."""
    key: ApiKey | None = request.scope.get("run_ledger.key")
    return None if key is None else key.grant


def readable(request: Request) -> Reach | None:
    """The runs that the key of a request may read, None for all."""
    grant = grant_of(request)
    return None if grant is None or grant.read.is_whole else grant.read


def without_hidden_relatives(request: Request, details: RunDetails) -> RunDetails:
    """A run without those above it that the key, or the token, of the request may not read."""
    details = without_relatives_out_of_scope(request, details)
    reach = readable(request)
    if reach is None:
        return details
    parent, root = (
        run if run is not None and reach.holds(run.task, run.tags) else None
        for run in (details.parent, details.root)
    )
    children = tuple(run for run in details.children if reach.holds(run.task, run.tags))
    return replace(details, parent=parent, root=root, children=children)


def visible_batch(request: Request, details: BatchDetails) -> BatchDetails:
    """
    A batch with those of its runs that the key of the request may read.

    Raises:
        BatchNotFound: It may read none of them.
    """
    reach = readable(request)
    if reach is None:
        return details
    runs = tuple(run for run in details.runs if reach.holds(run.task, run.tags))
    if not runs:
        raise BatchNotFound(details.batch.id)
    return replace(details, runs=runs)


async def judge_known_batch(request: Request, batch_id: str) -> None:
    """
    Judge whether a key may know of a batch that an idempotency key led it to: of every run in it.

    Raises:
        Problem: 422.
    """
    grant = grant_of(request)
    if grant is None or grant.write.is_whole:
        return
    details = await log_of(request).batch_details(batch_id)
    if not all(_knows(grant, run) for run in details.runs):
        raise Problem(
            422,
            "batch-exists",
            "The idempotency key is taken",
            "the idempotency key belongs to a batch with runs that this API key does not reach; choose another",
        )


async def judge_other_run(request: Request, run_id: str) -> None:
    """
    Judge whether a key may read a run that the query names beside the one in the path.

    Raises:
        RunNotFound: It may not, or there is no such run.
    """
    reach = readable(request)
    if reach is not None and not _holds(reach, (await log_of(request).family(run_id)).own):
        raise RunNotFound(run_id)


async def judge_family(request: Request, command: ChangeMetadata | None) -> None:
    """
    Judge whether a key may write to the runs above the named one, where the request does that.

    Raises:
        Problem: 403; nothing was written.
    """
    grant = grant_of(request)
    if grant is None or grant.write.is_whole or command is None:
        return
    if not (command.parent_operations or command.root_operations):
        return
    family = await log_of(request).family(command.run_id)
    touched = (
        ("parent", command.parent_operations, family.parent),
        ("root", command.root_operations, family.root),
    )
    for name, operations, relative in touched:
        if operations and relative is not None and not _holds(grant.write, relative):
            raise _out_of_reach(grant.write, "write", f"the run's {name}")


async def create(
    request: Request, command: CreateRun, caller: Caller, idempotency: IdempotencyKey | None
) -> Created:
    """
    Create a run that the key of the request may write, below a parent that it knows.

    Raises:
        Problem: 403 for another task or other tags; 422 for a parent it does not know, or an id that is taken.
        LedgerError: See `Log.create`.
    """
    log = log_of(request)
    grant = grant_of(request)
    token = token_of(request)
    one_time = None if token is None else token.one_time
    if command.parent is not None and token is not None:
        await _judge_parent_of_token(request, token, command.parent)
    if grant is None or grant.write.is_whole:
        return await log.create(command, caller, idempotency, one_time)
    await _judge_new_run(request, grant, command)
    try:
        created = await log.create(command, caller, idempotency, one_time)
    except RunExists as error:
        if _knows(grant, (await log.family(error.run_id)).own):
            raise
        raise _taken() from error
    if (created.is_cached or created.is_replay) and not _knows(grant, (await log.family(created.run_id)).own):
        raise _taken()  # Found by an id or an idempotency key; nothing was written.
    return created


async def create_item(request: Request, command: CreateRun, caller: Caller) -> Created | None:
    """
    As `create`, in a place of a batch; None where the place was taken before.

    Raises:
        Problem: See `create`.
        LedgerError: See `Log.create_item`.
    """
    log = log_of(request)
    grant = grant_of(request)
    token = token_of(request)
    if token is not None:
        judge_item(token, command.task)
        if command.parent is not None:
            await _judge_parent_of_token(request, token, command.parent)
    if grant is None or grant.write.is_whole:
        return await log.create_item(command, caller)
    await _judge_new_run(request, grant, command)
    try:
        # Judged within the transaction: a place is not given to a run that its caller may not know of.
        return await log.create_item(replace(command, may_take=partial(_reaches, grant)), caller)
    except RunExists as error:
        raise _taken() from error


async def _judge_new_run(request: Request, grant: Grant, command: CreateRun) -> None:
    if not grant.write.holds(command.task, command.tags):
        raise _out_of_reach(grant.write, "write", "the new run")
    if command.parent is not None:
        await _judge_parent(request, grant, command.parent)


async def _judge(request: Request, grant: Grant, need: Need) -> None:
    if need.action is None:
        return
    reach = grant.reach(need.action)
    if reach.is_whole:
        return
    if reach.is_empty:
        raise _forbidden("missing-scope", f"this API key lacks the scope {need.action}", need.action)
    if need.of == "all":
        detail = f"this route tells of all runs, and the scope {need.action} of this API key is restricted"
        raise _forbidden("restricted-scope", f"{detail} to {describe(reach)}", need.action)
    if need.of == "run":
        run_id = run_id_of(request)
        own = (await log_of(request).family(run_id)).own
        if not _holds(reach, own):
            if _holds(grant.read, own):
                raise _out_of_reach(reach, need.action, "this run")
            raise RunNotFound(run_id)


async def _judge_parent_of_token(request: Request, token: PublicToken, parent: str) -> None:
    """What a token may not read is no parent for it, as if there were no such run."""
    if not await reaches_run(request, token, "read", parent):
        raise UnknownParent(parent)


async def _judge_parent(request: Request, grant: Grant, parent: str) -> None:
    try:
        known = _knows(grant, (await log_of(request).family(parent)).own)
    except RunNotFound:
        known = False
    if not known:
        raise UnknownParent(parent)


def _holds(reach: Reach, run: Relative | BatchRun) -> bool:
    return reach.holds(run.task, run.tags)


def _knows(grant: Grant, run: Relative | BatchRun) -> bool:
    return _reaches(grant, run.task, run.tags)


def _reaches(grant: Grant, task: str, tags: tuple[str, ...]) -> bool:
    return grant.read.holds(task, tags) or grant.write.holds(task, tags)


def _taken() -> Problem:
    return Problem(
        422,
        "run-exists",
        "The run id is taken",
        "the id, or the idempotency key, belongs to a run that this API key does not reach; choose another",
    )


def _out_of_reach(reach: Reach, action: Action, what: str) -> Problem:
    detail = f"this API key may {action} {describe(reach)} only, and {what} is none of these; nothing was done"
    return _forbidden("restricted-scope", detail, action)


def _forbidden(code: str, detail: str, action: Action) -> Problem:
    """Source of the header: RFC 6750, section 3.1."""
    headers = {"WWW-Authenticate": f'Bearer realm="run-ledger", error="insufficient_scope", scope="{action}"'}
    return Problem(403, code, "The API key may not do this", detail, headers=headers)
