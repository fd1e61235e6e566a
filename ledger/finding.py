"""
Finding runs: pages of those that somebody looks for, as they are or as they stood.

A page is put together in two steps, a chunk at a time. The keys of runs come from an index where the filter names
a status, task, tag, parent, root or batch, in the order of the page, and else run by run. Then the heads of those
are read that may be wanted, as far as SQL can tell: the text of the metadata has to hold the key, and the value
where one is named. What is left is judged in Python, by the one meaning that a filter has, on every engine.

A page looks at a bounded number of runs; where few of them are wanted it ends early, and says where to go on.

In the order of their creation runs stand still, so a walk over the pages shows each that stays wanted, once. In
the order of their last events a run that changes goes to the end. A walk keeps to what was there when it began, so
it shows no run twice; one that changes meanwhile may be missing, and is at the top of the next walk.
"""

import base64
import binascii
import re
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

from pydantic import JsonValue

from ledger import reads, statements
from ledger.errors import BadCursor
from ledger.heads import Head, read_head, read_tags, tag_text
from ledger.keys import Reach
from ledger.reads import Reader
from ledger.statements import FILTER_VALUES_KEPT_MAX, Narrowing
from projections import values
from projections.filters import EVERY_RUN, MetadataCondition, RunFilter
from projections.lifecycle import Status
from projections.metadata import ABSENT, Absent
from projections.paths import list_index
from projections.runs import Run
from projections.times import Microseconds

LOOKED_AT_MAX = 100_000  # runs that one page looks at
LOOKED_BACK_MAX = 2_000  # runs that are looked at to tell whether there is a page before
PASSED_MAX = 250_000  # events that a page in the order of changes passes on its way
WINDOW = 5_000  # of them at once
CHUNK = 1_000  # run keys that are held in memory at once
CHUNK_FIRST = 100  # run keys that are looked at first, as most filters match more than few
HEADS_MIN = 50  # heads that are held in memory at once, each of which may hold metadata of 256 KiB
HEADS_MAX = 1_000  # and that many where they are small
HEADS_BYTES = 2**20  # bytes of metadata read at once, from which on fewer heads are read the next time
COUNTED_MAX = 1_000  # runs that are counted to see which of several indexes leads to fewer
PATTERN_CHARACTERS_MAX = 1_000  # characters of a pattern; SQLite takes some ten thousand bytes

_LAST_KEY = 2**62
_CURSOR = re.compile(r"([0-9a-f]{1,64}):(0|[1-9][0-9]{0,17}):(0|[1-9][0-9]{0,17})")

_Branches = tuple[tuple[tuple[str, str], ...], ...]


class Sort(StrEnum):
    """The order of a page, as it is asked for."""

    CREATED = "createdAt"
    NEWEST = "-createdAt"
    UPDATED = "updatedAt"
    CHANGED = "-updatedAt"

    @property
    def is_newest_first(self) -> bool:
        """From the newest, or from what changed last, to the oldest."""
        return self.value.startswith("-")

    @property
    def is_by_change(self) -> bool:
        """Runs stand in the order of their last events."""
        return self in {Sort.UPDATED, Sort.CHANGED}


@dataclass(frozen=True, slots=True)
class RunsPage:
    """
    Some runs of a list.

    Attributes:
        items: The runs, in the order asked for.
        next: The cursor behind which the list goes on, None at its end.
        previous: The cursor before which there may be some, None at its beginning.
    """

    items: list[Run]
    next: str | None
    previous: str | None

    @property
    def has_next(self) -> bool:
        """More follow the last of them, or may follow."""
        return self.next is not None

    @property
    def has_previous(self) -> bool:
        """There are, or may be, some before the first of them."""
        return self.previous is not None


_REVERSED = {
    Sort.CREATED: Sort.NEWEST,
    Sort.NEWEST: Sort.CREATED,
    Sort.UPDATED: Sort.CHANGED,
    Sort.CHANGED: Sort.UPDATED,
}


