"""Changing the metadata of a run: order, versions, positions, bounds."""

import asyncio
from typing import Any

import pytest

from ledger.answers import Changed, Current
from ledger.errors import RunNotFound, WrongExpectedVersion
from ledger.log import Log
from ledger.writes import Caller, ChangeMetadata, Refused, UnappliedOperation
from projections.errors import BadPath, OutOfBounds, TooLarge
from projections.filters import RunFilter
from projections.operations import AppendItem, Delete, Increment, Operation, RemoveItem, Set, Update
from projections.snapshot import Snapshot
from projections.values import JsonObject
from tests.ledger.support import START, Clock, Database, change, create, events, fields_of, versions

EVERY_KIND: list[tuple[Operation, str, Any, dict[str, Any]]] = [
    (Set(key="a", value=[1]), "metadata.set", {"key": "a", "value": [1]}, {"a": [1]}),
    (AppendItem(key="a", value=2.0), "metadata.appended", {"key": "a", "value": 2}, {"a": [1, 2]}),
    (RemoveItem(key="a", value=1), "metadata.removed", {"key": "a", "value": 1}, {"a": [2]}),
    (Increment(key="n", value=0.5), "metadata.incremented", {"key": "n", "value": 0.5}, {"a": [2], "n": 0.5}),
    (Delete(key="a"), "metadata.deleted", {"key": "a"}, {"n": 0.5}),
    (Update(value={"$.x": None}), "metadata.updated", {"value": {"$.x": None}}, {"$.x": None}),
]


async def test_each_operation_is_one_event_in_the_order_asked_for(log: Log) -> None:
    await create(log, "run_1")
    answer = await change(log, "run_1", *(operation for operation, *_ in EVERY_KIND))
    assert answer == Changed(Snapshot.of({"$.x": None}, 7), ())
    assert (await versions(log, "run_1"))[1:] == [
        (version, kind, data) for version, (_, kind, data, _) in enumerate(EVERY_KIND, start=2)
    ]
    for version, (_, _, _, metadata) in enumerate(EVERY_KIND, start=2):
        assert await log.metadata("run_1", version=version) == Snapshot.of(metadata, version)


async def test_positions_are_handed_out_in_order_over_all_runs(log: Log) -> None:
    await create(log, "run_1")
    await create(log, "run_2")
    for run_id in ("run_2", "run_1", "run_1", "run_2"):
        await change(log, run_id, Increment(key="n", value=1), Increment(key="n", value=1))
    numbers = [(e.position, e.run_id, e.version) for run in ("run_1", "run_2") for e in await events(log, run)]
    assert sorted(numbers) == [
        (1, "run_1", 1),
        (2, "run_2", 1),
        (3, "run_2", 2),
        (4, "run_2", 3),
        (5, "run_1", 2),
        (6, "run_1", 3),
        (7, "run_1", 4),
        (8, "run_1", 5),
        (9, "run_2", 4),
        (10, "run_2", 5),
    ]


async def test_a_group_keeps_the_order_in_which_its_writes_came(log: Log) -> None:
    await create(log, "run_1", metadata={"list": []})
    answers = await asyncio.gather(*(change(log, "run_1", AppendItem(key="list", value=n)) for n in range(200)))
    assert [answer.snapshot.version for answer in answers] == list(range(2, 202))
    assert [answer.snapshot.metadata["list"] for answer in answers] == [list(range(n + 1)) for n in range(200)]
    assert (await log.metadata("run_1")).metadata == {"list": list(range(200))}


async def test_every_event_carries_its_envelope(log: Log, clock: Clock) -> None:
    await create(log, "run_1", attempt=2)
    clock.advance(5)
    operation = Set.model_validate({"key": "a", "value": 1, "occurredAt": "1999-12-31T23:59:59.9999999Z"})
    caller = Caller(actor="ключ", on_behalf_of="ann", traceparent="00-ff")
    await change(log, "run_1", operation, Delete(key="a"), caller=caller, attempt=4)
    first, second = (await events(log, "run_1"))[1:]
    assert (first.occurred_at, second.occurred_at) == (946_684_799_999_999, None)
    for event in (first, second):
        assert (event.actor, event.attempt, event.recorded_at) == ("ключ", 4, START + 5_000_000)
        assert event.headers == '{"onBehalfOf":"ann","traceparent":"00-ff"}'
    run = (await log.run("run_1")).run
    assert (run.attempt, run.updated_at, run.created_at) == (2, START + 5_000_000, START)


