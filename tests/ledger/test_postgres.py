"""What only PostgreSQL has: its own migrations and refusals, and what its tables keep from whom."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from psycopg import errors
from sqlalchemy import LargeBinary, Text, create_engine, make_url

from ledger import postgres, tables
from ledger.checkpoint import SigningKey
from ledger.errors import UnusableDatabase
from ledger.ledger import Ledger
from ledger.log import Log
from ledger.migrate import HEAD
from ledger.rebuild import compare
from ledger.store import inspect_database, migrate
from ledger.verify import verify_all
from ledger.writes import Caller, CreateBatch, CreateRun, TagRun
from projections.errors import BadPath, TooLarge
from projections.filters import RunFilter
from projections.lifecycle import Status
from projections.operations import Set
from projections.paths import literal
from tests.ledger.conftest import OpenLedger
from tests.ledger.support import Clock, Database, PostgresDatabase, change, check_chain, create, events, move, once
from tests.postgres import Server

pytestmark = pytest.mark.only("postgresql")


@pytest.fixture
def empty(postgres_server: Server) -> Iterator[PostgresDatabase]:
    """A database without tables."""
    with postgres_server.database("template1") as url:
        yield PostgresDatabase(url)


async def test_a_database_without_tables_says_what_to_run(empty: Database) -> None:
    with pytest.raises(UnusableDatabase, match="run: run-ledger migrate"):
        await Ledger.open(empty.url)
    assert empty.rows("SELECT tablename FROM pg_tables WHERE schemaname = 'public'") == []
    with pytest.raises(UnusableDatabase, match="run: run-ledger migrate"):
        inspect_database(empty.url, lambda _: None)


async def test_tables_of_another_release_say_what_to_run(database: Database, empty: Database) -> None:
    database.rows("UPDATE alembic_version SET version_num = '0000'")
    with pytest.raises(UnusableDatabase, match="run: run-ledger migrate, or upgrade Run Ledger"):
        await Ledger.open(database.url)
    with pytest.raises(UnusableDatabase, match="a newer release wrote this database"):
        migrate(database.url)
    database.rows("UPDATE alembic_version SET version_num = ?", [HEAD])
    empty.rows("CREATE TABLE users (id integer)")
    with pytest.raises(UnusableDatabase, match="this database holds other tables"):
        migrate(empty.url)


async def test_nodes_that_migrate_at_once_wait_for_each_other(empty: Database) -> None:
    missing = await asyncio.gather(*(asyncio.to_thread(postgres.migrate, make_url(empty.url)) for _ in range(4)))
    assert sorted(missing) == [False, False, False, True]
    ledger = await Ledger.open(empty.url)
    await create(await ledger.log("dev"), "run_1")
    await ledger.close()


@pytest.mark.parametrize("driver", ["postgresql", "postgres", "postgresql+asyncpg", "postgresql+psycopg"])
async def test_a_url_for_any_driver_is_taken(database: Database, driver: str) -> None:
    ledger = await Ledger.open(database.url.replace("postgresql", driver, 1))
    assert await ledger.environments() == []
    await ledger.close()


async def test_a_server_that_cannot_be_reached_is_named_without_its_password() -> None:
    with pytest.raises(UnusableDatabase, match=r"cannot open postgresql://me:\*\*\*@127.0.0.1:1/x") as refused:
        await Ledger.open("postgresql://me:secret@127.0.0.1:1/x")
    assert "secret" not in str(refused.value)
    with pytest.raises(UnusableDatabase, match="names no database"):
        await Ledger.open("postgresql://me@127.0.0.1")


def described(database: Database) -> dict[str, set[str]]:
    """Columns, indexes and constraints as the server itself writes them."""
    asked = {
        "columns": """
            SELECT format('%s.%s %s %s %s', attrelid::regclass, attname, format_type(atttypid, atttypmod),
            attnotnull, attcollation) AS text FROM pg_attribute
            WHERE attnum > 0 AND NOT attisdropped AND attrelid IN (SELECT oid FROM ours WHERE relkind = 'r')
        """,
        "indexes": "SELECT pg_get_indexdef(oid) AS text FROM ours WHERE relkind = 'i'",
        "constraints": """
            SELECT format('%s %s', conrelid::regclass, pg_get_constraintdef(oid)) AS text FROM pg_constraint
            WHERE conrelid IN (SELECT oid FROM ours)
        """,
    }
    ours = """
        WITH ours AS (
            SELECT oid, relkind FROM pg_class
            WHERE relnamespace = 'public'::regnamespace AND relname NOT LIKE 'alembic%'
        )
    """
    return {name: {row["text"] for row in database.rows(ours + query)} for name, query in asked.items()}


def test_the_migrated_schema_is_that_of_the_tables(database: Database, empty: Database) -> None:
    engine = create_engine(make_url(empty.url).set(drivername="postgresql+psycopg"))
    tables.schema.create_all(engine)
    engine.dispose()
    expected = described(empty)
    assert all(len(expected[name]) > 13 for name in expected)
    assert described(database) == expected


BACK_TO_THE_FIRST_TABLES = """
DROP TABLE run_tags, batch_items, batches;
DROP INDEX runs_by_status, runs_by_task, runs_by_parent, runs_by_root, runs_by_batch;
CREATE INDEX runs_by_parent ON runs (environment_id, parent_key) WHERE parent_key IS NOT NULL;
ALTER TABLE idempotency DROP COLUMN batch_id;
ALTER TABLE idempotency ALTER COLUMN run_key SET NOT NULL;
UPDATE alembic_version SET version_num = '0001'
"""


async def test_a_database_of_the_first_tables_is_brought_up_to_date_with_all_it_holds(
    open_ledger: OpenLedger, database: Database
) -> None:
    for environment in ("dev", "prod"):
        log = await (await open_ledger()).log(environment)
        for number, tags in enumerate([(), ("a", "ü"), ("a\0b", 'q"'), ("a",)]):
            await create(log, f"run_{number}", tags=tags)
        first = await change(log, "run_0", Set(key="a", value=1), idempotency=once("key"))
    newest, stored = described(database), database.rows("SELECT * FROM run_tags ORDER BY 1, 2, 3")
    assert len(stored) == 10
    database.rows(BACK_TO_THE_FIRST_TABLES)
    with pytest.raises(UnusableDatabase, match="run: run-ledger migrate"):
        await open_ledger()
    migrate(database.url)
    assert described(database) == newest
    assert database.rows("SELECT * FROM run_tags ORDER BY 1, 2, 3") == stored
    log = await (await open_ledger()).log("prod")
    again = await change(log, "run_0", Set(key="a", value=1), idempotency=once("key"))
    assert (again.is_replay, again.snapshot) == (True, first.snapshot)


CHANGES = (
    "UPDATE events SET data = data",
    "UPDATE events SET actor = 'x'",
    "DELETE FROM events",
    "TRUNCATE events CASCADE",
    "TRUNCATE runs CASCADE",
    "INSERT INTO events SELECT * FROM events ON CONFLICT (environment_id, position) DO UPDATE SET actor = 'x'",
    "SET session_replication_role = replica; DELETE FROM events",
)


@pytest.mark.parametrize("statement", CHANGES)
async def test_events_cannot_be_changed(log: Log, database: Database, statement: str) -> None:
    await create(log, "run_1")
    with pytest.raises(errors.IntegrityConstraintViolation, match="events are append-only"):
        database.rows(statement)
    assert check_chain(database) == 1


OPEN_ERASURE = "INSERT INTO erasures VALUES (1, 1, 1, 'a', 'why', 'me', 0, -1)"


async def test_an_open_erasure_lets_data_be_redacted_and_nothing_else_and_cannot_be_committed(
    log: Log, database: Database
) -> None:
    await create(log, "run_1")
    with psycopg.connect(database.url) as connection:
        connection.execute(OPEN_ERASURE)
        connection.execute("UPDATE events SET data = '{}', salt = salt, commitment = hash")
        for column in ("actor", "headers", "type"):
            with pytest.raises(errors.IntegrityConstraintViolation), connection.transaction():
                connection.execute(f"UPDATE events SET {column} = 'x'")
        with pytest.raises(errors.IntegrityConstraintViolation), connection.transaction():
            connection.execute("DELETE FROM events")
        with pytest.raises(errors.ForeignKeyViolation):
            connection.commit()
    assert check_chain(database) == 1


OTHERS: dict[type, str] = {LargeBinary: "sha256('x')", Text: "'77'"}


@pytest.mark.parametrize("column", [column.name for column in tables.events.columns])
async def test_no_column_of_an_event_can_be_updated(log: Log, database: Database, column: str) -> None:
    await create(log, "run_1")
    await change(log, "run_1", Set(key="a", value=1))
    other = OTHERS.get(type(tables.events.c[column].type), "77")
    for value in (other, column):
        for where in ("WHERE position = 2", ""):
            with pytest.raises(errors.IntegrityConstraintViolation, match="events are append-only"):
                database.rows(f"UPDATE events SET {column} = {value} {where}")
    assert check_chain(database) == 2


ODD = ("a\0b", "\0", "\ufdd0", "\ufdd0\ufdd1", "\0\ufdd0\ufdd2\0", "\ufdd2")


@pytest.mark.parametrize("text", ODD)
async def test_every_text_is_read_as_it_was_written(
    log: Log, ledger: Ledger, database: Database, text: str
) -> None:
    await create(log, "run_1", task=text, tags=(text,), metadata={text: text}, payload=text)
    await change(log, "run_1", Set(key=text, value=[text]), caller=Caller(actor=text, on_behalf_of=text))
    details = await log.run("run_1")
    assert (details.run.task, details.run.tags, details.payload) == (text, (text,), text)
    assert details.run.snapshot.metadata == {text: [text]}
    assert (await events(log, "run_1"))[-1].actor == text
    assert [run.id for run in (await log.runs(limit=5, wanted=RunFilter(tasks=(text,)))).items] == ["run_1"]
    assert (await log.runs(limit=5, wanted=RunFilter(tasks=(f"{text}x",)))).items == []
    with pytest.raises(BadPath):
        await change(log, "run_1", Set(key=f"$.{text}.*", value=1))
    (refused,) = await log.refusals("run_1")
    assert refused.key is None or text in refused.key
    await log.erase("run_1", literal(text), f"because {text}")
    assert (await log.run("run_1")).run.snapshot.metadata == {}


async def test_nodes_that_name_a_new_environment_at_once_make_one(
    open_ledger: OpenLedger, database: Database
) -> None:
    nodes = [await open_ledger() for _ in range(4)]
    owners = [log.owner for log in await asyncio.gather(*(node.log("new") for node in nodes))]
    assert len({owner.id for owner in owners}) == 1
    assert database.value("SELECT count(*) FROM logs") == 1


async def test_times_are_those_of_the_database_server(database: Database) -> None:
    ledger = await Ledger.open(database.url)
    log = await ledger.log("dev")
    before = database.value("SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint")
    await create(log, "run_1")
    after = database.value("SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint")
    assert before <= (await log.run("run_1")).run.created_at <= after
    await ledger.close()


async def test_a_commit_of_another_node_is_heard_of_and_an_own_one_is_not(open_ledger: OpenLedger) -> None:
    mine, other = await open_ledger(), await open_ledger()
    log, theirs = await mine.log("dev"), await other.log("dev")
    await create(log, "run_1")
    await mine._store.changed()  # It listens now.
    await create(theirs, "run_2")
    async with asyncio.timeout(30):
        await mine._store.changed()
    heard = asyncio.ensure_future(mine._store.changed())
    await create(log, "run_3")
    # The notice of the own commit has arrived by the time that a later one of another connection has.
    done, _ = await asyncio.wait([heard], timeout=0)
    assert not done
    await create(theirs, "run_4")
    async with asyncio.timeout(30):
        await heard


@pytest.fixture
def narrow(database: Database) -> Iterator[PostgresDatabase]:
    """The same database, for a server that has the documented role."""
    role = "run_ledger_server"
    for statement in postgres.role_statements(role):
        database.rows(statement)
    database.rows(f"ALTER ROLE {role} LOGIN")
    yield PostgresDatabase(make_url(database.url).set(username=role).render_as_string(hide_password=False))
    database.rows(f"DROP OWNED BY {role}")
    database.rows(f"DROP ROLE {role}")


async def test_a_role_that_may_only_append_is_enough_for_everything_that_a_server_does(
    narrow: PostgresDatabase, database: Database, clock: Clock
) -> None:
    ledger = await Ledger.open(narrow.url, clock=clock)
    log = await ledger.log("dev")
    batch = CreateBatch(run_count=1, batch_id="b", idempotency_key="k", idempotency_ttl_s=60)
    made = await log.create_batch(batch, once("batch"))
    item = CreateRun(run_id="run_1", task="t", batch="b", item=0, tags=("a",), metadata={"a": 1})
    assert (await log.create_item(item)) is not None
    assert (made.batch.id, (await log.batch("b")).item_count) == ("b", 1)
    assert (await log.create_batch(batch, once("batch"))).is_replay
    await create(log, "run_2", parent="run_1", idempotency_key="k", idempotency_ttl_s=60)
    await change(log, "run_1", *[Set(key="b", value="x" * 100)] * 60, idempotency=once("key"))
    await log.tag(TagRun(run_id="run_1", tags=("z",)))
    await move(log, "run_1", Status.COMPLETED)
    for _ in range(102):  # More refusals than are kept.
        with pytest.raises(TooLarge):
            await change(log, "run_1", Set(key="b", value="x" * 5_000))
    assert [run.id for run in (await log.runs(limit=9, wanted=RunFilter(tags=("z",)))).items] == ["run_1"]
    await log.erase("run_1", literal("b"), "why")
    key = await ledger.keys.create(log.owner, b"m" * 32)
    await ledger.keys.admit(key.text)
    await ledger.keys.revoke(log.owner, key.key.id)
    signer = SigningKey(Ed25519PrivateKey.generate())
    for _ in range(2):
        await ledger.checkpoint(signer)
        signer = SigningKey(Ed25519PrivateKey.generate())
    clock.advance(90 * 86_400)
    await change(log, "run_2", Set(key="b", value=1), idempotency=once("later"))  # What expired is forgotten.
    assert database.value("SELECT count(*) FROM idempotency WHERE key = 'key'") == 0
    database.rows("UPDATE runs SET size_bytes = 77; UPDATE run_tags SET tag = 'x' WHERE tag = '\"a\"'")
    database.rows("UPDATE snapshots SET metadata = '{}'")
    database.rows("INSERT INTO snapshots VALUES (1, 1, 5000, '{}')")
    differences = inspect_database(narrow.url, compare)
    assert [one.run_id for one in differences] == ["run_1", "run_2"]
    for one in differences:
        await ledger.repair(one)
    assert inspect_database(narrow.url, verify_all).is_sound
    await ledger.close()


@pytest.mark.parametrize(
    "statement",
    [
        *("DELETE FROM events", "TRUNCATE events", "DROP TABLE events", "DELETE FROM runs", "DELETE FROM logs"),
        *("ALTER TABLE events DISABLE TRIGGER ALL", "UPDATE events SET actor = 'x'", "DELETE FROM erasures"),
        *("UPDATE environments SET name = 'x'", "DELETE FROM batches", "UPDATE checkpoints SET size = 1"),
        *("CREATE TABLE mine (id integer)", "UPDATE alembic_version SET version_num = '1'"),
    ],
)
def test_a_role_that_may_only_append_can_do_nothing_else(narrow: PostgresDatabase, statement: str) -> None:
    with pytest.raises(errors.InsufficientPrivilege):
        narrow.rows(statement)


def test_the_role_that_is_described_is_the_one_that_was_tried() -> None:
    text = (Path(__file__).parents[2] / "docs" / "scaling.md").read_text()
    described = {" ".join(part.split()) for part in text.split("CREATE ROLE", 1)[1].split(";")}
    assert "GRANT SELECT ON ALL TABLES IN SCHEMA public TO ledger_server" in described
    assert {*postgres.role_statements("ledger_server")[2:]} <= described


def test_every_text_is_compared_byte_by_byte(database: Database) -> None:
    rows = database.rows(
        """
        SELECT c.relname AS table, a.attname AS column, l.collname AS collation
        FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid JOIN pg_type t ON t.oid = a.atttypid
        LEFT JOIN pg_collation l ON l.oid = a.attcollation
        WHERE c.relnamespace = 'public'::regnamespace AND c.relname <> 'alembic_version' AND a.attnum > 0
        AND c.relkind IN ('r', 'i') AND t.typcollation <> 0
        """
    )
    texts = {(row["table"], row["column"]) for row in rows}
    for table in tables.schema.sorted_tables:
        assert texts >= {(table.name, one.name) for one in table.columns if isinstance(one.type, Text)}
    assert [row for row in rows if row["collation"] != "C" and "alembic" not in row["table"]] == []


async def test_two_nodes_write_without_a_hole_or_a_deadlock(open_ledger: OpenLedger, database: Database) -> None:
    nodes = [await open_ledger() for _ in range(3)]
    logs = [await node.log("dev") for node in nodes]
    await create(logs[0], "root")
    for name in ("a", "b"):
        await create(logs[0], name, parent="root")
    one = Set(key="n", value=1)

    async def work(log: Log, names: str) -> None:
        for name in names * 10:
            await change(log, name, one, root_operations=[one])

    await asyncio.gather(work(logs[0], "ab"), work(logs[1], "ba"), work(logs[2], "ab"))
    assert check_chain(database) == 3 + 3 * 20 * 2
