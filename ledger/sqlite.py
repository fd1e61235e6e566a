"""
The embedded engine: one SQLite file, shared by any number of threads and processes.

One thread writes, on one connection that nothing else touches: a whole group of requests costs one hop to that
thread and one sync. Larger reads go through a pool of aiosqlite connections. The read of one head is answered on
the spot, on a connection of the event loop's own thread: SQLite finds it in microseconds, and a hop costs fifty
times that.

WAL with `synchronous=FULL`: a commit returns after the log is synced, and readers never wait for writers.
"""

import asyncio
import logging
import sqlite3
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url, pool
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from ledger import statements
from ledger.errors import Busy, LedgerError, StorageFailed, StorageFull, UnusableDatabase
from ledger.migrate import upgrade

BUSY_TIMEOUT_MS = 10_000  # milliseconds to wait for another process's write lock
READERS_MAX = 4  # connections for reads that are not answered on the spot

# Before these versions two connections that write and checkpoint at the same time could damage the file.
# Source: the SQLite 3.51.3 release notes (the WAL-reset bug) and its backports.
_WAL_RESET_FIXED = ((3, 51, 3), (3, 50, 7), (3, 44, 6))

_PRAGMAS = (
    f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}",
    "PRAGMA journal_mode = WAL",
    "PRAGMA synchronous = FULL",
    "PRAGMA foreign_keys = ON",
    "PRAGMA trusted_schema = OFF",
)

_FULL = {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_WRITE, sqlite3.SQLITE_IOERR_SHMSIZE}
_BUSY = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}

_logger = logging.getLogger(__name__)
_Result = TypeVar("_Result")


class SqliteStore:
    """
    Transactions on one SQLite file.

    Use `open` to make one and `close` to let it go.
    """

    def __init__(self, path: Path, writer: Engine, thread: ThreadPoolExecutor, readers: AsyncEngine) -> None:
        self._writer = writer
        self._thread = thread
        self._readers = readers
        self._point = _connect(path)
        self._current = statements.as_sqlite(statements.CURRENT)

    @classmethod
    async def open(cls, url: URL) -> "SqliteStore":
        """
        Open the file that *url* names, make it if it is not there, and bring its tables up to date.

        Raises:
            UnusableDatabase: It is no database, a newer release wrote it, or it cannot be opened.
        """
        path = _file(url)
        writer = create_engine(
            url.set(drivername="sqlite+pysqlite"),
            poolclass=pool.StaticPool,
            connect_args={"check_same_thread": False, "timeout": BUSY_TIMEOUT_MS / 1000},
        )
        readers = create_async_engine(
            url.set(drivername="sqlite+aiosqlite"),
            pool_size=READERS_MAX,
            max_overflow=0,
            connect_args={"timeout": BUSY_TIMEOUT_MS / 1000},
        )
        event.listen(writer, "connect", _prepare)
        event.listen(writer, "begin", _begin_immediate)
        event.listen(readers.sync_engine, "connect", _prepare)
        event.listen(readers.sync_engine, "begin", _begin)
        thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="ledger-writer")
        _warn_about_old_sqlite()
        try:
            await asyncio.get_running_loop().run_in_executor(thread, _migrate, writer)
            return cls(path, writer, thread, readers)
        except (DBAPIError, sqlite3.Error) as error:
            thread.shutdown()
            raise UnusableDatabase(f"cannot open {path}: {_reason(error)}") from error
        except UnusableDatabase:
            thread.shutdown()
            raise

    async def close(self) -> None:
        """Close every connection. The last one of all processes folds the log back into the file."""
        self._point.close()
        await self._readers.dispose()
        await asyncio.get_running_loop().run_in_executor(self._thread, self._writer.dispose)
        self._thread.shutdown()

    async def write(self, work: Callable[[Connection], _Result]) -> _Result:
        """
        Run *work* in one write transaction, in the writer's thread, and commit it.

        To be awaited by one task only, which is not cancelled while it waits: the thread goes on regardless.

        Raises:
            Unavailable: Nothing was written.
        """
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._transact, work)

    @asynccontextmanager
    async def reading(self) -> AsyncIterator["Reader"]:
        """A consistent view of the database for as long as the block lasts."""
        try:
            async with self._readers.connect() as connection, connection.begin():
                yield Reader(connection)
        except DBAPIError as error:
            _translate(error)

    def current(self, environment_id: int, run_id: str) -> tuple[str, int, int] | None:
        """The current metadata of a run, its version and its size in bytes; answered at once."""
        try:
            row: tuple[str, int, int] | None = self._point.execute(
                self._current, {"environment_id": environment_id, "run_id": run_id}
            ).fetchone()
        except sqlite3.Error as error:
            _translate(error)
        return row

    def _transact(self, work: Callable[[Connection], _Result]) -> _Result:
        try:
            with self._writer.connect() as connection:
                try:
                    with connection.begin():
                        return work(connection)
                except BaseException:
                    # Whatever failed, the next group begins on a connection that holds no lock. A connection
                    # that saw the storage fail is not trusted again.
                    connection.invalidate()
                    raise
        except DBAPIError as error:
            _translate(error)