async def test_what_changes_nothing_is_an_event_all_the_same(log: Log) -> None:
    await create(log, "run_1", metadata={"a": [1]})
    answer = await change(
        log,
        "run_1",
        Set(key="a", value=[1]),
        Delete(key="b"),
        RemoveItem(key="a", value=9),
        Increment(key="n", value=0),
    )
    assert answer == Changed(Snapshot.of({"a": [1], "n": 0}, 5), ())
    assert len(await events(log, "run_1")) == 5


async def test_a_request_without_operations_writes_nothing(log: Log, database: Database) -> None:
    await create(log, "run_1", metadata={"a": 1})
    before = database.counts(), await log.run("run_1")
    assert await change(log, "run_1") == Changed(Snapshot.of({"a": 1}, 1), ())
    assert (database.counts(), await log.run("run_1")) == before


async def test_what_cannot_apply_is_listed_and_is_no_event(log: Log) -> None:
    await create(log, "run_1", metadata={"a": 1, "nothing": None})
    answer = await change(
        log,
        "run_1",
        RemoveItem(key="a", value=1),
        Set(key="$.missing.x", value=1),
        Increment(key="n", value=1),
        Set(key="$.nothing.x", value=1),
        parent_operations=[Set(key="p", value=1), RemoveItem(key="p", value=1)],
        root_operations=[RemoveItem(key="r", value=1), Set(key="r", value=1)],
    )
    assert answer.snapshot == Snapshot.of({"a": 1, "nothing": None, "n": 1, "p": 1, "r": 1}, 4)
    assert [(u.list, u.index, u.key) for u in answer.unapplied] == [
        ("operations", 0, "a"),
        ("operations", 1, "$.missing.x"),
        ("operations", 3, "$.nothing.x"),
        ("parentOperations", 1, "p"),
        ("rootOperations", 0, "r"),
    ]
    assert answer.unapplied[0] == UnappliedOperation("operations", 0, "a", "there is no list to remove from")
    assert [(version, data["key"]) for version, _, data in (await versions(log, "run_1"))[1:]] == [
        (2, "n"),
        (3, "p"),
        (4, "r"),
    ]


async def test_a_request_of_which_nothing_applies_leaves_the_run_untouched(
    log: Log, clock: Clock, database: Database
) -> None:
    await create(log, "run_1")
    before = database.counts(), await log.run("run_1")
    clock.advance(1)
    answer = await change(log, "run_1", RemoveItem(key="a", value=1), RemoveItem(key="b", value=1))
    assert (answer.snapshot, len(answer.unapplied)) == (Snapshot.of({}, 1), 2)
    assert (database.counts(), await log.run("run_1")) == before


async def test_an_unknown_run_is_refused_and_not_remembered(log: Log, database: Database) -> None:
    with pytest.raises(RunNotFound) as refused:
        await change(log, "nobody", Set(key="a", value=1))
    assert refused.value.run_id == "nobody"
    assert set(database.counts().values()) == {0}


