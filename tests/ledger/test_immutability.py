"""The database itself keeps events as they were written, whoever asks with whatever statement."""

import asyncio
import sqlite3
from collections.abc import Iterator
from contextlib import closing

import pytest

from ledger.ledger import Ledger
from projections.operations import Set
from tests.ledger.chain_oracle import check_file, expected_commitment
from tests.ledger.support import Database, change, create

pytestmark = pytest.mark.only("sqlite")

COLUMNS = [
    "environment_id",
    "position",
    "run_key",
    "version",
    "type",
    "actor",
    "attempt",
    "occurred_at",
    "recorded_at",
    "headers",
    "data",
    "salt",
    "commitment",
    "hash",
]
MAY_BE_REDACTED = {"data", "salt", "commitment"}
ANOTHER = {
    column: {"salt": "randomblob(16)", "commitment": "randomblob(32)", "hash": "randomblob(32)"}.get(column, "77")
    for column in COLUMNS
}
OPEN = (
    "INSERT INTO erasures (environment_id, run_key, number, key, reason, actor, recorded_at, open) "
    "VALUES (1, 1, 1, 'a', 'asked', 'ann', 1, -1)"
)
CLOSE = "UPDATE erasures SET open = NULL"


@pytest.fixture
def connection(runner: asyncio.Runner, ledger: Ledger, database: Database) -> Iterator[sqlite3.Connection]:
    """A plain connection to a ledger of two runs with three events each."""

    async def fill() -> None:
        log = await ledger.log("dev")
        for run_id in ("run_1", "run_2"):
            await create(log, run_id)
            await change(log, run_id, Set(key="a", value=1), Set(key="b", value=2))

    runner.run(fill())
    with closing(sqlite3.connect(database.path, isolation_level=None)) as connection:
        connection.execute("PRAGMA foreign_keys = ON")
        yield connection


def everything(connection: sqlite3.Connection) -> list[tuple[object, ...]]:
    return connection.execute("SELECT rowid, * FROM events ORDER BY rowid").fetchall()


def refused(connection: sqlite3.Connection, statement: str) -> None:
    before = everything(connection)
    with pytest.raises(sqlite3.IntegrityError, match="events are append-only"):
        connection.execute(statement)
    assert everything(connection) == before


def test_the_columns_are_those_of_the_table(connection: sqlite3.Connection) -> None:
    assert [row[1] for row in connection.execute("PRAGMA table_info(events)")] == COLUMNS


@pytest.mark.parametrize("column", COLUMNS)
@pytest.mark.parametrize("verb", ["UPDATE", "UPDATE OR REPLACE", "UPDATE OR IGNORE"])
def test_no_column_can_be_updated(connection: sqlite3.Connection, verb: str, column: str) -> None:
    refused(connection, f"{verb} events SET {column} = {ANOTHER[column]} WHERE position = 2")
    refused(connection, f"{verb} events SET {column} = {column}")


@pytest.mark.parametrize(
    "where", ["", "WHERE position = 2", "WHERE rowid = 1", "WHERE run_key = 1 AND version = 3"]
)
def test_nothing_can_be_deleted(connection: sqlite3.Connection, where: str) -> None:
    refused(connection, f"DELETE FROM events {where}")


def values(**changed: str) -> str:
    fields = dict.fromkeys(COLUMNS, "1") | {
        "position": "99",
        "version": "99",
        "occurred_at": "NULL",
        "commitment": "NULL",
        "data": "'{}'",
        "salt": "randomblob(16)",
        "hash": "randomblob(32)",
    }
    fields |= changed
    return f"events ({', '.join(fields)}) VALUES ({', '.join(fields.values())})"


SAME_ROW = {
    "by position": {"position": "2"},
    "by run and version": {"run_key": "1", "version": "2"},
    "by rowid": {"rowid": "2"},
    "by position and rowid": {"position": "2", "rowid": "2"},
    "by everything": {"position": "2", "run_key": "1", "version": "2", "rowid": "2"},
    "by another rowid": {"position": "2", "rowid": "500"},
}


@pytest.mark.parametrize("by", SAME_ROW)
@pytest.mark.parametrize("verb", ["INSERT", "INSERT OR REPLACE", "REPLACE", "INSERT OR IGNORE"])
def test_no_row_can_be_replaced(connection: sqlite3.Connection, verb: str, by: str) -> None:
    refused(connection, f"{verb} INTO {values(**SAME_ROW[by])}")


@pytest.mark.parametrize(
    "target", ["(environment_id, position)", "(environment_id, run_key, version)", "(rowid)", ""]
)
def test_no_row_can_be_changed_by_an_upsert(connection: sqlite3.Connection, target: str) -> None:
    if target == "(rowid)":
        before = everything(connection)
        with pytest.raises((sqlite3.OperationalError, sqlite3.IntegrityError)):
            connection.execute(f"INSERT INTO {values(rowid='2')} ON CONFLICT (rowid) DO UPDATE SET data = '[]'")
        assert everything(connection) == before
        return
    for same in ({"position": "2"}, {"run_key": "1", "version": "2"}):
        for action in ("UPDATE SET data = '[]'", "NOTHING"):
            if target or action == "NOTHING":
                refused(connection, f"INSERT INTO {values(**same)} ON CONFLICT {target} DO {action}")