class Reader:
    """Reads on one connection, in one transaction."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    async def rows(self, statement: Any, **parameters: Any) -> list[Any]:
        """All rows of a statement as mappings."""
        found = await self._connection.execute(statement, parameters)
        return list(found.mappings().all())

    async def row(self, statement: Any, **parameters: Any) -> Any | None:
        """The first row of a statement, None without one."""
        found = await self._connection.execute(statement, parameters)
        return found.mappings().first()


def _migrate(engine: Engine) -> None:
    with engine.connect() as connection, connection.begin():
        upgrade(connection)


def _connect(path: Path) -> sqlite3.Connection:
    """The connection of the event loop's thread; it reads only."""
    connection = sqlite3.connect(path, isolation_level=None, timeout=BUSY_TIMEOUT_MS / 1000)
    _prepare(connection, None)
    connection.execute("PRAGMA query_only = ON")
    return connection


def _prepare(connection: Any, _record: object) -> None:
    """Set up a connection: BEGIN is ours to send, not the driver's."""
    connection.isolation_level = None
    cursor = connection.cursor()
    for pragma in _PRAGMAS:
        cursor.execute(pragma)
    cursor.close()


def _begin_immediate(connection: Connection) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE")


def _begin(connection: Connection) -> None:
    connection.exec_driver_sql("BEGIN")


def _file(url: URL) -> Path:
    if url.database in {None, "", ":memory:"} or str(url.database).startswith("file:"):
        raise UnusableDatabase(
            f"{url.render_as_string()} names no file; write sqlite+aiosqlite:///run-ledger.db, "
            "or four slashes before an absolute path"
        )
    if url.query:
        raise UnusableDatabase(
            f"{url.render_as_string()} has parameters behind a question mark; a SQLite file takes none"
        )
    path = Path(str(url.database))
    if not path.parent.is_dir():
        raise UnusableDatabase(f"there is no folder {path.parent} for the database; make it first")
    return path


def _translate(error: DBAPIError | sqlite3.Error) -> NoReturn:
    """Say in the ledger's words what the driver said, and keep the cause."""
    raise translated(error) from error


def translated(error: BaseException) -> LedgerError:
    """The ledger's error for a driver's."""
    cause = error.orig if isinstance(error, DBAPIError) else error
    code = getattr(cause, "sqlite_errorcode", 0)
    if code in _FULL:
        return StorageFull(_reason(error))
    if code & 0xFF in _BUSY:
        return Busy(
            f"another process has held the write lock for {BUSY_TIMEOUT_MS // 1000} seconds; "
            "nothing was written, try again"
        )
    return StorageFailed(_reason(error))


def _reason(error: BaseException) -> str:
    cause = error.orig if isinstance(error, DBAPIError) else error
    name = getattr(cause, "sqlite_errorname", None)
    return f"{cause}, {name}" if name else str(cause)


def _warn_about_old_sqlite() -> None:
    version = sqlite3.sqlite_version_info
    fixed = any(version[:2] == release[:2] and version >= release for release in _WAL_RESET_FIXED)
    if not fixed and version < _WAL_RESET_FIXED[0]:
        _logger.warning(
            "SQLite %s can damage a file when several processes write and checkpoint it at once; "
            "use 3.51.3, 3.50.7, 3.44.6 or later before you let more than one process write",
            sqlite3.sqlite_version,
        )


def is_sqlite(url: str) -> bool:
    """Whether a database URL is for this engine."""
    return make_url(url).get_backend_name() == "sqlite"
