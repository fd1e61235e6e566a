"""What the tests of the SDK share."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.api.server import Server, serving
from tests.sdk.node import Node


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


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """A real server with an empty log; a traceback in what it wrote fails the test."""
    with serving(tmp_path / "ledger.db") as running:
        yield running
