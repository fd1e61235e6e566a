"""What each operation does: given metadata, when an operation comes, then this is the metadata."""

from typing import Any

import pytest

from projections.errors import BadPath, OutOfBounds
from projections.metadata import ABSENT, CannotApply, apply, evolve, fold, value_at
from projections.operations import AppendItem, Delete, Increment, Operation, RemoveItem, Set, Update
from projections.paths import parse_key
from projections.values import JsonObject
from tests.javascript import exact
from tests.strategies import parsed

Given = JsonObject
NO_LIST = "there is no list to remove from"


def when(given: JsonObject, kind: str, key: str | None = None, *value: Any) -> JsonObject:
    """Apply one operation, spelled as on the wire."""
    wire: JsonObject = {"type": kind}
    if key is not None:
        wire["key"] = key
    if value:
        wire["value"] = value[0]
    (operation,) = parsed([wire])
    return apply(given, operation)


# --- set ---


@pytest.mark.parametrize(
    ("given", "key", "value", "then"),
    [
        pytest.param({}, "a", 1, {"a": 1}, id="absent key"),
        pytest.param({"a": 1}, "a", 2, {"a": 2}, id="present key"),
        pytest.param({"a": 1}, "a", True, {"a": True}, id="number becomes true"),
        pytest.param({"a": 1}, "a", None, {"a": None}, id="null is a value"),
        pytest.param({"a": None}, "a", 1, {"a": 1}, id="null is replaced"),
        pytest.param({"a": {"b": 1}}, "a", {"c": 2}, {"a": {"c": 2}}, id="object is replaced, not merged"),
        pytest.param({"a": {"b": 1}}, "a.b", 2, {"a": {"b": 1}, "a.b": 2}, id="dots of a literal key"),
        pytest.param({}, "", 1, {"": 1}, id="empty key"),
        pytest.param({}, "$", 1, {"$": 1}, id="dollar alone"),
        pytest.param({}, "$a", 1, {"$a": 1}, id="dollar without dot"),
        pytest.param({}, "$[0]", 1, {"$[0]": 1}, id="dollar and bracket"),
        pytest.param({}, "constructor", 1, {"constructor": 1}, id="literal constructor"),
        pytest.param({}, "toString", [1], {"toString": [1]}, id="literal toString"),
        pytest.param({}, "\x00\u2028😀", "\x00", {"\x00\u2028😀": "\x00"}, id="odd characters"),
        pytest.param({"é": 1}, "e\u0301", 2, {"é": 1, "e\u0301": 2}, id="no Unicode normalisation"),
        pytest.param({}, "$.a", 1, {"a": 1}, id="path to an absent top-level key"),
        pytest.param({"a": 1}, "$.a", [], {"a": []}, id="path to a scalar"),
        pytest.param({"a": {}}, "$.a.b", 1, {"a": {"b": 1}}, id="path to an absent member"),
        pytest.param({"a": {"b": {"c": 1}}}, "$.a.b.c", 2, {"a": {"b": {"c": 2}}}, id="path three names long"),
        pytest.param({"a": {"b": 1}}, "$..a..b.", 2, {"a": {"b": 2}}, id="path with empty names"),
        pytest.param({"a": {"b": False}}, "$.a.b", 2, {"a": {"b": 2}}, id="path to false"),
        pytest.param({"a": {"b": ""}}, "$.a.b", None, {"a": {"b": None}}, id="path puts null"),
        pytest.param({"a": {"": {"b": 1}}}, "$.a..b", 2, {"a": {"": {"b": 1}, "b": 2}}, id="empty name vanishes"),
        pytest.param({"$": {"$": 1}}, "$.$.$", 2, {"$": {"$": 2}}, id="later dollars are names"),
        pytest.param({"a": [1]}, "$.a[0]", 2, {"a": [1], "a[0]": 2}, id="brackets are part of the name"),
        pytest.param({"l": [1, 2]}, "$.l.0", 9, {"l": [9, 2]}, id="list index"),
        pytest.param({"l": [1, 2]}, "$.l.2", 9, {"l": [1, 2, 9]}, id="list index just past the end"),
        pytest.param({"l": [1]}, "$.l.4", 9, {"l": [1, None, None, None, 9]}, id="gap is filled with null"),
        pytest.param({"l": []}, "$.l.2", None, {"l": [None, None, None]}, id="null put past the end"),
        pytest.param({"l": [{"a": 1}]}, "$.l.0.a", 2, {"l": [{"a": 2}]}, id="member of an item"),
        pytest.param({"l": [[1], [2]]}, "$.l.1.0", 3, {"l": [[1], [3]]}, id="item of an item"),
        pytest.param({"o": {"0": 1}}, "$.o.0", 2, {"o": {"0": 2}}, id="digits name a member of an object"),
        pytest.param({"o": {}}, "$.o.65536", 2, {"o": {"65536": 2}}, id="far digits name a member of an object"),
        pytest.param({"o": {}}, "$.o.length", 2, {"o": {"length": 2}}, id="length of an object is a member"),
        pytest.param({"o": {}}, "$.o.toString", 1, {"o": {"toString": 1}}, id="inherited names are not there"),
    ],
)
def test_set_gives_the_key_the_value(given: Given, key: str, value: Any, then: JsonObject) -> None:
    assert exact(when(given, "set", key, value)) == exact(then)


