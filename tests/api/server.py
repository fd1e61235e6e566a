"""A real server in a process of its own, and the command line."""

import os
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx2

from tests.programs import Program

ROOT = Path(__file__).parent.parent.parent
PATIENCE_S = 60  # seconds after which a process that should have answered hangs


def environment(**variables: str) -> dict[str, str]:
    """This process's environment without settings of its own, and what a test adds."""
    inherited = {name: value for name, value in os.environ.items() if not name.upper().startswith("RUN_LEDGER_")}
    return {**inherited, "PYTHONPATH": str(ROOT), "TZ": "UTC", **variables}


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-P", "-m", "api.cli", *arguments]


def run_ledger(
    *arguments: str,
    cwd: Path | None = None,
    variables: Mapping[str, str] | None = None,
    patience_s: float = PATIENCE_S,
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, its output in files."""
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        program = Program(*arguments, cwd=cwd, env=environment(**(variables or {})), stdout=out, stderr=err)
        try:
            code = program.wait(patience_s)
        finally:
            program.kill()
        for written in (out, err):
            written.seek(0)
        return subprocess.CompletedProcess(arguments, code, out.read(), err.read())


@dataclass(frozen=True)
class Done:
    """A command that was run in this process."""

    code: int
    out: str
    err: str


Call = Callable[..., Done]


class Server:
    """
    A running server.

    Attributes:
        path: Its database file.
        url: Its base URL.
        process: The process.
    """

    def __init__(self, path: Path, *options: str, **variables: str) -> None:
        self.path = path
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 - Closed by `close`.
        url = f"sqlite+aiosqlite:///{path}"
        self.process = Program(
            *("serve", "--port", "0", "--database-url", url, *options),
            env=environment(**variables),
            stderr=self._errors,
        )
        assert self.process.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stdout, selectors.EVENT_READ)
            assert selector.select(PATIENCE_S), "the server says nothing"
        line = self.process.stdout.readline()
        assert line.startswith("Run Ledger is ready at http://"), line + self.errors()
        self.url = line.split()[5]
        self.port = int(self.url.rpartition(":")[2])

    def client(self) -> httpx2.Client:
        return httpx2.Client(base_url=self.url, timeout=PATIENCE_S, trust_env=False)

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE_S)

    def count_connections(self) -> int:
        """Connections that it has open with others."""
        mine = f"0100007F:{self.port:04X}"
        lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
        return sum(line.split()[1] == mine and line.split()[3] == "01" for line in lines)

    def errors(self) -> str:
        """What it wrote to standard error so far."""
        self._errors.seek(0)
        return self._errors.read()

    def terminate(self) -> int:
        """Ask it to end, and wait until it did."""
        self.process.send_signal(signal.SIGTERM)
        return self.wait()

    def kill(self) -> None:
        """End it as a power failure would end the process."""
        self.process.kill()
        self.wait()

    def wait(self) -> int:
        return self.process.wait(PATIENCE_S)

    def close(self) -> None:
        if self.process.poll() is None:
            self.terminate()
        assert self.process.stdout is not None
        self.process.stdout.close()
        self._errors.close()


@contextmanager
def serving(path: Path, *options: str, **variables: str) -> Iterator[Server]:
    server = Server(path, *options, **variables)
    try:
        yield server
        assert "Traceback" not in server.errors(), server.errors()
    finally:
        server.close()
