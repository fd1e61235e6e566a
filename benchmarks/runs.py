"""
Question: does an environment get slower as its runs become more?

Workload: databases with 10, 1,000 and 100,000 runs (with `--large` 1,000,000), one in a hundred of them queued and
the others executing. In turn: append one event to the run in the middle; read its current metadata; retrieve it;
list the newest 20 runs, the 20 behind the one in the middle, and the newest 20 queued ones; create a run.
Payload: about 60 bytes of metadata a run.
Durability: the product's defaults on SQLite (WAL, synchronous=FULL), so a write waits for one sync.

In process, without HTTP. The ratio is to the database with 10 runs. There the pages are not full: ten rows, four,
and one.
"""

import asyncio
import itertools
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import AsyncExitStack
from pathlib import Path

from benchmarks import cores
from benchmarks.growth import Work, cases, measure
from benchmarks.options import Options
from benchmarks.report import Case
from ledger.ledger import Ledger
from ledger.log import Log
from ledger.writes import ChangeMetadata, CreateRun
from projections.filters import RunFilter
from projections.lifecycle import Status
from projections.operations import Increment

RUNS = (10, 1_000, 100_000)
RUNS_LARGE = 1_000_000
AT_ONCE = 5_000  # creations that wait together while the runs are made; they share syncs
PAGE = 20  # runs

_new = itertools.count()


async def create(log: Log, runs: int) -> None:  # noqa: ARG001 - Every work takes the size.
    """Create a run."""
    await log.create(CreateRun(run_id=f"new-{next(_new)}", task="growth", status=Status.EXECUTING))


async def append(log: Log, runs: int) -> None:
    """Append one event to the run in the middle."""
    await log.change(ChangeMetadata(run_id=run_id(runs // 2), operations=[Increment(key="rows", value=1)]))


async def read_current(log: Log, runs: int) -> None:
    """Read the current metadata of the run in the middle."""
    await log.current(run_id(runs // 2))


async def retrieve(log: Log, runs: int) -> None:
    """Retrieve the run in the middle."""
    await log.run(run_id(runs // 2))


async def list_newest(log: Log, runs: int) -> None:  # noqa: ARG001 - Every work takes the size.
    """List the newest runs."""
    await log.runs(limit=PAGE)


async def list_middle(log: Log, runs: int) -> None:
    """List the runs behind the one in the middle."""
    await log.runs(limit=PAGE, after=run_id(runs // 2))


async def list_queued(log: Log, runs: int) -> None:  # noqa: ARG001 - Every work takes the size.
    """List the newest of the few runs that are queued."""
    await log.runs(limit=PAGE, wanted=RunFilter(statuses=(Status.QUEUED,)))


WORKS: Mapping[str, Work] = {
    "append one event": append,
    "read the current metadata": read_current,
    "retrieve a run": retrieve,
    "list the newest 20 runs": list_newest,
    "list 20 runs from the middle": list_middle,
    "list the newest 20 of one run in a hundred": list_queued,
    "create a run": create,  # Last: it makes the databases larger.
}


def main(options: Options) -> Iterator[Case]:
    """Measure each kind of work on each database, *options.seconds* for all of them in each repetition."""
    with tempfile.TemporaryDirectory(dir=options.directory) as folder, cores.pinned(cores.for_server()):
        yield from cases("runs", asyncio.run(_measure(Path(folder), options)), "runs_in_the_database")


async def _measure(folder: Path, options: Options) -> dict[str, dict[int, list[float]]]:
    async with AsyncExitStack() as opened:
        logs = {}
        for runs in (*RUNS, RUNS_LARGE) if options.large else RUNS:
            ledger = await Ledger.open(f"sqlite+aiosqlite:///{folder / f'runs-{runs}.db'}")
            opened.push_async_callback(ledger.close)
            logs[runs] = await ledger.log("dev")
            await fill(logs[runs], runs)
        return await measure(logs, WORKS, options)


async def fill(log: Log, runs: int) -> None:
    """Make so many runs."""
    for first in range(0, runs, AT_ONCE):
        await asyncio.gather(
            *(log.create(_command(number)) for number in range(first, min(first + AT_ONCE, runs)))
        )


def _command(number: int) -> CreateRun:
    return CreateRun(
        run_id=run_id(number),
        task="growth",
        status=Status.EXECUTING if number % 100 else Status.QUEUED,
        metadata={"user": f"user_{number}", "rows": 0, "progress": 0.5},
    )


def run_id(number: int) -> str:
    """The id of a run that `fill` made."""
    return f"run_{number:012}"
