"""
Server-sent events on their way out: heartbeats, readers that stall, and the end of the server.

A stream is one task that takes events from a subscription and sends them, and one that notices when its reader
goes away. Nothing is queued between: while the reader does not take its bytes the task waits, and after a deadline
the connection is cut. The reader comes back with the id of the last event it has.

Not `EventSourceResponse` of sse-starlette: it cannot cut a connection whose reader stalls, importing it replaces a
method of the server, it looks for the server's end twice a second among the signal handlers, and a stream is four
tasks. Tests hold the frames against that library's.

Source: the WHATWG HTML standard, section Server-sent events.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Protocol

from starlette.types import Receive, Scope, Send

from api import metrics
from api.problems import Problem
from ledger.errors import SubscriptionEnded, Unavailable
from ledger.feed import FeedEvent
from ledger.subscriptions import Subscription

RETRY_MS = 1_000  # milliseconds after which a browser comes back
CUT_S = 0.5  # seconds that a stream gets to end by itself when the server ends
ABORT = "run_ledger.abort"  # Where the server leaves a function that cuts the connection.

_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),  # nginx would hold events back.
]

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class StreamLimits:
    """
    Bounds of live streams.

    Attributes:
        heartbeat_s: Seconds of silence after which, at the latest, a comment is sent, and from one judgement of
            a stream's key to the next.
        stalled_s: Seconds after which a reader that takes no bytes is dropped.
        per_caller: Streams that one caller may have open, polls that are held among them.
        poll_s: Seconds for which a poll is held at the longest.
    """

    heartbeat_s: float = 15
    stalled_s: float = 30
    per_caller: int = 1_000
    poll_s: float = 20


class Ending(Protocol):
    """An answer that goes on, or is held, until the server ends."""

    def end(self) -> None:
        """Let it end after what is being sent."""

    def cut(self) -> None:
        """Drop the connection with whatever is still to be sent."""


class Streams:
    """
    The live streams of a server.

    Args:
        limits: Their bounds.
    """

    def __init__(self, limits: StreamLimits | None = None) -> None:
        self.limits = limits or StreamLimits()
        self._open: set[Ending] = set()
        self._seats: Counter[str] = Counter()
        self._closing = False

    async def open(self, caller: str, opening: Coroutine[Any, Any, Subscription]) -> "Seat":
        """
        Let a caller follow something.

        Args:
            caller: Who asks; each has its own bound.
            opening: Begins the subscription.

        Raises:
            Problem: 429 where this caller has too many streams open, 503 where the server ends.
        """
        try:
            self._check(caller)
        except Problem:
            opening.close()
            raise
        self._seats[caller] += 1
        try:
            return Seat(self, caller, await opening)
        except BaseException:
            self.give_back(caller)
            raise

    def _check(self, caller: str) -> None:
        if self._closing:
            raise Problem(
                503,
                "closing",
                "The server is shutting down",
                "the server is shutting down; come back in a moment",
                headers={"Retry-After": "1"},
            )
        if self._seats[caller] >= self.limits.per_caller:
            raise Problem(
                429,
                "too-many-streams",
                "Too many live streams",
                f"{self.limits.per_caller:,} live streams are open already, the bound for one caller; close one, "
                "follow several runs through /api/v1/events/live, or raise RUN_LEDGER_STREAMS_MAX",
                {"limit": self.limits.per_caller},
                {"Retry-After": "5"},
            )

    def give_back(self, caller: str) -> None:
        """A stream of a caller has ended, or never began."""
        self._seats[caller] -= 1
        if not self._seats[caller]:
            del self._seats[caller]

    def add(self, stream: Ending) -> None:
        """A stream is being sent."""
        self._open.add(stream)
        metrics.stream_opened()
        if self._closing:
            stream.end()

    def discard(self, stream: Ending) -> None:
        """A stream is no longer being sent."""
        if stream in self._open:
            self._open.remove(stream)
            metrics.stream_closed()

    def close(self) -> None:
        """End all streams; those whose readers do not take the end are cut."""
        self._closing = True
        for stream in self._open:
            stream.end()
        asyncio.get_running_loop().call_later(CUT_S, self._cut)

    def _cut(self) -> None:
        for stream in self._open:
            stream.cut()


class Seat:
    """One of the streams that a caller may have, with its subscription. Give it back once."""

    def __init__(self, streams: Streams, caller: str, subscription: Subscription) -> None:
        self.streams = streams
        self.subscription = subscription
        self._caller = caller

    def give_back(self) -> None:
        """The stream has ended, or never began."""
        self.subscription.close()
        self.streams.give_back(self._caller)


class EventStream:
    """
    An answer that goes on: the frames of *chunks* until they end, the reader leaves or stalls, or the server ends.

    Args:
        seat: What it follows; given back at the end.
        chunks: Whole frames. They end when the subscription does.
    """

    def __init__(self, seat: Seat, chunks: AsyncGenerator[bytes]) -> None:
        self._seat = seat
        self._chunks = chunks
        self._abort: Callable[[], None] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        self._abort = scope.get(ABORT)
        leaving = asyncio.create_task(self._wait_for_leave(receive), name="live-reader")
        self._seat.streams.add(self)
        try:
            await self._send_all(send)
        except TimeoutError:
            _logger.info("a reader of %s took no bytes in time and is dropped", scope["path"])
            self.cut()
            if self._abort is not None:
                await leaving
        finally:
            self._seat.streams.discard(self)
            self._seat.give_back()
            leaving.cancel()
            await asyncio.wait([leaving])

    def end(self) -> None:
        """Let it end after what is being sent."""
        self._seat.subscription.close()

    def cut(self) -> None:
        """Drop the connection with whatever is still to be sent, where the server lets us."""
        if self._abort is not None:
            self._abort()

    async def _send_all(self, send: Send) -> None:
        await self._send(send, {"type": "http.response.start", "status": 200, "headers": _HEADERS})
        async with aclosing(self._chunks) as chunks:
            async for chunk in chunks:
                await self._send(send, {"type": "http.response.body", "body": chunk, "more_body": True})
        await self._send(send, {"type": "http.response.body", "body": b"", "more_body": False})

    async def _send(self, send: Send, message: dict[str, Any]) -> None:
        async with asyncio.timeout(self._seat.streams.limits.stalled_s):
            await send(message)

    async def _wait_for_leave(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self._seat.subscription.close()


class NoStream:
    """The headers of a stream, for those who ask with HEAD."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - As ASGI has it.
        """Send them."""
        await send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


