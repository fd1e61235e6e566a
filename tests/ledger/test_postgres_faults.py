"""A PostgreSQL that goes away, and nodes that freeze: what callers are told is what is stored."""

import asyncio
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any

import psycopg
import pytest
from psycopg import errors
from sqlalchemy import make_url

from ledger import postgres, statements
from ledger.answers import Changed
from ledger.errors import Busy, OutcomeUnknown, StorageFailed, StorageFull, Unavailable
from ledger.ledger import Ledger
from ledger.log import Log
from ledger.postgres import connection
from ledger.postgres.transaction import view
from projections.operations import Increment
from tests.ledger.conftest import OpenLedger
from tests.ledger.support import Database, change, check_chain, create, once

pytestmark = pytest.mark.only("postgresql")

ONE = Increment(key="n", value=1)
PATIENCE_S = 30


class Faults:
    """Does something to the writer's connection in front of the n-th statement that it sends."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.at = 0
        self.seen = 0
        self.act: Callable[[psycopg.Connection[Any]], None] = lambda _: None

    def plan(self, at: int, act: Callable[[psycopg.Connection[Any]], None]) -> None:
        self.at, self.act, self.seen = at, act, 0

    def check(self, connection: psycopg.Connection[Any], text: str) -> None:
        if threading.current_thread().name.startswith("ledger-writer") and not text.startswith("SET lock_timeout"):
            self.seen += 1
            if self.seen == self.at:
                self.act(connection)

    def refuse(self, _: psycopg.Connection[Any]) -> None:
        raise errors.DiskFull("injected")

    def cut(self, connection: psycopg.Connection[Any]) -> None:
        """The server ends the session, as it does when it is shut down."""
        pid = connection.info.backend_pid
        self._database.rows("SELECT pg_terminate_backend(?, 10000)", [pid])

    def freeze(self, connection: psycopg.Connection[Any]) -> None:
        """Do nothing until the server has lost patience."""
        pid = connection.info.backend_pid
        waiting = threading.Event()
        for _ in range(PATIENCE_S * 100):
            found = self._database.rows("SELECT state FROM pg_stat_activity WHERE pid = ?", [pid])
            if not found or not str(found[0]["state"]).startswith("idle in"):
                return  # It was ended, or has not begun anything yet.
            waiting.wait(0.01)
        raise AssertionError("a session that did nothing was never ended")


@pytest.fixture
def faults(monkeypatch: pytest.MonkeyPatch, database: Database) -> Iterator[Faults]:
    faults = Faults(database)

    def wire(owner: Any, name: str, connection_of: Callable[[Any], Any]) -> None:
        original = getattr(owner, name)

        def wired(self: Any, query: Any, *arguments: Any, **options: Any) -> Any:
            faults.check(connection_of(self), str(query))
            return original(self, query, *arguments, **options)

        monkeypatch.setattr(owner, name, wired)

    wire(psycopg.RawCursor, "execute", lambda cursor: cursor.connection)
    wire(psycopg.RawCursor, "executemany", lambda cursor: cursor.connection)
    wire(psycopg.Connection, "execute", lambda connection: connection)
    yield faults
    faults.plan(0, faults.refuse)


async def prepared(ledger: Ledger) -> Log:
    log = await ledger.log("dev")
    await create(log, "root")
    await create(log, "run_1", parent="root")
    return log


TOLD: dict[str, set[type]] = {
    "refuse": {StorageFull},
    "cut": {StorageFailed, OutcomeUnknown, Changed},
    "freeze": {Busy, Changed, StorageFailed, OutcomeUnknown},
}


@pytest.mark.parametrize("kind", TOLD)
async def test_a_fault_in_front_of_any_statement_of_a_write_is_told_as_it_is(
    faults: Faults, open_ledger: OpenLedger, database: Database, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if kind == "freeze":
        monkeypatch.setattr(connection, "IDLE_TIMEOUT_MS", 100)
    ledger = await open_ledger()
    log = await prepared(ledger)
    many = [ONE] * 50  # Enough for a snapshot.

    async def ask(key: str) -> Any:
        try:
            return await change(log, "run_1", *many, parent_operations=many, idempotency=once(key))
        except Exception as error:
            return error

    faults.plan(0, faults.refuse)
    assert isinstance(await ask("counting"), Changed)
    count, version = faults.seen, 51
    assert count >= 10
    told = set()
    for at in range(1, count + 1):
        faults.plan(at, getattr(faults, kind))
        answer = await ask(f"key {at}")
        faults.plan(0, faults.refuse)
        told.add(type(answer))
        current = (await log.current("run_1")).version
        if isinstance(answer, Changed):
            assert current == version + 50
        elif isinstance(answer, OutcomeUnknown):
            assert current in {version, version + 50}
        else:
            assert isinstance(answer, Unavailable)
            assert current == version
        again = await ask(f"key {at}")
        assert isinstance(again, Changed)
        assert again.is_replay == (current != version)
        version += 50
        assert (await log.current("run_1")).version == again.snapshot.version == version
    assert told <= TOLD[kind]
    assert told - {Changed}
    assert check_chain(database) == 2 + 100 * (count + 1)


@pytest.mark.parametrize("kind", ["refuse", "cut"])
async def test_a_fault_in_a_group_is_told_to_everyone_in_it(
    faults: Faults, open_ledger: OpenLedger, database: Database, kind: str
) -> None:
    log = await prepared(await open_ledger())

    async def group(round_: int) -> Sequence[Any]:
        answers: Sequence[Any] = await asyncio.gather(
            *(change(log, "run_1", ONE, idempotency=once(f"{round_} {n}")) for n in range(5)),
            return_exceptions=True,
        )
        return answers

    faults.plan(0, faults.refuse)
    await group(0)
    version = (await log.current("run_1")).version
    for at in range(1, faults.seen + 1):
        faults.plan(at, getattr(faults, kind))
        answers = await group(at)
        faults.plan(0, faults.refuse)
        now = (await log.current("run_1")).version
        kinds = {type(answer) for answer in answers}
        assert len(kinds) == 1, "one transaction has one fate"
        assert now in ({version + 5} if kinds == {Changed} else {version, version + 5})
        if not kinds & {Changed, OutcomeUnknown}:
            assert now == version
        assert [answer.snapshot.version for answer in await group(at)] == list(range(version + 1, version + 6))
        version += 5


async def test_a_commit_whose_answer_is_lost_is_neither_acknowledged_nor_repeated(
    open_ledger: OpenLedger, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = await prepared(await open_ledger())
    original = psycopg.Connection.execute

    def lost(self: Any, query: Any, *arguments: Any, **options: Any) -> Any:
        cursor = original(self, query, *arguments, **options)
        if query == "COMMIT":
            self._pipeline.sync()
            self.close()
            raise psycopg.OperationalError("server closed the connection unexpectedly")
        return cursor

    with monkeypatch.context() as patched:
        patched.setattr(psycopg.Connection, "execute", lost)
        with pytest.raises(OutcomeUnknown, match="same idempotency key"):
            await change(log, "run_1", ONE, idempotency=once("key"))
    assert (await log.current("run_1")).version == 2
    again = await change(log, "run_1", ONE, idempotency=once("key"))
    assert (again.is_replay, again.snapshot.version) == (True, 2)


async def test_connections_that_broke_while_they_were_idle_are_replaced_without_a_word(
    ledger: Ledger, log: Log, database: Database
) -> None:
    await create(log, "run_1")
    for _ in range(3):
        await asyncio.gather(*(log.current("run_1") for _ in range(20)))
        database.rows(
            "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        assert isinstance(await change(log, "run_1", ONE), Changed)
        await asyncio.gather(*(log.current("run_1") for _ in range(20)))
        assert (await log.run("run_1")).run.id == "run_1"
    assert (await log.current("run_1")).version == 4


async def test_a_node_that_froze_with_the_lock_stops_the_others_no_longer_than_the_timeout(
    open_ledger: OpenLedger, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    frozen, other = await open_ledger(), await open_ledger()
    held = await prepared(frozen)
    log = await other.log("dev")
    locked, go_on = threading.Event(), threading.Event()
    monkeypatch.setattr(connection, "IDLE_TIMEOUT_MS", 300)
    await other.keys.list(log.owner)
    store = frozen._store
    write = store.write

    def freezing(work: Any) -> Any:
        def held_up(transaction: Any) -> Any:
            transaction.rows(statements.LOCK_LOG, {"environment_id": held.owner.id})
            locked.set()
            assert go_on.wait(PATIENCE_S)
            return work(transaction)

        return write(held_up)

    # Its connection is made with the short timeout; that of the other waits longer.
    assert isinstance(store, postgres.PostgresStore)
    store._drop_idle_writers()
    store.write = freezing  # type: ignore[method-assign]
    stuck = asyncio.ensure_future(change(held, "run_1", ONE, idempotency=once("frozen")))
    assert await asyncio.to_thread(locked.wait, PATIENCE_S)
    monkeypatch.setattr(connection, "IDLE_TIMEOUT_MS", 10_000)
    assert (await change(log, "run_1", ONE)).snapshot.version == 2
    go_on.set()
    with pytest.raises((Busy, StorageFailed, OutcomeUnknown)):
        await stuck
    store.write = write  # type: ignore[method-assign]
    again = await change(held, "run_1", ONE, idempotency=once("frozen"))
    assert (again.is_replay, again.snapshot.version) == (False, 3)
    assert check_chain(database) == 4


async def test_who_waits_too_long_for_the_lock_is_told_to_come_back(
    open_ledger: OpenLedger, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "LOCK_TIMEOUT_MS", 200)
    log = await prepared(await open_ledger())
    with psycopg.connect(database.url) as holder:
        holder.execute("SELECT * FROM logs FOR UPDATE")
        with pytest.raises(Busy, match="nothing was written, try again"):
            await change(log, "run_1", ONE)
        assert (await log.current("run_1")).version == 1, "reads never wait for writers"
    assert (await change(log, "run_1", ONE)).snapshot.version == 2


async def test_a_server_that_is_away_is_said_so_and_found_again(
    open_ledger: OpenLedger, database: Database
) -> None:
    ledger = await open_ledger()
    log = await prepared(ledger)
    store = ledger._store
    assert isinstance(store, postgres.PostgresStore)
    there = dict(store._target)
    assert isinstance(store._target, dict)
    store._target["host"] = "/nowhere"
    database.rows(
        "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    for ask in (lambda: change(log, "run_1", ONE), lambda: log.current("run_1"), lambda: log.run("run_1")):
        with pytest.raises(StorageFailed):
            await ask()
    assert ledger._writer.is_alive
    store._target.update(there)
    assert (await change(log, "run_1", ONE)).snapshot.version == 2
    assert (await log.run("run_1")).run.version == 2


async def test_a_listener_that_lost_its_connection_watches_nothing_and_listens_again(
    ledger: Ledger, open_ledger: OpenLedger, database: Database
) -> None:
    other = await open_ledger()
    log = await other.log("dev")
    store = ledger._store
    assert isinstance(store, postgres.PostgresStore)
    loop = asyncio.get_running_loop()

    async def until(holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while not holds():
                with suppress(TimeoutError):  # As those who follow a log look again now and then.
                    async with asyncio.timeout(0.05):
                        await store.changed()

    for n in range(3):
        await until(lambda: store._listener._socket is not None)
        watched = store._listener._socket
        assert watched is not None
        database.rows(
            "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE query LIKE 'LISTEN%'"
            " AND datname = current_database()"
        )
        await until(lambda: store._listener._socket is None)
        assert loop.remove_reader(watched) is False, "whatever gets this number next would not be heard"
        await create(log, f"run_{n}")


async def test_who_waits_for_the_lock_of_one_environment_holds_up_no_other(
    ledger: Ledger, database: Database
) -> None:
    held, others = await ledger.log("held"), [await ledger.log(f"other{number}") for number in range(6)]
    for log in (held, *others):
        await create(log, "run_1", metadata={"n": 0})
    with psycopg.connect(database.url) as holder:
        holder.execute(
            "SELECT * FROM logs JOIN environments USING (environment_id) WHERE name = 'held' FOR UPDATE OF logs"
        )
        waiting = [asyncio.create_task(change(held, "run_1", ONE)) for _ in range(3)]
        for _ in range(5):
            await asyncio.gather(*(change(log, "run_1", ONE) for log in others))
        assert not any(task.done() for task in waiting)
    answers = await asyncio.gather(*waiting)
    assert [answer.snapshot.version for answer in answers] == [2, 3, 4]
    for log in others:
        assert (await log.current("run_1")).version == 6


def test_what_the_server_refuses_is_told_as_it_is_however_its_answer_is_split(database: Database) -> None:
    # One in a thousand refusals comes ahead of the rest of the answer; what was asked with it is read all the same.
    with connection.connect(connection.target_of(make_url(database.url))) as refused:
        for _ in range(5_000):
            with pytest.raises(errors.ReadOnlySqlTransaction):
                view(
                    refused, lambda reader: reader.rows(statements.FREE_REFUSALS, environment_id=1, run=1, place=1)
                )
        assert not refused.closed
