"""Bytes that no HTTP client sends, over a socket to a real server."""

import socket
from collections.abc import Iterator

import pytest

from tests.api.server import Server, serving
from tests.api.service import contents

HOST = b"Host: 127.0.0.1\r\n"
TYPE = b"Content-Type: application/json\r\n"
PUT = b"PUT /api/v1/runs/r/metadata HTTP/1.1\r\n" + HOST + TYPE
CHUNKED = PUT + b"Transfer-Encoding: chunked\r\n\r\n"
GET = b"GET /healthz HTTP/1.1\r\n"
END = b"Connection: close\r\n\r\n"


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("wire") / "x.db") as server:
        with server.client() as http:
            http.post("/api/v1/runs", json={"id": "r", "task": "t", "metadata": {"a": 1}})
        yield server


def exchange(server: Server, *pieces: bytes, half_close: bool = False) -> bytes:
    """Send *pieces*, perhaps say that nothing more comes, and read until the server closes."""
    answer = b""
    with server.connect() as connection:
        try:
            for piece in pieces:
                connection.sendall(piece)
            if half_close:
                connection.shutdown(socket.SHUT_WR)
            while received := connection.recv(65_536):
                answer += received
        except ConnectionError:  # It closed while there was more to send or to read.
            pass
    return answer


def statuses(answer: bytes) -> list[int]:
    return [int(part[:3]) for part in answer.split(b"HTTP/1.1 ")[1:]]


def check_unharmed(server: Server) -> None:
    with server.client() as http:
        assert http.get("/api/v1/runs/r/metadata").json()["metadata"] == {"a": 1}
        assert http.get("/readyz").status_code == 200
    assert contents(server.path)["events"] == 1
    assert "Traceback" not in server.errors()


