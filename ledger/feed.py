"""
The feed: all events of an environment by position, a page at a time.

A cursor names a place in it: the log's epoch and the position of the last event that was handled. A page is
bounded in events, in bytes and in how much of the log it looks through, so a filter that matches little comes back
short, with a cursor to go on from.
"""

import base64
import binascii
import re
from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, groupby, islice
from typing import Any, NamedTuple

from ledger import reads, statements
from ledger.errors import BadCursor
from ledger.finding import Enough, Judge, Listing, Search, judge_of
from ledger.heads import read_head, read_tags
from ledger.reads import Reader
from projections import values
from projections.events import Event
from projections.filters import RunFilter
from projections.history import replay, touches
from projections.paths import Path
from projections.runs import Run

SCAN_EVENTS_MAX = 1_000  # events that one page of a filtered feed looks through
PAGE_BYTES_MAX = 2**20  # bytes of data in one page, unless its first event alone has more

_CURSOR = re.compile(r"([0-9a-f]{1,64}):(0|[1-9][0-9]{0,18})")
_CURSOR_CHARACTERS_MAX = 200


@dataclass(frozen=True, slots=True)
class Cursor:
    """
    A place in the feed of one log.

    Attributes:
        epoch: The log's mark, which changes when an older copy takes its place.
        position: Position of the last event that was handled, 0 before the first.
    """

    epoch: str
    position: int

    def __str__(self) -> str:
        """The opaque text that callers keep."""
        return base64.urlsafe_b64encode(f"{self.epoch}:{self.position}".encode()).decode().rstrip("=")

    @classmethod
    def parse(cls, text: str) -> "Cursor":
        """
        Read what `str` wrote.

        Raises:
            BadCursor: It is nothing that `str` writes.
        """
        found = None
        if len(text) <= _CURSOR_CHARACTERS_MAX:
            try:
                plain = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True).decode()
            except (binascii.Error, ValueError):
                plain = ""
            found = _CURSOR.fullmatch(plain)
        if found is None or str(cursor := cls(found[1], int(found[2]))) != text:
            raise BadCursor(text[:_CURSOR_CHARACTERS_MAX])
        return cursor


@dataclass(slots=True, eq=False, weakref_slot=True)  # Frozen, a thousand of them took a millisecond more.
class FeedEvent:
    """
    An event as the feed carries it. Two entries are never equal, so that what is made of one can be kept with it.

    Attributes:
        event: The event.
        task: The task of its run.
        tags: The tags that its run had when the event was read.
        batch: The batch of its run.
    """

    event: Event
    task: str
    tags: frozenset[str]
    batch: str | None = None

    @property
    def position(self) -> int:
        """Place in the environment's log."""
        return self.event.position


@dataclass(frozen=True, slots=True)
class Selection:
    """
    Which events of a feed somebody wants: those that everything named here applies to.

    Attributes:
        task: Events of the runs of this task.
        tags: Events of the runs that have all of these tags.
        run_id: Events of this run.
        key: Events about the value at this path, as in a run's history.
        batch: Events of the runs of this batch.
        runs: Events of the runs that are wanted, each judged as it stands when the event is read; None for all.
        judge: Judges what that filter alone cannot.
    """

    task: str | None = None
    tags: frozenset[str] = frozenset()
    run_id: str | None = None
    key: Path | None = None
    batch: str | None = None
    runs: RunFilter | None = None
    judge: Callable[[Search], Judge] | None = None

    @property
    def is_by_run(self) -> bool:
        """Whether it asks anything of the run that an event belongs to."""
        asked = self.task, self.run_id, self.batch, self.runs
        return bool(self.tags) or any(part is not None for part in asked)

    @property
    def needs_log(self) -> bool:
        """Whether an event alone does not tell if it is wanted."""
        return self.key is not None or self.runs is not None

    def takes_run(self, run_id: str, task: str, tags: frozenset[str], batch: str | None) -> bool:
        """Whether the events of such a run are wanted."""
        return (
            (self.run_id is None or self.run_id == run_id)
            and (self.task is None or self.task == task)
            and self.tags <= tags
            and (self.batch is None or self.batch == batch)
        )

    def takes(self, entry: FeedEvent) -> bool:
        """Whether an event is wanted, as far as that can be told without the log."""
        if self.runs is not None and self.runs.tasks and entry.task not in self.runs.tasks:
            return False
        return self.takes_run(entry.event.run_id, entry.task, entry.tags, entry.batch)


WHOLE_FEED = Selection()


@dataclass(frozen=True, slots=True)
class FeedPage:
    """
    Some events in the order of the log.

    Attributes:
        entries: The events; none where none of those looked through is wanted.
        position: Everything up to here was handled; where to go on from.
        last: The last position of the log when the page was read.
        epoch: The log's mark.
    """

    entries: list[FeedEvent]
    position: int
    last: int
    epoch: str

    @property
    def next(self) -> Cursor:
        """The cursor to go on from."""
        return Cursor(self.epoch, self.position)

    @property
    def has_more(self) -> bool:
        """The log went on behind this page when it was read."""
        return self.position < self.last


