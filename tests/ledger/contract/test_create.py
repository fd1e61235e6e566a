"""Beginning a run."""

import asyncio

import pytest

from ledger.answers import Created, Current
from ledger.errors import RunExists, RunNotFound, UnknownParent
from ledger.log import Log
from ledger.reads import RunDetails
from ledger.writes import Caller, CreateRun
from projections.errors import OutOfBounds, TooLarge
from projections.events import RunCreated
from projections.lifecycle import Status
from projections.operations import Increment
from projections.runs import Run
from projections.snapshot import Snapshot
from projections.values import JsonObject
from tests.ledger.support import START, Clock, Database, change, create, events, versions


async def test_a_new_run_has_one_event_that_says_everything(log: Log, clock: Clock) -> None:
    created = await log.create(
        CreateRun(
            run_id="run_1",
            task="import",
            batch="batch_1",
            tags=("a", "ü"),
            status=Status.EXECUTING,
            attempt=3,
            payload={"rows": [1, None, "x"]},
            payload_type="application/json",
            metadata={"progress": 0.5, "ключ": "значение"},
            idempotency_key="trigger",
            idempotency_ttl_s=60,
        ),
        Caller(actor="ci", on_behalf_of="ann", traceparent="00-1-2-01"),
    )
    assert created == Created("run_1", 1, is_cached=False)
    (event,) = await events(log, "run_1")
    assert event.body == RunCreated(
        task="import",
        batch="batch_1",
        tags=("a", "ü"),
        status=Status.EXECUTING,
        idempotency_key="trigger",
        payload={"rows": [1, None, "x"]},
        payload_type="application/json",
        metadata={"progress": 0.5, "ключ": "значение"},
        idempotency_expires_at=START + 60_000_000,
    )
    assert '"idempotencyExpiresAt":"2027-01-15T08:01:00.000000Z"' in event.data
    assert (event.position, event.run_id, event.version, event.type) == (1, "run_1", 1, "run.created")
    assert (event.actor, event.attempt, event.occurred_at, event.recorded_at) == ("ci", 3, None, START)
    assert event.headers == '{"onBehalfOf":"ann","traceparent":"00-1-2-01"}'
    snapshot = Snapshot.of({"progress": 0.5, "ключ": "значение"}, 1)
    run = Run(
        id="run_1",
        task="import",
        parent=None,
        root=None,
        batch="batch_1",
        status=Status.EXECUTING,
        status_version=1,
        attempt=3,
        tags=("a", "ü"),
        idempotency_key="trigger",
        snapshot=snapshot,
        created_at=START,
        updated_at=START,
        started_at=START,
        finished_at=None,
    )
    assert await log.run("run_1") == RunDetails(
        run=run,
        payload={"rows": [1, None, "x"]},
        payload_type="application/json",
        output=None,
        error=None,
        depth=0,
        parent=None,
        root=None,
    )
    assert await log.current("run_1") == Current(snapshot.text, 1, snapshot.size_bytes)
    assert await log.metadata("run_1") == snapshot


async def test_the_same_id_again_is_cached_and_untouched(log: Log, database: Database) -> None:
    await create(log, "run_1", metadata={"a": 1}, tags=("x",))
    before = database.counts(), await log.run("run_1")
    again = await create(log, "run_1", metadata={"b": 2}, tags=("y",), status=Status.COMPLETED, payload=1)
    assert again == Created("run_1", 1, is_cached=True)
    assert (database.counts(), await log.run("run_1")) == before


@pytest.mark.parametrize(("task", "parent"), [("other", None), ("t", "parent"), ("other", "parent")])
async def test_the_same_id_with_another_task_or_parent_is_refused(log: Log, task: str, parent: str | None) -> None:
    await create(log, "parent")
    await create(log, "run_1")
    with pytest.raises(RunExists) as refused:
        await create(log, "run_1", task=task, parent=parent)
    assert refused.value.run_id == "run_1"
    assert len(await events(log, "run_1")) == 1


async def test_a_run_knows_its_parent_and_the_topmost_run_above_it(log: Log) -> None:
    ids = [f"run_{depth}" for depth in range(40)]
    for depth, run_id in enumerate(ids):
        await create(log, run_id, parent=ids[depth - 1] if depth else None)
    for depth, run_id in enumerate(ids):
        details = await log.run(run_id)
        assert details.depth == depth
        assert details.run.parent == (ids[depth - 1] if depth else None)
        assert details.run.root == (ids[0] if depth else None)
        assert details.parent == ((await log.run(ids[depth - 1])).run if depth else None)
        assert details.root == ((await log.run(ids[0])).run if depth else None)
        ((_, _, data),) = await versions(log, run_id)
        assert (data["parent"], data["root"]) == (details.run.parent, details.run.root)


