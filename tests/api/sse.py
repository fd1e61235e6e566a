"""A reader of server-sent events, from the text of the WHATWG HTML standard and from nothing in this project."""

import json
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

PATIENCE_S = 60  # seconds after which what should have come never will


@dataclass(frozen=True)
class Message:
    """What an EventSource dispatches."""

    id: str
    kind: str
    text: str

    @property
    def data(self) -> Any:
        return json.loads(self.text)


class Reader:
    """
    One connection to a live answer.

    Attributes:
        status: Of the answer.
        headers: Of the answer, names in lower case.
        comments: Lines that mean nothing.
        last_id: What an EventSource would send to resume.
        ended: The answer came to its proper end.
    """

    def __init__(self, url: str, last_id: str = "", receive_bytes: int = 0, method: str = "GET") -> None:
        parts = urlsplit(url)
        assert parts.port is not None
        self._socket = socket.socket()
        if receive_bytes:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        self._socket.settimeout(PATIENCE_S)
        self._socket.connect(("127.0.0.1", parts.port))
        path = f"{parts.path}?{parts.query}" if parts.query else parts.path
        resume = f"Last-Event-ID: {last_id}\r\n" if last_id else ""
        self._socket.sendall(f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n{resume}\r\n".encode())
        self._raw = b""
        self.last_id = last_id
        self.comments: list[str] = []
        self.ended = False
        self._lines: list[str] = []
        self._half_line = b""
        self._fields: dict[str, list[str]] = {}
        while b"\r\n\r\n" not in self._raw:
            self._fill()
        head, _, self._raw = self._raw.partition(b"\r\n\r\n")
        status, *lines = head.decode().split("\r\n")
        self.status = int(status.split()[1])
        self.headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}

    def close(self) -> None:
        self._socket.close()

    def shut(self) -> None:
        """Wake a thread that waits for bytes."""
        self._socket.shutdown(socket.SHUT_RDWR)

    def body(self) -> bytes:
        """The whole body of an answer that is none to follow."""
        length = int(self.headers["content-length"])
        while len(self._raw) < length:
            self._fill()
        return self._raw

    def next(self) -> Message | None:
        """The next event, None at the proper end of the answer; ConnectionError where it breaks off."""
        while True:
            while self._lines:
                message = self._take(self._lines.pop(0))
                if message is not None:
                    return message
            chunk = self._chunk()
            if not chunk:
                self.ended = True
                return None
            *lines, self._half_line = (self._half_line + chunk).split(b"\n")
            self._lines += [line.decode() for line in lines]

    def take(self, count: int) -> list[Message]:
        """The next events, exactly so many."""
        found = []
        for _ in range(count):
            message = self.next()
            assert message is not None, "the answer ended"
            found.append(message)
        return found

    def all(self) -> list[Message]:
        """Everything up to the proper end."""
        found = []
        while (message := self.next()) is not None:
            found.append(message)
        return found

    def wait_for_comment(self, text: str) -> None:
        """Read on until a comment came; no event may come before it."""
        self._wait(lambda: text in self.comments)

    def wait_for_id(self) -> None:
        """Read on until there is an id to resume from; no event may come before it."""
        self._wait(lambda: bool(self.last_id))

    def _wait(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not condition():
            assert time.monotonic() < deadline
            if self._lines:
                assert self._take(self._lines.pop(0)) is None
                continue
            *lines, self._half_line = (self._half_line + self._chunk()).split(b"\n")
            self._lines += [line.decode() for line in lines]

    def _take(self, line: str) -> Message | None:
        """Process the line: WHATWG HTML, 9.2.6."""
        if not line:
            fields, self._fields = self._fields, {}
            if "id" in fields:
                self.last_id = fields["id"][-1]
            if "data" not in fields:
                return None
            return Message(self.last_id, fields.get("event", ["message"])[-1], "\n".join(fields["data"]))
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if not name:
            self.comments.append(value)
        else:
            self._fields.setdefault(name, []).append(value)
        return None

    def _chunk(self) -> bytes:
        while b"\r\n" not in self._raw:
            self._fill()
        size, _, self._raw = self._raw.partition(b"\r\n")
        length = int(size, 16)
        while len(self._raw) < length + 2:
            self._fill()
        chunk, self._raw = self._raw[:length], self._raw[length + 2 :]
        return chunk

    def _fill(self) -> None:
        received = self._socket.recv(65_536)
        if not received:
            raise ConnectionError("the answer broke off")
        self._raw += received
