"""Reading the log: heads, past states, history. Each function works within one consistent view."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, Literal, Protocol, TypeVar

from pydantic import JsonValue

from ledger import statements
from ledger.errors import BadCursor, RunNotFound, VersionNotFound
from ledger.heads import Head, read_head, read_run
from ledger.keys import Reach
from ledger.writes import Refused
from projections import values
from projections.events import Event, RunCreated, RunStatusChanged
from projections.history import metadata_after, replay, touches
from projections.lifecycle import Status
from projections.paths import Path
from projections.runs import Run
from projections.snapshot import Snapshot
from projections.times import Microseconds, format_time

CHUNK = 1_000  # events that are held in memory at once while a run is read through

_Item = TypeVar("_Item")


class Reader(Protocol):
    """A consistent view of the database."""

    async def rows(self, statement: Any, **parameters: Any) -> list[Any]:
        """All rows of a statement as mappings."""

    async def row(self, statement: Any, **parameters: Any) -> Any | None:
        """The first row of a statement, None without one."""


@dataclass(frozen=True, slots=True)
class Page(Generic[_Item]):
    """
    Some items of a longer list.

    Attributes:
        items: In the order asked for.
        has_next: More follow the last of them.
        has_previous: There are some before the first of them.
    """

    items: list[_Item]
    has_next: bool
    has_previous: bool


@dataclass(frozen=True, slots=True)
class RunDetails:
    """
    A run with what its head leaves in the events.

    Attributes:
        run: Its state.
        payload: What it was triggered with, as it came.
        payload_type: How to read the payload, None for a plain JSON value.
        output: What it returned.
        error: Why it failed.
        depth: How many runs lie above it.
        parent: The run that started it.
        root: The topmost run above it.
    """

    run: Run
    payload: JsonValue
    payload_type: str | None
    output: JsonValue
    error: JsonValue
    depth: int
    parent: Run | None
    root: Run | None


async def head(reader: Reader, environment_id: int, run_id: str) -> Head:
    """The head of a run."""
    row = await reader.row(statements.HEADS, environment_id=environment_id, values=values.dump([run_id]))
    if row is None or row["run_id"] != run_id:  # SQLite looks an id up to its first NUL only.
        raise RunNotFound(run_id)
    return read_head(row)


async def head_by_key(reader: Reader, environment_id: int, run_key: int) -> Head:
    """The head of a run that is known to exist."""
    row = await reader.row(statements.HEADS_BY_KEY, environment_id=environment_id, values=values.dump([run_key]))
    assert row is not None, f"run key {run_key} has no head"
    return read_head(row)


async def run_details(reader: Reader, environment_id: int, run_id: str) -> RunDetails:
    """See `Log.run`."""
    own = await head(reader, environment_id, run_id)
    created = await _event(reader, environment_id, own, 1)
    moved = await _event(reader, environment_id, own, own.run.status_version)
    above = {}
    for key in {own.parent_key, own.root_key} - {None}:
        assert key is not None
        above[key] = (await head_by_key(reader, environment_id, key)).run
    begun, ended = created.body, moved.body
    assert isinstance(begun, RunCreated)
    return RunDetails(
        run=own.run,
        payload=begun.payload,
        payload_type=begun.payload_type,
        output=ended.output if isinstance(ended, RunStatusChanged) else None,
        error=ended.error if isinstance(ended, RunStatusChanged) else None,
        depth=own.depth,
        parent=None if own.parent_key is None else above[own.parent_key],
        root=None if own.root_key is None else above[own.root_key],
    )


async def runs(
    reader: Reader,
    environment_id: int,
    *,
    limit: int,
    after: str | None,
    before: str | None,
    statuses: tuple[Status, ...],
    tasks: tuple[str, ...],
    within: Reach | None,
) -> Page[Run]:
    """See `Log.runs`."""
    newest_first = before is None
    cursor = after if newest_first else before
    beyond = 2**62 if newest_first else 0
    if cursor is not None:
        try:
            at = await head(reader, environment_id, cursor)
        except RunNotFound as error:
            raise BadCursor(cursor) from error
        if within is not None and not within.holds(at.run.task, at.run.tags):
            raise BadCursor(cursor)  # As if there were no such run.
        beyond = at.key
    page = partial(
        statements.page_of_runs,
        statuses=tuple(status.value for status in statuses),
        tasks=tasks,
        within=within,
    )
    onwards, backwards = page(older_than=newest_first), page(older_than=not newest_first)
    rows = await reader.rows(onwards, environment_id=environment_id, after=beyond, count=limit + 1)
    found = [read_run(row) for row in rows[:limit]]
    more = len(rows) > limit
    behind = False
    if cursor is not None and rows:  # The run at the cursor need not match the filter any more.
        first = rows[0]["run_key"]
        behind = bool(await reader.rows(backwards, environment_id=environment_id, after=first, count=1))
    if newest_first:
        return Page(found, has_next=more, has_previous=behind)
    return Page(found[::-1], has_next=behind, has_previous=more)


async def metadata(
    reader: Reader, environment_id: int, run_id: str, version: int | None, at: Microseconds | None
) -> Snapshot:
    """See `Log.metadata`."""
    own = await head(reader, environment_id, run_id)
    run = own.run
    if at is not None:
        version = await _version_at(reader, environment_id, own, at)
        if version == 0:
            raise VersionNotFound(run_id, f"version at {format_time(at)}", run.version, run.created_at)
    if version is None or version == run.version:
        return run.snapshot
    if not 1 <= version < run.version:
        raise VersionNotFound(run_id, f"version {version}", run.version, run.created_at)
    return await _snapshot_at(reader, environment_id, own, version)


async def history(
    reader: Reader,
    environment_id: int,
    run_id: str,
    *,
    limit: int,
    after: int | None,
    order: Literal["asc", "desc"],
    key: Path | None,
) -> Page[Event]:
    """See `Log.history`."""
    own = await head(reader, environment_id, run_id)
    found: list[Event] = []
    async for event in _in_order(reader, environment_id, own, after, order, key, limit):
        if len(found) == limit:
            return Page(found, has_next=True, has_previous=after is not None)
        found.append(event)
    return Page(found, has_next=False, has_previous=after is not None)


async def refusals(reader: Reader, environment_id: int, run_id: str) -> list[Refused]:
    """See `Log.refusals`."""
    own = await head(reader, environment_id, run_id)
    rows = await reader.rows(statements.REFUSALS, environment_id=environment_id, run_key=own.key)
    fields = Refused.__slots__
    return [Refused(**{field: row[field] for field in fields}) for row in rows]


async def _event(reader: Reader, environment_id: int, own: Head, version: int) -> Event:
    row = await reader.row(statements.EVENT, environment_id=environment_id, run_key=own.key, version=version)
    assert row is not None, f"run {own.run.id} lacks version {version}"
    return _read_event(row, own.run.id)


async def _version_at(reader: Reader, environment_id: int, own: Head, at: Microseconds) -> int:
    """
    The last version recorded at or before a moment, 0 for none.

    Recording times never go backwards within an environment, so the version is found by halving.
    """
    low, high = 0, own.run.version
    if own.run.updated_at <= at:
        return high
    while low < high:
        middle = (low + high + 1) // 2
        row = await reader.row(
            statements.RECORDED_AT, environment_id=environment_id, run_key=own.key, version=middle
        )
        assert row is not None, f"run {own.run.id} lacks version {middle}"
        if row["recorded_at"] <= at:
            low = middle
        else:
            high = middle - 1
    return low


async def _snapshot_at(reader: Reader, environment_id: int, own: Head, version: int) -> Snapshot:
    """The nearest kept snapshot, and a fold of the few events between."""
    kept = await reader.row(
        statements.NEAREST_SNAPSHOT, environment_id=environment_id, run_key=own.key, version=version
    )
    after = 0
    folded: values.JsonObject = {}
    if kept is not None:
        after = kept["version"]
        text = values.load(kept["metadata"])
        assert isinstance(text, dict)
        folded = text
    while after < version:
        events = await _events(reader, environment_id, own, after, version, CHUNK)
        for event in events:
            folded = metadata_after(folded, event.body)
        after = events[-1].version
    return Snapshot.of(folded, version)


async def _in_order(
    reader: Reader,
    environment_id: int,
    own: Head,
    after: int | None,
    order: Literal["asc", "desc"],
    key: Path | None,
    limit: int,
) -> AsyncIterator[Event]:
    """Events behind `after` in the order asked for, read in chunks; with a key only those about its value."""
    last = own.run.version
    chunk = CHUNK if key is not None else min(CHUNK, limit + 1)
    if order == "asc":
        low, high = max(after or 0, 0), last
        while low < high:
            events = await _about(
                reader, environment_id, own, await _events(reader, environment_id, own, low, high, chunk), key
            )
            for event in events:
                yield event
            low += chunk
        return
    high = last if after is None else min(after - 1, last)
    while high > 0:
        low = max(high - chunk, 0)
        events = await _about(
            reader, environment_id, own, await _events(reader, environment_id, own, low, high, chunk), key
        )
        for event in reversed(events):
            yield event
        high = low


async def _about(
    reader: Reader, environment_id: int, own: Head, events: list[Event], key: Path | None
) -> list[Event]:
    """Those of consecutive *events* that are about the value at *key*."""
    if key is None or not events:
        return events
    before = events[0].version - 1
    state = {} if before == 0 else (await _snapshot_at(reader, environment_id, own, before)).metadata
    return [event for event, old, new in replay(state, events) if touches(key, event.body, old, new)]


async def _events(
    reader: Reader, environment_id: int, own: Head, after: int, last: int, count: int
) -> list[Event]:
    rows = await reader.rows(
        statements.EVENTS,
        environment_id=environment_id,
        run_key=own.key,
        after=after,
        last=last,
        count=count,
    )
    return [_read_event(row, own.run.id) for row in rows]


def _read_event(row: Any, run_id: str) -> Event:
    return Event(
        position=row["position"],
        run_id=run_id,
        version=row["version"],
        type=row["type"],
        data=row["data"],
        actor=row["actor"],
        attempt=row["attempt"],
        headers=row["headers"],
        occurred_at=row["occurred_at"],
        recorded_at=row["recorded_at"],
        hash=row["hash"],
    )
