"""The engine as the ledger knows it: what is run on which connection, in which thread."""

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from threading import local
from typing import Any, NamedTuple, TypeVar

import psycopg
from psycopg.rows import tuple_row
from sqlalchemy import (
    URL,
    ClauseElement,
)

from ledger.errors import Busy, StorageSilent
from ledger.group import Transaction
from ledger.postgres.connection import SILENCE_MAX_S, Silence, connect, target_of
from ledger.postgres.failures import is_lost, translate
from ledger.postgres.listener import Listener
from ledger.postgres.schema import check_database, check_release
from ledger.postgres.texts import ask
from ledger.postgres.transaction import PostgresTransaction, Reader, view

WRITERS_MAX = 4  # threads, each with a connection, for groups of as many environments
READERS_MAX = 8  # threads, each with a connection, for reads
INSPECTION_IDLE_MS = 600_000  # milliseconds that a check of everything may think between two statements

_Result = TypeVar("_Result")


class _Writer(NamedTuple):
    """
    A connection that writes.

    Attributes:
        connection: The connection.
        pid: The server's process behind it, which a broken one does not know any more.
        marks: Whether rows say which transaction changed them; those of a Citus cluster lie elsewhere.
    """

    connection: psycopg.Connection[Any]
    pid: int
    marks: bool


