"""
The least that a durable write can cost behind the no-op: what is left is the price of the disk and of SQLite.

The routes of the metadata API on two tables. A write parses its body, appends one row and changes one head; a read
looks up the head on the event loop. No validation, no fold, no history that could be asked for, no chain. Writes
that arrive during a commit make up the next one (group commit), in one thread, through Python's own driver.

Durability as the product's: WAL with synchronous=FULL, answered after the commit.
"""

import argparse
import asyncio
import json
import sqlite3
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager, closing
from pathlib import Path

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from benchmarks.noop import PATH, WRITE_ANSWER
from benchmarks.serving import serve

SCHEMA = """
CREATE TABLE heads (run TEXT PRIMARY KEY, version INTEGER NOT NULL, data TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE events (position INTEGER PRIMARY KEY, run TEXT NOT NULL, data TEXT NOT NULL);
"""
APPEND = "INSERT INTO events (run, data) VALUES (?, ?)"
CHANGE = (
    "INSERT INTO heads (version, data, run) VALUES (?, ?, ?)"
    " ON CONFLICT (run) DO UPDATE SET version = version + excluded.version, data = excluded.data"
)
CURRENT = "SELECT version, data FROM heads WHERE run = ?"

Row = tuple[str, str]  # run and body


class Writer:
    """Group commit: one thread writes what waits, and the loop answers after the commit."""

    def __init__(self, path: Path) -> None:
        self._loop = asyncio.get_running_loop()
        self._thread = ThreadPoolExecutor(max_workers=1)
        self._connection = connect(path)
        self._waiting: list[tuple[Row, asyncio.Future[None]]] = []
        self._busy = False

    async def write(self, run: str, body: str) -> None:
        """Return once the row is durable."""
        done: asyncio.Future[None] = self._loop.create_future()
        self._waiting.append(((run, body), done))
        if not self._busy:
            self._busy = True
            self._loop.call_soon(self._begin)  # Requests that have arrived already share the commit.
        await done

    def close(self) -> None:
        """End the thread, then let the file go."""
        self._thread.shutdown()
        self._connection.close()

    def _begin(self) -> None:
        group, self._waiting = self._waiting, []
        committed = self._thread.submit(commit, self._connection, [row for row, _ in group])
        committed.add_done_callback(lambda future: self._loop.call_soon_threadsafe(self._answer, group, future))

    def _answer(self, group: Sequence[tuple[Row, asyncio.Future[None]]], committed: Future[None]) -> None:
        error = committed.exception()
        for _, done in group:
            if done.done():  # The client went away.
                continue
            if error is None:
                done.set_result(None)
            else:
                done.set_exception(error)
        self._busy = bool(self._waiting)
        if self._busy:
            self._loop.call_soon(self._begin)


def connect(path: Path) -> sqlite3.Connection:
    """Open the file, with the product's durability."""
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    return connection


def commit(connection: sqlite3.Connection, rows: Sequence[Row]) -> None:
    """Append *rows* and change the heads of their runs, each head once, in one transaction."""
    times = Counter(run for run, _ in rows)
    last = dict(rows)
    connection.execute("BEGIN IMMEDIATE")
    connection.executemany(APPEND, rows)
    connection.executemany(CHANGE, [(times[run], data, run) for run, data in last.items()])
    connection.execute("COMMIT")


def create_app(path: Path, read_answer_bytes: int) -> Starlette:
    """Build the application on a new file; a read answers about *read_answer_bytes* bytes."""
    with closing(connect(path)) as connection:
        connection.executescript(SCHEMA)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        with closing(Writer(path)) as writer, closing(connect(path)) as reader:
            app.state.writer, app.state.reader = writer, reader
            yield

    async def write(request: Request) -> Response:
        body = await request.body()
        json.loads(body)
        await request.app.state.writer.write(request.path_params["id"], body.decode())
        return Response(WRITE_ANSWER, media_type="application/json")

    async def read(request: Request) -> Response:
        row = request.app.state.reader.execute(CURRENT, (request.path_params["id"],)).fetchone()
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
    parser.add_argument("--database", type=Path, required=True, help="a file that does not exist yet")
    parser.add_argument("--read-answer-bytes", type=int, default=256)
    arguments = parser.parse_args()
    serve(create_app(arguments.database, arguments.read_answer_bytes))


if __name__ == "__main__":
    main()
