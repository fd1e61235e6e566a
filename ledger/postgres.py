"""
The engine for many nodes: one PostgreSQL database, shared by any number of processes on any number of machines.

psycopg 3, its connections used in threads: so transactions, verification and erasure are the same code on both
engines, and a read is one hop to a thread whatever it takes. Round trips are what costs here. BEGIN goes out with
the first statement of a transaction; what writes is kept back and goes out with the next question, or with COMMIT;
statements are prepared once.

The first statement of a write locks the row of the environment's log. Nothing else is ever waited for, so there is
no deadlock; a process that freezes while it holds the lock loses its connection after ten seconds.

Every text is stored as it is, but for two characters: PostgreSQL holds no NUL, so a text writes it as U+FDD0
U+FDD1, and U+FDD0 itself, which Unicode sets aside for uses like this one, as U+FDD0 U+FDD2.
"""

import asyncio
import json
import logging
from collections.abc import Callable, Container, Coroutine, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from threading import local
from typing import Any, NoReturn, TypeVar

import psycopg
from psycopg import errors
from psycopg.rows import dict_row, tuple_row
from psycopg.types.numeric import Int8Dumper
from psycopg.types.string import TextBinaryLoader, TextLoader
from sqlalchemy import (
    URL,
    BigInteger,
    ClauseElement,
    Delete,
    Integer,
    Text,
    Update,
    bindparam,
    cast,
    create_engine,
    func,
    pool,
)
from sqlalchemy.dialects.postgresql import ARRAY, psycopg2
from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler

from ledger import statements
from ledger.dialects import AnyOfValues
from ledger.distribute import distribute_statements, distributed
from ledger.errors import Busy, OutcomeUnknown, StorageFailed, StorageFull, UnusableDatabase
from ledger.group import Transaction
from ledger.migrate import HEAD, refuse_foreign, upgrade
from ledger.reading import complete
from ledger.tables import events, logs, schema
from projections.times import Microseconds

TIMEOUT_MS = 10_000  # milliseconds that a statement may last
LOCK_TIMEOUT_MS = 10_000  # milliseconds to wait for another process's lock
IDLE_TIMEOUT_MS = 10_000  # milliseconds that a transaction may do nothing
INSPECTION_IDLE_MS = 600_000  # milliseconds that a check of everything may think between two statements
CONNECT_TIMEOUT_S = 10  # seconds to wait for a server that does not answer
READERS_MAX = 8  # threads, each with a connection, for reads
STREAM_ROWS = 500  # rows that a stream fetches at once
KEPT_BACK_MAX = 1_000  # rows to write that are kept back until something is asked
STATEMENTS_KEPT = 256  # statements whose text is kept; some dozens are in use
TEXT_KEPT_MAX = 4_000  # characters of such a text; a filter of thousands of values is written anew each time
CHANNEL = "run_ledger"  # what listeners are told on that a log grew
LISTEN_RETRY_S = 1.0  # seconds from one attempt to listen to the next

_MIGRATION_LOCK = 0x72756E6C6564  # "runled": the advisory lock of those who migrate
_NUL, _ESCAPE = "\0", "\ufdd0"
_ESCAPE_BYTES = _ESCAPE.encode()

# TCP, so that a dead network is noticed. libpq's names.
_KEEPALIVES = {
    "keepalives": 1,
    "keepalives_idle": 10,  # seconds
    "keepalives_interval": 5,  # seconds
    "keepalives_count": 3,
    "tcp_user_timeout": 2 * TIMEOUT_MS,
}

_logger = logging.getLogger(__name__)
_Result = TypeVar("_Result")


