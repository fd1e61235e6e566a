"""What can be asked of the log, and what it answers: plain values between callers, writer and transaction."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from pydantic import JsonValue

from ledger.run_ids import RUN_ID
from projections.lifecycle import Status
from projections.operations import Operation
from projections.paths import Path
from projections.runs import Run
from projections.times import Microseconds
from projections.values import JsonObject

ANONYMOUS = "anonymous"
REASON_CHARACTERS_MAX = 1_000  # characters of the reason of an erasure
IDEMPOTENCY_S = 7 * 86_400  # seconds for which an idempotency key is remembered

ListName = Literal["operations", "parentOperations", "rootOperations"]


class Environment(NamedTuple):
    """
    A tenant.

    Attributes:
        id: Its number, which comes first in every key.
        name: As it is hashed into every event.
    """

    id: int
    name: str


class Caller(NamedTuple):
    """
    Who asks.

    Attributes:
        actor: Recorded with every event.
        on_behalf_of: The name that the caller gave besides, where the actor is an API key.
        traceparent: W3C trace context of the request.
    """

    actor: str = ANONYMOUS
    on_behalf_of: str | None = None
    traceparent: str | None = None


NOBODY = Caller()  # A caller that gives no name.


@dataclass(frozen=True, slots=True)
class IdempotencyKey:
    """
    Makes a repeated request harmless.

    Attributes:
        key: At most 255 characters, chosen by the caller, the same for every retry; NUL is not one of them.
        fingerprint: A digest of the request; another request under the same key is refused.
    """

    key: str
    fingerprint: bytes

    def __post_init__(self) -> None:
        _refuse_nul(self.key)


@dataclass(frozen=True, slots=True)
class OneTime:
    """
    Lets one write through, and no second one.

    Attributes:
        digest: SHA-256 of what its owner shows, in hexadecimal.
        expires_at: From when it would let nothing through anyway.
    """

    digest: str
    expires_at: Microseconds

    @property
    def key(self) -> str:
        """
        Where it is remembered, among the idempotency keys.

        A key that a caller chooses is printable, so no caller can name this one.
        """
        return f"\x1f{self.digest}"


@dataclass(frozen=True, slots=True, kw_only=True)
class CreateRun:
    """
    Begin a run's stream.

    Attributes:
        run_id: The id it is to have: 1 to 128 letters, digits and `._:@+=-`.
        task: What it executes.
        parent: Run id of the run that starts it.
        batch: Batch it belongs to.
        item: Its place in that batch, from 0: whatever comes first for a place takes it.
        tags: At most ten.
        status: Its first status.
        attempt: Its first attempt.
        payload: What the caller handed over, as it came.
        payload_type: How to read the payload, None for a plain JSON value.
        metadata: Its first metadata, canonical.
        idempotency_key: The trigger's key: within the task and until it expires it leads to this run.
        idempotency_ttl_s: For how long, in seconds.
        idempotency_key_options: What the caller made that key of: `key` and `scope`.
        may_take: Judges by task and tags whether a run that the key leads to may take the place in the batch; None
            for any run.
    """

    run_id: str
    task: str
    parent: str | None = None
    batch: str | None = None
    item: int | None = None
    tags: tuple[str, ...] = ()
    status: Status = Status.QUEUED
    attempt: int = 1
    payload: JsonValue = None
    payload_type: str | None = None
    metadata: JsonObject = field(default_factory=dict)
    idempotency_key: str | None = None
    idempotency_ttl_s: int = 0
    idempotency_key_options: dict[str, str] | None = None
    may_take: Callable[[str, tuple[str, ...]], bool] | None = None

    def __post_init__(self) -> None:
        if not RUN_ID.fullmatch(self.run_id):
            raise ValueError(
                f"{self.run_id!r} cannot be a run's id; use 1 to 128 letters, digits and the characters ._:@+=-"
            )
        _refuse_nul(self.idempotency_key or "")


@dataclass(frozen=True, slots=True, kw_only=True)
class CreateBatch:
    """
    Make room for the runs of a batch, which are created one by one.

    Attributes:
        batch_id: The id it is to have.
        run_count: How many runs it is to hold.
        idempotency_key: Until it expires it leads to this batch.
        idempotency_ttl_s: For how long, in seconds.
    """

    batch_id: str
    run_count: int
    idempotency_key: str | None = None
    idempotency_ttl_s: int = 0

    def __post_init__(self) -> None:
        _refuse_nul(self.idempotency_key or "")


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangeMetadata:
    """
    Change the metadata of a run and, in the same transaction, of its parent and root.

    Attributes:
        run_id: The run.
        operations: What to do to its own metadata.
        parent_operations: To its parent's; to its own when it has no parent.
        root_operations: To that of the topmost run above it; to its own when there is none.
        attempt: The attempt that makes the change, None for the run's current one.
        expected: Versions that the run may have, None for any.
    """

    run_id: str
    operations: Sequence[Operation] = ()
    parent_operations: Sequence[Operation] = ()
    root_operations: Sequence[Operation] = ()
    attempt: int | None = None
    expected: frozenset[int] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangeStatus:
    """
    Give a run another status.

    Attributes:
        run_id: The run.
        status: The status it is to have.
        attempt: The attempt that says so, None for the run's current one.
        output: What the run returned.
        error: Why it failed: `message`, and perhaps `name` and `stackTrace`.
        expected: Versions that the run may have, None for any.
        unless_finished: Leave a run that is over as it is.
        last_change: What the same attempt does to the metadata just before, in the same transaction; only for a
            status that ends the run. Its own attempt and expected versions do not count.
    """

    run_id: str
    status: Status
    attempt: int | None = None
    output: JsonValue = None
    error: JsonValue = None
    expected: frozenset[int] | None = None
    unless_finished: bool = False
    last_change: ChangeMetadata | None = None

    def __post_init__(self) -> None:
        if self.last_change is not None and not self.status.is_finished:
            raise ValueError(f"a last change belongs to a status that ends the run, and {self.status} does not")
        if self.last_change is not None and self.last_change.run_id != self.run_id:
            raise ValueError(f"a last change of run {self.last_change.run_id} came with the end of {self.run_id}")


@dataclass(frozen=True, slots=True, kw_only=True)
class TagRun:
    """
    Give a run more tags.

    Attributes:
        run_id: The run.
        tags: None of them blank; those that it has already are skipped.
        expected: Versions that the run may have, None for any.
    """

    run_id: str
    tags: tuple[str, ...]
    expected: frozenset[int] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EraseKey:
    """
    Take what ever stood at a path out of a run's events, and out of everything made of them.

    Attributes:
        run_id: The run.
        path: What to erase, with all below it.
        reason: Why; it is recorded for ever.
        expected: Versions that the run may have, None for any.
    """

    run_id: str
    path: Path
    reason: str
    expected: frozenset[int] | None = None

    def __post_init__(self) -> None:
        if not 1 <= len(self.reason) <= REASON_CHARACTERS_MAX or not self.reason.strip():
            raise ValueError(
                f"a reason has 1 to {REASON_CHARACTERS_MAX:,} characters; it is what an auditor reads"
            )
        self.reason.encode()  # Half a character cannot be stored.


Command = CreateRun | CreateBatch | ChangeMetadata | ChangeStatus | TagRun | EraseKey


class Write(NamedTuple):
    """One request to the log: what, who, the key that makes a retry harmless, and what lets it through once."""

    command: Command
    caller: Caller
    idempotency: IdempotencyKey | None = None
    one_time: OneTime | None = None


@dataclass(frozen=True, slots=True)
class UnappliedOperation:
    """
    An operation that had nothing to work on.

    Attributes:
        list: Which list of the request it stood in.
        index: Its place there.
        key: Its key.
        reason: Why it could not apply.
    """

    list: ListName
    index: int
    key: str
    reason: str


class Written(NamedTuple):
    """
    What was done, and is durable.

    Attributes:
        run: The named run after the write.
        created: This request made the run; False for a run that existed already.
        unapplied: Operations that had nothing to work on.
        redacted: Events that an erasure took something from.
    """

    run: Run
    created: bool = False
    unapplied: tuple[UnappliedOperation, ...] = ()
    redacted: int = 0


@dataclass(frozen=True, slots=True)
class Batch:
    """
    Runs that were triggered together.

    Attributes:
        id: Its id.
        run_count: How many runs it is to hold.
        item_count: How many places are taken.
        idempotency_key: The one it was created with.
        idempotency_expires_at: Until when that key leads to it.
        created_at: When it was created.
        updated_at: When a place was last taken.
        sealed_at: When the last place was taken, None while some are free.
    """

    id: str
    run_count: int
    item_count: int
    idempotency_key: str | None
    idempotency_expires_at: Microseconds | None
    created_at: Microseconds
    updated_at: Microseconds
    sealed_at: Microseconds | None

    @property
    def is_sealed(self) -> bool:
        """Every place is taken."""
        return self.sealed_at is not None


@dataclass(frozen=True, slots=True)
class WrittenBatch:
    """
    A batch that exists now, durably.

    Attributes:
        batch: The batch.
        is_cached: It was there before, and complete.
    """

    batch: Batch
    is_cached: bool


@dataclass(frozen=True, slots=True)
class KnownItem:
    """The place in the batch was taken before; nothing was written."""


@dataclass(frozen=True, slots=True)
class Replayed:
    """
    What was done when the same request came first; nothing was written now.

    Attributes:
        run_key: The named run's key; None where the request was about a batch.
        version: Its version after that write.
        created: That write made the run, or found no complete batch.
        unapplied: Operations that had nothing to work on.
        batch_id: The batch.
    """

    run_key: int | None
    version: int
    created: bool
    unapplied: tuple[UnappliedOperation, ...]
    batch_id: str | None = None


Outcome = Written | WrittenBatch | KnownItem | Replayed


@dataclass(frozen=True, slots=True)
class Rules:
    """
    What a ledger holds its writers to.

    Attributes:
        metadata_bytes_max: Bytes of compact JSON that the metadata of a run may take.
        late_write_s: Seconds after a run's end during which its metadata may still be changed.
        idempotency_s: Seconds for which an idempotency key is remembered.
        snapshot_floor_bytes: Weight of events below which no snapshot is kept.
    """

    metadata_bytes_max: int
    late_write_s: int
    idempotency_s: int = IDEMPOTENCY_S
    snapshot_floor_bytes: int = 4_096


@dataclass(frozen=True, slots=True)
class Refused:
    """
    A refusal as it is kept for the history of a run; no values.

    Attributes:
        number: 1 for the run's first refusal.
        version: The run's version when it was refused.
        code: Such as `metadata-too-large`.
        reason: In words.
        key: The key it was about, None where it was about the whole.
        size_bytes: What it would have been.
        limit_bytes: What is allowed.
        actor: Who asked.
        attempt: The attempt that asked.
        headers: Compact JSON text, as of an event.
        recorded_at: When.
    """

    number: int
    version: int
    code: str
    reason: str
    key: str | None
    size_bytes: int | None
    limit_bytes: int | None
    actor: str
    attempt: int
    headers: str
    recorded_at: Microseconds


def _refuse_nul(key: str) -> None:
    """Neither engine looks such a key up whole: SQLite reads it up to the NUL, PostgreSQL does not take it."""
    if "\0" in key:
        raise ValueError(f"the idempotency key {key!r} holds a NUL; use printable characters")
