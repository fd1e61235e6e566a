"""
What each operation does to metadata.

`apply` says when an operation cannot apply; `evolve` and `fold` never refuse, because what they are given was
accepted once. Nothing is changed in place: only the containers along the changed path are copied.

Source: the semantics of the reference implementation, `applyMetadataOperations`.
"""

import math
from collections.abc import Callable, Collection, Iterable
from functools import reduce
from typing import Final, assert_never

from pydantic import JsonValue

from projections.errors import BadPath, OutOfBounds
from projections.operations import Operation
from projections.paths import Path, list_index, literal, parse_key
from projections.size import LIST_INDEX_MAX
from projections.values import JsonObject, equal, number


class Absent:
    """There is no such member: not the same as null."""


ABSENT: Final = Absent()


class CannotApply(Exception):
    """Not an error: the operation has nothing to work on, as the text says, and the request goes on without it."""


def fold(metadata: JsonObject, operations: Iterable[Operation]) -> JsonObject:
    """Apply *operations* in order."""
    return reduce(evolve, operations, metadata)


def evolve(metadata: JsonObject, operation: Operation) -> JsonObject:
    """
    Apply one accepted operation; where it has nothing to work on, *metadata* stays as it is.

    Once something before it was erased, an accepted operation can meet a state that would refuse it.
    """
    try:
        return apply(metadata, operation)
    except (CannotApply, BadPath, OutOfBounds):
        return metadata


def blank(metadata: JsonObject, key: str) -> JsonObject:
    """Put null at *key*: all that is left of an operation whose value was erased from a list."""
    try:
        return _change(metadata, key, lambda _: None)
    except (CannotApply, BadPath, OutOfBounds):
        return metadata


def remove_places(metadata: JsonObject, key: str, places: Collection[int]) -> JsonObject:
    """Take the items at *places* out of the list at *key*: what is left of a remove whose item was erased."""
    path = parse_key(key)
    items = value_at(metadata, path)
    if not isinstance(items, list) or not places:
        return metadata
    kept = [item for place, item in enumerate(items) if place not in places]
    return _change(metadata, key, lambda _: kept)


def apply(metadata: JsonObject, operation: Operation) -> JsonObject:
    """
    Apply one operation and return the new metadata, which shares what did not change.

    Raises:
        CannotApply: `remove` on what is no list, or a path that leads nowhere.
        BadPath: The key is one that no operation may use.
        OutOfBounds: A sum too large for a double, or a list index past 65,535.
    """
    # By the name of the type: pydantic's classes take their time to say what is an instance of them.
    match operation.type:
        case "set":
            value = operation.value
            return _change(metadata, operation.key, lambda _: value)
        case "delete":
            return _delete(metadata, literal(operation.key))
        case "append":
            item = operation.value
            return _change(metadata, operation.key, lambda current: _appended(current, item))
        case "remove":
            unwanted = operation.value
            return _change(metadata, operation.key, lambda current: _removed(current, unwanted))
        case "increment":
            key, amount = operation.key, operation.value
            return _change(metadata, key, lambda current: _incremented(key, current, amount))
        case "update":
            return operation.value
        case _:
            assert_never(operation)


def gap(metadata: JsonObject, operation: Operation) -> int:
    """How many nulls *operation* fills in below the list index that its key names."""
    match operation.type:
        case "delete" | "remove" | "update":
            return 0
        case _:
            path = parse_key(operation.key)
    if path.literal or (index := list_index(path.names[-1])) is None:
        return 0
    container = value_at(metadata, Path(path.names[:-1], literal=False))
    return max(0, index - len(container)) if isinstance(container, list) else 0


def value_at(metadata: JsonObject, path: Path) -> JsonValue | Absent:
    """The value that *path* leads to, null included, or `ABSENT`."""
    here: JsonValue | Absent = metadata
    for name in path.names:
        match here:
            case dict():
                here = here.get(name, ABSENT)
            case list():
                index = list_index(name)
                here = here[index] if index is not None and index < len(here) else ABSENT
            case _:
                return ABSENT
    return here


def _change(metadata: JsonObject, key: str, new: Callable[[JsonValue | Absent], JsonValue]) -> JsonObject:
    path = parse_key(key)
    if path.literal:
        name = path.names[0]
        return {**metadata, name: new(metadata.get(name, ABSENT))}
    changed = _stored(metadata, path.names, new(_current(metadata, path, key)))
    assert isinstance(changed, dict)
    return changed


def _delete(metadata: JsonObject, path: Path) -> JsonObject:
    return {name: value for name, value in metadata.items() if name != path.names[0]}


def _appended(current: JsonValue | Absent, item: JsonValue) -> JsonValue:
    if isinstance(current, list):
        return [*current, item]
    return [item] if isinstance(current, Absent) else [current, item]


def _removed(current: JsonValue | Absent, item: JsonValue) -> JsonValue:
    if not isinstance(current, list):
        raise CannotApply("there is no list to remove from")
    return [other for other in current if not equal(other, item)]


def _incremented(key: str, current: JsonValue | Absent, amount: float) -> JsonValue:
    start = current if isinstance(current, int | float) and not isinstance(current, bool) else 0
    total = float(start) + float(amount)
    if not math.isfinite(total):
        raise OutOfBounds(key, "the sum is too large for a double; send it as a string, or set a new value")
    return number(total)


def _current(metadata: JsonObject, path: Path, key: str) -> JsonValue | Absent:
    """
    The value a path leads to, `ABSENT` when only its last name is missing.

    Raises:
        CannotApply: A name on the way is missing or leads into a scalar, or a null lies anywhere on the path.
    """
    here: JsonValue | Absent = metadata
    for depth, name in enumerate(path.names, start=1):
        if isinstance(here, Absent):
            raise CannotApply(f"{_prefix(path, depth - 1)} does not exist; set it first")
        here = _member(here, name, key, is_last=depth == len(path.names))
        if here is None:
            raise CannotApply(
                f"{_prefix(path, depth)} is null, which a path cannot change; "
                "set the top-level key by its literal name"
            )
    return here


def _member(container: JsonValue, name: str, key: str, *, is_last: bool) -> JsonValue | Absent:
    if isinstance(container, dict):
        return container.get(name, ABSENT)
    if not isinstance(container, list):
        raise CannotApply(f"the value above {name!r} is neither an object nor a list")
    index = list_index(name)
    if index is None:
        if name == "length" and is_last:
            raise BadPath(key, "the length of a list cannot be set; use append and remove")
        raise CannotApply(f"{name!r} is not an index of the list")
    if index > LIST_INDEX_MAX:
        raise OutOfBounds(key, f"list index {name} is over {LIST_INDEX_MAX}", LIST_INDEX_MAX)
    return container[index] if index < len(container) else ABSENT


def _stored(container: JsonValue, names: tuple[str, ...], value: JsonValue) -> JsonValue:
    """A copy of *container* with *value* at the end of *names*; gaps in a list are filled with null."""
    if not names:
        return value
    name, *_ = names
    if isinstance(container, dict):
        return {**container, name: _stored(container.get(name), names[1:], value)}
    assert isinstance(container, list)
    index = int(name)
    items = [*container, *[None] * (index + 1 - len(container))]
    items[index] = _stored(items[index], names[1:], value)
    return items


def _prefix(path: Path, names: int) -> str:
    return str(Path(path.names[:names], literal=False))
