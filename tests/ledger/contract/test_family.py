"""A run, its parent and its root in one transaction."""

import asyncio
from typing import Any

import pytest

from ledger.answers import Changed, Current
from ledger.errors import LateWrite
from ledger.log import Log
from ledger.writes import Caller
from projections.errors import BadPath, TooLarge
from projections.lifecycle import Status
from projections.operations import Increment, Operation, Set
from projections.snapshot import Snapshot
from tests.ledger.support import Clock, Database, change, create, events, move

BY = Caller(actor="ci", on_behalf_of="ann")


async def family(log: Log) -> None:
    """A root, a parent below it, a run below that; versions 1."""
    await create(log, "root", attempt=5)
    await create(log, "parent", parent="root", attempt=4)
    await create(log, "run", parent="parent", attempt=3)


async def all_events(log: Log, *run_ids: str) -> list[tuple[int, str, int, str, int, str]]:
    found = [event for run_id in run_ids for event in await events(log, run_id)]
    return sorted(
        (event.position, event.run_id, event.version, event.data, event.attempt, event.headers)
        for event in found
        if event.version > 1
    )


async def test_own_parent_and_root_operations_are_one_transaction_in_that_order(log: Log, clock: Clock) -> None:
    await family(log)
    clock.advance(1)
    answer = await change(
        log,
        "run",
        Set(key="a", value=1),
        Set(key="b", value=2),
        parent_operations=[Set(key="p", value=3)],
        root_operations=[Set(key="r", value=4), Set(key="s", value=5)],
        caller=BY,
        attempt=9,
    )
    assert answer == Changed(Snapshot.of({"a": 1, "b": 2}, 3), ())
    own, up = '{"onBehalfOf":"ann"}', '{"sourceRun":"run","sourceAttempt":9,"onBehalfOf":"ann"}'
    assert await all_events(log, "run", "parent", "root") == [
        (4, "run", 2, '{"key":"a","value":1}', 9, own),
        (5, "run", 3, '{"key":"b","value":2}', 9, own),
        (6, "parent", 2, '{"key":"p","value":3}', 4, up),
        (7, "root", 2, '{"key":"r","value":4}', 5, up),
        (8, "root", 3, '{"key":"s","value":5}', 5, up),
    ]
    assert {e.recorded_at for r in ("run", "parent", "root") for e in (await events(log, r))[1:]} == {clock.now}
    assert await log.current("parent") == Current('{"p":3}', 2, 7)
    assert await log.current("root") == Current('{"r":4,"s":5}', 3, 13)


async def test_where_the_parent_is_the_root_it_takes_both_lists_in_order(log: Log) -> None:
    await create(log, "root")
    await create(log, "run", parent="root")
    await change(
        log, "run", parent_operations=[Set(key="a", value=1)], root_operations=[Set(key="a", value=2)], attempt=6
    )
    up = '{"sourceRun":"run","sourceAttempt":6}'
    assert await all_events(log, "run", "root") == [
        (3, "root", 2, '{"key":"a","value":1}', 1, up),
        (4, "root", 3, '{"key":"a","value":2}', 1, up),
    ]
    assert (await log.current("run")).version == 1


async def test_a_run_without_a_parent_is_its_own_parent_and_root(log: Log) -> None:
    await create(log, "run", attempt=2)
    answer = await change(
        log,
        "run",
        Set(key="a", value="own"),
        parent_operations=[Set(key="a", value="parent")],
        root_operations=[Set(key="a", value="root")],
        caller=BY,
        attempt=3,
    )
    assert answer.snapshot == Snapshot.of({"a": "root"}, 4)
    up = '{"sourceRun":"run","sourceAttempt":3,"onBehalfOf":"ann"}'
    assert await all_events(log, "run") == [
        (2, "run", 2, '{"key":"a","value":"own"}', 3, '{"onBehalfOf":"ann"}'),
        (3, "run", 3, '{"key":"a","value":"parent"}', 3, up),
        (4, "run", 4, '{"key":"a","value":"root"}', 3, up),
    ]


async def test_a_change_of_its_own_metadata_leaves_the_family_alone(log: Log, database: Database) -> None:
    await family(log)
    assert (await change(log, "run", Set(key="a", value=1))).snapshot == Snapshot.of({"a": 1}, 2)
    assert ((await log.current("parent")).version, (await log.current("root")).version) == (1, 1)
    assert database.counts()["events"] == 4


BIG = "x" * 4_000


