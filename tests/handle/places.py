"""The two places a job can report to, and programs that do."""

import json
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.api.server import PATIENCE_S, environment

QUICK_S = 0.05  # seconds between two requests about one run: the least that can be set


@dataclass(frozen=True)
class Place:
    """
    Where a test's jobs report to.

    Attributes:
        name: `server` or `database`.
        target: What `configure` takes.
        path: The SQLite file behind it.
        spool: Folder of the spools.
    """

    name: str
    target: str
    path: Path
    spool: Path

    @property
    def variables(self) -> dict[str, str]:
        """Environment variables that lead a program here."""
        setting = "RUN_LEDGER_URL" if self.target.startswith("http") else "RUN_LEDGER_DATABASE_URL"
        return {
            setting: self.target,
            "RUN_LEDGER_SPOOL_DIR": str(self.spool),
            "RUN_LEDGER_FLUSH_INTERVAL_S": str(QUICK_S),
        }

    def rows(self, statement: str, *parameters: object) -> list[dict[str, Any]]:
        """Rows of the ledger's file."""
        return rows(self.path, statement, *parameters)

    def metadata(self, run_id: str) -> Any:
        """What the file holds as a run's current metadata."""
        (row,) = self.rows("SELECT metadata FROM runs WHERE run_id = ?", run_id)
        return json.loads(row["metadata"])

    def status(self, run_id: str) -> str:
        (row,) = self.rows("SELECT status FROM runs WHERE run_id = ?", run_id)
        return str(row["status"])

    def events(self, run_id: str) -> list[dict[str, Any]]:
        """Every event of a run, oldest first, with data and headers read."""
        found = self.rows(
            "SELECT e.* FROM events AS e JOIN runs AS r USING (environment_id, run_key) "
            "WHERE r.run_id = ? ORDER BY e.version",
            run_id,
        )
        return [{**row, "data": json.loads(row["data"]), "headers": json.loads(row["headers"])} for row in found]

    def types(self, run_id: str) -> list[str]:
        return [event["type"] for event in self.events(run_id)]

    def values(self, run_id: str, key: str) -> list[Any]:
        """The values that every operation on a key had, in order."""
        return [event["data"]["value"] for event in self.events(run_id) if event["data"].get("key") == key]

    def statuses(self, run_id: str) -> list[tuple[int, str]]:
        """Attempt and status of every step after the first."""
        return [
            (event["attempt"], event["data"]["status"])
            for event in self.events(run_id)
            if event["type"] == "run.status_changed"
        ]


def rows(path: Path, statement: str, *parameters: object) -> list[dict[str, Any]]:
    """Rows of an SQLite file."""
    with closing(sqlite3.connect(f"{path.as_uri()}?mode=rw", uri=True, timeout=PATIENCE_S)) as connection:
        connection.row_factory = sqlite3.Row
        return [dict(row) for row in connection.execute(statement, parameters)]


def waiting(folder: Path) -> list[dict[str, Any]]:
    """What all spools in a folder hold."""
    found = []
    for path in sorted(folder.glob("spool-*.db")):
        with suppress(sqlite3.OperationalError):  # It is being made, or was just removed.
            found += rows(path, "SELECT * FROM entries ORDER BY number, part")
    return found


def until(condition: Callable[[], Any], what: str = "") -> Any:
    """What *condition* says once it is true; a condition that never is fails the test."""
    deadline = time.monotonic() + PATIENCE_S
    while not (said := condition()):
        assert time.monotonic() < deadline, f"it never came: {what or condition}"
        time.sleep(0.01)
    return said


def start(
    script: str, *arguments: str, variables: Mapping[str, str] | None = None, **options: Any
) -> subprocess.Popen[str]:
    """Start a program; it ends by itself or is killed by the test."""
    return subprocess.Popen(
        [sys.executable, "-W", "error::ResourceWarning", "-c", script, *arguments],
        env=environment(**(variables or {})),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


@dataclass(frozen=True)
class Ended:
    """A program that was run."""

    code: int
    out: str
    err: str


def finished(process: "subprocess.Popen[str]", patience_s: float = PATIENCE_S) -> Ended:
    """Wait for a program."""
    try:
        out, err = process.communicate(timeout=patience_s)
    except subprocess.TimeoutExpired:
        state = Path(
            f"/proc/{process.pid}/status"
        ).read_text()  # Which signals it ignores, blocks and has pending.
        process.kill()
        out, err = process.communicate()
        raise AssertionError(f"it hangs; out: {out}, err: {err}, {state}") from None
    return Ended(process.returncode, out, err)


def program(
    script: str, *arguments: str, variables: Mapping[str, str] | None = None, code: int = 0, **options: Any
) -> Ended:
    """Run a program to its end, which is expected to be *code*."""
    ended = finished(start(script, *arguments, variables=variables, **options))
    assert ended.code == code, ended
    return ended


def says(process: "subprocess.Popen[str]", line: str) -> None:
    """Wait for a line of a program."""
    assert process.stdout is not None
    said = process.stdout.readline()
    if said.strip() != line:
        process.kill()
        raise AssertionError(f"{said!r}; {process.stderr.read() if process.stderr else ''}")


def threads() -> list[threading.Thread]:
    return threading.enumerate()


def descriptors() -> dict[str, str]:
    """Open files, sockets and pipes of this process, by where they lead."""
    found = {}
    for path in Path("/proc/self/fd").iterdir():
        try:
            found[path.name] = str(path.readlink())
        except FileNotFoundError:  # The one that this look itself needed.
            continue
    return found
