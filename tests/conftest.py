"""Tests may be coroutines and may ask for a browser, and programs that they start hear Ctrl-C."""

import asyncio
import inspect
import os
import signal
import sys
from collections.abc import Iterator

import pytest

from tests.browser import browser, chromium
from tests.postgres import Server

__all__ = ["browser", "chromium"]


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
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
