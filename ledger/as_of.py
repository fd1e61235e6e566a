"""
The list of runs as it stood at a moment.

Run keys are handed out in the order of creation, so the runs that existed then are those up to one key, which is
found by halving. What a run looked like is in its head unless it has changed since; then its version is found by
halving too, its metadata is a fold from the nearest snapshot, and its status is that of the last step before,
which is looked for backwards, event by event.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ledger import reads, statements
from ledger.heads import Head, read_head
from ledger.keys import Reach
from ledger.reads import Reader
from projections.events import RunCreated, RunStatusChanged, RunTagged, load_body
from projections.lifecycle import Status
from projections.runs import Run
from projections.times import Microseconds

EXAMINED_MAX = 1_000  # runs that are looked at for one page; a page may end before it is full, and says where
CHUNK = 100  # heads that are held in memory at once


@dataclass(frozen=True, slots=True)
class RunsPage:
    """
    Some runs, newest first, as they stood at a moment.

    Attributes:
        items: The runs.
        next: The run behind which the list goes on with older ones, None at its end.
        previous: The run before which there may be newer ones, None at its beginning.
    """

    items: list[Run]
    next: str | None
    previous: str | None


async def runs(
    reader: Reader,
    environment_id: int,
    at: Microseconds,
    *,
    limit: int,
    after: str | None,
    before: str | None,
    statuses: tuple[Status, ...],
    tasks: tuple[str, ...],
    within: Reach | None,
) -> RunsPage:
    """See `Log.runs_as_of`."""
    last = await last_run_key(reader, environment_id, at)
    newest_first = before is None
    cursor = after if newest_first else before
    beyond = last + 1 if newest_first else 0
    if cursor is not None:
        key = await reads.cursor_key(reader, environment_id, cursor, within)
        beyond = min(key, beyond) if newest_first else key
    statement = statements.page_of_runs_as_of(
        older_than=newest_first,
        statuses=tuple(status.value for status in statuses),
        tasks=tasks,
        within=within,
    )
    parameters: dict[str, Any] = {"environment_id": environment_id, "last": last, "count": CHUNK}
    if statuses:
        parameters["at"] = at
    found: list[Run] = []
    passed: list[str] = []
    edge = None  # where the list goes on
    rows: Sequence[Any] = (None,)
    while rows and edge is None:
        rows = await reader.rows(statement, after=beyond, **parameters)
        for row in rows:
            if len(passed) == EXAMINED_MAX:
                edge = passed[-1]
                break
            run = await _run_at(reader, environment_id, read_head(row), at, statuses)
            if run is not None and len(found) == limit:
                edge = found[-1].id
                break
            found += [] if run is None else [run]
            passed.append(row["run_id"])
            beyond = row["run_key"]
    if newest_first:
        return RunsPage(found, next=edge, previous=found[0].id if found and cursor is not None else None)
    return RunsPage(found[::-1], next=found[0].id if found else None, previous=edge)


async def last_run_key(reader: Reader, environment_id: int, at: Microseconds) -> int:
    """A key that no run created at or before a moment is above, and every later one is."""
    newest = await reader.row(statements.NEWEST_RUN, environment_id=environment_id, run=2**62)
    low, high = 0, 0 if newest is None else newest["run_key"]
    while low < high:
        middle = (low + high + 1) // 2
        row = await reader.row(statements.NEWEST_RUN, environment_id=environment_id, run=middle)
        if row is None or row["created_at"] <= at:
            low = middle
        else:
            high = row["run_key"] - 1
    return low


async def _run_at(
    reader: Reader, environment_id: int, own: Head, at: Microseconds, statuses: tuple[Status, ...]
) -> Run | None:
    """A run as it stood at a moment, None if it had none of the wanted statuses."""
    run = own.run
    if run.updated_at <= at:
        return run  # The statement has looked at its status.
    version = await reads.version_at(reader, environment_id, own, at)
    if run.status_version > version:
        run = await _with_status(reader, environment_id, own, version)
    if statuses and run.status not in statuses:
        return None
    updated = await reader.row(
        statements.RECORDED_AT, environment_id=environment_id, run_key=own.key, version=version
    )
    assert updated is not None, f"run {run.id} lacks version {version}"
    started = run.started_at
    return run._replace(
        tags=await _tags(reader, environment_id, own, version),
        snapshot=await reads.snapshot_at(reader, environment_id, own, version),
        updated_at=updated["recorded_at"],
        started_at=None if started is None or started > at else started,
    )


async def _with_status(reader: Reader, environment_id: int, own: Head, version: int) -> Run:
    """The run with the status that it had at a version."""
    row = await reader.row(statements.STATUS_AT, environment_id=environment_id, run_key=own.key, version=version)
    assert row is not None, f"run {own.run.id} lacks its creation"
    body = load_body(row["type"], row["data"])
    assert isinstance(body, RunCreated | RunStatusChanged)
    return own.run._replace(
        status=body.status,
        status_version=row["version"],
        attempt=row["attempt"],
        finished_at=row["recorded_at"] if body.status.is_finished else None,
    )


async def _tags(reader: Reader, environment_id: int, own: Head, version: int) -> tuple[str, ...]:
    """The tags that the run had at a version. Tags only come, and most runs have those that they began with."""
    tags = own.run.tags
    if not tags:
        return ()
    created = (await reads.event(reader, environment_id, own, 1)).body
    assert isinstance(created, RunCreated)
    known = dict.fromkeys(created.tags)
    after = 0
    while tuple(known) != tags:
        rows = await reader.rows(
            statements.TAGGED,
            environment_id=environment_id,
            run_key=own.key,
            after=after,
            last=version,
            count=CHUNK,
        )
        if not rows:
            break
        for row in rows:
            body = load_body(RunTagged.event_type, row["data"])
            assert isinstance(body, RunTagged)
            known |= dict.fromkeys(body.tags)
        after = rows[-1]["version"]
    return tuple(known)
