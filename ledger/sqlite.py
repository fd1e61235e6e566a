"""
The embedded engine: one SQLite file, shared by any number of threads and processes.

One thread writes, on one connection that nothing else touches: a whole group of requests costs one hop to that
thread and one sync. A larger read costs one hop too: the whole of it, with all its statements and what is folded
from them, is carried out in the thread of one of a few aiosqlite connections. The read of one head is answered on
the spot, on a connection of the event loop's own thread: SQLite finds it in microseconds, and a hop costs fifty
times that.

WAL with `synchronous=FULL`: a commit returns after the log is synced, and readers never wait for writers. The log
is folded back into the file between two groups, once those who wait for the first have their answers.
"""

import asyncio
import logging
import sqlite3
import time
from collections.abc import Callable, Coroutine, Hashable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import cache, partial
from operator import itemgetter
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import aiosqlite
from sqlalchemy import (
    URL,
    ClauseElement,
    Connection,
    Text,
    bindparam,
    create_engine,
    event,
    func,
    pool,
    select,
)
from sqlalchemy.dialects import sqlite
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler

from ledger.dialects import AnyOfValues
from ledger.errors import Busy, StorageFailed, StorageFull, UnusableDatabase
from ledger.group import Transaction
from ledger.migrate import HEAD, refuse_foreign, upgrade
from ledger.reading import complete
from ledger.wal import WriteAheadLog
from projections.times import Microseconds

