"""
A server that changes a run's metadata as servers without a log do: read the row, apply, write it back if it still
has the same version, else try again, and give up after the fourth time.

As the Trigger.dev reference implementation does it (`updateMetadata.server.ts`: four tries, 100 ms times 1.4 to
the power of the try in between; `--wait-ms 0` tries again at once). What is given up is answered with 200 there,
too, and kept in memory for later; here it is answered with 200 and counted. The metadata is one JSON text, without
a history and without a check of its size. `GET /counts` tells what was stored and what was given up.

Durability: SQLite with WAL and synchronous=FULL, PostgreSQL with its defaults, a transaction for each write.
"""

import argparse
import asyncio
import json
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any, Protocol

import asyncpg  # type: ignore[import-not-found,import-untyped,unused-ignore]
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from benchmarks.least import connect
from benchmarks.noop import PATH
from benchmarks.serving import serve

TRIES = 4
BACKOFF = 1.4
POOL = 10  # connections to PostgreSQL
SCHEMA = "CREATE TABLE runs (id text PRIMARY KEY, metadata text NOT NULL, version bigint NOT NULL)"
FIRST = '{"progress":0}'

Found = tuple[str, int]  # metadata and version


class Rows(Protocol):
    """A table of runs."""

    async def find(self, run: str) -> Found:
        """The metadata of a run and its version."""

    async def swap(self, run: str, metadata: str, version: int) -> bool:
        """Write the metadata back if the run still has that version; say whether."""


class SqliteRows:
    """In a SQLite file: reads on the loop, writes in one thread."""

    def __init__(self, path: Path) -> None:
        self._reader = connect(path)
        self._writer = connect(path)
        self._thread = ThreadPoolExecutor(max_workers=1)

    async def find(self, run: str) -> Found:
        """The metadata of a run and its version."""
        found: Found = self._reader.execute("SELECT metadata, version FROM runs WHERE id = ?", (run,)).fetchone()
        return found

    async def swap(self, run: str, metadata: str, version: int) -> bool:
        """Write the metadata back if the run still has that version; say whether."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, self._swap, (metadata, run, version))

    def _swap(self, row: tuple[str, str, int]) -> bool:
        change = "UPDATE runs SET metadata = ?, version = version + 1 WHERE id = ? AND version = ?"
        return self._writer.execute(change, row).rowcount == 1


class PostgresRows:
    """In PostgreSQL, over a pool."""

    def __init__(self, pool: Any) -> None:
        self._pool = pool

    async def find(self, run: str) -> Found:
        """The metadata of a run and its version."""
        row = await self._pool.fetchrow("SELECT metadata, version FROM runs WHERE id = $1", run)
        return row[0], row[1]

    async def swap(self, run: str, metadata: str, version: int) -> bool:
        """Write the metadata back if the run still has that version; say whether."""
        change = "UPDATE runs SET metadata = $1, version = version + 1 WHERE id = $2 AND version = $3"
        return bool(await self._pool.execute(change, metadata, run, version) == "UPDATE 1")


class Swaps:
    """Changes of runs, and how they ended."""

    def __init__(self, rows: Rows, wait_s: float) -> None:
        self._rows = rows
        self._wait_s = wait_s
        self.stored = 0
        self.given_up = 0

    async def change(self, run: str, operations: list[dict[str, Any]]) -> str:
        """Apply *operations*, in at most four tries; the metadata, stored or not."""
        for attempt in range(TRIES):
            if attempt:
                await asyncio.sleep(self._wait_s * BACKOFF ** (attempt - 1))
            text, version = await self._rows.find(run)
            metadata = json.loads(text)
            for operation in operations:
                apply(metadata, operation)
            text = json.dumps(metadata, separators=(",", ":"))
            if await self._rows.swap(run, text, version):
                self.stored += 1
                return text
        self.given_up += 1
        return text


def apply(metadata: dict[str, Any], operation: dict[str, Any]) -> None:
    """Change *metadata* by an operation: a set or an increment, which is what the benchmark sends."""
    key, value = operation["key"], operation["value"]
    metadata[key] = metadata.get(key, 0) + value if operation["type"] == "increment" else value


def create_app(target: str, wait_s: float, run: str) -> Starlette:
    """Build the application on a new SQLite file or on an empty PostgreSQL database, with one run in it."""

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        if target.startswith("postgresql:"):
            async with asyncpg.create_pool(target, min_size=POOL, max_size=POOL) as pool:
                await pool.execute(SCHEMA)
                await pool.execute("INSERT INTO runs VALUES ($1, $2, 0)", run, FIRST)
                app.state.rows = PostgresRows(pool)
                app.state.swaps = Swaps(app.state.rows, wait_s)
                yield
        else:
            make_file(Path(target), run)
            app.state.rows = SqliteRows(Path(target))
            app.state.swaps = Swaps(app.state.rows, wait_s)
            yield

    async def write(request: Request) -> Response:
        body = json.loads(await request.body())
        text = await request.app.state.swaps.change(request.path_params["id"], body["operations"])
        return Response(b'{"metadata":%b}' % text.encode(), media_type="application/json")

    async def counts(request: Request) -> Response:
        swaps, rows = request.app.state.swaps, request.app.state.rows
        _, version = await rows.find(run)
        return JSONResponse({"stored": swaps.stored, "given_up": swaps.given_up, "version": version})

    return Starlette(
        routes=[Route(PATH, write, methods=["PUT"]), Route("/counts", counts, methods=["GET"])],
        lifespan=lifespan,
    )


def make_file(path: Path, run: str) -> None:
    """Make a SQLite file with one run."""
    with closing(connect(path)) as connection:
        connection.execute(SCHEMA)
        connection.execute("INSERT INTO runs VALUES (?, ?, 0)", (run, FIRST))


def main() -> None:
    """Serve on a free port of 127.0.0.1."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--database", required=True, help="a file that does not exist yet, or a postgresql: URI")
    parser.add_argument("--wait-ms", type=float, required=True, help="milliseconds before the second try")
    parser.add_argument("--run", required=True, help="id of the run")
    arguments = parser.parse_args()
    serve(create_app(arguments.database, arguments.wait_ms / 1_000, arguments.run))


if __name__ == "__main__":
    main()
