"""Every code block of README.md is run as a newcomer would, and prints what README.md says."""

import json
import os
import pty
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
LINES_MAX = 150
START_S = 60

SHELL = re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
PYTHON = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
SHOWN = re.findall(r"```text\n(.*?)```", README, re.DOTALL)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that looks like a checkout in which everything is installed already, as it is here."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        (folder / name).symlink_to(ROOT / name)
    environment = Path(sys.prefix)
    (folder / ".venv").symlink_to(environment)
    assert (environment / "installed").exists(), (
        "run the tests with `make test`, which installs what the README does"
    )
    return folder


@pytest.fixture(scope="module")
def port() -> int:
    return free_port()


def environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RUN_LEDGER_")}
    return {**kept, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}


def shell(block: str, folder: Path, port: int) -> str:
    done = subprocess.run(
        ["bash", "-euc", block.replace("8420", str(port))],
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=START_S,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def server(checkout: Path, port: int) -> Iterator[str]:
    """The first block: install and start."""
    block = SHELL[0].replace("run-ledger serve", f"exec run-ledger serve --port {port}")
    with subprocess.Popen(
        ["bash", "-euc", block],
        cwd=checkout,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    ) as process:
        assert process.stdout is not None
        lines = iter(process.stdout.readline, "")
        ready = next(line for line in lines if "ready" in line)
        yield ready
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(START_S)


def test_the_blocks_lead_from_nothing_to_history(checkout: Path, port: int, server: str) -> None:
    assert server.startswith(f"Run Ledger is ready at http://127.0.0.1:{port}")
    created = json.loads(shell(SHELL[1], checkout, port))
    assert created == {"id": "nightly", "version": 1, "isCached": False}
    shell(SHELL[2], checkout, port)
    answers = shell(SHELL[3], checkout, port)
    decoder = json.JSONDecoder()
    current, end = decoder.raw_decode(answers)
    past, length = decoder.raw_decode(answers[end:])
    history, length_of_history = decoder.raw_decode(answers[end + length :])
    user = {"name": "Eric", "id": "user_1234"}
    assert current["metadata"] == {"user": user, "status": {"state": "running", "progress": 1}}
    assert current["version"] == 5
    assert past["metadata"] == {"user": user, "status": {"state": "running", "progress": 0.5}}
    assert [event["version"] for event in history["data"]] == [1, 2, 3, 4, 5]
    printed = answers[end + length + length_of_history :].splitlines()
    assert [line.split("\t")[0] for line in printed] == ["1", "2", "3", "4", "5"]


@pytest.mark.parametrize("backend", ["server", "database"])
def test_the_job_runs_as_it_is_written(
    checkout: Path, port: int, server: str, tmp_path: Path, backend: str
) -> None:
    variables = {"RUN_LEDGER_SPOOL_DIR": str(tmp_path / "spool")}
    if backend == "server":
        variables["RUN_LEDGER_URL"] = f"http://127.0.0.1:{port}"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", PYTHON[0]],
        cwd=tmp_path,
        env={**environment(), **variables},
        capture_output=True,
        text=True,
        check=False,
        timeout=START_S,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.strip() in README
    assert (tmp_path / "run-ledger.db").exists() == (backend == "database")


def test_no_block_was_left_out() -> None:
    assert len(SHELL) == 4
    assert len(PYTHON) == 1
    assert len(SHOWN) == 1


def on_a_terminal(command: list[str], folder: Path) -> str:
    """What a command prints on a terminal 120 columns wide."""
    ours, theirs = pty.openpty()
    sized = {**environment(), "COLUMNS": "120", "NO_COLOR": "1", "TERM": "xterm"}
    with subprocess.Popen(command, cwd=folder, env=sized, stdout=theirs, stderr=subprocess.STDOUT) as process:
        os.close(theirs)
        text = b""
        while True:
            try:
                piece = os.read(ours, 65_536)
            except OSError:  # What Linux says once the other end is closed.
                break
            if not piece:
                break
            text += piece
        os.close(ours)
        process.wait(START_S)
    return re.sub(r"\x1b\[[0-9;]*m", "", text.decode()).replace("\r\n", "\n")


def test_the_first_screen_shows_what_is_printed(tmp_path: Path, port: int) -> None:
    assert shutil.which("curl"), "the README's examples need curl"
    operations = [
        {"type": "set", "key": "status", "value": {"state": "running", "progress": 0.1}},
        {"type": "set", "key": "status", "value": {"state": "running", "progress": 0.5}},
        {"type": "increment", "key": "rows", "value": 250},
        {"type": "set", "key": "status", "value": {"state": "complete", "progress": 1}},
    ]
    run = {
        "id": "nightly",
        "task": "import",
        "actor": "importer",
        "metadata": {"user": {"name": "Eric", "id": "user_1234"}},
    }
    change = {"actor": "importer", "operations": operations}
    url = "sqlite+aiosqlite:///run-ledger.db"
    code = f"""
import asyncio
from api.client import connect
from ledger.settings import load_settings

async def main():
    open("run-ledger.db", "w").close()
    async with connect(load_settings(database_url={url!r})) as client:
        await client.send("POST", "/api/v1/runs", {run!r})
        await client.send("PUT", "/api/v1/runs/nightly/metadata", {change!r})

asyncio.run(main())
"""
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment(), check=True, capture_output=True)
    _, history, get = re.split(r"^\$ ", SHOWN[0], flags=re.MULTILINE)
    for shown in (history, get):
        command, _, expected = shown.partition("\n")
        printed = shell(command, tmp_path, port) if "get" in command else on_a_terminal(command.split(), tmp_path)
        assert _without_times(printed) == _without_times(expected)


def test_the_readme_is_short() -> None:
    assert len(README.splitlines()) < LINES_MAX


def test_the_readme_names_files_that_exist() -> None:
    for link in re.findall(r"\]\(([^)#]+)\)", README):
        assert (ROOT / link).exists(), link


def _without_times(text: str) -> str:
    lines = re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", "TIME", text).strip().splitlines()
    return "\n".join(line.rstrip() for line in lines)
