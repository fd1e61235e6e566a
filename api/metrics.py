"""
Figures for Prometheus: how many requests there are, how long they take, and how far the log has come.

Labels are names of this program and of environments, never anything that callers choose freely: each value of a
label is a series that Prometheus keeps.

Several processes on one address count into files of a folder that they share, so any of them answers for all.
"""

import asyncio
import os
import tempfile
import time
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from api.failures import BEGUN
from api.parameters import NO_QUERY
from api.problems import problem_of
from api.requests import log_of
from api.scopes import Endpoint

_FOLDER = "PROMETHEUS_MULTIPROC_DIR"  # The name under which prometheus_client looks for it.
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)

disable_created_metrics()  # type: ignore[no-untyped-call] # When a series began says nothing that anybody asks.

_registry = CollectorRegistry()
_requests = Counter(
    "run_ledger_requests", "Requests, by their outcome.", ("method", "route", "status"), registry=_registry
)


class _Seconds(Histogram):
    """A histogram that takes many observations at once."""

    def add(self, counts: Sequence[int], seconds: float) -> None:
        """Take observations of so many *seconds* in all, given how many fall into each bucket."""
        self._sum.inc(seconds)
        for bucket, count in zip(self._buckets, counts, strict=True):
            if count:
                bucket.inc(count)


_durations = _Seconds(
    "run_ledger_request_seconds",
    "Time until the answer to a request is known; of a live stream, until it begins.",
    ("method", "route"),
    buckets=_SECONDS,
    registry=_registry,
)
_streams = Gauge(
    "run_ledger_live_streams",
    "Live streams that are open.",
    registry=_registry,
    multiprocess_mode="livesum",
)


def counted(route: Route) -> Route:
    """The route, with its requests counted and timed."""
    return Route(route.path, _Counted(route), methods=[*(route.methods or ())], name=route.name)


class _Counted:
    """
    What answers a route. An application rather than a function: Starlette would wrap that once more, to handle the
    errors that it handles for the whole application as well.
    """

    def __init__(self, route: Route) -> None:
        self._endpoint: Endpoint = route.endpoint
        self._tallies = {method: _Tally(method, route.path) for method in (route.methods or ())}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        started = time.perf_counter()
        status = 500
        try:
            answer = await self._endpoint(Request(scope, receive, send))
            status = getattr(answer, "status_code", 200)
        except Exception as error:
            status = _status_of(error)
            raise
        finally:
            self._tallies[scope["method"]].take(status, time.perf_counter() - started)
        scope[BEGUN] = True
        await answer(scope, receive, send)


class _Tally:
    """
    The requests of a method and route that no figure holds yet.

    Each figure is guarded by a lock, and in several processes by a file. So all requests of one turn of the event
    loop are handed on together, after their answers.
    """

    def __init__(self, method: str, path: str) -> None:
        self._labels = method, path
        self._durations: _Seconds = _durations.labels(method, path)
        self._requests: dict[int, Counter] = {}
        self._statuses: dict[int, int] = {}
        self._counts = [0] * (len(_SECONDS) + 1)
        self._seconds = 0.0

    def take(self, status: int, seconds: float) -> None:
        """Count a request."""
        statuses = self._statuses
        if not statuses:
            _untold.append(self)
            asyncio.get_running_loop().call_soon(_tell)
        statuses[status] = statuses.get(status, 0) + 1
        self._counts[bisect_left(_SECONDS, seconds)] += 1
        self._seconds += seconds

    def tell(self) -> None:
        """Hand on what was counted."""
        for status, count in self._statuses.items():
            if status not in self._requests:
                self._requests[status] = _requests.labels(*self._labels, status)
            self._requests[status].inc(count)
        self._durations.add(self._counts, self._seconds)
        self._statuses.clear()
        self._counts = [0] * len(self._counts)
        self._seconds = 0.0


_untold: list[_Tally] = []


def _tell() -> None:
    while _untold:
        _untold.pop().tell()


def stream_opened() -> None:
    """One more live stream is open."""
    _streams.inc()


def stream_closed() -> None:
    """One live stream less is open."""
    _streams.dec()


async def get_metrics(request: Request) -> Response:
    """Answer all figures in Prometheus' text format."""
    NO_QUERY.of(request)
    _tell()
    registry = _registry
    if _FOLDER in os.environ:
        registry = CollectorRegistry()
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    log = log_of(request)
    # Nothing that a process counts: it is the same whoever is asked.
    position = (
        "# HELP run_ledger_log_position Position of the last event of the log.\n"
        "# TYPE run_ledger_log_position gauge\n"
        f'run_ledger_log_position{{environment="{log.environment}"}} {(await log.end()).position}\n'
    )
    return Response(generate_latest(registry) + position.encode(), media_type=CONTENT_TYPE_LATEST)


@contextmanager
def shared_by_processes() -> Iterator[None]:
    """Let the processes that are started meanwhile count together."""
    with tempfile.TemporaryDirectory(prefix="run-ledger-metrics-") as folder:
        os.environ[_FOLDER] = folder
        try:
            yield
        finally:
            del os.environ[_FOLDER]


def forget_process(pid: int) -> None:
    """A process that counted has ended: what it had open is open no more."""
    mark_process_dead(pid)  # type: ignore[no-untyped-call]


def _status_of(error: Exception) -> int:
    try:
        return problem_of(error).status
    except StopIteration:  # Nothing that was foreseen.
        return 500
