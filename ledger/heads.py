"""The head of a stream: the row that holds a run's state, its chain hash and what the log needs beside them."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from projections import values
from projections.lifecycle import Status
from projections.runs import Run
from projections.snapshot import Snapshot
from projections.times import Microseconds


@dataclass(slots=True)
class Head:
    """
    One row of `runs`.

    Attributes:
        key: Run key: the run's number in its environment.
        run: The state folded from its events.
        parent_key: Run key of the parent, None without one.
        root_key: Run key of the topmost run above, None without one.
        depth: How many runs lie above it.
        hash: Chain hash of the last event; 32 zero bytes before the first.
        unsnapped_bytes: Weight of the events since the last kept snapshot.
        idempotency_expires_at: Until when the trigger's idempotency key leads to this run.
    """

    key: int
    run: Run
    parent_key: int | None
    root_key: int | None
    depth: int
    hash: bytes
    unsnapped_bytes: int
    idempotency_expires_at: Microseconds | None


_STATUSES = {status.value: status for status in Status}  # Quicker than a call, once for every head of a group.


def read_head(row: Mapping[str, Any]) -> Head:
    """A head from its row, which carries the ids of parent and root besides."""
    return Head(
        key=row["run_key"],
        run=read_run(row),
        parent_key=row["parent_key"],
        root_key=row["root_key"],
        depth=row["depth"],
        hash=row["hash"],
        unsnapped_bytes=row["unsnapped_bytes"],
        idempotency_expires_at=row["idempotency_expires_at"],
    )


def read_run(row: Mapping[str, Any]) -> Run:
    """The state of a run from its head's row."""
    return Run(
        id=row["run_id"],
        task=row["task"],
        parent=row["parent"],
        root=row["root"],
        batch=row["batch"],
        status=_STATUSES[row["status"]],
        status_version=row["status_version"],
        attempt=row["attempt"],
        tags=read_tags(row["tags"]),
        idempotency_key=row["idempotency_key"],
        snapshot=Snapshot.load(row["metadata"], row["version"], row["size_bytes"]),
        created_at=row["created_at"],
        updated_at=row["updated_at"],
        started_at=row["started_at"],
        finished_at=row["finished_at"],
    )


def read_tags(text: str) -> tuple[str, ...]:
    """The tags of a run from their stored text."""
    if text == "[]":
        return ()
    tags = values.load(text)
    assert isinstance(tags, list)
    return tuple(map(str, tags))


def tag_text(tag: str) -> str:
    """A tag as the table of tags holds it."""
    return values.dump(tag)


def tag_rows(environment_id: int, run_key: int, tags: Iterable[str]) -> list[dict[str, Any]]:
    """Rows of the table of tags, as they are inserted."""
    return [{"environment_id": environment_id, "run_key": run_key, "tag": tag_text(tag)} for tag in tags]


def new_row(environment_id: int, head: Head) -> dict[str, Any]:
    """The whole row, as it is inserted."""
    run = head.run
    return {
        "environment_id": environment_id,
        "run_key": head.key,
        "run_id": run.id,
        "task": run.task,
        "parent_key": head.parent_key,
        "root_key": head.root_key,
        "depth": head.depth,
        "batch": run.batch,
        "idempotency_key": run.idempotency_key,
        "idempotency_expires_at": head.idempotency_expires_at,
        "created_at": run.created_at,
        **_metadata_columns(head),
        **_life_columns(head),
    }


def metadata_row(environment_id: int, head: Head) -> dict[str, Any]:
    """Parameters of `CHANGE_METADATA`."""
    return {"environment": environment_id, "run": head.key, **_metadata_columns(head)}


def head_row(environment_id: int, head: Head) -> dict[str, Any]:
    """Parameters of `CHANGE_HEADS`."""
    return {**metadata_row(environment_id, head), **_life_columns(head)}


def _metadata_columns(head: Head) -> dict[str, Any]:
    snapshot = head.run.snapshot
    return {
        "metadata": snapshot.text,
        "size_bytes": snapshot.size_bytes,
        "version": snapshot.version,
        "hash": head.hash,
        "unsnapped_bytes": head.unsnapped_bytes,
        "updated_at": head.run.updated_at,
    }


def _life_columns(head: Head) -> dict[str, Any]:
    run = head.run
    return {
        "status": run.status.value,
        "status_version": run.status_version,
        "attempt": run.attempt,
        "tags": values.dump(list(run.tags)),
        "started_at": run.started_at,
        "finished_at": run.finished_at,
    }
