"""Callers that go away, and closing while others wait: nothing is lost, nothing stays locked."""

import asyncio
import json
import random
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from typing import Any

import pytest

from ledger import sqlite, statements, writer
from ledger.answers import Changed
from ledger.errors import Busy, Overloaded, RunNotFound, StorageFailed
from ledger.ledger import Ledger
from ledger.log import Log
from ledger.postgres import connection
from projections.operations import Increment
from tests.ledger.support import Database, change, check_chain, create, events, once

ONE = Increment(key="n", value=1)


async def total(log: Log, run_id: str = "run_1") -> Any:
    return json.loads((await log.current(run_id)).text).get("n", 0)


async def until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110 - What is waited for has no event.
        await asyncio.sleep(0)


async def is_unlocked(database: Database) -> None:
    """Another connection gets the write lock at once."""
    if database.is_postgres:
        database.rows("SELECT * FROM logs FOR UPDATE NOWAIT")
        return
    with closing(sqlite3.connect(database.path, isolation_level=None, timeout=0)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("ROLLBACK")


@pytest.mark.parametrize("ticks", [*range(12), 20, 40, 80])
async def test_a_write_cancelled_at_any_moment_is_carried_out_whole_or_not_at_all(
    ledger: Ledger, log: Log, database: Database, ticks: int
) -> None:
    await create(log, "root")
    await create(log, "run_1", parent="root")
    for n in range(8):
        doomed = [
            asyncio.create_task(change(log, "run_1", ONE, parent_operations=[ONE], idempotency=once(f"{n}-{i}")))
            for i in range(3)
        ]
        others = [asyncio.create_task(change(log, "run_1", ONE, parent_operations=[ONE])) for _ in range(3)]
        for _ in range(ticks):
            await asyncio.sleep(0)
        for task in doomed:
            task.cancel()
        answers = await asyncio.gather(*others)
        assert all(isinstance(answer, Changed) for answer in answers)
        await asyncio.gather(*doomed, return_exceptions=True)
        retried = await asyncio.gather(
            *(change(log, "run_1", ONE, parent_operations=[ONE], idempotency=once(f"{n}-{i}")) for i in range(3))
        )
        assert len(retried) == 3
    assert await total(log) == await total(log, "root") == 8 * 6
    assert ledger._writer.is_alive
    await is_unlocked(database)
    assert check_chain(database) == 2 + 2 * 48


HOLDER = """
import sys
place, statement = sys.argv[1:]
if "://" in place:
    import psycopg
    connection = psycopg.connect(place, autocommit=True)
    connection.execute("BEGIN")
else:
    import sqlite3
    connection = sqlite3.connect(place, isolation_level=None, timeout=30)
connection.execute(statement)
print("held", flush=True)
sys.stdin.readline()
connection.execute("ROLLBACK")
"""


class Holder:
    """Another process that holds the write lock."""

    def __init__(self, database: Database) -> None:
        # What making an environment waits for, too.
        both = "LOCK TABLE logs, environments IN EXCLUSIVE MODE"
        held = (database.url, both) if database.is_postgres else (str(database.path), "BEGIN IMMEDIATE")
        self._process = subprocess.Popen(
            [sys.executable, "-c", HOLDER, *held],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "held\n"

    def release(self) -> None:
        self._process.communicate("\n", timeout=30)


async def test_writes_cancelled_while_another_process_holds_the_lock_leave_no_lock_behind(
    ledger: Ledger, log: Log, database: Database
) -> None:
    await create(log, "run_1")
    for _ in range(3):
        holder = Holder(database)
        doomed = [asyncio.create_task(change(log, "run_1", ONE)) for _ in range(4)]
        await until(lambda: not log._writer._waiting)
        waiting = [asyncio.create_task(change(log, "run_1", ONE)) for _ in range(4)]
        later = [asyncio.create_task(ledger.log("new")) for _ in range(2)]
        await asyncio.sleep(0)
        for task in [*doomed, later[0]]:
            task.cancel()
        assert all(
            isinstance(done, asyncio.CancelledError)
            for done in await asyncio.gather(*doomed, return_exceptions=True)
        )
        assert not any(task.done() for task in waiting)
        assert (await log.metadata("run_1")).version == (await log.current("run_1")).version
        holder.release()
        await asyncio.gather(*waiting, *later, return_exceptions=True)
        await is_unlocked(database)
    assert await total(log) == 3 * 8
    assert ledger._writer.is_alive
    assert check_chain(database) == 25


async def test_waiting_too_long_for_the_lock_is_busy_and_leaves_no_trace(
    open_ledger: Callable[..., Any], database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "LOCK_TIMEOUT_MS", 50)
    monkeypatch.setattr(sqlite, "BUSY_TIMEOUT_MS", 50)
    monkeypatch.setattr(sqlite, "_PRAGMAS", ("PRAGMA busy_timeout = 50", *sqlite._PRAGMAS[1:]))
    ledger = await open_ledger()
    log = await ledger.log("dev")
    await create(log, "run_1")
    holder = Holder(database)
    answers = await asyncio.gather(*(change(log, "run_1", ONE) for _ in range(3)), return_exceptions=True)
    assert [type(answer) for answer in answers] == [Busy] * 3
    with pytest.raises(Busy):
        await ledger.log("new")
    assert await total(log) == 0
    holder.release()
    await change(log, "run_1", ONE)
    assert (await ledger.log("new")).environment == "new"
    assert check_chain(database) == 2


@pytest.mark.only("sqlite")
@pytest.mark.parametrize("ticks", [0, 1, 2, 3, 5, 8, 13, 21, 34, 55, 89])
async def test_reads_cancelled_at_any_moment_leave_the_pool_whole(
    ledger: Ledger, log: Log, database: Database, ticks: int
) -> None:
    await create(log, "run_1")
    for _ in range(3):
        doomed = [asyncio.create_task(log.history("run_1", limit=5)) for _ in range(12)]
        for _ in range(ticks):
            await asyncio.sleep(0)
        for task in doomed:
            task.cancel()
        await asyncio.gather(*doomed, return_exceptions=True)
    await change(log, "run_1", ONE)
    found = await asyncio.gather(*(events(log, "run_1") for _ in range(12)))
    assert {len(history) for history in found} == {2}
    await every_reader_is_idle(ledger)
    assert 1 <= len(idle(ledger)) <= sqlite.READERS_MAX
    assert not any(connection.in_transaction for connection in idle(ledger)), "a read was cut short"
    with closing(sqlite3.connect(database.path, timeout=0)) as connection:
        busy, _, _ = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    assert busy == 0, "a reader was left in its transaction"


def idle(ledger: Ledger) -> list[Any]:
    """The connections for reads that nobody uses."""
    store = ledger._store
    assert isinstance(store, sqlite.SqliteStore)
    return [*store._idle]


async def every_reader_is_idle(ledger: Ledger) -> None:
    """Wait for every read that was begun, also those that nobody waits for any more."""
    store = ledger._store
    assert isinstance(store, sqlite.SqliteStore)
    while store._reads:
        await asyncio.wait(store._reads)


@pytest.mark.only("sqlite")
async def test_a_read_that_fails_leaves_no_transaction_behind(
    ledger: Ledger, log: Log, database: Database
) -> None:
    await create(log, "run_1")
    for _ in range(9):
        with pytest.raises(RunNotFound):
            await log.history("nobody", limit=5)
    await every_reader_is_idle(ledger)
    assert not any(connection.in_transaction for connection in idle(ledger))
    assert len(await events(log, "run_1")) == 1


async def test_a_read_that_would_wait_for_something_else_is_a_fault_of_this_program(ledger: Ledger) -> None:
    with pytest.raises(AssertionError, match="a read may wait for nothing but its statements"):
        await ledger._store.read(lambda _: asyncio.sleep(0))


async def test_a_reader_cannot_write(ledger: Ledger, log: Log) -> None:
    await create(log, "run_1")
    with pytest.raises(StorageFailed, match=r"read-?only"):
        await ledger._store.read(
            lambda reader: reader.rows(statements.FREE_REFUSALS, environment_id=1, run=1, place=1)
        )


async def test_closing_carries_out_what_waits_and_refuses_what_comes_later(
    ledger: Ledger, log: Log, database: Database
) -> None:
    await create(log, "run_1")
    waiting = [asyncio.create_task(change(log, "run_1", ONE)) for _ in range(700)]
    await asyncio.sleep(0)
    closing_it = asyncio.create_task(ledger.close())
    await asyncio.sleep(0)
    assert not ledger._writer.is_alive
    with pytest.raises(Busy):
        await change(log, "run_1", ONE)
    await closing_it
    answers = await asyncio.gather(*waiting)
    assert [answer.snapshot.version for answer in answers] == list(range(2, 702))
    assert check_chain(database) == 701
    assert database.is_postgres or not list(database.path.parent.glob("*-wal"))


async def test_closing_waits_for_the_reads_that_have_begun(ledger: Ledger, log: Log, database: Database) -> None:
    await create(log, "run_1")
    reads = [asyncio.create_task(events(log, "run_1")) for _ in range(9)]
    reads[0].cancel()
    await asyncio.sleep(0)
    reads[1].cancel()
    await ledger.close()
    assert [len(found) for found in await asyncio.gather(*reads[2:])] == [1] * 7
    assert database.is_postgres or not list(database.path.parent.glob("*-wal"))


async def test_closing_twice_and_at_once_is_harmless(ledger: Ledger, log: Log) -> None:
    await create(log, "run_1")
    await asyncio.gather(ledger.close(), ledger.close(), return_exceptions=False)
    await ledger.close()
    with pytest.raises(Busy):
        await change(log, "run_1", ONE)
    with pytest.raises(Busy):
        await log.current("run_1")
    with pytest.raises(Busy):
        await log.metadata("run_1")


async def test_who_gives_up_waiting_for_the_close_does_not_stop_it(
    ledger: Ledger, log: Log, database: Database
) -> None:
    await create(log, "run_1")
    holder = Holder(database)
    waiting = [asyncio.create_task(change(log, "run_1", ONE)) for _ in range(600)]
    await asyncio.sleep(0)
    closing_it = asyncio.create_task(ledger.close())
    for _ in range(5):
        await asyncio.sleep(0)
    closing_it.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing_it
    holder.release()
    answers = await asyncio.gather(*waiting)
    assert [answer.snapshot.version for answer in answers] == list(range(2, 602))
    await ledger.close()
    assert check_chain(database) == 601


async def test_a_cancelled_writer_tells_everybody_the_truth(ledger: Ledger, log: Log, database: Database) -> None:
    await create(log, "run_1")
    holder = Holder(database)
    first = asyncio.create_task(change(log, "run_1", ONE))
    await until(lambda: bool(log._writer._waiting))
    await until(lambda: not log._writer._waiting)
    second = [asyncio.create_task(change(log, "run_1", ONE)) for _ in range(5)]
    await asyncio.sleep(0)
    log._writer._task.cancel()
    refused = await asyncio.gather(*second, return_exceptions=True)
    assert [type(answer) for answer in refused] == [Busy] * 5
    assert not ledger._writer.is_alive
    holder.release()
    assert (await first).snapshot.version == 2
    assert await total(log) == 1


async def test_too_many_waiting_writes_are_refused_at_once(
    ledger: Ledger, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "WAITING_MAX", 5)
    await create(log, "run_1")
    answers = await asyncio.gather(*(change(log, "run_1", ONE) for _ in range(9)), return_exceptions=True)
    assert [type(answer) for answer in answers] == [*[Changed] * 5, *[Overloaded] * 4]
    assert await total(log) == 5


async def test_groups_larger_than_one_transaction_over_many_environments_keep_their_order(
    ledger: Ledger, database: Database
) -> None:
    logs = [await ledger.log(f"e{n}") for n in range(5)]
    await asyncio.gather(*(create(log, "run_1") for log in logs))
    chance = random.Random(7)
    order = [chance.randrange(5) for _ in range(4_000)]
    answers = await asyncio.gather(*(change(logs[n], "run_1", ONE) for n in order))
    for n in range(5):
        versions = [answer.snapshot.version for answer, to in zip(answers, order, strict=True) if to == n]
        assert versions == list(range(2, order.count(n) + 2))
    assert check_chain(database) == 4_005
