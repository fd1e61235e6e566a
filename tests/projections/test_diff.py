"""The diff of two values: applied to the first by another program's patch it gives the second."""

import json
from typing import Any

import jsonpatch
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import JsonValue

from projections import values
from projections.diff import ALIGNED_CELLS_MAX, changes, patch
from projections.metadata import ABSENT
from tests.javascript import exact
from tests.strategies import json_values, keys, nested, scalars, thorough


def applied(before: JsonValue, steps: list[JsonValue]) -> Any:
    """What jsonpatch makes of text that stands for *before*."""
    return jsonpatch.apply_patch(json.loads(json.dumps(before)), json.loads(json.dumps(steps)))


LOOKALIKES = st.sampled_from([0, 1, False, True, None, "1", "", 2, [], {}, [1], [True], {"a": 1}, {"a": True}])
LISTS = st.lists(LOOKALIKES, max_size=8)
OBJECTS = st.dictionaries(
    st.one_of(st.sampled_from(["", "/", "~", "~0", "~1", "a/b~c", "-", "0", "1", "a"]), keys()),
    st.one_of(json_values(), LISTS),
    max_size=5,
)


@st.composite
def similar(draw: st.DrawFn) -> tuple[dict[str, Any], dict[str, Any]]:
    """Two objects of which the second was made of the first, so that they share most."""
    before = draw(OBJECTS)
    return before, edited(draw, before)


def edited(draw: st.DrawFn, value: Any) -> Any:
    match value:
        case dict() if value:
            kept = {name: member for name, member in value.items() if draw(st.integers(0, 5))}
            changed = {name: edited(draw, member) for name, member in kept.items()}
            return {**changed, **draw(st.dictionaries(keys(), LOOKALIKES, max_size=1))}
        case list() if value:
            items = [edited(draw, item) for item in value if draw(st.integers(0, 4))]
            place = draw(st.integers(0, len(items)))
            return [*items[:place], *draw(st.lists(LOOKALIKES, max_size=2)), *items[place:]]
        case _:
            return draw(scalars()) if draw(st.integers(0, 3)) == 0 else value


@settings(thorough, max_examples=300)
@given(st.one_of(similar(), st.tuples(OBJECTS, OBJECTS), st.tuples(LISTS, LISTS)))
def test_the_patch_applied_to_the_first_value_gives_the_second(pair: tuple[Any, Any]) -> None:
    before, after = pair
    steps = patch(before, after)
    assert exact(applied(before, steps)) == exact(after)
    assert (steps == []) == values.equal(before, after)


@settings(thorough, max_examples=200)
@given(st.one_of(similar(), st.tuples(json_values(), json_values())))
def test_every_step_says_what_was_there_and_what_is_there_now(pair: tuple[Any, Any]) -> None:
    before, after = pair
    here = json.loads(json.dumps(before))
    for change in changes(before, after):
        if change.kind == "add":
            assert change.before is ABSENT
        else:
            assert exact(at(here, change.names)) == exact(change.before)
        here = applied(here, [change.operation()])
        if change.kind == "remove":
            assert change.after is ABSENT
        else:
            assert exact(at(here, change.names)) == exact(change.after)
    assert values.equal(here, after)


def at(value: Any, names: tuple[str, ...]) -> Any:
    """The value at a place that exists."""
    for name in names:
        value = value[int(name)] if isinstance(value, list) else value[name]
    return value


@settings(thorough, max_examples=100)
@given(OBJECTS, OBJECTS)
def test_nothing_is_changed_in_place(before: dict[str, Any], after: dict[str, Any]) -> None:
    known = exact(before), exact(after)
    patch(before, after)
    assert (exact(before), exact(after)) == known


