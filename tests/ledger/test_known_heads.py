"""Heads that are not read again: only where nobody else can have changed them."""

from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import ClauseElement

from ledger import statements
from ledger.errors import Busy
from ledger.group import Transaction
from ledger.heads import Head
from ledger.known_heads import KNOWN_BYTES_MAX, KNOWN_MIN, KnownHeads, LogEnd
from ledger.ledger import Ledger
from ledger.log import Log
from ledger.postgres.transaction import PostgresTransaction
from ledger.rebuild import compare
from ledger.sqlite import SqliteTransaction
from ledger.store import inspect_database
from projections.operations import Increment
from projections.size import METADATA_BYTES_DEFAULT, METADATA_BYTES_MAX
from tests.ledger.support import Database, change, create

ONE_MORE = Increment(key="n", value=1)


async def test_what_another_ledger_wrote_in_between_is_seen(
    open_ledger: Callable[..., Any], log: Log, database: Database
) -> None:
    other = await (await open_ledger()).log("dev")
    await create(log, "root", metadata={"n": 0})
    await create(log, "run", parent="root", metadata={"n": 0})
    for turn in range(1, 5):
        for number, each in enumerate((log, other, other)):
            changed = await change(each, "run", ONE_MORE, root_operations=[ONE_MORE])
            assert changed.snapshot.metadata == {"n": (turn - 1) * 3 + number + 1}
    assert (await log.current("root")).text == '{"n":12}'
    assert (await log.current("run")).version == 13


@pytest.mark.altered
@pytest.mark.only("sqlite")
async def test_a_head_that_was_changed_without_an_event_is_read_anew(log: Log, database: Database) -> None:
    await create(log, "run", metadata={"n": 0})
    await change(log, "run", ONE_MORE)
    database.alter("UPDATE runs SET metadata = '{\"n\":40}', size_bytes = 8")
    assert (await change(log, "run", ONE_MORE)).snapshot.metadata == {"n": 41}


@pytest.mark.altered
@pytest.mark.parametrize("by", ["the same process", "another one"])
async def test_a_head_that_was_put_right_is_read_anew(
    open_ledger: Callable[..., Any], database: Database, by: str
) -> None:
    first = await open_ledger()
    log = await first.log("dev")
    await create(log, "run", metadata={"n": 0})
    await first.close()
    database.alter("UPDATE runs SET metadata = '{\"n\":40}', size_bytes = 8")
    ledger = await open_ledger()
    log = await ledger.log("dev")
    await change(log, "run", ONE_MORE)  # It knows the wrong one now.
    (difference,) = inspect_database(database.url, compare)
    await (ledger if by == "the same process" else await open_ledger()).repair(difference)
    assert (await change(log, "run", ONE_MORE)).snapshot.metadata == {"n": 2}


async def test_heads_of_a_group_that_failed_are_forgotten(
    ledger: Ledger, log: Log, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    await create(log, "run", metadata={"n": 0})
    await change(log, "run", ONE_MORE)
    write = ledger._store.write

    async def fail_at_the_end(work: Callable[[Transaction], Any]) -> Any:
        def failing(transaction: Transaction) -> None:
            work(transaction)
            raise Busy("no")

        return await write(failing)

    with monkeypatch.context() as patch:
        patch.setattr(ledger._store, "write", fail_at_the_end)
        with pytest.raises(Busy):
            await change(log, "run", ONE_MORE)
    changed = await change(log, "run", ONE_MORE)
    assert (changed.snapshot.metadata, changed.snapshot.version) == ({"n": 2}, 3)


async def test_known_heads_are_not_read(
    open_ledger: Callable[..., Any], log: Log, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = await (await open_ledger()).log("dev")
    await create(log, "root", metadata={"n": 0})
    await create(log, "run", parent="root", metadata={"n": 0})
    await create(log, "another")
    asked: list[ClauseElement] = []
    engine: Any = PostgresTransaction if database.is_postgres else SqliteTransaction
    rows = engine.rows

    def watched(self: Transaction, statement: ClauseElement, parameters: Any) -> Any:
        asked.append(statement)
        return rows(self, statement, parameters)

    monkeypatch.setattr(engine, "rows", watched)
    await change(log, "run", ONE_MORE, root_operations=[ONE_MORE])
    assert asked == [statements.LOCK_LOG]
    await change(other, "another", ONE_MORE)
    asked.clear()
    await change(log, "run", ONE_MORE, root_operations=[ONE_MORE])
    assert asked == [statements.LOCK_LOG, statements.HEADS, statements.HEADS]
    await change(log, "run", ONE_MORE, parent_operations=[ONE_MORE])
    assert asked[3:] == [statements.LOCK_LOG]


def head(run_id: str) -> Head:
    return Head(1, object(), None, None, 0, b"", 0, None)  # type: ignore[arg-type]


def test_only_the_heads_that_were_used_last_are_known() -> None:
    known = KnownHeads(METADATA_BYTES_DEFAULT)
    most = KNOWN_BYTES_MAX // METADATA_BYTES_DEFAULT
    ends = [LogEnd(position, 1, 1, "mark") for position in range(4)]
    known.propose(ends[0], {}, {f"run_{number}": head("x") for number in range(most)})
    known.confirm()
    heads = known.take(ends[0])
    assert len(heads) == most
    known.propose(ends[1], heads, {"run_0": head("run_0"), "new": head("new")})
    known.confirm()
    assert [*known.take(ends[1])][-3:] == [f"run_{most - 1}", "run_0", "new"]
    assert known.take(ends[1]) == {}
    large = KnownHeads(METADATA_BYTES_MAX)
    large.propose(ends[0], {}, {f"run_{number}": head("x") for number in range(most)})
    large.confirm()
    assert len(large.take(ends[0])) == KNOWN_MIN


@pytest.mark.parametrize(
    "end",
    [
        LogEnd(8, 1, 1, "a"),
        LogEnd(7, 2, 1, "a"),
        LogEnd(7, 1, 2, "a"),
        LogEnd(7, 1, 1, "b"),
        LogEnd(7, 1, 1, None),
    ],
)
def test_nothing_is_known_where_the_log_ends_elsewhere_or_somebody_committed(end: LogEnd) -> None:
    known = KnownHeads(METADATA_BYTES_DEFAULT)
    known.propose(LogEnd(7, 1, 1, "a"), {}, {"run": head("run")})
    assert known.take(LogEnd(7, 1, 1, "a")) == {}  # It was never confirmed.
    known.propose(LogEnd(7, 1, 1, "a"), {}, {"run": head("run")})
    known.confirm()
    assert known.take(end) == {}


def test_what_a_failed_group_proposed_is_not_confirmed_by_what_comes_after_it() -> None:
    end = LogEnd(7, 1, 1, "a")
    known = KnownHeads(METADATA_BYTES_DEFAULT)
    known.propose(end, {}, {"run": head("run")})
    known.forget()
    known.confirm()
    assert known.take(end) == {}
