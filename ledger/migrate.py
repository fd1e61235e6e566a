"""Bring a database's tables up to date. Alembic is loaded only when there is something to do."""

from collections.abc import Iterable
from pathlib import Path

from sqlalchemy import Connection, inspect, text

from ledger.errors import UnusableDatabase

HEAD = "0003"  # The newest migration, which a test holds against the folder.
FOLDER = Path(__file__).parent / "migrations"


def revision(connection: Connection) -> str | None:
    """The migration that the database is at, None for an empty database."""
    if not inspect(connection).has_table("alembic_version"):
        return None
    found: str | None = connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
    return found


def refuse_foreign(tables: Iterable[str]) -> None:
    """
    Leave another program's database alone.

    Raises:
        UnusableDatabase: There are tables, and they are not this program's.
    """
    found = set(tables)
    if found and not {"alembic_version", "environments", "logs"} <= found:
        raise UnusableDatabase("this database holds other tables; give Run Ledger a database of its own")


def upgrade(connection: Connection) -> bool:
    """
    Apply what is missing, within the open write transaction of *connection*: all of it or nothing.

    Returns:
        Whether anything was missing.

    Raises:
        UnusableDatabase: The database is of a newer release, or holds another program's tables.
    """
    found = revision(connection)
    if found == HEAD:
        return False
    refuse_foreign(inspect(connection).get_table_names())

    from alembic import command  # noqa: PLC0415 - Loading Alembic costs every start a tenth of a second.
    from alembic.config import Config  # noqa: PLC0415
    from alembic.util import CommandError  # noqa: PLC0415

    config = Config()
    config.set_main_option("script_location", str(FOLDER))
    config.attributes["connection"] = connection
    try:
        command.upgrade(config, "head")
    except CommandError as error:
        raise UnusableDatabase(
            f"a newer release wrote this database: its schema is {found}, this release knows {HEAD}; "
            "upgrade Run Ledger"
        ) from error
    return True
