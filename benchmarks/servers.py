"""Start the servers under test as processes pinned to one core, talk to them, and stop them."""

import http.client
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from benchmarks import cores

ROOT = Path(__file__).resolve().parents[1]
START_S_MAX = 30.0  # seconds until a server must have printed its address
STOP_S_MAX = 10.0  # seconds between SIGTERM and SIGKILL
POLL_S = 0.02  # seconds between two looks for the address

# The character after the port shows that the whole number has been written.
_ADDRESS = re.compile(rb"http://127\.0\.0\.1:([1-9][0-9]*)[^0-9]")


class NotStarted(RuntimeError):
    """A server ended, or its deadline passed, before it printed its address; the text ends with its output."""


@dataclass(frozen=True, slots=True)
class Server:
    """A server that listens on *port* of 127.0.0.1."""

    port: int

    def call(self, method: str, path: str, body: object = None) -> bytes:
        """
        Send one request, outside any measurement, with *body* as JSON; return the body of the answer.

        Raises:
            RuntimeError: The status is not 2xx.
        """
        with closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=START_S_MAX)) as connection:
            content = None if body is None else json.dumps(body)
            connection.request(method, path, content, {"Content-Type": "application/json"})
            response = connection.getresponse()
            answer = response.read()
        if not 200 <= response.status < 300:
            raise RuntimeError(f"{method} {path} answered {response.status}: {answer.decode(errors='replace')}")
        return answer


@contextmanager
def noop(directory: Path, read_answer_bytes: int) -> Iterator[Server]:
    """Run `benchmarks.noop`, whose reads answer *read_answer_bytes* bytes; its log is in *directory*."""
    command = ["-m", "benchmarks.noop", "--read-answer-bytes", str(read_answer_bytes)]
    with running(command, directory / "noop.log") as server:
        yield server


@contextmanager
def least(directory: Path, read_answer_bytes: int) -> Iterator[Server]:
    """Run `benchmarks.least`, whose reads answer *read_answer_bytes* bytes; its database is in *directory*."""
    database = str(directory / "least.db")
    command = ["-m", "benchmarks.least", "--database", database, "--read-answer-bytes", str(read_answer_bytes)]
    with running(command, directory / "least.log") as server:
        yield server


@contextmanager
def product(directory: Path, url: str | None = None) -> Iterator[Server]:
    """
    Run the product, its settings at their defaults; its log is in *directory*.

    Args:
        directory: Where its log is.
        url: Its database, with all tables made; by default a new SQLite file in *directory*.
    """
    url = url or f"sqlite+aiosqlite:///{directory.resolve() / 'ledger.db'}"
    command = ["-m", "api.cli", "serve", "--host", "127.0.0.1", "--port", "0", "--database-url", url]
    with running(command, directory / "product.log") as server:
        yield server


@contextmanager
def running(
    arguments: Sequence[str],
    log: Path,
    environment: Mapping[str, str] | None = None,
    start_s_max: float = START_S_MAX,
) -> Iterator[Server]:
    """
    Run Python with *arguments* on the server's core until the block ends, with all processes it starts.

    Args:
        arguments: Those behind `python`. The program prints `http://127.0.0.1:PORT` once it listens.
        log: File for its output.
        environment: Variables to set besides.
        start_s_max: Seconds until it must have printed its address.

    Raises:
        NotStarted: It did not.
    """
    with log.open("wb") as output, cores.pinned(cores.for_server()):
        # A file and not a pipe: a server that logs much never has to wait for a reader.
        process = subprocess.Popen(
            [sys.executable, *arguments],
            cwd=ROOT,
            env={**os.environ, "PYTHONUNBUFFERED": "1", **(environment or {})},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # So that a server that starts processes is ended with them.
        )
    try:
        yield Server(_listening_port(process, log, start_s_max))
    finally:
        _stop(process)


def _listening_port(process: subprocess.Popen[bytes], log: Path, start_s_max: float) -> int:
    deadline = time.monotonic() + start_s_max
    ended = False
    while not ended and time.monotonic() < deadline:
        time.sleep(POLL_S)
        ended = process.poll() is not None
        if found := _ADDRESS.search(log.read_bytes()):
            return int(found[1])
    output = log.read_text(errors="replace")[-2_000:]
    outcome = f"ended with status {process.returncode}" if ended else f"printed no address in {start_s_max:g} s"
    raise NotStarted(f"the server of {log.name} {outcome}; its last output:\n{output}")


def _stop(process: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError, subprocess.TimeoutExpired):  # It may have ended by itself, or never end.
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(STOP_S_MAX)
    with suppress(ProcessLookupError):  # Nothing of its session is left.
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
