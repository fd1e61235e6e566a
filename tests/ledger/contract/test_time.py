"""What is recorded when, and the metadata as it stood."""

import asyncio
import random
from collections.abc import Callable
from typing import Any

import pytest
from pydantic import JsonValue

from ledger import reads
from ledger.errors import RunNotFound, VersionNotFound
from ledger.log import Log
from projections.lifecycle import Status
from projections.operations import AppendItem, Delete, Increment, Operation, RemoveItem, Set, Update
from projections.snapshot import Snapshot
from tests.ledger.support import SECOND, START, Clock, change, create, events, move

KEYS = ["a", "b", "$.b.c", "$.b.list.0", "d.e", "$.list.1", "list"]


def some_operation(chance: random.Random) -> Operation:
    key = chance.choice(KEYS)
    choices: list[JsonValue] = [1, None, True, "ü", [1, 2], {"c": 1}, {"list": [1]}, 0.1, 1e21]
    value = chance.choice(choices)
    operations: list[Operation] = [
        Set(key=key, value=value),
        AppendItem(key=key, value=value),
        RemoveItem(key=key, value=value),
        Increment(key=key, value=chance.choice([1, 0.1, -3])),
        Delete(key=key),
        Update(value={"b": {"c": value, "list": [value]}, "list": [1, value]}),
    ]
    return chance.choice(operations)


@pytest.mark.parametrize("chunk", [3, 1_000])
async def test_time_travel_to_every_version_and_moment_shows_what_was_answered_then(
    log: Log, clock: Clock, monkeypatch: pytest.MonkeyPatch, chunk: int
) -> None:
    monkeypatch.setattr(reads, "CHUNK", chunk)
    chance = random.Random(chunk)
    await create(log, "run_1", metadata={"list": [1]})
    known = {1: Snapshot.of({"list": [1]}, 1)}
    recorded = {1: clock.now}
    for step in range(60):
        clock.now += chance.choice([0, 1, 2, SECOND])
        if step % 10 == 9:
            await move(log, "run_1", chance.choice([Status.EXECUTING, Status.WAITING]))
            snapshot = await log.metadata("run_1")
        else:
            operations = [some_operation(chance) for _ in range(chance.choice([1, 1, 3]))]
            snapshot = (await change(log, "run_1", *operations)).snapshot
        for version in range(max(known) + 1, snapshot.version + 1):
            recorded[version] = clock.now
        known[snapshot.version] = snapshot
    last = max(known)
    for version, snapshot in known.items():
        assert await log.metadata("run_1", version=version) == snapshot
    moments = {moment + aside for moment in recorded.values() for aside in (-1, 0, 1)} - {START - 1}
    for moment in moments:
        version = max(version for version, at in recorded.items() if at <= moment)
        assert await log.metadata("run_1", at=moment) == await log.metadata("run_1", version=version)
    assert await log.metadata("run_1", at=10**18) == known[last]
    for nowhere in (0, -1, last + 1, 2**40):
        with pytest.raises(VersionNotFound) as unknown:
            await log.metadata("run_1", version=nowhere)
        assert (unknown.value.run_id, unknown.value.last) == ("run_1", last)
    for before in (START - 1, 0):
        with pytest.raises(VersionNotFound):
            await log.metadata("run_1", at=before)


async def test_all_events_of_one_moment_are_seen_together(log: Log, clock: Clock) -> None:
    await create(log, "run_1")
    await change(log, "run_1", *(Increment(key="n", value=1) for _ in range(20)))
    clock.advance(1)
    await change(log, "run_1", Increment(key="n", value=1))
    assert await log.metadata("run_1", at=START) == Snapshot.of({"n": 20}, 21)
    assert await log.metadata("run_1", at=START + SECOND - 1) == Snapshot.of({"n": 20}, 21)
    assert await log.metadata("run_1", at=START + SECOND) == Snapshot.of({"n": 21}, 22)


async def test_an_unknown_run_has_no_past(log: Log) -> None:
    for when in ({}, {"version": 1}, {"at": START}):
        with pytest.raises(RunNotFound):
            await log.metadata("nobody", **when)


async def test_a_clock_that_jumps_back_never_takes_recorded_times_with_it(log: Log, clock: Clock) -> None:
    chance = random.Random(1)
    await create(log, "run_1")
    await create(log, "run_2")
    clocks = []
    for _ in range(40):
        clock.now += chance.randint(-10, 8) * SECOND
        clocks.append(clock.now)
        await change(log, chance.choice(["run_1", "run_2"]), Increment(key="n", value=1))
    highest = [max([START, *clocks[: n + 1]]) for n in range(len(clocks))]
    both = [*await events(log, "run_1"), *await events(log, "run_2")]
    found = sorted((event.position, event.recorded_at) for event in both)
    assert [recorded for _, recorded in found] == [START, START, *highest]
    for run_id in ("run_1", "run_2"):
        run = (await log.run(run_id)).run
        assert run.updated_at == (await events(log, run_id))[-1].recorded_at
        for event in await events(log, run_id):
            later = await log.metadata(run_id, at=event.recorded_at)
            assert later.version >= event.version


async def test_times_do_not_go_back_over_a_restart(open_ledger: Callable[..., Any], clock: Clock) -> None:
    ledger = await open_ledger()
    await create(await ledger.log("dev"), "run_1")
    await ledger.close()
    clock.advance(-500)
    log = await (await open_ledger()).log("dev")
    await change(log, "run_1", Set(key="a", value=1))
    assert [event.recorded_at for event in await events(log, "run_1")] == [START, START]
    assert await log.metadata("run_1", at=START) == Snapshot.of({"a": 1}, 2)


async def test_reads_and_writes_at_the_same_time_never_see_half_a_request(log: Log) -> None:
    await create(log, "root")
    await create(log, "run", parent="root")

    async def write() -> None:
        for _ in range(40):
            one = [Increment(key="n", value=1)]
            await change(log, "run", *one, *one, parent_operations=one)

    writing = asyncio.create_task(write())
    while not writing.done():
        snapshot, history = await asyncio.gather(log.metadata("run"), events(log, "run"))
        assert snapshot.version % 2 == 1
        assert len(history) % 2 == 1
        count = (snapshot.version - 1) // 2
        assert snapshot.metadata.get("n", 0) == count * 2
        assert (await log.current("root")).version >= count + 1
    await writing
    assert ((await log.current("run")).version, (await log.current("root")).version) == (81, 41)