class PostgresStore:
    """
    Transactions on one PostgreSQL database.

    Use `open` to make one and `close` to let it go.
    """

    answers_at_once = False

    def __init__(self, target: Mapping[str, Any]) -> None:
        self._target = target
        self._write_thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="ledger-writer")
        self._read_threads = ThreadPoolExecutor(max_workers=READERS_MAX, thread_name_prefix="ledger-reader")
        self._writer: psycopg.Connection[Any] | None = None
        self._own = local()
        self._readers: list[psycopg.Connection[Any]] = []
        self._inspecting = asyncio.Lock()
        self._inspections: set[asyncio.Task[Any]] = set()
        self._listener = _Listener(target)
        self._closed = False

    @classmethod
    async def open(cls, url: URL) -> "PostgresStore":
        """
        Connect to the database that *url* names, whose tables have to be those of this release.

        Raises:
            UnusableDatabase: It cannot be reached, or has other tables.
        """
        target = target_of(url)
        await asyncio.to_thread(_check_database, target, url)
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
        return await asyncio.get_running_loop().run_in_executor(self._write_thread, self._transact, work)

    async def read(self, work: Callable[["Reader"], Coroutine[Any, Any, _Result]]) -> _Result:
        """
        Run *work* on a consistent view of the database, in a reader's thread.

        It may be run twice, where a connection turns out to be dead.

        Raises:
            Unavailable: It cannot be read.
        """
        self._refuse_closed()
        return await asyncio.get_running_loop().run_in_executor(
            self._read_threads, self._read, lambda connection: _view(connection, work)
        )

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

    async def current(self, environment_id: int, run_id: str) -> tuple[str, int, int] | None:
        """The current metadata of a run, its version and its size in bytes."""
        row: tuple[str, int, int] | None = await self.point(
            statements.CURRENT, {"environment_id": environment_id, "run_id": run_id}
        )
        return row

    async def point(self, statement: ClauseElement, parameters: Mapping[str, Any]) -> Any:
        """The first row of a statement that finds it by its key, a plain tuple or None; one round trip."""
        self._refuse_closed()

        def ask(connection: psycopg.Connection[Any]) -> Any:
            return _ask(connection, statement, parameters, row_factory=tuple_row).fetchone()

        return await asyncio.get_running_loop().run_in_executor(self._read_threads, self._read, ask)

    async def last_position(self, environment_id: int) -> int:
        """The last position of an environment's log."""
        row = await self.point(statements.LOG, {"environment_id": environment_id})
        return int(row[0])

    async def changed(self) -> None:
        """Wait until another connection has said that a log grew. A notice may be lost: look now and then, too."""
        self._refuse_closed()
        await self._listener.wait(self._writer)

    def _refuse_closed(self) -> None:
        if self._closed:
            raise Busy("the ledger is closed; open it again")

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
                if connection is None or not connection.broken:
                    translate(error)
                # The server restarted, or the network dropped the connection while it was idle.
                self._drop_own(connection)
                connection = None
                if is_fresh:
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
        is_fresh = self._writer is None
        while True:
            transaction: PostgresTransaction | None = None
            try:
                if self._writer is None:
                    self._writer = connect(self._target)
                transaction = PostgresTransaction(self._writer)
                result = work(transaction)
                transaction.commit()
            except BaseException as error:
                # Whatever failed, closing gives up the lock and rolls back, and a connection that saw the storage
                # fail is not trusted again.
                self._close_writer()
                if not isinstance(error, psycopg.Error):
                    raise
                if transaction is not None and not transaction.has_begun and not is_fresh and _is_lost(error):
                    is_fresh = True  # It broke while it was idle, and nothing was done on it yet.
                    continue
                translate(error)
            else:
                return result

    def _close_writer(self) -> None:
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.close()

    def _close_all(self) -> None:
        self._write_thread.submit(self._close_writer)
        self._write_thread.shutdown()
        self._read_threads.shutdown()
        for connection in self._readers:
            connection.close()


