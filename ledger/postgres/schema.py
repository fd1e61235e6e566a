"""The tables: which release made them, bringing them up to date, and distributing them."""

from collections.abc import Mapping
from typing import Any

import psycopg
from sqlalchemy import URL, create_engine, pool
from sqlalchemy.exc import DBAPIError

from ledger.distribute import distribute_statements, distributed
from ledger.errors import UnusableDatabase
from ledger.migrate import HEAD, refuse_foreign, upgrade
from ledger.postgres.connection import TIMEOUT_MS, connect, shown, target_of
from ledger.postgres.failures import reason

_MIGRATION_LOCK = 0x72756E6C6564  # "runled": the advisory lock of those who migrate


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
        raise UnusableDatabase(f"cannot migrate {shown(url)}: {reason(error)}") from error


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
        with connect(target, is_patient=True) as connection:
            connection.execute("SET lock_timeout = 0")
            check_release(connection)
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
        raise UnusableDatabase(f"cannot distribute {shown(url)}: {reason(error)}") from error


def check_database(target: Mapping[str, Any], url: URL) -> None:
    """
    Judge whether a database can be worked on.

    Raises:
        UnusableDatabase: It cannot be reached, stores text in another encoding, or has no tables of this release.
    """
    try:
        with connect(target) as connection:
            encoding = connection.execute("SHOW server_encoding").fetchall()[0][0]
            if encoding != "UTF8":
                raise UnusableDatabase(
                    f"{shown(url)} stores text as {encoding}; make a database with ENCODING 'UTF8'"
                )
            check_release(connection)
    except psycopg.Error as error:
        raise UnusableDatabase(f"cannot open {shown(url)}: {reason(error)}") from error


def check_release(connection: psycopg.Connection[Any]) -> None:
    """
    Judge which release made the tables.

    Raises:
        UnusableDatabase: Not this one.
    """
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
