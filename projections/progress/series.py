"""
The reports of a run's progress in the order of its events, gathered in one pass.

When an event happened: an operation at its `occurredAt`, never later than it was recorded, else when it was
recorded. A step in the run's life has no clock of the caller's. So a step before which no operation came
happened at the latest when the first operation after it did, and one at the end is taken to have been recorded
as late as the last movement before it, or less late where a later operation shows less. Within one series time
never goes backwards.
"""

import math
from array import array
from collections.abc import Iterator
from typing import NamedTuple

from projections.events import Event, StoredBody
from projections.history import touches
from projections.operations import MetadataOperation
from projections.progress.keys import ProgressKey, Reading
from projections.times import Microseconds
from projections.values import JsonObject

ULPS = 4 * 2.0**-52  # relative; numbers nearer to each other than this differ by the rounding of a sum only


class Occurrence(NamedTuple):
    """
    When an event happened.

    Attributes:
        at: The moment.
        late: Microseconds that passed until it was recorded; of no meaning for a step.
        is_step: A step in the run's life, whose moment is only known not to be later.
    """

    at: Microseconds
    late: Microseconds
    is_step: bool


def occurrence(event: Event) -> Occurrence:
    """When *event* happened, by its own account and no later than it was recorded."""
    if not isinstance(event.body, MetadataOperation):
        return Occurrence(event.recorded_at, 0, is_step=True)
    at = event.recorded_at if event.occurred_at is None else min(event.occurred_at, event.recorded_at)
    return Occurrence(at, event.recorded_at - at, is_step=False)


class Row(NamedTuple):
    """
    A report that changed what a progress key says; the first one is where it began.

    Attributes:
        at: When it happened.
        version: The run's version with it.
        value: The number at the key.
        total: What it counts towards, NaN where unknown.
        actor: Who made it, None for what was carried over from an earlier attempt.
        attempt: The attempt that made it.
        touches: How many reports after it, and before the next row, said the same again.
    """

    at: Microseconds
    version: int
    value: float
    total: float
    actor: str | None
    attempt: int
    touches: int


class Touch(NamedTuple):
    """A report that said the same again."""

    at: Microseconds
    version: int
    actor: str


class Pause(NamedTuple):
    """A time in which nothing ran: after one attempt ended and before the next began."""

    since: Microseconds
    until: Microseconds


