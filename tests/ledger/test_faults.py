"""Storage that fails: what callers are told is exactly what is stored, and the ledger goes on afterwards."""

import asyncio
import json
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import psycopg
import pytest

from ledger import sqlite
from ledger.answers import Changed
from ledger.errors import Busy, StorageFailed, StorageFull, Unavailable, WrongExpectedVersion
from ledger.ledger import Ledger
from ledger.log import Log
from ledger.writes import CreateRun
from projections.errors import Refusal, TooLarge
from projections.lifecycle import Status
from projections.operations import Increment, Set
from tests.ledger.chain_oracle import check_file
from tests.ledger.support import Clock, Database, change, check_chain, check_sound, create, events, move, once

ONE = Increment(key="n", value=1)


class Faults:
    """Raises an error at the n-th statement that the writer's connections send."""

    def __init__(self) -> None:
        self.at = 0
        self.seen = 0
        self.error: Callable[[], Exception] = RuntimeError
        self.after = False
        self.statements: list[str] = []
        self.poison: Callable[[str, Any], bool] = lambda *_: False

    def plan(self, at: int, error: Callable[[], Exception]) -> None:
        self.at, self.error, self.seen = at, error, 0
        self.statements = []

    def check(self, statement: str, parameters: Any) -> None:
        if statement.startswith("PRAGMA"):
            return
        self.seen += 1
        self.statements.append(statement.split(maxsplit=1)[0])
        if self.seen == self.at or self.poison(statement, parameters):
            raise self.error()


class Failing(sqlite3.Connection):
    faults: Faults

    def execute(self, statement: str, parameters: Any = (), /) -> sqlite3.Cursor:
        self.faults.check(statement, parameters)
        return super().execute(statement, parameters)

    def executemany(self, statement: str, parameters: Any, /) -> sqlite3.Cursor:
        parameters = [*parameters]
        self.faults.check(statement, parameters)
        return super().executemany(statement, parameters)


def driver_error(kind: type[sqlite3.Error], code: int, name: str) -> Callable[[], Exception]:
    def make() -> Exception:
        error = kind(f"injected {name}")
        error.sqlite_errorcode = code
        error.sqlite_errorname = name
        return error

    return make


ERRORS: dict[str, tuple[Callable[[], Exception], type[Exception]]] = {
    "full": (driver_error(sqlite3.OperationalError, sqlite3.SQLITE_FULL, "SQLITE_FULL"), StorageFull),
    "write": (
        driver_error(sqlite3.OperationalError, sqlite3.SQLITE_IOERR_WRITE, "SQLITE_IOERR_WRITE"),
        StorageFull,
    ),
    "busy": (driver_error(sqlite3.OperationalError, sqlite3.SQLITE_BUSY, "SQLITE_BUSY"), Busy),
    "snapshot": (
        driver_error(sqlite3.OperationalError, sqlite3.SQLITE_BUSY_SNAPSHOT, "SQLITE_BUSY_SNAPSHOT"),
        Busy,
    ),
    "fsync": (
        driver_error(sqlite3.OperationalError, sqlite3.SQLITE_IOERR_FSYNC, "SQLITE_IOERR_FSYNC"),
        StorageFailed,
    ),
    "corrupt": (driver_error(sqlite3.DatabaseError, sqlite3.SQLITE_CORRUPT, "SQLITE_CORRUPT"), StorageFailed),
    "memory": (driver_error(sqlite3.OperationalError, sqlite3.SQLITE_NOMEM, "SQLITE_NOMEM"), StorageFailed),
    "read-only": (
        driver_error(sqlite3.OperationalError, sqlite3.SQLITE_READONLY, "SQLITE_READONLY"),
        StorageFailed,
    ),
    "constraint": (
        driver_error(sqlite3.IntegrityError, sqlite3.SQLITE_CONSTRAINT_UNIQUE, "SQLITE_CONSTRAINT_UNIQUE"),
        sqlite3.IntegrityError,
    ),
    "overflow": (lambda: OverflowError("injected"), OverflowError),
    "assertion": (lambda: AssertionError("injected"), AssertionError),
    "bug": (lambda: KeyError("injected"), KeyError),
}


