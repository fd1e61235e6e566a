"""
Subscriptions: read the feed to its end, then be woken when it grows, with no gap and no repeat between.

A subscription is a position in the log and nothing more: no queue is filled for it. What it has not handled it
reads from the log in pages. Only the last events are kept in memory, once for all subscriptions of an environment
(the tail), so that those who keep up are handed what was just committed without a read.

Who has handled everything is parked, and woken by the first event that it wants. What this process commits arrives
here after the commit; what other processes commit is noticed by the engine and read once for all.
"""

import asyncio
import logging
from bisect import bisect_right
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from operator import attrgetter
from typing import Any, Self

from ledger import feed, statements
from ledger.errors import SubscriptionEnded, Unavailable
from ledger.feed import Cursor, FeedEvent, Place, Selection
from ledger.group import Recorded
from ledger.reads import Reader
from ledger.refold import read_event
from ledger.store import Store
from ledger.writes import Environment
from projections.runs import Run

TAIL_EVENTS_MAX = 1_000  # events that are kept for the subscriptions of an environment
TAIL_BYTES_MAX = 4 * 2**20  # and bytes of their data
BATCH_EVENTS_MAX = 100  # events that a subscription is handed at once
BATCH_BYTES_MAX = 2**16  # and bytes of their data, unless the first alone has more
LOOK_S = 1.0  # seconds after which the log is looked at even if nobody said that it grew

_logger = logging.getLogger(__name__)
_position = attrgetter("position")


class Subscription:
    """
    A reader of the feed that keeps up with it. Close it when done, or use it in `async with`.

    Attributes:
        run: The run as it stood at the beginning, where the subscription is to one run.
    """

    def __init__(self, tail: "_Tail", place: Place, selection: Selection) -> None:
        self.run: Run | None = place.run
        self._tail = tail
        self._epoch = place.epoch
        self._position = place.position
        self._selection = selection
        self._woken: asyncio.Future[None] | None = None
        self._closed = False

    @property
    def cursor(self) -> Cursor:
        """The place up to which everything was handed out."""
        return self.cursor_at(self._position)

    @property
    def is_caught_up(self) -> bool:
        """Whether everything this process knows to be committed was handed out."""
        return self._position >= self._tail.end

    def cursor_at(self, position: int) -> Cursor:
        """The cursor of a reader who has handled everything up to a position."""
        return Cursor(self._epoch, position)

    async def next(self, timeout_s: float | None = None) -> list[FeedEvent]:
        """
        The next events, as soon as there are any; a bounded number of them.

        Args:
            timeout_s: After this time without one the answer is empty; None to wait for ever.

        Raises:
            SubscriptionEnded: It was closed.
            Unavailable: The log cannot be read now.
        """
        loop = asyncio.get_running_loop()
        deadline = None if timeout_s is None else loop.time() + timeout_s
        while True:
            if self._closed:
                raise SubscriptionEnded
            tail = self._tail
            if self._position < (tail.end if self._selection.needs_log else tail.start):
                found = await self._read()
            elif self._position < tail.end:
                found = self._take()
            else:
                await self._park(deadline)
                found = []
            if found or (deadline is not None and loop.time() >= deadline):
                return found

    def close(self) -> None:
        """End it; who waits for the next event is told."""
        self._closed = True
        self._tail.leave(self)
        self._end_wait()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()

    async def __aiter__(self) -> AsyncIterator[FeedEvent]:
        while True:
            try:
                entries = await self.next()
            except SubscriptionEnded:
                return
            for entry in entries:
                yield entry

    def wants(self, entry: FeedEvent) -> bool:
        """Whether it has to be woken for an event."""
        return self._selection.takes(entry)

    @property
    def run_id(self) -> str | None:
        """The one run that it is about, if it is about one."""
        return self._selection.run_id

    def wake(self, position: int) -> None:
        """Nothing up to *position* concerned it while it was parked; something behind it may."""
        self._skip_to(position)
        self._end_wait()

    def _skip_to(self, position: int) -> None:
        # A page read from the log may have reached further than the tail.
        self._position = max(self._position, position)

    def _end_wait(self) -> None:
        if self._woken is not None and not self._woken.done():
            self._woken.set_result(None)

    async def _read(self) -> list[FeedEvent]:
        """One page from the log."""
        page = await self._tail.page(self._position, BATCH_EVENTS_MAX, self._selection, BATCH_BYTES_MAX)
        self._position = page.position
        return page.entries

    def _take(self) -> list[FeedEvent]:
        """What the tail holds behind the position."""
        found: list[FeedEvent] = []
        weight = 0
        entries = self._tail.entries
        for index in range(bisect_right(entries, self._position, key=_position), len(entries)):
            entry = entries[index]
            if self._selection.takes(entry):
                weight += len(entry.event.data)
                if found and (weight > BATCH_BYTES_MAX or len(found) == BATCH_EVENTS_MAX):
                    return found
                found.append(entry)
            self._position = entry.position
        return found

    async def _park(self, deadline: float | None) -> None:
        self._woken = asyncio.get_running_loop().create_future()
        self._tail.park(self)
        try:
            async with asyncio.timeout_at(deadline):
                await self._woken
        except TimeoutError:
            pass
        finally:
            if self._tail.unpark(self):  # Nothing that was committed meanwhile concerned it.
                self._skip_to(self._tail.end)
            self._woken = None