@pytest.mark.parametrize("full", ["run", "parent", "root"])
async def test_one_of_the_three_too_large_refuses_all_and_names_it(
    log: Log, database: Database, full: str
) -> None:
    await family(log)
    await change(log, full, Set(key="big", value=BIG))
    before = [await log.current(run_id) for run_id in ("run", "parent", "root")]
    count = database.counts()["events"]
    lists = {"run": "operations", "parent": "parent_operations", "root": "root_operations"}
    request: dict[str, list[Operation]] = {name: [Set(key="a", value=1)] for name in lists.values()}
    request[lists[full]] = [Set(key="a", value="y" * 100)]
    with pytest.raises(TooLarge) as refused:
        await change(log, "run", *request.pop("operations"), caller=BY, attempt=8, **request)  # type: ignore[arg-type]
    assert refused.value.run_id == full
    assert [await log.current(run_id) for run_id in ("run", "parent", "root")] == before
    assert database.counts()["events"] == count
    kept = {run_id: await log.refusals(run_id) for run_id in ("run", "parent", "root")}
    assert {run_id: len(found) for run_id, found in kept.items()} == {
        run_id: int(run_id in {"run", full}) for run_id in kept
    }
    for run_id in {"run", full}:
        (refusal,) = kept[run_id]
        assert (refusal.reason, refusal.size_bytes) == (str(refused.value), refused.value.size_bytes)
        assert refusal.version == (await log.current(run_id)).version
        named = run_id == "run"
        assert refusal.attempt == (8 if named else {"parent": 4, "root": 5}[run_id])
        assert refusal.headers == (
            '{"onBehalfOf":"ann"}' if named else '{"sourceRun":"run","sourceAttempt":8,"onBehalfOf":"ann"}'
        )


@pytest.mark.parametrize("wrong", ["operations", "parentOperations", "rootOperations"])
@pytest.mark.parametrize("depth", [0, 1, 2])
async def test_a_bad_operation_is_named_by_its_list_and_place(log: Log, wrong: str, depth: int) -> None:
    chain = ["root", "parent", "run"][2 - depth :]
    for above, run_id in zip([None, *chain], chain, strict=False):
        await create(log, run_id, parent=above)
    bad = [Set(key="ok", value=1), Set(key="$.*", value=1)]
    lists: dict[str, Any] = {
        "operations": [Set(key="a", value=1)] * 3,
        "parentOperations": [Set(key="a", value=1)],
        "rootOperations": [Set(key="a", value=1)] * 2,
        wrong: bad,
    }
    with pytest.raises(BadPath) as refused:
        await change(
            log,
            "run",
            *lists["operations"],
            parent_operations=lists["parentOperations"],
            root_operations=lists["rootOperations"],
        )
    assert (refused.value.list, refused.value.index) == (wrong, 1)
    up = {"operations": 0, "parentOperations": 1, "rootOperations": 2}[wrong]
    assert refused.value.run_id == chain[-1 - min(up, depth)]
    assert {(await log.current(run_id)).version for run_id in chain} == {1}


async def test_a_full_parent_does_not_stop_its_children_from_changing_themselves(log: Log) -> None:
    await family(log)
    await change(log, "parent", Set(key="big", value=BIG))
    answers = await asyncio.gather(
        *(change(log, "run", Increment(key="n", value=1)) for _ in range(5)),
        change(log, "run", Increment(key="n", value=1), parent_operations=[Set(key="x", value=BIG)]),
        return_exceptions=True,
    )
    assert [type(answer) for answer in answers] == [*[Changed] * 5, TooLarge]
    assert (await log.current("run")).text == '{"n":5}'


async def test_children_of_one_parent_add_up_in_one_group(log: Log) -> None:
    await create(log, "root")
    await create(log, "parent", parent="root")
    children = [f"run_{n}" for n in range(30)]
    await asyncio.gather(*(create(log, child, parent="parent") for child in children))
    one = [Increment(key="n", value=1)]
    await asyncio.gather(
        *(change(log, child, *one, parent_operations=one, root_operations=one) for child in children * 3)
    )
    assert {(await log.current(child)).text for child in children} == {'{"n":3}'}
    assert await log.current("parent") == Current('{"n":90}', 91, 8)
    assert await log.current("root") == Current('{"n":90}', 91, 8)


async def test_only_the_run_named_is_judged_as_late(log: Log, clock: Clock) -> None:
    await family(log)
    await move(log, "parent", Status.COMPLETED)
    await move(log, "root", Status.FAILED)
    clock.advance(1_000_000)
    up = [Set(key="a", value=1)]
    await change(log, "run", *up, parent_operations=up, root_operations=up)
    assert [(await log.current(run_id)).text for run_id in ("run", "parent", "root")] == ['{"a":1}'] * 3
    with pytest.raises(LateWrite):
        await change(log, "parent", *up)
    with pytest.raises(LateWrite):
        await change(log, "parent", root_operations=up)
    assert [(await log.current(run_id)).version for run_id in ("run", "parent", "root")] == [2, 3, 3]


async def test_deep_family_trees_reach_parent_and_root(log: Log) -> None:
    ids = [f"run_{depth}" for depth in range(120)]
    for depth, run_id in enumerate(ids):
        await create(log, run_id, parent=ids[depth - 1] if depth else None)
    one = [Increment(key="n", value=1)]
    await asyncio.gather(
        *(change(log, run_id, *one, parent_operations=one, root_operations=one) for run_id in ids)
    )
    totals = [(await log.metadata(run_id)).metadata["n"] for run_id in ids]
    assert totals == [1 + 119 + 1 + 1 + 1, *[2] * 118, 1]
