"""Rebuild: heads and snapshots come back exactly as they were, beside others who write."""

import asyncio
import random
import sqlite3
from typing import Any

import psycopg
import pytest

from ledger.errors import RunNotFound, Unsound
from ledger.ledger import Ledger
from ledger.log import Log
from ledger.rebuild import Discrepancy, compare
from ledger.store import inspect_database
from projections.filters import RunFilter
from projections.lifecycle import Status
from projections.operations import Increment
from projections.paths import parse_key
from tests.ledger.support import Clock, Database, change, check_sound, create, move

pytestmark = pytest.mark.altered

DERIVED = {
    "runs": (
        *("task", "parent_key", "root_key", "depth", "batch", "status", "status_version", "attempt", "tags"),
        *("idempotency_key", "idempotency_expires_at", "metadata", "size_bytes", "version", "hash"),
        *("unsnapped_bytes", "created_at", "updated_at", "started_at", "finished_at"),
    ),
    "snapshots": ("metadata",),
}
WRONG = [0, 7, -1, "x", b"bytes", "{}", '{"n":1}', "[]"]


async def fill(log: Log, clock: Clock) -> None:
    await create(log, "root", metadata={"n": 0}, tags=("t",), batch="b")
    trigger: dict[str, Any] = {"idempotency_key": "k", "idempotency_ttl_s": 60}
    await create(log, "child", parent="root", status=Status.EXECUTING, **trigger)
    await create(log, "grandchild", parent="child", metadata={"a": 1, "b": 2})
    for _ in range(3):
        clock.advance(1)
        await change(
            log, "child", *[Increment(key="n", value=1)] * 30, root_operations=[Increment(key="n", value=1)]
        )
    await log.erase("grandchild", parse_key("a"), "asked")
    await move(log, "child", Status.COMPLETED)


def differences(database: Database) -> list[Discrepancy]:
    return inspect_database(database.url, compare)


def derived(database: Database) -> dict[str, Any]:
    return {table: database.rows(f"SELECT * FROM {table} ORDER BY 1, 2, 3") for table in DERIVED}


async def test_what_nobody_altered_differs_in_nothing(log: Log, database: Database, clock: Clock) -> None:
    await fill(log, clock)
    assert differences(database) == []


async def test_any_derived_column_comes_back_as_it_was(
    ledger: Ledger, log: Log, database: Database, clock: Clock
) -> None:
    await fill(log, clock)
    before = derived(database)
    assert before["snapshots"]
    chance = random.Random(5)
    for table, columns in DERIVED.items():
        for column in columns:
            wrong = chance.choice(WRONG)
            rows = before[table]
            row = chance.randrange(len(rows))
            key = "environment_id, run_key, version" if table == "snapshots" else "environment_id, run_key"
            which = f"SELECT {key} FROM {table} ORDER BY {key} LIMIT 1 OFFSET {row}"
            try:
                database.alter(f"UPDATE {table} SET {column} = ? WHERE ({key}) = ({which})", parameters=[wrong])
            except (sqlite3.IntegrityError, psycopg.DataError, psycopg.IntegrityError, psycopg.ProgrammingError):
                continue
            if derived(database) == before:
                continue
            found = differences(database)
            assert found, f"{table}.{column} = {wrong!r}"
            for difference in found:
                assert difference.is_repairable
                await ledger.repair(difference)
            assert derived(database) == before, f"{table}.{column} = {wrong!r}"
    check_sound(database)


async def test_everything_at_once_comes_back(ledger: Ledger, log: Log, database: Database, clock: Clock) -> None:
    await fill(log, clock)
    before = derived(database)
    database.alter(
        "UPDATE runs SET metadata = '{}', size_bytes = 2, depth = depth + 3, unsnapped_bytes = 5, status = 'FAILED'",
        "UPDATE runs SET parent_key = NULL, root_key = 3, hash = zeroblob(32), version = 1, finished_at = 3",
        "UPDATE snapshots SET metadata = '{}'",
        "INSERT INTO snapshots VALUES (1, 2, 5000, '{}'), (1, 3, 0, '{}'), (1, 3, -2, 'x')",
    )
    found = differences(database)
    assert [difference.run_id for difference in found] == ["root", "child", "grandchild"]
    for difference in found:
        await ledger.repair(difference)
    assert derived(database) == before
    assert differences(database) == []


async def test_a_run_whose_events_do_not_verify_is_left_as_it_is(
    ledger: Ledger, log: Log, database: Database, clock: Clock
) -> None:
    await fill(log, clock)
    database.alter("""UPDATE events SET data = '{"key":"n","value":5}' WHERE run_key = 2 AND version = 4""")
    database.alter("UPDATE runs SET metadata = '{}' WHERE run_id = 'child'")
    before = derived(database)
    (difference,) = differences(database)
    assert (difference.run_id, difference.is_repairable) == ("child", False)
    with pytest.raises(Unsound, match="version 4"):
        await ledger.repair(difference)
    assert derived(database) == before


async def test_events_that_are_gone_are_not_forgotten_by_their_head(
    ledger: Ledger, log: Log, database: Database, clock: Clock
) -> None:
    await fill(log, clock)
    database.alter(
        "DELETE FROM events WHERE run_key = 2 AND version = (SELECT max(version) FROM events WHERE run_key = 2)",
    )
    before = derived(database)
    (difference,) = differences(database)
    assert not difference.is_repairable
    with pytest.raises(Unsound):
        await ledger.repair(difference)
    database.alter("DELETE FROM events WHERE run_key = 2")
    assert not differences(database)[0].is_repairable
    assert derived(database) == before


async def test_a_run_that_went_away_meanwhile_is_said_so(ledger: Ledger, log: Log) -> None:
    with pytest.raises(RunNotFound):
        await ledger.repair(Discrepancy("dev", "nobody", (), is_repairable=True))


async def test_repairs_and_writes_do_not_disturb_each_other(
    ledger: Ledger, log: Log, database: Database, clock: Clock
) -> None:
    await fill(log, clock)
    database.alter("UPDATE runs SET size_bytes = 99, unsnapped_bytes = 1")
    found = differences(database)

    async def write_on() -> None:
        for _ in range(40):
            await change(
                log, "child", Increment(key="n", value=1), parent_operations=[Increment(key="n", value=1)]
            )

    async def repair_on() -> None:
        for difference in found:
            await ledger.repair(difference)

    await asyncio.gather(write_on(), repair_on(), write_on())
    for difference in differences(database):  # A write that came first may have covered a part of the damage.
        await ledger.repair(difference)
    check_sound(database)
    assert (await log.current("child")).text == '{"n":170}'


@pytest.mark.parametrize(
    "edit",
    [
        "DELETE FROM run_tags",
        "UPDATE run_tags SET tag = 'x'",
        "INSERT INTO run_tags VALUES (1, 2, '\"x\"')",
    ],
)
async def test_the_tags_that_runs_are_found_by_come_back(
    ledger: Ledger, log: Log, database: Database, clock: Clock, edit: str
) -> None:
    await fill(log, clock)
    before = database.rows("SELECT * FROM run_tags ORDER BY 1, 2, 3")
    assert len(before) == 1
    database.alter(edit)
    (difference,) = differences(database)
    assert difference.is_repairable
    await ledger.repair(difference)
    assert database.rows("SELECT * FROM run_tags ORDER BY 1, 2, 3") == before
    check_sound(database)
    assert [run.id for run in (await log.runs(limit=5, wanted=RunFilter(tags=("t",)))).items] == ["root"]
