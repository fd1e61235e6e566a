"""Batches: runs that were triggered together, each in a place of its own."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ledger.heads import read_tags
from ledger.writes import Batch
from projections.lifecycle import Status
from projections.times import Microseconds


@dataclass(frozen=True, slots=True)
class BatchRun:
    """
    A run of a batch, as far as the batch and a key's restriction are judged by it.

    Attributes:
        run_id: Its id.
        task: Its task.
        tags: Its tags.
        status: Its status.
        updated_at: When its last version was recorded.
        finished_at: When it ended, None while it has not.
    """

    run_id: str
    task: str
    tags: tuple[str, ...]
    status: Status
    updated_at: Microseconds
    finished_at: Microseconds | None


@dataclass(frozen=True, slots=True)
class BatchDetails:
    """
    A batch with its runs.

    Attributes:
        batch: The batch.
        runs: Those it has, by their places: at most as many as it was created for.
    """

    batch: Batch
    runs: tuple[BatchRun, ...]

    @property
    def finished_at(self) -> Microseconds | None:
        """When its last run ended, None while one is not over or is missing."""
        ended = [run.finished_at for run in self.runs if run.finished_at is not None]
        return max(ended) if self.batch.is_sealed and len(ended) == len(self.runs) else None

    @property
    def updated_at(self) -> Microseconds:
        """When something of it last changed."""
        return max([self.batch.updated_at, *(run.updated_at for run in self.runs)])


def read_batch(row: Mapping[str, Any]) -> Batch:
    """A batch from its row."""
    return Batch(
        id=row["batch_id"],
        run_count=row["run_count"],
        item_count=row["item_count"],
        idempotency_key=row["idempotency_key"],
        idempotency_expires_at=row["idempotency_expires_at"],
        created_at=row["created_at"],
        updated_at=row["updated_at"],
        sealed_at=row["sealed_at"],
    )


def batch_row(batch: Batch) -> dict[str, Any]:
    """The row of a batch, without its environment."""
    return {
        "batch_id": batch.id,
        "run_count": batch.run_count,
        "item_count": batch.item_count,
        "idempotency_key": batch.idempotency_key,
        "idempotency_expires_at": batch.idempotency_expires_at,
        "created_at": batch.created_at,
        "updated_at": batch.updated_at,
        "sealed_at": batch.sealed_at,
    }


def read_batch_run(row: Mapping[str, Any]) -> BatchRun:
    """A run of a batch from the row of `BATCH_RUNS`."""
    return BatchRun(
        run_id=row["run_id"],
        task=row["task"],
        tags=read_tags(row["tags"]),
        status=Status(row["status"]),
        updated_at=row["updated_at"],
        finished_at=row["finished_at"],
    )
