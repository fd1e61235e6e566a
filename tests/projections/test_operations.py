"""Operations as a request spells them: what is read, what is refused."""

from typing import Any

import pytest
from hypothesis import given
from pydantic import TypeAdapter, ValidationError

from projections.operations import AnyOperation, AppendItem, Delete, Increment, Operation, RemoveItem, Set, Update
from tests.javascript import exact
from tests.strategies import History, histories, nested, parsed, thorough

ONE: TypeAdapter[Operation] = TypeAdapter(AnyOperation)


@pytest.mark.parametrize(
    ("wire", "operation"),
    [
        ({"type": "set", "key": "a", "value": None}, Set(key="a", value=None)),
        ({"type": "set", "key": "", "value": {"b": [1.0]}}, Set(key="", value={"b": [1]})),
        ({"type": "delete", "key": "a"}, Delete(key="a")),
        ({"type": "append", "key": "a", "value": [-0.0]}, AppendItem(key="a", value=[0])),
        ({"type": "remove", "key": "a", "value": True}, RemoveItem(key="a", value=True)),
        ({"type": "increment", "key": "a", "value": 1e0}, Increment(key="a", value=1)),
        ({"type": "increment", "key": "a", "value": -0.5}, Increment(key="a", value=-0.5)),
        ({"type": "update", "value": {"a": 1e2}}, Update(value={"a": 100})),
        ({"type": "delete", "key": "a", "value": float("nan"), "more": {1}}, Delete(key="a")),
        ({"type": "update", "value": {}, "key": 5}, Update(value={})),
    ],
)
def test_wire_form_is_read_and_made_canonical(wire: Any, operation: Operation) -> None:
    read = ONE.validate_python(wire)
    assert read == operation
    assert type(read) is type(operation)
    assert exact(read.model_dump()) == exact(operation.model_dump())


@pytest.mark.parametrize(
    ("wire", "place", "kind"),
    [
        pytest.param({}, (), "union_tag_not_found", id="no type"),
        pytest.param({"type": "zap", "key": "a"}, (), "union_tag_invalid", id="unknown type"),
        pytest.param({"type": "Set", "key": "a", "value": 1}, (), "union_tag_invalid", id="type in capitals"),
        pytest.param({"type": "set", "value": 1}, ("set", "key"), "missing", id="no key"),
        pytest.param({"type": "set", "key": "a"}, ("set", "value"), "missing", id="set without value"),
        pytest.param({"type": "append", "key": "a"}, ("append", "value"), "missing", id="append without value"),
        pytest.param({"type": "remove", "key": "a"}, ("remove", "value"), "missing", id="remove without value"),
        pytest.param({"type": "delete"}, ("delete", "key"), "missing", id="delete without key"),
        pytest.param({"type": "update"}, ("update", "value"), "missing", id="update without value"),
        pytest.param({"type": "set", "key": 1, "value": 1}, ("set", "key"), "string_type", id="key is a number"),
        pytest.param({"type": "set", "key": None, "value": 1}, ("set", "key"), "string_type", id="key is null"),
        pytest.param({"type": "set", "key": b"a", "value": 1}, ("set", "key"), "string_type", id="key is bytes"),
        pytest.param({"type": "delete", "key": ["a"]}, ("delete", "key"), "string_type", id="key is a list"),
        *(
            pytest.param(
                {"type": "increment", "key": "a", "value": value}, ("increment", "value"), "number_type", id=name
            )
            for name, value in (("by true", True), ("by text", "1"), ("by null", None), ("by a list", [1]))
        ),
        *(
            pytest.param({"type": "update", "value": value}, ("update", "value"), "object_type", id=name)
            for name, value in (("to a list", []), ("to null", None), ("to text", "{}"), ("to a number", 1))
        ),
    ],
)
def test_malformed_operation_is_refused_at_its_place(wire: Any, place: tuple[str, ...], kind: str) -> None:
    with pytest.raises(ValidationError) as caught:
        ONE.validate_python(wire)
    assert [(error["loc"], error["type"]) for error in caught.value.errors()] == [(place, kind)]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (
            {"a": [1, float("inf")]},
            "at .a[1]: inf is not a JSON number (numbers are doubles); send it as a string",
        ),
        (float("nan"), "nan is not a JSON number (numbers are doubles); send it as a string"),
        ([2**53 + 1], "at [0]: a double cannot hold this integer exactly; send it as a string"),
        ({"{x}": "\ud800"}, "at .{x}: unpaired surrogate \\ud800; half a character cannot be stored"),
        ({"a\udfff": 1}, "at .a\\udfff: unpaired surrogate \\udfff; half a character cannot be stored"),
    ],
)
@pytest.mark.parametrize("kind", ["set", "append", "remove", "update"])
def test_value_that_cannot_be_held_is_refused_with_its_place(kind: str, value: Any, message: str) -> None:
    wire = {"type": kind, "key": "k", "value": {"v": value} if kind == "update" else value}
    with pytest.raises(ValidationError) as caught:
        ONE.validate_python(wire)
    (error,) = caught.value.errors()
    assert error["loc"] == (kind, "value")
    assert error["type"] == "bad_value"
    if kind == "update":
        message = f"at .v{message.removeprefix('at ')}" if message.startswith("at ") else f"at .v: {message}"
    assert error["msg"] == message


