"""
The demo: a server, and beside it a real job that reports what it does.

The job reads every file of Python's own standard library on this machine, counts its lines, hashes each of them to
tell how many differ, and reports its progress through the HTTP API, as any job in any language would.
"""

import hashlib
import os
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx2
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from api.client import Failed, path_of
from api.history_commands import event_cells
from api.terminal import pretty_json, table_of

REPORT_EVERY_S = 0.1  # seconds between two reports of the job
LARGEST_FILES = 5  # files that the job names as the largest
STOP_S = 15  # seconds that it gets to stop
ROWS_SHOWN = 4  # rows of the history, from its beginning and from its end


def run_demo(*, keep: bool, port: int, database: str) -> None:
    """
    Start a server, run the job, and show what the ledger knows of it.

    Args:
        keep: Leave the server up until it is interrupted.
        port: Port of the server, 0 for any free one.
        database: File of the database, which is kept.

    Raises:
        Failed: The server did not start.
    """
    signal.signal(signal.SIGTERM, _stop)
    console = Console(markup=False, emoji=False)  # A file's name is no markup.
    with _server(port, database) as (url, server), httpx2.Client(base_url=url, timeout=30) as http:
        console.print(f"Server: {url}   Database: {database}\n", highlight=False)
        run_id = _count_library(http, console)
        _show(http, console, run_id, url, database, keep=keep)
        if keep:
            console.print("\nThe server stays up. Ctrl-C stops it.")
            with suppress(KeyboardInterrupt):
                server.wait()
            console.print("Stopped.")


def _stop(number: int, _: object) -> None:
    """Leave in the ordinary way, so that the server does not outlive the demo."""
    sys.exit(128 + number)


@contextmanager
def _server(port: int, database: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """The base URL of a server, and the process of its own that it runs in."""
    # A project's own folder may hold another package named api: Python is told to look where this one lies.
    home = str(Path(__file__).parent.parent)
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([home, *filter(None, [os.environ.get("PYTHONPATH")])]),
    }
    command = [sys.executable, "-P", "-m", "api.cli", "serve", "--port", str(port)]
    command += ["--database-url", f"sqlite+aiosqlite:///{Path(database).absolute()}"]
    with (
        tempfile.TemporaryFile("w+") as complaints,
        subprocess.Popen(  # noqa: S603 - Ours.
            command, stdout=subprocess.PIPE, stderr=complaints, text=True, env=environment
        ) as process,
    ):
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            if "http://" not in line:
                complaints.seek(0)
                raise Failed(f"the server did not start. {complaints.read().strip()}")
            yield line.split(" at ")[1].split(" ")[0], process
        finally:
            process.terminate()
            try:
                process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()


def _count_library(http: httpx2.Client, console: Console) -> str:
    """The job: count and hash the lines of the standard library. Returns the run's id."""
    folder = Path(sysconfig.get_paths()["stdlib"])
    files = sorted(
        path
        for path in folder.rglob("*")
        if path.is_file() and not {"site-packages", "__pycache__"} & {*path.relative_to(folder).parts}
    )
    created = _post(
        http,
        "/api/v1/runs",
        {
            "task": "count-standard-library",
            "tags": ["demo", f"python-{sys.version_info.major}.{sys.version_info.minor}"],
            "status": "EXECUTING",
            "actor": "demo-job",
            "metadata": {
                "user": {"name": "Eric", "id": "user_1234"},
                "status": {"state": "starting", "progress": 0, "message": f"{len(files):,} files to read"},
                "files": 0,
                "lines": 0,
                "bytes": 0,
                "distinctLines": 0,
            },
        },
    )
    run_id: str = created["id"]
    report = _Report(http, run_id, len(files))
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("Counting Python's standard library", total=len(files))
        for path in files:
            try:
                report.read(path.relative_to(folder), path.read_bytes())
            except OSError as error:
                report.skip(path.relative_to(folder), error)
            progress.advance(task)
    report.finish()
    return run_id


