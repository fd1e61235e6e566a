"""What an event did to the value it names, and which events made a value what it is."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from projections import values
from projections.errors import BadPath, OutOfBounds
from projections.events import Body, Event, RunCreated, RunStatusChanged, RunTagged
from projections.explain import Step, step, wiped_by
from projections.history import effect, grown_bytes, metadata_after, named_path, replay, touches
from projections.lifecycle import Status
from projections.metadata import ABSENT, Absent, evolve, value_at
from projections.operations import (
    AppendItem,
    Delete,
    Increment,
    MetadataOperation,
    RemoveItem,
    Set,
    Update,
)
from projections.paths import Path, literal, parse_key
from projections.size import size_bytes
from projections.values import JsonObject
from tests.javascript import exact
from tests.projections.test_history import recorded
from tests.strategies import History, histories, json_values, keys, metadata_objects, places, thorough

quick = settings(thorough, max_examples=40)  # Each example looks at every place of its history.

OTHER = "☃"  # A value that no history holds.


def stream(history: History) -> list[Event]:
    """A run that begins with the history's metadata and then goes through its operations."""
    return recorded([RunCreated(task="t", metadata=history.metadata), *history.operations])


def paths_in(events: list[Event]) -> set[Path]:
    """Every place that ever held something, and every place that was named."""
    found = set()
    for event, _, after in replay({}, events):
        found |= {Path(names, literal=False) for names in places(after)} | {
            literal(key) for key in after if key != "__proto__"
        }
        if isinstance(event.body, MetadataOperation) and (named := named_path(event.body)) is not None:
            found.add(named)
    return found


def steps_of(events: list[Event], path: Path) -> list[Step]:
    found = [step(path, event, before, after) for event, before, after in replay({}, events)]
    return [one for one in found if one is not None]


def spelled(value: Any) -> Any:
    return value if isinstance(value, Absent) else exact(value)


def state_of(events: list[Event]) -> JsonObject:
    state: JsonObject = {}
    for event in events:
        state = metadata_after(state, event.body)
    return state


# --- explain ---


@quick
@given(histories())
def test_the_last_value_is_the_current_one_and_every_value_is_that_of_its_version(history: History) -> None:
    events = stream(history)
    for path in paths_in(events):
        steps = steps_of(events, path)
        assert steps, "a place that was named or held something was touched"
        assert spelled(steps[-1].value) == spelled(value_at(state_of(events), path))
        for one in steps:
            assert spelled(one.value) == spelled(value_at(state_of(events[: one.event.version]), path))


@quick
@given(histories())
def test_the_steps_are_the_events_that_the_history_of_the_key_shows(history: History) -> None:
    events = stream(history)
    for path in paths_in(events):
        shown = [event.version for event, old, new in replay({}, events) if touches(path, event.body, old, new)]
        assert [one.event.version for one in steps_of(events, path)] == shown


@quick
@given(histories())
def test_what_is_wiped_no_longer_counts(history: History) -> None:
    """After an event that wipes, the value would be the same had it been another one before."""
    events = stream(history)
    for path in paths_in(events):
        for event, before, after in replay({}, events):
            found = step(path, event, before, after)
            if found is None or not found.wipes or isinstance(found.value, Absent):
                continue
            old = value_at(before, path)
            if isinstance(old, Absent | None) or event.version == 1:
                continue
            try:
                other = evolve(before, Set(key=str(path), value=OTHER))
            except (BadPath, OutOfBounds):
                continue  # Such a name can be held, and not used in a key.
            if spelled(value_at(other, path)) != spelled(OTHER):
                continue  # The place is not the one that this key names.
            assert spelled(value_at(metadata_after(other, event.body), path)) == spelled(found.value)


@given(st.lists(st.booleans(), max_size=12), st.sampled_from([None, 99]))
def test_an_event_is_wiped_by_the_first_later_one_that_wipes(wiping: list[bool], later: int | None) -> None:
    events = recorded([Set(key="a", value=1)] * len(wiping), first_version=5)
    steps = [Step(event, 1, wipes) for event, wipes in zip(events, wiping, strict=True)]
    expected = [
        next((one.event.version for one in steps[place + 1 :] if one.wipes), later) for place in range(len(steps))
    ]
    assert wiped_by(steps, later) == expected


