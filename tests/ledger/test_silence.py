"""A PostgreSQL that says nothing any more, as one that is frozen or out of reach: nobody waits for it for long."""

import asyncio
import os
import signal
from collections.abc import Awaitable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy import make_url

from ledger.answers import Changed
from ledger.errors import OutcomeUnknown, StorageSilent
from ledger.ledger import Ledger
from ledger.log import Log
from ledger.postgres import connection, store
from projections.operations import Increment
from tests.ledger.conftest import OpenLedger
from tests.ledger.support import Database, change, create, once

pytestmark = pytest.mark.only("postgresql")

ONE = Increment(key="n", value=1)
READS = 3 * store.READERS_MAX


@pytest.fixture(autouse=True)
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "SILENCE_MAX_S", 0.4)
    monkeypatch.setattr(store, "SILENCE_MAX_S", 0.6)
    monkeypatch.setattr(connection, "CONNECT_TIMEOUT_S", 2)  # The least that libpq knows.


class Freezer:
    """Stops the server, or some of its processes, and lets them go on."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._stopped: list[int] = []

    def stop_server(self) -> None:
        """Stop all that works for the database, and what accepts new connections."""
        others = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
        pids = [row["pid"] for row in self._database.rows(others)]
        self.stop(_parent(pids[0]), *pids)

    def stop(self, *pids: int) -> None:
        for pid in pids:
            self._stopped.append(pid)
            os.kill(pid, signal.SIGSTOP)

    def go_on(self) -> None:
        while self._stopped:
            with suppress(ProcessLookupError):
                os.kill(self._stopped.pop(), signal.SIGCONT)


def _parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


@pytest.fixture
def freezer(database: Database, open_ledger: OpenLedger) -> Iterator[Freezer]:
    freezer = Freezer(database)
    yield freezer
    freezer.go_on()


async def prepared(ledger: Ledger) -> Log:
    log = await ledger.log("dev")
    await create(log, "run_1")
    return log


async def answers(*asked: Awaitable[Any]) -> list[Any]:
    return await asyncio.gather(*asked, return_exceptions=True)


async def test_who_reads_is_told_and_who_waits_for_a_thread_as_soon(
    open_ledger: OpenLedger, freezer: Freezer
) -> None:
    log = await prepared(await open_ledger())
    await asyncio.gather(*(log.current("run_1") for _ in range(READS)))
    freezer.stop_server()
    asked = [log.current("run_1") if number % 2 else log.run("run_1") for number in range(READS)]
    assert {type(answer) for answer in await answers(*asked)} == {StorageSilent}
    freezer.go_on()
    assert (await log.current("run_1")).version == 1


async def test_nothing_was_written_and_who_waits_is_told_so_too(open_ledger: OpenLedger, freezer: Freezer) -> None:
    log = await prepared(await open_ledger())
    freezer.stop_server()
    first = asyncio.create_task(change(log, "run_1", ONE))
    await asyncio.sleep(0.1)
    told = await answers(first, *(change(log, "run_1", ONE) for _ in range(20)))
    assert {type(answer) for answer in told} == {StorageSilent}
    assert all("nothing was written" in str(answer) for answer in told)
    freezer.go_on()
    assert (await change(log, "run_1", ONE)).snapshot.version == 2
    assert (await log.current("run_1")).text == '{"n":1}'


async def test_what_was_being_committed_may_have_been(
    open_ledger: OpenLedger, freezer: Freezer, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = await prepared(await open_ledger())
    execute = psycopg.Connection.execute
    behind: list[asyncio.Task[Changed]] = []
    loop = asyncio.get_running_loop()

    def stop_at_commit(self: psycopg.Connection[Any], query: Any, *arguments: Any, **options: Any) -> Any:
        if query == "COMMIT" and not behind:
            freezer.stop(self.info.backend_pid)
            send = lambda: behind.append(asyncio.create_task(change(log, "run_1", ONE)))  # noqa: E731
            loop.call_soon_threadsafe(send)
        return execute(self, query, *arguments, **options)

    monkeypatch.setattr(psycopg.Connection, "execute", stop_at_commit)
    (told,) = await answers(change(log, "run_1", ONE, idempotency=once("key")))
    assert isinstance(told, OutcomeUnknown)
    assert [type(answer) for answer in await answers(*behind)] == [StorageSilent]
    freezer.go_on()
    again = await change(log, "run_1", ONE, idempotency=once("key"))
    assert (again.snapshot.version, again.snapshot.text) == (2, '{"n":1}')


async def test_whether_a_ledger_is_open_is_known_without_the_server(
    open_ledger: OpenLedger, freezer: Freezer
) -> None:
    ledger = await open_ledger()
    assert await ledger.keys.was_open()
    freezer.stop_server()
    assert [await ledger.keys.was_open() for _ in range(50)] == [True] * 50
    with pytest.raises(StorageSilent):
        await ledger.keys.is_open()
    freezer.go_on()
    await ledger.keys.create((await ledger.log("dev")).owner, bytes(32))
    assert not await ledger.keys.is_open()
    assert not await ledger.keys.was_open()


async def test_who_may_take_long_waits_as_long_as_it_takes(open_ledger: OpenLedger, database: Database) -> None:
    await prepared(await open_ledger())
    with connection.connect(connection.target_of(make_url(database.url)), is_patient=True) as patient:
        assert patient.execute("SELECT pg_sleep(1)").fetchall()
    with connection.connect(connection.target_of(make_url(database.url))) as brief:
        with pytest.raises(connection.Silence, match=r"has not answered for 0\.4 seconds"):
            brief.execute("SELECT pg_sleep(1)")
        assert brief.closed
