"""Many clients at once, and what is left of their writes when the server is killed or asked to end."""

import asyncio
import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.api.server import Server, serving

CLIENTS = 64
WRITES_EACH = 100
INCREMENT = json.dumps({"operations": [{"type": "increment", "key": "n", "value": 1}]}).encode()


class Connection:
    """
    One client: requests in turn over one connection that is kept open.

    Raises ConnectionError or IncompleteReadError when the server goes away.
    """

    def __init__(self, port: int) -> None:
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def put(self, key: str) -> tuple[int, dict[str, str], Any]:
        """Add one to `n` under an idempotency key: status, headers, body."""
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self._port)
        reader, writer = self._streams
        writer.write(
            f"PUT /api/v1/runs/r/metadata HTTP/1.1\r\nHost: 127.0.0.1\r\nIdempotency-Key: {key}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(INCREMENT)}\r\n\r\n".encode()
            + INCREMENT
        )
        await writer.drain()
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        status, *lines = head.split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines if line)}
        body = json.loads(await reader.readexactly(int(headers["content-length"])))
        return int(status.split()[1]), headers, body

    async def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
            with suppress(ConnectionError):
                await self._streams[1].wait_closed()
            self._streams = None


async def increment(
    port: int,
    keys: list[list[str]],
    acknowledged: dict[str, int],
    *,
    after: int = 0,
    then: Callable[[], None] = lambda: None,
) -> None:
    """
    One client for each list of keys, until all are acknowledged or the server is gone.

    *then* is called as soon as *after* writes are acknowledged, while others are in flight.
    """

    async def client(own: list[str]) -> None:
        connection = Connection(port)
        try:
            for key in own:
                status, _, body = await connection.put(key)
                if status != 503:  # It is ending and says so.
                    assert status == 200, body
                    acknowledged[key] = body["version"]
                    if len(acknowledged) == after:
                        then()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            await connection.close()

    await asyncio.gather(*map(client, keys))


def create(server: Server) -> None:
    with server.client() as http:
        assert http.post("/api/v1/runs", json={"id": "r", "task": "t"}).status_code == 201


def versions(server: Server) -> list[int]:
    """The versions of every event of the run, in the order of its history."""
    found: list[int] = []
    with server.client() as http:
        page: Any = {"pagination": {"next": "0"}}
        while "next" in page["pagination"]:
            after = page["pagination"]["next"]
            page = http.get(f"/api/v1/runs/r/metadata/history?limit=1000&after={after}").json()
            found += [event["version"] for event in page["data"]]
    return found


def current(server: Server) -> Any:
    with server.client() as http:
        return http.get("/api/v1/runs/r/metadata").json()


ALL_KEYS = [[f"{client}-{number}" for number in range(WRITES_EACH)] for client in range(CLIENTS)]
TOTAL = CLIENTS * WRITES_EACH


def test_of_6400_increments_from_64_clients_each_is_there_once(server: Server) -> None:
    create(server)
    acknowledged: dict[str, int] = {}
    asyncio.run(increment(server.port, ALL_KEYS, acknowledged))
    assert sorted(acknowledged.values()) == list(range(2, TOTAL + 2))
    now = current(server)
    assert (now["metadata"], now["version"]) == ({"n": TOTAL}, TOTAL + 1)
    assert versions(server) == list(range(1, TOTAL + 2))
    for client in range(CLIENTS):
        own = [acknowledged[key] for key in ALL_KEYS[client]]
        assert own == sorted(own), "a client's own writes keep their order"


@pytest.mark.parametrize("killed_after", [1, 300])
def test_a_kill_loses_nothing_acknowledged_and_a_retry_adds_nothing_twice(
    tmp_path: Path, killed_after: int
) -> None:
    path = tmp_path / "x.db"
    keys = [own[:20] for own in ALL_KEYS]
    total = sum(map(len, keys))
    acknowledged: dict[str, int] = {}

    with serving(path) as server:
        create(server)
        asyncio.run(increment(server.port, keys, acknowledged, after=killed_after, then=server.process.kill))
        server.wait()
    assert killed_after <= len(acknowledged) < total

    with serving(path) as server:
        left = current(server)
        assert left["version"] >= max(acknowledged.values())
        assert left["metadata"]["n"] == left["version"] - 1
        again: dict[str, int] = {}
        asyncio.run(increment(server.port, keys, again))
        assert {key: again[key] for key in acknowledged} == acknowledged
        assert sorted(again.values()) == list(range(2, total + 2))
        now = current(server)
        assert (now["metadata"], now["version"]) == ({"n": total}, total + 1)
        assert versions(server) == list(range(1, total + 2))


def test_asked_to_end_it_finishes_what_it_took_and_ends_by_itself(tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    acknowledged: dict[str, int] = {}

    with serving(path) as server:
        create(server)
        asyncio.run(increment(server.port, ALL_KEYS, acknowledged, after=300, then=server.process.terminate))
        assert server.wait() in {0, -15}
    assert len(acknowledged) >= 300
    assert not path.with_name("x.db-wal").exists(), "the log is folded back into the file"

    with serving(path) as server:
        now = current(server)
        assert now["version"] >= max(acknowledged.values())
        assert sorted(acknowledged.values()) == sorted(set(acknowledged.values()))
        assert now["metadata"]["n"] == now["version"] - 1
        assert versions(server) == list(range(1, now["version"] + 1))


def test_clients_that_leave_before_the_answer_harm_nobody_and_count_at_most_once(server: Server) -> None:
    create(server)
    keys = [f"gone-{number}" for number in range(200)]
    request = (
        "PUT /api/v1/runs/r/metadata HTTP/1.1\r\nHost: 127.0.0.1\r\nIdempotency-Key: {}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(INCREMENT)}\r\n\r\n"
    )

    async def leave(key: str, part: int) -> None:
        _, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write((request.format(key).encode() + INCREMENT)[:part])
        await writer.drain()
        writer.transport.abort()

    async def leave_all() -> None:
        whole = len(request.format(keys[0])) + len(INCREMENT)
        await asyncio.gather(
            *(leave(key, whole - number % 3 * 30) for number, key in enumerate(keys)),
            increment(server.port, [[f"stay-{number}" for number in range(50)]], acknowledged),
        )

    acknowledged: dict[str, int] = {}
    asyncio.run(leave_all())
    assert len(acknowledged) == 50
    asyncio.run(increment(server.port, [keys], acknowledged))
    assert len(acknowledged) == 250
    now = current(server)
    assert (now["metadata"], now["version"]) == ({"n": 250}, 251)
    assert versions(server) == list(range(1, 252))


def test_of_64_clients_with_one_key_one_writes_and_all_get_its_answer(server: Server) -> None:
    create(server)

    async def once() -> list[tuple[int, bool, int]]:
        connections = [Connection(server.port) for _ in range(CLIENTS)]
        answers = await asyncio.gather(*(connection.put("same") for connection in connections))
        for connection in connections:
            await connection.close()
        return [(status, "idempotency-replayed" in headers, body["version"]) for status, headers, body in answers]

    answers = asyncio.run(once())
    assert sorted(answers) == [(200, False, 2), *[(200, True, 2)] * (CLIENTS - 1)]
    assert current(server)["metadata"] == {"n": 1}
