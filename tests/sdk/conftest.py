"""What the tests of the SDK share."""

from collections.abc import Iterator
from itertools import count
from pathlib import Path

import httpx2
import pytest

from tests.api.server import Server, serving
from tests.api.service import empty
from tests.sdk.node import Node

_numbers = count(1)


@pytest.fixture(scope="session")
def playing() -> Iterator[list[Node]]:
    """The process that plays, once one was needed."""
    nodes: list[Node] = []
    yield nodes
    for node in nodes:
        node.close()


@pytest.fixture
def node(playing: list[Node]) -> Iterator[Node]:
    """A process that plays scenarios: the same for all tests, a fresh one after a test that failed in it."""
    if not playing:
        playing.append(Node())
    yield playing[0]
    if not playing[0].is_idle:
        playing.pop().close()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A real server for all tests of a module; a traceback in what it wrote fails the last of them."""
    with serving(migrated(tmp_path_factory.mktemp("sdk"))) as running:
        yield running


@pytest.fixture
def fresh(tmp_path: Path) -> Iterator[Server]:
    """A real server with an empty log."""
    with serving(migrated(tmp_path)) as running:
        yield running


@pytest.fixture
def http(server: Server) -> Iterator[httpx2.Client]:
    """Plain requests to the server."""
    with server.client() as made:
        yield made


@pytest.fixture
def run() -> str:
    """The id of a run that no other test has."""
    return f"r{next(_numbers)}"


def migrated(folder: Path) -> Path:
    """A database with all tables and nothing in them."""
    path = folder / "ledger.db"
    path.write_bytes(empty())
    return path
