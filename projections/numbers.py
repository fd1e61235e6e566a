"""The numbers that stood at one path of a run's metadata, for a chart."""

from array import array
from collections.abc import Iterator
from math import ceil
from typing import NamedTuple

from pydantic import JsonValue

from projections.events import Event
from projections.history import metadata_after
from projections.metadata import Absent, value_at
from projections.paths import Path, key_of
from projections.times import Microseconds
from projections.values import JsonObject

NUMBER_MAX = 1e300  # differences of larger numbers would overflow


class NumberAt(NamedTuple):
    """
    A number that stood at a path from a moment on.

    Attributes:
        at: When the event that put it there was recorded.
        version: Of that event.
        value: The number.
    """

    at: Microseconds
    version: int
    value: float


class NumberFold:
    """
    Gathers the changes of a number, from a run's events given in order: 24 bytes a change.

    Args:
        path: Where the number stands.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.version = 0
        self._metadata: JsonObject = {}
        self._at = array("q")
        self._versions = array("q")
        self._values = array("d")

    def add(self, event: Event) -> None:
        """Take the next event of the run."""
        self._metadata = metadata_after(self._metadata, event.body)
        self.version = event.version
        number = as_number(value_at(self._metadata, self.path))
        if number is not None and not (self._values and self._values[-1] == number):
            self._at.append(event.recorded_at)
            self._versions.append(event.version)
            self._values.append(number)

    def __len__(self) -> int:
        """How many changes there were."""
        return len(self._values)

    def changes(self, count_max: int) -> list[NumberAt]:
        """
        The changes, the first and the last among them, at most about *count_max*: of more, each stretch of
        neighbours is stood for by its lowest, its highest and its last.
        """
        count = len(self)
        if count <= count_max:
            return [self._change(place) for place in range(count)]
        stretch = ceil(3 * count / count_max)
        places = {0}
        for start in range(0, count, stretch):
            near = range(start, min(start + stretch, count))
            places |= {
                min(near, key=self._values.__getitem__),
                max(near, key=self._values.__getitem__),
                near[-1],
            }
        return [self._change(place) for place in sorted(places)]

    def _change(self, place: int) -> NumberAt:
        return NumberAt(self._at[place], self._versions[place], self._values[place])


def as_number(value: JsonValue | Absent) -> float | None:
    """A number that a chart can show, None for everything else."""
    if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= NUMBER_MAX:
        return float(value)
    return None


def numeric_paths(metadata: JsonObject, count_max: int) -> list[str]:
    """The keys of the numbers in *metadata*, as an operation names them, the first *count_max* of them."""
    found: list[str] = []
    for key in _keys_of_numbers(metadata, ()):
        if len(found) == count_max:
            break
        found.append(key)
    return found


def _keys_of_numbers(value: JsonValue, names: tuple[str, ...]) -> Iterator[str]:
    if isinstance(value, dict):
        for name, member in value.items():
            yield from _keys_of_numbers(member, (*names, name))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _keys_of_numbers(item, (*names, str(index)))
    elif as_number(value) is not None and (key := key_of(names)) is not None:
        yield key
