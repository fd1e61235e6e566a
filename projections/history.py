"""Read models folded from a stretch of a run's events."""

import operator
from collections.abc import Iterable, Iterator
from functools import partial
from itertools import zip_longest
from typing import NamedTuple

from pydantic import JsonValue

from projections import values
from projections.events import Event, Redacted, RunCreated, RunErased, StoredBody, is_operation
from projections.metadata import ABSENT, Absent, blank, evolve, remove_places, value_at
from projections.operations import Delete, MetadataOperation, Update
from projections.paths import Path, literal, parse_key
from projections.size import size_bytes
from projections.values import JsonObject, equal


class Effect(NamedTuple):
    """
    What an event did to the value that it names.

    Attributes:
        before: The value before it, `ABSENT` where there was none.
        after: The value after it, `ABSENT` where there is none.
    """

    before: JsonValue | Absent
    after: JsonValue | Absent


def replay(metadata: JsonObject, events: Iterable[Event]) -> Iterator[tuple[Event, JsonObject, JsonObject]]:
    """Each event with the metadata before and after it, beginning from *metadata*."""
    for event in events:
        after = metadata_after(metadata, event.body)
        yield event, metadata, after
        metadata = after


def metadata_after(metadata: JsonObject, body: StoredBody) -> JsonObject:
    """One step of the fold over all kinds of events; most steps of a run's life leave its metadata alone."""
    if is_operation(body):  # As most are.
        return evolve(metadata, body)
    match body:
        case RunCreated():
            return body.metadata
        case Redacted(key=key, removed=removed):
            return blank(metadata, key) if body.blank else remove_places(metadata, key, removed)
        case _:
            return metadata


def touches(path: Path, body: StoredBody, before: JsonObject, after: JsonObject) -> bool:
    """
    Whether an event was about the value at *path*: a change to it, to what holds it, or to what it holds.

    An operation that names such a key counts even if the value stayed the same; what replaces the whole object
    counts only if it changed that value.
    """
    match body:
        case RunCreated() | Update():
            return not _same(value_at(before, path), value_at(after, path))
        case RunErased(path=names):
            return path.overlaps(Path(names, literal=False))
        case MetadataOperation() | Redacted():
            named = named_path(body)
            if named is None:
                return False
            # A far list index fills the gap with nulls, which changes items that the key does not name.
            return path.overlaps(named) or not _same(value_at(before, path), value_at(after, path))
        case _:
            return False


def effect(body: StoredBody, before: JsonObject, after: JsonObject) -> Effect:
    """
    What an event did: to the value that its key names, or for `metadata.updated` to the top-level members that it
    changed, as objects of those. Creation has only an after, all of the first metadata; other events have neither.
    """
    if is_operation(body) and (named := named_path(body)) is not None:  # As most are.
        return Effect(value_at(before, named), value_at(after, named))
    match body:
        case RunCreated():
            return Effect(ABSENT, after)
        case Update():
            changed = {
                name
                for name in {**before, **after}
                if not _same(before.get(name, ABSENT), after.get(name, ABSENT))
            }
            return Effect(_only(before, changed), _only(after, changed))
        case Redacted() if (path := named_path(body)) is not None:
            return Effect(value_at(before, path), value_at(after, path))
        case _:
            return Effect(ABSENT, ABSENT)


def named_path(operation: MetadataOperation | Redacted) -> Path | None:
    """The path that an operation's key names; None for `update`, and where an erasure took the key."""
    key: str | None = getattr(operation, "key", None)
    if key is None:
        return None
    is_literal = not isinstance(operation, Redacted) and operation.event_type == Delete.event_type
    return literal(key) if is_literal else parse_key(key)


def grown_bytes(before: JsonValue | Absent, after: JsonValue | Absent) -> int:
    """
    How many bytes longer the compact JSON of *after* is than that of *before*; something absent takes none.

    Cheap for two states of a run, which share what did not change: only the rest is written down.
    """
    if before is after:
        return 0
    if isinstance(before, dict) and isinstance(after, dict):
        return _grown_members(before, after)
    if isinstance(before, list) and isinstance(after, list):
        return _grown_items(before, after)
    return _bytes(after) - _bytes(before)


def _grown_members(before: JsonObject, after: JsonObject) -> int:
    grown = _commas(after) - _commas(before)
    for name, value in before.items():
        if name not in after:
            grown -= _bytes(name) + 1 + _bytes(value)
    for name, value in after.items():
        if name not in before:
            grown += _bytes(name) + 1 + _bytes(value)
        elif value is not before[name]:
            grown += grown_bytes(before[name], value)
    return grown


def _grown_items(before: list[JsonValue], after: list[JsonValue]) -> int:
    same = partial(map, operator.is_)
    start = next((place for place, is_same in enumerate(same(before, after)) if not is_same), None)
    if start is None:
        start = min(len(before), len(after))
    old, new = before[start:], after[start:]
    end = next((place for place, is_same in enumerate(same(old[::-1], new[::-1])) if not is_same), None)
    if end is None:
        end = min(len(old), len(new))
    pairs = zip_longest(old[: len(old) - end], new[: len(new) - end], fillvalue=ABSENT)
    return _commas(after) - _commas(before) + sum(grown_bytes(one, other) for one, other in pairs)


def _commas(container: JsonObject | list[JsonValue]) -> int:
    return max(len(container) - 1, 0)


def _only(metadata: JsonObject, names: set[str]) -> JsonObject:
    return {name: value for name, value in metadata.items() if name in names}


def _bytes(value: JsonValue | Absent) -> int:
    return 0 if isinstance(value, Absent) else size_bytes(values.dump(value))


def _same(left: object, right: object) -> bool:
    # States share what did not change, so most comparisons end here and none descends without need.
    if left is right or isinstance(left, Absent) or isinstance(right, Absent):
        return left is right
    return equal(left, right)  # type: ignore[arg-type]  # Both are JSON values once neither is absent.
