"""The application in this process, on a database of its own and with a clock that the test moves."""

import asyncio
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx2

from api.app import create_app
from ledger.ledger import Ledger
from ledger.log import Log
from ledger.writes import Refused
from tests.api.contract import conform

BEGINNING = 1_700_000_000_000_000  # 2023-11-14T22:13:20Z
SECOND = 1_000_000  # microseconds
MASTER = b"a secret that no database holds.."

JSON = {"Content-Type": "application/json"}


class Service:
    """
    Requests to an application without a network. Every answer is held to the OpenAPI document.

    Attributes:
        now: What its clock shows, in microseconds.
        path: The database file.
    """

    def __init__(self, runner: asyncio.Runner, path: Path, **limits: int) -> None:
        self.now = BEGINNING
        self.path = path
        self._runner = runner
        self._ledger = runner.run(Ledger.open(f"sqlite+aiosqlite:///{path}", clock=lambda: self.now, **limits))
        self._log: Log = runner.run(self._ledger.log("dev"))
        self.app = create_app(self._ledger, self._log, master=lambda: MASTER)
        transport = httpx2.ASGITransport(app=self.app, raise_app_exceptions=False)
        self._http = httpx2.AsyncClient(transport=transport, base_url="http://127.0.0.1")

    def close(self) -> None:
        self._runner.run(self._http.aclose())
        self._runner.run(self._ledger.close())

    def stop_writing(self) -> None:
        """End the task that writes, as at shutdown."""
        self._runner.run(self._ledger._writer.close())

    def request(self, method: str, path: str, **options: Any) -> httpx2.Response:
        answer = self._runner.run(self._http.request(method, path, **options))
        conform(method, answer.request.url.path, answer)
        return answer

    def get(self, path: str, headers: dict[str, str] | None = None) -> httpx2.Response:
        return self.request("GET", path, headers=headers)

    def put(self, run: str, body: Any, headers: dict[str, str] | None = None) -> httpx2.Response:
        return self.request("PUT", f"/api/v1/runs/{run}/metadata", json=body, headers=headers)

    def post(self, path: str, body: Any, headers: dict[str, str] | None = None) -> httpx2.Response:
        return self.request("POST", path, json=body, headers=headers)

    def create(self, run: str = "r", **members: Any) -> httpx2.Response:
        response = self.post("/api/v1/runs", {"id": run, "task": "t", **members})
        assert response.status_code == 201, response.text
        return response

    def move(self, run: str, status: str, **members: Any) -> httpx2.Response:
        return self.post(f"/api/v1/runs/{run}/status", {"status": status, **members})

    def metadata(self, run: str = "r") -> Any:
        return self.get(f"/api/v1/runs/{run}/metadata").json()["metadata"]

    def history(self, run: str = "r", query: str = "limit=1000") -> list[Any]:
        events: list[Any] = self.get(f"/api/v1/runs/{run}/metadata/history?{query}").json()["data"]
        return events

    def refusals(self, run: str = "r") -> list[Refused]:
        return self._runner.run(self._log.refusals(run))

    def contents(self) -> dict[str, int]:
        """How many rows there are of everything that a request could leave behind."""
        return contents(self.path)


def contents(path: Path) -> dict[str, int]:
    """How many runs, events, idempotency keys and snapshots a database holds, and its last position."""
    with closing(sqlite3.connect(path)) as connection:
        counts = {
            table: connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
            for table in ("runs", "events", "idempotency", "snapshots")
        }
        (counts["position"],) = connection.execute("SELECT sum(last_position) FROM logs").fetchone()
        return counts


@cache
def empty() -> bytes:
    """A database with all tables and nothing in them: making one takes longer than most tests."""
    with TemporaryDirectory() as folder, asyncio.Runner() as runner:
        path = Path(folder) / "empty.db"
        runner.run(runner.run(Ledger.open(f"sqlite+aiosqlite:///{path}")).close())
        return path.read_bytes()


@contextmanager
def service(path: Path, **limits: int) -> Iterator[Service]:
    if not path.exists():
        path.write_bytes(empty())
    with asyncio.Runner() as runner:
        made = Service(runner, path, **limits)
        try:
            yield made
        finally:
            made.close()


def operation(kind: str, key: str, *value: Any) -> dict[str, Any]:
    return {"type": kind, "key": key, **({"value": value[0]} if value else {})}


def problem(response: httpx2.Response, status: int) -> dict[str, Any]:
    """The RFC 9457 body of an error, checked for what all of them have in common."""
    assert response.status_code == status, response.text[:500]
    assert response.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = response.json()
    assert body["status"] == status
    assert body["error"] == body["detail"]
    assert body["detail"]
    assert body["title"]
    assert body["type"] == f"urn:run-ledger:problem:{body['code']}"
    return body