@dataclass(frozen=True, slots=True)
class ChangeCursor:
    """
    A place in the order of changes.

    Attributes:
        epoch: The log's mark.
        position: Position of a last event.
        end: Where the log ended when the walk began; what changed behind it is not shown.
    """

    epoch: str
    position: int
    end: int

    def __str__(self) -> str:
        """The opaque text that callers keep."""
        plain = f"{self.epoch}:{self.position}:{self.end}"
        return base64.urlsafe_b64encode(plain.encode()).decode().rstrip("=")

    @classmethod
    def parse(cls, text: str) -> "ChangeCursor":
        """
        Read what `str` wrote.

        Raises:
            BadCursor: It is nothing that `str` writes.
        """
        found = None
        if len(text) <= reads.CURSOR_SHOWN:
            try:
                plain = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True).decode()
            except (binascii.Error, ValueError):
                plain = ""
            found = _CURSOR.fullmatch(plain)
        if found is None or str(cursor := cls(found[1], int(found[2]), int(found[3]))) != text:
            raise BadCursor(text[: reads.CURSOR_SHOWN])
        return cursor


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """
    What a page of runs is asked for.

    Attributes:
        limit: At most this many.
        after: Begin behind this cursor.
        before: End in front of this cursor, with the nearest ones, instead.
        wanted: Which runs.
        sort: In which order.
        within: Only runs that a key may read, None for all.
    """

    limit: int
    after: str | None = None
    before: str | None = None
    wanted: RunFilter = EVERY_RUN
    sort: Sort = Sort.NEWEST
    within: Reach | None = None

    @property
    def cursor(self) -> str | None:
        """Where the page begins or ends."""
        return self.after if self.before is None else self.before

    @property
    def is_downwards(self) -> bool:
        """Whether it is put together from the newest to the oldest."""
        return self.sort.is_newest_first is (self.before is None)


class Enough(Exception):
    """A judge has looked at as much as one page may; the page ends in front of this run."""


Judge = Callable[[Head], Awaitable[Run | None]]  # A run as it is to be shown, None for one that is not wanted.


