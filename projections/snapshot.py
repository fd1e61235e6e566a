"""Decisions: a snapshot, operations and a limit in; events, or a refusal, out. Nothing is written here."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from projections import values
from projections.errors import BadPath, KeySize, OutOfBounds, TooLarge
from projections.events import NewEvent, operation_event
from projections.metadata import CannotApply, apply, gap
from projections.operations import Delete, Operation, Update
from projections.size import DEPTH_MAX, LIST_GAPS_MAX, size_bytes
from projections.values import JsonObject

LARGEST_KEYS = 5  # keys named in an answer that says the metadata is too large


class Snapshot(NamedTuple):
    """
    Folded metadata and the version it stands for.

    Attributes:
        metadata: Canonical, never changed in place.
        version: Number of events that led to it; 0 with empty metadata is a run without events.
        text: The metadata as compact JSON.
        size_bytes: Bytes of UTF-8 of that text: the size that the limit is about.
    """

    metadata: JsonObject
    version: int
    text: str
    size_bytes: int

    @classmethod
    def of(cls, metadata: JsonObject, version: int) -> "Snapshot":
        """The snapshot of canonical *metadata* at *version*."""
        text = values.dump(metadata)
        return cls(metadata, version, text, size_bytes(text))

    @classmethod
    def load(cls, text: str, version: int, size: int) -> "Snapshot":
        """A snapshot from its stored text and size."""
        metadata = values.load(text)
        assert isinstance(metadata, dict)
        return cls(metadata, version, text, size)


@dataclass(frozen=True, slots=True)
class Unapplied:
    """
    An operation that had nothing to work on: no event, and no reason to refuse the others.

    Attributes:
        index: Place in the list of operations that was decided on.
        key: Its key.
        reason: Why it could not apply.
    """

    index: int
    key: str
    reason: str


class Decision(NamedTuple):
    """
    What is to be recorded.

    Attributes:
        events: One for each operation that applied, in order.
        unapplied: The operations that did not.
        snapshot: The metadata after the events.
    """

    events: tuple[NewEvent, ...]
    unapplied: tuple[Unapplied, ...]
    snapshot: Snapshot


def decide(snapshot: Snapshot, operations: Sequence[Operation], metadata_bytes_max: int) -> Decision:
    """
    Decide what *operations* do to *snapshot*: all of them, or a refusal that says which one is wrong.

    The limit holds for the result of the whole list and for each operation's own value; the metadata between two
    operations may be larger.

    Raises:
        TooLarge: The result or one value is over *metadata_bytes_max*.
        BadPath: A key that no operation may use.
        OutOfBounds: A result past a bound other than size.
    """
    metadata = snapshot.metadata
    events: list[NewEvent] = []
    unapplied: list[Unapplied] = []
    gaps = 0  # nulls filled in so far: they take memory before the size of the result is known
    for index, operation in enumerate(operations):
        try:
            filled = gap(metadata, operation)
            metadata = apply(metadata, operation)
        except CannotApply as reason:
            unapplied.append(Unapplied(index, getattr(operation, "key", ""), str(reason)))
        except (BadPath, OutOfBounds) as refusal:
            refusal.index = index
            raise
        else:
            gaps += filled
            if gaps > LIST_GAPS_MAX:
                text = f"one request may fill in at most {LIST_GAPS_MAX:,} nulls below list indexes, here {gaps:,}"
                raise OutOfBounds(getattr(operation, "key", None), text, LIST_GAPS_MAX, index)
            event = operation_event(operation)
            # The data holds the value and little else, so most values need not be written a second time.
            if len(event.data) * 4 > metadata_bytes_max:
                _check_value(operation, index, metadata_bytes_max)
            events.append(event)
    if not events:
        return Decision((), tuple(unapplied), snapshot)
    after = Snapshot.of(metadata, snapshot.version + len(events))
    check(after, metadata_bytes_max)
    return Decision(tuple(events), tuple(unapplied), after)


def check(snapshot: Snapshot, metadata_bytes_max: int) -> None:
    """
    Hold metadata against its bounds.

    Raises:
        TooLarge: Over *metadata_bytes_max*.
        OutOfBounds: Nested deeper than 64 levels.
    """
    if snapshot.size_bytes > metadata_bytes_max:
        raise TooLarge(snapshot.size_bytes, metadata_bytes_max, largest_keys(snapshot.metadata))
    brackets = snapshot.text.count("{") + snapshot.text.count("[")
    if brackets > DEPTH_MAX and values.depth(snapshot.metadata) > DEPTH_MAX:
        raise OutOfBounds(None, f"the metadata would be nested deeper than {DEPTH_MAX} levels", DEPTH_MAX)


def largest_keys(metadata: JsonObject) -> tuple[KeySize, ...]:
    """The top-level keys that take the most bytes, largest first."""
    # A member costs its share of {"key":value}, less the braces.
    sizes = [KeySize(key, size_bytes(values.dump({key: value})) - 2) for key, value in metadata.items()]
    return tuple(sorted(sizes, key=lambda size: -size.bytes)[:LARGEST_KEYS])


def _check_value(operation: Operation, index: int, metadata_bytes_max: int) -> None:
    if isinstance(operation, Delete):
        return
    value = operation.value
    size = size_bytes(values.dump(value))
    if size > metadata_bytes_max:
        if isinstance(operation, Update):
            raise TooLarge(size, metadata_bytes_max, largest_keys(operation.value), index)
        raise TooLarge(size, metadata_bytes_max, (KeySize(operation.key, size),), index)
