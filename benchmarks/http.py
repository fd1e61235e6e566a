"""
Question: what do durable writes and current reads cost over HTTP, next to an endpoint that only parses the body?

Workload: 1, 16 and 64 keep-alive connections, each with one request in flight. A write is a PUT of one
operation, either with a run for each connection or with one hot run for all of them; a read is a GET of one
run's metadata.
Payload: 57 to about 64 bytes of JSON for a write; a read's answer is as long from the no-op as from the product.
Durability: the product's defaults on SQLite (WAL, synchronous=FULL); its answer to a write is taken as the
promise to keep it.

The no-op and the product take turns on one core, and each repetition divides its own two rates, so that a
machine that is slower for a while slows both. After every turn of the product, each run's version must have
grown by exactly the number of writes acknowledged for it.
"""

import json
import statistics
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks import cores, load, servers
from benchmarks.options import Options
from benchmarks.report import Case
from benchmarks.servers import Server

CONNECTIONS = (1, 16, 64)
RUNS = 64
assert max(CONNECTIONS) <= RUNS

LOAD_CPU_SHARE_MAX = 0.9  # of a second per second; above it the load generator may be what was measured


@dataclass(frozen=True, slots=True)
class Workload:
    """
    What every connection of a case does.

    Attributes:
        name: The workload as a sentence.
        requests: Its requests.
        written: Number of the run that a connection writes to, None if it only reads.
    """

    name: str
    requests: load.Requests
    written: Callable[[int], int] | None


@dataclass(frozen=True, slots=True)
class Pair:
    """The no-op and the product, measured one right after the other."""

    noop: load.Outcome
    product: load.Outcome

    @property
    def ratio(self) -> float:
        """The product's requests per second as a share of the no-op's."""
        return self.product.requests_per_s / self.noop.requests_per_s


def set_own_run(connection: int, n: int) -> bytes:
    """Set the progress of the connection's own run."""
    return _put(connection, b'{"operations":[{"type":"set","key":"progress","value":%d}]}' % n)


def increment_hot_run(connection: int, n: int) -> bytes:  # noqa: ARG001 - All connections send the same bytes.
    """Increment a counter of the run that all connections share."""
    return _put(0, b'{"operations":[{"type":"increment","key":"n","value":1}]}')


def read_own_run(connection: int, n: int) -> bytes:  # noqa: ARG001 - All requests of a connection are the same.
    """Read the metadata of the connection's own run."""
    return b"GET /api/v1/runs/run-%d/metadata HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n" % connection


WORKLOADS = (
    Workload("durable writes, a run for each connection", set_own_run, lambda connection: connection),
    Workload("durable writes, one hot run", increment_hot_run, lambda _: 0),
    Workload("current reads", read_own_run, None),
)


def main(options: Options) -> Iterator[Case]:
    """Measure every workload at every number of connections, with a fresh database for each workload."""
    for workload in WORKLOADS:
        with (
            tempfile.TemporaryDirectory(prefix="benchmark-", dir=options.directory) as directory,
            servers.product(Path(directory)) as product,
        ):
            _make_runs(product)
            read_answer_bytes = len(product.call("GET", _path(0)))
            with servers.noop(Path(directory), read_answer_bytes) as noop:
                for connections in CONNECTIONS:
                    yield _compare(workload, connections, noop, product, options)


def _put(run: int, body: bytes) -> bytes:
    return (
        b"PUT /api/v1/runs/run-%d/metadata HTTP/1.1\r\nHost: 127.0.0.1\r\n"
        b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (run, len(body), body)
    )


def _path(run: int) -> str:
    return f"/api/v1/runs/run-{run}/metadata"


def _make_runs(product: Server) -> None:
    for run in range(RUNS):
        product.call("POST", "/api/v1/runs", {"task": "bench", "id": f"run-{run}"})
        operation = {"type": "set", "key": "progress", "value": 0}
        product.call("PUT", _path(run), {"operations": [operation]})


def _compare(workload: Workload, connections: int, noop: Server, product: Server, options: Options) -> Case:
    pairs = []
    problems = []
    for repetition in range(1, options.repetitions + 1):
        of_noop = load.measure(_plan(workload, connections, noop, options))
        before = _versions(product)
        of_product = load.measure(_plan(workload, connections, product, options))
        pairs.append(Pair(of_noop, of_product))
        expected = before + _writes(workload, of_product)
        problems += [
            *_load_problems(f"repetition {repetition}, no-op", of_noop),
            *_load_problems(f"repetition {repetition}, product", of_product),
            *_version_problems(f"repetition {repetition}", expected, _versions(product)),
        ]
    return Case("http", workload.name, {"connections": connections, **_figures(pairs)}, tuple(problems))


def _plan(workload: Workload, connections: int, server: Server, options: Options) -> load.Plan:
    return load.Plan(
        port=server.port,
        requests=workload.requests,
        connections=connections,
        seconds=options.seconds,
        warm_up_s=options.warm_up_s,
        core=cores.for_load(),
    )


def _versions(product: Server) -> Counter[str]:
    """Version of every run by its path."""
    paths = map(_path, range(RUNS))
    return Counter({path: json.loads(product.call("GET", path))["version"] for path in paths})


def _writes(workload: Workload, outcome: load.Outcome) -> Counter[str]:
    """Acknowledged writes by the path of their run."""
    writes: Counter[str] = Counter()
    if workload.written is not None:
        for connection, acknowledged in enumerate(outcome.acknowledged):
            writes[_path(workload.written(connection))] += acknowledged
    return writes


def _load_problems(where: str, outcome: load.Outcome) -> Iterator[str]:
    if not outcome.valid:
        yield f"{where}: {', '.join(f'{error} x {times}' for error, times in outcome.errors.items())}"
    if outcome.cpu_share > LOAD_CPU_SHARE_MAX:
        yield f"{where}: the load generator was busy for {outcome.cpu_share:.0%} of the time"


def _version_problems(where: str, expected: Counter[str], found: Counter[str]) -> Iterator[str]:
    wrong = [path for path in expected if found[path] != expected[path]]
    if wrong:
        first = wrong[0]
        yield (
            f"{where}: {len(wrong)} runs are not at their old version plus the acknowledged writes,"
            f" {first} at {found[first]} instead of {expected[first]}"
        )


def _figures(pairs: Sequence[Pair]) -> dict[str, float]:
    """Medians over the repetitions; nothing if one of them measured nothing, which its problems explain."""
    if not all(pair.noop.requests_per_s and pair.product.requests_per_s for pair in pairs):
        return {}
    ratios = [pair.ratio for pair in pairs]
    return {
        "noop_per_s": _median(pair.noop.requests_per_s for pair in pairs),
        "product_per_s": _median(pair.product.requests_per_s for pair in pairs),
        "ratio": _median(ratios),
        "ratio_min": round(min(ratios), 3),
        "ratio_max": round(max(ratios), 3),
        "noop_p50_ms": _median(pair.noop.p50_ms for pair in pairs),
        "noop_p99_ms": _median(pair.noop.p99_ms for pair in pairs),
        "product_p50_ms": _median(pair.product.p50_ms for pair in pairs),
        "product_p99_ms": _median(pair.product.p99_ms for pair in pairs),
        "load_cpu_share": round(max(pair.noop.cpu_share for pair in pairs), 3),
    }


def _median(values: Iterable[float]) -> float:
    return round(statistics.median(values), 3)
