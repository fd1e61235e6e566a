"""
Why a value is what it is: the events that touched it, in order, and which of them a later one wiped.

An event wipes what came before it when the value after it no longer depends on the value before: it was set anew,
or what holds it was, the whole object was replaced by another, or the value is gone. What only changed a part of
the value, or counted on from it, wipes nothing.
"""

from collections.abc import Sequence
from typing import NamedTuple

from pydantic import JsonValue

from projections.events import Event, RunCreated, StoredBody
from projections.history import named_path, touches
from projections.metadata import Absent, value_at
from projections.operations import AppendItem, Delete, Increment, MetadataOperation, Set, Update
from projections.paths import Path
from projections.values import JsonObject


class Step(NamedTuple):
    """
    One event that touched a value.

    Attributes:
        event: The event.
        value: The value after it, `ABSENT` where there is none.
        wipes: Nothing that came before it counts any more.
    """

    event: Event
    value: JsonValue | Absent
    wipes: bool


def step(path: Path, event: Event, before: JsonObject, after: JsonObject) -> Step | None:
    """What an event did to the value at *path*, given the metadata before and after it; None if nothing."""
    if not touches(path, event.body, before, after):
        return None
    old, new = value_at(before, path), value_at(after, path)
    return Step(event, new, isinstance(new, Absent) or _is_fresh(path, event.body, old))


def wiped_by(steps: Sequence[Step], later: int | None = None) -> list[int | None]:
    """
    For each of consecutive *steps* the version of the event that wiped it, None for what still counts.

    Args:
        steps: Oldest first.
        later: The version of the first event behind them that wipes, None if none does.
    """
    wipers: list[int | None] = []
    for one in reversed(steps):
        wipers.append(later)
        if one.wipes:
            later = one.event.version
    return wipers[::-1]


def _is_fresh(path: Path, body: StoredBody, before: JsonValue | Absent) -> bool:
    """Whether an event that touched the value at *path* made it without regard to what it was before."""
    match body:
        case RunCreated() | Update() | Delete():
            return True
        case MetadataOperation() if (named := named_path(body)) is not None:
            length = len(named.names)
            if not path.overlaps(named):
                return True  # A null that fills a gap in a list.
            if length > len(path.names):
                return False  # A part of the value.
            match body:
                case Set():
                    return True
                case Increment():
                    return length < len(path.names) or isinstance(before, bool | str | list | dict | Absent | None)
                case AppendItem():
                    return isinstance(before, Absent)
                case _:
                    return False
        case _:
            return False
