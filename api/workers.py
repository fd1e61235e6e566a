"""
Several processes that serve one ledger on one address.

They share the socket that listens, and the database; the one lock there is is the database's. Each counts the live
streams and the requests of a key for itself. This process serves nothing: it starts the others, says once that all
of them are ready, starts another where one dies, and ends with them.
"""

import logging
import signal
import socket
import sys
from collections.abc import Callable
from contextlib import ExitStack, suppress
from multiprocessing import connection, get_context
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from types import FrameType

from api import metrics
from api.client import without_controls
from api.server import SHUTDOWN_S, listening, serve_on
from ledger.errors import LedgerError, UnusableDatabase
from ledger.settings import BadSettings, Settings

END_S = SHUTDOWN_S + 5  # seconds until a worker that was told to end is killed
RESTART_S = 1.0  # seconds between two workers that are started in the place of dead ones

_logger = logging.getLogger(__name__)


class _Worker:
    """A process that serves, and the pipe to it."""

    def __init__(self, settings: Settings, listener: socket.socket) -> None:
        context = get_context("spawn")  # A fork would inherit what the threads of this process hold.
        self.pipe, theirs = context.Pipe()
        self.process: SpawnProcess = context.Process(
            target=_work, args=(settings, listener, theirs), name="run-ledger-worker"
        )
        self.process.start()
        theirs.close()
        self.is_ready = False


def serve_together(settings: Settings, host: str, port: int, count: int, ready: Callable[[str], None]) -> None:
    """
    Serve with *count* processes until a signal ends it; what they took is written before.

    Args:
        settings: Database and limits; the limits of live streams and requests hold for each process.
        host: Address to listen on; a ledger without API keys takes loopback addresses only.
        port: Port, 0 for any free one.
        count: How many processes.
        ready: Called with the base URL once all of them answer requests.

    Raises:
        BadSettings: The address cannot be used, or a worker did not come up; it has said why.
        UnusableDatabase: The database cannot be opened.
    """
    signals: list[int] = []

    def note(number: int, _: FrameType | None) -> None:
        signals.append(number)
        with suppress(BlockingIOError):  # It was woken often enough.
            waker.send(b".")

    with listening(settings, host, port) as listener, metrics.shared_by_processes(), ExitStack() as stack:
        woken, waker = map(stack.enter_context, socket.socketpair())
        waker.setblocking(False)  # A handler of signals must never wait.
        before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
        workers: list[_Worker] = []
        try:
            workers += [_Worker(settings, listener) for _ in range(count)]
            _watch(settings, listener, workers, woken, signals, ready)
        finally:
            _end(workers)
            for number, handler in before.items():
                signal.signal(number, handler)


def _watch(
    settings: Settings,
    listener: socket.socket,
    workers: list[_Worker],
    woken: socket.socket,
    signals: list[int],
    ready: Callable[[str], None],
) -> None:
    """Until a signal comes: say when all are ready, and put another in the place of one that died."""
    is_said = False
    while not signals:
        pipes = {worker.pipe: worker for worker in workers if not worker.is_ready}
        ends = {worker.process.sentinel: worker for worker in workers}
        for one in connection.wait([*pipes, *ends, woken]):
            if isinstance(one, Connection) and one in pipes and one.poll():
                worker = pipes[one]
                try:
                    url = one.recv()
                except EOFError:  # It died; its sentinel says so, too.
                    continue
                worker.is_ready = True
                if not is_said and all(each.is_ready for each in workers):
                    is_said = True
                    ready(url)
            elif isinstance(one, int) and not signals:
                dead = ends[one]
                if not is_said:
                    raise BadSettings("a worker ended before it was ready; it has said why")
                dead.process.join()
                _logger.warning(
                    "worker %s ended with %s; starting another", dead.process.pid, dead.process.exitcode
                )
                workers.remove(dead)
                dead.pipe.close()
                metrics.forget_process(dead.process.pid or 0)
                if not connection.wait([woken], RESTART_S):  # One that cannot start must not be started in a loop.
                    workers.append(_Worker(settings, listener))


def _end(workers: list[_Worker]) -> None:
    for worker in workers:
        worker.pipe.close()  # The worker ends as it would at a signal.
    for worker in workers:
        worker.process.join(END_S)
        if worker.process.is_alive():
            worker.process.kill()
            worker.process.join()


def _work(settings: Settings, listener: socket.socket, pipe: Connection) -> None:
    """What a worker does: serve, and say so."""
    try:
        serve_on(settings, listener, pipe.send, pipe)
    except (BadSettings, LedgerError, UnusableDatabase) as error:
        print(f"run-ledger: {without_controls(str(error))}", file=sys.stderr)  # noqa: T201 - As the command line does.
        sys.exit(1)
