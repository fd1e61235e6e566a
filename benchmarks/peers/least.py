"""
The least that a durable write can cost on PostgreSQL: `benchmarks.least` on another engine.

One connection of asyncpg, on the event loop: what arrives during a commit makes up the next one, two statements
for the whole group. Durability as the product's: PostgreSQL's defaults, answered after the commit.
"""

import argparse
import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg  # type: ignore[import-not-found,import-untyped,unused-ignore]
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from benchmarks.noop import PATH, WRITE_ANSWER
from benchmarks.serving import serve

SCHEMA = """
CREATE TABLE heads (run text PRIMARY KEY, version bigint NOT NULL, data text NOT NULL);
CREATE TABLE events (position bigserial PRIMARY KEY, run text NOT NULL, data text NOT NULL);
"""
APPEND = "INSERT INTO events (run, data) SELECT * FROM unnest($1::text[], $2::text[])"
CHANGE = (
    "INSERT INTO heads (run, version, data) SELECT * FROM unnest($1::text[], $2::bigint[], $3::text[])"
    " ON CONFLICT (run) DO UPDATE SET version = heads.version + excluded.version, data = excluded.data"
)
CURRENT = "SELECT version, data FROM heads WHERE run = $1"

Row = tuple[str, str]  # run and body


class Writer:
    """Group commit on one connection."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._waiting: list[tuple[Row, asyncio.Future[None]]] = []
        self._task: asyncio.Task[None] | None = None

    async def write(self, run: str, body: str) -> None:
        """Return once the row is durable."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(((run, body), done))
        if self._task is None:
            self._task = asyncio.create_task(self._write_groups())
        await done

    async def _write_groups(self) -> None:
        while self._waiting:
            group, self._waiting = self._waiting, []
            error = await self._commit([row for row, _ in group])
            for _, done in group:
                if done.done():  # The client went away.
                    continue
                if error is None:
                    done.set_result(None)
                else:
                    done.set_exception(error)
            await asyncio.sleep(0)  # Requests that have arrived already share the next commit.
        self._task = None

    async def _commit(self, rows: list[Row]) -> asyncpg.PostgresError | None:
        times, last = Counter(run for run, _ in rows), dict(rows)
        try:
            async with self._connection.transaction():
                await self._connection.execute(APPEND, [run for run, _ in rows], [data for _, data in rows])
                await self._connection.execute(CHANGE, [*last], [times[run] for run in last], [*last.values()])
        except asyncpg.PostgresError as error:
            return error
        return None


def create_app(uri: str, read_answer_bytes: int) -> Starlette:
    """Build the application on an empty database; a read answers about *read_answer_bytes* bytes."""

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        connection = await asyncpg.connect(uri)
        await connection.execute(SCHEMA)
        async with asyncpg.create_pool(uri) as app.state.readers:
            app.state.writer = Writer(connection)
            yield
        await connection.close()

    async def write(request: Request) -> Response:
        body = await request.body()
        json.loads(body)
        await request.app.state.writer.write(request.path_params["id"], body.decode())
        return Response(WRITE_ANSWER, media_type="application/json")

    async def read(request: Request) -> Response:
        row = await request.app.state.readers.fetchrow(CURRENT, request.path_params["id"])
        if row is None:
            return Response(b"{}", 404, media_type="application/json")
        answer = b'{"version":%d,"metadata":%b}' % (row[0], row[1].encode())
        return Response(answer.ljust(read_answer_bytes), media_type="application/json")

    return Starlette(
        routes=[Route(PATH, write, methods=["PUT"]), Route(PATH, read, methods=["GET"])], lifespan=lifespan
    )


def main() -> None:
    """Serve on a free port of 127.0.0.1."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--database", required=True, help="a postgresql: URI")
    parser.add_argument("--read-answer-bytes", type=int, default=256)
    arguments = parser.parse_args()
    serve(create_app(arguments.database, arguments.read_answer_bytes))


if __name__ == "__main__":
    main()
