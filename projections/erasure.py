"""
What an erasure takes out of the events of a run.

Everything that ever stood at a path is erased, wherever it came from: an operation at the path or below it loses
its value, one above it loses that part of its value. Items of a list move when another one is removed; so each
value is followed back to the event that brought it, whatever its place was then.

Past states folded from the redacted events lack what was erased: a member of an object is absent, an item of a
list is null, so that its neighbours keep their places. Nothing else changes in them, but for a list or object that
came to the path from elsewhere: it is gone from its earlier places too, with what it held there.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from pydantic import JsonValue

from projections import values
from projections.events import Event, Redacted, RunCreated
from projections.history import replay
from projections.metadata import ABSENT, Absent, CannotApply, apply, value_at
from projections.operations import (
    AppendItem,
    Delete,
    Increment,
    MetadataOperation,
    Operation,
    RemoveItem,
    Set,
    Update,
)
from projections.paths import Path, list_index, literal, parse_key
from projections.values import JsonObject, equal

_Names = tuple[str, ...]


@dataclass(slots=True)
class Cut:
    """
    What one event loses.

    Attributes:
        places: Names that lead, from the value or metadata it holds, to what is erased; empty names are the value.
            True where null has to stay.
        key: What its key becomes when it loses the whole value, None where it keeps the key.
        whole: It loses its value, and does nothing any more.
        blank: It loses its value and leaves null behind.
        removed: Places of the list that it took items from, in exchange for the item.
    """

    places: dict[_Names, bool] = field(default_factory=dict)
    key: str | None = None
    whole: bool = False
    blank: bool = False
    removed: tuple[int, ...] | None = None


def find_cuts(path: Path, events: Iterable[Event]) -> dict[int, Cut]:
    """
    What the events of a run lose when *path* is erased, by version; those that hold nothing of it are left out.

    Args:
        path: What to erase.
        events: All events of the run, in order.
    """
    origins = _Origins(path)
    for event, before, after in replay({}, events):
        origins.follow(event, before, after)
    return origins.cuts


def redact(event_type: str, data: str, cut: Cut) -> str:
    """The redacted copy of an event's data, marked as one by its member `erased`."""
    members: dict[str, Any] = json.loads(data)
    if cut.whole or cut.blank or cut.removed is not None:
        left: dict[str, Any] = {"key": members["key"] if cut.key is None else cut.key, "erased": True}
        if cut.blank:
            left["blank"] = True
        elif cut.removed is not None and not cut.whole:
            left["removed"] = [*cut.removed]
        return values.dump(left)
    name = "metadata" if event_type == RunCreated.event_type else "value"
    members[name] = _without(members[name], cut.places)
    members["erased"] = True
    return values.dump(members)


def erased_key(path: Path, key: str) -> str | None:
    """*key* cut short to *path* where it leads below it, None where it does not."""
    names = _names(key)
    below = len(names) > len(path.names) and names[: len(path.names)] == path.names
    return str(path) if below else None


class _Node:
    """
    A value of the current metadata, and where it came from.

    Attributes:
        origin: The version of the event that brought it and its place in that event's value; the place None stands
            for a list that the event itself made. None where no event holds the value.
        members: Those of an object.
        items: Those of a list.
        earlier: The value that this one was counted up from, or was put into a list with.
        is_erased: It stood at the path, or within what did.
    """

    __slots__ = ("earlier", "is_erased", "items", "members", "origin")

    def __init__(self, origin: tuple[int, _Names | None] | None = None) -> None:
        self.origin = origin
        self.members: dict[str, _Node] | None = None
        self.items: list[_Node] | None = None
        self.earlier: _Node | None = None
        self.is_erased = False


