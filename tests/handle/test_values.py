"""Which values a job may report, as what they are recorded, and what happens with the others."""

import asyncio
import dataclasses
import datetime as dt
import decimal
import enum
import math
import pathlib
import types
import uuid
from collections import OrderedDict, defaultdict, namedtuple
from typing import Any, cast

import pytest
from pydantic import BaseModel, Field, RootModel, field_serializer
from pydantic.dataclasses import dataclass as pydantic_dataclass

from ledger import metadata, run, task
from projections.errors import BadPath, BadValue
from tests.handle.places import Place

UTC = dt.UTC
CET = dt.timezone(dt.timedelta(hours=2))


class Colour(enum.Enum):
    RED = "red"
    PAIR = (1, 2)


class Word(enum.StrEnum):
    YES = "yes"


class Text(str, enum.Enum):  # noqa: UP042 - The old way, which prints differently.
    NO = "no"


class Level(enum.IntEnum):
    HIGH = 3


class Bits(enum.Flag):
    A = 1
    B = 2


class User(BaseModel):
    name: str
    born: dt.date | None = None
    id: uuid.UUID = Field(default=uuid.UUID(int=1), alias="user_id")


class Names(RootModel[list[str]]):
    pass


@dataclasses.dataclass
class Point:
    x: int
    at: dt.datetime | None = None
    inner: Any = None


@pydantic_dataclass
class Checked:
    x: int


Pair = namedtuple("Pair", "a b")  # noqa: PYI024 - As found in the wild.


class Scalar:
    """What numpy's scalars and arrays without dimension look like."""

    ndim = 0

    def __init__(self, held: object) -> None:
        self._held = held

    def item(self) -> object:
        return self._held


class Double(float):
    """As numpy.float64, which is a float."""

    def __repr__(self) -> str:
        return f"Double({float(self)})"


class Name(str):
    """As numpy.str_, which is a str."""

    __slots__ = ()

    def __str__(self) -> str:
        return "not this"


TAKEN: list[tuple[object, Any]] = [
    (None, None),
    (True, True),
    (0, 0),
    (-0.0, 0),
    (1.0, 1),
    (2**53, 2**53),
    (1e300, 1e300),
    ("", ""),
    ("\x00é😀\u2028", "\x00é😀\u2028"),
    ([], []),
    ({}, {}),
    ((1, (2,)), [1, [2]]),
    (Pair(1, "b"), [1, "b"]),
    (defaultdict(list, {"a": [1]}), {"a": [1]}),
    (OrderedDict(b=1, a=2), {"b": 1, "a": 2}),
    (dt.datetime(2026, 1, 31, 14, 5, tzinfo=UTC), "2026-01-31T14:05:00Z"),
    (dt.datetime(2026, 1, 31, 14, 5, 0, 250, tzinfo=CET), "2026-01-31T12:05:00.000250Z"),
    (dt.datetime(2026, 1, 31, 14, 5), "2026-01-31T14:05:00"),  # noqa: DTZ001 - That is the case.
    (dt.date(2026, 1, 31), "2026-01-31"),
    (dt.time(14, 5), "14:05:00"),
    (dt.timedelta(minutes=1, milliseconds=500), 60.5),
    (uuid.UUID(int=7), "00000000-0000-0000-0000-000000000007"),
    (decimal.Decimal("1.10"), "1.10"),
    (decimal.Decimal("NaN"), "NaN"),
    (pathlib.Path("/tmp/a"), "/tmp/a"),
    (pathlib.PureWindowsPath("c:\\a"), "c:\\a"),
    (Colour.RED, "red"),
    (Colour.PAIR, [1, 2]),
    (Word.YES, "yes"),
    (Text.NO, "no"),
    (Level.HIGH, 3),
    (Bits.A | Bits.B, 3),
    (User(name="E", user_id=uuid.UUID(int=2)), {"name": "E", "born": None, "user_id": str(uuid.UUID(int=2))}),
    (Names(["a"]), ["a"]),
    (Point(1, dt.datetime(2026, 1, 1, tzinfo=UTC)), {"x": 1, "at": "2026-01-01T00:00:00Z", "inner": None}),
    (Point(1, None, [Point(2)]), {"x": 1, "at": None, "inner": [{"x": 2, "at": None, "inner": None}]}),
    (Checked(3), {"x": 3}),
    ([{"a": (Colour.RED, {"b": uuid.UUID(int=1)})}], [{"a": ["red", {"b": str(uuid.UUID(int=1))}]}]),
    (Scalar(1.5), 1.5),
    ([Scalar(True), {"a": Scalar(3)}], [True, {"a": 3}]),
    (Double(0.1), 0.1),
    (Name("this"), "this"),
    ({Word.YES: 1, Text.NO: 2, Name("k"): 3}, {"yes": 1, "no": 2, "k": 3}),
]


