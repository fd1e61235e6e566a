import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.syscalls import LineMissing, TracedProcess, TracingRefused, traced

TWO_THREADS = """
import os, sys, tempfile, threading

def sync(calls):
    with tempfile.TemporaryFile(dir=sys.argv[1]) as file:
        for call in calls:
            file.write(b"x")
            file.flush()
            call(file.fileno())

threads = [
    threading.Thread(target=sync, args=[[os.fsync, os.fdatasync]]),
    threading.Thread(target=sync, args=[[os.fsync, os.fdatasync, os.fsync]]),
]
print("ready", flush=True)
sys.stdin.readline()
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print("done", flush=True)
"""

# The first transaction after the log was made syncs the log's header, even with NORMAL; it comes before "ready".
INSERT_PER_LINE = """
import sqlite3, sys, threading

def write():
    database = sqlite3.connect(sys.argv[1], isolation_level=None)
    database.execute("PRAGMA journal_mode = WAL")
    database.execute(f"PRAGMA synchronous = {sys.argv[2]}")
    database.execute("CREATE TABLE t (line TEXT)")
    print("ready", flush=True)
    for line in sys.stdin:
        database.execute("BEGIN IMMEDIATE")
        database.execute("INSERT INTO t VALUES (?)", [line])
        database.execute("COMMIT")
        print("committed", flush=True)

writer = threading.Thread(target=write)
writer.start()
writer.join()
"""

# A server of threads, one a connection, that syncs before it answers, and nothing more after it.
SERVER = """
import os, socketserver, sys

class Handler(socketserver.StreamRequestHandler):
    def handle(self):
        syncs = int(self.rfile.readline())
        with open(sys.argv[1], "ab") as file:
            for _ in range(syncs):
                os.fdatasync(file.fileno())
        self.wfile.write(b"answered")

with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
    print(f"listening on {server.server_address[1]}", flush=True)
    server.serve_forever()
"""


def possessions() -> tuple[list[threading.Thread], list[str], list[str]]:
    """Threads, where open descriptors lead, and children, zombies included: what a test may not leave behind."""
    descriptors = sorted(str(path.readlink()) for path in Path("/proc/self/fd").iterdir() if path.is_symlink())
    children = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(FileNotFoundError, ProcessLookupError):
            if stat.read_text().rpartition(")")[2].split()[1] == str(os.getpid()):
                children.append(stat.parent.name)
    return threading.enumerate(), descriptors, sorted(children)


@pytest.fixture(autouse=True)
def _nothing_left_behind() -> Iterator[None]:
    before = possessions()
    yield
    assert possessions() == before


def test_counts_exactly_the_calls_of_threads_started_later(tmp_path: Path) -> None:
    with traced([sys.executable, "-c", TWO_THREADS, str(tmp_path)]) as process:
        process.wait_for_line("ready")
        before = process.calls()
        process.send_line("go")
        process.wait_for_line("done")
        calls = process.calls_since(before)
        assert process.wait() == 0
    assert Counter(call.name for call in calls) == {"fsync": 3, "fdatasync": 2}
    assert {call.result for call in calls} == {0}
    by_thread = Counter(call.thread for call in calls)
    assert sorted(by_thread.values()) == [2, 3]
    assert process.pid not in by_thread
    assert process.calls_since(before) == calls


def test_counts_only_the_calls_asked_for(tmp_path: Path) -> None:
    with traced([sys.executable, "-c", TWO_THREADS, str(tmp_path)], count={"fdatasync"}) as process:
        process.send_line("go")
        process.wait_for_line("done")
        assert [call.name for call in process.calls()] == ["fdatasync"] * 2


def test_reports_the_result_of_a_call_that_fails() -> None:
    script = "import os\ntry: os.fsync(99)\nexcept OSError as error: print(error.errno)"
    with traced([sys.executable, "-c", script]) as process:
        assert process.wait() == 0
        assert [(call.name, call.result) for call in process.calls()] == [("fsync", -9)]  # EBADF


def test_counts_in_child_processes_too() -> None:
    script = "import os, sys\nwith open(sys.executable) as file: os.fsync(file.fileno())"
    outer = "import subprocess, sys; subprocess.run([sys.executable, '-c', sys.argv[1]], check=True)"
    with traced([sys.executable, "-c", outer, script]) as process:
        assert process.wait() == 0
        assert [(call.name, call.result) for call in process.calls()] == [("fsync", 0)]


def syncs_of_one_insert(path: Path, synchronous: str) -> Counter[str]:
    with traced([sys.executable, "-c", INSERT_PER_LINE, str(path), synchronous]) as process:
        process.wait_for_line("ready")
        before = process.calls()
        process.send_line("a line")
        process.wait_for_line("committed")
        return Counter(call.name for call in process.calls_since(before))


def test_full_syncs_on_commit_and_normal_does_not(tmp_path: Path) -> None:
    assert syncs_of_one_insert(tmp_path / "full.db", "FULL").total() >= 1
    assert syncs_of_one_insert(tmp_path / "normal.db", "NORMAL").total() == 0


