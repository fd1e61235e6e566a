"""
What one transaction on an environment's log reads before anything is decided, and writes afterwards.

The lock is the first statement. Heads are trusted across transactions only where the engine says that nobody else
has written in between.
"""

import os
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from sqlalchemy import ClauseElement

from ledger import statements
from ledger.batches import batch_row, read_batch
from ledger.chain import SALT_BYTES, commitment, event_hash
from ledger.errors import (
    BatchNotFound,
    IdempotencyConflict,
    LateWrite,
    RunNotFound,
    TokenSpent,
    WrongExpectedVersion,
)
from ledger.heads import Head, head_row, metadata_row, new_row, read_head, tag_rows
from ledger.known_heads import KnownHeads, LogEnd
from ledger.writes import (
    Batch,
    Caller,
    ChangeMetadata,
    ChangeStatus,
    CreateBatch,
    CreateRun,
    Environment,
    IdempotencyKey,
    OneTime,
    Replayed,
    Rules,
    UnappliedOperation,
    Write,
    Written,
    WrittenBatch,
)
from projections import values
from projections.errors import Refusal, TooLarge
from projections.events import NewEvent
from projections.size import size_bytes
from projections.times import Microseconds
from projections.values import JsonObject

EVENT_WEIGHT = 100  # bytes that an event takes beside its data, as the snapshot rule counts
REFUSALS_KEPT = 100  # refusals of a run that are kept
EXPIRED_KEYS_AT_ONCE = 200  # expired idempotency keys that a group clears away
SALTS_AT_ONCE = 64  # salts of events that the system is asked for at once
MICROSECONDS = 1_000_000  # in a second


class Transaction(Protocol):
    """An open transaction of an engine."""

    def now(self) -> Microseconds:
        """The clock that what is written gets its time from."""

    def mark(self) -> Hashable | None:
        """
        What tells whether anybody else committed since an earlier transaction: then it is not what that one left.

        None where that cannot be told.
        """

    def own_mark(self) -> Hashable | None:
        """The mark that this transaction leaves if it appends to the log."""

    def rows(self, statement: ClauseElement, parameters: Mapping[str, Any]) -> Sequence[Any]:
        """All rows of a statement, by column name."""

    def stream(self, statement: ClauseElement, parameters: Mapping[str, Any]) -> Iterator[Any]:
        """The rows of a statement one after the other, none of them before it is asked for."""

    def send(self, statement: ClauseElement, rows: Sequence[Mapping[str, Any]]) -> None:
        """Run a statement once for each of *rows*."""


@dataclass(frozen=True, slots=True)
class Recorded:
    """
    What a transaction appends to the log.

    Attributes:
        before: The log's last position before it.
        rows: The events, as they are inserted, in the order of the log.
        heads: The heads of the runs that they belong to, by run key, as they are afterwards.
    """

    before: int
    rows: Sequence[Mapping[str, Any]]
    heads: Mapping[int, Head]