@pytest.mark.parametrize("amount", [float("inf"), float("-inf"), float("nan"), 2**53 + 1, 10**400])
def test_amount_that_no_double_holds_is_refused(amount: float) -> None:
    with pytest.raises(ValidationError, match="send it as a string"):
        ONE.validate_python({"type": "increment", "key": "n", "value": amount})


def test_value_may_be_nested_64_levels_and_no_deeper() -> None:
    assert Set(key="a", value=nested(64)).value == nested(64)
    with pytest.raises(ValidationError, match="nested deeper than 64 levels"):
        Set(key="a", value=nested(65))


@pytest.mark.parametrize("kind", ["set", "delete", "append", "remove", "increment"])
@pytest.mark.parametrize(
    ("fits", "too_long", "size"),
    [
        ("k" * 1_024, "k" * 1_025, 1_025),
        ("é" * 512, "é" * 512 + "a", 1_025),
        ("😀" * 256, "😀" * 257, 1_028),
        ("$." + "a" * 1_022, "$." + "a" * 1_023, 1_025),
        ("\x00" * 1_024, "\x00" * 1_025, 1_025),
    ],
    ids=["ascii", "two bytes", "four bytes", "path", "nul"],
)
def test_key_may_have_1024_bytes_and_no_more(kind: str, fits: str, too_long: str, size: int) -> None:
    assert parsed([{"type": kind, "key": fits, "value": 1}])
    with pytest.raises(ValidationError) as caught:
        parsed([{"type": kind, "key": too_long, "value": 1}])
    (error,) = caught.value.errors()
    assert error["loc"] == (0, kind, "key")
    assert error["msg"] == f"is {size} bytes, at most 1024 are allowed"


@pytest.mark.parametrize("kind", ["set", "delete", "append", "remove", "increment"])
@pytest.mark.parametrize("key", ["\ud800", "a\udfffb", "$.a.\ud83d", "\ude00\ud83d"])
def test_key_with_half_a_character_is_refused(kind: str, key: str) -> None:
    with pytest.raises(ValidationError, match="unpaired surrogate") as caught:
        ONE.validate_python({"type": kind, "key": key, "value": 1})
    assert [error["loc"] for error in caught.value.errors()] == [(kind, "key")]
    caught.value.errors()[0]["msg"].encode()


def test_caller_may_name_the_time_of_an_operation() -> None:
    (operation,) = parsed([{"type": "delete", "key": "a", "occurredAt": "1970-01-01T00:00:01.000002+00:00"}])
    assert operation.occurred_at == 1_000_002


@pytest.mark.parametrize("time", ["yesterday", "2026-01-31", "2026-01-31T14:05:00", 5, 5.0, True, ["2026"], {}])
def test_time_of_an_operation_needs_a_zone_and_a_date(time: Any) -> None:
    with pytest.raises(ValidationError) as caught:
        parsed([{"type": "delete", "key": "a", "occurredAt": time}])
    assert [error["loc"] for error in caught.value.errors()] == [(0, "delete", "occurredAt")]


def test_operations_are_frozen() -> None:
    operation, attribute = Set(key="a", value=1), "value"
    with pytest.raises(ValidationError, match="frozen"):
        setattr(operation, attribute, 2)


def test_operation_keeps_a_copy_of_the_value_it_was_given() -> None:
    value: dict[str, Any] = {"a": [1]}
    operation = Set(key="k", value=value)
    value["a"].append(2)
    assert operation.value == {"a": [1]}


@thorough
@given(histories())
def test_operations_say_on_the_wire_what_was_read(history: History) -> None:
    written = [operation.model_dump(exclude={"occurred_at"}) for operation in history.operations]
    assert exact(written) == exact(list(history.wire))
