"""The life of a run, and writes that come too late."""

import asyncio
import itertools
from collections.abc import Callable
from typing import Any

import pytest

from ledger.answers import Moved
from ledger.errors import LateWrite, RunNotFound, WrongExpectedVersion
from ledger.log import Log
from ledger.writes import Caller, ChangeStatus, Refused
from projections.errors import BadTransition
from projections.lifecycle import Status
from projections.operations import Set
from tests.ledger.support import SECOND, START, Clock, Database, change, create, events, move, versions

FINISHED = [
    Status.COMPLETED,
    Status.CANCELED,
    Status.FAILED,
    Status.CRASHED,
    Status.SYSTEM_FAILURE,
    Status.EXPIRED,
    Status.TIMED_OUT,
]
UNFINISHED = [
    Status.PENDING_VERSION,
    Status.QUEUED,
    Status.DELAYED,
    Status.DEQUEUED,
    Status.EXECUTING,
    Status.WAITING,
]


def allowed(current: Status, wanted: Status, attempt: int) -> bool:
    """The rule in the design's words, for a run in attempt 2."""
    if wanted == current:
        return True
    if attempt < 2:
        return False
    if current in FINISHED:
        return wanted in UNFINISHED and attempt > 2
    return True


@pytest.mark.parametrize("current", Status)
async def test_every_step_between_statuses(log: Log, clock: Clock, current: Status) -> None:
    steps = list(itertools.product(Status, (1, 2, 3, None)))
    await asyncio.gather(*(create(log, f"run_{n}", status=current, attempt=2) for n in range(len(steps))))
    clock.advance(1)
    for n, (wanted, attempt) in enumerate(steps):
        run_id = f"run_{n}"
        before = (await log.run(run_id)).run
        if not allowed(current, wanted, attempt or 2):
            with pytest.raises(BadTransition) as refused:
                await move(log, run_id, wanted, attempt=attempt)
            assert (refused.value.run_id, refused.value.current, refused.value.wanted) == (run_id, current, wanted)
            assert (await log.run(run_id)).run == before
            (kept,) = await log.refusals(run_id)
            assert kept == Refused(
                number=1,
                version=1,
                code="bad-transition",
                reason=str(refused.value),
                key=None,
                size_bytes=None,
                limit_bytes=None,
                actor="anonymous",
                attempt=attempt or 2,
                headers="{}",
                recorded_at=clock.now,
            )
            continue
        moves = wanted != current
        assert await move(log, run_id, wanted, attempt=attempt) == Moved(run_id, wanted, 2 if moves else 1)
        after = (await log.run(run_id)).run
        if not moves:
            assert after == before
            continue
        assert (after.status, after.status_version, after.attempt, after.version) == (wanted, 2, attempt or 2, 2)
        assert after.finished_at == (clock.now if wanted in FINISHED else None)
        started = before.started_at or (clock.now if wanted == Status.EXECUTING else None)
        assert (after.started_at, after.updated_at, after.created_at) == (started, clock.now, START)
        assert await log.refusals(run_id) == []


async def test_a_life_of_two_attempts_keeps_its_times_output_and_error(log: Log, clock: Clock) -> None:
    await create(log, "run_1")
    clock.advance(1)
    await move(log, "run_1", Status.EXECUTING)
    clock.advance(1)
    await log.move(
        ChangeStatus(run_id="run_1", status=Status.FAILED, error={"message": "no"}, output=[0]), Caller(actor="ci")
    )
    details = await log.run("run_1")
    assert (details.error, details.output) == ({"message": "no"}, [0])
    assert (details.run.started_at, details.run.finished_at) == (START + SECOND, START + 2 * SECOND)
    clock.advance(1)
    await change(log, "run_1", Set(key="a", value=1))
    assert (await log.run("run_1")).error == {"message": "no"}
    clock.advance(1)
    await move(log, "run_1", Status.EXECUTING, attempt=2)
    details = await log.run("run_1")
    assert (details.error, details.output, details.run.finished_at) == (None, None, None)
    assert (details.run.started_at, details.run.attempt) == (START + SECOND, 2)
    clock.advance(1)
    await move(log, "run_1", Status.COMPLETED, output=None)
    assert (await log.run("run_1")).run.finished_at == clock.now
    assert await versions(log, "run_1") == [
        (1, "run.created", (await versions(log, "run_1"))[0][2]),
        (2, "run.status_changed", {"status": "EXECUTING"}),
        (3, "run.status_changed", {"status": "FAILED", "output": [0], "error": {"message": "no"}}),
        (4, "metadata.set", {"key": "a", "value": 1}),
        (5, "run.status_changed", {"status": "EXECUTING"}),
        (6, "run.status_changed", {"status": "COMPLETED"}),
    ]
    assert [(event.actor, event.attempt) for event in await events(log, "run_1")] == [
        ("anonymous", 1),
        ("anonymous", 1),
        ("ci", 1),
        ("anonymous", 1),
        ("anonymous", 2),
        ("anonymous", 2),
    ]


