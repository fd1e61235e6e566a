"""For which run a piece of code works, wherever it was started."""

import asyncio
import functools
import multiprocessing
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import forkserver, resource_tracker
from pathlib import Path
from typing import Any

import pytest

from ledger import metadata, run
from tests.api.server import environment
from tests.handle.places import Place, program


def add(amount: int = 1) -> str | None:
    metadata.increment("n", amount)
    return run.id


class Worker(threading.Thread):
    def run(self) -> None:
        add(1)


def test_threads_work_for_the_run_that_started_them(place: Place) -> None:
    with run("t") as r:
        started = [
            threading.Thread(target=add),
            threading.Thread(target=add, args=(2,), daemon=True),
            Worker(),
            threading.Timer(0, add, [3]),
            threading.Thread(target=functools.partial(add, 4), name="named"),
        ]
        for thread in started:
            thread.start()
        for thread in started:
            thread.join()
    assert place.metadata(r.id) == {"n": 11}


def test_a_thread_started_by_a_thread_works_for_the_run(place: Place) -> None:
    def outer() -> None:
        inner = threading.Thread(target=add)
        inner.start()
        inner.join()

    with run("t") as r:
        thread = threading.Thread(target=outer)
        thread.start()
        thread.join()
    assert place.metadata(r.id) == {"n": 1}


def test_a_pool_shared_by_two_runs_works_for_whoever_submits(place: Place) -> None:
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(add).result() is None
        with run("a") as a:
            assert pool.submit(add).result() == a.id
            assert list(pool.map(add, [1, 2])) == [a.id] * 2
            with run("b") as b:
                assert pool.submit(add, 10).result() == b.id
            assert pool.submit(add, amount=4).result() == a.id
        assert pool.submit(add).result() is None
    assert place.metadata(a.id) == {"n": 8}
    assert place.metadata(b.id) == {"n": 10}


def test_a_pool_whose_threads_a_run_started_does_not_keep_working_for_it(place: Place) -> None:
    with ThreadPoolExecutor(1) as pool:
        with run("a") as a:
            pool.submit(add).result()
        assert pool.submit(add).result() is None
        with run("b") as b:
            assert pool.submit(add).result() == b.id
    assert place.metadata(a.id) == place.metadata(b.id) == {"n": 1}


async def test_threads_of_an_event_loop_work_for_the_task_that_asked(place: Place) -> None:
    loop = asyncio.get_running_loop()

    async def work(amount: int) -> str:
        async with run("t") as r:
            for _ in range(5):
                assert await asyncio.to_thread(add, amount) == r.id
                assert await loop.run_in_executor(None, add, amount) == r.id
        return r.id

    ids = await asyncio.gather(*(work(amount) for amount in range(1, 6)))
    assert [place.metadata(one) for one in ids] == [{"n": amount * 10} for amount in range(1, 6)]


async def test_asyncio_tasks_work_for_the_run_that_started_them(place: Place) -> None:
    async def work(amount: int) -> None:
        await asyncio.sleep(0)
        add(amount)
        await metadata

    called = asyncio.Event()

    def callback() -> None:
        add(100)
        called.set()

    async with run("t") as r:
        await asyncio.gather(work(1), asyncio.create_task(work(2)))
        async with asyncio.TaskGroup() as group:
            group.create_task(work(3))
        asyncio.get_running_loop().call_soon(callback)
        await called.wait()
    assert place.metadata(r.id) == {"n": 106}


async def test_a_task_started_before_a_run_does_not_work_for_it(place: Place) -> None:
    go = asyncio.Event()

    async def work() -> str | None:
        await go.wait()
        return add()

    before = asyncio.create_task(work())
    async with run("t") as r:
        go.set()
        assert await before is None
    assert place.metadata(r.id) == {}


def test_code_that_outlives_its_run_works_for_the_run_around_it(place: Place) -> None:
    go = threading.Event()
    seen: list[str | None] = []

    def late() -> None:
        go.wait()
        seen.append(add())

    with run("outer") as outer:
        with run("inner") as inner:
            thread = threading.Thread(target=late)
            thread.start()
        go.set()
        thread.join()
    assert seen == [outer.id]
    go.clear()
    with run("alone") as alone:
        thread = threading.Thread(target=late)
        thread.start()
    go.set()
    thread.join()
    assert seen == [outer.id, None]
    assert [place.metadata(one.id) for one in (outer, inner, alone)] == [{"n": 1}, {}, {}]


def test_a_handle_on_a_run_reports_also_after_its_end(place: Place) -> None:
    with run("t") as r:
        pass
    r.metadata.set("late", 1).flush()
    assert place.metadata(r.id) == {"late": 1}


def test_generators_do_not_carry_a_run_away(place: Place) -> None:
    def numbers() -> Any:
        with run("inner"):
            yield 1

    with run("outer") as outer:
        generator = numbers()
        next(generator)
        generator.close()
        assert run.id == outer.id


def test_a_fork_works_for_the_run(place: Place) -> None:
    with run("t") as r:
        metadata.set("parent", 1)
        child = os.fork()
        if child == 0:
            code = 1
            try:
                add(5)
                metadata.flush()
                code = 0
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        add(1)
    assert place.metadata(r.id) == {"parent": 1, "n": 6}
    assert place.types(r.id).count("metadata.set") == 1
    assert place.statuses(r.id) == [(1, "COMPLETED")]


