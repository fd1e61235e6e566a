"""
Runs as they stood at one version after the other: what a reader is told who wants to see each of them.

The state at a version is a fold from the nearest snapshot, and a reader who keeps up is answered from the head.
The status of a past version would have to be looked for among all events before it; so each state carries a mark,
and who asks for the next one hands it back: then only what came between is looked at.
"""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from pydantic import JsonValue

from ledger import feed, reads, statements
from ledger.errors import BadCursor
from ledger.feed import FeedEvent
from ledger.finding import last_run_key
from ledger.heads import Head, read_head, tag_text
from ledger.keys import Reach
from ledger.reads import Reader
from projections import values
from projections.events import RunCreated, RunStatusChanged, RunTagged, load_body
from projections.history import metadata_after
from projections.lifecycle import Status
from projections.runs import Run
from projections.snapshot import Snapshot
from projections.times import Microseconds

PAGE_RUNS_MAX = 100  # runs of one page
FOLDS_MAX = 1_000  # past versions whose metadata is kept
FOLDS_BYTES_MAX = 8 * 2**20  # and its bytes of JSON
PAGE_BYTES_MAX = 2**20  # bytes of their metadata and payloads, unless the first alone has more


class Mark(NamedTuple):
    """
    What is known of a run at a version.

    Attributes:
        version: The version.
        status_version: The version of the event that gave the status it had.
        tags: How many of its present tags it had; tags only come.
    """

    version: int
    status_version: int
    tags: int


@dataclass(frozen=True, slots=True)
class RunState:
    """
    A run as it stood at a version.

    Attributes:
        run: The run.
        mark: What makes finding the next state cheap.
        output: What it had returned.
        error: Why it had failed.
        payload: What it was triggered with, as it came; only where that is asked for.
        payload_type: How to read the payload, None for a plain JSON value.
        is_whole: The payload was asked for.
        erasures: How many erasures the run had had when its metadata was folded; None where its head had it.
    """

    run: Run
    mark: Mark
    output: JsonValue = None
    error: JsonValue = None
    payload: JsonValue = None
    payload_type: str | None = None
    is_whole: bool = False
    erasures: int | None = None


class Folded(NamedTuple):
    """
    Metadata of a past version.

    Attributes:
        snapshot: The metadata.
        erasures: How many erasures the run had had.
    """

    snapshot: Snapshot
    erasures: int


class Folds:
    """
    Metadata of past versions that was folded of late: the next version is one step from there.

    A snapshot is kept at the end of a request, and a request may hold thousands of events.
    """

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[str, int], Folded] = OrderedDict()
        self._bytes = 0

    def get(self, run_id: str, version: int) -> Folded | None:
        """What was folded for a version of a run."""
        return self._kept.get((run_id, version))

    def keep(self, state: RunState) -> None:
        """Keep a state that was folded, and let the oldest go."""
        if state.erasures is None:
            return
        place = state.run.id, state.run.version
        known = self._kept.pop(place, None)
        self._kept[place] = Folded(state.run.snapshot, state.erasures)
        self._bytes += state.run.snapshot.size_bytes - (0 if known is None else known.snapshot.size_bytes)
        while len(self._kept) > FOLDS_MAX or self._bytes > FOLDS_BYTES_MAX:
            _, dropped = self._kept.popitem(last=False)
            self._bytes -= dropped.snapshot.size_bytes


@dataclass(frozen=True, slots=True)
class Members:
    """
    Which runs belong together: those that everything named here applies to.

    Attributes:
        tags: Runs that have all of these.
        batch: Runs of this batch.
        since: Runs that were created at this time or later.
        within: Runs that a key may read, None for all.
    """

    tags: frozenset[str] = frozenset()
    batch: str | None = None
    since: Microseconds = 0
    within: Reach | None = None

    def holds(self, run: Run) -> bool:
        """Whether a run is one of them."""
        return (
            run.created_at >= self.since
            and (self.batch is None or self.batch == run.batch)
            and self.tags <= set(run.tags)
            and (self.within is None or self.within.holds(run.task, run.tags))
        )


@dataclass(frozen=True, slots=True)
class StatesPage:
    """
    Some runs, newest first, all as they stood at one place of the log.

    Attributes:
        states: The runs.
        position: That place.
        before: Run key in front of which the next page begins, None after the last one.
    """

    states: list[RunState]
    position: int
    before: int | None