class PostgresTransaction:
    """
    An open transaction, to write in or to read one moment.

    What writes is kept back until something is asked, or until COMMIT, and goes out with that in one round trip.

    Attributes:
        has_begun: The server has answered something.
    """

    def __init__(
        self, connection: psycopg.Connection[Any], begin: str = "BEGIN ISOLATION LEVEL READ COMMITTED"
    ) -> None:
        self._connection = connection
        self._begin: str | None = begin
        self._kept_back: list[tuple[ClauseElement, Sequence[Mapping[str, Any]]]] = []
        self._rows_kept_back = 0
        self._now: Microseconds | None = None
        self._streams = 0
        self.has_begun = False

    def now(self) -> Microseconds:
        """The database server's clock."""
        if self._now is None:
            self._round_trip()
        assert self._now is not None
        return self._now

    def rows(self, statement: ClauseElement, parameters: Mapping[str, Any]) -> Sequence[Any]:
        """All rows of a statement, by column name."""
        rows: Sequence[Any] = self._round_trip(statement, parameters)
        return rows

    def stream(self, statement: ClauseElement, parameters: Mapping[str, Any]) -> Iterator[Any]:
        """The rows of a statement one after the other, some hundreds of them before they are asked for."""
        if self._begin is not None or self._kept_back:
            self._round_trip()
        text, slots = _written(statement)
        self._streams += 1
        with psycopg.RawServerCursor(
            self._connection, f"stream_{self._streams}", row_factory=dict_row, scrollable=False
        ) as cursor:
            cursor.itersize = STREAM_ROWS
            cursor.execute(text, _values(slots, parameters), binary=True)
            yield from cursor

    def send(self, statement: ClauseElement, rows: Sequence[Mapping[str, Any]]) -> None:
        """Run a statement once for each of *rows*, at the latest with COMMIT."""
        self._kept_back.append((statement, rows))
        self._rows_kept_back += len(rows)
        if self._rows_kept_back > KEPT_BACK_MAX:
            self._round_trip()

    def commit(self) -> None:
        """
        Send what is kept back, and commit.

        Raises:
            OutcomeUnknown: The connection broke meanwhile.
            psycopg.Error: Nothing was written.
        """
        if self._begin is not None and not self._kept_back:
            return
        try:
            with _at_once(self._connection):
                self._send_kept_back()
                self._connection.execute("COMMIT")
        except psycopg.Error as error:
            if _is_lost(error) and not isinstance(error, errors.IdleInTransactionSessionTimeout):
                raise OutcomeUnknown(_reason(error)) from error
            raise

    def _round_trip(
        self, statement: ClauseElement | None = None, parameters: Mapping[str, Any] | None = None
    ) -> Any:
        """Send what is kept back, then the statement, which is given and whose rows are the answer, or none."""
        asked: psycopg.Cursor[Any] | None = None
        clock: psycopg.Cursor[Any] | None = None
        with _at_once(self._connection):
            first = self._begin is not None
            self._send_kept_back()
            if statement is not None:
                asked = _ask(self._connection, statement, parameters or {})
            if first:
                # Behind the first statement, which may have waited for the lock.
                clock = self._connection.cursor(binary=True, row_factory=tuple_row)
                clock.execute("SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint")
        self.has_begun = True
        if clock is not None:
            self._now = clock.fetchall()[0][0]
        return None if asked is None else asked.fetchall()

    def _send_kept_back(self) -> None:
        if self._begin is not None:
            self._connection.execute(self._begin)
            self._begin = None
        for statement, rows in self._kept_back:
            text, slots = _written(statement)
            with psycopg.RawCursor(self._connection) as cursor:
                cursor.executemany(text, [_values(slots, row) for row in rows])
            if statement is statements.ADVANCE_LOG:
                self._connection.execute(f"NOTIFY {CHANNEL}")
        self._kept_back.clear()
        self._rows_kept_back = 0


class Reader:
    """
    Reads on one connection, in one transaction.

    Its methods are coroutines as those of the other engine are; these wait in their thread.
    """

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self._connection = connection
        self._has_begun = False

    async def rows(self, statement: ClauseElement, **parameters: Any) -> list[Any]:
        """All rows of a statement, by column name."""
        return self._ask(statement, parameters).fetchall()

    async def row(self, statement: ClauseElement, **parameters: Any) -> Any | None:
        """The first row of a statement, None without one."""
        return self._ask(statement, parameters).fetchone()

    def _ask(self, statement: ClauseElement, parameters: Mapping[str, Any]) -> psycopg.Cursor[Any]:
        if self._has_begun:
            return _ask(self._connection, statement, parameters)
        self._has_begun = True
        with _at_once(self._connection):
            self._connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            return _ask(self._connection, statement, parameters)


class _Pipeline(psycopg.Pipeline):
    """
    A pipeline that ends with Sync and nothing behind it.

    psycopg sends Flush as well, and any message stops the server's clock for a transaction that does nothing: who
    froze then would hold the lock for ever. (PostgreSQL starts that clock with ReadyForQuery, which answers Sync.)
    """

    def _exit_gen(self) -> Any:
        yield from self._sync_gen()


