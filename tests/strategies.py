"""
Hypothesis strategies, with a bias to what breaks things.

Values are drawn in the ledger's canonical form; `spellings` draws the many ways in which JSON text may say one of
them. Operations are drawn as they are on the wire; `parsed` makes them the product's own.
"""

import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from pydantic import JsonValue, TypeAdapter

from projections.operations import AnyOperation, Operation
from projections.values import JsonObject
from tests.javascript import canonical_number

# Time depends on the machine, so neither a deadline nor slow drawing fails a test.
thorough = settings(deadline=None, max_examples=60, print_blob=True, suppress_health_check=[HealthCheck.too_slow])

DOUBLE_MAX = 1.7976931348623157e308
SAFE_MAX = 1e300  # A few hundred of these add up to less than the largest double.

_OPERATIONS: TypeAdapter[list[Operation]] = TypeAdapter(list[AnyOperation])

_NUMBERS = (
    *(0, 1, -1, 2, 3, 10, 100),
    *(0.1, 0.2, -0.5, 1.5, 0.30000000000000004, 16.105),
    *(0.0001, 0.00001, 1.5e-5, 0.000001, 9.999999999999997e-7, 1e-7, -1e-7, 1.25e-10, 1e-100, 5e-324),
    *(2**53 - 1, 2**53, 2**53 + 2, -(2**53) - 2, 2**31, -(2**63), 12345678901234567000),
    *(123456789012345680000, 999999999999999900000, -100000000000000000000),
    *(1e21, -1e21, 1.5e21, 1e22, 1e23, 1.2345678901234568e25, SAFE_MAX),
)
NUMBERS = tuple(canonical_number(float(number)) for number in _NUMBERS)

TEXTS = (
    *("", " ", "a", "b", "1", "1.0", "true", "null", "e-0", "1e-05", '1e-05"', "e-05\\", '"', "\\", '\\"', "/"),
    *("\x00", "\x01", "\x1f", "\b\t\n\f\r", "\x7f", "\x80", "\u2028", "\u2029", "\ufeff", "\ufffd", "\uffff"),
    *("é", "e\u0301", "😀", "\U0010ffff", "\U00010000", "\ud7ff", "\ue000", "{", "[", "]}", "<script>"),
)

KEYS = (
    *("a", "b", "c", "l", "o", "n", "a.b", "a[0]", "0", "1", "01", "-1", "10", "", " ", "length"),
    *("$", "$x", "$[0]", "$$", "$a.b", "constructor", "prototype", "toString", "hasOwnProperty", "a.__proto__"),
    *("e-0", "1e-05", "\x00", "\u2028", "😀", "é", "e\u0301", '"', "\\", "*", "~1"),
)

NAMES = (
    *("a", "b", "c", "l", "o", "n", "0", "1", "2", "7", "01", "-1", "00", "1e0", "+1", "\u0661", "foo"),
    *("$", "a[0]", "['a']", "[0]", "[a:b]", "**", "a*", "~", "~0", "my__proto__", "toString", "lengths"),
    *(" ", "\x00", "\u2028", "😀", "é", "e\u0301", '"', "null"),
)

REFUSED_KEYS = (
    *("__proto__", "$.", "$..", "$...", "$.*", "$.a.*", "$.*.a", "$.l.[0:2]", "$.[:]", "$.l.[1:-1].a"),
    *("$.__proto__", "$.a.constructor", "$.prototype.a", "$.[constructor]", "$.a['__proto__']", "$..__proto__"),
    *("$.a\\.b", "$.\\", "$.a\\", "$.a~1b", "$.~1"),
)
REFUSED_ENDS = (".length", ".65536", ".4294967294.a", ".*", ".[0:]", ".constructor", "\\")


@cache
def numbers(magnitude_max: float = DOUBLE_MAX) -> st.SearchStrategy[int | float]:
    """Canonical numbers, near the places where Python and JavaScript part."""
    doubles = st.floats(-magnitude_max, magnitude_max, allow_nan=False)
    near_powers = st.builds(
        lambda power, away: float(10**power + away), st.integers(0, 22), st.integers(-(2**10), 2**10)
    )
    integers = st.integers(-(2**54), 2**54).map(float)
    return st.one_of(
        st.sampled_from(NUMBERS),
        st.integers(-3, 12),
        st.one_of(doubles, near_powers, integers).map(canonical_number),
    )


@cache
def texts() -> st.SearchStrategy[str]:
    """Strings without unpaired surrogates."""
    return st.one_of(st.sampled_from(TEXTS), st.text(max_size=8), st.text('"\\e-01.5u', max_size=12))


@cache
def keys() -> st.SearchStrategy[str]:
    """Literal keys, some of which look like something else."""
    return st.one_of(st.sampled_from(KEYS), texts().filter(_is_plain))


