"""Live updates: the events of one run, or of the feed, as server-sent events."""

import re
from collections.abc import AsyncGenerator
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

from api.access import may_stay
from api.events import AFTER, FILTERS, selection_of
from api.parameters import VERSION_MAX, Given, Parameter, Query, key_path, one_of, parameter
from api.problems import bad_request
from api.rendering import event_text
from api.requests import header, log_of, run_id_of
from api.streams import EventStream, NoStream, Permit, Seat, Streams, frame, heartbeat, next_batch, opening
from api.token_scopes import token_of
from ledger.errors import BadCursor
from ledger.feed import Cursor, FeedEvent
from ledger.keys import ApiKey
from projections import values
from projections.events import RunStatusChanged
from projections.runs import Run
from projections.times import format_time
from projections.values import JsonObject

_VERSION = re.compile(r"0|[1-9][0-9]{0,15}")


def _read_version(text: str) -> int:
    if not _VERSION.fullmatch(text) or int(text) > VERSION_MAX:
        raise BadCursor(text[:40])
    return int(text)


def _read_run_beginning(text: str) -> int | None:
    """The version to go on behind, None for the current one."""
    if text == "now":
        return None
    if text == "start":
        return 0
    version = _read_version(text)
    if version == 0:
        raise bad_request(
            "bad-parameter", "from is the first version that is wanted: 1, 2 and so on, start or now"
        )
    return version - 1


def _read_feed_beginning(text: str) -> bool:
    if text not in {"now", "start"}:
        raise bad_request(
            "bad-parameter", f"from must be now or start, not {text[:40]!r}; to go on somewhere use after"
        )
    return text == "start"


_BEHIND: Parameter[int | None] = parameter(
    "after",
    _read_version,
    {"type": "integer", "minimum": 0, "maximum": VERSION_MAX},
    "Go on behind this version. The header `Last-Event-ID` wins.",
    default=None,
)
_RUN_FROM: Parameter[int | None] = parameter(
    "from",
    _read_run_beginning,
    {
        "anyOf": [
            {"type": "string", "enum": ["now", "start"]},
            {"type": "integer", "minimum": 1, "maximum": VERSION_MAX},
        ],
        "default": "now",
    },
    "Where to begin: now, with the first event, or with this version. Not together with `after`.",
    default=None,
)
_SNAPSHOT = one_of("snapshot", {"1": True}, "Send the state as it is now first.", default=False)
_UNTIL = one_of(
    "until",
    {"finished": True},
    "End once the run has finished and all up to then was sent. Not together with `key`.",
    default=False,
)
_KEY = key_path("Events about the value of this key, or path where it begins with `$.`.")
RUN = Query(_BEHIND, _RUN_FROM, _SNAPSHOT, _UNTIL, _KEY)

_FEED_FROM = parameter(
    "from",
    _read_feed_beginning,
    {"type": "string", "enum": ["now", "start"], "default": "now"},
    "Where to begin: now, or with the first event. Not together with `after`.",
    default=False,
)
FEED = Query(AFTER, _FEED_FROM, *FILTERS)

# Every reader of an event is sent the same text; it is made once, and goes with the event.
_texts: WeakKeyDictionary[FeedEvent, str] = WeakKeyDictionary()


async def run_live(request: Request) -> ASGIApp:
    """Answer the events of a run as they happen; the id of each is its version."""
    run_id = run_id_of(request)
    query = RUN.of(request)
    after = _run_place(request, query)
    key, ends, with_snapshot = query[_KEY], query[_UNTIL], query[_SNAPSHOT]
    if ends and key is not None:
        raise bad_request(
            "bad-parameter", "until=finished goes by the steps of the run's life, which key leaves out; drop one"
        )
    if with_snapshot and query[_RUN_FROM] is not None:
        raise bad_request(
            "bad-parameter", "snapshot=1 begins with the state as it is now; leave out from, or say from=now"
        )
    log = log_of(request)
    if request.method == "HEAD":
        await log.current(run_id)
        return NoStream()
    seat = await streams_of(request).open(whose_streams(request), log.follow(run_id, after=after, key=key))
    run = seat.subscription.run
    assert run is not None
    if ends and after == run.version and run.status.is_completed:
        seat.give_back()
        return Response(status_code=204)  # Which tells an EventSource not to come back.
    chunks = _run_chunks(
        seat, _permit(request), run, after, with_snapshot=with_snapshot and after is None, ends=ends
    )
    return EventStream(seat, chunks)


