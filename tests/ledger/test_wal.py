"""The write-ahead log of a SQLite file is kept short, and nobody who has written waits for that."""

import asyncio
import sqlite3
import threading
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from ledger.log import Log
from ledger.sqlite import FOLD_PAGES, SqliteStore
from ledger.wal import FRAME_HEADER_BYTES, HEADER_BYTES, WriteAheadLog
from projections.operations import Set
from tests.ledger.conftest import OpenLedger
from tests.ledger.support import Database, change, create

pytestmark = pytest.mark.only("sqlite")

PAGE_BYTES = 4_096


def frames(path: Path) -> int:
    """The pages for which the log has room, whatever is in it."""
    return (path.with_name(f"{path.name}-wal").stat().st_size - HEADER_BYTES) // (FRAME_HEADER_BYTES + PAGE_BYTES)


async def fill(log: Log, count: int) -> None:
    """Write some five pages with each change."""
    for number in range(count):
        await change(log, "run_1", Set(key="x", value=f"{number:05}" * 700))


def test_it_is_known_how_many_pages_a_log_holds(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.executescript(
            "PRAGMA journal_mode = WAL; PRAGMA wal_autocheckpoint = 0; BEGIN IMMEDIATE; COMMIT"
        )
        log = WriteAheadLog(path)
        assert not log.holds(1)
        connection.execute("CREATE TABLE t (x)")
        for _ in range(30):
            connection.execute("INSERT INTO t VALUES (zeroblob(3000))")
        held = frames(path)
        assert log.holds(1)
        assert log.holds(held)
        assert not log.holds(held + 1)
        assert connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone() == (0, held, held)
        connection.execute("INSERT INTO t VALUES (1)")  # The log is begun anew, and is as large as before.
        assert frames(path) == held
        assert log.holds(1)
        assert not log.holds(held)
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        assert not log.holds(1)
        log.close()


def test_there_may_be_no_log(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        WriteAheadLog(tmp_path / "a.db")


async def test_the_log_stays_short(open_ledger: OpenLedger, database: Database) -> None:
    ledger = await open_ledger()
    log = await ledger.log("dev")
    await create(log, "run_1")
    await fill(log, 1_000)
    assert FOLD_PAGES <= frames(database.path) < 2 * FOLD_PAGES


async def test_a_reader_makes_it_longer_as_long_as_it_reads(open_ledger: OpenLedger, database: Database) -> None:
    ledger = await open_ledger()
    log = await ledger.log("dev")
    await create(log, "run_1")
    with closing(sqlite3.connect(database.path, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM events").fetchone()
        await fill(log, 600)
        longest = frames(database.path)
        assert longest > 2 * FOLD_PAGES
        reader.execute("ROLLBACK")
    await fill(log, 600)
    assert frames(database.path) < longest + 20  # It was begun anew in the same place.
    assert (await log.run("run_1")).run.version == 1_201


async def test_who_has_written_does_not_wait_for_it(
    open_ledger: OpenLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go_on = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()
    folded = 0
    fold = SqliteStore._fold_log

    def fold_slowly(store: SqliteStore) -> None:
        nonlocal folded
        loop.call_soon_threadsafe(begun.set)
        assert go_on.wait(60)
        fold(store)
        folded += 1

    monkeypatch.setattr(SqliteStore, "_fold_log", fold_slowly)
    ledger = await open_ledger()
    log = await ledger.log("dev")
    await create(log, "run_1")
    written = 1
    while not begun.is_set():
        await fill(log, 1)  # Answered, although the log is being folded behind the last of them.
        written += 1
        await asyncio.sleep(0.001)
    assert folded == 0
    assert (await log.run("run_1")).run.version == written
    go_on.set()
    await fill(log, 1)
    assert folded == 1


async def test_what_cannot_be_folded_is_still_in_the_log(
    open_ledger: OpenLedger, database: Database, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Failing:
        """A connection whose file takes no more."""

        def __init__(self, connection: sqlite3.Connection) -> None:
            self._connection = connection

        def execute(self, text: str, *parameters: Any) -> sqlite3.Cursor:
            if "wal_checkpoint" in text:
                raise sqlite3.OperationalError("database or disk is full")
            return self._connection.execute(text, *parameters)

        def __getattr__(self, name: str) -> object:
            return getattr(self._connection, name)

    fold = SqliteStore._fold_log

    def fold_in_vain(store: SqliteStore) -> None:
        store._writer = Failing(store._writer)  # type: ignore[assignment, arg-type]
        fold(store)

    monkeypatch.setattr(SqliteStore, "_fold_log", fold_in_vain)
    ledger = await open_ledger()
    log = await ledger.log("dev")
    await create(log, "run_1")
    await fill(log, 400)
    assert "could not be folded back into it: database or disk is full" in caplog.text
    assert (await log.run("run_1")).run.version == 401
    await ledger.close()
    assert (await (await (await open_ledger()).log("dev")).run("run_1")).run.version == 401