class _Report:
    """
    What the job has found, reported now and then.

    Args:
        http: A client of the server.
        run_id: The run to report to.
        total: Files to read.
    """

    def __init__(self, http: httpx2.Client, run_id: str, total: int) -> None:
        self._http = http
        self._run_id = run_id
        self._total = total
        self._done = 0
        self._new = {"files": 0, "lines": 0, "bytes": 0, "distinctLines": 0}
        self._largest: list[tuple[int, str]] = []
        self._told: list[tuple[int, str]] = []
        self._digest = hashlib.sha256()
        self._seen: set[bytes] = set()
        self._operations: list[dict[str, Any]] = []
        self._last = time.monotonic()

    def read(self, name: Path, content: bytes) -> None:
        """Count one file, and report if it is time."""
        lines = content.splitlines()
        known = len(self._seen)
        self._seen.update(hashlib.blake2b(line, digest_size=8).digest() for line in lines)
        self._digest.update(hashlib.sha256(content).digest())
        self._done += 1
        self._new["files"] += 1
        self._new["lines"] += len(lines)
        self._new["bytes"] += len(content)
        self._new["distinctLines"] += len(self._seen) - known
        self._largest = sorted([*self._largest, (len(content), name.as_posix())], reverse=True)[:LARGEST_FILES]
        if time.monotonic() - self._last >= REPORT_EVERY_S:
            self._send("running", f"read {name.as_posix()}")

    def skip(self, name: Path, error: OSError) -> None:
        """Say that a file could not be read."""
        self._done += 1
        warning = {"file": name.as_posix(), "error": error.strerror or "unreadable"}
        self._operations.append({"type": "append", "key": "warnings", "value": warning})

    def finish(self) -> None:
        """Report the rest and end the run."""
        self._operations.append({"type": "set", "key": "sha256", "value": self._digest.hexdigest()})
        self._send("complete", f"read {self._done:,} files")
        _post(
            self._http,
            path_of(self._run_id, "status"),
            {"status": "COMPLETED", "output": {"sha256": self._digest.hexdigest()}, "actor": "demo-job"},
        )

    def _send(self, state: str, message: str) -> None:
        progress = round(self._done / self._total, 4)
        status = {"state": state, "progress": progress, "message": message}
        operations = [{"type": "set", "key": "status", "value": status}, *self._operations]
        operations += [
            {"type": "increment", "key": counter, "value": amount}
            for counter, amount in self._new.items()
            if amount
        ]
        if self._largest != self._told:
            largest = [{"file": name, "bytes": size} for size, name in self._largest]
            operations.append({"type": "set", "key": "largest", "value": largest})
            self._told = self._largest
        body = {"operations": operations, "actor": "demo-job"}
        _answer(self._http.put(path_of(self._run_id), json=body))
        self._new = dict.fromkeys(self._new, 0)
        self._operations = []
        self._last = time.monotonic()


def _show(http: httpx2.Client, console: Console, run_id: str, url: str, database: str, *, keep: bool) -> None:
    """Print what the ledger knows: metadata, history, and where to look further."""
    current = _answer(http.get(path_of(run_id)))
    console.print(f"\nMetadata of {run_id} now, version {current['version']}:", style="bold", highlight=False)
    console.print(pretty_json(current["metadata"]), soft_wrap=True)

    history = path_of(run_id, "metadata/history")
    first = _answer(http.get(history, params={"limit": ROWS_SHOWN}))["data"]
    last = _answer(http.get(history, params={"limit": ROWS_SHOWN, "order": "desc"}))["data"]
    skipped = current["version"] - len(first) - len(last)
    gap = [("", "", "", "", f"... {skipped} more")] if skipped > 0 else []
    rows = [*map(_cells, first), *gap, *map(_cells, reversed(last))]
    console.print(f"\nIts history, {current['version']} versions:", style="bold", highlight=False)
    console.print(table_of(("version", "recorded", "actor", "event", "what"), rows))

    console.print("\nLook further:", style="bold")
    middle = current["version"] // 2
    bin_folder = Path(sys.executable).parent
    program = bin_folder / "run-ledger"
    shown = os.path.relpath(program) if program.exists() else "run-ledger"
    option = f"--database-url sqlite+aiosqlite:///{database}"
    for command in (
        f"{shown} get {run_id} --version {middle} {option}",
        f"{shown} history {run_id} --key '$.status.progress' {option}",
        f"{shown} diff {run_id} --from {middle} {option}",
        f"{shown} explain {run_id} files --limit 5 {option}",
        f"{shown} runs {option}",
    ):
        console.print(f"  {command}", highlight=False, soft_wrap=True)
    if keep:
        console.print(f"  curl {url}{path_of(run_id)}", highlight=False, soft_wrap=True)
        console.print(f"  in a browser: {url}/runs/{run_id}", highlight=False, soft_wrap=True)


def _cells(event: dict[str, Any]) -> tuple[str, ...]:
    """As in the history, without the date: it is today's."""
    version, recorded, *rest = event_cells(event)
    return (version, recorded.split(" ")[1], *rest)


def _post(http: httpx2.Client, path: str, body: dict[str, Any]) -> Any:
    return _answer(http.post(path, json=body))


def _answer(response: httpx2.Response) -> Any:
    answer = response.json()
    if response.is_error:
        raise Failed(answer["detail"])
    return answer
