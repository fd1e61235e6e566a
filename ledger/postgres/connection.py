"""A connection, and what it may wait for."""

from collections.abc import Mapping
from typing import Any

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


def connect(target: Mapping[str, Any], *, writes: bool = False) -> psycopg.Connection[Any]:
    """
    Open a connection and set it up: BEGIN and COMMIT are ours to send, not the driver's.

    Args:
        target: Where to, in libpq's words.
        writes: Its statements are those of a write.
    """
    connection: psycopg.Connection[Any] = psycopg.connect(**target, autocommit=True)
    try:
        connection.prepare_threshold = 1
        connection.prepared_max = STATEMENTS_KEPT
        adapters = connection.adapters
        adapters.register_dumper(int, Int8Dumper)  # One prepared statement, however large the numbers are.
        adapters.register_dumper(NoNumber, NoNumberDumper)
        adapters.register_loader("text", EscapedText)
        adapters.register_loader("text", EscapedBinaryText)
        connection.execute(
            f"SET lock_timeout = {LOCK_TIMEOUT_MS}; SET statement_timeout = {TIMEOUT_MS}; "
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
