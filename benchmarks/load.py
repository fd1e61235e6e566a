"""
HTTP load from one core: keep-alive connections that each send a request, wait for the whole answer, and repeat.

The loop is closed: a slow server is asked less often, so latencies are those of so many patient clients and not
of arrivals at a fixed rate. The parser reads the status and Content-Length and nothing else, because whatever
the generator spends per answer lowers the rate at which it can still saturate a server.
"""

import asyncio
import gc
import math
import multiprocessing
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import cast

import uvloop

from benchmarks import cores

Requests = Callable[[int, int], bytes]
"""Make the bytes of request *n*, from 0, of a connection, from 0; a module-level function, so that it pickles."""

DRAIN_S_MAX = 10.0  # seconds allowed for the answers still owed when the measured time is over


@dataclass(frozen=True, slots=True)
class Plan:
    """
    One measurement.

    Attributes:
        port: TCP port of the server.
        requests: What each connection sends.
        connections: Open connections, one request in flight on each.
        seconds: Measured time, after the warm-up.
        warm_up_s: Seconds of load before that; their answers count as acknowledged but not as measured.
        core: The core the load runs on.
        host: Address of the server.
    """

    port: int
    requests: Requests
    connections: int
    seconds: float
    warm_up_s: float
    core: int
    host: str = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class Outcome:
    """
    What one measurement saw.

    Attributes:
        requests_per_s: 2xx answers completed in the measured time, per second; 0 if there were none.
        p50_ms: Median latency of those answers in milliseconds; so for p95_ms and p99_ms.
        acknowledged: All 2xx answers of each connection, from the first of the warm-up to the last of the drain.
        errors: Times each thing went wrong, by HTTP status or by what happened to the connection.
        cpu_share: Processor time of the generator per second; near 1.0 the generator is what was measured.
    """

    requests_per_s: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    acknowledged: tuple[int, ...]
    errors: dict[str, int]
    cpu_share: float

    @property
    def valid(self) -> bool:
        """Whether every request got a 2xx answer and at least one was measured."""
        return not self.errors


def measure(plan: Plan) -> Outcome:
    """Carry out *plan* in a process of its own, pinned to the core of the plan."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(max_workers=1, mp_context=context) as pool:
        return pool.submit(_measure_here, plan).result()


@dataclass(slots=True)
class _Tally:
    """What all connections of a measurement write to; times are seconds of `time.perf_counter`."""

    measured_from: float = math.inf
    stop_at: float = math.inf
    latencies_s: list[float] = field(default_factory=list)
    errors: Counter[str] = field(default_factory=Counter)


class _Connection(asyncio.Protocol):
    """One keep-alive connection with one request in flight."""

    __slots__ = (
        "_partial",
        "_requests",
        "_sent",
        "_sent_at",
        "_tally",
        "_transport",
        "acknowledged",
        "done",
        "number",
    )

    def __init__(self, number: int, requests: Requests, tally: _Tally) -> None:
        self.number = number
        self._requests = requests
        self._tally = tally
        self._sent = 0
        self._sent_at = 0.0
        self._partial = b""
        self._transport: asyncio.Transport
        self.acknowledged = 0
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transport has the methods of asyncio.Transport but is not derived from it.
        self._transport = cast("asyncio.Transport", transport)

    def send(self) -> None:
        """Send the next request."""
        request = self._requests(self.number, self._sent)
        self._sent += 1
        self._sent_at = time.perf_counter()
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        now = time.perf_counter()
        if self._partial:
            data = self._partial + data
        try:
            size = answer_bytes(data)
        except ValueError:
            self.fail("unreadable answer")
            return
        if size is None or len(data) < size:
            self._partial = data
        elif len(data) > size:
            self.fail("unreadable answer")
        else:
            self._partial = b""
            self._answered(data[9:12], now)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - Any loss counts.
        if not self.done.done():
            self.fail("connection lost")

    def fail(self, error: str) -> None:
        """Count *error* and send no more."""
        self._tally.errors[error] += 1
        self._finish()

    def _answered(self, status: bytes, now: float) -> None:
        tally = self._tally
        if not status.startswith(b"2"):
            tally.errors[status.decode("latin-1")] += 1
        else:
            self.acknowledged += 1
            if tally.measured_from <= now < tally.stop_at:
                tally.latencies_s.append(now - self._sent_at)
        if now < tally.stop_at:
            self.send()
        else:
            self._finish()

    def _finish(self) -> None:
        self.done.set_result(None)
        self._transport.close()


def answer_bytes(data: bytes) -> int | None:
    """
    Bytes of the whole HTTP/1.1 answer at the start of *data*, None while its head is incomplete.

    Raises:
        ValueError: The answer has no Content-Length (it may be chunked) and is not a 204.
    """
    head_bytes = data.find(b"\r\n\r\n") + 4
    if head_bytes < 4:
        return None
    head = data[:head_bytes].lower()
    at = head.find(b"\r\ncontent-length:")
    if at >= 0:
        return head_bytes + int(head[at + 17 : head.index(b"\r\n", at + 17)])
    if head[9:12] == b"204":
        return head_bytes
    raise ValueError(f"no Content-Length in {data!r}")


def _measure_here(plan: Plan) -> Outcome:
    gc.disable()  # Nothing here makes cycles, and a collection would show as latency of the server.
    with cores.pinned(plan.core):
        return uvloop.run(_drive(plan))


async def _drive(plan: Plan) -> Outcome:
    tally = _Tally()
    connections = await _connect(plan, tally)
    started = time.perf_counter()
    cpu_before = time.process_time()
    tally.measured_from = started + plan.warm_up_s
    tally.stop_at = tally.measured_from + plan.seconds
    for connection in connections:
        connection.send()
    await _finish(connections, plan.warm_up_s + plan.seconds + DRAIN_S_MAX)
    cpu_share = (time.process_time() - cpu_before) / (time.perf_counter() - started)
    acknowledged = {connection.number: connection.acknowledged for connection in connections}
    return _outcome(plan, tally, tuple(acknowledged.get(n, 0) for n in range(plan.connections)), cpu_share)


async def _connect(plan: Plan, tally: _Tally) -> list[_Connection]:
    loop = asyncio.get_running_loop()
    connections = []
    for number in range(plan.connections):
        make = partial(_Connection, number, plan.requests, tally)
        try:
            _, connection = await loop.create_connection(make, plan.host, plan.port)
        except OSError:
            tally.errors["not connected"] += 1
        else:
            connections.append(connection)
    return connections


async def _finish(connections: list[_Connection], timeout_s: float) -> None:
    if connections:
        await asyncio.wait([connection.done for connection in connections], timeout=timeout_s)
    for connection in connections:
        if not connection.done.done():
            connection.fail("no answer")


def _outcome(plan: Plan, tally: _Tally, acknowledged: tuple[int, ...], cpu_share: float) -> Outcome:
    latencies_s = sorted(tally.latencies_s)
    if not latencies_s:
        tally.errors["nothing measured"] += 1
    return Outcome(
        requests_per_s=len(latencies_s) / plan.seconds,
        p50_ms=_percentile_ms(latencies_s, 0.50),
        p95_ms=_percentile_ms(latencies_s, 0.95),
        p99_ms=_percentile_ms(latencies_s, 0.99),
        acknowledged=acknowledged,
        errors=dict(tally.errors),
        cpu_share=cpu_share,
    )


def _percentile_ms(sorted_s: list[float], share: float) -> float:
    """Nearest-rank percentile in milliseconds; 0 of nothing."""
    return sorted_s[math.ceil(share * len(sorted_s)) - 1] * 1_000 if sorted_s else 0.0