async def current(reader: Reader, environment_id: int, run_id: str) -> RunState:
    """See `Log.state`."""
    own = await reads.head(reader, environment_id, run_id)
    return await _state(reader, environment_id, own, own.run, whole=True)


async def after(
    reader: Reader, environment_id: int, run_id: str, mark: Mark, folded: Folded | None
) -> RunState | None:
    """See `Log.state_after`."""
    own = await reads.head(reader, environment_id, run_id)
    if mark.version > own.run.version or not 0 < mark.status_version <= mark.version:
        raise BadCursor(str(mark.version))
    if mark.version == own.run.version:
        return None
    run = own.run
    erasures = None
    if mark.version + 1 < own.run.version:
        event = await reads.event(reader, environment_id, own, mark.version + 1)
        tags = own.run.tags[: mark.tags]
        if event.type == RunTagged.event_type:
            body = event.body
            assert isinstance(body, RunTagged)
            tags = tuple(dict.fromkeys((*tags, *body.tags)))
        erasures = await _count_erasures(reader, environment_id, own)
        before = _still_true(folded, erasures)
        run = await _run_at(reader, environment_id, own, event.version, event.recorded_at, tags, mark, before)
    return replace(await _state(reader, environment_id, own, run), erasures=erasures)


async def of_events(
    reader: Reader,
    environment_id: int,
    entries: Sequence[FeedEvent],
    marks: Mapping[str, Mark],
    folds: Mapping[str, Folded],
) -> list[RunState]:
    """
    The state of a run after each of the first of some events of different runs, a bounded number.

    An event that makes a run one of those that are followed comes with the payload; who follows them may not know
    the run before.

    Args:
        reader: A consistent view.
        environment_id: Whose log.
        entries: The events.
        marks: What is known of their runs from before.
        folds: The metadata of their runs at the versions before those of the events, where it is known.
    """
    ids = values.dump([entry.event.run_id for entry in entries])
    rows = await reader.rows(statements.HEADS, environment_id=environment_id, values=ids)
    heads = {row["run_id"]: read_head(row) for row in rows}
    states: list[RunState] = []
    weight = 0
    for entry in entries:
        event = entry.event
        own = heads[event.run_id]
        run = own.run
        erasures = None
        if event.version < run.version:
            erasures = await _count_erasures(reader, environment_id, own)
            before = _still_true(folds.get(event.run_id), erasures)
            known = marks.get(event.run_id)
            mark = known if known is not None and known.version <= event.version else Mark(0, 1, 0)
            # Its present tags, because it is by these that it is followed.
            place = event.version, event.recorded_at
            run = await _run_at(reader, environment_id, own, *place, run.tags, mark, before)
        whole = event.type in {RunCreated.event_type, RunTagged.event_type}
        state = replace(await _state(reader, environment_id, own, run, whole=whole), erasures=erasures)
        weight += _weight(state)
        if states and weight > PAGE_BYTES_MAX:
            break
        states.append(state)
    return states


async def page(
    reader: Reader, environment_id: int, members: Members, position: int | None, before: int | None
) -> StatesPage:
    """See `Log.states`."""
    end = await feed.place(reader, environment_id, None)
    if position is None:
        position = end.position
    elif position > end.position:
        raise BadCursor(str(position))
    low = 0 if members.since <= 0 else await last_run_key(reader, environment_id, members.since - 1)
    rows = await reader.rows(
        statements.page_of_members(
            tags=len(members.tags), of_batch=members.batch is not None, reach=members.within is not None
        ),
        environment_id=environment_id,
        low=low,
        high=2**62 if before is None else before,
        count=PAGE_RUNS_MAX + 1,
        **_member_values(members),
    )
    states: list[RunState] = []
    weight = 0
    last = None
    for row in rows:
        own = read_head(row)
        state = await _state_at_position(reader, environment_id, own, position, is_now=position == end.position)
        if state is not None:
            weight += _weight(state)
            if states and (weight > PAGE_BYTES_MAX or len(states) == PAGE_RUNS_MAX):
                return StatesPage(states, position, last)
            states.append(state)
        last = own.key
    return StatesPage(states, position, last if len(rows) > PAGE_RUNS_MAX else None)


def _member_values(members: Members) -> dict[str, str]:
    """The parameters of `statements.page_of_members` that say which runs."""
    lists = {f"tag_{number}": [tag] for number, tag in enumerate(sorted(members.tags))}
    if members.within is not None:
        lists["reach_tag"] = sorted(members.within.tags)
    found = {name: values.dump([*map(tag_text, tags)]) for name, tags in lists.items()}
    if members.within is not None:
        found["reach_task"] = values.dump([*sorted(members.within.tasks)])
    if members.batch is not None:
        found["batch"] = members.batch
    return found