class Permit:
    """
    Whether a stream may go on, asked once in a heartbeat however much it has to tell.

    Args:
        asked: Answers it: the key that opened the stream may have been revoked since.
        heartbeat_s: Seconds from one question to the next.
    """

    def __init__(self, asked: Callable[[], Awaitable[bool]], heartbeat_s: float) -> None:
        self._asked = asked
        self._heartbeat_s = heartbeat_s
        self._clock = asyncio.get_running_loop().time
        self._due = self._clock() + heartbeat_s

    @property
    def left_s(self) -> float:
        """Seconds until it is asked again."""
        return max(0.0, self._due - self._clock())

    async def holds(self) -> bool:
        """
        Whether the stream may go on.

        Raises:
            Unavailable: The database cannot be read.
        """
        now = self._clock()
        if now < self._due:
            return True
        self._due = now + self._heartbeat_s
        return await self._asked()


async def next_batch(
    subscription: Subscription, permit: Permit, *, at_once: bool = False
) -> Sequence[FeedEvent] | None:
    """
    The next events, none when it is time for a heartbeat, or at once.

    Returns:
        None once the subscription has ended, the permit holds no more, or the log cannot be read.
    """
    try:
        entries = await subscription.next(0 if at_once else permit.left_s)
        return entries if await permit.holds() else None
    except SubscriptionEnded:
        return None
    except Unavailable as error:
        # The answer has begun, so it can only end; the reader comes back and learns why.
        _logger.warning("a live stream ends: %s", error)
        return None


def frame(data: str | None = None, *, id: str | None = None, event: str | None = None) -> str:  # noqa: A002
    """
    One event as it is sent.

    Args:
        data: One line of text; without it nothing is dispatched, but the reader keeps the id.
        id: What the reader sends back to resume.
        event: Its kind, `message` by default.
    """
    lines = [
        f"{name}: {value}\n" for name, value in (("id", id), ("event", event), ("data", data)) if value is not None
    ]
    return "".join([*lines, "\n"])


def opening(id: str) -> str:  # noqa: A002
    """What a stream begins with: the reader can resume from here, even if nothing happens before it is cut off."""
    return f": run-ledger\nretry: {RETRY_MS}\n{frame(id=id)}"


def heartbeat(id: str | None = None) -> str:  # noqa: A002
    """A sign of life, which moves the reader's id on where nothing it wants happened."""
    return f": heartbeat\n{frame(id=id)}"
