"""The feed: the events of all runs, a page at a time."""

from collections.abc import Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from api import filters
from api.parameters import Given, Parameter, Query, key_path, parameter, run_id, text, texts, whole_number
from api.problems import bad_request
from api.rendering import event_text, json_response
from api.requests import log_of
from ledger.feed import Cursor, Selection
from projections import values
from projections.filters import EVERY_RUN
from projections.times import Microseconds

PAGE_DEFAULT = 100  # events
PAGE_MAX = 1_000  # events

_TASK = text("task", "Events of the runs of this task.")
_TAGS = texts("tag", "Events of the runs that have this tag; given several times, all of them.")
_RUN = run_id(
    "run",
    "Events of this run.",
    lambda text: bad_request("bad-parameter", f"run is {text[:40]!r}, which cannot be the id of a run"),
)
_KEY = key_path("Events about the value of this key, or path where it begins with `$.`.")
FILTERS: tuple[Parameter[Any], ...] = (_TASK, _TAGS, _RUN, _KEY, *filters.PARAMETERS)

AFTER: Parameter[Cursor | None] = parameter(
    "after",
    Cursor.parse,
    {"type": "string"},
    "Begin behind this cursor: a `pagination.next`, or the id of a live event.",
    default=None,
)
_LIMIT = whole_number("limit", 1, PAGE_MAX, "Events on a page.", default=PAGE_DEFAULT)
FEED = Query(AFTER, _LIMIT, *FILTERS)


async def get_events(request: Request) -> Response:
    """Answer one page of the feed. Every page says where to go on, an empty one too."""
    query = FEED.of(request)
    page = await log_of(request).events(
        limit=query[_LIMIT],
        after=query[AFTER],
        selection=selection_of(query, log_of(request).now),
    )
    pagination: values.JsonObject = {"next": str(page.next), "hasMore": page.has_more}
    events = ",".join(event_text(entry.event) for entry in page.entries)
    return json_response(f'{{"data":[{events}],"pagination":{values.dump(pagination)}}}')


def selection_of(query: Given, now: Callable[[], Microseconds]) -> Selection:
    """
    The filters of a feed; several of them narrow it further.

    Args:
        query: What it says of all `FILTERS`.
        now: What a period counts back from.

    Raises:
        Problem: 400; two parameters say the same.
    """
    tags = query[_TAGS]
    wanted = filters.run_filter(query, now)
    return Selection(
        task=query[_TASK],
        tags=frozenset(tags),
        run_id=query[_RUN],
        key=query[_KEY],
        runs=None if wanted == EVERY_RUN else wanted,
    )
