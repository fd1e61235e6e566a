"""
One transaction: what a group of writes asks for is decided in order, against the heads as they were read.

No statement writes before all is decided, and a refused request leaves nothing behind but its refusal. So one bad
request never costs its neighbours anything, and no savepoints are needed. Refusals wait for the commit too: they
may rest on a neighbour's change.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple, assert_never

from ledger.chain import GENESIS
from ledger.errors import AlreadyFinished, BatchUnfinished, LedgerError, NoSuchPlace, RunExists, UnknownParent
from ledger.group import MICROSECONDS, Group, Recorded, Transaction, headers_text
from ledger.heads import Head
from ledger.known_heads import KnownHeads
from ledger.writes import (
    Batch,
    Caller,
    ChangeMetadata,
    ChangeStatus,
    CreateBatch,
    CreateRun,
    Environment,
    EraseKey,
    KnownItem,
    ListName,
    Outcome,
    Rules,
    TagRun,
    UnappliedOperation,
    Write,
    Written,
    WrittenBatch,
)
from projections import runs
from projections.errors import BadTransition, OutOfBounds, Refusal
from projections.events import NewEvent, RunCreated, RunStatusChanged, RunTagged, new_event
from projections.lifecycle import decide_status
from projections.operations import Operation
from projections.size import TAGS_MAX
from projections.snapshot import Decision, Snapshot, check, decide
from projections.times import Microseconds

_Target = tuple[ListName, Sequence[Operation]]


class Committed(NamedTuple):
    """
    What a transaction did, true only once it is committed.

    Attributes:
        outcomes: For each write what was done, or the error to raise to its caller.
        recorded: What was appended to the log.
    """

    outcomes: list[Outcome | Exception]
    recorded: Recorded


def commit_group(
    transaction: Transaction,
    environment: Environment,
    writes: Sequence[Write],
    rules: Rules,
    clock: Callable[[], Microseconds] | None,
    known: KnownHeads | None = None,
) -> Committed:
    """
    Carry out *writes* in order within *transaction*.

    Args:
        transaction: Open, and has sent nothing yet.
        environment: The environment that all of them belong to.
        writes: At least one.
        rules: Limits and windows.
        clock: Microseconds since 1970-01-01 UTC, the transaction's own by default; what is recorded is never
            earlier than what was recorded before.
        known: Heads that earlier groups left behind, to be confirmed after the commit; None to read all anew.

    Returns:
        What was done; true only once committed.
    """
    group = Group(transaction, environment, rules, clock, known)
    group.read(writes)
    outcomes: list[Outcome | Exception] = []
    for write in writes:
        try:
            outcomes.append(_apply(group, write))
        except (LedgerError, Refusal) as error:
            outcomes.append(error)
    group.flush()
    return Committed(outcomes, group.recorded)


def _apply(group: Group, write: Write) -> Outcome:
    """Decide one write and keep what it changes; on an error nothing of it is kept but the refusal."""
    if write.idempotency is not None:
        replay = group.replay(write.idempotency)
        if replay is not None:
            return replay
    if write.one_time is not None:
        group.refuse_spent(write.one_time)
    written: Written | WrittenBatch
    match write.command:
        case CreateRun(batch=str(), item=int()) as command:
            return _create_item(group, command, write.caller)
        case CreateRun() as command:
            written = _create(group, command, write.caller)
        case CreateBatch() as command:
            written = _create_batch(group, command)
        case ChangeMetadata() as command:
            written = _change_metadata(group, command, write.caller)
        case ChangeStatus() as command:
            written = _change_status(group, command, write.caller)
        case TagRun() as command:
            written = _tag(group, command, write.caller)
        case EraseKey():
            raise AssertionError("an erasure is no part of a group")
        case _:
            assert_never(write.command)
    if write.idempotency is not None:
        group.remember(write.idempotency, written)
    if write.one_time is not None:
        group.spend(write.one_time, written)
    return written


def _create_batch(group: Group, command: CreateBatch) -> WrittenBatch:
    if command.idempotency_key is not None:
        earlier = group.batch_of_key(command.idempotency_key)
        if earlier is not None:
            # One that lacks runs is not done: whoever asks again is to send them, or they would never come.
            if not earlier.is_sealed and earlier.run_count != command.run_count:
                raise BatchUnfinished(earlier.id, earlier.run_count, earlier.item_count)
            return WrittenBatch(earlier, is_cached=earlier.is_sealed)
    expires_at = None if command.idempotency_key is None else group.now + command.idempotency_ttl_s * MICROSECONDS
    batch = Batch(
        id=command.batch_id,
        run_count=command.run_count,
        item_count=0,
        idempotency_key=command.idempotency_key,
        idempotency_expires_at=expires_at,
        created_at=group.now,
        updated_at=group.now,
        sealed_at=None,
    )
    group.add_batch(batch)
    return WrittenBatch(batch, is_cached=False)


def _create_item(group: Group, command: CreateRun, caller: Caller) -> Written | KnownItem:
    """Create a run in a place of a batch, or nothing where the place is taken."""
    assert command.batch is not None
    assert command.item is not None
    batch = group.batch(command.batch)
    if group.has_item(batch, command.item):
        return KnownItem()
    if command.item >= batch.run_count:
        raise NoSuchPlace(batch.id, command.item, batch.run_count)
    written = _create(group, command, caller)
    run = written.run
    if not written.created and command.may_take is not None and not command.may_take(run.task, run.tags):
        raise RunExists(run.id, run.task, run.parent)
    head = group.found(run.id)
    assert head is not None
    group.take_place(batch, command.item, head)
    return written


def _create(group: Group, command: CreateRun, caller: Caller) -> Written:
    if command.idempotency_key is not None:
        earlier = group.triggered(command.task, command.idempotency_key)
        if earlier is not None:
            return Written(earlier.run)
    existing = group.found(command.run_id)
    if existing is not None:
        if (existing.run.task, existing.run.parent) != (command.task, command.parent):
            raise RunExists(command.run_id, existing.run.task, existing.run.parent)
        return Written(existing.run)
    parent = None if command.parent is None else group.found(command.parent)
    if command.parent is not None and parent is None:
        raise UnknownParent(command.parent)
    snapshot = Snapshot.of(command.metadata, 1)
    try:
        check(snapshot, group.rules.metadata_bytes_max)
    except Refusal as refusal:
        refusal.run_id = command.run_id
        raise
    expires_at = None if command.idempotency_key is None else group.now + command.idempotency_ttl_s * MICROSECONDS
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
        idempotency_expires_at=expires_at,
        idempotency_key_options=command.idempotency_key_options,
    )
    head = Head(
        key=group.next_run_key(),
        run=runs.created(command.run_id, body, snapshot, command.attempt, group.now),
        parent_key=None if parent is None else parent.key,
        root_key=None if parent is None else parent.root_key or parent.key,
        depth=0 if parent is None else parent.depth + 1,
        hash=GENESIS,
        unsnapped_bytes=0,
        idempotency_expires_at=expires_at,
    )
    group.add(head)
    group.record(head, 0, [new_event(body)], command.attempt, caller.actor, headers_text(caller))
    return Written(head.run, created=True)


def _change_metadata(group: Group, command: ChangeMetadata, caller: Caller) -> Written:
    own = group.named(command.run_id, command.expected)
    attempt = command.attempt or own.run.attempt
    group.refuse_late(own, attempt, caller)
    by_head: dict[int, tuple[Head, list[_Target]]] = {}
    if command.operations:
        by_head[own.key] = own, [("operations", command.operations)]
    upwards: tuple[tuple[int | None, _Target], ...] = (
        (own.parent_key, ("parentOperations", command.parent_operations)),
        (own.root_key, ("rootOperations", command.root_operations)),
    )
    for key, target in upwards:
        if target[1]:  # Parent and root were read only if there is something to do to them.
            head = group.above(own, key)
            by_head.setdefault(head.key, (head, []))[1].append(target)
    decided = [
        (head, targets, _decide(group, head, targets, own, attempt, caller)) for head, targets in by_head.values()
    ]
    unapplied: list[UnappliedOperation] = []
    for head, targets, decision in decided:
        _keep_decision(group, head, targets, decision, own, attempt, caller)
        unapplied += _unapplied(targets, decision)
    return Written(own.run, unapplied=tuple(unapplied))


def _decide(group: Group, head: Head, targets: list[_Target], own: Head, attempt: int, caller: Caller) -> Decision:
    operations: Sequence[Operation] = targets[0][1]
    if len(targets) > 1:
        operations = [operation for _, listed in targets for operation in listed]
    try:
        return decide(head.run.snapshot, operations, group.rules.metadata_bytes_max)
    except Refusal as refusal:
        refusal.run_id = head.run.id
        if refusal.index is not None:
            refusal.list, refusal.index = _place(targets, refusal.index)
        group.keep_refusal(own, refusal, attempt, caller, headers_text(caller))
        if head is not own:
            group.keep_refusal(head, refusal, head.run.attempt, caller, headers_text(caller, own.run.id, attempt))
        raise


def _keep_decision(
    group: Group,
    head: Head,
    targets: list[_Target],
    decision: Decision,
    own: Head,
    attempt: int,
    caller: Caller,
) -> None:
    """Record the events of each list under the headers that say where they came from."""
    before = head.run.version
    if decision.events:
        head.run = runs.changed(head.run, decision.snapshot, group.now)
    for name, applied in _by_list(targets, decision):
        is_own = name == "operations"
        headers = headers_text(caller) if is_own else headers_text(caller, own.run.id, attempt)
        by = attempt if head is own else head.run.attempt
        group.record(head, before, applied, by, caller.actor, headers)
        before += len(applied)


def _by_list(targets: list[_Target], decision: Decision) -> Iterator[tuple[ListName, Sequence[NewEvent]]]:
    """The events of each list that was asked for."""
    if len(targets) == 1:
        yield targets[0][0], decision.events
        return
    skipped = {unapplied.index for unapplied in decision.unapplied}
    events = iter(decision.events)
    start = 0
    for name, operations in targets:
        end = start + len(operations)
        yield name, [next(events) for index in range(start, end) if index not in skipped]
        start = end


def _change_status(group: Group, command: ChangeStatus, caller: Caller) -> Written:
    head = group.named(command.run_id, command.expected)
    run = head.run
    if command.unless_finished and run.status.is_finished:
        return Written(run)
    attempt = command.attempt or run.attempt
    try:
        changes = decide_status(run.status, run.attempt, command.status, attempt)
    except BadTransition as refusal:
        refusal.run_id = run.id
        group.keep_refusal(head, refusal, attempt, caller, headers_text(caller))
        raise
    unapplied: tuple[UnappliedOperation, ...] = ()
    if command.last_change is not None:
        if not changes:  # The end was reported before, and this change most likely with it.
            raise AlreadyFinished(run.id, run.finished_at or run.updated_at)
        unapplied = _change_metadata(group, replace(command.last_change, attempt=attempt), caller).unapplied
        run = head.run
    if changes:
        body = RunStatusChanged(status=command.status, output=command.output, error=command.error)
        head.run = runs.status_changed(run, body, attempt, group.now)
        group.mark_lived(head)
        group.record(head, run.version, [new_event(body)], attempt, caller.actor, headers_text(caller))
    return Written(head.run, unapplied=unapplied)


def _tag(group: Group, command: TagRun, caller: Caller) -> Written:
    head = group.named(command.run_id, command.expected)
    run = head.run
    body = RunTagged(tags=tuple(tag for tag in dict.fromkeys(command.tags) if tag not in run.tags))
    if len(run.tags) + len(body.tags) > TAGS_MAX:
        refusal = OutOfBounds(
            None,
            f"a run has at most {TAGS_MAX} tags; this one has {len(run.tags)}, and {len(body.tags)} new ones came",
            TAGS_MAX,
        )
        refusal.run_id = run.id
        group.keep_refusal(head, refusal, run.attempt, caller, headers_text(caller))
        raise refusal
    if body.tags:
        head.run = runs.tagged(run, body, group.now)
        group.mark_lived(head)
        group.record(head, run.version, [new_event(body)], run.attempt, caller.actor, headers_text(caller))
    return Written(head.run)


def _place(targets: list[_Target], index: int) -> tuple[ListName, int]:
    """The list, and the place in it, of an operation counted over all *targets*."""
    for name, operations in targets:
        if index < len(operations):
            return name, index
        index -= len(operations)
    raise AssertionError("an operation outside its request")


def _unapplied(targets: list[_Target], decision: Decision) -> list[UnappliedOperation]:
    if not decision.unapplied:
        return []
    return [
        UnappliedOperation(*_place(targets, operation.index), operation.key, operation.reason)
        for operation in decision.unapplied
    ]
