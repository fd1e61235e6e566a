"""A run's chain, verified now."""

from starlette.requests import Request
from starlette.responses import Response

from api.rendering import json_response, verified_members
from api.requests import check_query, log_of, run_id_of
from projections import values


async def get_verify(request: Request) -> Response:
    """Answer whether a run's events, head and snapshots are what was once written, and if not, what is wrong."""
    run_id = run_id_of(request)
    check_query(request, frozenset())
    verified = await log_of(request).verify(run_id)
    text = values.dump(verified_members(run_id, verified.version, verified.report))
    return json_response(text, headers={"Cache-Control": "no-store"})
