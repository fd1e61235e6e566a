"""
Erasure: the one change of what was recorded, and it leaves a record.

For every event that holds something of the path, the stored data becomes a redacted copy under a new salt. The
commitment to the first data stays, so the chain still verifies, and the chained `run.erased` names each redacted
copy by its own commitment. Head, snapshots, refusals and remembered requests follow in the same transaction.
"""

import os
from collections.abc import Callable, Iterator
from typing import Any

from pydantic import JsonValue

from ledger import statements
from ledger.chain import SALT_BYTES, commitment
from ledger.commit import Committed
from ledger.errors import NothingToErase, Unsound
from ledger.group import Group, Transaction, headers_text
from ledger.heads import Head
from ledger.refold import Refold, read_event
from ledger.verify import verify_run
from ledger.writes import Caller, Environment, EraseKey, IdempotencyKey, Rules, Write, Written
from projections import runs, values
from projections.erasure import Cut, erased_key, find_cuts, redact
from projections.events import Event, RunErased, new_event
from projections.times import Microseconds

CHUNK = 100  # events that are held in memory at once; each may be as large as a request
REDACTED_MAX = 1_000  # redacted events that one run.erased names, some 75 bytes each


def erase(
    transaction: Transaction,
    environment: Environment,
    command: EraseKey,
    caller: Caller,
    idempotency: IdempotencyKey | None,
    rules: Rules,
    clock: Callable[[], Microseconds] | None,
) -> Committed:
    """
    Carry out an erasure within *transaction*, which has sent nothing yet; once, however often it is asked for
    under one idempotency key.

    Returns:
        What was done; true only once committed.

    Raises:
        RunNotFound: There is no such run.
        WrongExpectedVersion: It has none of the versions that were expected.
        NothingToErase: Nothing ever stood at the path; the transaction is to be rolled back.
        IdempotencyConflict: The key was used for another request.
        Unsound: The run does not verify. To fold it anew would cover up what was done to it.
    """
    group = Group(transaction, environment, rules, clock)
    group.read([Write(command, caller, idempotency)])
    if idempotency is not None and (replay := group.replay(idempotency)) is not None:
        return Committed([replay], group.recorded)
    head = group.named(command.run_id, command.expected)
    _, report = verify_run(transaction, environment.id, environment.name, command.run_id)
    if not report.is_sound:
        raise Unsound(str(report.faults[0]))
    run = _Run(transaction, environment.id, head)
    cuts = find_cuts(command.path, run.events())
    if not cuts:
        raise NothingToErase(command.run_id, str(command.path))
    number = run.open_erasure(command, caller.actor, group.now)
    redacted, fold = run.redact(cuts)
    if not redacted:
        raise NothingToErase(command.run_id, str(command.path))
    notes = [
        new_event(
            RunErased(
                erasure=number,
                key=str(command.path),
                path=command.path.names,
                reason=command.reason,
                redacted=tuple(some),
            )
        )
        for some in (redacted[start : start + REDACTED_MAX] for start in range(0, len(redacted), REDACTED_MAX))
    ]
    version = head.run.version
    snapshot = fold.snapshot()._replace(version=version + len(notes))
    head.run = runs.changed(head.run, snapshot, group.now)
    head.unsnapped_bytes = fold.unsnapped_bytes
    group.record(head, version, notes, head.run.attempt, caller.actor, headers_text(caller))
    written = Written(head.run, redacted=len(redacted))
    if idempotency is not None:
        group.remember(idempotency, written)
    group.flush()
    run.clean_refusals(command)
    run.clean_remembered(command)
    run.close_erasure(number)
    return Committed([written], group.recorded)