@pytest.mark.parametrize(
    ("key", "body", "before", "wipes"),
    [
        pytest.param("a", Set(key="a", value=2), {"a": 1}, True, id="set"),
        pytest.param("a", Set(key="a", value=1), {"a": 1}, True, id="set to the same"),
        pytest.param("$.o.x", Set(key="o", value={"x": 1}), {"o": {"x": 2}}, True, id="set of what holds it"),
        pytest.param("o", Set(key="$.o.x", value=1), {"o": {"x": 2}}, False, id="set of a part"),
        pytest.param("a", Delete(key="a"), {"a": 1}, True, id="delete"),
        pytest.param("$.o.x", Delete(key="o"), {"o": {"x": 2}}, True, id="delete of what holds it"),
        pytest.param("a", Update(value={"a": 2}), {"a": 1}, True, id="update to another value"),
        pytest.param("a", Update(value={}), {"a": 1}, True, id="update without it"),
        pytest.param("a", Update(value={"a": 1}), {"a": 1}, None, id="update that keeps it"),
        pytest.param("n", Increment(key="n", value=1), {"n": 1}, False, id="increment"),
        pytest.param("n", Increment(key="n", value=1), {}, True, id="increment of nothing"),
        pytest.param("n", Increment(key="n", value=1), {"n": "x"}, True, id="increment of text"),
        pytest.param("n", Increment(key="n", value=1), {"n": True}, True, id="increment of true"),
        pytest.param("$.o.x", Increment(key="o", value=1), {"o": {"x": 1}}, True, id="increment of what holds it"),
        pytest.param("l", AppendItem(key="l", value=1), {"l": [0]}, False, id="append"),
        pytest.param("l", AppendItem(key="l", value=1), {"l": 0}, False, id="append to a scalar"),
        pytest.param("l", AppendItem(key="l", value=1), {}, True, id="append to nothing"),
        pytest.param("l", RemoveItem(key="l", value=1), {"l": [1, 2]}, False, id="remove"),
        pytest.param("$.l.1", RemoveItem(key="l", value=1), {"l": [1, 2]}, True, id="remove of the last item"),
        pytest.param("$.l.0", RemoveItem(key="l", value=1), {"l": [1, 2]}, False, id="remove that moves items"),
        pytest.param("$.l.2", Set(key="$.l.4", value=1), {"l": [0]}, True, id="null that fills a gap"),
        pytest.param("a", Set(key="b", value=1), {"a": 1}, None, id="another key"),
        pytest.param("a", RunTagged(tags=("a",)), {"a": 1}, None, id="tags"),
        pytest.param("a", RunStatusChanged(status=Status.FAILED), {"a": 1}, None, id="status"),
    ],
)
def test_whether_an_event_wipes(key: str, body: Body, before: JsonObject, wipes: bool | None) -> None:
    (event,) = recorded([body])
    found = step(parse_key(key), event, before, metadata_after(before, body))
    assert (None if found is None else found.wipes) is wipes


def test_a_story_as_it_is_told() -> None:
    events = recorded(
        [
            RunCreated(task="t", metadata={"n": 1, "other": 0}),
            Increment(key="n", value=1),
            Set(key="other", value=1),
            Update(value={"other": 2}),
            Increment(key="n", value=5),
            RunStatusChanged(status=Status.EXECUTING),
            Increment(key="$.n", value=1),
        ]
    )
    steps = steps_of(events, literal("n"))
    assert [(one.event.version, one.value) for one in steps] == [(1, 1), (2, 2), (4, ABSENT), (5, 5), (7, 6)]
    assert wiped_by(steps) == [4, 4, 5, None, None]


# --- what an event did ---


