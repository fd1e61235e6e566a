"""What the commands around and inside jobs do: run a command as a run, report from inside it, send a spool."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from ledger.errors import LedgerError, Unreachable
from ledger.handle import configuration
from ledger.handle.execution import Execution, begin
from ledger.handle.metadata import metadata
from ledger.handle.spool import Count, all_spools
from ledger.settings import BadSettings, load_settings
from projections.lifecycle import Status
from projections.values import JsonObject

NOT_FOUND, NOT_EXECUTABLE = 127, 126  # Exit codes, as shells have them.
FORWARDED = (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
FROM_THE_TERMINAL = (signal.SIGINT, signal.SIGQUIT)  # The terminal sends these to the command itself.


def execute(
    command: Sequence[str], *, task: str, run_id: str | None, tags: Sequence[str], first: JsonObject
) -> int:
    """
    Run a command as a run, and return its exit code.

    The command finds its run in its environment variables. Nothing that goes wrong with reporting keeps it from
    running.

    Args:
        command: Program and arguments.
        task: What it executes.
        run_id: The run's id, a new one unless given.
        tags: At most ten.
        first: The run's first metadata.

    Raises:
        ValueError: An argument cannot be used.
    """
    execution = _begun(task, run_id, tags, first)
    variables = {} if execution is None else execution.variables
    arguments = list(command)
    with _signals() as signals:  # From before the command starts: it may be told to end at once.
        try:
            process = subprocess.Popen(arguments, env={**os.environ, **variables})  # noqa: S603 - What was asked for.
        except OSError as failure:
            reason = f"{command[0]}: {failure.strerror}"
            print(f"run-ledger: {reason}", file=sys.stderr)
            _end(execution, Status.FAILED, {"message": reason, "name": type(failure).__name__}, None)
            return NOT_FOUND if isinstance(failure, FileNotFoundError) else NOT_EXECUTABLE
        signals.pass_to(process)
        code = process.wait()
    error: JsonObject | None = None
    status = Status.COMPLETED
    if code > 0:
        status = Status.FAILED
        error = {"message": f"the command ended with exit code {code}", "name": "ExitCode"}
    elif code < 0:
        name = signal.Signals(-code).name
        status = Status.CANCELED if signals.told else Status.CRASHED
        error = {"message": f"the command was ended by {name}", "name": name}
        code = 128 - code
    _end(execution, status, error, {"exitCode": code})
    return code


def set_in_run(key: str, value: Any) -> None:
    """
    Set a key of the run that this process works for; where the ledger gives no answer it is kept for later.

    Raises:
        LedgerError: It was not accepted.
    """
    try:
        metadata.set(key, value).flush()
    finally:
        configuration.close()


def spool_status() -> list[Count]:
    """What waits on this machine, by file and destination."""
    settings = load_settings()
    return [
        count for spool in all_spools(settings.spool_dir, settings.spool_bytes_max) for count in spool.counts()
    ]


def send_spool() -> tuple[int, int, int, str | None]:
    """
    Send what waits for the destination that the settings name.

    Returns:
        Requests that were delivered, that still wait, and that were set aside, and why no more could be sent.
    """
    reporter = configuration.reporter()
    problem = None
    left = 0
    try:
        left = reporter.wait(reporter.deliver_spools)
    except Unreachable as error:
        problem = str(error)
        left = sum(count.waiting for count in spool_status() if count.destination == reporter.backend.destination)
    backlog = reporter.backlog
    delivered, aside = backlog.delivered, backlog.set_aside
    configuration.close()
    return delivered, left, aside, problem


def discard_set_aside() -> int:
    """Forget what was set aside, for whatever destination; say how many requests that was."""
    settings = load_settings()
    spools = all_spools(settings.spool_dir, settings.spool_bytes_max)
    return sum(spool.discard_set_aside() for spool in spools)


def count_members(count: Count) -> dict[str, Any]:
    """What a spool holds, as JSON."""
    oldest = None if count.oldest is None else datetime.fromtimestamp(count.oldest / 1_000_000, UTC)
    return {
        "file": str(count.file),
        "destination": count.destination,
        "waiting": count.waiting,
        "operations": count.operations,
        "bytes": count.bytes,
        "oldest": None if oldest is None else oldest.isoformat().replace("+00:00", "Z"),
        "setAside": [{"runId": run_id, "reason": reason} for run_id, reason in count.set_aside],
    }


def _begun(task: str, run_id: str | None, tags: Sequence[str], first: JsonObject) -> Execution | None:
    try:
        return begin(task, run_id=run_id, tags=tags, metadata=first)
    except (LedgerError, BadSettings) as error:
        print(f"run-ledger: the command is not recorded: {error}", file=sys.stderr)
        return None


def _end(execution: Execution | None, status: Status, error: JsonObject | None, output: JsonObject | None) -> None:
    if execution is not None:
        execution.finish(status, output, error)
    configuration.close()


class _Signals:
    """
    What this process is told while a command runs, and passes on to it.

    Attributes:
        told: The signals that came, in order.
    """

    def __init__(self) -> None:
        self.told: list[int] = []
        self._early: list[int] = []
        self._process: subprocess.Popen[bytes] | None = None

    def pass_to(self, process: "subprocess.Popen[bytes]") -> None:
        """Pass on to *process* what came before it was there, and what comes from now on."""
        self._process = process
        while self._early:
            process.send_signal(self._early.pop(0))

    def forward(self, number: int, _: object) -> None:
        """Handle a signal that this process alone got."""
        self.told.append(number)
        if self._process is None:
            self._early.append(number)
        else:
            self._process.send_signal(number)

    def note(self, number: int, _: object) -> None:
        """Handle a signal that the command got, too."""
        self.told.append(number)


@contextmanager
def _signals() -> Iterator[_Signals]:
    """Handle signals for a command until it has ended."""
    signals = _Signals()
    before = {number: signal.signal(number, signals.forward) for number in FORWARDED}
    before |= {number: signal.signal(number, signals.note) for number in FROM_THE_TERMINAL}
    try:
        yield signals
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
