"""
The list of runs as it stood at a moment.

Run keys are handed out in the order of creation, so the runs that existed then are those up to one key, which is
found by halving. What a run looked like is in its head unless it has changed since; then its version is found by
halving too, its metadata is a fold from the nearest snapshot, and its status is that of the last step before,
which is looked for backwards, event by event.
"""

from ledger import reads, statements
from ledger.finding import NOTHING, Enough, Judge, Listing, RunsPage, Search, page_of, walk_by_creation
from ledger.heads import Head
from ledger.reads import Reader
from projections.events import RunCreated, RunStatusChanged, RunTagged, load_body
from projections.lifecycle import Status
from projections.runs import Run
from projections.times import Microseconds

EXAMINED_MAX = 1_000  # runs that are looked at for one page; a page may end before it is full, and says where
CHUNK = 100  # events of tags that are held in memory at once


async def runs(reader: Reader, environment_id: int, at: Microseconds, listing: Listing) -> RunsPage:
    """See `Log.runs_as_of`."""
    beyond = None
    if listing.cursor is not None:
        beyond = await reads.cursor_key(reader, environment_id, listing.cursor, listing.within)
    search = await Search.begin(reader, environment_id, listing, at)
    if search is None:
        return NOTHING
    judge = _judge(search, at)
    walk = await walk_by_creation(search, beyond, listing.limit, judge, downwards=listing.is_downwards)
    is_behind = listing.cursor is not None and bool(walk.found)
    return await page_of(reader, environment_id, listing, walk, is_behind=is_behind)


def _judge(search: Search, at: Microseconds) -> Judge:
    """A judge of runs as they stood, of a bounded number of them."""
    examined = 0

    async def judged(own: Head) -> Run | None:
        nonlocal examined
        if examined == EXAMINED_MAX:
            raise Enough
        examined += 1
        run = await _run_at(search.reader, search.environment_id, own, at, search.wanted.statuses)
        return None if run is None or not search.wanted.takes(run) else run

    return judged


async def _run_at(
    reader: Reader, environment_id: int, own: Head, at: Microseconds, statuses: tuple[Status, ...]
) -> Run | None:
    """A run as it stood at a moment, None if it had none of the wanted statuses."""
    run = own.run
    if run.updated_at <= at:
        return run
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
