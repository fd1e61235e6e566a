"""What the tests of the ledger share: a clock that is set by hand, short ways to write, and a look at the rows."""

import json
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
from psycopg.rows import dict_row

from ledger.answers import Changed, Created, Moved
from ledger.faults import Report
from ledger.ledger import Ledger
from ledger.log import Log
from ledger.postgres.texts import EscapedText, storable
from ledger.sqlite import file_faults
from ledger.store import inspect_database
from ledger.verify import verify_all
from ledger.writes import NOBODY, Caller, ChangeMetadata, ChangeStatus, CreateRun, IdempotencyKey
from projections.errors import Refusal
from projections.events import Event
from projections.lifecycle import Status
from projections.operations import Operation
from projections.paths import Path as KeyPath
from tests.ledger.chain_oracle import check_file, check_rows

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

    @property
    def is_postgres(self) -> bool:
        return False

    def rows(self, statement: str, parameters: Sequence[object] = ()) -> list[dict[str, Any]]:
        with closing(sqlite3.connect(self.path)) as connection:
            connection.row_factory = sqlite3.Row
            with connection:
                return [dict(row) for row in connection.execute(statement, parameters)]

    def octets(self, column: str) -> str:
        """Bytes of a text column, in the engine's words."""
        return f"octet_length({column})" if self.is_postgres else f"length(CAST({column} AS BLOB))"

    def alter(self, *statements: str, parameters: Sequence[object] = ()) -> None:
        """Run these, in one transaction, as who owns the database can: with nothing of it in the way."""
        with closing(sqlite3.connect(self.path)) as connection:
            unlock_file(connection)
            for statement in statements:
                connection.execute(statement, parameters)
            connection.commit()

    def value(self, statement: str, parameters: Sequence[object] = ()) -> Any:
        (row,) = self.rows(statement, parameters)
        (value,) = row.values()
        return value

    def counts(self) -> dict[str, int]:
        """Rows of every table that a write may touch."""
        tables = ("runs", "events", "snapshots", "refusals", "idempotency")
        return {table: self.value(f"SELECT count(*) FROM {table}") for table in tables}


class PostgresDatabase(Database):
    """The same on a PostgreSQL server."""

    def __init__(self, url: str) -> None:
        super().__init__(Path("/nowhere/a-postgresql-database-is-no-file"))
        object.__setattr__(self, "_url", url)

    @property
    def url(self) -> str:
        url: str = self._url  # type: ignore[attr-defined]
        return url

    @property
    def is_postgres(self) -> bool:
        return True

    def rows(self, statement: str, parameters: Sequence[object] = ()) -> list[dict[str, Any]]:
        with psycopg.connect(self.url, autocommit=True, row_factory=dict_row) as connection:
            connection.adapters.register_loader("text", EscapedText)
            query: Any = statement.replace("%", "%%").replace("?", "%s") if parameters else statement
            cursor = connection.execute(query, [*map(storable, parameters)] or None)
            return cursor.fetchall() if cursor.description else []

    def alter(self, *statements: str, parameters: Sequence[object] = ()) -> None:
        with psycopg.connect(self.url) as connection:
            unlock_server(connection)
            for statement in statements:
                query: Any = statement.replace("%", "%%").replace("?", "%s")
                connection.execute(query, [*map(storable, parameters)])


def unlock_file(connection: sqlite3.Connection) -> None:
    """Drop what keeps an honest program from mistakes; who owns a file can do that."""
    for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
        connection.execute(f"DROP TRIGGER {name}")
    connection.execute("PRAGMA foreign_keys = OFF")
    connection.execute("PRAGMA ignore_check_constraints = ON")


# Two functions that SQLite has, so that tests can write one statement for both engines.
_ZEROS = """
CREATE OR REPLACE FUNCTION zeroblob(size integer) RETURNS bytea
LANGUAGE sql AS $$ SELECT decode(repeat('00', size), 'hex') $$
"""
_RANDOM = """
CREATE OR REPLACE FUNCTION randomblob(size integer) RETURNS bytea
LANGUAGE sql AS $$ SELECT substr(sha256(random()::text::bytea), 1, size) $$
"""


def unlock_server(connection: psycopg.Connection[Any]) -> None:
    """The same of PostgreSQL; the owner of the tables can do that."""
    connection.execute(_ZEROS)
    connection.execute(_RANDOM)
    for name, table in connection.execute(
        "SELECT tgname, tgrelid::regclass::text FROM pg_trigger WHERE NOT tgisinternal"
    ).fetchall():
        connection.execute(f"DROP TRIGGER {name} ON {table}")
    for name, table in connection.execute(
        "SELECT conname, conrelid::regclass::text FROM pg_constraint"
        " WHERE contype IN ('f', 'c') AND connamespace = 'public'::regnamespace ORDER BY contype = 'c'"
    ).fetchall():
        connection.execute(f"ALTER TABLE {table} DROP CONSTRAINT {name}")


def check_sound(place: Path | Database) -> Report:
    """Verify a database that nobody altered: the last step of any test that made a history."""
    database = place if isinstance(place, Database) else Database(place)
    report = inspect_database(database.url, verify_all)
    assert [str(fault) for fault in report.faults] == []
    assert report.is_sound
    if not database.is_postgres:
        assert file_faults(database.path) == []
    return report


def check_chain(database: Database) -> int:
    """Hold every event against the chain, as another implementation computes it. Returns how many there are."""
    return check_rows(database.rows) if database.is_postgres else check_file(database.path)


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
    "PostgresDatabase",
    "change",
    "check_chain",
    "check_sound",
    "create",
    "events",
    "fields_of",
    "move",
    "once",
    "versions",
]