class _Run:
    """The stored rows of the run that something is erased from."""

    def __init__(self, transaction: Transaction, environment_id: int, head: Head) -> None:
        self._transaction = transaction
        self._head = head
        self._where = {"environment_id": environment_id, "run_key": head.key}
        self._named = {"environment": environment_id, "run": head.key}

    def events(self) -> Iterator[Event]:
        """All events in order."""
        for row in self._transaction.stream(statements.ONE_RUNS_EVENTS, self._where):
            yield read_event(row, self._head.run.id)

    def open_erasure(self, command: EraseKey, actor: str, now: Microseconds) -> int:
        """Let the triggers pass what follows. Returns the number of the erasure."""
        number = int(self._transaction.rows(statements.COUNT_ERASURES, self._where)[0]["count"]) + 1
        erasure = {
            **self._where,
            "number": number,
            "key": str(command.path),
            "reason": command.reason,
            "actor": actor,
            "recorded_at": now,
            "open": -1,
        }
        self._transaction.send(statements.OPEN_ERASURE, [erasure])
        return number

    def close_erasure(self, number: int) -> None:
        """Nothing more may pass."""
        self._transaction.send(statements.CLOSE_ERASURE, [{**self._named, "which": number}])

    def redact(self, cuts: dict[int, Cut]) -> tuple[list[tuple[int, str]], Refold]:
        """
        Put redacted copies in the place of events, and what they fold to in the place of snapshots.

        Returns:
            The version and new commitment of each redacted event, and the run folded anew.
        """
        kept = {row["version"] for row in self._transaction.stream(statements.ONE_RUNS_SNAPSHOTS, self._where)}
        first_cut = min(cuts)
        redacted: list[tuple[int, str]] = []
        fold = Refold()
        for rows in self._chunks():
            copies = []
            for row in rows:
                data = row["data"]
                cut = cuts.get(row["version"])
                if cut is not None and (copy := redact(row["type"], data, cut)) != data:
                    salt = os.urandom(SALT_BYTES)
                    first = row["commitment"] or commitment(row["salt"], data)
                    copies.append(
                        {
                            "environment": self._named["environment"],
                            "at": row["position"],
                            "data": copy,
                            "salt": salt,
                            "commitment": first,
                        }
                    )
                    redacted.append((row["version"], commitment(salt, copy).hex()))
                    data = copy
                fold.take(read_event({**row, "data": data}, self._head.run.id))
                if row["version"] in kept:
                    fold.keep()
                    if row["version"] >= first_cut:
                        self._change_snapshot(row["version"], fold.snapshot().text)
            if copies:
                self._transaction.send(statements.REDACT_EVENT, copies)
        return redacted, fold

    def clean_refusals(self, command: EraseKey) -> None:
        """Refusals hold no values, but names below the path, which may tell as much."""
        changed = []
        for row in self._transaction.rows(statements.REFUSALS, self._where):
            key = None if row["key"] is None else erased_key(command.path, row["key"])
            if key is not None:
                reason = f"key {key!r}: what was refused below it was erased"
                changed.append({**self._named, "place": row["slot"], "key": key, "reason": reason})
        if changed:
            self._transaction.send(statements.CHANGE_REFUSAL, changed)

    def clean_remembered(self, command: EraseKey) -> None:
        """The same for operations that did not apply, as they are told again to a request that is repeated."""
        lists = {"operations"}
        if self._head.parent_key is None:
            lists |= {"parentOperations", "rootOperations"}
        changed = []
        for row in self._transaction.rows(statements.UNAPPLIED, self._where):
            listed = values.load(row["unapplied"])
            assert isinstance(listed, list)
            cleaned: list[JsonValue] = [_cleaned(one, command, lists) for one in listed]
            if cleaned != listed:
                changed.append(
                    {
                        "environment": self._named["environment"],
                        "remembered": row["key"],
                        "unapplied": values.dump(cleaned),
                    }
                )
        if changed:
            self._transaction.send(statements.CHANGE_UNAPPLIED, changed)

    def _change_snapshot(self, version: int, metadata: str) -> None:
        self._transaction.send(statements.CHANGE_SNAPSHOT, [{**self._named, "at": version, "metadata": metadata}])

    def _chunks(self) -> Iterator[list[dict[str, Any]]]:
        """All events in order, so that none is being read while it is changed."""
        after = 0
        last = self._head.run.version
        while after < last:
            rows = self._transaction.rows(
                statements.STORED_EVENTS, {**self._where, "after": after, "last": last, "count": CHUNK}
            )
            yield [dict(row) for row in rows]
            after = rows[-1]["version"]


def _cleaned(one: JsonValue, command: EraseKey, lists: set[str]) -> JsonValue:
    assert isinstance(one, dict)
    key = erased_key(command.path, str(one["key"])) if one["list"] in lists else None
    return one if key is None else {**one, "key": key, "reason": "what was asked for below it was erased"}
