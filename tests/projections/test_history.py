"""Read models over a stretch of events: the metadata before and after, and which events are about a value."""

import pytest
from hypothesis import given

from projections.events import Body, Event, RunCreated, RunStatusChanged, RunTagged, new_event
from projections.history import metadata_after, replay, touches
from projections.lifecycle import Status
from projections.metadata import ABSENT, value_at
from projections.operations import AppendItem, Delete, Increment, RemoveItem, Set, Update
from projections.paths import Path, literal, parse_key
from projections.values import JsonObject
from tests import model
from tests.javascript import doubles, exact
from tests.strategies import History, histories, nested, places, thorough


def recorded(bodies: list[Body], first_version: int = 1) -> list[Event]:
    return [
        Event(
            position=version,
            run_id="run_1",
            version=version,
            type=new_event(body).type,
            data=new_event(body).data,
            actor="ci",
            attempt=1,
            headers="{}",
            occurred_at=None,
            recorded_at=version,
            hash=bytes(32),
        )
        for version, body in enumerate(bodies, start=first_version)
    ]


# --- replay ---


def test_replay_gives_each_event_with_the_metadata_before_and_after() -> None:
    events = recorded(
        [
            RunCreated(task="t", metadata={"a": 1}),
            RunTagged(tags=("x",)),
            Increment(key="a", value=1),
            RunStatusChanged(status=Status.FAILED),
            RemoveItem(key="a", value=1),
            Update(value={"b": [True]}),
        ]
    )
    one: JsonObject = {"a": 1}
    two: JsonObject = {"a": 2}
    last: JsonObject = {"b": [True]}
    assert list(replay({}, events)) == [
        (events[0], {}, one),
        (events[1], one, one),
        (events[2], one, two),
        (events[3], two, two),
        (events[4], two, two),
        (events[5], two, last),
    ]


def test_replay_may_begin_anywhere() -> None:
    events = recorded([Increment(key="n", value=1), AppendItem(key="l", value=1)], first_version=40)
    assert [after for _, _, after in replay({"n": 6}, events)] == [{"n": 7}, {"n": 7, "l": [1]}]
    assert list(replay({"n": 6}, [])) == []


@pytest.mark.parametrize(
    ("body", "after"),
    [
        (RunCreated(task="t", metadata={"b": 2}), {"b": 2}),
        (RunCreated(task="t"), {}),
        (Set(key="b", value=2), {"a": 1, "b": 2}),
        (Delete(key="a"), {}),
        (RemoveItem(key="a", value=1), {"a": 1}),
        (RunTagged(tags=("a",)), {"a": 1}),
        (RunStatusChanged(status=Status.COMPLETED, output={"a": 2}), {"a": 1}),
    ],
)
def test_only_creation_and_operations_change_metadata(body: Body, after: JsonObject) -> None:
    assert exact(metadata_after({"a": 1}, body)) == exact(after)


@thorough
@given(histories())
def test_replay_of_any_history_agrees_with_the_model(history: History) -> None:
    expected = [
        exact(model.run(history.metadata, history.wire[:size]).metadata) for size in range(len(history.wire) + 1)
    ]
    steps = list(replay(history.metadata, recorded([*history.operations])))
    assert [exact(doubles(dict(before))) for _, before, _ in steps] == expected[:-1]
    assert [exact(doubles(dict(after))) for _, _, after in steps] == expected[1:]


# --- touches ---


def is_about(key: str, body: Body, before: JsonObject) -> bool:
    return touches(parse_key(key), body, before, metadata_after(before, body))


@pytest.mark.parametrize(
    ("key", "body"),
    [
        pytest.param("a", Set(key="a", value=2), id="set"),
        pytest.param("a", Set(key="$.a", value=2), id="set by path"),
        pytest.param("$.a", Set(key="a", value=2), id="set, asked by path"),
        pytest.param("a", Set(key="a", value=1), id="set to the same"),
        pytest.param("a", Delete(key="a"), id="delete"),
        pytest.param("z", Delete(key="z"), id="delete of nothing"),
        pytest.param("$.o.x", Delete(key="o"), id="delete of what holds it"),
        pytest.param("$.o.x", Set(key="o", value={"x": 1}), id="set of what holds it"),
        pytest.param("o", Set(key="$.o.x", value=1), id="set of what it holds"),
        pytest.param("$.o.x", Set(key="$.o", value={}), id="set by path of what holds it"),
        pytest.param("l", AppendItem(key="$.l", value=1), id="append"),
        pytest.param("$.l.0", RemoveItem(key="l", value=0), id="remove that moves items"),
        pytest.param("l", RemoveItem(key="l", value="none such"), id="remove of nothing"),
        pytest.param("n", Increment(key="n", value=0), id="increment by nothing"),
        pytest.param("$.l.1", Set(key="$.l.1", value=1), id="item"),
        pytest.param("a.b", Set(key="a.b", value=1), id="literal dots"),
    ],
)
def test_operation_that_names_a_key_is_about_it_even_if_nothing_changed(key: str, body: Body) -> None:
    assert is_about(key, body, {"a": 1, "o": {"x": 1}, "l": [0, 1], "n": 5, "a.b": 1}) is True


