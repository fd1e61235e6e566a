"""
The engine for many nodes: one PostgreSQL database, shared by any number of processes on any number of machines.

psycopg 3, its connections used in threads: so transactions, verification and erasure are the same code on both
engines, and a read is one hop to a thread whatever it takes. Round trips are what costs here. BEGIN goes out with
the first statement of a transaction; what writes is kept back and goes out with the next question, or with COMMIT;
statements are prepared once, and take many rows each.

The first statement of a write locks the row of the environment's log. Nothing else is ever waited for, so there is
no deadlock; a process that freezes while it holds the lock loses its connection after ten seconds.

    store.py          what is run on which connection, in which thread
    transaction.py    transactions, to write and to read
    connection.py     a connection, and what it may wait for
    listener.py       the connection on which a node hears that another one wrote
    rows.py           rows to write, many of them in one statement
    texts.py          how statements and texts are written
    failures.py       what the driver says, in the ledger's words
    schema.py         migrating, distributing, and which release made the tables
    role.py           what a server needs to be allowed
"""

from ledger.postgres.connection import target_of
from ledger.postgres.role import role_statements
from ledger.postgres.schema import distribute, migrate
from ledger.postgres.store import PostgresStore, inspect_target
from ledger.postgres.transaction import PostgresTransaction

__all__ = [
    "PostgresStore",
    "PostgresTransaction",
    "distribute",
    "inspect_target",
    "migrate",
    "role_statements",
    "target_of",
]
