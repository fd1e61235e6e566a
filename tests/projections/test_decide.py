"""Decisions: the size rule on both sides, which operation is wrong, what did not apply, what is recorded."""

import tracemalloc
from collections.abc import Callable

import pytest

from projections.errors import BadPath, KeySize, OutOfBounds, TooLarge
from projections.events import NewEvent
from projections.operations import AppendItem, Delete, Increment, Operation, RemoveItem, Set, Update
from projections.size import METADATA_BYTES_DEFAULT, METADATA_BYTES_MAX
from projections.snapshot import Decision, Snapshot, Unapplied, check, decide
from projections.values import JsonObject
from tests.javascript import exact
from tests.strategies import nested, nested_object, parsed

LIMIT = 4_096
EMPTY = Snapshot.of({}, 0)

Valued = Callable[[str], Operation]


def test_limits_are_those_that_were_promised() -> None:
    assert (METADATA_BYTES_DEFAULT, METADATA_BYTES_MAX) == (4_096, 262_144)


# --- what is recorded ---


def test_nothing_asked_is_nothing_decided() -> None:
    snapshot = Snapshot.of({"a": 1}, 7)
    decision = decide(snapshot, [], LIMIT)
    assert decision == Decision((), (), snapshot)
    assert decision.snapshot is snapshot


def test_each_operation_that_applies_is_an_event() -> None:
    snapshot = Snapshot.of({"a": 1, "l": [1]}, 3)
    operations: list[Operation] = [
        Set(key="a", value=2.5),
        Delete(key="x"),
        AppendItem(key="$.l", value={"b": None}),
        RemoveItem(key="l", value=1),
        Increment(key="a", value=-0.5),
        Set(key="é", value="😀"),
        Update(value={"b": []}),
    ]
    assert decide(snapshot, operations, LIMIT) == Decision(
        events=(
            NewEvent("metadata.set", '{"key":"a","value":2.5}'),
            NewEvent("metadata.deleted", '{"key":"x"}'),
            NewEvent("metadata.appended", '{"key":"$.l","value":{"b":null}}'),
            NewEvent("metadata.removed", '{"key":"l","value":1}'),
            NewEvent("metadata.incremented", '{"key":"a","value":-0.5}'),
            NewEvent("metadata.set", '{"key":"é","value":"😀"}'),
            NewEvent("metadata.updated", '{"value":{"b":[]}}'),
        ),
        unapplied=(),
        snapshot=Snapshot({"b": []}, 10, '{"b":[]}', 8),
    )
    assert snapshot == Snapshot({"a": 1, "l": [1]}, 3, '{"a":1,"l":[1]}', 15)


@pytest.mark.parametrize(
    "operation",
    [
        pytest.param(Set(key="a", value=1), id="set to an equal value"),
        pytest.param(Set(key="$.a", value=1.0), id="set by path to an equal value"),
        pytest.param(Delete(key="b"), id="delete of an absent key"),
        pytest.param(RemoveItem(key="l", value=2), id="remove of what no item equals"),
        pytest.param(Increment(key="a", value=0), id="increment by zero"),
        pytest.param(Update(value={"l": [True], "a": 1}), id="update to an equal object"),
    ],
)
def test_operation_that_changes_nothing_is_an_event(operation: Operation) -> None:
    decision = decide(Snapshot.of({"a": 1, "l": [True]}, 4), [operation], LIMIT)
    assert len(decision.events) == 1
    assert decision.unapplied == ()
    assert decision.snapshot.version == 5
    assert exact(decision.snapshot.metadata) == exact({"a": 1, "l": [True]})


def test_time_that_the_caller_named_goes_with_its_event() -> None:
    operations = parsed(
        [
            {"type": "set", "key": "a", "value": 1, "occurredAt": "1970-01-01T00:00:02Z"},
            {"type": "set", "key": "a", "value": 1},
            {"type": "update", "value": {}, "occurredAt": "1969-12-31T23:59:59.999999Z"},
        ]
    )
    assert [event.occurred_at for event in decide(EMPTY, operations, LIMIT).events] == [2_000_000, None, -1]


# --- what did not apply ---