@dataclass(frozen=True, slots=True)
class Place:
    """
    Where a subscription begins.

    Attributes:
        position: Everything up to here was handled.
        epoch: The log's mark.
        run: The run as it stood, where a run was asked for.
    """

    position: int
    epoch: str
    run: Run | None = None


async def place(reader: Reader, environment_id: int, after: Cursor | None) -> Place:
    """
    Where a reader of the feed goes on: at *after*, else at the end of the log.

    Raises:
        BadCursor: It is a place in another log, or one that this log has not reached.
    """
    log = await reader.row(statements.LOG, environment_id=environment_id)
    assert log is not None, f"environment {environment_id} has no log"
    if after is None:
        return Place(log["last_position"], log["epoch"])
    if after.epoch != log["epoch"] or after.position > log["last_position"]:
        raise BadCursor(str(after))
    return Place(after.position, log["epoch"])


async def place_in_run(reader: Reader, environment_id: int, run_id: str, after: int | None) -> Place:
    """
    Where a reader of one run goes on: behind version *after*, else behind its current one.

    Raises:
        RunNotFound: There is no such run.
        BadCursor: It has no such version.
    """
    own = await reads.head(reader, environment_id, run_id)
    end = await place(reader, environment_id, None)
    if after is None or after == own.run.version:
        return Place(end.position, end.epoch, own.run)
    if after > own.run.version:
        raise BadCursor(str(after))
    position = 0 if after == 0 else await _position_of(reader, environment_id, own.key, after)
    return Place(position, end.epoch, own.run)


async def page(
    reader: Reader,
    environment_id: int,
    *,
    after: Cursor | int,
    limit: int,
    selection: Selection = WHOLE_FEED,
    bytes_max: int | None = None,
) -> FeedPage:
    """
    The events after a place, `limit` at most.

    Args:
        reader: A consistent view.
        environment_id: Whose feed.
        after: A cursor, or a position of this log.
        limit: At least 1.
        selection: Which events.
        bytes_max: Bytes of their data, unless the first alone has more; 1 MiB by default.

    Raises:
        BadCursor: `after` is a place in another log, or one that this log has not reached.
    """
    end = await place(reader, environment_id, None)
    position = after if isinstance(after, int) else (await place(reader, environment_id, after)).position
    pick = _pick if selection.run_id is None else _pick_of_run
    room = _Room(limit, PAGE_BYTES_MAX if bytes_max is None else bytes_max)
    entries, reached = await pick(reader, environment_id, position, end.position, room, selection)
    if selection.key is not None:
        entries = await _about(reader, environment_id, entries, selection.key)
    return FeedPage(entries, reached, end.position, end.epoch)


class _Room(NamedTuple):
    """
    What a page has room for.

    Attributes:
        events: At most so many.
        bytes: And of this weight, unless the first alone has more.
    """

    events: int
    bytes: int

    def fitting(self, weights: Iterable[int]) -> int:
        """How many events of these weights fit, from the first on."""
        sums = [*accumulate(islice(weights, self.events))]
        return max(bisect_right(sums, self.bytes), min(1, len(sums)))


async def _pick(
    reader: Reader, environment_id: int, after: int, last: int, room: _Room, selection: Selection
) -> tuple[list[FeedEvent], int]:
    """Wanted events in the order of the log, and how far the log was looked through for them."""
    count = SCAN_EVENTS_MAX if selection.is_by_run else room.events
    rows = await reader.tuples(statements.WEIGHTS, environment_id=environment_id, after=after, count=count)
    if not rows:
        return [], last
    run_keys = dict.fromkeys(key for _, key, _ in rows)  # Each once, in the order in which they come.
    labels = await _labels(reader, environment_id, run_keys)
    taken = {key for key, label in labels.items() if selection.takes_run(*label)}
    verdicts = await _judged(reader, environment_id, [key for key in run_keys if key in taken], selection)
    wanted = []
    for position, key, weight in rows:
        if key in taken:
            if key not in verdicts:
                break
            if verdicts[key]:
                wanted.append((position, weight))
        after = position
    fitting = room.fitting(weight for _, weight in wanted)
    if fitting < len(wanted):
        after = wanted[fitting][0] - 1
    found = []
    if fitting:
        places = values.dump([position for position, _ in wanted[:fitting]])
        found = await reader.tuples(statements.EVENTS_AT, environment_id=environment_id, values=places)
    return _entries(found, labels), after