class _Tail:
    """
    The end of an environment's log, for its subscriptions.

    Attributes:
        start: The position before the first entry.
        end: The last position that is known to be committed.
        entries: Every event between.
    """

    def __init__(self, store: Store, environment_id: int, end: int) -> None:
        self._store = store
        self._environment_id = environment_id
        self.start = self.end = end
        self.entries: list[FeedEvent] = []
        self._bytes = 0
        self.members: set[Subscription] = set()
        self._parked: set[Subscription] = set()
        self._parked_by_run: defaultdict[str, set[Subscription]] = defaultdict(set)
        self._catching_up = False
        self._grew = False

    async def page(
        self, after: int, limit: int, selection: Selection = feed.WHOLE_FEED, bytes_max: int | None = None
    ) -> feed.FeedPage:
        """A page of the log itself."""
        return await self._store.read(
            lambda reader: feed.page(
                reader,
                self._environment_id,
                after=after,
                limit=limit,
                selection=selection,
                bytes_max=bytes_max,
            )
        )

    def leave(self, subscription: Subscription) -> None:
        """Forget a subscription."""
        self.members.discard(subscription)
        self.unpark(subscription)

    def park(self, subscription: Subscription) -> None:
        """Wake a subscription, once, by the next event that it wants."""
        self._place_of(subscription).add(subscription)

    def unpark(self, subscription: Subscription) -> bool:
        """Wake it no more; whether it was still parked."""
        place = self._place_of(subscription)
        was_there = subscription in place
        place.discard(subscription)
        if subscription.run_id is not None and not place:
            del self._parked_by_run[subscription.run_id]
        return was_there

    def publish(self, recorded: Recorded) -> bool:
        """Take in what this process committed; False where events of others come before, which have to be read."""
        if recorded.rows[-1]["position"] <= self.end:
            return True
        if self._catching_up or recorded.before != self.end:
            self._grew = True
            return False
        self._append([_entry(recorded, row) for row in recorded.rows])
        return True

    async def catch_up(self) -> None:
        """Take in what the log holds behind the tail: one read for all subscriptions."""
        if self._catching_up:
            return
        self._catching_up = True
        try:
            while self.members:
                self._grew = False
                last = await _last_position(self._store, self._environment_id)
                if last - self.end > TAIL_EVENTS_MAX:
                    self._skip_to(last)  # Each reads on its own, at its own pace.
                elif last > self.end:
                    page = await self.page(self.end, TAIL_EVENTS_MAX)
                    assert page.entries, f"the log ends at {last}, but nothing follows position {self.end}"
                    self._append(page.entries)
                elif not self._grew:
                    return
        finally:
            self._catching_up = False

    def _append(self, entries: Sequence[FeedEvent]) -> None:
        """Take in the next events of the log, and wake who wants one of them."""
        before, self.end = self.end, entries[-1].position
        for entry in entries:
            if entry.event.type == "run.erased":
                # Redacted data must be read anew by those who have not been handed it yet.
                self._forget(entry.position - 1)
            self.entries.append(entry)
            self._bytes += len(entry.event.data)
        if len(self.entries) > 2 * TAIL_EVENTS_MAX or self._bytes > 2 * TAIL_BYTES_MAX:
            self._trim()
        self._wake(before, entries)

    def _wake(self, before: int, entries: Sequence[FeedEvent]) -> None:
        for run_id in {entry.event.run_id for entry in entries} & self._parked_by_run.keys():
            for subscription in self._parked_by_run.pop(run_id):
                subscription.wake(before)
        woken = {one for one in self._parked if any(map(one.wants, entries))}
        self._parked -= woken
        for subscription in woken:
            subscription.wake(before)

    def _skip_to(self, position: int) -> None:
        before, self.end = self.end, position
        self._forget(position)
        parked = [*self._parked, *(one for some in self._parked_by_run.values() for one in some)]
        self._parked.clear()
        self._parked_by_run.clear()
        for subscription in parked:
            subscription.wake(before)

    def _forget(self, position: int) -> None:
        """Begin the tail anew behind a position."""
        self.start = position
        self.entries.clear()
        self._bytes = 0

    def _trim(self) -> None:
        """Keep the newest events within the bounds; one in two times, so that it costs little each time."""
        keep = weight = 0
        for entry in reversed(self.entries):
            weight += len(entry.event.data)
            if keep == TAIL_EVENTS_MAX or weight > TAIL_BYTES_MAX:
                break
            keep += 1
        dropped = len(self.entries) - keep
        self.start = self.entries[dropped - 1].position
        del self.entries[:dropped]
        self._bytes = sum(len(entry.event.data) for entry in self.entries)

    def _place_of(self, subscription: Subscription) -> set[Subscription]:
        return self._parked if subscription.run_id is None else self._parked_by_run[subscription.run_id]


