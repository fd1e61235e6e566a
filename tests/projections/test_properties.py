"""Laws for every history: of folding, of the size rule, of sharing; and agreement with the plain model."""

import copy
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import JsonValue

from projections import values
from projections.errors import BadPath, OutOfBounds, TooLarge
from projections.events import load_body, new_event
from projections.metadata import CannotApply, apply, evolve, fold
from projections.operations import (
    AppendItem,
    Delete,
    Increment,
    MetadataOperation,
    Operation,
    RemoveItem,
    Set,
    Update,
)
from projections.paths import Path, literal, parse_key
from projections.size import METADATA_BYTES_MAX, size_bytes
from projections.snapshot import Snapshot, decide
from projections.values import JsonObject
from tests import model
from tests.javascript import doubles, exact, stringify
from tests.strategies import History, histories, hostile_histories, metadata_objects, thorough

NO_LIMIT = 10**9


# --- folding ---


@thorough
@given(histories(), st.integers(0, 10))
def test_fold_of_a_split_history_is_the_fold_of_the_whole(history: History, split: int) -> None:
    operations = history.operations
    whole = fold(history.metadata, operations)
    assert exact(fold(fold(history.metadata, operations[:split]), operations[split:])) == exact(whole)


@thorough
@given(histories(), st.integers(0, 10))
def test_stored_snapshot_and_the_rest_give_the_full_fold(history: History, split: int) -> None:
    operations = history.operations
    kept = Snapshot.of(fold(history.metadata, operations[:split]), split)
    loaded = Snapshot.load(kept.text, kept.version, kept.size_bytes)
    assert loaded == kept
    rest = fold(loaded.metadata, operations[split:])
    assert values.dump(rest) == values.dump(fold(history.metadata, operations))


@thorough
@given(histories(), st.integers(0, 10))
def test_two_requests_record_what_one_would(history: History, split: int) -> None:
    snapshot = Snapshot.of(history.metadata, 5)
    operations = history.operations
    one = decide(snapshot, operations, NO_LIMIT)
    first = decide(snapshot, operations[:split], NO_LIMIT)
    stored = Snapshot.load(first.snapshot.text, first.snapshot.version, first.snapshot.size_bytes)
    second = decide(stored, operations[split:], NO_LIMIT)
    assert first.events + second.events == one.events
    assert second.snapshot.text == one.snapshot.text
    assert second.snapshot.version == one.snapshot.version == 5 + len(one.events)
    late = [unapplied.index + min(split, len(operations)) for unapplied in second.unapplied]
    assert [unapplied.index for unapplied in first.unapplied] + late == [place.index for place in one.unapplied]


@thorough
@given(histories())
def test_recorded_events_fold_to_the_snapshot_that_was_decided(history: History) -> None:
    decision = decide(Snapshot.of(history.metadata, 0), history.operations, NO_LIMIT)
    metadata = values.load(values.dump(history.metadata))
    assert isinstance(metadata, dict)
    for event in decision.events:
        body = load_body(event.type, event.data)
        assert isinstance(body, MetadataOperation)
        metadata = apply(metadata, body)
    assert values.dump(metadata) == decision.snapshot.text


# --- agreement with the model ---


@settings(thorough, max_examples=300)
@given(histories(max_size=20))
def test_every_history_ends_as_in_the_model(history: History) -> None:
    outcome = model.run(history.metadata, history.wire)
    decision = decide(Snapshot.of(history.metadata, 3), history.operations, NO_LIMIT)
    assert exact(doubles(dict(decision.snapshot.metadata))) == exact(outcome.metadata)
    assert [unapplied.index for unapplied in decision.unapplied] == outcome.unapplied
    assert [unapplied.key for unapplied in decision.unapplied] == [
        history.wire[index]["key"] for index in outcome.unapplied
    ]
    assert [event.data for event in decision.events] == [
        stringify({name: member for name, member in wire.items() if name != "type"})
        for index, wire in enumerate(history.wire)
        if index not in outcome.unapplied
    ]
    assert decision.snapshot.version == 3 + len(decision.events)
    assert decision.snapshot.size_bytes == len(stringify(outcome.metadata).encode())


@settings(thorough, max_examples=200)
@given(hostile_histories())
def test_every_refusal_is_that_of_the_model_and_names_the_same_operation(history: History) -> None:
    snapshot = Snapshot.of(history.metadata, 0)
    outcome = model.judge(history.metadata, history.wire)
    if isinstance(outcome, model.Refused):
        with pytest.raises((BadPath, OutOfBounds)) as caught:
            decide(snapshot, history.operations, NO_LIMIT)
        assert isinstance(caught.value, BadPath if outcome.kind == "path" else OutOfBounds)
        assert getattr(caught.value, "index", None) == outcome.index
    else:
        decision = decide(snapshot, history.operations, NO_LIMIT)
        assert exact(doubles(dict(decision.snapshot.metadata))) == exact(outcome.metadata)
        assert [unapplied.index for unapplied in decision.unapplied] == outcome.unapplied
    assert snapshot == Snapshot.of(history.metadata, 0)


