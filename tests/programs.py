"""
The command line, and scripts, in processes of their own that need not load the product: that takes longer than most
tests.

One process loads everything, begins nothing, and forks for each program. A program is then what it is when started
by its name, but for what it would have read while it was loaded. `command` of `tests/api/server.py` is for tests of
that, and of what a terminal sees. What is about loading, or about how Python ends, needs a Python of its own too.
"""

import atexit
import gc
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from functools import cache
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import IO, Any

ROOT = Path(__file__).parent.parent
PIPE = subprocess.PIPE
MESSAGE_BYTES_MAX = 200_000  # bytes of arguments and variables; Linux carries 208 KiB as one message

_LOADED = (
    "api.cli",
    "api.server",
    "api.in_process",
    "api.client",
    "ledger.postgres",
    "ledger.sqlite",
    "alembic.command",
    "rich.live",
)


class Program:
    """
    A running `run-ledger`, or a running script, with what tests need of `subprocess.Popen`.

    Args:
        arguments: What follows the name of the program.
        script: What to run instead of `run-ledger`, as `python -c` would.
        env: Its variables.
        cwd: Its folder.
        stdout: Where it writes; stderr likewise.

    Attributes:
        pid: Its process.
        stdout: What it writes, as text, where that was asked for with `PIPE`; stderr likewise.
        returncode: How it ended, None as long as nobody saw it end; the negative signal where one ended it.
    """

    def __init__(
        self,
        *arguments: str,
        script: str | None = None,
        env: Mapping[str, str],
        cwd: Path | None = None,
        stdout: int | IO[str] = PIPE,
        stderr: int | IO[str] = PIPE,
    ) -> None:
        self.returncode: int | None = None
        self._status, status = os.pipe()
        given = [status]
        self.stdout = _channel(stdout, given)
        self.stderr = _channel(stderr, given)
        asked = {"script": script, "arguments": arguments, "env": dict(env), "cwd": str(cwd or Path.cwd())}
        loader = _loader()
        socket.send_fds(loader, [json.dumps(asked).encode()], given)
        self.pid = int(loader.recv(100))
        for descriptor in given:
            os.close(descriptor)

    def poll(self) -> int | None:
        """How it ended, None while it runs."""
        return self._ended_within(0)

    def wait(self, timeout: float | None = None) -> int:
        """How it ended, once it did."""
        ended = self._ended_within(timeout)
        if ended is None:
            raise subprocess.TimeoutExpired("run-ledger", timeout or 0)
        return ended

    def rest(self, timeout: float | None = None) -> tuple[str, str]:
        """
        What it wrote and was not read yet, once it ended, to both of its pipes, which are closed then.

        It ends only if what it still writes fits into them: 64 KiB. What has not ended in time is killed.
        """
        assert self.stdout is not None
        assert self.stderr is not None
        with self.stdout, self.stderr:
            try:
                self.wait(timeout)
            finally:
                self.kill()
            return self.stdout.read(), self.stderr.read()

    def send_signal(self, number: int) -> None:
        """Signal it, unless it ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        """Ask it to end."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it."""
        self.send_signal(signal.SIGKILL)

    def _ended_within(self, timeout: float | None) -> int | None:
        if self.returncode is None and select.select([self._status], [], [], timeout)[0]:
            self.returncode = int(os.read(self._status, 100))
            os.close(self._status)
        return self.returncode


def _channel(asked: int | IO[str], given: list[int]) -> IO[str] | None:
    """Add to *given* what a program writes to; what is to be read of it."""
    if asked != PIPE:
        given.append(os.dup(asked if isinstance(asked, int) else asked.fileno()))
        return None
    reading, writing = os.pipe()
    given.append(writing)
    return os.fdopen(reading)


@cache
def _loader() -> socket.socket:
    """The way to the process that forks, one for each process that runs tests."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    number = theirs.fileno()
    process = subprocess.Popen([sys.executable, "-m", "tests.programs", str(number)], cwd=ROOT, pass_fds=[number])
    theirs.close()

    def end() -> None:
        ours.close()
        process.wait()

    atexit.register(end)
    return ours


class _Loader:
    """What the process that forks knows: whom to tell how each of its programs ended."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._told: dict[int, int] = {}  # Where to write it, by process.
        self._wakeup, waker = os.pipe2(os.O_NONBLOCK)
        self._descriptors = [self._wakeup, waker]
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(waker)

    def asked(self) -> dict[str, Any] | None:
        """In each program: what it is to be. None in the process that forks, once nobody wants more of it."""
        while True:
            for ready in select.select([self._connection.fileno(), self._wakeup], [], [])[0]:
                if ready == self._wakeup:
                    os.read(self._wakeup, 1_000)
                    self._tell()
                    continue
                message, given, _, _ = socket.recv_fds(self._connection, MESSAGE_BYTES_MAX, 3)
                if not message:
                    return None
                status, *channels = given
                pid = os.fork()
                if not pid:
                    return self._become(json.loads(message), channels, [status, *self._told.values()])
                self._told[pid] = status
                for descriptor in channels:
                    os.close(descriptor)
                self._connection.send(str(pid).encode())

    def _tell(self) -> None:
        while self._told:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                return
            told = self._told.pop(pid)
            os.write(told, str(os.waitstatus_to_exitcode(status)).encode())
            os.close(told)

    def _become(self, asked: dict[str, Any], channels: list[int], others: list[int]) -> dict[str, Any]:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for number, descriptor in enumerate((os.open(os.devnull, os.O_RDONLY), *channels)):
            os.dup2(descriptor, number)
            os.close(descriptor)
        for descriptor in (*self._descriptors, *others):
            os.close(descriptor)
        self._connection.close()
        os.chdir(asked["cwd"])
        os.environ.clear()
        os.environ.update(asked["env"])
        time.tzset()
        return asked


def _main() -> None:
    connection = socket.socket(fileno=int(sys.argv[1]))
    for name in _LOADED:
        import_module(name)
    gc.freeze()  # No program needs to look through what it did not make, which would copy all of it.
    asked = _Loader(connection).asked()
    if asked is None:
        return
    if asked["script"] is None:
        sys.argv = ["run-ledger", *asked["arguments"]]
        import_module("api.cli").main()
    else:
        sys.argv = ["-c", *asked["arguments"]]
        sys.modules["__main__"] = main = ModuleType("__main__")
        exec(asked["script"], main.__dict__)


if __name__ == "__main__":
    _main()
