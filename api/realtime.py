"""
Realtime feeds for the Trigger.dev SDK and its React hooks: long polls in the protocol of an Electric shape.

A poll says how far its reader is, and is held until there is something behind that. The SDK shows its caller the
last state of each run in an answer, so no answer holds two of one run: a reader sees every version, in order.

Offsets say all that there is to know, so a poll may go to any server, and after a restart nothing is missed:

    of a run     <version>_<version that gave the status, times 16, and the number of tags>
    of several   <position>_<0, or the run key in front of which the first answer goes on>

The handle stands for one log and one question. With any other one the reader has to begin anew (409, which the
protocol means so).

Source: how `@electric-sql/client` 1.0.14 asks, and what `@trigger.dev/core` 4.8.3 makes of the answers.
"""

import asyncio
import re
import secrets
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from api.access import may_stay
from api.live import streams_of, whose_streams
from api.parameters import Given, Parameter, Query, out_of_bounds, parameter, text
from api.problems import Problem, bad_request
from api.rendering import json_response
from api.requests import log_of, run_id_of
from api.scopes import readable, visible_batch
from api.shapes import MUST_REFETCH, UP_TO_DATE, change
from api.streams import Seat
from api.token_scopes import judge_tags, token_of
from ledger.errors import BadCursor, BatchNotFound, SubscriptionEnded
from ledger.feed import Cursor, FeedEvent, Selection
from ledger.log import Log
from ledger.run_ids import BATCH_ID
from ledger.states import Mark, Members, RunState, StatesPage
from ledger.subscriptions import Subscription
from projections import values
from projections.size import TAGS_MAX
from projections.times import Microseconds

CREATED_WITHIN_DEFAULT = "24h"  # how old runs may be that a tag feed shows; the reference server's

_OFFSET = re.compile(r"(0|[1-9][0-9]{0,18})_(0|[1-9][0-9]{0,18})")
_HANDLE = re.compile(r"(0|[1-9][0-9]{0,18})-[0-9a-f]{32}")
_WINDOW = re.compile(r"([1-9][0-9]{0,5})(s|m|h|d|w)")
_SECONDS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800}
_TAG_PLACES = 16  # more than a run may have tags
_MICROSECONDS = 1_000_000  # in a second

assert TAGS_MAX < _TAG_PLACES


def _read_offset(text: str) -> tuple[int, int] | None:
    found = _OFFSET.fullmatch(text)
    if found is None and text != "-1":
        raise bad_request("bad-offset", f"offset must be -1, or what electric-offset said, not {text[:40]!r}")
    return None if found is None else (int(found[1]), int(found[2]))


def _read_tags(text: str) -> frozenset[str]:
    tags = frozenset(tag for tag in text.split(",") if tag.strip())
    if len(tags) > TAGS_MAX:
        raise out_of_bounds(f"a run has at most {TAGS_MAX} tags, so none has all of these {len(tags)}", TAGS_MAX)
    return tags


def _read_window(text: str) -> Microseconds:
    """How long ago a run may have been created; empty is the same as left out."""
    found = _WINDOW.fullmatch(text or CREATED_WITHIN_DEFAULT)
    if found is None:
        raise bad_request("bad-parameter", f"createdAt must be a duration such as 1h or 7d, not {text[:40]!r}")
    return int(found[1]) * _SECONDS[found[2]] * _MICROSECONDS


_PLACE: Parameter[tuple[int, int] | None] = parameter(
    "offset",
    _read_offset,
    {"type": "string", "pattern": f"^(-1|{_OFFSET.pattern})$", "default": "-1"},
    "Go on behind this `electric-offset`; -1 is the beginning.",
    default=None,
)
_KNOWN = text("handle", "The `electric-handle` that the offset came with.")
_LIVE = parameter(
    "live",
    lambda text: text == "true",
    {"type": "string", "examples": ["true"]},
    "`true`: where there is nothing behind the offset yet, hold the answer until there is, for some seconds.",
    default=False,
)
_SKIPPED: Parameter[frozenset[str]] = parameter(
    "skipColumns",
    lambda text: frozenset(name.strip() for name in text.split(",")),
    {"type": "array", "items": {"type": "string"}},
    "Columns to leave out; those that the SDK cannot do without are sent all the same.",
    default=frozenset(),
)
_TAGS: Parameter[frozenset[str]] = parameter(
    "tags",
    _read_tags,
    {"type": "array", "minItems": 1, "items": {"type": "string"}},
    f"The tags, at most {TAGS_MAX}, all of which a run has to have.",
    default=frozenset(),
    is_required=True,
)
_WITHIN = parameter(
    "createdAt",
    _read_window,
    {"type": "string", "pattern": f"^({_WINDOW.pattern})?$", "default": CREATED_WITHIN_DEFAULT},
    "How long ago a run may have been created, such as 1h or 7d.",
    default=_read_window(CREATED_WITHIN_DEFAULT),
)