def test_values_are_recorded_as_the_documentation_says(place: Place) -> None:
    with run("t") as r:
        for index, (given, taken) in enumerate(TAKEN):
            metadata.set("v", given)
            assert metadata.get("v", "missing") == taken, index
        metadata.update({"all": [given for given, _ in TAKEN[:20]]}).set("v", None)
        metadata.append("list", Colour.RED).remove("list", Colour.RED).increment("n", Level.HIGH)
        metadata.increment("n", cast("float", Scalar(2))).increment("n", Double(0.5))
        assert metadata.get("n") == 5.5
    recorded = place.values(r.id, "v")
    assert recorded == [taken for _, taken in TAKEN] + [None]
    assert [type(value) for value in recorded[:-1]] == [type(taken) for _, taken in TAKEN]
    assert place.metadata(r.id) == {"all": [taken for _, taken in TAKEN[:20]], "v": None, "list": [], "n": 5.5}


def cyclic_list() -> object:
    value: list[object] = []
    value.append(value)
    return value


def cyclic_pair() -> object:
    """Two ways to go on at every level: to walk them all would take for ever."""
    value: list[object] = []
    value.extend([{"a": value}, value])
    return value


def tree_with_parents() -> object:
    top = Point(0)
    top.inner = [Point(1, None, top), Point(2, None, top)]
    return top


def cyclic_model() -> object:
    class Node(BaseModel):
        next: Any = None

    node = Node()
    node.next = node
    return node


def nested(levels: int) -> object:
    value: object = 1
    for _ in range(levels):
        value = [value]
    return value


class Broken(BaseModel):
    x: int = 1

    @field_serializer("x")
    def fail(self, x: int) -> int:
        raise ZeroDivisionError


class Hostile(Scalar):
    def item(self) -> object:
        raise ZeroDivisionError


REFUSED: list[tuple[object, str]] = [
    ({1, 2}, "set is not a JSON value"),
    (frozenset(), "frozenset is not a JSON value"),
    (b"bytes", "bytes is not a JSON value"),
    (bytearray(), "bytearray is not a JSON value"),
    (memoryview(b""), "memoryview is not a JSON value"),
    (math.nan, "nan is not a JSON number"),
    (-math.inf, "inf is not a JSON number"),
    (Double("nan"), "nan"),
    (2**60 + 1, "a double cannot hold this integer exactly"),
    (10**400, "a double cannot hold this integer exactly"),
    ("\ud800", "unpaired surrogate"),
    ({"a\udfff": 1}, "unpaired surrogate"),
    (complex(1), "complex is not a JSON value"),
    (object(), "object is not a JSON value"),
    (object, "type is not a JSON value"),
    (Point, "type is not a JSON value"),
    (len, "builtin_function_or_method is not a JSON value"),
    (iter([]), "list_iterator is not a JSON value"),
    (range(3), "range is not a JSON value"),
    (types.MappingProxyType({}), "mappingproxy is not a JSON value"),
    (ZeroDivisionError(), "ZeroDivisionError is not a JSON value"),
    (Scalar({1}), "set is not a JSON value"),
    (Scalar(math.nan), "nan"),
    ({1: 2}, "the key 1 is not a string"),
    ({None: 2}, "the key None is not a string"),
    ({("a",): uuid.UUID(int=0)}, "is not a string"),
    ([1, {"a": [{2}]}], r"\[1\]\.a\[0\]: set is not a JSON value"),
    (Point(1, None, {3}), r"\.inner: set is not a JSON value"),
    (cyclic_list(), "nested deeper than 64 levels"),
    (cyclic_pair(), "nested deeper than 64 levels"),
    (tree_with_parents(), "nested deeper than 64 levels"),
    (nested(65), "nested deeper than 64 levels"),
    (nested(100_000), "nested deeper than 64 levels"),
]