class _Origins:
    """Follows every value of the metadata from the event that brought it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._root = _Node()
        self._root.members = {}
        self.cuts: dict[int, Cut] = {}

    def follow(self, event: Event, before: JsonObject, after: JsonObject) -> None:
        """Take one more event, with the metadata before and after it."""
        body, version = event.body, event.version
        match body:
            case RunCreated():
                self._root = _grown(body.metadata, version, ())
                self._erase_what_is_there()
            case Update(value=value):
                self._root = _grown(value, version, ())
                self._erase_what_is_there()
            case Delete(key=key):
                if self._root.members is not None:
                    self._root.members.pop(literal(key).names[0], None)
            case Redacted():
                self._follow_redacted(body, version, before, after)
            case MetadataOperation():
                self._follow_operation(body, version, before)
            case _:
                pass

    def _follow_operation(
        self, operation: Set | AppendItem | RemoveItem | Increment, version: int, before: JsonObject
    ) -> None:
        path = parse_key(operation.key)
        if _applies(before, operation):
            current = value_at(before, path)
            if isinstance(operation, RemoveItem):
                assert isinstance(current, list)
                removed = tuple(n for n, item in enumerate(current) if equal(item, operation.value))
                self._take_out(path, removed, version, operation.value)
            else:
                self._put(path.names, _brought(operation, version, current, self._node(path.names)))
        shared = len(self._path.names)
        if path.names[:shared] == self._path.names:
            cut = self._cut(version)
            cut.whole = True
            if len(path.names) > shared:
                cut.key = str(self._path)
            elif not isinstance(operation, RemoveItem):
                # Without its own null the list would be shorter, and what comes later would land elsewhere.
                cut.blank = isinstance(value_at(before, Path(path.names[:-1], literal=False)), list)
            node = self._node(path.names)
            self._erase(node, keep=False)
            if isinstance(operation, AppendItem) and node is not None and node.items:
                self._erase(node.items[-1], keep=True)
        elif path.overlaps(self._path):
            self._erase_what_is_there()

    def _follow_redacted(self, body: Redacted, version: int, before: JsonObject, after: JsonObject) -> None:
        """An operation that an earlier erasure redacted already."""
        path = parse_key(body.key)
        if body.removed and isinstance(value_at(before, path), list):
            self._drop(path, body.removed)
        elif body.blank and before is not after:
            self._put(path.names, _Node())
        if path.overlaps(self._path):
            self._erase_what_is_there()
        shortened = erased_key(self._path, body.key)
        if shortened is not None:
            cut = self._cut(version)
            cut.whole, cut.key = True, shortened

    def _take_out(self, path: Path, removed: tuple[int, ...], version: int, item: JsonValue) -> None:
        """
        Follow a remove. The item it names is a copy of those it took, and goes with any of them.

        Where the path leads into the list itself, an item that once stood at the path may be named without being
        taken; so there every remove gives up its item.
        """
        nodes = [node for node in self._drop(path, removed) if _holds_erased(node)]
        names = self._path.names
        is_above = len(path.names) < len(names) and names[: len(path.names)] == path.names
        rest = names[len(path.names) :]
        if nodes or (is_above and (list_index(rest[0]) is not None or _holds(item, rest))):
            self._cut(version).removed = removed

    def _drop(self, path: Path, removed: tuple[int, ...]) -> list[_Node]:
        node = self._node(path.names)
        if node is None or node.items is None:
            return []
        gone = set(removed)
        dropped = [item for place, item in enumerate(node.items) if place in gone]
        node.items = [item for place, item in enumerate(node.items) if place not in gone]
        return dropped

    def _node(self, names: _Names) -> _Node | None:
        """The value that *names* lead to."""
        node: _Node | None = self._root
        for name in names:
            if node is None:
                return None
            if node.members is not None:
                node = node.members.get(name)
            elif node.items is not None:
                index = list_index(name)
                node = node.items[index] if index is not None and index < len(node.items) else None
            else:
                return None
        return node

    def _put(self, names: _Names, new: _Node) -> None:
        container = self._node(names[:-1])
        assert container is not None
        if container.members is not None:
            container.members[names[-1]] = new
        else:
            assert container.items is not None
            index = int(names[-1])
            container.items += [_Node() for _ in range(index + 1 - len(container.items))]
            container.items[index] = new

    def _erase_what_is_there(self) -> None:
        container = self._node(self._path.names[:-1])
        self._erase(self._node(self._path.names), keep=container is not None and container.items is not None)

    def _erase(self, node: _Node | None, *, keep: bool) -> None:
        """
        Note for a value, and all within it, that the events which brought them lose them.

        A member can be left out where it is one at the path already; what came to be an item leaves null behind.
        """
        waiting = [] if node is None or node.is_erased else [node]
        while waiting:
            here = waiting.pop()
            here.is_erased = True
            if here.origin is not None:
                version, place = here.origin
                cut = self._cut(version)
                if place is not None:
                    cut.places[place] = keep
                elif not cut.whole:
                    cut.blank = True
            if here.earlier is not None and not here.earlier.is_erased:
                waiting.append(here.earlier)
            waiting += [inner for inner in _within(here) if not inner.is_erased]

    def _cut(self, version: int) -> Cut:
        return self.cuts.setdefault(version, Cut())


def _brought(
    operation: Set | AppendItem | Increment, version: int, current: JsonValue | Absent, old: _Node | None
) -> _Node:
    """The value that an operation leaves at its key."""
    match operation:
        case Set(value=value):
            return _grown(value, version, None)
        case AppendItem(value=value):
            item = _grown(value, version, ())
            if isinstance(current, list) and old is not None and old.items is not None:
                old.items.append(item)
                return old
            made = _Node((version, None))
            made.items = [item] if isinstance(current, Absent) else [old or _Node(), item]
            return made
        case Increment():
            sum_ = _Node((version, None))
            if isinstance(current, int | float) and not isinstance(current, bool):
                sum_.earlier = old
            return sum_


def _grown(value: JsonValue, version: int, place: _Names | None) -> _Node:
    """The nodes of a value that an event brought; at the top, None says that the event is nothing without it."""
    node = _Node((version, place))
    inside = place or ()
    if isinstance(value, dict):
        node.members = {name: _grown(member, version, (*inside, name)) for name, member in value.items()}
    elif isinstance(value, list):
        node.items = [_grown(item, version, (*inside, str(index))) for index, item in enumerate(value)]
    return node


def _applies(metadata: JsonObject, operation: Operation) -> bool:
    try:
        apply(metadata, operation)
    except CannotApply:
        return False
    return True


def _within(node: _Node) -> Iterable[_Node]:
    return node.members.values() if node.members is not None else node.items or ()


def _holds_erased(node: _Node) -> bool:
    waiting = [node]
    while waiting:
        here = waiting.pop()
        if here.is_erased:
            return True
        waiting += _within(here)
    return False


def _holds(item: JsonValue, names: _Names) -> bool:
    return isinstance(item, dict) and value_at(item, Path(names, literal=False)) is not ABSENT


def _without(value: JsonValue, places: dict[_Names, bool]) -> JsonValue:
    """A copy of *value* without what stands at *places*: null, or a member that is left out."""
    if () in places:
        return None
    first: dict[str, dict[_Names, bool]] = {}
    for place, keep in places.items():
        first.setdefault(place[0], {})[place[1:]] = keep
    if isinstance(value, dict):
        return {
            name: _without(member, first.get(name, {}))
            for name, member in value.items()
            if first.get(name, {}).get((), True)
        }
    if isinstance(value, list):
        return [_without(item, first.get(str(index), {})) for index, item in enumerate(value)]
    return value


def _names(key: str) -> _Names:
    """The names of a key that may be one that no operation can use."""
    return tuple(name for name in key[2:].split(".") if name) if key.startswith("$.") else (key,)
