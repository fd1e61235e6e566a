"""The application: which handler answers which route."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.routing import Route
from starlette.types import ASGIApp

from api import (
    auth,
    batches,
    contract,
    events,
    health,
    history,
    live,
    metadata,
    metrics,
    progress,
    proof,
    realtime,
    runs,
)
from api.access import Access, Owner
from api.cors import Cors
from api.failures import Failures
from api.metrics import counted
from api.pages.routes import PAGES
from api.scopes import guarded
from api.sessions import Sessions
from api.streams import StreamLimits, Streams
from api.tokens import Tokens
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
    Route("/api/v1/runs/{run_id}/tags", runs.add_tags, methods=["POST"]),
    Route("/api/v2/runs/{run_id}/cancel", runs.cancel, methods=["POST"]),
    Route("/api/v1/tasks/{task:path}/trigger", runs.trigger, methods=["POST"]),
    Route("/api/v1/runs", runs.create, methods=["POST"]),
    Route("/api/v1/runs", runs.list_runs, methods=["GET"]),
    Route("/api/v3/runs/{run_id}", runs.retrieve, methods=["GET"]),
    Route("/api/v1/runs/{run_id}/verify", proof.get_verify, methods=["GET"]),
    Route("/api/v3/batches", batches.create_batch, methods=["POST"]),
    Route("/api/v3/batches/{batch_id}/items", batches.add_items, methods=["POST"]),
    Route("/api/v2/batches/{batch_id}", batches.get_batch, methods=["GET"]),
    Route("/api/v2/tasks/batch", batches.trigger_batch, methods=["POST"]),
    Route("/realtime/v1/runs/{run_id}", realtime.run_feed, methods=["GET"]),
    Route("/realtime/v1/runs", realtime.tags_feed, methods=["GET"]),
    Route("/realtime/v1/batches/{batch_id}", realtime.batch_feed, methods=["GET"]),
    Route("/api/v1/auth/jwt/claims", auth.claims, methods=["POST"]),
    Route("/api/v1/auth/public-tokens", auth.create_public_token, methods=["POST"]),
    Route("/api/v1/events", events.get_events, methods=["GET"]),
    Route("/api/v1/events/live", live.feed_live, methods=["GET"]),
    Route("/healthz", health.healthz, methods=["GET"]),
    Route("/readyz", health.readyz, methods=["GET"]),
    Route("/metrics", metrics.get_metrics, methods=["GET"]),
    Route("/openapi.json", contract.get_openapi, methods=["GET"]),
)


def create_app(
    ledger: Ledger,
    log: Log,
    *,
    rate_limit: int = RATE_LIMIT_DEFAULT,
    stream_limits: StreamLimits | None = None,
    master: Callable[[], bytes] | None = None,
    cors_origins: Sequence[str] = (),
    for_owner: bool = False,
) -> Starlette:
    """
    Build the application on an open ledger, which it closes when it shuts down.

    Args:
        ledger: What to serve, and to close.
        log: The log of the environment that is served while there are no API keys.
        rate_limit: Requests a second that each key may make, 0 for any number.
        stream_limits: Bounds of live streams, the default ones unless given.
        master: The secret from which API keys are derived, asked for when a public token or a browser's
            session is shown or made; without it there are neither.
        cors_origins: Web pages of these origins may call, `*` for any; none by default.
        for_owner: Serve *log* to a caller that holds the database itself, and ask for no key.
    """
    for route in ROUTES:
        contract.check_described(route)
    streams = Streams(stream_limits)
    sessions = None if master is None else Sessions(ledger.keys, master)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        yield
        streams.close()
        await ledger.close()

    app = Starlette(routes=[*(counted(guarded(route)) for route in ROUTES), *PAGES], lifespan=lifespan)
    routed = Failures(app.router)
    door: ASGIApp = (
        Owner(routed, log)
        if for_owner
        else Access(
            routed,
            ledger=ledger,
            log=log,
            rate_limit=rate_limit,
            tokens=Tokens(ledger.keys, master),
            sessions=sessions,
            origins=cors_origins,
        )
    )

    app.state.streams = streams
    app.router.redirect_slashes = False  # A path that is nearly right is wrong; nobody is sent elsewhere.
    answering = Failures(door)  # Once more: what fails at the door is answered, too.
    # Around everything, so that a page can also read why it was refused, and that the server failed.
    app.middleware_stack = Cors(answering, cors_origins) if cors_origins else answering
    return app
