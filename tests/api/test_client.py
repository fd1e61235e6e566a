"""What the command line says of a server that is none of ours."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from tests.api.server import run_ledger

ANSWERS = {"/unrelated": b'{"hello": "world"}', "/list": b"[1]", "/page": b"<html></html>"}


class Other(BaseHTTPRequestHandler):
    """A server of another program: the first segment of the path says what it answers."""

    def do_GET(self) -> None:
        content = next(answer for path, answer in ANSWERS.items() if self.path.startswith(path))
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - The name it has in the base.
        """Stay silent."""


@pytest.fixture
def other() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), Other) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("path", ANSWERS)
@pytest.mark.parametrize("command", [("get", "r"), ("runs",), ("history", "r")])
def test_a_server_of_another_program_is_named_in_one_line(other: str, path: str, command: tuple[str, ...]) -> None:
    done = run_ledger(*command, variables={"RUN_LEDGER_URL": other + path})
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"run-ledger: {other}{path}")
    assert done.stderr.count("\n") == 1
