"""
Past one database server: the same tables, distributed by their environment on Citus.

A transaction belongs to one environment, so it touches one shard; nothing is joined across environments. Which
environments there are is known on every server.

Source: the documentation of Citus 13 (create_reference_table, create_distributed_table, enable_unsafe_triggers).
"""

from collections.abc import Iterable

from ledger.tables import environments, schema

COLUMN = "environment_id"

# Triggers on distributed tables are safe where they look at rows of their own shard only, as ours do; Citus wants
# that to be said. They are made anew on every shard, and hold on the workers, too.
UNSAFE_TRIGGERS = "SET LOCAL citus.enable_unsafe_triggers = on"


def distributed() -> list[str]:
    """The tables that are distributed, those that others refer to first."""
    return [table.name for table in schema.sorted_tables if table is not environments]


def distribute_statements(already: Iterable[str] = ()) -> list[str]:
    """
    What is sent to the coordinator, in one transaction.

    Args:
        already: Tables that Citus keeps already, and that are left as they are.
    """
    known = set(already)
    found = [UNSAFE_TRIGGERS]
    if environments.name not in known:
        found.append(f"SELECT create_reference_table('{environments.name}')")
    first, *others = distributed()
    for name in (first, *others):
        if name not in known:
            colocate = "" if name == first else f", colocate_with => '{first}'"
            found.append(f"SELECT create_distributed_table('{name}', '{COLUMN}'{colocate})")
    return found