def test_the_end_of_a_block_in_a_forked_copy_does_not_end_the_run(place: Place) -> None:
    child = None
    with run("t") as r:
        child = os.fork()
        if child:
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
            assert place.status(r.id) == "EXECUTING"
            metadata.set("after", True)
    if child == 0:
        os._exit(0)
    assert place.metadata(r.id) == {"after": True}
    assert place.statuses(r.id) == [(1, "COMPLETED")]


CHILD = """
from ledger import metadata, run
metadata.increment("n", 1)
print(run.id, run.attempt, run.parent, run.root)
"""


def test_programs_work_for_the_run_that_started_them(place: Place) -> None:
    with run("outer"), run("t") as r:
        known = f"{r.id} 1 {r.parent} {r.root}\n"
        for options in ({}, {"env": environment(), "cwd": "/"}):
            done = subprocess.run(
                [sys.executable, "-c", CHILD],
                capture_output=True,
                text=True,
                check=True,
                **options,  # type: ignore[call-overload]
            )
            assert [done.stdout, done.stderr] == [known, ""]
        assert subprocess.check_output([sys.executable, "-c", CHILD], text=True) == known
        with subprocess.Popen(
            [sys.executable, "-c", CHILD], -1, None, None, subprocess.PIPE, text=True
        ) as process:
            assert process.communicate()[0] == known
    assert place.metadata(r.id) == {"n": 4}
    outside = subprocess.run([sys.executable, "-c", CHILD], capture_output=True, text=True, check=True)
    assert outside.stdout == "None None None None\n"


async def test_programs_of_an_event_loop_work_for_the_task_that_started_them(place: Place) -> None:
    async def work() -> None:
        async with run("t") as r:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-c", CHILD, stdout=subprocess.PIPE, stderr=subprocess.PIPE
            )
            assert await process.communicate() == (f"{r.id} 1 None None\n".encode(), b"")
        assert place.metadata(r.id) == {"n": 1}

    await asyncio.gather(work(), work())


def show_place() -> None:
    with run("child"):
        add()
        metadata.parent.increment("n", 10)


def test_where_the_program_reports_to_wins_over_inherited_variables(
    place: Place, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The environment of this process names other places, and another family."""
    monkeypatch.setenv("RUN_LEDGER_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("RUN_LEDGER_DATABASE_URL", f"sqlite+aiosqlite:///{tmp_path}/wrong.db")
    monkeypatch.setenv("RUN_LEDGER_RUN_ATTEMPT", "7")
    monkeypatch.setenv("RUN_LEDGER_RUN_PARENT", "another-parent")
    monkeypatch.setenv("RUN_LEDGER_RUN_ROOT", "another-root")
    with run("t") as r:
        done = subprocess.run([sys.executable, "-c", CHILD], capture_output=True, text=True, check=True)
        assert (done.stdout, done.stderr) == (f"{r.id} 1 None None\n", "")
        process = multiprocessing.get_context("spawn").Process(target=show_place)
        process.start()
        process.join()
    stop_trackers()
    assert place.metadata(r.id) == {"n": 12 - 1}
    assert not (tmp_path / "wrong.db").exists()


def stop_trackers() -> None:
    """End the processes that multiprocessing starts for itself."""
    forkserver._forkserver._stop()  # type: ignore[attr-defined]
    resource_tracker._resource_tracker._stop()  # type: ignore[attr-defined]


def in_process() -> None:
    add()


def in_own_run() -> None:
    with run("child"):
        add()
        metadata.parent.increment("n", 10)
        metadata.root.increment("n", 100)


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_processes_of_multiprocessing_work_for_the_run(place: Place, method: str) -> None:
    context: Any = multiprocessing.get_context(method)
    with run("t") as r:
        for target in (in_process, in_own_run):
            process = context.Process(target=target)
            process.start()
            process.join()
            assert process.exitcode == 0
    stop_trackers()
    assert place.metadata(r.id) == {"n": 111}
    assert place.statuses(r.id) == [(1, "COMPLETED")]


def test_forking_while_another_thread_reports(place: Place) -> None:
    stop = threading.Event()
    said: list[int] = []

    def report() -> None:
        while not stop.is_set():
            metadata.set("x", len(said))
            said.append(len(said))
            if len(said) % 50 == 0:
                metadata.flush()

    with run("t") as r:
        thread = threading.Thread(target=report)
        thread.start()
        for _ in range(20):
            child = os.fork()
            if child == 0:
                code = 1
                try:
                    metadata.increment("forks")
                    metadata.flush()
                    code = 0
                finally:
                    os._exit(code)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        stop.set()
        thread.join()
    assert place.metadata(r.id)["forks"] == 20
    assert place.values(r.id, "x") == said


def test_an_attached_program_flushes_at_its_end_and_ends_no_run(apart: Place) -> None:
    script = """
import subprocess, sys
from ledger import metadata, run
with run("t") as r:
    subprocess.run([sys.executable, "-c", '''
from ledger import metadata, run
with run("child") as c:
    metadata.set("in", "child").parent.increment("n", 2)
    print(c.id)
metadata.increment("n")
'''], check=True)
print(r.id)
"""
    child, parent = program(script, variables=apart.variables).out.split()
    assert apart.metadata(parent) == {"n": 3}
    assert apart.metadata(child) == {"in": "child"}
    assert apart.statuses(parent) == [(1, "COMPLETED")]
