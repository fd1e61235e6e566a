"""
One transaction: a group of writes to one environment's log.

The caller's transaction is open when `Group.apply` begins and is committed after `Group.flush`. Between the two no
statement writes: each request is decided against the heads as read, in order, and a refused one leaves nothing
behind. So one bad request never costs its neighbours anything, and no savepoints are needed.

The lock is the first statement, and heads are never trusted across transactions: another process may have written
in between. Refusals wait for the commit too, because they may rest on a neighbour's change.
"""

import os
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol, assert_never

from sqlalchemy import ClauseElement

from ledger import statements
from ledger.chain import GENESIS, SALT_BYTES, commitment, event_hash
from ledger.errors import (
    IdempotencyConflict,
    LateWrite,
    LedgerError,
    RunExists,
    RunNotFound,
    UnknownParent,
    WrongExpectedVersion,
)
from ledger.heads import Head, head_row, metadata_row, new_row, read_head
from ledger.writes import (
    Caller,
    ChangeMetadata,
    ChangeStatus,
    CreateRun,
    Environment,
    ListName,
    Outcome,
    Replayed,
    Rules,
    UnappliedOperation,
    Write,
    Written,
)
from projections import runs, values
from projections.errors import BadTransition, Refusal, TooLarge
from projections.events import NewEvent, RunCreated, RunStatusChanged, new_event
from projections.lifecycle import decide_status
from projections.operations import Operation
from projections.size import size_bytes
from projections.snapshot import Decision, Snapshot, check, decide
from projections.times import Microseconds
from projections.values import JsonObject

EVENT_WEIGHT = 100  # bytes that an event takes beside its data, as the snapshot rule counts
REFUSALS_KEPT = 100  # refusals of a run that are kept
EXPIRED_KEYS_AT_ONCE = 200  # expired idempotency keys that a group clears away
MICROSECONDS = 1_000_000


class Transaction(Protocol):
    """An open write transaction of an engine."""

    def rows(self, statement: ClauseElement, parameters: Mapping[str, Any]) -> Sequence[Any]:
        """All rows of a statement, by column name."""

    def send(self, statement: ClauseElement, rows: Sequence[Mapping[str, Any]]) -> None:
        """Run a statement once for each of *rows*."""


_Refused = Refusal | LateWrite
_Target = tuple[ListName, Sequence[Operation]]


def commit_group(
    transaction: Transaction,
    environment: Environment,
    writes: Sequence[Write],
    rules: Rules,
    now: Microseconds,
) -> list[Outcome | Exception]:
    """
    Carry out *writes* in order within *transaction*.

    Args:
        transaction: Open, and has sent nothing yet.
        environment: The environment that all of them belong to.
        writes: At least one.
        rules: Limits and windows.
        now: The clock; what is recorded is never earlier than what was recorded before.

    Returns:
        For each write what was done, or the error to raise to its caller. True only once committed.
    """
    group = Group(transaction, environment, rules, now)
    group.read(writes)
    outcomes: list[Outcome | Exception] = []
    for write in writes:
        try:
            outcomes.append(group.apply(write))
        except (LedgerError, Refusal) as error:
            outcomes.append(error)
    group.flush()
    return outcomes


