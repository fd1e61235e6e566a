"""Reading the log: heads, past states, events. Each function works within one consistent view."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from pydantic import JsonValue

from ledger import statements
from ledger.batches import BatchDetails, read_batch, read_batch_run
from ledger.errors import BadCursor, BatchNotFound, RunNotFound, VersionNotFound
from ledger.heads import Head, read_head, read_run
from ledger.keys import Reach
from ledger.refold import read_event
from ledger.run_ids import RUN_ID
from ledger.writes import Batch, Refused
from projections import values
from projections.diff import patch
from projections.events import Event, RunCreated, RunStatusChanged
from projections.history import metadata_after
from projections.runs import Run
from projections.size import size_bytes
from projections.snapshot import Snapshot
from projections.times import Microseconds, format_time

CHILDREN_MAX = 100  # children of a run that are shown with it
CURSOR_SHOWN = 200  # characters of a bad cursor that an error repeats
CHUNK = 1_000  # events that are held in memory at once while a run is read through

_Item = TypeVar("_Item")


class Reader(Protocol):
    """A consistent view of the database."""

    async def rows(self, statement: Any, **parameters: Any) -> list[Any]:
        """All rows of a statement as mappings."""

    async def tuples(self, statement: Any, **parameters: Any) -> list[Any]:
        """All rows of a statement as plain tuples, which cost half as much where there are many."""

    async def row(self, statement: Any, **parameters: Any) -> Any | None:
        """The first row of a statement, None without one."""


class Fold(Protocol):
    """What a run is read through for."""

    def add(self, event: Event) -> None:
        """Take the next event."""


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
class Point:
    """
    A state in a run's history: after so many events, or after the last one recorded by a moment; else the current.

    Attributes:
        version: The number of events.
        at: The moment.
    """

    version: int | None = None
    at: Microseconds | None = None


@dataclass(frozen=True, slots=True)
class Difference:
    """
    What differs between two states.

    Attributes:
        patch: The JSON Patch that makes the second of the first.
        start: The version of the first.
        end: The version of the second.
    """

    patch: list[JsonValue]
    start: int
    end: int


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
        children: The runs that it started, the first 100 of them.
        idempotency_key_options: What the caller made the trigger's key of: `key` and `scope`.
    """

    run: Run
    payload: JsonValue
    payload_type: str | None
    output: JsonValue
    error: JsonValue
    depth: int
    parent: Run | None
    root: Run | None
    children: tuple[Run, ...] = ()
    idempotency_key_options: dict[str, str] | None = None


async def head(reader: Reader, environment_id: int, run_id: str) -> Head:
    """The head of a run."""
    row = await reader.row(statements.HEADS, environment_id=environment_id, values=values.dump([run_id]))
    if row is None or row["run_id"] != run_id:  # SQLite looks an id up to its first NUL only.
        raise RunNotFound(run_id)
    return read_head(row)


async def heads(reader: Reader, environment_id: int, run_ids: Sequence[str]) -> list[Head]:
    """The heads of those of these runs that exist."""
    rows = await reader.rows(statements.HEADS, environment_id=environment_id, values=values.dump([*run_ids]))
    return [read_head(row) for row in rows if row["run_id"] in run_ids]


async def head_by_key(reader: Reader, environment_id: int, run_key: int) -> Head:
    """The head of a run that is known to exist."""
    row = await reader.row(statements.HEADS_BY_KEY, environment_id=environment_id, values=values.dump([run_key]))
    assert row is not None, f"run key {run_key} has no head"
    return read_head(row)


async def run_details(reader: Reader, environment_id: int, run_id: str) -> RunDetails:
    """See `Log.run`."""
    own = await head(reader, environment_id, run_id)
    created = await event(reader, environment_id, own, 1)
    moved = await event(reader, environment_id, own, own.run.status_version)
    above = {}
    for key in {own.parent_key, own.root_key} - {None}:
        assert key is not None
        above[key] = (await head_by_key(reader, environment_id, key)).run
    below = await reader.rows(
        statements.CHILDREN, environment_id=environment_id, run_key=own.key, count=CHILDREN_MAX
    )
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
        children=tuple(map(read_run, below)),
        idempotency_key_options=begun.idempotency_key_options,
    )


async def batch(reader: Reader, environment_id: int, batch_id: str) -> Batch:
    """See `Log.batch`."""
    row = await reader.row(statements.BATCHES, environment_id=environment_id, values=values.dump([batch_id]))
    if row is None:
        raise BatchNotFound(batch_id)
    return read_batch(row)


