"""The command that watches, in a pipe and on a terminal, with a server and without."""

import json
import os
import pty
import queue
import re
import select
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import pytest

from api.watch_commands import _Run
from tests.api.server import PATIENCE_S, Call, Server, command, environment, run_ledger, serving
from tests.api.test_live import ADD, Job
from tests.programs import Program


class Watch:
    """A running `watch`, whose output comes line by line."""

    def __init__(self, *arguments: str, cwd: Path, **variables: str) -> None:
        self.process = Program("watch", *arguments, cwd=cwd, env=environment(**variables))

        self._lines: queue.Queue[str] = queue.Queue()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._lines.put(line)

    def has_line(self) -> bool:
        return not self._lines.empty()

    def line(self) -> list[str]:
        """The cells of the next line."""
        return self._lines.get(timeout=PATIENCE_S).rstrip("\n").split("\t")

    def end(self) -> tuple[int, str, str]:
        """How it ended: exit code, the rest of its output, and its errors."""
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        code = self.process.wait(PATIENCE_S)
        self._reader.join()
        errors = self.process.stderr.read()
        self.process.stdout.close()
        self.process.stderr.close()
        rest = ""
        while self.has_line():
            rest += self._lines.get()
        return code, rest, errors


@contextmanager
def watching(*arguments: str, cwd: Path, **variables: str) -> Iterator[Watch]:
    watch = Watch(*arguments, cwd=cwd, **variables)
    try:
        yield watch
    finally:
        if watch.process.poll() is None:
            watch.process.kill()
            watch.end()


@pytest.fixture(params=["server", "database"])
def place(request: pytest.FixtureRequest, server: Server) -> dict[str, str]:
    """How the command finds the runs."""
    if request.param == "server":
        return {"RUN_LEDGER_URL": server.url}
    return {"RUN_LEDGER_DATABASE_URL": f"sqlite+aiosqlite:///{server.path}"}


def test_a_run_is_watched_to_its_end(server: Server, place: dict[str, str], tmp_path: Path) -> None:
    with closing(Job(server)) as job:
        job.create(metadata={"a": 1})
        with watching("r", cwd=tmp_path, **place) as watch:
            version, _, actor, kind, what = watch.line()
            assert (version, actor, kind, what) == ("1", "", "snapshot", 'QUEUED {"a":1}')
            job.write("r", ADD, {"type": "set", "key": "text", "value": "a\tb\nc\x1b\u2028"})
            assert [watch.line()[4] for _ in range(2)] == ["n + 1", 'text = "a\\tb\\nc\\u001b\\u2028"']
            job.move("COMPLETED")
            assert watch.line()[3] == "run.status_changed"
            assert watch.end() == (0, "r finished: COMPLETED, version 4\n", "")
        done = run_ledger("watch", "r", cwd=tmp_path, variables=place)
        assert done.stdout.splitlines()[-1] == "r finished: COMPLETED, version 4"
        printed = run_ledger("watch", "r", "--json", cwd=tmp_path, variables=place).stdout.splitlines()
        assert [json.loads(line)["version"] for line in printed] == [4, 4]


def test_the_runs_of_a_task_are_watched_until_ctrl_c(
    server: Server, place: dict[str, str], tmp_path: Path
) -> None:
    with closing(Job(server)) as job:
        job.create("first", tags=["x"])
        with watching("--task", "t", "--tag", "x", cwd=tmp_path, **place) as watch:
            # It has no first line to wait for, so a run is written until one comes.
            while not watch.has_line():
                job.write("first")
            seen = watch.line()
            assert (seen[0], seen[4]) == ("first", "metadata.incremented")
            job.create("other", tags=["y"])
            job.create("second", tags=["x", "y"])
            while (cells := watch.line())[0] == "first":
                pass
            assert (cells[0], cells[1], cells[4]) == ("second", "1", "run.created")
            watch.process.send_signal(signal.SIGINT)
            assert watch.end() == (130, "", "")


