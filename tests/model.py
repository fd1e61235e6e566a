"""
The operations once more, in the plainest way: a specification to hold the product against.

Works on operations as they are on the wire. Everything is deep-copied, every number is a float, and each rule is
written down where it acts, with no thought for speed.

Source: the rules of the reference implementation, and of those, which Run Ledger refuses on purpose.
"""

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import JsonValue

from tests.javascript import doubles

LIST_INDEX_MAX = 65_535

MISSING: Any = object()


class DoesNotApply(Exception):
    """The operation has nothing to work on."""


class Refused(Exception):
    """The whole request is wrong."""

    def __init__(self, kind: Literal["path", "bounds"]) -> None:
        super().__init__(kind)
        self.kind = kind
        self.index = -1


@dataclass(frozen=True)
class Outcome:
    """The metadata after the operations, and the places in their list of those that did not apply."""

    metadata: dict[str, JsonValue]
    unapplied: list[int]


def run(metadata: dict[str, JsonValue], operations: Sequence[dict[str, JsonValue]]) -> Outcome:
    """Apply *operations* in order, or raise `Refused` with the index of the first that is wrong."""
    state: Any = doubles(metadata)
    unapplied = []
    for index, operation in enumerate(operations):
        try:
            state = apply(state, operation)
        except DoesNotApply:
            unapplied.append(index)
        except Refused as refused:
            refused.index = index
            raise
    return Outcome(state, unapplied)


def judge(metadata: dict[str, JsonValue], operations: Sequence[dict[str, JsonValue]]) -> Outcome | Refused:
    """As `run`, with the refusal returned."""
    try:
        return run(metadata, operations)
    except Refused as refused:
        return refused


def apply(state: Any, operation: dict[str, JsonValue]) -> Any:
    """One operation on a copy of *state*."""
    state = copy.deepcopy(state)
    value = doubles(operation.get("value"))
    if operation["type"] == "update":
        return value
    key = operation["key"]
    assert isinstance(key, str)
    if operation["type"] == "delete":
        _refuse_literal(key)
        state.pop(key, None)
        return state
    holder, name, old = _find(state, key)
    new = _result(operation["type"], old, value)
    if isinstance(holder, list):
        while len(holder) <= name:
            holder.append(None)
    holder[name] = new
    return state


def is_refused(key: str) -> bool:
    """Whether no operation but `delete` may use *key*, whatever the metadata holds."""
    try:
        _find({}, key)
    except Refused:
        return True
    except DoesNotApply:
        pass
    return False


def equal(left: Any, right: Any) -> bool:
    """Deep equality of values whose numbers are all floats."""
    if type(left) is not type(right):
        return False
    if isinstance(left, dict):
        return set(left) == set(right) and all(equal(left[name], right[name]) for name in left)
    if isinstance(left, list):
        return len(left) == len(right) and all(equal(*pair) for pair in zip(left, right, strict=True))
    return bool(left == right)


def _result(kind: JsonValue, old: Any, value: Any) -> Any:
    if kind == "set":
        return value
    if kind == "append":
        if old is MISSING:
            return [value]
        return [*old, value] if isinstance(old, list) else [old, value]
    if kind == "remove":
        if not isinstance(old, list):
            raise DoesNotApply
        return [item for item in old if not equal(item, value)]
    assert kind == "increment"
    total = (old if isinstance(old, float) else 0.0) + value
    if math.isinf(total):
        raise Refused("bounds")
    return total + 0.0


def _find(state: Any, key: str) -> tuple[Any, Any, Any]:
    """The object or list to write into, the name or index in it, and what is there now."""
    if not key.startswith("$."):
        _refuse_literal(key)
        return state, key, state.get(key, MISSING)
    pieces = [piece for piece in key.split(".")[1:] if piece]
    _refuse_pieces(key, pieces)
    holder: Any = None
    name: Any = None
    here = state
    for place, piece in enumerate(pieces):
        holder, name = here, piece
        if isinstance(holder, dict):
            here = holder.get(name, MISSING)
        elif isinstance(holder, list):
            name = _index(piece, is_last=place == len(pieces) - 1)
            here = holder[name] if name < len(holder) else MISSING
        else:
            raise DoesNotApply
        if here is None:
            raise DoesNotApply
    return holder, name, here


def _index(piece: str, *, is_last: bool) -> int:
    if piece == "length" and is_last:
        raise Refused("path")
    if not all(character in "0123456789" for character in piece) or str(int(piece)) != piece:
        raise DoesNotApply
    if int(piece) > LIST_INDEX_MAX:
        raise Refused("bounds")
    return int(piece)


def _refuse_literal(key: str) -> None:
    if key == "__proto__":
        raise Refused("path")


def _refuse_pieces(key: str, pieces: list[str]) -> None:
    if not pieces or "\\" in key or "~1" in key:
        raise Refused("path")
    finer = key
    for separator in "[]'\"":
        finer = finer.replace(separator, ".")
    if {"__proto__", "constructor", "prototype"} & set(finer.split(".")):
        raise Refused("path")
    if any(piece == "*" or _is_slice(piece) for piece in pieces):
        raise Refused("path")


def _is_slice(piece: str) -> bool:
    if not (piece.startswith("[") and piece.endswith("]") and piece.count(":") == 1):
        return False
    start, end = piece[1:-1].split(":")
    return _all_digits(start) and (not end or (_all_digits(end.removeprefix("-")) and end != "-"))


def _all_digits(text: str) -> bool:
    return all(character in "0123456789" for character in text)
