"""
JSON values: read strictly, written as JavaScript writes them, compared as JavaScript compares them.

A value inside the ledger is *canonical*: numbers are doubles in the one spelling that JavaScript prints, so
`1.0` is the int 1, `-0.0` is 0, and only fractions and magnitudes of 1e21 and more stay Python floats. Then
Python's own encoder writes nearly every number right, and the same value always has the same text.

Source: ECMA-262, Number::toString and JSON.stringify; RFC 8259.
"""

import json
import math
import re
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Any

from pydantic import JsonValue

from projections.errors import BadJson, BadValue
from projections.size import DEPTH_MAX

JsonObject = dict[str, JsonValue]

EXACT_INTEGER_MAX = 2**53  # The largest magnitude below which a double holds every integer.
EXPONENT_FROM = 1e21  # JavaScript prints integers below this in full, and larger ones with an exponent.


def parse(data: bytes | str) -> JsonValue:
    """
    Read JSON text and refuse what the standard library lets through: duplicate keys, NaN, unpaired surrogates.

    Numbers are left as they were spelled; `canonical` judges them, because only it knows their place.

    Raises:
        BadJson: Not UTF-8, not JSON, a key twice in one object, or nested too deeply to read.
    """
    try:
        text = data if isinstance(data, str) else data.decode()
        return _strict(text)
    except BadJson:
        raise
    except UnicodeDecodeError as error:
        raise BadJson(f"byte {error.start}", "not UTF-8") from error
    except json.JSONDecodeError as error:
        raise BadJson(f"line {error.lineno}, column {error.colno}", _lower(error.msg)) from error
    except RecursionError as error:
        raise BadJson("", f"nested deeper than {DEPTH_MAX} levels") from error
    except ValueError as error:  # An integer of more digits than Python converts.
        raise BadJson("", "a number has too many digits; send it as a string") from error


def load(text: str) -> JsonValue:
    """Read text that this package wrote: canonical already, so nothing is checked."""
    value: JsonValue = json.loads(text)
    return value


def dump(value: JsonValue) -> str:
    """
    Write a canonical value as `JSON.stringify` would: compact, non-ASCII raw, numbers as JavaScript prints them.

    Python and JavaScript differ only for magnitudes under 1e-4, which Python writes as `1e-05`.
    """
    text = _encode(value)
    return _TINY_NUMBER_OR_STRING.sub(_as_javascript, text) if "e-0" in text else text


def canonical(value: object) -> JsonValue:
    """
    Copy *value* into canonical form.

    Raises:
        BadValue: NaN or infinite, an integer that a double cannot hold, an unpaired surrogate, a type that JSON
            does not have, a key that is not a string, or nesting deeper than 64 levels.
    """
    return _canonical(value, DEPTH_MAX)


def number(value: float) -> int | float:
    """
    The canonical form of a number.

    An integer is taken when a double holds it exactly, or when JavaScript prints that double with those digits.

    Raises:
        BadValue: Not finite, or an integer that would be rounded.
    """
    if isinstance(value, int):
        if -EXACT_INTEGER_MAX <= value <= EXACT_INTEGER_MAX:
            return value
        return _large_integer(value)
    if not math.isfinite(value):
        raise BadValue("", f"{value} is not a JSON number (numbers are doubles); send it as a string")
    if value.is_integer() and abs(value) < EXPONENT_FROM:
        return _integral(value)
    return value


def equal(left: JsonValue, right: JsonValue) -> bool:
    """
    Deep equality as JavaScript sees it: member order is irrelevant, 1 equals 1.0, true is not 1.

    Source: the `remove` operation of the reference implementation; Python's `==` takes True for 1.
    """
    if isinstance(left, dict):
        return (
            isinstance(right, dict)
            and left.keys() == right.keys()
            and all(equal(value, right[key]) for key, value in left.items())
        )
    if isinstance(left, list):
        return isinstance(right, list) and len(left) == len(right) and all(map(equal, left, right))
    if isinstance(left, bool) or isinstance(right, bool):
        return left is right
    return left == right


def depth(value: JsonValue) -> int:
    """How many containers lie within each other at the deepest place: 0 for a scalar, 1 for `{}`."""
    level = [value]
    levels = 0
    while level := [item for item in level if isinstance(item, dict | list)]:
        levels += 1
        level = [child for item in level for child in (item.values() if isinstance(item, dict) else item)]
    return levels


class _NotStrict(Exception):
    """Raised inside the decoder, which does not know the place; `_first_fault` finds it."""


class _Pairs(list[tuple[str, JsonValue]]):
    """An object as it was spelled, duplicate keys included."""


class _Constant(str):
    """NaN, Infinity or -Infinity as it was spelled."""

    __slots__ = ()


def _object(pairs: list[tuple[str, JsonValue]]) -> JsonObject:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise _NotStrict
    return members


def _constant(_: str) -> JsonValue:
    raise _NotStrict


def _strict(text: str) -> JsonValue:
    try:
        value = _read(text)
        if "\\u" in text and _HALF_ESCAPE.search(text):
            json.dumps(value, ensure_ascii=False).encode()  # A pair of halves passes, half a pair does not.
    except (_NotStrict, UnicodeEncodeError):
        raise _first_fault(text) from None
    return value


