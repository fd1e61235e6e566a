"""Tests may be coroutines and may ask for a browser, and programs that they start hear Ctrl-C."""

import asyncio
import inspect
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.browser import browser, chromium
from tests.postgres import Server

__all__ = ["browser", "chromium"]

# What takes longest begins first: begun last, it would leave a processor idle at the end.
LONGEST = (
    "ledger/contract/test_past.py",
    "ledger/contract/test_finding.py",
    "handle/test_exit.py",
    "handle/test_context.py",
    "integrations/test_celery.py",
    "api/test_exec.py",
    "ledger/test_crash.py",
    "ledger/test_erase.py",
    "ledger/test_feed.py",
    "projections/test_properties.py",
)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Server]:
    """One server for all tests of this process."""
    with Server() as server:
        yield server


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run a test that is a coroutine: in the event loop of its fixture `runner`, else in one of its own."""
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    arguments = {name: pyfuncitem.funcargs[name] for name in inspect.signature(pyfuncitem.obj).parameters}
    runner = pyfuncitem.funcargs.get("runner")
    if isinstance(runner, asyncio.Runner):
        runner.run(pyfuncitem.obj(**arguments))
    else:
        asyncio.run(pyfuncitem.obj(**arguments))
    return True


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that take longest; the others keep their order."""
    places = {Path(__file__).parent / name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path, len(places)))


def pytest_xdist_auto_num_workers() -> int:
    """Tests wait nearly as much as they work: for programs, disks and browsers."""
    return max(1, (os.cpu_count() or 1) * 3 // 2)


def pytest_configure() -> None:
    """
    What every process of tests, and every program that it starts, inherits.

    Python may keep what it compiled: else each of them would compile anew all that it loads. And a shell starts what
    runs in the background deaf to Ctrl-C.
    """
    sys.dont_write_bytecode = False
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    _hear_interrupts()


def pytest_runtest_setup() -> None:
    """Whatever an earlier test left behind, programs hear Ctrl-C."""
    _hear_interrupts()


def _hear_interrupts() -> None:
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
