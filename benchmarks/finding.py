"""
Question: what does it cost to find runs among 100,000, beside a page that asks for nothing?

Workload: one database with 100,000 runs of five tasks, and a rare one; every run has a tag of its user, of whom
there are 1,000, and one that all have; 50 run, the others are over; the metadata has 260 bytes. One run has
100,000 events on top, so that the order of changes has something to pass. Pages of 25 runs: of a status, a task, a
tag, or several; conditions on metadata that half of the runs, one or none matches; and in the order of changes.

In process, without HTTP. The ratio is to the page without a filter, measured in turn with each.
"""

import asyncio
import random
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from benchmarks import cores
from benchmarks.options import Options
from benchmarks.report import Case
from ledger.finding import Sort
from ledger.ledger import Ledger
from ledger.log import Log
from ledger.writes import ChangeMetadata, CreateRun
from projections.filters import RunFilter, parse_condition
from projections.lifecycle import Status
from projections.operations import Set

RUNS = 100_000
EVENTS = 100_000  # of one run
AT_ONCE = 500  # runs that are made at once
OPERATIONS = 1_000  # in a request
PAGE = 25  # runs
STATE = "$.status.state"

_RARE_STATUS = (Status.EXECUTING,)

ASKED: Mapping[str, Mapping[str, Any]] = {
    "a page without a filter": {},
    "status: 50 runs": {"wanted": RunFilter(statuses=_RARE_STATUS)},
    "status: nearly all": {"wanted": RunFilter(statuses=(Status.COMPLETED, Status.FAILED))},
    "task: a fifth": {"wanted": RunFilter(tasks=("task_1",))},
    "task: 100 runs": {"wanted": RunFilter(tasks=("rare",))},
    "tag: 100 runs": {"wanted": RunFilter(tags=("user_5",))},
    "tag of all and status of 50": {"wanted": RunFilter(tags=("all",), statuses=_RARE_STATUS)},
    "tag of 100 and metadata": {
        "wanted": RunFilter(tags=("user_5",), metadata=(parse_condition(STATE, "eq", "running"),))
    },
    "metadata: half": {"wanted": RunFilter(metadata=(parse_condition(STATE, "eq", "running"),))},
    "metadata: one run, by equality (a scan)": {
        "wanted": RunFilter(metadata=(parse_condition("user", "eq", "u77"),))
    },
    "metadata: none, by order (a scan)": {"wanted": RunFilter(metadata=(parse_condition("progress", "gt", "2"),))},
    "by change, behind 100,000 events of one run": {"sort": Sort.CHANGED},
    "by change, tag: 100 runs": {"sort": Sort.CHANGED, "wanted": RunFilter(tags=("user_5",))},
}


def main(options: Options) -> Iterator[Case]:
    """Measure each kind of page, *options.seconds* for all of them in each repetition."""
    with tempfile.TemporaryDirectory(dir=options.directory) as folder, cores.pinned(cores.for_server()):
        for name, (taken, plain) in asyncio.run(_measure(Path(folder), options)).items():
            median, least = statistics.median(taken), statistics.median(plain)
            yield Case(
                "finding",
                name,
                {
                    "runs": RUNS,
                    "p50_ms": round(median * 1e3, 2),
                    "p99_ms": round(sorted(taken)[int(len(taken) * 0.99)] * 1e3, 2),
                    "ratio": round(median / least, 2),
                    "samples": len(taken),
                },
            )


async def _measure(folder: Path, options: Options) -> dict[str, tuple[list[float], list[float]]]:
    ledger = await Ledger.open(f"sqlite+aiosqlite:///{folder / 'finding.db'}")
    try:
        log = await ledger.log("dev")
        await _fill(log)
        seconds = options.seconds * options.repetitions / len(ASKED)
        return {name: await _turns(log, asked, seconds) for name, asked in ASKED.items()}
    finally:
        await ledger.close()


async def _turns(log: Log, asked: Mapping[str, Any], seconds: float) -> tuple[list[float], list[float]]:
    """Seconds that each page took, and each page without a filter in between."""
    taken: list[float] = []
    plain: list[float] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or not taken:
        for samples, what in ((taken, asked), (plain, {})):
            started = time.perf_counter()
            await log.runs(limit=PAGE, **what)
            samples.append(time.perf_counter() - started)
    return taken, plain


async def _fill(log: Log) -> None:
    chance = random.Random(1)
    for first in range(0, RUNS, AT_ONCE):
        await asyncio.gather(*(log.create(_run(number, chance)) for number in range(first, first + AT_ONCE)))
    for _ in range(EVENTS // OPERATIONS):
        operations = [Set(key="n", value=number) for number in range(OPERATIONS)]
        await log.change(ChangeMetadata(run_id="run_500", operations=operations))


def _run(number: int, chance: random.Random) -> CreateRun:
    return CreateRun(
        run_id=f"run_{number}",
        task="rare" if number % 1_000 == 7 else f"task_{number % 5}",
        tags=("all", f"user_{number % 1_000}"),
        status=Status.EXECUTING if number % 2_000 == 3 else chance.choice([Status.COMPLETED, Status.FAILED]),
        metadata={
            "progress": chance.random(),
            "status": {"state": chance.choice(["running", "done"]), "step": chance.randrange(100)},
            "user": f"u{number}",
            "note": "x" * 150,
        },
    )
