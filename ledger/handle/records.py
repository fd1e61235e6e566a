"""Runs and their events as a program reads them, the same from a server and from a database."""

import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from pydantic import JsonValue

from projections.events import Event
from projections.lifecycle import Status
from projections.runs import Run
from projections.times import Microseconds
from projections.values import JsonObject

if TYPE_CHECKING:
    from ledger.reads import RunDetails  # A server's answers need no database.

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRecord:
    """
    A run as it was when it was read.

    Attributes:
        id: Its id.
        task: What it executes.
        status: Such as `EXECUTING`; compares equal to its name.
        version: Number of its events.
        attempt: The attempt that gave the status.
        metadata: Its metadata.
        tags: In the order they came.
        created_at: When it was recorded.
        updated_at: When it last changed.
        started_at: When it first executed, None before.
        finished_at: When it ended, None before.
        parent: Id of the run that started it, None where none did.
        root: Id of the topmost run above it, None where there is none.
        payload: What it was triggered with; None in a list.
        output: What it returned; None in a list.
        error: Why it failed: `message`, and perhaps `name` and `stackTrace`; None in a list.
    """

    id: str
    task: str
    status: Status
    version: int
    attempt: int
    metadata: JsonObject
    tags: tuple[str, ...]
    created_at: datetime
    updated_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    parent: str | None = None
    root: str | None = None
    payload: JsonValue = None
    output: JsonValue = None
    error: JsonValue = None

    @property
    def is_finished(self) -> bool:
        """It is over, well or not."""
        return self.status.is_finished

    @classmethod
    def of_json(cls, run: dict[str, Any]) -> "RunRecord":
        """From the answer of a server."""
        related = run.get("relatedRuns", {})
        return cls(
            id=run["id"],
            task=run["taskIdentifier"],
            status=Status(run["status"]),
            version=int(run["version"]),
            attempt=run["attemptCount"],
            metadata=run["metadata"],
            tags=tuple(run["tags"]),
            created_at=datetime.fromisoformat(run["createdAt"]),
            updated_at=datetime.fromisoformat(run["updatedAt"]),
            started_at=_read(run.get("startedAt")),
            finished_at=_read(run.get("finishedAt")),
            parent=related.get("parent", {}).get("id"),
            root=related.get("root", {}).get("id"),
            payload=run.get("payload"),
            output=run.get("output"),
            error=run.get("error"),
        )

    @classmethod
    def of_run(cls, run: Run, details: "RunDetails | None" = None) -> "RunRecord":
        """From the ledger."""
        return cls(
            id=run.id,
            task=run.task,
            status=run.status,
            version=run.version,
            attempt=run.attempt,
            metadata=run.snapshot.metadata,
            tags=run.tags,
            created_at=_moment(run.created_at),
            updated_at=_moment(run.updated_at),
            started_at=None if run.started_at is None else _moment(run.started_at),
            finished_at=None if run.finished_at is None else _moment(run.finished_at),
            parent=None if details is None else run.parent,
            root=None if details is None else run.root,
            payload=None if details is None else details.payload,
            output=None if details is None else details.output,
            error=None if details is None else details.error,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """
    One event of a run.

    Attributes:
        version: Its place in the run's history, from 1.
        position: Its place in the whole log.
        type: Such as `metadata.set` or `run.status_changed`.
        data: What happened: for an operation its `key` and `value`.
        actor: Who made it.
        attempt: The attempt that made it.
        headers: Where it came from: `sourceRun`, `sourceAttempt` and others where they apply.
        occurred_at: When it happened by the job's clock, None where it did not say.
        recorded_at: When the ledger took it.
        hash: 64 hexadecimal digits that depend on this event and all before it.
    """

    version: int
    position: int
    type: str
    data: JsonObject
    actor: str
    attempt: int
    headers: JsonObject
    occurred_at: datetime | None
    recorded_at: datetime
    hash: str

    @classmethod
    def of_json(cls, event: dict[str, Any]) -> "Change":
        """From the answer of a server."""
        return cls(
            version=event["version"],
            position=event["position"],
            type=event["type"],
            data=event["data"],
            actor=event["actor"],
            attempt=event["attempt"],
            headers=event["headers"],
            occurred_at=_read(event["occurredAt"]),
            recorded_at=datetime.fromisoformat(event["recordedAt"]),
            hash=event["hash"],
        )

    @classmethod
    def of_event(cls, event: Event) -> "Change":
        """From the ledger."""
        return cls(
            version=event.version,
            position=event.position,
            type=event.type,
            data=json.loads(event.data),
            actor=event.actor,
            attempt=event.attempt,
            headers=json.loads(event.headers),
            occurred_at=None if event.occurred_at is None else _moment(event.occurred_at),
            recorded_at=_moment(event.recorded_at),
            hash=event.hash.hex(),
        )


def _moment(at: Microseconds) -> datetime:
    return _EPOCH + timedelta(microseconds=at)


def _read(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)