def test_operation_that_cannot_apply_is_listed_and_is_no_event() -> None:
    operations: list[Operation] = [
        RemoveItem(key="a", value=1),
        Set(key="a", value=None),
        Set(key="$.a", value=1),
        Increment(key="$..x..y.", value=1),
        AppendItem(key="$.a.b", value=1),
        Set(key="", value=5),
        RemoveItem(key="", value=5),
    ]
    decision = decide(EMPTY, operations, LIMIT)
    null = "$.a is null, which a path cannot change; set the top-level key by its literal name"
    assert decision == Decision(
        events=(
            NewEvent("metadata.set", '{"key":"a","value":null}'),
            NewEvent("metadata.set", '{"key":"","value":5}'),
        ),
        unapplied=(
            Unapplied(0, "a", "there is no list to remove from"),
            Unapplied(2, "$.a", null),
            Unapplied(3, "$..x..y.", "$.x does not exist; set it first"),
            Unapplied(4, "$.a.b", null),
            Unapplied(6, "", "there is no list to remove from"),
        ),
        snapshot=Snapshot({"a": None, "": 5}, 2, '{"a":null,"":5}', 15),
    )


def test_request_of_which_nothing_applies_leaves_the_snapshot_as_it_is() -> None:
    snapshot = Snapshot.of({"a": "x" * 100}, 9)
    decision = decide(snapshot, [RemoveItem(key="a", value=1), Set(key="$.b.c", value=1)], 50)
    assert decision.snapshot is snapshot
    assert decision.events == ()
    assert [unapplied.index for unapplied in decision.unapplied] == [0, 1]


# --- size ---


@pytest.mark.parametrize(
    ("character", "size"), [("x", 1), ("é", 2), ("\u2028", 3), ("😀", 4), ("\n", 2), ("\x00", 6), ('"', 2)]
)
def test_metadata_of_exactly_the_limit_is_accepted_and_one_byte_more_is_refused(character: str, size: int) -> None:
    count, rest = divmod(LIMIT - len('{"a":""}'), size)
    value = character * count + "x" * rest
    decision = decide(EMPTY, [Set(key="a", value=value)], LIMIT)
    assert decision.snapshot.size_bytes == LIMIT == len(decision.snapshot.text.encode())
    with pytest.raises(TooLarge) as caught:
        decide(EMPTY, [Set(key="a", value=value + "x")], LIMIT)
    refusal = caught.value
    assert (refusal.size_bytes, refusal.limit_bytes, refusal.index) == (4_097, 4_096, None)
    assert refusal.largest_keys == (KeySize("a", 4_095),)
    assert refusal.code == "metadata-too-large"
    assert str(refusal) == (
        "metadata would be 4,097 bytes, the limit is 4,096; delete or shorten the largest keys first"
    )


@pytest.mark.parametrize("limit", [2, 100, METADATA_BYTES_MAX])
def test_limit_is_the_one_that_was_given(limit: int) -> None:
    value: JsonObject = {"k": "x" * (limit - len('{"k":""}'))} if limit > 10 else {}
    assert decide(EMPTY, [Update(value=value)], limit).snapshot.size_bytes == limit
    with pytest.raises(TooLarge) as caught:
        decide(EMPTY, [Set(key="k", value="x" * (limit - len('{"k":""}') + 1))], limit)
    assert caught.value.size_bytes == max(limit + 1, 8)


def test_numbers_are_counted_as_javascript_prints_them() -> None:
    operations = parsed([{"type": "set", "key": "a", "value": [1.0, 1e20, 1e21, 1e-5, 1e-7, -0.0]}])
    text = '{"a":[1,100000000000000000000,1e+21,0.00001,1e-7,0]}'
    assert decide(EMPTY, operations, len(text)).snapshot == Snapshot(
        {"a": [1, 10**20, 1e21, 1e-5, 1e-7, 0]}, 1, text, len(text)
    )
    with pytest.raises(TooLarge):
        decide(EMPTY, operations, len(text) - 1)


def test_five_largest_keys_are_named_largest_first() -> None:
    metadata: JsonObject = {
        "a": 1,
        "bb": "é" * 30,
        "c": [1] * 40,
        "d": 2,
        "e": {"x": "y" * 60},
        "f": 3,
        "g": 4,
        "": 5,
    }
    snapshot = Snapshot.of(metadata, 1)
    with pytest.raises(TooLarge) as caught:
        decide(snapshot, [Increment(key="a", value=1000)], snapshot.size_bytes + 2)
    assert caught.value.size_bytes == snapshot.size_bytes + 3
    assert caught.value.largest_keys == (
        KeySize("c", len('"c":[]') + 79),
        KeySize("e", len('"e":{"x":""}') + 60),
        KeySize("bb", len('"bb":""') + 60),
        KeySize("a", len('"a":1001')),
        KeySize("d", len('"d":2')),
    )


