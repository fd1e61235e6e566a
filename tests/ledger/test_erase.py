"""Erasure: nothing of it is left, all else stays, and the log says what was done."""

import asyncio
import json
import re
import signal
from collections.abc import Callable
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger import erase as erasing
from ledger.errors import NothingToErase, RunNotFound, Unsound
from ledger.ledger import Ledger
from ledger.log import Log
from ledger.rebuild import compare
from ledger.sqlite import sweep
from ledger.store import inspect_database
from ledger.verify import verify_all
from ledger.writes import Caller
from projections.errors import Refusal
from projections.lifecycle import Status
from projections.metadata import ABSENT, value_at
from projections.operations import AppendItem, Delete, Increment, Operation, RemoveItem, Set, Update
from projections.paths import Path as KeyPath
from projections.paths import parse_key
from projections.size import METADATA_BYTES_MAX
from tests.api.server import environment
from tests.ledger.chain_oracle import expected_commitment
from tests.ledger.support import (
    Clock,
    Database,
    change,
    check_chain,
    check_sound,
    create,
    events,
    move,
    once,
    versions,
)
from tests.ledger.test_faults import ERRORS, Faults, faults
from tests.programs import Program
from tests.strategies import History, histories, places, thorough

__all__ = ["faults"]

SECRET = "3f9c-unique-text-of-32-bytes-2a7"
assert len(SECRET) == 32
ANN = Caller(actor="ann")


BOTH: list[Operation] = [Increment(key="n", value=1), Set(key="m", value=SECRET)]


async def everywhere(log: Log) -> None:
    """A run that held the secret at $.user.email in every way there is."""
    await create(log, "r", metadata={"user": {"email": SECRET, "name": "N"}, "n": 1}, payload={"p": 1})
    await change(log, "r", Set(key="$.user.email", value=f"second {SECRET}"), Set(key="$.user.name", value="M"))
    await change(log, "r", Set(key="$.user.email", value={}), Set(key=f"$.user.email.{SECRET}", value=1))
    await change(log, "r", AppendItem(key="$.user.email", value=SECRET), idempotency=once("k"))
    await change(log, "r", Set(key="user", value={"email": [SECRET, 1], "name": "K"}))
    await change(log, "r", RemoveItem(key="$.user.email", value=SECRET), Increment(key="n", value=1))
    await change(log, "r", Update(value={"user": {"email": SECRET}, "n": 5, "long": "x" * 3_000}))
    await change(log, "r", *[Increment(key="n", value=1)] * 60)
    await move(log, "r", Status.COMPLETED, output={"o": 1})
    for key in (f"$.user.email.{SECRET}.*", f"$.user.email.{SECRET}.length"):
        with pytest.raises(Refusal):
            await change(log, "r", Set(key="$.user.email", value={SECRET: [1]}), Set(key=key, value=1))
    never = Set(key=f"$.user.email.{SECRET}.x", value=1)
    assert len((await change(log, "r", never, idempotency=once("unapplied"))).unapplied) == 1
    await create(log, "other", metadata={"user": {"email": "of another"}})


DOCS = Path(__file__).parents[2] / "docs"


def found_in(database: Database, text: str) -> list[str]:
    """The files of a database, or the tables in the files of a server, that hold a text."""
    if database.is_postgres:
        database.rows("CHECKPOINT")
        # What is too long for a row lies in a table beside it, compressed.
        files = database.rows(
            "SELECT relname AS name, current_setting('data_directory') || '/' || pg_relation_filepath(oid) AS path"
            " FROM pg_class WHERE relkind IN ('r', 'i', 't') AND relfilenode <> 0"
        )
        return sorted(file["name"] for file in files if text.encode() in Path(file["path"]).read_bytes())
    ends = ("", "-wal", "-shm")
    paths = [database.path.with_name(database.path.name + end) for end in ends]
    return [path.name for path in paths if path.exists() and text.encode() in path.read_bytes()]