class Group:
    """The state of one transaction."""

    def __init__(
        self, transaction: Transaction, environment: Environment, rules: Rules, now: Microseconds
    ) -> None:
        self._transaction = transaction
        self._environment_id = environment.id
        self._environment = environment.name
        self._rules = rules
        log = self._rows(statements.LOCK_LOG)[0]
        self._position: int = log["last_position"]
        self._run_key: int = log["last_run_key"]
        self._now = max(now, log["last_recorded_at"])

        self._heads: dict[str, Head] = {}
        self._heads_by_key: dict[int, Head] = {}
        self._by_idempotency_key: dict[tuple[str, str], Head] = {}
        self._remembered: dict[str, tuple[bytes, Replayed]] = {}

        self._new: dict[int, Head] = {}
        self._changed: dict[int, Head] = {}
        self._lived: set[int] = set()
        self._events: list[dict[str, Any]] = []
        self._snapshots: list[dict[str, Any]] = []
        self._refusals: dict[int, list[dict[str, Any]]] = defaultdict(list)
        self._to_remember: list[dict[str, Any]] = []
        self._to_forget: list[str] = []

    def read(self, writes: Iterable[Write]) -> None:
        """Read once what all of *writes* need."""
        keys: set[str] = set()
        run_ids: set[str] = set()
        triggers: set[str] = set()
        upwards: set[str] = set()
        for write in writes:
            command = write.command
            run_ids.add(command.run_id)
            if write.idempotency is not None:
                keys.add(write.idempotency.key)
            if isinstance(command, CreateRun):
                if command.parent is not None:
                    run_ids.add(command.parent)
                    upwards.add(command.parent)  # The new run's root is its parent's.
                if command.idempotency_key is not None:
                    triggers.add(command.idempotency_key)
            elif isinstance(command, ChangeMetadata) and (command.parent_operations or command.root_operations):
                upwards.add(command.run_id)
        self._read_remembered(keys)
        self._read_heads(statements.HEADS, run_ids)
        above = {
            key
            for run_id in upwards
            if (head := self._heads.get(run_id)) is not None
            for key in (head.parent_key, head.root_key)
            if key is not None and key not in self._heads_by_key
        }
        self._read_heads(statements.HEADS_BY_KEY, above)
        self._read_triggers(triggers)

    def apply(self, write: Write) -> Outcome:
        """Decide one write and keep what it changes; on an error nothing of it is kept but the refusal."""
        if write.idempotency is not None:
            known = self._remembered.get(write.idempotency.key)
            if known is not None:
                fingerprint, replay = known
                if fingerprint != write.idempotency.fingerprint:
                    raise IdempotencyConflict(write.idempotency.key)
                return replay
        match write.command:
            case CreateRun() as command:
                written = self._create(command, write.caller)
            case ChangeMetadata() as command:
                written = self._change_metadata(command, write.caller)
            case ChangeStatus() as command:
                written = self._change_status(command, write.caller)
            case _:
                assert_never(write.command)
        if write.idempotency is not None:
            self._remember(write.idempotency.key, write.idempotency.fingerprint, written)
        return written

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
        send(statements.ADD_EVENTS, self._events)
        send(statements.ADD_SNAPSHOTS, self._snapshots)
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
                "last_recorded_at": self._now,
            }
            send(statements.ADVANCE_LOG, [log])

    # --- commands ---

    def _create(self, command: CreateRun, caller: Caller) -> Written:
        if command.idempotency_key is not None:
            earlier = self._by_idempotency_key.get((command.task, command.idempotency_key))
            if earlier is not None:
                return Written(earlier.run)
        existing = self._heads.get(command.run_id)
        if existing is not None:
            if (existing.run.task, existing.run.parent) != (command.task, command.parent):
                raise RunExists(command.run_id, existing.run.task, existing.run.parent)
            return Written(existing.run)
        parent = None if command.parent is None else self._heads.get(command.parent)
        if command.parent is not None and parent is None:
            raise UnknownParent(command.parent)
        snapshot = Snapshot.of(command.metadata, 1)
        try:
            check(snapshot, self._rules.metadata_bytes_max)
        except Refusal as refusal:
            refusal.run_id = command.run_id
            raise
        body = RunCreated(
            task=command.task,
            parent=None if parent is None else parent.run.id,
            root=None if parent is None else parent.run.root or parent.run.id,
            batch=command.batch,
            tags=command.tags,
            status=command.status,
            idempotency_key=command.idempotency_key,
            payload=command.payload,
            payload_type=command.payload_type,
            metadata=snapshot.metadata,
        )
        self._run_key += 1
        head = Head(
            key=self._run_key,
            run=runs.created(command.run_id, body, snapshot, command.attempt, self._now),
            parent_key=None if parent is None else parent.key,
            root_key=None if parent is None else parent.root_key or parent.key,
            depth=0 if parent is None else parent.depth + 1,
            hash=GENESIS,
            unsnapped_bytes=0,
            idempotency_expires_at=None
            if command.idempotency_key is None
            else self._now + command.idempotency_ttl_s * MICROSECONDS,
        )
        self._keep_head(head)
        self._new[head.key] = head
        if command.idempotency_key is not None and command.idempotency_ttl_s > 0:
            self._by_idempotency_key[command.task, command.idempotency_key] = head
        self._record(head, 0, [new_event(body)], command.attempt, caller.actor, _headers(caller))
        return Written(head.run, created=True)

    def _change_metadata(self, command: ChangeMetadata, caller: Caller) -> Written:
        own = self._named(command.run_id, command.expected)
        attempt = command.attempt or own.run.attempt
        self._refuse_late(own, attempt, caller)
        lists: list[tuple[int | None, _Target]] = [
            (own.key, ("operations", command.operations)),
            (own.parent_key, ("parentOperations", command.parent_operations)),
            (own.root_key, ("rootOperations", command.root_operations)),
        ]
        by_head: dict[int, tuple[Head, list[_Target]]] = {}
        for key, target in lists:
            if target[1]:  # Parent and root were read only if there is something to do to them.
                head = self._above(own, key)
                by_head.setdefault(head.key, (head, []))[1].append(target)
        decided = [
            (head, targets, self._decide(head, targets, own, attempt, caller))
            for head, targets in by_head.values()
        ]
        unapplied: list[UnappliedOperation] = []
        for head, targets, decision in decided:
            self._keep_decision(head, targets, decision, own, attempt, caller)
            unapplied += _unapplied(targets, decision)
        return Written(own.run, unapplied=tuple(unapplied))

    def _decide(self, head: Head, targets: list[_Target], own: Head, attempt: int, caller: Caller) -> Decision:
        operations = [operation for _, listed in targets for operation in listed]
        try:
            return decide(head.run.snapshot, operations, self._rules.metadata_bytes_max)
        except Refusal as refusal:
            refusal.run_id = head.run.id
            if refusal.index is not None:
                refusal.list, refusal.index = _place(targets, refusal.index)
            self._keep_refusal(own, refusal, attempt, caller, _headers(caller))
            if head is not own:
                self._keep_refusal(head, refusal, head.run.attempt, caller, _headers(caller, own.run.id, attempt))
            raise

    def _keep_decision(
        self,
        head: Head,
        targets: list[_Target],
        decision: Decision,
        own: Head,
        attempt: int,
        caller: Caller,
    ) -> None:
        """Record the events of each list under the headers that say where they came from."""
        skipped = {unapplied.index for unapplied in decision.unapplied}
        events = iter(decision.events)
        before = head.run.version
        head.run = runs.changed(head.run, decision.snapshot, self._now)
        start = 0
        for name, operations in targets:
            end = start + len(operations)
            applied = [next(events) for index in range(start, end) if index not in skipped]
            start = end
            is_own = name == "operations"
            headers = _headers(caller) if is_own else _headers(caller, own.run.id, attempt)
            by = attempt if head is own else head.run.attempt
            self._record(head, before, applied, by, caller.actor, headers)
            before += len(applied)

    def _change_status(self, command: ChangeStatus, caller: Caller) -> Written:
        head = self._named(command.run_id, command.expected)
        run = head.run
        attempt = command.attempt or run.attempt
        try:
            changes = decide_status(run.status, run.attempt, command.status, attempt)
        except BadTransition as refusal:
            refusal.run_id = run.id
            self._keep_refusal(head, refusal, attempt, caller, _headers(caller))
            raise
        if changes:
            body = RunStatusChanged(status=command.status, output=command.output, error=command.error)
            head.run = runs.status_changed(run, body, attempt, self._now)
            self._lived.add(head.key)
            self._record(head, run.version, [new_event(body)], attempt, caller.actor, _headers(caller))
        return Written(head.run)

    # --- what every command needs ---

    def _named(self, run_id: str, expected: frozenset[int] | None) -> Head:
        head = self._heads.get(run_id)
        if head is None:
            raise RunNotFound(run_id)
        if expected is not None and head.run.version not in expected:
            raise WrongExpectedVersion(run_id, expected, head.run.version)
        return head

    def _above(self, own: Head, key: int | None) -> Head:
        return own if key is None else self._heads_by_key[key]

    def _refuse_late(self, head: Head, attempt: int, caller: Caller) -> None:
        finished = head.run.finished_at
        if finished is not None and self._now > finished + self._rules.late_write_s * MICROSECONDS:
            late = LateWrite(head.run.id, finished, self._rules.late_write_s)
            self._keep_refusal(head, late, attempt, caller, _headers(caller))
            raise late

    def _record(
        self, head: Head, version: int, events: Sequence[NewEvent], attempt: int, actor: str, headers: str
    ) -> None:
        """Chain *events* to the head's stream, whose last version is *version*."""
        salts = os.urandom(SALT_BYTES * len(events))
        for index, event in enumerate(events):
            version += 1
            self._position += 1
            salt = salts[SALT_BYTES * index : SALT_BYTES * (index + 1)]
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
                self._now,
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
                    "recorded_at": self._now,
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

    def _keep_snapshot(self, head: Head, version: int) -> None:
        """Keep the metadata once the events since the last snapshot outweigh it."""
        snapshot = head.run.snapshot
        if snapshot.version != version:  # More of the same request follows.
            return
        if head.unsnapped_bytes < max(snapshot.size_bytes, self._rules.snapshot_floor_bytes):
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

    def _keep_refusal(self, head: Head, refusal: _Refused, attempt: int, caller: Caller, headers: str) -> None:
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
                "recorded_at": self._now,
            }
        )

    def _remember(self, key: str, fingerprint: bytes, written: Written) -> None:
        head = self._heads[written.run.id]
        replay = Replayed(head.key, written.run.version, written.created, written.unapplied)
        self._remembered[key] = fingerprint, replay
        self._to_remember.append(
            {
                "environment_id": self._environment_id,
                "key": key,
                "fingerprint": fingerprint,
                "status": 201 if written.created else 200,
                "run_key": head.key,
                "version": written.run.version,
                "unapplied": values.dump([_as_json(operation) for operation in written.unapplied]),
                "expires_at": self._now + self._rules.idempotency_s * MICROSECONDS,
            }
        )

    # --- reading and sending ---

    def _read_remembered(self, keys: set[str]) -> None:
        for row in self._rows_in(statements.REMEMBERED, keys):
            if row["expires_at"] <= self._now:
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
                ),
            )
        if keys:
            expired = self._rows(statements.EXPIRED_KEYS, now=self._now, count=EXPIRED_KEYS_AT_ONCE)
            self._to_forget = list({*self._to_forget, *(row["key"] for row in expired)})

    def _read_heads(self, statement: Any, wanted: set[Any]) -> None:
        for row in self._rows_in(statement, wanted):
            self._keep_head(read_head(row))

    def _read_triggers(self, keys: set[str]) -> None:
        for row in self._rows_in(statements.HEADS_BY_IDEMPOTENCY_KEY, keys):
            if row["idempotency_expires_at"] > self._now:
                head = self._heads_by_key.get(row["run_key"]) or read_head(row)
                self._keep_head(head)
                self._by_idempotency_key.setdefault((row["task"], row["idempotency_key"]), head)

    def _keep_head(self, head: Head) -> None:
        self._heads[head.run.id] = head
        self._heads_by_key[head.key] = head

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


def _headers(caller: Caller, source_run: str | None = None, source_attempt: int | None = None) -> str:
    if source_run is None and caller.on_behalf_of is None and caller.traceparent is None:
        return "{}"
    headers: JsonObject = {
        "sourceRun": source_run,
        "sourceAttempt": source_attempt,
        "onBehalfOf": caller.on_behalf_of,
        "traceparent": caller.traceparent,
    }
    return values.dump({name: value for name, value in headers.items() if value is not None})


def _place(targets: list[_Target], index: int) -> tuple[ListName, int]:
    """The list, and the place in it, of an operation counted over all *targets*."""
    for name, operations in targets:
        if index < len(operations):
            return name, index
        index -= len(operations)
    raise AssertionError("an operation outside its request")


def _unapplied(targets: list[_Target], decision: Decision) -> list[UnappliedOperation]:
    return [
        UnappliedOperation(*_place(targets, operation.index), operation.key, operation.reason)
        for operation in decision.unapplied
    ]


def _as_json(operation: UnappliedOperation) -> JsonObject:
    return {
        "list": operation.list,
        "index": operation.index,
        "key": operation.key,
        "reason": operation.reason,
    }
