"""
How JavaScript writes and compares JSON values, from the text of ECMA-262 and from nothing in this project.

Source: ECMA-262, Number::toString, QuoteJSONString and SerializeJSONProperty.
"""

import json
from decimal import Decimal

from pydantic import JsonValue

_SHORT_ESCAPES = {"\b": "\\b", "\t": "\\t", "\n": "\\n", "\f": "\\f", "\r": "\\r", '"': '\\"', "\\": "\\\\"}


def stringify(value: JsonValue) -> str:
    """What `JSON.stringify(value)` returns."""
    match value:
        case None:
            return "null"
        case True:
            return "true"
        case False:
            return "false"
        case str():
            return quote(value)
        case int() | float():
            return number_to_string(float(value))
        case list():
            return "[" + ",".join(stringify(item) for item in value) + "]"
        case dict():
            return "{" + ",".join(f"{quote(name)}:{stringify(member)}" for name, member in value.items()) + "}"


def number_to_string(x: float) -> str:
    """
    Number::toString of a finite double, radix 10.

    "Let n, k, and s be integers such that k >= 1, 10^(k-1) <= s < 10^k, the double nearest to s * 10^(n-k) is x,
    and k is as small as possible": Python's repr finds the same shortest digits.
    """
    if x == 0:
        return "0"
    if x < 0:
        return "-" + number_to_string(-x)
    s, k, n = _shortest_digits(x)
    if k <= n <= 21:
        return s + "0" * (n - k)
    if 0 < n <= 21:
        return s[:n] + "." + s[n:]
    if -6 < n <= 0:
        return "0." + "0" * -n + s
    exponent = f"e+{n - 1}" if n - 1 > 0 else f"e-{1 - n}"
    return s + exponent if k == 1 else s[0] + "." + s[1:] + exponent


def quote(text: str) -> str:
    """QuoteJSONString: what is not escaped stays raw, half a surrogate pair does not."""
    return '"' + "".join(map(_quoted, text)) + '"'


def canonical_number(x: float) -> int | float:
    """A double as the ledger keeps it: an int where JavaScript prints only digits, else a float."""
    printed = number_to_string(x)
    return int(printed) if printed.lstrip("-").isdigit() else x


def doubles(value: JsonValue) -> JsonValue:
    """A deep copy in which every number is a float, as it is in JavaScript, and `-0` is `0`."""
    match value:
        case bool() | None | str():
            return value
        case int() | float():
            return float(value) + 0.0
        case list():
            return [doubles(item) for item in value]
        case dict():
            return {name: doubles(member) for name, member in value.items()}


def exact(value: object) -> str:
    """A text that is equal for equal values of equal types: true, 1 and 1.0 differ, order of members does not."""
    return json.dumps(value, sort_keys=True)


def _shortest_digits(x: float) -> tuple[str, int, int]:
    digits, exponent = Decimal(repr(x)).as_tuple()[1:]
    assert isinstance(exponent, int)
    s = "".join(map(str, digits)).lstrip("0")
    n = len(s) + exponent
    s = s.rstrip("0")
    return s, len(s), n


def _quoted(character: str) -> str:
    if character in _SHORT_ESCAPES:
        return _SHORT_ESCAPES[character]
    if character < " " or "\ud800" <= character <= "\udfff":
        return f"\\u{ord(character):04x}"
    return character
