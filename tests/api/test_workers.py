"""Several processes, and PostgreSQL, behind the same command line."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from tests.api.server import PATIENCE_S, Call, run_ledger, serving
from tests.ledger.support import Database, PostgresDatabase, check_chain, check_sound
from tests.postgres import Server

SECRET = "0123456789abcdef" * 2


def running() -> set[int]:
    """Processes that run, those that nobody has waited for yet left out."""
    found = set()
    for folder in Path("/proc").iterdir():
        with suppress(OSError):
            if folder.name.isdecimal() and (folder / "cmdline").read_bytes():
                found.add(int(folder.name))
    return found


def workers_of(pid: int) -> set[int]:
    """The workers that a process has."""
    found = set()
    for child in running():
        with suppress(OSError):
            folder = Path(f"/proc/{child}")
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == pid and b"spawn_main" in (folder / "cmdline").read_bytes():
                found.add(child)
    return found


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    if request.param == "sqlite":
        yield Database(tmp_path / "ledger.db")
        return
    server: Server = request.getfixturevalue("postgres_server")
    with server.database() as url:
        yield PostgresDatabase(url)


def test_workers_share_an_address_and_a_log(database: Database, tmp_path: Path) -> None:
    options = ("--workers", "2", "--database-url", database.url)
    with serving(tmp_path / "unused.db", *options) as server:
        workers = workers_of(server.process.pid)
        assert len(workers) == 2
        with server.client() as http:
            assert http.post("/api/v1/runs", json={"id": "r", "task": "t"}).status_code == 201

        def write(n: int) -> int:
            with server.client() as http:  # A connection of its own, which either of the two accepts.
                body = {"operations": [{"type": "increment", "key": "n", "value": 1}]}
                version: int = http.put("/api/v1/runs/r/metadata", json=body).json()["version"]
                assert http.get("/api/v1/runs/r/metadata").json()["version"] >= version
                return version

        with ThreadPoolExecutor(8) as pool:
            assert sorted(pool.map(write, range(40))) == list(range(2, 42))
        assert server.terminate() == 0
        assert not workers & running()
    assert check_chain(database) == 41
    check_sound(database)


def test_a_worker_that_dies_is_replaced(tmp_path: Path) -> None:
    with serving(tmp_path / "ledger.db", "--workers", "2") as server:
        first = workers_of(server.process.pid)
        os.kill(min(first), signal.SIGKILL)
        with server.client() as http:
            for _ in range(20):
                assert http.get("/readyz").status_code == 200
        until(lambda: len(workers_of(server.process.pid) - first) == 1)
        assert f"worker {min(first)} ended with -9; starting another" in server.errors()


def test_workers_end_with_the_process_that_started_them(tmp_path: Path) -> None:
    with serving(tmp_path / "ledger.db", "--workers", "2") as server:
        workers = workers_of(server.process.pid)
        server.kill()
        until(lambda: not workers & running())


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < deadline


def test_a_worker_that_cannot_start_ends_the_start(tmp_path: Path) -> None:
    (tmp_path / "x.db").write_text("this is no database" * 100)
    url = f"sqlite+aiosqlite:///{tmp_path}/x.db"
    done = run_ledger("serve", "--port", "0", "--workers", "2", "--database-url", url)
    assert done.returncode == 1
    assert "file is not a database" in done.stderr
    assert "Traceback" not in done.stderr


def test_every_command_works_on_postgres(
    call: Call, postgres_server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with postgres_server.database() as url:
        monkeypatch.setenv("RUN_LEDGER_DATABASE_URL", url)
        monkeypatch.chdir(tmp_path)
        assert call("migrate").out.endswith("is up to date\n")
        with serving(tmp_path / "unused.db", "--database-url", url) as server, server.client() as http:
            http.post("/api/v1/runs", json={"id": "r", "task": "t", "metadata": {"a": "needle", "b": 1}})
        assert call("get", "r").out == '{"a":"needle","b":1}\n'
        assert call("set", "r", "b", "2").code == 0
        assert call("verify").code == call("verify", "r").code == call("rebuild").code == 0
        erased = call("erase", "r", "--key", "a", "--reason", "asked")
        assert "VACUUM FULL" in erased.out
        assert call("erase", "--sweep").err.startswith("run-ledger: --sweep is for a SQLite file")
        assert "name the private key with --key" in call("checkpoint", "--out", "c").err
        assert "set RUN_LEDGER_SECRET" in call("keys", "create").err
        monkeypatch.setenv("RUN_LEDGER_SECRET", SECRET)
        assert call("keys", "create", "--name", "ci").code == 0
        assert "ci" in call("keys", "list").out
        assert call("verify").out.splitlines()[0] == "3 events of 1 run in dev"
        assert PostgresDatabase(url).rows("SELECT 1 FROM events WHERE data LIKE '%needle%'") == []
        assert "citus" in call("migrate", "--distribute").err


def test_a_server_refuses_a_database_without_tables(postgres_server: Server) -> None:
    with postgres_server.database("template1") as url:
        for command in (
            ("serve", "--port", "0"),
            ("serve", "--port", "0", "--workers", "2"),
            ("verify",),
            ("runs",),
        ):
            done = run_ledger(*command, "--database-url", url)
            assert done.returncode == 1
            line = "run-ledger: the database has no tables of Run Ledger yet; run: run-ledger migrate"
            assert line in done.stderr.splitlines()
