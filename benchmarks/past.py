"""
Question: does the past of a long run cost more to read than that of a short one?

Workload: two runs in one database, with 100 and 100,000 events that set `progress` and count `rows`, ten in a
request. In turn, so that a machine that is slower for a while slows both: read the current metadata; the metadata
as it stood in the middle of the history; a page of 20 events from the middle, each with the values before and
after it and the size of the metadata; the same page of one key; what differs between the middle and a later state.
Payload: about 30 bytes of data an event, about 60 bytes of metadata.

In process, without HTTP. The ratio is to the run with 100 events; the aim is at most 3. Where exactly the middle
lies between two kept snapshots is chance, so the page and the version begin at a different place each time, within
the 30 versions around the middle.
"""

import asyncio
import itertools
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from benchmarks import cores
from benchmarks.growth import Work, cases, fill, measure, run_id
from benchmarks.options import Options
from benchmarks.report import Case
from ledger.history import Wanted
from ledger.ledger import Ledger
from ledger.log import Log
from ledger.reads import Point
from projections.paths import literal

EVENTS = (100, 100_000)
PAGE = 20  # events

_places = {events: itertools.cycle(range(-15, 15)) for events in EVENTS}


async def read_current(log: Log, events: int) -> None:
    """Read the current metadata."""
    await log.current(run_id(events))


async def read_middle(log: Log, events: int) -> None:
    """Read the metadata as it stood in the middle of the history."""
    await log.metadata(run_id(events), version=_middle(events))


async def read_page(log: Log, events: int) -> None:
    """Read a page from the middle of the history."""
    await log.entries(run_id(events), limit=PAGE, after=_middle(events))


async def read_page_backwards(log: Log, events: int) -> None:
    """Read the page before the middle of the history, newest first."""
    await log.entries(run_id(events), limit=PAGE, after=_middle(events), order="desc")


async def read_page_of_a_key(log: Log, events: int) -> None:
    """Read a page from the middle of the history of one key."""
    wanted = Wanted(key=literal("progress"))
    await log.entries(run_id(events), limit=PAGE, after=_middle(events) - PAGE, wanted=wanted)


async def compare(log: Log, events: int) -> None:
    """Read what differs between the middle and three quarters of the history."""
    middle = _middle(events)
    await log.diff(run_id(events), Point(version=middle), Point(version=middle + events // 4))


WORKS: Mapping[str, Work] = {
    "read the current metadata": read_current,
    "read the metadata at the middle version": read_middle,
    "read 20 events from the middle": read_page,
    "read 20 events before the middle, newest first": read_page_backwards,
    "read 20 events of a key from the middle": read_page_of_a_key,
    "compare two versions": compare,
}


def main(options: Options) -> Iterator[Case]:
    """Measure each kind of work on each run, *options.seconds* for all of them in each repetition."""
    with tempfile.TemporaryDirectory(dir=options.directory) as folder, cores.pinned(cores.for_server()):
        yield from cases("past", asyncio.run(_measure(Path(folder), options)))


async def _measure(folder: Path, options: Options) -> dict[str, dict[int, list[float]]]:
    ledger = await Ledger.open(f"sqlite+aiosqlite:///{folder / 'past.db'}")
    try:
        log = await ledger.log("dev")
        for events in EVENTS:
            await fill(log, events)
        return await measure(dict.fromkeys(EVENTS, log), WORKS, options)
    finally:
        await ledger.close()


def _middle(events: int) -> int:
    return events // 2 + next(_places[events])