@contextmanager
def _at_once(connection: psycopg.Connection[Any]) -> Iterator[None]:
    """What is sent within goes out together, and is answered at the end."""
    pipeline = connection._pipeline = _Pipeline(connection)  # noqa: SLF001 - It makes its own kind only.
    try:
        with pipeline:
            yield
    finally:
        connection._pipeline = None  # noqa: SLF001 - As above.


class _Listener:
    """Hears that a log grew, on a connection of its own that the event loop watches."""

    def __init__(self, target: Mapping[str, Any]) -> None:
        self._target = target
        self._connection: psycopg.Connection[Any] | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._heard = asyncio.Event()
        self._own: psycopg.Connection[Any] | None = None
        self._socket: int | None = None
        self._not_before = 0.0
        self._closed = False

    async def wait(self, own: psycopg.Connection[Any] | None) -> None:
        """Wait for a notice of another connection than *own*."""
        self._own = own
        loop = asyncio.get_running_loop()
        if self._connection is None and self._connecting is None and loop.time() >= self._not_before:
            self._not_before = loop.time() + LISTEN_RETRY_S
            self._connecting = asyncio.create_task(self._listen(), name="ledger-listener")
        await self._heard.wait()
        self._heard.clear()

    async def close(self) -> None:
        """Hear nothing more."""
        self._closed = True
        if self._connecting is not None:
            await asyncio.wait([self._connecting])  # Its thread is not to be left with a connection of nobody's.
        self._hang_up()

    async def _listen(self) -> None:
        try:
            self._connection = await asyncio.to_thread(_listening, self._target)
        except psycopg.Error as error:
            _logger.warning("cannot listen for what other nodes write, which is looked for instead: %s", error)
        else:
            if not self._closed:
                self._socket = self._connection.fileno()
                asyncio.get_running_loop().add_reader(self._socket, self._hear)
                self._heard.set()  # Something may have been committed before.
        finally:
            self._connecting = None

    def _hear(self) -> None:
        connection = self._connection
        if connection is None:
            return
        try:
            connection.pgconn.consume_input()
        except psycopg.Error as error:
            _logger.warning("lost the connection that listens for what other nodes write: %s", error)
            self._hang_up()
            return
        own = None if self._own is None or self._own.closed else self._own.info.backend_pid
        while (notice := connection.pgconn.notifies()) is not None:
            if notice.be_pid != own:  # What this process wrote it has told already.
                self._heard.set()

    def _hang_up(self) -> None:
        connection, self._connection = self._connection, None
        # By its number: libpq has closed the socket already where the connection broke, and the loop would go on
        # watching whatever is opened under that number next, in the place of what that is.
        socket, self._socket = self._socket, None
        if socket is not None:
            asyncio.get_running_loop().remove_reader(socket)
        if connection is not None:
            connection.close()


