"""The product in this process, as a job embeds it, and what the peers' cases ask of it."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from benchmarks.options import Options
from benchmarks.peers.postgres import Postgres, migrated
from benchmarks.peers.rates import Rate, of_tasks
from ledger.errors import UnusableDatabase
from ledger.ledger import Ledger
from ledger.log import Log
from ledger.writes import ChangeMetadata, CreateRun
from projections.operations import Operation


class Embedded:
    """
    An open ledger, worked with from outside its event loop.

    Attributes:
        engine: Where it keeps its data: SQLite or PostgreSQL.
    """

    def __init__(self, runner: asyncio.Runner, log: Log, engine: str) -> None:
        self._runner = runner
        self._log = log
        self.engine = engine

    def make_runs(self, runs: int) -> None:
        """Make `run-0` and so on."""

        async def make() -> None:
            for run in range(runs):
                await self._log.create(CreateRun(run_id=f"run-{run}", task="peers"))

        self._runner.run(make())

    def changes(self, operations: Callable[[], Sequence[Operation]], callers: int, options: Options) -> Rate:
        """How often a request of *operations* is made durable, each caller changing a run of its own."""

        def change(caller: int) -> Awaitable[object]:
            return self._log.change(ChangeMetadata(run_id=f"run-{caller}", operations=operations()))

        return self._runner.run(of_tasks(change, callers, options))


@contextmanager
def sqlite(folder: Path, name: str) -> Iterator[Embedded]:
    """Open the SQLite file *name*.db in *folder*, a new one."""
    with opened(f"sqlite+aiosqlite:///{folder / name}.db", "SQLite") as embedded:
        yield embedded


@contextmanager
def postgresql(postgres: Postgres, folder: Path, name: str) -> Iterator[Embedded]:
    """Open a new PostgreSQL database *name*; a SQLite file in *folder* where this release knows no PostgreSQL."""
    database = postgres.add(name)
    try:
        with opened(migrated(database), "PostgreSQL") as embedded:
            yield embedded
    except UnusableDatabase:
        with sqlite(folder, name) as embedded:
            yield embedded


@contextmanager
def opened(url: str, engine: str) -> Iterator[Embedded]:
    """
    Open the database at *url*.

    Raises:
        UnusableDatabase: It cannot be opened.
    """
    with asyncio.Runner() as runner:
        ledger = runner.run(Ledger.open(url))
        try:
            yield Embedded(runner, runner.run(ledger.log("dev")), engine)
        finally:
            runner.run(ledger.close())
