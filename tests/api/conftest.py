"""What the tests of the API share."""

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from api.cli import main
from tests.api.server import Call, Done, Server, serving
from tests.api.service import Service, service


@pytest.fixture
def api(tmp_path: Path) -> Iterator[Service]:
    """An application with an empty log."""
    with service(tmp_path / "ledger.db") as made:
        yield made


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """A real server with an empty log; a traceback in what it wrote fails the test."""
    with serving(tmp_path / "ledger.db") as running:
        yield running


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Call:
    """The command line in this process, in a folder of its own and with its output in a pipe."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TZ", "UTC")

    def listen(host: str, port: int) -> None:
        raise AssertionError(f"a server began to listen on {host}, port {port}, and would never end")

    monkeypatch.setattr("api.server._listening", listen)

    def run(*arguments: str) -> Done:
        capsys.readouterr()
        monkeypatch.setattr("sys.argv", ["run-ledger", *arguments])
        code = 0
        level = logging.getLogger("ledger").level
        try:
            main()
        except SystemExit as stopped:
            code = stopped.code if isinstance(stopped.code, int) else 0
        finally:
            logging.getLogger("ledger").setLevel(level)  # A command quiets it for the rest of its process.
        return Done(code, *capsys.readouterr())

    return run
