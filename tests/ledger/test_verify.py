"""Verify: it passes what nobody altered, and fails whatever somebody did."""

import asyncio
import random
import shutil
import sqlite3
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st
from psycopg.rows import dict_row
from sqlalchemy import make_url

from ledger.checkpoint import SigningKey
from ledger.errors import RunNotFound, StorageFailed, UnusableDatabase
from ledger.faults import Fault, Report
from ledger.ledger import Ledger
from ledger.log import Log
from ledger.postgres import PostgresTransaction, target_of
from ledger.postgres.connection import connect
from ledger.postgres.texts import storable
from ledger.sqlite import SqliteTransaction, _read_text, file_faults, inspect_file
from ledger.store import inspect_database
from ledger.verify import count_events, verify_all
from ledger.writes import Caller
from projections.lifecycle import Status
from projections.operations import AppendItem, Increment, Operation, Set
from projections.paths import parse_key
from tests.ledger.conftest import ENGINES
from tests.ledger.support import (
    Clock,
    Database,
    PostgresDatabase,
    change,
    check_sound,
    create,
    move,
    unlock_file,
    unlock_server,
)
from tests.postgres import Server
from tests.strategies import thorough

TABLES = {
    "events": (
        *("environment_id", "position", "run_key", "version", "type", "actor", "attempt", "occurred_at"),
        *("recorded_at", "headers", "data", "salt", "commitment", "hash"),
    ),
    "runs": (
        *("environment_id", "run_key", "run_id", "task", "parent_key", "root_key", "depth", "batch", "status"),
        *("status_version", "attempt", "tags", "idempotency_key", "idempotency_expires_at", "metadata"),
        *("size_bytes", "version", "hash", "unsnapped_bytes", "created_at", "updated_at", "started_at"),
        "finished_at",
    ),
    "snapshots": ("environment_id", "run_key", "version", "metadata"),
    "logs": ("environment_id", "last_position", "last_run_key", "last_recorded_at", "epoch"),
    "environments": ("environment_id", "name"),
    "erasures": ("environment_id", "run_key", "number", "key", "reason", "actor", "recorded_at", "open"),
    "checkpoints": ("size", "root", "compact_range"),
}


async def fill(ledger: Ledger, clock: Clock) -> None:
    """Two environments with everything that a log can hold."""
    for environment in ("dev", "prod"):
        log = await ledger.log(environment)
        await create(log, "root", metadata={"n": 0}, tags=("t", "ü"), batch="b", payload={"p": [1, 1e-7]})
        clock.advance(1)
        trigger: dict[str, Any] = {"idempotency_key": "k", "idempotency_ttl_s": 60}
        await create(log, "child", parent="root", status=Status.EXECUTING, **trigger)
        await create(log, "grandchild", parent="child", metadata={"user": {"email": "x@y", "name": "N"}})
        count: list[Operation] = [Increment(key="n", value=1)]
        for _ in range(3):
            clock.advance(0.5)
            caller = Caller(actor="ann", on_behalf_of="ü")
            await change(log, "child", *count * 25, parent_operations=count * 3, caller=caller)
        when = Set.model_validate({"key": "when", "value": [True, 1], "occurredAt": "2026-02-28T12:00:00Z"})
        await change(log, "grandchild", when, AppendItem(key="l", value="x"), attempt=3)
        await log.erase("grandchild", parse_key("$.user.email"), "asked", Caller(actor="dpo"))
        await move(log, "child", Status.COMPLETED, output={"o": 1})
        clock.advance(2)
        await move(log, "root", Status.EXECUTING, attempt=2)
    await ledger.checkpoint(SigningKey(Ed25519PrivateKey.generate()))
    await change(log, "root", *count)


