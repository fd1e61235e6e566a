"""
Question: what does one hot run cost, next to a row that is read, changed and written back if nobody was faster?

Workload: 64 keep-alive connections, all of them incrementing a counter of one run. The row's server (`swaps.py`)
tries four times and then gives up, as the Trigger.dev reference implementation does; once with that server's waits
between the tries (100, 140 and 196 ms), once without any. Its rate counts what was stored, not what was given up.
Durability: one transaction a change on the peer's side (nothing else can be done with a row that is compared
first); SQLite with WAL and synchronous=FULL, PostgreSQL with its defaults.

A case is invalid if the row's version, or the run's, did not grow by exactly what was stored.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks import cores, http, load, servers
from benchmarks.options import Options
from benchmarks.peers.postgres import Postgres
from benchmarks.peers.rates import Rate, compare, of_load
from benchmarks.report import Case
from benchmarks.servers import Server

CONNECTIONS = 64
WAITS_MS = {"after 100, 140 and 196 ms": 100.0, "at once": 0.0}


class Peer:
    """A server that compares and swaps, and what it gave up so far."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._given_up = 0
        self._asked = 0

    @property
    def given_up_share(self) -> float:
        """Requests given up, as a share of all."""
        return round(self._given_up / max(1, self._asked), 4)

    def measure(self, options: Options) -> Rate:
        """How often a second an increment is stored."""
        before = self._counts()
        outcome = load.measure(plan(self._server, options))
        after = self._counts()
        rate = of_load("compare and swap", outcome)
        grown = {name: after[name] - before[name] for name in after}
        acknowledged = sum(outcome.acknowledged)
        problems = list(rate.problems)
        if grown["stored"] + grown["given_up"] != acknowledged or grown["version"] != grown["stored"]:
            problems.append(f"compare and swap: {acknowledged} were acknowledged, but {grown}")
        self._asked += acknowledged
        self._given_up += grown["given_up"]
        share = grown["stored"] / max(1, acknowledged)
        return Rate(rate.per_s * share, rate.p50_ms, rate.p99_ms, tuple(problems))

    def _counts(self) -> dict[str, int]:
        counts: dict[str, int] = json.loads(self._server.call("GET", "/counts"))
        return counts


def main(options: Options, folder: Path, postgres: Postgres) -> Iterator[Case]:
    """Measure both engines with and without waits."""
    with servers.product(folder) as product:
        http.make_runs(product)
        for number, (wait, wait_ms) in enumerate(WAITS_MS.items()):
            targets = {
                "SQLite": str(folder / f"swaps-{number}.db"),
                "PostgreSQL": postgres.add(f"swaps{number}").uri,
            }
            for engine, target in targets.items():
                with swaps(folder, target, wait_ms) as server:
                    yield _case(
                        f"compare and swap on {engine}, tried again {wait}", Peer(server), product, options
                    )


@contextmanager
def swaps(folder: Path, target: str, wait_ms: float) -> Iterator[Server]:
    """Run `benchmarks.peers.swaps` on a database."""
    command = ["-m", "benchmarks.peers.swaps", "--database", target, "--wait-ms", str(wait_ms), "--run", "run-0"]
    with servers.running(command, folder / "swaps.log") as server:
        yield server


def _case(name: str, peer: Peer, product: Server, options: Options) -> Case:
    about: dict[str, float | int | str] = {"callers": CONNECTIONS, "product_on": "SQLite"}
    case = compare(name, lambda: peer.measure(options), lambda: _product_turn(product, options), options, about)
    figures = {**case.figures, "peer_given_up": peer.given_up_share}
    return Case(case.benchmark, case.name, figures, case.problems)


def _product_turn(product: Server, options: Options) -> Rate:
    before = http.versions(product)
    outcome = load.measure(plan(product, options))
    rate = of_load("product", outcome)
    grown, acknowledged = (http.versions(product) - before).total(), sum(outcome.acknowledged)
    problems = list(rate.problems)
    if grown != acknowledged:
        problems.append(f"product: the run grew by {grown} versions, {acknowledged} were acknowledged")
    return Rate(rate.per_s, rate.p50_ms, rate.p99_ms, tuple(problems))


def plan(server: Server, options: Options) -> load.Plan:
    """64 connections that increment a counter of one run."""
    return load.Plan(
        port=server.port,
        requests=http.increment_hot_run,
        connections=CONNECTIONS,
        seconds=options.seconds,
        warm_up_s=options.warm_up_s,
        core=cores.for_load(),
    )
