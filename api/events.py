"""The feed: the events of all runs, a page at a time."""

from starlette.requests import Request
from starlette.responses import Response

from api.filters import NAMES, is_condition, run_filter
from api.problems import bad_request
from api.rendering import event_text, json_response
from api.requests import check_query, key_path, log_of, whole_number
from ledger.feed import Cursor, Selection
from ledger.run_ids import RUN_ID
from projections import values
from projections.filters import EVERY_RUN

PAGE_DEFAULT = 100  # events
PAGE_MAX = 1_000  # events

FILTERS = frozenset({"task", "tag", "run", "key", *NAMES})


async def get_events(request: Request) -> Response:
    """Answer one page of the feed. Every page says where to go on, an empty one too."""
    check_query(request, {"after", "limit", *FILTERS}, repeatable={"tag"}, is_known=is_condition)
    after = request.query_params.get("after")
    page = await log_of(request).events(
        limit=whole_number(request, "limit", 1, PAGE_MAX) or PAGE_DEFAULT,
        after=None if after is None else Cursor.parse(after),
        selection=selection_of(request),
    )
    pagination: values.JsonObject = {"next": str(page.next), "hasMore": page.has_more}
    events = ",".join(event_text(entry.event) for entry in page.entries)
    return json_response(f'{{"data":[{events}],"pagination":{values.dump(pagination)}}}')


def selection_of(request: Request) -> Selection:
    """
    The filters of a feed; several of them narrow it further.

    Raises:
        Problem: 400.
    """
    query = request.query_params
    run_id = query.get("run")
    if run_id is not None and not RUN_ID.fullmatch(run_id):
        raise bad_request("bad-parameter", f"run is {run_id[:40]!r}, which cannot be the id of a run")
    wanted = run_filter(request, log_of(request).now)
    return Selection(
        task=query.get("task"),
        tags=frozenset(query.getlist("tag")),
        run_id=run_id,
        key=key_path(request),
        runs=None if wanted == EVERY_RUN else wanted,
    )