def inspect_target(target: Mapping[str, Any], work: Callable[[Transaction], _Result]) -> _Result:
    """
    Run *work* on one moment of a database, on a connection of its own, which cannot write.

    Raises:
        UnusableDatabase: It has no tables of this release.
        Unavailable: It cannot be read.
    """
    try:
        with connect(target) as connection:
            connection.execute(
                f"SET statement_timeout = 0; SET idle_in_transaction_session_timeout = {INSPECTION_IDLE_MS}"
            )
            _check_release(connection)
            transaction = PostgresTransaction(connection, "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            result = work(transaction)
            connection.execute("ROLLBACK")
            return result
    except psycopg.Error as error:
        translate(error)


def connect(target: Mapping[str, Any]) -> psycopg.Connection[Any]:
    """Open a connection and set it up: BEGIN and COMMIT are ours to send, not the driver's."""
    connection: psycopg.Connection[Any] = psycopg.connect(**target, autocommit=True)
    try:
        connection.prepare_threshold = 1
        connection.prepared_max = STATEMENTS_KEPT
        adapters = connection.adapters
        adapters.register_dumper(int, Int8Dumper)  # One prepared statement, however large the numbers are.
        adapters.register_loader("text", _TextLoader)
        adapters.register_loader("text", _TextBinaryLoader)
        connection.execute(
            f"SET lock_timeout = {LOCK_TIMEOUT_MS}; SET statement_timeout = {TIMEOUT_MS}; "
            f"SET idle_in_transaction_session_timeout = {IDLE_TIMEOUT_MS}; "
            # What is acknowledged is on disk, whatever the server's default is.
            "SELECT set_config('synchronous_commit', 'on', false) "
            "WHERE current_setting('synchronous_commit') = 'off'"
        )
    except BaseException:
        connection.close()
        raise
    return connection


def target_of(url: URL) -> dict[str, Any]:
    """
    What libpq connects to, from a URL for whichever driver.

    Raises:
        UnusableDatabase: It names no database.
    """
    if not url.database:
        raise UnusableDatabase(f"{shown(url)} names no database; write postgresql://user@host/run_ledger")
    # asyncpg says ssl where libpq says sslmode.
    query = {{"ssl": "sslmode"}.get(name, name): value for name, value in url.query.items()}
    named = url.set(drivername="postgresql+psycopg", query=query)
    dialect: Any = PGDialect_psycopg  # SQLAlchemy leaves its methods without types.
    _, target = dialect().create_connect_args(named)
    return {"connect_timeout": CONNECT_TIMEOUT_S, "client_encoding": "utf8", **_KEEPALIVES, **target}


def shown(url: URL) -> str:
    """A URL as it may be shown: without its password."""
    return url.render_as_string(hide_password=True)


def migrate(url: URL) -> bool:
    """
    Bring the tables of a database up to date, in one transaction; another process that does so is waited for.

    Returns:
        Whether anything was missing.

    Raises:
        UnusableDatabase: It cannot be reached, a newer release wrote it, or it holds another program's tables.
    """
    target = target_of(url)
    engine = create_engine(
        "postgresql+psycopg://", creator=lambda: _connect_plain(target), poolclass=pool.NullPool
    )
    try:
        with engine.connect() as connection, connection.begin():
            connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_MIGRATION_LOCK})")
            return upgrade(connection)
    except (DBAPIError, psycopg.Error) as error:
        raise UnusableDatabase(f"cannot migrate {shown(url)}: {_reason(error)}") from error


def distribute(url: URL) -> list[str]:
    """
    Distribute the tables by their environment over the servers of a Citus cluster; what is so already stays.

    Returns:
        The tables that were distributed now.

    Raises:
        UnusableDatabase: There is no Citus in this database, or its tables are not those of this release.
    """
    target = target_of(url)
    try:
        with connect(target) as connection:
            connection.execute("SET lock_timeout = 0; SET statement_timeout = 0")
            _check_release(connection)
            if not connection.execute("SELECT 1 FROM pg_extension WHERE extname = 'citus'").fetchall():
                raise UnusableDatabase(
                    f"{shown(url)} has no citus extension, so there is nothing to distribute its tables over; "
                    "on a Citus coordinator run: CREATE EXTENSION citus"
                )
            with connection.transaction():
                kept = connection.execute("SELECT logicalrelid::regclass::text FROM pg_dist_partition").fetchall()
                already = [row[0] for row in kept]
                for statement in distribute_statements(already):
                    connection.execute(statement)
            return [name for name in ("environments", *distributed()) if name not in already]
    except psycopg.Error as error:
        raise UnusableDatabase(f"cannot distribute {shown(url)}: {_reason(error)}") from error


def role_statements(role: str) -> list[str]:
    """
    What makes a role that a server needs and no more: it appends, and cannot take away what was recorded.

    It may read and add to every table, and change and delete only where the ledger has a statement for that.

    To be run by the owner of the tables, who migrates them.
    """
    tables = [table.name for table in schema.sorted_tables]
    written = [one for one in vars(statements).values() if isinstance(one, Update | Delete)]
    changed = {one.table for one in written if isinstance(one, Update)} | {
        logs
    }  # Who locks a row might change it.
    deleted = {one.table for one in written if isinstance(one, Delete)}

    def named(some: Container[Any]) -> str:
        return ", ".join(table.name for table in schema.sorted_tables if table in some and table is not events)

    return [
        f"CREATE ROLE {role} NOLOGIN",
        f"GRANT SELECT ON alembic_version, {', '.join(tables)} TO {role}",
        f"GRANT INSERT ON {', '.join(tables)} TO {role}",
        f"GRANT UPDATE ON {named(changed)} TO {role}",
        f"GRANT UPDATE (data, salt, commitment) ON events TO {role}",
        f"GRANT DELETE ON {named(deleted)} TO {role}",
        f"GRANT USAGE ON SEQUENCE environments_environment_id_seq TO {role}",
    ]