async def test_a_whole_family_can_be_made_in_one_group(log: Log) -> None:
    ids = [f"run_{depth}" for depth in range(60)]
    made = await asyncio.gather(
        *(create(log, run_id, parent=ids[depth - 1] if depth else None) for depth, run_id in enumerate(ids))
    )
    assert made == [Created(run_id, 1, is_cached=False) for run_id in ids]
    details = await log.run(ids[-1])
    assert (details.depth, details.run.parent, details.run.root) == (59, ids[-2], ids[0])
    assert [(await events(log, run_id))[0].position for run_id in ids] == list(range(1, 61))


@pytest.mark.parametrize("parent", ["nobody", "run_1"])
async def test_an_unknown_parent_is_refused(log: Log, database: Database, parent: str) -> None:
    with pytest.raises(UnknownParent) as refused:
        await create(log, "run_1", parent=parent)
    assert refused.value.parent == parent
    assert set(database.counts().values()) == {0}


async def test_creates_of_one_id_raced_in_one_group_make_one_run(log: Log, database: Database) -> None:
    answers = await asyncio.gather(
        *(create(log, "run_1", task=task, metadata={"n": n}) for n, task in enumerate(["t", "t", "other", "t"])),
        return_exceptions=True,
    )
    assert answers[0] == Created("run_1", 1, is_cached=False)
    assert answers[1] == answers[3] == Created("run_1", 1, is_cached=True)
    assert isinstance(answers[2], RunExists)
    assert (await log.current("run_1")).text == '{"n":0}'
    assert database.counts()["runs"] == database.counts()["events"] == 1


async def test_a_run_may_be_changed_in_the_group_that_makes_it(log: Log) -> None:
    await asyncio.gather(
        create(log, "run_1"), *(change(log, "run_1", Increment(key="n", value=1)) for _ in range(9))
    )
    assert await log.current("run_1") == Current('{"n":9}', 10, 7)
    assert [(await log.metadata("run_1", version=version)).text for version in (1, 2, 9)] == [
        "{}",
        '{"n":1}',
        '{"n":8}',
    ]


@pytest.mark.parametrize("size", [4_095, 4_096])
async def test_first_metadata_up_to_the_limit_is_taken(log: Log, size: int) -> None:
    await create(log, "run_1", metadata={"a": "x" * (size - len('{"a":""}'))})
    assert (await log.current("run_1")).size_bytes == size


async def test_first_metadata_over_the_limit_is_refused_with_every_field(log: Log, database: Database) -> None:
    with pytest.raises(TooLarge) as refused:
        await create(log, "run_1", metadata={"a": "ü" * 2_045, "b": 1})
    assert (refused.value.run_id, refused.value.size_bytes, refused.value.limit_bytes) == ("run_1", 4_104, 4_096)
    assert [(size.key, size.bytes) for size in refused.value.largest_keys] == [("a", 4_096), ("b", 5)]
    assert set(database.counts().values()) == {0}
    with pytest.raises(RunNotFound):
        await log.current("run_1")


async def test_first_metadata_may_be_nested_64_deep_and_no_deeper(log: Log) -> None:
    deep: JsonObject = {}
    for _ in range(63):
        deep = {"a": deep}
    await create(log, "run_1", metadata=deep)
    assert (await log.metadata("run_1")).metadata == deep
    with pytest.raises(OutOfBounds) as refused:
        await create(log, "run_2", metadata={"a": deep})
    assert refused.value.run_id == "run_2"


ODD_IDS = ["a", "A" * 128, "run.1", "a_b", "user@host", "1+1=2", "..", "--", "a:b", "0", "=", "RUN", "run"]


@pytest.mark.parametrize(
    "run_id", ["", "a" * 129, "a b", "a/b", "a\0b", "ü", "a\n", "\ud800", "a'b", "%61", "a?b"]
)
async def test_an_id_outside_the_alphabet_is_refused(log: Log, database: Database, run_id: str) -> None:
    with pytest.raises(ValueError, match="cannot be a run's id"):
        CreateRun(run_id=run_id, task="t")
    await create(log, "a")
    with pytest.raises(RunNotFound):
        await log.metadata(run_id.replace("\ud800", "?"))
    with pytest.raises(RunNotFound):
        await log.current(run_id.replace("\ud800", "?"))


async def test_odd_ids_are_different_runs(log: Log) -> None:
    await asyncio.gather(*(create(log, run_id, metadata={"id": run_id}) for run_id in ODD_IDS))
    assert [(await log.metadata(run_id)).metadata for run_id in ODD_IDS] == [{"id": run_id} for run_id in ODD_IDS]
    assert [run.id for run in (await log.runs(limit=100)).items] == ODD_IDS[::-1]
