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
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import cache
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from sqlalchemy import URL, ClauseElement, Connection, create_engine, event, pool
from sqlalchemy.dialects import sqlite
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from ledger import statements
from ledger.errors import Busy, StorageFailed, StorageFull, UnusableDatabase
from ledger.group import Transaction
from ledger.migrate import refuse_foreign, upgrade

BUSY_TIMEOUT_MS = 10_000  # milliseconds to wait for another process's write lock
WAL_RETRY_S = 0.01  # seconds between two attempts to switch a new file to WAL
READERS_MAX = 4  # connections for reads that are not answered on the spot

# Before these versions two connections that write and checkpoint at the same time could damage the file.
# Source: the SQLite 3.51.3 release notes (the WAL-reset bug) and its backports.
_WAL_RESET_FIXED = ((3, 51, 3), (3, 50, 7), (3, 44, 6))

_PRAGMAS = (
    f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}",
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

    def __init__(self, path: Path, thread: ThreadPoolExecutor, readers: AsyncEngine) -> None:
        self._path = path
        self._thread = thread
        self._writer: sqlite3.Connection | None = None
        self._readers = readers
        self._closed = False
        self._reads: set[asyncio.Task[Any]] = set()
        self._point = _connect(path)
        self._point.row_factory = None
        self._point.execute("PRAGMA query_only = ON")

    @classmethod
    async def open(cls, url: URL) -> "SqliteStore":
        """
        Open the file that *url* names, make it if it is not there, and bring its tables up to date.

        Raises:
            UnusableDatabase: It is no database, a newer release wrote it, or it cannot be opened.
        """
        path = database_file(url)
        readers = create_async_engine(
            url.set(drivername="sqlite+aiosqlite"),
            pool_size=READERS_MAX,
            max_overflow=0,
            connect_args={"timeout": BUSY_TIMEOUT_MS / 1000},
        )
        event.listen(readers.sync_engine, "connect", _on_connect)
        event.listen(readers.sync_engine, "begin", _begin)
        thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="ledger-writer")
        try:
            await asyncio.get_running_loop().run_in_executor(thread, _prepare_file, path, url)
            return cls(path, thread, readers)
        except (DBAPIError, sqlite3.Error) as error:
            thread.shutdown()
            raise UnusableDatabase(f"cannot open {path}: {_reason(error)}") from error
        except UnusableDatabase:
            thread.shutdown()
            raise

    async def close(self) -> None:
        """Close every connection. The last one of all processes folds the log back into the file."""
        if self._closed:
            return
        self._closed = True
        self._point.close()
        if self._reads:
            await asyncio.wait(self._reads)
        await self._readers.dispose()
        await asyncio.get_running_loop().run_in_executor(self._thread, self._close_writer)
        self._thread.shutdown()

    async def write(self, work: Callable[[Transaction], _Result]) -> _Result:
        """
        Run *work* in one write transaction, in the writer's thread, and commit it.

        A caller that is cancelled does not stop it: the thread carries it to its end.

        Raises:
            Unavailable: Nothing was written.
        """
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._transact, work)

    async def read(self, work: Callable[["Reader"], Awaitable[_Result]]) -> _Result:
        """
        Run *work* on a consistent view of the database.

        A caller that is cancelled does not stop it: a statement cut short would leave its connection in the middle
        of a read, the log could not be folded back into the file and would grow without end.
        """
        self._refuse_closed()
        task = asyncio.create_task(self._read(work))
        self._reads.add(task)
        task.add_done_callback(self._reads.discard)
        return await asyncio.shield(task)

    def current(self, environment_id: int, run_id: str) -> tuple[str, int, int] | None:
        """The current metadata of a run, its version and its size in bytes; answered at once."""
        row: tuple[str, int, int] | None = self.point(
            statements.CURRENT, {"environment_id": environment_id, "run_id": run_id}
        )
        return row

    def point(self, statement: ClauseElement, parameters: Mapping[str, Any]) -> Any:
        """The first row of a statement that finds it by its key, a plain tuple or None; answered at once."""
        self._refuse_closed()
        try:
            return self._point.execute(_text(statement), parameters).fetchone()
        except sqlite3.Error as error:
            _translate(error)

    async def _read(self, work: Callable[["Reader"], Awaitable[_Result]]) -> _Result:
        try:
            async with self._readers.connect() as connection, connection.begin():
                return await work(Reader(connection))
        except DBAPIError as error:
            _translate(error)

    def _refuse_closed(self) -> None:
        if self._closed:
            raise Busy("the ledger is closed; open it again")

    def _transact(self, work: Callable[[Transaction], _Result]) -> _Result:
        try:
            if self._writer is None:
                self._writer = _connect(self._path)
            self._writer.execute("BEGIN IMMEDIATE")
            result = work(SqliteTransaction(self._writer))
            self._writer.execute("COMMIT")
        except BaseException as error:
            # Whatever failed, closing gives up the lock and rolls back, and a connection that saw the storage fail
            # is not trusted again.
            self._close_writer()
            if isinstance(error, sqlite3.Error):
                _translate(error)
            raise
        return result

    def _close_writer(self) -> None:
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.close()


