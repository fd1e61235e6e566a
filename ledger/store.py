"""
An engine: what the ledger asks of the database it works on, and which one a URL names.

    sqlite.py       one file, embedded; makes and migrates itself
    postgres/       one database for many nodes; migrated by `run-ledger migrate`
"""

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any, Protocol, TypeVar

from sqlalchemy import URL, ClauseElement, make_url
from sqlalchemy.exc import ArgumentError

from ledger.errors import UnusableDatabase
from ledger.group import Transaction
from ledger.reads import Reader

_Result = TypeVar("_Result")

_POSTGRES = {"postgresql", "postgres"}


class Store(Protocol):
    """
    Transactions on one database.

    Attributes:
        answers_at_once: `point` answers without letting the event loop go on.
        writes_at_once: Transactions that it can write at once, each on another environment.
    """

    answers_at_once: bool
    writes_at_once: int

    async def write(self, work: Callable[[Transaction], _Result]) -> _Result:
        """
        Run *work* in one write transaction and commit it, whether its caller waits for it or not.

        Raises:
            OutcomeUnknown: The database went away while it was being committed.
            Unavailable: Nothing was written.
        """

    async def read(self, work: Callable[[Reader], Coroutine[Any, Any, _Result]]) -> _Result:
        """Run *work*, which waits for nothing but its statements, on a consistent view of the database."""

    async def inspect(self, work: Callable[[Transaction], _Result]) -> _Result:
        """Run *work*, which takes long, on one moment of the database."""

    async def point(self, statement: ClauseElement, parameters: Mapping[str, Any]) -> Any:
        """The first row of a statement that finds it by its key, a plain tuple or None."""

    async def changed(self) -> None:
        """Wait until something may have been committed since the last call, by whatever process."""

    async def close(self) -> None:
        """Carry out what was begun, and close every connection."""


def parsed(url: str) -> URL:
    """
    A database URL, taken apart.

    Raises:
        UnusableDatabase: It is none.
    """
    try:
        found = make_url(url)
    except ArgumentError as error:
        raise UnusableDatabase(
            f"{url!r} is not a database URL; write for example sqlite+aiosqlite:///run-ledger.db"
        ) from error
    if found.get_backend_name() not in {"sqlite", *_POSTGRES}:
        raise UnusableDatabase(
            f"{found.get_backend_name()} is not supported; write for example sqlite+aiosqlite:///run-ledger.db "
            "or postgresql://user@host/run_ledger"
        )
    return found


def is_postgres(url: URL) -> bool:
    """
    Whether a URL names a PostgreSQL database, for whichever driver it was written.

    Raises:
        UnusableDatabase: It does, and the driver is not installed.
    """
    if url.get_backend_name() not in _POSTGRES:
        return False
    try:
        import psycopg  # noqa: F401, PLC0415 - Only those who use it need it.
    except ImportError as error:
        raise UnusableDatabase(
            "PostgreSQL needs its driver; install it with: pip install 'run-metadata-ledger[postgres]'"
        ) from error
    return True


async def open_store(url: str) -> Store:
    """
    Open the database that a URL names; a SQLite file is made and brought up to date.

    Raises:
        UnusableDatabase: It cannot be used.
    """
    named = parsed(url)
    if is_postgres(named):
        from ledger.postgres import PostgresStore  # noqa: PLC0415 - Loads the driver.

        return await PostgresStore.open(named)
    from ledger.sqlite import SqliteStore  # noqa: PLC0415 - As above.

    return await SqliteStore.open(named)


def migrate(url: str) -> None:
    """
    Bring the tables of a database up to date.

    Raises:
        UnusableDatabase: It cannot be used.
    """
    named = parsed(url)
    if is_postgres(named):
        from ledger import postgres  # noqa: PLC0415 - Loads the driver.

        postgres.migrate(named)
        return

    async def open_and_close() -> None:
        await (await open_store(url)).close()

    asyncio.run(open_and_close())


def distribute(url: str) -> list[str]:
    """
    Distribute the tables of a PostgreSQL database with Citus by their environment.

    Returns:
        The tables that were distributed now.

    Raises:
        UnusableDatabase: It is none, or cannot be distributed.
    """
    named = parsed(url)
    if not is_postgres(named):
        raise UnusableDatabase("only PostgreSQL with the citus extension can be distributed, and this is SQLite")
    from ledger import postgres  # noqa: PLC0415 - Loads the driver.

    return postgres.distribute(named)


def inspect_database(url: str, work: Callable[[Transaction], _Result]) -> _Result:
    """
    Run *work* on one moment of a database that is not opened as a ledger.

    Raises:
        UnusableDatabase: It is no database of this release.
        Unavailable: It cannot be read.
    """
    named = parsed(url)
    if is_postgres(named):
        from ledger.postgres import inspect_target, target_of  # noqa: PLC0415 - Loads the driver.

        return inspect_target(target_of(named), work)
    from ledger.sqlite import file_of, inspect_file  # noqa: PLC0415 - As above.

    return inspect_file(file_of(named), work)


def sqlite_file(url: str) -> Path | None:
    """
    The file of a SQLite database, None for another engine.

    Raises:
        UnusableDatabase: The URL is none, or names no file.
    """
    named = parsed(url)
    if is_postgres(named):
        return None
    from ledger.sqlite import named_file  # noqa: PLC0415 - As above.

    return named_file(named)


def missing_file(url: str) -> Path | None:
    """
    The file of a SQLite database that does not exist, None for one that does and for another engine.

    Raises:
        UnusableDatabase: The URL is none, or names no file.
    """
    path = sqlite_file(url)
    return None if path is None or path.exists() else path


def shown(url: str) -> str:
    """A database URL as it may be shown: without its password."""
    return parsed(url).render_as_string()