# --- delete ---


@pytest.mark.parametrize(
    ("given", "key", "then"),
    [
        pytest.param({"a": 1, "b": 2}, "a", {"b": 2}, id="present key"),
        pytest.param({"a": 1}, "b", {"a": 1}, id="absent key"),
        pytest.param({"a": None}, "a", {}, id="null"),
        pytest.param({"a": {"b": 1}, "$.a.b": 2}, "$.a.b", {"a": {"b": 1}}, id="path is taken literally"),
        pytest.param({"a": {"b": 1}}, "$.a.b", {"a": {"b": 1}}, id="path touches nothing else"),
        pytest.param({"a": 1, "$.": 2}, "$.", {"a": 1}, id="path that names nothing"),
        pytest.param({"$.*": 1, "a": 2}, "$.*", {"a": 2}, id="wildcard"),
        pytest.param({"$.__proto__": 1}, "$.__proto__", {}, id="forbidden path"),
        pytest.param({"a.b": 1, "a": {"b": 1}}, "a.b", {"a": {"b": 1}}, id="dots"),
        pytest.param({"": 1}, "", {}, id="empty key"),
        pytest.param({"constructor": 1}, "constructor", {}, id="literal constructor"),
    ],
)
def test_delete_removes_the_literal_key(given: Given, key: str, then: JsonObject) -> None:
    assert exact(when(given, "delete", key)) == exact(then)


# --- append ---


@pytest.mark.parametrize(
    ("given", "key", "value", "then"),
    [
        pytest.param({"l": [1]}, "l", 2, {"l": [1, 2]}, id="to a list"),
        pytest.param({"l": []}, "l", [1, 2], {"l": [[1, 2]]}, id="list is one item"),
        pytest.param({}, "l", 1, {"l": [1]}, id="to nothing"),
        pytest.param({}, "l", [], {"l": [[]]}, id="empty list to nothing"),
        pytest.param({"l": 1}, "l", 2, {"l": [1, 2]}, id="to a number"),
        pytest.param({"l": None}, "l", 2, {"l": [None, 2]}, id="to null"),
        pytest.param({"l": False}, "l", 2, {"l": [False, 2]}, id="to false"),
        pytest.param({"l": ""}, "l", 2, {"l": ["", 2]}, id="to an empty string"),
        pytest.param({"l": {}}, "l", 2, {"l": [{}, 2]}, id="to an object"),
        pytest.param({"l": [1]}, "l", None, {"l": [1, None]}, id="null is an item"),
        pytest.param({}, "toString", 1, {"toString": [1]}, id="inherited name is absent"),
        pytest.param({}, "$.l", 1, {"l": [1]}, id="path to nothing"),
        pytest.param({"o": {"l": [1]}}, "$.o.l", 2, {"o": {"l": [1, 2]}}, id="path to a list"),
        pytest.param({"o": {"l": 0}}, "$.o.l", 2, {"o": {"l": [0, 2]}}, id="path to zero"),
        pytest.param({"l": [[1], 2]}, "$.l.0", 3, {"l": [[1, 3], 2]}, id="to an item that is a list"),
        pytest.param({"l": [[1], 2]}, "$.l.1", 3, {"l": [[1], [2, 3]]}, id="to an item that is none"),
        pytest.param({"l": [1]}, "$.l.3", 2, {"l": [1, None, None, [2]]}, id="past the end of a list"),
    ],
)
def test_append_adds_one_item_and_makes_a_list_of_what_is_none(
    given: Given, key: str, value: Any, then: JsonObject
) -> None:
    assert exact(when(given, "append", key, value)) == exact(then)


