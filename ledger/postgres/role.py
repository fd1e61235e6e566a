"""The role of a server: what it may do with which table."""

from collections.abc import Container
from typing import Any

from sqlalchemy import Delete, Update

from ledger import statements
from ledger.tables import events, logs, schema


def role_statements(role: str) -> list[str]:
    """
    What makes a role that a server needs and no more: it appends, and cannot take away what was recorded.

    It may read and add to every table, and change and delete only where the ledger has a statement for that.

    To be run by the owner of the tables, who migrates them.
    """
    tables = [table.name for table in schema.sorted_tables]
    written = [one for one in vars(statements).values() if isinstance(one, Update | Delete)]
    locked = {logs}  # Who locks a row has to be allowed to change it.
    changed = {one.table for one in written if isinstance(one, Update)} | locked
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