@cache
def scalars(magnitude_max: float = DOUBLE_MAX) -> st.SearchStrategy[JsonValue]:
    """Whatever is neither a list nor an object; 0, 1, false and true are frequent, to be taken for each other."""
    lookalikes: tuple[JsonValue, ...] = (None, True, False, 0, 1, "1", "true", "")
    return st.one_of(st.sampled_from(lookalikes), numbers(magnitude_max), texts())


@cache
def json_values(magnitude_max: float = DOUBLE_MAX, max_leaves: int = 8) -> st.SearchStrategy[JsonValue]:
    """Canonical values, nested a little."""
    return st.recursive(
        scalars(magnitude_max),
        lambda inner: st.one_of(
            st.lists(inner, max_size=4), st.dictionaries(st.one_of(keys(), texts()), inner, max_size=4)
        ),
        max_leaves=max_leaves,
    )


@cache
def small_values(magnitude_max: float = SAFE_MAX) -> st.SearchStrategy[JsonValue]:
    """Canonical values nested twice at most, quick to draw, of names that paths lead to."""
    plain = scalars(magnitude_max)
    lists = st.lists(plain, max_size=3)
    objects = st.dictionaries(st.sampled_from(NAMES), plain, max_size=2)
    deeper = st.one_of(st.lists(st.one_of(plain, lists, objects), max_size=3), _sparse_object(lists, objects))
    return _chosen((plain, plain, lists, objects, deeper))


@cache
def metadata_objects(magnitude_max: float = DOUBLE_MAX) -> st.SearchStrategy[JsonObject]:
    """Metadata of a shape that paths lead into, and metadata of any kind."""
    values = small_values(magnitude_max)
    items = st.lists(values, min_size=1, max_size=4)
    objects = st.dictionaries(st.sampled_from(NAMES), values, min_size=1, max_size=3)
    full = st.fixed_dictionaries({"l": items, "o": objects}, optional={"n": numbers(magnitude_max), "a": values})
    sparse = st.fixed_dictionaries(
        {}, optional={"l": items, "o": objects, "n": scalars(magnitude_max), "0": items}
    )
    return _chosen((full, full, sparse, st.dictionaries(keys(), values, max_size=4)))


def places(value: JsonValue) -> Iterator[tuple[str, ...]]:
    """The names that lead to every value inside *value*."""
    members: Iterator[tuple[str, JsonValue]] = iter(())
    if isinstance(value, dict):
        members = iter(value.items())
    elif isinstance(value, list):
        members = ((str(index), item) for index, item in enumerate(value))
    for name, member in members:
        yield (name,)
        for inner in places(member):
            yield name, *inner


@dataclass(frozen=True)
class History:
    """Metadata, and operations on it as requests spell them."""

    metadata: JsonObject
    wire: tuple[JsonObject, ...]

    @property
    def operations(self) -> list[Operation]:
        """The operations, parsed anew at every use."""
        return parsed(self.wire)


@st.composite
def histories(draw: st.DrawFn, max_size: int = 10) -> History:
    """Histories that nothing forbids: every operation applies or has nothing to work on."""
    metadata = draw(metadata_objects(SAFE_MAX))
    operation = _operations(metadata, _keys_for(metadata), SAFE_MAX)
    return History(metadata, tuple(draw(st.lists(operation, min_size=1, max_size=max_size))))


@st.composite
def hostile_histories(draw: st.DrawFn, max_size: int = 6) -> History:
    """Histories with some operations that must be refused: bad keys, far indexes, sums that overflow."""
    metadata = draw(metadata_objects(DOUBLE_MAX))
    harmless = _keys_for(metadata)
    parents = [_path_key(names) for names in places(metadata) if _is_path(names)] or ["$.l"]
    ends = st.builds(str.__add__, st.sampled_from(parents), st.sampled_from(REFUSED_ENDS))
    operation_keys = _chosen((harmless, harmless, harmless, st.sampled_from(REFUSED_KEYS), ends))
    operation = _operations(metadata, operation_keys, DOUBLE_MAX)
    return History(metadata, tuple(draw(st.lists(operation, min_size=1, max_size=max_size))))


def parsed(wire: Sequence[JsonObject]) -> list[Operation]:
    """The product's operations from those of a request."""
    return _OPERATIONS.validate_python(list(wire))


def spellings(value: JsonValue) -> st.SearchStrategy[str]:
    """JSON text that says *value*, in some of the many ways that JSON allows."""
    return st.integers(0, 2**32).map(lambda seed: _spelled(value, random.Random(seed)))


def nested(levels: int) -> JsonValue:
    """Lists and objects in turn, *levels* deep; an empty object is one level."""
    value: JsonValue = {}
    for level in range(levels - 1):
        value = {"a": value} if level % 2 else [value]
    return value


def nested_object(levels: int) -> JsonObject:
    """As `nested`, with an object on top."""
    return {} if levels == 1 else {"a": nested(levels - 1)}


