"""Opening databases: new ones, old ones, those of others, and by two processes at once."""

import re
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing, nullcontext
from operator import methodcaller
from pathlib import Path
from typing import Any, cast

import pytest
import sqlalchemy as sa

from ledger import migrate, sqlite
from ledger.errors import UnusableDatabase
from ledger.ledger import Ledger
from ledger.tables import schema
from ledger.writes import CreateRun, IdempotencyKey
from tests.ledger.chain_oracle import check_file
from tests.ledger.support import Database, create

pytestmark = pytest.mark.only("sqlite")


@pytest.fixture
def database(tmp_path: Path) -> Database:
    """No database yet."""
    return Database(tmp_path / "ledger.db")


def described(path: Path) -> dict[str, Any]:
    """Tables with their columns, keys, constraints and indexes, as a database has them."""
    engine = sa.create_engine(f"sqlite:///{path}")
    inspector = sa.inspect(engine)
    found = {
        table: {
            "columns": [
                (
                    column["name"],
                    repr(column["type"]),
                    column["nullable"],
                    column["default"],
                )
                for column in inspector.get_columns(table)
            ],
            "primary key": inspector.get_pk_constraint(table),
            "unique": inspector.get_unique_constraints(table),
            "checks": inspector.get_check_constraints(table),
            "foreign keys": sorted(map(str, inspector.get_foreign_keys(table))),
            "indexes": sorted((i["name"], i["column_names"], i["unique"]) for i in inspector.get_indexes(table)),
        }
        for table in inspector.get_table_names()
    }
    engine.dispose()
    with closing(sqlite3.connect(path)) as connection:
        for name, text in connection.execute(
            "SELECT name, sql FROM sqlite_master WHERE type IN ('table', 'index')"
        ):
            if text and (name in found or not name.startswith("alembic")):
                found.setdefault(name, {})["sql"] = re.sub(r"\s+", " ", text)
    found.pop("alembic_version", None)
    return found


async def test_the_migrated_schema_is_that_of_the_tables(
    ledger: Ledger, database: Database, tmp_path: Path
) -> None:
    fresh = tmp_path / "fresh.db"
    engine = sa.create_engine(f"sqlite:///{fresh}")
    schema.create_all(engine)
    engine.dispose()
    expected = described(fresh)
    assert set(schema.tables) <= set(expected)
    assert described(database.path) == expected


async def test_the_triggers_are_there(ledger: Ledger, database: Database) -> None:
    names = database.rows("SELECT name FROM sqlite_master WHERE type = 'trigger' ORDER BY name")
    assert [row["name"] for row in names] == [
        "events_refuse_delete",
        "events_refuse_replace",
        "events_refuse_update",
    ]


async def test_every_table_begins_its_key_with_the_environment(ledger: Ledger, database: Database) -> None:
    for table, parts in described(database.path).items():
        if "primary key" in parts and table != "environments":
            assert parts["primary key"]["constrained_columns"][0] == "environment_id"
            assert all(unique["column_names"][0] == "environment_id" for unique in parts["unique"])


async def test_head_is_the_newest_migration(ledger: Ledger, database: Database) -> None:
    newest = max(path.name.split("_")[0] for path in (migrate.FOLDER / "versions").glob("[0-9]*.py"))
    assert newest == migrate.HEAD
    assert database.rows("SELECT * FROM alembic_version") == [{"version_num": newest}]


async def test_the_file_is_in_wal_mode_and_every_commit_is_synced(ledger: Ledger, database: Database) -> None:
    assert database.value("PRAGMA journal_mode") == "wal"
    expected = {"synchronous": 2, "foreign_keys": 1, "trusted_schema": 0, "busy_timeout": 10_000}
    for pragma, value in expected.items():
        (row,) = await ledger._store.read(methodcaller("rows", sa.text(f"PRAGMA {pragma}")))
        assert [*row.values()] == [value]


async def test_opening_again_changes_nothing(open_ledger: Callable[..., Any], database: Database) -> None:
    ledger = await open_ledger()
    await create(await ledger.log("dev"), "run_1")
    await ledger.close()
    before = database.path.read_bytes()
    await (await open_ledger()).close()
    assert database.path.read_bytes() == before
    assert not list(database.path.parent.glob("*-wal"))