def _first_fault(text: str) -> BadJson:
    """Read again what is not strict, keeping everything, and name the first wrong place."""
    decoder = json.JSONDecoder(object_pairs_hook=_Pairs, parse_constant=_Constant)
    steps, reason = _fault(decoder.decode(text)) or ([], "not strict JSON")
    return BadJson("".join(reversed(steps)).removeprefix(".") or "top level", reason)


def _fault(value: object) -> tuple[list[str], str] | None:
    """The first thing in *value* that is not strict JSON: the steps to it, last first, and what is wrong."""
    if isinstance(value, _Constant):
        return [], f"{value} is not JSON; send null or a string"
    if isinstance(value, str):
        return _half_character(value)
    if isinstance(value, _Pairs):
        return _fault_in_members(value)
    if isinstance(value, list):
        for index, item in enumerate(value):
            if (fault := _fault(item)) is not None:
                fault[0].append(f"[{index}]")
                return fault
    return None


def _fault_in_members(members: _Pairs) -> tuple[list[str], str] | None:
    seen = set()
    for key, member in members:
        if (fault := _half_character(key)) is not None:
            return fault
        fault = ([], "this key appears twice in one object") if key in seen else _fault(member)
        if fault is not None:
            fault[0].append(f".{key}" if key else '.""')
            return fault
        seen.add(key)
    return None


def _half_character(text: str) -> tuple[list[str], str] | None:
    try:
        _text(text)
    except BadValue as error:
        return [], error.reason
    return None


def _canonical(value: object, levels: int) -> JsonValue:
    if value is None or value is True or value is False:
        return value
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, int | float):
        return number(value)
    if levels == 0:
        raise BadValue("", f"nested deeper than {DEPTH_MAX} levels")
    if isinstance(value, dict):
        return _members(value, levels - 1)
    if isinstance(value, list | tuple):
        return _items(value, levels - 1)
    raise BadValue("", f"{type(value).__name__} is not a JSON value")


def _members(value: dict[object, object], levels: int) -> JsonObject:
    members: JsonObject = {}
    for key, member in value.items():
        if not isinstance(key, str):
            raise BadValue("", f"the key {key!r} is not a string")
        try:
            members[_text(key)] = _canonical(member, levels)
        except BadValue as error:
            raise error.inside(f".{key}") from error.__cause__
    return members


def _items(value: Sequence[object], levels: int) -> list[JsonValue]:
    items: list[JsonValue] = []
    for item in value:
        try:
            items.append(_canonical(item, levels))
        except BadValue as error:
            raise error.inside(f"[{len(items)}]") from error.__cause__
    return items


def _text(text: str) -> str:
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError as error:
            half = f"\\u{ord(text[error.start]):04x}"
            raise BadValue("", f"unpaired surrogate {half}; half a character cannot be stored") from error
    return text


def _large_integer(value: int) -> int | float:
    try:
        double = float(value)
    except OverflowError:
        double = math.inf
    if double != math.inf and value in {int(double), printed := _printed(double)}:
        return printed if abs(double) < EXPONENT_FROM else double
    raise BadValue("", "a double cannot hold this integer exactly; send it as a string")


def _integral(double: float) -> int:
    return int(double) if abs(double) <= EXACT_INTEGER_MAX else _printed(double)


def _printed(double: float) -> int:
    """The integer that JavaScript prints for a double: its shortest digits, then zeros."""
    return int(Decimal(float.__repr__(double)))


def _as_javascript(token: re.Match[str]) -> str:
    text = token[0]
    if text[0] == '"':
        return text
    return f"{Decimal(text):f}" if abs(float(text)) >= 1e-6 else text.replace("e-0", "e-")


def _lower(message: str) -> str:
    return message[:1].lower() + message[1:]


_decoder = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_constant)


def _read(text: str) -> JsonValue:
    """Decode; where no space lies around a value, without looking for any."""
    value: JsonValue
    try:
        value, end = _decoder.raw_decode(text)
    except json.JSONDecodeError:
        end = -1
    if end != len(text):
        value = _decoder.decode(text)
    return value


_encoder = json.JSONEncoder(ensure_ascii=False, check_circular=False, allow_nan=False, separators=(",", ":"))


def _writer() -> Callable[[object], str]:
    """
    What `_encoder.encode` does. It makes itself a new encoder in C for each value, which takes longer than most
    values take to write; where Python has one, this makes it once.
    """
    make: Any = getattr(json.encoder, "c_make_encoder", None)
    if make is None:
        return _encoder.encode
    text: Any = json.encoder.encode_basestring
    chunks = make(None, _encoder.default, text, None, ":", ",", False, False, False)
    return lambda value: "".join(chunks(value, 0))


_encode = _writer()
_HALF_ESCAPE = re.compile(r"\\u[dD][89a-fA-F]")
_TINY_NUMBER_OR_STRING = re.compile(r'"(?:[^"\\]|\\.)*"|-?[0-9](?:\.[0-9]+)?e-0[0-9]')
