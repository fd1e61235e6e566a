"""
Question: does a run get slower as its history grows?

Workload: three runs in one database, with 10, 1,000 and 100,000 events that set `progress` and count `rows`, ten
in a request. In turn, so that a machine that is slower for a while slows all three: append one event, read the
current metadata, read the metadata as it stood in the middle of the history.
Payload: about 30 bytes of data an event, about 60 bytes of metadata.
Durability: the product's defaults on SQLite (WAL, synchronous=FULL), so an append waits for one sync.

In process, without HTTP: what is asked is how the ledger itself grows. The ratio is to the run with 10 events.
"""

import asyncio
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from pathlib import Path

from benchmarks import cores
from benchmarks.options import Options
from benchmarks.report import Case
from ledger.ledger import Ledger
from ledger.log import Log
from ledger.writes import ChangeMetadata, CreateRun
from projections.operations import Increment, Operation, Set

EVENTS = (10, 1_000, 100_000)
OPERATIONS_AT_ONCE = 10  # in one request while the histories are made, about what a job reports in a second

Work = Callable[[Log, int], Awaitable[None]]


async def append(log: Log, events: int) -> None:
    """Append one event."""
    await log.change(ChangeMetadata(run_id=run_id(events), operations=[Increment(key="rows", value=1)]))


async def read_current(log: Log, events: int) -> None:
    """Read the current metadata."""
    await log.current(run_id(events))


async def read_middle(log: Log, events: int) -> None:
    """Read the metadata as it stood in the middle of the history."""
    await log.metadata(run_id(events), version=events // 2)


WORKS: Mapping[str, Work] = {
    "append one event": append,
    "read the current metadata": read_current,
    "read the metadata at the middle version": read_middle,
}


def main(options: Options) -> Iterator[Case]:
    """Measure each kind of work on each run, *options.seconds* for all of them in each repetition."""
    with tempfile.TemporaryDirectory(dir=options.directory) as folder, cores.pinned(cores.for_server()):
        measured = asyncio.run(_measure(Path(folder), options))
    yield from cases("growth", measured)


def cases(benchmark: str, measured: Mapping[str, Mapping[int, Sequence[float]]]) -> Iterator[Case]:
    """A case for each kind of work and each run; the ratio is to the first run."""
    for name, by_events in measured.items():
        least = statistics.median(next(iter(by_events.values())))
        for events, taken in by_events.items():
            samples = sorted(taken)
            median = statistics.median(samples)
            yield Case(
                benchmark,
                name,
                {
                    "events_in_the_run": events,
                    "p50_us": round(median * 1e6, 2),
                    "p99_us": round(samples[int(len(samples) * 0.99)] * 1e6, 2),
                    "ratio": round(median / least, 3),
                    "samples": len(samples),
                },
            )


async def _measure(folder: Path, options: Options) -> dict[str, dict[int, list[float]]]:
    """Seconds that each call took, by the kind of work and the events in the run."""
    ledger = await Ledger.open(f"sqlite+aiosqlite:///{folder / 'growth.db'}")
    try:
        log = await ledger.log("dev")
        for events in EVENTS:
            await fill(log, events)
        return await measure(log, WORKS, EVENTS, options)
    finally:
        await ledger.close()


async def measure(
    log: Log, works: Mapping[str, Work], sizes: Sequence[int], options: Options
) -> dict[str, dict[int, list[float]]]:
    """Seconds that each call took, by the kind of work and the events in the run, of runs that `fill` made."""
    measured: dict[str, dict[int, list[float]]] = {name: {events: [] for events in sizes} for name in works}
    seconds = options.seconds * options.repetitions / len(works)
    for name, work in works.items():
        await _turns(log, work, measured[name], seconds)
    return measured


async def _turns(log: Log, work: Work, samples: dict[int, list[float]], seconds: float) -> None:
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or not all(samples.values()):
        for events, taken in samples.items():
            started = time.perf_counter()
            await work(log, events)
            taken.append(time.perf_counter() - started)


async def fill(log: Log, events: int) -> None:
    """Make a run with so many events."""
    await log.create(CreateRun(run_id=run_id(events), task="growth", metadata={"user": "user_1234", "rows": 0}))
    made = 1
    while made < events:
        count = min(OPERATIONS_AT_ONCE, events - made)
        await log.change(ChangeMetadata(run_id=run_id(events), operations=_operations(made, count, events)))
        made += count


def _operations(first: int, count: int, events: int) -> Sequence[Operation]:
    return [
        Increment(key="rows", value=10) if number % 2 else Set(key="progress", value=round(number / events, 4))
        for number in range(first, first + count)
    ]


def run_id(events: int) -> str:
    """The id of the run that `fill` made."""
    return f"run-{events}"
