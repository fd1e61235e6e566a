"""No space left: what the server says, what it keeps, and how it comes back."""

import resource
from pathlib import Path

import httpx2

from tests.api.server import Server
from tests.api.service import contents, problem


def limit_files(server: Server, size: int) -> None:
    """From now on no file of the server may grow past *size*: a full disk, for it alone."""
    _, hard = resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (size, hard))


def wal(server: Server) -> Path:
    return server.path.with_name(server.path.name + "-wal")


def put(http: httpx2.Client, number: int) -> httpx2.Response:
    body = {"operations": [{"type": "set", "key": "a", "value": [number, "x" * 3_000]}]}
    return http.put("/api/v1/runs/r/metadata", json=body, headers={"Idempotency-Key": str(number)})


def test_a_full_disk_refuses_writes_serves_reads_and_comes_back_by_itself(server: Server) -> None:
    with server.client() as http:
        http.post("/api/v1/runs", json={"id": "r", "task": "t"})
        assert put(http, 0).status_code == 200
        limit_files(server, wal(server).stat().st_size + 10_000)

        accepted = 1
        while (response := put(http, accepted)).status_code == 200:
            accepted += 1
            assert accepted < 1_000, "the limit has no effect"
        refused = problem(response, 507)
        assert refused["code"] == "storage-full"
        assert refused["detail"].startswith("there is no space left to store this change (")
        assert "nothing was written" in refused["detail"]
        assert response.headers["retry-after"] == "5"

        state = http.get("/api/v1/runs/r/metadata").json()
        assert state["metadata"]["a"][0] == accepted - 1
        before = contents(server.path)
        for number in range(accepted, accepted + 20):
            assert put(http, number).status_code == 507
            assert http.post("/api/v1/runs", json={"task": "t", "payload": "x" * 100_000}).status_code == 507
            for path in (
                "/api/v1/runs/r/metadata",
                "/api/v1/runs/r/metadata?version=1",
                "/api/v1/runs/r/metadata/history?limit=1000",
                "/api/v3/runs/r",
                "/api/v1/runs",
                "/healthz",
                "/readyz",
            ):
                assert http.get(path).status_code == 200, path
        assert http.get("/api/v1/runs/r/metadata").json() == state
        assert contents(server.path) == before

        limit_files(server, resource.RLIM_INFINITY)
        response = put(http, accepted)
        assert (response.status_code, response.headers.get("idempotency-replayed")) == (200, None)
        assert response.json()["version"] == state["version"] + 1
        numbers = [
            event["value"][0]
            for event in http.get("/api/v1/runs/r/metadata/history?limit=1000&after=1").json()["data"]
        ]
        assert numbers == list(range(accepted + 1))
    assert server.errors().count("requests are refused: there is no space left to store this change") == 1


def test_what_was_acknowledged_on_a_nearly_full_disk_outlives_a_kill(server: Server) -> None:
    with server.client() as http:
        http.post("/api/v1/runs", json={"id": "r", "task": "t"})
        limit_files(server, wal(server).stat().st_size + 50_000)
        last = -1
        while put(http, last + 1).status_code == 200:
            last += 1
        assert last >= 0
    server.kill()
    again = Server(server.path)
    try:
        with again.client() as http:
            assert http.get("/api/v1/runs/r/metadata").json()["metadata"]["a"][0] == last
            assert put(http, last + 1).status_code == 200
    finally:
        again.close()