def _spelled(value: JsonValue, choose: random.Random) -> str:
    space = choose.choice(("", "", " ", "\n\t", "\r\n "))
    match value:
        case dict():
            members = (
                f"{_spelled(name, choose)}{space}:{_spelled(member, choose)}" for name, member in value.items()
            )
            text = f"{{{space}{','.join(members)}}}"
        case list():
            text = f"[{space}{','.join(_spelled(item, choose) for item in value)}]"
        case str():
            text = choose.choice(_string_spellings(value))
        case bool() | None:
            text = json.dumps(value)
        case _:
            text = choose.choice(_number_spellings(value))
    return f"{space}{text}{space}"


def _string_spellings(text: str) -> list[str]:
    raw = json.dumps(text, ensure_ascii=False)
    upper = "".join(f"\\u{unit:04X}" for unit in _utf16(text))
    return [raw, json.dumps(text), f'"{upper}"', raw.replace("/", "\\/")]


def _utf16(text: str) -> list[int]:
    data = text.encode("utf-16-be")
    return [int.from_bytes(data[place : place + 2], "big") for place in range(0, len(data), 2)]


def _number_spellings(value: float) -> list[str]:
    double = float(value)
    ways = [repr(value), repr(double), f"{double:.17e}", f"{double:.20E}"]
    if double == 0:
        ways += ["-0", "-0.0", "0e5", "0.000", "-0E-7", "1e-400"]
    if double.is_integer():
        ways += [str(int(double)), f"{int(double)}.000", f"{int(double)}e0", f"{int(double)}.0E+0"]
    return ways


def _sparse_object(
    lists: st.SearchStrategy[list[JsonValue]], objects: st.SearchStrategy[JsonObject]
) -> st.SearchStrategy[JsonObject]:
    return st.fixed_dictionaries({}, optional={"l": lists, "o": objects})


def _chosen(strategies: Sequence[st.SearchStrategy[Any]]) -> st.SearchStrategy[Any]:
    """One of *strategies*, all as likely; `one_of` counts the branches within each, and prefers the bushy."""
    return st.sampled_from(strategies).flatmap(lambda strategy: strategy)


def _keys_for(metadata: JsonObject) -> st.SearchStrategy[str]:
    """Keys that no rule forbids: of something in *metadata*, just past it, or of anything."""
    present = [names for names in places(metadata) if _is_path(names)] or [("a",)]
    past = [(*names, name) for names in present for name in ("a", "o", "0", "2", "5")]
    plain = [key for key in metadata if _is_plain(key)] or ["a"]
    sloppy = ["$.." + "..".join(names) + "." for names in present]
    path = st.sampled_from([_path_key(names) for names in present])
    literal = st.sampled_from(plain)
    beyond = st.sampled_from([_path_key(names) for names in past])
    return _chosen((path, path, literal, literal, beyond, st.sampled_from(sloppy), _anything()))


@cache
def _anything() -> st.SearchStrategy[str]:
    return st.one_of(keys(), st.lists(st.sampled_from(NAMES), min_size=1, max_size=3).map(_path_key))


def _operations(
    metadata: JsonObject, operation_keys: st.SearchStrategy[str], magnitude_max: float
) -> st.SearchStrategy[JsonObject]:
    """One operation as a request spells it, with its members in the order of the specification."""
    values = small_values(magnitude_max)
    lists = [(names, here) for names in places(metadata) if isinstance(here := _at(metadata, names), list)]
    found = [(_key_of(names), item) for names, items in lists if _is_path(names) for item in items] or [("l", 1)]
    list_keys = _chosen((st.sampled_from(found).map(lambda pair: pair[0]), operation_keys))
    put = st.builds(_keyed, st.just("set"), operation_keys, values)
    appended = st.builds(_keyed, st.just("append"), operation_keys, values)
    added = st.builds(_keyed, st.just("increment"), operation_keys, numbers(magnitude_max))
    removed = st.sampled_from(found).map(lambda pair: _keyed("remove", *pair))
    mistaken = st.builds(_keyed, st.just("remove"), list_keys, scalars(magnitude_max))
    deleted = operation_keys.map(lambda key: {"type": "delete", "key": key})
    replaced = metadata_objects(magnitude_max).map(lambda value: {"type": "update", "value": value})
    kinds = (put, put, put, appended, appended, added, added, removed, mistaken, deleted, replaced)
    return _chosen(kinds)


def _at(metadata: JsonObject, names: tuple[str, ...]) -> JsonValue:
    here: JsonValue = metadata
    for name in names:
        here = here[int(name)] if isinstance(here, list) else here[name] if isinstance(here, dict) else None
    return here


def _key_of(names: tuple[str, ...]) -> str:
    return names[0] if len(names) == 1 else _path_key(names)


def _keyed(kind: str, key: str, value: JsonValue) -> JsonObject:
    return {"type": kind, "key": key, "value": value}


def _path_key(names: Sequence[str]) -> str:
    return "$." + ".".join(names)


def _is_plain(key: str) -> bool:
    return key != "__proto__" and not key.startswith("$.")


def _is_path(names: tuple[str, ...]) -> bool:
    return all(name in NAMES for name in names)
