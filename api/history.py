"""The history of a run: its events, oldest or newest first."""

from typing import Literal

from starlette.requests import Request
from starlette.responses import Response

from api.metadata import VERSION_MAX
from api.problems import bad_request
from api.rendering import event_text, json_response
from api.requests import check_query, key_path, log_of, run_id_of, whole_number
from projections import values

PAGE_DEFAULT = 100  # events
PAGE_MAX = 1_000  # events


async def get_history(request: Request) -> Response:
    """Answer one page of events."""
    run_id = run_id_of(request)
    check_query(request, {"after", "limit", "key", "order"})
    page = await log_of(request).history(
        run_id,
        limit=whole_number(request, "limit", 1, PAGE_MAX) or PAGE_DEFAULT,
        after=whole_number(request, "after", 0, VERSION_MAX),
        order=_order(request),
        key=key_path(request, "key"),
    )
    pagination: values.JsonObject = {}
    if page.has_next:
        pagination["next"] = str(page.items[-1].version)
    events = ",".join(map(event_text, page.items))
    return json_response(f'{{"data":[{events}],"pagination":{values.dump(pagination)}}}')


def _order(request: Request) -> Literal["asc", "desc"]:
    match request.query_params.get("order", "asc"):
        case "asc":
            return "asc"
        case "desc":
            return "desc"
        case other:
            raise bad_request("bad-parameter", f"order must be asc or desc, not {other[:40]!r}")
