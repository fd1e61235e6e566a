"""A real Celery worker in a process of its own."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from tests.api.server import environment

PATIENCE_S = 20  # seconds after which what should have happened will not happen any more


def eventually(condition: Callable[[], Any], what: str, explain: Callable[[], str] = str) -> Any:
    """The first true answer of *condition*."""
    ends_at = time.monotonic() + PATIENCE_S
    while time.monotonic() < ends_at:
        if found := condition():
            return found
        time.sleep(0.05)
    raise AssertionError(f"this never happened: {what}\n{explain()}")


class Worker:
    """
    A worker.

    Args:
        folder: Where its broker, results and log are.
        pool: Which pool, and `count` how large.
        app: The module of its app.
        variables: Environment variables.
    """

    def __init__(
        self,
        folder: Path,
        *,
        pool: str = "prefork",
        count: int = 4,
        app: str = "tests.integrations.jobs",
        **variables: str,
    ) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        options = f"-P {pool} -c {count} -l INFO -n w{os.getpid()}@test --without-gossip --without-mingle"
        self._command = [
            sys.executable,
            "-m",
            "celery",
            "-A",
            app,
            "worker",
            *options.split(),
            "--without-heartbeat",
        ]
        self._variables = environment(
            JOBS_FOLDER=str(folder),
            RUN_LEDGER_SPOOL_DIR=str(folder / "spool"),
            RUN_LEDGER_FLUSH_INTERVAL_S="0.05",
            **variables,
        )
        self.start()

    def start(self) -> None:
        """Start its process, another one after it was killed."""
        self._log = (self.folder / "worker.log").open("a")
        self._begins = len(self.log())
        self.process = subprocess.Popen(
            self._command,
            env=self._variables,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # A process group, and so a spool, of its own.
        )

    def log(self) -> str:
        return (self.folder / "worker.log").read_text()

    def wait_until_ready(self) -> None:
        eventually(
            lambda: " ready." in self.log()[self._begins :] or self.process.poll() is not None, "ready", self.log
        )
        assert self.process.poll() is None, self.log()

    def has_mark(self, name: str) -> bool:
        return (self.folder / "marks" / name).exists()

    def stop(self) -> None:
        """Let it end what it does, and end."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(PATIENCE_S)
            except subprocess.TimeoutExpired:
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait(PATIENCE_S)
                raise
        self._log.close()

    def kill(self) -> None:
        """End it and its processes at once, which takes a tenth of the time."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(PATIENCE_S)
        self._log.close()


@contextmanager
def working(folder: Path, *, gently: bool = False, **options: Any) -> Iterator[Worker]:
    """A worker that is ready. *gently*: at the end, let it end what it does."""
    worker = Worker(folder, **options)
    try:
        worker.wait_until_ready()
        yield worker
    finally:
        if gently:
            worker.stop()
        else:
            worker.kill()