@pytest.mark.parametrize(
    ("key", "body"),
    [
        pytest.param("b", Set(key="a", value=2), id="another key"),
        pytest.param("ab", Set(key="a", value=2), id="longer key"),
        pytest.param("$.o.x", Set(key="$.o.y", value=2), id="sibling"),
        pytest.param("$.a.b", Set(key="a.b", value=2), id="literal dots are no path"),
        pytest.param("a.b", Set(key="a", value={"b": 1}), id="path is no literal with dots"),
        pytest.param("$.o.x", Delete(key="$.o.x"), id="delete takes a path literally"),
        pytest.param("$.l.0", Set(key="$.l.1", value=1), id="another item"),
        pytest.param("a", RunTagged(tags=("a",)), id="tags"),
        pytest.param("a", RunStatusChanged(status=Status.COMPLETED, output={"a": 5}), id="status"),
    ],
)
def test_event_that_names_something_else_is_not_about_a_key(key: str, body: Body) -> None:
    assert is_about(key, body, {"a": 1, "o": {"x": 1}, "l": [0, 1], "a.b": 1}) is False


def test_deleted_literal_key_that_looks_like_a_path_can_be_asked_for() -> None:
    before: JsonObject = {"$.a": 1, "a": 1}
    assert touches(literal("$.a"), Delete(key="$.a"), before, {"a": 1}) is True
    assert touches(parse_key("$.a"), Delete(key="$.a"), before, {"a": 1}) is False


@pytest.mark.parametrize(
    ("key", "before", "after", "expected"),
    [
        pytest.param("a", {"a": 1}, {"a": 2}, True, id="other value"),
        pytest.param("a", {"a": 1}, {"a": 1, "b": 2}, False, id="same value"),
        pytest.param("a", {"a": 1}, {}, True, id="value is gone"),
        pytest.param("a", {}, {"a": None}, True, id="null is not absent"),
        pytest.param("a", {"a": None}, {}, True, id="absent is not null"),
        pytest.param("a", {"a": None}, {"a": None}, False, id="null stays"),
        pytest.param("a", {}, {"b": 1}, False, id="absent stays"),
        pytest.param("a", {"a": 1}, {"a": True}, True, id="true is not one"),
        pytest.param("a", {"a": [0]}, {"a": [False]}, True, id="false in a list is not zero"),
        pytest.param("a", {"a": {"x": 1, "y": 2}}, {"a": {"y": 2, "x": 1}}, False, id="order of members"),
        pytest.param("$.a.x", {"a": {"x": 1}}, {"a": {"x": 1, "y": 2}}, False, id="sibling"),
        pytest.param("$.a.x", {"a": {"x": 1}}, {"a": {"x": [1]}}, True, id="path"),
        pytest.param("$.a.0", {"a": [1]}, {"a": {"0": 1}}, False, id="item becomes a member of the same name"),
        pytest.param("$.a.x", {"a": 1}, {"a": 2}, False, id="path leads nowhere"),
        pytest.param("a.b", {"a": {"b": 1}}, {"a": {"b": 2}}, False, id="literal dots"),
    ],
)
def test_what_replaces_everything_is_about_a_key_only_if_it_changed_it(
    key: str, before: JsonObject, after: JsonObject, *, expected: bool
) -> None:
    assert is_about(key, Update(value=after), before) is expected
    assert is_about(key, RunCreated(task="t", metadata=after), before) is expected


def test_null_that_fills_a_gap_in_a_list_is_a_change_of_that_item() -> None:
    assert is_about("$.l.2", Set(key="$.l.3", value=1), {"l": [0]}) is True
    assert is_about("$.l.0", Set(key="$.l.3", value=1), {"l": [0]}) is False


def test_value_that_an_event_left_alone_is_not_compared_level_by_level() -> None:
    before: JsonObject = {"a": nested(2_000), "b": 1}
    assert is_about("a", Set(key="b", value=2), before) is False
    assert is_about("$.a", AppendItem(key="$.b", value=2), before) is False


@thorough
@given(histories())
def test_event_that_changed_a_value_is_about_it(history: History) -> None:
    for event, before, after in replay(history.metadata, recorded([*history.operations])):
        for path in {
            *map(in_path, places(before)),
            *map(in_path, places(after)),
            *map(literal, {**before, **after}),
        }:
            if not is_same(value_at(before, path), value_at(after, path)):
                assert touches(path, event.body, before, after)


def in_path(names: tuple[str, ...]) -> Path:
    return Path(names, literal=False)


def is_same(left: object, right: object) -> bool:
    if left is ABSENT or right is ABSENT:
        return left is right
    return exact(left) == exact(right)