BUSY_TIMEOUT_MS = 10_000  # milliseconds to wait for another process's write lock
FOLD_PAGES = 1_000  # pages in the log that are worth folding back into the file; SQLite's own default
FOLD_IN_COMMIT_PAGES = 10_000  # pages from which SQLite does it within a commit, where it could not be done before
WAL_RETRY_S = 0.01  # seconds between two attempts to switch a new file to WAL
CHANGE_POLL_S = 0.025  # seconds between two looks whether another connection wrote, while somebody waits for it
READERS_MAX = 4  # threads, each with a connection, for reads that are not answered on the spot
STATEMENTS_KEPT = 256  # statements of reads whose text is kept; some dozens are in use
TEXT_KEPT_MAX = 4_000  # characters of such a text; a filter of thousands of values is written anew each time

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

    answers_at_once = True
    writes_at_once = 1  # The file has one lock.

    def __init__(self, path: Path, thread: ThreadPoolExecutor) -> None:
        self._path = path
        self._thread = thread
        self._writer: sqlite3.Connection | None = None
        self._log: WriteAheadLog | None = None
        self._log_is_long = False
        self._idle: list[_ReadingConnection] = []
        self._turn = asyncio.Semaphore(READERS_MAX)
        self._reads: set[asyncio.Task[Any]] = set()
        self._inspecting = asyncio.Lock()
        self._closed = False
        self._point = _connect_reader(path)
        self._points = 0  # in this turn of the event loop
        self._data_version: int | None = None

    @classmethod
    async def open(cls, url: URL) -> "SqliteStore":
        """
        Open the file that *url* names, make it if it is not there, and bring its tables up to date.

        Raises:
            UnusableDatabase: It is no database, a newer release wrote it, or it cannot be opened.
        """
        path = named_file(url)
        thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="ledger-writer")
        try:
            await asyncio.get_running_loop().run_in_executor(thread, _prepare_file, path, url)
            return cls(path, thread)
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
        while self._idle:
            await self._idle.pop().close()
        await asyncio.get_running_loop().run_in_executor(self._thread, self._close_writer)
        self._thread.shutdown()

    async def write(self, work: Callable[[Transaction], _Result]) -> _Result:
        """
        Run *work* in one write transaction, in the writer's thread, and commit it.

        A caller that is cancelled does not stop it: the thread carries it to its end.

        Raises:
            Unavailable: Nothing was written.
        """
        result = await asyncio.get_running_loop().run_in_executor(self._thread, self._transact, work)
        if self._log_is_long:  # The next group waits meanwhile, and nobody else.
            self._thread.submit(self._fold_log)
        return result

    async def read(self, work: Callable[["Reader"], Coroutine[Any, Any, _Result]]) -> _Result:
        """
        Run *work* on a consistent view of the database, in a reader's thread.

        A caller that is cancelled does not stop it once it has begun: it ends its transaction in any case, or the
        log could not be folded back into the file and would grow without end.
        """
        return await self._carried_out(self._read(work))

    async def inspect(self, work: Callable[[Transaction], _Result]) -> _Result:
        """
        Run *work* on one moment of the database, in a thread of its own, because it takes long.

        One at a time: several would only share the processor, and leave too little of it to everybody else.

        Raises:
            Unavailable: It cannot be read.
        """
        return await self._carried_out(self._inspect(work))

    async def point(self, statement: ClauseElement, parameters: Mapping[str, Any]) -> Any:
        """
        The first row of a statement that finds it by its key, a plain tuple or None; answered at once.

        All points of one turn of the event loop but the first share a transaction, whose locks would else cost as
        much as the look. Whoever asks in a turn had come before it, so nobody sees less than he may expect.
        """
        self._refuse_closed()
        try:
            if self._points == 0:
                asyncio.get_running_loop().call_soon(self._end_turn)
            elif self._points == 1:
                self._point.execute("BEGIN")
            self._points += 1
            text, slots = _question(statement)
            return self._point.execute(text, _values(slots, parameters)).fetchone()
        except sqlite3.Error as error:
            _translate(error)

    async def changed(self) -> None:
        """
        Wait until something may have been committed since the last call, by whatever process.

        SQLite tells nobody; its data_version says in microseconds whether another connection wrote.
        """
        while True:
            self._refuse_closed()
            try:
                (version,) = self._point.execute("PRAGMA data_version").fetchone()
            except sqlite3.Error as error:
                _translate(error)
            if version != self._data_version:
                self._data_version = version
                return
            await asyncio.sleep(CHANGE_POLL_S)

    async def _carried_out(self, reading: Coroutine[Any, Any, _Result]) -> _Result:
        """Read to the end, whether the caller waits for it or not."""
        try:
            self._refuse_closed()
        except Busy:
            reading.close()
            raise
        task = asyncio.create_task(reading)
        self._reads.add(task)
        task.add_done_callback(self._reads.discard)
        return await asyncio.shield(task)

    async def _read(self, work: Callable[["Reader"], Coroutine[Any, Any, _Result]]) -> _Result:
        async with self._turn:
            try:
                connection = self._idle.pop() if self._idle else await _ReadingConnection.to(self._path)
            except sqlite3.Error as error:
                _translate(error)
            try:
                result = await connection.view(work)
            except sqlite3.Error as error:
                await connection.close()  # A connection that saw the storage fail is not trusted again.
                _translate(error)
            except BaseException:
                self._idle.append(connection)
                raise
            self._idle.append(connection)
            return result

    async def _inspect(self, work: Callable[[Transaction], _Result]) -> _Result:
        async with self._inspecting:
            return await asyncio.to_thread(inspect_file, self._path, work)

    def _end_turn(self) -> None:
        self._points = 0
        if not self._closed and self._point.in_transaction:
            self._point.execute("ROLLBACK")

    def _refuse_closed(self) -> None:
        if self._closed:
            raise Busy("the ledger is closed; open it again")

    def _transact(self, work: Callable[[Transaction], _Result]) -> _Result:
        try:
            if self._writer is None:
                self._writer = _connect(self._path)
                self._writer.execute(f"PRAGMA wal_autocheckpoint = {FOLD_IN_COMMIT_PAGES}")
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
        self._look_at_log()
        return result

    def _look_at_log(self) -> None:
        try:
            if self._log is None:
                self._log = WriteAheadLog(self._path)
            self._log_is_long = self._log.holds(FOLD_PAGES)
        except OSError:  # What was written is durable all the same, and SQLite folds a much longer log by itself.
            self._log_is_long = False

    def _fold_log(self) -> None:
        """Copy what the log holds to the file, as far as no reader needs the file as it is."""
        self._log_is_long = False
        if self._writer is None:
            return
        try:
            self._writer.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
        except sqlite3.Error as error:  # All of it is still in the log.
            _logger.warning("the log of %s could not be folded back into it: %s", self._path, _reason(error))
            self._close_writer()

    def _close_writer(self) -> None:
        writer, self._writer = self._writer, None
        log, self._log = self._log, None
        if log is not None:
            log.close()
        if writer is not None:
            writer.close()