async def _pick_of_run(
    reader: Reader, environment_id: int, after: int, last: int, room: _Room, selection: Selection
) -> tuple[list[FeedEvent], int]:
    """As `_pick`, but along the stream of the one run that is wanted: nothing else is looked at."""
    assert selection.run_id is not None
    run_key = await _run_key(reader, environment_id, selection.run_id)
    if run_key is None:  # It may be created yet.
        return [], last
    labels = await _labels(reader, environment_id, [run_key])
    if not selection.takes_run(*labels[run_key]):
        return [], last
    if not (await _judged(reader, environment_id, [run_key], selection))[run_key]:
        return [], last
    parameters = {"environment_id": environment_id, "run_key": run_key}
    low = await version_at(reader, environment_id, run_key, after)
    rows = await reader.tuples(statements.RUN_WEIGHTS, **parameters, after=low, count=room.events + 1)
    if not rows:
        return [], last
    fitting = room.fitting(weight for _, _, weight in rows)
    position, version, _ = rows[fitting - 1]
    found = await reader.tuples(statements.EVENTS, **parameters, after=low, last=version, count=fitting)
    whole = fitting == len(rows)  # Then the run has no more events, and nothing else is wanted.
    return _entries(found, labels), last if whole else position


async def _judged(
    reader: Reader, environment_id: int, run_keys: Sequence[int], selection: Selection
) -> dict[int, bool]:
    """Whether these runs are wanted as they stand; those behind too much work for one page are missing."""
    if selection.runs is None:
        return dict.fromkeys(run_keys, True)
    search = await Search.begin(reader, environment_id, Listing(limit=1, wanted=selection.runs))
    if search is None:
        return dict.fromkeys(run_keys, False)
    judge = (selection.judge or judge_of)(search)
    verdicts: dict[int, bool] = {}
    start = 0
    while start < len(run_keys):
        part = run_keys[start : start + search.at_once]
        start += len(part)
        rows = await search.heads(part, narrowed=False)
        for key in part:
            row = rows.get(key)
            try:
                verdicts[key] = row is not None and await judge(read_head(row)) is not None
            except Enough:
                return verdicts
    return verdicts


async def _about(reader: Reader, environment_id: int, entries: list[FeedEvent], key: Path) -> list[FeedEvent]:
    """
    Those of *entries* that are about the value at *key*.

    The entries of each run among them follow each other without a gap, so each run is replayed once.
    """
    wanted: set[int] = set()
    for run_id, group in groupby(sorted(entries, key=_by_run), key=lambda entry: entry.event.run_id):
        events = [entry.event for entry in group]
        before: values.JsonObject = {}
        if events[0].version > 1:
            past = await reads.metadata(reader, environment_id, run_id, events[0].version - 1, None)
            before = past.metadata
        wanted.update(
            event.position for event, old, new in replay(before, events) if touches(key, event.body, old, new)
        )
    return [entry for entry in entries if entry.position in wanted]


def _by_run(entry: FeedEvent) -> tuple[str, int]:
    return entry.event.run_id, entry.event.version


_Labels = tuple[str, str, frozenset[str], str | None]


def _entries(rows: Iterable[Any], labels: Mapping[int, _Labels]) -> list[FeedEvent]:
    entries = []
    for row in rows:
        run_id, task, tags, batch = labels[row[1]]
        entries.append(FeedEvent(Event._make((row[0], run_id, *row[2:])), task, tags, batch))
    return entries


async def _labels(reader: Reader, environment_id: int, run_keys: Iterable[int]) -> dict[int, _Labels]:
    """Id, task, tags and batch of runs by their keys."""
    rows = await reader.rows(statements.LABELS, environment_id=environment_id, values=values.dump([*run_keys]))
    return {
        row["run_key"]: (row["run_id"], row["task"], frozenset(read_tags(row["tags"])), row["batch"])
        for row in rows
    }


async def _run_key(reader: Reader, environment_id: int, run_id: str) -> int | None:
    row = await reader.row(statements.RUN_KEY, environment_id=environment_id, run_id=run_id)
    # SQLite looks an id up to its first NUL only.
    return None if row is None or row["run_id"] != run_id else row["run_key"]


async def _position_of(reader: Reader, environment_id: int, run_key: int, version: int) -> int:
    row = await reader.row(statements.POSITION_OF, environment_id=environment_id, run_key=run_key, version=version)
    assert row is not None, f"run key {run_key} lacks version {version}"
    position: int = row["position"]
    return position


async def version_at(reader: Reader, environment_id: int, run_key: int, position: int) -> int:
    """
    The last version of a run at or before a position, 0 for none.

    Positions rise with versions, so it is found by halving; first from the end in steps that double, because most
    readers are near it.
    """
    if position == 0:
        return 0
    row = await reader.row(statements.LAST_VERSION, environment_id=environment_id, run_key=run_key)
    assert row is not None, f"run key {run_key} has no head"
    past: Callable[[int], Any] = lambda version: _position_of(reader, environment_id, run_key, version)  # noqa: E731
    low, high = row["version"], row["version"] + 1  # Version `high` lies behind the position.
    step = 1
    while low > 0 and await past(low) > position:
        high, low = low, max(low - step, 0)
        step *= 2
    while high - low > 1:
        middle = (low + high) // 2
        if await past(middle) > position:
            high = middle
        else:
            low = middle
    return int(low)