@thorough
@given(histories())
def test_metadata_stays_canonical(history: History) -> None:
    metadata = fold(history.metadata, history.operations)
    assert exact(values.canonical(metadata)) == exact(metadata)
    assert values.dump(metadata) == stringify(metadata)


# --- the size rule ---


@thorough
@given(histories(), st.integers(-2, 2), st.integers(2, 120), st.booleans())
def test_request_is_refused_exactly_when_its_result_or_one_value_is_over_the_limit(
    history: History, away: int, small: int, near: bool
) -> None:
    outcome = model.run(history.metadata, history.wire)
    applied = [index for index in range(len(history.wire)) if index not in outcome.unapplied]
    size = bytes_of(outcome.metadata)
    limit = max(2, size + away) if near else small
    over = [index for index in applied if bytes_of_value(history.wire[index]) > limit]
    snapshot = Snapshot.of(history.metadata, 0)
    if not over and (size <= limit or not applied):
        decision = decide(snapshot, history.operations, limit)
        assert decision.snapshot.size_bytes == size
        assert size_bytes(decision.snapshot.text) == size
        assert not decision.events or decision.snapshot.size_bytes <= limit
        return
    with pytest.raises(TooLarge) as caught:
        decide(snapshot, history.operations, limit)
    assert caught.value.limit_bytes == limit
    assert caught.value.index == (over[0] if over else None)
    assert caught.value.size_bytes == (bytes_of_value(history.wire[over[0]]) if over else size)
    if not over:
        largest = sorted((bytes_of({key: value}) - 2 for key, value in outcome.metadata.items()), reverse=True)
        assert [named.bytes for named in caught.value.largest_keys] == largest[:5]
        for named in caught.value.largest_keys:
            assert named.bytes == bytes_of({named.key: outcome.metadata[named.key]}) - 2


# --- what is never changed, and what is shared ---


@thorough
@given(histories())
def test_applying_changes_neither_the_metadata_nor_the_operations(history: History) -> None:
    metadata = copy.deepcopy(history.metadata)
    operations = history.operations
    before = [exact(operation.model_dump()) for operation in operations]
    states = [metadata]
    for operation in operations:
        states.append(evolve(states[-1], operation))
    spelled = [exact(state) for state in states]
    assert exact(metadata) == exact(history.metadata)
    assert [exact(operation.model_dump()) for operation in operations] == before
    again = [metadata]
    for operation in operations:
        again.append(evolve(again[-1], operation))
    assert [exact(state) for state in again] == spelled
    assert [exact(state) for state in states] == spelled


@thorough
@given(histories())
def test_same_parsed_list_decides_the_same_again_and_on_its_own_result(history: History) -> None:
    operations = history.operations
    snapshot = Snapshot.of(history.metadata, 0)
    first = decide(snapshot, operations, NO_LIMIT)
    twice = decide(first.snapshot, operations, NO_LIMIT)
    assert decide(snapshot, operations, NO_LIMIT) == first
    assert decide(first.snapshot, history.operations, NO_LIMIT) == twice
    assert exact(decide(snapshot, operations, NO_LIMIT).snapshot.metadata) == exact(first.snapshot.metadata)


def test_update_then_change_leaves_the_update_as_it_was() -> None:
    operations: list[Operation] = [
        Update(value={"n": 1, "o": {"l": [1]}}),
        Increment(key="n", value=1),
        AppendItem(key="$.o.l", value=2),
        Set(key="$.o.x", value=3),
        RemoveItem(key="$.o.l", value=1),
        Delete(key="n"),
    ]
    for _ in range(3):
        assert exact(fold({}, operations)) == exact({"o": {"l": [2], "x": 3}})
        assert exact(operations[0].model_dump()["value"]) == exact({"n": 1, "o": {"l": [1]}})


def test_value_put_in_two_places_is_changed_in_one() -> None:
    value: JsonObject = {"l": [1]}
    put = Set(key="a", value=value)
    metadata = fold({}, [put, Set(key="b", value=put.value), AppendItem(key="$.a.l", value=2)])
    assert exact(metadata) == exact({"a": {"l": [1, 2]}, "b": {"l": [1]}})
    assert exact(put.value) == exact({"l": [1]})


@thorough
@given(histories())
def test_folding_copies_only_along_the_changed_path(history: History) -> None:
    before = copy.deepcopy(history.metadata)
    for operation in history.operations:
        after = evolve(before, operation)
        ours = {id(container) for container in containers(before)}
        theirs = {id(container) for container in containers(getattr(operation, "value", None))}
        new = [container for container in containers(after) if id(container) not in ours | theirs]
        assert len(new) <= copies_allowed(operation)
        for name, member in before.items():
            if name in after and not changes(operation, name):
                assert after[name] is member
        before = after


@dataclass(frozen=True)
class Wide:
    """Metadata of nearly the largest size allowed, over two thousand keys, each with an object and a list."""

    metadata: JsonObject
    size: int