def test_values_that_json_cannot_say_fail_at_the_call_and_leave_nothing(place: Place) -> None:
    with run("t", metadata={"v": 1}) as r:
        for value, reason in REFUSED:
            for change in (metadata.set, metadata.append, metadata.remove, metadata.parent.set):
                with pytest.raises(BadValue, match=reason) as raised:
                    change("v", value)
                assert len(str(raised.value)) < 500
            with pytest.raises(BadValue, match=reason):
                metadata.update({"v": value})
            with pytest.raises((BadValue, TypeError)):
                metadata.increment("v", cast("float", value))
            with pytest.raises((BadValue, TypeError)):
                metadata.update(value)
        assert metadata.current() == {"v": 1}
        metadata.flush()
    assert place.types(r.id) == ["run.created", "run.status_changed"]


def test_the_place_of_a_wrong_value_is_named(place: Place) -> None:
    with run("t"):
        with pytest.raises(BadValue, match=r"^at set\('status'\)\.steps\[1\]\.rate: nan is not a JSON number"):
            metadata.set("status", {"steps": [{}, {"rate": math.nan}]})
        with pytest.raises(BadValue, match=r"^at update\(\)\.a: set is not a JSON value"):
            metadata.update({"a": {1}})


@pytest.mark.parametrize("value", [Broken(), Hostile(1), cyclic_model()])
def test_a_value_whose_own_code_fails_raises_at_the_call(place: Place, value: object) -> None:
    with run("t") as r, pytest.raises((ZeroDivisionError, ValueError)):
        metadata.set("v", value)
    assert place.types(r.id) == ["run.created", "run.status_changed"]


WRONG_KEYS: list[tuple[Any, type[Exception], str]] = [
    (1, TypeError, "a key is text, not int"),
    (None, TypeError, "a key is text, not NoneType"),
    (b"a", TypeError, "a key is text, not bytes"),
    (["a"], TypeError, "a key is text, not list"),
    ("__proto__", BadPath, "forbidden"),
    ("$.", BadPath, "names nothing"),
    ("$.a.*", BadPath, "wildcards"),
    ("$.a.[0:1]", BadPath, "slices"),
    ("$.a\\.b", BadPath, "escapes"),
    ("$.a.constructor", BadPath, "forbidden"),
    ("$." + ".".join("a" * 65), BadPath, "65 names"),
    ("k" * 1_025, BadPath, "1,025 bytes"),
    ("é" * 513, BadPath, "1,026 bytes"),
    ("a\ud800", BadValue, "surrogate"),
    ("$.a\ud800", BadValue, "surrogate"),
]


def test_wrong_keys_fail_at_the_call_and_leave_nothing(place: Place) -> None:
    with run("t") as r:
        for key, kind, reason in WRONG_KEYS:
            for change in (metadata.set, metadata.append, metadata.remove, metadata.increment, metadata.root.set):
                with pytest.raises(kind, match=reason) as raised:
                    change(key, 1)
                assert len(str(raised.value)) < 500
        for key in (1, None, "__proto__", "k" * 1_025, "a\ud800"):
            with pytest.raises((TypeError, BadPath, BadValue)):
                metadata.delete(cast("str", key))
    assert place.types(r.id) == ["run.created", "run.status_changed"]


def test_keys_that_are_text_of_another_kind_are_taken(place: Place) -> None:
    with run("t") as r:
        metadata.set(Word.YES, 1).set(Text.NO, 2).set(Name("$.k"), 3).increment(Word.YES).delete(Text.NO)
        assert metadata.get(Word.YES) == 2
        assert metadata.get(Name("$.k")) == 3
    assert place.metadata(r.id) == {"yes": 2, "k": 3}


