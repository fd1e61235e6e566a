"""The connection on which a node hears that another one wrote."""

import asyncio
import logging
from collections.abc import Container, Mapping
from typing import Any

import psycopg

from ledger.postgres.connection import connect
from ledger.postgres.transaction import CHANNEL

LISTEN_RETRY_S = 1.0  # seconds from one attempt to listen to the next

_logger = logging.getLogger(__name__)


class Listener:
    """
    Hears that a log grew, on a connection of its own that the event loop watches.

    Args:
        target: Where to connect to.
        own: The server's processes whose notices are about what this process wrote.
    """

    def __init__(self, target: Mapping[str, Any], own: Container[int]) -> None:
        self._target = target
        self._own = own
        self._connection: psycopg.Connection[Any] | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._heard = asyncio.Event()
        self._socket: int | None = None
        self._not_before = 0.0
        self._closed = False

    async def wait(self) -> None:
        """Wait for a notice of a connection that is none of our own."""
        loop = asyncio.get_running_loop()
        if self._connection is None and self._connecting is None and loop.time() >= self._not_before:
            self._not_before = loop.time() + LISTEN_RETRY_S
            self._connecting = asyncio.create_task(self._listen(), name="ledger-listener")
        await self._heard.wait()
        self._heard.clear()

    async def close(self) -> None:
        """Hear nothing more."""
        self._closed = True
        if self._connecting is not None:
            await asyncio.wait([self._connecting])  # Its thread is not to be left with a connection of nobody's.
        self._hang_up()

    async def _listen(self) -> None:
        try:
            self._connection = await asyncio.to_thread(_listening, self._target)
        except psycopg.Error as error:
            _logger.warning("cannot listen for what other nodes write, which is looked for instead: %s", error)
        else:
            if not self._closed:
                self._socket = self._connection.fileno()
                asyncio.get_running_loop().add_reader(self._socket, self._hear)
                self._heard.set()  # Something may have been committed before.
        finally:
            self._connecting = None

    def _hear(self) -> None:
        connection = self._connection
        if connection is None:
            return
        try:
            connection.pgconn.consume_input()
        except psycopg.Error as error:
            _logger.warning("lost the connection that listens for what other nodes write: %s", error)
            self._hang_up()
            return
        while (notice := connection.pgconn.notifies()) is not None:
            if notice.be_pid not in self._own:  # What this process wrote it has told already.
                self._heard.set()

    def _hang_up(self) -> None:
        connection, self._connection = self._connection, None
        # By its number: libpq has closed the socket already where the connection broke, and the loop would go on
        # watching whatever is opened under that number next, in the place of what that is.
        socket, self._socket = self._socket, None
        if socket is not None:
            asyncio.get_running_loop().remove_reader(socket)
        if connection is not None:
            connection.close()


def _listening(target: Mapping[str, Any]) -> psycopg.Connection[Any]:
    connection = connect(target)
    connection.execute(f"LISTEN {CHANNEL}")
    return connection