# Puts the tables of the third migration back to those of the second.
BEFORE_BATCHES = """
DROP TABLE batch_items;
DROP TABLE batches;
CREATE TABLE kept AS SELECT * FROM idempotency;
DROP TABLE idempotency;
CREATE TABLE idempotency (
    environment_id INTEGER NOT NULL, key TEXT NOT NULL, fingerprint BLOB NOT NULL, status INTEGER NOT NULL,
    run_key BIGINT NOT NULL, version BIGINT NOT NULL, unapplied TEXT NOT NULL, expires_at BIGINT NOT NULL,
    PRIMARY KEY (environment_id, key),
    FOREIGN KEY(environment_id) REFERENCES environments (environment_id),
    FOREIGN KEY(environment_id, run_key) REFERENCES runs (environment_id, run_key)
) WITHOUT ROWID;
CREATE INDEX idempotency_by_expiry ON idempotency (environment_id, expires_at);
INSERT INTO idempotency SELECT environment_id, key, fingerprint, status, run_key, version, unapplied,
    expires_at FROM kept;
DROP TABLE kept;
UPDATE alembic_version SET version_num = '0002';
"""


async def test_a_database_of_the_first_tables_is_brought_up_to_date_with_the_tags_of_its_runs(
    open_ledger: Callable[..., Any], database: Database
) -> None:
    ledger = await open_ledger()
    tags = [(), ("a", "ü"), ("a\x00b", 'q"'), ("a",)]
    for environment in ("dev", "prod"):
        for number, some in enumerate(tags):
            await create(await ledger.log(environment), f"run_{number}", tags=some)
    await ledger.close()
    newest, stored = described(database.path), database.rows("SELECT * FROM run_tags ORDER BY 1, 2, 3")
    assert len(stored) == 10
    with closing(sqlite3.connect(database.path)) as connection:
        connection.executescript(BEFORE_BATCHES)
        connection.execute("DROP TABLE run_tags")
        for name in ("status", "task", "parent", "root", "batch"):
            connection.execute(f"DROP INDEX runs_by_{name}")
        connection.execute(
            "CREATE INDEX runs_by_parent ON runs (environment_id, parent_key) WHERE parent_key IS NOT NULL"
        )
        connection.execute("UPDATE alembic_version SET version_num = '0001'")
        connection.commit()
    await (await open_ledger()).close()
    assert described(database.path) == newest
    assert database.rows("SELECT * FROM run_tags ORDER BY 1, 2, 3") == stored


async def test_a_newer_database_is_refused_with_a_way_out(
    open_ledger: Callable[..., Any], database: Database
) -> None:
    await (await open_ledger()).close()
    with closing(sqlite3.connect(database.path)) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
        connection.commit()
    before = database.path.read_bytes()
    with pytest.raises(UnusableDatabase, match=r"newer release.*9999.*upgrade Run Ledger"):
        await open_ledger()
    assert database.path.read_bytes() == before


FOREIGN = {
    "another program's": "CREATE TABLE users (id)",
    "another user of alembic": """
        CREATE TABLE alembic_version (version_num);
        INSERT INTO alembic_version VALUES ('0001');
        CREATE TABLE users (id)
    """,
    "of a migration that never ended": "CREATE TABLE alembic_version (version_num)",
    "one with a view only": "CREATE VIEW one AS SELECT 1",
}


@pytest.mark.parametrize("kind", FOREIGN)
async def test_a_foreign_database_is_refused_and_untouched(
    open_ledger: Callable[..., Any], database: Database, kind: str
) -> None:
    with closing(sqlite3.connect(database.path)) as connection:
        connection.executescript(FOREIGN[kind])
    before = database.path.read_bytes()
    with pytest.raises(UnusableDatabase, match="a database of its own"):
        await open_ledger()
    assert database.path.read_bytes() == before
    assert list(database.path.parent.iterdir()) == [database.path]


async def test_what_is_no_database_is_refused_and_untouched(
    open_ledger: Callable[..., Any], database: Database
) -> None:
    database.path.write_bytes(b"hello, world" * 1_000)
    with pytest.raises(UnusableDatabase, match="not a database"):
        await open_ledger()
    assert database.path.read_bytes() == b"hello, world" * 1_000


