"""
Figures for Prometheus: how many requests there are, how long they take, and how far the log has come.

Labels are names of this program and of environments, never anything that callers choose freely: each value of a
label is a series that Prometheus keeps.

Several processes on one address count into files of a folder that they share, so any of them answers for all.
"""

import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

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
_durations = Histogram(
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
        self._path = route.path
        self._timers = {method: _durations.labels(method, route.path).observe for method in (route.methods or ())}
        self._counters: dict[tuple[str, int], Counter] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        method = scope["method"]
        started = time.perf_counter()
        status = 500
        try:
            answer = await self._endpoint(Request(scope, receive, send))
            status = getattr(answer, "status_code", 200)
        except Exception as error:
            status = _status_of(error)
            raise
        finally:
            self._timers[method](time.perf_counter() - started)
            counter = self._counters.get((method, status))
            if counter is None:  # Naming it costs more than counting.
                counter = self._counters[method, status] = _requests.labels(method, self._path, status)
            counter.inc()
        await answer(scope, receive, send)


def stream_opened() -> None:
    """One more live stream is open."""
    _streams.inc()


def stream_closed() -> None:
    """One live stream less is open."""
    _streams.dec()


async def get_metrics(request: Request) -> Response:
    """Answer all figures in Prometheus' text format."""
    NO_QUERY.of(request)
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