def file_of(url: URL) -> Path:
    """
    The file that a database URL names.

    Raises:
        UnusableDatabase: It names none, or a file that is not there.
    """
    path = named_file(url)
    if not path.exists():
        raise UnusableDatabase(f"there is no database {path}; name another with --database-url")
    return path


def inspect_file(path: Path, work: Callable[[Transaction], _Result]) -> _Result:
    """
    Run *work* on one moment of a database file, which is opened for reading only.

    Text that is not UTF-8 any more is read with its bad bytes as halves of characters, which no hash accepts.

    Raises:
        UnusableDatabase: It is no database of this release.
        Unavailable: It cannot be read.
    """
    try:
        with closing(_connect(path, read_only=True)) as connection:
            connection.text_factory = _read_text
            _check_release(connection, path)
            connection.execute("BEGIN")
            return work(SqliteTransaction(connection))
    except sqlite3.Error as error:
        if error.sqlite_errorcode == sqlite3.SQLITE_NOTADB:
            raise UnusableDatabase(f"{path} is not a SQLite database") from error
        _translate(error)


def file_faults(path: Path) -> list[str]:
    """What SQLite itself finds wrong with a file: pages, indexes, constraints, and rows that refer to no other."""
    with closing(_connect(path, read_only=True)) as connection:
        found = [row[0] for row in connection.execute("PRAGMA integrity_check(20)") if row[0] != "ok"]
        dangling = connection.execute("PRAGMA foreign_key_check").fetchmany(20)
        found += [f"a row of {row[0]} refers to a row of {row[2]} that does not exist" for row in dangling]
        return found + _definition_faults(connection)


def _definition_faults(connection: sqlite3.Connection) -> list[str]:
    """
    Which definitions of tables, indexes and triggers SQLite can make nothing of, once somebody wants to write.

    For one who only reads it does not look at all of their text.
    """
    connection.text_factory = _read_text
    defined = connection.execute(
        "SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL AND name NOT GLOB 'sqlite_*' ORDER BY rowid"
    ).fetchall()
    found = []
    with closing(sqlite3.connect(":memory:")) as fresh:
        for name, text in defined:
            try:
                fresh.execute(text)
            except (sqlite3.Error, UnicodeError) as error:
                found.append(f"the definition of {name} is damaged: {_reason(error)}")
    return found


def copy_file(path: Path, out: Path) -> None:
    """
    Write all of a database, as it stands at one moment, to a file that is empty or not there; it is not synced.

    Others may write meanwhile; the log is not folded back into the file as long as it takes.

    Raises:
        Unavailable: It cannot be read to its end, or there is no room for the copy.
    """
    try:
        with closing(_connect(path, read_only=True)) as connection:
            connection.execute("VACUUM INTO ?", (str(out),))
    except sqlite3.Error as error:
        _translate(error)


def sweep(path: Path) -> bool:
    """
    Write the whole file anew, so that nothing that was erased is left in it, its -wal or its -shm.

    Returns:
        False when another process has the database open; nothing was done then.

    Raises:
        Unavailable: The storage failed; what was erased may still be in the file.
    """
    try:
        with closing(sqlite3.connect(path, isolation_level=None, timeout=0)) as connection:
            connection.execute("PRAGMA secure_delete = ON")
            # In this mode nobody else may have the file open, and nobody can open it.
            connection.execute("PRAGMA locking_mode = EXCLUSIVE")
            try:
                connection.execute("BEGIN EXCLUSIVE")
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode & 0xFF in _BUSY:
                    return False
                raise
            connection.execute("COMMIT")
            connection.execute("VACUUM")
            ((busy, *_),) = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            return not busy
    except sqlite3.Error as error:
        _translate(error)


