"""Tests here may be coroutines; every test has an event loop of its own, which its fixtures share."""

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ledger.ledger import Ledger, Log
from tests.ledger.support import Clock, Database

OpenLedger = Callable[..., Awaitable[Ledger]]


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    arguments = {name: pyfuncitem.funcargs[name] for name in inspect.signature(pyfuncitem.obj).parameters}
    pyfuncitem.funcargs["runner"].run(pyfuncitem.obj(**arguments))
    return True


@pytest.fixture(autouse=True)
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as runner:
        yield runner


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=["sqlite"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Database:
    """An empty database, one for each engine."""
    return Database(tmp_path / "ledger.db")


@pytest.fixture
def open_ledger(runner: asyncio.Runner, database: Database, clock: Clock) -> Iterator[OpenLedger]:
    """Opens the test's database, any number of times; what is still open at the end is closed."""
    opened: list[Ledger] = []

    async def open_it(**options: Any) -> Ledger:
        ledger = await Ledger.open(database.url, **{"clock": clock, **options})
        opened.append(ledger)
        return ledger

    async def close_all() -> None:
        for ledger in opened:
            await ledger.close()

    yield open_it
    runner.run(close_all())


@pytest.fixture
def ledger(runner: asyncio.Runner, open_ledger: OpenLedger) -> Ledger:
    async def opened() -> Ledger:
        return await open_ledger()

    return runner.run(opened())


@pytest.fixture
def log(runner: asyncio.Runner, ledger: Ledger) -> Log:
    return runner.run(ledger.log("dev"))
