"""What the tests of the API share."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.api.server import Server, serving
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
