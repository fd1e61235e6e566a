"""A run's metadata: read it as it is or as it stood, and change it."""

from starlette.requests import Request
from starlette.responses import Response

from api.parameters import VERSION_MAX, Query, moment, whole_number
from api.problems import bad_request
from api.rendering import json_response, unapplied_members
from api.requests import caller_of, expected_versions, has_tag, log_of, read, run_id_of
from api.scopes import judge_family
from ledger.bodies import METADATA_CHANGE
from ledger.writes import UnappliedOperation
from projections import values

_VERSION = whole_number("version", 1, VERSION_MAX, "As it stood after so many events.")
_AT = moment("at", "As it stood after the last event recorded by then. Not together with `version`.")
STATE = Query(_VERSION, _AT)


async def metadata(request: Request) -> Response:
    """Read or change; one route for both, because every route that is tried costs each request."""
    return await (put_metadata if request.scope["method"] == "PUT" else get_metadata)(request)


async def get_metadata(request: Request) -> Response:
    """Answer the current metadata, or with `version` or `at` the metadata as it stood."""
    run_id = run_id_of(request)
    log = log_of(request)
    if request.scope["query_string"]:
        query = STATE.of(request)
        version, at = query[_VERSION], query[_AT]
        if version is not None and at is not None:
            raise bad_request("bad-parameter", "ask for a version or for a moment, not for both")
        snapshot = await log.metadata(run_id, version=version, at=at)
        text, number, size = snapshot.text, snapshot.version, snapshot.size_bytes
    else:
        current = await log.current(run_id)
        text, number, size = current.text, current.version, current.size_bytes
    headers = {"ETag": f'"{number}"'}
    if has_tag(request, str(number)):
        return Response(status_code=304, headers=headers)
    body = (
        f'{{"metadata":{text},"metadataType":"application/json","version":{number},'
        f'"sizeBytes":{size},"limitBytes":{log.metadata_bytes_max}}}'
    )
    return json_response(body, headers=headers)


async def put_metadata(request: Request) -> Response:
    """Change the metadata of a run, its parent and its root in one transaction."""
    run_id = run_id_of(request)
    body, idempotency = await read(request, METADATA_CHANGE)
    log = log_of(request)
    command = body.command(run_id, expected_versions(request))
    await judge_family(request, command)
    changed = await log.change(command, caller_of(request, body.actor), idempotency)
    snapshot = changed.snapshot
    headers = {"ETag": f'"{snapshot.version}"'}
    if changed.is_replay:
        headers["Idempotency-Replayed"] = "true"
    text = (
        f'{{"metadata":{snapshot.text},"version":{snapshot.version},"sizeBytes":{snapshot.size_bytes},'
        f'"limitBytes":{log.metadata_bytes_max},"unapplied":{_unapplied_text(changed.unapplied)}}}'
    )
    return json_response(text, headers=headers)


def _unapplied_text(unapplied: tuple[UnappliedOperation, ...]) -> str:
    return values.dump(unapplied_members(unapplied)) if unapplied else "[]"
