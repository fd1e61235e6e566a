"""Two servers on one PostgreSQL: what one of them was told, the other knows; and the handle without a server."""

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.api.server import PATIENCE_S, Server, environment, run_ledger, serving
from tests.api.sse import Reader
from tests.api.test_concurrency import Connection, increment
from tests.ledger.support import PostgresDatabase, check_chain, check_sound
from tests.postgres import Server as Postgres

SECRET = "0123456789abcdef" * 2


@pytest.fixture(scope="module")
def pair(
    postgres_server: Postgres, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[PostgresDatabase, Server, Server]]:
    """One database for a whole module, and two servers on it. Each test has runs of its own."""
    path = tmp_path_factory.mktemp("postgres") / "unused.db"
    with ExitStack() as stack:
        url = stack.enter_context(postgres_server.database())
        database = PostgresDatabase(url)
        options = ("--database-url", url)
        servers = [stack.enter_context(serving(path, *options, RUN_LEDGER_SECRET=SECRET)) for _ in range(2)]
        yield database, servers[0], servers[1]
        for server in servers:
            server.terminate()
        check_chain(database)
        check_sound(database)


@pytest.fixture
def database(pair: tuple[PostgresDatabase, Server, Server]) -> PostgresDatabase:
    return pair[0]


@pytest.fixture
def one(pair: tuple[PostgresDatabase, Server, Server]) -> Iterator[httpx2.Client]:
    with pair[1].client() as client:
        yield client


@pytest.fixture
def other(pair: tuple[PostgresDatabase, Server, Server]) -> Iterator[httpx2.Client]:
    with pair[2].client() as client:
        yield client


def create(client: httpx2.Client, run: str, **members: Any) -> None:
    answer = client.post("/api/v1/runs", json={"id": run, "task": "t", **members})
    assert answer.status_code == 201, answer.text


def put(client: httpx2.Client, run: str, *operations: Any, **headers: str) -> httpx2.Response:
    return client.put(f"/api/v1/runs/{run}/metadata", json={"operations": operations}, headers=headers)


ADD = {"type": "increment", "key": "n", "value": 1}


def test_what_one_server_acknowledged_the_other_reads_and_judges_by(
    one: httpx2.Client, other: httpx2.Client
) -> None:
    create(one, "m", metadata={"n": 1, "text": "a\0b \ufdd0 ü 𝄞"}, tags=["a", "z"])
    found = other.get("/api/v1/runs/m/metadata")
    assert found.json()["metadata"] == {"n": 1, "text": "a\0b \ufdd0 ü 𝄞"}
    assert put(other, "m", ADD, **{"If-Match": found.headers["etag"]}).json()["version"] == 2
    stale = put(one, "m", ADD, **{"If-Match": found.headers["etag"]})
    assert (stale.status_code, stale.json()["actual"]) == (412, 2)
    assert put(one, "m", {"type": "set", "key": "b", "value": "x" * 5_000}).status_code == 413
    assert other.get("/api/v1/runs/m/metadata?version=1").json()["metadata"]["n"] == 1
    history = other.get("/api/v1/runs/m/metadata/history?key=n").json()["data"]
    assert [event["version"] for event in history] == [1, 2]
    assert other.get("/api/v1/runs/m/verify").json()["verified"] is True
    assert other.post("/api/v1/runs/m/status", json={"status": "COMPLETED"}).status_code == 200
    ended = one.post("/api/v1/runs/m/status", json={"status": "FAILED"})
    assert ended.status_code == 422


def test_a_request_that_comes_again_to_the_other_server_has_one_effect(
    one: httpx2.Client, other: httpx2.Client
) -> None:
    create(one, "i")
    answers = [put(client, "i", ADD, **{"Idempotency-Key": "k"}) for client in (one, other, one)]
    assert [answer.json()["version"] for answer in answers] == [2, 2, 2]
    assert [answer.headers.get("idempotency-replayed") for answer in answers] == [None, "true", "true"]
    assert put(other, "i", ADD, ADD, **{"Idempotency-Key": "k"}).status_code == 422


def test_runs_are_found_by_what_the_other_server_wrote(one: httpx2.Client, other: httpx2.Client) -> None:
    for number in range(5):
        create(
            one, f"f{number}", task="found", tags=["even" if number % 2 == 0 else "odd"], metadata={"n": number}
        )

    def ids(query: str) -> list[str]:
        answer = other.get(f"/api/v1/runs?filter[taskIdentifier]=found&{query}")
        assert answer.status_code == 200, answer.text
        return [run["id"] for run in answer.json()["data"]]

    assert ids("filter[tag]=even") == ["f4", "f2", "f0"]
    assert ids("filter[metadata][n][gte]=3") == ["f4", "f3"]
    assert ids("sort=createdAt&page[size]=2") == ["f0", "f1"]
    put(one, "f0", ADD)
    assert ids("sort=-updatedAt&page[size]=1") == ["f0"]