def test_watching_goes_on_after_the_server_was_killed_and_restarted(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = str(probe.getsockname()[1])
    path = tmp_path / "l.db"
    with serving(path, "--port", port) as server:
        with closing(Job(server)) as job:
            job.create()
            watch = Watch("r", cwd=tmp_path, RUN_LEDGER_URL=server.url)
            assert watch.line()[3] == "snapshot"
            job.write()
            assert watch.line()[0] == "2"
        server.kill()
    database = {"RUN_LEDGER_DATABASE_URL": f"sqlite+aiosqlite:///{path}"}
    assert run_ledger("set", "r", "missed", "1", variables=database).returncode == 0
    with serving(path, "--port", port) as server, closing(Job(server)) as job:
        assert watch.line()[4] == "missed = 1"
        job.move("FAILED")
        assert watch.line()[0] == "4"
        assert watch.end() == (0, "r finished: FAILED, version 4\n", "")


def test_what_is_left_after_an_erasure_is_asked_for(server: Server, place: dict[str, str], tmp_path: Path) -> None:
    database = {"RUN_LEDGER_DATABASE_URL": f"sqlite+aiosqlite:///{server.path}"}
    with closing(Job(server)) as job:
        job.create()
        with watching("r", cwd=tmp_path, **place) as watch:
            assert watch.line()[3] == "snapshot"
            job.write("r", {"type": "set", "key": "name", "value": "Ann"}, ADD)
            assert [watch.line()[4] for _ in range(2)] == ['name = "Ann"', "n + 1"]
            erase = ("erase", "r", "--key", "name", "--reason", "asked")
            assert run_ledger(*erase, variables=database).returncode == 0
            assert watch.line()[3:] == ["run.erased", "name erased from 1 events: asked"]
            job.write()
            job.move("COMPLETED")
            assert [watch.line()[0] for _ in range(2)] == ["5", "6"]
            assert watch.end() == (0, "r finished: COMPLETED, version 6\n", "")


def test_the_picture_of_a_run_never_goes_by_an_event_that_was_redacted() -> None:
    run = _Run("r")
    run.restart({"version": 1, "status": "EXECUTING", "updatedAt": "", "metadata": {"l": ["x", "secret"]}})
    told = {"version": 2, "recordedAt": "2026-11-23T14:05:01.000000Z", "actor": "", "key": "l"}
    redacted = {**told, "type": "metadata.removed", "data": {"key": "l", "erased": True, "removed": [0]}}
    erased = {**told, "type": "run.erased", "data": {"key": "l", "redacted": [[2, ""]], "reason": ""}}
    created = {**told, "type": "run.created", "data": {"task": "t", "metadata": {}, "erased": True}}
    assert not any(map(run.take, (redacted, erased, created)))
    assert (run.version, run.metadata) == (1, {"l": ["x", "secret"]})
    assert run.take({**redacted, "value": "x", "data": {"key": "l", "value": "x"}})
    assert (run.version, run.metadata) == (2, {"l": ["secret"]})


def test_a_pipe_that_closes_ends_it_quietly(server: Server, place: dict[str, str], tmp_path: Path) -> None:
    with closing(Job(server)) as job:
        job.create()
        with subprocess.Popen(
            command("watch", "r"),
            cwd=tmp_path,
            env=environment(**place),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        ) as process:
            assert process.stdout is not None
            assert b"snapshot" in process.stdout.readline()
            process.stdout.close()
            while process.poll() is None:
                job.write()
            assert process.stderr is not None
            assert (process.returncode, process.stderr.read()) == (0, b"")


def test_what_cannot_be_watched_is_one_line(server: Server, place: dict[str, str], tmp_path: Path) -> None:
    done = run_ledger("watch", "absent", cwd=tmp_path, variables=place)
    assert (done.returncode, done.stdout) == (1, "")
    assert (
        done.stderr == "run-ledger: there is no run absent; create it first, or check the id and the environment\n"
    )


@pytest.mark.parametrize("arguments", [(), ("r", "--task", "t"), ("r", "--tag", "x")])
def test_it_takes_a_run_or_a_task(call: Call, arguments: tuple[str, ...]) -> None:
    done = call("watch", *arguments)
    assert done.code == 2
    assert "watch takes a run, or --task" in done.err


@pytest.mark.parametrize("named", ["other", "own"])
def test_within_a_run_too_it_takes_a_run_or_a_task(
    call: Call, monkeypatch: pytest.MonkeyPatch, named: str
) -> None:
    monkeypatch.setenv("RUN_LEDGER_RUN_ID", "own")
    done = call("watch", named, "--task", "t")
    assert done.code == 2
    assert "watch takes a run, or --task" in done.err
    # Its own id is only the default beside a task; then all that is missing is the database.
    assert call("watch", "--task", "t").err.startswith("run-ledger: there is no database")


def test_without_a_server_it_says_so(tmp_path: Path) -> None:
    done = run_ledger("watch", "r", cwd=tmp_path, variables={"RUN_LEDGER_URL": "http://127.0.0.1:9"})
    assert done.returncode == 1
    assert done.stderr.startswith("run-ledger: no answer from http://127.0.0.1:9")


@pytest.mark.parametrize("arguments", [["r"], ["--task", "t"]])
def test_on_a_terminal_it_shows_state_and_progress(
    server: Server, place: dict[str, str], tmp_path: Path, arguments: list[str]
) -> None:
    ours, theirs = pty.openpty()
    sized = environment(COLUMNS="100", LINES="30", TERM="xterm", NO_COLOR="1", **place)
    with closing(Job(server)) as job:
        job.create(metadata={"progress": 0.25})
        with subprocess.Popen(command("watch", *arguments), cwd=tmp_path, env=sized, stdout=theirs) as process:
            os.close(theirs)
            shown = ""

            def until(pattern: str) -> None:
                nonlocal shown
                deadline = time.monotonic() + PATIENCE_S
                while not re.search(pattern, re.sub(r"\x1b\[[?0-9;]*[a-zA-Z]", "", shown), re.DOTALL):
                    # It is drawn again and again, so that something always comes.
                    assert time.monotonic() < deadline, shown
                    assert select.select([ours], [], [], PATIENCE_S)[0], shown
                    shown += os.read(ours, 65_536).decode(errors="replace")

            try:
                until("r .*QUEUED.*25%")
                job.write("r", {"type": "set", "key": "progress", "value": 0.5})
                until("50%.*progress = 0.5")
                if arguments == ["r"]:
                    job.move("COMPLETED")
                    until("r finished: COMPLETED, version 3")
                else:
                    process.send_signal(signal.SIGINT)
                with suppress(OSError):  # The end of a terminal. A program that nobody reads would wait for ever.
                    while os.read(ours, 65_536):
                        pass
                assert process.wait(PATIENCE_S) == (0 if arguments == ["r"] else 130)
            finally:
                process.kill()
        os.close(ours)
