"""Many rows in one statement store what the same rows store one by one, and nothing that refuses them is evaded."""

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import count
from typing import Any

import psycopg
import pytest
from psycopg import errors

from ledger import statements
from ledger.chain import SALT_BYTES
from ledger.commit import commit_group
from ledger.errors import LedgerError
from ledger.group import Group
from ledger.ledger import Ledger
from ledger.postgres import rows
from ledger.postgres.rows import ROWS_MAX, TEXT_MAX, together
from ledger.writes import NOBODY, ChangeMetadata, ChangeStatus, CreateRun, Environment, TagRun, Write
from projections.errors import Refusal
from projections.lifecycle import Status
from projections.operations import AppendItem, Increment, Set
from tests.ledger.conftest import OpenLedger
from tests.ledger.support import Clock, Database, PostgresDatabase, check_chain, check_sound, once
from tests.postgres import Server

pytestmark = pytest.mark.only("postgresql")

HOSTILE = (
    "a\0b",
    "\ufdd0",
    "\0\ufdd0\ufdd2\ufdd1",
    'it\'s "quoted" `here` $$',
    "100 % %s %(a)s %%",
    "$1, ($2), {0} \\ \n\t",
    "\U0001f600 \U00010000 \u0301",
    "NULL",
    "",
)
STORED = {
    "logs": "environment_id, last_position, last_run_key, last_recorded_at",
    **dict.fromkeys(("runs", "run_tags", "events", "snapshots", "refusals", "batches", "batch_items"), "*"),
    "idempotency": "*",
}


@pytest.fixture
def other(postgres_server: Server) -> Iterator[PostgresDatabase]:
    """A second database without rows."""
    with postgres_server.database() as url:
        yield PostgresDatabase(url)


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The texts of what was sent with rows."""
    texts: list[str] = []

    def wire(name: str) -> None:
        original = getattr(psycopg.RawCursor, name)

        def wired(self: Any, query: Any, *arguments: Any, **options: Any) -> Any:
            texts.append(query.decode() if isinstance(query, bytes) else str(query))
            return original(self, query, *arguments, **options)

        monkeypatch.setattr(psycopg.RawCursor, name, wired)

    wire("execute")
    wire("executemany")
    return texts


def salt_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give the n-th event of a ledger the same salt each time."""
    numbers = count()
    monkeypatch.setattr(Group, "_salt", lambda _: next(numbers).to_bytes(SALT_BYTES))


def row_by_row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "together", lambda _: None)


async def write(ledger: Ledger, environment: Environment, writes: Sequence[Write], clock: Clock) -> list[Any]:
    """Carry out *writes* in one transaction."""
    work = partial(commit_group, environment=environment, writes=writes, rules=ledger.rules, clock=clock)
    return (await ledger._store.write(work)).outcomes


async def connection_of(ledger: Ledger) -> psycopg.Connection[Any]:
    """The one that the last write had, and that no write has now."""

    def work(transaction: Any) -> psycopg.Connection[Any]:
        connection: psycopg.Connection[Any] = transaction._connection
        return connection

    return await ledger._store.write(work)


def creations(number: int) -> list[Write]:
    """So many new runs: some with a parent among them, with tags, with keys, or with nothing."""
    return [
        Write(
            CreateRun(
                run_id=f"run_{n}",
                task=HOSTILE[n % 7],
                parent=f"run_{n // 2}" if n % 3 == 1 and n > 1 else None,
                tags=tuple(HOSTILE[: n % 4]),
                metadata={HOSTILE[n % 8]: HOSTILE[n % 9]},
                payload=HOSTILE[n % 5] if n % 2 else None,
                idempotency_key=f"trigger {n}" if n % 5 == 0 else None,
                idempotency_ttl_s=60,
            ),
            NOBODY,
            once(f"create {n}") if n % 4 else None,
        )
        for n in range(number)
    ]