class SqliteTransaction:
    """
    An open write transaction: the ledger's statements, run by Python's own driver.

    SQLAlchemy writes their text once; to run them through it would cost more than running them does.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def rows(self, statement: ClauseElement, parameters: Mapping[str, Any]) -> Sequence[Any]:
        """All rows of a statement, by column name."""
        return self._connection.execute(_text(statement), parameters).fetchall()

    def send(self, statement: ClauseElement, rows: Sequence[Mapping[str, Any]]) -> None:
        """Run a statement once for each of *rows*."""
        self._connection.executemany(_text(statement), rows)


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


@cache
def _text(statement: ClauseElement) -> str:
    """The text of a statement, with named parameters for what its callers give."""
    compiled = statement.compile(dialect=sqlite.dialect(paramstyle="named"))
    text = str(compiled)
    for name, constant in compiled.params.items():
        if isinstance(constant, int):  # SQLAlchemy passes OFFSET 0 as a parameter of its own.
            text = text.replace(f":{name}", str(constant))
    return text


def _prepare_file(path: Path, url: URL) -> None:
    with closing(sqlite3.connect(path, isolation_level=None, timeout=BUSY_TIMEOUT_MS / 1000)) as connection:
        # Before anything is written: WAL is a mark in the file that another program may not want.
        refuse_foreign(name for (name,) in connection.execute("SELECT name FROM sqlite_master"))
        _switch_to_wal(connection)
    _migrate(url)


def _switch_to_wal(connection: sqlite3.Connection) -> None:
    """Switch a file to WAL; where two processes do it at once, SQLite gives up without waiting."""
    deadline = time.monotonic() + BUSY_TIMEOUT_MS / 1000
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF not in _BUSY or time.monotonic() > deadline:
                raise
            time.sleep(WAL_RETRY_S)
        else:
            return


def _migrate(url: URL) -> None:
    engine = create_engine(
        url.set(drivername="sqlite+pysqlite"),
        poolclass=pool.NullPool,
        connect_args={"timeout": BUSY_TIMEOUT_MS / 1000},
    )
    event.listen(engine, "connect", _on_connect)
    event.listen(engine, "begin", _begin_immediate)
    with engine.connect() as connection, connection.begin():
        upgrade(connection)


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=BUSY_TIMEOUT_MS / 1000, check_same_thread=False)
    connection.row_factory = sqlite3.Row
    _prepare(connection)
    return connection


def _on_connect(connection: Any, _record: object) -> None:
    _prepare(connection)


def _prepare(connection: Any) -> None:
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


def database_file(url: URL) -> Path:
    """
    The file that a database URL names.

    Raises:
        UnusableDatabase: It names none, or one in no folder.
    """
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
    """
    Say in the ledger's words what the driver said of the storage, and keep the cause.

    What the driver says of a statement is a fault of this program and stays as it is.
    """
    cause = error.orig if isinstance(error, DBAPIError) else error
    code = getattr(cause, "sqlite_errorcode", 0)
    if code in _FULL:
        raise StorageFull(_reason(error)) from error
    if code & 0xFF in _BUSY:
        raise Busy(
            f"another process has held the write lock for {BUSY_TIMEOUT_MS // 1000} seconds; "
            "nothing was written, try again"
        ) from error
    if isinstance(cause, sqlite3.IntegrityError | sqlite3.ProgrammingError | sqlite3.InterfaceError):
        raise error
    raise StorageFailed(_reason(error)) from error


def _reason(error: BaseException) -> str:
    cause = error.orig if isinstance(error, DBAPIError) else error
    name = getattr(cause, "sqlite_errorname", None)
    return f"{cause}, {name}" if name else str(cause)


def warn_about_old_sqlite() -> None:
    """Say so where this SQLite is one that several writing processes can damage a file with."""
    version = sqlite3.sqlite_version_info
    fixed = any(version[:2] == release[:2] and version >= release for release in _WAL_RESET_FIXED)
    if not fixed and version < _WAL_RESET_FIXED[0]:
        _logger.warning(
            "SQLite %s can damage a file when several processes write and checkpoint it at once; "
            "use 3.51.3, 3.50.7, 3.44.6 or later before you let more than one process write",
            sqlite3.sqlite_version,
        )
