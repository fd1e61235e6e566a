"""
Transactions, to write and to read.

Round trips are what costs here. BEGIN goes out with the first statement of a transaction; what writes is kept back
and goes out with the next question, or with COMMIT.
"""

from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

import psycopg
from psycopg import errors
from psycopg.rows import dict_row, tuple_row
from sqlalchemy import (
    ClauseElement,
)

from ledger import statements
from ledger.errors import OutcomeUnknown
from ledger.postgres.failures import is_lost, is_silence, reason
from ledger.postgres.rows import send
from ledger.postgres.texts import ask, values_of, written
from ledger.reading import complete
from projections.times import Microseconds

STREAM_ROWS = 500  # rows that a stream fetches at once
KEPT_BACK_MAX = 1_000  # rows to write that are kept back until something is asked
CHANNEL = "run_ledger"  # what listeners are told on that a log grew

_CLOCK = "(extract(epoch FROM clock_timestamp()) * 1000000)::bigint"

# Who changed the row of the log last, and who will have changed it if this transaction does.
_CLOCK_AND_MARKS = (
    f"SELECT {_CLOCK}, (SELECT xmin::text FROM logs WHERE environment_id = %s),"  # noqa: S608 - Constants.
    " mod(pg_current_xact_id()::text::numeric, 4294967296)::text"
)

_Result = TypeVar("_Result")


class PostgresTransaction:
    """
    An open transaction, to write in or to read one moment.

    What writes is kept back until something is asked, or until COMMIT, and goes out with that in one round trip.

    Args:
        connection: Nobody else uses it meanwhile.
        begin: How it begins.
        marks: Whether to ask who changed the row of the log that is locked.

    Attributes:
        has_begun: The server has answered something.
    """

    def __init__(
        self,
        connection: psycopg.Connection[Any],
        begin: str = "BEGIN ISOLATION LEVEL READ COMMITTED",
        *,
        marks: bool = False,
    ) -> None:
        self._connection = connection
        self._marks = marks
        self._mark: str | None = None
        self._own_mark: str | None = None
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

    def mark(self) -> str | None:
        """The transaction that changed the row of the log last; None where that was not locked first."""
        return self._mark

    def own_mark(self) -> str | None:
        """The number of this transaction."""
        return self._own_mark

    def rows(self, statement: ClauseElement, parameters: Mapping[str, Any]) -> Sequence[Any]:
        """All rows of a statement, by column name."""
        rows: Sequence[Any] = self._round_trip(statement, parameters)
        return rows

    def stream(self, statement: ClauseElement, parameters: Mapping[str, Any]) -> Iterator[Any]:
        """The rows of a statement one after the other, some hundreds of them before they are asked for."""
        if self._begin is not None or self._kept_back:
            self._round_trip()
        text, slots = written(statement)
        self._streams += 1
        with psycopg.RawServerCursor(
            self._connection, f"stream_{self._streams}", row_factory=dict_row, scrollable=False
        ) as cursor:
            cursor.itersize = STREAM_ROWS
            cursor.execute(text, values_of(slots, parameters), binary=True)
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
            with at_once(self._connection):
                self._send_kept_back()
                self._connection.execute("COMMIT")
        except psycopg.Error as error:
            if is_lost(error) and not isinstance(error, errors.IdleInTransactionSessionTimeout):
                raise OutcomeUnknown(reason(error), is_silent=is_silence(error)) from error
            raise

    def _round_trip(
        self, statement: ClauseElement | None = None, parameters: Mapping[str, Any] | None = None
    ) -> Any:
        """Send what is kept back, then the statement, which is given and whose rows are the answer, or none."""
        asked: psycopg.Cursor[Any] | None = None
        clock: psycopg.Cursor[Any] | None = None
        with at_once(self._connection):
            first = self._begin is not None
            self._send_kept_back()
            if statement is not None:
                asked = ask(self._connection, statement, parameters or {})
            if first:
                # Behind the first statement, which may have waited for the lock.
                clock = self._connection.cursor(binary=True, row_factory=tuple_row)
                if self._marks and statement is statements.LOCK_LOG:
                    clock.execute(_CLOCK_AND_MARKS, [(parameters or {})["environment_id"]])
                else:
                    clock.execute(f"SELECT {_CLOCK}, NULL, NULL")
        self.has_begun = True
        if clock is not None:
            self._now, self._mark, self._own_mark = clock.fetchall()[0]
        return None if asked is None else asked.fetchall()

    def _send_kept_back(self) -> None:
        if self._begin is not None:
            self._connection.execute(self._begin)
            self._begin = None
        for statement, rows in self._kept_back:
            send(self._connection, statement, rows)
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

    async def tuples(self, statement: ClauseElement, **parameters: Any) -> list[Any]:
        """All rows of a statement as plain tuples."""
        return self._ask(statement, parameters, tuple_row).fetchall()

    async def row(self, statement: ClauseElement, **parameters: Any) -> Any | None:
        """The first row of a statement, None without one."""
        return self._ask(statement, parameters).fetchone()

    def _ask(
        self, statement: ClauseElement, parameters: Mapping[str, Any], row_factory: Any = dict_row
    ) -> psycopg.Cursor[Any]:
        if self._has_begun:
            return ask(self._connection, statement, parameters, row_factory)
        self._has_begun = True
        with at_once(self._connection):
            self._connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            return ask(self._connection, statement, parameters, row_factory)


def view(connection: psycopg.Connection[Any], work: Callable[[Reader], Coroutine[Any, Any, _Result]]) -> _Result:
    """Run *work* on a consistent view of the database, and leave no transaction behind."""
    try:
        return complete(work(Reader(connection)))
    except psycopg.Error as error:
        if is_lost(error):
            # Sending more on it may wait for ever: its socket's number may be that of another connection by now.
            connection.close()
        raise
    finally:
        if not connection.closed and connection.info.transaction_status:
            connection.execute("ROLLBACK")


class _Pipeline(psycopg.Pipeline):
    """
    A pipeline that ends with Sync and nothing behind it.

    psycopg sends Flush as well, and any message stops the server's clock for a transaction that does nothing: who
    froze then would hold the lock for ever. (PostgreSQL starts that clock with ReadyForQuery, which answers Sync.)
    """

    def _exit_gen(self) -> Any:
        try:
            yield from self._sync_gen()
        except psycopg.Error:
            # It may have come alone, ahead of what follows it; a pipeline is left once all of that was read.
            with suppress(psycopg.Error):
                yield from self._fetch_gen(flush=False)
            raise


@contextmanager
def at_once(connection: psycopg.Connection[Any]) -> Iterator[None]:
    """What is sent within goes out together, and is answered at the end."""
    pipeline = connection._pipeline = _Pipeline(connection)  # noqa: SLF001 - It makes its own kind only.
    try:
        with pipeline:
            yield
    finally:
        connection._pipeline = None  # noqa: SLF001 - As above.