async def test_a_unique_text_is_nowhere_after_the_documented_steps(
    ledger: Ledger, log: Log, database: Database
) -> None:
    await everywhere(log)
    past = {version: await log.metadata("r", version=version) for version in range(1, 72)}
    other = await log.metadata("other")
    assert found_in(database, SECRET)
    before = database.rows("SELECT * FROM events ORDER BY position")
    erased = await log.erase("r", parse_key("$.user.email"), "asked by the person", ANN)
    assert SECRET not in "".join(map(repr, database.rows("SELECT * FROM events")))
    for table in ("runs", "snapshots", "refusals", "idempotency", "erasures"):
        assert SECRET not in repr(database.rows(f"SELECT * FROM {table}")), table

    after = database.rows("SELECT * FROM events ORDER BY position")
    touched = [old["version"] for old, new in zip(before, after, strict=False) if old["data"] != new["data"]]
    assert touched == [1, 2, 4, 5, 6, 7, 8, 10]
    assert erased.events == len(touched)
    for old, new in zip(before, after, strict=False):
        if old["version"] not in touched or old["run_key"] != 1:
            assert old == new
        else:
            assert {**old, "data": 0, "salt": 0, "commitment": 0} == {**new, "data": 0, "salt": 0, "commitment": 0}
            assert old["salt"] != new["salt"]
    for version, snapshot in past.items():
        expected = json.loads(snapshot.text)
        expected.get("user", {}).pop("email", None)
        assert (await log.metadata("r", version=version)).metadata == expected
    assert await log.metadata("other") == other
    replayed = await change(log, "r", AppendItem(key="$.user.email", value=SECRET), idempotency=once("k"))
    assert (replayed.is_replay, SECRET in replayed.snapshot.text) == (True, False)

    report = check_sound(database)
    (told,) = report.erasures
    assert (told.run_id, told.number, told.key, told.reason, told.actor, told.events) == (
        "r",
        1,
        "$.user.email",
        "asked by the person",
        "ann",
        8,
    )
    assert check_chain(database) == len(after)
    await ledger.close()
    assert found_in(database, SECRET) or not database.is_postgres
    if database.is_postgres:
        documented = re.search(r"`(VACUUM FULL [^`]*)`", (DOCS / "scaling.md").read_text())
        assert documented is not None
        database.rows(documented[1])
    else:
        assert sweep(database.path)
    assert found_in(database, SECRET) == []
    check_sound(database)


async def test_the_event_of_an_erasure_says_what_why_and_which_copies(log: Log, database: Database) -> None:
    await create(log, "r", metadata={"a": 1, "b": 2})
    await change(log, "r", Set(key="a", value=3))
    answer = await log.erase("r", parse_key("a"), "a reason", ANN)
    assert (answer.run_id, answer.version, answer.events) == ("r", 3, 2)
    *_, (version, kind, data) = await versions(log, "r")
    assert (version, kind) == (3, "run.erased")
    assert {name: data[name] for name in ("erasure", "key", "path", "reason")} == {
        "erasure": 1,
        "key": "a",
        "path": ["a"],
        "reason": "a reason",
    }
    assert [version for version, _ in data["redacted"]] == [1, 2]
    assert (await events(log, "r"))[-1].actor == "ann"
    assert json.loads((await log.current("r")).text) == {"b": 2}
    assert [event.version for event in await events(log, "r", parse_key("a"))] == [2, 3]
    row = database.rows("SELECT * FROM erasures")
    assert [(one["number"], one["key"], one["reason"], one["actor"], one["open"]) for one in row] == [
        (1, "a", "a reason", "ann", None)
    ]


async def test_a_run_goes_on_after_an_erasure_and_may_have_another(
    log: Log, database: Database, clock: Clock
) -> None:
    await create(log, "r", metadata={"a": {"x": 1}, "b": 2})
    await change(log, "r", Set(key="$.a.y", value=3))
    await log.erase("r", parse_key("$.a.y"), "one")
    clock.advance(5)
    await change(log, "r", Set(key="$.a.y", value=4), Increment(key="b", value=1))
    await log.erase("r", parse_key("a"), "two")
    await change(log, "r", Set(key="a", value="new"))
    assert json.loads((await log.current("r")).text) == {"b": 3, "a": "new"}
    report = check_sound(database)
    assert [(one.number, one.key, one.events) for one in report.erasures] == [(1, "$.a.y", 1), (2, "a", 3)]