class Series:
    """
    What one progress key said.

    Args:
        key: The key.
        order: How many keys were found before it.

    Attributes:
        top: The largest value that it ever had, in any attempt.
        last_touch: The last report that changed nothing.
        lost: The event that took the number away, None while there is one.
        pauses: Times in which nothing ran.
    """

    def __init__(self, key: ProgressKey, order: int) -> None:
        self.order = order
        self.follow(key)
        self.top = -math.inf
        self.lost: Touch | None = None
        self.last_touch: Touch | None = None
        self.pauses: list[Pause] = []
        self._late: Microseconds | None = None
        self._is_soft = False  # The first row happened at the latest when it says.
        self._is_carried = False  # The first row is what the attempt found.
        self._is_pause_soft = False
        self._is_started = False
        self._clear_rows()

    def __len__(self) -> int:
        return len(self._at)

    def rows(self) -> Iterator[Row]:
        """The rows in order."""
        columns = (self._at, self._version, self._value, self._total, self._actor, self._attempt, self._touches)
        for at, version, value, total, actor, attempt, same in zip(*columns, strict=True):
            yield Row(at, version, value, total, None if actor < 0 else self._actors[actor], attempt, same)

    def follow(self, key: ProgressKey) -> None:
        """Take *key*, of the same path."""
        self.key = key
        self._paths = (key.path,) if key.total is None else (key.path, key.total)
        self._members = {path.names[0] for path in self._paths}

    @property
    def has_moved(self) -> bool:
        """Whether it had more than one value."""
        return any(value != self._value[0] for value in self._value[1:])

    def begin(self, event: Event, when: Occurrence, before: JsonObject) -> None:
        """Forget what was said: an attempt begins, with what the metadata held *before*."""
        self._clear()
        carried = self.key.read(before)
        if carried is not None:
            self._append(when.at, event.version - 1, carried, -1, event.attempt)
            self._is_soft = when.is_step
            self._is_carried = True

    def note(self, reading: Reading) -> None:
        """Take the largest value from a reading of any attempt."""
        self.top = max(self.top, reading.value)

    def hear(self, when: Occurrence) -> None:
        """An operation on any key: it bounds when the steps around it happened."""
        if self._is_soft and self._at:
            self._at[0] = min(self._at[0], when.at)
        if self.pauses and self._is_pause_soft:
            since, until = self.pauses[-1]
            self.pauses[-1] = Pause(since, max(since, min(until, when.at)))
        self._is_soft = self._is_pause_soft = False
        self._late = when.late if self._late is None else min(self._late, when.late)

    def is_about(self, member: str | None, body: StoredBody, before: JsonObject, after: JsonObject) -> bool:
        """Whether an event, which can change this *member* of the metadata only, is about the key or its total."""
        if member is not None and member not in self._members:
            return False
        return any(touches(path, body, before, after) for path in self._paths)

    def report(self, event: Event, when: Occurrence, reading: Reading | None) -> None:
        """An event about the key, by the attempt that is looked at, and what the key says after it."""
        if reading is None:
            if self._at and self.lost is None:
                self.lost = Touch(max(when.at, self._at[-1]), event.version, event.actor)
            return
        self.lost = None
        if self._is_carried or not self._at:
            self._clear_rows()
            self._is_soft = when.is_step
        elif self._says(reading):
            self._touches[-1] += 1
            self.last_touch = Touch(max(when.at, self._at[-1]), event.version, event.actor)
            return
        at = max(when.at, self._at[-1]) if self._at else when.at
        moves = not self._at or not _same(reading.value, self._value[-1])
        if not moves:
            reading = reading._replace(value=self._value[-1])
        self._append(at, event.version, reading, self._actor_index(event.actor), event.attempt)
        if moves and not when.is_step:
            self._late = when.late

    def start(self, at: Microseconds) -> None:
        """The run begins to execute: what was said while it waited counts from now."""
        if len(self._at) == 1 and not self._is_started:
            self._at[0] = max(self._at[0], at)
            self._is_soft = True
        self._is_started = True

    def pause(self, since: Microseconds, until: Microseconds) -> None:
        """Nothing ran in this time."""
        if self.pauses:
            since = max(since, self.pauses[-1].until)
        self.pauses.append(Pause(since, max(since, until)))
        self._is_pause_soft = True

    def ended(self, recorded_at: Microseconds, seen: Microseconds | None) -> Microseconds:
        """When a step that was recorded at *recorded_at* happened, behind an operation at *seen*."""
        return max(self.last_at, recorded_at - (self._late or 0), recorded_at if seen is None else seen)

    @property
    def last_at(self) -> Microseconds:
        """When the last row happened."""
        return self._at[-1] if self._at else -(2**62)

    def _clear(self) -> None:
        self._clear_rows()
        self.lost = None
        self.pauses = []
        self._late = None
        self._is_pause_soft = self._is_started = False

    def _clear_rows(self) -> None:
        # Columns of machine numbers: a run may have hundreds of thousands of reports.
        self._at = array("q")
        self._version = array("q")
        self._value = array("d")
        self._total = array("d")
        self._actor = array("q")
        self._attempt = array("q")
        self._touches = array("q")
        self._actors: list[str] = []
        self._actor_places: dict[str, int] = {}
        self.last_touch = None
        self._is_soft = self._is_carried = False

    def _append(self, at: Microseconds, version: int, reading: Reading, actor: int, attempt: int) -> None:
        self._at.append(at)
        self._version.append(version)
        self._value.append(reading.value)
        self._total.append(reading.total)
        self._actor.append(actor)
        self._attempt.append(attempt)
        self._touches.append(0)

    def _says(self, reading: Reading) -> bool:
        """Whether the last row says the same."""
        return _same(reading.value, self._value[-1]) and (
            math.isnan(reading.total) or _same(reading.total, self._total[-1])
        )

    def _actor_index(self, actor: str) -> int:
        place = self._actor_places.setdefault(actor, len(self._actors))
        if place == len(self._actors):
            self._actors.append(actor)
        return place


def _same(left: float, right: float) -> bool:
    return abs(left - right) <= ULPS * max(abs(left), abs(right))