async def batch_details(reader: Reader, environment_id: int, batch_id: str) -> BatchDetails:
    """See `Log.batch_details`."""
    found = await batch(reader, environment_id, batch_id)
    rows = await reader.rows(statements.BATCH_RUNS, environment_id=environment_id, batch_id=batch_id)
    return BatchDetails(found, tuple(map(read_batch_run, rows)))


async def cursor_key(reader: Reader, environment_id: int, cursor: str, within: Reach | None) -> int:
    """The key of the run that a page of runs begins behind, which has to be one that may be read."""
    if not RUN_ID.fullmatch(cursor):
        raise BadCursor(cursor[:CURSOR_SHOWN])
    try:
        at = await head(reader, environment_id, cursor)
    except RunNotFound as error:
        raise BadCursor(cursor) from error
    if within is not None and not within.holds(at.run.task, at.run.tags):
        raise BadCursor(cursor)  # As if there were no such run.
    return at.key


async def metadata(
    reader: Reader, environment_id: int, run_id: str, version: int | None, at: Microseconds | None
) -> Snapshot:
    """See `Log.metadata`."""
    own = await head(reader, environment_id, run_id)
    run = own.run
    if at is not None:
        version = await version_at(reader, environment_id, own, at)
        if version == 0:
            raise VersionNotFound(run_id, f"version at {format_time(at)}", run.version, run.created_at)
    if version is None or version == run.version:
        return run.snapshot
    if not 1 <= version < run.version:
        raise VersionNotFound(run_id, f"version {version}", run.version, run.created_at)
    return await snapshot_at(reader, environment_id, own, version)


async def diff(
    reader: Reader, environment_id: int, run_id: str, start: Point, to_run: str, end: Point
) -> Difference:
    """See `Log.diff`."""
    before = await metadata(reader, environment_id, run_id, start.version, start.at)
    after = await metadata(reader, environment_id, to_run, end.version, end.at)
    return Difference(patch(before.metadata, after.metadata), before.version, after.version)


async def fold_events(reader: Reader, environment_id: int, run_id: str, fold: Fold) -> None:
    """Give *fold* every event of a run; see `Log.progress` and `Log.numbers`."""
    own = await head(reader, environment_id, run_id)
    version = 0
    while version < own.run.version:
        for one in await events_after(reader, environment_id, own, version, own.run.version, CHUNK):
            fold.add(one)
            version = one.version


async def refusals(reader: Reader, environment_id: int, run_id: str) -> list[Refused]:
    """See `Log.refusals`."""
    own = await head(reader, environment_id, run_id)
    rows = await reader.rows(statements.REFUSALS, environment_id=environment_id, run_key=own.key)
    fields = Refused.__slots__
    return [Refused(**{field: row[field] for field in fields}) for row in rows]


async def event(reader: Reader, environment_id: int, own: Head, version: int) -> Event:
    """One event of a run, which has it."""
    row = await reader.row(statements.EVENT, environment_id=environment_id, run_key=own.key, version=version)
    assert row is not None, f"run {own.run.id} lacks version {version}"
    return read_event(row, own.run.id)


async def version_at(reader: Reader, environment_id: int, own: Head, at: Microseconds) -> int:
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


async def kept_snapshot(reader: Reader, environment_id: int, own: Head, version: int) -> Snapshot:
    """The newest snapshot that is kept up to *version*; without one that of a run without events."""
    kept = await reader.row(
        statements.NEAREST_SNAPSHOT, environment_id=environment_id, run_key=own.key, version=version
    )
    if kept is None:
        return Snapshot.of({}, 0)
    return Snapshot.load(kept["metadata"], kept["version"], size_bytes(kept["metadata"]))


async def snapshot_at(reader: Reader, environment_id: int, own: Head, version: int) -> Snapshot:
    """The nearest kept snapshot, and a fold of the few events between."""
    kept = await kept_snapshot(reader, environment_id, own, version)
    if kept.version == version:
        return kept
    after, folded = kept.version, kept.metadata
    while after < version:
        found = await events_after(reader, environment_id, own, after, version, CHUNK)
        for one in found:
            folded = metadata_after(folded, one.body)
        after = found[-1].version
    return Snapshot.of(folded, version)


async def events_after(
    reader: Reader, environment_id: int, own: Head, after: int, last: int, count: int
) -> list[Event]:
    """The first *count* events of a run with versions above *after*, up to *last*."""
    rows = await reader.tuples(
        statements.EVENTS,
        environment_id=environment_id,
        run_key=own.key,
        after=after,
        last=last,
        count=count,
    )
    run_id = own.run.id
    return [Event._make((row[0], run_id, *row[2:])) for row in rows]