@pytest.mark.parametrize(
    "url",
    [
        "",
        "nonsense",
        "sqlite://",
        "sqlite+aiosqlite://",
        "sqlite+aiosqlite:///:memory:",
        "sqlite+aiosqlite:///file:x?mode=memory&uri=true",
        "mysql://localhost/x",
        "sqlite+aiosqlite:////nowhere/at/all.db",
    ],
)
async def test_a_url_that_cannot_be_used_is_refused(url: str) -> None:
    with pytest.raises(UnusableDatabase):
        await Ledger.open(url)


@pytest.mark.parametrize(
    "options", [{"metadata_bytes_max": 1}, {"metadata_bytes_max": 262_145}, {"late_write_s": -1}]
)
async def test_a_limit_out_of_its_range_is_refused(database: Database, options: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="must"):
        await Ledger.open(database.url, **options)  # type: ignore[arg-type]
    assert not database.path.exists()


OPENER = """
import asyncio, sys
from ledger.ledger import Ledger
from ledger.writes import CreateRun
import alembic.command, aiosqlite

async def main(url, run_id):
    print("ready", flush=True)
    sys.stdin.readline()
    ledger = await Ledger.open(url)
    await (await ledger.log("dev")).create(CreateRun(run_id=run_id, task="t"))
    await ledger.close()

asyncio.run(main(*sys.argv[1:]))
"""


def test_processes_that_open_a_new_file_at_once_all_succeed(database: Database) -> None:
    for attempt in range(3):
        fresh = Database(database.path.with_name(f"new{attempt}.db"))
        processes = [
            subprocess.Popen(
                [sys.executable, "-c", OPENER, fresh.url, f"run_{n}"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for n in range(2)
        ]
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("\n")
            process.stdin.flush()
        for process in processes:
            _, errors = process.communicate(timeout=60)
            assert process.returncode == 0, errors
        assert fresh.rows("SELECT run_id FROM runs ORDER BY 1") == [{"run_id": "run_0"}, {"run_id": "run_1"}]
        assert check_file(fresh.path) == 2


@pytest.mark.parametrize(("code", "tries"), [(sqlite3.SQLITE_BUSY, 4), (sqlite3.SQLITE_IOERR, 1)])
def test_the_switch_to_wal_is_tried_again_only_while_another_process_is_in_the_way(
    monkeypatch: pytest.MonkeyPatch, code: int, tries: int
) -> None:
    monkeypatch.setattr(sqlite, "WAL_RETRY_S", 0)
    sent = []

    class Connection:
        def execute(self, statement: str) -> None:
            sent.append(statement)
            if len(sent) < 4:
                error = sqlite3.OperationalError("database is locked")
                error.sqlite_errorcode = code
                raise error

    with nullcontext() if code == sqlite3.SQLITE_BUSY else pytest.raises(sqlite3.OperationalError):
        sqlite._switch_to_wal(cast("sqlite3.Connection", Connection()))
    assert sent == ["PRAGMA journal_mode = WAL"] * tries


def test_opening_an_up_to_date_database_does_not_load_alembic(database: Database) -> None:
    code = (
        "import asyncio, sys; from ledger.ledger import Ledger\n"
        f"async def main(): await (await Ledger.open({database.url!r})).close()\n"
        "asyncio.run(main()); print('alembic' in sys.modules)"
    )
    answers = [
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        for _ in range(2)
    ]
    assert answers == ["True\n", "False\n"]


async def test_what_an_older_release_remembered_is_remembered_after_the_migration(
    open_ledger: Callable[..., Any], database: Database
) -> None:
    key = IdempotencyKey("once", b"f" * 32)
    command = CreateRun(run_id="run_1", task="t", metadata={"a": 1})
    ledger = await open_ledger()
    first = await (await ledger.log("dev")).create(command, idempotency=key)
    await ledger.close()
    with closing(sqlite3.connect(database.path)) as connection:
        connection.executescript(BEFORE_BATCHES)
    ledger = await open_ledger()
    again = await (await ledger.log("dev")).create(command, idempotency=key)
    assert (again.run_id, again.version, again.is_replay) == (first.run_id, 1, True)
    assert database.rows("SELECT * FROM alembic_version") == [{"version_num": migrate.HEAD}]
    fresh = database.path.with_name("fresh.db")
    engine = sa.create_engine(f"sqlite:///{fresh}")
    schema.create_all(engine)
    engine.dispose()
    assert described(database.path) == described(fresh)