@pytest.fixture(scope="module")
def wide() -> Wide:
    metadata: JsonObject = {f"k{n}": {"o": {"n": n, "text": "x" * 73}, "l": [[n], {"n": n}]} for n in range(2_000)}
    size = Snapshot.of(metadata, 1).size_bytes
    assert METADATA_BYTES_MAX * 0.9 < size <= METADATA_BYTES_MAX
    return Wide(metadata, size)


CHANGES: list[tuple[Operation, list[tuple[str, ...]]]] = [
    (Set(key="k1000", value=1), [()]),
    (Set(key="$.k1000", value=1), [()]),
    (Set(key="$.k1000.o.n", value=1), [(), ("k1000",), ("k1000", "o")]),
    (Increment(key="$.k1999.l.1.n", value=1), [(), ("k1999",), ("k1999", "l"), ("k1999", "l", "1")]),
    (AppendItem(key="$.k0.l", value=1), [(), ("k0",), ("k0", "l")]),
    (RemoveItem(key="$.k7.l", value=[7]), [(), ("k7",), ("k7", "l")]),
    (RemoveItem(key="$.k8.l", value="none"), [(), ("k8",), ("k8", "l")]),
    (Set(key="$.k9.l.3", value=None), [(), ("k9",), ("k9", "l")]),
    (Delete(key="k1000"), [()]),
    (Delete(key="none"), [()]),
    (Set(key="new", value=1), [()]),
]


@pytest.mark.parametrize(
    ("operation", "copied"), CHANGES, ids=[f"{case.type} {getattr(case, 'key', '')}" for case, _ in CHANGES]
)
def test_change_of_a_wide_object_copies_only_the_containers_above_it(
    wide: Wide, operation: Operation, copied: list[tuple[str, ...]]
) -> None:
    before = by_place(wide.metadata)
    after = by_place(apply(wide.metadata, operation))
    known = {id(container) for container in before.values()}
    assert [place for place, container in after.items() if id(container) not in known] == copied
    assert Snapshot.of(wide.metadata, 1).size_bytes == wide.size


def test_operation_that_cannot_apply_copies_nothing(wide: Wide) -> None:
    for operation in (RemoveItem(key="k1", value=1), Set(key="$.k1.x.y", value=1), Set(key="$.k1.l.x", value=1)):
        assert evolve(wide.metadata, operation) is wide.metadata
        with pytest.raises(CannotApply):
            apply(wide.metadata, operation)


def test_decision_shares_what_did_not_change(wide: Wide) -> None:
    operations: list[Operation] = [Set(key=f"$.k{n}.o.n", value=-1) for n in range(10)]
    after = decide(Snapshot.of(wide.metadata, 1), operations, METADATA_BYTES_MAX).snapshot.metadata
    assert [name for name in after if after[name] is not wide.metadata[name]] == [f"k{n}" for n in range(10)]


# --- events ---


@thorough
@given(histories())
def test_every_event_reads_back_as_the_operation_it_records(history: History) -> None:
    for operation in history.operations:
        event = new_event(operation)
        read = load_body(event.type, event.data)
        assert read == operation
        assert exact(read.model_dump()) == exact(operation.model_dump())
        assert new_event(read) == event


@thorough
@given(metadata_objects())
def test_snapshot_survives_its_text(metadata: JsonObject) -> None:
    snapshot = Snapshot.of(metadata, 4)
    loaded = Snapshot.load(snapshot.text, 4, snapshot.size_bytes)
    assert loaded == snapshot
    assert exact(loaded.metadata) == exact(metadata)
    assert snapshot.text == stringify(metadata)
    assert snapshot.size_bytes == len(snapshot.text.encode())


def bytes_of(value: JsonValue) -> int:
    return len(stringify(value).encode())


def bytes_of_value(wire: JsonObject) -> int:
    """The bytes of an operation's own value; `delete` has none."""
    return bytes_of(wire["value"]) if "value" in wire else 0


def containers(value: JsonValue) -> Iterator[JsonValue]:
    yield from by_place(value).values()


def by_place(value: JsonValue, place: tuple[str, ...] = ()) -> dict[tuple[str, ...], JsonValue]:
    """Every object and list within *value*, by the names that lead to it."""
    if not isinstance(value, dict | list):
        return {}
    found: dict[tuple[str, ...], JsonValue] = {place: value}
    for name, member in value.items() if isinstance(value, dict) else enumerate(value):
        found |= by_place(member, (*place, str(name)))
    return found


def path_of(operation: Operation) -> Path | None:
    if isinstance(operation, Update):
        return None
    return literal(operation.key) if isinstance(operation, Delete) else parse_key(operation.key)


def copies_allowed(operation: Operation) -> int:
    """The containers above the changed place, and the list that `append` and `remove` make."""
    path = path_of(operation)
    makes_list = isinstance(operation, AppendItem | RemoveItem)
    return 0 if path is None else len(path.names) + makes_list


def changes(operation: Operation, name: str) -> bool:
    path = path_of(operation)
    return path is None or path.names[0] == name
