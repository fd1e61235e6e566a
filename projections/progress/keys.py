"""
Which key of the metadata tells how far a run is, and the number it holds.

    progress                    at the top
    *.progress                  in any object: $.status.progress, or a literal key such as job.progress
    percent, percentage         at the top, then in any object
    {n, total} and its like     an object with one of CURRENT_NAMES and a total, the top of the metadata included

Earlier lines win, then the key nearer to the top, then the one that came first. Lists are not searched; what
lies in one can be named. A key that is named may lead to the number itself or to an object that holds one of the
above.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple, TypeGuard

from projections.errors import BadPath
from projections.events import Redacted, RunCreated, StoredBody
from projections.metadata import value_at
from projections.operations import Delete, MetadataOperation, Update
from projections.paths import FORBIDDEN_LITERAL, Path, literal, parse_key
from projections.values import JsonObject

PROGRESS = "progress"
PERCENTS = ("percent", "percentage")
CURRENT_NAMES = ("current", "completed", "done", "processed", "finished", "step", "n", "count")
TOTAL = "total"
LOOKED_FOR = (PROGRESS, f"*.{PROGRESS}", *PERCENTS, *(f"{{{name}, {TOTAL}}}" for name in CURRENT_NAMES))

NUMBER_MAX = 1e15  # no work counts further; differences and quotients of larger numbers would overflow
TOTAL_MIN = 1e-9  # a total below this is none: nothing is to be done


class Reading(NamedTuple):
    """
    What a progress key says.

    Attributes:
        value: The number at the key.
        total: What it counts towards, NaN where the metadata names no total.
    """

    value: float
    total: float


@dataclass(frozen=True, slots=True)
class ProgressKey:
    """
    A key that may tell a run's progress.

    Attributes:
        path: Where its number is.
        total: Where the total is that the number counts towards, None for a number that stands for itself.
        kind: Which line of the list above found it, counted from 0; -1 for the number that the caller named.
    """

    path: Path
    total: Path | None
    kind: int

    def read(self, metadata: JsonObject) -> Reading | None:
        """The number and its total, None where there is no number to read."""
        value = _number_at(metadata, self.path)
        if value is None:
            return None
        total = None if self.total is None else _number_at(metadata, self.total)
        return Reading(value, total if total is not None and total >= TOTAL_MIN else math.nan)


def changed_member(body: StoredBody) -> str | None:
    """The one top-level member of the metadata that an event can change, None where it may be any."""
    match body:
        case RunCreated() | Update():
            return None
        case Delete(key=key):
            return key
        case MetadataOperation() | Redacted():
            return parse_key(body.key).names[0]
        case _:
            return ""  # No operation; a member of this name matters to nobody.


def keys_in(metadata: JsonObject, body: StoredBody, named: Path | None = None) -> Iterator[ProgressKey]:
    """
    The progress keys in what an event wrote.

    Args:
        metadata: As it stands after the event.
        body: What the event did.
        named: Look only at this key, and inside of it.
    """
    if named is not None:
        yield from _named(metadata, named)
        return
    match body:
        case RunCreated() | Update():
            yield from _inside(metadata, ())
        case Delete():
            pass
        case MetadataOperation():
            names = parse_key(body.key).names
            holder = _object_at(metadata, names[:-1])
            if holder is not None:
                yield from _members(holder, names[:-1], names[-1:])
                if isinstance(inner := holder.get(names[-1]), dict):
                    yield from _inside(inner, names)
        case _:
            pass


def _named(metadata: JsonObject, named: Path) -> Iterator[ProgressKey]:
    found = value_at(metadata, named)
    if isinstance(found, dict):
        yield from _inside(found, named.names)
    elif _number_at(metadata, named) is not None:
        yield ProgressKey(named, _total_beside(named.names), kind=-1)


def _inside(holder: JsonObject, names: tuple[str, ...]) -> Iterator[ProgressKey]:
    """The keys in an object and in the objects it holds."""
    yield from _members(holder, names, holder)
    for name, member in holder.items():
        if isinstance(member, dict):
            yield from _inside(member, (*names, name))


def _members(holder: JsonObject, names: tuple[str, ...], looked_at: Iterable[str]) -> Iterator[ProgressKey]:
    """The keys among some members of the object at *names*, and the pair that the object may hold."""
    for name in looked_at:
        kind = _kind(names, name)
        if kind is not None and _is_number(holder.get(name)) and (path := _path((*names, name))) is not None:
            yield ProgressKey(path, None, kind)
    if _is_number(holder.get(TOTAL)):
        for name in CURRENT_NAMES:
            if _is_number(holder.get(name)) and (path := _path((*names, name))) is not None:
                yield ProgressKey(path, _total_beside(path.names), _kind_of_pair(names))
                return


def _kind(names: tuple[str, ...], name: str) -> int | None:
    if name == PROGRESS:
        return 1 if names else 0
    if not names and name.endswith(f".{PROGRESS}"):
        return 1
    return 2 if name in PERCENTS else None


def _kind_of_pair(names: tuple[str, ...]) -> int:
    """A pair is the last resort, unless the object that holds it is called progress."""
    kind = _kind(names[:-1], names[-1]) if names else None
    return kind if kind in {0, 1} else 3


def _total_beside(names: tuple[str, ...]) -> Path | None:
    return _path((*names[:-1], TOTAL)) if names[-1] in CURRENT_NAMES else None


@lru_cache(maxsize=1024)
def _path(names: tuple[str, ...]) -> Path | None:
    """The path as a user would write it, None where no key can say it."""
    if len(names) == 1:
        plain = names[0] != FORBIDDEN_LITERAL and not names[0].startswith("$.")
        return literal(names[0]) if plain else None
    try:
        path = parse_key("$." + ".".join(names))
    except BadPath:
        return None
    return path if path.names == names else None


def _object_at(metadata: JsonObject, names: tuple[str, ...]) -> JsonObject | None:
    """The object at the end of *names*, which lead through objects only."""
    here = metadata
    for name in names:
        inner = here.get(name)
        if not isinstance(inner, dict):
            return None
        here = inner
    return here


def _number_at(metadata: JsonObject, path: Path) -> float | None:
    found = value_at(metadata, path)
    return float(found) if _is_number(found) else None


def _is_number(value: object) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= NUMBER_MAX