def _check_release(connection: sqlite3.Connection, path: Path) -> None:
    tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if "alembic_version" not in tables:
        refuse_foreign(tables)
        raise UnusableDatabase(f"{path} is empty; it holds no ledger")
    refuse_foreign(tables)
    found = connection.execute("SELECT version_num FROM alembic_version").fetchone()
    if found is None or found[0] != HEAD:
        raise UnusableDatabase(
            f"{path} has the tables of another release ({found and found[0]}, this one knows {HEAD}); "
            "run run-ledger migrate, or upgrade Run Ledger"
        )


def _read_text(raw: bytes) -> str:
    return raw.decode(errors="surrogateescape")


class SqliteTransaction:
    """
    An open transaction, to write in or to read one moment: the ledger's statements, run by Python's own driver.

    SQLAlchemy writes their text once; to run them through it would cost more than running them does.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._mark: Hashable | None = None

    def now(self) -> Microseconds:
        """The clock of this machine, which whoever has the file open shares."""
        return time.time_ns() // 1000

    def mark(self) -> Hashable:
        """
        SQLite's number for what other connections committed, with the connection that it belongs to.

        The connection itself and not its address: that may be given to the next one.
        """
        if self._mark is None:
            (version,) = self._connection.execute("PRAGMA data_version").fetchone()
            self._mark = self._connection, version
        return self._mark

    def own_mark(self) -> Hashable:
        """The same: what this connection commits does not change it."""
        return self.mark()

    def rows(self, statement: ClauseElement, parameters: Mapping[str, Any]) -> Sequence[Any]:
        """All rows of a statement, by column name."""
        return [*_by_name(self._connection.execute(_text(statement), parameters))]

    def stream(self, statement: ClauseElement, parameters: Mapping[str, Any]) -> Iterator[Any]:
        """The rows of a statement one after the other, none of them before it is asked for."""
        return _by_name(self._connection.execute(_text(statement), parameters))

    def send(self, statement: ClauseElement, rows: Sequence[Mapping[str, Any]]) -> None:
        """Run a statement once for each of *rows*."""
        text, values_of = _insertion(statement)
        self._connection.executemany(text, map(values_of, rows))


class _ReadingConnection(aiosqlite.Connection):
    """A connection for reads, with a thread of its own. A whole read is one call of that thread."""

    @classmethod
    async def to(cls, path: Path) -> "_ReadingConnection":
        """Connect to a file."""
        connection = cls(partial(_connect_reader, path), iter_chunk_size=64)
        connection._thread.daemon = True  # A process that ends without closing must not wait for it for ever.
        await connection
        return connection

    async def view(self, work: Callable[["Reader"], Coroutine[Any, Any, _Result]]) -> _Result:
        """Carry out *work* within one transaction."""
        result: _Result = await self._execute(_view, self._conn, work)  # type: ignore[no-untyped-call]
        return result


class Reader:
    """
    Reads on one connection, in one transaction.

    Its methods are coroutines because an engine over the network needs them so; these never wait.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    async def rows(self, statement: ClauseElement, **parameters: Any) -> list[Any]:
        """All rows of a statement, by column name."""
        text, slots = _question(statement)
        return [*_by_name(self._connection.execute(text, _values(slots, parameters)))]

    async def tuples(self, statement: ClauseElement, **parameters: Any) -> list[Any]:
        """All rows of a statement as plain tuples."""
        text, slots = _question(statement)
        return self._connection.execute(text, _values(slots, parameters)).fetchall()

    async def row(self, statement: ClauseElement, **parameters: Any) -> Any | None:
        """The first row of a statement, None without one."""
        text, slots = _question(statement)
        cursor = self._connection.execute(text, _values(slots, parameters))
        row = next(_by_name(cursor), None)
        cursor.close()
        return row


def _by_name(cursor: sqlite3.Cursor) -> Iterator[dict[str, Any]]:
    """The rows of a cursor by column name. sqlite3's own rows look through all names for each value."""
    names = [column[0] for column in cursor.description]
    return (dict(zip(names, row, strict=True)) for row in cursor)


def _view(connection: sqlite3.Connection, work: Callable[[Reader], Coroutine[Any, Any, _Result]]) -> _Result:
    connection.execute("BEGIN")
    try:
        return complete(work(Reader(connection)))
    finally:
        connection.execute("ROLLBACK")


