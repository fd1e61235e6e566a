"""What the tests of the ledger share: a clock that is set by hand, short ways to write, and a look at the rows."""

import json
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ledger.faults import Report
from ledger.ledger import Ledger
from ledger.log import Changed, Created, Log, Moved
from ledger.sqlite import file_faults, inspect_file
from ledger.verify import verify_all
from ledger.writes import NOBODY, Caller, ChangeMetadata, ChangeStatus, CreateRun, IdempotencyKey
from projections.errors import Refusal
from projections.events import Event
from projections.lifecycle import Status
from projections.operations import Operation
from projections.paths import Path as KeyPath

SECOND = 1_000_000  # microseconds
START = 1_800_000_000 * SECOND
ALL = 1_000_000  # more events than any test writes


class Clock:
    """Stands still until it is told otherwise."""

    def __init__(self, now: int = START) -> None:
        self.now = now

    def __call__(self) -> int:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += round(seconds * SECOND)


@dataclass(frozen=True)
class Database:
    """A database that a test may look into."""

    path: Path

    @property
    def url(self) -> str:
        return f"sqlite+aiosqlite:///{self.path}"

    def rows(self, statement: str, parameters: Sequence[object] = ()) -> list[dict[str, Any]]:
        with closing(sqlite3.connect(self.path)) as connection:
            connection.row_factory = sqlite3.Row
            return [dict(row) for row in connection.execute(statement, parameters)]

    def value(self, statement: str, parameters: Sequence[object] = ()) -> Any:
        (row,) = self.rows(statement, parameters)
        (value,) = row.values()
        return value

    def counts(self) -> dict[str, int]:
        """Rows of every table that a write may touch."""
        tables = ("runs", "events", "snapshots", "refusals", "idempotency")
        return {table: self.value(f"SELECT count(*) FROM {table}") for table in tables}


def check_sound(path: Path) -> Report:
    """Verify a database that nobody altered: the last step of any test that made a history."""
    report = inspect_file(path, verify_all)
    assert [str(fault) for fault in report.faults] == []
    assert report.is_sound
    assert file_faults(path) == []
    return report


def once(key: str, request: str = "request") -> IdempotencyKey:
    return IdempotencyKey(key, request.encode())


async def create(log: Log, run_id: str, task: str = "t", **fields: Any) -> Created:
    return await log.create(CreateRun(run_id=run_id, task=task, **fields))


async def change(
    log: Log,
    run_id: str,
    *operations: Operation,
    caller: Caller = NOBODY,
    idempotency: IdempotencyKey | None = None,
    **fields: Any,
) -> Changed:
    return await log.change(ChangeMetadata(run_id=run_id, operations=operations, **fields), caller, idempotency)


async def move(log: Log, run_id: str, status: Status, **fields: Any) -> Moved:
    return await log.move(ChangeStatus(run_id=run_id, status=status, **fields))


async def events(log: Log, run_id: str, key: KeyPath | None = None) -> list[Event]:
    return (await log.history(run_id, limit=ALL, key=key)).items


async def versions(log: Log, run_id: str) -> list[tuple[int, str, Any]]:
    """Version, type and data of every event."""
    return [(event.version, event.type, json.loads(event.data)) for event in await events(log, run_id)]


def fields_of(error: Refusal) -> dict[str, Any]:
    return {
        "type": type(error).__name__,
        **{name: value for name, value in vars(error).items() if value is not None},
    }


__all__ = [
    "ALL",
    "SECOND",
    "START",
    "Clock",
    "Database",
    "Ledger",
    "change",
    "check_sound",
    "create",
    "events",
    "fields_of",
    "move",
    "once",
    "versions",
]
