"""What lets one write through lets no second one through."""

import asyncio

import pytest

from ledger.errors import IdempotencyConflict, TokenSpent, UnknownParent
from ledger.log import Log
from ledger.writes import NOBODY, CreateRun, IdempotencyKey, OneTime
from tests.ledger.support import START, Clock

DAY = 86_400_000_000
TICKET = OneTime("ab" * 32, START + 20 * DAY)


def run(number: int) -> CreateRun:
    return CreateRun(run_id=f"run_{number}", task="t")


async def test_the_second_write_is_refused_and_leaves_nothing(log: Log) -> None:
    await log.create(run(1), one_time=TICKET)
    position = (await log.end()).position
    with pytest.raises(TokenSpent):
        await log.create(run(2), one_time=TICKET)
    assert (await log.end()).position == position
    await log.create(run(3), one_time=OneTime("cd" * 32, TICKET.expires_at))


async def test_of_many_at_once_one_gets_through(log: Log) -> None:
    outcomes = await asyncio.gather(
        *(log.create(run(number), one_time=TICKET) for number in range(20)), return_exceptions=True
    )
    assert sum(isinstance(outcome, TokenSpent) for outcome in outcomes) == 19
    assert (await log.end()).position == 1


async def test_a_write_that_is_refused_spends_nothing(log: Log) -> None:
    with pytest.raises(UnknownParent):
        await log.create(CreateRun(run_id="run_1", task="t", parent="nobody"), one_time=TICKET)
    await log.create(run(1), one_time=TICKET)


async def test_the_same_request_gets_its_answer_again(log: Log) -> None:
    key = IdempotencyKey("request", b"1" * 32)
    first = await log.create(run(1), NOBODY, key, TICKET)
    again = await log.create(run(2), NOBODY, key, TICKET)
    assert (again.run_id, again.is_replay) == (first.run_id, True)
    with pytest.raises(IdempotencyConflict):
        await log.create(run(2), NOBODY, IdempotencyKey("request", b"2" * 32), TICKET)


async def test_it_is_remembered_longer_than_other_keys_and_then_forgotten(log: Log, clock: Clock) -> None:
    await log.create(run(0), one_time=TICKET)
    for number in range(1, 20):
        clock.now += DAY
        await log.create(run(number), NOBODY, IdempotencyKey(f"request-{number}", b"1" * 32))
        with pytest.raises(TokenSpent):
            await log.create(run(100), one_time=TICKET)
    clock.now += DAY
    await log.create(run(100), one_time=TICKET)  # By then whoever shows it is refused before.
