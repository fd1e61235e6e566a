"""What the head and the snapshots of a run have to hold, folded anew from its events."""

from collections.abc import Mapping
from typing import Any

from ledger.group import EVENT_WEIGHT
from ledger.heads import Head
from projections.events import Event, Redacted, RunCreated
from projections.history import metadata_after
from projections.operations import MetadataOperation
from projections.runs import Run, changed, evolve_run
from projections.size import size_bytes
from projections.snapshot import Snapshot
from projections.times import Microseconds


class Refold:
    """
    A run, folded event by event.

    Attributes:
        run: Its state; the text and size of its metadata are made by `snapshot` only.
        unsnapped_bytes: Weight of the events since the last kept snapshot.
        idempotency_expires_at: As the first event has it.
        says_expiry: Whether the first event says when the idempotency key expires; early releases left it out.
    """

    def __init__(self) -> None:
        self.run: Run | None = None
        self.unsnapped_bytes = 0
        self.idempotency_expires_at: Microseconds | None = None
        self.says_expiry = False

    def take(self, event: Event) -> None:
        """Fold one more event."""
        body = event.body
        run = self.run
        if run is not None and isinstance(body, MetadataOperation | Redacted):
            metadata = metadata_after(run.snapshot.metadata, body)
            # The text of every state in the middle would cost more than all the rest.
            self.run = changed(run, Snapshot(metadata, event.version, "", 0), event.recorded_at)
        else:
            self.run = evolve_run(run, event)
        if isinstance(body, RunCreated):
            self.idempotency_expires_at = body.idempotency_expires_at
            self.says_expiry = body.idempotency_key is None or body.idempotency_expires_at is not None
        self.unsnapped_bytes += size_bytes(event.data) + EVENT_WEIGHT

    def keep(self) -> None:
        """Note that a snapshot is kept of the current version."""
        self.unsnapped_bytes = 0

    def snapshot(self) -> Snapshot:
        """The current metadata, written out."""
        assert self.run is not None
        snapshot = self.run.snapshot
        return Snapshot.of(snapshot.metadata, snapshot.version)

    def head(self, stored: Mapping[str, Any], last_hash: bytes) -> Head:
        """
        The head that the events make.

        Args:
            stored: The row that is there, which names the keys of parent and root with their ids and depth.
            last_hash: Chain hash of the last event.
        """
        assert self.run is not None
        run = self.run._replace(snapshot=self.snapshot())
        return Head(
            key=stored["run_key"],
            run=run,
            parent_key=_key(stored["parent_key"], stored["parent"], run.parent),
            root_key=_key(stored["root_key"], stored["root"], run.root),
            depth=0 if run.parent is None else _depth(stored["parent_depth"]) + 1,
            hash=last_hash,
            unsnapped_bytes=self.unsnapped_bytes,
            idempotency_expires_at=self.idempotency_expires_at
            if self.says_expiry
            else stored["idempotency_expires_at"],
        )


UNKNOWN_KEY = -1  # The key of no run: what a wrong reference to a parent or root is compared with.


def _key(key: int | None, stored: str | None, folded: str | None) -> int | None:
    """The stored key of a parent or root, where it leads to the run that the events name."""
    if folded is None:
        return None
    return key if stored == folded and key is not None else UNKNOWN_KEY


def _depth(stored: object) -> int:
    """The parent's depth as it is stored, which somebody may have altered to be no number."""
    return stored if isinstance(stored, int) else 0


def read_event(row: Mapping[str, Any], run_id: str) -> Event:
    """An event from its row."""
    return Event(
        row["position"],
        run_id,
        row["version"],
        row["type"],
        row["data"],
        row["actor"],
        row["attempt"],
        row["headers"],
        row["occurred_at"],
        row["recorded_at"],
        row["hash"],
    )