def test_sizes_of_the_keys_with_commas_and_braces_are_the_size_of_the_metadata() -> None:
    metadata: JsonObject = {"a": "\x00", "é": [1e-7, {}], "": {"😀": None}, '"': 0.1}
    snapshot = Snapshot.of(metadata, 1)
    with pytest.raises(TooLarge) as caught:
        check(snapshot, snapshot.size_bytes - 1)
    assert sum(size.bytes for size in caught.value.largest_keys) + 3 + 2 == snapshot.size_bytes
    check(snapshot, snapshot.size_bytes)


def test_metadata_may_be_over_the_limit_between_two_operations() -> None:
    operations: list[Operation] = [Set(key=str(n), value="x" * 3_000) for n in range(3)]
    operations += [Delete(key="0"), Delete(key="1")]
    decision = decide(EMPTY, operations, LIMIT)
    assert len(decision.events) == 5
    assert decision.snapshot == Snapshot.of({"2": "x" * 3_000}, 5)


def test_value_of_exactly_the_limit_may_stand_in_the_middle() -> None:
    operations: list[Operation] = [Set(key="a", value="x" * (LIMIT - 2)), Delete(key="a")]
    assert decide(EMPTY, operations, LIMIT).snapshot == Snapshot({}, 2, "{}", 2)


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param(lambda text: Set(key="a", value=text), id="set"),
        pytest.param(lambda text: Set(key="$.a", value=text), id="set by path"),
        pytest.param(lambda text: AppendItem(key="a", value=text), id="append"),
        pytest.param(lambda text: RemoveItem(key="l", value=text), id="remove"),
    ],
)
@pytest.mark.parametrize("character", ["x", "é", "😀", "\x00"])
def test_value_over_the_limit_is_refused_although_it_is_deleted_afterwards(kind: Valued, character: str) -> None:
    size = len(character.encode()) if character != "\x00" else 6
    text = character * ((LIMIT - 2) // size) + "x" * ((LIMIT - 2) % size)
    snapshot = Snapshot.of({"l": []}, 1)
    before: Operation = Set(key="b", value=1)
    after: list[Operation] = [Delete(key="a"), Delete(key="l")]
    assert decide(snapshot, [before, kind(text), *after], LIMIT).snapshot.text == '{"b":1}'
    with pytest.raises(TooLarge) as caught:
        decide(snapshot, [before, kind(text + "x"), *after], LIMIT)
    assert (caught.value.size_bytes, caught.value.limit_bytes, caught.value.index) == (4_097, 4_096, 1)
    (named,) = caught.value.largest_keys
    assert named.key == getattr(kind(text), "key", None)
    assert str(caught.value).startswith("the value of one operation would be 4,097 bytes, the limit is 4,096")


def test_update_over_the_limit_is_refused_although_it_is_replaced_afterwards() -> None:
    value: JsonObject = {"a": "x" * 2_000, "b": "x" * 3_000}
    with pytest.raises(TooLarge) as caught:
        decide(EMPTY, [Delete(key="z"), Update(value=value), Update(value={})], LIMIT)
    assert (caught.value.size_bytes, caught.value.index) == (5_015, 1)
    assert caught.value.largest_keys == (KeySize("b", 3_006), KeySize("a", 2_006))


def test_object_too_large_for_the_empty_key_is_named_by_the_empty_key() -> None:
    with pytest.raises(TooLarge) as caught:
        decide(EMPTY, [Set(key="", value={"x": "y" * 5_000})], LIMIT)
    assert caught.value.index == 0
    assert [size.key for size in caught.value.largest_keys] == [""]


def test_value_that_is_not_taken_is_not_measured() -> None:
    decision = decide(EMPTY, [RemoveItem(key="l", value="x" * 5_000), Set(key="a", value=1)], LIMIT)
    assert decision.snapshot.text == '{"a":1}'
    assert [unapplied.index for unapplied in decision.unapplied] == [0]


def test_first_value_over_the_limit_is_the_one_that_is_named() -> None:
    large = "x" * 5_000
    operations: list[Operation] = [Set(key="a", value=1), Set(key="b", value=large), Set(key="c", value=large * 2)]
    with pytest.raises(TooLarge) as caught:
        decide(EMPTY, operations, LIMIT)
    assert (caught.value.index, caught.value.size_bytes) == (1, 5_002)


def test_metadata_over_the_limit_can_be_made_smaller_but_not_stay_over() -> None:
    snapshot = Snapshot.of({"a": "x" * 5_000, "b": "y" * 5_000, "c": 1}, 3)
    with pytest.raises(TooLarge):
        decide(snapshot, [Delete(key="a")], LIMIT)
    assert decide(snapshot, [Delete(key="a"), Delete(key="b")], LIMIT).snapshot.text == '{"c":1}'


# --- the operation that is wrong ---


@pytest.mark.parametrize(
    "key", ["__proto__", "$.", "$.*", "$.l.[0:1]", "$.a\\.b", "$.x.constructor", "$.l.length"]
)
def test_bad_key_is_refused_with_its_place_in_the_list(key: str) -> None:
    snapshot = Snapshot.of({"l": [1, 2], "n": None}, 2)
    operations: list[Operation] = [
        Set(key="a", value=1),
        Set(key="$.n", value=1),
        Set(key=key, value=1),
        Set(key="__proto__", value=1),
    ]
    with pytest.raises(BadPath) as caught:
        decide(snapshot, operations, LIMIT)
    assert (caught.value.key, caught.value.index) == (key, 2)
    assert snapshot == Snapshot({"l": [1, 2], "n": None}, 2, '{"l":[1,2],"n":null}', 20)


def test_each_refused_request_is_told_its_own_index() -> None:
    for index in (0, 1, 5):
        operations: list[Operation] = [*([Set(key="a", value=1)] * index), Set(key="$.*", value=1)]
        with pytest.raises(BadPath) as caught:
            decide(EMPTY, operations, LIMIT)
        assert caught.value.index == index


def test_sum_that_overflows_is_refused_with_its_place_in_the_list() -> None:
    operations: list[Operation] = [
        Set(key="n", value=1e308),
        Increment(key="n", value=7e307),
        Increment(key="n", value=7e307),
        Delete(key="n"),
    ]
    with pytest.raises(OutOfBounds) as caught:
        decide(EMPTY, operations, LIMIT)
    assert (caught.value.key, caught.value.limit, caught.value.index) == ("n", None, 2)
    assert caught.value.code == "out-of-bounds"


def test_far_index_is_refused_with_its_place_in_the_list() -> None:
    operations: list[Operation] = [Set(key="l", value=[]), Set(key="$.l.65536", value=1), Delete(key="l")]
    with pytest.raises(OutOfBounds) as caught:
        decide(EMPTY, operations, LIMIT)
    assert (caught.value.key, caught.value.limit, caught.value.index) == ("$.l.65536", 65_535, 1)
    assert str(caught.value) == "key '$.l.65536': list index 65536 is over 65535"


def test_last_index_is_accepted_when_the_result_is_small() -> None:
    operations: list[Operation] = [Set(key="l", value=[]), Set(key="$.l.65535", value=1), Delete(key="l")]
    assert decide(EMPTY, operations, LIMIT).snapshot == Snapshot({}, 3, "{}", 2)


def test_last_index_is_too_large_a_result() -> None:
    operations: list[Operation] = [Set(key="l", value=[]), Set(key="$.l.65535", value=1)]
    with pytest.raises(TooLarge) as caught:
        decide(EMPTY, operations, METADATA_BYTES_MAX)
    assert caught.value.size_bytes == len('{"l":[1]}') + 65_535 * len("null,")
    assert caught.value.largest_keys == (KeySize("l", caught.value.size_bytes - 2),)


def test_small_request_cannot_fill_the_memory_with_gaps() -> None:
    lists = 100
    operations: list[Operation] = [Update(value={"l": [[]] * lists})]
    operations += [Set(key=f"$.l.{place}.65535", value=0) for place in range(lists)]
    tracemalloc.start()
    try:
        with pytest.raises((OutOfBounds, TooLarge)):
            decide(EMPTY, operations, LIMIT)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 16 * METADATA_BYTES_MAX


def gaps(*indexes: int) -> list[Operation]:
    """Name a far index of a new list, once for each of *indexes*, and take the list away again."""
    return [
        operation
        for index in indexes
        for operation in (Set(key="l", value=[]), Set(key=f"$.l.{index}", value=1), Delete(key="l"))
    ]


def test_one_request_may_fill_in_65535_nulls_and_no_more() -> None:
    assert decide(EMPTY, gaps(65_535, 0, 0), LIMIT).snapshot == Snapshot({}, 9, "{}", 2)
    assert decide(EMPTY, gaps(5, 65_530), LIMIT).snapshot == Snapshot({}, 6, "{}", 2)
    with pytest.raises(OutOfBounds) as caught:
        decide(EMPTY, gaps(5, 65_530, 0, 1, 9), LIMIT)
    assert (caught.value.key, caught.value.limit, caught.value.index) == ("$.l.1", 65_535, 10)
    assert str(caught.value).startswith("key '$.l.1': one request may fill in at most 65,535 nulls")


@pytest.mark.parametrize("kind", ["set", "append", "increment"])
def test_only_nulls_that_were_filled_in_are_counted(kind: str) -> None:
    snapshot = Snapshot.of({"l": [0] * 5, "o": {}, "n": 1}, 1)
    far: list[Operation] = [Set(key="new", value=[]), Set(key="$.new.65535", value=1), Delete(key="new")]
    others = ("$.l.4", "$.l.5", "$.o.70000", "$.o.x", "m", "9", "$.9", "$.none.500", "$.n.500")
    harmless = parsed([{"type": kind, "key": key, "value": 1} for key in others])
    decision = decide(snapshot, [*far, *harmless], LIMIT)
    assert len(decision.events) == 3 + 7
    assert [unapplied.key for unapplied in decision.unapplied] == ["$.none.500", "$.n.500"]
    with pytest.raises(OutOfBounds) as caught:
        decide(snapshot, [*far, *parsed([{"type": kind, "key": "$.l.6", "value": 1}])], LIMIT)
    assert (caught.value.key, caught.value.index) == ("$.l.6", 3)


# --- depth ---


def test_metadata_may_be_nested_64_levels_and_no_deeper() -> None:
    decision = decide(EMPTY, [Set(key="a", value=nested(63))], LIMIT)
    assert decision.snapshot == Snapshot.of({"a": nested(63)}, 1)
    with pytest.raises(OutOfBounds) as caught:
        decide(EMPTY, [Set(key="a", value=nested(64))], LIMIT)
    refusal = caught.value
    assert (refusal.key, refusal.limit, refusal.index) == (None, 64, None)
    assert str(refusal) == "the metadata would be nested deeper than 64 levels"


def test_updated_object_counts_as_the_first_level() -> None:
    assert decide(EMPTY, [Update(value=nested_object(64))], LIMIT).snapshot.metadata == nested_object(64)


@pytest.mark.parametrize(
    "operation",
    [
        pytest.param(Set(key="$.a.b", value=nested(63)), id="set below the top"),
        pytest.param(AppendItem(key="l", value=nested(63)), id="item of a list"),
        pytest.param(AppendItem(key="new", value=nested(63)), id="item of a new list"),
        pytest.param(AppendItem(key="deep", value=1), id="list around what was there"),
    ],
)
def test_depth_is_that_of_the_result(operation: Operation) -> None:
    snapshot = Snapshot.of({"a": {}, "l": [], "deep": nested(63)}, 1)
    with pytest.raises(OutOfBounds) as caught:
        decide(snapshot, [operation], LIMIT)
    assert (caught.value.key, caught.value.limit) == (None, 64)


def test_nesting_that_is_built_in_steps_and_taken_away_again_is_accepted() -> None:
    operations: list[Operation] = [
        Set(key="a", value=nested(63)),
        AppendItem(key="a", value=1),
        Set(key="a", value={}),
    ]
    assert decide(EMPTY, operations, LIMIT).snapshot == Snapshot.of({"a": {}}, 3)


def test_nesting_that_is_built_in_steps_of_paths_is_refused() -> None:
    operations: list[Operation] = [Set(key="$." + ".".join("a" * names), value={}) for names in range(1, 65)]
    assert len(decide(EMPTY, operations[:63], LIMIT).events) == 63
    with pytest.raises(OutOfBounds):
        decide(EMPTY, operations, LIMIT)


def test_brackets_in_texts_and_keys_are_no_nesting() -> None:
    metadata: JsonObject = {"[" * 100: "{[" * 100, "l": [[]] * 100}
    assert decide(EMPTY, [Update(value=metadata)], LIMIT).snapshot.metadata == metadata


def test_size_is_judged_before_depth() -> None:
    with pytest.raises(TooLarge):
        check(Snapshot.of({"a": nested(100)}, 1), 10)
    with pytest.raises(OutOfBounds):
        check(Snapshot.of({"a": nested(100)}, 1), LIMIT)


# --- snapshots ---


def test_snapshot_holds_its_text_and_the_bytes_of_it() -> None:
    assert Snapshot.of({"é": [True, 1e-7]}, 5) == Snapshot({"é": [True, 1e-7]}, 5, '{"é":[true,1e-7]}', 18)


def test_snapshot_loads_what_was_stored() -> None:
    snapshot = Snapshot.of({"é": [True, 1e21, None], "\x00": {"a": 0.1}}, 5)
    loaded = Snapshot.load(snapshot.text, snapshot.version, snapshot.size_bytes)
    assert loaded == snapshot
    assert exact(loaded.metadata) == exact(snapshot.metadata)