@compiles(AnyOfValues)
def _any_of_values(element: AnyOfValues, compiler: SQLCompiler, **options: Any) -> str:
    listed = select(func.json_each(bindparam(element.name, type_=Text)).table_valued("value").c.value)
    return compiler.process(element.column.in_(listed), **options)


_Slot = str | Sequence[Any]  # the name of a parameter, or the values that the statement was built with


@cache
def _text(statement: ClauseElement) -> str:
    """The text of one of the ledger's constant statements, with named parameters for what its callers give."""
    compiled = statement.compile(dialect=sqlite.dialect(paramstyle="named"))
    text = str(compiled)
    for name, constant in compiled.params.items():
        if isinstance(constant, int):  # SQLAlchemy passes OFFSET 0 as a parameter of its own.
            text = text.replace(f":{name}", str(constant))
    return text


@cache
def _insertion(statement: ClauseElement) -> tuple[str, Callable[[Mapping[str, Any]], Sequence[Any]]]:
    """
    The text of a constant statement with a question mark for every value, and what takes these from a row.

    Not by name: SQLite would have to look each of them up for each row.
    """
    text, slots = _written(statement)
    if len(slots) > 1 and all(isinstance(slot, str) for slot in slots):
        return text, itemgetter(*slots)
    return text, partial(_values, slots)


_asked: dict[ClauseElement, tuple[str, list[_Slot]]] = {}


def _question(statement: ClauseElement) -> tuple[str, list[_Slot]]:
    """
    The text of a statement with a question mark for every value, and what belongs in their places.

    Not by name: SQLite looks through all names for each, which takes seconds for a filter of some thousand values.
    """
    known = _asked.get(statement)
    if known is None:
        known = _written(statement)
        if len(known[0]) <= TEXT_KEPT_MAX:
            if len(_asked) >= STATEMENTS_KEPT:
                _asked.clear()
            _asked[statement] = known
    return known


def _written(statement: ClauseElement) -> tuple[str, list[_Slot]]:
    compiled = statement.compile(dialect=sqlite.dialect(paramstyle="qmark"))
    assert isinstance(compiled, SQLCompiler)
    text = str(compiled)
    slots: list[_Slot] = []
    for name in compiled.positiontup or ():
        value = compiled.params[name]
        if isinstance(value, list | tuple):  # What stands in IN (...), which SQLAlchemy writes out later.
            text = text.replace(f"__[POSTCOMPILE_{name}]", ", ".join("?" * len(value)))
            slots.append(value)
        else:
            slots.append(name if value is None else (value,))
    return text, slots


def _values(slots: list[_Slot], parameters: Mapping[str, Any]) -> list[Any]:
    values: list[Any] = []
    for slot in slots:
        if isinstance(slot, str):
            values.append(parameters[slot])
        else:
            values.extend(slot)
    return values


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


def _connect(path: Path, *, read_only: bool = False) -> sqlite3.Connection:
    name = f"{path.absolute().as_uri()}?mode=ro" if read_only else str(path)
    connection = sqlite3.connect(name, timeout=BUSY_TIMEOUT_MS / 1000, check_same_thread=False, uri=read_only)
    _prepare(connection)
    return connection


def _connect_reader(path: Path) -> sqlite3.Connection:
    connection = _connect(path)
    connection.execute("PRAGMA query_only = ON")
    return connection


def _on_connect(connection: Any, _record: object) -> None:
    _prepare(connection)


def _prepare(connection: Any) -> None:
    """Set up a connection: BEGIN is ours to send, not the driver's."""
    connection.isolation_level = None
    cursor = connection.cursor()
    try:
        for pragma in _PRAGMAS:
            cursor.execute(pragma)
    except UnicodeDecodeError as error:
        # What SQLite says of a damaged table definition quotes it, and sqlite3 cannot read that.
        damaged = sqlite3.DatabaseError("malformed database schema")
        damaged.sqlite_errorcode, damaged.sqlite_errorname = sqlite3.SQLITE_CORRUPT, "SQLITE_CORRUPT"
        raise damaged from error
    cursor.close()


def _begin_immediate(connection: Connection) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE")


def named_file(url: URL) -> Path:
    """
    The file that a database URL names, whether it is there or not.

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