async def feed_live(request: Request) -> ASGIApp:
    """Answer the events of all runs as they happen; the id of each is a cursor of the feed."""
    query = FEED.of(request)
    selection = selection_of(query, log_of(request).now)
    after, from_start = _feed_place(request, query)
    if request.method == "HEAD":
        return NoStream()
    subscription = log_of(request).subscribe(after=after, from_start=from_start, selection=selection)
    seat = await streams_of(request).open(whose_streams(request), subscription)
    return EventStream(seat, _feed_chunks(seat, _permit(request)))


async def _run_chunks(
    seat: Seat, permit: Permit, run: Run, after: int | None, *, with_snapshot: bool, ends: bool
) -> AsyncGenerator[bytes]:
    """Frames of one run, up to its end where that is asked for."""
    subscription = seat.subscription
    reached = run.version if after is None else after
    status = run.status
    text = opening(str(reached))
    if with_snapshot:
        text += frame(snapshot_text(run), id=str(run.version), event="snapshot")
    yield text.encode()
    while True:
        ending = ends and status.is_completed and reached >= run.version
        if ending and subscription.is_caught_up:
            yield _finished(run.id, reached, status)
            return
        entries = await next_batch(subscription, permit, at_once=ending)
        if entries is None:
            return
        for entry in entries:
            event = entry.event
            reached = event.version
            if event.type == RunStatusChanged.event_type and reached > run.version:
                assert isinstance(event.body, RunStatusChanged)
                status = event.body.status
        if entries:
            chunk = "".join(frame(_text(entry), id=str(entry.event.version)) for entry in entries).encode()
            del entry, event, entries  # A reader that stalls holds its bytes, and not the events as well.
            yield chunk
        elif not ending:
            yield heartbeat(str(reached)).encode()


async def _feed_chunks(seat: Seat, permit: Permit) -> AsyncGenerator[bytes]:
    """Frames of the feed."""
    subscription = seat.subscription
    yield opening(str(subscription.cursor)).encode()
    while (entries := await next_batch(subscription, permit)) is not None:
        frames = (frame(_text(entry), id=str(subscription.cursor_at(entry.position))) for entry in entries)
        chunk = ("".join(frames) or heartbeat(str(subscription.cursor))).encode()
        del entries, frames  # A reader that stalls holds its bytes, and not the events as well.
        yield chunk


def snapshot_text(run: Run) -> str:
    """A run as it stands, as JSON text."""
    members: JsonObject = {
        "runId": run.id,
        "task": run.task,
        "status": run.status.value,
        "tags": [*run.tags],
        "version": run.version,
        "metadata": run.snapshot.metadata,
        "sizeBytes": run.snapshot.size_bytes,
        "updatedAt": format_time(run.updated_at),
    }
    return values.dump(members)


def _finished(run_id: str, version: int, status: str) -> bytes:
    members: JsonObject = {"runId": run_id, "version": version, "status": str(status)}
    return frame(values.dump(members), id=str(version), event="finished").encode()


def _text(entry: FeedEvent) -> str:
    text = _texts.get(entry)
    if text is None:
        text = _texts[entry] = event_text(entry.event)
    return text


def _run_place(request: Request, query: Given) -> int | None:
    """The version to go on behind, None for the current one."""
    last = _resumed(request)
    if last is not None:
        return _read_version(last)
    _refuse_both(query, _BEHIND, _RUN_FROM)
    return query[_BEHIND] if _BEHIND in query else query[_RUN_FROM]


def _feed_place(request: Request, query: Given) -> tuple[Cursor | None, bool]:
    """The place to go on behind, None for the log's end; and whether to begin with the first event instead."""
    last = _resumed(request)
    if last is not None:
        return Cursor.parse(last), False
    _refuse_both(query, AFTER, _FEED_FROM)
    return query[AFTER], query[_FEED_FROM]


def _resumed(request: Request) -> str | None:
    """The id that the reader has. It wins: a browser repeats its first address, and adds the header."""
    return header(request, b"last-event-id") or None


def _refuse_both(query: Given, after: Parameter[Any], begin: Parameter[Any]) -> None:
    if after in query and begin in query:
        raise bad_request("bad-parameter", "say where to begin with after or with from, not with both")


def streams_of(request: Request) -> Streams:
    """The live streams of the server."""
    streams: Streams = request.app.state.streams
    return streams


def whose_streams(request: Request) -> str:
    """Whose streams are counted together: those of a key, of all its tokens, or all where none is asked for."""
    key: ApiKey | None = request.scope.get("run_ledger.key")
    if key is None:
        return log_of(request).environment
    return key.id if token_of(request) is None else f"{key.id} tokens"


def _permit(request: Request) -> Permit:
    """Whether the caller would be let in again."""
    return Permit(partial(may_stay, request), streams_of(request).limits.heartbeat_s)