@pytest.fixture
def faults(monkeypatch: pytest.MonkeyPatch) -> Iterator[Faults]:
    """Every connection of the store from now on may fail; the event loop's own is only read with."""
    faults = Faults()
    connecting = sqlite3.connect

    class Wired(Failing):
        pass

    Wired.faults = faults

    def connect(*arguments: Any, **options: Any) -> sqlite3.Connection:
        connection: sqlite3.Connection = connecting(*arguments, **{"factory": Wired, **options})
        return connection

    class Driver:
        def __getattr__(self, name: str) -> Any:
            return connect if name == "connect" else getattr(sqlite3, name)

    monkeypatch.setattr(sqlite, "sqlite3", Driver())
    yield faults
    faults.plan(0, RuntimeError)


async def prepared(ledger: Ledger) -> Log:
    log = await ledger.log("dev")
    await create(log, "root")
    await create(log, "run_1", parent="root")
    return log


def state(database: Database) -> dict[str, Any]:
    tables = ("runs", "events", "snapshots", "refusals", "idempotency", "logs", "environments")
    return {table: database.rows(f"SELECT * FROM {table}") for table in tables}


@pytest.mark.only("sqlite")
@pytest.mark.parametrize("kind", ERRORS)
async def test_an_error_at_any_statement_of_a_lone_write_leaves_no_trace(
    faults: Faults, open_ledger: Callable[..., Any], database: Database, kind: str
) -> None:
    make, expected = ERRORS[kind]
    ledger = await open_ledger()
    log = await prepared(ledger)
    many = [ONE] * 50  # Enough for a snapshot.

    async def ask(key: str) -> Changed:
        return await change(log, "run_1", *many, parent_operations=many, idempotency=once(key))

    faults.plan(0, make)
    await ask("counting")
    count = faults.seen
    assert {"BEGIN", "SELECT", "UPDATE", "INSERT", "COMMIT"} <= set(faults.statements)
    for at in range(1, count + 1):
        before = state(database)
        faults.plan(at, make)
        with pytest.raises(expected):
            await ask(f"key {at}")
        assert faults.seen == at
        assert state(database) == before
        assert ledger._writer.is_alive
        faults.plan(0, make)
        answer = await ask(f"key {at}")
        assert (answer.is_replay, answer.snapshot.version) == (False, 1 + 50 * (at + 1))
    assert check_chain(database) == 2 + 100 * (count + 1)


@pytest.mark.only("sqlite")
@pytest.mark.parametrize("kind", ["full", "busy", "fsync", "constraint", "bug"])
async def test_an_error_at_any_statement_of_a_group_is_told_as_it_is(
    faults: Faults, open_ledger: Callable[..., Any], database: Database, kind: str
) -> None:
    make, expected = ERRORS[kind]
    ledger = await open_ledger()
    log = await prepared(ledger)

    async def group(round_: int) -> Sequence[Any]:
        answers: Sequence[Any] = await asyncio.gather(
            change(log, "run_1", ONE, idempotency=once(f"{round_} a")),
            change(log, "run_1", Set(key="big", value="x" * 5_000)),
            create(log, f"new_{round_}", parent="run_1"),
            move(log, "run_1", Status.EXECUTING if round_ % 2 else Status.WAITING),
            change(
                log, "run_1", ONE, parent_operations=[ONE], root_operations=[ONE], idempotency=once(f"{round_} b")
            ),
            return_exceptions=True,
        )
        return answers

    faults.plan(0, make)
    await group(0)
    count = faults.seen
    for at in range(1, count + 1):
        version, root = (await log.current("run_1")).version, (await log.current("root")).version
        refusals = (await log.refusals("run_1"))[-1].number
        faults.plan(at, make)
        a, big, new, moved, b = await group(at)
        if faults.seen < at:  # Only the first group had so many statements.
            assert at > count - 2
            break
        faults.plan(0, make)
        if expected in {StorageFull, Busy, StorageFailed}:
            assert [type(answer) for answer in (a, big, new, moved, b)] == [expected] * 5
            assert ((await log.current("run_1")).version, (await log.current("root")).version) == (version, root)
            assert (await log.refusals("run_1"))[-1].number == refusals
            assert database.value("SELECT count(*) FROM idempotency WHERE key LIKE ?", [f"{at} %"]) == 0
        else:
            # Tried each alone, all of them succeed.
            assert [type(answer).__name__ for answer in (a, big, new, moved, b)] == [
                "Changed",
                "TooLarge",
                "Created",
                "Moved",
                "Changed",
            ]
            assert ((await log.current("run_1")).version, (await log.current("root")).version) == (
                version + 3,
                root + 2,
            )
            assert (await log.refusals("run_1"))[-1].number == refusals + 1
    faults.plan(0, make)
    assert ledger._writer.is_alive
    check_chain(database)


