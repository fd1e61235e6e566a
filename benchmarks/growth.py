"""
Question: does a run get slower as its history grows?

Workload: runs in one database, with 10, 1,000 and 100,000 events (with `--large` 1,000,000) that set `progress`
and count `rows`, ten in a request. In turn, so that a machine that is slower for a while slows all of them: read
the current metadata; read the metadata as it stood in the middle of the history; read a page of 100 events from
the middle, with the values before and after each (five events, of the run with 10); verify the run, whose time is
divided by its events; append one event.
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
EVENTS_LARGE = 1_000_000
OPERATIONS_AT_ONCE = 10  # in one request while the histories are made, about what a job reports in a second
REQUESTS_AT_ONCE = 500  # while the histories are made; they share a sync
PAGE = 100  # events

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


async def read_page(log: Log, events: int) -> None:
    """Read a page from the middle of the history."""
    await log.entries(run_id(events), limit=PAGE, after=events // 2)


async def verify(log: Log, events: int) -> None:
    """Verify the run."""
    verified = await log.verify(run_id(events))
    assert not verified.report.faults, verified.report


VERIFY = "verify the run, for each of its events"

WORKS: Mapping[str, Work] = {
    "read the current metadata": read_current,
    "read the metadata at the middle version": read_middle,
    "read 100 events from the middle": read_page,
    VERIFY: verify,
    "append one event": append,  # Last: it makes the runs longer.
}


def main(options: Options) -> Iterator[Case]:
    """Measure each kind of work on each run, *options.seconds* for all of them in each repetition."""
    with tempfile.TemporaryDirectory(dir=options.directory) as folder, cores.pinned(cores.for_server()):
        measured = asyncio.run(_measure(Path(folder), options))
    measured[VERIFY] = {
        events: [taken / events for taken in samples] for events, samples in measured[VERIFY].items()
    }
    yield from cases("growth", measured)


def cases(
    benchmark: str, measured: Mapping[str, Mapping[int, Sequence[float]]], of: str = "events_in_the_run"
) -> Iterator[Case]:
    """A case for each kind of work and each size, whose column is named *of*; the ratio is to the first size."""
    for name, by_size in measured.items():
        least = statistics.median(next(iter(by_size.values())))
        for size, taken in by_size.items():
            samples = sorted(taken)
            median = statistics.median(samples)
            yield Case(
                benchmark,
                name,
                {
                    of: size,
                    "p50_us": round(median * 1e6, 2),
                    "p99_us": round(samples[int(len(samples) * 0.99)] * 1e6, 2),
                    "ratio": round(median / least, 3),
                    "samples": len(samples),
                },
            )


async def _measure(folder: Path, options: Options) -> dict[str, dict[int, list[float]]]:
    """Seconds that each call took, by the kind of work and the events in the run."""
    sizes = (*EVENTS, EVENTS_LARGE) if options.large else EVENTS
    ledger = await Ledger.open(f"sqlite+aiosqlite:///{folder / 'growth.db'}")
    try:
        log = await ledger.log("dev")
        for events in sizes:
            await fill(log, events)
        return await measure(dict.fromkeys(sizes, log), WORKS, options)
    finally:
        await ledger.close()


async def measure(
    logs: Mapping[int, Log], works: Mapping[str, Work], options: Options
) -> dict[str, dict[int, list[float]]]:
    """Seconds that each call took, by the kind of work and the size; *logs* holds the log for each size."""
    measured: dict[str, dict[int, list[float]]] = {name: {size: [] for size in logs} for name in works}
    seconds = options.seconds * options.repetitions / len(works)
    for name, work in works.items():
        await _turns(logs, work, measured[name], seconds)
    return measured


async def _turns(logs: Mapping[int, Log], work: Work, samples: dict[int, list[float]], seconds: float) -> None:
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or not all(samples.values()):
        for size, log in logs.items():
            started = time.perf_counter()
            await work(log, size)
            samples[size].append(time.perf_counter() - started)


async def fill(log: Log, events: int) -> None:
    """Make a run with so many events."""
    await log.create(CreateRun(run_id=run_id(events), task="growth", metadata={"user": "user_1234", "rows": 0}))
    at_once = OPERATIONS_AT_ONCE * REQUESTS_AT_ONCE
    for first in range(1, events, at_once):
        await asyncio.gather(
            *(
                log.change(ChangeMetadata(run_id=run_id(events), operations=operations(begin, count, events)))
                for begin in range(first, min(first + at_once, events), OPERATIONS_AT_ONCE)
                if (count := min(OPERATIONS_AT_ONCE, events - begin))
            )
        )


def operations(first: int, count: int, events: int) -> Sequence[Operation]:
    """The operations that become the events *first* and the *count* - 1 behind it, of a run of *events*."""
    return [
        Increment(key="rows", value=10) if number % 2 else Set(key="progress", value=round(number / events, 4))
        for number in range(first, first + count)
    ]


def run_id(events: int) -> str:
    """The id of the run that `fill` made."""
    return f"run-{events}"