# --- remove ---


@pytest.mark.parametrize(
    ("given", "key", "value", "then"),
    [
        pytest.param({"l": [1, 2, 1, [1]]}, "l", 1, {"l": [2, [1]]}, id="every equal item"),
        pytest.param({"l": [1, 2]}, "l", 3, {"l": [1, 2]}, id="no equal item"),
        pytest.param({"l": []}, "l", 3, {"l": []}, id="empty list"),
        pytest.param({"l": [True, 1, False, 0]}, "l", 1, {"l": [True, False, 0]}, id="one is not true"),
        pytest.param({"l": [True, 1, False, 0]}, "l", True, {"l": [1, False, 0]}, id="true is not one"),
        pytest.param({"l": [True, 1, False, 0]}, "l", 0, {"l": [True, 1, False]}, id="zero is not false"),
        pytest.param({"l": [True, 1, False, 0]}, "l", False, {"l": [True, 1, 0]}, id="false is not zero"),
        pytest.param(
            {"l": [[True], [1], {"a": 1}]}, "l", [1], {"l": [[True], {"a": 1}]}, id="deep one is not true"
        ),
        pytest.param(
            {"l": [{"a": 1}, {"a": True}]}, "l", {"a": True}, {"l": [{"a": 1}]}, id="deep true is not one"
        ),
        pytest.param({"l": [1, "1"]}, "l", 1.0, {"l": ["1"]}, id="1.0 is 1"),
        pytest.param({"l": [0, 1]}, "l", -0.0, {"l": [1]}, id="minus zero is zero"),
        pytest.param({"l": [1, "1"]}, "l", "1", {"l": [1]}, id="text is no number"),
        pytest.param({"l": [None, 0, "", False, []]}, "l", None, {"l": [0, "", False, []]}, id="null"),
        pytest.param(
            {"l": [{"a": 1, "b": 2}]}, "l", {"b": 2, "a": 1}, {"l": []}, id="member order does not matter"
        ),
        pytest.param({"l": [[1, 2]]}, "l", [2, 1], {"l": [[1, 2]]}, id="item order matters"),
        pytest.param({"l": [{}, []]}, "l", {}, {"l": [[]]}, id="empty object is no empty list"),
        pytest.param({"l": [{"a": None}, {}]}, "l", {}, {"l": [{"a": None}]}, id="null is not absent"),
        pytest.param({"l": ["é"]}, "l", "e\u0301", {"l": ["é"]}, id="no Unicode normalisation"),
        pytest.param(
            {"l": [123456789012345680000]}, "l", 123456789012345683968, {"l": []}, id="one double in two spellings"
        ),
        pytest.param({"o": {"l": [1, 2]}}, "$.o.l", 1, {"o": {"l": [2]}}, id="path"),
        pytest.param({"l": [[1, 2], 1]}, "$.l.0", 1, {"l": [[2], 1]}, id="list in a list"),
    ],
)
def test_remove_drops_every_deeply_equal_item(given: Given, key: str, value: Any, then: JsonObject) -> None:
    assert exact(when(given, "remove", key, value)) == exact(then)


@pytest.mark.parametrize(
    ("given", "key"),
    [
        pytest.param({}, "l", id="absent"),
        pytest.param({"l": None}, "l", id="null"),
        pytest.param({"l": 1}, "l", id="number"),
        pytest.param({"l": "1"}, "l", id="text"),
        pytest.param({"l": {"0": 1}}, "l", id="object"),
        pytest.param({"l": True}, "$.l", id="path to true"),
        pytest.param({}, "$.l", id="path to nothing"),
        pytest.param({"l": [1]}, "$.l.0", id="item that is no list"),
        pytest.param({"l": [1]}, "$.l.1", id="past the end"),
    ],
)
def test_remove_from_what_is_no_list_cannot_apply(given: Given, key: str) -> None:
    with pytest.raises(CannotApply) as caught:
        when(given, "remove", key, 1)
    assert str(caught.value) == NO_LIST


