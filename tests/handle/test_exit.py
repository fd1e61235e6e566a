"""The end of a program, however it comes."""

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.api.server import serving
from tests.handle.places import Ended, Place, finished, program, says, start, until, waiting
from tests.handle.proxy import Proxy, free_port, proxy

SLOW = {"RUN_LEDGER_FLUSH_INTERVAL_S": "60"}  # Nothing is delivered by the clock.

ENDS = {
    "returning": ("pass", 0),
    "sys.exit": ("sys.exit(3)", 3),
    "raise": ("raise ZeroDivisionError", 1),
}


@pytest.mark.parametrize("end", ENDS)
def test_a_program_that_ends_delivers_everything(apart: Place, end: str) -> None:
    code, status = ENDS[end]
    script = f"""
import sys
from ledger import metadata, run
with run("t", id="end-{end}-{apart.name}") as r:
    metadata.set("first", 1).flush()
    for number in range(100):
        metadata.set("x", number)
    {code}
"""
    ended = program(script, variables={**apart.variables, **SLOW}, code=status)
    run_id = f"end-{end}-{apart.name}"
    assert apart.values(run_id, "x") == list(range(100))
    assert apart.status(run_id) == ("COMPLETED" if status == 0 else "FAILED")
    assert ended.err.count("Traceback") == (end == "raise"), ended.err
    assert not list(apart.spool.glob("*"))


def test_a_program_started_for_a_run_delivers_at_its_end(apart: Place) -> None:
    variables = {**apart.variables, **SLOW}
    name = f"attached-{apart.name}"
    program(f"from ledger import run\nwith run('t', id='{name}'): pass", variables=variables)
    attached = {**variables, "RUN_LEDGER_RUN_ID": name, "RUN_LEDGER_RUN_ATTEMPT": "1"}
    program("from ledger import metadata\nmetadata.set('a', 1).flush()\nmetadata.set('a', 2)", variables=attached)
    assert apart.values(name, "a") == [1, 2]
    assert apart.status(name) == "COMPLETED"


def test_a_thread_that_goes_on_after_the_program_has_ended_loses_nothing(apart: Place) -> None:
    variables = {**apart.variables, **SLOW}
    name = f"late-{apart.name}"
    program(f"from ledger import run\nwith run('t', id='{name}'): pass", variables=variables)
    script = """
import threading, time
from ledger import metadata
from ledger.handle import configuration

def work():
    while configuration._reporter is not None:
        time.sleep(0.01)
    metadata.set("a", 2)

metadata.set("a", 1)
threading.Thread(target=work).start()
"""
    ended = program(script, variables={**variables, "RUN_LEDGER_RUN_ID": name})
    assert ended.err == ""
    program("from ledger import run\nwith run('u') as r: r.metadata.flush()", variables=apart.variables)
    assert until(lambda: apart.values(name, "a") == [1, 2])


def terminated(script: str, place: Place, name: str, **more: str) -> Ended:
    process = start(script, name, variables={**place.variables, **SLOW, **more})
    says(process, "ready")
    process.send_signal(signal.SIGTERM)
    return finished(process)


def test_sigterm_delivers_and_ends_as_it_would_have(apart: Place) -> None:
    script = """
import sys, time
from ledger import metadata, run
with run("t", id=sys.argv[1]):
    metadata.set("x", 1).flush()
    metadata.set("x", 2)
    print("ready", flush=True)
    time.sleep(600)
"""
    name = f"sigterm-{apart.name}"
    assert terminated(script, apart, name) == Ended(-signal.SIGTERM, "", "")
    assert apart.values(name, "x") == [1, 2]
    assert apart.statuses(name) == [(1, "CRASHED")]
    (crashed,) = [event for event in apart.events(name) if event["type"] == "run.status_changed"]
    assert "SIGTERM" in crashed["data"]["error"]["message"]


