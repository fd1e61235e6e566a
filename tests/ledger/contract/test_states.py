"""A run as it stood at one version after the other, and runs that belong together at one place of the log."""

import pytest

from ledger.errors import BadCursor, RunNotFound
from ledger.log import Log
from ledger.states import Mark, Members, RunState
from ledger.writes import ChangeStatus, CreateRun, TagRun
from projections.lifecycle import Status
from projections.operations import Increment
from projections.paths import parse_key
from tests.ledger.support import START, Clock, change


async def walk(log: Log, run_id: str, mark: Mark) -> list[RunState]:
    """Every state behind a mark."""
    found = []
    while (state := await log.state_after(run_id, mark)) is not None:
        found.append(state)
        mark = state.mark
    return found


async def live_through(log: Log, clock: Clock) -> None:
    """A run with nine versions."""
    await log.create(CreateRun(run_id="r", task="t", tags=("a",), payload={"rows": 3}, metadata={"n": 0}))
    await change(log, "r", Increment(key="n", value=1), Increment(key="n", value=1))
    clock.now += 1_000_000
    await log.move(ChangeStatus(run_id="r", status=Status.EXECUTING))
    await log.tag(TagRun(run_id="r", tags=("b",)))
    await change(log, "r", Increment(key="n", value=1))
    await log.move(ChangeStatus(run_id="r", status=Status.FAILED, error={"message": "no"}))
    await log.move(ChangeStatus(run_id="r", status=Status.EXECUTING, attempt=2))
    await change(log, "r", Increment(key="n", value=1))


async def test_every_version_is_found_from_the_one_before(log: Log, clock: Clock) -> None:
    await live_through(log, clock)
    states = await walk(log, "r", Mark(1, 1, 1))
    assert [state.run.version for state in states] == [*range(2, 10)]
    assert [state.run.snapshot.metadata["n"] for state in states] == [1, 2, 2, 2, 3, 3, 3, 4]
    assert [state.run.tags for state in states] == [("a",)] * 3 + [("a", "b")] * 5
    assert [state.run.status.value for state in states] == [
        "QUEUED",
        "QUEUED",
        "EXECUTING",
        "EXECUTING",
        "EXECUTING",
        "FAILED",
        "EXECUTING",
        "EXECUTING",
    ]
    assert [state.error for state in states] == [None] * 5 + [{"message": "no"}] + [None] * 2
    assert [state.run.attempt for state in states] == [1] * 6 + [2] * 2
    assert [state.run.started_at is None for state in states] == [True] * 2 + [False] * 6
    assert [state.run.finished_at is None for state in states] == [True] * 5 + [False] + [True] * 2
    assert [state.run.updated_at for state in states] == [START] * 2 + [START + 1_000_000] * 6
    current = await log.state("r")
    assert current.run == states[-1].run
    assert (current.payload, current.is_whole) == ({"rows": 3}, True)
    assert not states[-1].is_whole


async def test_a_mark_that_no_state_had_is_refused(log: Log, clock: Clock) -> None:
    await live_through(log, clock)
    for mark in (Mark(10, 8, 2), Mark(1, 2, 1), Mark(1, 0, 1), Mark(5, 5, 2)):
        with pytest.raises(BadCursor):
            await walk(log, "r", mark)
    with pytest.raises(RunNotFound):
        await log.state_after("nobody", Mark(1, 1, 0))


async def test_an_erasure_is_felt_by_who_is_on_the_way(log: Log, clock: Clock) -> None:
    await live_through(log, clock)
    first = await log.state_after("r", Mark(1, 1, 1))
    assert first is not None
    await log.erase("r", parse_key("n"), "asked for")
    states = await walk(log, "r", first.mark)
    assert all("n" not in state.run.snapshot.metadata for state in states)
    assert states[-1].run.version == 10


async def test_runs_that_belong_together_are_found_as_they_stood_at_one_place(log: Log, clock: Clock) -> None:
    await log.create(CreateRun(run_id="old", task="t", tags=("a", "b")))
    clock.now += 1_000_000
    await log.create(CreateRun(run_id="new", task="t", tags=("b", "a", "c"), batch="batch_1", metadata={"n": 0}))
    await log.create(CreateRun(run_id="other", task="t", tags=("a",), batch="batch_1"))
    position = (await log.end()).position
    await change(log, "new", Increment(key="n", value=1))
    await log.create(CreateRun(run_id="later", task="t", tags=("a", "b")))

    async def found(members: Members, at: int | None = None) -> list[tuple[str, int]]:
        page = await log.states(members, position=at)
        assert page.before is None
        return [(state.run.id, state.run.version) for state in page.states]

    both = frozenset({"a", "b"})
    assert await found(Members(tags=both)) == [("later", 1), ("new", 2), ("old", 1)]
    assert await found(Members(tags=both), position) == [("new", 1), ("old", 1)]
    assert await found(Members(tags=both, since=START + 1)) == [("later", 1), ("new", 2)]
    assert await found(Members(batch="batch_1"), position) == [("other", 1), ("new", 1)]
    assert await found(Members(tags=frozenset({"nothing"}))) == []
    with pytest.raises(BadCursor):
        await found(Members(tags=both), position + 10)


async def test_the_states_after_events_of_a_feed_are_those_of_their_versions(log: Log, clock: Clock) -> None:
    await live_through(log, clock)
    page = await log.events(limit=100)
    states = [state for entry in page.entries for state in await log.states_of([entry])]
    assert [(state.run.version, state.run.status_version) for state in states] == [
        (1, 1),
        (2, 1),
        (3, 1),
        (4, 4),
        (5, 4),
        (6, 4),
        (7, 7),
        (8, 8),
        (9, 8),
    ]
    assert [state.is_whole for state in states] == [version in {1, 5} for version in range(1, 10)]