def translate(error: psycopg.Error) -> NoReturn:
    """
    Say in the ledger's words what the driver said of the storage, and keep the cause.

    What the server says of a statement is a fault of this program and stays as it is.
    """
    state = error.sqlstate or ""
    if state in _LOCKED:
        raise Busy(
            f"another process has held the lock, or the database was busy, for {TIMEOUT_MS // 1000} seconds "
            f"({_reason(error)}); nothing was written, try again"
        ) from error
    if state in _FULL:
        raise StorageFull(_reason(error)) from error
    if not state or state[:2] in _FAILED or state in _DENIED:
        raise StorageFailed(_reason(error)) from error
    raise error


# Classes and codes of errors. Source: PostgreSQL 18, appendix A.
_LOCKED = {
    "55P03",  # lock_not_available
    "57014",  # query_canceled, by statement_timeout
    "25P03",  # idle_in_transaction_session_timeout: this process was frozen
    "40001",  # serialization_failure
    "40P01",  # deadlock_detected
}
_FULL = {"53100"}  # disk_full
_FAILED = {
    "08",  # connection_exception
    "53",  # insufficient_resources
    "57",  # operator_intervention: it is shutting down or starting up
    "58",  # system_error
    "F0",  # config_file_error
    "XX",  # internal_error, data_corrupted
    "28",  # invalid_authorization_specification
}
_DENIED = {
    "25006",  # read_only_sql_transaction: this is a standby now
    "42501",  # insufficient_privilege
    "42P01",  # undefined_table
    "42703",  # undefined_column
    "3D000",  # invalid_catalog_name
    "0A000",  # feature_not_supported: such as a prepared statement whose table was altered
}


def _is_lost(error: psycopg.Error) -> bool:
    """Whether the connection broke, rather than that the server refused something on it."""
    if isinstance(error, psycopg.OperationalError):
        state = error.sqlstate or ""
        return not state or (state[:2] in {"08", "57"} and state != "57014") or state == "25P03"
    return False


def _reason(error: BaseException) -> str:
    cause = error.orig if isinstance(error, DBAPIError) else error
    text = " ".join(str(cause).split()) or type(cause).__name__
    state = getattr(cause, "sqlstate", None)
    return f"{text}, {state}" if state else text


def _check_database(target: Mapping[str, Any], url: URL) -> None:
    try:
        with connect(target) as connection:
            encoding = connection.execute("SHOW server_encoding").fetchall()[0][0]
            if encoding != "UTF8":
                raise UnusableDatabase(
                    f"{shown(url)} stores text as {encoding}; make a database with ENCODING 'UTF8'"
                )
            _check_release(connection)
    except psycopg.Error as error:
        raise UnusableDatabase(f"cannot open {shown(url)}: {_reason(error)}") from error


def _check_release(connection: psycopg.Connection[Any]) -> None:
    tables = {
        row[0]
        for row in connection.execute(
            "SELECT tablename FROM pg_tables WHERE schemaname = current_schema()"
        ).fetchall()
    }
    if "alembic_version" not in tables:
        refuse_foreign(tables)
        raise UnusableDatabase("the database has no tables of Run Ledger yet; run: run-ledger migrate")
    refuse_foreign(tables)
    found = connection.execute("SELECT version_num FROM alembic_version").fetchone()
    if found is None or found[0] != HEAD:
        raise UnusableDatabase(
            f"the database has the tables of another release ({found and found[0]}, this one knows {HEAD}); "
            "run: run-ledger migrate, or upgrade Run Ledger"
        )


def _connect_plain(target: Mapping[str, Any]) -> psycopg.Connection[Any]:
    connection: psycopg.Connection[Any] = psycopg.connect(**target)
    connection.execute(f"SET lock_timeout = {6 * TIMEOUT_MS}")
    connection.commit()
    return connection


def _listening(target: Mapping[str, Any]) -> psycopg.Connection[Any]:
    connection = connect(target)
    connection.execute(f"LISTEN {CHANNEL}")
    return connection