def test_sigterm_in_a_tight_loop(apart: Place) -> None:
    script = """
import sys
from ledger import metadata, run
with run("t", id=sys.argv[1]):
    for number in range(5_000):
        metadata.set("x", number)
    print("ready", flush=True)
    while True:
        metadata.get("x")
        metadata.set("y", 1)
        metadata.current()
"""
    for attempt in range(2):
        name = f"tight-{attempt}-{apart.name}"
        ended = terminated(script, apart, name)
        assert ended.code == -signal.SIGTERM
        assert "Traceback" not in ended.err
        assert apart.status(name) == "CRASHED"
        assert apart.values(name, "x") == list(range(5_000))


def test_sigterm_while_reading_only(apart: Place) -> None:
    script = """
import sys
from ledger import metadata, run
with run("t", id=sys.argv[1], metadata={"l": list(range(500))}):
    print("ready", flush=True)
    while True:
        metadata.get("l")
"""
    name = f"reading-{apart.name}"
    assert terminated(script, apart, name).code == -signal.SIGTERM
    assert apart.status(name) == "CRASHED"


def test_sigterm_with_a_handler_of_the_users_own(apart: Place) -> None:
    script = """
import signal, sys, time

def stop(number, frame):
    sys.exit(7)

signal.signal(signal.SIGTERM, stop)
from ledger import metadata, run
with run("t", id=sys.argv[1]):
    metadata.set("x", 1)
    print("ready", flush=True)
    time.sleep(600)
"""
    name = f"own-{apart.name}"
    assert terminated(script, apart, name) == Ended(7, "", "")
    assert apart.values(name, "x") == [1]
    assert apart.status(name) == "FAILED"


def test_sigterm_where_it_is_ignored_is_ignored(apart: Place) -> None:
    script = """
import signal, sys
signal.signal(signal.SIGTERM, signal.SIG_IGN)
from ledger import metadata, run
with run("t", id=sys.argv[1]):
    print("ready", flush=True)
    sys.stdin.readline()
"""
    assert terminated(script, apart, f"ignored-{apart.name}").code == 0


def test_sigterm_to_a_program_started_for_a_run_delivers_what_it_reported(apart: Place) -> None:
    variables = {**apart.variables, **SLOW}
    name = f"child-{apart.name}"
    program(f"from ledger import run\nwith run('t', id='{name}'): pass", variables=variables)
    script = """
import time
from ledger import metadata
metadata.set("x", 1).flush()
metadata.set("x", 2)
print("ready", flush=True)
time.sleep(600)
"""
    ended = terminated(script, apart, name, RUN_LEDGER_RUN_ID=name)
    assert ended.code == -signal.SIGTERM
    assert apart.values(name, "x") == [1, 2]
    assert apart.status(name) == "COMPLETED"


def test_ctrl_c_cancels(apart: Place) -> None:
    script = """
import sys, time
from ledger import metadata, run
with run("t", id=sys.argv[1]):
    metadata.set("x", 1)
    print("ready", flush=True)
    time.sleep(600)
"""
    name = f"ctrl-c-{apart.name}"
    process = start(script, name, variables={**apart.variables, **SLOW})
    says(process, "ready")
    process.send_signal(signal.SIGINT)
    assert finished(process).code == -signal.SIGINT
    assert apart.values(name, "x") == [1]
    assert apart.status(name) == "CANCELED"


def test_a_program_waits_for_threads_that_execute_runs(apart: Place) -> None:
    script = """
import threading, time
from ledger import metadata, run, task

def work():
    with run("t", id="thread-PLACE"):
        threading.main_thread().join(0.1)
        time.sleep(0.2)
        metadata.set("late", True)

@task
def slow():
    time.sleep(0.2)
    metadata.set("late", True)

threading.Thread(target=work).start()
for _ in range(3):
    slow.trigger_sync()
slow.trigger_sync(id="triggered-PLACE")
"""
    ended = program(script.replace("PLACE", apart.name), variables={**apart.variables, **SLOW})
    assert ended.err == ""
    for name in ("thread-", "triggered-"):
        assert apart.metadata(name + apart.name) == {"late": True}
        assert apart.status(name + apart.name) == "COMPLETED"