def changes(number: int) -> list[Write]:
    """So many writes to the runs: changes of metadata, steps of their lives, tags and what is refused."""
    made: list[Write] = []
    for n in range(number):
        kind, run = n % 6, f"run_{n * 7 % number}"
        command: Any
        if kind == 0:
            command = ChangeStatus(run_id=run, status=Status.EXECUTING)
        elif kind == 1:
            command = TagRun(run_id=run, tags=(f"tag {n}", HOSTILE[n % 7]))
        elif kind == 2:
            command = ChangeMetadata(run_id=run, operations=(Set(key="big", value="x" * 5_000),))
        elif kind == 3:
            command = ChangeMetadata(
                run_id=run,
                operations=(Set(key=f"k{n % 3}", value=HOSTILE[n % 9]),),
                root_operations=(Increment(key="n", value=1),),
            )
        else:
            command = ChangeMetadata(
                run_id=run,
                operations=tuple(AppendItem(key="list", value=HOSTILE[(n + m) % 9]) for m in range(kind)),
            )
        made.append(Write(command, NOBODY, once(f"change {n}") if kind % 2 else None))
    return made


def stored(database: Database) -> dict[str, list[dict[str, Any]]]:
    return {
        name: database.rows(f"SELECT {columns} FROM {name} ORDER BY 1, 2, 3") for name, columns in STORED.items()
    }


