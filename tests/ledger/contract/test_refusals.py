"""The refusals that are kept of a run."""

import asyncio

import pytest

from ledger.errors import RunNotFound
from ledger.log import Log
from projections.errors import TooLarge
from projections.operations import Set
from tests.ledger.support import Clock, Database, change, create


async def refuse(log: Log, size: int) -> None:
    with pytest.raises(TooLarge):
        await change(log, "run_1", Set(key="a", value="x" * size))


async def kept(log: Log) -> list[tuple[int, int | None]]:
    return [(refusal.number, refusal.size_bytes) for refusal in await log.refusals("run_1")]


def expected(first: int, last: int) -> list[tuple[int, int]]:
    return [(number, 4_097 + number) for number in range(first, last + 1)]


async def test_the_last_hundred_are_kept_and_all_are_counted(log: Log, clock: Clock, database: Database) -> None:
    await create(log, "run_1")
    for number in range(1, 100):
        await refuse(log, 4_095 + number)
    assert await kept(log) == expected(1, 99)
    for number in (100, 101, 102):
        clock.advance(1)
        await refuse(log, 4_095 + number)
    assert await kept(log) == expected(3, 102)
    assert [refusal.recorded_at for refusal in (await log.refusals("run_1"))[-2:]] == [
        clock.now - 1_000_000,
        clock.now,
    ]
    assert database.counts()["refusals"] == 100


@pytest.mark.parametrize("count", [1, 99, 100, 101, 250])
async def test_more_than_a_hundred_in_one_group_leave_the_last_hundred(log: Log, count: int) -> None:
    await create(log, "run_1")
    await refuse(log, 4_096)
    await asyncio.gather(*(refuse(log, 4_097 + n) for n in range(count)))
    assert await kept(log) == expected(max(1, count + 1 - 99), count + 1)


async def test_a_run_that_was_never_refused_has_none_and_an_unknown_one_is_unknown(log: Log) -> None:
    await create(log, "run_1")
    await create(log, "run_2")
    await refuse(log, 5_000)
    assert await log.refusals("run_2") == []
    with pytest.raises(RunNotFound):
        await log.refusals("nobody")


async def test_a_run_may_be_refused_in_the_group_that_makes_it(log: Log) -> None:
    await asyncio.gather(create(log, "run_1"), refuse(log, 4_096))
    assert await kept(log) == expected(1, 1)


async def test_a_refusal_holds_no_values(log: Log, database: Database) -> None:
    await create(log, "run_1")
    with pytest.raises(TooLarge):
        await change(log, "run_1", Set(key="a", value="secret" * 1_000))
    assert "secret" not in str(database.rows("SELECT * FROM refusals"))
