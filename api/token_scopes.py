"""
What each route asks of a public token: one table. A route that is not in it takes API keys only.

A token is judged first, by what it shows alone: where its scopes do not reach, the answer is 403, the same whether
the run exists or not. Then its key is judged as if it had been shown, so a token never does more than its key may.

Source of the table: what the Trigger.dev SDK's own tokens are for. All other routes tell, or change, more than a
run's page in a browser needs: the history names API keys, and `parentOperations` reach other runs.
"""

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Literal

from starlette.requests import Request

from api.problems import Problem
from api.requests import log_of
from api.tokens import Action, PublicToken
from ledger.errors import RunNotFound
from ledger.reads import RunDetails
from projections.runs import Run


@dataclass(frozen=True, slots=True)
class TokenNeed:
    """
    What a route asks of a public token.

    Attributes:
        action: What its scopes have to allow.
        of: To what: `run` is the run in the path, by its id, its task, and where the action is read its tags and
            its batch; `batch` and `task` are those in the path. `handler`: the handler judges what the query or
            the body names.
    """

    action: Action
    of: Literal["run", "batch", "task", "handler"]


TOKEN_NEEDS: dict[tuple[str, str], TokenNeed] = {
    ("GET", "/api/v3/runs/{run_id}"): TokenNeed("read", "run"),
    ("GET", "/api/v1/runs"): TokenNeed("read", "handler"),
    ("POST", "/api/v1/tasks/{task:path}/trigger"): TokenNeed("trigger", "task"),
    ("POST", "/api/v2/runs/{run_id}/cancel"): TokenNeed("write", "run"),
    ("GET", "/api/v2/batches/{batch_id}"): TokenNeed("read", "batch"),
    ("POST", "/api/v3/batches"): TokenNeed("batchTrigger", "handler"),
    ("POST", "/api/v3/batches/{batch_id}/items"): TokenNeed("batchTrigger", "handler"),
    ("GET", "/realtime/v1/runs/{run_id}"): TokenNeed("read", "run"),
    ("GET", "/realtime/v1/runs"): TokenNeed("read", "handler"),
    ("GET", "/realtime/v1/batches/{batch_id}"): TokenNeed("read", "batch"),
}


def token_of(request: Request) -> PublicToken | None:
    """The public token that a request shows, None for a request with a key or without."""
    token: PublicToken | None = request.scope.get("run_ledger.token")
    return token


async def judge_token(request: Request, token: PublicToken, need: TokenNeed | None) -> None:
    """
    Judge whether a token may call a route at all.

    Raises:
        Problem: 403.
    """
    if need is None:
        raise _forbidden("key-only", "this route takes an API key, no public token; call it from your own server")
    if token.is_one_time and need.action != "trigger":
        # A batch takes two requests or more, so nothing that is for one request can make it.
        raise _forbidden("one-time-token", "this public token triggers one run, and does nothing else")
    params = request.path_params
    match need.of:
        case "run" if not await reaches_run(request, token, need.action, params["run_id"]):
            raise _out_of_scope(need.action, "this run")
        case "batch" if not token.allows(need.action, "batch", params["batch_id"]):
            raise _out_of_scope(need.action, "this batch")
        case "task" if not token.allows(need.action, "tasks", params["task"]):
            raise _out_of_scope(need.action, "this task")
        case _:
            pass


def judge_list(request: Request, tasks: Collection[str]) -> None:
    """
    Judge whether a token may list runs: all of them, or those of the *tasks* that are asked for.

    Raises:
        Problem: 403.
    """
    token = token_of(request)
    if token is None or token.allows("read", "runs") or token.allows("read", "tasks"):
        return
    if not tasks or not all(token.allows("read", "tasks", task) for task in tasks):
        raise _out_of_scope("read", "these runs")


def judge_tags(request: Request, tags: Collection[str]) -> None:
    """
    Judge whether a token may follow the runs that have all of some tags.

    Raises:
        Problem: 403.
    """
    token = token_of(request)
    if token is None or token.allows("read", "runs") or token.allows("read", "tags"):
        return
    if not any(token.allows("read", "tags", tag) for tag in tags):
        raise _out_of_scope("read", "runs with these tags")


def judge_batch(request: Request, tasks: Collection[str]) -> None:
    """
    Judge whether a token may create a batch of runs of these *tasks*; none where it is not said which.

    Raises:
        Problem: 403.
    """
    token = token_of(request)
    if token is None or _triggers_any_batch(token):
        return
    if not tasks or not all(token.allows("batchTrigger", "tasks", task) for task in tasks):
        raise _out_of_scope("batchTrigger", "these tasks")


def judge_item(token: PublicToken, task: str) -> None:
    """
    Judge whether a token may create a run of a task in a batch.

    Raises:
        Problem: 403.
    """
    if not (_triggers_any_batch(token) or token.allows("batchTrigger", "tasks", task)):
        raise _out_of_scope("batchTrigger", f"the task {task!r}")


def _triggers_any_batch(token: PublicToken) -> bool:
    return token.allows("batchTrigger", "batch") or token.allows("batchTrigger", "tasks")


def may_read(token: PublicToken, run: Run) -> bool:
    """Whether a token reaches a run that the answer would show besides the one it asked for."""
    return _reaches(token, "read", run.id, run.task, run.tags, run.batch)


def without_relatives_out_of_scope(request: Request, details: RunDetails) -> RunDetails:
    """A run without those of its family that the request's token does not reach."""
    token = token_of(request)
    if token is None:
        return details
    parent, root = (
        run if run is not None and may_read(token, run) else None for run in (details.parent, details.root)
    )
    children = tuple(run for run in details.children if may_read(token, run))
    return replace(details, parent=parent, root=root, children=children)


async def reaches_run(request: Request, token: PublicToken, action: Action, run_id: str) -> bool:
    """Whether a token lets its owner do something to a run; never to one that does not exist, but by its id."""
    if token.allows(action, "runs", run_id):
        return True
    if not any(scope.action in {action, "*"} for scope in token.scopes):
        return False
    try:
        own = (await log_of(request).family(run_id)).own
    except RunNotFound:
        return False
    return _reaches(token, action, run_id, own.task, own.tags, own.batch)


def _reaches(
    token: PublicToken, action: Action, run_id: str, task: str, tags: Collection[str], batch: str | None
) -> bool:
    return (
        token.allows(action, "runs", run_id)
        or token.allows(action, "tasks", task)
        or (
            action == "read"
            and (
                any(token.allows(action, "tags", tag) for tag in tags)
                or (batch is not None and token.allows(action, "batch", batch))
            )
        )
    )


def _out_of_scope(action: Action, what: str) -> Problem:
    return _forbidden(
        "out-of-scope", f"no scope of this public token lets it {_WORDS[action]} {what}; nothing was done"
    )


_WORDS: dict[Action, str] = {
    "read": "read",
    "write": "change",
    "trigger": "trigger",
    "batchTrigger": "trigger in batches",
}


def _forbidden(code: str, detail: str) -> Problem:
    """Source of the header: RFC 6750, section 3.1."""
    headers = {"WWW-Authenticate": 'Bearer realm="run-ledger", error="insufficient_scope"'}
    return Problem(403, code, "The public token may not do this", detail, headers=headers)