def test_a_run_whose_end_never_came_is_shown_as_crashed(apart: Place) -> None:
    script = """
from ledger import metadata, run
block = run("t", id="open-PLACE")
block.__enter__()
metadata.set("a", 1)
"""
    program(script.replace("PLACE", apart.name), variables={**apart.variables, **SLOW})
    assert apart.metadata(f"open-{apart.name}") == {"a": 1}
    assert apart.statuses(f"open-{apart.name}") == [(1, "CRASHED")]


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_the_end_of_a_child_of_multiprocessing_delivers(apart: Place, method: str, tmp_path: Path) -> None:
    script = """
import multiprocessing, sys
from ledger import metadata, run

def work():
    metadata.set("child", True)
    with run("t", id=sys.argv[2]):
        metadata.set("x", 1)

if __name__ == "__main__":
    context = multiprocessing.get_context(sys.argv[1])
    with run("t", id=sys.argv[3]):
        process = context.Process(target=work)
        process.start()
        process.join()
        sys.exit(process.exitcode)
"""
    path = tmp_path / "program.py"
    path.write_text(script)
    names = [f"{method}-{kind}-{apart.name}" for kind in ("child", "parent")]
    program(
        "import os, sys; os.execv(sys.executable, [sys.executable, *sys.argv[1:]])",
        str(path),
        method,
        *names,
        variables={**apart.variables, **SLOW},
    )
    assert apart.metadata(names[0]) == {"x": 1}
    assert apart.metadata(names[1]) == {"child": True}
    assert apart.statuses(names[1]) == [(1, "COMPLETED")]


def test_localhost_is_found_also_at_the_end(apart: Place) -> None:
    """To look up a name takes a pool of threads, which Python closes early."""
    if apart.name == "database":
        return
    script = """
from ledger import metadata, run
block = run("t", id="named")
block.__enter__()
metadata.set("a", 1)
from ledger.handle.configuration import reporter
reporter().wait(reporter().backend._http._transport._pool.aclose)  # The end needs a connection of its own.
"""
    variables = {**apart.variables, **SLOW, "RUN_LEDGER_URL": apart.target.replace("127.0.0.1", "localhost")}
    program(script, variables=variables)
    assert apart.metadata("named") == {"a": 1}
    assert not list(apart.spool.glob("*"))


REPORTS = """
import os, signal, sys
from ledger import metadata, run
with run("t", id=sys.argv[1]):
    for number in range(int(sys.argv[2])):
        metadata.set("x", number)
        if number % 10 == 9:
            metadata.flush()
    metadata.flush()
    if len(sys.argv) > 3:
        os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_was_flushed_survives_a_kill(apart: Place) -> None:
    name = f"killed-{apart.name}"
    program(REPORTS, name, "25", "kill", variables=apart.variables, code=-signal.SIGKILL)
    assert apart.values(name, "x") == list(range(25))
    assert apart.status(name) == "EXECUTING"
    program(REPORTS, name, "5", variables=apart.variables)
    assert apart.statuses(name) == [(1, "CRASHED"), (2, "EXECUTING"), (2, "COMPLETED")]


@pytest.fixture
def between(served: tuple[str, Path]) -> Iterator[Proxy]:
    with proxy(int(served[0].rpartition(":")[2])) as made:
        yield made


def test_what_a_killed_process_left_is_delivered_by_the_next_one(
    between: Proxy, served: tuple[str, Path], tmp_path: Path
) -> None:
    place = Place("server", between.url, served[1], tmp_path / "spool")
    between.mode = "reset"
    for group in range(2):  # Each of them leads a process group, and so has a spool of its own.
        program(
            REPORTS,
            f"left-{group}",
            "25",
            "kill",
            variables=place.variables,
            code=-signal.SIGKILL,
            process_group=0,
        )
    assert len(list(place.spool.glob("spool-*.db"))) == 2
    assert [entry["run_id"] for entry in waiting(place.spool)].count("left-0") >= 4
    between.mode = "pass"
    program(
        "from ledger import metadata, run\nimport time\nwith run('next'):\n"
        "    from ledger.handle.configuration import reporter\n"
        "    while list(reporter()._folder.glob('spool-*.db')):\n        metadata.set('a', 1).flush()\n",
        variables=place.variables,
    )
    for group in range(2):
        assert place.values(f"left-{group}", "x") == list(range(25))
    assert not list(place.spool.iterdir())


def test_many_processes_of_one_group_deliver_one_spool_once(
    between: Proxy, served: tuple[str, Path], tmp_path: Path
) -> None:
    place = Place("server", between.url, served[1], tmp_path / "spool")
    between.mode = "reset"
    processes = [
        start(REPORTS + "    sys.stdin.readline()\n", f"many-{number}", "30", variables=place.variables)
        for number in range(4)
    ]
    until(lambda: {entry["run_id"] for entry in waiting(place.spool)} == {f"many-{number}" for number in range(4)})
    assert len(list(place.spool.glob("spool-*.db"))) == 1
    between.mode = "drop answers"
    between.limit = 10
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
    for process in processes:
        assert finished(process).code == 0
    between.mode = "pass"
    program("from ledger import run\nwith run('t'): pass", variables=place.variables)
    until(lambda: not waiting(place.spool))
    for number in range(4):
        assert place.values(f"many-{number}", "x") == list(range(30))
        assert place.status(f"many-{number}") == "COMPLETED"


@pytest.mark.parametrize("mode", ["refused", "hang"])
def test_the_end_is_not_delayed_by_a_server_that_is_away(
    between: Proxy, served: tuple[str, Path], tmp_path: Path, mode: str
) -> None:
    script = """