@pytest.mark.parametrize("amount", [True, "1", None, [], decimal.Decimal(1), {}])
def test_increment_takes_numbers_only(place: Place, amount: Any) -> None:
    with run("t") as r:
        with pytest.raises(TypeError, match="takes a number"):
            metadata.increment("n", amount)
        with pytest.raises(TypeError, match="takes a number"):
            metadata.decrement("n", amount)
    assert place.types(r.id) == ["run.created", "run.status_changed"]


@pytest.mark.parametrize("value", [[], 1, "a", None, [("a", 1)]])
def test_update_takes_objects_only(place: Place, value: Any) -> None:
    with run("t") as r, pytest.raises(TypeError, match="update takes an object"):
        metadata.update(value)
    assert place.types(r.id) == ["run.created", "run.status_changed"]


def test_update_takes_models_and_dataclasses(place: Place) -> None:
    with run("t") as r:
        metadata.update(Point(1))
        assert metadata.current() == {"x": 1, "at": None, "inner": None}
        metadata.update(User(name="E"))
    assert place.metadata(r.id) == {"name": "E", "born": None, "user_id": str(uuid.UUID(int=1))}


def test_what_changes_after_the_call_is_not_recorded(place: Place) -> None:
    value: dict[str, Any] = {"l": [1], "o": {"a": 1}}
    first = {"start": value}
    point = Point(1, None, [value])
    with run("t", metadata=first, payload=value) as r:
        metadata.set("v", value).append("w", value).set("p", point)
        metadata.update({**metadata.current(), "u": value})
        value["l"].append(2)
        value["o"].clear()
        point.x = 2
        first["more"] = {}
        was = {"l": [1], "o": {"a": 1}}
        assert metadata.current() == {
            "start": was,
            "v": was,
            "w": [was],
            "p": {"x": 1, "at": None, "inner": [was]},
            "u": was,
        }
        expected = metadata.current()
    assert place.metadata(r.id) == expected


@pytest.mark.parametrize("wrong", [{1}, [1], "text", math.nan, {"a": {1}}, {1: 1}, 7])
def test_wrong_first_metadata_fails_before_anything_is_recorded(place: Place, wrong: Any) -> None:
    @task
    def work() -> None:
        pytest.fail("not reached")

    name = f"wrong-{uuid.uuid4()}"
    with pytest.raises(ValueError, match=r"\w"), run(name, metadata=wrong):
        pytest.fail("not reached")
    work.name = name
    with pytest.raises(ValueError, match=r"\w"):
        work.trigger_sync(metadata=wrong)
    with pytest.raises(ValueError, match=r"\w"):
        asyncio.run(work.trigger(metadata=wrong))
    assert place.rows("SELECT * FROM runs WHERE task = ?", name) == []


@pytest.mark.parametrize(
    "options",
    [
        {"id": "no spaces"},
        {"id": ""},
        {"id": "a/b"},
        {"id": "x" * 129},
        {"id": 7},
        {"tags": ["t"] * 3 + [str(n) for n in range(11)]},
        {"tags": ["t" * 129]},
        {"tags": [1]},
        {"tags": 7},
        {"payload": {1}},
        {"payload": "x" * 600_000},
        {"task": ""},
        {"task": " "},
        {"task": "t" * 257},
        {"task": "a\ud800"},
        {"task": None},
        {"tags": ["\ud800"]},
    ],
)
def test_wrong_options_of_a_run_fail_with_a_clear_text(place: Place, options: Any) -> None:
    before = place.rows("SELECT count(*) FROM runs")
    given = {"task": "t", **options}
    with pytest.raises((ValueError, TypeError), match=r"\w") as raised, run(given.pop("task"), **given):
        pytest.fail("not reached")
    assert len(str(raised.value)) < 1_000
    assert run.id is None
    assert place.rows("SELECT count(*) FROM runs") == before


def test_a_single_tag_may_stand_alone(place: Place) -> None:
    with run("t", tags="alone") as r:
        pass
    assert place.rows("SELECT tags FROM runs WHERE run_id = ?", r.id) == [{"tags": '["alone"]'}]
