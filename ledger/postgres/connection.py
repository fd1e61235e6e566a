"""A connection, and what it may wait for."""

import time
from collections.abc import Generator, Mapping
from typing import Any, TypeVar

import psycopg
from psycopg.types.numeric import Int8Dumper
from sqlalchemy import URL
from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg

from ledger.errors import UnusableDatabase
from ledger.postgres.rows import NoNumber, NoNumberDumper
from ledger.postgres.texts import STATEMENTS_KEPT, EscapedBinaryText, EscapedText

TIMEOUT_MS = 10_000  # milliseconds that a statement may last
LOCK_TIMEOUT_MS = 10_000  # milliseconds to wait for another process's lock
IDLE_TIMEOUT_MS = 10_000  # milliseconds that a transaction may do nothing
CONNECT_TIMEOUT_S = 10  # seconds to wait for a server that does not answer
SILENCE_MAX_S = 12.0  # seconds without a word from a server, which itself ends what lasts longer than the above

# TCP, so that a dead network is noticed. libpq's names.
_KEEPALIVES = {
    "keepalives": 1,
    "keepalives_idle": 10,  # seconds
    "keepalives_interval": 5,  # seconds
    "keepalives_count": 3,
    "tcp_user_timeout": 2 * TIMEOUT_MS,
}

# A write names its rows by their keys. So one plan is right whatever the keys are, and none that reads a whole
# table ever is: the server would choose that while a table is small, and keep it while the table grows.
_PLANS = "SET plan_cache_mode = force_generic_plan; SET enable_seqscan = off; "


_Result = TypeVar("_Result")


class Silence(psycopg.OperationalError):
    """The server has said nothing for too long: it is frozen, or what was sent does not arrive."""


class _Connection(psycopg.Connection[Any]):
    """
    A connection that is given up, and closed, where its server falls silent.

    Attributes:
        silence_max_s: How long it may say nothing while an answer is waited for, None for as long as it takes.
    """

    silence_max_s: float | None = None

    def wait(self, gen: Generator[Any, Any, _Result], *arguments: Any, **options: Any) -> _Result:
        """Wait for what the server says. The driver looks at the clock ten times a second."""
        if self.silence_max_s is None:
            return super().wait(gen, *arguments, **options)
        try:
            return super().wait(_bounded(gen, self.silence_max_s), *arguments, **options)
        except Silence:
            self.close()
            raise


def _bounded(waiting: Generator[Any, Any, _Result], silence_max_s: float) -> Generator[Any, Any, _Result]:
    heard_at = time.monotonic()
    try:
        wanted = next(waiting)
        while True:
            ready = yield wanted
            if ready:
                heard_at = time.monotonic()
            elif time.monotonic() - heard_at > silence_max_s:
                raise Silence(f"the server has not answered for {silence_max_s:g} seconds")
            wanted = waiting.send(ready)
    except StopIteration as done:
        result: _Result = done.value
        return result


def connect(
    target: Mapping[str, Any], *, writes: bool = False, is_patient: bool = False
) -> psycopg.Connection[Any]:
    """
    Open a connection and set it up: BEGIN and COMMIT are ours to send, not the driver's.

    Args:
        target: Where to, in libpq's words.
        writes: Its statements are those of a write.
        is_patient: Its statements may last as long as they need.
    """
    connection = _Connection.connect(**target, autocommit=True)
    try:
        connection.silence_max_s = None if is_patient else SILENCE_MAX_S
        connection.prepare_threshold = 1
        connection.prepared_max = STATEMENTS_KEPT
        adapters = connection.adapters
        adapters.register_dumper(int, Int8Dumper)  # One prepared statement, however large the numbers are.
        adapters.register_dumper(NoNumber, NoNumberDumper)
        adapters.register_loader("text", EscapedText)
        adapters.register_loader("text", EscapedBinaryText)
        connection.execute(
            f"SET lock_timeout = {LOCK_TIMEOUT_MS}; SET statement_timeout = {0 if is_patient else TIMEOUT_MS}; "
            f"SET idle_in_transaction_session_timeout = {IDLE_TIMEOUT_MS}; {_PLANS if writes else ''}"
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
