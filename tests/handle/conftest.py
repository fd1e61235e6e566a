"""A place to report to, twice: every test that asks for `place` runs on a server and on a database."""

import gc
import logging
import os
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

from ledger import configure
from tests.api.server import serving
from tests.api.service import empty
from tests.handle.places import QUICK_S, Place, descriptors, threads

PATCHED = (
    (threading.Thread, "start"),
    (ThreadPoolExecutor, "submit"),
    (subprocess.Popen, "__init__"),
    (BaseProcess, "start"),
)


@pytest.fixture(autouse=True, scope="module")
def _nothing_of_others() -> None:
    """What tests of other modules left to the garbage is gone before anything is counted here."""
    gc.collect()


@pytest.fixture(autouse=True)
def _own_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """No setting of the machine's reaches a test, and what a test leaves behind fails it."""
    for name in list(os.environ):
        if name.startswith("RUN_LEDGER_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("RUN_LEDGER_SPOOL_DIR", str(tmp_path / "spool"))
    monkeypatch.chdir(tmp_path)
    before = _possessions()
    yield
    configure(None)
    if _possessions() != before:
        gc.collect()
    assert _possessions() == before


def _possessions() -> tuple[object, ...]:
    return threads(), descriptors(), [getattr(owner, name) for owner, name in PATCHED]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """A server for a whole module: its address and its file."""
    path = tmp_path_factory.mktemp("served") / "ledger.db"
    path.write_bytes(empty())
    with serving(path) as server:
        yield server.url, path


@pytest.fixture(params=["server", "database"])
def apart(request: pytest.FixtureRequest, served: tuple[str, Path], tmp_path: Path) -> Place:
    """A place to report to, for programs; this process does not report to it."""
    if request.param == "server":
        return Place("server", *served, tmp_path / "spool")
    path = tmp_path / "ledger.db"
    path.write_bytes(empty())
    return Place("database", f"sqlite+aiosqlite:///{path}", path, tmp_path / "spool")


@pytest.fixture
def place(apart: Place) -> Iterator[Place]:
    """Where this process reports to; afterwards nothing of that is left."""
    configure(apart.target, spool_dir=apart.spool, flush_interval_s=QUICK_S)
    yield apart
    configure(None)
    assert not apart.spool.exists() or not list(apart.spool.iterdir())


@pytest.fixture
def warnings(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    """What the handle says in the log."""
    caplog.set_level(logging.WARNING, "ledger.handle")
    return caplog