class Subscriptions:
    """
    Who follows the logs of an open ledger.

    Args:
        store: The engine.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._tails: dict[int, _Tail] = {}
        self._watch: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False

    async def open(
        self, environment: Environment, find: Callable[[Reader], Coroutine[Any, Any, Place]], selection: Selection
    ) -> Subscription:
        """
        Begin a subscription.

        Args:
            environment: Whose feed.
            find: Says where to begin.
            selection: Which events.
        """
        place = await self._store.read(find)
        end = await _last_position(self._store, environment.id)
        # Nothing is awaited from here on, so that no event comes between.
        if self._closed:
            raise SubscriptionEnded
        tail = self._tails.get(environment.id)
        if tail is None or not tail.members:
            tail = self._tails[environment.id] = _Tail(self._store, environment.id, end)
        subscription = Subscription(tail, place, selection)
        tail.members.add(subscription)
        if self._watch is None:
            self._watch = asyncio.create_task(self._watch_log(), name="ledger-subscriptions")
        return subscription

    def publish(self, environment: Environment, recorded: Recorded) -> None:
        """Hand on what was just committed."""
        tail = self._tails.get(environment.id)
        if tail is None or not tail.members:
            return
        if not tail.publish(recorded):
            task = asyncio.create_task(self._catch_up(tail))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """End every subscription."""
        self._closed = True
        for tail in self._tails.values():
            for subscription in [*tail.members]:
                subscription.close()
        tasks = [*self._tasks] if self._watch is None else [*self._tasks, self._watch]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    async def _watch_log(self) -> None:
        """Notice what others commit, as long as somebody wants to know."""
        try:
            while self._tails:
                try:
                    async with asyncio.timeout(LOOK_S):
                        await self._store.changed()
                except TimeoutError:
                    pass  # Look at the log all the same: a notice may be lost, and a read may have failed.
                except Unavailable as error:
                    _logger.warning("cannot see whether the log grew, trying again: %s", error)
                    await asyncio.sleep(LOOK_S)
                for environment_id, tail in [*self._tails.items()]:
                    if tail.members:
                        await self._catch_up(tail)
                    elif self._tails[environment_id] is tail:
                        del self._tails[environment_id]
        finally:
            self._watch = None

    async def _catch_up(self, tail: _Tail) -> None:
        try:
            await tail.catch_up()
        except Unavailable as error:
            _logger.warning("cannot read on in the log, trying again: %s", error)
        except Exception:
            # Whatever it was, others must go on being woken; this one is tried again after the next look.
            _logger.exception("cannot read on in the log; trying again")


def _entry(recorded: Recorded, row: Mapping[str, Any]) -> FeedEvent:
    run = recorded.heads[row["run_key"]].run
    return FeedEvent(read_event(row, run.id), run.task, frozenset(run.tags), run.batch)


async def _last_position(store: Store, environment_id: int) -> int:
    """Where an environment's log ends."""
    (position, _) = await store.point(statements.LOG, {"environment_id": environment_id})
    return int(position)