async def test_a_path_that_never_held_anything_is_said_so_and_nothing_is_written(
    log: Log, database: Database
) -> None:
    await create(log, "r", metadata={"a": {"b": 1}})
    before = database.counts(), database.rows("SELECT * FROM logs")
    for key in ("z", "$.a.c", "$.a.b.c"):
        with pytest.raises(NothingToErase, match="holds nothing at"):
            await log.erase("r", parse_key(key), "why")
    with pytest.raises(RunNotFound):
        await log.erase("nobody", parse_key("a"), "why")
    await log.erase("r", parse_key("$.a.b"), "why")
    with pytest.raises(NothingToErase):
        await log.erase("r", parse_key("$.a.b"), "again")
    assert database.value("SELECT count(*) FROM erasures") == 1
    assert before[0]["events"] + 1 == database.counts()["events"]


@pytest.mark.parametrize("reason", ["", "  ", "x" * 1_001, "\ud800"])
async def test_a_reason_is_something_to_read(log: Log, reason: str) -> None:
    await create(log, "r", metadata={"a": 1})
    with pytest.raises(ValueError, match=r"reason|surrogates"):
        await log.erase("r", parse_key("a"), reason)


async def test_literal_keys_can_be_erased_whatever_they_look_like(log: Log) -> None:
    await create(log, "r", metadata={"$.a": 1, "a": 2, "a.b": 3})
    await log.erase("r", KeyPath(("$.a",), literal=True), "why")
    assert json.loads((await log.current("r")).text) == {"a": 2, "a.b": 3}
    await log.erase("r", parse_key("$.a"), "why")
    assert json.loads((await log.current("r")).text) == {"a.b": 3}