# --- increment ---


@pytest.mark.parametrize(
    ("given", "key", "value", "then"),
    [
        pytest.param({"n": 1}, "n", 2, {"n": 3}, id="number"),
        pytest.param({"n": 1}, "n", -2, {"n": -1}, id="downwards"),
        pytest.param({"n": 1}, "n", 0, {"n": 1}, id="by nothing"),
        pytest.param({"n": 0.1}, "n", 0.2, {"n": 0.30000000000000004}, id="double arithmetic"),
        pytest.param({"n": 0.5}, "n", 0.5, {"n": 1}, id="whole sum is an integer"),
        pytest.param({"n": 1}, "n", -1.0, {"n": 0}, id="zero"),
        pytest.param({"n": 0}, "n", -0.0, {"n": 0}, id="minus zero"),
        pytest.param({"n": 2**53}, "n", 1, {"n": 2**53}, id="sum is rounded as a double"),
        pytest.param({"n": 2**53 - 1}, "n", 2, {"n": 2**53}, id="sum of integers is rounded as a double"),
        pytest.param({"n": 2**53}, "n", 3, {"n": 9007199254740996}, id="sum is rounded to even"),
        pytest.param({"n": 999999999999999900000}, "n", 10**5, {"n": 1e21}, id="sum reaches the exponent"),
        pytest.param({"n": 1e21}, "n", -1e21, {"n": 0}, id="large numbers cancel"),
        pytest.param({"n": 123456789012345680000}, "n", 1, {"n": 123456789012345680000}, id="too small to matter"),
        pytest.param({"n": 1e308}, "n", 7e307, {"n": 1.7e308}, id="nearly the largest double"),
        pytest.param({"n": 5e-324}, "n", -5e-324, {"n": 0}, id="smallest double"),
        pytest.param({}, "n", 1.5, {"n": 1.5}, id="absent starts from zero"),
        pytest.param({"n": None}, "n", 1, {"n": 1}, id="null starts from zero"),
        pytest.param({"n": "5"}, "n", 1, {"n": 1}, id="numeric text starts from zero"),
        pytest.param({"n": [5]}, "n", 1, {"n": 1}, id="list starts from zero"),
        pytest.param({"n": {"n": 5}}, "n", 1, {"n": 1}, id="object starts from zero"),
        pytest.param({"o": {"n": 1}}, "$.o.n", 1, {"o": {"n": 2}}, id="path"),
        pytest.param({"o": {}}, "$.o.n", 1, {"o": {"n": 1}}, id="path to an absent member"),
        pytest.param({"l": [1]}, "$.l.0", 1, {"l": [2]}, id="item"),
        pytest.param({"l": [1]}, "$.l.2", 1, {"l": [1, None, 1]}, id="past the end of a list"),
    ],
)
def test_increment_adds_as_doubles_do(given: Given, key: str, value: float, then: JsonObject) -> None:
    assert exact(when(given, "increment", key, value)) == exact(then)


@pytest.mark.parametrize("key", ["n", "$.n"])
def test_increment_of_true_starts_from_zero(key: str) -> None:
    assert exact(when({"n": True}, "increment", key, 1)) == exact({"n": 1})
    assert exact(when({"n": False}, "increment", key, 0)) == exact({"n": 0})


@pytest.mark.parametrize(
    ("start", "amount"),
    [(1.7e308, 1.7e308), (-1.7e308, -1.7e308), (1.7976931348623157e308, 1e292), (1e308, 1e308)],
)
@pytest.mark.parametrize("key", ["n", "$.n"])
def test_increment_past_the_largest_double_is_refused(start: float, amount: float, key: str) -> None:
    with pytest.raises(OutOfBounds) as caught:
        when({"n": start}, "increment", key, amount)
    assert (caught.value.key, caught.value.limit, caught.value.index) == (key, None, None)
    assert caught.value.reason == "the sum is too large for a double; send it as a string, or set a new value"


# --- update ---