# What the answer may be: a list of statuses, one for each answer on the connection.
SENT: list[tuple[str, bytes, list[int]]] = [
    ("a chunk size that is none", CHUNKED + b"ZZ\r\n{}\r\n0\r\n\r\n", [400]),
    ("a chunk longer than its size", CHUNKED + b"1\r\n{}\r\n0\r\n\r\n", [400]),
    ("a negative chunk size", CHUNKED + b"-2\r\n{}\r\n0\r\n\r\n", [400]),
    ("an enormous chunk size", CHUNKED + b"f" * 40 + b"\r\n{}\r\n0\r\n\r\n", [400]),
    ("chunks that never end", CHUNKED + b"2\r\n{}\r\n", []),
    ("both lengths", PUT + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n", [400]),
    (
        "a request smuggled behind both lengths",
        PUT
        + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
        + PUT
        + b"Content-Length: 2\r\n\r\n{}",
        [400],
    ),
    ("two lengths", PUT + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}", [400]),
    ("a transfer encoding that is not the last", PUT + b"Transfer-Encoding: chunked, gzip\r\n\r\n{}", [400]),
    ("a body cut short", PUT + b"Content-Length: 500\r\n\r\n{", []),
    ("a length below zero", PUT + b"Content-Length: -5\r\n\r\n{}", [400]),
    ("a length with a plus", PUT + b"Content-Length: +2\r\n\r\n{}", [400]),
    ("a length past 64 bits", PUT + b"Content-Length: 18446744073709551616\r\n\r\n{}", [400]),
    ("a length of 5,000 digits", PUT + b"Content-Length: " + b"9" * 5_000 + b"\r\n\r\n", [400]),
    ("a length of three million", PUT + b"Content-Length: 3000000\r\n\r\n{", [413]),
    (
        "three million bytes in chunks",
        CHUNKED + (b"10000\r\n" + b" " * 65_536 + b"\r\n") * 46 + b"0\r\n\r\n",
        [413],
    ),
    ("a header with NUL", GET + HOST + b"X: a\0b\r\n\r\n", [400]),
    ("a header name with a space", GET + HOST + b"X Y: z\r\n\r\n", [400]),
    ("a header without a colon", GET + HOST + b"XYZ\r\n\r\n", [400]),
    ("a folded header", GET + HOST + b"X: a\r\n b\r\n" + END, [400]),
    ("a header that is not UTF-8", GET + HOST + b"X: \xff\xfe\r\n" + END, [200]),
    ("bytes in the path", b"GET /api/v1/runs/\xff/metadata HTTP/1.1\r\n" + HOST + END, [400]),
    ("a path of 100,000 bytes", b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\n" + HOST + END, [400]),
    ("a path that steps up", b"GET /api/v1/runs/../../../etc/passwd HTTP/1.1\r\n" + HOST + END, [404]),
    ("an asterisk", b"OPTIONS * HTTP/1.1\r\n" + HOST + END, [404]),
    ("an unknown method", b"BREW /healthz HTTP/1.1\r\n" + HOST + END, [400]),
    ("CONNECT", b"CONNECT elsewhere:443 HTTP/1.1\r\n" + HOST + END, [400]),
    ("HTTP/9.9", b"GET /healthz HTTP/9.9\r\n" + HOST + END, [400]),
    ("HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", [400]),
    ("TLS", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 300, [400]),
    ("nothing", b"", []),
    ("empty lines", b"\r\n\r\n\r\n", []),
    ("half a request line", b"GET /heal", []),
    (
        "a web socket",
        GET + HOST + b"Upgrade: websocket\r\nConnection: close, Upgrade\r\nSec-WebSocket-Key: x\r\n\r\n",
        [200],
    ),
    ("another Host", GET + b"Host: evil.example\r\n" + END, [421]),
    ("a Host that begins like ours", GET + b"Host: 127.0.0.1.evil.example\r\n" + END, [421]),
    ("a second, foreign Host", GET + HOST + b"Host: evil.example\r\n" + END, [421]),
    ("a foreign Host, then ours", GET + b"Host: evil.example\r\n" + HOST + END, [421]),
    ("an empty Host", GET + b"Host:\r\n" + END, [421]),
    ("no Host", GET + END, [421]),
    ("HTTP/1.0 without Host", b"GET /healthz HTTP/1.0\r\n\r\n", [421]),
    ("HTTP/1.0 with Host", b"GET /healthz HTTP/1.0\r\n" + HOST + b"\r\n", [200]),
    ("X-Forwarded-For", GET + HOST + b"X-Forwarded-For: 127.0.0.1\r\n" + END, [400]),
    ("x-forwarded-anything", GET + HOST + b"x-FORWARDED-anything: 1\r\n" + END, [400]),
    ("Forwarded", GET + HOST + b"Forwarded: for=127.0.0.1\r\n" + END, [400]),
    ("Expect", PUT + b"Expect: 100-continue\r\nContent-Length: 2\r\n" + END + b"{}", [100, 200]),
    ("three in a row", (GET + HOST + b"\r\n") * 2 + GET + HOST + END, [200, 200, 200]),
    (
        "an unread body, then another",
        b"PUT /nothing HTTP/1.1\r\n" + HOST + b"Content-Length: 2\r\n\r\n{}" + GET + HOST + END,
        [404, 200],
    ),
]


@pytest.mark.parametrize(("sent", "expected"), [case[1:] for case in SENT], ids=[case[0] for case in SENT])
def test_every_answer_is_deliberate_and_nothing_changes(running: Server, sent: bytes, expected: list[int]) -> None:
    assert statuses(exchange(running, sent, half_close=not expected)) == expected
    check_unharmed(running)


def test_a_body_that_comes_byte_by_byte_is_read(running: Server) -> None:
    answer = exchange(running, PUT + b"Content-Length: 4\r\n", END, b"{", b" ", b" ", b"}")
    assert statuses(answer) == [200]
    check_unharmed(running)


def test_others_are_answered_while_a_hundred_clients_are_slow(running: Server) -> None:
    slow = [running.connect() for _ in range(100)]
    try:
        for number, connection in enumerate(slow):
            connection.sendall([GET, PUT + b"Content-Length: 9\r\n\r\n{", CHUNKED + b"9\r\n{"][number % 3])
        check_unharmed(running)
    finally:
        for connection in slow:
            connection.close()
    check_unharmed(running)


def test_a_client_that_resets_its_connection_leaves_no_trace(running: Server) -> None:
    for sent in (PUT + b"Content-Length: 500\r\n\r\n{", CHUNKED + b"5\r\n{", PUT + b"Content-Length: 2\r\n\r\n{}"):
        connection = running.connect()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        connection.sendall(sent)
        connection.close()
    check_unharmed(running)