def _view(connection: psycopg.Connection[Any], work: Callable[[Reader], Coroutine[Any, Any, _Result]]) -> _Result:
    try:
        return complete(work(Reader(connection)))
    finally:
        if not connection.closed and connection.info.transaction_status:
            connection.execute("ROLLBACK")


# --- texts and values ---


class _TextLoader(TextLoader):
    """Text in which a NUL may be written."""

    def load(self, data: Any) -> Any:
        """Read it."""
        text = str(super().load(data))
        return _read_text(text) if _ESCAPE in text else text


class _TextBinaryLoader(TextBinaryLoader):
    """The same in the binary format."""

    def load(self, data: Any) -> Any:
        """Read it."""
        text = str(super().load(data))
        return _read_text(text) if _ESCAPE in text else text


def _read_text(text: str) -> str:
    return text.replace(f"{_ESCAPE}\ufdd1", _NUL).replace(f"{_ESCAPE}\ufdd2", _ESCAPE)


def _storable(value: Any) -> Any:
    if type(value) is str and (_NUL in value or _ESCAPE in value):
        return value.replace(_ESCAPE, f"{_ESCAPE}\ufdd2").replace(_NUL, f"{_ESCAPE}\ufdd1")
    return value


@compiles(AnyOfValues, "postgresql")
def _any_of_values(element: AnyOfValues, compiler: SQLCompiler, **options: Any) -> str:
    kind = BigInteger() if isinstance(element.column.type, Integer) else Text()
    listed = cast(bindparam(element.name, type_=ARRAY(kind)), ARRAY(kind))
    return compiler.process(element.column == func.any(listed), **options)


class _Listed(str):
    """The name of a parameter that is a list as JSON text."""

    __slots__ = ()


_Slot = str | Sequence[Any]  # the name of a parameter, or the values that the statement was built with

_texts: dict[ClauseElement, tuple[str, list[_Slot]]] = {}


def _ask(
    connection: psycopg.Connection[Any],
    statement: ClauseElement,
    parameters: Mapping[str, Any],
    row_factory: Any = dict_row,
) -> psycopg.Cursor[Any]:
    text, slots = _written(statement)
    cursor: psycopg.Cursor[Any] = psycopg.RawCursor(connection, row_factory=row_factory)
    prepare = None if len(text) <= TEXT_KEPT_MAX else False  # None: at the second time.
    return cursor.execute(text, _values(slots, parameters), prepare=prepare, binary=True)


def _written(statement: ClauseElement) -> tuple[str, list[_Slot]]:
    """The text of a statement with a number for every value, and what belongs in their places."""
    known = _texts.get(statement)
    if known is None:
        known = _write(statement)
        if len(known[0]) <= TEXT_KEPT_MAX:
            if len(_texts) >= STATEMENTS_KEPT:
                _texts.clear()
            _texts[statement] = known
    return known


def _write(statement: ClauseElement) -> tuple[str, list[_Slot]]:
    compiled = statement.compile(dialect=_dialect())
    assert isinstance(compiled, SQLCompiler)
    text = str(compiled)
    slots: list[_Slot] = []
    for name in compiled.positiontup or ():
        value = compiled.params[name]
        if isinstance(value, list | tuple):  # What stands in IN (...), which SQLAlchemy writes out later.
            text = text.replace(f"__[POSTCOMPILE_{name}]", ", ".join(["%s"] * len(value)) or "NULL")
            slots.append(value)
        elif value is not None:
            slots.append((value,))
        else:
            slots.append(_Listed(name) if isinstance(compiled.binds[name].type, ARRAY) else name)
    first, *rest = text.split("%s")
    numbered = "".join([first, *(f"${number}{part}" for number, part in enumerate(rest, start=1))])
    return numbered.replace("%%", "%"), slots


@cache
def _dialect() -> Any:
    dialect: Any = psycopg2.dialect
    return dialect(paramstyle="format")


def _values(slots: list[_Slot], parameters: Mapping[str, Any]) -> list[Any]:
    found: list[Any] = []
    for slot in slots:
        if not isinstance(slot, str):
            found.extend(map(_storable, slot))
        elif isinstance(slot, _Listed):
            found.append([_storable(value) for value in json.loads(parameters[slot])])
        else:
            found.append(_storable(parameters[slot]))
    return found