# Clients of the protocol send more, such as `cursor`, which makes addresses differ and means nothing.
FEED = Query(_PLACE, _KNOWN, _LIVE, _SKIPPED, takes_others=True)
TAGS_FEED = Query(_TAGS, _WITHIN, _PLACE, _KNOWN, _LIVE, _SKIPPED, takes_others=True)


@dataclass(frozen=True, slots=True)
class _Asked:
    """
    What a poll says.

    Attributes:
        offset: How far its reader is, None at the beginning.
        handle: What it follows, None at the beginning.
        is_live: It may be held.
        since: When a run has to have been created to be in the feed, in microseconds.
        skipped: Columns that the reader does not want, or may not have.
    """

    offset: tuple[int, int] | None
    handle: str | None
    is_live: bool
    skipped: Collection[str]
    since: Microseconds = 0


async def run_feed(request: Request) -> Response:
    """Answer a run, then its next version, as soon as there is one."""
    run_id = run_id_of(request)
    asked = _asked(request, FEED.of(request))
    log = log_of(request)
    handle = _handle((await log.end()).epoch, 0, "run", run_id)
    if asked.offset is None:
        return _state_answer(await log.state(run_id), "insert", handle, asked)
    version, step = asked.offset
    mark = Mark(version, *divmod(step, _TAG_PLACES))
    current = (await log.current(run_id)).version
    if asked.handle != handle or version > current:
        return _refetch(handle)
    try:
        if asked.is_live and version == current:
            seat = await streams_of(request).open(whose_streams(request), log.follow(run_id, after=version))
            async with _held(request, seat) as subscription:
                await _next(subscription, _hold_s(request))
            await _check_still_admitted(request)
        state = await log.state_after(run_id, mark)
    except BadCursor:
        return _refetch(handle)
    if state is None:
        return _answer([], handle, f"{version}_{step}")
    return _state_answer(state, "update", handle, asked)


async def tags_feed(request: Request) -> Response:
    """Answer the runs that have all of some tags, then the next version of any of them."""
    query = TAGS_FEED.of(request)
    tags = query[_TAGS]
    if not tags:
        raise bad_request("bad-parameter", "tags is missing; name the tags, separated by commas")
    judge_tags(request, tags)
    asked = replace(_asked(request, query), since=_since(query, log_of(request)))
    members = Members(tags=tags, within=readable(request))
    return await _members_feed(request, asked, members, ("tags", *sorted(tags)))


async def batch_feed(request: Request) -> Response:
    """Answer the runs of a batch, then the next version of any of them."""
    batch: str = request.path_params["batch_id"]
    query = FEED.of(request)
    if not BATCH_ID.fullmatch(batch):
        raise BatchNotFound(batch)
    if _KNOWN not in query:
        log = log_of(request)
        await log.batch(batch)
        if readable(request) is not None:
            visible_batch(request, await log.batch_details(batch))
    members = Members(batch=batch, within=readable(request))
    return await _members_feed(request, _asked(request, query), members, ("batch", batch))


async def _members_feed(request: Request, asked: _Asked, members: Members, question: Sequence[str]) -> Response:
    """Answer runs that belong together: all of them, in pages, then what happens to them."""
    log = log_of(request)
    epoch = (await log.end()).epoch
    since = asked.since
    if asked.offset is not None:
        known = _HANDLE.fullmatch(asked.handle or "")
        if known is None or asked.handle != _handle(epoch, int(known[1]), *question):
            return _refetch(_handle(epoch, since, *question))
        since = int(known[1])  # What was young enough at the beginning stays in the feed.
    members = Members(members.tags, members.batch, since, members.within)
    handle = _handle(epoch, since, *question)
    try:
        if asked.offset is None:
            return _page_answer(await log.states(members), handle, asked)
        position, before = asked.offset
        if before:
            return _page_answer(await log.states(members, position=position, before=before), handle, asked)
        selection = Selection(tags=members.tags, batch=members.batch)
        opening = log.subscribe(after=Cursor(epoch, position), selection=selection)
        seat = await streams_of(request).open(whose_streams(request), opening)
    except BadCursor:
        return _refetch(handle)
    async with _held(request, seat) as subscription:
        states, position = await _next_states(
            log, members, subscription, position, _hold_s(request) if asked.is_live else 0
        )
    await _check_still_admitted(request)
    messages = [change(state, "update", asked.skipped) for state in states]
    return _answer(messages, handle, f"{position}_0")


