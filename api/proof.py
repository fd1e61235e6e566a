"""A run's chain, verified now, and the erasure that leaves it whole."""

from starlette.requests import Request
from starlette.responses import Response

from api.parameters import NO_QUERY
from api.rendering import json_response
from api.reports import verified_members
from api.requests import caller_of, expected_versions, log_of, read, run_id_of
from ledger.bodies import ERASURE
from projections import values
from projections.values import JsonObject


async def get_verify(request: Request) -> Response:
    """Answer whether a run's events, head and snapshots are what was once written, and if not, what is wrong."""
    run_id = run_id_of(request)
    NO_QUERY.of(request)
    verified = await log_of(request).verify(run_id)
    text = values.dump(verified_members(run_id, verified.version, verified.report))
    return json_response(text, headers={"Cache-Control": "no-store"})


async def erase(request: Request) -> Response:
    """Take what ever stood at a key out of a run."""
    run_id = run_id_of(request)
    body, idempotency = await read(request, ERASURE)
    command = body.command(run_id, expected_versions(request))
    caller = caller_of(request, body.actor)
    erased = await log_of(request).erase(
        run_id, command.path, command.reason, caller, idempotency, expected=command.expected
    )
    answer: JsonObject = {"runId": run_id, "version": erased.version, "erased": erased.events}
    headers = {"ETag": f'"{erased.version}"'}
    if erased.is_replay:
        headers["Idempotency-Replayed"] = "true"
    return json_response(values.dump(answer), headers=headers)