def test_pragmas_that_a_connection_may_set_open_no_way(connection: sqlite3.Connection) -> None:
    for pragma in (
        "recursive_triggers = ON",
        "recursive_triggers = OFF",
        "foreign_keys = OFF",
        "defer_foreign_keys = ON",
    ):
        connection.execute(f"PRAGMA {pragma}")
        refused(connection, "UPDATE events SET data = '{}'")
        refused(connection, "DELETE FROM events")
        refused(connection, f"REPLACE INTO {values(position='2')}")


@pytest.mark.altered
def test_a_new_event_can_be_appended(connection: sqlite3.Connection) -> None:
    before = everything(connection)
    connection.execute(f"INSERT INTO {values()}")
    assert everything(connection)[:-1] == before


@pytest.mark.parametrize("column", ["salt", "hash"])
def test_salts_and_hashes_have_their_lengths(connection: sqlite3.Connection, column: str) -> None:
    with pytest.raises(sqlite3.IntegrityError, match="CHECK"):
        connection.execute(f"INSERT INTO {values(**{column: 'randomblob(15)'})}")


# --- erasure, the one exception ---


@pytest.mark.parametrize("column", COLUMNS)
def test_while_an_erasure_is_open_only_what_was_not_hashed_may_change(
    connection: sqlite3.Connection, column: str
) -> None:
    connection.execute("BEGIN")
    connection.execute(OPEN)
    if column not in MAY_BE_REDACTED:
        refused(connection, f"UPDATE events SET {column} = {ANOTHER[column]} WHERE position = 2")
        refused(connection, f"UPDATE events SET data = '{{}}', {column} = {ANOTHER[column]} WHERE position = 2")
        refused(connection, f"UPDATE OR REPLACE events SET {column} = {ANOTHER[column]} WHERE position = 2")
    else:
        connection.execute(f"UPDATE events SET {column} = {ANOTHER[column]} WHERE position = 2")
        refused(connection, f"UPDATE events SET {column} = {ANOTHER[column]} WHERE position = 5")
        refused(connection, f"UPDATE events SET {column} = {ANOTHER[column]}")
    refused(connection, "UPDATE events SET rowid = 500 WHERE position = 2")
    refused(connection, "DELETE FROM events WHERE position = 2")
    refused(connection, f"REPLACE INTO {values(position='2', version='2')}")
    connection.execute("ROLLBACK")


@pytest.mark.altered
def test_a_closed_erasure_can_be_committed_and_lets_nothing_more_through(
    connection: sqlite3.Connection, database: Database
) -> None:
    original = connection.execute("SELECT salt, data FROM events WHERE position = 2").fetchone()
    connection.execute("BEGIN")
    connection.execute(OPEN)
    connection.execute(
        "UPDATE events SET data = '{}', salt = randomblob(16), commitment = ? WHERE position = 2",
        [expected_commitment(*original)],
    )
    connection.execute(CLOSE)
    refused(connection, "UPDATE events SET data = '[]' WHERE position = 2")
    connection.execute("COMMIT")
    refused(connection, "UPDATE events SET data = '[]' WHERE position = 2")
    assert check_file(database.path) == 6


@pytest.mark.parametrize("verb", ["COMMIT", "END"])
def test_an_erasure_cannot_be_committed_open(connection: sqlite3.Connection, verb: str) -> None:
    before = everything(connection)
    connection.execute("BEGIN")
    connection.execute(OPEN)
    connection.execute("UPDATE events SET data = '{}' WHERE position = 2")
    with pytest.raises(sqlite3.IntegrityError, match="FOREIGN KEY"):
        connection.execute(verb)
    connection.execute("ROLLBACK")
    assert everything(connection) == before
    assert connection.execute("SELECT count(*) FROM erasures").fetchone() == (0,)


def test_an_erasure_cannot_be_open_outside_a_transaction(connection: sqlite3.Connection) -> None:
    with pytest.raises(sqlite3.IntegrityError, match="FOREIGN KEY"):
        connection.execute(OPEN)


@pytest.mark.altered
@pytest.mark.parametrize("position", [0, 1, 2, -2, 10**9])
def test_an_erasure_cannot_name_an_event_to_stay_open(connection: sqlite3.Connection, position: int) -> None:
    with pytest.raises(sqlite3.IntegrityError):
        connection.execute(OPEN.replace("-1)", f"{position})"))
    connection.execute(OPEN.replace("-1)", "NULL)"))
    with pytest.raises(sqlite3.IntegrityError):
        connection.execute(f"UPDATE erasures SET open = {position}")


def test_no_event_can_have_the_position_that_an_open_erasure_names(connection: sqlite3.Connection) -> None:
    """Else the erasure's foreign key would hold, and it could stay open for ever."""
    with pytest.raises(sqlite3.IntegrityError):
        connection.execute(f"INSERT INTO {values(position='-1')}")
