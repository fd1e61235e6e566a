"""The application: which handler answers which route."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.routing import Route

from api import contract, events, health, history, live, metadata, progress, proof, runs
from api.access import Access, Owner
from api.problems import HANDLERS
from api.scopes import guarded
from api.streams import StreamLimits, Streams
from ledger.ledger import Ledger
from ledger.log import Log
from ledger.settings import RATE_LIMIT_DEFAULT

# The most asked for come first: routes are tried in order.
ROUTES = (
    Route("/api/v1/runs/{run_id}/metadata", metadata.metadata, methods=["GET", "PUT"]),
    Route("/api/v1/runs/{run_id}/metadata/history", history.get_history, methods=["GET"]),
    Route("/api/v1/runs/{run_id}/metadata/live", live.run_live, methods=["GET"]),
    Route("/api/v1/runs/{run_id}/metadata/progress", progress.get_progress, methods=["GET"]),
    Route("/api/v1/runs/{run_id}/metadata/diff", history.get_diff, methods=["GET"]),
    Route("/api/v1/runs/{run_id}/metadata/explain", history.get_explanation, methods=["GET"]),
    Route("/api/v1/runs/{run_id}/metadata/erase", proof.erase, methods=["POST"]),
    Route("/api/v1/runs/{run_id}/status", runs.set_status, methods=["POST"]),
    Route("/api/v1/tasks/{task:path}/trigger", runs.trigger, methods=["POST"]),
    Route("/api/v1/runs", runs.create, methods=["POST"]),
    Route("/api/v1/runs", runs.list_runs, methods=["GET"]),
    Route("/api/v3/runs/{run_id}", runs.retrieve, methods=["GET"]),
    Route("/api/v1/runs/{run_id}/verify", proof.get_verify, methods=["GET"]),
    Route("/api/v1/events", events.get_events, methods=["GET"]),
    Route("/api/v1/events/live", live.feed_live, methods=["GET"]),
    Route("/healthz", health.healthz, methods=["GET"]),
    Route("/readyz", health.readyz, methods=["GET"]),
    Route("/openapi.json", contract.get_openapi, methods=["GET"]),
)


def create_app(
    ledger: Ledger,
    log: Log,
    *,
    rate_limit: int = RATE_LIMIT_DEFAULT,
    stream_limits: StreamLimits | None = None,
    for_owner: bool = False,
) -> Starlette:
    """
    Build the application on an open ledger, which it closes when it shuts down.

    Args:
        ledger: What to serve, and to close.
        log: The log of the environment that is served while there are no API keys.
        rate_limit: Requests a second that each key may make, 0 for any number.
        stream_limits: Bounds of live streams, the default ones unless given.
        for_owner: Serve *log* to a caller that holds the database itself, and ask for no key.
    """
    for route in ROUTES:
        contract.check_described(route)
    streams = Streams(stream_limits)
    door = (
        Middleware(Owner, log=log)
        if for_owner
        else Middleware(Access, ledger=ledger, log=log, rate_limit=rate_limit)
    )

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        yield
        streams.close()
        await ledger.close()

    app = Starlette(
        routes=[*map(guarded, ROUTES)],
        exception_handlers=HANDLERS,
        middleware=[door],
        lifespan=lifespan,
    )
    app.state.streams = streams
    app.router.redirect_slashes = False  # A path that is nearly right is wrong; nobody is sent elsewhere.
    return app
