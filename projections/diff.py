"""
What differs between two JSON values, as a JSON Patch: the add, remove and replace of RFC 6902, for a machine to
apply; or as changes with the value before and after, for a person to read.

Values are compared as the ledger compares them everywhere: true is not 1, 1 is 1.0, the order of members is
irrelevant. Applying the patch to the first value gives the second. It is short rather than the shortest possible:
items are moved past each other only within short stretches of a list, because the exact answer costs the product
of two lengths.
"""

import json
from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

from pydantic import JsonValue

from projections.metadata import ABSENT, Absent
from projections.values import JsonObject, equal

ALIGNED_CELLS_MAX = 4_096  # pairs of items that are compared to align two lists: some milliseconds

_Kind = Literal["add", "remove", "replace"]


class Change(NamedTuple):
    """
    One step from the first value to the second.

    Attributes:
        kind: The operation of RFC 6902.
        names: The names and list indexes that lead to the place, after the steps before this one were made.
        before: The value that was there; `ABSENT` for an add.
        after: The value that is there now; `ABSENT` for a remove.
    """

    kind: _Kind
    names: tuple[str, ...]
    before: JsonValue | Absent
    after: JsonValue | Absent

    @property
    def pointer(self) -> str:
        """The place as a JSON Pointer (RFC 6901); empty for the whole value."""
        return "".join(f"/{name.replace('~', '~0').replace('/', '~1')}" for name in self.names)

    def operation(self) -> JsonObject:
        """The step as an operation of a JSON Patch."""
        members: JsonObject = {"op": self.kind, "path": self.pointer}
        return members if isinstance(self.after, Absent) else {**members, "value": self.after}


def patch(before: JsonValue, after: JsonValue) -> list[JsonValue]:
    """The JSON Patch that makes *after* of *before*; empty when they are equal."""
    return [change.operation() for change in changes(before, after)]


def changes(before: JsonValue, after: JsonValue) -> list[Change]:
    """The steps that make *after* of *before*, to be made in this order."""
    return list(_between((), before, after))


def _between(names: tuple[str, ...], before: JsonValue, after: JsonValue) -> Iterator[Change]:
    if isinstance(before, dict) and isinstance(after, dict):
        yield from _members(names, before, after)
    elif isinstance(before, list) and isinstance(after, list):
        yield from _items(names, before, after)
    elif not equal(before, after):
        yield Change("replace", names, before, after)


def _members(names: tuple[str, ...], before: JsonObject, after: JsonObject) -> Iterator[Change]:
    for name, value in before.items():
        if name not in after:
            yield Change("remove", (*names, name), value, ABSENT)
    for name, value in after.items():
        if name not in before:
            yield Change("add", (*names, name), ABSENT, value)
        elif before[name] is not value:  # States of one run share what did not change.
            yield from _between((*names, name), before[name], value)


def _items(names: tuple[str, ...], before: list[JsonValue], after: list[JsonValue]) -> Iterator[Change]:
    """
    The steps between two lists, from the first item to the last.

    Every step is made on the list as the steps before it left it, whose items up to `place` are final.
    """
    start = _shared(before, after)
    end = _shared(before[start:][::-1], after[start:][::-1])
    old, new = before[start : len(before) - end], after[start : len(after) - end]
    place = start
    taken_old = taken_new = 0
    for kept_old, kept_new in [*_aligned(old, new), (len(old), len(new))]:
        gone, come = old[taken_old:kept_old], new[taken_new:kept_new]
        both = min(len(gone), len(come))
        for left, right in zip(gone, come, strict=False):
            yield from _between((*names, str(place)), left, right)
            place += 1
        for left in gone[both:]:
            yield Change("remove", (*names, str(place)), left, ABSENT)
        for right in come[both:]:
            yield Change("add", (*names, str(place)), ABSENT, right)
            place += 1
        place += 1  # The item that both lists hold here.
        taken_old, taken_new = kept_old + 1, kept_new + 1


def _shared(left: Sequence[JsonValue], right: Sequence[JsonValue]) -> int:
    """How many items the two have in common at their beginning."""
    count = 0
    for one, other in zip(left, right, strict=False):
        if one is not other and not equal(one, other):
            break
        count += 1
    return count


def _aligned(old: list[JsonValue], new: list[JsonValue]) -> list[tuple[int, int]]:
    """
    Places of items that both lists hold, in order: as many as possible, or none if that takes too long to find.

    Source: the longest common subsequence by dynamic programming.
    """
    if not old or not new or len(old) * len(new) > ALIGNED_CELLS_MAX:
        return []
    left, right = [_spelled(item) for item in old], [_spelled(item) for item in new]
    width = len(right) + 1
    longest = [[0] * width for _ in range(len(left) + 1)]  # of what follows the two places
    for i in range(len(left) - 1, -1, -1):
        row, below = longest[i], longest[i + 1]
        for j in range(len(right) - 1, -1, -1):
            row[j] = below[j + 1] + 1 if left[i] == right[j] else max(below[j], row[j + 1])
    found = []
    i = j = 0
    while i < len(left) and j < len(right):
        if left[i] == right[j]:
            found.append((i, j))
            i, j = i + 1, j + 1
        elif longest[i + 1][j] >= longest[i][j + 1]:
            i += 1
        else:
            j += 1
    return found


def _spelled(item: JsonValue) -> str:
    """Text that is the same for equal values only: members in one order, true and 1 told apart."""
    return json.dumps(item, sort_keys=True)