@pytest.mark.parametrize("value", [{}, {"b": 1}, {"a": None}, {"$.a": 1, "": {"x": []}, "__proto__": 1}])
def test_update_replaces_the_whole_object(value: JsonObject) -> None:
    assert exact(when({"a": 1, "c": [2]}, "update", None, value)) == exact(value)


def test_later_operations_work_on_the_updated_object() -> None:
    operations: list[Operation] = [
        Set(key="a", value=1),
        Update(value={"n": 1, "l": [True]}),
        Increment(key="n", value=1),
        RemoveItem(key="l", value=1),
        AppendItem(key="$.l", value=2),
        Delete(key="n"),
    ]
    assert exact(fold({"z": 0}, operations)) == exact({"l": [True, 2]})


# --- paths that lead nowhere ---


@pytest.mark.parametrize("kind", ["set", "append", "remove", "increment"])
@pytest.mark.parametrize(
    ("given", "key", "reason"),
    [
        pytest.param({}, "$.a.b", "$.a does not exist; set it first", id="parent is absent"),
        pytest.param({"a": {}}, "$.a.b.c.d", "$.a.b does not exist; set it first", id="grandparent is absent"),
        pytest.param({"l": []}, "$.l.0.a", "$.l.0 does not exist; set it first", id="item is absent"),
        pytest.param(
            {"a": 1}, "$.a.b", "the value above 'b' is neither an object nor a list", id="number on the way"
        ),
        pytest.param(
            {"a": "xyz"}, "$.a.0", "the value above '0' is neither an object nor a list", id="text on the way"
        ),
        pytest.param(
            {"a": "xyz"},
            "$.a.length",
            "the value above 'length' is neither an object nor a list",
            id="length of text",
        ),
        pytest.param(
            {"a": False}, "$.a.b.c", "the value above 'b' is neither an object nor a list", id="false on the way"
        ),
        pytest.param({"l": [1]}, "$.l.foo", "'foo' is not an index of the list", id="name in a list"),
        pytest.param({"l": [1]}, "$.l.-1", "'-1' is not an index of the list", id="negative index"),
        pytest.param({"l": [1]}, "$.l.00", "'00' is not an index of the list", id="index with leading zero"),
        pytest.param({"l": [1]}, "$.l.[0]", "'[0]' is not an index of the list", id="index in brackets"),
        pytest.param({"l": [1]}, "$.l.1e0", "'1e0' is not an index of the list", id="index with exponent"),
        pytest.param({"l": [[]]}, "$.l.length.0", "'length' is not an index of the list", id="length on the way"),
    ],
)
def test_path_that_leads_nowhere_cannot_apply(kind: str, given: Given, key: str, reason: str) -> None:
    with pytest.raises(CannotApply) as caught:
        when(given, kind, key, 1)
    assert str(caught.value) == reason


@pytest.mark.parametrize("kind", ["set", "append", "remove", "increment"])
@pytest.mark.parametrize(
    ("given", "key", "null"),
    [
        ({"a": None}, "$.a", "$.a"),
        ({"a": None}, "$.a.b", "$.a"),
        ({"a": {"b": None}}, "$.a.b", "$.a.b"),
        ({"a": {"b": None}}, "$..a..b..c", "$.a.b"),
        ({"l": [1, None]}, "$.l.1", "$.l.1"),
        ({"l": [None]}, "$.l.0.a", "$.l.0"),
    ],
)
def test_path_cannot_change_null(kind: str, given: Given, key: str, null: str) -> None:
    with pytest.raises(CannotApply) as caught:
        when(given, kind, key, 1)
    reason = f"{null} is null, which a path cannot change; set the top-level key by its literal name"
    assert str(caught.value) == reason
    assert evolve(given, Set(key=key, value=1)) is given


def test_literal_key_can_change_null() -> None:
    assert exact(when({"a": None}, "increment", "a", 1)) == exact({"a": 1})
    assert exact(when({"a": None}, "append", "a", 1)) == exact({"a": [None, 1]})


# --- what no operation may do ---


@pytest.mark.parametrize("kind", ["set", "append", "remove", "increment"])
@pytest.mark.parametrize("value", [0, 1, 100])
def test_length_of_a_list_cannot_be_named(kind: str, value: int) -> None:
    for key in ("$.l.length", "$..l..length."):
        with pytest.raises(BadPath) as caught:
            when({"l": [1, 2]}, kind, key, value)
        assert caught.value.reason == "the length of a list cannot be set; use append and remove"


