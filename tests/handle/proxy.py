"""A server that misbehaves: it stands before a real one, at an address of its own that stays the same."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Literal

Mode = Literal["pass", "drop answers", "hang", "reset", "answer", "dribble"]


class Proxy:
    """
    Passes bytes on, or does not.

    Attributes:
        mode: What it does with connections: passes them on; lets the server carry a request out and drops the
            connection in the place of its answer; accepts them and says nothing; resets them; answers by itself;
            answers a byte at a time without end.
        answer: What it answers by itself.
        dropped: Answers that were dropped.
        connections: Connections that were made.
        limit: After so many dropped answers it passes everything on.
        every: Of so many answers it drops the first.
    """

    def __init__(self, port: int) -> None:
        self.upstream = port
        self.mode: Mode = "pass"
        self.answer = b""
        self.dropped = 0
        self.connections = 0
        self.limit = 1_000_000
        self.every = 1
        self._answers = 0
        self._ended = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self._open: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self.port: int = self._listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._start(self._accept)

    def cut(self) -> None:
        """End all connections, as when a server is killed."""
        for connection in list(self._open):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._ended.set()
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()
        for thread in list(self._threads):
            thread.join()

    def _start(self, work: object, *arguments: object) -> None:
        thread = threading.Thread(target=work, args=arguments, daemon=True)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while not self._ended.is_set():
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            self._open.add(connection)
            self._start(self._serve, connection)

    def _serve(self, connection: socket.socket) -> None:
        with connection, suppress(OSError):
            match self.mode:
                case "reset":
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                case "hang":
                    while connection.recv(65_536):
                        continue
                case "answer":
                    connection.recv(65_536)
                    connection.sendall(self.answer)
                    connection.shutdown(socket.SHUT_WR)
                    while connection.recv(65_536):
                        continue
                case "dribble":
                    connection.recv(65_536)
                    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
                    while not self._ended.wait(0.05):
                        connection.sendall(b" ")
                case _:
                    self._pass(connection)
        self._open.discard(connection)

    def _pass(self, connection: socket.socket) -> None:
        with socket.create_connection(("127.0.0.1", self.upstream)) as upstream:
            self._open.add(upstream)
            self._start(self._pass_up, connection, upstream)
            while data := upstream.recv(65_536):
                if self._drops(data):
                    self.dropped += 1
                    connection.shutdown(socket.SHUT_RDWR)
                    break
                connection.sendall(data)
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self._open.discard(upstream)

    def _drops(self, data: bytes) -> bool:
        """Whether this begins an answer that is to be lost; half an answer is no lost one."""
        if self.mode != "drop answers" or self.dropped >= self.limit or not data.startswith(b"HTTP/"):
            return False
        self._answers += 1
        return self._answers % self.every == 1 % self.every

    def _pass_up(self, connection: socket.socket, upstream: socket.socket) -> None:
        with suppress(OSError):
            while data := connection.recv(65_536):
                upstream.sendall(data)
        with suppress(OSError):
            upstream.shutdown(socket.SHUT_WR)


@contextmanager
def proxy(port: int) -> Iterator[Proxy]:
    made = Proxy(port)
    try:
        yield made
    finally:
        made.close()


def free_port() -> int:
    """A port at which nothing listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port
