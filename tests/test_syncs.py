"""Acknowledged means synced: the calls of a real server are counted, not believed."""

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from tests.syscalls import TracedProcess, traced

ROOT = Path(__file__).parent.parent


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[TracedProcess, httpx2.Client]]:
    command = [sys.executable, "-u", "-m", "api.cli", "serve", "--port", "0"]
    command += ["--database-url", f"sqlite+aiosqlite:///{tmp_path}/run-ledger.db"]
    with traced(command, count={"fsync", "fdatasync"}, cwd=ROOT) as process:
        url = re.search(r"http://\S+", process.wait_for_line("http://"))
        assert url is not None
        with httpx2.Client(base_url=url[0], timeout=30) as http:
            yield process, http


def test_every_lone_write_is_synced_before_its_answer(served: tuple[TracedProcess, httpx2.Client]) -> None:
    process, http = served
    assert http.post("/api/v1/runs", json={"id": "r", "task": "t"}).status_code == 201
    change = {"operations": [{"type": "increment", "key": "n", "value": 1}]}
    for _ in range(20):
        before = process.calls()
        assert http.put("/api/v1/runs/r/metadata", json=change).status_code == 200
        syncs = process.calls_since(before)
        assert [call for call in syncs if call.result == 0], "the answer came before any sync"


def test_a_read_syncs_nothing(served: tuple[TracedProcess, httpx2.Client]) -> None:
    process, http = served
    assert http.post("/api/v1/runs", json={"id": "r", "task": "t"}).status_code == 201
    before = process.calls()
    assert http.get("/api/v1/runs/r/metadata").status_code == 200
    assert http.get("/api/v1/runs/r/metadata?version=1").status_code == 200
    assert process.calls_since(before) == []
