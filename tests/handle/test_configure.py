"""Where a process reports to, chosen and let go of."""

import asyncio
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from ledger import configure, metadata, run, runs, task
from ledger.errors import LedgerError
from ledger.handle.configuration import reporter
from tests.handle.places import Place, descriptors, program, threads, until


def test_nothing_is_left_after_the_end(apart: Place) -> None:
    """The fixture of every test here asserts the same; this one does all there is to do first."""
    before = threads(), descriptors()

    @task
    async def later(payload: Any) -> None:
        await metadata.set("a", payload)

    @task
    def now(payload: Any) -> None:
        metadata.set("a", payload)

    async def main() -> None:
        await (await later.trigger(1)).wait()
        await (await now.trigger(2)).wait()

    configure(apart.target, spool_dir=apart.spool)
    with run("t") as r:
        metadata.set("a", 1).flush()
        runs.retrieve_sync(r.id)
        runs.history_sync(r.id)
        runs.list_sync()
        metadata.refresh()
        asyncio.run(main())
        now.trigger_sync(3).wait_sync()
    assert len(threading.enumerate()) > len(before[0])
    configure(None)
    assert (threads(), descriptors()) == before
    assert not apart.spool.exists() or not list(apart.spool.iterdir())
    configure(None)
    assert (threads(), descriptors()) == before


def test_choosing_starts_nothing(apart: Place) -> None:
    before = threads(), descriptors()
    configure(apart.target, spool_dir=apart.spool)
    configure(apart.target, spool_dir=apart.spool)
    assert (threads(), descriptors()) == before
    assert not apart.spool.exists()


def test_choosing_another_place_delivers_to_the_one_before(place: Place, tmp_path: Path) -> None:
    with run("t") as r:
        metadata.set("a", 1)
    configure(f"sqlite+aiosqlite:///{tmp_path}/other.db", spool_dir=place.spool)
    with run("t") as other:
        metadata.set("b", 1)
    assert runs.retrieve_sync(other.id).metadata == {"b": 1}
    with pytest.raises(LedgerError):
        runs.retrieve_sync(r.id)
    configure(place.target, spool_dir=place.spool)
    assert runs.retrieve_sync(r.id).metadata == {"a": 1}


def test_after_the_end_the_variables_of_the_environment_count(
    apart: Place, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    configure(f"sqlite+aiosqlite:///{tmp_path}/other.db")
    configure(None)
    for name, value in apart.variables.items():
        monkeypatch.setenv(name, value)
    with run("t") as r:
        metadata.set("a", 1)
    assert apart.metadata(r.id) == {"a": 1}


def test_without_any_setting_it_is_a_file_here(tmp_path: Path) -> None:
    script = "from ledger import metadata, run\nwith run('t') as r: metadata.set('a', 1)"
    program(script, cwd=tmp_path, variables={"RUN_LEDGER_SPOOL_DIR": str(tmp_path / "s")})
    assert (tmp_path / "run-ledger.db").exists()


def test_the_file_stays_the_same_when_the_folder_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    configure("sqlite+aiosqlite:///here.db")
    (tmp_path / "elsewhere").mkdir()
    with run("t") as r:
        monkeypatch.chdir(tmp_path / "elsewhere")
        script = "from ledger import metadata\nmetadata.set('a', 1)"
        subprocess.run([sys.executable, "-c", script], check=True)
    assert runs.retrieve_sync(r.id).metadata == {"a": 1}
    assert not list((tmp_path / "elsewhere").iterdir())


def test_reading_and_ending_at_the_same_time_never_stops(apart: Place) -> None:
    configure(apart.target, spool_dir=apart.spool)
    with run("t") as r:
        pass
    ended = threading.Event()
    read: list[int] = []

    def reading() -> None:
        while not ended.is_set():
            try:
                runs.retrieve_sync(r.id)
                metadata.flush()
                read.append(1)
            except LedgerError:
                continue

    readers = [threading.Thread(target=reading) for _ in range(4)]
    for reader in readers:
        reader.start()
    for _ in range(15):
        read.clear()
        until(lambda: read)
        configure(apart.target, spool_dir=apart.spool)
    ended.set()
    for reader in readers:
        reader.join(60)
        assert not reader.is_alive()


def test_reporting_and_ending_at_the_same_time_raises_nothing(apart: Place) -> None:
    configure(apart.target, spool_dir=apart.spool, flush_interval_s=0.05)
    stop = threading.Event()
    failed: list[BaseException] = []

    def reporting(execution: Any) -> None:
        try:
            while not stop.is_set():
                execution.metadata.set("a", 1)
                time.sleep(0.0005)
        except BaseException as error:
            failed.append(error)

    for _ in range(10):
        stop.clear()
        with run("t") as r:
            thread = threading.Thread(target=reporting, args=(r,))
            thread.start()
            metadata.flush()
            configure(None)
            stop.set()
            thread.join()
        configure(apart.target, spool_dir=apart.spool, flush_interval_s=0.05)
    assert failed == []


def test_ten_thousand_versions_arrive_in_order(place: Place) -> None:
    with run("t") as r:
        for number in range(10_000):
            metadata.set("x", number)
    assert place.values(r.id, "x") == list(range(10_000))


def test_threads_of_one_run_keep_their_own_order(place: Place) -> None:
    def report(name: str) -> None:
        for number in range(500):
            metadata.set(name, number)
            metadata.increment("n")

    with run("t") as r:
        reporting = [threading.Thread(target=report, args=(f"t{index}",)) for index in range(6)]
        for thread in reporting:
            thread.start()
        for thread in reporting:
            thread.join()
        assert metadata.get("n") == 3_000
    for index in range(6):
        assert place.values(r.id, f"t{index}") == list(range(500))


def test_at_most_one_request_an_interval_of_what_nobody_waits_for(place: Place, monkeypatch: Any) -> None:
    configure(place.target, spool_dir=place.spool, flush_interval_s=60)
    with run("t") as r:
        sent: list[Any] = []
        send = reporter().backend.send

        async def counted(request: Any) -> Any:
            sent.append(request)
            return await send(request)

        monkeypatch.setattr(reporter().backend, "send", counted)
        for number in range(5_000):
            metadata.set("x", number)
        assert sent == []
    assert [request.operations for request in sent] == [5_000, 0]
    assert len(place.values(r.id, "x")) == 5_000


def test_closing_in_a_forked_copy_leaves_the_other_alone(place: Place) -> None:
    with run("t") as r:
        metadata.set("a", 1)
        child = os.fork()
        if child == 0:
            code = 1
            try:
                configure(None)
                code = 0
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        metadata.set("a", 2)
    assert place.values(r.id, "a") == [1, 2]