@pytest.mark.parametrize(
    ("body", "before", "expected"),
    [
        (RunCreated(task="t", metadata={"a": 1}), {}, (ABSENT, {"a": 1})),
        (RunCreated(task="t"), {}, (ABSENT, {})),
        (Set(key="a", value=2), {"a": 1, "b": 1}, (1, 2)),
        (Set(key="a", value=None), {}, (ABSENT, None)),
        (Set(key="$.o.x", value=2), {"o": {"x": None, "y": 1}}, (None, None)),
        (Set(key="$.o.x", value=2), {"o": {"y": 1}}, (ABSENT, 2)),
        (Set(key="$.l.3", value=2), {"l": [0]}, (ABSENT, 2)),
        (Set(key="a.b", value=2), {"a": {"b": 1}}, (ABSENT, 2)),
        (Delete(key="a"), {"a": None}, (None, ABSENT)),
        (Delete(key="$.o.x"), {"o": {"x": 1}}, (ABSENT, ABSENT)),
        (AppendItem(key="l", value=2), {"l": [1]}, ([1], [1, 2])),
        (RemoveItem(key="l", value=1), {"l": [1]}, ([1], [])),
        (Increment(key="n", value=2), {"n": 1}, (1, 3)),
        (
            Update(value={"a": 1, "b": 2, "d": 4}),
            {"a": 1, "b": True, "c": 3},
            ({"b": True, "c": 3}, {"b": 2, "d": 4}),
        ),
        (Update(value={"a": 1}), {"a": 1}, ({}, {})),
        (RunTagged(tags=("a",)), {"a": 1}, (ABSENT, ABSENT)),
        (RunStatusChanged(status=Status.FAILED), {"a": 1}, (ABSENT, ABSENT)),
    ],
)
def test_the_effect_is_the_value_before_and_after(
    body: Body, before: JsonObject, expected: tuple[Any, Any]
) -> None:
    found = effect(body, before, metadata_after(before, body))
    assert tuple(map(spelled, found)) == tuple(map(spelled, expected))


@quick
@given(histories())
def test_what_was_there_before_an_event_is_what_the_event_before_it_left(history: History) -> None:
    events = stream(history)
    for path in paths_in(events):
        left: Any = ABSENT
        for event, before, after in replay({}, events):
            if not touches(path, event.body, before, after):
                continue
            if isinstance(event.body, MetadataOperation) and named_path(event.body) == path:
                did = effect(event.body, before, after)
                assert spelled(did.before) == spelled(left)
                assert spelled(did.after) == spelled(value_at(after, path))
            left = value_at(after, path)


@thorough
@given(metadata_objects(), metadata_objects())
def test_the_effect_of_an_update_is_all_that_differs(before: JsonObject, after: JsonObject) -> None:
    did = effect(Update.model_construct(value=after), before, after)
    assert isinstance(did.before, dict)
    assert isinstance(did.after, dict)
    rest = {name: value for name, value in before.items() if name not in did.before}
    assert values.equal({**rest, **did.after}, after)
    for name in {*did.before, *did.after}:
        assert spelled(before.get(name, ABSENT)) != spelled(after.get(name, ABSENT)) or spelled(
            did.before.get(name, ABSENT)
        ) == spelled(before.get(name, ABSENT))


@pytest.mark.parametrize("kind", [Set, Delete, AppendItem, RemoveItem, Increment])
def test_an_operation_whose_data_was_erased_did_nothing_that_is_known(kind: type[MetadataOperation]) -> None:
    erased: Any = kind.model_construct()
    assert named_path(erased) is None
    assert touches(literal("a"), erased, {"a": 1}, {"a": 1}) is False
    assert effect(erased, {"a": 1}, {"a": 1}) == (ABSENT, ABSENT)


# --- sizes ---


def bytes_of(metadata: JsonObject) -> int:
    return size_bytes(values.dump(metadata))


OBJECTS: st.SearchStrategy[JsonObject] = st.one_of(
    metadata_objects(), st.dictionaries(keys(), json_values(), max_size=3), st.just({})
)


@thorough
@given(OBJECTS, OBJECTS)
def test_growth_is_the_difference_of_the_sizes(before: JsonObject, after: JsonObject) -> None:
    assert grown_bytes(before, after) == bytes_of(after) - bytes_of(before)
    mixed = {**before, **after}
    assert grown_bytes(before, mixed) == bytes_of(mixed) - bytes_of(before)
    assert grown_bytes(mixed, before) == bytes_of(before) - bytes_of(mixed)


@thorough
@given(histories(max_size=20))
def test_growth_adds_up_to_the_size_after_every_event(history: History) -> None:
    size = bytes_of({})
    for _, before, after in replay({}, stream(history)):
        size += grown_bytes(before, after)
        assert size == bytes_of(after)
