"""
Question: how much of what the engine itself can do is left, in process and a hundred operations at a time?

Workload: one caller. The raw side sends a hundred rows as the product's events are (positions, times, 16 bytes of
salt, 32 of hash, 14 of data) to a table with the same columns and the same two indexes, in one transaction, and
does nothing else. The product takes a hundred operations in one call: it folds, chains and salts them, and changes
the head as well.
Durability: SQLite with WAL and synchronous=FULL; PostgreSQL with its defaults, through asyncpg.
Counted are rows and operations, not calls; the times are those of a call.
"""

import asyncio
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from importlib.metadata import version
from itertools import count
from pathlib import Path
from typing import Any

import asyncpg  # type: ignore[import-not-found,import-untyped,unused-ignore]

from benchmarks import cores
from benchmarks.options import Options
from benchmarks.peers import embedded
from benchmarks.peers.embedded import Embedded
from benchmarks.peers.postgres import Postgres
from benchmarks.peers.rates import Rate, Turn, compare, of_calls, of_tasks
from benchmarks.report import Case
from projections.operations import Operation, Set

BATCH = 100

_COLUMNS = """
    environment_id integer NOT NULL, position bigint NOT NULL, run_key bigint NOT NULL, version bigint NOT NULL,
    type text NOT NULL, actor text NOT NULL, attempt integer NOT NULL, occurred_at bigint,
    recorded_at bigint NOT NULL, headers text NOT NULL, data text NOT NULL, salt {bytes} NOT NULL,
    commitment {bytes}, hash {bytes} NOT NULL,
    PRIMARY KEY (environment_id, position), UNIQUE (environment_id, run_key, version)
"""

Row = tuple[Any, ...]


class Rows:
    """Rows that follow each other."""

    def __init__(self) -> None:
        self._numbers = count(1)

    def batch(self) -> list[Row]:
        """The next hundred."""
        return [self._row(number) for number, _ in zip(self._numbers, range(BATCH), strict=False)]

    @staticmethod
    def _row(number: int) -> Row:
        when = 1_800_000_000_000_000 + number
        data, salt, digest = f'{{"value":{number}}}', number.to_bytes(16), number.to_bytes(32)
        return (1, number, 1, number, "metadata.set", "anonymous", 1, None, when, "{}", data, salt, None, digest)


def main(options: Options, folder: Path, postgres: Postgres) -> Iterator[Case]:
    """Measure both engines."""
    with cores.pinned(cores.for_server()):
        with (
            closing(_file(folder / "raw.db")) as connection,
            embedded.sqlite(folder, "product_beside_sqlite3") as product,
        ):
            name = f"sqlite3 {sqlite3.sqlite_version}, synced batches of {BATCH} rows"
            yield _case(name, lambda: _sqlite(connection, options), product, options)
        uri = postgres.add("raw").uri
        with (
            asyncio.Runner() as runner,
            embedded.postgresql(postgres, folder, "product_beside_asyncpg") as product,
        ):
            database = runner.run(_connect(uri))
            name = f"asyncpg {version('asyncpg')}, committed batches of {BATCH} rows"
            try:
                yield _case(name, lambda: runner.run(_asyncpg(database, options)), product, options)
            finally:
                runner.run(database.close())


def _case(name: str, raw: Turn, product: Embedded, options: Options) -> Case:
    product.make_runs(1)
    numbers = count()

    def operations() -> list[Operation]:
        return [Set(key="progress", value=next(numbers)) for _ in range(BATCH)]

    return compare(
        name,
        lambda: _of_rows(raw()),
        lambda: _of_rows(product.changes(operations, 1, options)),
        options,
        {"callers": 1, "product_on": product.engine},
    )


def _of_rows(rate: Rate) -> Rate:
    return replace(rate, per_s=rate.per_s * BATCH)


def _file(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute(f"CREATE TABLE events ({_COLUMNS.format(bytes='blob')})")
    return connection


def _sqlite(connection: sqlite3.Connection, options: Options) -> Rate:
    rows = Rows()
    insert = f"INSERT INTO events VALUES ({', '.join('?' * 14)})"
    connection.execute("DELETE FROM events")

    def write(_: int) -> None:
        connection.execute("BEGIN IMMEDIATE")
        connection.executemany(insert, rows.batch())
        connection.execute("COMMIT")

    return of_calls(write, 1, options)


async def _connect(uri: str) -> Any:
    connection = await asyncpg.connect(uri)
    await connection.execute(f"CREATE TABLE events ({_COLUMNS.format(bytes='bytea')})")
    return connection


async def _asyncpg(connection: Any, options: Options) -> Rate:
    rows = Rows()
    insert = f"INSERT INTO events VALUES ({', '.join(f'${number}' for number in range(1, 15))})"
    await connection.execute("TRUNCATE events")

    async def write(_: int) -> None:
        await connection.executemany(insert, rows.batch())  # One transaction, sent in one go.

    return await of_tasks(write, 1, options)
