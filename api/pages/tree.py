"""Metadata as a tree to read: what each value is, how large, and the key that leads to it."""

from collections.abc import Iterable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from pydantic import JsonValue

from api.pages.words import json_text, shown
from projections import values
from projections.diff import changes
from projections.paths import key_of
from projections.size import size_bytes
from projections.values import JsonObject

NODES_MAX = 1_000  # values that one page shows; a tree of more is no longer read
MEMBERS_MAX = 200  # values of one object or list that are shown
OPEN_MEMBERS_MAX = 40  # values that an object or list has at most to be shown unfolded
OPEN_LEVELS = 3  # levels that are unfolded

Names = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Node:
    """
    One value.

    Attributes:
        name: Its name, or its place in a list.
        kind: object, list, string, number, boolean or null.
        key: What names it in a question or an operation; None where no key can.
        text: A plain value as JSON; empty for an object or a list.
        size_bytes: Bytes of its compact JSON.
        count: Values in an object or list.
        children: Those of them that are shown.
        is_changed: The version that is looked at gave it this value.
        is_open: It is shown unfolded.
    """

    name: str
    kind: str
    key: str | None
    text: str
    size_bytes: int
    count: int
    children: tuple["Node", ...]
    is_changed: bool
    is_open: bool

    @property
    def hidden(self) -> int:
        """How many of its values are not shown."""
        return self.count - len(self.children)


def tree_of(metadata: JsonObject, before: JsonObject | None) -> Node:
    """
    The tree of a run's metadata.

    Args:
        metadata: As it stands.
        before: As it stood in the version before; what differs is marked. None marks nothing.
    """
    marked = (
        frozenset()
        if before is None
        else frozenset(change.names for change in changes(before, metadata) if change.kind != "remove")
    )
    return _Grower(marked).node("", (), metadata)


class _Grower:
    def __init__(self, marked: AbstractSet[Names]) -> None:
        self._marked = marked
        self._left = NODES_MAX

    def node(self, name: str, names: Names, value: JsonValue) -> Node:
        self._left -= 1
        members: Iterable[tuple[str, JsonValue]] = ()
        count = 0
        if isinstance(value, dict):
            members, count = value.items(), len(value)
        elif isinstance(value, list):
            members, count = ((str(index), item) for index, item in enumerate(value)), len(value)
        children: list[Node] = []
        for member, inner in members:
            if len(children) == MEMBERS_MAX or self._left <= 0:
                break
            children.append(self.node(member, (*names, member), inner))
        plain = not isinstance(value, dict | list)
        return Node(
            name=shown(name) or '""',
            kind=kind_of(value),
            key=key_of(names) if names else None,
            text=json_text(value) if plain else "",
            size_bytes=size_bytes(values.dump(value)),
            count=count,
            children=tuple(children),
            is_changed=names in self._marked,
            is_open=count <= OPEN_MEMBERS_MAX and len(names) < OPEN_LEVELS,
        )


def kind_of(value: JsonValue) -> str:
    """What a value is, in JSON's words."""
    match value:
        case None:
            return "null"
        case bool():
            return "boolean"
        case str():
            return "string"
        case int() | float():
            return "number"
        case list():
            return "list"
        case dict():
            return "object"
