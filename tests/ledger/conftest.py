"""Every test has an event loop of its own, which its fixtures share."""

import asyncio
import shutil
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from ledger.ledger import Ledger
from ledger.log import Log
from tests.ledger.support import Clock, Database, PostgresDatabase, check_sound
from tests.postgres import Server

ENGINES = ("sqlite", "postgresql")

OpenLedger = Callable[..., Awaitable[Ledger]]


@pytest.fixture(autouse=True)
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as runner:
        yield runner


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(scope="session")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database without rows, made once: to migrate one for every test would take most of their time."""
    made = Database(tmp_path_factory.mktemp("migrated") / "ledger.db")

    async def make() -> None:
        await (await Ledger.open(made.url)).close()

    asyncio.run(make())
    return made.path


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Every test that uses a database is run on each engine, unless it is about one of them."""
    if "database" in metafunc.fixturenames:
        only = metafunc.definition.get_closest_marker("only")
        metafunc.parametrize("database", [*only.args] if only else [*ENGINES], indirect=True)


@pytest.fixture
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    """A database without rows, one for each engine. What a test leaves in it has to verify."""
    with ExitStack() as stack:
        if request.param == "sqlite":
            migrated = request.getfixturevalue("migrated")
            database = Database(Path(shutil.copy(migrated, tmp_path / "ledger.db")))
        else:
            server: Server = request.getfixturevalue("postgres_server")
            database = PostgresDatabase(stack.enter_context(server.database()))
        yield database
        if request.node.get_closest_marker("altered") is None:
            check_sound(database)


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "altered: the test alters its database behind the ledger's back")
    config.addinivalue_line("markers", "only(engine): the test is about this engine")


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