@pytest.mark.parametrize(("size", "limit"), [(4_096, None), (4_095, None), (262_144, 262_144), (2, 2)])
async def test_metadata_of_exactly_the_limit_is_taken(open_ledger: Any, size: int, limit: int | None) -> None:
    ledger = await open_ledger(**({} if limit is None else {"metadata_bytes_max": limit}))
    log = await ledger.log("dev")
    await create(log, "run_1")
    value: JsonObject = {} if size == 2 else {"a": "ü" * ((size - 8) // 2) + "x" * (size % 2)}
    answer = await change(log, "run_1", Update(value=value))
    assert answer.snapshot.size_bytes == size
    assert await log.current("run_1") == Current(answer.snapshot.text, 2, size)


async def test_metadata_one_byte_over_the_limit_is_refused_and_recorded(log: Log, database: Database) -> None:
    await create(log, "run_1", metadata={"a": "x" * 2_000, "b": "y" * 2_000})
    before = await log.current("run_1")
    fill = 4_096 - before.size_bytes - len(',"c":""')
    with pytest.raises(TooLarge) as refused:
        await change(
            log, "run_1", Set(key="d", value=1), Delete(key="d"), Set(key="c", value="z" * (fill + 1)),
            caller=Caller(actor="ci", traceparent="t"), attempt=7,
        )  # fmt: skip
    assert (refused.value.run_id, refused.value.size_bytes, refused.value.limit_bytes) == ("run_1", 4_097, 4_096)
    assert [size.key for size in refused.value.largest_keys] == ["a", "b", "c"]
    assert (refused.value.list, refused.value.index) == (None, None)
    assert await log.current("run_1") == before
    assert database.counts()["events"] == 1
    assert await log.refusals("run_1") == [
        Refused(
            number=1,
            version=1,
            code="metadata-too-large",
            reason=str(refused.value),
            key=None,
            size_bytes=4_097,
            limit_bytes=4_096,
            actor="ci",
            attempt=7,
            headers='{"traceparent":"t"}',
            recorded_at=START,
        )
    ]
    await change(log, "run_1", Set(key="c", value="z" * fill))
    assert (await log.current("run_1")).size_bytes == 4_096


async def test_the_metadata_in_the_middle_of_a_request_may_be_larger(log: Log) -> None:
    await create(log, "run_1", metadata={"a": "x" * 3_000})
    answer = await change(log, "run_1", Set(key="b", value="y" * 3_000), Delete(key="a"))
    assert answer.snapshot.version == 3
    assert (await log.metadata("run_1", version=2)).size_bytes == 6_015


async def test_one_value_over_the_limit_is_refused_even_if_it_is_deleted_again(log: Log) -> None:
    await create(log, "run_1")
    with pytest.raises(TooLarge) as refused:
        await change(log, "run_1", Set(key="b", value=1), Set(key="a", value="x" * 4_095), Delete(key="a"))
    assert (refused.value.size_bytes, refused.value.list, refused.value.index) == (4_097, "operations", 1)
    await change(log, "run_1", Set(key="a", value="x" * 4_094), Delete(key="a"))
    assert await log.current("run_1") == Current("{}", 3, 2)


@pytest.mark.parametrize(
    ("operation", "expected"),
    [
        (Set(key="$.a.*", value=1), {"type": "BadPath", "key": "$.a.*"}),
        (Delete(key="__proto__"), {"type": "BadPath", "key": "__proto__"}),
        (Increment(key="big", value=1e308), {"type": "OutOfBounds", "key": "big"}),
        (Set(key="$.list.65536", value=1), {"type": "OutOfBounds", "key": "$.list.65536", "limit": 65_535}),
    ],
)
async def test_a_bad_operation_refuses_its_whole_request_and_names_its_place(
    log: Log, operation: Operation, expected: dict[str, Any]
) -> None:
    await create(log, "run_1", metadata={"big": 1.7e308, "list": []})
    before = await log.current("run_1")
    with pytest.raises((BadPath, OutOfBounds)) as refused:
        await change(log, "run_1", Set(key="x", value=1), operation, Set(key="y", value=1))
    found = fields_of(refused.value)
    del found["reason"]
    assert found == {**expected, "run_id": "run_1", "list": "operations", "index": 1}
    assert await log.current("run_1") == before
    (kept,) = await log.refusals("run_1")
    assert (kept.code, kept.reason, kept.key) == (refused.value.code, str(refused.value), expected["key"])


async def test_ten_thousand_operations_are_ten_thousand_versions(log: Log) -> None:
    await create(log, "run_1")
    operations = [Increment(key=f"n{index % 7}", value=1) for index in range(10_000)]
    answer = await change(log, "run_1", *operations)
    assert answer.snapshot.version == 10_001
    assert sum(value for value in answer.snapshot.metadata.values() if isinstance(value, int)) == 10_000
    assert (await log.metadata("run_1", version=7_001)).metadata == {f"n{index}": 1_000 for index in range(7)}
    assert [event.version for event in await events(log, "run_1")] == list(range(1, 10_002))


async def test_one_refused_write_in_a_group_costs_its_neighbours_nothing(log: Log) -> None:
    await create(log, "run_1")
    answers = await asyncio.gather(
        change(log, "run_1", Increment(key="n", value=1)),
        change(log, "run_1", Increment(key="n", value=1), Set(key="a", value="x" * 5_000)),
        change(log, "run_1", Increment(key="n", value=1), expected=frozenset({1})),
        change(log, "nobody", Increment(key="n", value=1)),
        change(log, "run_1", Increment(key="n", value=1), expected=frozenset({2})),
        return_exceptions=True,
    )
    assert [type(answer) for answer in answers] == [Changed, TooLarge, WrongExpectedVersion, RunNotFound, Changed]
    assert await log.current("run_1") == Current('{"n":2}', 3, 7)


async def test_expected_versions_are_judged_for_the_run_named(log: Log, database: Database) -> None:
    await create(log, "parent")
    await create(log, "run_1", parent="parent")
    await change(log, "parent", Set(key="a", value=1))
    up = [Set(key="b", value=1)]
    for expected in ({1}, {7, 1, 9}):
        assert (
            await change(log, "run_1", parent_operations=up, expected=frozenset(expected))
        ).snapshot.version == 1
    before = database.counts()
    for stale in ({2}, {0}, {2, 3}, set[int]()):
        with pytest.raises(WrongExpectedVersion) as refused:
            await change(log, "run_1", Set(key="c", value=1), expected=frozenset(stale))
        assert (refused.value.run_id, refused.value.expected, refused.value.actual) == (
            "run_1",
            frozenset(stale),
            1,
        )
    assert database.counts() == before


async def test_only_one_of_many_writers_that_expect_the_same_version_succeeds(log: Log) -> None:
    await create(log, "run_1")
    for version in range(1, 6):
        answers = await asyncio.gather(
            *(change(log, "run_1", Set(key="by", value=n), expected=frozenset({version})) for n in range(20)),
            return_exceptions=True,
        )
        assert [type(answer) for answer in answers] == [Changed, *[WrongExpectedVersion] * 19]
        assert all(answer.actual == version + 1 for answer in answers if isinstance(answer, WrongExpectedVersion))
    assert (await log.current("run_1")).version == 6


ODD_TEXTS = [
    "\0",
    "a\0b",
    "\x7f\x80\x9f",
    "\u2028\u2029",
    "𝄞",
    "\u00e9",
    "e\u0301",
    "' OR 1=1 --",
    '"\\',
    "\ufeff",
    "__proto__x",
]


async def test_odd_texts_come_back_as_they_were_sent(log: Log) -> None:
    metadata: JsonObject = {f"k{text}": [text, {text: text}] for text in ODD_TEXTS}
    for index, text in enumerate(ODD_TEXTS):
        await create(log, f"run_{index}", task=text or "t", tags=(text,), batch=text, payload=text)
        await change(
            log, f"run_{index}", Update(value=metadata), Set(key=text, value=text), caller=Caller(actor=text)
        )
    for index, text in enumerate(ODD_TEXTS):
        details = await log.run(f"run_{index}")
        assert (details.run.task, details.run.tags, details.run.batch, details.payload) == (
            text,
            (text,),
            text,
            text,
        )
        assert details.run.snapshot.metadata == {**metadata, text: text}
        assert (await log.metadata(f"run_{index}", version=2)).metadata == metadata
        assert [event.actor for event in await events(log, f"run_{index}")] == ["anonymous", text, text]
        assert [run.id for run in (await log.runs(limit=9, wanted=RunFilter(tasks=(text,)))).items] == [
            f"run_{index}"
        ]


async def test_a_caller_that_is_not_named_is_anonymous(log: Log) -> None:
    await create(log, "run_1")
    await log.change(ChangeMetadata(run_id="run_1", operations=[Set(key="a", value=1)]))
    assert [event.actor for event in await events(log, "run_1")] == ["anonymous", "anonymous"]