def test_refusal_about_a_length_names_the_key_as_it_was_sent() -> None:
    with pytest.raises(BadPath) as caught:
        when({"l": [1, 2]}, "set", "$..l.length", 0)
    assert caught.value.key == "$..l.length"


@pytest.mark.parametrize("kind", ["set", "append", "increment"])
def test_list_index_65535_is_the_last_that_is_accepted(kind: str) -> None:
    grown = when({"l": []}, kind, "$.l.65535", 1)
    assert isinstance(grown["l"], list)
    assert len(grown["l"]) == 65_536
    assert grown["l"][:65_535] == [None] * 65_535
    assert grown["l"][65_535] == ([1] if kind == "append" else 1)
    for key in ("$.l.65536", "$.l.65536.a", "$.l.4294967294", "$.l." + "9" * 1_000):
        with pytest.raises(OutOfBounds) as caught:
            when({"l": []}, kind, key, 1)
        assert (caught.value.key, caught.value.limit, caught.value.index) == (key, 65_535, None)


def test_refusal_about_a_far_index_names_the_key_as_it_was_sent() -> None:
    with pytest.raises(OutOfBounds) as caught:
        when({"l": []}, "set", "$..l.65536", 0)
    assert caught.value.key == "$..l.65536"


@pytest.mark.parametrize("kind", ["set", "append", "remove", "increment", "delete"])
def test_literal_proto_is_refused_by_every_operation(kind: str) -> None:
    with pytest.raises(BadPath) as caught:
        when({}, kind, "__proto__", *([] if kind == "delete" else [1]))
    assert caught.value.key == "__proto__"


@pytest.mark.parametrize("kind", ["set", "append", "remove", "increment"])
@pytest.mark.parametrize("key", ["$.", "$.*", "$.a.*", "$.a.[0:1]", "$.a\\.b", "$.a~1b", "$.a.constructor"])
def test_refused_path_is_refused_whatever_the_metadata_holds(kind: str, key: str) -> None:
    given: list[JsonObject] = [{}, {"a": None}, {"a": []}, {"a": {"*": [], "constructor": []}}]
    for metadata in given:
        with pytest.raises(BadPath) as caught:
            when(metadata, kind, key, 1)
        assert caught.value.key == key


# --- evolve and value_at ---


def test_evolve_leaves_metadata_where_an_operation_cannot_apply() -> None:
    given: JsonObject = {"a": None}
    assert evolve(given, RemoveItem(key="a", value=1)) is given
    assert fold(given, [Set(key="$.b.c", value=1), RemoveItem(key="b", value=1)]) is given


def test_fold_of_nothing_is_the_metadata_itself() -> None:
    given: JsonObject = {"a": 1}
    assert fold(given, []) is given


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("a", {"b": [1, None, {"c": False}]}),
        ("$.a", {"b": [1, None, {"c": False}]}),
        ("$.a.b.0", 1),
        ("$.a.b.1", None),
        ("$.a.b.2.c", False),
        ("n", None),
        ("$.n", None),
        ("a.b", "dots"),
        ("$.s", "text"),
    ],
)
def test_value_at_reads_what_is_there_null_included(key: str, value: Any) -> None:
    given: JsonObject = {"a": {"b": [1, None, {"c": False}]}, "n": None, "a.b": "dots", "s": "text"}
    assert value_at(given, parse_key(key)) is not ABSENT
    assert exact(value_at(given, parse_key(key))) == exact(value)


@pytest.mark.parametrize(
    "key",
    [
        "b",
        "$.b",
        "$.a.c",
        "$.a.b.3",
        "$.a.b.-1",
        "$.a.b.01",
        "$.a.b.length",
        "$.n.a",
        "$.s.0",
        "$.s.length",
        "$.a.b.9",
    ],
)
def test_value_at_is_absent_where_nothing_is(key: str) -> None:
    given: JsonObject = {"a": {"b": [1, None, {"c": False}]}, "n": None, "s": "text"}
    assert value_at(given, parse_key(key)) is ABSENT
