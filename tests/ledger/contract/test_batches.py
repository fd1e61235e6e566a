"""Batches: each place is taken once, and a key leads to its batch."""

import asyncio

import pytest

from ledger.answers import Created
from ledger.errors import (
    BatchNotFound,
    BatchUnfinished,
    IdempotencyConflict,
    NoSuchPlace,
    RunExists,
    UnknownParent,
)
from ledger.log import Log
from ledger.run_ids import new_batch_id
from ledger.writes import ChangeMetadata, ChangeStatus, CreateBatch, CreateRun, TagRun
from projections.errors import OutOfBounds, TooLarge
from projections.lifecycle import Status
from projections.operations import Increment, Set
from tests.ledger.support import SECOND, Clock, create, events, once


async def make(log: Log, count: int, key: str | None = None) -> str:
    command = CreateBatch(batch_id=new_batch_id(), run_count=count, idempotency_key=key, idempotency_ttl_s=60)
    return (await log.create_batch(command)).batch.id


async def put(log: Log, batch: str, item: int, run: str, **members: object) -> Created | None:
    command = CreateRun(run_id=run, task="t", batch=batch, item=item, **members)  # type: ignore[arg-type]
    return await log.create_item(command)


async def placed(log: Log, batch: str) -> list[str]:
    return [run.run_id for run in (await log.batch_details(batch)).runs]


async def test_each_place_is_taken_once_also_by_items_that_come_at_once(log: Log) -> None:
    batch = await make(log, 5)
    made = await asyncio.gather(*(put(log, batch, number % 5, f"r{number}") for number in range(20)))
    assert [one is not None for one in made] == [True] * 5 + [False] * 15
    assert await placed(log, batch) == [f"r{number}" for number in range(5)]
    found = await log.batch(batch)
    assert (found.item_count, found.run_count, found.is_sealed) == (5, 5, True)


async def test_runs_are_in_the_order_of_their_places(log: Log) -> None:
    batch = await make(log, 3)
    for item in (2, 0, 1):
        await put(log, batch, item, f"r{item}")
        assert (await log.batch(batch)).is_sealed == (item == 1)
    assert await placed(log, batch) == ["r0", "r1", "r2"]
    (event,) = await events(log, "r0")
    assert f'"batch":"{batch}"' in event.data


async def test_a_refused_item_leaves_its_place_free_and_its_neighbours_alone(log: Log) -> None:
    batch = await make(log, 2)
    outcomes = await asyncio.gather(
        put(log, batch, 0, "r0"),
        put(log, batch, 1, "r1", metadata={"t": "x" * 5_000}),
        put(log, batch, 1, "r2", parent="nobody"),
        put(log, batch, 2, "r3"),
        put(log, "batch_absent", 0, "r4"),
        return_exceptions=True,
    )
    assert isinstance(outcomes[0], Created)
    assert [type(one) for one in outcomes[1:]] == [TooLarge, UnknownParent, NoSuchPlace, BatchNotFound]
    assert await placed(log, batch) == ["r0"]
    assert await put(log, batch, 1, "r5") is not None
    assert (await log.batch(batch)).is_sealed


async def test_a_run_that_a_key_leads_to_takes_a_place_if_it_may(log: Log) -> None:
    await create(log, "earlier", idempotency_key="k", idempotency_ttl_s=60)
    batch = await make(log, 1)
    key = {"idempotency_key": "k", "idempotency_ttl_s": 60}
    with pytest.raises(RunExists):
        await put(log, batch, 0, "r", **key, may_take=lambda task, tags: (task, tags) != ("t", ()))
    made = await put(log, batch, 0, "r", **key, may_take=lambda task, tags: (task, tags) == ("t", ()))
    assert made is not None
    assert (made.run_id, made.is_cached) == ("earlier", True)
    assert await placed(log, batch) == ["earlier"]


async def test_a_key_leads_to_its_batch_until_it_expires(log: Log, clock: Clock) -> None:
    batch = await make(log, 1, "k")
    assert await make(log, 1, "k") == batch
    command = CreateBatch(batch_id=new_batch_id(), run_count=2, idempotency_key="k", idempotency_ttl_s=60)
    with pytest.raises(BatchUnfinished):
        await log.create_batch(command)
    assert not (await log.create_batch(CreateBatch(batch_id="b", run_count=1, idempotency_key="k"))).is_cached
    await put(log, batch, 0, "r")
    found = await log.create_batch(command)
    assert (found.batch.id, found.is_cached) == (batch, True)
    clock.advance(60)
    newer = await make(log, 1, "k")
    assert newer != batch
    assert await make(log, 1, "k") == newer


async def test_a_request_that_comes_again_finds_its_batch(log: Log) -> None:
    command = CreateBatch(batch_id=new_batch_id(), run_count=1)
    first = await log.create_batch(command, once("key", "body"))
    await put(log, first.batch.id, 0, "r")
    again = await log.create_batch(CreateBatch(batch_id=new_batch_id(), run_count=1), once("key", "body"))
    assert (again.batch.id, again.is_cached, again.is_replay) == (first.batch.id, False, True)
    with pytest.raises(IdempotencyConflict):
        await log.create_batch(command, once("key", "another"))
    with pytest.raises(IdempotencyConflict):
        await log.create(CreateRun(run_id="s", task="t"), idempotency=once("key", "another"))


async def test_a_batch_has_ended_when_its_last_run_has(log: Log, clock: Clock) -> None:
    batch = await make(log, 2)
    await put(log, batch, 0, "r0")
    await log.move(ChangeStatus(run_id="r0", status=Status.FAILED))
    assert (await log.batch_details(batch)).finished_at is None
    await put(log, batch, 1, "r1")
    assert (await log.batch_details(batch)).finished_at is None
    clock.advance(7)
    await log.move(ChangeStatus(run_id="r1", status=Status.COMPLETED))
    details = await log.batch_details(batch)
    assert details.finished_at == details.updated_at == clock.now
    assert details.batch.created_at == clock.now - 7 * SECOND


async def test_the_last_change_of_a_run_is_one_write_with_its_end(log: Log) -> None:
    await create(log, "p")
    await create(log, "r", parent="p")
    last = ChangeMetadata(
        run_id="r", operations=[Set(key="a", value=1)], parent_operations=[Increment(key="n", value=1)]
    )
    moved = await log.move(ChangeStatus(run_id="r", status=Status.COMPLETED, attempt=2, last_change=last))
    assert (moved.version, moved.unapplied) == (3, ())
    own, above = await events(log, "r"), await events(log, "p")
    assert [(event.type, event.attempt) for event in own[1:]] == [("metadata.set", 2), ("run.status_changed", 2)]
    assert [event.position for event in (*own[1:2], *above[1:], *own[2:])] == [3, 4, 5]
    with pytest.raises(ValueError, match="belongs to a status that ends the run"):
        ChangeStatus(run_id="r", status=Status.EXECUTING, last_change=last)
    with pytest.raises(ValueError, match="a last change of run r came with the end of p"):
        ChangeStatus(run_id="p", status=Status.COMPLETED, last_change=last)


async def test_tags_are_added_once_and_at_most_ten(log: Log) -> None:
    await create(log, "r", tags=("a",))
    assert (await log.tag(TagRun(run_id="r", tags=("b", "a", "b")))).version == 2
    assert (await log.tag(TagRun(run_id="r", tags=("a", "b")))).version == 2
    with pytest.raises(OutOfBounds):
        await log.tag(TagRun(run_id="r", tags=tuple(map(str, range(9)))))
    assert (await log.run("r")).run.tags == ("a", "b")