@pytest.fixture(scope="module", params=ENGINES)
def filled(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    with ExitStack() as stack:
        if request.param == "sqlite":
            database = Database(tmp_path_factory.mktemp("verify") / "ledger.db")
        else:
            server: Server = request.getfixturevalue("postgres_server")
            database = PostgresDatabase(stack.enter_context(server.database()))
        asyncio.run(make(database))
        yield database


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same in a SQLite file."""
    database = Database(tmp_path_factory.mktemp("verify") / "file.db")
    asyncio.run(make(database))
    return database.path


async def make(database: Database) -> None:
    clock = Clock()
    ledger = await Ledger.open(database.url, clock=clock)
    await fill(ledger, clock)
    await ledger.close()


class Altered(ABC):
    """A database in which anything can be altered; nothing of it is kept."""

    examples: float = 1.0  # of those that a property is tried with

    @abstractmethod
    def run(self, statement: str, *values: Any) -> list[Any]:
        """The rows of a statement. `rowid` numbers the rows of a table."""

    @abstractmethod
    def columns(self, table: str) -> list[str]: ...

    @abstractmethod
    def report(self) -> Report: ...

    def faults(self) -> list[str]:
        return [str(fault) for fault in self.report().faults]


class AlteredFile(Altered):
    def __init__(self, connection: sqlite3.Connection) -> None:
        self.connection = connection

    def run(self, statement: str, *values: Any) -> list[Any]:
        try:
            return self.connection.execute(statement, values).fetchall()
        except sqlite3.IntegrityError as error:
            raise CannotBe from error

    def columns(self, table: str) -> list[str]:
        return [row["name"] for row in self.run(f"PRAGMA table_info({table})")]

    def report(self) -> Report:
        return verify_all(SqliteTransaction(self.connection))


class AlteredServer(Altered):
    examples = 0.25

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self.connection = connection

    def run(self, statement: str, *values: Any) -> list[Any]:
        query: Any = statement.replace("%", "%%").replace("?", "%s")
        try:
            with self.connection.cursor(row_factory=dict_row) as cursor:
                cursor.execute(query, [*map(storable, values)])
                return cursor.fetchall() if cursor.description else []
        except (psycopg.DataError, psycopg.IntegrityError, psycopg.ProgrammingError) as error:
            raise CannotBe from error

    def columns(self, table: str) -> list[str]:
        asked = (
            "SELECT column_name FROM information_schema.columns WHERE table_name = ? AND column_name <> 'rowid'"
        )
        return [row["column_name"] for row in self.run(asked, table)]

    def report(self) -> Report:
        return verify_all(PostgresTransaction(self.connection, "SAVEPOINT verified"))


class CannotBe(Exception):
    """A column does not take this, whoever asks."""


@pytest.fixture(scope="module")
def opened(filled: Database, request: pytest.FixtureRequest) -> Iterator[Altered]:
    with ExitStack() as stack:
        if filled.is_postgres:
            server: Server = request.getfixturevalue("postgres_server")
            template = make_url(filled.url).database
            assert template is not None
            url = make_url(stack.enter_context(server.database(template)))
            with psycopg.connect(url.render_as_string(hide_password=False)) as connection:
                unlock_server(connection)
                for table in TABLES:
                    connection.execute(f"ALTER TABLE {table} ADD rowid bigint GENERATED ALWAYS AS IDENTITY")
            yield AlteredServer(stack.enter_context(connect(target_of(url))))
        else:
            folder = request.getfixturevalue("tmp_path_factory").mktemp("altered")
            path = shutil.copy(filled.path, folder / "ledger.db")
            file = stack.enter_context(closing(sqlite3.connect(path, isolation_level=None)))
            file.row_factory = sqlite3.Row
            file.text_factory = _read_text
            unlock_file(file)
            yield AlteredFile(file)


@pytest.fixture
def altered(opened: Altered) -> Iterator[Altered]:
    with undone(opened):
        yield opened


@contextmanager
def undone(opened: Altered) -> Iterator[None]:
    opened.run("BEGIN")
    try:
        yield
    finally:
        opened.run("ROLLBACK")


def test_it_passes_what_nobody_altered(filled: Database) -> None:
    report = check_sound(filled)
    assert report.environments == ["dev", "prod"]
    assert (report.runs, report.events) == (6, 2 * 92 + 1)
    assert [(one.environment, one.run_id, one.key, one.reason, one.actor) for one in report.erasures] == [
        (name, "grandchild", "$.user.email", "asked", "dpo") for name in ("dev", "prod")
    ]
    assert filled.value("SELECT count(*) FROM snapshots") >= 2


def test_the_columns_that_are_altered_here_are_all_there_are(altered: Altered) -> None:
    # What is kept of a checkpoint is for making the next one; that it is of some environment, the file's check says.
    kept_elsewhere = {"checkpoints": {"environment_id", "note", "created_at"}}
    for table, columns in TABLES.items():
        assert set(altered.columns(table)) - kept_elsewhere.get(table, set()) == set(columns)


EDITS: dict[str, Callable[[Any, random.Random], Any]] = {
    "one more": lambda value, _: value + 1 if isinstance(value, int) else None,
    "one less": lambda value, _: value - 1 if isinstance(value, int) else None,
    "much more": lambda value, chance: value + chance.randrange(1, 2**40) if isinstance(value, int) else None,
    "nothing": lambda value, _: None,
    "zero": lambda value, _: 0,
    "half": lambda value, _: value + 0.5 if isinstance(value, int) else None,
    "text": lambda value, _: "text",
    "longer": lambda value, _: (
        value + b" " if isinstance(value, bytes) else value + " " if isinstance(value, str) else None
    ),
    "shorter": lambda value, _: value[:-1] if isinstance(value, str | bytes) else None,
    "another byte": lambda value, chance: _flipped(value, chance) if isinstance(value, str | bytes) else None,
    "the same bytes as another type": lambda value, _: _retyped(value),
    "a NUL": lambda value, _: value + "\0" if isinstance(value, str) else None,
}


def _flipped(value: str | bytes, chance: random.Random) -> str | bytes | None:
    if not value:
        return None
    place = chance.randrange(len(value))
    if isinstance(value, bytes):
        return value[:place] + bytes([value[place] ^ 1 << chance.randrange(8)]) + value[place + 1 :]
    return value[:place] + chr(ord(value[place]) ^ 1) + value[place + 1 :]


def _retyped(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode(errors="surrogateescape")
    return value.decode("latin-1") if isinstance(value, bytes) else str(value)


columns = st.sampled_from([(table, column) for table, names in TABLES.items() for column in names])


def test_it_fails_after_any_single_edit(opened: Altered) -> None:
    @settings(thorough, max_examples=round(400 * opened.examples), suppress_health_check=[*HealthCheck])
    @given(columns, st.sampled_from([*EDITS, "that of another row"]), st.randoms(use_true_random=False))
    def holds(place: tuple[str, str], edit: str, chance: random.Random) -> None:
        with undone(opened):
            fails_after(opened, place, edit, chance)

    holds()


def test_it_fails_after_an_edit_of_each_column(opened: Altered) -> None:
    chance = random.Random(11)
    for table, names in TABLES.items():
        for column in names:
            edits = chance.sample([*EDITS], len(EDITS))
            for edit in edits:
                with undone(opened):
                    if fails_after(opened, (table, column), edit, chance):
                        break
            else:
                pytest.fail(f"no edit of {table}.{column} was one")


def fails_after(opened: Altered, place: tuple[str, str], edit: str, chance: random.Random) -> bool:
    """Edit a value. Returns whether that could be done, and made a difference."""
    table, column = place
    rows = opened.run(f"SELECT rowid AS row, {column} AS value FROM {table} ORDER BY rowid")
    row = chance.choice(rows)
    new = chance.choice(rows)["value"] if edit == "that of another row" else EDITS[edit](row["value"], chance)
    kind = f"typeof({column})" if isinstance(opened, AlteredFile) else "0 AS kind"
    stored = f"SELECT {kind}, {column} FROM {table} ORDER BY rowid"
    before = [*map(dict, opened.run(stored))]
    try:
        opened.run(f"UPDATE {table} SET {column} = ? WHERE rowid = ?", new, row["row"])
    except CannotBe:
        return False
    if [*map(dict, opened.run(stored))] == before or _is_still_true(opened, place, row["row"]):
        return False
    assert opened.faults(), f"{table}.{column} of row {row['row']}: {row['value']!r} -> {new!r}"
    return True


@pytest.mark.parametrize(
    "edit",
    [
        "DELETE FROM run_tags WHERE tag = '\"t\"'",
        "UPDATE run_tags SET tag = '\"T\"' WHERE tag = '\"t\"' AND environment_id = 2",
        "UPDATE run_tags SET tag = CAST(tag AS BLOB) WHERE environment_id = 1",
        "UPDATE run_tags SET run_key = run_key + 1",
        "UPDATE run_tags SET run_key = 99",
        "UPDATE run_tags SET run_key = run_key + 0.5",
        "INSERT INTO run_tags VALUES (1, 2, '\"x\"')",
        "INSERT INTO run_tags VALUES (1, 0, '\"x\"')",
    ],
)
def test_it_fails_when_the_tags_that_runs_are_found_by_are_others(altered: Altered, edit: str) -> None:
    if isinstance(altered, AlteredServer) and ("BLOB" in edit or "0.5" in edit):
        pytest.skip("its columns hold one type")
    altered.run(edit)
    assert any("tag" in fault for fault in altered.faults())


def _is_still_true(opened: Altered, place: tuple[str, str], rowid: int) -> bool:
    """A snapshot may be moved to a version at which the metadata was the same; it tells no lie there."""
    if place != ("snapshots", "version"):
        return False
    moved = "SELECT environment_id, run_key, version FROM snapshots WHERE rowid = ?"
    environment, run, version = dict(opened.run(moved, rowid)[0]).values()
    kinds = opened.run(
        "SELECT type FROM events WHERE environment_id = ? AND run_key = ? AND version IN (?, ?)",
        *(environment, run, version, version + 1 if isinstance(version, int) else version),
    )
    return any(kind["type"].startswith("run.") for kind in kinds)


def some_event(opened: Altered, chance: random.Random) -> dict[str, Any]:
    return dict(chance.choice(opened.run("SELECT * , rowid AS rowid FROM events ORDER BY rowid")))


def put(opened: Altered, row: dict[str, Any]) -> None:
    names = ", ".join(row)
    opened.run(f"INSERT INTO events ({names}) VALUES ({', '.join('?' * len(row))})", *row.values())


def delete_one(opened: Altered, chance: random.Random) -> None:
    opened.run("DELETE FROM events WHERE rowid = ?", some_event(opened, chance)["rowid"])


def delete_one_and_close_the_gap(opened: Altered, chance: random.Random) -> None:
    row = some_event(opened, chance)
    opened.run("DELETE FROM events WHERE rowid = ?", row["rowid"])
    for column, scope in (("version", ["environment_id", "run_key"]), ("position", ["environment_id"])):
        where = " AND ".join(f"{name} = ?" for name in scope)
        values = [row[name] for name in (*scope, column)]
        opened.run(f"UPDATE events SET {column} = -{column} WHERE {where} AND {column} > ?", *values)
        opened.run(f"UPDATE events SET {column} = -{column} - 1 WHERE {column} < 0")


def repeat_one_at_the_end(opened: Altered, chance: random.Random) -> None:
    row = some_event(opened, chance)
    row.pop("rowid")
    end = opened.run("SELECT max(position) AS last FROM events WHERE environment_id = 1")[0]["last"]
    versions = opened.run(
        "SELECT max(version) AS last FROM events WHERE environment_id = ? AND run_key = ?",
        *(row["environment_id"], row["run_key"]),
    )
    put(opened, {**row, "position": end + 1000, "version": versions[0]["last"] + 1})


def insert_one(opened: Altered, chance: random.Random) -> None:
    row = some_event(opened, chance)
    row.pop("rowid")
    new = {"position": -1, "version": 0, "data": '{"key":"n","value":1}', "type": "metadata.set"}
    put(opened, {**row, **new})


def swap_two(opened: Altered, chance: random.Random) -> None:
    """Two events change places: all they hold, or all but their hashes."""
    one, other = some_event(opened, chance), some_event(opened, chance)
    assume(one["rowid"] != other["rowid"])
    names = ["type", "actor", "attempt", "occurred_at", "headers", "data", "salt", "commitment"]
    if chance.random() < 0.5:
        names += ["hash", "recorded_at"]
    assume([one[name] for name in names] != [other[name] for name in names])
    for target, source in ((one, other), (other, one)):
        sets = ", ".join(f"{name} = ?" for name in names)
        values = [source[name] for name in names]
        opened.run(f"UPDATE events SET {sets} WHERE rowid = ?", *values, target["rowid"])


def swap_two_positions(opened: Altered, chance: random.Random) -> None:
    one, other = some_event(opened, chance), some_event(opened, chance)
    assume(one["position"] != other["position"] and one["environment_id"] == other["environment_id"])
    for position, row in ((-5, one), (one["position"], other), (other["position"], one)):
        opened.run("UPDATE events SET position = ? WHERE rowid = ?", position, row["rowid"])


def drop_a_run(opened: Altered, chance: random.Random) -> None:
    row = some_event(opened, chance)
    for table in ("events", "snapshots", "runs"):
        opened.run(
            f"DELETE FROM {table} WHERE environment_id = ? AND run_key = ?", row["environment_id"], row["run_key"]
        )


DEEDS = [
    *(delete_one, delete_one_and_close_the_gap, repeat_one_at_the_end, insert_one),
    *(swap_two, swap_two_positions, drop_a_run),
]


def test_it_fails_after_any_deleted_inserted_duplicated_or_swapped_event(opened: Altered) -> None:
    @settings(thorough, max_examples=round(150 * opened.examples))
    @given(st.sampled_from(DEEDS), st.randoms(use_true_random=False))
    def holds(deed: Callable[[Altered, random.Random], None], chance: random.Random) -> None:
        with undone(opened):
            deed(opened, chance)
            assert opened.faults()

    holds()


@pytest.mark.parametrize("table", ["runs", "snapshots", "logs", "environments", "erasures"])
def test_it_fails_after_a_row_is_gone(altered: Altered, table: str) -> None:
    last = "version" if table == "snapshots" else "rowid"  # An older snapshot only makes time travel slower.
    altered.run(f"DELETE FROM {table} WHERE rowid = (SELECT rowid FROM {table} ORDER BY {last} DESC LIMIT 1)")
    found = altered.faults()
    # Rows of an environment that is gone are found by the check of the file.
    assert found or table == "environments"


NAMED: dict[str, tuple[str, str]] = {
    "data": (
        """UPDATE events SET data = '{"key":"n","value":9}' WHERE environment_id = 1 AND run_key = 2 AND version = 7""",
        "run child (dev), version 7: its hash is not that of its contents and the event before it",
    ),
    "gone": (
        "DELETE FROM events WHERE environment_id = 1 AND run_key = 2 AND version = 7",
        "run child (dev), version 8: version 7 is missing before it",
    ),
    "head": (
        "UPDATE runs SET status = 'FAILED' WHERE environment_id = 1 AND run_id = 'child'",
        "run child (dev): its head's status is not what its events make ('FAILED' and not 'COMPLETED')",
    ),
    "metadata": (
        """UPDATE runs SET metadata = '{"n":76}' WHERE environment_id = 1 AND run_id = 'child'""",
        "run child (dev): its head's metadata is not what its events make",
    ),
    "snapshot": (
        """UPDATE snapshots SET metadata = '{"n":76}' WHERE environment_id = 2 AND run_key = 2 AND version = 51""",
        "run child (prod), version 51: the snapshot kept of it is not what its events make",
    ),
    "time": (
        "UPDATE logs SET last_recorded_at = 5 WHERE environment_id = 1",
        "the log of dev: its last_recorded_at is 5, and the last event's is 1800000004500000",
    ),
    "UTF-8": (
        "UPDATE events SET actor = CAST(x'ff' AS TEXT) WHERE environment_id = 1 AND run_key = 1 AND version = 1",
        "run root (dev), version 1: it, or the run's id, holds text that is not UTF-8",
    ),
    "type": (
        "UPDATE events SET data = CAST(data AS BLOB) WHERE environment_id = 1 AND run_key = 1 AND version = 2",
        "run root (dev), version 2: its data has the wrong type",
    ),
}


@pytest.mark.parametrize("name", NAMED)
def test_it_names_the_first_bad_event_and_what_is_wrong(altered: Altered, name: str) -> None:
    if isinstance(altered, AlteredServer) and name in {"UTF-8", "type"}:
        pytest.skip("its columns hold one type, and nothing else")
    statement, expected = NAMED[name]
    altered.run(statement)
    assert altered.faults()[0] == expected


def test_the_first_of_many_faults_are_told_and_all_are_counted(altered: Altered) -> None:
    altered.run("UPDATE events SET actor = 'eve' WHERE environment_id = 1")
    report = altered.report()
    assert (report.fault_count, len(report.faults)) == (92, 20)
    assert report.faults[0] == Fault(
        "dev", "root", 1, "its hash is not that of its contents and the event before it"
    )


def test_rows_that_refer_to_nothing_are_found_in_the_file_itself(file: Path, tmp_path: Path) -> None:
    path = Path(shutil.copy(file, tmp_path / "ledger.db"))
    with closing(sqlite3.connect(path)) as connection:
        unlock_file(connection)
        connection.execute("UPDATE events SET environment_id = 77 WHERE environment_id = 2 AND position = 92")
        connection.commit()
    assert file_faults(path)[0] == "a row of events refers to a row of environments that does not exist"


@settings(thorough, max_examples=25)
@given(st.integers(4_096, 90_000), st.integers(0, 7))
@example(20_000, 3)
def test_a_file_with_a_wrong_bit_is_never_taken_for_sound_unless_nothing_reads_it(
    file: Path, tmp_path_factory: pytest.TempPathFactory, place: int, bit: int
) -> None:
    raw = bytearray(file.read_bytes())
    assume(place < len(raw))
    raw[place] ^= 1 << bit
    path = tmp_path_factory.mktemp("bit") / "ledger.db"
    path.write_bytes(raw)
    try:
        found = bool(inspect_file(path, verify_all).faults or file_faults(path))
    except (sqlite3.Error, StorageFailed, UnusableDatabase):
        return
    if not found:  # Then it can only be a byte of a page that holds nothing, or of a table that proves nothing.
        assert contents(path) == contents(file)


def test_a_damaged_table_definition_is_said_so(file: Path, tmp_path: Path) -> None:
    raw = bytearray(file.read_bytes())
    place = raw.index(b"PRIMARY KEY")
    raw[place] ^= 1 << 7  # No UTF-8 any more, and SQLite quotes it.
    path = tmp_path / "ledger.db"
    path.write_bytes(raw)
    for look in (lambda: inspect_file(path, verify_all), lambda: asyncio.run(Ledger.open(Database(path).url))):
        with pytest.raises((StorageFailed, UnusableDatabase), match="malformed"):
            look()
    with pytest.raises(sqlite3.DatabaseError, match="malformed"):
        file_faults(path)


@pytest.mark.parametrize("bit", [0, 7])
def test_a_damaged_rule_is_found_which_only_who_writes_would_meet(file: Path, tmp_path: Path, bit: int) -> None:
    raw = bytearray(file.read_bytes())
    raw[raw.index(b"CHECK (length(name)") + 14] ^= 1 << bit
    path = tmp_path / "ledger.db"
    path.write_bytes(raw)
    assert not inspect_file(path, verify_all).faults
    (fault,) = file_faults(path)
    assert fault.startswith("the definition of environments is damaged: ")
    assert file_faults(file) == []


def contents(path: Path) -> dict[str, list[tuple[Any, ...]]]:
    with closing(sqlite3.connect(path)) as connection:
        return {
            table: connection.execute(f"SELECT {', '.join(names)} FROM {table}").fetchall()
            for table, names in TABLES.items()
        }


# --- how it is asked ---


async def test_one_run_can_be_verified_alone(ledger: Ledger, log: Log) -> None:
    await create(log, "r", metadata={"a": 1})
    await create(log, "s")
    await log.erase("r", parse_key("a"), "why")
    verified = await log.verify("r")
    assert (verified.version, verified.report.events, verified.report.is_sound) == (2, 2, True)
    assert [one.key for one in verified.report.erasures] == ["a"]
    with pytest.raises(RunNotFound):
        await log.verify("t")
    with pytest.raises(RunNotFound):
        await (await ledger.log("prod")).verify("r")


@pytest.mark.altered
async def test_a_fault_of_one_run_is_not_one_of_another(log: Log, database: Database) -> None:
    await create(log, "r")
    await create(log, "s")
    database.rows("UPDATE runs SET depth = 1 WHERE run_id = 'r'")
    assert not (await log.verify("r")).report.is_sound
    assert (await log.verify("s")).report.is_sound


async def test_it_sees_one_moment_while_others_write(ledger: Ledger, log: Log, database: Database) -> None:
    await create(log, "r")
    stop = threading.Event()
    reports: list[Report] = []

    def verify_on() -> None:
        while not stop.is_set():
            reports.append(inspect_database(database.url, verify_all))

    task = asyncio.create_task(asyncio.to_thread(verify_on))
    while len(reports) < 10:
        await asyncio.gather(*(change(log, "r", *[Increment(key="n", value=1)] * 2) for _ in range(5)))
    stop.set()
    await task
    assert [str(fault) for report in reports for fault in report.faults] == []
    assert len({report.events for report in reports}) > 1


async def test_progress_counts_every_event_twice(log: Log, database: Database) -> None:
    await create(log, "r")
    await change(log, "r", *[Increment(key="n", value=1)] * 1_200)
    seen: list[int] = []
    report = inspect_database(database.url, lambda view: verify_all(view, progress=seen.append))
    assert sum(seen) == 2 * report.events == 2 * inspect_database(database.url, count_events) == 2 * 1_201
    assert max(seen) <= 500


@pytest.mark.altered
@pytest.mark.only("sqlite")
def test_what_is_no_ledger_is_said_so(tmp_path: Path, database: Database) -> None:
    text, empty, foreign = (tmp_path / name for name in ("text.db", "empty.db", "foreign.db"))
    text.write_text("nothing of the kind" * 100)
    empty.touch()
    with closing(sqlite3.connect(foreign)) as connection:
        connection.execute("CREATE TABLE customers (id)")
    for path, words in ((text, "not a SQLite database"), (empty, "empty"), (foreign, "other tables")):
        with pytest.raises(UnusableDatabase, match=words):
            inspect_file(path, verify_all)
    with closing(sqlite3.connect(database.path)) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
        connection.commit()
    with pytest.raises(UnusableDatabase, match="of another release"):
        inspect_file(database.path, verify_all)


def test_verifying_changes_nothing(file: Path, tmp_path: Path) -> None:
    path = Path(shutil.copy(file, tmp_path / "ledger.db"))
    before = path.read_bytes()
    check_sound(path)
    assert path.read_bytes() == before