class Group:
    """
    What one transaction read and what it is to write.

    Args:
        transaction: Open, and has sent nothing yet: the lock is its first statement.
        environment: The environment that all writes belong to.
        rules: Limits and windows.
        clock: Microseconds since 1970-01-01 UTC; the transaction's own by default.
        known: Heads that earlier groups left behind, None to read all anew.
    """

    def __init__(
        self,
        transaction: Transaction,
        environment: Environment,
        rules: Rules,
        clock: Callable[[], Microseconds] | None,
        known: KnownHeads | None = None,
    ) -> None:
        self._transaction = transaction
        self._environment_id = environment.id
        self._environment = environment.name
        self.rules = rules
        log = self._rows(statements.LOCK_LOG)[0]
        self._position: int = log["last_position"]
        self._before = self._position
        self._run_key: int = log["last_run_key"]
        # Read behind the lock: what is recorded later is never recorded earlier.
        self.now = max((clock or transaction.now)(), log["last_recorded_at"])
        self._recorded_at: Microseconds = log["last_recorded_at"]
        self._mark = None if known is None else transaction.mark()
        self._known_heads = None if self._mark is None else known
        self._known: dict[str, Head] = {}
        if self._known_heads is not None:
            end = LogEnd(self._position, self._run_key, self._recorded_at, self._mark)
            self._known = self._known_heads.take(end)

        self._heads: dict[str, Head] = {}
        self._heads_by_key: dict[int, Head] = {}
        self._by_idempotency_key: dict[tuple[str, str], Head] = {}
        self._remembered: dict[str, tuple[bytes, Replayed]] = {}
        self._batches: dict[str, Batch] = {}
        self._items: set[tuple[str, int]] = set()

        self._new: dict[int, Head] = {}
        self._changed: dict[int, Head] = {}
        self._lived: set[int] = set()
        self._tags: dict[int, tuple[str, ...]] = {}  # As they are stored.
        self._events: list[dict[str, Any]] = []
        self._snapshots: list[dict[str, Any]] = []
        self._refusals: dict[int, list[dict[str, Any]]] = defaultdict(list)
        self._new_batches: set[str] = set()
        self._changed_batches: set[str] = set()
        self._new_items: list[dict[str, Any]] = []
        self._to_remember: list[dict[str, Any]] = []
        self._to_forget: list[str] = []
        self._salts = b""
        self._salts_used = 0

    def read(self, writes: Iterable[Write]) -> None:
        """Read once what all of *writes* need."""
        keys: set[str] = set()
        run_ids: set[str] = set()
        triggers: set[str] = set()
        upwards: set[str] = set()
        items: dict[str, set[int]] = defaultdict(set)
        batch_keys: set[str] = set()
        for write in writes:
            if write.idempotency is not None:
                keys.add(write.idempotency.key)
            if write.one_time is not None:
                keys.add(write.one_time.key)
            if isinstance(write.command, CreateBatch):
                if write.command.idempotency_key is not None:
                    batch_keys.add(write.command.idempotency_key)
                continue
            run_ids.add(write.command.run_id)
            command = write.command.last_change if isinstance(write.command, ChangeStatus) else write.command
            if isinstance(command, CreateRun):
                if command.batch is not None and command.item is not None:
                    items[command.batch].add(command.item)
                if command.parent is not None:
                    run_ids.add(command.parent)
                    upwards.add(command.parent)  # The new run's root is its parent's.
                if command.idempotency_key is not None:
                    triggers.add(command.idempotency_key)
            elif isinstance(command, ChangeMetadata) and (command.parent_operations or command.root_operations):
                upwards.add(command.run_id)
        self._read_remembered(keys)
        self._find_heads(run_ids)
        self._find_above(upwards)
        self._read_triggers(triggers)
        self._read_batches(items, batch_keys)

    def flush(self) -> None:
        """Send what was decided: heads before the rows that refer to them."""
        send = self._send
        send(statements.ADD_HEADS, [new_row(self._environment_id, head) for head in self._new.values()])
        changed = [head for key, head in self._changed.items() if key not in self._new]
        send(
            statements.CHANGE_METADATA,
            [metadata_row(self._environment_id, head) for head in changed if head.key not in self._lived],
        )
        send(
            statements.CHANGE_HEADS,
            [head_row(self._environment_id, head) for head in changed if head.key in self._lived],
        )
        send(statements.ADD_RUN_TAGS, self._new_tags())
        send(statements.ADD_EVENTS, self._events)
        send(statements.ADD_SNAPSHOTS, self._snapshots)
        self._flush_batches()
        self._flush_refusals()
        if self._to_forget:
            send(
                statements.FORGET,
                [{"environment_id": self._environment_id, "values": values.dump([*self._to_forget])}],
            )
        send(statements.REMEMBER, self._to_remember)
        if self._events:
            log = {
                "log": self._environment_id,
                "last_position": self._position,
                "last_run_key": self._run_key,
                "last_recorded_at": self.now,
            }
            send(statements.ADVANCE_LOG, [log])
        if self._known_heads is not None:
            end = LogEnd(self._position, self._run_key, self._recorded_at, self._mark)
            if self._events:
                end = LogEnd(self._position, self._run_key, self.now, self._transaction.own_mark())
            self._known_heads.propose(end, self._known, self._heads)

    @property
    def recorded(self) -> Recorded:
        """What is appended to the log."""
        return Recorded(self._before, self._events, self._heads_by_key)

    def found(self, run_id: str) -> Head | None:
        """The head of a run that one of the writes names, None if there is no such run."""
        return self._heads.get(run_id)

    def named(self, run_id: str, expected: frozenset[int] | None) -> Head:
        """
        The head of a run that a write is for.

        Raises:
            RunNotFound: There is no such run.
            WrongExpectedVersion: It has none of the *expected* versions.
        """
        head = self._heads.get(run_id)
        if head is None:
            raise RunNotFound(run_id)
        if expected is not None and head.run.version not in expected:
            raise WrongExpectedVersion(run_id, expected, head.run.version)
        return head

    def triggered(self, task: str, idempotency_key: str) -> Head | None:
        """The head of the run that a trigger's key leads to."""
        return self._by_idempotency_key.get((task, idempotency_key))

    def batch(self, batch_id: str) -> Batch:
        """
        A batch that a write is for.

        Raises:
            BatchNotFound: There is no such batch.
        """
        batch = self._batches.get(batch_id)
        if batch is None:
            raise BatchNotFound(batch_id)
        return batch

    def batch_of_key(self, idempotency_key: str) -> Batch | None:
        """The batch that an idempotency key leads to."""
        for batch in self._batches.values():
            expires = batch.idempotency_expires_at
            if batch.idempotency_key == idempotency_key and expires is not None and expires > self.now:
                return batch
        return None

    def add_batch(self, batch: Batch) -> None:
        """Take up a new batch."""
        self._batches[batch.id] = batch
        self._new_batches.add(batch.id)

    def has_item(self, batch: Batch, item: int) -> bool:
        """Whether a place of a batch is taken."""
        return (batch.id, item) in self._items

    def take_place(self, batch: Batch, item: int, head: Head) -> None:
        """Give a free place of a batch to a run."""
        count = batch.item_count + 1
        self._items.add((batch.id, item))
        self._batches[batch.id] = replace(
            batch,
            item_count=count,
            updated_at=self.now,
            sealed_at=self.now if count == batch.run_count else None,
        )
        self._changed_batches.add(batch.id)
        self._new_items.append(
            {
                "environment_id": self._environment_id,
                "batch_id": batch.id,
                "item_index": item,
                "run_key": head.key,
            }
        )

    def next_run_key(self) -> int:
        """The key of one more run."""
        self._run_key += 1
        return self._run_key

    def add(self, head: Head) -> None:
        """Take up the head of a new run."""
        self._keep_head(head)
        self._new[head.key] = head
        expires = head.idempotency_expires_at
        if head.run.idempotency_key is not None and expires is not None and expires > self.now:
            self._by_idempotency_key[head.run.task, head.run.idempotency_key] = head

    def mark_lived(self, head: Head) -> None:
        """Write more of a head than its metadata: the run took a step in its life."""
        self._lived.add(head.key)

    def replay(self, idempotency: IdempotencyKey) -> Replayed | None:
        """
        What was done when the same request came first, None if it comes first now.

        Raises:
            IdempotencyConflict: The key was used for another request.
        """
        known = self._remembered.get(idempotency.key)
        if known is None:
            return None
        fingerprint, replay = known
        if fingerprint != idempotency.fingerprint:
            raise IdempotencyConflict(idempotency.key)
        return replay

    def refuse_spent(self, one_time: OneTime) -> None:
        """
        Judge whether what lets one write through still does.

        Raises:
            TokenSpent: It did already.
        """
        if one_time.key in self._remembered:
            raise TokenSpent

    def above(self, own: Head, key: int | None) -> Head:
        """The head of a run above *own* by its key; *own* where there is none."""
        return own if key is None else self._heads_by_key[key]

    def refuse_late(self, head: Head, attempt: int, caller: Caller) -> None:
        """
        Judge whether metadata may still be changed.

        Raises:
            LateWrite: The run finished too long ago.
        """
        finished = head.run.finished_at
        if finished is not None and self.now > finished + self.rules.late_write_s * MICROSECONDS:
            late = LateWrite(head.run.id, finished, self.rules.late_write_s)
            self.keep_refusal(head, late, attempt, caller, headers_text(caller))
            raise late

    def record(
        self, head: Head, version: int, events: Sequence[NewEvent], attempt: int, actor: str, headers: str
    ) -> None:
        """Chain *events* to the head's stream, whose last version is *version*."""
        for event in events:
            version += 1
            self._position += 1
            salt = self._salt()
            head.hash = event_hash(
                head.hash,
                self._environment,
                head.run.id,
                version,
                self._position,
                event.type,
                actor,
                attempt,
                event.occurred_at,
                self.now,
                headers,
                commitment(salt, event.data),
            )
            head.unsnapped_bytes += size_bytes(event.data) + EVENT_WEIGHT
            self._events.append(
                {
                    "environment_id": self._environment_id,
                    "position": self._position,
                    "run_key": head.key,
                    "version": version,
                    "type": event.type,
                    "actor": actor,
                    "attempt": attempt,
                    "occurred_at": event.occurred_at,
                    "recorded_at": self.now,
                    "headers": headers,
                    "data": event.data,
                    "salt": salt,
                    "commitment": None,
                    "hash": head.hash,
                }
            )
        if events:
            self._changed[head.key] = head
            self._keep_snapshot(head, version)

    def _salt(self) -> bytes:
        """16 random bytes that no other event has; the system is asked for many of them at once."""
        start = self._salts_used * SALT_BYTES
        if start == len(self._salts):
            self._salts = os.urandom(SALTS_AT_ONCE * SALT_BYTES)
            self._salts_used = start = 0
        self._salts_used += 1
        return self._salts[start : start + SALT_BYTES]

    def _keep_snapshot(self, head: Head, version: int) -> None:
        """Keep the metadata once the events since the last snapshot outweigh it."""
        snapshot = head.run.snapshot
        if snapshot.version != version:  # More of the same request follows.
            return
        if head.unsnapped_bytes < max(snapshot.size_bytes, self.rules.snapshot_floor_bytes):
            return
        head.unsnapped_bytes = 0
        self._snapshots.append(
            {
                "environment_id": self._environment_id,
                "run_key": head.key,
                "version": version,
                "metadata": snapshot.text,
            }
        )

    def keep_refusal(
        self, head: Head, refusal: Refusal | LateWrite, attempt: int, caller: Caller, headers: str
    ) -> None:
        """Note with a run what was refused, by whom and why."""
        too_large = refusal if isinstance(refusal, TooLarge) else None
        self._refusals[head.key].append(
            {
                "environment_id": self._environment_id,
                "run_key": head.key,
                "version": head.run.version,
                "code": refusal.code,
                "reason": str(refusal),
                "key": getattr(refusal, "key", None),
                "size_bytes": too_large and too_large.size_bytes,
                "limit_bytes": too_large and too_large.limit_bytes,
                "actor": caller.actor,
                "attempt": attempt,
                "headers": headers,
                "recorded_at": self.now,
            }
        )

    def remember(self, idempotency: IdempotencyKey, written: Written | WrittenBatch) -> None:
        """Keep what was done for a request that comes again."""
        expires_at = self.now + self.rules.idempotency_s * MICROSECONDS
        self._remember(idempotency.key, idempotency.fingerprint, written, expires_at)

    def spend(self, one_time: OneTime, written: Written | WrittenBatch) -> None:
        """Let nothing more through, as long as it would."""
        self._remember(one_time.key, bytes.fromhex(one_time.digest), written, one_time.expires_at)

    def _remember(
        self, key: str, fingerprint: bytes, written: Written | WrittenBatch, expires_at: Microseconds
    ) -> None:
        if isinstance(written, WrittenBatch):
            replay = Replayed(None, 0, not written.is_cached, (), written.batch.id)
        else:
            head = self._heads[written.run.id]
            replay = Replayed(head.key, written.run.version, written.created, written.unapplied)
        self._remembered[key] = fingerprint, replay
        self._to_remember.append(
            {
                "environment_id": self._environment_id,
                "key": key,
                "fingerprint": fingerprint,
                "status": 201 if replay.created else 200,
                "run_key": replay.run_key,
                "version": replay.version,
                "unapplied": values.dump([_as_json(operation) for operation in replay.unapplied]),
                "expires_at": expires_at,
                "batch_id": replay.batch_id,
            }
        )

    # --- reading and sending ---

    def _read_remembered(self, keys: set[str]) -> None:
        for row in self._rows_in(statements.REMEMBERED, keys):
            if row["expires_at"] <= self.now:
                self._to_forget.append(row["key"])
                continue
            unapplied = values.load(row["unapplied"])
            assert isinstance(unapplied, list)
            self._remembered[row["key"]] = (
                row["fingerprint"],
                Replayed(
                    row["run_key"],
                    row["version"],
                    row["status"] == 201,
                    tuple(UnappliedOperation(**operation) for operation in unapplied),  # type: ignore[arg-type]
                    row["batch_id"],
                ),
            )
        if keys:
            expired = self._rows(statements.EXPIRED_KEYS, now=self.now, count=EXPIRED_KEYS_AT_ONCE)
            self._to_forget = list({*self._to_forget, *(row["key"] for row in expired)})

    def _find_heads(self, run_ids: Iterable[str]) -> None:
        unknown = set()
        for run_id in run_ids:
            head = self._known.get(run_id)
            if head is None:
                unknown.add(run_id)
            else:
                self._keep_stored(head)
        for row in self._rows_in(statements.HEADS, unknown):
            self._keep_stored(read_head(row))

    def _find_above(self, run_ids: Iterable[str]) -> None:
        """The parents and roots of runs that were found."""
        found = [head for run_id in run_ids if (head := self._heads.get(run_id)) is not None]
        self._find_heads(
            {
                run_id
                for head in found
                for run_id in (head.run.parent, head.run.root)
                if run_id is not None and run_id not in self._heads
            }
        )

    def _read_triggers(self, keys: set[str]) -> None:
        for row in self._rows_in(statements.HEADS_BY_IDEMPOTENCY_KEY, keys):
            if row["idempotency_expires_at"] > self.now:
                head = self._heads_by_key.get(row["run_key"])
                if head is None:
                    self._keep_stored(head := read_head(row))
                self._by_idempotency_key.setdefault((row["task"], row["idempotency_key"]), head)

    def _read_batches(self, items: Mapping[str, set[int]], keys: set[str]) -> None:
        for statement, wanted in (
            (statements.BATCHES_BY_IDEMPOTENCY_KEY, keys),
            (statements.BATCHES, set(items)),
        ):
            for row in self._rows_in(statement, wanted):
                self._batches.setdefault(row["batch_id"], read_batch(row))
        for batch_id, places in items.items():
            rows = self._rows(statements.BATCH_ITEMS, batch_id=batch_id, values=values.dump([*places]))
            self._items |= {(batch_id, row["item_index"]) for row in rows}

    def _flush_batches(self) -> None:
        new = [self._batches[batch_id] for batch_id in self._new_batches]
        changed = [self._batches[batch_id] for batch_id in self._changed_batches - self._new_batches]
        self._send(
            statements.ADD_BATCHES, [{"environment_id": self._environment_id, **batch_row(batch)} for batch in new]
        )
        self._send(
            statements.CHANGE_BATCHES,
            [
                {
                    "environment": self._environment_id,
                    "batch": batch.id,
                    "item_count": batch.item_count,
                    "updated_at": batch.updated_at,
                    "sealed_at": batch.sealed_at,
                }
                for batch in changed
            ],
        )
        self._send(statements.ADD_BATCH_ITEMS, self._new_items)

    def _keep_stored(self, head: Head) -> None:
        self._keep_head(head)
        self._tags[head.key] = head.run.tags

    def _keep_head(self, head: Head) -> None:
        self._heads[head.run.id] = head
        self._heads_by_key[head.key] = head

    def _new_tags(self) -> list[dict[str, Any]]:
        """The tags of new runs, and those that the others were given."""
        return [
            row
            for key in {**self._new, **dict.fromkeys(self._lived)}
            if (tags := self._heads_by_key[key].run.tags) != (stored := self._tags.get(key, ()))
            for row in tag_rows(self._environment_id, key, [tag for tag in tags if tag not in stored])
        ]

    def _flush_refusals(self) -> None:
        counts = {
            row["run_key"]: row["count"] for row in self._rows_in(statements.COUNT_REFUSALS, set(self._refusals))
        }
        rows: dict[tuple[int, int], dict[str, Any]] = {}
        for run_key, refusals in self._refusals.items():
            for number, refusal in enumerate(refusals, start=counts.get(run_key, 0) + 1):
                slot = number % REFUSALS_KEPT
                rows[run_key, slot] = {**refusal, "number": number, "slot": slot}
        self._send(
            statements.FREE_REFUSALS,
            [{"environment_id": self._environment_id, "run": run_key, "place": slot} for run_key, slot in rows],
        )
        self._send(statements.ADD_REFUSALS, list(rows.values()))

    def _rows(self, statement: Any, **parameters: Any) -> Sequence[Any]:
        return self._transaction.rows(statement, {"environment_id": self._environment_id, **parameters})

    def _rows_in(self, statement: Any, wanted: set[Any]) -> Sequence[Any]:
        return self._rows(statement, values=values.dump([*wanted])) if wanted else ()

    def _send(self, statement: Any, rows: list[dict[str, Any]]) -> None:
        if rows:
            self._transaction.send(statement, rows)


def headers_text(caller: Caller, source_run: str | None = None, source_attempt: int | None = None) -> str:
    """The headers of an event as compact JSON: who it was for, and the run it came from."""
    if source_run is None and caller.on_behalf_of is None and caller.traceparent is None:
        return "{}"
    headers: JsonObject = {
        "sourceRun": source_run,
        "sourceAttempt": source_attempt,
        "onBehalfOf": caller.on_behalf_of,
        "traceparent": caller.traceparent,
    }
    return values.dump({name: value for name, value in headers.items() if value is not None})


def _as_json(operation: UnappliedOperation) -> JsonObject:
    return {
        "list": operation.list,
        "index": operation.index,
        "key": operation.key,
        "reason": operation.reason,
    }
