"""
Question: how many bytes on disk are an event and a run?

Workload: runs with events that set `progress` and count `rows`, ten in a request, a tenth of the requests with an
idempotency key: 100 runs of 1,000 events, then 10,000 runs of 10 events (with `--large` also 100 of 10,000 and
100,000 of 10). Then the file is closed and its pages are counted, table by table, as they lie there.

An event's bytes are those of its row, with salt and chain, and of all indexes on events; its payload is the JSON
text of its data. Snapshots, which time travel costs, are shown for each event besides. A run's bytes are its head
and all indexes on heads; idempotency records, which are forgotten after seven days, are shown for each record.
"""

import asyncio
import sqlite3
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from benchmarks import cores, growth
from benchmarks.options import Options
from benchmarks.report import Case
from ledger.ledger import Ledger
from ledger.log import Log
from ledger.writes import ChangeMetadata, CreateRun, IdempotencyKey
from projections.values import JsonObject

SIZES = ((100, 1_000), (10_000, 10))  # runs, and events of each
SIZES_LARGE = ((100, 10_000), (100_000, 10))
AT_ONCE = 5_000  # requests that wait together while the events are made
KEYS_EVERY = 10  # requests, of which one has an idempotency key

# Bytes of each table with its indexes, and of the indexes alone: dbstat counts the pages of each of them.
PAGES = """
SELECT tbl_name, sum(pgsize), sum(CASE type WHEN 'index' THEN pgsize ELSE 0 END)
FROM dbstat JOIN sqlite_master USING (name) GROUP BY tbl_name
"""


@dataclass(frozen=True, slots=True)
class Stored:
    """
    What a file holds.

    Attributes:
        pages: Bytes of each table with all its indexes.
        indexes: Bytes of the indexes of each table.
        rows: Rows of each table.
        payload: Bytes of the data of all events.
    """

    pages: Mapping[str, int]
    indexes: Mapping[str, int]
    rows: Mapping[str, int]
    payload: int

    def of_each(self, table: str) -> float:
        """Bytes of a table, its indexes included, for each of its rows."""
        return self.pages[table] / max(1, self.rows[table])


def main(options: Options) -> Iterator[Case]:
    """Fill a file for each size and count."""
    for runs, events in (*SIZES, *SIZES_LARGE) if options.large else SIZES:
        name = f"{runs:,} runs of {events:,} events"
        with tempfile.TemporaryDirectory(dir=options.directory) as folder, cores.pinned(cores.for_server()):
            file = Path(folder) / "storage.db"
            asyncio.run(_fill(file, runs, events))
            try:
                stored = count(file)
            except sqlite3.OperationalError as error:
                yield Case("storage", name, {}, (f"this SQLite cannot count pages: {error}",))
                continue
        yield Case("storage", name, figures(stored))


def figures(stored: Stored) -> dict[str, float]:
    """Bytes for each event, each run and each idempotency record."""
    events = stored.rows["events"]
    payload = stored.payload / events
    event = stored.of_each("events")
    return {
        "payload_bytes": round(payload, 1),
        "event_bytes": round(event, 1),
        "event_bytes_beside_payload": round(event - payload, 1),
        "of_them_indexes": round(stored.indexes["events"] / events, 1),
        "snapshot_bytes_an_event": round(stored.pages["snapshots"] / events, 1),
        "run_bytes": round(stored.of_each("runs"), 1),
        "idempotency_record_bytes": round(stored.of_each("idempotency"), 1),
    }


def count(file: Path) -> Stored:
    """
    Count the pages and rows of a closed database.

    Raises:
        OperationalError: This SQLite has no dbstat.
    """
    with closing(sqlite3.connect(file)) as connection:
        sizes = connection.execute(PAGES).fetchall()
        tables = ("events", "snapshots", "runs", "idempotency")
        rows = {table: connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in tables}
        payload = connection.execute("SELECT sum(length(CAST(data AS BLOB))) FROM events").fetchone()[0]
    pages = {table: size for table, size, _ in sizes}
    return Stored(pages, {table: size for table, _, size in sizes}, rows, payload)


async def _fill(file: Path, runs: int, events: int) -> None:
    ledger = await Ledger.open(f"sqlite+aiosqlite:///{file}")
    try:
        log = await ledger.log("dev")
        for first in range(0, runs, AT_ONCE):
            await asyncio.gather(*(log.create(_create(run)) for run in range(first, min(first + AT_ONCE, runs))))
        # Round by round, as runs report that go on at the same time, not one run behind the other.
        for version in range(1, events, growth.OPERATIONS_AT_ONCE):
            for first in range(0, runs, AT_ONCE):
                some = range(first, min(first + AT_ONCE, runs))
                await asyncio.gather(*(_change(log, run, version, events) for run in some))
    finally:
        await ledger.close()


def _create(run: int) -> CreateRun:
    metadata: JsonObject = {"user": f"user_{run}", "rows": 0, "progress": 0}
    return CreateRun(run_id=_run_id(run), task="storage", metadata=metadata)


async def _change(log: Log, run: int, version: int, events: int) -> None:
    count = min(growth.OPERATIONS_AT_ONCE, events - version)
    command = ChangeMetadata(run_id=_run_id(run), operations=growth.operations(version, count, events))
    idempotency = None
    if (version // growth.OPERATIONS_AT_ONCE + run) % KEYS_EVERY == 0:
        idempotency = IdempotencyKey(f"{run:08}-{version:08}-0123456789abcdef", bytes(32))
    await log.change(command, idempotency=idempotency)


def _run_id(run: int) -> str:
    return f"run_{run:022}"  # As long as those that the product makes.
