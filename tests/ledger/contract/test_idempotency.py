"""The same request sent again has one effect and gets the first answer."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest

from ledger.answers import Changed, Created, Moved
from ledger.errors import IdempotencyConflict, LateWrite, RunNotFound, WrongExpectedVersion
from ledger.log import Log
from ledger.writes import ChangeMetadata, ChangeStatus, CreateRun
from projections.errors import BadTransition, TooLarge
from projections.lifecycle import Status
from projections.operations import AppendItem, Increment, RemoveItem, Set, Update
from tests.ledger.support import SECOND, Clock, Database, change, create, move, once

WEEK_S = 7 * 86_400
Ask = Callable[[Log, str, str], Awaitable[Any]]


def ask_create(log: Log, key: str, request: str) -> Awaitable[Any]:
    return log.create(CreateRun(run_id="new", task="t", metadata={"a": 1}), idempotency=once(key, request))


def ask_cached_create(log: Log, key: str, request: str) -> Awaitable[Any]:
    return log.create(CreateRun(run_id="run", task="t", parent="parent"), idempotency=once(key, request))


def ask_change(log: Log, key: str, request: str) -> Awaitable[Any]:
    return change(
        log,
        "run",
        Update(value={"z": 1, "a": [1e21, 1e-7, 0.1]}),
        AppendItem(key="list", value={"b": 1, "a": 2}),
        RemoveItem(key="z", value=1),
        Increment(key="n", value=0.1),
        Increment(key="n", value=0.2),
        parent_operations=[Increment(key="n", value=1), RemoveItem(key="n", value=1)],
        root_operations=[RemoveItem(key="n", value=1), Increment(key="n", value=1)],
        idempotency=once(key, request),
    )


def ask_nothing(log: Log, key: str, request: str) -> Awaitable[Any]:
    return change(log, "run", idempotency=once(key, request))


def ask_status(log: Log, key: str, request: str) -> Awaitable[Any]:
    return log.move(
        ChangeStatus(run_id="run", status=Status.FAILED, error={"message": "x"}), idempotency=once(key, request)
    )


def ask_same_status(log: Log, key: str, request: str) -> Awaitable[Any]:
    return log.move(ChangeStatus(run_id="run", status=Status.EXECUTING), idempotency=once(key, request))


def replayed(first: Any) -> Any:
    """The same answer, as the request gets it when it comes again."""
    return first._replace(is_replay=True)


ASKS = [ask_create, ask_cached_create, ask_change, ask_nothing, ask_status, ask_same_status]


async def family(log: Log) -> None:
    await create(log, "root")
    await create(log, "parent", parent="root")
    await create(log, "run", parent="parent", status=Status.EXECUTING, metadata={"old": True})


async def meddle(log: Log, clock: Clock) -> None:
    """What others do between a request and its retry."""
    clock.advance(1)
    await change(log, "run", Update(value={"other": 1}))
    for run_id in ("parent", "root"):
        await change(log, run_id, Set(key="n", value=-1))
    await move(log, "run", Status.WAITING, attempt=2)


@pytest.mark.parametrize("ask", ASKS)
async def test_a_replay_is_the_first_answer_field_by_field_and_writes_nothing(
    log: Log, clock: Clock, database: Database, ask: Ask
) -> None:
    await family(log)
    first = await ask(log, "key", "request")
    assert not first.is_replay
    await meddle(log, clock)
    before = database.counts()
    assert await ask(log, "key", "request") == replayed(first)
    assert database.counts() == before


@pytest.mark.parametrize("ask", ASKS)
async def test_a_replay_survives_reopening(
    open_ledger: Callable[..., Any], clock: Clock, database: Database, ask: Ask
) -> None:
    ledger = await open_ledger()
    log = await ledger.log("dev")
    await family(log)
    first = await ask(log, "key", "request")
    await meddle(log, clock)
    await ledger.close()
    before = database.counts()
    again = await (await open_ledger()).log("dev")
    assert await ask(again, "key", "request") == replayed(first)
    assert database.counts() == before


@pytest.mark.parametrize("ask", ASKS)
@pytest.mark.parametrize("together", [True, False])
async def test_two_in_flight_at_once_have_one_effect(
    log: Log, database: Database, caplog: pytest.LogCaptureFixture, ask: Ask, together: bool
) -> None:
    await family(log)
    one = await ask(log, "alone", "request") if not together else None
    before = database.counts()
    first, *others = await asyncio.gather(*(ask(log, "alone" if one else "key", "request") for _ in range(5)))
    if one is not None:
        assert [first, *others] == [replayed(one)] * 5
        assert database.counts() == before
    else:
        assert not first.is_replay
        assert others == [replayed(first)] * 4
        assert database.counts()["idempotency"] == 1
    assert not [record for record in caplog.records if record.levelname == "ERROR"], (
        "the group had to be tried alone"
    )


@pytest.mark.parametrize("ask", ASKS)
async def test_another_request_under_the_same_key_is_refused(log: Log, database: Database, ask: Ask) -> None:
    await family(log)
    await ask(log, "key", "request")
    before = database.counts()
    with pytest.raises(IdempotencyConflict) as refused:
        await ask(log, "key", "another")
    assert refused.value.key == "key"
    for other in ASKS:
        with pytest.raises(IdempotencyConflict):
            await other(log, "key", other.__name__)
    assert database.counts() == before


async def test_another_request_in_the_same_group_is_refused(log: Log) -> None:
    await family(log)
    answers = await asyncio.gather(
        change(log, "run", Increment(key="n", value=1), idempotency=once("key", "a")),
        change(log, "run", Increment(key="n", value=2), idempotency=once("key", "b")),
        change(log, "run", Increment(key="n", value=1), idempotency=once("key", "a")),
        return_exceptions=True,
    )
    assert [type(answer) for answer in answers] == [Changed, IdempotencyConflict, Changed]
    assert (await log.metadata("run")).metadata == {"old": True, "n": 1}


async def test_the_key_is_looked_up_before_anything_else_is_judged(log: Log, clock: Clock) -> None:
    await create(log, "run")
    request = ChangeMetadata(run_id="run", operations=[Increment(key="n", value=1)], expected=frozenset({1}))
    first = await log.change(request, idempotency=once("a"))
    assert await log.change(request, idempotency=once("a")) == replayed(first)
    with pytest.raises(WrongExpectedVersion):
        await log.change(request)
    step = ChangeStatus(run_id="run", status=Status.COMPLETED, expected=frozenset({2}))
    moved = await log.move(step, idempotency=once("b"))
    clock.advance(4_000)
    assert await log.move(step, idempotency=once("b")) == replayed(moved)
    assert await log.change(request, idempotency=once("a")) == replayed(first)
    with pytest.raises(LateWrite):
        await log.change(replace(request, expected=None))


async def test_a_key_is_remembered_for_seven_days_and_then_runs_again(
    log: Log, clock: Clock, database: Database
) -> None:
    await create(log, "run")
    begun = clock.now
    await change(log, "run", Increment(key="n", value=1), idempotency=once("key"))
    clock.now = begun + WEEK_S * SECOND - 1
    assert (await change(log, "run", Increment(key="n", value=1), idempotency=once("key"))).is_replay
    clock.now += 1
    again = await asyncio.gather(
        *(change(log, "run", Increment(key="n", value=1), idempotency=once("key", "other")) for _ in range(3))
    )
    assert [answer.is_replay for answer in again] == [False, True, True]
    assert (await log.current("run")).text == '{"n":2}'
    assert database.rows("SELECT key, fingerprint, version FROM idempotency") == [
        {"key": "key", "fingerprint": b"other", "version": 3}
    ]
    clock.advance(WEEK_S - 1)
    assert (await change(log, "run", Increment(key="n", value=1), idempotency=once("key", "other"))).is_replay


async def test_expired_keys_are_cleared_away_by_later_writes(log: Log, clock: Clock, database: Database) -> None:
    await create(log, "run")
    await asyncio.gather(
        *(change(log, "run", Increment(key="n", value=1), idempotency=once(f"k{n}")) for n in range(450))
    )
    clock.advance(1)
    await change(log, "run", idempotency=once("later"))
    assert database.counts()["idempotency"] == 451
    clock.advance(WEEK_S - 1)
    left = []
    for n in range(4):
        await change(log, "run", idempotency=once(f"new{n}"))
        left.append(database.value("SELECT count(*) FROM idempotency WHERE key LIKE 'k%'"))
    assert left == [250, 50, 0, 0]
    assert database.value("SELECT count(*) FROM idempotency") == 5


async def test_a_refused_write_is_not_remembered(log: Log, clock: Clock, database: Database) -> None:
    await create(log, "run")
    with pytest.raises(TooLarge):
        await change(log, "run", Set(key="a", value="x" * 5_000), idempotency=once("large"))
    with pytest.raises(RunNotFound):
        await change(log, "nobody", Set(key="a", value=1), idempotency=once("unknown"))
    with pytest.raises(WrongExpectedVersion):
        await change(log, "run", Set(key="a", value=1), expected=frozenset({5}), idempotency=once("stale"))
    await move(log, "run", Status.COMPLETED)
    with pytest.raises(BadTransition):
        await log.move(ChangeStatus(run_id="run", status=Status.FAILED), idempotency=once("step"))
    clock.advance(4_000)
    with pytest.raises(LateWrite):
        await change(log, "run", Set(key="a", value=1), idempotency=once("late"))
    assert database.counts()["idempotency"] == 0
    await move(log, "run", Status.EXECUTING, attempt=2)
    for key in ("large", "unknown", "stale", "step", "late"):
        answer = await change(log, "run", Increment(key="n", value=1), idempotency=once(key, "new"))
        assert not answer.is_replay
    assert (await log.current("run")).text == '{"n":5}'


async def test_replays_answer_what_each_kind_of_request_answers(log: Log) -> None:
    asked = once("create")
    command = CreateRun(run_id="run", task="t")
    assert await log.create(command, idempotency=asked) == Created("run", 1, is_cached=False)
    await change(log, "run", Set(key="a", value=1))
    assert await log.create(command, idempotency=asked) == Created("run", 1, is_cached=False, is_replay=True)
    assert await log.create(command, idempotency=once("again")) == Created("run", 2, is_cached=True)
    await change(log, "run", Set(key="a", value=2))
    assert await log.create(command, idempotency=once("again")) == Created(
        "run", 2, is_cached=True, is_replay=True
    )
    step = ChangeStatus(run_id="run", status=Status.EXECUTING)
    assert await log.move(step, idempotency=once("step")) == Moved("run", Status.EXECUTING, 4)
    await move(log, "run", Status.WAITING)
    assert await log.move(step, idempotency=once("step")) == Moved("run", Status.EXECUTING, 4, is_replay=True)


ODD_KEYS = [
    "k",
    "K",
    "k ",
    " k",
    "ключ",
    '"',
    "'",
    "\\",
    "\\u0041",
    "%",
    "k%",
    "𝄞",
    "\x7f",
    "\x01",
    "[1]",
    "1",
    "null",
]


async def test_odd_keys_are_different_keys(log: Log) -> None:
    await create(log, "run")
    for expected in (False, True):
        answers = await asyncio.gather(
            *(change(log, "run", Increment(key="n", value=1), idempotency=once(key)) for key in ODD_KEYS)
        )
        assert {answer.is_replay for answer in answers} == {expected}
    for key in ODD_KEYS:
        assert (await change(log, "run", Increment(key="n", value=1), idempotency=once(key))).is_replay
    assert (await log.current("run")).text == f'{{"n":{len(ODD_KEYS)}}}'


def test_a_key_with_a_nul_is_refused() -> None:
    with pytest.raises(ValueError, match="NUL"):
        once("a\0b")
    with pytest.raises(ValueError, match="NUL"):
        CreateRun(run_id="run", task="t", idempotency_key="a\0b")


# --- the trigger's key, which leads to a run for a time ---


def trigger(
    log: Log, run_id: str, key: str = "key", ttl_s: int = 60, task: str = "t", **fields: Any
) -> Awaitable[Any]:
    return create(log, run_id, task=task, idempotency_key=key, idempotency_ttl_s=ttl_s, **fields)


async def test_a_triggers_key_leads_to_its_run_until_it_expires(
    log: Log, clock: Clock, database: Database
) -> None:
    assert await trigger(log, "run_1", metadata={"a": 1}) == Created("run_1", 1, is_cached=False)
    clock.advance(60 - 1e-6)
    before = database.counts()
    assert await trigger(log, "run_2", ttl_s=9_999) == Created("run_1", 1, is_cached=True)
    assert database.counts() == before
    clock.now += 1
    assert await trigger(log, "run_2") == Created("run_2", 1, is_cached=False)
    assert await trigger(log, "run_3") == Created("run_2", 1, is_cached=True)
    assert (await log.current("run_1")).text == '{"a":1}'


async def test_a_triggers_key_counts_within_its_task(log: Log) -> None:
    assert (await trigger(log, "run_1")).run_id == "run_1"
    assert (await trigger(log, "run_2", task="other")).run_id == "run_2"
    assert (await trigger(log, "run_3", key="another")).run_id == "run_3"
    answers = await asyncio.gather(trigger(log, "run_4"), trigger(log, "run_5", task="other"))
    assert [answer.run_id for answer in answers] == ["run_1", "run_2"]


async def test_triggers_with_one_key_in_one_group_make_one_run(log: Log, database: Database) -> None:
    answers = await asyncio.gather(*(trigger(log, f"run_{n}") for n in range(5)))
    assert answers == [Created("run_0", 1, is_cached=False), *[Created("run_0", 1, is_cached=True)] * 4]
    assert database.counts()["runs"] == 1


@pytest.mark.parametrize("together", [True, False])
async def test_a_triggers_key_of_no_duration_leads_nowhere(log: Log, together: bool) -> None:
    asked = [trigger(log, f"run_{n}", ttl_s=0) for n in range(3)]
    answers = await asyncio.gather(*asked) if together else [await ask for ask in asked]
    assert answers == [Created(f"run_{n}", 1, is_cached=False) for n in range(3)]


async def test_a_run_that_a_triggers_key_leads_to_can_be_used_in_the_same_group(log: Log) -> None:
    await create(log, "root")
    await trigger(log, "run_1", parent="root")
    up = [Increment(key="n", value=1)]
    await asyncio.gather(
        trigger(log, "run_2"),
        create(log, "child", parent="run_1"),
        change(log, "run_1", *up, parent_operations=up),
        change(log, "child", *up, parent_operations=up, root_operations=up),
    )
    assert [(await log.current(run_id)).text for run_id in ("root", "run_1", "child")] == [
        '{"n":2}',
        '{"n":2}',
        '{"n":1}',
    ]


async def test_a_trigger_replayed_under_a_request_key_answers_with_the_run_it_led_to(log: Log) -> None:
    await trigger(log, "run_1")
    command = CreateRun(run_id="run_2", task="t", idempotency_key="key", idempotency_ttl_s=60)
    first = await log.create(command, idempotency=once("request"))
    assert first == Created("run_1", 1, is_cached=True)
    await change(log, "run_1", Set(key="a", value=1))
    assert await log.create(command, idempotency=once("request")) == replayed(first)