def test_a_sync_before_the_answer_is_noted_when_the_answer_arrives(tmp_path: Path) -> None:
    with traced([sys.executable, "-c", SERVER, str(tmp_path / "file")]) as process:
        port = int(process.wait_for_line("listening on ").split()[-1])
        for syncs in (0, 1, 2, 0, 1) * 10:
            before = process.calls()
            with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
                connection.sendall(b"%d\n" % syncs)
                assert connection.recv(100) == b"answered"
            assert len(process.calls_since(before)) == syncs


def test_other_children_of_the_test_are_not_reaped() -> None:
    with subprocess.Popen([sys.executable, "-c", "raise SystemExit(7)"]) as other:
        with traced([sys.executable, "-c", "import time; time.sleep(0.2)"]) as process:
            assert process.wait() == 0
        assert other.wait() == 7


def test_signals_reach_the_command() -> None:
    script = """
import signal, sys
signal.signal(signal.SIGUSR1, lambda *_: print("usr1", flush=True))
print("ready", signal.getsignal(signal.SIGPIPE) == signal.SIG_IGN, flush=True)
for line in sys.stdin:
    print("read", line, end="", flush=True)
"""
    with traced([sys.executable, "-c", script]) as process:
        assert process.wait_for_line("ready") == "ready True"  # As Python sets it when started by a shell.
        process.send_signal(signal.SIGUSR1)
        process.wait_for_line("usr1")
        process.send_signal(signal.SIGSTOP)
        process.send_line("1")
        with pytest.raises(LineMissing):
            process.wait_for_line("read 1", deadline_s=0.3)
        process.send_signal(signal.SIGCONT)
        process.wait_for_line("read 1")
    assert process.wait() == -signal.SIGTERM


def test_stop_asks_first_and_lets_the_command_clean_up() -> None:
    script = """
import signal, sys
signal.signal(signal.SIGTERM, lambda *_: sys.exit(5))
print("ready", flush=True)
while True:
    signal.pause()
"""
    with traced([sys.executable, "-c", script]) as process:
        process.wait_for_line("ready")
    assert process.wait() == 5


def test_stop_kills_a_command_that_will_not_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[traced.__module__], "STOP_S_MAX", 0.2)
    script = """
import signal, subprocess, sys, threading, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
threading.Thread(target=time.sleep, args=[600]).start()
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print("child", child.pid, flush=True)
time.sleep(600)
"""
    with traced([sys.executable, "-c", script]) as process:
        child = int(process.wait_for_line("child").split()[1])
    assert process.wait() == -signal.SIGKILL
    assert has_ended(child)


def has_ended(pid: int) -> bool:
    """True once *pid* is gone, or a zombie for init to reap; False if it lives for ten more seconds."""
    for _ in range(1000):
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return True
        if state in {"Z", "X"}:
            return True
        time.sleep(0.01)
    return False


def test_a_missing_line_shows_the_output() -> None:
    with traced([sys.executable, "-c", "import sys; sys.exit('no port left')"]) as process:
        with pytest.raises(LineMissing, match=r"'http://'.*the output ended(.|\n)*no port left"):
            process.wait_for_line("http://")
        assert process.output() == ["no port left"]


def test_a_missing_line_ends_at_the_deadline() -> None:
    with traced(["sleep", "600"]) as process, pytest.raises(LineMissing, match=r"0\.1 s have passed"):
        process.wait_for_line("http://", deadline_s=0.1)


def test_an_error_in_the_test_ends_the_command() -> None:
    seen: list[TracedProcess] = []

    def fail() -> None:
        with traced(["sleep", "600"]) as process:
            seen.append(process)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert [process.wait() for process in seen] == [-signal.SIGTERM]


def test_a_command_that_does_not_exist_is_an_error() -> None:
    with pytest.raises(FileNotFoundError, match="no-such-command"), traced(["no-such-command"]):
        pytest.fail("not reached")


def test_an_unknown_call_is_an_error() -> None:
    with pytest.raises(ValueError, match="fsink"), traced(["true"], count={"fsink"}):
        pytest.fail("not reached")


def test_refused_tracing_is_an_error_that_says_what_to_allow() -> None:
    # A process has one tracer at most: inside a traced command the kernel refuses for real.
    script = """
import sys, threading, os
from tests.syscalls import TracingRefused, traced
threads, descriptors = threading.active_count(), len(os.listdir("/proc/self/fd"))
try:
    with traced(["true"]):
        pass
except TracingRefused as error:
    print(error)
assert threading.active_count() == threads
assert len(os.listdir("/proc/self/fd")) == descriptors
"""
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    with traced([sys.executable, "-W", "error", "-c", script], env=env) as process:
        line = process.wait_for_line("system calls cannot be counted")
        assert "PTRACE_SEIZE: Operation not permitted" in line
        assert "ptrace_scope" in line
        assert process.wait() == 0


def test_a_kernel_without_syscall_info_is_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys.modules[traced.__module__], "PTRACE_GET_SYSCALL_INFO", 0x42FF)

    def count_a_call() -> None:
        with traced([sys.executable, "-c", TWO_THREADS, str(tmp_path)]) as process:
            process.send_line("go")
            process.wait_for_line("done")

    with pytest.raises(TracingRefused, match="PTRACE_GET_SYSCALL_INFO: Input/output error"):
        count_a_call()


def test_a_machine_without_known_numbers_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "riscv64")
    with pytest.raises(TracingRefused, match="riscv64"), traced(["true"]):
        pytest.fail("not reached")
