"""Run the application under uvicorn."""

import asyncio
import gc
import socket
from collections.abc import Callable
from multiprocessing.connection import Connection

import uvicorn
import uvloop
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from api.access import is_loopback
from api.app import create_app
from api.streams import ABORT, StreamLimits
from ledger.ledger import Ledger
from ledger.master import Master
from ledger.settings import OPEN_ENVIRONMENT, BadSettings, Settings
from ledger.sqlite import warn_about_old_sqlite
from ledger.store import missing_file, sqlite_file

SHUTDOWN_S = 10  # seconds that requests in flight get to finish
BACKLOG = 2_048  # connections that may wait to be accepted
GC_ALLOCATIONS = 50_000  # allocations, net of releases, between two searches for cycles


class _Protocol(HttpToolsProtocol):
    """uvicorn's HTTP, which lets an answer cut its connection: ASGI has no word for that."""

    def on_message_begin(self) -> None:
        """Leave the way to cut the connection where the answer finds it."""
        super().on_message_begin()
        self.scope[ABORT] = self.transport.abort  # type: ignore[literal-required]


class _Server(uvicorn.Server):
    """uvicorn, which says when it is ready and where, and ends live streams when it ends."""

    def __init__(
        self, config: uvicorn.Config, ready: Callable[[str], None], end_streams: Callable[[], None]
    ) -> None:
        super().__init__(config)
        self._ready = ready
        self._end_streams = end_streams

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start listening, then name the address."""
        await super().startup(sockets)
        if self.started and self.servers:
            host, port = self.servers[0].sockets[0].getsockname()[:2]
            self._ready(f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}")

    def end_with(self, parent: Connection) -> None:
        """End as at a signal: the process that started this one is gone, or wants that."""
        asyncio.get_running_loop().remove_reader(parent.fileno())
        self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End the live streams, which never end by themselves, then wait for what is left."""
        self._end_streams()
        await super().shutdown(sockets)


def serve(settings: Settings, host: str, port: int, ready: Callable[[str], None]) -> None:
    """
    Serve until a signal ends it; what was taken is written before.

    Args:
        settings: Database and limits.
        host: Address to listen on; a ledger without API keys takes loopback addresses only.
        port: Port, 0 for any free one.
        ready: Called with the base URL once requests are answered.

    Raises:
        BadSettings: The address cannot be used.
        UnusableDatabase: The database cannot be opened.
    """
    with listening(settings, host, port) as listener:
        serve_on(settings, listener, ready)


def listening(settings: Settings, host: str, port: int) -> socket.socket:
    """
    A socket that listens, where a ledger may listen that has the keys that this one has.

    Raises:
        BadSettings: The address cannot be used.
        UnusableDatabase: The database cannot be opened.
    """
    reason = _only_with_keys(settings, host)
    if reason is not None and not asyncio.run(_has_keys(settings)):
        raise BadSettings(reason)
    return _listening(host.strip("[]"), port)


def serve_on(
    settings: Settings,
    listener: socket.socket,
    ready: Callable[[str], None],
    parent: Connection | None = None,
) -> None:
    """
    Serve on a socket that listens until a signal ends it; what was taken is written before.

    Args:
        settings: Database and limits.
        listener: The socket, which other processes may accept connections from, too.
        ready: Called with the base URL once requests are answered.
        parent: A pipe to the process that started this one; when that is gone, so is the reason to serve.
    """
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(settings, listener, ready, parent))


def _only_with_keys(settings: Settings, host: str) -> str | None:
    """What only a ledger with API keys may do, in words; None if there is nothing of the kind."""
    if not is_loopback(host):
        return (
            f"--host is {host}: a ledger without API keys answers this machine only; use 127.0.0.1, "
            "or make a key first: run-ledger keys create"
        )
    if settings.environment != OPEN_ENVIRONMENT:
        return (
            f"RUN_LEDGER_ENVIRONMENT is {settings.environment}: a ledger without API keys serves the environment "
            f"{OPEN_ENVIRONMENT} only; make a key first: "
            f"run-ledger keys create --environment {settings.environment}"
        )
    return None


async def _has_keys(settings: Settings) -> bool:
    """Whether a key was ever made; a database that does not exist is not made to find out."""
    if missing_file(settings.database_url) is not None:
        return False
    ledger = await Ledger.open(settings.database_url)
    try:
        return not await ledger.keys.is_open()
    finally:
        await ledger.close()


def _listening(host: str, port: int) -> socket.socket:
    """A socket that listens, made before anything else is begun."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        reason = str(error.strerror).partition(" (")[0]  # Without the address, which Python 3.11 repeats.
        raise BadSettings(f"cannot listen on {host}, port {port}: {reason}; choose another --port") from error


def _master(settings: Settings) -> Master:
    secret = None if settings.secret is None else settings.secret.get_secret_value()
    return Master(secret, sqlite_file(settings.database_url))


async def _serve(
    settings: Settings, listener: socket.socket, ready: Callable[[str], None], parent: Connection | None
) -> None:
    if sqlite_file(settings.database_url) is not None:
        warn_about_old_sqlite()
    ledger = await Ledger.open(
        settings.database_url,
        metadata_bytes_max=settings.metadata_bytes_max,
        late_write_s=settings.late_write_s,
    )
    app = create_app(
        ledger,
        await ledger.log(OPEN_ENVIRONMENT),
        rate_limit=settings.rate_limit,
        stream_limits=StreamLimits(settings.heartbeat_s, settings.stalled_reader_s, settings.streams_max),
        master=_master(settings).read,
        cors_origins=settings.cors_origins,
    )
    config = uvicorn.Config(
        app,
        loop="none",
        http=_Protocol,
        ws="none",
        access_log=False,
        log_level="warning",
        proxy_headers=False,
        server_header=False,
        backlog=BACKLOG,
        timeout_graceful_shutdown=SHUTDOWN_S,
    )
    # What is loaded by now stays; requests leave next to no cycles behind, and looking for them after every few
    # hundred allocations took an eighth of the processor time of a write.
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_ALLOCATIONS)
    server = _Server(config, ready, app.state.streams.close)
    if parent is not None:
        asyncio.get_running_loop().add_reader(parent.fileno(), server.end_with, parent)
    await server.serve([listener])