async def test_an_erasure_of_many_events_is_told_in_several(
    log: Log, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(erasing, "REDACTED_MAX", 40)
    monkeypatch.setattr(erasing, "CHUNK", 7)
    await create(log, "r")
    await change(log, "r", *BOTH * 50)
    assert (await log.erase("r", parse_key("m"), "why")).version == 101 + 2
    report = check_sound(database)
    assert [(one.number, one.events) for one in report.erasures] == [(1, 50)]
    assert SECRET not in repr(database.rows("SELECT * FROM snapshots"))
    assert json.loads((await log.current("r")).text) == {"n": 50}


async def test_writes_that_wait_with_an_erasure_keep_their_order(log: Log, database: Database) -> None:
    await create(log, "r")
    await asyncio.gather(
        change(log, "r", Set(key="a", value=1)),
        change(log, "r", Set(key="b", value=1)),
        log.erase("r", parse_key("a"), "why"),
        change(log, "r", Set(key="a", value=2)),
        log.erase("r", parse_key("b"), "why"),
    )
    assert [kind for _, kind, _ in await versions(log, "r")] == [
        "run.created",
        "metadata.set",
        "metadata.set",
        "run.erased",
        "metadata.set",
        "run.erased",
    ]
    assert json.loads((await log.current("r")).text) == {"a": 2}
    check_sound(database)


@pytest.mark.altered
async def test_a_run_that_does_not_verify_is_not_erased_from(ledger: Ledger, log: Log, database: Database) -> None:
    await create(log, "r", metadata={"a": 1})
    database.rows("""UPDATE runs SET metadata = '{"a":2}'""")
    with pytest.raises(Unsound, match="head's metadata"):
        await log.erase("r", parse_key("a"), "why")
    assert ledger._writer.is_alive


def state(database: Database) -> dict[str, Any]:
    tables = ("runs", "events", "snapshots", "refusals", "idempotency", "logs", "erasures")
    return {table: database.rows(f"SELECT * FROM {table}") for table in tables}


@pytest.mark.only("sqlite")
@pytest.mark.parametrize("kind", ["full", "busy", "constraint", "bug"])
async def test_an_error_at_any_statement_of_an_erasure_leaves_no_trace(
    faults: Faults, open_ledger: Callable[..., Any], database: Database, kind: str
) -> None:
    make, expected = ERRORS[kind]
    ledger = await open_ledger()
    log = await ledger.log("dev")
    await everywhere(log)
    before = state(database)
    at = 0
    while True:
        at += 1
        faults.plan(at, make)
        try:
            await log.erase("r", parse_key("$.user.email"), "why")
        except expected:
            assert faults.seen == at
            assert state(database) == before
        else:
            break
    assert at > 12
    faults.plan(0, make)
    assert SECRET not in repr(state(database))
    check_sound(database)


KILLED = """
import asyncio, os, signal, sys
from ledger import postgres, sqlite
from ledger.ledger import Ledger
from projections.paths import parse_key

async def main(url, at):
    ledger = await Ledger.open(url)
    log = await ledger.log("dev")
    sent = 0

    def counted(method):
        def call(*arguments):
            nonlocal sent
            sent += 1
            if sent == at:
                os.kill(os.getpid(), signal.SIGKILL)
            return method(*arguments)
        return call

    for name in ("rows", "send", "stream"):
        for kind in (sqlite.SqliteTransaction, postgres.PostgresTransaction):
            setattr(kind, name, counted(getattr(kind, name)))
    await log.erase("r", parse_key("m"), "why")
    print(sent)
    await ledger.close()

asyncio.run(main(sys.argv[1], int(sys.argv[2])))
"""


def killed_at(database: Database, statement: int) -> tuple[int | None, str, str]:
    """How it ended, and what it wrote."""
    program = Program(database.url, str(statement), script=KILLED, env=environment())
    out, err = program.rest(60)
    return program.returncode, out, err


async def test_an_erasure_that_is_killed_has_erased_all_or_nothing(
    ledger: Ledger, log: Log, database: Database
) -> None:
    await create(log, "r")
    for _ in range(4):
        await change(log, "r", *BOTH * 500)
    await ledger.close()
    secrets = "SELECT count(*) FROM events WHERE data LIKE ?", [f"%{SECRET}%"]
    for statement in (50,) if database.is_postgres else (2, 20, 50, 80):
        code, _, err = killed_at(database, statement)
        assert code == -signal.SIGKILL, err
        assert database.value(*secrets) == 2_000
        assert check_sound(database).erasure_count == 0
    _, out, err = killed_at(database, 10**6)
    assert int(out) > 80, err
    assert database.value(*secrets) == 0
    assert check_sound(database).erasure_count == 1


async def test_deleting_a_key_and_erasing_it_are_two_things(log: Log, database: Database) -> None:
    await create(log, "r", metadata={"a": SECRET})
    await change(log, "r", Delete(key="a"))
    assert SECRET in repr(await versions(log, "r"))
    await log.erase("r", parse_key("a"), "why")
    assert SECRET not in repr(await versions(log, "r"))
    assert (await versions(log, "r"))[1] == (2, "metadata.deleted", {"key": "a"})


@pytest.mark.only("sqlite")
async def test_a_sweep_leaves_a_database_alone_that_another_process_has_open(log: Log, database: Database) -> None:
    await create(log, "r", metadata={"a": SECRET})
    await log.erase("r", parse_key("a"), "why")
    assert sweep(database.path) is False
    assert (await change(log, "r", Set(key="b", value=1))).snapshot.version == 3


def test_whatever_is_erased_from_whatever_history_the_log_still_verifies(database: Database) -> None:
    @settings(thorough, max_examples=10 if database.is_postgres else 40)
    @given(histories(max_size=12), st.data())
    def holds(history: History, chance: st.DataObject) -> None:
        asyncio.run(erased(database, f"r{next(numbers)}", history, chance))
        assert inspect_database(database.url, compare) == []

    numbers = count()
    holds()
    check_sound(database)


async def erased(database: Database, run: str, history: History, chance: st.DataObject) -> None:
    """Live through a history, and then erase from it."""

    async def erase_twice(log: Log) -> None:
        await create(log, run, metadata=history.metadata)
        known = set(places(history.metadata))
        for operation in history.operations:
            known |= set(places((await change(log, run, operation)).snapshot.metadata))
        for _ in range(2):
            path = KeyPath(chance.draw(st.sampled_from(sorted(known) or [("a",)])), literal=False)
            version = (await log.current(run)).version
            with suppress(NothingToErase):
                await log.erase(run, path, "why")
            for past in range(1, version + 1):
                left = value_at((await log.metadata(run, version=past)).metadata, path)
                assert left is ABSENT or left is None
        await change(log, run, Set(key="after", value=1))

    ledger = await Ledger.open(database.url, metadata_bytes_max=METADATA_BYTES_MAX)
    try:
        await erase_twice(await ledger.log("dev"))
    finally:
        await ledger.close()


# --- what only looks like an erasure ---


def edited(database: Database, *statements: tuple[str, list[Any]]) -> list[str]:
    """What verify finds after somebody ran these with the triggers dropped."""
    for statement, parameters in statements:
        database.alter(statement, parameters=parameters)
    return [str(fault) for fault in inspect_database(database.url, verify_all).faults]


@pytest.mark.altered
async def test_a_replaced_text_that_no_event_names_is_no_erasure(log: Log, database: Database) -> None:
    await create(log, "r", metadata={"a": 1})
    await change(log, "r", Set(key="a", value=2))
    row = database.rows("SELECT salt, data FROM events WHERE version = 2")[0]
    first = expected_commitment(row["salt"], row["data"])
    replace = (
        "UPDATE events SET data = ?, commitment = ? WHERE version = 2",
        ['{"key":"a","erased":true}', first],
    )
    head = ("UPDATE runs SET metadata = ?, size_bytes = 7", ['{"a":1}'])
    assert edited(database, replace, head)[0] == (
        "run r (dev), version 2: its data was replaced, and no erasure of the run says so"
    )


@pytest.mark.altered
@pytest.mark.parametrize(
    "edit",
    [
        'UPDATE events SET data = \'{"key":"a","value":9,"erased":true}\' WHERE version = 2',
        "UPDATE events SET salt = randomblob(16) WHERE version = 2",
        "UPDATE events SET commitment = NULL WHERE version = 2",
        "UPDATE events SET commitment = randomblob(32) WHERE version = 2",
        "UPDATE events SET commitment = randomblob(32) WHERE version = 3",
        "UPDATE erasures SET reason = 'another'",
        "UPDATE erasures SET actor = 'another'",
        "UPDATE erasures SET open = -1",
        "DELETE FROM erasures",
        "INSERT INTO erasures SELECT environment_id, run_key, 2, key, reason, actor, recorded_at, NULL FROM erasures",
    ],
)
async def test_a_redacted_copy_can_be_altered_no_more_than_any_event(
    log: Log, database: Database, edit: str
) -> None:
    await create(log, "r", metadata={"a": 1})
    await change(log, "r", Set(key="a", value=2), Set(key="b", value=2))
    await log.erase("r", parse_key("a"), "why", ANN)
    check_sound(database)
    assert edited(database, (edit, [])) != []


@pytest.mark.altered
async def test_what_was_erased_cannot_be_put_back_unseen(log: Log, database: Database) -> None:
    await create(log, "r", metadata={"a": 1})
    await change(log, "r", Set(key="a", value=2))
    first = database.rows("SELECT data, salt FROM events WHERE version = 2")[0]
    await log.erase("r", parse_key("a"), "why", ANN)
    back = (
        "UPDATE events SET data = ?, salt = ?, commitment = NULL WHERE version = 2",
        [first["data"], first["salt"]],
    )
    assert "run r (dev), version 2: an erasure says that it was redacted, and it is not" in edited(database, back)
