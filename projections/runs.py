"""A run folded from its events: what the head of its stream holds."""

from typing import NamedTuple

from projections.events import Event, RunCreated, RunErased, RunStatusChanged, RunTagged
from projections.history import metadata_after
from projections.lifecycle import Status
from projections.snapshot import Snapshot
from projections.times import Microseconds


class Run(NamedTuple):
    """
    The state of a run.

    Attributes:
        id: Run id.
        task: What it executes.
        parent: Run that started it, None where none did.
        root: Topmost run above it, None where there is none.
        batch: Batch it was triggered in.
        status: Where it stands.
        status_version: Version of the event that gave the status; that event also holds output and error.
        attempt: The attempt that gave the status.
        tags: In the order they came, without repeats.
        idempotency_key: The trigger's.
        snapshot: Current metadata, version and size.
        created_at: When version 1 was recorded.
        updated_at: When the last version was recorded.
        started_at: When it first executed.
        finished_at: When it ended, None while it has not.
    """

    id: str
    task: str
    parent: str | None
    root: str | None
    batch: str | None
    status: Status
    status_version: int
    attempt: int
    tags: tuple[str, ...]
    idempotency_key: str | None
    snapshot: Snapshot
    created_at: Microseconds
    updated_at: Microseconds
    started_at: Microseconds | None
    finished_at: Microseconds | None

    @property
    def version(self) -> int:
        """Number of events in the run's stream."""
        return self.snapshot.version


def created(run_id: str, body: RunCreated, snapshot: Snapshot, attempt: int, at: Microseconds) -> Run:
    """A run after its first event, whose metadata *snapshot* holds."""
    return Run(
        id=run_id,
        task=body.task,
        parent=body.parent,
        root=body.root,
        batch=body.batch,
        status=body.status,
        status_version=1,
        attempt=attempt,
        tags=tuple(dict.fromkeys(body.tags)),
        idempotency_key=body.idempotency_key,
        snapshot=snapshot,
        created_at=at,
        updated_at=at,
        started_at=at if body.status == Status.EXECUTING else None,
        finished_at=at if body.status.is_finished else None,
    )


def status_changed(run: Run, body: RunStatusChanged, attempt: int, at: Microseconds) -> Run:
    """*run* after a change of status."""
    started = run.started_at if run.started_at is not None or body.status != Status.EXECUTING else at
    return run._replace(
        status=body.status,
        status_version=run.version + 1,
        attempt=attempt,
        snapshot=run.snapshot._replace(version=run.version + 1),
        updated_at=at,
        started_at=started,
        finished_at=at if body.status.is_finished else None,
    )


def tagged(run: Run, body: RunTagged, at: Microseconds) -> Run:
    """*run* with more tags."""
    return run._replace(
        tags=tuple(dict.fromkeys((*run.tags, *body.tags))),
        snapshot=run.snapshot._replace(version=run.version + 1),
        updated_at=at,
    )


def changed(run: Run, snapshot: Snapshot, at: Microseconds) -> Run:
    """*run* with other metadata."""
    return run._replace(snapshot=snapshot, updated_at=at)


def erased(run: Run, at: Microseconds) -> Run:
    """*run* after a note that something was erased; what it did to the metadata is in the redacted events."""
    return run._replace(snapshot=run.snapshot._replace(version=run.version + 1), updated_at=at)


def evolve_run(run: Run | None, event: Event) -> Run:
    """One step of the fold from a stream to its run; None stands for a run without events."""
    match event.body:
        case RunCreated() as body:
            return created(event.run_id, body, Snapshot.of(body.metadata, 1), event.attempt, event.recorded_at)
        case body if run is None:
            raise AssertionError(f"a stream begins with run.created, not {body.event_type}")
        case RunStatusChanged() as body:
            return status_changed(run, body, event.attempt, event.recorded_at)
        case RunTagged() as body:
            return tagged(run, body, event.recorded_at)
        case RunErased():
            return erased(run, event.recorded_at)
        case body:
            metadata = metadata_after(run.snapshot.metadata, body)
            return changed(run, Snapshot.of(metadata, event.version), event.recorded_at)