class PostgresStore:
    """
    Transactions on one PostgreSQL database.

    Use `open` to make one and `close` to let it go.
    """

    answers_at_once = False
    writes_at_once = WRITERS_MAX

    def __init__(self, target: Mapping[str, Any]) -> None:
        self._target = target
        self._write_threads = ThreadPoolExecutor(max_workers=WRITERS_MAX, thread_name_prefix="ledger-writer")
        self._read_threads = ThreadPoolExecutor(max_workers=READERS_MAX, thread_name_prefix="ledger-reader")
        self._idle_writers: list[_Writer] = []
        self._writer_pids: set[int] = set()
        self._own = local()
        self._readers: list[psycopg.Connection[Any]] = []
        self._inspecting = asyncio.Lock()
        self._inspections: set[asyncio.Task[Any]] = set()
        self._listener = Listener(target, self._writer_pids)
        self._closed = False

    @classmethod
    async def open(cls, url: URL) -> "PostgresStore":
        """
        Connect to the database that *url* names, whose tables have to be those of this release.

        Raises:
            UnusableDatabase: It cannot be reached, or has other tables.
        """
        target = target_of(url)
        await asyncio.to_thread(check_database, target, url)
        return cls(target)

    async def close(self) -> None:
        """Close every connection."""
        if self._closed:
            return
        self._closed = True
        await self._listener.close()
        if self._inspections:
            await asyncio.wait(self._inspections)
        await asyncio.to_thread(self._close_all)

    async def write(self, work: Callable[[Transaction], _Result]) -> _Result:
        """
        Run *work* in one write transaction, in the writer's thread, and commit it.

        A caller that is cancelled does not stop it: the thread carries it to its end.

        Raises:
            OutcomeUnknown: The connection broke while it was being committed.
            Unavailable: Nothing was written.
        """
        self._refuse_closed()
        return await asyncio.get_running_loop().run_in_executor(self._write_threads, self._transact, work)

    async def read(self, work: Callable[[Reader], Coroutine[Any, Any, _Result]]) -> _Result:
        """
        Run *work* on a consistent view of the database, in a reader's thread.

        It may be run twice, where a connection turns out to be dead.

        Raises:
            Unavailable: It cannot be read.
        """
        return await self._in_reader(lambda connection: view(connection, work))

    async def inspect(self, work: Callable[[Transaction], _Result]) -> _Result:
        """
        Run *work* on one moment of the database, in a thread of its own, because it takes long.

        One at a time: several would only share the processor, and leave too little of it to everybody else.

        Raises:
            Unavailable: It cannot be read.
        """
        self._refuse_closed()
        task = asyncio.create_task(self._inspect(work))
        self._inspections.add(task)
        task.add_done_callback(self._inspections.discard)
        return await asyncio.shield(task)

    async def point(self, statement: ClauseElement, parameters: Mapping[str, Any]) -> Any:
        """The first row of a statement that finds it by its key, a plain tuple or None; one round trip."""

        def first_row(connection: psycopg.Connection[Any]) -> Any:
            return ask(connection, statement, parameters, row_factory=tuple_row).fetchone()

        return await self._in_reader(first_row)

    async def changed(self) -> None:
        """Wait until another connection has said that a log grew. A notice may be lost: look now and then, too."""
        self._refuse_closed()
        await self._listener.wait()

    def _refuse_closed(self) -> None:
        if self._closed:
            raise Busy("the ledger is closed; open it again")

    async def _in_reader(self, work: Callable[[psycopg.Connection[Any]], _Result]) -> _Result:
        """Read in a thread; whoever waits in vain, be it for a thread that is free, is told so in time."""
        self._refuse_closed()
        try:
            async with asyncio.timeout(SILENCE_MAX_S):
                return await asyncio.get_running_loop().run_in_executor(self._read_threads, self._read, work)
        except TimeoutError:
            raise StorageSilent(f"it has not answered for {SILENCE_MAX_S:g} seconds") from None

    def _read(self, work: Callable[[psycopg.Connection[Any]], _Result]) -> _Result:
        connection: psycopg.Connection[Any] | None = getattr(self._own, "connection", None)
        is_fresh = connection is None
        while True:
            try:
                if connection is None:
                    connection = self._own.connection = connect(self._target)
                    self._readers.append(connection)
                return work(connection)
            except psycopg.Error as error:
                if connection is None or not connection.closed:
                    translate(error)
                # The server restarted, or the network dropped the connection while it was idle.
                self._drop_own(connection)
                connection = None
                if is_fresh or isinstance(error, Silence):
                    translate(error)
                is_fresh = True

    def _drop_own(self, connection: psycopg.Connection[Any]) -> None:
        self._own.connection = None
        self._readers.remove(connection)
        connection.close()

    async def _inspect(self, work: Callable[[Transaction], _Result]) -> _Result:
        async with self._inspecting:
            return await asyncio.to_thread(inspect_target, self._target, work)

    def _transact(self, work: Callable[[Transaction], _Result]) -> _Result:
        writer: _Writer | None = None
        with suppress(IndexError):  # Another thread may be faster.
            writer = self._idle_writers.pop()
        is_fresh = writer is None
        while True:
            transaction: PostgresTransaction | None = None
            try:
                if writer is None:
                    writer = self._new_writer()
                transaction = PostgresTransaction(writer.connection, marks=writer.marks)
                result = work(transaction)
                transaction.commit()
            except BaseException as error:
                # Whatever failed, closing gives up the lock and rolls back, and a connection that saw the storage
                # fail is not trusted again.
                if writer is not None:
                    self._drop_writer(writer)
                    writer = None
                if not isinstance(error, psycopg.Error):
                    raise
                is_stale = transaction is not None and not transaction.has_begun and not is_fresh
                if is_stale and is_lost(error) and not isinstance(error, Silence):
                    is_fresh = True  # It broke while it was idle, and nothing was done on it yet.
                    continue
                translate(error)
            else:
                self._idle_writers.append(writer)
                return result

    def _new_writer(self) -> _Writer:
        connection = connect(self._target, writes=True)
        try:
            is_citus = (
                connection.execute("SELECT 1 FROM pg_extension WHERE extname = 'citus'").fetchone() is not None
            )
        except psycopg.Error:
            connection.close()
            raise
        writer = _Writer(connection, connection.info.backend_pid, marks=not is_citus)
        self._writer_pids.add(writer.pid)
        return writer

    def _drop_writer(self, writer: _Writer) -> None:
        self._writer_pids.discard(writer.pid)
        writer.connection.close()

    def _drop_idle_writers(self) -> None:
        while self._idle_writers:
            self._drop_writer(self._idle_writers.pop())

    def _close_all(self) -> None:
        self._write_threads.shutdown()
        self._drop_idle_writers()
        self._read_threads.shutdown()
        for connection in self._readers:
            connection.close()


def inspect_target(target: Mapping[str, Any], work: Callable[[Transaction], _Result]) -> _Result:
    """
    Run *work* on one moment of a database, on a connection of its own, which cannot write.

    Raises:
        UnusableDatabase: It has no tables of this release.
        Unavailable: It cannot be read.
    """
    try:
        with connect(target, is_patient=True) as connection:
            connection.execute(f"SET idle_in_transaction_session_timeout = {INSPECTION_IDLE_MS}")
            check_release(connection)
            transaction = PostgresTransaction(connection, "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            result = work(transaction)
            connection.execute("ROLLBACK")
            return result
    except psycopg.Error as error:
        translate(error)
