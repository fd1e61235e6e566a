"""
Question: what do durable writes and current reads cost over HTTP, next to an endpoint that only parses the body,
and next to the least that a durable write can cost?

Workload: 1, 16 and 64 keep-alive connections, each with one request in flight. A write is a PUT of one
operation, either with a run for each connection or with one hot run for all of them; a read is a GET of one
run's metadata.
Payload: 57 to about 64 bytes of JSON for a write; a read's answer is as long from the no-op as from the product.
Durability: the product's defaults on SQLite (WAL, synchronous=FULL), and the same for the least possible write; an
answer to a write is taken as the promise to keep it.

The no-op, the least possible durable write and the product take turns on one core, and each repetition divides
its own rates, so that a machine that is slower for a while slows all. After every turn of the two that write, each
run's version must have grown by exactly the number of writes acknowledged for it.
"""

import json
import statistics
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
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
class Round:
    """The three servers, measured one right after the other."""

    noop: load.Outcome
    least: load.Outcome
    product: load.Outcome

    @property
    def outcomes(self) -> Mapping[str, load.Outcome]:
        """Each by its name."""
        return {"no-op": self.noop, "least": self.least, "product": self.product}


@dataclass(frozen=True, slots=True)
class Servers:
    """The three servers, all of them running."""

    noop: Server
    least: Server
    product: Server


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
    """Measure every workload at every number of connections, with fresh databases for each workload."""
    for workload in WORKLOADS:
        with (
            tempfile.TemporaryDirectory(prefix="benchmark-", dir=options.directory) as directory,
            started(Path(directory)) as three,
        ):
            for connections in CONNECTIONS:
                yield compare("http", workload, connections, three, options)


@contextmanager
def started(
    directory: Path,
    run_product: Callable[[Path], AbstractContextManager[Server]] = servers.product,
    run_least: Callable[[Path, int], AbstractContextManager[Server]] = servers.least,
) -> Iterator[Servers]:
    """Run the three servers, with all runs made in the two that keep any."""
    with run_product(directory) as product:
        make_runs(product)
        read_answer_bytes = len(product.call("GET", _path(0)))
        with (
            servers.noop(directory, read_answer_bytes) as noop,
            run_least(directory, read_answer_bytes) as least,
        ):
            for run in range(RUNS):
                least.call("PUT", _path(run), _FIRST)
            yield Servers(noop, least, product)


def _put(run: int, body: bytes) -> bytes:
    return (
        b"PUT /api/v1/runs/run-%d/metadata HTTP/1.1\r\nHost: 127.0.0.1\r\n"
        b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (run, len(body), body)
    )


def _path(run: int) -> str:
    return f"/api/v1/runs/run-{run}/metadata"


_FIRST = {"operations": [{"type": "set", "key": "progress", "value": 0}]}


def make_runs(product: Server) -> None:
    """Make the runs that the workloads change and read."""
    for run in range(RUNS):
        product.call("POST", "/api/v1/runs", {"task": "bench", "id": f"run-{run}"})
        product.call("PUT", _path(run), _FIRST)


def compare(benchmark: str, workload: Workload, connections: int, three: Servers, options: Options) -> Case:
    """Measure a workload on each of *three* in turn; *benchmark* is the name the case gets."""
    rounds = []
    problems: list[str] = []
    for repetition in range(1, options.repetitions + 1):
        where = f"repetition {repetition}"
        measured = Round(
            load.measure(_plan(workload, connections, three.noop, options)),
            _counted(workload, connections, three.least, options, f"{where}, least", problems),
            _counted(workload, connections, three.product, options, f"{where}, product", problems),
        )
        rounds.append(measured)
        for name, outcome in measured.outcomes.items():
            problems += load_problems(f"{where}, {name}", outcome)
    return Case(benchmark, workload.name, {"connections": connections, **_figures(rounds)}, tuple(problems))


def _counted(
    workload: Workload, connections: int, server: Server, options: Options, where: str, problems: list[str]
) -> load.Outcome:
    """Measure a server, and add to *problems* if its runs did not grow by what it acknowledged."""
    before = versions(server)
    outcome = load.measure(_plan(workload, connections, server, options))
    problems += _version_problems(where, before + _writes(workload, outcome), versions(server))
    return outcome


def _plan(workload: Workload, connections: int, server: Server, options: Options) -> load.Plan:
    return load.Plan(
        port=server.port,
        requests=workload.requests,
        connections=connections,
        seconds=options.seconds,
        warm_up_s=options.warm_up_s,
        core=cores.for_load(),
    )


def versions(server: Server) -> Counter[str]:
    """Version of every run by its path."""
    paths = map(_path, range(RUNS))
    return Counter({path: json.loads(server.call("GET", path))["version"] for path in paths})


def _writes(workload: Workload, outcome: load.Outcome) -> Counter[str]:
    """Acknowledged writes by the path of their run."""
    writes: Counter[str] = Counter()
    if workload.written is not None:
        for connection, acknowledged in enumerate(outcome.acknowledged):
            writes[_path(workload.written(connection))] += acknowledged
    return writes


def load_problems(where: str, outcome: load.Outcome) -> Iterator[str]:
    """Why an outcome must not be believed, in words that begin with *where*."""
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


def _figures(rounds: Sequence[Round]) -> dict[str, float]:
    """Medians over the repetitions; nothing if one of them measured nothing, which its problems explain."""
    if not all(outcome.requests_per_s for each in rounds for outcome in each.outcomes.values()):
        return {}
    ratios = [each.product.requests_per_s / each.noop.requests_per_s for each in rounds]
    of_least = [each.product.requests_per_s / each.least.requests_per_s for each in rounds]
    return {
        "noop_per_s": _median(each.noop.requests_per_s for each in rounds),
        "least_per_s": _median(each.least.requests_per_s for each in rounds),
        "product_per_s": _median(each.product.requests_per_s for each in rounds),
        "ratio": _median(ratios),
        "ratio_min": round(min(ratios), 3),
        "ratio_max": round(max(ratios), 3),
        "least_ratio": _median(each.least.requests_per_s / each.noop.requests_per_s for each in rounds),
        "of_least": _median(of_least),
        "of_least_min": round(min(of_least), 3),
        "of_least_max": round(max(of_least), 3),
        "least_p99_ms": _median(each.least.p99_ms for each in rounds),
        "product_p50_ms": _median(each.product.p50_ms for each in rounds),
        "product_p99_ms": _median(each.product.p99_ms for each in rounds),
        "p99_of_least": _median(each.product.p99_ms / each.least.p99_ms for each in rounds),
        "load_cpu_share": round(max(each.noop.cpu_share for each in rounds), 3),
    }


def _median(values: Iterable[float]) -> float:
    return round(statistics.median(values), 3)