@dataclass(slots=True)
class Search:
    """
    A filter, as SQL is asked for it.

    Attributes:
        reader: A consistent view.
        environment_id: Whose runs.
        wanted: The filter, of relatives that exist and may be read.
        within: Only runs that a key may read, None for all.
        at: The moment that is asked about, None for now.
        low: Only runs with keys above this one,
        high: and below this one.
        at_once: How many heads to read at once.
    """

    reader: Reader
    environment_id: int
    wanted: RunFilter
    within: Reach | None
    at: Microseconds | None
    low: int = 0
    high: int = _LAST_KEY
    at_once: int = HEADS_MIN
    _narrowing: Narrowing = field(default_factory=Narrowing)
    _parameters: dict[str, Any] = field(default_factory=dict)
    _of_heads: Narrowing = field(default_factory=Narrowing)
    _branches: _Branches = ()
    _patterns: tuple[int, ...] = ()

    @classmethod
    async def begin(
        cls, reader: Reader, environment_id: int, listing: Listing, at: Microseconds | None = None
    ) -> "Search | None":
        """A search, None where no run can be wanted."""
        wanted = listing.wanted
        if wanted.unknown:
            return None
        if wanted.stalled:  # What is over stands still for good.
            statuses = tuple(status for status in wanted.statuses or Status if not status.is_finished)
            if not statuses:
                return None
            wanted = replace(wanted, statuses=statuses)
        relatives: dict[str, list[int]] = {}
        for name, ids in (("parent_key", wanted.parents), ("root_key", wanted.roots)):
            if ids:
                relatives[name] = await _readable_keys(reader, environment_id, ids, listing.within)
                if not relatives[name]:
                    return None
        search = cls(reader, environment_id, wanted, listing.within, at)
        await search._bound()
        await search._narrow(relatives)
        search._look_for_metadata()
        return search

    @property
    def is_exact(self) -> bool:
        """Whether every run that the keys lead to is wanted."""
        wanted = self.wanted
        return self.at is None and not wanted.metadata and not wanted.asks_for_verdicts and wanted.updated.is_open

    def holds(self, run: Run) -> bool:
        """Whether a run is wanted, and may be read."""
        return self.wanted.takes(run) and (self.within is None or self.within.holds(run.task, run.tags))

    async def keys(self, after: int, before: int, count: int, *, downwards: bool) -> list[tuple[int, int]]:
        """Keys of runs, each with its place, which is the key itself, between two places."""
        statement = statements.run_keys(self._narrowing, self._branches, newest_first=downwards)
        rows = await self.reader.rows(
            statement,
            environment_id=self.environment_id,
            low=max(after, self.low),
            high=min(before, self.high),
            count=count,
            **self._parameters,
        )
        return [(row["run_key"], row["run_key"]) for row in rows]

    async def last_places(self) -> list[tuple[int, int]] | None:
        """The keys of runs, each behind the position of its last event, in order; None where they are many."""
        rows = await self._first_keys(self._branches, self._narrowing)
        if len(rows) == COUNTED_MAX:
            return None
        found = await self.reader.rows(
            statements.LAST_POSITIONS,
            environment_id=self.environment_id,
            values=values.dump([row["run_key"] for row in rows]),
        )
        return sorted((row["place"], row["run_key"]) for row in found)

    async def keys_in_log(self, after: int, before: int, count: int, *, downwards: bool) -> list[tuple[int, int]]:
        """As `keys_by_change`, found along the log, whatever the filter asks for."""
        rows = await self.reader.rows(
            statements.last_events(newest_first=downwards),
            environment_id=self.environment_id,
            low=self.low,
            high=self.high,
            after=after,
            before=before,
            count=count,
        )
        return [(row["place"], row["run_key"]) for row in rows]

    async def heads(self, keys: Sequence[int], *, narrowed: bool = True) -> dict[int, Any]:
        """The rows of those of these heads that may be wanted; *narrowed* where the keys come from an index."""
        narrowing = self._of_heads if narrowed else self._narrowing
        if self.wanted.metadata and self.at is None:
            # Most are not wanted, and need not be read whole.
            found = await self._chosen(keys, narrowing, self._patterns, metadata_only=True)
            keys = [row["run_key"] for row in found if self._holds_metadata(row["metadata"])]
            if not keys:
                return {}
            found = await self._chosen(keys, Narrowing(), ())
        else:
            found = await self._chosen(keys, narrowing, self._patterns)
        return {row["run_key"]: row for row in found}

    async def _chosen(
        self, keys: Sequence[int], narrowing: Narrowing, patterns: tuple[int, ...], *, metadata_only: bool = False
    ) -> list[Any]:
        since, until = self.wanted.updated.since, self.wanted.updated.until
        statement = statements.chosen_heads(
            narrowing,
            patterns,
            updated=not self.wanted.updated.is_open,
            past=self.at is not None,
            metadata_only=metadata_only,
        )
        rows = await self.reader.rows(
            statement,
            environment_id=self.environment_id,
            values=values.dump([*keys]),
            at=self.at,
            updated_since=-_LAST_KEY if since is None else since,
            updated_until=_LAST_KEY if until is None else until,
            **self._parameters,
        )
        weight = sum(row["size_bytes"] for row in rows)
        self.at_once = (
            min(2 * self.at_once, HEADS_MAX) if weight < HEADS_BYTES else max(self.at_once // 2, HEADS_MIN)
        )
        return rows

    def _holds_metadata(self, text: str) -> bool:
        metadata = values.load(text)
        assert isinstance(metadata, dict)
        return all(condition.holds(metadata) for condition in self.wanted.metadata)

    async def _bound(self) -> None:
        """Run keys follow the order of creation, so a time of creation is a stretch of keys."""
        created = self.wanted.created
        ends = [moment for moment in (created.until, self.at) if moment is not None]
        if ends:
            self.high = await last_run_key(self.reader, self.environment_id, min(ends)) + 1
        if created.since is not None:
            self.low = await last_run_key(self.reader, self.environment_id, created.since - 1)

    async def _narrow(self, relatives: dict[str, list[int]]) -> None:
        wanted = self.wanted
        asked: dict[str, Sequence[Any]] = {
            "status": [status.value for status in wanted.statuses],
            "task": wanted.tasks,
            "tag": [*map(tag_text, wanted.tags)],
            "batch": wanted.batches,
            **relatives,
        }
        lists = {name: found for name, found in asked.items() if found and _is_plain(found)}
        reach: dict[str, Sequence[Any]] = {}
        if self.within is not None and _is_plain(self.within.tasks):
            reach = {
                "reach_task": sorted(self.within.tasks),
                "reach_tag": [*map(tag_text, sorted(self.within.tags))],
            }
        self._parameters = {name: values.dump([*found]) for name, found in {**lists, **reach}.items()}
        if self.at is not None:
            # A run that has another status now may have had a wanted one then.
            self._of_heads = Narrowing(frozenset(lists) & {"status"})
            lists.pop("status", None)
        self._narrowing = Narrowing(frozenset(lists), reach=bool(reach))
        await self._choose_branches([*({name: found} for name, found in lists.items()), reach])

    async def _choose_branches(self, ways: Sequence[dict[str, Sequence[Any]]]) -> None:
        """Take the index that leads to the fewest runs."""
        known: list[_Branches] = []
        for way in ways:
            named = {f"{name}_{number}": one for name, found in way.items() for number, one in enumerate(found)}
            if 1 <= len(named) <= FILTER_VALUES_KEPT_MAX:
                self._parameters.update(named)
                known.append(tuple(((_column(name), name),) for name in named))
        if len(known) > 1:
            counts = [len(await self._first_keys(branches, Narrowing())) for branches in known]
            self._branches = known[counts.index(min(counts))]
        elif known:
            self._branches = known[0]

    async def _first_keys(self, branches: _Branches, narrowing: Narrowing) -> list[Any]:
        """The keys of runs, as many of them as it is worth knowing."""
        return await self.reader.rows(
            statements.run_keys(narrowing, branches, newest_first=True),
            environment_id=self.environment_id,
            low=self.low,
            high=self.high,
            count=COUNTED_MAX,
            **self._parameters,
        )

    def _look_for_metadata(self) -> None:
        """
        Ask SQL for what the text of the metadata has to hold.

        The text is compact and canonical, so equal numbers and equal strings are spelled alike.
        """
        groups = []
        for condition in self.wanted.metadata:
            patterns = [pattern for pattern in _patterns(condition) if pattern is not None]
            if patterns and len(patterns) == len(_patterns(condition)):
                groups.append(patterns)
        self._patterns = tuple(map(len, groups))
        for place, patterns in enumerate(groups):
            self._parameters.update((f"pattern_{place}_{number}", one) for number, one in enumerate(patterns))


@dataclass(frozen=True, slots=True)
class Walk:
    """
    What came of looking at one run after the other.

    Attributes:
        found: The wanted ones with their places.
        edge: The place where the list goes on, None at its end.
    """

    found: list[tuple[int, Run]]
    edge: int | None


@dataclass(frozen=True, slots=True)
class Chunk:
    """
    The next keys of a walk, with their places.

    Attributes:
        keys: Keys of runs, each behind its place.
        reached: The place up to which these are all, None at the end of the list.
        is_enough: No more is to be looked at for this page.
    """

    keys: list[tuple[int, int]]
    reached: int | None
    is_enough: bool = False


Keys = Callable[[int, int, int], Awaitable[Chunk]]  # Between two places, at most so many.


async def runs(
    reader: Reader, environment_id: int, listing: Listing, judge: Callable[[Search], Judge] | None = None
) -> RunsPage:
    """
    See `Log.runs`.

    Args:
        reader: A consistent view.
        environment_id: Whose runs.
        listing: What is asked for.
        judge: Judges what a filter alone cannot.
    """
    pages = _by_change if listing.sort.is_by_change else _by_creation
    return await pages(reader, environment_id, listing, judge or judge_of)


def judge_of(search: Search) -> Judge:
    """A judge that goes by the filter alone."""

    async def judged(head: Head) -> Run | None:
        return head.run if search.holds(head.run) else None

    return judged


async def _by_creation(
    reader: Reader, environment_id: int, listing: Listing, judge: Callable[[Search], Judge]
) -> RunsPage:
    cursor = listing.cursor
    beyond = None if cursor is None else await reads.cursor_key(reader, environment_id, cursor, listing.within)
    search = await Search.begin(reader, environment_id, listing)
    if search is None:
        return NOTHING
    walk = await walk_by_creation(search, beyond, listing.limit, judge(search), downwards=listing.is_downwards)
    is_behind = False
    if cursor is not None and walk.found:  # The run at the cursor need not match the filter any more.
        first = walk.found[0][0]
        back = await walk_by_creation(
            search, first, 0, judge(search), downwards=not listing.is_downwards, looked_at_max=LOOKED_BACK_MAX
        )
        is_behind = back.edge is not None
    return await page_of(reader, environment_id, listing, walk, is_behind=is_behind)


async def walk_by_creation(
    search: Search,
    beyond: int | None,
    limit: int,
    judge: Judge,
    *,
    downwards: bool,
    looked_at_max: int | None = None,
) -> Walk:
    """
    Look at runs in the order of their creation.

    Args:
        search: Which ones.
        beyond: Begin behind this key, at the beginning by default.
        limit: At most this many; with 0 it is only told whether there is one.
        judge: Says whether a run is wanted.
        downwards: From the newest to the oldest.
        looked_at_max: Runs that are looked at.
    """

    async def keys(after: int, before: int, count: int) -> Chunk:
        found = await search.keys(after, before, count, downwards=downwards)
        return Chunk(found, found[-1][0] if len(found) == count else None)

    low, high = 0, _LAST_KEY
    if beyond is not None:
        low, high = (low, beyond) if downwards else (beyond, high)
    count = limit + 1 if search.is_exact else max(limit + 1, CHUNK_FIRST)
    most = LOOKED_AT_MAX if looked_at_max is None else looked_at_max
    return await _walk(search, keys, (low, high), limit, judge, count, most, downwards=downwards)


async def _walk(
    search: Search,
    keys: Keys,
    places: tuple[int, int],
    limit: int,
    judge: Judge,
    count: int,
    looked_at_max: int,
    *,
    downwards: bool,
    narrowed: bool = True,
) -> Walk:
    found: list[tuple[int, Run]] = []
    (low, high), last, looked_at = places, None, 0
    while True:
        count = min(count, CHUNK)
        chunk = await keys(low, high, count)
        start = 0
        while start < len(chunk.keys):
            part = chunk.keys[start : start + search.at_once]
            start += len(part)
            rows = await search.heads([key for _, key in part], narrowed=narrowed)
            for place, key in part:
                if looked_at == looked_at_max:
                    return Walk(found, last)
                row = rows.get(key)
                if row is not None:
                    try:
                        run = await judge(read_head(row))
                    except Enough:
                        return Walk(found, last)
                    if run is not None:
                        if len(found) == limit:
                            return Walk(found, found[-1][0] if found else place)
                        found.append((place, run))
                last = place
                looked_at += 1
        last = chunk.reached
        if last is None or chunk.is_enough:
            return Walk(found, last)
        low, high = (low, last) if downwards else (last, high)
        count *= 2


async def page_of(
    reader: Reader, environment_id: int, listing: Listing, walk: Walk, *, is_behind: bool
) -> RunsPage:
    """The page that a walk in the order of creation makes; its cursors are run ids."""
    onwards = None
    if walk.edge is not None:
        ids = {place: run.id for place, run in walk.found}
        onwards = ids.get(walk.edge) or await _run_id(reader, environment_id, walk.edge)
    backwards = walk.found[0][1].id if is_behind else None
    items = [run for _, run in walk.found]
    if listing.before is None:
        return RunsPage(items, next=onwards, previous=backwards)
    return RunsPage(items[::-1], next=backwards, previous=onwards)


NOTHING = RunsPage([], next=None, previous=None)


async def last_run_key(reader: Reader, environment_id: int, at: Microseconds) -> int:
    """A key that no run created at or before a moment is above, and every later one is."""
    newest = await reader.row(statements.NEWEST_RUN, environment_id=environment_id, run=_LAST_KEY)
    low, high = 0, 0 if newest is None else newest["run_key"]
    while low < high:
        middle = (low + high + 1) // 2
        row = await reader.row(statements.NEWEST_RUN, environment_id=environment_id, run=middle)
        if row is None or row["created_at"] <= at:
            low = middle
        else:
            high = row["run_key"] - 1
    return low


async def _by_change(
    reader: Reader, environment_id: int, listing: Listing, judge: Callable[[Search], Judge]
) -> RunsPage:
    log = await reader.row(statements.LOG, environment_id=environment_id)
    assert log is not None, f"environment {environment_id} has no log"
    begun = ChangeCursor(log["epoch"], 0, log["last_position"])
    cursor = None if listing.cursor is None else ChangeCursor.parse(listing.cursor)
    if cursor is not None:
        if cursor.epoch != begun.epoch or cursor.end > begun.end:
            raise BadCursor(str(cursor))
        begun = replace(cursor, position=0)
    search = await Search.begin(reader, environment_id, listing)
    if search is None:
        return NOTHING
    places = await _places(search, begun.end)
    few = await search.last_places()
    beyond = None if cursor is None else cursor.position
    walk = await _walk_by_change(
        search, _beyond(places, beyond, downwards=listing.is_downwards), listing, judge, few=few
    )
    onwards = None if walk.edge is None else str(replace(begun, position=walk.edge))
    backwards = None
    if cursor is not None and walk.found:
        first = walk.found[0][0]
        back = await _walk_by_change(
            search,
            _beyond(places, first, downwards=not listing.is_downwards),
            replace(listing, limit=0, sort=_REVERSED[listing.sort]),
            judge,
            few=few,
            looked_at_max=LOOKED_BACK_MAX,
            passed_max=WINDOW,
        )
        backwards = None if back.edge is None else str(replace(begun, position=first))
    items = [run for _, run in walk.found]
    if listing.before is None:
        return RunsPage(items, next=onwards, previous=backwards)
    return RunsPage(items[::-1], next=backwards, previous=onwards)


async def _walk_by_change(
    search: Search,
    places: tuple[int, int],
    listing: Listing,
    judge: Callable[[Search], Judge],
    *,
    few: list[tuple[int, int]] | None,
    looked_at_max: int | None = None,
    passed_max: int | None = None,
) -> Walk:
    """Look at runs in the order of their last events: at all that an index leads to, or along the log."""
    downwards = listing.is_downwards
    most = LOOKED_AT_MAX if looked_at_max is None else looked_at_max
    left = PASSED_MAX if passed_max is None else passed_max

    async def among_few(after: int, before: int, count: int) -> Chunk:
        assert few is not None
        found = [one for one in few if after < one[0] < before]
        found = (found[::-1] if downwards else found)[:count]
        return Chunk(found, found[-1][0] if len(found) == count else None)

    async def along_the_log(after: int, before: int, count: int) -> Chunk:
        nonlocal left
        found: list[tuple[int, int]] = []
        while after + 1 < before:
            low, high = (
                (max(after, before - 1 - WINDOW), before)
                if downwards
                else (after, min(before, after + 1 + WINDOW))
            )
            part = await search.keys_in_log(low, high, count - len(found), downwards=downwards)
            found += part
            if len(found) == count:
                return Chunk(found, found[-1][0])
            left -= high - low - 1
            after, before = (after, low + 1) if downwards else (high - 1, before)
            if left <= 0 and after + 1 < before:
                return Chunk(found, before if downwards else after, is_enough=True)
        return Chunk(found, None)

    count = max(listing.limit + 1, CHUNK_FIRST)
    keys = along_the_log if few is None else among_few
    return await _walk(
        search,
        keys,
        places,
        listing.limit,
        judge(search),
        count,
        most,
        downwards=downwards,
        narrowed=few is not None,
    )


async def _places(search: Search, end: int) -> tuple[int, int]:
    """The positions that last events may have, up to *end*: before the first of them, and behind the last."""
    updated = search.wanted.updated
    low = 0 if updated.since is None else await _last_position(search, updated.since - 1, end)
    high = end if updated.until is None else await _last_position(search, updated.until, end)
    return low, high + 1


async def _last_position(search: Search, at: Microseconds, end: int) -> int:
    """The position up to *end* of the last event recorded by a moment, 0 for none; times never go backwards."""
    low, high = 0, end
    while low < high:
        middle = (low + high + 1) // 2
        row = await search.reader.row(
            statements.RECORDED_AT_POSITION, environment_id=search.environment_id, position=middle
        )
        if row is None or row["recorded_at"] <= at:
            low = middle
        else:
            high = middle - 1
    return low


def _beyond(places: tuple[int, int], position: int | None, *, downwards: bool) -> tuple[int, int]:
    low, high = places
    if position is None:
        return places
    return (low, min(high, position)) if downwards else (max(low, position), high)


async def _readable_keys(
    reader: Reader, environment_id: int, run_ids: Sequence[str], within: Reach | None
) -> list[int]:
    """The keys of those of these runs that exist and may be read."""
    rows = await reader.rows(
        statements.HEADS, environment_id=environment_id, values=values.dump([*dict.fromkeys(run_ids)])
    )
    return [
        row["run_key"]
        for row in rows
        if row["run_id"] in run_ids and (within is None or within.holds(row["task"], read_tags(row["tags"])))
    ]


async def _run_id(reader: Reader, environment_id: int, run_key: int) -> str:
    row = await reader.row(statements.RUN_ID, environment_id=environment_id, run_key=run_key)
    assert row is not None, f"run key {run_key} has no head"
    return str(row["run_id"])


def _column(parameter: str) -> str:
    """The column that a parameter of a branch is about."""
    return parameter.removeprefix("reach_").rpartition("_")[0]


def _is_plain(found: Iterable[Any]) -> bool:
    """Lists are handed over as JSON, which SQLite reads up to a NUL only; Python alone judges such a one."""
    return not any("\0" in str(one) for one in found)


def _patterns(condition: MetadataCondition) -> list[str | None]:
    """Of which patterns the text of the metadata is LIKE one if a condition holds; None for any text."""
    match condition.operator:
        case "ne":
            return [None]
        case "exists":
            return [_pattern(condition) if condition.value else None]
        case "eq":
            return [_pattern(condition, condition.value)]
        case "in":
            assert isinstance(condition.value, list)
            if len(condition.value) > FILTER_VALUES_KEPT_MAX:
                return [_pattern(condition)]
            return [_pattern(condition, value) for value in condition.value]
        case _:
            return [_pattern(condition)]


def _pattern(condition: MetadataCondition, value: JsonValue | Absent = ABSENT) -> str | None:
    names = condition.path.names
    # A name of digits may be an index of a list, which stands nowhere in the text.
    plain = [name for name in names if condition.path.literal or list_index(name) is None]
    key = f"{values.dump(plain[-1])}:" if plain else ""
    # The members of an object come in any order; a list may hold some.
    spelled = "" if isinstance(value, Absent | dict | list) else values.dump(value)
    is_beside = bool(plain) and plain[-1] is names[-1]
    for text in (key + spelled if is_beside else spelled, key):
        if text and len(text) <= PATTERN_CHARACTERS_MAX:
            return statements.like_pattern(text)
    return None