async def _next_states(
    log: Log, members: Members, subscription: Subscription, position: int, hold_s: float
) -> tuple[list[RunState], int]:
    """The next states of different runs, and the place in the log that they reach up to."""
    clock = asyncio.get_running_loop().time
    deadline = clock() + hold_s
    while True:
        entries = await _next(subscription, max(0.0, deadline - clock()))
        if entries is None:
            return [], position
        first = _once_each(entries)
        found = await log.states_of(first) if first else []
        first = first[: len(found)]  # What is left over is read again with the next poll.
        states = [state for state in found if members.holds(state.run)]
        position = subscription.cursor.position if len(first) == len(entries) else first[-1].position
        if states or len(first) < len(entries) or clock() >= deadline:
            return states, position


def _once_each(entries: Sequence[FeedEvent]) -> Sequence[FeedEvent]:
    """The events in front of the first one whose run has one among them already."""
    seen: set[str] = set()
    for index, entry in enumerate(entries):
        if entry.event.run_id in seen:
            return entries[:index]
        seen.add(entry.event.run_id)
    return entries


async def _next(subscription: Subscription, hold_s: float) -> Sequence[FeedEvent] | None:
    """The next events, none after a time without one; None where the reader left or the server ends."""
    try:
        return await subscription.next(hold_s)
    except SubscriptionEnded:
        return None


class _Poll:
    """A poll that is held, for the server that ends."""

    def __init__(self, subscription: Subscription) -> None:
        self._subscription = subscription

    def end(self) -> None:
        """Answer it at once: its reader comes back, perhaps to another server."""
        self._subscription.close()

    def cut(self) -> None:
        """Nothing: an answer is short, and its reader takes it or is gone."""


@asynccontextmanager
async def _held(request: Request, seat: Seat) -> AsyncIterator[Subscription]:
    """Hold a poll: it ends when its reader leaves or the server ends, and its seat is given back."""
    subscription = seat.subscription
    poll = _Poll(subscription)
    leaving = asyncio.create_task(_wait_for_leave(request, subscription), name="realtime-reader")
    seat.streams.add(poll)
    try:
        yield subscription
    finally:
        seat.streams.discard(poll)
        seat.give_back()
        leaving.cancel()
        await asyncio.wait([leaving])


async def _wait_for_leave(request: Request, subscription: Subscription) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
    subscription.close()


async def _check_still_admitted(request: Request) -> None:
    """Judge a request once more that was held: much may have happened meanwhile."""
    if not await may_stay(request):
        raise Problem(
            401,
            "no-longer-admitted",
            "An API key is needed",
            "the key or the token that was shown has been revoked or has expired meanwhile",
            headers={"WWW-Authenticate": 'Bearer realm="run-ledger", error="invalid_token"'},
        )


def _asked(request: Request, query: Given) -> _Asked:
    """
    What a poll says.

    Raises:
        Problem: 400; it says something impossible.
    """
    offset, handle = query[_PLACE], query[_KNOWN]
    if offset is not None and handle is None:
        raise bad_request("bad-offset", "an offset goes with the handle that electric-handle said; send both")
    token = token_of(request)
    skipped = query[_SKIPPED]
    return _Asked(
        offset=offset,
        handle=handle,
        is_live=query[_LIVE] and request.method != "HEAD",
        skipped=skipped if token is None else skipped | token.skipped_columns,
    )


def _since(query: Given, log: Log) -> Microseconds:
    """When a run has to have been created to be in the feed."""
    return max(0, log.now() - query[_WITHIN])


def _handle(epoch: str, since: int, *question: str) -> str:
    digest = sha256(values.dump([epoch, since, *question]).encode(errors="backslashreplace")).hexdigest()
    return f"{since}-{digest[:32]}"


def _hold_s(request: Request) -> float:
    return streams_of(request).limits.poll_s


def _state_answer(state: RunState, operation: str, handle: str, asked: _Asked) -> Response:
    mark = state.mark
    offset = f"{mark.version}_{mark.status_version * _TAG_PLACES + mark.tags}"
    return _answer([change(state, operation, asked.skipped)], handle, offset)


def _page_answer(page: StatesPage, handle: str, asked: _Asked) -> Response:
    messages = [change(state, "insert", asked.skipped) for state in page.states]
    offset = f"{page.position}_{page.before or 0}"
    return _answer(messages, handle, offset, is_up_to_date=page.before is None)


def _answer(messages: list[dict[str, Any]], handle: str, offset: str, *, is_up_to_date: bool = True) -> Response:
    headers = {
        "Cache-Control": "no-store",
        "electric-handle": handle,
        "electric-offset": offset,
        "electric-schema": "{}",
        "electric-cursor": str(secrets.randbits(48)),  # Makes the address of the next poll one of its own.
    }
    if is_up_to_date:
        headers["electric-up-to-date"] = ""
        messages = [*messages, UP_TO_DATE]
    return json_response(values.dump([*messages]), headers=headers)


def _refetch(handle: str) -> Response:
    """Let the reader begin anew."""
    headers = {"Cache-Control": "no-store", "electric-handle": handle}
    return json_response(values.dump([MUST_REFETCH]), 409, headers)