@pytest.mark.parametrize(
    ("before", "after", "steps"),
    [
        ({}, {}, []),
        ({"a": 1}, {"a": 1.0}, []),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}, []),
        ({"a": 1}, {"a": True}, [("replace", "/a", True)]),
        ({"a": [1]}, {"a": [True]}, [("replace", "/a/0", True)]),
        ({"a": [0, {"b": False}]}, {"a": [0, {"b": 0}]}, [("replace", "/a/1/b", 0)]),
        ({"a": 1}, {"a": "1"}, [("replace", "/a", "1")]),
        ({"a": None}, {}, [("remove", "/a")]),
        ({}, {"a": None}, [("add", "/a", None)]),
        ({"a": {}}, {"a": []}, [("replace", "/a", [])]),
        ({"": 1}, {"": 2}, [("replace", "/", 2)]),
        ({"": {"": 1}}, {"": {"": 2}}, [("replace", "//", 2)]),
        ({"a/b~c": 1}, {"a/b~c": 2}, [("replace", "/a~1b~0c", 2)]),
        ({"~1": 1}, {"~1": 2}, [("replace", "/~01", 2)]),
        ({"-": 1, "0": 1}, {"-": 2, "0": 1}, [("replace", "/-", 2)]),
        ({"l": [1, 2]}, {"l": [1, 2, 3]}, [("add", "/l/2", 3)]),
        ({"l": [1, 2, 3]}, {"l": [1, 3]}, [("remove", "/l/1")]),
        ({"l": [1, 2, 3]}, {"l": [0, 1, 2, 3]}, [("add", "/l/0", 0)]),
        ({"l": [1, 2, 3, 4]}, {"l": [2, 3, 4, 5]}, [("remove", "/l/0"), ("add", "/l/3", 5)]),
        ({"l": [1, 1]}, {"l": [1]}, [("remove", "/l/1")]),
        ({"l": [1]}, {"l": []}, [("remove", "/l/0")]),
        ({"s": [{"p": 1}, {"p": 2}]}, {"s": [{"p": 1}, {"p": 3}]}, [("replace", "/s/1/p", 3)]),
        ([1], {"a": 1}, [("replace", "", {"a": 1})]),
        (1, 1.0, []),
        (0, False, [("replace", "", False)]),
    ],
)
def test_the_steps_are_those_a_person_would_name(before: Any, after: Any, steps: list[tuple[Any, ...]]) -> None:
    named = [dict(zip(("op", "path", "value"), step, strict=False)) for step in steps]
    assert exact(patch(before, after)) == exact(named)


def test_removed_members_come_first_then_the_others_in_the_order_of_the_second_value() -> None:
    found = patch({"a": 1, "b": 2, "c": 3}, {"z": 0, "c": 4, "y": 5})
    assert [(step["op"], step["path"]) for step in found if isinstance(step, dict)] == [
        ("remove", "/a"),
        ("remove", "/b"),
        ("add", "/z"),
        ("replace", "/c"),
        ("add", "/y"),
    ]


@pytest.mark.parametrize("shorter", [0, 1, 40])
def test_long_lists_that_differ_everywhere_are_still_patched(shorter: int) -> None:
    size = ALIGNED_CELLS_MAX
    before: list[JsonValue] = [*range(size)]
    after: list[JsonValue] = [*range(1_000_000, 1_000_000 + size - shorter)]
    for left, right in ((before, after), (after, before)):
        steps = patch({"l": left}, {"l": right})
        assert applied({"l": left}, steps) == {"l": right}
        assert len(steps) == size


def test_one_item_more_in_a_long_list_is_one_step_wherever_it_stands() -> None:
    before: list[JsonValue] = [{"n": number} for number in range(2_000)]
    for place in (0, 1, 1_000, 2_000):
        after: list[JsonValue] = [*before[:place], {"n": "new"}, *before[place:]]
        assert patch(before, after) == [{"op": "add", "path": f"/{place}", "value": {"n": "new"}}]
        assert patch(after, before) == [{"op": "remove", "path": f"/{place}"}]


def test_the_deepest_metadata_can_be_compared() -> None:
    before, after = {"a": nested(63), "b": 1}, {"a": nested(63), "b": 2}
    assert patch(before, after) == [{"op": "replace", "path": "/b", "value": 2}]
    assert patch({"a": nested(63)}, {"a": nested(62)}) != []