@pytest.mark.only("sqlite")
async def test_a_failure_of_the_second_try_alone_is_told_to_that_one(
    faults: Faults, open_ledger: Callable[..., Any], database: Database
) -> None:
    ledger = await open_ledger()
    log = await prepared(ledger)

    def poison(statement: str, parameters: Any) -> bool:
        return "POISON" in repr(parameters)

    faults.plan(0, ERRORS["constraint"][0])
    faults.poison = poison
    answers = await asyncio.gather(
        *(change(log, "run_1", Set(key="a", value="POISON" if n == 7 else n), ONE) for n in range(20)),
        create(log, "POISON"),
        create(log, "new"),
        return_exceptions=True,
    )
    wrong = [n for n, answer in enumerate(answers) if isinstance(answer, BaseException)]
    assert wrong == [7, 20]
    assert all(isinstance(answers[n], sqlite3.IntegrityError) for n in wrong)
    assert json.loads((await log.current("run_1")).text) == {"a": 19, "n": 19}
    assert check_chain(database) == 2 + 38 + 1


ODD_REQUESTS: dict[str, Callable[[Log], Any]] = {
    "half a character in a name": lambda log: log.create(CreateRun(run_id="x", task="\ud800")),
    "half a character in a key": lambda log: change(log, "run_1", ONE, idempotency=once("\ud800")),
    "half a character in a trigger's key": lambda log: create(
        log, "x", idempotency_key="\ud800", idempotency_ttl_s=9
    ),
    "an attempt that no column holds": lambda log: change(log, "run_1", ONE, attempt=2**70),
    "an attempt that no column holds, in a step": lambda log: move(log, "run_1", Status.EXECUTING, attempt=2**70),
    "what is no JSON": lambda log: create(log, "x", payload=object()),
    "a number that is none": lambda log: create(log, "x", metadata={"a": float("nan")}),
    "what is no operation": lambda log: change(log, "run_1", "set a to 1"),  # type: ignore[arg-type]
    "a time to live without end": lambda log: create(log, "x", idempotency_key="k", idempotency_ttl_s=2**60),
}


@pytest.mark.parametrize("kind", ODD_REQUESTS)
async def test_one_request_that_cannot_be_stored_fails_alone(
    log: Log, ledger: Ledger, database: Database, kind: str
) -> None:
    await create(log, "run_1")
    answers: Sequence[Any] = await asyncio.gather(
        *(change(log, "run_1", ONE) for _ in range(10)),
        ODD_REQUESTS[kind](log),
        change(log, "run_1", ONE, expected=frozenset({11})),
        return_exceptions=True,
    )
    *others, odd, last = answers
    assert isinstance(odd, Exception)
    assert not isinstance(odd, Unavailable | Refusal), "trying again would not help"
    assert [answer.snapshot.version for answer in [*others, last]] == list(range(2, 13))
    assert ledger._writer.is_alive
    assert check_chain(database) == 12