import sys, time
from ledger import metadata, run
from ledger.handle import http
http.TIMEOUT_S = 1
with run("t"):
    for number in range(20):
        metadata.set("x", number)
    print("ready", flush=True)
    sys.stdin.readline()
    metadata.set("x", 20)
    began = time.monotonic()
    import atexit
    atexit.register(lambda: print(time.monotonic() - began < 5 + 5 + 5, flush=True))
"""
    spool = tmp_path / "spool"
    url = between.url if mode == "hang" else f"http://127.0.0.1:{free_port()}"
    variables = {"RUN_LEDGER_URL": url, "RUN_LEDGER_SPOOL_DIR": str(spool)}
    process = start(script, variables=variables)
    says(process, "ready")
    if mode == "hang":
        between.mode = "hang"
        between.cut()
    ended = finished(process, 30)
    assert (ended.code, ended.out) == (0, "True\n")
    assert ended.err.count("what is reported is kept in") == 1
    assert ended.err.count("\n") == 1, ended.err
    operations = [
        operation["value"]
        for entry in waiting(spool)
        if entry["kind"] == "change"
        for operation in json.loads(entry["body"])["operations"]
    ]
    assert operations[-1] == 20


def test_a_server_that_is_killed_and_started_again_has_everything_once(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    with serving(path) as first, proxy(first.port) as front:
        place = Place("server", front.url, path, tmp_path / "spool")
        script = """
import sys
from ledger import metadata, run
from ledger.handle import http
http.TIMEOUT_S = 1
with run("t", id="job"):
    for line in sys.stdin:
        for number in range(*map(int, line.split())):
            metadata.append("x", number).increment("n")
        metadata.flush()
        print("done", flush=True)
"""
        process = start(script, variables=place.variables)
        assert process.stdin is not None

        def report(first: int, last: int) -> None:
            assert process.stdin is not None
            process.stdin.write(f"{first} {last}\n")
            process.stdin.flush()
            says(process, "done")

        report(0, 100)
        first.process.send_signal(signal.SIGSTOP)
        report(100, 200)
        first.process.send_signal(signal.SIGCONT)
        first.kill()
        report(200, 300)
        with serving(path) as second:
            front.upstream = second.port
            report(300, 400)
            assert finished(process).code == 0
            program("from ledger import run\nwith run('t'): pass", variables=place.variables)
            until(lambda: not waiting(place.spool))
            assert place.metadata("job") == {"x": list(range(400)), "n": 400}
            assert place.status("job") == "COMPLETED"
