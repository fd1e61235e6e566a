"""
Question: what is left of a no-op's rate at 64 connections, on SQLite and on PostgreSQL, next to the least possible
write on the same engine?

As `benchmarks.http` asks it, which does so on SQLite at several numbers of connections.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from benchmarks import http, servers
from benchmarks.options import Options
from benchmarks.peers.postgres import Postgres, migrated
from benchmarks.report import Case
from benchmarks.servers import Server
from ledger.errors import UnusableDatabase

CONNECTIONS = 64
SQLITE, POSTGRESQL = "beside a no-op, on SQLite", "beside a no-op, on PostgreSQL"


def main(options: Options, folder: Path, postgres: Postgres) -> Iterator[Case]:
    """Measure both engines; PostgreSQL only where this release can use it."""
    with http.started(folder) as three:
        for workload in http.WORKLOADS:
            yield http.compare(SQLITE, workload, CONNECTIONS, three, options)
    try:
        url = migrated(postgres.add("product_beside_noop"))
    except UnusableDatabase as error:
        print(f"left out, {POSTGRESQL}: {error}", file=sys.stderr)
        return
    database = postgres.add("least").uri
    with http.started(folder, partial(servers.product, url=url), partial(least, database)) as three:
        for workload in http.WORKLOADS:
            yield http.compare(POSTGRESQL, workload, CONNECTIONS, three, options)


@contextmanager
def least(database: str, directory: Path, read_answer_bytes: int) -> Iterator[Server]:
    """Run `benchmarks.peers.least` on a database; its log is in *directory*."""
    command = ["-m", "benchmarks.peers.least", "--database", database]
    command += ["--read-answer-bytes", str(read_answer_bytes)]
    with servers.running(command, directory / "least-postgresql.log") as server:
        yield server