@pytest.mark.altered
async def test_a_database_changed_behind_its_back_fails_one_run_and_no_other(
    log: Log, ledger: Ledger, database: Database
) -> None:
    await create(log, "run_1")
    await create(log, "run_2")
    database.rows("UPDATE runs SET version = 0 WHERE run_id = 'run_1'")
    database.rows("UPDATE logs SET epoch = epoch")  # PostgreSQL says only then that somebody wrote.
    answers = await asyncio.gather(change(log, "run_1", ONE), change(log, "run_2", ONE), return_exceptions=True)
    refused = psycopg.errors.UniqueViolation if database.is_postgres else sqlite3.IntegrityError
    assert [type(answer) for answer in answers] == [refused, Changed]
    assert [event.version for event in await events(log, "run_2")] == [1, 2]


FULL_DISK = """
import asyncio, json, resource, signal, sys
from ledger.errors import StorageFull
from ledger.ledger import Ledger
from ledger.writes import ChangeMetadata, CreateRun, IdempotencyKey
from projections.operations import Increment, Set

async def main(path):
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    ledger = await Ledger.open(f"sqlite+aiosqlite:///{path}")
    log = await ledger.log("dev")
    await log.create(CreateRun(run_id="run_1", task="t"))
    told = []

    async def ask(n):
        operations = [Increment(key="n", value=1), Set(key="fill", value=str(n) * 500)]
        key = IdempotencyKey(f"k{n}", b"")
        return await log.change(ChangeMetadata(run_id="run_1", operations=operations), idempotency=key)

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    for limit in (300_000, 900_000, 1_500_000):
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
        failed = []
        n = len(told)
        while len(failed) < 5:
            before = await log.current("run_1")
            try:
                told.append((await ask(n)).snapshot.version)
                n += 1
                assert len(told) < 20_000, "the disk is never full"
            except StorageFull as error:
                failed.append(n)
                assert "space" in str(error)
                assert await log.current("run_1") == before
                assert (await log.metadata("run_1")).version == before.version
                assert ledger._writer.is_alive
        many = await asyncio.gather(*(ask(n + i) for i in range(20)), return_exceptions=True)
        assert {type(answer) for answer in many} == {StorageFull}, many
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        told.append((await ask(n)).snapshot.version)
    current = await log.current("run_1")
    await ledger.close()
    print(json.dumps([told, current.version, json.loads(current.text)["n"]]))

asyncio.run(main(sys.argv[1]))
"""


def test_a_full_disk_refuses_leaves_no_trace_and_recovers_without_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    told, version, n = json.loads(done.stdout)
    assert len(told) > 30
    assert told == list(range(3, 3 + 2 * len(told), 2))
    assert (version, n) == (told[-1], len(told))
    assert check_file(path) == version
    check_sound(path)


async def test_a_database_that_cannot_be_written_is_said_so_and_still_read(
    log: Log, ledger: Ledger, database: Database, clock: Clock
) -> None:
    await create(log, "run_1")
    await change(log, "run_1", ONE)
    database.rows("ALTER TABLE snapshots RENAME TO elsewhere")
    many = [ONE] * 100
    with pytest.raises(StorageFailed, match="nothing was written"):
        await change(log, "run_1", *many)
    assert (await log.current("run_1")).version == 2
    assert len(await events(log, "run_1")) == 2
    database.rows("ALTER TABLE elsewhere RENAME TO snapshots")
    assert (await change(log, "run_1", *many)).snapshot.version == 102
    with pytest.raises(TooLarge):
        await change(log, "run_1", Set(key="a", value="x" * 5_000))
    with pytest.raises(WrongExpectedVersion):
        await change(log, "run_1", ONE, expected=frozenset({1}))
