"""
Question: what does reporting cost the job that reports, and do its reports arrive?

Workload: one run, 10,000 calls of `metadata.set("progress", ...)` in a loop, each timed by itself; beside them, in
turn, 10,000 bare assignments to a dict. Then one flush. Once with a server on another core, once with the database
in the job's own process.
Payload: one number a call.
Durability: the product's defaults. The calls wait for nothing; the flush waits until all of them are synced.

The case is invalid unless every call became one version, in order.
"""

import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks import cores, servers
from benchmarks.options import Options
from benchmarks.report import Case
from ledger import configure, metadata, run, runs

CALLS = 10_000


def main(options: Options) -> Iterator[Case]:
    """Measure both ways to the ledger, *options.repetitions* runs each."""
    with tempfile.TemporaryDirectory(dir=options.directory) as folder, cores.pinned(cores.for_load()):
        with servers.product(Path(folder)) as server:
            url = f"http://127.0.0.1:{server.port}"
            yield _measure("10,000 reports to a server", url, Path(folder), options.repetitions)
        url = f"sqlite+aiosqlite:///{folder}/embedded.db"
        yield _measure("10,000 reports to a database in the job's process", url, Path(folder), options.repetitions)


def _measure(name: str, url: str, folder: Path, repetitions: int) -> Case:
    configure(url, spool_dir=folder / "spool")
    calls: list[int] = []
    assignments: list[int] = []
    flushes: list[float] = []
    problems: list[str] = []
    try:
        for _ in range(repetitions):
            with run("benchmark") as reported:
                assignments += _assignments()
                calls += _calls()
                started = time.perf_counter()
                metadata.flush()
                flushes.append(time.perf_counter() - started)
            problems += _problems(reported.id)
    finally:
        configure(None)
    calls.sort()
    median, bare = statistics.median(calls), statistics.median(assignments)
    figures = {
        "call_p50_us": round(median / 1e3, 2),
        "call_p99_us": round(calls[int(len(calls) * 0.99)] / 1e3, 2),
        "call_max_us": round(calls[-1] / 1e3, 1),
        "assignment_p50_us": round(bare / 1e3, 3),
        "ratio": round(median / bare, 1),
        "flush_p50_ms": round(statistics.median(flushes) * 1e3, 1),
        "calls": len(calls),
    }
    return Case("handle", name, figures, tuple(problems))


def _calls() -> list[int]:
    """Nanoseconds of each report."""
    clock, samples = time.perf_counter_ns, []
    for number in range(CALLS):
        started = clock()
        metadata.set("progress", number / CALLS)
        samples.append(clock() - started)
    return samples


def _assignments() -> list[int]:
    """Nanoseconds of each assignment."""
    clock, samples = time.perf_counter_ns, []
    bare: dict[str, float] = {}
    for number in range(CALLS):
        started = clock()
        bare["progress"] = number / CALLS
        samples.append(clock() - started)
    return samples


def _problems(run_id: str) -> list[str]:
    values: list[object] = []
    after = 0
    while page := runs.history_sync(run_id, after=after):
        values += [change.data["value"] for change in page if change.type == "metadata.set"]
        after = page[-1].version
    expected = [number / CALLS for number in range(CALLS)]
    return [] if values == expected else [f"{len(values)} of {CALLS} reports arrived, or in another order"]
