"""Live updates: the events of one run, or of the feed, as server-sent events."""

import re
from collections.abc import AsyncGenerator
from functools import partial
from weakref import WeakKeyDictionary

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

from api.access import may_stay
from api.events import FILTERS, selection_of
from api.filters import is_condition
from api.problems import bad_request
from api.rendering import event_text
from api.requests import VERSION_MAX, check_query, header, key_path, log_of, run_id_of
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

# Every reader of an event is sent the same text; it is made once, and goes with the event.
_texts: WeakKeyDictionary[FeedEvent, str] = WeakKeyDictionary()


async def run_live(request: Request) -> ASGIApp:
    """Answer the events of a run as they happen; the id of each is its version."""
    run_id = run_id_of(request)
    check_query(request, {"after", "from", "snapshot", "until", "key"})
    after = _run_place(request)
    key = key_path(request)
    ends = _choice(request, "until", "finished")
    if ends and key is not None:
        raise bad_request(
            "bad-parameter", "until=finished goes by the steps of the run's life, which key leaves out; drop one"
        )
    with_snapshot = _choice(request, "snapshot", "1")
    if with_snapshot and ("from" in request.query_params and request.query_params["from"] != "now"):
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
    check_query(request, {"after", "from", *FILTERS}, repeatable={"tag"}, is_known=is_condition)
    selection = selection_of(request)
    after, from_start = _feed_place(request)
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


def _run_place(request: Request) -> int | None:
    """The version to go on behind, None for the current one."""
    resumed = _resumed(request)
    if resumed is not None:
        return _version(resumed)
    begin = request.query_params.get("from", "now")
    if begin == "now":
        return None
    if begin == "start":
        return 0
    version = _version(begin)
    if version == 0:
        raise bad_request(
            "bad-parameter", "from is the first version that is wanted: 1, 2 and so on, start or now"
        )
    return version - 1


def _feed_place(request: Request) -> tuple[Cursor | None, bool]:
    """The place to go on behind, None for the log's end; and whether to begin with the first event instead."""
    resumed = _resumed(request)
    if resumed is not None:
        return Cursor.parse(resumed), False
    match request.query_params.get("from", "now"):
        case "now":
            return None, False
        case "start":
            return None, True
        case other:
            raise bad_request(
                "bad-parameter", f"from must be now or start, not {other[:40]!r}; to go on somewhere use after"
            )


def _resumed(request: Request) -> str | None:
    """The id that the reader has. The header wins: a browser repeats its first address, and adds the header."""
    last = header(request, b"last-event-id")
    if last:
        return last
    after = request.query_params.get("after")
    if after is not None and "from" in request.query_params:
        raise bad_request("bad-parameter", "say where to begin with after or with from, not with both")
    return after


def _version(text: str) -> int:
    if not _VERSION.fullmatch(text) or int(text) > VERSION_MAX:
        raise BadCursor(text[:40])
    return int(text)


def _choice(request: Request, name: str, meant: str) -> bool:
    """A query parameter that has one meaning or is left out."""
    given = request.query_params.get(name)
    if given not in {None, meant}:
        raise bad_request("bad-parameter", f"{name} can only be {meant}, not {str(given)[:40]!r}")
    return given is not None


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