@pytest.mark.parametrize("number", [1, 2, 3, 63, 64, 65, 200])
async def test_a_group_stores_what_its_writes_store_one_by_one(
    database: Database, other: PostgresDatabase, clock: Clock, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    both = []
    for place, is_grouped in ((database, True), (other, False)):
        with monkeypatch.context() as patched:
            salt_alike(patched)
            if not is_grouped:
                row_by_row(patched)
            ledger = await Ledger.open(place.url, clock=clock)
            owner = (await ledger.log("dev")).owner
            told = []
            for writes in (creations(number), changes(number)):
                groups = [writes] if is_grouped else [[one] for one in writes]
                for some in groups:
                    told += await write(ledger, owner, some, clock)
            await ledger.close()
        refused = [str(one) if isinstance(one, LedgerError | Refusal) else None for one in told]
        assert not [
            one for one in told if isinstance(one, Exception) and not isinstance(one, LedgerError | Refusal)
        ]
        both.append((refused, stored(place)))
    assert both[0] == both[1]
    assert len(both[0][1]["runs"]) == number
    assert check_chain(database) == len(both[1][1]["events"]) >= number
    check_sound(other)


async def test_many_operations_in_one_request_are_stored_as_they_came(
    database: Database, other: PostgresDatabase, clock: Clock, monkeypatch: pytest.MonkeyPatch, sent: list[str]
) -> None:
    operations = tuple(Set(key="text", value=f"{HOSTILE[n % 9]} {n}") for n in range(10_000))
    found = []
    for place in (database, other):
        with monkeypatch.context() as patched:
            salt_alike(patched)
            if place is other:
                row_by_row(patched)
            ledger = await Ledger.open(place.url, clock=clock)
            owner = (await ledger.log("dev")).owner
            await write(ledger, owner, creations(1), clock)
            sent.clear()
            await write(
                ledger, owner, [Write(ChangeMetadata(run_id="run_0", operations=operations), NOBODY)], clock
            )
            if place is database:
                assert sum("INTO events" in text for text in sent) == 10_000 // ROWS_MAX + 1
            await ledger.close()
        found.append(stored(place))
    assert found[0] == found[1]
    assert check_chain(database) == 10_001
    check_sound(other)


async def test_what_is_sent_with_many_rows_is_prepared_once(
    open_ledger: OpenLedger, clock: Clock, sent: list[str], database: Database
) -> None:
    """Whether a number is there or not makes no other statement."""
    ledger = await open_ledger()
    owner = (await ledger.log("dev")).owner
    await write(ledger, owner, creations(64), clock)
    writer = await connection_of(ledger)

    def prepared() -> int:
        texts = [row[0] for row in writer.execute("SELECT statement FROM pg_prepared_statements").fetchall()]
        return sum("INTO runs " in text and "($24" in text for text in texts)

    first = prepared()
    for round_ in range(3):
        some = [
            Write(
                CreateRun(run_id=f"run_{round_}_{n}", task="t", parent="run_0" if n % (round_ + 2) else None),
                NOBODY,
            )
            for n in range(64)
        ]
        await write(ledger, owner, some, clock)
    assert (first, prepared()) == (1, 1)


async def test_texts_that_are_too_large_together_are_sent_one_by_one(
    open_ledger: OpenLedger, clock: Clock, sent: list[str], database: Database
) -> None:
    ledger = await open_ledger()
    owner = (await ledger.log("dev")).owner
    payload = "ü" * (TEXT_MAX // 8)
    sent.clear()
    await write(
        ledger,
        owner,
        [Write(CreateRun(run_id=f"run_{n}", task="t", payload=payload), NOBODY) for n in range(9)],
        clock,
    )
    assert [text.count("(") for text in sent if "INTO events" in text] == [2, 2]
    assert [text.count("(") for text in sent if "INTO runs " in text] == [9, 2]
    details = await (await ledger.log("dev")).run("run_8")
    assert details.payload == payload


EVENT: dict[str, Any] = {
    "environment_id": 1,
    "run_key": 1,
    "type": "metadata.set",
    "actor": "me",
    "attempt": 1,
    "occurred_at": None,
    "recorded_at": 1,
    "headers": "{}",
    "data": "{}",
    "salt": b"s" * 16,
    "commitment": None,
    "hash": b"h" * 32,
}


def several(number: int, **last: Any) -> list[dict[str, Any]]:
    """Rows of events behind the first one, and others in the place of the last one's values."""
    made = [{**EVENT, "position": n, "version": n} for n in range(2, number + 2)]
    made[-1].update(last)
    return made


REFUSED: dict[str, tuple[Any, type[psycopg.Error], str]] = {
    "an event that is there": ({"position": 1}, errors.UniqueViolation, "events_pkey"),
    "a version that is there": ({"version": 1}, errors.UniqueViolation, "event_version_once"),
    "a position twice": ({"position": 2}, errors.UniqueViolation, "events_pkey"),
    "no run": ({"run_key": 77}, errors.ForeignKeyViolation, "events_environment_id_run_key_fkey"),
    "no environment": ({"environment_id": 77}, errors.ForeignKeyViolation, "events_environment_id"),
    "a short hash": ({"hash": b"h"}, errors.CheckViolation, "event_hash_length"),
    "no actor": ({"actor": None}, errors.NotNullViolation, "actor"),
    "a number that is too large": ({"attempt": 2**40}, errors.NumericValueOutOfRange, "integer out of range"),
}


@pytest.mark.parametrize("why", REFUSED)
@pytest.mark.parametrize("number", [2, 64])
async def test_a_row_that_is_refused_takes_all_others_with_it(
    ledger: Ledger, clock: Clock, database: Database, why: str, number: int
) -> None:
    await write(ledger, (await ledger.log("dev")).owner, creations(1), clock)
    last, error, message = REFUSED[why]

    def work(transaction: Any) -> None:
        transaction.send(statements.ADD_EVENTS, several(number, **last))

    with pytest.raises(error, match=message):
        await ledger._store.write(work)
    assert check_chain(database) == 1


async def test_the_log_stays_append_only_where_many_rows_would_change_it(
    ledger: Ledger, clock: Clock, database: Database, sent: list[str]
) -> None:
    owner = (await ledger.log("dev")).owner
    await write(ledger, owner, creations(3), clock)
    changed = [
        {"environment": owner.id, "at": n, "data": "{}", "salt": b"s" * 16, "commitment": b"c" * 32}
        for n in (1, 2, 3)
    ]
    with pytest.raises(errors.IntegrityConstraintViolation, match="events are append-only"):
        await ledger._store.write(lambda transaction: transaction.send(statements.REDACT_EVENT, changed))
    form = together(statements.ADD_EVENTS)
    assert form is not None
    text = form.text(2).decode() + " ON CONFLICT (environment_id, position) DO UPDATE SET data = excluded.data"
    values = form.values([{**EVENT, "position": n, "version": n} for n in (1, 2)])
    writer = await connection_of(ledger)
    with pytest.raises(errors.IntegrityConstraintViolation, match="events are append-only"):
        psycopg.RawCursor(writer).execute(text, values)
    assert check_chain(database) == 3


def change_of(owner: Environment, run_key: int, version: int) -> dict[str, Any]:
    return {
        "environment": owner.id,
        "run": run_key,
        "metadata": "{}",
        "size_bytes": 2,
        "version": version,
        "hash": b"h" * 32,
        "unsnapped_bytes": 0,
        "updated_at": 1,
    }


@pytest.mark.altered
async def test_the_last_change_of_a_row_holds_and_no_other_environment_is_touched(
    ledger: Ledger, clock: Clock, database: Database, sent: list[str]
) -> None:
    first, second = (await ledger.log("dev")).owner, (await ledger.log("prod")).owner
    for owner in (first, second):
        await write(ledger, owner, creations(4), clock)

    async def versions(*changed: dict[str, Any]) -> list[tuple[int, ...]]:
        sent.clear()
        await ledger._store.write(lambda transaction: transaction.send(statements.CHANGE_METADATA, changed))
        found = database.rows("SELECT environment_id, version FROM runs ORDER BY environment_id, run_key")
        return [
            tuple(row["version"] for row in found if row["environment_id"] == one.id) for one in (first, second)
        ]

    assert await versions(change_of(first, 1, 11), change_of(first, 3, 13)) == [(11, 1, 13, 1), (1, 1, 1, 1)]
    assert "FROM (VALUES" in sent[0]
    twice = change_of(first, 2, 12), change_of(first, 2, 22), change_of(first, 3, 23)
    assert await versions(*twice) == [(11, 22, 23, 1), (1, 1, 1, 1)]
    assert "FROM (VALUES" not in sent[0]
    assert await versions(change_of(first, 4, 14), change_of(second, 4, 24)) == [(11, 22, 23, 14), (1, 1, 1, 24)]
    assert "FROM (VALUES" not in sent[0]


async def test_a_write_never_reads_a_whole_table(
    ledger: Ledger, clock: Clock, database: Database, sent: list[str]
) -> None:
    """Though it is planned while the tables are small, and no plan is made anew when they have grown."""
    owner = (await ledger.log("dev")).owner
    for size in (2, 4, 64):
        made = [Write(CreateRun(run_id=f"run_{size}_{n}", task="t"), NOBODY) for n in range(size)]
        await write(ledger, owner, made, clock)
        moved = [
            Write(ChangeStatus(run_id=f"run_{size}_{n}", status=Status.EXECUTING), NOBODY) for n in range(size)
        ]
        await write(ledger, owner, moved, clock)
        database.rows("ANALYZE runs")
    connection = await connection_of(ledger)
    for statement in (statements.CHANGE_METADATA, statements.CHANGE_HEADS):
        form = together(statement)
        assert form is not None
        for size in (2, 64):
            connection.execute(f"PREPARE planned AS {form.text(size).decode()}", prepare=False)
            nulls = ", ".join(["NULL"] * (form.text(size).decode().count("::") * size + 1))
            plan = connection.execute(f"EXPLAIN EXECUTE planned ({nulls})", prepare=False).fetchall()
            connection.execute("DEALLOCATE planned", prepare=False)
            lines = "\n".join(line for (line,) in plan)
            assert "Seq Scan" not in lines
            assert lines.count("run_key = ANY") >= 1


def test_a_group_is_sent_in_parts_of_a_power_of_two() -> None:
    for number in (1, 2, 3, 63, 64, 65, 200, 10_000):
        parts = [*rows._parts([{"n": n} for n in range(number)])]
        assert [row["n"] for part in parts for row in part] == [*range(number)]
        assert {len(part) for part in parts} <= {1, 2, 4, 8, 16, 32, 64}
