"""
Question: what do writes and reads of a run cost over HTTP, next to the tracking server of MLflow?

Workload: 16 keep-alive connections, a run for each. Set a tag (here: set a key); get a run with its tags (here:
the current metadata); from 4 connections, a page of 1,000 rows of a metric's history: value, step and time (here
once a page of 1,000 events of the feed, each with value, actor and time, and once a page of a run's history, which
holds the values before and after each event and the size besides).
Durability: one SQLite file each. MLflow leaves SQLite's settings as they are; its file is switched to WAL
beforehand, which is faster than its default and makes both alike: WAL with synchronous=FULL.
Settings: one uvicorn worker each, no access log, and MLflow's executor of jobs is off.
"""

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

from benchmarks import cores, http, load, servers
from benchmarks.options import Options
from benchmarks.peers.rates import Rate, compare, of_load
from benchmarks.report import Case
from benchmarks.servers import Server

CONNECTIONS = 16
READERS_OF_HISTORY = 4
ROWS = 1_000
TURN_TIMES = 4  # as long as other turns, since the peer answers some twenty requests a second
START_S_MAX = 180.0  # seconds; it imports much, and makes its tables first
API = "/api/2.0/mlflow"


@dataclass(frozen=True, slots=True)
class Question:
    """
    What is asked of both sides.

    Attributes:
        name: As a sentence.
        connections: Connections to each.
        peer: Requests to MLflow.
        product: Requests to the product.
        writes: Whether the product's runs grow by them.
    """

    name: str
    connections: int
    peer: load.Requests
    product: load.Requests
    writes: bool = False


@dataclass(frozen=True, slots=True)
class SetTag:
    """Set a tag of the connection's own run."""

    runs: tuple[str, ...]

    def __call__(self, connection: int, n: int) -> bytes:
        """Make request *n*."""
        body = b'{"run_id":"%b","key":"progress","value":"%d"}' % (self.runs[connection].encode(), n)
        return _post(f"{API}/runs/set-tag", body)


@dataclass(frozen=True, slots=True)
class Get:
    """Get something of the connection's own run, whose id stands where the path has braces."""

    path: str
    runs: tuple[str, ...]

    def __call__(self, connection: int, n: int) -> bytes:  # noqa: ARG002 - All of a connection are the same.
        """Make request *n*."""
        path = self.path.format(self.runs[connection])
        return f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode()


def main(options: Options, folder: Path) -> Iterator[Case]:
    """Measure both servers on one core, one after the other."""
    options = replace(options, seconds=options.seconds * TURN_TIMES)
    with tracking(folder) as peer, servers.product(folder) as product:
        runs = _make_peer_runs(peer)
        http.make_runs(product)
        _make_history(product)
        for question in _questions(runs):
            yield compare(
                f"MLflow {version('mlflow')}: {question.name}",
                lambda question=question: _peer_turn(peer, question, options),  # type: ignore[misc]
                lambda question=question: _product_turn(product, question, options),  # type: ignore[misc]
                options,
                {"callers": question.connections, "product_on": "SQLite"},
            )


@contextmanager
def tracking(folder: Path) -> Iterator[Server]:
    """Run MLflow's tracking server with its database in *folder*."""
    database = folder / "mlflow.db"
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")  # Stays with the file.
    command = [
        *("-m", "mlflow", "server", "--host", "127.0.0.1", "--port", "0", "--workers", "1"),
        *("--backend-store-uri", f"sqlite:///{database}", "--default-artifact-root", str(folder / "artifacts")),
        *("--uvicorn-opts", "--no-access-log"),
    ]
    quiet = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    with servers.running(command, folder / "mlflow.log", quiet, START_S_MAX) as server:
        yield server


def _questions(theirs: tuple[str, ...]) -> Iterator[Question]:
    yield Question("set a tag", CONNECTIONS, SetTag(theirs), http.set_own_run, writes=True)
    yield Question("get a run", CONNECTIONS, Get(f"{API}/runs/get?run_id={{}}", theirs), http.read_own_run)
    metric = f"{API}/metrics/get-history?run_id={{}}&metric_key=loss&max_results={ROWS}"
    pages = {
        "events": f"/api/v1/events?run={{}}&limit={ROWS}",
        "events with the values around them": f"/api/v1/runs/{{}}/metadata/history?limit={ROWS}",
    }
    for what, path in pages.items():
        yield Question(
            f"1,000 rows of history, here {what}",
            READERS_OF_HISTORY,
            Get(metric, theirs[:1] * CONNECTIONS),
            Get(path, ("history",) * CONNECTIONS),
        )


def _make_peer_runs(peer: Server) -> tuple[str, ...]:
    """Make the runs; the first of them has the metric."""
    runs = []
    for _ in range(CONNECTIONS):
        made = json.loads(peer.call("POST", f"{API}/runs/create", {"experiment_id": "0", "start_time": 1}))
        runs.append(made["run"]["info"]["run_id"])
    metrics = [{"key": "loss", "value": row / ROWS, "timestamp": row, "step": row} for row in range(ROWS)]
    peer.call("POST", f"{API}/runs/log-batch", {"run_id": runs[0], "metrics": metrics})
    path = f"{API}/metrics/get-history?run_id={runs[0]}&metric_key=loss&max_results={ROWS}"
    assert len(json.loads(peer.call("GET", path))["metrics"]) == ROWS
    return tuple(runs)


def _make_history(product: Server) -> None:
    product.call("POST", "/api/v1/runs", {"task": "bench", "id": "history"})
    operations = [{"type": "set", "key": "loss", "value": row / ROWS} for row in range(ROWS)]
    product.call("PUT", "/api/v1/runs/history/metadata", {"operations": operations})
    for path in ("/api/v1/events?run=history&", "/api/v1/runs/history/metadata/history?"):
        assert len(json.loads(product.call("GET", f"{path}limit={ROWS}"))["data"]) == ROWS


def _peer_turn(peer: Server, question: Question, options: Options) -> Rate:
    return of_load("MLflow", load.measure(_plan(peer, question.peer, question.connections, options)))


def _product_turn(product: Server, question: Question, options: Options) -> Rate:
    before = http.versions(product)
    outcome = load.measure(_plan(product, question.product, question.connections, options))
    rate = of_load("product", outcome)
    grown = (http.versions(product) - before).total()
    if grown != (sum(outcome.acknowledged) if question.writes else 0):
        problem = f"product: the runs grew by {grown} versions, {sum(outcome.acknowledged)} were acknowledged"
        return Rate(rate.per_s, rate.p50_ms, rate.p99_ms, (*rate.problems, problem))
    return rate


def _plan(server: Server, requests: load.Requests, connections: int, options: Options) -> load.Plan:
    return load.Plan(
        port=server.port,
        requests=requests,
        connections=connections,
        seconds=options.seconds,
        warm_up_s=options.warm_up_s,
        core=cores.for_load(),
    )


def _post(path: str, body: bytes) -> bytes:
    head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
    return head.encode() + b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