async def test_a_step_leaves_the_metadata_alone_and_moves_the_version(log: Log) -> None:
    await create(log, "run_1", metadata={"a": 1})
    await move(log, "run_1", Status.EXECUTING)
    assert ((await log.current("run_1")).text, (await log.current("run_1")).version) == ('{"a":1}', 2)
    assert [(await log.metadata("run_1", version=version)).text for version in (1, 2)] == ['{"a":1}'] * 2


async def test_a_stale_expected_version_or_an_unknown_run_is_refused(log: Log, database: Database) -> None:
    await create(log, "run_1")
    with pytest.raises(WrongExpectedVersion):
        await move(log, "run_1", Status.EXECUTING, expected=frozenset({2}))
    with pytest.raises(RunNotFound):
        await move(log, "nobody", Status.EXECUTING)
    assert (await move(log, "run_1", Status.EXECUTING, expected=frozenset({1}))).version == 2
    assert database.counts()["events"] == 2


async def test_metadata_and_status_changed_in_one_group_both_last(log: Log) -> None:
    await create(log, "run_1")
    await asyncio.gather(
        change(log, "run_1", Set(key="a", value=1)),
        move(log, "run_1", Status.EXECUTING),
        change(log, "run_1", Set(key="b", value=2)),
        move(log, "run_1", Status.COMPLETED, output="done"),
        change(log, "run_1", Set(key="c", value=3)),
    )
    details = await log.run("run_1")
    assert (details.run.status, details.run.status_version, details.output) == (Status.COMPLETED, 5, "done")
    assert details.run.snapshot.text == '{"a":1,"b":2,"c":3}'
    assert [kind for _, kind, _ in await versions(log, "run_1")] == [
        "run.created",
        "metadata.set",
        "run.status_changed",
        "metadata.set",
        "run.status_changed",
        "metadata.set",
    ]


@pytest.mark.parametrize(
    ("status", "window_s"), [*((status, 3_600) for status in FINISHED), (Status.FAILED, 0), (Status.FAILED, 5)]
)
async def test_writes_are_accepted_up_to_the_end_of_the_window(
    open_ledger: Callable[..., Any], clock: Clock, status: Status, window_s: int
) -> None:
    log = await (await open_ledger(late_write_s=window_s)).log("dev")
    await create(log, "run_1")
    await move(log, "run_1", status)
    finished = clock.now
    clock.now = finished + window_s * SECOND
    await change(log, "run_1", Set(key="a", value=1))
    clock.now += 1
    with pytest.raises(LateWrite) as refused:
        await change(log, "run_1", Set(key="a", value=2), attempt=4, caller=Caller(actor="ci"))
    assert (refused.value.run_id, refused.value.allowed_s) == ("run_1", window_s)
    assert ((await log.current("run_1")).text, (await log.current("run_1")).version) == ('{"a":1}', 3)
    (kept,) = await log.refusals("run_1")
    assert (kept.code, kept.version, kept.attempt, kept.actor) == ("late-write", 3, 4, "ci")
    assert (kept.reason, kept.recorded_at) == (str(refused.value), clock.now)


async def test_a_new_attempt_opens_the_run_again(log: Log, clock: Clock) -> None:
    await create(log, "run_1", status=Status.COMPLETED)
    clock.advance(3_601)
    with pytest.raises(LateWrite):
        await change(log, "run_1", Set(key="a", value=1))
    await move(log, "run_1", Status.EXECUTING, attempt=2)
    clock.advance(1_000_000)
    await change(log, "run_1", Set(key="a", value=1))
    assert (await log.current("run_1")).text == '{"a":1}'


async def test_a_status_may_come_after_the_window(log: Log, clock: Clock) -> None:
    await create(log, "run_1", status=Status.FAILED)
    clock.advance(10_000)
    assert await move(log, "run_1", Status.FAILED) == Moved("run_1", Status.FAILED, 1)
    assert await move(log, "run_1", Status.QUEUED, attempt=2) == Moved("run_1", Status.QUEUED, 2)