def _still_true(folded: Folded | None, erasures: int) -> Snapshot | None:
    """What was folded, unless something was erased since: it may hold that."""
    return folded.snapshot if folded is not None and folded.erasures == erasures else None


async def _count_erasures(reader: Reader, environment_id: int, own: Head) -> int:
    row = await reader.row(statements.COUNT_ERASURES, environment_id=environment_id, run_key=own.key)
    assert row is not None
    count: int = row["count"]
    return count


async def _state_at_position(
    reader: Reader, environment_id: int, own: Head, position: int, *, is_now: bool
) -> RunState | None:
    """A run as it stood at a place of the log, None if it did not exist yet."""
    run = own.run
    if not is_now:
        version = await feed.version_at(reader, environment_id, own.key, position)
        if version == 0:
            return None
        if version < run.version:
            event = await reads.event(reader, environment_id, own, version)
            run = await _run_at(reader, environment_id, own, version, event.recorded_at, run.tags, Mark(0, 1, 0))
    return await _state(reader, environment_id, own, run, whole=True)


async def _run_at(
    reader: Reader,
    environment_id: int,
    own: Head,
    version: int,
    recorded_at: Microseconds,
    tags: tuple[str, ...],
    mark: Mark,
    before: Snapshot | None = None,
) -> Run:
    """
    A run as it stood at a version below its current one.

    Args:
        reader: A consistent view.
        environment_id: Whose run.
        own: Its head.
        version: The version.
        recorded_at: When that was recorded.
        tags: The tags that it had.
        mark: What is known of an earlier version, or of this one.
        before: The metadata of the version before, where it is known.
    """
    run = own.run
    started_at = run.started_at
    if started_at is not None and started_at > recorded_at:
        started_at = None
    run = run._replace(tags=tags, updated_at=recorded_at, started_at=started_at)
    if run.status_version > version:
        run = await _with_status(reader, environment_id, own, run, version, mark)
    if run.status_version == 1 and run.status != Status.EXECUTING:
        run = run._replace(started_at=None)  # The same instant may hold its start, in a later version.
    if before is None:
        return run._replace(snapshot=await reads.snapshot_at(reader, environment_id, own, version))
    event = await reads.event(reader, environment_id, own, version)
    return run._replace(snapshot=Snapshot.of(metadata_after(before.metadata, event.body), version))


async def _with_status(reader: Reader, environment_id: int, own: Head, run: Run, version: int, mark: Mark) -> Run:
    """The run with the status that it had at a version."""
    row = await reader.row(
        statements.STATUS_BETWEEN,
        environment_id=environment_id,
        run_key=own.key,
        version=version,
        after=mark.version,
    )
    if row is None:
        row = await reader.row(
            statements.EVENT, environment_id=environment_id, run_key=own.key, version=mark.status_version
        )
        assert row is not None, f"run {run.id} lacks version {mark.status_version}"
    if row["type"] not in {RunCreated.event_type, RunStatusChanged.event_type}:
        raise BadCursor(str(mark.version))  # The mark came from outside, and was never given.
    body = load_body(row["type"], row["data"])
    assert isinstance(body, RunCreated | RunStatusChanged)
    return run._replace(
        status=body.status,
        status_version=row["version"],
        attempt=row["attempt"],
        finished_at=row["recorded_at"] if body.status.is_finished else None,
    )


async def _state(reader: Reader, environment_id: int, own: Head, run: Run, *, whole: bool = False) -> RunState:
    """A run with what its head leaves in the events."""
    mark = Mark(run.version, run.status_version, len(run.tags))
    output = error = None
    if run.status_version > 1:
        ended = (await reads.event(reader, environment_id, own, run.status_version)).body
        assert isinstance(ended, RunStatusChanged)
        output, error = ended.output, ended.error
    if not whole:
        return RunState(run, mark, output, error)
    created = (await reads.event(reader, environment_id, own, 1)).body
    assert isinstance(created, RunCreated)
    return RunState(run, mark, output, error, created.payload, created.payload_type, is_whole=True)


def _weight(state: RunState) -> int:
    """About how many characters it takes as JSON."""
    return state.run.snapshot.size_bytes + sum(
        len(values.dump(value)) for value in (state.payload, state.output, state.error) if value is not None
    )