async def test_many_clients_of_both_servers_lose_and_repeat_nothing(
    pair: tuple[PostgresDatabase, Server, Server], one: httpx2.Client
) -> None:
    _, *servers = pair
    create(one, "r")  # What those clients write to.
    acknowledged: dict[str, int] = {}
    keys = [[f"{client}-{n}" for n in range(10)] for client in range(16)]
    await asyncio.gather(
        *(increment(server.port, keys[number::2], acknowledged) for number, server in enumerate(servers))
    )
    assert sorted(acknowledged.values()) == list(range(2, 162))
    again = Connection(servers[0].port)
    status, headers, body = await again.put("1-3")
    await again.close()
    assert (status, headers["idempotency-replayed"], body["version"]) == (200, "true", acknowledged["1-3"])


def test_a_live_reader_of_one_server_sees_what_the_other_one_writes(
    pair: tuple[PostgresDatabase, Server, Server], one: httpx2.Client, other: httpx2.Client
) -> None:
    create(one, "live")
    reader = Reader(f"{pair[1].url}/api/v1/runs/live/metadata/live")
    assert reader.status == 200
    reader.wait_for_id()
    for _ in range(3):
        put(other, "live", ADD)
    while reader.last_id != "4":
        assert reader.next() is not None
    reader.close()


def test_a_held_poll_of_one_server_is_answered_by_a_write_to_the_other(
    pair: tuple[PostgresDatabase, Server, Server], one: httpx2.Client, other: httpx2.Client
) -> None:
    create(one, "poll", metadata={"n": 0})
    first = one.get("/realtime/v1/runs/poll?log=full&offset=-1")
    handle, offset = first.headers["electric-handle"], first.headers["electric-offset"]
    asked = f"/realtime/v1/runs/poll?handle={handle}&log=full&offset={offset}&cursor=1&live=true"
    put(other, "poll", ADD)
    shown = one.get(asked)
    (row,) = [message["value"] for message in shown.json() if "value" in message]
    assert json.loads(row["metadata"]) == {"n": 1}


def test_a_batch_may_be_filled_through_both_servers(one: httpx2.Client, other: httpx2.Client) -> None:
    batch = one.post("/api/v3/batches", json={"runCount": 4, "idempotencyKey": "b"}).json()["id"]
    again = other.post("/api/v3/batches", json={"runCount": 4, "idempotencyKey": "b"}).json()
    assert again["id"] == batch

    def add(client: httpx2.Client, *places: int) -> Any:
        lines = "".join(json.dumps({"index": place, "task": "t"}) + "\n" for place in places)
        kind = {"Content-Type": "application/x-ndjson"}
        return client.post(f"/api/v3/batches/{batch}/items", content=lines.encode(), headers=kind).json()

    assert add(one, 0, 1)["itemsAccepted"] == 2
    found = add(other, 1, 2, 3)
    assert (found["itemsAccepted"], found["itemsDeduplicated"], found["sealed"]) == (2, 1, True)
    assert len(one.get(f"/api/v2/batches/{batch}").json()["runs"]) == 4


HANDLE = """
from ledger import metadata, run

with run("embedded", id="h"):
    for n in range(5):
        metadata.set("step", n)
        metadata.increment("count", 1)
    metadata.flush()
"""


def test_a_program_reports_to_the_database_itself(
    database: PostgresDatabase, one: httpx2.Client, tmp_path: Path
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", HANDLE],
        cwd=tmp_path,
        env=environment(RUN_LEDGER_DATABASE_URL=database.url, RUN_LEDGER_SPOOL_DIR=str(tmp_path / "spool")),
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_S,
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    found = one.get("/api/v1/runs/h/metadata").json()
    assert found["metadata"] == {"step": 4, "count": 5}
    assert one.get("/api/v3/runs/h").json()["status"] == "COMPLETED"


def test_a_key_that_is_revoked_on_one_node_holds_nowhere_any_more(
    postgres_server: Postgres, tmp_path: Path
) -> None:
    with ExitStack() as stack:
        url = stack.enter_context(postgres_server.database())
        variables = {"RUN_LEDGER_SECRET": SECRET, "RUN_LEDGER_DATABASE_URL": url}
        made = run_ledger("keys", "create", "--name", "ci", cwd=tmp_path, variables=variables)
        key = made.stdout.splitlines()[-1]
        servers = [
            stack.enter_context(serving(tmp_path / "unused.db", "--database-url", url, RUN_LEDGER_SECRET=SECRET))
            for _ in range(2)
        ]
        clients = [stack.enter_context(server.client()) for server in servers]
        bearer = {"Authorization": f"Bearer {key}"}
        assert [client.get("/api/v1/runs", headers=bearer).status_code for client in clients] == [200, 200]
        assert [client.get("/api/v1/runs").status_code for client in clients] == [401, 401]
        revoked = run_ledger("keys", "revoke", key.split("_")[2], cwd=tmp_path, variables=variables)
        assert revoked.returncode == 0, revoked.stderr
        assert [client.get("/api/v1/runs", headers=bearer).status_code for client in clients] == [401, 401]
